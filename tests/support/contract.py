"""What every transport must do; run against the memory transport and against Kafka alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streamrnn.records import Record
from streamrnn.transports.base import (
    Committed,
    Deadline,
    OwnershipLost,
    Sink,
    Source,
    TopicMissing,
    TopicNeed,
    Transport,
    TransportError,
)


class Follow:
    """A listener that begins where it is asked to and keeps what it was given."""

    def __init__(self, source: Source, begin: int = 0) -> None:
        self.source, self.begin = source, begin
        self.owned: set[int] = set()

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.owned -= partitions

    async def assigned(self, partitions: frozenset[int]) -> None:
        for partition, committed in (await self.source.committed(sorted(partitions))).items():
            self.source.seek(partition, committed.offset if committed else self.begin)
        self.owned |= partitions


async def collect(source: Source, count: int, timeout_s: float = 60.0) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            for _, records in await source.poll(100, 500):
                found += records
    return found


async def send(sink: Sink, topic: str, partition: int, values: Sequence[bytes | None]) -> None:
    await sink.append_many(topic, partition, [b"k"] * len(values), values, list(range(len(values))))
    await (await sink.seal()).wait(Deadline(60.0))


class TransportContract:
    """Subclasses give the fixtures `transport` and `unique`."""

    @pytest.fixture
    async def topic(self, transport: Transport, unique: Callable[[str], str]) -> str:
        name = unique("topic")
        admin = transport.admin()
        await admin.start()
        assert await admin.create([TopicNeed(name, 2, {})]) == [name]
        assert await admin.create([TopicNeed(name, 2, {})]) == []
        assert await admin.describe([name, "nowhere"]) == {name: 2, "nowhere": None}
        await admin.stop()
        return name

    async def test_records_arrive_as_they_were_sent(self, transport: Transport, topic: str) -> None:
        sink, source = transport.sink(), transport.source(topic, topic)
        await sink.start()
        await sink.append_many(
            topic, 1, [b"a", None, b"c"], [b"one", b"two", None], [10, 20, 30], [[("h", b"1")], [], [("x", b"")]]
        )
        await (await sink.seal()).wait(Deadline(60.0))
        await source.start(Follow(source))
        found = await collect(source, 3)
        assert [(r.partition, r.offset, r.key, r.value, r.timestamp) for r in found] == [
            (1, 0, b"a", b"one", 10),
            (1, 1, None, b"two", 20),
            (1, 2, b"c", None, 30),
        ]
        assert [list(r.headers) for r in found] == [[("h", b"1")], [], [("x", b"")]]
        assert source.lag()[1] == 0
        await source.stop(Deadline(5.0))
        await sink.stop(Deadline(5.0))

    async def test_commits_keep_offset_and_note_and_a_new_member_begins_there(
        self, transport: Transport, topic: str
    ) -> None:
        sink, source = transport.sink(), transport.source(topic, topic)
        await sink.start()
        await send(sink, topic, 0, [b"%d" % i for i in range(10)])
        await source.start(Follow(source))
        await collect(source, 10)
        await source.commit({0: Committed(4, '{"replay_from":2}')}, Deadline(5.0))
        assert await source.committed([0, 1]) == {0: Committed(4, '{"replay_from":2}'), 1: None}
        await source.stop(Deadline(5.0))
        again = transport.source(topic, topic)
        await again.start(Follow(again))
        assert [r.offset for r in await collect(again, 6)] == [4, 5, 6, 7, 8, 9]
        await again.stop(Deadline(5.0))
        await sink.stop(Deadline(5.0))

    async def test_a_topic_has_an_id_that_no_other_has(
        self, transport: Transport, topic: str, unique: Callable[[str], str]
    ) -> None:
        other = unique("other")
        admin = transport.admin()
        await admin.start()
        await admin.create([TopicNeed(other, 1, {})])
        await admin.stop()
        found = []
        for name in (topic, topic, other):
            source = transport.source(name, name)
            await source.start(Follow(source))
            found.append(await source.topic_id())
            await source.stop(Deadline(5.0))
        assert found[0]
        assert found[0] == found[1] != found[2]

    async def test_two_members_share_and_a_stale_one_cannot_commit(self, transport: Transport, topic: str) -> None:
        sources = [transport.source(topic, topic) for _ in range(2)]
        listeners = [Follow(source) for source in sources]
        await sources[0].start(listeners[0])
        assert listeners[0].owned == {0, 1}
        joining = asyncio.create_task(sources[1].start(listeners[1]))
        async with asyncio.timeout(60):
            while not (joining.done() and len(listeners[0].owned) == len(listeners[1].owned) == 1):
                await sources[0].poll(50, 10)
                if joining.done():
                    await sources[1].poll(50, 10)
        theirs = next(iter(listeners[1].owned))
        with pytest.raises(OwnershipLost):
            await sources[0].commit({theirs: Committed(1)}, Deadline(5.0))
        for source in sources:
            await source.stop(Deadline(5.0))

    @pytest.mark.parametrize("error", [KeyError("no such state"), TransportError("no such state")], ids=type)
    async def test_a_listener_that_fails_ends_the_source_and_a_defect_is_told(
        self, transport: Transport, topic: str, error: Exception
    ) -> None:
        handled: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: handled.append(context["exception"]))

        class Broken(Follow):
            async def assigned(self, partitions: frozenset[int]) -> None:
                raise error

        source = transport.source(topic, topic)
        with pytest.raises(TransportError, match="no such state"):
            await source.start(Broken(source))
            await collect(source, 1)
        await source.stop(Deadline(5.0))
        assert handled == ([error] if isinstance(error, KeyError) else [])

    async def test_paused_partitions_are_not_read_until_resumed(self, transport: Transport, topic: str) -> None:
        sink, source = transport.sink(), transport.source(topic, topic)
        await sink.start()
        await source.start(Follow(source))
        source.pause([0])
        await send(sink, topic, 0, [b"zero"])
        await send(sink, topic, 1, [b"one"])
        assert [r.value for r in await collect(source, 1)] == [b"one"]
        assert list(await source.poll(200, 10)) == []
        source.resume([0])
        assert [r.value for r in await collect(source, 1)] == [b"zero"]
        await source.stop(Deadline(5.0))
        await sink.stop(Deadline(5.0))

    async def test_a_reader_reads_whole_partitions_from_where_it_is_told(
        self, transport: Transport, topic: str
    ) -> None:
        sink, reader = transport.sink(), transport.reader()
        await sink.start()
        await send(sink, topic, 0, [b"%d" % i for i in range(5)])
        await reader.start(topic, {0: 3, 1: 0})
        found: list[Record] = []
        async with asyncio.timeout(60):
            while len(found) < 2:
                for _, records in await reader.poll(100, 10):
                    found += records
        assert [r.value for r in found] == [b"3", b"4"]
        assert await reader.begin_offsets() == {0: 0, 1: 0}
        assert await reader.end_offsets() == {0: 5, 1: 0}
        assert reader.position(0) == 5
        await reader.stop(Deadline(5.0))
        await sink.stop(Deadline(5.0))

    async def test_topics_that_are_not_there_are_told(self, transport: Transport, topic: str) -> None:
        reader, sink = transport.reader(), transport.sink()
        await sink.start()
        with pytest.raises(TopicMissing):
            await reader.start(topic + "-not", None)
        with pytest.raises(TopicMissing):
            await sink.partitions_for(topic + "-not")
        assert await sink.partitions_for(topic) == 2
        await sink.stop(Deadline(5.0))
