"""rls and ewa: what they know, what they must not know, and that they outlive what data does to them."""

from __future__ import annotations

import numpy as np
import pytest

from streamrnn.backtest.baselines import registry
from streamrnn.backtest.baselines.base import Baseline
from streamrnn.backtest.baselines.ewa import DISCOUNT, SHARPNESS, Ewa
from streamrnn.backtest.baselines.naive import Persistence, Seasonal
from streamrnn.backtest.baselines.rls import GROWTH_MAX, Rls, _learn
from streamrnn.records import F64

SEASON = 24


def walked(model: Baseline, values: F64) -> F64:
    """The forecast made at every row. [row, channel, horizon]"""
    made = []
    for row in values:
        model.observe(row)
        made.append(model.forecast())
    return np.stack(made)


def daily(count: int, channels: int = 2, seed: int = 0) -> F64:
    """A daily cycle and AR(1) noise, of variance 1 in its innovations."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((count, channels))
    for t in range(1, count):
        noise[t] = 0.8 * noise[t - 1] + rng.normal(size=channels)
    phase = 2 * np.pi * np.arange(count)[:, None] / SEASON
    return 20.0 + 3.0 * np.sin(phase + np.arange(channels)) + noise


def error(made: F64, values: F64, horizon: int, rows: slice) -> float:
    """Mean square of the `horizon`-th step's error, origins in `rows`."""
    at = np.arange(len(values))[rows]
    at = at[at + horizon < len(values)]
    return float(np.nanmean((made[at, :, horizon - 1] - values[at + horizon]) ** 2))


@pytest.mark.parametrize("name", ["rls", "ewa"])
@pytest.mark.parametrize("horizon", [1, 5])
def test_later_rows_change_no_earlier_forecast(name: str, horizon: int) -> None:
    values = daily(420)
    values[np.random.default_rng(1).random(values.shape) < 0.1] = np.nan
    noisy = values.copy()
    noisy[300:] = np.random.default_rng(2).normal(0, 50, noisy[300:].shape)
    made, other = (walked(registry.make(name, 2, horizon, SEASON), each) for each in (values, noisy))  # type: ignore[arg-type]
    np.testing.assert_array_equal(made[:300], other[:300])
    assert not np.array_equal(made[300:], other[300:])


@pytest.mark.parametrize("name", ["rls", "ewa"])
def test_a_known_process_is_forecast_nearly_as_well_as_it_can_be(name: str) -> None:
    values = daily(3000)
    made = walked(registry.make(name, 2, 3, SEASON), values)  # type: ignore[arg-type]
    late = slice(1500, None)
    assert error(made, values, 1, late) < 1.1  # the innovation's variance is 1
    assert error(made, values, 3, late) < 1.12 * (1 + 0.8**2 + 0.8**4)


@pytest.mark.parametrize("factor", [1e-6, 1e7])
def test_the_unit_of_a_channel_does_not_matter(factor: float) -> None:
    values = daily(800)
    plain, other = (
        walked(Rls(2, 2, 12, season=SEASON), values),
        walked(Rls(2, 2, 12, season=SEASON), values * [1, factor]),
    )
    np.testing.assert_allclose(other[:, 0], plain[:, 0], rtol=1e-6)
    np.testing.assert_allclose(other[:, 1], plain[:, 1] * factor, rtol=1e-6)


def test_a_channel_that_begins_to_move_late_is_learnt_then() -> None:
    values = daily(1600) * 1e7
    values[:400, 0] = 0.0
    values[:500, 1] = 3e-9
    made = walked(registry.make("rls", 2, 1, SEASON), values)  # type: ignore[arg-type]
    late = slice(1000, None)
    assert error(made, values, 1, late) < 1.15 * 1e14
    assert np.isfinite(made).all()


def test_no_forecast_moves_farther_than_the_channel_ever_has() -> None:
    values = np.cumsum(np.random.default_rng(8).standard_t(1.5, (1500, 1)), axis=0)  # steps without a variance
    made = walked(Rls(1, 2, 24), values)
    for h in (1, 2):
        largest = np.maximum.accumulate(np.abs(values[h:, 0] - values[:-h, 0]))
        assert (np.abs(made[h:, 0, h - 1] - values[h:, 0]) <= largest * (1 + 1e-9)).all()


def test_what_another_channel_did_first_is_used() -> None:
    rng = np.random.default_rng(3)
    lead = np.cumsum(rng.normal(size=1500))
    values = np.stack([lead, np.concatenate([[0.0], lead[:-1]])], axis=1)  # the second follows a row later
    with_cross, without = (walked(Rls(2, 1, 8, cross=cross), values) for cross in (True, False))
    late = slice(500, None)
    second = values[:, 1:]
    assert error(with_cross[:, 1:], second, 1, late) < 1e-3
    assert error(without[:, 1:], second, 1, late) > 0.5


