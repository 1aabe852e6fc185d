"""Everything that waits has a bound and a metric; a broker that takes nothing makes lag grow, not memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from running import START, all_committed, made, on_virtual_clock, send, sources, tick, until, worker

from streamrnn.serving import deliveries
from streamrnn.serving import pump as module
from streamrnn.serving.worker import Worker
from streamrnn.transports.base import Deadline
from streamrnn.transports.memory.transport import MemoryBroker, MemorySink, MemorySource, MemoryTransactionalSink

NAMES = {
    "series",
    "batches_in_flight",
    "records_taken_ahead",
    "bytes_in_flight",
    "ticks_held_back",
    "states_waiting",
    "series_evicted",
    "series_parked",
}


def many(broker: MemoryBroker, series: int, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        for i in range(series):
            name = f"s{i}"
            broker.append("ticks", i % 4, name.encode(), tick(name, step, float(step)), START + 1000 * step)


async def watched(running: Worker, done: Any) -> dict[str, tuple[int, int]]:
    """The most of every buffer until `done()`, with its bound."""
    most: dict[str, tuple[int, int]] = {}
    async with asyncio.timeout(30):
        while not done():
            if running.pump is not None:
                for name, (used, bound) in running.pump.buffers().items():
                    most[name] = (max(used, most.get(name, (0, 0))[0]), bound)
            await asyncio.sleep(0)
    return most


def metric(running: Worker, name: str) -> dict[str, float]:
    lines = running.observer.metrics_text().decode().splitlines()
    found = [
        line.removeprefix(f'streamrnn_{name}{{buffer="') for line in lines if line.startswith(f"streamrnn_{name}{{")
    ]
    return {line.split('"')[0]: float(line.split()[-1]) for line in found}


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
async def test_every_buffer_has_a_metric_and_keeps_its_bound(monkeypatch: pytest.MonkeyPatch, delivery: str) -> None:
    """400 changed states in each of four partitions and batches of 50: a batch takes a few, whosever turn it is."""
    monkeypatch.setattr(module, "FLUSH_ROWS", 300)
    chosen, broker = made(
        partitions=4, checkpoint={"interval": "10ms"}, batch_records_max=50, lateness="2s", delivery=delivery
    )
    many(broker, 1600, 3)
    async with worker(chosen, broker) as running:
        most = await watched(running, lambda: all_committed(broker))
        assert metric(running, "buffer").keys() == metric(running, "buffer_max").keys() == NAMES
        assert metric(running, "buffer")["series"] == 1600
    assert most.keys() == NAMES
    for name, (used, bound) in most.items():
        assert used <= bound, name
    if delivery == "at-least-once":  # transactions end before a batch is full here, and take the states with them
        assert most["states_waiting"][0] > 0
        assert most["batches_in_flight"][0] == most["batches_in_flight"][1] == 2
    assert most["ticks_held_back"][0] > 1000


@on_virtual_clock
async def test_what_comes_during_a_transaction_leaves_in_the_next_one_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer has one transaction at a time: a batch for each of them would wait twice. One that is full need not."""
    chosen, broker = made(partitions=1, delivery="exactly-once", batch_records_max=5)
    go, ended = asyncio.Event(), list[int]()
    end = MemoryTransactionalSink._end

    async def when_told(self: MemoryTransactionalSink, *what: Any) -> None:
        await go.wait()
        await end(self, *what)
        ended.append(len(sources(broker)))

    monkeypatch.setattr(MemoryTransactionalSink, "_end", when_told)

    async def waits(running: Worker, name: str, count: int) -> None:
        await until(lambda: running.pump is not None and running.pump.buffers()[name][0] == count)

    def sent(step: int) -> None:
        broker.append("ticks", 0, b"a", tick("a", step, float(step)), START + 1000 * step)

    async with worker(chosen, broker) as running:
        sent(0)
        await waits(running, "batches_in_flight", 1)
        for step in range(1, 4):
            sent(step)
            await waits(running, "records_taken_ahead", step)
        assert not ended
        go.set()
        await until(lambda: all_committed(broker))
        assert ended == [1, 4]
        go.clear()
        for step in range(4, 4 + 2 * 5):
            sent(step)
        await waits(running, "batches_in_flight", 2)
        go.set()
        await until(lambda: all_committed(broker))


