"""Recursive least squares on differences to the last value, one regression per channel (Haykin, Adaptive Filter Theory).

Features at time t: the last L values minus the newest one, and 1; with `cross` the newest move of every other channel; with a
`season` two harmonics of its phase. Targets: the next H values minus the newest. The newest complete pair at time t is the
window that ended at t − H: labels are used only after they came. A missing value is taken as the last one. No forecast moves
farther than the channel ever has in so many rows.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from streamrnn.kernels import fused
from streamrnn.records import F64

P0 = 100.0  # of features in units of their own spread: a weak prior
# Forgetting makes P grow where nothing moves; beyond this many times its start it is not let grow.
GROWTH_MAX = 1e6
HARMONICS = 2


class Rls:
    """`lags` L, `forgetting` λ per row, `cross` and `season` (in rows) as above; state grows with L², time a row too."""

    def __init__(
        self,
        channels: int,
        horizon: int,
        lags: int = 48,
        forgetting: float = 0.9995,
        cross: bool = True,
        season: int = 1,
    ) -> None:
        self._harmonics = HARMONICS if season > 2 * HARMONICS else 0
        size = lags + (channels - 1 if cross else 0) + 2 * self._harmonics
        self._p: F64 = np.zeros((channels, size, size))
        self._w: F64 = np.zeros((channels, size, horizon))
        self._start: F64 = np.zeros((channels, size))  # the diagonal of P at its start
        self._keep = max(lags, 2) + horizon
        self._past: F64 = np.zeros((channels, 8 * self._keep))  # rows up to `_end`; the newest `_keep` are always there
        self._end = 0
        self._made: deque[tuple[F64, F64]] = deque(maxlen=horizon + 1)  # features, newest value, by row
        self._lags, self._horizon, self._forgetting, self._cross = lags, horizon, forgetting, cross
        self._season, self._phase = max(season, 1), -1
        self._others = ~np.eye(channels, dtype=np.bool_)
        self._begun = np.zeros(channels, dtype=np.bool_)
        self._largest: F64 = np.zeros((channels, horizon))  # move so far

    def observe(self, row: F64) -> None:
        if self._end == self._past.shape[1]:
            self._past[:, : self._keep] = self._past[:, -self._keep :]
            self._end = self._keep
        last = self._past[:, self._end - 1] if self._end else np.zeros(len(row))
        newest = np.where(np.isnan(row), last, row)
        self._past[:, self._end] = newest
        self._end += 1
        self._phase = (self._phase + 1) % self._season
        if self._end < max(self._lags, 2):
            return
        self._made.append((self._features(), newest))
        if len(self._made) > self._horizon:
            features, base = self._made[0]
            target = self._past[:, self._end - self._horizon : self._end] - base[:, None]
            if not self._begun.all():
                self._begin(features)
            self._largest = np.maximum(self._largest, np.abs(target))
            _learn(self._p, self._w, self._start, features, target, self._forgetting)

    def forecast(self) -> F64:
        if not self._made:
            last = self._past[:, self._end - 1] if self._end else np.zeros(len(self._p))
            return np.repeat(last[:, None], self._horizon, axis=1)
        features, newest = self._made[-1]
        moves: F64 = np.matmul(features[:, None, :], self._w)[:, 0]
        return newest[:, None] + np.clip(moves, -self._largest, self._largest)

    def _features(self) -> F64:
        """[channel, feature]"""
        past, end, lags = self._past, self._end, self._lags
        count, size = self._start.shape
        made = np.ones((count, size))
        made[:, : lags - 1] = past[:, end - lags : end - 1] - past[:, end - 1 : end]
        if self._cross and count > 1:
            moves = past[:, end - 1] - past[:, end - 2]
            made[:, lags : lags + count - 1] = np.broadcast_to(moves, (count, count))[self._others].reshape(count, -1)
        for k in range(self._harmonics):
            angle = 2.0 * np.pi * (k + 1) * self._phase / self._season
            made[:, size - 2 * k - 2], made[:, size - 2 * k - 1] = np.sin(angle), np.cos(angle)
        return made

    def _begin(self, features: F64) -> None:
        """P of the channels that have moved by now: P0 over a feature's mean square (1 of the constant ones).

        So a channel's unit does not matter. Before, P is 0, and nothing is learnt. Another channel that has not moved yet
        is taken to move as much as this one.
        """
        lags, count = self._lags, len(features)
        moves = (np.diff(self._past[:, max(0, self._end - self._keep) : self._end], axis=1) ** 2).mean(axis=1)
        own = (features[:, : lags - 1] ** 2).mean(axis=1) if lags > 1 else moves
        fresh = ~self._begun & (own > 0.0)
        scale = np.ones_like(features)
        scale[:, : lags - 1] = own[:, None]
        if self._cross and count > 1:
            others = np.broadcast_to(moves, (count, count))[self._others].reshape(count, -1)
            scale[:, lags : lags + count - 1] = np.where(others > 0.0, others, own[:, None])
        self._start[fresh] = P0 / scale[fresh]
        self._p[fresh] = self._start[fresh][:, :, None] * np.eye(features.shape[1])
        self._begun |= fresh


@fused
def _learn(p: F64, w: F64, start: F64, features: F64, target: F64, forgetting: float) -> None:
    """One pair per channel: p [C, n, n], w [C, n, H], start and features [C, n], target [C, H]. P stays symmetric to the bit."""
    channels, size, horizon = w.shape
    gain, error = np.empty(size), np.empty(horizon)
    for c in range(channels):
        gain[:] = 0.0
        for j in range(size):
            for i in range(size):
                gain[i] += p[c, j, i] * features[c, j]
        total = forgetting
        for i in range(size):
            total += gain[i] * features[c, i]
        sound = 0.0 < total < np.inf
        for i in range(size):
            sound = sound and p[c, i, i] >= 0.0
        if not sound:  # rounding took P's definiteness: begun again
            p[c] = 0.0
            for i in range(size):
                p[c, i, i] = start[c, i]
            w[c] = 0.0
            continue
        share = 1.0 / total
        for h in range(horizon):
            error[h] = target[c, h]
        for i in range(size):
            for h in range(horizon):
                error[h] -= features[c, i] * w[c, i, h]
        for i in range(size):
            step = gain[i] * share
            for h in range(horizon):
                w[c, i, h] += step * error[h]
        forget = 1.0 / forgetting
        for i in range(size):
            if p[c, i, i] > GROWTH_MAX * start[c, i]:
                forget = 1.0
        for i in range(size):
            for j in range(size):
                p[c, i, j] = (p[c, i, j] - gain[i] * gain[j] * share) * forget
