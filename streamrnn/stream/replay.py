"""What training is fed from: the last steps of every series, and never a target that belongs to a held-out stretch.

Three stretches are kept out of training, as targets:

- the newest `holdout` steps of every series: there the gate compares a candidate with the incumbent;
- the `holdout` steps before those: there a round chooses when to stop;
- the anchor: of the older steps every ANCHOR_EVERY-th block of ANCHOR_LEN, by a step's own number, so that a step is
  anchor for ever or never. There a candidate must not have forgotten.

A target that lies in one of them, or that has not come, is NaN and counts for nothing; the inputs run through.
"""

from __future__ import annotations

import numpy as np
import torch

from streamrnn.kernels.stretches import ANCHOR_EVERY, ANCHOR_LEN, look_ahead
from streamrnn.model.tbptt import Sequences
from streamrnn.records import F32, F64, I64
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import Frames

# How strongly recent stretches are preferred: ends lie the square of a uniform back from the newest.
RECENCY = 2.0


def step_bytes(spec: StreamSpec) -> int:
    """Bytes that a step of a series takes in a ReplayBuffer."""
    return 2 * spec.input_size + 12 * len(spec.channels)


class ReplayBuffer:
    """A ring of `window` steps per series, rows as the front end's table deals them; series_max rows at most.

    Bytes: rows · window · (2 F + 12 C): 4 channels, 1,024 steps: 68 KiB a series.
    """

    def __init__(self, spec: StreamSpec, window: int, holdout: int) -> None:
        self.spec, self.window, self.holdout = spec, window, holdout
        channels = len(spec.channels)
        self.count: I64 = np.zeros(0, dtype=np.int64)  # steps ever taken by the row's series
        self._inputs = np.zeros((0, window, spec.input_size), dtype=np.float16)
        # Values and bases relative to the row's anchor level, so that float32 keeps their differences.
        self._values: F32 = np.zeros((0, window, channels), dtype=np.float32)
        self._base: F32 = np.zeros((0, window, channels), dtype=np.float32)
        self._scale: F32 = np.zeros((0, window, channels), dtype=np.float32)
        self._level: F64 = np.zeros((0, channels))
        self._root: F32 = np.sqrt(np.arange(1, spec.horizon + 1)).astype(np.float32)

    def bytes(self) -> int:
        return self._inputs.nbytes + self._values.nbytes + self._base.nbytes + self._scale.nbytes

    def steps(self) -> int:
        """Steps held over all series."""
        return int(np.minimum(self.count, self.window).sum())

    def extend(self, frames: Frames) -> None:
        """Takes the frames of one call of the front end, in its order."""
        if len(frames) == 0:
            return
        self._room(int(max(frames.slot.max(), max(frames.evicted, default=0))) + 1)
        for row in frames.evicted:
            self.count[row] = 0
        first = frames.number == 0
        self._level[frames.slot[first]] = np.nan_to_num(frames.base[first])
        at = (frames.slot, frames.number % self.window)
        level = self._level[frames.slot]
        self._inputs[at] = frames.inputs
        self._values[at] = frames.values - level
        self._base[at] = frames.base - level
        self._scale[at] = frames.scale
        ends = frames.runs[:, 2] - 1
        self.count[frames.slot[ends]] = frames.number[ends] + 1

    def _room(self, rows: int) -> None:
        have = len(self.count)
        if rows <= have:
            return
        extra = min(max(rows, 2 * have), max(self.spec.series_max, rows)) - have
        self.count = np.concatenate([self.count, np.zeros(extra, dtype=np.int64)])
        self._level = np.concatenate([self._level, np.zeros((extra, self._level.shape[1]))])
        for name in ("_inputs", "_values", "_base", "_scale"):
            array = getattr(self, name)
            fresh = np.zeros((extra, *array.shape[1:]), dtype=array.dtype)
            setattr(self, name, np.concatenate([array, fresh]))

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────

    def training(self, rng: np.random.Generator, rows: int, length: int) -> Sequences | None:
        """`rows` stretches of `length` steps: every series has the same chance, however much it talks."""
        least = 2 * self.holdout + length + 1
        able = np.flatnonzero(self.count >= least)
        if len(able) == 0:
            return None
        chosen = rng.choice(able, size=rows, replace=len(able) < rows)
        cut = self.count[chosen] - 2 * self.holdout
        oldest = np.maximum(self.count[chosen] - self.window, 0) + length
        back = rng.random(rows) ** RECENCY * (cut - oldest + 1)
        end = cut - np.minimum(back.astype(np.int64), cut - oldest)
        allowed = np.zeros(rows, dtype=np.int64)
        return self._sequences(chosen, end, length, allowed, cut, anchor=False)

    def forget(self, rows: list[int]) -> None:
        """These rows' series are no longer kept."""
        self.count[[row for row in rows if row < len(self.count)]] = 0

    def typical(self, least: int, some: int) -> int:
        """Steps that the series in the middle has taken, 0 without any. Where that is fewer than `least`, those of the
        `some`-th longest (of few series a quarter, but two): short series must not keep the others from being learnt."""
        count = np.sort(self.count[self.count > 0])
        if not len(count):
            return 0
        middle = int(np.median(count))
        some = min(some, max(2, len(count) // 4))
        return middle if middle >= least or some > len(count) // 2 else int(count[-some])

    def longest(self, at_most: int, least: int = 1, some: int = 1 << 30) -> int:
        """The longest stretch, up to `at_most`, that the series in the middle can give for training; where that is less
        than `least`, the `some`-th longest."""
        apart = 2 * self.holdout + 1
        return max(0, min(at_most, self.typical(least + apart, some) - apart))

    # ── the gate's stretches ─────────────────────────────────────────────────────────────────────────────────────

    def newest(self, rng: np.random.Generator, rows: int, burn_in: int) -> Sequences | None:
        """The held-out newest steps of up to `rows` series, after `burn_in` steps that only warm the state."""
        return self._held_out(rng, rows, burn_in, back=0)

    def selection(self, rng: np.random.Generator, rows: int, burn_in: int) -> Sequences | None:
        """The stretch before the newest: where a round looks whether going on still helps."""
        return self._held_out(rng, rows, burn_in, back=self.holdout)

    def _held_out(self, rng: np.random.Generator, rows: int, burn_in: int, back: int) -> Sequences | None:
        length = self.holdout + burn_in
        able = np.flatnonzero(self.count >= length + back)
        if len(able) == 0:
            return None
        chosen = rng.choice(able, size=min(rows, len(able)), replace=False)
        end = self.count[chosen] - back
        return self._sequences(chosen, end, length, end - self.holdout, end, anchor=True)

    def anchors(self, rng: np.random.Generator, rows: int, burn_in: int) -> Sequences | None:
        """One anchor block of each of up to `rows` series, the newest whole one before the held-out steps.

        None while fewer than half of the series have one: the few that talk most must not have a veto.
        """
        period = ANCHOR_LEN * ANCHOR_EVERY
        cut = self.count - 2 * self.holdout
        # The blocks' ends are the multiples of the period: a block is the last ANCHOR_LEN steps of its period.
        end = cut // period * period
        able = np.flatnonzero((end > 0) & (end - ANCHOR_LEN - burn_in >= np.maximum(self.count - self.window, 0)))
        if len(able) == 0 or 2 * len(able) < int((self.count >= self.holdout + burn_in).sum()):
            return None
        chosen = rng.choice(able, size=min(rows, len(able)), replace=False)
        stop = end[chosen]
        return self._sequences(chosen, stop, ANCHOR_LEN + burn_in, stop - ANCHOR_LEN, stop, anchor=True)

    def _sequences(self, rows: I64, end: I64, length: int, target_from: I64, target_to: I64, anchor: bool) -> Sequences:
        """Stretches [end − length, end) with the targets whose step lies in [target_from, target_to).

        `anchor`: whether targets in anchor blocks count.
        """
        number = end[None, :] - length + np.arange(length)[:, None]  # [T, B]
        inputs = self._inputs[rows[None, :], number % self.window].astype(np.float32)  # [T, B, F]
        targets: F32 = np.empty((*number.shape, len(self.spec.channels), self.spec.horizon), dtype=np.float32)
        look_ahead(
            self._values, self._base, self._scale, self._root, rows, end, target_from, target_to, anchor, targets
        )  # fmt: skip
        return Sequences(torch.from_numpy(inputs), torch.from_numpy(targets))
