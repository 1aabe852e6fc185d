"""Baselines by name."""

from __future__ import annotations

from streamrnn.baselines.base import Baseline
from streamrnn.baselines.ewa import Ewa
from streamrnn.baselines.naive import Persistence, Seasonal
from streamrnn.baselines.rls import Rls

BASELINES = ("persistence", "ewma94", "seasonal", "rls", "ewa", "holt-winters", "snarimax")

# Decay of the running mean of squared errors that gives a baseline its normal interval.
INTERVAL_DECAY = 0.97
RISKMETRICS_DECAY = 0.94  # of daily returns (RiskMetrics, 1996)


def interval_decay(name: str) -> float:
    return RISKMETRICS_DECAY if name == "ewma94" else INTERVAL_DECAY


def make(name: str, channels: int, horizon: int, season: int) -> Baseline:
    """Raises ValueError naming the ones there are."""
    if name in ("persistence", "ewma94"):  # they differ in their interval
        return Persistence(channels, horizon)
    if name == "seasonal":
        return Seasonal(channels, horizon, season)
    if name == "rls":
        return Rls(channels, horizon)
    if name == "ewa":
        experts: list[Baseline] = [
            Persistence(channels, horizon),
            Seasonal(channels, horizon, season),
            Rls(channels, horizon, 24, 0.9995),
            Rls(channels, horizon, 48, 1.0),
            Rls(channels, horizon, 96, 1.0),
        ]
        return Ewa(experts, channels, horizon)
    if name in ("holt-winters", "snarimax"):
        from streamrnn.baselines.river_models import RiverForecaster  # slow to import

        return RiverForecaster(name, channels, horizon, season)
    raise ValueError(f"no baseline {name!r}: there are {', '.join(BASELINES)}")
