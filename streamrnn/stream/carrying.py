"""A state of one meaning as one of another: every column axis by axis, by the names of what lies along it.

What a column lacks starts as in a fresh row. Some things need more than a place along an axis:

Rings. A column over the last frames of a series has frame n at place n modulo its length; with another length each frame moves
to its new place. A ring that grows has places for frames that it never had: these hold the oldest value that it did have, as if
the channel had stood there, and `unbroken` says that nothing before that one was seen, so neither a label nor "a season ago" is
taken from there.

Rungs. What a rung of the new ladder has learnt is what the old one had at that horizon: that of the same rung, bit for bit, or a
line between the two around it, as the forecasts themselves are. Rungs beyond the old horizon start cold; the linear experts'
begin with what they say of the longest old one, because a right side of zeros beside equations of thousands of frames would say
"no change" for as many frames more.

Forecasts that wait for their targets are carried where a rung of both ladders keeps every n-th in as many cells. Elsewhere
nothing waits: the mean is no number.

Experts. Each has its place by its name. One that begins anew (`Change.experts`) has lost half as much again as persistence, so
that nobody believes it before it has shown something.

The recurrent state is of the numbers that the network was shown. Where these are no longer the same in the same places it
begins at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np

from streamrnn.kernels.columns import (
    DEVIATIONS,
    LEVELS,
    MOVES,
    PERSISTENCE,
    PROFILE,
    STACK,
    cells_of,
    rungs_of,
    strides_of,
)
from streamrnn.kernels.experts import deviations, history, mixing, moves
from streamrnn.meaning import Change, Meaning
from streamrnn.records import F64, I64
from streamrnn.season import DAY_TYPE, SeasonSetting, season_of
from streamrnn.spec import StreamSpec
from streamrnn.stream.forecasting import (
    CROSS_CHANNELS_MAX,
    NAMES,
    kept_experts,
    lags_of,
    ring_of,
    used_experts,
)
from streamrnn.stream.table import Field

CHANNEL, LEVEL, RUNG, CELL, FRAME, BITS, PLAIN = (
    "channel", "level", "rung", "cell", "frame", "bit a frame", "plain",
)  # fmt: skip
EXPERT, SHARE, MOVE, FEATURE, TRIANGLE, BIN, SEASON = (
    "expert in use", "expert in use and the guard", "kept move", "feature", "features' upper triangle", "bin", "season",
)  # fmt: skip

# What lies along the axes of each column that has any. A column that is not named here and has another shape begins anew;
# `tests/stream/test_carrying.py` holds that every column with axes is named.
AXES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("last", "level", "level_spread", "move_scale", "fresh", "run", "still", "seen", "since"), (CHANNEL,)),
    **dict.fromkeys(("anchor", "unit", "born", "next_move", "quick", "one_step", "swing", "doubt"), (CHANNEL,)),
    **dict.fromkeys(("sizes", "week", "seen_range", "ends", "fill_widths", "moves_seen", "deviations_seen"), (CHANNEL, PLAIN)),
    **dict.fromkeys(("x", "deviation"), (CHANNEL, FRAME)),
    "known": (CHANNEL, BITS),
    "phases": (FRAME, SEASON),
    **dict.fromkeys(("profile", "visits"), (CHANNEL, BIN)),
    **dict.fromkeys(("means", "deviation_means"), (CHANNEL, PLAIN, PLAIN)),
    **dict.fromkeys(("moves_gram", "deviations_gram"), (CHANNEL, TRIANGLE)),
    **dict.fromkeys(("moves_right", "deviations_right"), (CHANNEL, RUNG, FEATURE)),
    **dict.fromkeys(("moves_weights", "deviations_weights"), (CHANNEL, FEATURE, RUNG)),
    "losses": (CHANNEL, RUNG, EXPERT),
    "weight": (CHANNEL, RUNG, SHARE),
    **dict.fromkeys(("move_size", "sigma", "standing", "error_size", "error_last"), (CHANNEL, RUNG)),
    **dict.fromkeys(("error_means", "network_worth"), (CHANNEL, RUNG, PLAIN)),
    **dict.fromkeys(("energy", "slope", "stack_gram", "stack_right", "stack_weight"), (CHANNEL, RUNG, PLAIN)),
    "level_theta": (CHANNEL, RUNG, LEVEL),
    **dict.fromkeys(("pend_mean", "pend_raw", "pend_said", "pend_added"), (CHANNEL, CELL)),
    "pend_moves": (CHANNEL, CELL, MOVE),
    "pend_offsets": (CHANNEL, CELL, LEVEL),
    "covariance": (CHANNEL, CHANNEL),
}  # fmt: skip
# Columns that begin anew with an expert.
OF_EXPERT: Mapping[str, int] = {
    **dict.fromkeys(("profile", "visits", "week"), PROFILE),
    **dict.fromkeys(("moves_gram", "moves_right", "moves_weights", "moves_seen"), MOVES),
    **dict.fromkeys(("deviations_gram", "deviations_right", "deviations_weights", "deviations_seen"), DEVIATIONS),
    **dict.fromkeys(("deviation", "deviation_means", "phases"), DEVIATIONS),
    **dict.fromkeys(("stack_gram", "stack_right", "stack_weight"), STACK),
}
# What the longest rung before says of those beyond it: as it is, or by the horizon.
AS_BEFORE = ("moves_right", "moves_weights", "deviations_right", "deviations_weights")
BY_HORIZON = ("move_size", "error_size")
# Decided by what a network is shown, not by an axis.
RECURRENT, GENERATION = "state", "generation"


class Carrying:
    """One change, as it is made to columns. `spec`: the stream of now."""

    def __init__(self, change: Change, spec: StreamSpec) -> None:
        self.change = change
        self.now = spec
        self.before = _spec_of(change.before, spec)
        self._used_before, self._used_now = used_experts(self.before), used_experts(spec)

    @cached_property
    def begun(self) -> frozenset[int]:
        """Experts of now that begin anew."""
        named = dict(zip(self.change.now.experts, self.change.experts, strict=True))
        cold = {NAMES[name] for name, place in named.items() if place < 0}
        # A profile may be there for the deviations alone.
        new = {expert for expert in self._used_now if expert not in self._used_before}
        if {DEVIATIONS, PROFILE} & cold and self.change.seasons[:1] != (0,):
            new |= {PROFILE}
        return frozenset((cold | new) & set(self._used_now))

    def column(self, name: str, values: Any, steps: I64, field: Field) -> Any:
        """A column [row, …] of the meaning before in the shape that `field` has now. `steps` [row]: frames a series has had.

        The column is a fresh one where what lies along its axes is not known.
        """
        axes, kind = AXES.get(name), np.dtype(field.dtype).newbyteorder("<")
        made = np.full((len(values), *field.shape), field.fill, dtype=kind)
        if axes is None or len(axes) != len(field.shape) or len(axes) != values.ndim - 1:
            if values.shape == made.shape and not field.shape:
                made[:] = values
            return made
        if OF_EXPERT.get(name) in self.begun or 0 in values.shape[1:] or 0 in field.shape:
            return made
        if name == "fill_widths" and self._edges(self.change.before) != self._edges(self.change.now):
            return made  # they widen the outermost interval, which is another one
        if name == "week" and self.change.seasons[1:] != (1,):
            return made
        for k, axis in enumerate(axes):
            if axis in (FEATURE, TRIANGLE):
                values = self._features(name, axis, values, k + 1, field.shape[k])
            elif axis == RUNG:
                values = self._rungs(name, values, k + 1)
            elif axis == FRAME:
                # A frame that is not kept is one in which a value stood where it was.
                values = _turned(values, k + 1, steps, field.shape[k], None)
            elif axis == BITS:
                values = self._bits(values, steps, field.shape[k])
            else:
                values = _placed(values, k + 1, self._places(axis, values.shape[k + 1], field.shape[k]), field.fill)
        if values.shape != made.shape:
            return made  # a ladder, or features, that are not what this version would have had
        made[:] = values
        return made

    @staticmethod
    def _edges(meaning: Meaning) -> tuple[float, ...]:
        return meaning.quantiles[:: len(meaning.quantiles) - 1 or 1]

    def _places(self, axis: str, before: int, now: int) -> I64:
        """For each place along an axis of now, the one that it was at before, or −1."""
        if axis == CHANNEL:
            named: Sequence[int] = self.change.channels
        elif axis == LEVEL:
            named = self.change.levels
        elif axis == SEASON:
            named = self.change.seasons
        elif axis in (EXPERT, SHARE):
            named = self._experts(self._used_before, self._used_now)
            if axis == SHARE:
                named = [*named, len(self._used_before)]
        elif axis == MOVE:
            named = self._experts(kept_experts(self.before), kept_experts(self.now))
        elif axis == BIN:
            # Seasons are carried as far as they are the same from the first on, and lie one after the other.
            same = sum(1 for place in self.change.seasons if place >= 0)
            named = range(sum(season.bins for season in self.now.seasons[:same]))
        elif axis == CELL:
            named = self._cells()
        else:
            named = range(min(before, now))
        places: I64 = np.full(now, -1, dtype=np.int64)
        count = min(now, len(named))
        places[:count] = list(named[:count])
        places[places >= before] = -1
        return places

    def _experts(self, before: Sequence[int], now: Sequence[int]) -> list[int]:
        return [before.index(e) if e in before and e not in self.begun else -1 for e in now]

    def _cells(self) -> list[int]:
        """By cell of now, in the order of the ladder's."""
        kept: dict[tuple[int, int, int], int] = {}
        at = 0
        for h, stride, cells in _ladder(self.before):
            kept[h, stride, cells] = at
            at += cells
        found: list[int] = []
        for h, stride, cells in _ladder(self.now):
            begin = kept.get((h, stride, cells))
            found += [-1] * cells if begin is None else range(begin, begin + cells)
        return found

    def _rungs(self, name: str, values: Any, axis: int) -> Any:
        """The rungs of now along an axis, of values at those before."""
        before, now = rungs_of(self.before.horizon), rungs_of(self.now.horizon)
        if values.shape[axis] != len(before):
            return values
        values = np.moveaxis(values, axis, -1)
        made = np.zeros((*values.shape[:-1], len(now)), dtype=values.dtype)
        for r, h in enumerate(now):
            if h in before:
                made[..., r] = values[..., before.index(h)]
            elif h < before[-1]:
                above = next(k for k, other in enumerate(before) if other > h)
                low, high = values[..., above - 1].astype(np.float64), values[..., above].astype(np.float64)
                share = (h - before[above - 1]) / (before[above] - before[above - 1])
                between = low + share * (high - low)
                # Where one of two root mean squares is not known yet, neither is what is between them.
                made[..., r] = np.where((low > 0.0) & (high > 0.0), between, 0.0) if name == "sigma" else between
            elif name in AS_BEFORE:
                made[..., r] = values[..., -1]
            elif name in BY_HORIZON:
                made[..., r] = values[..., -1] * np.float32(h / before[-1])
        return np.moveaxis(made, -1, axis)

    def _features(self, name: str, axis: str, values: Any, at: int, now: int) -> Any:
        """What the linear experts have learnt, feature by feature, which lie along axis `at`: values [row, channel of now, …]."""
        expert = moves if name.startswith("moves") else deviations
        names = [
            [expert.feature_names(channel, spec.channels, len(spec.channels) <= CROSS_CHANNELS_MAX) for channel in spec.channels]
            for spec in (self.before, self.now)
        ]  # fmt: skip
        made = np.zeros((*values.shape[:at], now, *values.shape[at + 1 :]), dtype=values.dtype)
        for c, place in enumerate(self.change.channels):
            if place < 0:
                continue
            was = {feature: i for i, feature in enumerate(names[0][place])}
            places = [was.get(feature, -1) for feature in names[1][c]]
            if axis == TRIANGLE:
                places = _triangle(places, len(was))
            made[:, c] = _placed(values[:, c], at - 1, np.array(places, dtype=np.int64), 0.0)
        return made

    def _bits(self, values: Any, steps: I64, now: int) -> Any:
        """One bit a frame of the ring `x`."""
        before, length = ring_of(self.before), ring_of(self.now)
        frames = np.unpackbits(np.ascontiguousarray(values), axis=-1, bitorder="little")
        if frames.shape[-1] < before:
            return values
        turned = _turned(frames[..., :before], values.ndim - 1, steps, length, 0)
        return np.packbits(turned, axis=-1, bitorder="little")

    # ── what one column says of another ──────────────────────────────────────────────────────────────────────────────

    def settle(self, made: Any, block: Any, steps: I64) -> None:
        """Sees to what follows from more than one column. `made` [row] are the rows of now, each column carried; `block` [row]
        those before."""
        if _column(block, "x") is None or _column(block, "losses") is None:
            return  # of a version that kept no history
        grown = []
        for name in ("x", "deviation", "phases"):
            was, ring, axis = _column(block, name), _column(made, name), 1 + AXES[name].index(FRAME)
            if was is not None and ring is not None and was.shape[axis] < ring.shape[axis]:
                grown += [was.shape[axis]] if OF_EXPERT.get(name) not in self.begun else []
        if grown:
            made["unbroken"] = np.maximum(made["unbroken"], steps - min(grown))
        self._weights(made)
        self._offsets(made)
        self._means(made, block, steps)
        sizes = _column(made, "sizes")
        if sizes is not None and (PROFILE in self.begun or PROFILE not in self._used_now):
            sizes[..., 1] = 0.0  # of deviations from another profile

    def _weights(self, made: Any) -> None:
        """An expert that begins has lost more than persistence; what those that are left weigh is one again."""
        losses, weight = made["losses"], made["weight"]
        for place, expert in enumerate(self._used_now):
            if expert in self.begun:
                losses[..., place] = mixing.ASLEEP * losses[..., self._used_now.index(PERSISTENCE)]
        if self._used_now != self._used_before or self.begun:
            total = weight[..., :-1].sum(axis=-1, keepdims=True)
            weight[..., :-1] /= np.where(total > 0.0, total, 1.0)
            alone = ~(total[..., 0] > 0.0)
            weight[..., self._used_now.index(PERSISTENCE)][alone] = 1.0

    def _offsets(self, made: Any) -> None:
        """A level that begins has an offset from the forecasts that wait, too: they will be judged. That of normal errors."""
        sigma, offsets = made["sigma"].astype(np.float64), made["pend_offsets"]
        for q, place in enumerate(self.change.levels):
            if place < 0:
                normal, at = NormalDist().inv_cdf(self.now.quantiles[q]), 0
                for r, (_, _, cells) in enumerate(_ladder(self.now)):
                    offsets[:, :, at : at + cells, q] = _to_bits(normal * sigma[:, :, r])[..., None]
                    at += cells

    def _means(self, made: Any, block: Any, steps: I64) -> None:
        """The decayed means of a horizon ago, where that is another frame than before.

        With a shorter horizon they run on over the frames between. With a longer one they would have to be run back, and are
        those of the oldest value that is kept instead, as if the channel had stood there: a mean that knows the label is worse
        than one that knows little.
        """
        before, now = self.before.horizon, self.now.horizon
        for name, ring, size in (("means", "x", 2), ("deviation_means", "deviation", 1)):
            means, kept = _column(made, name), _column(block, ring)  # [row, channel, (now, a horizon ago), half-life]
            if means is None:
                continue
            if kept is None or _column(block, name) is None or OF_EXPERT.get(name) in self.begun:
                if ring == "x":
                    means[:] = _at(made["x"], steps - 1)[..., None, None]
                continue
            if now > before:
                means[:, :, 1] = _at(made[ring], steps - kept.shape[-1])[..., None]
                continue
            kept = _placed(kept, 1, self._places(CHANNEL, kept.shape[1], len(self.now.channels)), 0.0)
            limit = np.float32(history.SPIKE) * np.sqrt(made["sizes"][..., size])
            for back in range(before, now, -1):
                age = (steps - back)[:, None] - made["born"]
                bound = np.where(age <= history.FIRST, np.float32(np.inf), limit)
                value = _at(kept, steps - back)
                for level in range(LEVELS):
                    mean = means[:, :, 1, level]
                    rate = np.maximum(history.RATES[level], 1.0 / np.maximum(age + 1.0, 1.0)).astype(np.float32)
                    moved = mean + rate * np.clip(value - mean, -bound, bound)
                    means[:, :, 1, level] = np.where((age >= 0) & (made["born"] >= 0), moved, mean)


