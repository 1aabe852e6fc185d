"""States that earlier versions wrote are read and go on: `tests/fixtures/changelogs_2f3f82c.msgpack.gz` holds the records of
state topics as version 0.1.0 at that commit wrote them, each with its stream's settings; `states_e98755d.msgpack.gz` states of
the last version that had no experts (columns `spread`, `theta`, `loss`, `pend_*` by horizon)."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from making import batch, feed, laid, network

from streamrnn.kernels.columns import rungs_of
from streamrnn.records import KIND_IDLE
from streamrnn.season import Season
from streamrnn.spec import StreamSpec
from streamrnn.stores.changelog import CHECKPOINT, LAYOUT, SERIES, Checkpoint
from streamrnn.stream.conversions import as_now
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import DIGEST_BYTES, Restored, Snapshots, _Layout

FILE = Path(__file__).parents[1] / "fixtures" / "changelogs_2f3f82c.msgpack.gz"
KEPT: dict[str, Any] = msgspec.msgpack.decode(gzip.decompress(FILE.read_bytes()))


def stream_of(kept: dict[str, Any], **changes: Any) -> StreamSpec:
    """The settings that a version of then kept; `burn_in` is none of a stream any more."""
    given = kept["spec"] | {"channels": tuple(kept["spec"]["channels"])} | changes
    return StreamSpec(**{name: value for name, value in given.items() if name != "burn_in"})


def restored(name: str, **changes: Any) -> tuple[Engine, Checkpoint, Restored]:
    kept = KEPT[name]
    stream = stream_of(kept, **{"series_max": 64, **changes})
    engine, found = Engine(stream), Restored()
    if name == "gru":
        engine.load(network(stream), "w1")
    snapshots, checkpoint = Snapshots(engine), None
    for key, value in kept["records"]:
        if key.startswith(LAYOUT):
            snapshots.learn(value)
        elif key == CHECKPOINT:
            checkpoint = msgspec.json.decode(value, type=Checkpoint)
    states = [(key[len(SERIES) :], value) for key, value in kept["records"] if key.startswith(SERIES)]
    snapshots.restore(0, laid([key for key, _ in states], [value for _, value in states]), found)
    assert checkpoint is not None
    engine.front.restore_clock(0, checkpoint.clock_at(checkpoint.offset)[1])
    return engine, checkpoint, found


@pytest.mark.parametrize("name", sorted(KEPT))
def test_every_state_is_taken_and_its_series_go_on_warm(name: str) -> None:
    kept = KEPT[name]
    engine, checkpoint, found = restored(name)
    assert (found.rows, found.refused) == (len(kept["last"]), {})
    assert checkpoint.offset == kept["position"]
    step_ms = kept["spec"]["step_ms"] or 700
    rows = [row for row in map(engine.table.series(0).get, kept["last"]) if row is not None]
    known = {
        name: engine.table.columns[name][rows]
        for name in ("last", "anchor", "seen", "move_scale", "fresh", "seen_range")
    }
    moved = known["seen"] > 1
    assert moved.any() and (known["move_scale"][moved] > 0).all() and (known["fresh"][moved] > 0).all()
    beyond = known["seen_range"] - (known["last"] - known["anchor"])[:, :, None]
    assert (beyond[moved, 0] <= 0).all() and (beyond[moved, 1] >= 0).all()
    for series, last in kept["last"].items():
        ts = [kept["last_ts_ms"][series] + step_ms * (k + 1) for k in range(8)]
        if name == "idle" and series == "y":
            ts = [t + 20_000 for t in ts]  # its silence was filled, and what was filled then was closed
        ticks = batch([series] * 8, ts, [last] * 8)
        ticks.offset = ticks.offset + checkpoint.offset
        outputs = engine.process(ticks)
        assert outputs.rejected == []
        assert outputs.forecasts.warm.all() and len(outputs.forecasts) >= 4
        assert np.allclose(outputs.forecasts.mean[0, :, 0], last, atol=1.0 if name in ("gru", "held") else 1e-6)
        sent = (outputs.forecasts.ts_us // 1000).tolist()  # those of steps that were held open, too
        assert all(ts[0] - 5 * step_ms <= at <= ts[-1] for at in sent) and (np.diff(sent) > 0).all()


def test_irregular_times_are_microseconds_now() -> None:
    engine, checkpoint, _ = restored("irregular")
    ts = KEPT["irregular"]["last_ts_ms"]["x"] + 700
    ticks = batch(["x", "x"], [ts, ts + 700], [[1.0, 2.0]] * 2)
    ticks.offset = ticks.offset + checkpoint.offset
    outputs = engine.process(ticks)
    assert (outputs.forecasts.ts_us // 1000).tolist() == [ts, ts + 700]
    assert abs(outputs.forecasts.step_us[0] - 700_000) < 1000


def test_ticks_held_back_come_with_their_times() -> None:
    engine, _, _ = restored("held")
    assert engine.front.ticks_held > 0
    newest = max(
        ts for row in engine.table.series(0).values() for ts in engine.front.held_of(engine.front.held_bytes(row))
    )
    assert newest == max(KEPT["held"]["last_ts_ms"].values()) // 1000


def test_days_of_utc_become_days_of_a_zone() -> None:
    """A week's steps are numbered otherwise, with the same meaning."""
    from streamrnn.calendar import parse_step

    step_ms, step = parse_step("1w", "Europe/London")
    engine, _, _ = restored("plain", step_ms=step_ms, calendar_step=step)
    row = engine.table.find(0, "x")
    assert row is not None
    at = int(engine.table.columns["last_us"][row])
    assert engine.table.columns["last_step"][row] == engine.front.steps.index(at)


