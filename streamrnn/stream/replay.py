"""What training is fed from: the last steps of every series, and never a target that belongs to a held-out stretch.

The newest `holdout` steps of every series are kept out of training, as targets: there the gate compares a candidate with the
incumbent. A target that lies in them, or that has not come, is NaN and counts for nothing; the inputs run through.

What each target weighs: the squared error of a forecast, in units of its channel's spread, is the squared error of what the
network says times (s / spread)². By that factor, as a share among the channels of its series, each error is weighed.
"""

from __future__ import annotations

import numpy as np
import torch

from streamrnn.kernels.columns import rungs_of
from streamrnn.kernels.forecast import Recorded
from streamrnn.model.tbptt import Sequences
from streamrnn.records import F32, F64, I64
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import Frames

# Half of the stretches are drawn from the newest steps (exponential, of this mean), the others from all.
RECENT = 400.0
TARGET_MAX = 8.0  # in usual errors
LIGHTEST, HEAVIEST = 0.1, 5.0
WINDOW_LEAST = 256
HALF_MAX = 60_000.0


def step_bytes(spec: StreamSpec, inputs: int) -> int:
    """Bytes that a step of a series takes in a ReplayBuffer."""
    return len(spec.channels) * (2 * inputs + 8 + 6 * len(rungs_of(spec.horizon)))


