"""A worker that was evicted from its group and wakes up writes states of then over newer ones (at least once fences
nobody); compaction keeps what stands last. No state may be lost by it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from running import START, all_committed, made, tick, until, worker

from streamrnn.transports.memory.transport import MemoryBroker, MemoryRecord, MemorySource


def sent(broker: MemoryBroker, first: int, count: int, names: tuple[str, ...] = ("a", "b", "c")) -> None:
    for step in range(first, first + count):
        for i, name in enumerate(names):
            value = tick(name, step, (step * (i + 3)) % 7 + 0.25 * i)
            broker.append("ticks", 0, name.encode(), value, START + 1000 * step)


def states(broker: MemoryBroker, name: str) -> list[MemoryRecord]:
    return [record for record in broker.topics["app.state"][0] if record.key == b"s/" + name.encode()]


def pointed_at(broker: MemoryBroker) -> int:
    """The input offset of the newest checkpoint."""
    records = broker.topics["app.state"][0]
    return max(json.loads(r.value or b"")["offset"] for r in records if r.key == b"checkpoint")


def said(broker: MemoryBroker) -> dict[tuple[int, str, int], bytes]:
    found = {}
    for record in broker.topics["app.forecasts"][0]:
        document = json.loads(record.value or b"")
        found[document["source"]["offset"], document["series"], document["ts"]] = record.value or b""
    return found


async def served(broker: MemoryBroker, chosen: object) -> float:
    """Until everything is committed and written; returns how many zombie writes were seen."""
    async with worker(chosen, broker) as running:  # type: ignore[arg-type]
        await until(lambda: all_committed(broker))
        await until(lambda: not len(running.engine.table.changed_rows(0)))
        assert running.observer.metrics.cold_starts._value.get() == 0
        return float(running.observer.metrics.zombie_writes._value.get())


def written_by_a_zombie(broker: MemoryBroker, record: MemoryRecord) -> None:
    broker.append("app.state", 0, record.key, record.value, record.timestamp)


async def test_the_owner_sees_the_gap_and_writes_everything_anew() -> None:
    chosen, broker = made(partitions=1, checkpoint={"interval": "10ms"})
    sent(broker, 0, 40)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker) and pointed_at(broker) == 120)
        early = states(broker, "a")[0]
        written_by_a_zombie(broker, early)
        written = len(broker.topics["app.state"][0])
        sent(broker, 40, 10, names=("b",))
        await until(lambda: states(broker, "a")[-1].offset >= written and pointed_at(broker) == 130)
        assert running.observer.metrics.zombie_writes._value.get() == 1
        assert {r.key for r in broker.topics["app.state"][0][written:]} >= {b"s/a", b"s/b", b"s/c"}
    newest = np.frombuffer(states(broker, "a")[-1].value or b"", dtype=running.snapshots._current().dtype)
    assert newest["applied"][0] >= 120


async def test_what_a_zombie_wrote_over_while_nobody_served_comes_up_by_the_replay() -> None:
    chosen, plain = made(partitions=1, checkpoint={"interval": "10ms"})
    _, disturbed = made(partitions=1, checkpoint={"interval": "10ms"})
    for broker in (plain, disturbed):
        sent(broker, 0, 20)
        assert await served(broker, chosen) == 0
        early = states(broker, "a")[-1]
        sent(broker, 20, 40)
        assert await served(broker, chosen) == 0
        if broker is disturbed:
            written_by_a_zombie(broker, early)
            broker.compact("app.state", 0)
            assert [r.value for r in states(broker, "a")] == [early.value]
        sent(broker, 60, 20)
        await served(broker, chosen)
    assert said(disturbed) == said(plain)
    assert len(said(plain)) == 240


async def test_a_deletion_that_a_zombie_wrote_late_deletes_nothing() -> None:
    chosen, plain = made(partitions=1, checkpoint={"interval": "10ms"})
    _, disturbed = made(partitions=1, checkpoint={"interval": "10ms"})
    for broker in (plain, disturbed):
        sent(broker, 0, 40)
        await served(broker, chosen)
        if broker is disturbed:
            broker.append("app.state", 0, b"s/a", None, START)
        sent(
            broker, 40, 10, ("b", "c")
        )  # nothing of `a`, whose state has to come to stand after the deletion all the same
        await served(broker, chosen)
        if broker is disturbed:
            broker.compact("app.state", 0)
        sent(broker, 50, 20)
        await served(broker, chosen)
    assert said(disturbed) == said(plain)
    assert len(said(plain)) == 200


async def test_where_retention_forbids_the_replay_that_series_alone_starts_anew() -> None:
    chosen, broker = made(partitions=1, checkpoint={"interval": "10ms"})
    sent(broker, 0, 20)
    await served(broker, chosen)
    early = states(broker, "a")[-1]
    sent(broker, 20, 40)
    await served(broker, chosen)
    written_by_a_zombie(broker, early)
    broker.compact("app.state", 0)
    del broker.topics["ticks"][0][:150]
    broker.begin["ticks", 0] = 150
    sent(broker, 60, 1)
    async with worker(chosen, broker) as running:
        await until(lambda: running.observer.health.serving and len(said(broker)) == 183)
        refused = running.observer.metrics.state_refused.labels("older")._value.get()
    assert refused == 1
    warm = {series: json.loads(value)["warm"] for (_, series, _), value in sorted(said(broker).items())[-3:]}
    assert warm == {"a": False, "b": True, "c": True}


async def test_a_state_that_came_further_than_the_input_then_went_is_no_sign_of_another_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, broker = made(partitions=1, checkpoint={"interval": "10ms"})
    sent(broker, 0, 20)
    await served(broker, chosen)
    ask, asked = MemorySource.end_offsets, []

    async def of_then(self: MemorySource, partitions: Sequence[int]) -> dict[int, int]:
        asked.append(partitions)
        return {0: 45} if len(asked) == 1 else await ask(self, partitions)

    # When the partition is assigned there are 45 records; a zombie who processes 15 more is faster than the restore.
    monkeypatch.setattr(MemorySource, "end_offsets", of_then)
    sent(broker, 20, 5)
    assert await served(broker, chosen) == 0  # looks at cold starts, too
    assert len(asked) == 2
    assert len(said(broker)) == 75
