"""The recent past of a few series, for the live page: bounded in series and in steps, cheap per batch."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from streamrnn.records import Outputs, TickBatch
from streamrnn.spec import StreamSpec

SERIES_MAX = 24
STEPS_MAX = 240
MARKS_MAX = 50


@dataclass(slots=True)
class _Watched:
    # (ts, values) that came; (ts, values, lower, upper, which) that were filled
    actual: deque[tuple[int, list[float | None]]] = field(default_factory=lambda: deque(maxlen=STEPS_MAX))
    filled: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=STEPS_MAX))
    forecast: dict[str, Any] | None = None


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
        for row, name in enumerate(forecasts.series):
            if name in watched:
                tick = int(forecasts.tick[row])
                if batch.series[tick] == name:
                    values = [None if math.isnan(v) else v for v in batch.values[tick].tolist()]
                    watched[name].actual.append((int(forecasts.ts_ms[row]), values))
                last[name] = row
        for name, row in last.items():
            watched[name].forecast = {
                "ts": int(forecasts.ts_ms[row]),
                "step_ms": int(forecasts.step_ms[row]),
                "mean": _numbers(forecasts.mean[row].tolist()),
                "quantiles": _numbers(forecasts.quantiles[row].tolist()),
                "warm": bool(forecasts.warm[row]),
            }
        imputations = outputs.imputations
        for row, name in enumerate(imputations.series):
            if name in watched:
                watched[name].filled.append(
                    {
                        "ts": int(imputations.ts_ms[row]),
                        "values": _numbers(imputations.values[row].tolist()),
                        "lower": _numbers(imputations.lower[row].tolist()),
                        "upper": _numbers(imputations.upper[row].tolist()),
                        "filled": imputations.filled[row].tolist(),
                    }
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
            "actual": list(watched.actual),
            "filled": list(watched.filled),
            "forecast": watched.forecast,
            "marks": list(self.marks),
        }


def _numbers(values: Any) -> Any:
    """NaN becomes null: the page reads JSON."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return None if math.isnan(values) else values
