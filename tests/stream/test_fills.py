"""Fills stay on the ground: whatever is missing, and however the channels hang together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import START, batch, spec

from streamrnn.records import F64, ImputationBatch
from streamrnn.stream.engine import Engine

KINDS = ("walk", "scaled", "sum", "same", "noise", "constant", "dead", "never")


def channels_of(kinds: list[str], rows: int, rng: np.random.Generator) -> F64:
    """Correlated, collinear, constant, dead and never seen channels."""
    common = np.cumsum(rng.standard_normal(rows))
    made: dict[str, F64] = {
        "walk": common + 0.3 * np.cumsum(rng.standard_normal(rows)),
        "scaled": 1e6 + 1e3 * common,
        "same": common,
        "noise": 1e-6 * rng.standard_normal(rows),
        "constant": np.full(rows, 40.1),
        "dead": np.where(np.arange(rows) < rows // 3, common, 5.0),
        "never": np.full(rows, np.nan),
    }
    made["sum"] = made["walk"] + made["same"]
    return np.stack([made[kind] for kind in kinds], axis=1)


def fed(engine: Engine, values: F64) -> ImputationBatch:
    rows = len(values)
    return engine.process(batch(["x"] * rows, START + 1000 * np.arange(rows), values)).imputations


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(KINDS), min_size=2, max_size=6),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.sampled_from([1, 5]),
)
def test_a_fill_is_no_further_than_the_channel_has_been(
    kinds: list[str], share: float, run: int, seed: int, horizon: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = 400
    values = channels_of(kinds, rows, rng)
    hidden = np.repeat(rng.random((rows // run + 1, len(kinds))) < share, run, axis=0)[:rows]
    values[hidden] = np.nan
    engine = Engine(spec(channels=tuple(f"c{i}" for i in range(len(kinds))), horizon=horizon))
    fills = fed(engine, values)
    seen_low = np.fmin.accumulate(values, axis=0)
    seen_high = np.fmax.accumulate(values, axis=0)
    moved = largest_moves(values)
    assert len(fills) == (np.isnan(values) & ~np.isnan(seen_low)).any(axis=1).sum()
    for i in range(len(fills)):
        at = fills.tick[i]
        missing = np.isnan(values[at]) & ~np.isnan(seen_low[at])
        assert (fills.filled[i] == missing).all()
        value, lower, upper = (part[i][missing] for part in (fills.values, fills.lower, fills.upper))
        rounding = 1e-6 * (np.abs(seen_low[at]) + np.abs(seen_high[at]))[missing]
        further = rounding + 4 * moved[at][missing]  # a counter goes beyond what it has shown
        assert (value >= seen_low[at][missing] - further).all()
        assert (value <= seen_high[at][missing] + further).all()
        assert (lower <= value).all() and (value <= upper).all() and np.isfinite(upper - lower).all()
    covariance = engine.table.columns["covariance"][engine.table.find(0, "x")].astype(np.float64)
    assert np.array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-5


def largest_moves(values: F64) -> F64:
    """The largest move of each channel so far, from one of its observations to the next. [row, channel]"""
    moves = np.zeros(values.shape)
    for c in range(values.shape[1]):
        rows = np.flatnonzero(~np.isnan(values[:, c]))
        moves[rows[1:], c] = np.abs(np.diff(values[rows, c]))
    largest: F64 = np.maximum.accumulate(moves, axis=0)
    return largest


def test_meters_that_only_rise_are_filled_beyond_what_they_have_shown() -> None:
    rng = np.random.default_rng(3)
    common = rng.poisson(10.0, (3000, 1))
    values = np.cumsum(common + rng.poisson(0.5, (3000, 4)), axis=0).astype(np.float64)
    truth = values.copy()
    values[rng.random(values.shape) < 0.1] = np.nan
    fills = fed(Engine(spec(channels=tuple("abcd"))), values)
    late = fills.tick > 500
    which = fills.filled[late]
    right = truth[fills.tick[late]][which]
    missed = fills.values[late][which] - right
    last = np.array(
        [
            values[:t, c][~np.isnan(values[:t, c])][-1]
            for t, c in zip(*np.nonzero(np.isnan(values)), strict=True)
            if t > 500
        ]
    )
    assert np.sqrt(np.mean(missed**2)) < 0.3 * np.sqrt(np.mean((last - right) ** 2))
    inside = (fills.lower[late][which] <= right) & (right <= fills.upper[late][which])
    assert inside.mean() > 0.6


@pytest.mark.parametrize("code", [0.0, -200.0])
@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e6])
def test_an_end_that_a_channel_has_been_at_before_is_its_end(code: float, factor: float) -> None:
    """No rain is below 0, and no value below a sensor's code for none; the fills between are not flattened for it."""
    rng = np.random.default_rng(1)
    common = np.cumsum(rng.standard_normal((600, 1)), axis=0)
    values = 20.0 + np.abs(common + rng.standard_normal((600, 3)))
    values[np.repeat(rng.random((120, 3)) < 0.3, 5, axis=0)] = code
    values *= factor
    shown = np.where(rng.random(values.shape) < 0.3, np.nan, values)
    fills = fed(Engine(spec(channels=("a", "b", "c"))), shown)
    missing = np.isnan(shown[fills.tick])
    late = missing & (np.cumsum(shown == code * factor, axis=0) > 1)[fills.tick]
    assert late.sum() > 400
    assert (fills.values[late] >= code * factor * (1.0 + 1e-6 * np.sign(-code))).all()
    assert np.ptp(fills.values[late]) > 10.0 * factor


