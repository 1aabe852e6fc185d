"""A worker on the memory transport: settings, ticks as records, and what came out."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).parents[1] / "simulation"))

from clock import run

from streamrnn.config.settings import Settings, load
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.worker import Worker
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport

START = 1_700_000_000_000

Lines = list[Any]  # of the log

_tasks: WeakKeyDictionary[Worker, asyncio.Task[None]] = WeakKeyDictionary()


def on_virtual_clock(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test waits for nothing: time jumps to the next timer, so that it means the same on a fast and on a slow machine.

    For what stays in this process; sockets and children have no virtual time.
    """

    @functools.wraps(test)
    def made(*arguments: Any, **named: Any) -> None:
        run(test(*arguments, **named))

    return made


class Clock:
    """A clock that goes on when it is set."""

    def __init__(self) -> None:
        self.now_s = 3.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def logs() -> Iterator[Lines]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def of(lines: Lines, words: str) -> Lines:
    """Those whose event says this."""
    return [line for line in lines if words in line["event"]]


def settings(**changes: Any) -> Settings:
    base: dict[str, Any] = {
        "app": "app",
        "input": "ticks",
        "channels": ["temp", "flow"],
        "step": "1s",
        "horizon": 3,
        "warm_up": 8,
        "poll_timeout": "20ms",
        "batch_records_max": 50,
    }
    return load([], {**base, **changes}, {})


def made(partitions: int = 2, **changes: Any) -> tuple[Settings, MemoryBroker]:
    broker, chosen = MemoryBroker(), settings(**changes)
    broker.create(chosen.input, partitions)
    for need in chosen.topic_needs(partitions):
        broker.create(need.name, need.partitions)
    return chosen, broker


def tick(series: str, step: int, temp: float | None, flow: float | None = 1.0) -> bytes:
    return json.dumps({"series": series, "ts": START + 1000 * step, "values": {"temp": temp, "flow": flow}}).encode()


def send(broker: MemoryBroker, count: int, first: int = 0, partitions: int = 2, seed: int = 0) -> None:
    """`count` steps of two series a partition."""
    rng = np.random.default_rng([seed, first])
    for step in range(first, first + count):
        for partition in range(partitions):
            for name in (f"a{partition}", f"b{partition}"):
                value = tick(name, step, float(np.sin(step / 5) + 0.1 * rng.standard_normal()))
                broker.append("ticks", partition, name.encode(), value, START + 1000 * step)


@asynccontextmanager
async def worker(chosen: Settings, broker: MemoryBroker) -> AsyncIterator[Worker]:
    running = Worker(chosen, MemoryTransport(broker), WorkerObserver(chosen.stream_spec()))
    task = _tasks[running] = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop()
        await asyncio.wait_for(task, 60)


def ended(running: Worker) -> bool:
    """By itself, whatever for: `worker` raises what it raised."""
    return _tasks[running].done()


async def feed_until(broker: MemoryBroker, condition: Callable[[], bool], partitions: int = 2) -> None:
    """Ticks come as long as the condition does not hold."""
    step = len(broker.topics["ticks"][0])
    async with asyncio.timeout(60):
        while not condition():
            send(broker, 1, first=step, partitions=partitions)
            step += 1
            await asyncio.sleep(0.01)


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    """`timeout_s` is how long a failure takes, not how long anything may."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def committed(broker: MemoryBroker, group: str = "app") -> dict[int, int]:
    known = broker.groups[group].committed if group in broker.groups else {}
    return {partition: entry.offset for (_, partition), entry in known.items()}


def all_committed(broker: MemoryBroker) -> bool:
    ends = {p: len(log) for p, log in enumerate(broker.topics["ticks"])}
    return committed(broker) == ends


def documents(broker: MemoryBroker, topic: str) -> list[dict[str, Any]]:
    """Without the markers of transactions."""
    return [json.loads(record.value) for log in broker.topics[topic] for record in log if record.value is not None]


def sources(broker: MemoryBroker) -> list[tuple[int, int]]:
    """(partition, offset) of every forecast and dead letter, in order of output."""
    found = [(d["source"]["partition"], d["source"]["offset"]) for d in documents(broker, "app.forecasts")]
    for log in broker.topics["app.dlq"]:
        for record in log:
            _, partition, offset = dict(record.headers)["streamrnn-source"].decode().split("/")
            found.append((int(partition), int(offset)))
    return found
