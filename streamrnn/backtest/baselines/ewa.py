"""Exponentially weighted average of experts (Vovk 1990; Cesa-Bianchi & Lugosi 2006), per channel and horizon.

Weights are exp(−20 × an expert's share of the discounted squared loss); a loss counts only once its target has come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrnn.backtest.baselines.base import Baseline
from streamrnn.records import F64

SHARPNESS = 20.0
DISCOUNT = 0.998


class Ewa:
    def __init__(self, experts: Sequence[Baseline], channels: int, horizon: int) -> None:
        self._experts = list(experts)
        self._loss: F64 = np.full((len(experts), channels, horizon), 1e-9)
        self._made: F64 = np.full((horizon, len(experts), channels, horizon), np.nan)  # by row, around
        self._ahead = np.arange(horizon)
        self._count = 0

    def observe(self, row: F64) -> None:
        horizon = len(self._ahead)
        # What each of the last H rows said of this one: [expert, channel, horizon].
        made = self._made[(self._count - 1 - self._ahead) % horizon, :, :, self._ahead].transpose(1, 2, 0)
        error = (row[:, None] - made) ** 2
        self._loss = np.where(np.isnan(error), self._loss, DISCOUNT * self._loss + error)
        for k, expert in enumerate(self._experts):
            expert.observe(row)
            self._made[self._count % horizon, k] = expert.forecast()
        self._count += 1

    def forecast(self) -> F64:
        share = self._loss / self._loss.sum(axis=0, keepdims=True)
        weight = np.exp(-SHARPNESS * (share - share.min(axis=0, keepdims=True)))
        weight /= weight.sum(axis=0, keepdims=True)
        mixed: F64 = (weight * self._made[(self._count - 1) % len(self._ahead)]).sum(axis=0)
        return mixed
