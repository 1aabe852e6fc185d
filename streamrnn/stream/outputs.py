"""Which frames of a stretch are sent, room for their numbers, and one batch out of several stretches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from streamrnn.calendar import StepGrid
from streamrnn.records import (
    F32,
    F64,
    I64,
    KIND_IDLE,
    KIND_TICK,
    U8,
    Bool,
    ForecastBatch,
    ImputationBatch,
    Scores,
)
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import Frames, stable_order
from streamrnn.stream.table import SeriesTable


def empty_scores(spec: StreamSpec) -> Scores:
    shape = (len(spec.channels), spec.horizon)
    return Scores(
        count=np.zeros(shape, dtype=np.int64),
        abs_error=np.zeros(shape),
        abs_persistence=np.zeros(shape),
        abs_network=np.zeros(shape),
        count_network=np.zeros(shape, dtype=np.int64),
        abs_base_network=np.zeros(shape),
        below=np.zeros((*shape, len(spec.quantiles)), dtype=np.int64),
        inside=np.zeros(shape, dtype=np.int64),
    )


class OutputPart:
    """The outputs of one stretch of frames: rows are given out in the order of the source ticks.

    A forecast leaves at every step a tick filled (every n-th with `forecast_every`) and at the last step that is filled ahead
    of a silent series; a gap before a tick is filled but not forecast from: the tick's own forecast, in the same batch,
    knows more. What was sent ahead is not sent again.
    """

    def __init__(
        self, spec: StreamSpec, grid: StepGrid, frames: Frames, silent: Bool | None, table: SeriesTable
    ) -> None:
        count = len(frames)
        channels, levels = len(spec.channels), len(spec.quantiles)
        heard: Bool = ~frames.shown if silent is None else ~frames.shown & ~silent[frames.tick]

        ends_idle: Bool = frames.kind == KIND_IDLE
        if count > 1:
            goes_on = (
                (frames.kind[1:] == KIND_IDLE)
                & (frames.slot[1:] == frames.slot[:-1])
                & (frames.tick[1:] == frames.tick[:-1])
            )
            ends_idle[:-1] &= ~goes_on
        forecasts: Bool = ((frames.kind == KIND_TICK) | ends_idle) & heard
        if spec.forecast_every > 1:
            turn = frames.number if spec.irregular else frames.step
            forecasts &= turn % spec.forecast_every == 0
        self.out_row, chosen = _rows(forecasts, frames.tick)
        self.forecast_tick: I64 = frames.tick[chosen]
        self.forecast_ts: I64 = frames.ts_us[chosen]
        names = table.names
        self.forecast_series: list[str] = [names[row] or "" for row in frames.owner[chosen].tolist()]
        self.forecast_step: I64 = _step_us(spec, grid, frames, chosen)
        self.forecast_scale: F32 = _worth_writing(frames.scale[chosen], frames.base[chosen])
        self.forecast_warm: Bool = frames.number[chosen] + 1 >= spec.warm_up
        self.mean: F64 = np.empty((len(chosen), channels, spec.horizon))
        self.quantiles: F64 = np.empty((len(chosen), channels, levels, spec.horizon))

        fills: Bool = heard.copy()
        if not spec.impute_all:
            # A channel that was never seen has nothing to be filled from.
            fills &= (np.isnan(frames.values) & ~np.isnan(frames.base)).any(axis=1)
        self.fill_row, chosen = _rows(fills, frames.tick)
        self.fill_tick: I64 = frames.tick[chosen]
        self.fill_ts: I64 = frames.ts_us[chosen]
        self.fill_series: list[str] = [names[row] or "" for row in frames.owner[chosen].tolist()]
        self.fill_kind: U8 = frames.kind[chosen]
        self.fill_scale: F32 = _worth_writing(frames.scale[chosen], frames.base[chosen])
        self.fill_value: F64 = np.empty((len(chosen), channels))
        self.fill_lower: F64 = np.empty((len(chosen), channels))
        self.fill_upper: F64 = np.empty((len(chosen), channels))
        self.filled: Bool = np.zeros((len(chosen), channels), dtype=np.bool_)


def _worth_writing(scale: F32, base: F64) -> F32:
    """The scale by which digits are chosen: of a channel that has not moved, a share of its value (10 digits). [n, channel]"""
    level = np.abs(base)
    moved = scale > 1e-12 * level
    return scale if moved.all() else np.where(moved, scale, 1e-7 * level).astype(np.float32)


def _step_us(spec: StreamSpec, grid: StepGrid, frames: Frames, chosen: I64) -> I64:
    """The distance of the steps ahead: of irregular ones the usual distance so far, of calendar steps the first one's."""
    if spec.irregular:
        pace = np.rint(frames.pace_us[chosen].astype(np.float64))
        # Behind one tick nothing is known.
        return np.where(pace > 0.0, np.maximum(pace, 1.0), 1000.0).astype(np.int64)
    if spec.calendar_step is None:
        return np.full(len(chosen), grid.step_us, dtype=np.int64)
    steps = frames.step[chosen].tolist()
    return np.array([grid.start_us(step + 1) - grid.start_us(step) for step in steps], dtype=np.int64)


