"""Signals: the same however they are read, and with the properties they claim."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.book import Book, book_series
from simulators.prices import Prices
from simulators.registry import SIMULATORS, default_channels, make
from simulators.sensors import Sensors
from simulators.signal import BLOCK, STATES_MAX, Values, recurse


@pytest.mark.parametrize("kind", SIMULATORS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 200)), min_size=1, max_size=5))
def test_any_block_is_a_piece_of_the_whole(kind: str, cuts: list[tuple[int, int]]) -> None:
    whole = make(kind, 3, seed=5).block(0, 900)
    signal = make(kind, 3, seed=5)
    for first, n in cuts:
        assert np.array_equal(signal.block(first, n), whole[:, first : first + n])


@pytest.mark.parametrize("kind", SIMULATORS)
def test_the_seed_decides(kind: str) -> None:
    assert not np.array_equal(make(kind, 3, seed=1).block(0, 9), make(kind, 3, seed=2).block(0, 9))


@pytest.mark.parametrize("kind", SIMULATORS)
def test_a_block_belongs_to_its_reader(kind: str) -> None:
    signal = make(kind, 2)
    before = signal.block(3, 5).copy()
    signal.block(3, 5)[:] = 0.0
    assert np.array_equal(signal.block(3, 5), before)


def test_states_are_bounded_and_far_back_is_still_right() -> None:
    signal = Sensors(2)
    start = signal.block(0, 5)
    signal.block(BLOCK * (STATES_MAX + 20), 5)
    assert len(signal._states) <= STATES_MAX + 1
    assert np.array_equal(signal.block(0, 5), start)


@pytest.mark.parametrize("phi", [0.9, 0.97 * np.exp(0.3j)])
def test_recursion_by_doubling_is_the_recursion(phi: complex) -> None:
    noise = np.random.default_rng(0).standard_normal((2, 37)).astype(complex)
    state = np.array([1.0, -2.0 + 1.0j])
    got, last = recurse(noise, state, phi)
    for t in range(37):
        state = phi * state + noise[:, t]
        np.testing.assert_allclose(got[:, t], state, rtol=1e-12)
    assert np.array_equal(last, got[:, -1])


def test_kinds_by_name() -> None:
    assert make("sensors", 4).channels == default_channels("sensors") == ("temp", "flow", "pressure", "vibration")
    assert make("prices", 4, ["bid", "ask"]).channels == ("bid", "ask")
    assert len(set(make("book", 7).series)) == 7
    with pytest.raises(ValueError, match="sensors, prices, book"):
        make("weather", 1)
    with pytest.raises(ValueError, match="sensors, prices, book"):
        default_channels("weather")
    with pytest.raises(ValueError, match="step, scale"):
        make("book", 1, drift="sideways")


# ── sensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def error_ratio(x: Values, horizon: int, lags: int = 16, train: int = 4000) -> float:
    """MSE of the best linear AR(`lags`) over that of persistence, mean over series and channels; fit before `train`."""
    ratios = []
    for i, c in itertools.product(range(x.shape[0]), range(x.shape[2])):
        y = x[i, :, c]
        n = len(y) - lags - horizon + 1
        past = np.stack([y[lags - 1 - k : lags - 1 - k + n] for k in range(lags)], axis=1)
        features = np.hstack([past[:, 1:] - past[:, :1], np.ones((n, 1))])
        target = y[lags - 1 + horizon :][:n] - past[:, 0]
        weights = np.linalg.lstsq(features[:train], target[:train], rcond=None)[0]
        error = target[train:] - features[train:] @ weights
        ratios.append((error @ error) / (target[train:] @ target[train:]))
    return float(np.mean(ratios))


@pytest.fixture(scope="module")
def sensors() -> Values:
    return Sensors(6).block(0, 6000)


def test_a_linear_model_clearly_beats_persistence_on_sensors(sensors: Values) -> None:
    assert error_ratio(sensors, 1) < 0.85
    assert error_ratio(sensors, 6) < 0.85
    assert error_ratio(sensors, 12) < 0.75


def test_sensors_have_the_cycle_they_are_told() -> None:
    power = np.abs(np.fft.rfft(Sensors(4, cycle_steps=300.0).block(0, 6000), axis=1)[:, 1:]) ** 2
    assert (power.argmax(axis=1) + 1 == 6000 / 300).all()


def without_cycle(sensors: Values) -> Values:
    """What is left of [series, step, channel] when the day and the half day are taken out by regression."""
    t = np.arange(sensors.shape[1])[:, None] * (2.0 * np.pi / 600.0)
    waves = np.hstack([np.sin(t), np.cos(t), np.sin(2 * t), np.cos(2 * t), np.ones_like(t)])
    return np.stack([x - waves @ np.linalg.lstsq(waves, x, rcond=None)[0] for x in sensors])


def likeness(rest: Values) -> float:
    """Mean size of the correlation between two channels of a machine."""
    pairs = list(itertools.combinations(range(rest.shape[2]), 2))
    return float(np.mean([abs(np.corrcoef(x[:, a], x[:, b])[0, 1]) for x in rest for a, b in pairs]))


def test_channels_of_a_machine_share_causes_beyond_the_cycle(sensors: Values) -> None:
    rest = without_cycle(sensors)
    across = [abs(np.corrcoef(rest[i, :, 0], rest[j, :, 0])[0, 1]) for i, j in itertools.combinations(range(6), 2)]
    assert likeness(rest) > 0.25
    assert np.mean(across) < 0.1


def test_one_shared_cause_is_slow_and_the_other_swings(sensors: Values) -> None:
    """A mean over one swing leaves the load; what one over ten steps leaves beside that is mostly the swing."""
    rest = without_cycle(sensors)

    def smooth(steps: int) -> Values:
        total = np.cumsum(rest, axis=1)
        return (total[:, steps:] - total[:, :-steps]) / steps

    assert likeness(smooth(32)) > 0.5
    swing = smooth(8)[:, 12:-12] - smooth(32)
    power = (np.abs(np.fft.rfft(swing, axis=1)) ** 2).sum(axis=(0, 2))
    assert rest.shape[1] / 40 < power.argmax() < rest.shape[1] / 25


def test_series_differ_in_level_and_scale(sensors: Values) -> None:
    assert len(np.unique(sensors.mean(axis=1).round(3))) == 24
    spread = sensors.std(axis=1)
    assert spread.max() / spread.min() > 3


# ── prices ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_returns_cannot_be_told_but_their_size_can() -> None:
    returns = np.diff(np.log(Prices(6, ("price",), jumps=0.0).block(0, 8000)[..., 0]), axis=1)
    size = np.abs(returns)
    of_returns = [np.corrcoef(r[:-1], r[1:])[0, 1] for r in returns]
    of_size = [np.corrcoef(s[:-5], s[5:])[0, 1] for s in size]
    assert abs(np.mean(of_returns)) < 0.05
    assert np.mean(of_size) > 0.1


def test_jumps_come_at_their_rate() -> None:
    """Beside the same walk without jumps: the generator draws the same for both."""
    calm, jumpy = (np.log(Prices(4, ("price",), jumps=j).block(0, 8000)[..., 0]) for j in (0.0, 0.01))
    extra = np.abs(np.diff(jumpy - calm, axis=1)) > 1e-9
    assert 0.008 < extra.mean() < 0.012


def test_instruments_share_a_market() -> None:
    returns = np.diff(np.log(Prices(5, ("price",)).block(0, 4000)[..., 0]), axis=1)
    matrix = np.corrcoef(returns)
    assert matrix[np.triu_indices(5, 1)].min() > 0.1


def test_bid_price_ask_stand_in_order_and_volume_is_a_count() -> None:
    bid, price, ask, volume = np.moveaxis(Prices(3, ("bid", "price", "ask", "volume")).block(0, 500), 2, 0)
    assert (bid < price).all()
    assert (price < ask).all()
    assert (volume == np.rint(volume)).all()
    assert (volume >= 0).all()


# ── the book ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_book_series_is_the_books_generator() -> None:
    np.random.seed(42)
    f1, f2, o1, o2 = np.random.rand(4, 10, 1)
    t = np.linspace(0, 1, 51)
    want = 0.5 * np.sin((t - o1) * (10 * f1 + 10)) + 0.2 * np.sin((t - o2) * (20 * f2 + 20))
    want = want + 0.1 * (np.random.rand(10, 51) - 0.5)
    got = book_series(10, 51)
    assert got.dtype == np.float32
    assert got.shape == (10, 51, 1)
    assert np.array_equal(got[..., 0], want.astype(np.float32))


def test_naive_error_of_the_book_is_the_published_one() -> None:
    series = book_series(10_000, 51)[7000:9000]
    assert np.mean((series[:, -1] - series[:, -2]) ** 2) == pytest.approx(0.0202, abs=5e-5)


def test_book_stream_is_two_sines_and_bounded_noise() -> None:
    book = Book(2)
    t = (np.arange(300) / 50.0)[:, None]
    clean = 0.5 * np.sin((t - book._o1) * book._w1) + 0.2 * np.sin((t - book._o2) * book._w2)
    rest = book.block(0, 300) - clean
    assert np.abs(rest).max() <= 0.05
    assert rest.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.1)
