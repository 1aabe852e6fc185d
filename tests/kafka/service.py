"""The service's own commands as processes on a real broker, and the checks of what they left in the topics."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import yaml
from broker import Broker

from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka import KafkaSettings, KafkaTransport


class Source(msgspec.Struct):
    partition: int
    offset: int


class Output(msgspec.Struct):
    series: str
    ts: int
    source: Source
    model: str = ""
    warm: bool = False


def configure(folder: Path, broker: Broker, app: str, **changes: Any) -> Path:
    base: dict[str, Any] = {
        "app": app,
        "kafka": {"bootstrap_servers": broker.servers, "session_timeout_ms": 1000, "heartbeat_interval_ms": 300},
        "input": f"{app}.ticks",
        "channels": ["temp", "flow", "pressure", "vibration"],
        "step": "1s",
        "horizon": 4,
        "http": {"port": 0},
        "train": "off",
        "log": {"format": "json"},
    }
    path = folder / f"{app}.yaml"
    path.write_text(yaml.safe_dump({**base, **changes}))
    return path


def command(*arguments: object, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "streamrnn", *map(str, arguments)], capture_output=True, timeout=120, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError((done.stdout + done.stderr).decode())
    return (done.stdout + done.stderr).decode()


class Process:
    """A long-running command of the service."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        self._file = log.open("ab")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "streamrnn", *map(str, arguments)],
            stdout=self._file,
            stderr=self._file,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        self._file.close()

    def stop(self, timeout_s: float = 30.0) -> int:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        code = self.child.wait(timeout_s)
        self._file.close()
        return code

    def waits_for(self, word: str, timeout_s: float = 60.0, since: int = 0) -> None:
        begin = time.monotonic()
        while word not in self.log.read_text()[since:]:
            assert self.child.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() - begin < timeout_s, self.log.read_text()[-3000:]
            time.sleep(0.05)


async def read_all(broker: Broker, topic: str) -> list[Any]:
    reader = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).reader()
    await reader.start(topic, None)
    ends = await reader.end_offsets()
    found: list[Any] = []
    while any(reader.position(p) < end for p, end in ends.items()):
        for _, records in await reader.poll(200, 5000):
            found += records
    await reader.stop(Deadline(5.0))
    return found


async def lag(broker: Broker, app: str) -> int:
    """Records of the input that the group has not committed."""
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import GroupCoordinatorNotAvailableError

    reader = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).reader()
    await reader.start(f"{app}.ticks", None)
    ends = await reader.end_offsets()
    await reader.stop(Deadline(5.0))
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await admin.start()
    topic = f"{app}.ticks"
    try:
        known = await admin.list_consumer_group_offsets(app, partitions=[TopicPartition(topic, p) for p in ends])
    except GroupCoordinatorNotAvailableError:  # the group's topic is being made
        return sum(ends.values()) or 1
    finally:
        await admin.close()
    return sum(end - max(known[TopicPartition(topic, p)].offset, 0) for p, end in ends.items())


async def drained(broker: Broker, app: str, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await lag(broker, app) > 0:
            await asyncio.sleep(0.2)


async def sources(broker: Broker, app: str) -> Counter[tuple[int, int]]:
    """How often each input record's coordinates stand in a forecast or a dead letter."""
    seen: Counter[tuple[int, int]] = Counter()
    for record in await read_all(broker, f"{app}.forecasts"):
        output = msgspec.json.decode(record.value, type=Output)
        seen[output.source.partition, output.source.offset] += 1
    for record in await read_all(broker, f"{app}.dlq"):
        _, partition, offset = dict(record.headers)["streamrnn-source"].decode().split("/")
        seen[int(partition), int(offset)] += 1
    return seen
