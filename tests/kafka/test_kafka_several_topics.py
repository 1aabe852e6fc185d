"""An input of several topics on Apache Kafka: topics that come and go under running workers, by the commands of the service."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from broker import Broker
from inside import produce, serving
from running import until
from service import Forked, command, configure, defects, each, quick, read_all

from streamrnn.config.settings import load
from streamrnn.serving.worker import Worker
from streamrnn.transports.base import Deadline, TopicNeed
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka


class Source(msgspec.Struct):
    topic: str
    partition: int
    offset: int


class Output(msgspec.Struct):
    series: str
    source: Source


async def create(broker: Broker, **topics: int) -> None:
    admin = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).admin()
    await admin.start()
    await admin.create([TopicNeed(name.replace("__", "."), count, {}) for name, count in topics.items()])
    await admin.stop()


async def delete(broker: Broker, topic: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await client.start()
    try:
        async with asyncio.timeout(60):
            await client.delete_topics([topic])
            while topic in await client.list_topics():
                await asyncio.sleep(0.05)
    finally:
        await client.close()


def at(worker: Worker) -> dict[str, int]:
    """Committed offsets by partition, as the page names them."""
    if worker.pump is None:
        return {}
    return {str(worker.inputs.numbering.label(p)): owned.committed for p, owned in worker.pump.owned.items()}


async def said(broker: Broker, app: str) -> Counter[tuple[str, str, int, int]]:
    found: Counter[tuple[str, str, int, int]] = Counter()
    async for record in each(broker, f"{app}.forecasts"):
        output = msgspec.json.decode(record.value, type=Output)
        found[output.series, output.source.topic, output.source.partition, output.source.offset] += 1
    return found


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
async def test_topics_come_grow_and_go_under_a_worker_and_no_output_is_repeated(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    app = unique("several")
    a, b = f"{app}.in.a", f"{app}.in.b"
    path = configure(tmp_path, broker, app, input=f"^{app}\\.in\\.", kafka=quick(broker), delivery=delivery)
    chosen = load([path], {}, {})
    await create(broker, **{a.replace(".", "__"): 2})
    rows = json.loads(command("topics", "-c", path, "--create", "--json"))
    assert {row["topic"]: row["have"] for row in rows if row["topic"] in (a, f"{app}.state", f"{app}.inputs")} == {
        a: 2, f"{app}.state": 2, f"{app}.inputs": 1,
    }  # fmt: skip
    for partition in range(2):
        await produce(broker, a, partition, 0, 30, f"a{partition}")
    async with serving(chosen) as worker:
        await until(lambda: at(worker) == {f"{a}/0": 30, f"{a}/1": 30})
        await create(broker, **{b.replace(".", "__"): 1})
        await produce(broker, b, 0, 0, 30, "b0")
        await until(lambda: at(worker) == {f"{a}/0": 30, f"{a}/1": 30, f"{b}/0": 30})
        client = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
        await client.start()
        await client.create_partitions({a: NewPartitions(3)})
        await client.close()
        await produce(broker, a, 2, 0, 30, "a2")
        await produce(broker, a, 0, 30, 10, "a0")
        await until(lambda: at(worker) == {f"{a}/0": 40, f"{a}/1": 30, f"{a}/2": 30, f"{b}/0": 30})
        assert worker.inputs.numbering.known() == {(a, 0): 0, (a, 1): 1, (b, 0): 2, (a, 2): 3}
        await delete(broker, b)
        await until(lambda: sorted(at(worker)) == [f"{a}/{p}" for p in range(3)])
        await produce(broker, a, 1, 30, 10, "a1")
        await until(lambda: at(worker).get(f"{a}/1") == 40)
        assert worker.observer.metrics.rebuilds._value.get() == 0
        lag = f'streamrnn_partition_lag{{partition="{a}/2"}} 0.0'
        await until(lambda: lag in worker.observer.metrics_text().decode())
    found = await said(broker, app)
    wanted = {(f"a{p}", a, p, o) for p, end in enumerate((40, 40, 30)) for o in range(end)}
    wanted |= {("b0", b, 0, o) for o in range(30)}
    assert found.keys() == wanted
    assert set(found.values()) == {1}
    assert not await read_all(broker, f"{app}.dlq")
    document = json.loads(command("validate", "-c", path, "--json"))
    assert document["ok"]
    assert {row["topic"]: row["have"] for row in document["topics"]}[f"{app}.state"] == 4
    moved = command("reset", "-c", path, "--offsets", "--to", "earliest")
    assert f"{a}/2: 30 -> 0" in moved
    assert "write earliest, latest or a time" in command(
        "reset", "-c", path, "--offsets", "--to", "7", check=False
    ) or (len(chosen.inputs.among([a], [])) == 1)
    seen = [json.loads(line) for line in command("decode", "-c", path, "-n", "9", "--json").splitlines()[-9:]]
    assert {tick["series"] for line in seen for tick in line["ticks"]} <= {"a0", "a1", "a2"}


async def test_a_named_topic_that_is_not_there_is_waited_for(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("waits")
    a, b = f"{app}.a", f"{app}.b"
    path = configure(tmp_path, broker, app, input=[a, b], kafka=quick(broker))
    assert "no such topic" in command("validate", "-c", path, check=False)
    await create(broker, **{a.replace(".", "__"): 1})
    command("topics", "-c", path, "--create")
    assert "is not there; it is read as soon as it is" in command("validate", "-c", path)
    await produce(broker, a, 0, 0, 10, "a0")
    async with serving(load([path], {}, {})) as worker:
        await until(lambda: at(worker) == {f"{a}/0": 10})
        await create(broker, **{b.replace(".", "__"): 1})
        await produce(broker, b, 0, 0, 10, "b0")
        await until(lambda: at(worker) == {f"{a}/0": 10, f"{b}/0": 10})
    assert set((await said(broker, app)).values()) == {1}


@pytest.mark.kafka_long
@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
async def test_workers_are_killed_while_topics_come_and_go(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    """Nothing is lost, exactly once is once, and what restarts goes on from its states."""
    app, rng = unique("churn"), random.Random(7)
    topics = [f"{app}.in.{k}" for k in range(5)]
    path = configure(tmp_path, broker, app, input=f"^{app}\\.in\\.", kafka=quick(broker), delivery=delivery)
    await create(broker, **{topics[0].replace(".", "__"): 2})
    command("topics", "-c", path, "--create")
    sent: dict[tuple[str, int], int] = {}
    workers = [Forked(tmp_path / f"w{i}.log", "run", "-c", path) for i in range(2)]
    try:
        for turn in range(20):
            if turn % 4 == 2:
                await create(broker, **{topics[1 + turn // 4].replace(".", "__"): 2} if turn < 16 else {})
            there = topics[: 1 + min(4, (turn + 2) // 4)]
            for topic in there:
                for partition in range(2):
                    first = sent.get((topic, partition), 0)
                    await produce(broker, topic, partition, first, 20, f"{topic[-1]}{partition}")
                    sent[topic, partition] = first + 20
            if turn % 3 == 1:
                victim = rng.randrange(2)
                workers[victim].kill()
                workers[victim] = Forked(tmp_path / f"w{victim}.log", "run", "-c", path)
        group = [KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).group_offsets(t, app) for t in topics]
        async with asyncio.timeout(180):
            for topic, offsets in zip(topics, group, strict=True):
                await offsets.start()
                while any(
                    known is None or known.offset < sent[topic, p] for p, known in (await offsets.committed()).items()
                ):
                    await asyncio.sleep(0.2)
                await offsets.stop(Deadline(5.0))
    finally:
        codes = [worker.stop() for worker in workers]
    assert codes == [0, 0]
    found = await said(broker, app)
    wanted = {(f"{t[-1]}{p}", t, p, o) for (t, p), end in sent.items() for o in range(end)}
    assert found.keys() == wanted
    if delivery == "exactly-once":
        assert set(found.values()) == {1}
    logs = "".join((tmp_path / f"w{i}.log").read_text() for i in range(2))
    assert not defects(logs)
    assert "starts without its state" not in logs
    assert not await read_all(broker, f"{app}.dlq")
