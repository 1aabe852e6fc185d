"""Scores of a back-test, on the z-scale of the train rows.

All models are scored on the same cells: an origin, channel and horizon counts where its target was measured and every
model made a forecast; every origin is scored on all its horizons. A channel that stands still over the train rows has no
such scale: its errors are null, and no mean over channels holds it.

A baseline makes no quantiles. It is given those of a normal distribution around its forecast, whose variance is a running
mean (EWMA) of its own squared errors at that horizon, as far as they were known: `normal_sigma`. Its first cells, before
any error was known, count in its errors and not in its interval scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from streamrnn.backtest.intervals import crps, interval_score, nll, normal_scores, rolling_coverage
from streamrnn.records import F64, I64, Bool
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import Frames
from streamrnn.transports.files import InputError

# A spread over the train rows below this share of the spread over all rows, or of rounding, is standing still.
STILL_SHARE = 1e-4
STILL_ROUNDING = 64 * float(np.finfo(np.float64).eps)

# Cells (origin, channel, horizon) whose quantiles are scored together: some 20 MB of each array.
CELLS_AT_ONCE = 2**18

ERRORS, INTERVALS = ("mse", "mae", "mase"), ("pinball", "crps", "nll", "winkler", "width")
LAST, LINEAR = "last-value", "linear (sees the future)"


@dataclass(slots=True)
class Steps:
    """The file on the service's own grid, gaps included, by series and time.

    `series` [n] counts in `names`, `step` [n] on the grid, `stamp` [n] the engine's event time, `real` [n] whether a tick
    made it, `tick` [n] that tick, `values` [n, channel] what was measured (NaN: missing). A row's number, as in
    --train-rows, is the place of its step in `rows`: the steps, over all series, that hold a tick.
    """

    names: list[str]
    series: I64
    step: I64
    stamp: I64
    real: Bool
    tick: I64
    values: F64
    irregular: bool = False
    rows: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        self.rows = np.unique(self.step[self.real])

    def __len__(self) -> int:
        return len(self.step)

    def ahead(self, k: int) -> I64:
        """The frame `k` steps later of the same series (irregular: `k` ticks), −1 where there is none. [n]"""
        at = np.arange(len(self)) + k
        there = (at >= 0) & (at < len(self))
        at = np.where(there, at, 0)
        there &= self.series[at] == self.series
        if not self.irregular:
            there &= self.step[at] == self.step + k
        return np.where(there, at, -1)

    def between(self, rows: tuple[int, int]) -> Bool:
        """Frames whose step lies in rows BEGIN:END. [n]"""
        begin, end = rows
        if begin >= min(end, len(self.rows)):
            return np.zeros(len(self), dtype=np.bool_)
        last = self.rows[min(end, len(self.rows)) - 1]
        inside: Bool = (self.step >= self.rows[begin]) & (self.step <= last)
        return inside


def steps_of(parts: Sequence[Frames], names: Mapping[int, str], irregular: bool) -> Steps:
    """Frames of one pass (at least one), in any order of series."""
    slot = np.concatenate([part.slot for part in parts]).astype(np.int64)
    step = np.concatenate([part.step for part in parts])
    order = np.lexsort((step, slot))
    slots, series = np.unique(slot[order], return_inverse=True)
    return Steps(
        [names[int(each)] for each in slots],
        series.astype(np.int64),
        step[order],
        np.concatenate([part.ts_us for part in parts])[order],
        np.concatenate([part.kind for part in parts])[order] == 0,
        np.concatenate([part.tick for part in parts])[order],
        np.concatenate([part.values for part in parts])[order],
        irregular,
    )


@dataclass(slots=True)
class Forecasts:
    """By origin [frame]: `mean` [n, channel, horizon], `quantiles` [n, channel, level, horizon] or None; NaN: not made.

    Without quantiles of its own, `sigma` [n, channel, horizon] is that of the normal distribution it is given.
    """

    mean: F64
    quantiles: F64 | None
    sigma: F64 | None = None

    def quantiles_at(self, origins: I64, levels: Sequence[float]) -> F64:
        """[origin, channel, level, horizon]; NaN: none yet."""
        if self.quantiles is not None:
            return self.quantiles[origins]
        assert self.sigma is not None  # noqa: S101 - one of the two is there
        z = normal_scores(levels)[:, None]
        found: F64 = self.mean[origins][:, :, None, :] + z * self.sigma[origins][:, :, None, :]
        return found

    @classmethod
    def empty(cls, count: int, spec: StreamSpec, quantiles: bool) -> Forecasts:
        channels, levels = len(spec.channels), len(spec.quantiles)
        return cls(
            np.full((count, channels, spec.horizon), np.nan),
            np.full((count, channels, levels, spec.horizon), np.nan) if quantiles else None,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result; `channel` or `horizon` None is the mean over them; `coverage` maps a level to its share.

    `n` cells are in it. Errors are None where the train rows give no scale. `unfilled`: hidden cells left empty.
    `inside` is the share between the outer levels, ends included; `winkler` and `width` are that interval's, `rolling_min`
    and `rolling_max` its coverage in the worst and the best 500 consecutive cells of one series, channel and horizon
    (None with fewer). `crps`, `nll` and `winkler` are defined in backtest_intervals.
    """

    model: str
    channel: str | None
    horizon: int | None
    n: int
    mse: float | None
    mae: float | None
    mase: float | None
    pinball: float | None
    coverage: dict[str, float]
    seed: int = 0
    task: str = "forecast"
    unfilled: int | None = None
    inside: float | None = None
    crps: float | None = None
    nll: float | None = None
    winkler: float | None = None
    width: float | None = None
    rolling_min: float | None = None
    rolling_max: float | None = None


