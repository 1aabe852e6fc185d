"""Scores of distributions given by quantiles, against closed forms and plain integrals."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.backtest.intervals import (
    SIGMA_MIN,
    crps,
    interval_score,
    nll,
    normal_scores,
    rolling_coverage,
)
from streamrnn.records import F64

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NORMAL = NormalDist()


def normal_crps(mean: float, sigma: float, value: float) -> float:
    """Closed form of the normal distribution (Gneiting et al. 2005)."""
    z = (value - mean) / sigma
    return sigma * (z * (2 * NORMAL.cdf(z) - 1) + 2 * NORMAL.pdf(z) - 1 / np.sqrt(np.pi))


@given(
    st.floats(-5, 5), st.floats(0.01, 10), st.floats(-30, 30), st.sampled_from([LEVELS, (0.05, 0.5, 0.95), (0.2, 0.9)])
)
def test_of_normal_quantiles_the_crps_is_the_normal_one(
    mean: float, sigma: float, value: float, levels: tuple[float, ...]
) -> None:
    quantiles = mean + sigma * normal_scores(levels)
    assert crps(quantiles[None], levels, np.array([value]))[0] == pytest.approx(
        normal_crps(mean, sigma, value), rel=1e-6, abs=1e-9
    )


def integral(quantiles: F64, value: float) -> float:
    """Twice the mean pinball loss over a fine grid of levels: the same integral, by another way."""
    share = (np.arange(200_000) + 0.5) / 200_000
    z = np.array([NORMAL.inv_cdf(p) for p in (*LEVELS,)])
    score = np.array([NORMAL.inv_cdf(p) for p in share])
    at = np.interp(score, z, quantiles)
    low, high = score < z[0], score > z[-1]
    at[low] = quantiles[0] + (score[low] - z[0]) * (quantiles[1] - quantiles[0]) / (z[1] - z[0])
    at[high] = quantiles[-1] + (score[high] - z[-1]) * (quantiles[-1] - quantiles[-2]) / (z[-1] - z[-2])
    gap = value - at
    return float(2 * np.maximum(share * gap, (share - 1) * gap).mean())


@pytest.mark.parametrize("seed", range(3))
def test_of_any_quantiles_the_crps_is_the_integral_of_the_pinball_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.standard_t(3, len(LEVELS)))
    quantiles[3] = quantiles[2]  # an atom
    for value in (-6.0, float(quantiles[2]), 0.3, 7.0):
        assert crps(quantiles[None], LEVELS, np.array([value]))[0] == pytest.approx(
            integral(quantiles, value), abs=2e-3
        )


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=7, max_size=7),
    st.floats(-1e3, 1e3),
    st.floats(-100, 100),
    st.floats(0.01, 100),
)
def test_the_crps_has_the_unit_of_the_values_and_knows_no_origin(
    drawn: list[float], value: float, shift: float, factor: float
) -> None:
    quantiles, at = np.sort(drawn)[None], np.array([value])
    score = crps(quantiles, LEVELS, at)[0]
    assert score >= -1e-9
    moved = crps((quantiles + shift) * factor, LEVELS, (at + shift) * factor)[0]
    assert moved == pytest.approx(factor * score, rel=1e-6, abs=1e-5 * factor)


def test_of_a_point_the_crps_is_the_distance() -> None:
    point = np.full((1, len(LEVELS)), 2.0)
    for value in (-1.0, 2.0, 5.5):
        assert crps(point, LEVELS, np.array([value]))[0] == pytest.approx(abs(value - 2.0), abs=1e-6)


def test_the_nll_is_that_of_the_normal_density_and_its_width_has_a_floor() -> None:
    low, high = (np.array([1.0 + 2.0 * NORMAL.inv_cdf(p)]) for p in (0.05, 0.95))
    value, mean = np.array([2.5]), np.array([1.0])
    assert nll(mean, low, high, (0.05, 0.95), value)[0] == pytest.approx(-np.log(NormalDist(1.0, 2.0).pdf(2.5)))
    assert nll(mean, mean, mean, (0.05, 0.95), mean)[0] == pytest.approx(-np.log(NormalDist(0, SIGMA_MIN).pdf(0)))


@given(st.floats(-3, 0), st.floats(0, 3), st.floats(-9, 9))
def test_winklers_score_is_the_pinball_losses_of_both_ends(low: float, high: float, value: float) -> None:
    def pinball(level: float, quantile: float) -> float:
        return max(level * (value - quantile), (level - 1) * (value - quantile))

    both = (pinball(0.05, low) + pinball(0.95, high)) / 0.05
    found = interval_score(np.array([low]), np.array([high]), (0.05, 0.95), np.array([value]))[0]
    assert found == pytest.approx(both, abs=1e-9)


def test_rolling_coverage_does_not_run_from_one_series_into_the_next() -> None:
    inside = np.array([True] * 6 + [False] * 5)
    series = np.array([0] * 6 + [1] * 5)
    assert rolling_coverage(inside, series, 4).tolist() == [1.0] * 3 + [0.0] * 2
    assert rolling_coverage(inside, series, 7).tolist() == []
