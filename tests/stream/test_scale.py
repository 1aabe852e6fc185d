"""The scale of a channel is set by what it shows: by its first moves, and in any unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import START, batch, network, spec
from regimes import hits, noise, run, stream

from streamrnn.records import F64, Outputs
from streamrnn.stream.engine import Engine


@pytest.mark.parametrize("horizon", [1, 12])
@pytest.mark.parametrize("still", [5, 30, 300, 4000])
@pytest.mark.parametrize(("level", "moved_before"), [(0.0, False), (40.0, False), (0.0, True), (40.0, True)])
def test_the_first_moves_after_a_standstill_set_the_scale(
    level: float, moved_before: bool, still: int, horizon: int
) -> None:
    """A valve, rain, a solar plant at night."""
    rng = np.random.default_rng(1)
    awake = 50.0 + 20.0 * noise(rng, 250 if moved_before else 0, 20)
    values = np.concatenate([awake, np.full((still, 20), level), 50.0 + 20.0 * noise(rng, 120, 20)])
    _, inside, width = hits(values, run(Engine(stream(horizon, 3, 20)), values), horizon)
    woke = len(values) - 120 + (horizon if horizon > 1 else 0)
    # Made before it woke: nothing could know. A level that the moves avoid is known only of the first kind.
    least = 0.8 if horizon == 1 or not moved_before else 0.7
    assert inside[woke : woke + 50].mean() >= least
    assert width[woke + 1 : woke + 50].mean() < 4 * 3.3 * 20 * np.sqrt(2 * horizon)


def test_a_quiet_sensor_that_begins_to_move_is_no_spike() -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([40.0 + 1e-4 * noise(rng, 2000, 20), 50.0 + 20.0 * noise(rng, 100, 20)])
    _, inside, _ = hits(values, run(Engine(stream(1, 3, 20)), values), 1)
    assert inside[2001:2051].mean() >= 0.75
    assert inside[2051:].mean() >= 0.85


def test_a_spike_leaves_the_scale_as_it_is() -> None:
    rng = np.random.default_rng(3)
    calm = noise(rng, 1000, 1)
    spiky = calm.copy()
    spiky[600] += 1e6
    scales = []
    for values in (calm, spiky):
        engine = Engine(stream(1, 3, 1))
        run(engine, values[:650])
        scales.append(float(engine.table.columns["move_scale"][0, 0]))
    assert scales[1] < 1.5 * scales[0]


def test_a_channel_that_has_shown_nothing_but_zeros_is_forecast_as_zero() -> None:
    sent = run(Engine(stream(3, 3, 1)), np.zeros((50, 1)))
    assert (sent == 0.0).all()


# ── any unit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def shown(rng: np.random.Generator) -> F64:
    """A walk, a channel that stands still twice, one of few values, one that jumps; some missing."""
    rows = 500
    values = np.cumsum(rng.standard_normal((rows, 4)), axis=0) + 3.0
    values[:100, 1] = 0.0
    values[250:350, 1] = values[249, 1]
    values[:, 2] = rng.poisson(0.3, rows)
    values[300:, 3] *= 1000.0
    values[rng.random(values.shape) < 0.1] = np.nan
    return values


def outputs(values: F64, served: bool) -> Outputs:
    stated = spec(channels=("a", "b", "c", "d"), horizon=3)
    engine = Engine(stated)
    if served:
        engine.load(network(stated), "weights")
    return engine.process(batch(["x"] * len(values), START + 1000 * np.arange(len(values)), values))


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 1000), st.lists(st.integers(-50, 66), min_size=4, max_size=4), st.booleans())
def test_a_channel_in_another_unit_gives_the_same_numbers_in_that_unit(
    seed: int, powers: list[int], served: bool
) -> None:
    """Bit for bit where the factor is a power of two, 1e-15 to 7e19."""
    values = shown(np.random.default_rng(seed))
    factor = 2.0 ** np.array(powers)
    plain, other = outputs(values, served), outputs(values * factor, served)
    assert np.array_equal(plain.forecasts.mean * factor[:, None], other.forecasts.mean, equal_nan=True)
    quantiles = plain.forecasts.quantiles * factor[:, None, None]
    assert np.array_equal(quantiles, other.forecasts.quantiles, equal_nan=True)
    for name in ("values", "lower", "upper"):
        once, again = getattr(plain.imputations, name), getattr(other.imputations, name)
        assert np.array_equal(once * factor, again, equal_nan=True)


@pytest.mark.parametrize("factor", [1e-16, 3e-14, 1e9, 1e20])
def test_picofarad_wei_and_degrees_alike(factor: float) -> None:
    """To the 8 bits that an interval's half width is kept in; a hit at the very edge may fall either way."""
    values = shown(np.random.default_rng(9))
    plain, other = outputs(values, True).forecasts, outputs(values * factor, True).forecasts
    some = ~np.isnan(plain.mean)
    wide, wide_other = np.ptp(plain.quantiles, axis=2), np.ptp(other.quantiles, axis=2) / factor
    near = np.abs(other.mean / factor - plain.mean)[some] <= (0.05 * wide + 1e-6 * np.abs(plain.mean))[some]
    assert near.mean() > 0.999  # what is believed may be so by a hair
    assert np.median((np.abs(wide_other - wide) / np.maximum(wide, 1e-9))[some]) < 0.01
    assert np.isfinite(np.moveaxis(other.quantiles, 2, -1)[some]).all()


def test_a_capacity_of_thirty_femtofarad_has_an_interval_of_its_noise() -> None:
    values = 3e-14 + 1e-16 * noise(np.random.default_rng(4), 3000, 8)
    _, inside, width = hits(values, run(Engine(stream(1, 3, 8)), values), 1)
    assert abs(inside[500:].mean() - 0.9) < 0.01
    assert width[500:].mean() == pytest.approx(3.29 * 2**0.5 * 1e-16, rel=0.1)