def test_a_series_whose_silence_was_filled_is_not_filled_again() -> None:
    engine, checkpoint, _ = restored("idle")
    begin = KEPT["idle"]["last_ts_ms"]["x"] + 1000
    rows = [(name, begin + 1000 * k) for k in range(40) for name in ("a", "b", "x")]
    ticks = batch([name for name, _ in rows], [ts for _, ts in rows], np.ones((len(rows), 2)))
    ticks.offset = ticks.offset + checkpoint.offset
    outputs = engine.process(ticks)
    assert not (outputs.imputations.kind == KIND_IDLE).any()
    assert feed(engine, ticks) != []


@pytest.mark.parametrize("step_ms", [5000, 250, 0])
def test_states_that_do_not_say_how_long_their_steps_are_are_taken_by_what_they_count(step_ms: int) -> None:
    """Of a version that kept no meaning, and an operator who changes the step with the upgrade."""
    _, _, found = restored("plain", step_ms=step_ms)
    assert (found.rows, {why for _, _, why in found.left.values()}) == (0, {"it counts steps of another length"})
    _, _, again = restored("plain")
    assert (again.rows, again.left, [plan.described for plan in again.plans]) == (3, {}, [False])


# ── the layout before there were experts ─────────────────────────────────────────────────────────────────────────────

BEFORE = FILE.with_name("states_e98755d.msgpack.gz")
LATER: dict[str, Any] = msgspec.msgpack.decode(gzip.decompress(BEFORE.read_bytes()))


def brought(name: str, spoil: Any = None, **changes: Any) -> tuple[Engine, Any, Restored]:
    """An engine that has taken these states; and they, as they were written."""
    kept = LATER[name]
    stream = stream_of(kept, **{"series_max": 8, **changes})
    engine, found = Engine(stream), Restored()
    if kept["served"]:
        engine.load(network(stream), "w1")
    snapshots = Snapshots(engine)
    snapshots.learn_meaning(*kept["meaning"])
    snapshots.learn(kept["layout"])
    dtype = _Layout(kept["layout"]).dtype
    keys, records = [key for key, _ in kept["states"]], [record for _, record in kept["states"]]
    if spoil is not None:
        row = np.frombuffer(records[0], dtype=dtype).copy()
        spoil(row)
        body = row.tobytes()[DIGEST_BYTES:]
        records[0] = xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(keys[0])).to_bytes(8, "little") + body
    snapshots.restore(0, laid(keys, records), found)
    engine.front.restore_clock(0, kept["clock"])
    rows = np.concatenate([np.frombuffer(record, dtype=dtype) for record in records])
    return engine, rows, found


def further(name: str, steps: int, rng: np.random.Generator) -> Any:
    """Ticks of all series, on from where they were."""
    kept = LATER[name]
    walks = {
        s: last + np.cumsum(rng.standard_normal((steps, 2)), axis=0) * SIZES[s] for s, last in kept["last"].items()
    }
    rows = [(s, k) for k in range(steps) for s in walks]
    times = [kept["last_ts_ms"] + 1000 * (k + 1) for _, k in rows]
    made = batch([s for s, _ in rows], times, [walks[s][k] for s, k in rows])
    made.offset = made.offset + kept["position"]
    return made


SIZES = {"x": np.array([1.0, 50.0]), "y": np.array([1.0, 0.01])}
CHANGES: list[dict[str, Any]] = [
    {}, {"horizon": 24}, {"horizon": 5}, {"channels": ("b", "c", "a")}, {"quantiles": (0.05, 0.25, 0.95)}, {"experts": ()},
    {"seasons": (Season("1m", 60, 1.0, 60),)},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ", ".join(change) or "as it was")