@dataclass(slots=True)
class Scale:
    """Centre, spread and seasonal move of the train rows, [series, channel]; NaN where a channel stands still there."""

    center: F64
    spread: F64
    move: F64
    still: list[str]

    @classmethod
    def of(cls, steps: Steps, channels: Sequence[str], train_rows: tuple[int, int], season: int) -> Scale:
        count = len(steps.names)
        shape = (count, len(channels))
        scale = cls(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan), [])
        inside = steps.between(train_rows) & steps.real
        later = steps.ahead(season)
        pairs = inside & (later >= 0) & inside[later]
        for s in range(count):
            mine = steps.series == s
            for c, channel in enumerate(channels):
                known = steps.values[inside & mine, c]
                known = known[~np.isnan(known)]
                whole = steps.values[mine, c]
                whole = whole[~np.isnan(whole)]
                still = len(known) < 2 or np.ptp(known) <= STILL_ROUNDING * np.abs(known).max()
                if still or np.std(known) <= STILL_SHARE * np.std(whole):
                    scale.still.append(channel if count == 1 else f"{steps.names[s]}/{channel}")
                    continue
                scale.center[s, c], scale.spread[s, c] = known.mean(), known.std()
                at = pairs & mine
                moves = np.abs(steps.values[later[at], c] - steps.values[at, c])
                moves = moves[~np.isnan(moves)]
                if len(moves) and moves.mean() > 0.0:
                    scale.move[s, c] = moves.mean() / scale.spread[s, c]
        return scale


def origins_of(steps: Steps, score_rows: tuple[int, int], horizon: int) -> I64:
    """Frames t made by a tick, from the row before the first scored one on, whose H targets all lie in the scored rows."""
    begin, end = score_rows
    rows = steps.rows
    first, last = rows[max(begin - 1, 0)], rows[min(end, len(rows)) - 1]
    later = steps.ahead(horizon)
    end_of = np.where(later >= 0, steps.step[later], last + 1) if steps.irregular else steps.step + horizon
    return np.flatnonzero(steps.real & (steps.step >= first) & (end_of <= last))


