"""`repartition: on` on Apache Kafka: two stages by the commands of the service, kills between them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from broker import Broker
from service import Forked, command, configure, defects, read_all

from streamrnn.transports.base import Deadline, TopicNeed
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka

BACK_MS = 1_000_000_000


async def create(broker: Broker, topics: dict[str, int]) -> None:
    admin = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).admin()
    await admin.start()
    await admin.create([TopicNeed(name, count, {}) for name, count in topics.items()])
    await admin.stop()


class Feed:
    """Each tick of a series has one channel, that of its topic; partitions are drawn by chance."""

    def __init__(self, topics: dict[str, str], shared: bool) -> None:
        self.topics, self.shared = topics, shared
        self.begin_ms, self.step = int(time.time() * 1000) - BACK_MS, 0
        self.sent: Counter[str] = Counter()
        self.random = random.Random(3)

    async def send(self, broker: Broker, steps: int, bad: bool = False) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker.servers)
        await producer.start()
        try:
            for _ in range(steps):
                ts = self.begin_ms + 1000 * self.step
                for topic, channel in self.topics.items():
                    for name in ("x", "y", "z"):
                        partition = self.random.randrange(2) if self.shared else ord(name) % 2
                        value = json.dumps({"series": name, "ts": ts, "values": {channel: self.step % 7}}).encode()
                        await producer.send(topic, value, partition=partition, timestamp_ms=ts)
                        self.sent[topic] += 1
                self.step += 1
            if bad:
                await producer.send(next(iter(self.topics)), b"{", partition=0, timestamp_ms=ts)
        finally:
            await producer.stop()


async def reached(broker: Broker, app: str, topics: list[str], timeout_s: float = 120.0) -> None:
    """Both stages have committed all that they can read."""
    transport = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers))
    async with asyncio.timeout(timeout_s):
        for topic, group in (*((topic, f"{app}.repartition") for topic in topics), (f"{app}.ticks", app)):
            offsets, reader = transport.group_offsets(topic, group), transport.reader()
            await offsets.start()
            await reader.start(topic, None)
            last: dict[int, int] = {}  # the marker after a transaction is committed by nobody
            ends = await reader.end_offsets()
            while any(reader.position(p) < end for p, end in ends.items()):
                for partition, records in await reader.poll(200, 5000):
                    last[partition] = records[-1].offset + 1
            while True:
                known = await offsets.committed()
                if all((entry := known[p]) is not None and entry.offset >= end for p, end in last.items()):
                    break
                await asyncio.sleep(0.2)
            await offsets.stop(Deadline(5.0))
            await reader.stop(Deadline(5.0))


async def origins(broker: Broker, topic: str) -> Counter[tuple[str, int, int]]:
    found: Counter[tuple[str, int, int]] = Counter()
    for record in await read_all(broker, topic):
        source = json.loads(record.value)["source"]
        found[source["topic"], source["partition"], source["offset"]] += 1
    return found


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
async def test_channels_from_two_topics_meet_in_one_step(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    app = unique("stages")
    topics = {f"{app}.a": "temp", f"{app}.b": "flow"}
    common = {"input": list(topics), "complete": "channels", "lateness": "20s", "delivery": delivery}
    plain = configure(tmp_path, broker, f"{app}.plain", **common)
    path = configure(tmp_path, broker, app, **common, repartition=True, checkpoint={"interval": "200ms"})
    await create(broker, dict.fromkeys(topics, 2))
    feed = Feed(topics, shared=True)
    await feed.send(broker, 60, bad=True)
    command("topics", "-c", plain, "--create")
    hints = json.loads(command("validate", "-c", plain, "--json"))["hints"]
    assert any("3 of 3 series lie in several topics" in hint and "repartition: on" in hint for hint in hints)
    rows = {r["topic"]: r for r in json.loads(command("topics", "-c", path, "--create", "--json"))}
    assert {r["state"] for r in rows.values()} <= {"created", "exists"}
    assert rows[f"{app}.ticks"]["have"] == rows[f"{app}.state"]["have"] == 4
    assert f"{app}.inputs" not in rows
    document = json.loads(command("validate", "-c", path, "--json"))
    assert document["ok"]
    assert not document["hints"]
    worker = Forked(tmp_path / "w.log", "run", "-c", path)
    try:
        await reached(broker, app, list(topics))
    finally:
        assert worker.stop() == 0
    forecasts = [json.loads(record.value) for record in await read_all(broker, f"{app}.forecasts")]
    assert len(forecasts) > 3 * 30
    assert all(set(f["channels"]) == {"temp", "flow"} for f in forecasts)
    assert len({(f["series"], f["ts"]) for f in forecasts}) == len(forecasts)
    letters = await read_all(broker, f"{app}.dlq")
    assert [(dict(r.headers)["streamrnn-reason"], r.value) for r in letters] == [(b"malformed", b"{")]
    assert sum((await origins(broker, f"{app}.ticks")).values()) == sum(feed.sent.values())
    assert not defects((tmp_path / "w.log").read_text())


@pytest.mark.kafka_long
@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
async def test_workers_of_two_stages_are_killed(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    """Series lie in one partition each, so that a takeover delays none against itself: nothing is lost, refused, or twice."""
    app, rng = unique("killed"), random.Random(5)
    topics = {f"{app}.in": "temp"}
    path = configure(
        tmp_path, broker, app, input=list(topics), repartition=True, delivery=delivery, checkpoint={"interval": "200ms"}
    )
    await create(broker, dict.fromkeys(topics, 2))
    command("topics", "-c", path, "--create")
    feed = Feed(topics, shared=False)
    workers = [Forked(tmp_path / f"w{i}.log", "run", "-c", path) for i in range(2)]
    try:
        for _ in range(12):
            await feed.send(broker, 40)
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            victim = rng.randrange(2)
            workers[victim].kill()
            workers[victim] = Forked(tmp_path / f"w{victim}.log", "run", "-c", path)
        await reached(broker, app, list(topics), 180.0)
    finally:
        codes = [worker.stop() for worker in workers]
    assert codes == [0, 0]
    passed, said = await origins(broker, f"{app}.ticks"), await origins(broker, f"{app}.forecasts")
    assert passed.keys() == said.keys()
    assert len(said) == sum(feed.sent.values())
    assert not [dict(r.headers) for r in await read_all(broker, f"{app}.dlq")]
    if delivery == "exactly-once":
        assert set(passed.values()) == set(said.values()) == {1}
    assert not defects("".join((tmp_path / f"w{i}.log").read_text() for i in range(2)))
