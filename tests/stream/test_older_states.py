"""States that earlier versions wrote are read and go on: `tests/fixtures/changelogs_2f3f82c.msgpack.gz` holds the records of
state topics as version 0.1.0 at that commit wrote them, each with its stream's settings."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from making import batch, feed, laid, network

from streamrnn.records import KIND_IDLE
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Restored, Snapshots
from streamrnn.transports.changelog import CHECKPOINT, LAYOUT, SERIES, Checkpoint

FILE = Path(__file__).parents[1] / "fixtures" / "changelogs_2f3f82c.msgpack.gz"
KEPT: dict[str, Any] = msgspec.msgpack.decode(gzip.decompress(FILE.read_bytes()))


def restored(name: str, **changes: Any) -> tuple[Engine, Checkpoint, Restored]:
    kept = KEPT[name]
    given = kept["spec"] | {"channels": tuple(kept["spec"]["channels"]), "series_max": 64} | changes
    stream = StreamSpec(**given)
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
