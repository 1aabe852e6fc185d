"""Exponentially weighted average of experts (Vovk 1990; Cesa-Bianchi & Lugosi 2006), per channel and horizon.

Weights are exp(−20 × an expert's share of the discounted squared loss); a loss counts only once its target has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from streamrnn.baselines.base import Baseline
from streamrnn.records import F64

SHARPNESS = 20.0
DISCOUNT = 0.998


class Ewa:
    def __init__(self, experts: Sequence[Baseline], channels: int, horizon: int) -> None:
        self._experts = list(experts)
        self._loss: F64 = np.full((len(experts), channels, horizon), 1e-9)
        self._made: deque[F64] = deque(maxlen=horizon)  # [expert, channel, horizon], newest last
        self._horizon = horizon

    def observe(self, row: F64) -> None:
        came = ~np.isnan(row)
        for h, made in enumerate(reversed(self._made)):
            error = (row[None, :] - made[:, :, h]) ** 2
            decayed = DISCOUNT * self._loss[:, :, h] + np.nan_to_num(error)
            self._loss[:, :, h] = np.where(came[None, :], decayed, self._loss[:, :, h])
        for expert in self._experts:
            expert.observe(row)
        self._made.append(np.stack([expert.forecast() for expert in self._experts]))

    def forecast(self) -> F64:
        share = self._loss / self._loss.sum(axis=0, keepdims=True)
        weight = np.exp(-SHARPNESS * (share - share.min(axis=0, keepdims=True)))
        weight /= weight.sum(axis=0, keepdims=True)
        mixed: F64 = (weight * self._made[-1]).sum(axis=0)
        return mixed
