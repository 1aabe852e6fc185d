"""The engine's promises: state carries, batches do not matter, nothing leaks, what is refused moves nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import KINDS, NETWORKS, START, batch, cut, feed, network, own, said, spec, states, walk

from streamrnn.kernels import forecast
from streamrnn.kernels.columns import ladder_of, rungs_of
from streamrnn.records import KIND_GAP, KIND_IDLE, KIND_TICK
from streamrnn.season import Season
from streamrnn.spec import EXPERTS
from streamrnn.stream.engine import NO_MODEL, Engine


def engine(stream: Any, **shape: Any) -> Engine:
    made = Engine(stream)
    made.load(network(stream, **shape), "weights")
    return made


@pytest.mark.parametrize("shape", NETWORKS, ids=str)
def test_record_by_record_and_in_batches_give_the_same_bits(shape: dict[str, Any]) -> None:
    stream = spec()
    ticks = walk(360, ["x", "y", "z"])
    one, many = engine(stream, **shape), engine(stream, **shape)
    edges = np.random.default_rng(3).integers(0, len(ticks), 12).tolist()
    assert feed(one, ticks, list(range(len(ticks)))) == feed(many, ticks, edges)
    assert states(one) == states(many)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.lists(st.integers(1, 250), max_size=6), st.booleans(), st.sampled_from(list(KINDS)))
def test_any_cut_of_any_walk_gives_the_same_bits(seed: int, edges: list[int], served: bool, kind: str) -> None:
    stream = spec(**KINDS[kind])
    ticks = walk(250, ["x", "y"], seed=seed)
    whole, pieces = Engine(stream), Engine(stream)
    if served:
        for made in (whole, pieces):
            made.load(network(stream), "weights")
    assert feed(whole, ticks) == feed(pieces, ticks, [edge for edge in edges if edge < len(ticks)])
    assert states(whole) == states(pieces)


@pytest.mark.parametrize("shape", NETWORKS, ids=str)
def test_a_series_does_not_feel_who_shares_its_batch(shape: dict[str, Any]) -> None:
    stream = spec()
    crowd = walk(540, [f"s{i}" for i in range(9)])
    alone_rows = [i for i, name in enumerate(crowd.series) if name == "s4"]
    alone = batch(
        ["s4"] * len(alone_rows), crowd.ts_us[alone_rows] // 1000, crowd.values[alone_rows], crowd.partition[alone_rows]
    )
    lonely, crowded = engine(stream, **shape), engine(stream, **shape)
    feed(lonely, alone)
    feed(crowded, crowd, [100, 350])
    assert own(states(lonely)[0, "s4"]) == own(states(crowded)[0, "s4"])


def watched(stream: Any, **shape: Any) -> tuple[Engine, list[Any]]:
    """An engine that notes what its network is shown, [frame, channel, input] a stretch."""
    made, shown = Engine(stream, record=True), []
    made.load(network(stream, **shape), "weights")
    advance = made._advance
    made._advance = lambda *given: (advance(*given), shown.append(made.recorded.seen.copy()))[0]  # type: ignore[method-assign]
    return made, shown


@pytest.mark.parametrize("shape", NETWORKS, ids=str)
def test_the_carried_state_is_that_of_one_full_pass(shape: dict[str, Any]) -> None:
    stream = spec(horizon=6)
    served, shown = watched(stream, **shape)
    feed(served, walk(300, ["x"]), [50, 51, 200])
    frames, net = torch.from_numpy(np.concatenate(shown)), network(stream, **shape)
    with torch.inference_mode():
        _, state = net(frames, net.zero_state(3))
    row = served.table.find(0, "x")
    assert len(frames) > 200 and state.any()
    assert np.allclose(state.flatten().numpy(), served.table.columns["state"][row], atol=1e-5)


def test_noise_in_place_of_all_later_ticks_changes_nothing_earlier() -> None:
    stream = spec()
    ticks = walk(500, ["x", "y"])
    noise = cut(ticks, 0, len(ticks))
    noise.values = ticks.values.copy()
    noise.values[300:] = np.random.default_rng(9).normal(0, 1e6, noise.values[300:].shape)
    before = [row for row in feed(engine(stream), ticks, [40, 250]) if row[0] < 300]
    assert before == [row for row in feed(engine(stream), noise, [40, 250]) if row[0] < 300]
    assert len(before) > 250


def test_refused_ticks_move_no_number() -> None:
    stream = spec()
    good = batch(["x"] * 50, START + 1000 * np.arange(50), np.random.default_rng(0).normal(5, 1, (50, 3)))
    clean, dirty = engine(stream), engine(stream)
    feed(clean, good)
    feed(dirty, good)
    before = states(dirty)
    bad = batch(
        ["x", "x", "x"],
        [START, START + 49_000, START + 10**9],
        np.full((3, 3), 7.0),
        record_ts=[START, START + 49_000, START],
    )
    outputs = dirty.process(bad)
    assert [reason for _, reason, _ in outputs.rejected] == ["late", "duplicate", "future"]
    assert len(outputs.forecasts) == len(outputs.imputations) == 0
    (after,), (once,), (other,) = states(dirty).values(), before.values(), states(clean).values()
    assert own(after) == own(once) == own(other)


# ── swaps ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_swap_the_state_begins_at_zero_with_the_series_next_frame() -> None:
    stream = spec()
    served, shown = watched(stream)
    feed(served, walk(200, ["x"]))
    new = network(stream, seed=1)
    served.load(new, "second")
    shown.clear()
    served.process(cut(walk(260, ["x"]), 200, 206))
    with torch.inference_mode():
        _, state = new(torch.from_numpy(np.concatenate(shown)), new.zero_state(3))
    assert np.allclose(state.flatten().numpy(), served.table.columns["state"][served.table.find(0, "x")], atol=1e-5)


def test_states_renewed_when_touched_equal_states_renewed_together() -> None:
    stream = spec()
    before, after = walk(200, ["x", "y", "z"], seed=1), walk(330, ["x", "y", "z"], seed=1)
    lazy, eager = engine(stream), engine(stream)
    for made in (lazy, eager):
        feed(made, before)
        made.load(network(stream, seed=5), "second")
    rest = cut(after, len(before), len(after))
    assert feed(lazy, rest, list(range(len(rest)))) == feed(eager, rest)
    assert states(lazy) == states(eager)


def test_weights_of_another_shape_are_refused_and_the_old_ones_serve_on() -> None:
    stream = spec()
    served = engine(stream)
    with pytest.raises(ValueError, match="inputs"):
        served.load(network(spec(channels=("a", "b"))), "other")
    assert served.model == "weights"


def test_a_network_of_another_size_takes_over() -> None:
    stream = spec()
    served = engine(stream)
    feed(served, walk(100, ["x", "y"]))
    served.load(network(stream, hidden=20, layers=2), "larger")
    rows = feed(served, cut(walk(140, ["x", "y"]), 80, 110))
    assert any(b'"model":"larger"' in text for _, text in rows)


# ── the first start, gaps, silence, bounds ───────────────────────────────────────────────────────────────────────


def test_without_weights_it_serves_persistence_with_wide_honest_intervals() -> None:
    stream = spec(experts=())
    served = Engine(stream)
    rng = np.random.default_rng(1)
    count = 3000
    values = np.cumsum(rng.standard_normal((count, 3)), axis=0)
    ticks = batch(["x"] * count, START + 1000 * np.arange(count), values)
    outputs = served.process(ticks)
    assert outputs.forecasts.model == NO_MODEL
    assert np.allclose(outputs.forecasts.mean[100:, :, 0], values[100:], rtol=1e-5, atol=1e-4)
    share = outputs.scores.inside.sum(axis=0) / outputs.scores.count.sum(axis=0)
    assert (np.abs(share - 0.9) < 0.02).all(), share
    assert not outputs.forecasts.warm[: stream.warm_up - 1].any()
    assert outputs.forecasts.warm[stream.warm_up - 1 :].all()


def test_intervals_follow_a_change_of_scale() -> None:
    stream = spec(horizon=2)
    rng = np.random.default_rng(2)
    scale = np.where(np.arange(6000) < 3000, 1.0, 12.0)[:, None]
    values = np.cumsum(scale * rng.standard_normal((6000, 3)), axis=0)
    served = Engine(stream)
    first = served.process(batch(["x"] * 3000, START + 1000 * np.arange(3000), values[:3000]))
    second = served.process(batch(["x"] * 3000, START + 1000 * np.arange(3000, 6000), values[3000:]))
    for outputs in (first, second):
        share = outputs.scores.inside.sum() / outputs.scores.count.sum()
        assert abs(share - 0.9) < 0.02


def test_a_channel_that_stood_still_does_not_keep_endless_intervals() -> None:
    stream = spec(channels=("a",), horizon=1)
    rng = np.random.default_rng(8)
    moving = rng.normal(0, 1, 4000)
    moving[1000:1600] = moving[999]
    outputs = Engine(stream).process(batch(["x"] * 4000, START + 1000 * np.arange(4000), moving[:, None]))
    width = outputs.forecasts.quantiles[:, 0, -1, 0] - outputs.forecasts.quantiles[:, 0, 0, 0]
    assert np.median(width[1700:]) < 2.0 * np.median(width[200:1000])


def test_quantiles_never_cross() -> None:
    stream = spec(quantiles=(0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99))
    outputs = engine(stream).process(walk(900, ["x", "y", "z"]))
    gaps = np.diff(outputs.forecasts.quantiles, axis=2)
    assert (gaps[~np.isnan(gaps)] >= 0).all()


def test_every_good_tick_gives_exactly_one_forecast_from_its_own_record() -> None:
    ticks = walk(400, ["x", "y", "z"])
    outputs = engine(spec()).process(ticks)
    refused = {tick for tick, _, _ in outputs.rejected}
    own = [
        tick
        for tick, name in zip(outputs.forecasts.tick, outputs.forecasts.series, strict=True)
        if ticks.series[tick] == name
    ]
    assert sorted(own) == [tick for tick in range(len(ticks)) if tick not in refused]


def test_missing_channels_and_missing_ticks_are_filled_with_intervals() -> None:
    stream = spec()
    count = 400
    rng = np.random.default_rng(4)
    common = np.cumsum(rng.standard_normal(count))[:, None]
    values = common * np.array([1.0, 2.0, -1.0]) + 0.05 * rng.standard_normal((count, 3)) + 50
    truth = values.copy()
    hidden = rng.random(values.shape) < 0.1
    hidden[:50] = False
    values[hidden] = np.nan
    outputs = Engine(stream).process(batch(["x"] * count, START + 1000 * np.arange(count), values))
    fills = outputs.imputations
    step = (fills.ts_us // 1000 - START) // 1000
    got, rows = fills.values[fills.filled], truth[step][fills.filled]
    inside = (fills.lower[fills.filled] <= rows) & (rows <= fills.upper[fills.filled])
    last_seen = np.array(
        [values[: s + 1, c][~np.isnan(values[: s + 1, c])][-1] for s, c in zip(*np.nonzero(hidden), strict=True)]
    )
    assert fills.filled.sum() == hidden.sum()
    assert (fills.kind == KIND_TICK).all()
    # Most of the move follows from the other channels; repeating the last value knows none of it.
    assert np.abs(got - rows).mean() < 0.5 * np.abs(last_seen - truth[hidden]).mean()
    assert 0.8 < inside.mean() <= 1.0


def test_longer_gaps_have_wider_intervals() -> None:
    stream = spec(gap_max=10, horizon=4)
    rng = np.random.default_rng(5)
    values = np.cumsum(rng.standard_normal((300, 3)), axis=0)
    steps = np.concatenate([np.arange(299), [309]])
    outputs = Engine(stream).process(batch(["x"] * 300, START + 1000 * steps, values))
    fills = outputs.imputations
    assert (fills.kind == KIND_GAP).all()
    assert len(fills) == 10
    width = (fills.upper - fills.lower).mean(axis=1)
    assert (np.diff(width) > 0).all()


def test_a_silent_series_is_filled_and_forecast_once_and_rests() -> None:
    stream = spec()
    rows = [(name, t) for t in range(60) for name in "xyz" if name != "x" or t < 30]
    rng = np.random.default_rng(6)
    ts = [START + 1000 * t for _, t in rows]
    outputs = engine(stream).process(batch([name for name, _ in rows], ts, rng.normal(3, 1, (len(rows), 3))))
    fills = outputs.imputations
    assert set(fills.series) == {"x"}
    assert (fills.kind == KIND_IDLE).all()
    assert len(fills) == stream.gap_max
    late = [i for i, name in enumerate(outputs.forecasts.series) if name == "x"][30:]
    assert len(late) == 1
    assert outputs.forecasts.ts_us[late[0]] == fills.ts_us[-1]


def test_a_series_that_was_let_go_comes_back_cold() -> None:
    stream = spec(series_max=2, warm_up=3)
    names = ["x"] * 5 + ["y", "z"] + ["x"]
    steps = [*range(5), 5, 5, 6]
    outputs = engine(stream).process(batch(names, START + 1000 * np.array(steps), np.ones((8, 3))))
    assert outputs.evicted == 2
    warm = [bool(w) for w, name in zip(outputs.forecasts.warm, outputs.forecasts.series, strict=True) if name == "x"]
    assert warm == [False, False, True, True, True, False]


def test_silent_records_move_the_state_and_say_nothing() -> None:
    stream = spec()
    ticks = walk(300, ["x", "y"])
    loud, quiet = engine(stream), engine(stream)
    everything = feed(loud, ticks)
    outputs = quiet.process(ticks, emit_from={0: 200, 1: 200})
    assert sorted(said(stream, outputs, ticks)) == [row for row in everything if row[0] >= 200]
    assert states(loud) == states(quiet)


def test_a_counter_at_a_billion_keeps_its_digits() -> None:
    stream = spec(channels=("count",))
    values = 1e9 + np.arange(200.0)[:, None]
    outputs = Engine(stream).process(batch(["x"] * 200, START + 1000 * np.arange(200), values))
    assert np.allclose(outputs.forecasts.mean[-1, 0], values[-1], atol=1e-3)


def test_irregular_ticks_are_steps_of_their_own() -> None:
    stream = spec(step_ms=0)
    rng = np.random.default_rng(7)
    ts = START + np.cumsum(rng.integers(1, 5000, 300))
    outputs = engine(stream).process(batch(["x"] * 300, ts, rng.normal(0, 1, (300, 3))))
    assert len(outputs.forecasts) == 300
    assert len(outputs.imputations) == 0
    assert 1500 < outputs.forecasts.step_us[-1] / 1000 < 3500
    assert (outputs.forecasts.ts_us // 1000 == ts).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.lists(st.integers(1, 199), max_size=8), st.sampled_from(["one", "sum"]))
def test_irregular_bursts_give_the_same_bytes_however_they_are_cut(seed: int, edges: list[int], within: Any) -> None:
    """`step_ms` of a forecast, too: it is the usual distance of steps up to that very tick."""
    rng = np.random.default_rng(seed)
    stream = spec(step_ms=0, within=within)
    ts = START + np.cumsum(rng.choice([0, 1, 2, 5, 100, 60_000], 200, p=[0.05, 0.3, 0.3, 0.2, 0.1, 0.05]))
    ticks = batch([f"s{k}" for k in rng.integers(0, 3, 200)], ts, rng.normal(0, 1, (200, 3)))
    assert feed(Engine(stream), ticks, list(range(200))) == feed(Engine(stream), ticks, edges)


@pytest.mark.parametrize(
    ("channels", "horizon", "experts", "kib"),
    [
        (4, 12, (), 6.2),
        (7, 96, (), 20),
        (7, 96, ("season-ago", "profile"), 32),
        (7, 96, EXPERTS, 32 + 7 * 16),
        (4, 12, EXPERTS, 40),
    ],
)
def test_the_state_of_a_series_has_the_size_that_was_promised(
    channels: int, horizon: int, experts: tuple[str, ...], kib: float
) -> None:
    """Linear in the channels, and up to a logarithm in the horizon."""
    seasons = (Season("1d", 24, 1.0, 24), Season("7d", 168, 1.0, 168))
    stream = spec(
        channels=tuple("abcdefg"[:channels]),
        horizon=horizon,
        series_max=2,
        seasons=seasons,
        experts=experts,
    )
    served = engine(stream, hidden=32)
    assert served.table.row_bytes() <= kib * 1024


@pytest.mark.parametrize("lateness", [0, 1000])
def test_a_series_that_comes_to_rest_without_a_frame_counts_as_changed(lateness: int) -> None:
    """Or its changelog would say that it is awake."""
    made = Engine(spec(idle_after_ms=4000, gap_max=0, lateness_ms=lateness))
    made.process(batch(["a", "b", "c"], [0, 0, 0], np.ones((3, len(made.spec.channels)))))
    made.table.changed[:] = False
    times = np.repeat(np.arange(1000, 7000, 1000), 2)
    made.process(batch(["b", "c"] * 6, times, np.ones((12, len(made.spec.channels)))))
    row = made.table.find(0, "a")
    assert row is not None and made.table.columns["resting"][row]
    assert made.table.changed[row]


def test_what_is_judged_later_is_what_was_sent() -> None:
    """A pending forecast is kept in few digits: those that were sent, or the counts would not be those of the outputs."""
    stream = spec()
    values = np.cumsum(np.random.default_rng(4).standard_normal((900, 3)), axis=0)
    outputs = engine(stream).process(batch(["x"] * len(values), START + 1000 * np.arange(len(values)), values))
    sent, scores, scale = outputs.forecasts, outputs.scores, outputs.forecasts.scale
    for h in range(stream.horizon):
        later = values[h + 1 :]
        quantiles = sent.quantiles[: len(later), :, :, h]
        assert np.array_equal((later[..., None] <= quantiles).sum(axis=0), scores.below[:, h])
        error = np.abs(later - sent.mean[: len(later), :, h]) / scale[h + 1 :]
        assert np.allclose(error.sum(axis=0), scores.abs_error[:, h], rtol=1e-3)


def halves(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_what_waits_is_what_was_sent() -> None:
    """The mixture's move to float32, what the network added and said to the eight digits of a half of it."""
    stream = spec(horizon=12)
    rng = np.random.default_rng(5)
    values = np.cumsum(rng.standard_normal((400, 3)), axis=0)
    served = engine(stream)
    served.process(batch(["x"] * 390, START + 1000 * np.arange(390), values[:390]))
    column = served.table.columns
    column["network_worth"][0] = 1000.0  # as if it had always been right
    outputs = served.process(batch(["x"] * 10, START + 1000 * np.arange(390, 400), values[390:]))
    ladder = ladder_of(12, [], 1.0, 1.0)
    cells = ladder.begin + (int(column["steps"][0]) - 1) % ladder.cells
    unit = column["unit"][0][:, None]
    sent = (outputs.forecasts.mean[-1] - values[-1][:, None])[:, ladder.h - 1]
    added, says = halves(column["pend_added"][0])[:, cells], halves(column["pend_said"][0])[:, cells]
    assert np.allclose((column["pend_mean"][0][:, cells] + added) * unit, sent, rtol=1e-5, atol=1e-5)
    wanted = says * np.sqrt(column["error_size"][0])  # believed as far as 1
    assert np.abs(added).max() > 0.0 and np.allclose(added, wanted, rtol=0.02)


