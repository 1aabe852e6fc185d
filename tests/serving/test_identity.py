"""What an operator changes between two runs: what means the same goes on by name, what does not starts cold, and once.

The matrix is every setting that shapes a state × (changed, changed back, changed twice) × (restart, kill -9, take-over by
another worker) × both deliveries. A part of it is lived here, so that every setting meets every way and every way every
delivery; the whole of it with `make test-kafka-long`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest
import structlog
import torch
from lives import (
    CASES,
    DELIVERIES,
    EVENTS,
    FIRST,
    HISTORIES,
    LEVELS,
    OWN,
    PARTITIONS,
    SERIES,
    Lives,
    check_forecasts,
    until,
)
from running import on_virtual_clock

from streamrnn.config.settings import Settings
from streamrnn.kernels.columns import rungs_of
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack
from streamrnn.serving.costs import costs
from streamrnn.serving.worker import Worker
from streamrnn.stores import changelog
from streamrnn.stores.models import ModelsWriter
from streamrnn.transports.memory.transport import MemoryBroker, MemorySink, MemoryTransport

WHOLE = list(product(CASES, HISTORIES, EVENTS, DELIVERIES))
COLUMNS = (*OWN, "sigma", "level_theta")
# Three of a case's eighteen: each history once, each event once, the deliveries in turn.
SHORT = [
    (name, how, EVENTS[(h + i) % 3], DELIVERIES[(h + i // 3) % 2])
    for i, name in enumerate(CASES)
    for h, how in enumerate(HISTORIES)
]


def through(history: str, name: str) -> list[dict[str, Any]]:
    """The changes from the first configuration on, each as it then is."""
    case = CASES[name]
    return {
        "changed": [{}, case.once],
        "changed back": [{}, case.once, {}],
        "changed twice": [{}, case.once, case.twice],
    }[history]


def kept(history: list[Settings]) -> tuple[list[str], int, list[float]]:
    """What all configurations had, and so must have been carried all the way: (channels, horizon, quantiles)."""
    fields = [(chosen.decode.values or {}) for chosen in history]
    channels = [
        c
        for c in LEVELS
        if all(c in chosen.channels for chosen in history)
        and len({field.get(c, f"values.{c}") for field in fields}) == 1
    ]
    quantiles = [q for q in history[0].quantiles if all(q in chosen.quantiles for chosen in history)]
    return channels, min(chosen.horizon for chosen in history), quantiles


def read(history: list[Settings]) -> dict[str, set[str]]:
    """The fields of a record that each channel was read from."""
    found: dict[str, set[str]] = {}
    for chosen in history:
        for c in chosen.channels:
            found.setdefault(c, set()).add((chosen.decode.values or {}).get(c, f"values.{c}").removeprefix("values."))
    return found


def check_carried(
    lives: Lives,
    workers: list[Worker],
    history: list[Settings],
    names: Sequence[str] = SERIES,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """What was carried is what an engine has that was never interrupted, nor ever knew anything else, bit for bit. How errors
    were follows from the experts, too: where there are any, what is left is what has nothing to do with them."""
    channels, horizon, quantiles = kept(history)
    chosen = history[-1]
    if any(each.stream_spec().experts for each in history):
        columns = [name for name in columns if name in OWN]
    rungs = len(rungs_of(horizon))
    for channel in channels:
        whole = lives.uninterrupted(chosen, channel, horizon, quantiles)
        c = chosen.channels.index(channel)
        levels = [chosen.quantiles.index(q) for q in quantiles]
        for series in names:
            partition = SERIES.index(series) % PARTITIONS
            there = whole.table.find(partition, series)
            worker = next(w for w in workers if w.engine.table.find(partition, series) is not None)
            here, column = worker.engine.table.find(partition, series), worker.engine.table.columns
            for name in columns:
                if name in OWN:
                    assert column[name][here, c] == whole.table.columns[name][there, 0], (channel, series, name)
                    continue
                mine, theirs = column[name][here, c, :rungs], whole.table.columns[name][there, 0, :rungs]
                assert np.array_equal(mine[:, levels] if name == "level_theta" else mine, theirs), (
                    channel,
                    series,
                    name,
                )


@pytest.mark.parametrize(("name", "how", "event", "delivery"), SHORT)
def test_what_means_the_same_goes_on_and_the_rest_is_cold_once(name: str, how: str, event: str, delivery: str) -> None:
    on_virtual_clock(lived)(name, how, event, delivery)


@pytest.mark.kafka_long
@pytest.mark.parametrize(("name", "how", "event", "delivery"), [row for row in WHOLE if row not in SHORT])
def test_the_rest_of_the_matrix(name: str, how: str, event: str, delivery: str) -> None:
    on_virtual_clock(lived)(name, how, event, delivery)


async def lived(name: str, how: str, event: str, delivery: str) -> None:
    lives = Lives(delivery)
    history = [lives.chosen(changes) for changes in through(how, name)]
    lives.create(history[0])
    lives.send(40)
    worker = lives.start(history[0])
    await lives.served(worker)
    assert lives.counts(worker) == (0, 0, 0)
    for k in range(1, len(history)):
        meanings = {chosen.meaning() for chosen in history[k - 1 : k + 1]}
        before = len(lives.forecasts())
        worker = await lives.changed_to(worker, history[k], event)
        # Once: nothing that was carried is cold, and what is cold is whole partitions.
        cold, carried, rows = lives.counts(worker)
        if CASES[name].cold:
            assert (cold, carried, rows) == (PARTITIONS, 0, len(SERIES))
        else:
            assert (cold, carried, rows) == (0, len(SERIES) if len(meanings) > 1 else 0, 0)
            if history[k].lateness == history[k - 1].lateness:  # else its steps close with what comes next
                check_carried(lives, [worker], history[: k + 1])
        lives.send(25)
        await lives.served(worker)
        # And never again, however the next one comes to its partitions.
        worker = await lives.changed_to(worker, history[k], "restart" if event == "kill" else "kill")
        assert lives.counts(worker) == (0, 0, 0), "cold, or carried, a second time for one change"
        lives.send(5)
        await lives.served(worker)
        if not CASES[name].cold:
            check_carried(lives, [worker], history[: k + 1])
        assert len(lives.forecasts()) > before
    check_forecasts(lives.forecasts(), () if CASES[name].cold else kept(history)[0], read(history))
    await lives.stop(worker)
    assert history[0].channels == tuple(FIRST["channels"])


def published_weights(chosen: Settings, cell: Any, seed: int = 1, **changes: Any) -> tuple[str, bytes]:
    """(id, bytes) of a small network that has learnt nothing and forecasts all the same."""
    shape = dataclasses.replace(chosen.model_spec(), cell=cell, hidden=8, layers=1, **changes)
    torch.manual_seed(seed)
    network = Network(shape)
    torch.nn.init.normal_(network.out.weight, 0.0, 0.1)
    torch.nn.init.normal_(getattr(network.beside, "decoder", network.beside).weight, 0.0, 0.1)
    meta = WeightsMeta()
    blob = pack(network, meta, chosen.meaning())
    return meta.id, blob


def published(chosen: Settings, broker: MemoryBroker, cell: str, **changes: Any) -> str:
    """Weights of some kind become current."""
    model, blob = published_weights(chosen, cell, **changes)
    asyncio.get_running_loop().create_task(ModelsWriter(MemorySink(broker), "app.models").publish(model, blob, {}, 0))
    return model


@pytest.mark.parametrize("delivery", DELIVERIES)
@on_virtual_clock
async def test_weights_of_another_cell_and_then_restarts_of_every_kind(delivery: str) -> None:
    """The state of the recurrent layers has another size from then on; everything else goes on as it was."""
    lives = Lives(delivery)
    chosen = lives.chosen({})
    lives.create(chosen)
    published(chosen, lives.broker, "gru")
    lives.send(40)
    worker = lives.start(chosen)
    await lives.served(worker)
    other = published(chosen, lives.broker, "lstm")
    await until(lambda: worker.engine.model == other)
    # Of two series nothing comes any more: their states stay as the first weights left them.
    lives.send(20, SERIES[2:])
    await lives.served(worker)
    for event in ("kill", "restart", "take-over", "kill"):
        worker = await lives.changed_to(worker, chosen, event, SERIES[2:])
        assert worker.engine.model == other
        assert lives.counts(worker) == (0, 0, 0)
        lives.send(5, SERIES[2:])
        await lives.served(worker)
    lives.send(5)
    await lives.served(worker)
    assert all(document["warm"] for document in lives.forecasts()[-6:])
    check_carried(lives, [worker], [chosen], SERIES[2:], OWN)
    await lives.stop(worker)


@pytest.mark.parametrize("shape", [{"cell": "wavenet"}, {"cell": "gru", "conv": 4, "head": "encoder-decoder"}], ids=str)
@on_virtual_clock
async def test_kills_and_restarts_leave_no_trace_in_what_any_network_says(shape: dict[str, Any]) -> None:
    """Beside a service that nothing happened to."""
    said: list[dict[str, Any]] = []
    for events in ((), ("kill", "restart", "take-over")):
        lives = Lives("at-least-once")
        chosen = lives.chosen({})
        lives.create(chosen)
        model = published(chosen, lives.broker, **shape)
        worker = lives.start(chosen)
        await until(lambda: worker.engine.model == model)  # noqa: B023
        for turn in range(4):
            lives.send(30)
            await lives.served(worker)
            if turn < len(events):
                worker = await lives.changed_to(worker, chosen, events[turn])
                assert lives.counts(worker) == (0, 0, 0)
        said.append({json.dumps(document["source"], sort_keys=True): document for document in lives.forecasts()})
        await lives.stop(worker)
    assert len(said[0]) == 4 * 30 * len(SERIES)
    assert said[0] == {source: said[1][source] for source in said[0]}  # more was sent while a worker was away
    assert {document["model"] for document in said[0].values()} == {model}


@pytest.mark.parametrize("change", [{"channels": ["flow", "temp", "depth"]}, {"horizon": 5}, {"quantiles": [0.1, 0.5]}])
@on_virtual_clock
async def test_the_network_serves_on_in_the_changed_configuration(change: dict[str, Any]) -> None:
    lives = Lives("at-least-once")
    chosen, changed = lives.chosen({}), lives.chosen(change)
    lives.create(chosen)
    weights = published(chosen, lives.broker, "gru")
    lives.send(40)
    worker = lives.start(chosen)
    await lives.served(worker)
    worker = await lives.changed_to(worker, changed, "restart")
    lives.send(20)
    await lives.served(worker)
    documents = lives.forecasts()[-60:]
    assert {document["model"] for document in documents} == {weights}
    check_forecasts(documents)
    await lives.stop(worker)


@on_virtual_clock
async def test_weights_of_another_step_are_not_served_and_the_line_says_why() -> None:
    lives = Lives("at-least-once")
    chosen, changed = lives.chosen({}), lives.chosen({"step": "2s"})
    lives.create(chosen)
    published(chosen, lives.broker, "gru")
    lives.send(40)
    worker = lives.start(chosen)
    await lives.served(worker)
    with structlog.testing.capture_logs() as logs:
        worker = await lives.changed_to(worker, changed, "restart")
    assert worker.engine.model == "persistence"
    (refused,) = [line for line in logs if "weights refused" in line["event"]]
    assert "`step` was 1s, and is 2s" in refused["error"]
    assert len([line for line in logs if line.get("why") == "`step` was 1s, and is 2s"]) == PARTITIONS
    await lives.stop(worker)


@on_virtual_clock
async def test_what_a_change_would_cost_is_said_before_it_is_made() -> None:
    """By the comparison that the worker makes: what is said to be cold, is, and in the same words."""
    lives = Lives("at-least-once")
    chosen = lives.chosen({})
    lives.create(chosen)
    transport = MemoryTransport(lives.broker)
    assert await costs(transport, chosen) == []
    weights = published(chosen, lives.broker, "gru")
    lives.send(400)
    worker = lives.start(chosen)
    await lives.served(worker)
    await lives.stop(worker)
    assert [str(cost) for cost in await costs(transport, chosen)] == [
        "state of partitions 0-1: carried as it is",
        f"weights {weights}: carried as it is",
    ]
    for name, case in CASES.items():
        changed = lives.chosen(case.once)
        state, model = await costs(transport, changed)
        assert (state.cold, state.partitions) == (case.cold, (0, 1)), name
        assert model.cold == (case.cold and name != "decode.ts_unit"), name
        assert bool(state.what) == (changed.meaning() != chosen.meaning())
    changed = lives.chosen({"step": "5s"})
    (state, _) = await costs(transport, changed)
    with structlog.testing.capture_logs() as logs:
        worker = lives.start(changed)
        await lives.served(worker, written=False)
    assert {f"{line['why']}: everything starts cold" for line in logs if "why" in line} == set(state.what)
    await lives.stop(worker)


@pytest.mark.parametrize("name", ["a channel is added", "a longer step"])
@pytest.mark.parametrize("delivery", DELIVERIES)
@on_virtual_clock
async def test_killed_before_the_first_checkpoint_again_and_again(name: str, delivery: str) -> None:
    """A change that never comes to be written down costs no more for that."""
    lives = Lives(delivery)
    changes = {"checkpoint": {"interval": "600s"}}
    first, changed = lives.chosen({}), lives.chosen({**CASES[name].once, **changes})
    lives.create(first)
    lives.send(40)
    worker = lives.start(first)
    await lives.served(worker)
    await lives.stop(worker)
    cold = 0
    for _ in range(4):
        worker = lives.start(changed)
        lives.send(8)
        await lives.served(worker, written=False)
        cold += lives.counts(worker)[0]
        lives.kill(worker)
    assert cold == (PARTITIONS if CASES[name].cold else 0)
    worker = lives.start(changed)
    await lives.served(worker, written=False)
    if not CASES[name].cold:
        check_carried(lives, [worker], [first, changed])
    await lives.stop(worker)


@on_virtual_clock
async def test_changed_back_before_anything_of_the_change_was_written() -> None:
    """The states of before are of an earlier life: ticks went by that they have not seen."""
    lives = Lives("at-least-once")
    first = lives.chosen({})
    other = lives.chosen({"step": "2s", "checkpoint": {"interval": "600s"}})
    lives.create(first)
    lives.send(40)
    worker = lives.start(first)
    await lives.served(worker)
    await lives.stop(worker)
    worker = lives.start(other)
    lives.send(8)
    await lives.served(worker, written=False)
    lives.kill(worker)
    worker = lives.start(first)
    await lives.served(worker, written=False)
    assert lives.counts(worker) == (PARTITIONS, 0, len(SERIES))
    lives.send(1)
    await lives.served(worker)
    assert all(document["warm"] for document in lives.forecasts()[-len(SERIES) :])  # replayed from before
    await lives.stop(worker)


@pytest.mark.parametrize("compacted", [False, True])
@on_virtual_clock
async def test_states_described_twice_are_found_behind_their_description(compacted: bool) -> None:
    """Earlier versions described a layout anew at each start, and compaction keeps the last: states stand before it."""
    with mock.patch.object(changelog, "RECORDS_MAX", 2):
        await described_twice(compacted)


async def described_twice(compacted: bool) -> None:
    lives = Lives("at-least-once")
    first, changed = lives.chosen({}), lives.chosen({"horizon": 5})
    lives.create(first)
    lives.send(40)
    worker = lives.start(first)
    await lives.served(worker)
    await lives.stop(worker)
    for p in range(PARTITIONS):
        log = lives.broker.topics["app.state"][p]
        for record in [r for r in log if (r.key or b"").startswith((b"layout/", b"meaning/"))]:
            lives.broker.append("app.state", p, record.key, record.value, record.timestamp)
        if compacted:
            lives.broker.compact("app.state", p)
    worker = lives.start(changed)
    await lives.served(worker)
    assert lives.counts(worker) == (0, len(SERIES), 0)
    check_carried(lives, [worker], [first, changed])
    await lives.stop(worker)


@on_virtual_clock
async def test_a_description_is_written_once_and_stays_before_the_states_that_need_it() -> None:
    lives = Lives("at-least-once")
    chosen = lives.chosen({})
    lives.create(chosen)
    for _ in range(3):
        lives.send(20)
        worker = lives.start(chosen)
        await lives.served(worker)
        await lives.stop(worker)
    keys = [r.key for log in lives.broker.topics["app.state"] for r in log if (r.key or b"").startswith(b"layout/")]
    assert len(keys) == PARTITIONS


@on_virtual_clock
async def test_a_checkpoint_of_an_older_life_that_comes_late_does_not_bring_that_life_back() -> None:
    """At least once fences nobody: a worker of the old configuration wakes up when another has begun anew."""
    lives = Lives("at-least-once")
    first, changed = lives.chosen({}), lives.chosen({"step": "2s"})
    lives.create(first)
    lives.send(40)
    worker = lives.start(first)
    await lives.served(worker)
    worker = await lives.changed_to(worker, changed, "restart")
    lives.send(20)
    await lives.served(worker)
    lives.kill(worker)
    for p in range(PARTITIONS):
        log = lives.broker.topics["app.state"][p]
        old = next(r for r in reversed(log) if r.key == b"checkpoint" and json.loads(r.value or b"")["life"] == 1)
        lives.broker.append("app.state", p, old.key, old.value, old.timestamp)
    worker = lives.start(changed)
    await lives.served(worker, written=False)
    assert lives.counts(worker) == (0, 0, 0)
    await lives.stop(worker)


@pytest.mark.parametrize("name", ["a longer step", "a channel is added"])
@on_virtual_clock
async def test_what_nothing_came_of_is_deleted_and_the_rest_is_written_anew(name: str) -> None:
    lives = Lives("exactly-once")
    # A replay goes back by so many records.
    replayed = {"checkpoint": {"interval": "300ms", "records": 100}}
    first, changed = lives.chosen({}), lives.chosen({**CASES[name].once, **replayed})
    lives.create(first)
    lives.send(40)
    worker = lives.start(first)
    await lives.served(worker)
    lives.send(200, SERIES[2:])  # two series say nothing any more, and are not found by a replay
    await lives.served(worker)
    worker = await lives.changed_to(worker, changed, "restart")
    lives.send(5, SERIES[2:])
    await lives.served(worker)
    await lives.stop(worker)
    newest = {r.key: r.value for log in lives.broker.topics["app.state"] for r in log if not r.marker}
    deleted = {series for series in SERIES if newest[b"s/" + series.encode()] is None}
    assert deleted == (set(SERIES[:2]) if CASES[name].cold else set())
    # Those that are silent, too, are of the meaning of now: the next change is not the second one for them.
    layouts = {(newest[b"s/" + s.encode()] or b"")[24:32] for s in SERIES if s not in deleted}
    assert layouts == {worker.snapshots.layout()[0].to_bytes(8, "little")}
    assert json.loads(newest[b"checkpoint"] or b"")["meaning"]["step"] == changed.meaning().step
