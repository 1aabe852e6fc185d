"""Baselines by name."""

from __future__ import annotations

from streamrnn.baselines.base import Baseline
from streamrnn.baselines.ewa import Ewa
from streamrnn.baselines.naive import Persistence, Seasonal
from streamrnn.baselines.rls import Rls

BASELINES = ("persistence", "seasonal", "rls", "ewa", "holt-winters", "snarimax")


def make(name: str, channels: int, horizon: int, season: int) -> Baseline:
    """Raises ValueError naming the ones there are."""
    if name == "persistence":
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
