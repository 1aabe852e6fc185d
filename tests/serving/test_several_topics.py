"""An input of several topics: each record keeps its own source, states keep their partition whatever topics come and go."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from running import START, documents, logs, of, on_virtual_clock, settings, tick, until, worker

from streamrnn.config.settings import ConfigError, Settings
from streamrnn.inputs import Place
from streamrnn.stores.changelog import CHECKPOINT, newest_checkpoints
from streamrnn.stores.directory import Directory
from streamrnn.transports.base import Deadline, NotPermitted, TopicNeed, TopicUnfit
from streamrnn.transports.memory.transport import MemoryAdmin, MemoryBroker, MemoryTransport

SOON = {"bootstrap_servers": "none", "metadata_max_age_ms": 500}


def served(topics: Mapping[str, int], input_: Any = None, **changes: Any) -> tuple[Settings, MemoryBroker]:
    broker = MemoryBroker()
    chosen = settings(input=input_ or list(topics), kafka=SOON, checkpoint={"interval": "50ms"}, **changes)
    for name, partitions in topics.items():
        broker.create(name, partitions)
    for need in chosen.topic_needs(max(1, sum(topics.values()))):
        broker.create(need.name, need.partitions)
    return chosen, broker


def fill(broker: MemoryBroker, topic: str, count: int) -> None:
    """`count` more steps of a series in each partition."""
    for partition, log in enumerate(broker.topics[topic]):
        name = f"{topic}-{partition}"
        for step in range(len(log), len(log) + count):
            broker.append(topic, partition, name.encode(), tick(name, step, float(step % 7)), START + 1000 * step)
    broker.announce()


def offsets(broker: MemoryBroker) -> dict[Place, int]:
    known = broker.groups["app"].committed if "app" in broker.groups else {}
    return {place: entry.offset for place, entry in known.items()}


def ends(broker: MemoryBroker, *topics: str) -> dict[Place, int]:
    return {(topic, p): broker.end(topic, p) for topic in topics for p in range(len(broker.topics[topic]))}


def read(broker: MemoryBroker, *topics: str) -> Callable[[], bool]:
    def all_of_it() -> bool:
        known = offsets(broker)
        return all(known.get(place) == end for place, end in ends(broker, *topics).items())

    return all_of_it


def said(broker: MemoryBroker) -> list[tuple[str, int, int]]:
    return [
        (s["topic"], s["partition"], s["offset"]) for s in (d["source"] for d in documents(broker, "app.forecasts"))
    ]


def numbers(broker: MemoryBroker) -> dict[Place, int]:
    found: dict[Place, int] = {}
    for record in broker.topics["app.inputs"][0]:
        if record.value is not None:
            claim = json.loads(record.value)
            for k in range(claim["count"]):
                place, number = (claim["topic"], claim["first"] + k), claim["number"] + k
                if place not in found and number not in found.values():
                    found[place] = number
    return found


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@on_virtual_clock
async def test_every_output_says_the_topic_that_its_record_is_of(delivery: str) -> None:
    chosen, broker = served({"b": 2, "a": 1}, delivery=delivery)
    for topic in ("a", "b"):
        fill(broker, topic, 20)
        broker.append(topic, 0, b"k", b"{", START)
        broker.append(topic, 0, b"k", tick(f"{topic}-0", 3, 1.0), START + 30_000)  # late
    async with worker(chosen, broker) as running:
        await until(read(broker, "a", "b"))
        assert {"b/0", "b/1", "a/0"} == set(running.observer.status()["partitions"])
    everything = {(t, p, o) for t in ("a", "b") for p in range(len(broker.topics[t])) for o in range(20)}
    assert set(said(broker)) == everything
    assert len(said(broker)) == len(everything)
    for document in documents(broker, "app.forecasts"):
        source = document["source"]
        assert document["series"] == f"{source['topic']}-{source['partition']}"
    letters = {dict(r.headers)["streamrnn-source"] for log in broker.topics["app.dlq"] for r in log if r.value}
    assert letters == {b"a/0/20", b"a/0/21", b"b/0/20", b"b/0/21"}
    assert numbers(broker) == {("b", 0): 0, ("b", 1): 1, ("a", 0): 2}  # in the order of `input`
    found = await newest_checkpoints(MemoryTransport(broker), "app.state", 5.0)
    assert {n: (c.input, n if c.partition < 0 else c.partition) for n, c in found.items()} == {
        0: ("b", 0), 1: ("b", 1), 2: ("a", 0),
    }  # fmt: skip


@pytest.mark.parametrize("input_", [["^sensors\\."], ["sensors.b", "sensors.a", "sensors.c"]])
@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@on_virtual_clock
async def test_a_topic_that_appears_is_read_without_a_restart(input_: list[str], delivery: str) -> None:
    chosen, broker = served({"sensors.b": 1}, input_, delivery=delivery, start="latest")
    broker.create("other", 1)
    async with worker(chosen, broker):
        await until(lambda: "sensors.b" in broker.topics and bool(broker.groups.get("app")))
        await asyncio.sleep(1.0)
        fill(broker, "sensors.b", 10)
        await until(read(broker, "sensors.b"))
        broker.create("sensors.a", 2)
        fill(broker, "sensors.a", 10)  # before anybody has seen it: `start: latest` leaves nothing of it out
        fill(broker, "sensors.b", 10)
        await until(read(broker, "sensors.a", "sensors.b"))
        broker.create("sensors.c", 1)
        fill(broker, "sensors.c", 5)
        await until(read(broker, "sensors.a", "sensors.b", "sensors.c"))
    assert sorted(said(broker)) == sorted(
        (t, p, o)
        for t, count in (("sensors.a", 10), ("sensors.b", 20), ("sensors.c", 5))
        for p in range(len(broker.topics[t]))
        for o in range(count)
    )  # each once: the rebalance for a new topic repeats nothing
    assert numbers(broker) == {
        ("sensors.b", 0): 0, ("sensors.a", 0): 1, ("sensors.a", 1): 2, ("sensors.c", 0): 3,
    }  # fmt: skip
    assert len(broker.topics["app.state"]) == 4  # grown by the worker


@on_virtual_clock
async def test_a_topic_that_goes_away_and_comes_back_has_the_numbers_that_it_had() -> None:
    chosen, broker = served({"a": 2, "b": 1})
    fill(broker, "a", 10)
    fill(broker, "b", 10)
    async with worker(chosen, broker) as running:
        await until(read(broker, "a", "b"))
        broker.delete("a")
        await until(lambda: running.inputs.topics == ["b"])
        fill(broker, "b", 10)
        await until(read(broker, "b"))
        broker.create("c", 1)  # not ours
        broker.create("a", 3)
        fill(broker, "a", 12)
        await until(read(broker, "a", "b"))
        assert running.observer.metrics.rebuilds._value.get() == 0
    assert numbers(broker) == {("a", 0): 0, ("a", 1): 1, ("b", 0): 2, ("a", 2): 3}
    again = [o for t, p, o in said(broker) if (t, p) == ("a", 0)]
    assert again == [*range(10), *range(12)]  # it was made anew: nothing of the former one counts


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@on_virtual_clock
async def test_a_service_of_one_topic_keeps_its_states_when_its_input_becomes_a_list_and_back(delivery: str) -> None:
    chosen, broker = served({"a": 2, "b": 3}, "a", delivery=delivery)
    fill(broker, "a", 20)
    async with worker(chosen, broker):
        await until(read(broker, "a"))
    assert "app.inputs" not in broker.topics
    several = chosen.model_copy(update={"input": ("b", "a")})
    fill(broker, "a", 5)
    fill(broker, "b", 5)
    broker.create("app.inputs", 1)
    async with worker(several, broker) as running:
        await until(read(broker, "a", "b"))
        assert running.observer.metrics.cold_starts._value.get() == 0
        assert running.observer.metrics.restored._value.get() >= 2
    assert numbers(broker) == {("a", 0): 0, ("a", 1): 1, ("b", 0): 2, ("b", 1): 3, ("b", 2): 4}
    broker.topics["a"] += [[]]
    fill(broker, "a", 5)
    async with worker(chosen, broker) as running:  # one topic again: a/2 has another number than its own
        await until(read(broker, "a"))
        assert running.observer.metrics.cold_starts._value.get() == 0
        assert running.observer.metrics.restored._value.get() >= 2
    assert numbers(broker)["a", 2] == 5
    assert sorted(said(broker)) == sorted(
        (t, p, o) for (t, p), end in ends(broker, "a", "b").items() for o in range(end)
    )


@on_virtual_clock
async def test_two_workers_and_one_that_is_killed_share_the_topics_and_their_states() -> None:
    chosen, broker = served({"a": 2, "b": 2, "c": 1})
    for topic in "abc":
        fill(broker, topic, 10)
    async with worker(chosen, broker) as first:
        async with worker(chosen, broker) as second:
            await until(read(broker, "a", "b", "c"))
            await until(lambda: first.pump is not None and second.pump is not None and second.pump.owned)
            shares = [set(w.pump.owned) for w in (first, second) if w.pump is not None]
            assert shares[0] | shares[1] == set(range(5))
            assert not shares[0] & shares[1]
            for topic in "abc":
                fill(broker, topic, 10)
            await until(read(broker, "a", "b", "c"))
        for topic in "abc":
            fill(broker, topic, 10)
        await until(read(broker, "a", "b", "c"))
        assert first.observer.metrics.cold_starts._value.get() == 0
    assert len(said(broker)) == len(set(said(broker))) == 5 * 30


@on_virtual_clock
async def test_the_first_start_makes_room_for_topics_that_came_since_the_service_s_own_were_made() -> None:
    chosen, broker = served({"t.a": 1}, ["^t\\."])
    broker.create("t.b", 2)
    for topic in ("t.a", "t.b"):
        fill(broker, topic, 5)
    async with worker(chosen, broker):
        await until(read(broker, "t.a", "t.b"))
    assert len(broker.topics["app.state"]) == 3


@on_virtual_clock
async def test_where_no_topic_has_room_the_start_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "admin", lambda self: MayNotGrow(self.broker, self.client))
    chosen, broker = served({"t.a": 1}, ["^t\\."])
    broker.topics["t.a"] += [[]]
    with pytest.raises(TopicUnfit, match="streamrnn topics --create"):
        async with worker(chosen, broker):
            await asyncio.sleep(5.0)


class MayNotGrow(MemoryAdmin):
    async def create(self, needs: Sequence[TopicNeed]) -> list[str]:
        if needs:
            raise NotPermitted("adding partitions: not permitted")
        return []


@on_virtual_clock
async def test_a_topic_without_room_for_its_states_is_not_read_and_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryTransport, "admin", lambda self: MayNotGrow(self.broker, self.client))
    chosen, broker = served({"t.a": 1}, ["^t\\."])
    fill(broker, "t.a", 5)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            await until(read(broker, "t.a"))
            broker.create("t.b", 1)
            fill(broker, "t.b", 5)
            await until(lambda: of(lines, "input topics are not read"))
            fill(broker, "t.a", 5)
            await until(read(broker, "t.a"))
            assert ("t.b", 0) not in offsets(broker)
            broker.topics["app.state"] += [[]]  # by `streamrnn topics --create`
            await until(read(broker, "t.a", "t.b"))
            assert running.observer.metrics.rebuilds._value.get() == 0
    (line,) = of(lines, "input topics are not read")
    assert (line["topics"], line["have"], line["needed"]) == (["t.b"], 1, 2)


@on_virtual_clock
async def test_a_pattern_takes_no_topic_of_the_service_or_of_kafka_s_own() -> None:
    chosen, broker = served({"a": 1}, "^.")
    broker.create("__consumer_offsets", 3)
    fill(broker, "a", 5)
    async with worker(chosen, broker) as running:
        await until(read(broker, "a"))
        assert list(running.inputs.topics) == ["a"]


# ── the directory ────────────────────────────────────────────────────────────────────────────────────────────────────


def directory(broker: MemoryBroker) -> Directory:
    return Directory(MemoryTransport(broker, "w"), "app.inputs", "app.state", lambda: START)


@pytest.mark.parametrize("seed", range(40))
@on_virtual_clock
async def test_all_who_claim_at_the_same_time_come_to_the_same_numbers(seed: int) -> None:
    """And whoever reads later, after compaction, too; nothing that had a number ever has another."""
    rng, broker = random.Random(seed), MemoryBroker()
    broker.create("app.inputs", 1)
    broker.create("app.state", 4)

    async def late(what: str, client: str, effect: Callable[[], Any]) -> Any:
        await asyncio.sleep(rng.expovariate(10))
        answer = effect()
        await asyncio.sleep(rng.expovariate(10))
        return answer

    broker.hook = late
    places = [(topic, p) for topic in "abc" for p in range(3)]
    known: dict[Place, int] = {}
    all_of_them: list[Directory] = []
    for _ in range(3):
        round_ = [directory(broker) for _ in range(rng.randint(1, 4))]
        wanted = [rng.sample(places, rng.randint(1, len(places))) for _ in round_]
        await asyncio.gather(*(each.admit(some, later=False) for each, some in zip(round_, wanted, strict=True)))
        for each, some in zip(round_, wanted, strict=True):
            assert all(place in each.numbering.known() for place in some)
        all_of_them += round_
        for each in all_of_them:
            await each.read()
            found = dict(each.numbering.known())
            assert len(set(found.values())) == len(found)
            assert found == dict(all_of_them[0].numbering.known())
        assert known.items() <= found.items()
        known = found
        broker.compact("app.inputs", 0)


@on_virtual_clock
async def test_a_directory_that_was_deleted_is_made_again_from_the_states() -> None:
    chosen, broker = served({"b": 1, "a": 2})
    fill(broker, "a", 10)
    fill(broker, "b", 10)
    async with worker(chosen, broker):
        await until(read(broker, "a", "b"))
    before = numbers(broker)
    broker.delete("app.inputs")
    broker.create("app.inputs", 1)
    other = chosen.model_copy(update={"input": ("a", "b")})
    fill(broker, "a", 5)
    async with worker(other, broker) as running:
        await until(read(broker, "a", "b"))
        assert running.observer.metrics.cold_starts._value.get() == 0
    assert numbers(broker) == before


@on_virtual_clock
async def test_states_of_another_partition_are_refused_whatever_the_directory_says() -> None:
    chosen, broker = served({"a": 1, "b": 1})
    fill(broker, "a", 10)
    fill(broker, "b", 10)
    async with worker(chosen, broker):
        await until(read(broker, "a", "b"))
    broker.delete("app.inputs")
    broker.create("app.inputs", 1)
    for at, topic in enumerate("ba"):  # somebody has written it by hand
        claim = {"topic": topic, "first": 0, "count": 1, "number": at}
        broker.append("app.inputs", 0, b"claim/%d" % at, json.dumps(claim).encode(), START)
    with pytest.raises(TopicUnfit, match="holds the states of input"):
        async with worker(chosen, broker):
            await asyncio.sleep(30.0)
    assert any(record.key == CHECKPOINT for record in broker.topics["app.state"][0])


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"topic":"a","first":-1,"count":1,"number":0}', b'{"version":2}'])
@on_virtual_clock
async def test_what_is_no_claim_is_refused_with_its_reason(value: bytes) -> None:
    _, broker = served({"a": 1, "b": 1})
    broker.append("app.inputs", 0, b"claim/x", value, START)
    with pytest.raises(TopicUnfit, match="newer version" if b"version" in value else "holds what is no claim"):
        await directory(broker).admit([("a", 0)], later=False)


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("a,b", "write several as a list"),
        ("^(", "cannot be used"),
        ([], "name a topic"),
        (["a", "a"], "named twice"),
        (["a", ""], "empty"),
        (["a", 3], "write it in quotes"),
        ({"a": 1}, "a list of topics"),
    ],
)
def test_an_input_that_cannot_be_meant_is_refused(written: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        settings(input=written)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("written", ["ticks", ["a", "b"], "^a"])
def test_the_effective_configuration_says_it_as_it_is_written(written: Any) -> None:
    assert settings(input=written).effective()["input"] == written


def test_a_list_of_one_is_that_topic() -> None:
    assert settings(input=["ticks"]).input == "ticks"
    assert settings(input="ticks").topic_needs(3) == settings(input=["ticks"]).topic_needs(3)


@on_virtual_clock
async def test_a_reader_without_a_group_reads_all_of_them() -> None:
    from streamrnn.serving.input_topics import to_be_read

    chosen, broker = served({"a": 2, "b": 1})
    fill(broker, "a", 3)
    fill(broker, "b", 4)
    transport = MemoryTransport(broker)
    inputs, reader = await to_be_read(transport, chosen), transport.reader()
    assert not isinstance(inputs, str)
    await reader.start(inputs, None)
    assert sum((await reader.end_offsets()).values()) == 10
    polled = [record for _, records in await reader.poll(0, 100) for record in records]
    assert {(r.topic, r.partition) for r in polled} == {("a", 0), ("a", 1), ("b", 0)}
    assert inputs.numbering.numbers(polled).tolist() == [inputs.numbering.number(r.topic, r.partition) for r in polled]
    await reader.stop(Deadline(1.0))