@pytest.mark.parametrize("name", LATER)
def test_states_of_a_version_without_experts_keep_their_calibration_and_begin_to_learn(
    name: str, change: dict[str, Any]
) -> None:
    engine, were, found = brought(name, **change)
    assert (found.rows, found.refused, found.left) == (2, {}, {})
    stream, before = engine.spec, LATER[name]["spec"]
    column = {
        key: values[[engine.table.find(0, s) for s in LATER[name]["last"]]]
        for key, values in engine.table.columns.items()
    }
    for k, channel in enumerate(before["channels"]):
        c = stream.channels.index(channel)
        assert (column["born"][:, c] == -1).all()
        for key in ("anchor", "seen_range", "last", "move_scale"):
            assert np.array_equal(column[key][:, c], were[key][:, k])
        assert np.array_equal(column["fill_widths"][:, c, 1], were["fill_width"][:, k])
        rungs = [(r, h) for r, h in enumerate(rungs_of(stream.horizon)) if h in rungs_of(before["horizon"])]
        for r, h in rungs:
            assert np.array_equal(column["sigma"][:, c, r], were["spread"][:, h - 1, k])
            for q, level in enumerate(stream.quantiles):
                if level in (0.05, 0.5, 0.95):
                    wanted = were["theta"][:, h - 1, k, (0.05, 0.5, 0.95).index(level)]
                    assert np.array_equal(column["level_theta"][:, c, r, q], wanted)
    if len(stream.channels) == 2:
        assert np.array_equal(column["covariance"], were["covariance"])
    ticks = further(name, 300, np.random.default_rng(3))
    if len(stream.channels) == 3:
        ticks.values = np.stack([ticks.values[:, 1], np.full(len(ticks.values), np.nan), ticks.values[:, 0]], axis=1)
    outputs = engine.process(ticks)
    assert outputs.rejected == [] and outputs.forecasts.warm.all()
    c = stream.channels.index("a")
    if not LATER[name]["served"]:
        # The first forecast's interval is what was learnt of errors before.
        wide = outputs.forecasts.quantiles[:2, c, -1, 0] - outputs.forecasts.quantiles[:2, c, 0, 0]
        offsets = np.array([-1.6449, 1.6449]) + were["theta"][:, 0, before["channels"].index("a")][:, [0, 2]]
        wanted = (offsets[:, 1] - offsets[:, 0]) * were["spread"][:, 0, before["channels"].index("a")]
        assert np.allclose(wide, wanted, rtol=0.02)
    # Of later steps little has matured in so few frames, and errors of overlapping stretches wander together.
    short = np.array(rungs_of(min(stream.horizon, before["horizon"]))[:4]) - 1
    known = [c, stream.channels.index("b")]
    inside, judged = (sums[known][:, short].sum(axis=0) for sums in (outputs.scores.inside, outputs.scores.count))
    assert (inside > 0.8 * judged).all() and (inside < 0.98 * judged).all()
    error, persistence = (
        sums[known][:, short].sum() for sums in (outputs.scores.abs_error, outputs.scores.abs_persistence)
    )
    assert error < 1.05 * persistence


@pytest.mark.parametrize(
    "column", ["spread", "theta", "fill_width", "covariance", "seen_range", "anchor", "last", "move_scale"]
)
def test_older_numbers_that_cannot_be_are_refused(column: str) -> None:
    def spoil(row: Any) -> None:
        row[column] = np.inf

    _, _, found = brought("walk", spoil)
    assert (found.rows, found.refused) == (1, {"impossible": 1})


@pytest.mark.parametrize("stacked", [True, False])
def test_a_network_among_the_experts_leaves_its_place_and_the_others_keep_theirs(stacked: bool) -> None:
    """Rows of a version in which it was the last expert but the stack: persistence, moves, the network (and the stack)."""
    members = 5 if stacked else 0
    used, rungs = 3 + stacked, 2
    kinds = [
        ("losses", "<f4", (1, rungs, used)), ("weight", "<f4", (1, rungs, used + 1)), ("pend_moves", "<u2", (1, 4, used - 1)),
        ("stack_gram", "<f4", (1, rungs, members * (members + 1) // 2)), ("stack_right", "<f4", (1, rungs, members)),
        ("x", "<f4", (1, 6)),
    ]  # fmt: skip
    block: Any = np.zeros(1, dtype=kinds)
    block["losses"] = np.arange(used)
    block["weight"][..., :used] = np.arange(1.0, used + 1) / sum(range(1, used + 1))
    block["weight"][..., used] = 0.7  # what of the mixture is believed
    block["pend_moves"] = np.arange(1, used)
    block["stack_right"] = np.arange(members)
    block["stack_gram"] = np.arange(block["stack_gram"].shape[-1])
    kept = [0, 1, 3][: used - 1]
    assert as_now("losses", block)[0, 0, 0].tolist() == kept
    weight = as_now("weight", block)[0, 0, 0]
    assert weight[-1] == np.float32(0.7) and weight[:-1].sum() == pytest.approx(1.0)
    assert weight[1] / weight[0] == pytest.approx(2.0)
    assert as_now("pend_moves", block)[0, 0, 0].tolist() == kept[1:]
    if stacked:
        assert as_now("stack_right", block)[0, 0, 0].tolist() == [0, 1, 2, 3]
        assert as_now("stack_gram", block)[0, 0, 0].tolist() == list(range(10))
    assert as_now("x", block).shape == (1, 1, 6)
