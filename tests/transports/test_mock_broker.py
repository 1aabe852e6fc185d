"""librdkafka's built-in broker, which the demo runs on: what aiokafka can and cannot do with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract import Follow, collect, send

from streamrnn.transports.base import Committed, Deadline, TopicNeed
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.transport import KafkaTransport

confluent_kafka = pytest.importorskip("confluent_kafka")


@pytest.fixture
async def transport() -> AsyncIterator[KafkaTransport]:
    handle = confluent_kafka.Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = (await asyncio.to_thread(handle.list_topics, timeout=10)).brokers.values()
    yield KafkaTransport(KafkaSettings(bootstrap_servers=",".join(f"{b.host}:{b.port}" for b in brokers)))
    del handle


async def test_topics_offsets_and_their_notes_without_a_controller(transport: KafkaTransport) -> None:
    admin = transport.admin()
    await admin.start()
    assert await admin.create([TopicNeed("t", 4, {"cleanup.policy": "compact"})]) == ["t"]
    assert await admin.describe(["t", "nowhere"]) == {"t": 4, "nowhere": None}
    await admin.stop()
    sink, source = transport.sink(), transport.source("t", "g")
    await sink.start()
    await send(sink, "t", 1, [b"%d" % i for i in range(10)])
    await source.start(Follow(source))
    assert len(await collect(source, 10)) == 10
    await source.commit({1: Committed(4, '{"replay_from":2}')}, Deadline(5.0))
    assert await source.committed([0, 1]) == {0: None, 1: Committed(4, '{"replay_from":2}')}
    await source.stop(Deadline(5.0))
    await sink.stop(Deadline(5.0))
