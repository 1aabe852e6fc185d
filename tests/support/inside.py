"""A worker inside the test's own process, on a real broker: its parts can be looked at, and its impatience set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from aiokafka import AIOKafkaProducer
from broker import Broker
from service import configure

from streamrnn.config.settings import Settings, load
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.worker import Worker
from streamrnn.transports.base import TopicNeed
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.transport import KafkaTransport

# A second of event time each: the ticks of a long test must not come to lie in the future.
BACK_MS = 1_000_000_000
CHANNELS = '"temp":1.0,"flow":2.0,"pressure":3.0,"vibration":4.0'


async def prepared(broker: Broker, folder: Path, app: str, partitions: int = 2, **changes: Any) -> Settings:
    """The settings of a service whose topics are there."""
    # Worker and test share a process here: a session as short as that of the kill runs would end by the test's own work.
    kafka = {"bootstrap_servers": broker.servers, "session_timeout_ms": 6000, "heartbeat_interval_ms": 1000}
    chosen = load([configure(folder, broker, app, **{"kafka": kafka, **changes})], {}, {})
    await make_topics(broker, chosen, partitions)
    return chosen


async def make_topics(broker: Broker, chosen: Settings, partitions: int = 2) -> None:
    """By the tests' own way in, whatever the service's is."""
    admin = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).admin()
    await admin.start()
    await admin.create([TopicNeed(chosen.input, partitions, {}), *chosen.topic_needs(partitions)])
    await admin.stop()


_tasks: WeakKeyDictionary[Worker, asyncio.Task[None]] = WeakKeyDictionary()


def ended(worker: Worker) -> bool:
    """By itself, whatever for: `serving` raises what it raised."""
    return _tasks[worker].done()


@asynccontextmanager
async def serving(chosen: Settings) -> AsyncIterator[Worker]:
    worker = Worker(chosen, KafkaTransport(chosen.kafka_settings()), WorkerObserver(chosen.stream_spec()))
    task = _tasks[worker] = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(task, 60)


async def produce(broker: Broker, topic: str, partition: int, first: int, count: int, series: str = "") -> None:
    """`count` ticks of one series, each batch of its own request, so that it can be damaged alone."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers)
    await producer.start()
    try:
        begin, name = int(time.time() * 1000) - BACK_MS, series or f"s{partition}"
        for step in range(first, first + count):
            value = f'{{"series":"{name}","ts":{begin + 1000 * step},"values":{{{CHANNELS}}},"step":"{step:05d}"}}'
            sent = await producer.send(topic, value.encode(), partition=partition, timestamp_ms=begin + 1000 * step)
            if step % 10 == 9:
                await sent
    finally:
        await producer.stop()