@on_virtual_clock
async def test_what_was_taken_ahead_goes_with_its_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the partition goes during a poll for more: the next owner's replay begins before it. A worker that gets
    the partition back would go on from there without what is between."""
    chosen, broker = made(partitions=1, delivery="exactly-once", batch_records_max=5)
    end, poll = MemoryTransactionalSink._end, MemorySource.poll
    go, found = asyncio.Event(), list[tuple[int, int]]()

    async def when_told(self: MemoryTransactionalSink, *what: Any) -> None:
        await go.wait()
        await end(self, *what)

    monkeypatch.setattr(MemoryTransactionalSink, "_end", when_told)
    async with worker(chosen, broker) as running:
        broker.append("ticks", 0, b"a", tick("a", 0, 0.0), START)
        await until(lambda: running.pump is not None and running.pump.buffers()["batches_in_flight"][0] == 1)
        pump = running.pump
        assert pump is not None

        async def polled(self: MemorySource, timeout_ms: int, records_max: int) -> Any:
            if not found and pump._intake.count:
                taken = pump._intake.count
                go.set()
                await self.hand_in()
                found.append((taken, pump._intake.count))
                asyncio.get_running_loop().call_soon(lambda: found.append((taken, pump._intake.count)))
                return []
            return await poll(self, timeout_ms, records_max)

        monkeypatch.setattr(MemorySource, "poll", polled)
        broker.append("ticks", 0, b"a", tick("a", 1, 1.0), START + 1000)
        await until(lambda: len(found) == 2)
    assert found == [(1, 0), (1, 0)]


async def test_series_evicted_leave_the_changelog_as_fast_as_they_come() -> None:
    chosen, broker = made(partitions=4, checkpoint={"interval": "1h", "records": 500}, series_max=20)
    many(broker, 1600, 6)
    async with worker(chosen, broker) as running:
        most = await watched(running, lambda: all_committed(broker))
        evicted = running.engine.table.evictions
    assert evicted > 9000
    assert 0 < most["series_evicted"][0] <= most["series_evicted"][1] <= 4 * (2 * 500 + 4 * 50) + 20
    live = {r.key for log in broker.topics["app.state"] for r in log if (r.key or b"").startswith(b"s/") and r.value}
    deleted = {
        r.key for log in broker.topics["app.state"] for r in log if (r.key or b"").startswith(b"s/") and not r.value
    }
    assert len(live - deleted) <= 20


@on_virtual_clock
async def test_states_of_all_partitions_get_their_turn() -> None:
    chosen, broker = made(partitions=4, checkpoint={"interval": "10ms"}, batch_records_max=50)
    many(broker, 1600, 6)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        await until(lambda: not any(len(running.engine.table.changed_rows(p)) for p in range(4)))
    for partition in range(4):
        assert sum((record.key or b"").startswith(b"s/") for record in broker.topics["app.state"][partition]) >= 400


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Deliveries are acknowledged while it is set."""
    event = asyncio.Event()
    seal = MemorySink.seal

    async def sealed(self: MemorySink, *instead: Any) -> Any:
        inner = await seal(self, *instead)

        class Held:
            async def wait(self, deadline: Deadline) -> None:
                async with asyncio.timeout(deadline.remaining_s()):
                    await event.wait()
                await inner.wait(deadline)

            def written(self, topic: str) -> Any:
                return inner.written(topic)

        return Held()

    monkeypatch.setattr(MemorySink, "seal", sealed)
    yield event


@on_virtual_clock
async def test_a_broker_that_takes_nothing_makes_lag_grow_and_nothing_else(
    gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "KEEP_ALIVE_S", 0.05)
    polls = 0
    poll = MemorySource.poll

    async def counted(self: MemorySource, timeout_ms: int, records_max: int) -> Any:
        nonlocal polls
        polls += 1
        return await poll(self, timeout_ms, records_max)

    monkeypatch.setattr(MemorySource, "poll", counted)
    chosen, broker = made(checkpoint={"interval": "10ms"})
    async with worker(chosen, broker) as running:
        await until(lambda: running.observer.health.serving)
        send(broker, 500)
        await asyncio.sleep(0.5)
        assert running.pump is not None
        taken = running.pump.positions()
        before, most = polls, running.pump.buffers()
        await asyncio.sleep(0.5)
        assert running.pump.positions() == taken  # nothing more is taken in
        assert running.pump.buffers() == most
        assert most["batches_in_flight"][0] == 2
        assert sum(position for position, _ in taken.values()) <= 2 * chosen.batch_records_max
        assert polls > before + 5  # but the client's idle clock runs on
        assert sum(running.pump._parts.source.lag().values()) >= 2000 - 2 * chosen.batch_records_max  # type: ignore[arg-type]
        gate.set()
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 0
