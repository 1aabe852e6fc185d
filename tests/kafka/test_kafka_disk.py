"""The broker's disk is full: it refuses or ends, and once it has room and runs again nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from broker import Broker
from inside import BACK_MS, prepared, serving
from running import until
from service import drained, lag, sources

pytestmark = [pytest.mark.kafka, pytest.mark.kafka_long]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def produce_while_it_goes(broker: Broker, topic: str, limit: int) -> int:
    """How many ticks the broker acknowledged before it took no more."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers, request_timeout_ms=3000)
    await producer.start()
    begin, acknowledged = int(time.time() * 1000) - BACK_MS, 0
    try:
        while acknowledged < limit:
            sent = []
            for step in range(acknowledged, acknowledged + 50):
                tick = {"series": f"s{step % 5}", "ts": begin + 1000 * (step // 5), "values": {"temp": float(step)}}
                sent.append(await producer.send(topic, json.dumps(tick).encode(), timestamp_ms=begin + 1000 * step))
            await asyncio.gather(*sent)
            acknowledged += 50
    except KafkaError:
        pass
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            await asyncio.wait_for(producer.stop(), 5)
    return acknowledged


async def test_a_full_disk_of_the_broker_loses_nothing(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrnn.serving.worker.BACKOFF_S", (0.2, 1.0))
    monkeypatch.setattr("streamrnn.serving.worker.GIVE_UP_S", 3600.0)  # whatever else a supervisor would do
    broker = Broker(tmp_path / "kafka", log__dirs=str(disk / "data")).start()
    (tmp_path / "kafka" / "data").mkdir()  # it is not to be formatted again
    ballast = disk / "ballast"
    try:
        chosen = await prepared(broker, tmp_path, "full", partitions=2, delivery_timeout="5s")
        async with serving(chosen) as worker:
            acknowledged = await produce_while_it_goes(broker, chosen.input, 500)
            await drained(broker, chosen.app)
            left = int(subprocess.check_output(["df", "--output=avail", "-B1", str(disk)]).split()[1])
            ballast.write_bytes(b"x" * (left - 400_000))
            acknowledged += await produce_while_it_goes(broker, chosen.input, 100_000)
            assert acknowledged < 100_000
            await until(lambda: not worker.observer.health.ready(time.monotonic())[0], 60)
            ballast.unlink()
            broker.stop()
            broker.start()
            await until(lambda: worker.observer.health.ready(time.monotonic())[0], 60)
            await drained(broker, chosen.app)
            before = sum((await sources(broker, chosen.app)).values())
            assert await produce_while_it_goes(broker, chosen.input, 100) == 100  # and it goes on
            await drained(broker, chosen.app)
            assert worker.observer.metrics.cold_starts._value.get() == 0
        assert await lag(broker, chosen.app) == 0
        seen = await sources(broker, chosen.app)
        assert sum(seen.values()) >= before + 100
        for partition in range(2):
            offsets = {offset for p, offset in seen if p == partition}
            assert offsets == set(range(len(offsets)))
        assert len(seen) >= acknowledged + 100
    finally:
        ballast.unlink(missing_ok=True)
        broker.stop()
