"""Scores of a back-test, on the z-scale of the train rows.

All models are scored on the same cells: an origin, channel and horizon counts where its target was measured and every
model made a forecast; every origin is scored on all its horizons. A channel that stands still over the train rows has no
such scale: its errors are null, and no mean over channels holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamrnn.records import F64, I64, Bool
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import Frames
from streamrnn.transports.files import InputError

# A spread over the train rows below this share of the spread over all rows, or of rounding, is standing still.
STILL_SHARE = 1e-4
STILL_ROUNDING = 64 * float(np.finfo(np.float64).eps)

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
    """By origin [frame]: `mean` [n, channel, horizon], `quantiles` [n, channel, level, horizon] or None; NaN: not made."""

    mean: F64
    quantiles: F64 | None

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
    for _, _, made in models:
        common &= np.isfinite(made.mean[origins])
        if made.quantiles is not None:
            common &= np.isfinite(made.quantiles[origins]).all(axis=2)
    if not common.any():
        raise InputError("no cell of the scored rows has both a measured target and a forecast of every model")
    rows: list[Row] = []
    for name, seed, made in models:
        rows += _scored(name, seed, made, origins, target, common, steps, spec, scale)
    return rows


def _scored(
    model: str,
    seed: int,
    made: Forecasts,
    origins: I64,
    target: F64,
    common: Bool,
    steps: Steps,
    spec: StreamSpec,
    scale: Scale,
) -> list[Row]:
    who = steps.series[origins]
    spread, move = scale.spread[who], scale.move[who]  # [n, C]
    error = (made.mean[origins] - target) / spread[:, :, None]
    scaled = np.abs(error) / move[:, :, None]
    levels = np.array(spec.quantiles)
    pinball = hit = None
    if made.quantiles is not None:
        gap = target[:, :, None, :] - made.quantiles[origins]  # [n, C, Q, H]
        hit = gap <= 0.0
        gap = gap / spread[:, :, None, None]
        pinball = np.maximum(levels[:, None] * gap, (levels[:, None] - 1.0) * gap).mean(axis=2)
    measured = np.isfinite(spread)
    rows: list[Row] = []
    names: list[str | None] = [None, *spec.channels]
    ahead: list[int | None] = [None, *range(1, spec.horizon + 1)]
    for name in names:
        c = slice(None) if name is None else slice(spec.channels.index(name), spec.channels.index(name) + 1)
        # A mean holds only what has a scale; a channel without one keeps its coverage.
        able = measured[:, c] if measured[:, c].any() else np.ones_like(measured[:, c])
        has_scale = bool(measured[:, c].any())
        for step in ahead:
            h = slice(None) if step is None else slice(step - 1, step)
            good = common[:, c, h] & able[:, :, None]
            n = int(good.sum())
            if n == 0:
                continue
            part = error[:, c, h][good]
            against = scaled[:, c, h][good]
            against = against[np.isfinite(against)]
            coverage: dict[str, float] = {}
            if hit is not None:
                for q, level in enumerate(spec.quantiles):
                    coverage[f"{level:g}"] = float(hit[:, c, q, h][good].mean())
            rows.append(
                Row(
                    model,
                    name,
                    step,
                    n,
                    float((part**2).mean()) if has_scale else None,
                    float(np.abs(part).mean()) if has_scale else None,
                    float(against.mean()) if has_scale and len(against) else None,
                    float(pinball[:, c, h][good].mean()) if has_scale and pinball is not None else None,
                    coverage,
                    seed,
                )
            )
    return rows


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