def test_a_covariance_that_is_none_is_mended() -> None:
    """As the version left it that updated it pair by pair."""
    rng = np.random.default_rng(1)
    values = channels_of(["walk", "same", "sum", "noise"], 600, rng)
    hidden = rng.random(values.shape) < 0.3
    values[hidden] = np.nan
    engine = Engine(spec(channels=("a", "b", "c", "d")))
    fed(engine, values[:300])
    row = engine.table.find(0, "x")
    bad = np.array([[1, 2, -2, 0], [2, 1, 2, 0], [-2, 2, 1, 0], [0, 0, 0, -3.0]])
    assert np.linalg.eigvalsh(bad).min() < -2
    engine.table.columns["covariance"][row] = bad
    rest = values[300:]
    fills = engine.process(batch(["x"] * 300, START + 1000 * np.arange(300, 600), rest)).imputations
    reach = np.nanmax(np.abs(np.diff(values, axis=0)), axis=0) * 8
    last = values.copy()
    for t in range(1, 600):
        last[t] = np.where(np.isnan(last[t]), last[t - 1], last[t])
    assert len(fills) > 200
    for i in range(len(fills)):
        which = fills.filled[i]
        assert (np.abs(fills.values[i] - last[300 + fills.tick[i]])[which] <= reach[which]).all()
    now = engine.table.columns["covariance"][row].astype(np.float64)
    assert np.linalg.eigvalsh(now).min() > -1e-5


def test_a_matrix_that_is_mended_is_a_covariance_at_once() -> None:
    """Not only by and by, as what is no covariance in it is forgotten."""
    rng = np.random.default_rng(1)
    values = channels_of(["walk", "same", "sum", "noise"], 300, rng)
    engine = Engine(spec(channels=("a", "b", "c", "d")))
    fed(engine, values)
    row = engine.table.find(0, "x")
    engine.table.columns["covariance"][row] = [[1, 2, -2, 0], [2, 1, 2, 0], [-2, 2, 1, 0], [0, 0, 0, -3.0]]
    one = values[-1:].copy()
    one[0, 1] = np.nan
    engine.process(batch(["x"], np.array([START + 300_000]), one))
    now = engine.table.columns["covariance"][row].astype(np.float64)
    assert np.linalg.eigvalsh(now).min() > -1e-2  # the ridge that is added where it is used