def _spec_of(meaning: Meaning, now: StreamSpec) -> StreamSpec:
    """The stream of a meaning before, as far as its columns depend on it; steps are those of now, or nothing is carried."""
    names = [name.split(" of ")[0] for name in meaning.season]
    keyed = names == [DAY_TYPE]
    setting = SeasonSetting(False, () if keyed else tuple(names), DAY_TYPE if keyed else "")
    try:
        seasons = season_of(setting, now.step_ms, now.calendar_step, meaning.horizon)
    except ValueError:  # a season that no steps of this length have
        seasons = ()
    experts = tuple(name for name in meaning.experts if name in NAMES)
    return replace(
        now,
        channels=meaning.channels,
        horizon=meaning.horizon,
        quantiles=meaning.quantiles,
        seasons=seasons,
        experts=experts,
    )


def _column(rows: Any, name: str) -> Any | None:
    """[row, …] of these rows; None where they have none, or one that cannot be this."""
    found = rows[name] if name in (rows.dtype.names or ()) else None
    return found if found is not None and found.ndim == 1 + len(AXES[name]) and 0 not in found.shape[1:] else None


def _ladder(spec: StreamSpec) -> list[tuple[int, int, int]]:
    """(horizon, stride, cells) of each rung."""
    lags = lags_of(spec)
    return list(zip(rungs_of(spec.horizon), strides_of(spec.horizon, lags), cells_of(spec.horizon, lags), strict=True))