def foretelling(stream: Any, names: list[str], x: Any, wrong: float) -> Any:
    """Forecasts [frame, series, horizon] of an engine whose network knows the future `x` [series, frame] but for noise."""
    made = Engine(stream)
    net = network(stream, "rnn")
    made.load(net, "w")
    rng, missed = np.random.default_rng(3), {}
    answer = forecast.answer

    def right(address: int, shape: Any, frames: Any, *rest: Any) -> None:
        *before, chosen, said, moves = rest
        sizes = np.sqrt(made.table.columns["error_size"][frames.slot[chosen]])[:, 0]  # [k, rung]
        units = made.table.columns["unit"][frames.slot[chosen]]
        for k, i in enumerate(chosen.tolist()):
            slot, n = int(frames.slot[i]), int(frames.number[i])
            for r, h in enumerate(rungs_of(stream.horizon)):
                move = (x[slot, n + h] - x[slot, n]) / units[k, 0] if units[k, 0] > 0 else 0.0
                said[k, 0, r] = (move - moves[k, 0, h - 1]) / max(sizes[k, r], 1e-9) + wrong * rng.standard_normal()
        missed[0] = True
        answer(address, shape, frames, *before, chosen, said, moves)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamrnn.stream.engine.forecast.answer", right)
        count = x.shape[1] - stream.horizon
        times = START + 1000 * np.repeat(np.arange(count), len(names))
        sent = made.process(batch(names * count, times, x[:, :count].T.reshape(-1, 1))).forecasts.mean[:, 0]
    assert missed
    return sent.reshape(count, len(names), stream.horizon)


