"""river's forecasters, one per channel: Holt-Winters and SNARIMAX."""

from __future__ import annotations

from typing import Any

import numpy as np
from river import linear_model, optim, preprocessing, time_series

from streamrnn.records import F64


class RiverForecaster:
    """`kind` is holt-winters or snarimax; a missing value is replaced by the model's own forecast of it."""

    def __init__(self, kind: str, channels: int, horizon: int, season: int) -> None:
        self._horizon = horizon
        self._models = [_make(kind, season) for _ in range(channels)]
        self._last: F64 = np.zeros(channels)
        self._count = 0
        self._warm = season + 2

    def observe(self, row: F64) -> None:
        for c, value in enumerate(row):
            if np.isnan(value):
                value = self.forecast()[c, 0]
            self._models[c].learn_one(float(value))
            self._last[c] = value
        self._count += 1

    def forecast(self) -> F64:
        held = np.repeat(self._last[:, None], self._horizon, axis=1)
        if self._count < self._warm:
            return held
        given = np.array([model.forecast(horizon=self._horizon) for model in self._models], dtype=np.float64)
        return np.where(np.isfinite(given), given, held)


def _make(kind: str, season: int) -> Any:
    if kind == "holt-winters":
        return time_series.HoltWinters(alpha=0.3, beta=0.05, gamma=0.3, seasonality=season)
    return time_series.SNARIMAX(
        p=12,
        d=1,
        q=3,
        m=season,
        sp=2,
        sq=0,
        regressor=preprocessing.StandardScaler()
        | linear_model.LinearRegression(intercept_init=0, optimizer=optim.SGD(0.005), intercept_lr=0.1),
    )