@pytest.mark.parametrize(("share", "run"), [(0.1, 1), (0.5, 1), (0.6, 12)])
def test_the_intervals_of_fills_cover_what_they_say(share: float, run: int) -> None:
    rng = np.random.default_rng(2)
    rows = 6000
    common = np.cumsum(rng.standard_normal(rows))
    true = np.stack([common + np.cumsum(s * rng.standard_normal(rows)) for s in (0.2, 0.5, 1.0, 2.0)], axis=1)
    hidden = np.repeat(rng.random((rows // run + 1, 4)) < share, run, axis=0)[:rows]
    fills = fed(Engine(spec(channels=("a", "b", "c", "d"), horizon=6)), np.where(hidden, np.nan, true))
    inside, error, carried = [], [], []
    last = np.where(hidden, np.nan, true)
    for t in range(1, rows):
        last[t] = np.where(np.isnan(last[t]), last[t - 1], last[t])
    for i in np.flatnonzero(fills.tick > 500):
        at, c = fills.tick[i], fills.filled[i]
        inside += list((true[at, c] >= fills.lower[i, c]) & (true[at, c] <= fills.upper[i, c]))
        error += list(np.abs(true[at, c] - fills.values[i, c]))
        carried += list(np.abs(true[at, c] - last[at, c]))
    assert 0.88 < np.mean(inside) < 0.93
    assert np.mean(error) < 0.9 * np.mean(carried)  # the other channels have their say, all through a gap


@pytest.mark.parametrize("persistence", [0.98, -0.5])
def test_fills_are_as_wide_as_gaps_of_the_channel_need(persistence: float) -> None:
    """Whether its moves go on (then a gap's end is further than a walk's) or come back (then it is nearer)."""
    rng = np.random.default_rng(5)
    rows = 8000
    moves = np.zeros(rows)
    for t in range(1, rows):
        moves[t] = persistence * moves[t - 1] + rng.standard_normal()
    true = np.cumsum(moves) if persistence > 0 else moves
    hidden = np.repeat(rng.random(rows // 10) < 0.3, 10)
    fills = fed(Engine(spec(channels=("a",), horizon=1)), np.where(hidden, np.nan, true)[:, None])
    late = fills.tick > rows // 2
    right = true[fills.tick[late]]
    inside = (fills.lower[late, 0] <= right) & (right <= fills.upper[late, 0])
    assert 0.85 < inside.mean() < 0.95


def test_fills_cover_where_most_channels_are_missing_at_once() -> None:
    """When they come back together they explain each other; within the gap nobody does."""
    rng = np.random.default_rng(6)
    rows, channels = 6000, 5
    true = np.zeros((rows, channels))
    for t in range(1, rows):
        true[t] = 0.95 * true[t - 1] + rng.standard_normal() + 0.1 * rng.standard_normal(channels)
    true[:, 4] = rng.standard_normal(rows)  # always there, and says nothing of the others
    values = true.copy()
    for begin in range(200, rows - 20, 20):
        if rng.random() < 0.5:
            values[begin : begin + 8, :4] = np.nan
    fills = fed(Engine(spec(channels=tuple("abcde"), horizon=1)), values)
    late = fills.tick > rows // 2
    right = true[fills.tick[late], :4]
    inside = (fills.lower[late, :4] <= right) & (right <= fills.upper[late, :4])
    assert 0.86 < inside.mean() < 0.94


def test_a_covariance_stays_one_where_a_channel_has_shown_no_error_yet() -> None:
    rng = np.random.default_rng(0)
    values = channels_of(["sum", "walk"], 400, rng)
    values[rng.random((401, 2))[:400] < 0.1] = np.nan
    engine = Engine(spec(channels=("a", "b"), horizon=1))
    for row in range(20):
        engine.process(batch(["x"], np.array([START + 1000 * row]), values[row : row + 1]))
        held = engine.table.columns["covariance"][engine.table.find(0, "x")].astype(np.float64)
        assert np.linalg.eigvalsh(held).min() > -1e-4


@pytest.mark.parametrize("every", [False, True])
def test_a_record_leaves_only_where_something_was_filled(every: bool) -> None:
    """A channel that never comes has nothing to be filled from; the complete series is sent where it is asked for."""
    rng = np.random.default_rng(3)
    values = np.cumsum(rng.standard_normal((50, 3)), axis=0)
    values[:, 1] = np.nan
    values[20, 2] = np.nan
    fills = fed(Engine(spec(channels=("a", "b", "c"), impute_all=every)), values)
    assert fills.tick.tolist() == (list(range(50)) if every else [20])
    assert fills.filled.sum() == 1
