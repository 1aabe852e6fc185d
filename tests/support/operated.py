"""A worker's lives with what an operator does between them: offsets set, states deleted, another configuration."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from running import committed, made, send, settings, until

from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.reset import execute, plan
from streamrnn.serving.worker import Worker
from streamrnn.transports.base import Committed
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport

BOTH = pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
SOON, NEVER = "10ms", "1h"


class Life:
    """A worker's process, which may be killed."""

    count = 0

    def __init__(self, broker: MemoryBroker, **changes: Any) -> None:
        Life.count += 1
        self.client, self.broker = f"w{Life.count}", broker
        self.chosen = settings(**{"checkpoint": {"interval": SOON}, **changes})
        self.worker = Worker(
            self.chosen, MemoryTransport(broker, self.client), WorkerObserver(self.chosen.stream_spec())
        )
        loop: Any = asyncio.get_running_loop()
        self.task = loop.spawn(self.client, self.worker.run())

    async def serves(self) -> Life:
        """Until all is read and committed."""
        ends = {p: self.broker.end("ticks", p) for p in range(len(self.broker.topics["ticks"]))}
        await until(lambda: self.task.done() or committed(self.broker) == ends)
        if self.task.done():
            self.task.result()
        return self

    async def stop(self) -> Life:
        self.worker.stop()
        await asyncio.wait_for(self.task, 60)
        return self

    def kill(self) -> Life:
        loop: Any = asyncio.get_running_loop()
        loop.stop_process(self.client)
        for member in list(self.broker.group("app").members):
            if member.client == self.client:
                member.crash()  # type: ignore[attr-defined]
        return self

    async def ends(self, killed: bool) -> None:
        """Stops; or is killed, after a second in which it has written what it served."""
        if not killed:
            await self.stop()
            return
        await asyncio.sleep(1.0)
        self.kill()

    def counted(self) -> tuple[float, float, float]:
        """(set back, set ahead, records skipped)"""
        metrics = self.worker.observer.metrics
        directions = [metrics.offsets_set.labels(word)._value.get() for word in ("back", "ahead")]
        return directions[0], directions[1], metrics.records_skipped._value.get()

    def refused(self) -> float:
        """States of the changelog that were of no use."""
        metrics = self.worker.observer.metrics.state_refused.collect()
        return sum(s.value for family in metrics for s in family.samples if s.name.endswith("_total"))


def reset(broker: MemoryBroker, offset: int, partition: int = 0) -> None:
    """What `kafka-consumer-groups.sh --reset-offsets --execute` writes."""
    assert not broker.group("app").members
    broker.group("app").committed["ticks", partition] = Committed(offset, "")


def said(broker: MemoryBroker, since: int = 0) -> list[tuple[int, str]]:
    """(source offset, all else) of the forecasts that stand in the topic from an offset on."""
    found = []
    for record in broker.topics["app.forecasts"][0][since:]:
        if record.value is not None:
            document = json.loads(record.value)
            found.append((document.pop("source")["offset"], json.dumps(document, sort_keys=True)))
    return found


def states(broker: MemoryBroker) -> int:
    """How many series' states were written so far."""
    return sum(1 for r in broker.topics["app.state"][0] if r.value is not None and (r.key or b"").startswith(b"s/"))


async def lived(broker: MemoryBroker, **changes: Any) -> Life:
    return await (await Life(broker, **changes).serves()).stop()


async def served(steps: int, **changes: Any) -> MemoryBroker:
    """One partition with so many steps, served to its end by a worker that is not there any more."""
    _, broker = made(partitions=1)
    send(broker, steps, partitions=1)
    await lived(broker, **changes)
    return broker


async def without_commits(what: str, client: str, effect: Any) -> Any:
    """A broker's hook: commits are never answered."""
    await asyncio.sleep(0.001)
    if what == "commit":
        await asyncio.sleep(1e9)
    return effect()


async def never_sent(broker: MemoryBroker, skipped: tuple[int, int], count: int, **changes: Any) -> list[str]:
    """The last forecasts, had the ticks of these offsets never been sent."""
    _, other = made(partitions=1)
    for record in broker.topics["ticks"][0]:
        if not skipped[0] <= record.offset < skipped[1]:
            other.append("ticks", 0, record.key, record.value, record.timestamp)
    await lived(other, **changes)
    return [text for _, text in sorted(said(other))[-count:]]


async def done(
    broker: MemoryBroker, chosen: Any, state: bool = False, models: bool = False, to: str | None = None
) -> Any:
    transport = MemoryTransport(broker)
    wanted = await plan(transport, chosen, state, models, to)
    before = {topic: [len(log) for log in logs] for topic, logs in broker.topics.items()}, committed(broker)
    assert before == ({topic: [len(log) for log in logs] for topic, logs in broker.topics.items()}, committed(broker))
    await execute(transport, chosen, wanted)
    return wanted
