"""Forecasters of other packages, where they are installed: ppc-forecaster, lebre, fracast. None is a dependency.

Each is used as its own pages say, one model per channel, with its defaults; a missing value is taken as the last one.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from streamrnn.records import F64, I64

PACKAGES = {"ppc": "ppc-forecaster", "lebre": "lebre", "fracast": "fracast"}
MODULES = {"ppc": "ppc.forecaster", "lebre": "lebre", "fracast": "fracast"}
# A zero-shot forecast of one channel takes tens of milliseconds: one origin in so many. No divisor of a day or a week, so
# that all hours are met.
FRACAST_STRIDE = 25
FRACAST_CONTEXT = 2048


def module_of(name: str) -> Any:
    """The peer's module. Raises ValueError naming what to install."""
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise ValueError(f"--baselines {name}: pip install {PACKAGES[name]} ({error})") from error


class Lebre:
    """One step ahead; the other channels' newest values are its inputs (lebre 0.4)."""

    def __init__(self, channels: int, horizon: int, season: int) -> None:
        if horizon != 1:
            raise ValueError("--baselines lebre: it forecasts one step; give --horizon 1")
        made = module_of("lebre").Lebre
        self._models = [made(n_inputs=channels - 1, season=season if season > 1 else None) for _ in range(channels)]
        self._last: F64 = np.full(channels, np.nan)
        self._next: F64 = np.full((channels, 1), np.nan)

    def observe(self, row: F64) -> None:
        first = np.isnan(self._next).all()
        for c, model in enumerate(self._models):
            if not first:
                model.observe(None if np.isnan(row[c]) else float(row[c]))
        self._last = np.where(np.isnan(row), self._last, row)
        for c, model in enumerate(self._models):
            inputs = np.nan_to_num(np.delete(self._last, c))
            self._next[c, 0] = model.predict(inputs).value

    def forecast(self) -> F64:
        return np.where(np.isfinite(self._next), self._next, np.nan_to_num(self._last)[:, None])


class Fracast:
    """Zero-shot medians from the last 2,048 rows, at one origin in FRACAST_STRIDE: nothing (NaN) at the others."""

    def __init__(self, channels: int, horizon: int) -> None:
        self._model = module_of("fracast").FracastModel.from_pretrained(device="cpu")
        self._past: F64 = np.zeros((channels, 8 * FRACAST_CONTEXT))
        self._end, self._count, self._horizon = 0, 0, horizon

    def observe(self, row: F64) -> None:
        if self._end == self._past.shape[1]:
            self._past[:, :FRACAST_CONTEXT] = self._past[:, -FRACAST_CONTEXT:]
            self._end = FRACAST_CONTEXT
        last = self._past[:, self._end - 1] if self._end else np.zeros(len(row))
        self._past[:, self._end] = np.where(np.isnan(row), last, row)
        self._end += 1
        self._count += 1

    def forecast(self) -> F64:
        if self._count % FRACAST_STRIDE:
            return np.full((len(self._past), self._horizon), np.nan)
        context = self._past[:, max(0, self._end - FRACAST_CONTEXT) : self._end]
        quantiles = np.asarray(self._model.forecast(context, horizon=self._horizon), dtype=np.float64)
        middle: F64 = quantiles.reshape(len(context), self._horizon, -1)[:, :, 4]
        return middle


class Ppc:
    """ppc-forecaster's `auto`. It runs over a whole series itself: a forecast made at a row uses that row and older ones."""

    def __init__(self, channels: int, horizon: int, season: int) -> None:
        self._module = module_of("ppc")
        self._horizon, self._season = horizon, [season] if season > 1 else None

    def forecasts(self, values: F64, ts_us: I64) -> F64:
        """[row, channel, horizon] of values [row, channel] at these times."""
        pandas = importlib.import_module("pandas")
        made = np.empty((*values.shape, self._horizon))
        for c in range(values.shape[1]):
            model = self._module.Forecaster(horizons=range(1, self._horizon + 1), season=self._season)
            frame = pandas.DataFrame({"time": pandas.to_datetime(ts_us, unit="us"), "y": values[:, c]})
            found = model.fit_predict(frame, target="y", time="time")
            for h in range(1, self._horizon + 1):
                made[:, c, h - 1] = found[f"auto_h{h}"].to_numpy()
        return made
