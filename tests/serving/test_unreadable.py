"""Logs that cannot be read, and clients that fall silent: what is healthy goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from running import all_committed, committed, documents, made, on_virtual_clock, send, sources, until, worker

from streamrnn.records import Record
from streamrnn.serving import deliveries
from streamrnn.serving import unreadable as module
from streamrnn.serving.unreadable import UnreadablePartitions
from streamrnn.transports.base import Deadline, TransportError
from streamrnn.transports.memory.transport import MemoryReader, MemorySource, MemoryTransport, _Delivery


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrnn.serving.worker.BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr("streamrnn.serving.worker.RETRY_LOOK_S", 0.02)
    monkeypatch.setattr(module, "RETRY_S", 0.1)
    monkeypatch.setattr(module, "SILENCE_S", 0.2)


@on_virtual_clock
async def test_a_damaged_record_stops_its_partition_there_and_no_other_and_nothing_is_skipped() -> None:
    chosen, broker = made()
    send(broker, 100)
    broker.damaged.add(("ticks", 1, 77))
    async with worker(chosen, broker) as running:
        await until(lambda: committed(broker) == {0: 200, 1: 77})
        health, metrics = running.observer.health, running.observer.metrics
        await until(lambda: health.unreadable)
        assert metrics.unreadable._value.get() == 1
        assert not health.ready(0.0)[0]
        assert "partition 1: from offset 77 on" in health.ready(0.0)[1]
        assert health.live(1e9)[0]  # a restart would not help
        send(broker, 50, first=100)
        await until(lambda: committed(broker)[0] == 300)
        rebuilds = metrics.rebuilds._value.get()
        await asyncio.sleep(0.3)
        assert committed(broker)[1] == 77
        assert metrics.rebuilds._value.get() == rebuilds == 1
        broker.damaged.clear()
        await until(lambda: all_committed(broker))
        assert metrics.unreadable._value.get() == 0
        assert health.ready(0.0)[0]
    assert set(sources(broker)) == {(p, o) for p in range(2) for o in range(300)}


@on_virtual_clock
async def test_records_given_up_by_the_operator_are_passed_with_an_alarm() -> None:
    """The log's begin is moved beyond the damage; the state goes on from its checkpoint or warms up anew."""
    chosen, broker = made(checkpoint={"interval": "10ms"})
    send(broker, 100)
    broker.damaged.add(("ticks", 1, 77))
    async with worker(chosen, broker) as running:
        await until(lambda: running.observer.health.unreadable)
        await until(lambda: committed(broker) == {0: 200, 1: 77})
        del broker.topics["ticks"][1][:90]
        broker.begin["ticks", 1] = 90
        await until(lambda: committed(broker) == {0: 200, 1: 200})
    wanted = {(0, o) for o in range(200)} | {(1, o) for o in range(200) if not 77 <= o < 90}
    assert set(sources(broker)) == wanted


@on_virtual_clock
async def test_a_transfer_that_was_damaged_once_costs_a_rebuild_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, broker = made()
    send(broker, 100)
    broker.damaged.add(("ticks", 1, 77))
    poll = MemorySource.poll

    async def once(self: MemorySource, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        try:
            return await poll(self, timeout_ms, records_max)
        except TransportError:
            broker.damaged.clear()
            raise

    monkeypatch.setattr(MemorySource, "poll", once)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 1
        assert not running.unreadable.found


@on_virtual_clock
async def test_what_is_silent_though_it_has_records_counts_as_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    _, broker = made()
    send(broker, 10)

    async def nothing(self: MemoryReader, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        await asyncio.sleep(0.01)
        return []

    monkeypatch.setattr(MemoryReader, "poll", nothing)
    partitions = UnreadablePartitions(MemoryTransport(broker), "ticks")
    await partitions.examine({0: 5, 1: 20})
    assert partitions.limits == {0: 5}  # partition 1 is at its end
    assert "nothing came" in partitions.found[0].why


@on_virtual_clock
async def test_a_client_that_gives_nothing_though_there_is_something_is_built_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, broker = made(stall_after="1s")
    send(broker, 20)
    stuck: set[int] = set()
    poll = MemorySource.poll

    async def stalls(self: MemorySource, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        if id(self) in stuck:
            await asyncio.sleep(timeout_ms / 1000)
            return []
        return await poll(self, timeout_ms, records_max)

    monkeypatch.setattr(MemorySource, "poll", stalls)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        await asyncio.sleep(1.5)  # idle at the end of the log is no stall
        assert running.observer.metrics.rebuilds._value.get() == 0
        stuck.update(id(member) for member in broker.groups["app"].members)
        send(broker, 20, first=20)
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 1
        assert not running.unreadable.found
    assert set(sources(broker)) == {(p, o) for p in range(2) for o in range(80)}


@on_virtual_clock
async def test_outputs_that_leave_slowly_are_no_sign_of_a_client_that_gives_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a delivery is waited for longer than a client may be silent, nothing is asked of it."""
    monkeypatch.setattr(deliveries, "KEEP_ALIVE_S", 0.1)
    chosen, broker = made(stall_after="1s", batch_records_max=50)
    send(broker, 100)
    wait = _Delivery.wait

    async def slowly(self: _Delivery, deadline: Deadline) -> None:
        await asyncio.sleep(1.5)
        await wait(self, deadline)

    monkeypatch.setattr(_Delivery, "wait", slowly)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker), 60)
        assert running.observer.metrics.rebuilds._value.get() == 0
    assert sorted(sources(broker)) == [(p, o) for p in range(2) for o in range(200)]


@on_virtual_clock
async def test_a_damaged_changelog_costs_its_partition_the_state_and_the_others_nothing() -> None:
    chosen, broker = made(checkpoint={"interval": "10ms"})
    send(broker, 100)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    broker.damaged.add(("app.state", 1, 1))
    send(broker, 10, first=100)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.cold_starts._value.get() == 1
        assert running.observer.metrics.restored._value.get() >= 2
    assert sorted(sources(broker)) == [(p, o) for p in range(2) for o in range(220)]
    # Mended later: what the damage hid is of an older life and is not mixed with what has been written since.
    broker.damaged.clear()
    send(broker, 10, first=110)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.cold_starts._value.get() == 0
    assert sorted(sources(broker)) == [(p, o) for p in range(2) for o in range(240)]
    assert all(d["warm"] for d in documents(broker, "app.forecasts")[-8:])


@on_virtual_clock
async def test_a_damaged_models_topic_leaves_persistence_serving() -> None:
    chosen, broker = made()
    send(broker, 20)
    broker.append("app.models", 0, b"current", b"{}", 0)
    broker.damaged.add(("app.models", 0, 0))
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.engine.model == "persistence"
