"""Baselines by name."""

from __future__ import annotations

from streamrnn.backtest.baselines.base import Baseline, WholeBaseline
from streamrnn.backtest.baselines.ewa import Ewa
from streamrnn.backtest.baselines.naive import Persistence, Seasonal
from streamrnn.backtest.baselines.rls import Rls

BASELINES = ("persistence", "ewma94", "seasonal", "rls", "ewa", "holt-winters", "snarimax")
PEERS = ("ppc", "lebre", "fracast")

# Decay of the running mean of squared errors that gives a baseline its normal interval.
INTERVAL_DECAY = 0.97
RISKMETRICS_DECAY = 0.94  # of daily returns (RiskMetrics, 1996)

# Chosen on train and validation rows: ETTh1 0:12194, ETTm1 0:14400, ETTh2 0:3600, horizons 1 and 24.
LAGS, LAGS_LONG = 48, 96  # a season, where it lies between them
EWA_OF = ((24, 0.999), (48, 0.9995), (96, 0.9995), (192, 0.9998))  # lags, forgetting


def interval_decay(name: str) -> float:
    return RISKMETRICS_DECAY if name == "ewma94" else INTERVAL_DECAY


def make(name: str, channels: int, horizon: int, season: int) -> Baseline | WholeBaseline:
    """Raises ValueError naming the ones there are, or what a peer needs."""
    if name in ("persistence", "ewma94"):  # they differ in their interval
        return Persistence(channels, horizon)
    if name == "seasonal":
        return Seasonal(channels, horizon, season)
    if name == "rls":
        return Rls(channels, horizon, min(max(LAGS, season), LAGS_LONG), 0.9995, True, season)
    if name == "ewa":
        regressions = [Rls(channels, horizon, lags, forgetting, True, season) for lags, forgetting in EWA_OF]
        experts: list[Baseline] = [Persistence(channels, horizon), Seasonal(channels, horizon, season), *regressions]
        return Ewa(experts, channels, horizon)
    if name in ("holt-winters", "snarimax"):
        from streamrnn.backtest.baselines.river_models import RiverForecaster  # slow to import

        return RiverForecaster(name, channels, horizon, season)
    if name in PEERS:
        from streamrnn.backtest.baselines import peers  # of packages that need not be there

        if name == "ppc":
            return peers.Ppc(channels, horizon, season)
        return peers.Lebre(channels, horizon, season) if name == "lebre" else peers.Fracast(channels, horizon)
    raise ValueError(
        f"no baseline {name!r}: there are {', '.join(BASELINES)}, where they are installed {', '.join(PEERS)}, and "
        "path:FOLDER of a kept model"
    )
