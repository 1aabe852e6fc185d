"""Records of many ticks in the service: delivered, committed, replayed and dead-lettered as wholes, element by element."""

from __future__ import annotations

import functools
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from running import START, all_committed, committed, documents, made, on_virtual_clock, until, worker

from streamrnn.inputs import Numbering
from streamrnn.records import Outputs, Skipped
from streamrnn.serving.pump import Pump
from streamrnn.stream.engine import Engine
from streamrnn.transports.base import TransportError
from streamrnn.transports.memory.transport import MemoryBroker
from streamrnn.wire.codec import Decoder

SERIES = 100
DECODE = {"each": "readings[*]", "where": {"kind": "pump"}}


def reading(series: str, step: int, temp: Any = 1.0, kind: str = "pump") -> dict[str, Any]:
    return {"series": series, "kind": kind, "ts": START + 1000 * step, "values": {"temp": temp, "flow": 2.0}}


def send(broker: MemoryBroker, partition: int, readings: list[dict[str, Any]], step: int) -> None:
    broker.append("ticks", partition, b"key", json.dumps({"readings": readings}).encode(), START + 1000 * step)


def fill(broker: MemoryBroker) -> dict[tuple[int, int, int], str]:
    """Records of 0, 1 and 500 ticks; by (partition, offset, index) the series of each tick."""
    expected: dict[tuple[int, int, int], str] = {}
    for partition in range(2):
        offset = step = 0
        for count in (0, 1, 500, 3, 500, 1, 0):
            # Five steps of a hundred series are 500 ticks.
            names = [f"s{partition}-{i % SERIES}" for i in range(count)]
            send(broker, partition, [reading(name, step + i // SERIES, i) for i, name in enumerate(names)], step)
            for i, name in enumerate(names):
                expected[partition, offset, i if count > 1 else -1] = name
            offset, step = offset + 1, step + 5
    return expected


def sent(broker: MemoryBroker) -> Counter[tuple[int, int, int]]:
    return Counter(
        (d["source"]["partition"], d["source"]["offset"], d["source"].get("index", -1))
        for d in documents(broker, "app.forecasts")
    )


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@on_virtual_clock
async def test_every_tick_of_every_record_has_its_forecast_once(delivery: str) -> None:
    chosen, broker = made(delivery=delivery, decode=DECODE)
    expected = fill(broker)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        skipped = running.observer.metrics.registry.get_sample_value(
            "streamrnn_input_skipped_total", {"reason": "empty"}
        )
    assert skipped == 4
    found = sent(broker)
    assert found == Counter(expected.keys())
    for document in documents(broker, "app.forecasts"):
        source = document["source"]
        assert document["series"] == expected[source["partition"], source["offset"], source.get("index", -1)]


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@on_virtual_clock
async def test_a_failure_in_the_middle_of_a_record_commits_nothing_of_it(delivery: str) -> None:
    chosen, broker = made(delivery=delivery, decode=DECODE, batch_records_max=20)
    expected = fill(broker)
    process, pieces = Engine.process, Counter[int]()
    before: dict[int, int] = {}

    def failing(engine: Engine, batch: Any, emit_from: Any = None) -> Outputs:
        if len(batch) and batch.partition[0] == 1 and batch.offset[0] == 2:
            pieces[1] += 1
            if pieces[1] == 3:  # of the 500 ticks some have been processed, and some have not
                before.update(committed(broker))
                raise TransportError("the broker is away")
        return process(engine, batch, emit_from)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "process", failing)
        async with worker(chosen, broker):
            await until(lambda: all_committed(broker))
    assert pieces[1] > 3
    assert before.get(1, 0) <= 2
    found = sent(broker)
    assert found.keys() == expected.keys()
    if delivery == "exactly-once":
        assert set(found.values()) == {1}


@on_virtual_clock
async def test_a_restart_goes_on_as_if_it_had_not_been() -> None:
    """The states after it are those of a run without it: later forecasts are equal, byte for byte."""
    outputs = []
    for restarts in (False, True):
        chosen, broker = made(partitions=1, decode=DECODE)
        for half in range(2):
            for step in range(20 * half, 20 * half + 20, 5):
                names = [f"s{i % SERIES}" for i in range(500)]
                send(
                    broker,
                    0,
                    [reading(name, step + i // SERIES, (i * 7 + step) % 13) for i, name in enumerate(names)],
                    step,
                )
            if restarts or half:
                async with worker(chosen, broker):
                    await until(functools.partial(all_committed, broker))
        outputs.append(sorted(json.dumps(d, sort_keys=True) for d in documents(broker, "app.forecasts")))
    assert len(outputs[0]) == 4000
    assert outputs[0] == outputs[1]


@on_virtual_clock
async def test_refused_elements_are_dead_lettered_one_by_one_and_others_skipped() -> None:
    chosen, broker = made(partitions=1, decode=DECODE)
    send(
        broker,
        0,
        [reading("a", 0), reading("b", 0, "warm"), reading("c", 0, kind="valve"), reading("d", 0), reading("a", 0)],
        0,
    )
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        value = running.observer.metrics.registry.get_sample_value
        assert value("streamrnn_input_skipped_total", {"reason": "where"}) == 1
        assert value("streamrnn_rejected_total", {"reason": "type"}) == 1
    assert sorted(sent(broker)) == [(0, 0, 0), (0, 0, 3)]
    letters = [dict(r.headers) for log in broker.topics["app.dlq"] for r in log]
    assert {(h["streamrnn-reason"], h["streamrnn-index"]) for h in letters} == {
        (b"type", b"1"),
        (b"duplicate", b"4"),
    } or {(h["streamrnn-reason"], h["streamrnn-index"]) for h in letters} == {(b"type", b"1"), (b"late", b"4")}
    assert {r.value for log in broker.topics["app.dlq"] for r in log} == {broker.topics["ticks"][0][0].value}


@on_virtual_clock
async def test_outputs_that_the_broker_refuses_are_dead_lettered_by_element() -> None:
    chosen, broker = made(partitions=1, decode=DECODE)
    send(broker, 0, [reading(name, 0) for name in "abcd"], 0)
    broker.refuses = lambda topic, partition, record: (
        "INVALID_TIMESTAMP" if topic == "app.forecasts" and record[0] in (b"b", b"d") else ""
    )
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    assert sorted(sent(broker)) == [(0, 0, 0), (0, 0, 2)]
    letters = [dict(r.headers) for log in broker.topics["app.dlq"] for r in log]
    assert sorted(h["streamrnn-index"] for h in letters) == [b"1", b"3"]
    assert {h["streamrnn-reason"] for h in letters} == {b"refused"}


@on_virtual_clock
async def test_a_turn_takes_about_a_batch_of_ticks() -> None:
    """Hundreds of records of hundreds of ticks are there at once: no turn takes them all, or it would last for minutes."""
    chosen, broker = made(partitions=1, decode=DECODE, batch_records_max=50)
    for step in range(0, 200, 5):
        send(broker, 0, [reading(f"s{i % SERIES}", step + i // SERIES) for i in range(500)], step)
    taken: list[int] = []
    read = Decoder.read

    def noted(decoder: Decoder, records: Any) -> Any:
        found = read(decoder, records)
        taken.append(len(found.batch))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "read", noted)
        async with worker(chosen, broker):
            await until(lambda: all_committed(broker))
    assert sum(taken) == 40 * 500
    assert max(taken) <= 1000  # two records: before any was read, they are taken for fewer ticks


def test_what_is_replayed_was_skipped_and_counted_before() -> None:
    counted: Counter[str] = Counter()
    pump = Pump.__new__(Pump)
    pump._numbering = Numbering(one="ticks")
    pump._parts = SimpleNamespace(observer=SimpleNamespace(skipped=counted.update))  # type: ignore[assignment]
    broker = MemoryBroker()
    broker.create("ticks", 1)
    for _ in range(8):
        broker.append("ticks", 0, b"k", b"[]", START)
    skipped = [Skipped(record, "where", 3) for record in broker.topics["ticks"][0]]
    pump._count_skipped(skipped, {0: 5})
    assert counted == {"where": 9}
    pump._count_skipped(skipped, {})
    assert counted == {"where": 33}


@on_virtual_clock
async def test_dead_letters_of_one_large_record_have_a_bound() -> None:
    chosen, broker = made(partitions=1, decode=DECODE)
    bad = [{**reading("a", 0, "warm"), "padding": "x" * 200} for _ in range(3000)]
    send(broker, 0, bad, 0)
    size = len(broker.topics["ticks"][0][0].value or b"")
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert (
            running.observer.metrics.registry.get_sample_value("streamrnn_rejected_total", {"reason": "type"}) == 3000
        )
    letters = [r for log in broker.topics["app.dlq"] for r in log]
    assert len(letters) * size <= 64_000_000
    assert f"{3000 - len(letters)} more elements".encode() in dict(letters[-1].headers)["streamrnn-detail"]