def targets_of(steps: Steps, origins: I64, horizon: int) -> F64:
    """What came 1..H steps later. [origin, channel, horizon]"""
    found = np.full((len(origins), steps.values.shape[1], horizon), np.nan)
    for k in range(1, horizon + 1):
        at = steps.ahead(k)[origins]
        good = (at >= 0) & steps.real[at]
        found[good, :, k - 1] = steps.values[at[good]]
    return found


def score(
    models: Sequence[tuple[str, int, Forecasts]],
    steps: Steps,
    spec: StreamSpec,
    scale: Scale,
    score_rows: tuple[int, int],
) -> list[Row]:
    """Rows of every (model, seed), all on the same cells. Raises InputError where there is none."""
    origins = origins_of(steps, score_rows, spec.horizon)
    target = targets_of(steps, origins, spec.horizon)
    common: Bool = ~np.isnan(target)
    parts = _parts(target)
    for _, _, made in models:
        for part in parts:
            common[part] &= np.isfinite(made.mean[origins[part]])
            if made.quantiles is not None:
                common[part] &= np.isfinite(made.quantiles[origins[part]].sum(axis=2))
    if not common.any():
        raise InputError("no cell of the scored rows has both a measured target and a forecast of every model")
    rows: list[Row] = []
    for name, seed, made in models:
        rows += _scored(name, seed, made, _Cells(origins, target, common), steps, spec, scale)
    return rows


