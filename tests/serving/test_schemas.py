"""A worker with a schema registry: away, back, closed to us; nothing lost, nothing refused for it."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from registry import Registered, serving
from running import START, all_committed, ended, logs, made, of, sources, until, worker
from test_registry import WIDE

from streamrnn.training.trainer import Trainer
from streamrnn.transports.base import clock_s
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport
from streamrnn.transports.registry import RegistryRefuses

AT = datetime.fromtimestamp(START / 1000, UTC)


def chosen_for(registered: Registered, **changes: Any) -> Any:
    return made(registry={"url": registered.url}, decode={"format": "avro"}, train="off", **changes)


def encoded(registered: Registered, name: str, steps: range, series: str) -> list[bytes]:
    serializer = AvroSerializer(SchemaRegistryClient({"url": registered.url}), json.dumps({**WIDE, "name": name}))
    found = []
    for step in steps:
        row = {"series": series, "ts": AT + timedelta(seconds=step), "values": {"temp": step * 1.0, "flow": 1.0}}
        found.append(serializer(row, SerializationContext("ticks", MessageField.VALUE)))
    return found


def send(broker: MemoryBroker, partition: int, first: int, values: list[bytes]) -> None:
    for step, value in enumerate(values, first):
        broker.append("ticks", partition, None, value, START + 1000 * step)


def offsets(broker: MemoryBroker, partition: int) -> list[int]:
    return sorted(offset for p, offset in sources(broker) if p == partition)


async def test_a_registry_that_goes_away_and_comes_back_costs_no_record_and_holds_no_other_partition_up() -> None:
    with serving() as registered, logs() as lines:
        chosen, broker = chosen_for(registered)
        first, second = encoded(registered, "Old", range(9), "a"), encoded(registered, "Old", range(12), "b")
        new = encoded(registered, "New", range(9, 12), "a")
        send(broker, 0, 0, first[:5])
        send(broker, 1, 0, second[:5])
        async with worker(chosen, broker) as running:
            health = running.observer.health
            await until(lambda: all_committed(broker))
            registered.away = True
            # One of a schema that is not known yet, between others that are.
            send(broker, 0, 5, [*first[5:7], new[0], *first[7:], *new[1:]])
            await until(lambda: 0 in health.without_schema and running.fetcher.trouble)  # type: ignore[union-attr]
            send(broker, 1, 5, second[5:])
            await until(lambda: offsets(broker, 1) == [*range(12)])
            await until(lambda: offsets(broker, 0) == [*range(7)])
            ready, why = health.ready(clock_s())
            assert not ready
            assert "records wait for their schemas: partition 0: the registry" in why
            health.partitions[0].moved_s -= 1e6
            assert health.live(clock_s())[0]
            registered.away = False
            await until(lambda: all_committed(broker) and health.ready(clock_s())[0])
        assert [*offsets(broker, 0), *offsets(broker, 1)] == [*range(12), *range(12)]
        assert (
            len(of(lines, "records wait for their schemas")) == len(of(lines, "the schema registry answers again")) == 1
        )
        late = [dict(record.headers)["streamrnn-reason"] for log in broker.topics["app.dlq"] for record in log]
        assert late == [b"late"] * 2  # 7 and 8 after 9, as they were written


async def test_a_wrong_password_ends_the_worker_with_the_reason() -> None:
    with serving() as registered:
        registered.password = "right"
        chosen, broker = made(
            registry={"url": registered.url, "username": "user", "password": "wrong"}, decode={"format": "avro"}
        )
        with pytest.raises(RegistryRefuses, match="does not let us in"):
            async with worker(chosen, broker) as running:
                await until(lambda: ended(running))


async def test_a_worker_starts_with_its_registry_away_and_is_ready_when_it_is_back() -> None:
    with serving() as registered:
        chosen, broker = chosen_for(registered)
        for partition in (0, 1):
            send(broker, partition, 0, encoded(registered, "Old", range(3), f"s{partition}"))
        registered.away = True
        async with worker(chosen, broker) as running:
            health = running.observer.health
            await until(lambda: len(health.without_schema) == 2)
            assert not health.ready(clock_s())[0]
            assert sources(broker) == []
            registered.away = False
            await until(lambda: all_committed(broker) and health.ready(clock_s())[0])
        assert sorted(sources(broker)) == [(p, offset) for p in (0, 1) for offset in range(3)]


async def test_the_trainer_waits_for_the_registry_and_loses_no_tick() -> None:
    with serving() as registered:
        chosen, broker = chosen_for(registered)
        send(broker, 0, 0, encoded(registered, "Old", range(30), "a"))
        registered.away = True
        trainer = Trainer(chosen, MemoryTransport(broker))
        running = asyncio.create_task(trainer.run())
        try:
            await until(lambda: trainer.state == "waiting-for-schemas")
            registered.away = False
            await until(lambda: trainer.learner.ticks == 30)
        finally:
            trainer.stop()
            await asyncio.wait_for(running, 30)
