"""The follower of the models topic when its reader breaks: it comes back, and old pointers are no news."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamrnn.stores.models import ModelsFollower, ModelsWriter
from streamrnn.transports.base import TopicNeed, TransportError
from streamrnn.transports.memory.transport import MemoryBroker, MemorySink, MemoryTransport


class Breaking:
    """Refuses the next requests of these names, one after another."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.refused: list[str] = []
        broker.hook = self

    async def __call__(self, what: str, client: str, effect: Callable[[], Any]) -> Any:
        if self.refused and what == self.refused[0]:
            del self.refused[0]
            raise TransportError(f"no {what}")
        return effect()


@pytest.fixture
async def broker() -> MemoryBroker:
    broker = MemoryBroker()
    await MemoryTransport(broker).admin().create([TopicNeed("models", 1, {})])
    return broker


async def published(broker: MemoryBroker, *models: str) -> None:
    for model in models:
        await ModelsWriter(MemorySink(broker), "models").publish(model, model.encode() * 10, {}, 0)


@pytest.mark.parametrize("refused", [["read"], ["read", "list-offsets"], ["read", "list-offsets", "list-offsets"]])
async def test_it_comes_back_however_often_its_return_fails(broker: MemoryBroker, refused: list[str]) -> None:
    breaking, follower = Breaking(broker), ModelsFollower(MemoryTransport(broker), "models")
    await published(broker, "one")
    await follower.start()
    assert [model for model, _ in await follower.catch_up()] == ["one"]
    await published(broker, "two")
    breaking.refused = list(refused)
    for _ in refused:
        with pytest.raises(TransportError):
            await follower.poll()
    assert [model for model, _ in await follower.poll()] == ["two"]


async def test_what_it_reads_again_is_no_news(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking, follower = Breaking(broker), ModelsFollower(MemoryTransport(broker), "models")
    await published(broker, "one", "two", "three")
    await follower.start()
    assert [model for model, _ in await follower.catch_up()] == ["three"]
    breaking.refused = ["read"]
    with pytest.raises(TransportError):
        await follower.poll()
    # The topic in small pieces, so that it is looked at with an old pointer as the last.
    take = follower._transport.reader

    def slowly(bulk: bool = False) -> Any:
        reader = take(bulk)
        poll = reader.poll
        monkeypatch.setattr(reader, "poll", lambda timeout_ms, records_max: poll(timeout_ms, 1))
        return reader

    monkeypatch.setattr(follower._transport, "reader", slowly)
    assert [await follower.poll() for _ in range(10)] == [[]] * 10
    await published(broker, "four")
    assert [model for _ in range(3) for model, _ in await follower.poll()] == ["four"]