def _rows(chosen: Bool, tick: I64) -> tuple[I64, I64]:
    """Output row per frame (−1: none) in the order of the ticks, and the chosen frames in that order."""
    frames = np.flatnonzero(chosen)
    ordered = frames[stable_order(tick[frames])]
    rows: I64 = np.full(len(chosen), -1, dtype=np.int64)
    rows[ordered] = np.arange(len(ordered))
    return rows, ordered


class _Joiner:
    """Puts the parts of a batch behind each other, in the order of the ticks: what is filled ahead of silent series comes as
    a part of its own, behind those of later ticks."""

    def __init__(self, ticks: Sequence[I64]) -> None:
        self.tick: I64 = self._whole(ticks, np.int64)
        falls = len(ticks) > 1 and bool((self.tick[1:] < self.tick[:-1]).any())
        self._order = stable_order(self.tick) if falls else None
        if self._order is not None:
            self.tick = self.tick[self._order]

    def column(self, arrays: Sequence[np.ndarray], dtype: DTypeLike, *shape: int) -> np.ndarray:
        whole = self._whole(arrays, dtype, *shape)
        return whole if self._order is None else whole[self._order]

    def names(self, parts: Sequence[list[str]]) -> list[str]:
        whole = [name for part in parts for name in part]
        return whole if self._order is None else [whole[i] for i in self._order.tolist()]

    def _whole(self, arrays: Sequence[np.ndarray], dtype: DTypeLike, *shape: int) -> np.ndarray:
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate(arrays) if arrays else np.empty((0, *shape), dtype=dtype)


def join_forecasts(spec: StreamSpec, parts: Sequence[OutputPart], model: str) -> ForecastBatch:
    channels, horizon = len(spec.channels), spec.horizon
    joined = _Joiner([part.forecast_tick for part in parts])
    column = joined.column
    return ForecastBatch(
        tick=joined.tick,
        series=joined.names([part.forecast_series for part in parts]),
        ts_us=column([part.forecast_ts for part in parts], np.int64),
        step_us=column([part.forecast_step for part in parts], np.int64),
        mean=column([part.mean for part in parts], np.float64, channels, horizon),
        quantiles=column([part.quantiles for part in parts], np.float64, channels, len(spec.quantiles), horizon),
        scale=column([part.forecast_scale for part in parts], np.float32, channels),
        warm=column([part.forecast_warm for part in parts], np.bool_),
        model=model,
    )


def join_imputations(spec: StreamSpec, parts: Sequence[OutputPart]) -> ImputationBatch:
    channels = len(spec.channels)
    joined = _Joiner([part.fill_tick for part in parts])
    column = joined.column
    return ImputationBatch(
        tick=joined.tick,
        series=joined.names([part.fill_series for part in parts]),
        ts_us=column([part.fill_ts for part in parts], np.int64),
        values=column([part.fill_value for part in parts], np.float64, channels),
        filled=column([part.filled for part in parts], np.bool_, channels),
        lower=column([part.fill_lower for part in parts], np.float64, channels),
        upper=column([part.fill_upper for part in parts], np.float64, channels),
        scale=column([part.fill_scale for part in parts], np.float32, channels),
        kind=column([part.fill_kind for part in parts], np.uint8),
    )
