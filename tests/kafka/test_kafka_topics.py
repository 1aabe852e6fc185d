"""Topics changed under the service, on Apache Kafka itself: shortened, deleted, made anew, refusing, grown, unfit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from aiokafka.admin import AIOKafkaAdminClient
from broker import Broker
from inside import make_topics, prepared, produce, serving
from running import until
from service import Output, read_all, sources
from structlog.testing import capture_logs
from test_kafka_damage import give_up

from streamrnn.service.config import Settings
from streamrnn.service.worker import Worker

pytestmark = pytest.mark.kafka


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrnn.service.worker.BACKOFF_S", (0.05, 0.2))


def quick(broker: Broker) -> dict[str, Any]:
    """Changes of topics are seen soon."""
    return {
        "bootstrap_servers": broker.servers,
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 1000,
        "metadata_max_age_ms": 500,
    }


@asynccontextmanager
async def administering(broker: Broker) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def delete(broker: Broker, topic: str) -> None:
    """Returns when its name is free again."""
    async with administering(broker) as client, asyncio.timeout(20):
        await client.delete_topics([topic])
        while topic in await client.list_topics():
            await asyncio.sleep(0.05)


async def arrived(worker: Worker, wanted: dict[int, int], timeout_s: float = 30.0) -> None:
    """Every partition is read up to there, and its offset committed."""
    await until(
        lambda: worker.pump and {p: owned.committed for p, owned in worker.pump.owned.items()} == wanted, timeout_s
    )


def told(logs: list[Any], words: str) -> list[Any]:
    return [entry for entry in logs if words in entry["event"]]


async def forecasts(broker: Broker, chosen: Settings) -> list[Output]:
    records = await read_all(broker, chosen.topics.forecasts)
    return [msgspec.json.decode(record.value, type=Output) for record in records]


# ── the input ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_log_that_begins_behind_the_committed_offset_is_served_from_its_begin(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """Retention has gone past a worker that was away: told, cold, and no other partition minds."""
    chosen = await prepared(broker, tmp_path, unique("shortened"))
    for partition in range(2):
        await produce(broker, chosen.input, partition, 0, 100)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 100, 1: 100})
    for partition in range(2):
        await produce(broker, chosen.input, partition, 100, 50)
    await give_up(broker, chosen.input, 0, 130)
    with capture_logs() as logs:
        async with serving(chosen) as worker:
            await arrived(worker, {0: 150, 1: 150})
            assert worker.observer.metrics.cold_starts._value.get() == 1
            assert worker.observer.metrics.rebuilds._value.get() == 0
            await produce(broker, chosen.input, 0, 150, 20)
            await arrived(worker, {0: 170, 1: 150})
    (alarm,) = told(logs, "the committed offset is not in the log")
    assert (alarm["partition"], alarm["committed"], alarm["begin"]) == (0, 100, 130)
    (cold,) = told(logs, "partition starts without its state")
    assert "retention" in cold["why"]
    seen = await sources(broker, chosen.app)
    assert set(seen) == {(0, o) for o in range(170) if not 100 <= o < 130} | {(1, o) for o in range(150)}
    warm = {(o.source.partition, o.source.offset): o.warm for o in await forecasts(broker, chosen)}
    assert not warm[0, 130]
    assert warm[1, 100]


async def made_anew(broker: Broker, chosen: Settings, count: int) -> None:
    await delete(broker, chosen.input)
    await make_topics(broker, chosen, partitions=1)
    await produce(broker, chosen.input, 0, 0, count)


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_an_input_made_anew_is_begun_anew(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], start: str
) -> None:
    """With fewer records than were committed: cold, told, and from where `start` says."""
    chosen = await prepared(broker, tmp_path, unique("anew"), partitions=1)
    await produce(broker, chosen.input, 0, 0, 100)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 100})
    await made_anew(broker, chosen, 40)
    with capture_logs() as logs:
        async with serving(chosen.model_copy(update={"start": start})) as worker:
            await until(lambda: worker.pump and worker.pump.owned)
            assert worker.observer.metrics.cold_starts._value.get() == 1
            await produce(broker, chosen.input, 0, 40, 20)
            await arrived(worker, {0: 60})
    (cold,) = told(logs, "partition starts without its state")
    assert "the topic was made anew" in cold["why"]
    # Behind those of the topic that is gone.
    outputs = (await forecasts(broker, chosen))[100:]
    assert [o.source.offset for o in outputs] == list(range(0 if start == "earliest" else 40, 60))
    assert not outputs[0].warm


async def test_an_input_made_anew_under_a_running_worker_is_begun_anew(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(broker, tmp_path, unique("swapped"), partitions=1, kafka=quick(broker))
    await produce(broker, chosen.input, 0, 0, 100)
    with capture_logs() as logs:
        async with serving(chosen) as worker:
            await arrived(worker, {0: 100})
            await made_anew(broker, chosen, 40)
            await arrived(worker, {0: 40})
            assert worker.observer.metrics.cold_starts._value.get() == 1
    assert "the topic was made anew" in told(logs, "partition starts without its state")[0]["why"]
    outputs = (await forecasts(broker, chosen))[100:]
    assert {o.source.offset for o in outputs} == set(range(40))
    assert not outputs[0].warm
