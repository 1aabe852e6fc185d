"""Damaged logs and clients that fall silent, on Apache Kafka itself: what is healthy goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from broker import Broker
from inside import CHANNELS, prepared, produce, serving
from running import until
from service import lag, sources

from streamrnn.serving import unreadable

pytestmark = pytest.mark.kafka


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrnn.serving.worker.BACKOFF_S", (0.05, 0.1))
    monkeypatch.setattr("streamrnn.serving.worker.RETRY_LOOK_S", 0.1)
    monkeypatch.setattr(unreadable, "RETRY_S", 0.5)


def flip_a_byte(broker: Broker, topic: str, partition: int, marker: bytes) -> None:
    """Damages the log under the running broker, which does not check a batch it hands out; a second time mends it."""
    path = broker.folder / "data" / f"{topic}-{partition}" / f"{0:020d}.log"
    at = path.read_bytes().index(marker[1:]) - 1
    with path.open("r+b") as log:
        log.seek(at)
        byte = log.read(1)
        log.seek(at)
        log.write(bytes([byte[0] ^ 0xFF]))


async def give_up(broker: Broker, topic: str, partition: int, before: int) -> None:
    """As kafka-delete-records.sh does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, partition): _before(before)})
    await admin.close()


def _before(offset: int) -> Any:
    from aiokafka.admin.records_to_delete import RecordsToDelete

    return RecordsToDelete(before_offset=offset)


@pytest.mark.parametrize("mended", [True, False], ids=["mended", "given-up"])
async def test_a_damaged_batch_costs_no_other_partition_a_record(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], mended: bool
) -> None:
    """aiokafka forgets what it had drained from partition 0 when partition 1 raises."""
    chosen = await prepared(broker, tmp_path, unique("damage"))
    for partition in range(2):
        await produce(broker, chosen.input, partition, 0, 300)
    flip_a_byte(broker, chosen.input, 1, b'"step":"00205"')
    async with serving(chosen) as worker:
        health = worker.observer.health
        await until(lambda: health.unreadable and worker.pump and worker.pump.positions().get(0, (0,))[0] == 300)
        at = worker.unreadable.limits[1]
        assert 200 <= at <= 205  # the first record of the damaged batch
        await until(lambda: worker.pump and worker.pump.positions().get(1, (0,))[0] == at)
        assert "Invalid CRC" in worker.unreadable.found[1].why
        assert not health.ready(0.0)[0]
        assert health.live(0.0)[0]
        await produce(broker, chosen.input, 0, 300, 100)
        await until(lambda: worker.pump and worker.pump.positions()[0][0] == 400)
        rebuilds = worker.observer.metrics.rebuilds._value.get()
        if mended:
            flip_a_byte(broker, chosen.input, 1, b'"step":"00205"')
        else:
            await give_up(broker, chosen.input, 1, 210)
        async with asyncio.timeout(60):
            while await lag(broker, chosen.app) > 0:
                await asyncio.sleep(0.1)
        # What the client had fetched of the damaged batch may have to be thrown away with it.
        assert worker.observer.metrics.rebuilds._value.get() <= rebuilds + 2
    seen = await sources(broker, chosen.app)
    lost = set() if mended else {(1, offset) for offset in range(at, 210)}
    assert set(seen) == {(0, o) for o in range(400)} | {(1, o) for o in range(300)} - lost


async def test_a_client_whose_fetching_ended_without_a_word_is_built_anew(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """aiokafka #983, #1154: no record, no error, heartbeats go on."""
    chosen = await prepared(broker, tmp_path, unique("silent"), stall_after="1s")
    await produce(broker, chosen.input, 0, 0, 50)
    async with serving(chosen) as worker:
        await until(lambda: worker.pump and worker.pump.positions().get(0, (0, 0))[0] == 50)
        worker.pump._parts.source._consumer._fetcher._fetch_task.cancel()  # type: ignore[union-attr]
        await produce(broker, chosen.input, 0, 50, 50)
        await until(lambda: worker.pump and worker.pump.positions().get(0, (0, 0))[0] == 100)
        assert worker.observer.metrics.rebuilds._value.get() >= 1
        assert not worker.unreadable.found
    assert set(await sources(broker, chosen.app)) == {(0, o) for o in range(100)}


async def test_a_transactions_marker_at_the_end_is_no_lag_and_no_stall(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(broker, tmp_path, unique("marker"), stall_after="1s")
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers, transactional_id=chosen.app)
    await producer.start()
    async with producer.transaction():
        await producer.send(
            chosen.input, f'{{"series":"a","ts":1764000000000,"values":{{{CHANNELS}}}}}'.encode(), partition=0
        )
    async with serving(chosen) as worker:
        await until(lambda: worker.pump and worker.pump.positions().get(0, (0, 0))[0] == 1)
        await producer.begin_transaction()  # and one that stays open
        await producer.send(chosen.input, b"{}", partition=0)
        await producer.flush()
        await asyncio.sleep(2.5)
        assert worker.pump is not None
        assert worker.pump._parts.source.lag() == {0: 0, 1: 0}
        assert worker.observer.metrics.rebuilds._value.get() == 0
        await producer.abort_transaction()
    await producer.stop()


async def test_a_damaged_state_topic_costs_its_partition_the_state_and_the_others_nothing(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(broker, tmp_path, unique("state"), checkpoint={"interval": "200ms"})
    for partition in range(2):
        await produce(broker, chosen.input, partition, 0, 100)
    async with serving(chosen) as worker:
        await until(lambda: worker.pump and sorted(worker.pump.positions().values()) == [(100, 0), (100, 0)])
    path = broker.folder / "data" / f"{chosen.topics.state}-1" / f"{0:020d}.log"
    with path.open("r+b") as log:  # how many records the first batch has; a bulk reader looks at no checksum
        log.seek(57)
        log.write(b"\x7f\xff\xff\xff")
    for partition in range(2):
        await produce(broker, chosen.input, partition, 100, 20)
    async with serving(chosen) as worker:
        await until(lambda: worker.pump and [at for at, _ in worker.pump.positions().values()] == [120, 120])
        metrics = worker.observer.metrics
        assert metrics.cold_starts._value.get() == 1
        assert metrics.restored._value.get() == 1
    assert set(await sources(broker, chosen.app)) == {(p, o) for p in range(2) for o in range(120)}
