"""The recent past of a few series, for the live page: bounded in series and in steps, cheap per batch."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamrnn.calendar import milliseconds
from streamrnn.records import F64, Bool, Outputs, TickBatch
from streamrnn.spec import StreamSpec

SERIES_MAX = 24
STEPS_MAX = 240
MARKS_MAX = 50


class _Forecast(NamedTuple):
    """A series' newest, as arrays: most are replaced before anybody looks."""

    ts_ms: float
    step_ms: float
    mean: F64
    quantiles: F64
    warm: bool

    def view(self) -> dict[str, Any]:
        return {
            "ts": self.ts_ms,
            "step_ms": self.step_ms,
            "mean": _numbers(self.mean.tolist()),
            "quantiles": _numbers(self.quantiles.tolist()),
            "warm": self.warm,
        }


class _Filled(NamedTuple):
    ts_ms: float
    values: F64
    lower: F64
    upper: F64
    filled: Bool

    def view(self) -> dict[str, Any]:
        return {
            "ts": self.ts_ms,
            "values": _numbers(self.values.tolist()),
            "lower": _numbers(self.lower.tolist()),
            "upper": _numbers(self.upper.tolist()),
            "filled": self.filled.tolist(),
        }


@dataclass(slots=True)
class _Watched:
    actual: deque[tuple[float, F64]] = field(default_factory=lambda: deque(maxlen=STEPS_MAX))  # (ts, values) that came
    filled: deque[_Filled] = field(default_factory=lambda: deque(maxlen=STEPS_MAX))
    forecast: _Forecast | None = None


class History:
    """Watches the first SERIES_MAX series it meets; one asked for by name replaces the least asked for."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self._watched: dict[str, _Watched] = {}
        self.marks: deque[dict[str, Any]] = deque(maxlen=MARKS_MAX)

    def record(self, batch: TickBatch, outputs: Outputs) -> None:
        if len(self._watched) < SERIES_MAX:
            for name in batch.series[:256]:
                if name not in self._watched and len(self._watched) < SERIES_MAX:
                    self._watched[name] = _Watched()
        watched = self._watched
        forecasts = outputs.forecasts
        last: dict[str, int] = {}
        rows = [row for row, name in enumerate(forecasts.series) if name in watched]
        ticks, times = forecasts.tick[rows].tolist(), forecasts.ts_us[rows].tolist()
        for row, tick, ts_us in zip(rows, ticks, times, strict=True):
            name = forecasts.series[row]
            if batch.series[tick] == name:
                watched[name].actual.append((milliseconds(ts_us), batch.values[tick].copy()))
            last[name] = row
        for name, row in last.items():  # copies, or the whole batch would stay
            watched[name].forecast = _Forecast(
                milliseconds(int(forecasts.ts_us[row])),
                milliseconds(int(forecasts.step_us[row])),
                forecasts.mean[row].copy(),
                forecasts.quantiles[row].copy(),
                bool(forecasts.warm[row]),
            )
        imputations = outputs.imputations
        for row, name in enumerate(imputations.series):
            if name in watched:
                watched[name].filled.append(
                    _Filled(
                        milliseconds(int(imputations.ts_us[row])),
                        imputations.values[row].copy(),
                        imputations.lower[row].copy(),
                        imputations.upper[row].copy(),
                        imputations.filled[row].copy(),
                    )
                )

    def mark(self, kind: str, text: str) -> None:
        self.marks.append({"kind": kind, "text": text, "at_ms": int(time.time() * 1000)})

    def names(self) -> list[str]:
        return sorted(self._watched)

    def one(self, name: str) -> dict[str, Any] | None:
        """The recent points of one series; None (and watched from now on) where it was not watched yet."""
        watched = self._watched.pop(name, None)
        if watched is None:
            if len(name) > 256:
                return None
            while len(self._watched) >= SERIES_MAX:
                self._watched.pop(next(iter(self._watched)))
            self._watched[name] = _Watched()
            return None
        self._watched[name] = watched  # asked for: to the end of the queue
        return {
            "series": name,
            "channels": list(self.spec.channels),
            "levels": list(self.spec.quantiles),
            "actual": [(ts_ms, _numbers(values.tolist())) for ts_ms, values in watched.actual],
            "filled": [filled.view() for filled in watched.filled],
            "forecast": None if watched.forecast is None else watched.forecast.view(),
            "marks": list(self.marks),
        }


def _numbers(values: Any) -> Any:
    """NaN becomes null: the page reads JSON."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return None if math.isnan(values) else values
