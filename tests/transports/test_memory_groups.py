"""The memory broker's groups and logs where the service leans on them, and where they differ from Kafka's."""

from __future__ import annotations

import asyncio

import pytest
from contract import Follow, collect, send

from streamrnn.transports.base import Committed, Deadline, OwnershipLost, TopicNeed, TransportError
from streamrnn.transports.memory.transport import MemoryTransport


class Diary(Follow):
    """Keeps every word of the group, in order."""

    def __init__(self, source: object) -> None:
        super().__init__(source)  # type: ignore[arg-type]
        self.calls: list[tuple[str, frozenset[int]]] = []

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.calls.append(("revoked", partitions))
        await asyncio.sleep(0)
        await super().revoked(partitions)

    async def assigned(self, partitions: frozenset[int]) -> None:
        self.calls.append(("assigned", partitions))
        await asyncio.sleep(0)
        await super().assigned(partitions)


@pytest.fixture
async def transport() -> MemoryTransport:
    transport = MemoryTransport()
    await transport.admin().create([TopicNeed("t", 3, {})])
    return transport


async def test_everything_is_revoked_before_anything_is_assigned(transport: MemoryTransport) -> None:
    sources = [transport.source("t", "g") for _ in range(3)]
    diaries = [Diary(source) for source in sources]
    for source, diary in zip(sources, diaries, strict=True):
        await source.start(diary)
    assert diaries[0].calls == [
        ("assigned", frozenset({0, 1, 2})),
        ("revoked", frozenset({0, 1, 2})),
        ("assigned", frozenset({0, 2})),
        ("revoked", frozenset({0, 2})),
        ("assigned", frozenset({0})),
    ]
    assert [diary.owned for diary in diaries] == [{0}, {1}, {2}]
    await sources[0].stop(Deadline(1.0))
    assert sorted(diaries[1].owned | diaries[2].owned) == [0, 1, 2]
    assert not diaries[0].owned


async def test_a_member_of_an_older_generation_may_not_commit(transport: MemoryTransport) -> None:
    zombie, heir = transport.source("t", "g"), transport.source("t", "g")
    await zombie.start(Follow(zombie))
    zombie.crash()  # and does not know it
    with pytest.raises(OwnershipLost):
        await zombie.commit({0: Committed(5)}, Deadline(1.0))
    await heir.start(Follow(heir))
    assert heir.lag().keys() == {0, 1, 2}
    with pytest.raises(OwnershipLost):
        await zombie.commit({0: Committed(5)}, Deadline(1.0))
    assert (await heir.committed([0]))[0] is None


async def test_groups_do_not_share_offsets(transport: MemoryTransport) -> None:
    one, other = transport.source("t", "one"), transport.source("t", "other")
    await one.start(Follow(one))
    await other.start(Follow(other))
    await one.commit({0: Committed(3, "note")}, Deadline(1.0))
    assert await one.committed([0]) == {0: Committed(3, "note")}
    assert await other.committed([0]) == {0: None}


async def test_a_waiting_poll_wakes_for_a_record_and_for_nothing_else(transport: MemoryTransport) -> None:
    source, sink = transport.source("t", "g"), transport.sink()
    await source.start(Follow(source))
    assert list(await source.poll(1, 10)) == []
    waiting = asyncio.create_task(source.poll(60_000, 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    await send(sink, "t", 2, [b"x"])
    async with asyncio.timeout(5):
        assert [(partition, len(records)) for partition, records in await waiting] == [(2, 1)]


async def test_a_poll_gives_no_more_than_was_asked_for(transport: MemoryTransport) -> None:
    source, sink = transport.source("t", "g"), transport.sink()
    for partition in range(3):
        await send(sink, "t", partition, [b"x"] * 10)
    await source.start(Follow(source))
    assert sum(len(records) for _, records in await source.poll(0, 15)) == 15
    assert len(await collect(source, 15)) == 15
    assert source.lag() == {0: 0, 1: 0, 2: 0}


async def test_a_reader_gives_no_more_than_was_asked_for(transport: MemoryTransport) -> None:
    reader, sink = transport.reader(), transport.sink()
    for partition in range(3):
        await send(sink, "t", partition, [b"x"] * 10)
    await reader.start("t", None)
    assert sum(len(records) for _, records in await reader.poll(0, 15)) == 15


async def test_an_offset_beyond_the_log_is_told(transport: MemoryTransport) -> None:
    source = transport.source("t", "g")
    await source.start(Follow(source, begin=77))
    with pytest.raises(TransportError, match="77"):
        await source.poll(0, 10)


async def test_members_that_join_at_once_are_told_in_turn(transport: MemoryTransport) -> None:
    sources = [transport.source("t", "g") for _ in range(3)]
    diaries = [Diary(source) for source in sources]
    await asyncio.gather(*(source.start(diary) for source, diary in zip(sources, diaries, strict=True)))
    assert sorted(len(diary.owned) for diary in diaries) == [1, 1, 1]
    for diary in diaries:
        held: frozenset[int] = frozenset()
        for word, partitions in diary.calls:
            assert partitions == held if word == "revoked" else not held
            held = partitions if word == "assigned" else frozenset()


async def test_a_waiting_poll_wakes_for_partitions_that_come_to_it(transport: MemoryTransport) -> None:
    staying, leaving, sink = transport.source("t", "g"), transport.source("t", "g"), transport.sink()
    await staying.start(Follow(staying))
    await leaving.start(Follow(leaving))
    await send(sink, "t", 1, [b"x"])  # of the member that leaves
    waiting = asyncio.create_task(staying.poll(60_000, 10))
    await asyncio.sleep(0)
    await leaving.stop(Deadline(1.0))
    async with asyncio.timeout(5):
        assert [(partition, len(records)) for partition, records in await waiting] == [(1, 1)]


async def test_what_is_in_hand_may_be_committed_while_partitions_are_given_up(transport: MemoryTransport) -> None:
    class Settles(Follow):
        async def revoked(self, partitions: frozenset[int]) -> None:
            await self.source.commit({partition: Committed(7) for partition in partitions}, Deadline(5.0))
            await super().revoked(partitions)

    for partition in range(3):
        await send(transport.sink(), "t", partition, [b"x"] * 7)
    leaving, heir = transport.source("t", "g"), transport.source("t", "g")
    await leaving.start(Settles(leaving))
    await heir.start(Follow(heir))
    await leaving.poll(0, 1)
    assert (await heir.committed([0]))[0] == Committed(7)