def test_a_network_is_believed_once_it_has_been_right_and_not_before() -> None:
    horizon, count, names = 8, 400, [f"s{k}" for k in range(8)]
    stream = spec(channels=("a",), horizon=horizon, experts=())
    x = np.cumsum(np.random.default_rng(1).standard_normal((len(names), count + horizon)), axis=1)
    for wrong, low, high in ((0.3, 0.0, 0.75), (30.0, 0.99, 1.003)):
        mean = foretelling(stream, names, x, wrong)
        for h in (1, 8):
            later, now = x[:, h : count + h].T, x[:, :count].T
            error, persistence = np.abs(mean[:, :, h - 1] - later), np.abs(now - later)
            assert low <= error[200:].mean() / persistence[200:].mean() < high, (wrong, h)
            assert error[:10].mean() <= 1.003 * persistence[:10].mean()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_what_is_no_number_is_nothing_that_a_network_says(cell: str, odd: float) -> None:
    stream = spec()
    ticks = walk(200, ["x"], missing=0.0)
    plain, garbled = Engine(stream), Engine(stream)
    net = network(stream, cell)
    with torch.no_grad():
        net.out.bias[-1] = odd
        net.out.weight[-1] = 0.0
    garbled.load(net, "weights")
    garbled.table.columns["network_worth"][:] = 0.0
    expected, got = plain.process(ticks).forecasts, garbled.process(ticks).forecasts
    assert np.isfinite(got.mean[2:]).all() and np.isfinite(got.quantiles[2:]).all()
    assert np.allclose(got.mean[2:, :, -1], expected.mean[2:, :, -1], atol=5.0 * 1.2 * np.abs(ticks.values).max())