def _parts(target: F64) -> list[slice]:
    """Origins in pieces of some CELLS_AT_ONCE cells."""
    many = max(1, CELLS_AT_ONCE // (target.shape[1] * target.shape[2]))
    return [slice(i, i + many) for i in range(0, len(target), many)]


@dataclass(slots=True)
class _Sums:
    """Scores added up over origins: `total[name]` [channel, horizon] of `count[name]` cells; `hits` [channel, level, horizon]."""

    hits: F64
    total: dict[str, F64] = field(default_factory=dict)
    count: dict[str, F64] = field(default_factory=dict)

    def add(self, name: str, values: F64 | Bool, cells: Bool) -> None:
        """`values` and the `cells` that count, [origin, channel, horizon]."""
        zero = np.zeros(cells.shape[1:])
        total, count = self.total.setdefault(name, zero), self.count.setdefault(name, zero)
        self.total[name] = total + np.where(cells, values, 0.0).sum(axis=0)
        self.count[name] = count + cells.sum(axis=0)

    def mean(self, name: str, of: tuple[Any, slice]) -> float | None:
        if name not in self.total or not (count := float(self.count[name][of].sum())):
            return None
        return float(self.total[name][of].sum()) / count


class _Cells(NamedTuple):
    """What all models are scored on: the origins [n], what came [n, channel, horizon], and where all have said something."""

    origins: I64
    target: F64
    common: Bool


def _scored(
    model: str, seed: int, made: Forecasts, on: _Cells, steps: Steps, spec: StreamSpec, scale: Scale
) -> list[Row]:
    origins, target, common = on
    who = steps.series[origins]
    measured = np.isfinite(scale.spread[who])  # [n, C]
    has_scale: Bool = np.any(measured, axis=0)
    # A mean holds only what has a scale; a channel without one keeps its coverage.
    able = measured | ~has_scale
    sums = _Sums(np.zeros((len(spec.channels), len(spec.quantiles), spec.horizon)))
    inside, known = np.zeros_like(common), np.zeros_like(common)
    for part in _parts(target):
        cells = common[part] & able[part][:, :, None]
        spread, move = scale.spread[who[part]][:, :, None], scale.move[who[part]][:, :, None]
        error = (made.mean[origins[part]] - target[part]) / spread
        against = np.abs(error) / move
        sums.add("mse", error**2, cells)
        sums.add("mae", np.abs(error), cells)
        sums.add("mase", against, cells & np.isfinite(against))
        if made.quantiles is not None or made.sigma is not None:
            quantiles = made.quantiles_at(origins[part], spec.quantiles)
            known[part] = cells & np.isfinite(quantiles.sum(axis=2))
            inside[part] = _spans(sums, quantiles, target[part], error, spread, known[part], spec.quantiles)
    rolling = _rolling(inside, known, who)

    rows: list[Row] = []
    names: list[str | None] = [None, *spec.channels]
    ahead: list[int | None] = [None, *range(1, spec.horizon + 1)]
    for name in names:
        c: Any = slice(None) if name is None else [spec.channels.index(name)]
        scaled = bool(has_scale[c].any())
        if name is None and scaled:
            c = np.flatnonzero(has_scale)
        for step in ahead:
            h = slice(None) if step is None else slice(step - 1, step)
            n = int(sums.count["mse"][c, h].sum())
            if n == 0:
                continue
            scores: dict[str, Any] = {
                each: sums.mean(each, (c, h)) if scaled else None for each in (*ERRORS, *INTERVALS)
            }
            coverage: dict[str, float] = {}
            seen = float(sums.count["inside"][c, h].sum()) if "inside" in sums.count else 0.0
            if seen:
                shares = sums.hits[c][:, :, h].sum(axis=(0, 2)) / seen
                coverage = {f"{level:g}": float(share) for level, share in zip(spec.quantiles, shares, strict=True)}
                scores["inside"] = sums.mean("inside", (c, h))
            each = rolling[:, c, h]
            if np.isfinite(each).any():
                scores |= {"rolling_min": float(np.nanmin(each[0])), "rolling_max": float(np.nanmax(each[1]))}
            rows.append(Row(model, name, step, n, coverage=coverage, seed=seed, **scores))
    return rows


def _spans(
    sums: _Sums, quantiles: F64, target: F64, error: F64, spread: F64, cells: Bool, levels: tuple[float, ...]
) -> Bool:
    """Adds the interval scores of these origins, and says which targets lie within the outer levels, ends included.

    `quantiles` [origin, channel, level, horizon]; `target` and `error` (forecast less target, on the z-scale) [origin,
    channel, horizon]; `spread` [origin, channel, 1].
    """
    # All relative to the target: scores stay the same, and digits are kept where values are far from zero.
    away = quantiles - target[:, :, None, :]
    hit = away >= 0.0
    inside: Bool = (away[:, :, 0] <= 0.0) & hit[:, :, -1]
    sums.hits += (hit & cells[:, :, None, :]).sum(axis=0)
    sums.add("inside", inside, cells)
    away /= spread[:, :, None]
    share = np.array(levels)[:, None]
    sums.add("pinball", np.maximum(-share * away, (1.0 - share) * away).mean(axis=2), cells)
    if len(levels) > 1:
        outer, low, high, zero = (levels[0], levels[-1]), away[:, :, 0], away[:, :, -1], np.zeros_like(error)
        shape = np.where(np.isfinite(away), away, 0.0).transpose(0, 1, 3, 2)
        sums.add("crps", crps(shape, levels, zero), cells)
        sums.add("nll", nll(error, low, high, outer, zero), cells)
        sums.add("winkler", interval_score(low, high, outer, zero), cells)
        sums.add("width", high - low, cells)
    return inside


def _rolling(inside: Bool, cells: Bool, who: I64) -> F64:
    """Least and greatest rolling coverage, [2, channel, horizon]; NaN where there are too few cells."""
    found = np.full((2, *cells.shape[1:]), np.nan)
    for c, h in np.ndindex(cells.shape[1:]):
        good = cells[:, c, h]
        shares = rolling_coverage(inside[good, c, h], who[good])
        if len(shares):
            found[:, c, h] = shares.min(), shares.max()
    return found


def normal_sigma(made: F64, shown: F64, steps: Steps, decay: float) -> F64:
    """Standard deviation of a model's errors, as known at each origin. [frame, channel, horizon]

    `made` [frame, channel, horizon] are its forecasts, `shown` [frame, channel] what it saw. Running mean of squared errors,
    each from the step on at which its target came; with fewer than 1 / (1 − decay) of them the plain mean.
    """
    count, channels, horizon = made.shape
    sigma = np.full(made.shape, np.nan)
    variance, seen = np.zeros((channels, horizon)), np.zeros((channels, horizon))
    back = np.arange(1, horizon + 1)
    last_step = -1
    for at in range(count):
        first = at == 0 or steps.series[at] != steps.series[at - 1]
        if first:
            variance[:], seen[:] = 0.0, 0.0
            last_step = at
        origins = at - back
        there = origins >= last_step
        origins = np.where(there, origins, at)
        if not steps.irregular:
            there &= steps.step[origins] == steps.step[at] - back
        error = shown[at][:, None] - made[origins, :, back - 1].T
        good = there & np.isfinite(error)
        seen += good
        rate = np.maximum(1.0 - decay, 1.0 / np.maximum(seen, 1.0))
        variance += np.where(good, rate * (np.where(good, error, 0.0) ** 2 - variance), 0.0)
        sigma[at] = np.where(seen > 0, np.sqrt(variance), np.nan)
    return sigma


# ── imputation ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Fills:
    """What a model put into cells, [frame, channel]; NaN where it left one empty. Bounds only where it gives them."""

    value: F64
    lower: F64 | None = None
    upper: F64 | None = None


def plain_fills(steps: Steps, shown: F64) -> dict[str, Fills]:
    """The last value seen, and the straight line between the values on both sides (which needs the future)."""
    last, line = np.full_like(shown, np.nan), np.full_like(shown, np.nan)
    for s in range(len(steps.names)):
        mine = np.flatnonzero(steps.series == s)
        for c in range(shown.shape[1]):
            known = mine[~np.isnan(shown[mine, c])]
            if len(known) == 0:
                continue
            before = np.searchsorted(known, mine, side="right") - 1
            seen = before >= 0
            last[mine[seen], c] = shown[known[before[seen]], c]
            inside = (mine >= known[0]) & (mine <= known[-1])
            line[mine[inside], c] = np.interp(steps.step[mine[inside]], steps.step[known], shown[known, c])
    return {LAST: Fills(last), LINEAR: Fills(line)}


def imputation_rows(
    models: Sequence[tuple[str, int, Fills]],
    steps: Steps,
    channels: Sequence[str],
    hidden: Bool,
    scale: Scale,
    score_rows: tuple[int, int],
) -> list[Row]:
    """Errors on the hidden cells of the scored rows that all models filled; each with how many it left empty itself."""
    wanted = hidden & steps.between(score_rows)[:, None] & ~np.isnan(steps.values)
    common = wanted.copy()
    for _, _, fills in models:
        common &= np.isfinite(fills.value)
    spread = scale.spread[steps.series]
    rows: list[Row] = []
    for model, seed, fills in models:
        error = (fills.value - steps.values) / spread
        for c in (None, *range(len(channels))):
            part = np.zeros(len(channels), dtype=np.bool_)
            part[slice(None) if c is None else c] = True
            cells = common & part
            unfilled = int((wanted & part & ~np.isfinite(fills.value)).sum())
            measured = cells & np.isfinite(spread)
            if measured.any():
                cells = measured
            n = int(cells.sum())
            if n == 0 and unfilled == 0:
                continue
            has_scale = bool(measured.any())
            errors = error[cells]
            coverage: dict[str, float] = {}
            if fills.lower is not None and fills.upper is not None and n:
                low, high = fills.lower[cells], fills.upper[cells]
                coverage["inside"] = float(((steps.values[cells] >= low) & (steps.values[cells] <= high)).mean())
            rows.append(
                Row(
                    model,
                    None if c is None else channels[c],
                    None,
                    n,
                    float((errors**2).mean()) if has_scale else None,
                    float(np.abs(errors).mean()) if has_scale else None,
                    None,
                    None,
                    coverage,
                    seed,
                    "imputation",
                    unfilled,
                )
            )
    return rows