def test_a_change_is_learnt_again_because_the_past_is_forgotten() -> None:
    rng = np.random.default_rng(4)
    values = np.zeros((8000, 1))
    for t in range(1, 8000):
        values[t] = (0.9 if t < 4000 else -0.9) * values[t - 1] + rng.normal()
    late = slice(6000, None)
    forgetting, never = (walked(Rls(1, 1, 6, each), values) for each in (0.999, 1.0))
    # A level is no feature, only differences are: with these lags 1.2 is what can be had.
    assert error(forgetting, values, 1, late) < 1.3
    assert error(never, values, 1, late) > 1.8


def test_after_a_long_standstill_it_forecasts_as_well_as_before() -> None:
    values = daily(1200, 1)
    still = np.repeat(values[600:601], 40_000, axis=0)
    model = Rls(1, 1, 24, 0.999, season=SEASON)
    made = walked(model, np.concatenate([values[:600], still, values[600:]]))
    assert np.isfinite(made).all()
    assert (np.diagonal(model._p, axis1=1, axis2=2) <= 1.01 * GROWTH_MAX * model._start).all()
    assert error(made, np.concatenate([values[:600], still, values[600:]]), 1, slice(40_800, None)) < 1.5


def test_spikes_and_gaps_leave_finite_forecasts() -> None:
    values = daily(3000)
    rng = np.random.default_rng(5)
    values[rng.integers(300, 3000, 20), 0] = 1e12
    values[rng.random(values.shape) < 0.3] = np.nan
    for name in ("rls", "ewa"):
        assert np.isfinite(walked(registry.make(name, 2, 4, SEASON), values)).all()  # type: ignore[arg-type]


def test_a_regression_that_rounding_spoilt_begins_again() -> None:
    start = np.array([[1.0, 4.0]])
    for spoilt in ((np.inf, np.inf), (np.nan, np.nan), (-1.0, -1.0), (5.0, -0.01)):
        p, w = np.diag(spoilt)[None], np.ones((1, 2, 1))
        _learn(p, w, start, np.array([[2.0, 3.0]]), np.array([[1.0]]), 0.99)
        np.testing.assert_array_equal(p[0], np.diag(start[0]))
        np.testing.assert_array_equal(w, 0.0)


def test_ewa_is_its_formula_on_matured_errors() -> None:
    values = daily(120)
    values[50:54, 1] = np.nan
    horizon = 3
    experts = [walked(each, values) for each in (Persistence(2, horizon), Seasonal(2, horizon, 6))]
    made = walked(Ewa([Persistence(2, horizon), Seasonal(2, horizon, 6)], 2, horizon), values)
    loss = np.full((2, 2, horizon), 1e-9)
    for t in range(len(values)):
        for h in range(horizon):
            if t - h - 1 >= 0:
                for k, expert in enumerate(experts):
                    for c in range(2):
                        if not np.isnan(values[t, c]):
                            miss = values[t, c] - expert[t - h - 1, c, h]
                            loss[k, c, h] = DISCOUNT * loss[k, c, h] + miss**2
        weight = np.exp(-SHARPNESS * loss / loss.sum(axis=0))
        weight /= weight.sum(axis=0)
        np.testing.assert_allclose(made[t], weight[0] * experts[0][t] + weight[1] * experts[1][t], rtol=1e-9)


@pytest.mark.parametrize("name", ["ppc", "lebre", "fracast"])
def test_a_peer_that_is_not_installed_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr("streamrnn.backtest.baselines.peers.importlib.import_module", missing)
    package = {"ppc": "ppc-forecaster"}.get(name, name)
    with pytest.raises(ValueError, match=f"--baselines {name}: pip install {package}"):
        registry.make(name, 2, 1, SEASON)


@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("name", ["ppc", "lebre", "fracast"])
def test_a_peer_that_is_installed_forecasts_from_the_past_alone(name: str) -> None:
    pytest.importorskip({"ppc": "ppc.forecaster"}.get(name, name))
    values = daily(400)
    noisy = values.copy()
    noisy[300:] += 50.0
    made = []
    for each in (values, noisy):
        model = registry.make(name, 2, 1, SEASON)
        stamps = np.arange(len(each), dtype=np.int64) * 3_600_000_000
        made.append(model.forecasts(each, stamps) if hasattr(model, "forecasts") else walked(model, each))
    np.testing.assert_array_equal(made[0][:300], made[1][:300])
    at = np.flatnonzero(np.isfinite(made[0]).all(axis=(1, 2)))
    at = at[(at > 100) & (at < 399)]
    assert len(at) > 5
    assert error(made[0], values, 1, at) < 1.2 * error(values[:, :, None], values, 1, at)  # type: ignore[arg-type]


def test_an_unknown_baseline_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no baseline 'arima': there are persistence, .*fracast"):
        registry.make("arima", 1, 1, 24)
