"""`streamrnn reset`, and two services that were given one name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import torch
from operated import BOTH, Life, done, lived, said
from running import (
    START,
    all_committed,
    committed,
    documents,
    ended,
    made,
    on_virtual_clock,
    send,
    settings,
    until,
    worker,
)
from structlog.testing import capture_logs

from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack
from streamrnn.runtime.exit_codes import ExitCode, exit_code_of
from streamrnn.serving.members import groups_of
from streamrnn.serving.reset import BadTarget, execute, plan
from streamrnn.stores.models import ModelsFollower, ModelsWriter
from streamrnn.training.trainer import Trainer
from streamrnn.transports.base import Deadline, GroupAlive, TopicUnfit
from streamrnn.transports.memory.transport import MemoryBroker, MemorySource, MemoryTransport


def weights(chosen: Any, seed: int) -> tuple[str, bytes]:
    torch.manual_seed(seed)
    meta = WeightsMeta()
    blob = pack(Network(chosen.model_spec()), meta)
    return meta.id, blob


def begun(logs: Any) -> dict[int, int]:
    """Where each partition was read from."""
    return {entry["partition"]: entry["replay_from"] for entry in logs if entry["event"] == "partition assigned"}


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("compacted", [False, True])
@on_virtual_clock
async def test_states_that_were_deleted_are_never_seen_again(delivery: str, compacted: bool) -> None:
    chosen, broker = made(partitions=2)
    send(broker, 40)
    await lived(broker, delivery=delivery)
    wanted = await done(broker, chosen, state=True)
    assert wanted.series == 4 and set(wanted.states) == {0, 1}
    if compacted:
        for partition in (0, 1):
            broker.compact("app.state", partition)
    send(broker, 5, first=40)
    with capture_logs() as logs:
        life = await lived(broker, delivery=delivery)
    assert life.worker.observer.metrics.cold_starts._value.get() == 0  # it was asked for
    assert begun(logs) == {0: 0, 1: 0}  # beside the committed offset stands where the replay begins without a state
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert len(said(broker)) == 90
    # And the states that were made since are those of the next life.
    for first in (45, 50):
        send(broker, 5, first=first)
        with capture_logs() as logs:
            life = await lived(broker, delivery=delivery)
        assert begun(logs) == {0: 2 * first, 1: 2 * first}
        assert life.worker.observer.metrics.cold_starts._value.get() == 0
        assert not life.refused()
    assert len(said(broker)) == 110


@BOTH
@pytest.mark.parametrize("how", ["a restart", "a kill", "a rebalance", "two restarts"])
@on_virtual_clock
async def test_states_that_are_deleted_shortly_after_a_start_are_warm_again_all_the_same(
    delivery: str, how: str
) -> None:
    """Where a replay makes a partition warm is known from before: whoever takes it up has yet to see `warm_up` steps."""
    chosen, broker = made(partitions=1)
    send(broker, 40, partitions=1)
    life, rebalanced = Life(broker, delivery=delivery), how == "a rebalance"
    await life.serves()
    if how == "a kill":
        life.kill()
    elif rebalanced:
        other = Life(broker, delivery=delivery)
        await until(lambda: len(broker.group("app").members) == 2)
        await other.stop()
        await life.serves()
    else:
        await life.stop()
    for first in (40, 42) if how == "two restarts" else (40,):
        send(broker, 2, first=first, partitions=1)
        if rebalanced:
            await (await life.serves()).stop()
        else:
            await lived(broker, delivery=delivery)
    await done(broker, chosen, state=True)
    end = broker.end("ticks", 0)
    send(broker, 2, first=end // 2, partitions=1)
    sent = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        await lived(broker, delivery=delivery)
    found = said(broker, sent)
    assert len(found) == 4 and all(json.loads(text)["warm"] for _, text in found)
    assert begun(logs)[0] <= end - 2 * chosen.warm_up


@on_virtual_clock
async def test_a_reset_that_was_cut_off_leaves_no_state_that_looks_whole() -> None:
    chosen, broker = made(partitions=1)
    send(broker, 40, partitions=1)
    await lived(broker)
    wanted = await plan(MemoryTransport(broker), chosen, True, False, None)
    wanted.states = {0: wanted.states[0][:2]}  # the checkpoint and one series of two
    await execute(MemoryTransport(broker), chosen, wanted)
    send(broker, 5, first=40, partitions=1)
    with capture_logs() as logs:
        await lived(broker)
    assert begun(logs) == {0: 0}
    assert len(said(broker)) == 90
    # The rest was an orphan of an earlier incarnation, and is deleted by now.
    broker.compact("app.state", 0)
    lives = {json.loads(r.value)["life"] for r in broker.topics["app.state"][0] if r.key == b"checkpoint" and r.value}
    assert lives == {2}
    life = await lived(broker)
    assert not life.refused()


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@on_virtual_clock
async def test_weights_that_were_deleted_are_not_served_and_new_ones_are() -> None:
    chosen, broker = made(partitions=1)
    writer = ModelsWriter(MemoryTransport(broker).sink(), "app.models")
    first, second = weights(chosen, 1), weights(chosen, 2)
    await writer.publish(*first, {}, START)
    send(broker, 40, partitions=1)
    await lived(broker)
    assert {d["model"] for d in documents(broker, "app.forecasts")} == {first[0]}
    wanted = await done(broker, chosen, models=True)
    assert wanted.versions == 1
    send(broker, 5, first=40, partitions=1)
    await lived(broker)
    assert [d["model"] for d in documents(broker, "app.forecasts")][-10:] == ["persistence"] * 10
    follower = ModelsFollower(MemoryTransport(broker), "app.models")
    await follower.start()
    await follower.catch_up()
    assert follower.pointer is None and not follower.manifests
    await writer.publish(*second, {}, START)
    follower = ModelsFollower(MemoryTransport(broker), "app.models")
    await follower.start()
    await follower.catch_up()
    assert follower.pointer is not None and follower.pointer.id == second[0]
    assert list(follower.manifests) == [second[0]]
    assert not follower.ignored


# ── offsets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@on_virtual_clock
async def test_offsets_that_were_set_are_where_processing_goes_on(delivery: str) -> None:
    chosen, broker = made(partitions=1)
    send(broker, 40, partitions=1)
    await lived(broker, delivery=delivery)
    wanted = await done(broker, chosen, to="-20")
    assert [(move.now, move.to, move.records) for move in wanted.moves] == [(80, 60, 20)]
    life = await lived(broker, delivery=delivery)
    assert life.counted() == (1, 0, 0)
    assert [offset for offset, _ in sorted(said(broker))] == sorted([*range(80), *range(60, 80)])


@pytest.mark.parametrize(
    ("to", "wanted"),
    [
        ("earliest", {0: 5, 1: 0}),
        ("latest", {0: 80, 1: 80}),
        ("40", {0: 40, 1: 40}),
        ("0", {0: 5, 1: 0}),
        ("9999", {0: 80, 1: 80}),
        ("1:33", {1: 33}),
        ("0:7,1:33", {0: 7, 1: 33}),
        ("-30", {0: 50, 1: 50}),
        ("+30", {0: 80, 1: 80}),
        ("2023-11-14T22:13:40Z", {0: 40, 1: 40}),
        ("2023-11-14T23:13:40+01:00", {0: 40, 1: 40}),
        ("2030-01-01T00:00:00Z", {0: 80, 1: 80}),
    ],
)
@on_virtual_clock
async def test_where_to_is_written_in_many_ways(to: str, wanted: dict[int, int]) -> None:
    chosen, broker = made(partitions=2)
    send(broker, 40)
    await lived(broker)
    del broker.topics["ticks"][0][:5]
    broker.begin["ticks", 0] = 5
    await done(broker, chosen, to=to)
    assert committed(broker) == {0: 80, 1: 80} | wanted


@pytest.mark.parametrize("to", ["", "yesterday", "2023-11-14T22:13:40", "7:1", "--3", "1:2;3:4", "0x10"])
@on_virtual_clock
async def test_what_is_no_place_is_refused(to: str) -> None:
    chosen, broker = made(partitions=2)
    with pytest.raises(BadTarget) as raised:
        await plan(MemoryTransport(broker), chosen, False, False, to)
    assert exit_code_of(raised.value) is ExitCode.USAGE


# ── while somebody is there ──────────────────────────────────────────────────────────────────────────────────────────


class Nothing:
    async def revoked(self, partitions: frozenset[int]) -> None: ...
    async def assigned(self, partitions: frozenset[int]) -> None: ...


@pytest.mark.parametrize("group", groups_of(settings()))
async def test_nothing_is_reset_while_workers_or_trainers_are_alive(group: str) -> None:
    chosen, broker = made(partitions=1)
    send(broker, 10, partitions=1)
    ready = await plan(MemoryTransport(broker), chosen, True, True, "earliest")
    member = MemorySource(broker, "ticks" if group == "app" else "app.models", group, "w7")
    await member.start(Nothing())
    before = {topic: [len(log) for log in logs] for topic, logs in broker.topics.items()}
    for attempt in (
        plan(MemoryTransport(broker), chosen, True, True, "earliest"),
        execute(MemoryTransport(broker), chosen, ready),
    ):
        with pytest.raises(GroupAlive, match=f"group {group} has 1 live members .w7.") as raised:
            await attempt
        assert exit_code_of(raised.value) is ExitCode.ALIVE
    assert before == {topic: [len(log) for log in logs] for topic, logs in broker.topics.items()}
    await member.stop(Deadline(1.0))


# ── two services with one name ───────────────────────────────────────────────────────────────────────────────────────


def shared() -> tuple[Any, MemoryBroker]:
    chosen, broker = made(partitions=2)
    broker.create("others", 2)
    return chosen, broker


@BOTH
async def test_a_second_service_with_the_same_app_is_refused_and_the_first_goes_on(delivery: str) -> None:
    _, broker = shared()
    chosen = settings(delivery=delivery)
    send(broker, 20)
    async with worker(chosen, broker) as first:
        await until(lambda: all_committed(broker))
        generation = broker.groups["app"].generation
        with pytest.raises(TopicUnfit) as raised:
            async with worker(settings(input="others", delivery=delivery), broker) as second:
                await until(lambda: ended(second))
        assert exit_code_of(raised.value) is ExitCode.TOPIC
        assert "group app: has members that read ticks and not others" in str(raised.value)
        assert "another `app`" in str(raised.value)
        assert broker.groups["app"].generation == generation  # it has not even joined
        send(broker, 20, first=20)
        await until(lambda: all_committed(broker))
        assert first.observer.metrics.zombie_writes._value.get() == 0
    assert len(said(broker)) + len(broker.topics["app.forecasts"][1]) >= 160


async def test_a_trainer_of_another_input_is_refused_too() -> None:
    chosen, broker = shared()
    async with worker(chosen, broker):
        await until(lambda: bool(broker.groups["app"].members) if "app" in broker.groups else False)
        with pytest.raises(TopicUnfit, match="members that read ticks and not others"):
            await Trainer(settings(input="others"), MemoryTransport(broker)).run()


@BOTH
@on_virtual_clock
async def test_states_of_another_input_are_refused_while_its_service_is_away_and_left_alone(delivery: str) -> None:
    _, broker = shared()
    send(broker, 20)
    await lived(broker, delivery=delivery)
    kept = [[record.value for record in log] for log in broker.topics["app.state"]]
    broker.append("others", 0, b"a0", b"{}", START)
    life = Life(broker, input="others", delivery=delivery)
    with pytest.raises(TopicUnfit, match=r"holds the states of input 'ticks', and `input` is 'others'"):
        await asyncio.wait_for(life.task, 60)
    assert [[record.value for record in log] for log in broker.topics["app.state"]] == kept
    # An input that was renamed: the remedy that the message names.
    await done(broker, settings(), state=True)
    life = Life(broker, input="others", delivery=delivery)
    await until(lambda: life.task.done() or (life.worker.pump is not None and len(life.worker.pump.owned) == 2))
    await life.stop()


@on_virtual_clock
async def test_two_that_start_at_the_same_time_do_not_both_serve() -> None:
    _, broker = shared()

    async def slow(what: str, client: str, effect: Any) -> Any:
        await asyncio.sleep(0.001)
        return effect()

    broker.hook = slow
    lives = [Life(broker), Life(broker, input="others")]
    await until(lambda: any(life.task.done() for life in lives))
    await asyncio.sleep(20.0)
    over = [life for life in lives if life.task.done()]
    for life in over:
        assert isinstance(life.task.exception(), TopicUnfit)
    for life in lives:
        if life not in over:
            await life.stop()
