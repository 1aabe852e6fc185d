"""Series of the kinds on which intervals go wrong, many at a time, and how often a persistence-only engine covers them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from making import START, batch

from streamrnn.records import F64, Bool
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import Engine

LEVELS = {3: (0.05, 0.5, 0.95), 7: (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)}


def noise(r: np.random.Generator, n: int, s: int) -> F64:
    return r.standard_normal((n, s))


def walk(r: np.random.Generator, n: int, s: int) -> F64:
    return np.cumsum(noise(r, n, s), axis=0)


def _until(n: int, at: int, before: F64 | float, after: F64) -> F64:
    made: F64 = np.where(np.arange(n)[:, None] < at, before, after)
    return made


# [n, s] each; from the middle on they are what they are.
REGIMES: dict[str, Callable[[np.random.Generator, int, int], F64]] = {
    "noise": noise,
    "walk": walk,
    "flat, then noise": lambda r, n, s: _until(n, n // 2, 7.0, 7.0 + noise(r, n, s)),
    "zeros, then 50 ± 20": lambda r, n, s: _until(n, n // 2, 0.0, 50.0 + 20.0 * noise(r, n, s)),
    "variance × 143": lambda r, n, s: np.cumsum(_until(n, n // 2, 1.0, 143**0.5 * np.ones((n, s))) * noise(r, n, s), 0),
    "variance / 143": lambda r, n, s: np.cumsum(_until(n, n // 2, 143**0.5, np.ones((n, s))) * noise(r, n, s), 0),
    "spikes": lambda r, n, s: walk(r, n, s) + (r.random((n, s)) < 0.005) * 1000.0,
    "80 % zeros": lambda r, n, s: (r.random((n, s)) < 0.2) * r.exponential(1.0, (n, s)),
    "price unchanged": lambda r, n, s: (
        100.0 + np.cumsum((r.random((n, s)) < 0.1) * r.choice([-0.01, 0.01], (n, s)), axis=0)
    ),
    "Poisson": lambda r, n, s: r.poisson(0.05, (n, s)).astype(float),
    "tenths": lambda r, n, s: 20.0 + np.round(0.2 * noise(r, n, s), 1),
}
# Where values are discrete, coverage is above the nominal: what persistence alone covers.
ABOVE = {"80 % zeros": 0.02, "Poisson": 0.05, "price unchanged": 0.03, "tenths": 0.03}
# The same without the rounding; the width of a Gaussian walk of the same variance, where there is no such thing.
CONTINUOUS: dict[str, Callable[[np.random.Generator, int, int], F64]] = {
    "price unchanged": lambda r, n, s: 100.0 + 0.1**0.5 * 0.01 * walk(r, n, s),
    "Poisson": lambda r, n, s: 0.05**0.5 * noise(r, n, s),
    "tenths": lambda r, n, s: 20.0 + 0.2 * noise(r, n, s),
}


def stream(horizon: int, levels: int, series: int) -> StreamSpec:
    return StreamSpec(
        channels=("a",), step_ms=1000, horizon=horizon, quantiles=LEVELS[levels], series_max=max(series, 16),
        idle_after_ms=1 << 60, future_max_ms=1 << 60,
    )  # fmt: skip


def run(engine: Engine, values: F64, begin: int = 0, size: int = 500) -> F64:
    """Feeds rows [n, s] of s series; the quantiles that were sent, [n, s, level, horizon]."""
    rows, series = values.shape
    names = [f"s{i}" for i in range(series)]
    sent = []
    for at in range(0, rows, size):
        part = values[at : at + size]
        ts = START + 1000 * np.repeat(np.arange(begin + at, begin + at + len(part)), series)
        outputs = engine.process(batch(names * len(part), ts, part.reshape(-1, 1)))
        shape = (len(part), series, *outputs.forecasts.quantiles.shape[2:])
        sent.append(outputs.forecasts.quantiles[:, 0].reshape(shape))
    return np.concatenate(sent)


def hits(values: F64, sent: F64, ahead: int) -> tuple[Bool, Bool, F64]:
    """By the row of the target: [n, s, level] whether it is at most the quantile sent `ahead` rows before, [n, s] whether it
    is inside the outer two, and how wide they are. False and NaN where nothing was sent."""
    hit: Bool = np.zeros((*values.shape, sent.shape[2]), dtype=np.bool_)
    inside: Bool = np.zeros(values.shape, dtype=np.bool_)
    width: F64 = np.full(values.shape, np.nan)
    quantiles, target = sent[:-ahead, :, :, ahead - 1], values[ahead:]
    hit[ahead:] = target[:, :, None] <= quantiles
    inside[ahead:] = (target >= quantiles[:, :, 0]) & hit[ahead:, :, -1]
    width[ahead:] = quantiles[:, :, -1] - quantiles[:, :, 0]
    return hit, inside, width
