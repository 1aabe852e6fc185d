"""Instruments: random walks of the logarithm with stochastic volatility and jumps, and what is quoted beside them.

Returns share a market factor; log volatility is mean-reverting (Taylor 1982) and partly shared; jumps come at a given
rate with heavy size (Merton 1976). Nobody can beat "no change" on the price; calibrated intervals are what there is
to win.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulators.signal import BLOCK, Chunked, Values, names, recurse

DEFAULT_CHANNELS = ("price", "volume")

VOLATILITY_PHI, VOLATILITY_SD = 0.985, 0.7  # of the logarithm of the volatility
JUMP_SIZE = 20.0  # in units of the typical return
MARKET_SHARE = 0.4  # of the variance of returns, and of log volatility


@dataclass(eq=False)
class Prices(Chunked):
    """Channels by name: price, volume, bid, ask; any other is the price as a venue shows it, with noise of its own."""

    count: int = 8
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    volatility: float = 2e-4  # typical size of one step's log return
    jumps: float = 2e-4  # per step
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng([self.seed, 11])
        self._start = np.log(rng.uniform(5.0, 500.0, self.count))
        self._shares = rng.uniform(100.0, 10_000.0, (self.count, 1))
        self._half_spread = rng.uniform(0.2, 1.0, (self.count, 1)) * self.volatility

    @property
    def series(self) -> tuple[str, ...]:
        return names("price", self.count)

    def _begin(self) -> Any:
        """(log price [series], log volatility of every instrument and of the market [series + 1])."""
        rng = np.random.default_rng([self.seed, 12])
        return self._start, rng.standard_normal(self.count + 1) * VOLATILITY_SD

    def _chunk(self, index: int, state: Any) -> tuple[Values, Any]:
        log_price, volatility_state = state
        rng = np.random.default_rng([self.seed, 13, index])
        shape = (self.count, BLOCK)
        push = rng.standard_normal((self.count + 1, BLOCK)) * (VOLATILITY_SD * math.sqrt(1.0 - VOLATILITY_PHI**2))
        log_vol, volatility_state = recurse(push, volatility_state, VOLATILITY_PHI)
        common, own = math.sqrt(MARKET_SHARE), math.sqrt(1.0 - MARKET_SHARE)
        log_vol = common * log_vol[-1] + own * log_vol[:-1]  # [series, BLOCK]
        typical = self.volatility * np.exp(log_vol)
        returns = typical * (common * rng.standard_normal(BLOCK) + own * rng.standard_normal(shape))
        jumped = rng.random(shape) < self.jumps
        returns += jumped * JUMP_SIZE * self.volatility * rng.standard_t(4, shape)
        path = log_price[:, None] + np.cumsum(returns, axis=1)
        price = np.exp(path)

        columns: list[Values] = []
        for channel in self.channels:
            noise = rng.standard_normal(shape)
            if channel == "price":
                columns.append(price)
            elif channel == "volume":
                # Volume follows volatility: the two are known to move together (Clark 1973).
                columns.append(np.rint(self._shares * np.exp(0.7 * log_vol + 0.4 * noise)))
            elif channel in ("bid", "ask"):
                # The spread widens with the volatility.
                half = self._half_spread + 0.5 * typical
                columns.append(price * (1.0 - half if channel == "bid" else 1.0 + half))
            else:
                columns.append(price * (1.0 + 0.5 * self.volatility * noise))
        return np.stack(columns, axis=2), (path[:, -1].copy(), volatility_state)
