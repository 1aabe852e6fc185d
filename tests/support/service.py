"""The service's own commands as processes on a real broker, and the checks of what they left in the topics."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import yaml
from broker import Broker

from streamrnn.cli import main
from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.transport import KafkaTransport


class Source(msgspec.Struct):
    partition: int
    offset: int


class Output(msgspec.Struct):
    series: str
    ts: int
    source: Source
    model: str = ""
    warm: bool = False


def quick(broker: Broker) -> dict[str, Any]:
    """Settings of `kafka` by which changes of topics are seen soon."""
    return {
        "bootstrap_servers": broker.servers,
        "session_timeout_ms": 6000,
        "heartbeat_interval_ms": 1000,
        "metadata_max_age_ms": 500,
        "request_timeout_ms": 4000,
    }


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


class Process:
    """A long-running command of the service."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        log.touch()
        self._begin = log.stat().st_size
        self._start([str(argument) for argument in arguments])

    def _start(self, arguments: list[str]) -> None:
        with self.log.open("ab") as file:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "streamrnn", *arguments],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.pid = self.child.pid

    def exit_code(self) -> int | None:
        return self.child.poll()

    def _wait(self, timeout_s: float) -> int:
        return self.child.wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._wait(60.0)

    def stop(self, timeout_s: float = 60.0) -> int:
        self.signal(signal.SIGTERM)
        return self._wait(timeout_s)

    def said(self) -> str:
        """What it has written by now; not what others wrote into the same file before."""
        return self.log.read_bytes()[self._begin :].decode()

    def waits_for(self, word: str, timeout_s: float = 120.0) -> None:
        begin = time.monotonic()
        while word not in self.said():
            assert self.exit_code() is None, self.said()[-3000:]
            assert time.monotonic() - begin < timeout_s, self.said()[-3000:]
            time.sleep(0.05)


# What no broker can cause; new clients heal it all the same, so that outputs and states show nothing of it.
DEFECTS = re.compile(
    r"\b(Assertion|Attribute|Import|Index|Key|Lookup|Name|NotImplemented|Recursion|Type|UnboundLocal|Value)Error\b"
)


def defects(logs: str) -> list[str]:
    """Lines of a worker's log, as JSON, that report an error in the service; those of aiokafka and asyncio are theirs."""
    lines = [line for line in logs.splitlines() if DEFECTS.search(line)]
    return [line for line in lines if '"logger": "aiokafka' not in line and '"logger": "asyncio"' not in line]


@cache
def forks() -> Any:
    """The server that `Forked` comes from. It looks for modules where this file is, and must have one thread to fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rehearsed", "service"])
    with patch.dict(os.environ, {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}):
        forkserver.ensure_running()
    return context


class Forked(Process):
    """The same, forked from a server that has loaded everything: there at once, for tests that start hundreds."""

    def _start(self, arguments: list[str]) -> None:
        self._process = forks().Process(target=run_command, args=(str(self.log), arguments), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        return self._process.exitcode

    def _wait(self, timeout_s: float) -> int:
        self._process.join(timeout_s)
        code: int | None = self._process.exitcode
        assert code is not None, f"still there after {timeout_s} s: {self.said()[-3000:]}"
        return code


def run_command(out: str, arguments: list[str], err: str = "", environment: Mapping[str, str] | None = None) -> None:
    """The command line in a forked process. `err`: a file of its own for what goes to standard error."""
    with Path(out).open("ab") as file, Path(err or out).open("ab") as errors:
        os.dup2(file.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    os.environ.update(environment or {})
    sys.argv = ["streamrnn", *arguments]
    main()


def ended(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a forked process, as `subprocess.run` would return it: a new one loads torch for two seconds."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        words = [str(argument) for argument in arguments]
        process = forks().Process(
            target=run_command, args=(str(files[0]), words, str(files[1]), environment), daemon=True
        )
        process.start()
        try:
            process.join(600.0)
            code: int | None = process.exitcode
        finally:
            process.kill()
        assert code is not None, f"{words} has not ended"
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in files))


def command(*arguments: object, check: bool = True) -> str:
    """A short one of the service's; returns what it says."""
    with tempfile.TemporaryDirectory() as folder:
        process = Forked(Path(folder) / "log", *arguments)
        try:
            code = process._wait(120.0)
            if check and code != 0:
                raise AssertionError(process.said())
            return process.said()
        finally:
            process.kill()


async def each(broker: Broker, topic: str) -> AsyncIterator[Any]:
    """The records of a topic up to its end, of transactions the committed ones."""
    reader = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).reader()
    await reader.start(topic, None)
    ends = await reader.end_offsets()
    while any(reader.position(p) < end for p, end in ends.items()):
        for _, records in await reader.poll(200, 5000):
            for record in records:
                yield record
    await reader.stop(Deadline(5.0))


async def read_all(broker: Broker, topic: str) -> list[Any]:
    return [record async for record in each(broker, topic)]


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
    # While the coordinator loads it answers without the partitions.
    offsets = {tp.partition: max(entry.offset, 0) for tp, entry in known.items()}
    return sum(end - offsets.get(p, 0) for p, end in ends.items())


async def drained(broker: Broker, app: str, timeout_s: float = 120.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await lag(broker, app) > 0:
            await asyncio.sleep(0.2)


async def sources(broker: Broker, app: str) -> Counter[tuple[int, int]]:
    """How often each input record's coordinates stand in a forecast or a dead letter."""
    seen: Counter[tuple[int, int]] = Counter()
    async for record in each(broker, f"{app}.forecasts"):
        output = msgspec.json.decode(record.value, type=Output)
        seen[output.source.partition, output.source.offset] += 1
    async for record in each(broker, f"{app}.dlq"):
        _, partition, offset = dict(record.headers)["streamrnn-source"].decode().split("/")
        seen[int(partition), int(offset)] += 1
    return seen


async def committed(broker: Broker, app: str) -> dict[int, list[int]]:
    """Every offset that the group ever committed, in order, from the broker's own log of them."""
    history: dict[int, list[int]] = defaultdict(list)
    async for record in each(broker, "__consumer_offsets"):
        version, length = struct.unpack_from(">hh", record.key)
        if version > 1 or record.key[4 : 4 + length] != app.encode() or not record.value:
            continue  # the group's members, another group, or an offset that was forgotten
        (partition,) = struct.unpack_from(">i", record.key, len(record.key) - 4)
        history[partition].append(struct.unpack_from(">q", record.value, 2)[0])
    return dict(history)
