"""Persistence, and persistence of the same phase of the season."""

from __future__ import annotations

from collections import deque

import numpy as np

from streamrnn.records import F64


class Persistence:
    """The last seen value, at every horizon."""

    def __init__(self, channels: int, horizon: int) -> None:
        self._last: F64 = np.zeros(channels)
        self._horizon = horizon

    def observe(self, row: F64) -> None:
        self._last = np.where(np.isnan(row), self._last, row)

    def forecast(self) -> F64:
        return np.repeat(self._last[:, None], self._horizon, axis=1)


class Seasonal:
    """The value at this phase of the last season in which it was measured; until a season has been seen, the last value."""

    def __init__(self, channels: int, horizon: int, season: int) -> None:
        self._rows: deque[F64] = deque(maxlen=season)
        self._last: F64 = np.zeros(channels)
        self._horizon, self._season = horizon, season

    def observe(self, row: F64) -> None:
        ago = self._rows[0] if len(self._rows) == self._season else self._last
        self._last = np.where(np.isnan(row), self._last, row)
        self._rows.append(np.where(np.isnan(row), ago, row))

    def forecast(self) -> F64:
        if len(self._rows) < self._season:
            return np.repeat(self._last[:, None], self._horizon, axis=1)
        return np.stack([self._rows[h % self._season] for h in range(self._horizon)], axis=1)
