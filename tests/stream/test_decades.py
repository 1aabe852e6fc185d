"""Instruments that span decades: what was learnt from large moves does not rule over small ones, and growth meets no ceiling."""

from __future__ import annotations

import numpy as np
import pytest

from streamrnn import OnlineForecaster
from streamrnn.records import F64


def forecasts(x: F64) -> tuple[F64, F64]:
    """(whether each value was inside the one-step interval, its error in errors of no change), from the second value on."""
    forecaster = OnlineForecaster(channels=["lux"], step="1m", horizon=2, train="off")
    inside, error = [], []
    for at, value in enumerate(x.tolist()):
        if at:
            said = forecaster.forecast()
            low, *_, high = (float(quantile[0, 0]) for quantile in said.quantiles.values())
            inside.append(low <= value <= high)
            error.append(abs(float(said.mean[0, 0]) - value))
        forecaster.learn_one({"lux": value})
    naive = np.abs(np.diff(x))
    return np.array(inside, dtype=np.float64), np.array(error) / max(float(naive[-200:].mean()), 1e-300)


@pytest.mark.parametrize("decades", [3, 5, 7])
def test_night_after_a_day_of_light(decades: int) -> None:
    rng = np.random.default_rng(decades)
    day = 1e5 * np.exp(np.cumsum(0.03 * rng.normal(size=500)))
    dusk = day[-1] * 10 ** -np.linspace(0.0, decades, 60)
    night = dusk[-1] * (1.0 + 0.05 * rng.normal(size=400))
    inside, error = forecasts(np.concatenate([day, dusk * (1.0 + 0.02 * rng.normal(size=60)), night]))
    assert inside[-200:].mean() >= 0.8
    assert error[-200:].mean() < 2.0


@pytest.mark.parametrize("growth", [1.03, 1.05])
def test_growth_by_some_percent_a_step_has_no_ceiling(growth: float) -> None:
    rng = np.random.default_rng(1)
    inside, _ = forecasts(np.exp(np.log(growth) * np.arange(700) + 0.01 * rng.normal(size=700)))
    worst = min(inside[begin : begin + 50].mean() for begin in range(100, 600, 10))
    assert worst >= 0.6
