"""The worker end to end on the memory transport: conservation, commits, restarts, swaps, failures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from running import (
    START,
    all_committed,
    committed,
    documents,
    ended,
    feed_until,
    made,
    on_virtual_clock,
    send,
    settings,
    sources,
    tick,
    until,
    worker,
)

from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack
from streamrnn.serving import worker as module
from streamrnn.serving.commit_note import ReplayPoints, committed_with, starting_points
from streamrnn.serving.worker import GaveUp
from streamrnn.stores.models import ModelsWriter
from streamrnn.transports.base import Committed, Deadline, DeliveryFailed, TopicMissing, TransportError
from streamrnn.transports.memory.transport import MemorySink, MemorySource, MemoryTransport


class Failing:
    """A delivery."""

    async def wait(self, deadline: Deadline) -> None:
        raise DeliveryFailed("the broker lost it")


async def test_every_record_ends_in_exactly_one_place_and_is_committed() -> None:
    chosen, broker = made()
    send(broker, 60)
    for k, bad in enumerate([b"{", b'{"series":"x","ts":1,"values":{"temp":"warm"}}', tick("a0", 2, 9.0), None]):
        broker.append("ticks", k % 2, b"key", bad, START + 60_000)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    found = sources(broker)
    assert sorted(found) == sorted((p, o) for p, log in enumerate(broker.topics["ticks"]) for o in range(len(log)))
    reasons = [dict(r.headers)["streamrnn-reason"] for log in broker.topics["app.dlq"] for r in log]
    assert sorted(reasons) == [b"late", b"malformed", b"tombstone", b"type"]


async def test_outputs_of_a_partition_go_to_the_partition_of_that_number() -> None:
    chosen, broker = made()
    send(broker, 20)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    for partition, log in enumerate(broker.topics["app.forecasts"]):
        assert log
        for record in log:
            assert json.loads(record.value or b"")["source"]["partition"] == partition
            assert record.key == json.loads(record.value or b"")["series"].encode()


async def test_after_a_restart_the_first_forecast_is_warm_and_nothing_is_said_twice() -> None:
    chosen, broker = made()
    send(broker, 400)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    before = len(documents(broker, "app.forecasts"))
    metadata = broker.groups["app"].committed["ticks", 0].metadata
    assert 0 < json.loads(metadata)["replay_from"] < 800 - 2 * chosen.warm_up
    send(broker, 10, first=400)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    later = documents(broker, "app.forecasts")
    assert len(later) == before + 40
    assert len(set(sources(broker))) == len(sources(broker))
    fresh = [d for d in later if d["source"]["offset"] >= 800]
    assert len(fresh) == 40
    assert all(d["warm"] for d in fresh)


async def test_a_failed_delivery_commits_nothing_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, broker = made()
    send(broker, 60)
    failures = iter([False, True])

    inner = MemorySink.seal

    async def seal(self: MemorySink, *instead: Any) -> Any:
        return Failing() if next(failures, False) else await inner(self, *instead)

    monkeypatch.setattr(MemorySink, "seal", seal)
    monkeypatch.setattr("streamrnn.serving.worker.BACKOFF_S", (0.01, 0.02))
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 1
    found = sources(broker)
    assert set(found) == {(p, o) for p in range(2) for o in range(120)}
    # Doubles are those of the batches that were on their way, and carry the same source.
    assert 0 < len(found) - len(set(found)) <= 3 * chosen.batch_records_max


@pytest.mark.parametrize("helped_s", [0.0, 3600.0], ids=["that helped", "that did not"])
@on_virtual_clock
async def test_a_worker_gives_up_when_rebuilds_have_not_helped_for_long(
    monkeypatch: pytest.MonkeyPatch, helped_s: float
) -> None:
    """Every 25th batch is lost: between two of them much is committed, which counts if the clients served long enough."""
    monkeypatch.setattr(module, "BACKOFF_S", (0.001, 0.002))
    monkeypatch.setattr(module, "GIVE_UP_S", 0.5)
    monkeypatch.setattr(module, "SERVED_OK_S", helped_s)
    chosen, broker = made(batch_records_max=10, commit_interval="1ms", checkpoint={"interval": "10ms"})
    send(broker, 400)
    count, inner = itertools.count(1), MemorySink.seal

    async def seal(self: MemorySink, *instead: Any) -> Any:
        await asyncio.sleep(0.002)
        return Failing() if next(count) % 25 == 0 else await inner(self, *instead)

    monkeypatch.setattr(MemorySink, "seal", seal)
    if helped_s:
        with pytest.raises(GaveUp, match="s did not help"):
            async with worker(chosen, broker) as running:
                await feed_until(broker, lambda: ended(running))
        return
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() > 3


@on_virtual_clock
async def test_clients_that_never_served_are_no_help_however_long_those_before_them_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.001, 0.002))
    monkeypatch.setattr(module, "SERVED_OK_S", 0.0)
    monkeypatch.setattr(module, "GIVE_UP_S", 0.3)
    chosen, broker = made()
    send(broker, 60)
    with pytest.raises(GaveUp):
        async with worker(chosen, broker) as running:
            await until(lambda: all_committed(broker))

            async def start(self: MemorySink, *instead: Any) -> None:
                raise TransportError("nobody there")

            monkeypatch.setattr(MemorySink, "start", start)
            monkeypatch.setattr(MemorySink, "seal", start)
            await feed_until(broker, lambda: ended(running))


@on_virtual_clock
async def test_commits_go_an_interval_apart_and_at_once_where_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, broker = made(commit_interval="1h", batch_records_max=10)
    commits: list[dict[int, int]] = []
    inner = MemorySource.commit

    async def commit(self: MemorySource, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        commits.append({partition: entry.offset for partition, entry in offsets.items()})
        await inner(self, offsets, deadline)

    monkeypatch.setattr(MemorySource, "commit", commit)
    send(broker, 60)
    async with worker(chosen, broker) as running:
        await until(lambda: len(sources(broker)) == 240)
        pump = running.pump
        assert pump is not None
        await until(lambda: pump.buffers()["batches_in_flight"][0] == 0)
        # The first went with the first batch that was delivered; what came after it waits.
        assert len(commits) == 1
        assert sum(commits[0].values()) < 240
    assert all_committed(broker)
    assert len(commits) == 2


@pytest.mark.parametrize("fails", [False, True], ids=["arrives", "fails"])
async def test_a_drain_and_the_turn_under_way_wait_for_the_same_commit(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A rebalance drains beside the loop, which may take note of the commit's end first, and put it away."""
    chosen, broker = made(partitions=1)
    go, inner = asyncio.Event(), MemorySource.commit

    async def commit(self: MemorySource, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        await go.wait()
        if fails:
            raise TransportError("the broker is away")
        await inner(self, offsets, deadline)

    monkeypatch.setattr(MemorySource, "commit", commit)
    send(broker, 5, partitions=1)
    async with worker(chosen, broker) as running:
        await until(lambda: running.pump is not None and running.pump._deliveries._committing is not None)
        assert running.pump is not None
        deliveries = running.pump._deliveries
        assert deliveries._committing is not None
        noted: list[bool] = []

        def turn(done: asyncio.Task[None]) -> None:
            with contextlib.suppress(TransportError):
                deliveries.raise_commit_error()
            noted.append(deliveries._committing is not done)

        deliveries._committing.add_done_callback(turn)
        draining = asyncio.create_task(deliveries.drain(Deadline(10.0)))
        await asyncio.sleep(0.05)
        assert not draining.done()
        go.set()
        if fails:
            with pytest.raises(TransportError, match="away"):
                await draining
        else:
            await draining
            assert committed(broker) == {0: 10}
        assert noted == [True]


async def test_states_that_could_not_be_written_at_the_end_are_not_said_to_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that ends winds up, and once more when it gives its partitions up: nothing holds the second time, either."""
    chosen, broker = made()
    stopping = False

    inner = MemorySink.seal

    async def seal(self: MemorySink, *instead: Any) -> Any:
        states = [batch for (topic, _), batch in self._batches.items() if topic == chosen.topics.state]
        if stopping and any(key is not None and key.startswith(b"s/") for batch in states for key, *_ in batch):
            self._batches = {}
            return Failing()
        return await inner(self, *instead)

    monkeypatch.setattr(MemorySink, "seal", seal)
    send(broker, 60)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
        stopping = True
    stopping = False
    records = [record for log in broker.topics[chosen.topics.state] for record in log]
    written = {json.loads(record.value or b"")["offset"] for record in records if record.key == b"checkpoint"}
    assert written == {0}  # as it began, and none that speaks of states which are not there
    send(broker, 20, first=60)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    assert set(sources(broker)) == {(p, o) for p in range(2) for o in range(160)}


async def test_weights_are_swapped_in_between_two_batches_and_found_again_at_a_restart() -> None:
    chosen, broker = made()
    send(broker, 30)
    torch.manual_seed(0)
    meta = WeightsMeta()
    blob = pack(Network(chosen.model_spec()), meta)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        await ModelsWriter(MemorySink(broker), "app.models").publish(meta.id, blob, {}, 0)
        await until(
            lambda: (
                (running.weights is not None and running.weights.pending is not None) or running.engine.model == meta.id
            )
        )
        send(broker, 30, first=30)
        await until(lambda: all_committed(broker))
        assert running.observer.swaps == 1
    models = [d["model"] for d in documents(broker, "app.forecasts")]
    assert set(models) == {"persistence", meta.id}
    send(broker, 5, first=60)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.engine.model == meta.id


async def test_weights_that_cannot_be_served_change_nothing() -> None:
    chosen, broker = made()
    send(broker, 10)
    meta = WeightsMeta()
    blob = pack(Network(chosen.model_spec()), meta)
    blob = blob[:5] + bytes([1]) + blob[6:]  # of a version whose networks forecast something else
    await ModelsWriter(MemorySink(broker), "app.models").publish(meta.id, blob, {}, 0)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.engine.model == "persistence"
        assert running.observer.metrics.weights_refused._value.get() == 1


async def test_two_workers_share_the_partitions_and_a_crashed_one_is_replaced() -> None:
    chosen, broker = made(partitions=4)
    send(broker, 100, partitions=4)
    async with worker(chosen, broker) as first:
        async with worker(chosen, broker) as second:
            await until(lambda: first.pump is not None and second.pump is not None and len(second.pump.owned) == 2)
            send(broker, 50, first=100, partitions=4)
            await until(lambda: all_committed(broker))
            assert first.pump is not None
            assert len(first.pump.owned) == 2
        send(broker, 20, first=150, partitions=4)
        await until(lambda: all_committed(broker))
        assert len(first.pump.owned) == 4
    assert set(sources(broker)) == {(p, o) for p in range(4) for o in range(340)}


async def test_a_missing_topic_is_told_with_the_command_that_makes_it() -> None:
    chosen, broker = made()
    del broker.topics["app.dlq"]
    with pytest.raises(TopicMissing, match=r"app\.dlq.*topics --create"):
        async with worker(chosen, broker) as running:
            await until(lambda: ended(running))


async def test_it_becomes_ready_and_says_why_not() -> None:
    chosen, broker = made()
    async with worker(chosen, broker) as running:
        assert running.observer.health.ready(0.0) == (False, "starting")
        await until(lambda: running.observer.health.serving)
        assert running.observer.health.ready(0.0)[0]
    assert not running.observer.health.ready(0.0)[0]


# ── where to begin ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("known", "begin", "end", "fresh", "point"),
    [
        (committed_with(100, 40), 0, 200, 0, (40, 100)),
        (committed_with(100, 40), 50, 200, 50, (50, 100)),  # retention has overtaken the replay point
        (None, 10, 200, 90, (90, 90)),  # never committed
        (Committed(70, "scribble"), 5, 200, 5, (70, 70)),
        (committed_with(900, 700), 0, 200, 0, (0, 0)),  # beyond the end: the topic was made anew
        (committed_with(10, 5), 30, 40, 0, (30, 30)),
    ],
)
def test_where_a_partition_without_state_begins(
    known: Committed | None, begin: int, end: int, fresh: int, point: tuple[int, int]
) -> None:
    assert starting_points(known, begin, end, fresh) == point


def test_replay_points_reach_back_warm_up_steps_and_no_further() -> None:
    spec = settings(warm_up=50).stream_spec()
    points = ReplayPoints(spec)
    for offset in range(0, 100_000, 300):
        points.note(offset, START + offset * 10, 300)  # a hundred records a second
    replay = points.replay_from(START + 1_000_000, 100, 100_000)
    assert 100_000 - 51 * 100 - 700 <= replay <= 100_000 - 51 * 100
    assert ReplayPoints(spec).replay_from(None, 0, 7) == 7


async def test_the_transport_is_looked_at_before_anything_is_read() -> None:
    chosen, broker = made()
    broker.topics["app.forecasts"] = broker.topics["app.forecasts"][:1]
    with pytest.raises(Exception, match=r"app\.forecasts: 1 partitions are too few"):
        async with worker(chosen, broker) as running:
            await until(lambda: ended(running))
    assert committed(broker) == {}
    assert isinstance(MemoryTransport(broker).admin(), object)