class ReplayBuffer:
    """A ring of up to `window` steps per series, rows as the engine's table deals them; series_max rows at most.

    All rows together have `bytes_max` at most: with more of them, each keeps fewer steps, but `WINDOW_LEAST`.
    """

    def __init__(self, spec: StreamSpec, inputs: int, window: int, holdout: int, bytes_max: int) -> None:
        self.spec, self.window, self.holdout, self.bytes_max = spec, window, holdout, bytes_max
        self.inputs = inputs
        channels, rungs = len(spec.channels), rungs_of(spec.horizon)
        self._rungs: I64 = np.array(rungs, dtype=np.int64)
        self.count: I64 = np.zeros(0, dtype=np.int64)  # steps ever taken by the row's series
        self._seen = np.zeros((0, window, channels, inputs), dtype=np.float16)
        # Values and where the moves begin relative to the row's level, so that float32 keeps their differences.
        self._values: F32 = np.zeros((0, window, channels), dtype=np.float32)
        self._origin: F32 = np.zeros((0, window, channels), dtype=np.float32)
        self._size: F32 = np.zeros((0, window, channels, len(rungs)), dtype=np.float32)
        self._base = np.zeros((0, window, channels, len(rungs)), dtype=np.float16)  # moves, in usual errors
        self._level: F64 = np.zeros((0, channels))
        self._moments: F64 = np.zeros((0, 3, channels))  # of the values: how many, their sum, that of their squares

    def bytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in _RINGS)

    def steps(self) -> int:
        """Steps held over all series."""
        return int(np.minimum(self.count, self.window).sum())

    def extend(self, frames: Frames, recorded: Recorded) -> None:
        """Takes the frames of one stretch, in its order."""
        if len(frames) == 0:
            return
        self._room(int(max(frames.slot.max(), max(frames.evicted, default=0))) + 1)
        for row in frames.evicted:
            self.count[row] = 0
        first = frames.number == 0
        self._level[frames.slot[first]] = np.nan_to_num(frames.base[first])
        self._moments[frames.slot[first]] = 0.0
        at = (frames.slot, frames.number % self.window)
        level = self._level[frames.slot]
        values = frames.values - level
        self._seen[at] = recorded.seen
        self._values[at] = values
        self._origin[at] = frames.base - level + recorded.origin * frames.scale
        size = recorded.size * frames.scale[:, :, None]
        self._size[at] = size
        with np.errstate(divide="ignore", invalid="ignore"):
            usual = recorded.base / recorded.size
        self._base[at] = np.clip(np.nan_to_num(usual), -HALF_MAX, HALF_MAX)
        known = ~np.isnan(values)
        plain = np.where(known, values, 0.0)
        np.add.at(self._moments, frames.slot, np.stack([known.astype(np.float64), plain, plain**2], axis=1))
        ends = frames.runs[:, 2] - 1
        self.count[frames.slot[ends]] = frames.number[ends] + 1

    def _room(self, rows: int) -> None:
        have = len(self.count)
        if rows <= have:
            return
        want = min(max(rows, 2 * have), max(self.spec.series_max, rows))
        most = self.bytes_max // (want * step_bytes(self.spec, self.inputs))
        self._shorten(max(most, WINDOW_LEAST, 3 * self.holdout))
        for name in ("count", "_level", "_moments", *_RINGS):
            array = getattr(self, name)
            fresh = np.zeros((want - have, *array.shape[1:]), dtype=array.dtype)
            setattr(self, name, np.concatenate([array, fresh]))

    def _shorten(self, window: int) -> None:
        """Keeps the last `window` steps of every row."""
        if window >= self.window:
            return
        rows = np.arange(len(self.count))[:, None]
        number = np.maximum(self.count[:, None] - window, 0) + np.arange(window)
        there, here = number % self.window, number % window
        for name in _RINGS:
            array = getattr(self, name)
            short = np.zeros((len(array), window, *array.shape[2:]), dtype=array.dtype)
            short[rows, here] = array[rows, there]
            setattr(self, name, short)
        self.window = window

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────

    def training(self, rng: np.random.Generator, rows: int, length: int) -> Sequences | None:
        """`rows` stretches of `length` steps: every series has the same chance, however much it talks."""
        able = np.flatnonzero(self.count >= self.holdout + length + 1)
        if len(able) == 0:
            return None
        chosen = rng.choice(able, size=rows, replace=len(able) < rows)
        cut = self.count[chosen] - self.holdout
        oldest = np.maximum(self.count[chosen] - self.window, 0) + length
        room = cut - oldest
        # A stretch's last labels lie before the cut where there is room for that.
        newest = np.maximum(room - self.spec.horizon, 0)
        uniform = rng.random(rows) * (newest + 1)
        recent = newest - np.minimum(rng.exponential(RECENT, size=rows), newest)
        end = oldest + np.where(np.arange(rows) % 2 == 0, uniform, recent).astype(np.int64)
        return self._sequences(chosen, end, length, np.zeros(rows, dtype=np.int64), cut)

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

    # ── the gate's stretch ───────────────────────────────────────────────────────────────────────────────────────

    def newest(self, rng: np.random.Generator, rows: int, warm_up: int) -> Sequences | None:
        """The held-out newest steps of up to `rows` series, after up to `warm_up` steps that only move the state."""
        able = np.flatnonzero(self.count > self.holdout)
        if len(able) == 0:
            return None
        chosen = rng.choice(able, size=min(rows, len(able)), replace=False)
        kept = min(self.window, int(np.median(self.count[able])))
        length = min(self.holdout + warm_up, max(kept, self.holdout + 1))
        chosen = chosen[self.count[chosen] >= length]
        end = self.count[chosen]
        return self._sequences(chosen, end, length, end - self.holdout, end) if len(chosen) else None

    def _sequences(self, rows: I64, end: I64, length: int, target_from: I64, target_to: I64) -> Sequences:
        """Stretches [end − length, end) with the targets whose step lies in [target_from, target_to)."""
        number = end[None, :] - length + np.arange(length)[:, None]  # [T, B]
        at = (rows[None, :], number % self.window)
        seen, size, base = self._seen[at], self._size[at], self._base[at]  # [T, B, C, …]
        origin = self._origin[at]
        targets = np.empty(size.shape, dtype=np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            for r, h in enumerate(self._rungs):
                there = number + h
                value = self._values[rows[None, :], there % self.window]
                wanted = (target_from <= there) & (there < target_to)
                moved = np.where(wanted[..., None], value - origin, np.nan)
                targets[..., r] = moved / size[..., r] - base[..., r]
            targets[~(size > 0.0)] = np.nan
            count, total, squares = np.moveaxis(self._moments[rows], 1, 0)  # [B, C] each
            mean = total / count
            variance = squares / count - mean * mean
            share = size.astype(np.float64) ** 2 / np.where(variance > 0.0, variance, np.nan)[None, :, :, None]
            some = share > 0.0
            share = np.where(some, share, 0.0)
            share = np.where(some, share * some.sum(axis=2, keepdims=True) / share.sum(axis=2, keepdims=True), 1.0)
        weighs = np.clip(share, LIGHTEST, HEAVIEST).astype(np.float32)
        targets = np.clip(targets, -TARGET_MAX, TARGET_MAX)

        def flat(array: F32) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).flatten(1, 2)

        return Sequences(flat(seen), flat(targets), flat(weighs), len(self.spec.channels))


_RINGS = ("_seen", "_values", "_origin", "_size", "_base")
