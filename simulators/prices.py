"""Instruments: a random walk of the logarithm with stochastic volatility and jumps, and a volume beside it.

log volatility is mean-reverting (Taylor 1982); jumps come at a given rate with heavy size (Merton 1976). Nobody can
beat "no change" on the price; calibrated intervals are what there is to win.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulators.signal import BLOCK, Values, ar1, names

DEFAULT_CHANNELS = ("price", "volume")


@dataclass(frozen=True)
class Prices:
    count: int = 8
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    volatility: float = 2e-4  # typical size of one step's log return
    jumps: float = 2e-4  # per step
    seed: int = 0

    @property
    def series(self) -> tuple[str, ...]:
        return names("price", self.count)

    def blocks(self) -> Iterator[Values]:
        rng = np.random.default_rng([self.seed, 2])
        log_price = np.log(rng.uniform(5.0, 500.0, self.count))
        shares = rng.uniform(100.0, 10_000.0, self.count)
        state = np.zeros(self.count)
        phi, sigma = np.full(self.count, 0.985), np.full(self.count, 0.15)
        while True:
            log_vol, state = ar1(rng, state, phi, sigma, BLOCK)  # [series, step]
            returns = self.volatility * np.exp(log_vol) * rng.standard_normal((self.count, BLOCK))
            jumped = rng.random((self.count, BLOCK)) < self.jumps
            returns += jumped * 20.0 * self.volatility * rng.standard_t(4, (self.count, BLOCK))
            path = log_price[:, None] + np.cumsum(returns, axis=1)
            log_price = path[:, -1]
            volume = shares[:, None] * np.exp(0.7 * log_vol + 0.4 * rng.standard_normal((self.count, BLOCK)))
            columns = {"price": np.exp(path), "volume": np.rint(volume)}
            extra = [np.exp(path) * (1.0 + 1e-4 * (k + 1)) for k in range(len(self.channels))]
            yield np.stack([columns.get(name, extra[k]) for k, name in enumerate(self.channels)], axis=2)
