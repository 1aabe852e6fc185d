"""An input that was deleted and made anew has the old name, and offsets like the old ones; only its id says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from running import all_committed, ended, made, on_virtual_clock, send, sources, until, worker

from streamrnn.config.settings import Settings
from streamrnn.serving import watch
from streamrnn.transports.base import TopicMissing, TransportError
from streamrnn.transports.memory.transport import MemoryBroker, MemorySource

COUNT = 30  # steps; two records each


def made_anew(broker: MemoryBroker, count: int) -> None:
    broker.delete("ticks")
    broker.create("ticks", 1)
    send(broker, count, partitions=1, seed=1)


def said_since(broker: MemoryBroker, known: int) -> list[int]:
    return [offset for _, offset in sources(broker)[known:]]


@pytest.fixture(params=["at-least-once", "exactly-once"])
def served(request: pytest.FixtureRequest) -> Callable[[], tuple[Settings, MemoryBroker]]:
    def begin() -> tuple[Settings, MemoryBroker]:
        chosen, broker = made(partitions=1, checkpoint={"interval": "10ms"}, delivery=request.param)
        send(broker, COUNT, partitions=1)
        return chosen, broker

    return begin


@pytest.mark.parametrize("keeps", [False, True], ids=["offsets deleted", "offsets kept"])
@on_virtual_clock
async def test_one_that_has_grown_beyond_the_old_checkpoint_is_begun_anew(
    served: Callable[[], tuple[Settings, MemoryBroker]], keeps: bool
) -> None:
    chosen, broker = served()
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    known, offsets = len(sources(broker)), dict(broker.groups["app"].committed)
    made_anew(broker, 2 * COUNT)
    if keeps:  # by a commit of somebody who had not heard of it
        broker.groups["app"].committed.update(offsets)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.cold_starts._value.get() == 1
    assert said_since(broker, known) == list(range(4 * COUNT))


@on_virtual_clock
async def test_under_a_running_worker_it_is_noticed(
    served: Callable[[], tuple[Settings, MemoryBroker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "INPUT_ID_CHECK_S", 0.05)
    chosen, broker = served()
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        known = len(sources(broker))
        made_anew(broker, 2 * COUNT)
        await until(lambda: running.observer.metrics.cold_starts._value.get() == 1)
        # What came before that was taken for a continuation, and is said once more.
        await until(lambda: said_since(broker, known)[-4 * COUNT :] == list(range(4 * COUNT)))


@on_virtual_clock
async def test_one_that_is_gone_for_good_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "INPUT_ID_CHECK_S", 0.05)
    chosen, broker = made(partitions=1)
    send(broker, COUNT, partitions=1)
    with pytest.raises(TopicMissing, match="deleted under this worker"):
        async with worker(chosen, broker) as running:
            await until(lambda: all_committed(broker))
            broker.topic_id = lambda topic: None  # type: ignore[method-assign]
            await until(lambda: ended(running))


@pytest.mark.parametrize("answer", ["refused", "none"])
@on_virtual_clock
async def test_a_broker_that_does_not_say_it_costs_nothing(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(watch, "INPUT_ID_CHECK_S", 0.05)
    monkeypatch.setattr(watch, "ANSWER_S", 0.05)
    chosen, broker = made(partitions=1)
    send(broker, COUNT, partitions=1)
    asked = 0

    async def silent(self: MemorySource) -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(30.0 if answer == "none" else 0.0)
        raise TransportError("not now")

    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        monkeypatch.setattr(MemorySource, "topic_id", silent)
        await until(lambda: asked > 2)
        send(broker, COUNT, first=COUNT, partitions=1)
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 0


@on_virtual_clock
async def test_where_the_broker_gives_no_ids_nothing_is_begun_anew() -> None:
    chosen, broker = made(partitions=1, checkpoint={"interval": "10ms"})
    for ids in ("given", "none", "given"):
        if ids == "none":
            broker.ids.clear()
        else:
            broker.ids["ticks"] = "ticks-1"
        send(broker, COUNT, first=len(broker.topics["ticks"][0]) // 2, partitions=1)
        async with worker(chosen, broker) as running:
            await until(lambda: all_committed(broker))
            assert running.observer.metrics.cold_starts._value.get() == 0
    assert [offset for _, offset in sources(broker)] == list(range(6 * COUNT))