def _triangle(places: Sequence[int], before: int) -> list[int]:
    """Of a packed upper triangle, by its rows: where each pair of features was in one of `before` features."""
    found = []
    for i, one in enumerate(places):
        for other in places[i:]:
            low, high = min(one, other), max(one, other)
            found.append(low * before - low * (low - 1) // 2 + high - low if low >= 0 else -1)
    return found


def _placed(values: Any, axis: int, places: I64, fill: float) -> Any:
    """What was at these places along an axis, and `fill` at −1."""
    shape = (*values.shape[:axis], len(places), *values.shape[axis + 1 :])
    made = np.full(shape, fill, dtype=values.dtype)
    to = np.flatnonzero((places >= 0) & (places < values.shape[axis]))
    np.moveaxis(made, axis, 0)[to] = np.moveaxis(values, axis, 0)[places[to]]
    return made


def _turned(values: Any, axis: int, steps: I64, now: int, fill: float | None) -> Any:
    """A ring over the last frames, each frame at the place that it has in a ring of `now` frames; those that it never had are
    `fill`, or (None) like the oldest one."""
    before = values.shape[axis]
    if before == now:
        return values
    values = np.moveaxis(values, axis, 1)
    made = np.full((len(values), now, *values.shape[2:]), 0 if fill is None else fill, dtype=values.dtype)
    for back in range(1, min(now, max(before, now if fill is None else 0)) + 1):
        frame = steps - back
        rows = np.flatnonzero(frame >= 0)
        made[rows, frame[rows] % now] = values[rows, (steps - min(back, before))[rows] % before]
    return np.moveaxis(made, 1, axis)


def _at(ring: Any, frame: I64) -> Any:
    """[row, channel] of a ring [row, channel, place] at a frame of each row; the first frame where there is none."""
    return np.take_along_axis(ring, (np.maximum(frame, 0) % ring.shape[-1])[:, None, None], axis=-1)[..., 0]


def _to_bits(values: F64) -> Any:
    """See kernels.columns.to_bits."""
    return ((values.astype(np.float32).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)


def carried_ticks(
    held: bytes, change: Change, ts_unit_us: int, step_of: Callable[[int], int], closed: int
) -> tuple[bytes, int]:
    """Ticks held back in open steps, with their values by channels of now, in the steps they belong to now; and how many of
    them are lost, because their step (`step_of` a time in microseconds) is not behind the `closed` one.

    `ts_unit_us`: 1000 where times were written in milliseconds. Raises ValueError where these are no ticks.
    """
    try:
        kept = msgspec.msgpack.decode(held, type=list[tuple[int, list[tuple[int, int, bytes]]]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    to = {place: c for c, place in enumerate(change.channels) if place >= 0}
    made: dict[int, list[tuple[int, int, bytes]]] = {}
    lost = 0
    for _, ticks in kept:
        for ts, channel, packed in ticks:
            values = np.frombuffer(packed, dtype=np.float64)
            if len(values) != len(change.before.channels) or abs(ts) >= 1 << 52:
                raise ValueError("not ticks of this stream")
            mine: F64 = np.array([values[place] if place >= 0 else np.nan for place in change.channels])
            if np.isnan(mine).all() or (channel >= 0 and channel not in to):
                continue  # of channels that are no more
            step = step_of(ts * ts_unit_us)
            if step <= closed:
                lost += 1
                continue
            made.setdefault(step, []).append(
                (ts * ts_unit_us, to[channel] if channel >= 0 else channel, mine.tobytes())
            )
    return (msgspec.msgpack.encode(sorted(made.items())) if made else b""), lost


def inferred(columns: Mapping[str, tuple[int, ...]], own: Meaning) -> Meaning | None:
    """What states mean that say nothing of it (earlier versions wrote none), by the shapes of their columns.

    They are taken for this configuration's as far as their shapes agree with it; None where they have another number of
    channels, which cannot be found by name.
    """
    theta, last = columns.get("theta"), columns.get("last")
    if theta is None or last is None or len(theta) != 3 or last != (len(own.channels),) or theta[1] != last[0]:
        return None
    horizon, _, levels = theta
    quantiles = own.quantiles if levels == len(own.quantiles) else tuple(-1.0 - level for level in range(levels))
    return own if horizon == own.horizon and quantiles is own.quantiles else _with(own, horizon, quantiles)


def _with(own: Meaning, horizon: int, quantiles: tuple[float, ...]) -> Meaning:
    return msgspec.structs.replace(own, horizon=max(1, horizon), quantiles=quantiles)
