"""Recursive least squares on differences to the last value, one regression per channel (Haykin, Adaptive Filter Theory).

Features at time t: the last L values minus the newest one, and 1; targets: the next H values minus the newest. The newest
complete pair at time t is the window that ended at t − H: labels are used only after they came.
"""

from __future__ import annotations

import numpy as np

from streamrnn.records import F64

P0 = 100.0


class Rls:
    """`lags` L, `forgetting` λ; vectorised over channels and horizons."""

    def __init__(self, channels: int, horizon: int, lags: int = 48, forgetting: float = 1.0) -> None:
        size = lags + 1
        self._p: F64 = np.repeat(P0 * np.eye(size)[None], channels, axis=0)  # [C, n, n]
        self._w: F64 = np.zeros((channels, size, horizon))  # [C, n, H]
        self._rows: list[F64] = []
        self._keep = lags + horizon
        self._lags, self._horizon, self._forgetting = lags, horizon, forgetting

    def observe(self, row: F64) -> None:
        last = self._rows[-1] if self._rows else np.zeros(len(row))
        self._rows.append(np.where(np.isnan(row), last, row))
        if len(self._rows) > self._keep:
            del self._rows[0]
        if len(self._rows) == self._keep:
            self._learn()

    def forecast(self) -> F64:
        if len(self._rows) < self._lags:
            last = self._rows[-1] if self._rows else np.zeros(self._p.shape[0])
            return np.repeat(last[:, None], self._horizon, axis=1)
        x = self._features(self._rows[-self._lags :])
        moves: F64 = np.einsum("cn,cnh->ch", x, self._w)
        return self._rows[-1][:, None] + moves

    def _features(self, rows: list[F64]) -> F64:
        window = np.stack(rows, axis=1)  # [C, L]
        return np.concatenate([window - window[:, -1:], np.ones((len(window), 1))], axis=1)

    def _learn(self) -> None:
        x = self._features(self._rows[: self._lags])  # [C, n], the window that ended H rows ago
        base = self._rows[self._lags - 1]
        target = np.stack(self._rows[self._lags :], axis=1) - base[:, None]  # [C, H]
        px = np.einsum("cnm,cm->cn", self._p, x)
        gain = px / (self._forgetting + np.einsum("cn,cn->c", x, px))[:, None]
        error = target - np.einsum("cn,cnh->ch", x, self._w)
        self._w += gain[:, :, None] * error[:, None, :]
        self._p = (self._p - gain[:, :, None] * px[:, None, :]) / self._forgetting
        # Rounding makes P drift from symmetry, and from there to nonsense.
        self._p = 0.5 * (self._p + self._p.transpose(0, 2, 1))
