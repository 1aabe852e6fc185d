"""A broker inside the process: partitions, offsets, groups with eager rebalances. For tests and the Python API.

It has the semantics the service relies on and nothing else: per-partition logs, committed offsets with metadata, groups
that revoke everything from everyone before they assign anew, commits refused from a member of an older generation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamrnn.records import Record
from streamrnn.transports.base import (
    Committed,
    Deadline,
    Listener,
    OwnershipLost,
    TopicMissing,
    TopicNeed,
    TransportError,
)


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class _Group:
    members: list[MemorySource] = field(default_factory=list)
    generation: int = 0
    committed: dict[tuple[str, int], Committed] = field(default_factory=dict)


class MemoryBroker:
    """Topics and groups. `topics[name][partition]` is the list of its records; `begin` where retention has come to."""

    def __init__(self) -> None:
        self.topics: dict[str, list[list[MemoryRecord]]] = {}
        self.begin: dict[tuple[str, int], int] = {}
        self.groups: dict[str, _Group] = {}
        self._news = asyncio.Condition()

    def create(self, topic: str, partitions: int) -> None:
        self.topics.setdefault(topic, [[] for _ in range(partitions)])

    def log(self, topic: str, partition: int) -> list[MemoryRecord]:
        try:
            return self.topics[topic][partition]
        except (KeyError, IndexError) as error:
            raise TopicMissing(f"no topic {topic!r} with a partition {partition}: create it first") from error

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        timestamp: int,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Appends one record and returns its offset."""
        log = self.log(topic, partition)
        offset = self.begin.get((topic, partition), 0) + len(log)
        log.append(MemoryRecord(topic, partition, offset, timestamp, key, value, tuple(headers)))
        return offset

    def end(self, topic: str, partition: int) -> int:
        return self.begin.get((topic, partition), 0) + len(self.log(topic, partition))

    def read(self, topic: str, partition: int, offset: int, count: int) -> list[MemoryRecord]:
        at = max(offset - self.begin.get((topic, partition), 0), 0)
        return self.log(topic, partition)[at : at + count]

    async def announce(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def news(self, timeout_ms: int) -> None:
        """Waits until something was appended or a group changed, or the time is up."""
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait(), timeout_ms / 1000)
            except TimeoutError:
                return

    async def rebalance(self, group: str) -> None:
        """Everyone gives up everything, then partitions are dealt out in turn: the eager protocol."""
        state = self.groups[group]
        state.generation += 1
        for member in state.members:
            await member.lose_all()
        topics = {member.topic for member in state.members}
        shares: dict[int, list[int]] = {i: [] for i in range(len(state.members))}
        for topic in sorted(topics):
            takers = [i for i, member in enumerate(state.members) if member.topic == topic]
            for partition in range(len(self.topics.get(topic, []))):
                shares[takers[partition % len(takers)]].append(partition)
        for i, member in enumerate(state.members):
            await member.gain(frozenset(shares[i]), state.generation)
        await self.announce()


class MemorySource:
    """A group member on a MemoryBroker; see transports.base.Source."""

    def __init__(self, broker: MemoryBroker, topic: str, group: str) -> None:
        self.topic = topic
        self._broker, self._group = broker, group
        self._listener: Listener | None = None
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._generation = -1
        self._failure: BaseException | None = None

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        group = self._broker.groups.setdefault(self._group, _Group())
        group.members.append(self)
        await self._broker.rebalance(self._group)

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        if self._failure is not None:
            raise TransportError(f"a rebalance listener failed: {self._failure}") from self._failure
        for attempt in range(2):
            polled: list[tuple[int, Sequence[Record]]] = []
            left = records_max
            for partition in sorted(self._positions.keys() - self._paused):
                records = self._broker.read(self.topic, partition, self._positions[partition], left)
                if records:
                    self._positions[partition] = records[-1].offset + 1
                    left -= len(records)
                    polled.append((partition, records))
                if left <= 0:
                    break
            if polled or timeout_ms <= 0 or attempt:
                await asyncio.sleep(0)
                return polled
            await self._broker.news(timeout_ms)
        return []

    async def commit(self, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        group = self._broker.groups[self._group]
        if (
            self not in group.members
            or self._generation != group.generation
            or not offsets.keys() <= self._positions.keys()
        ):
            raise OwnershipLost(f"group {self._group} has moved on to generation {group.generation}")
        for partition, committed in offsets.items():
            group.committed[self.topic, partition] = committed

    async def committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]:
        known = self._broker.groups.setdefault(self._group, _Group()).committed
        return {partition: known.get((self.topic, partition)) for partition in partitions}

    async def begin_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        return {partition: self._broker.begin.get((self.topic, partition), 0) for partition in partitions}

    async def end_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        return {partition: self._broker.end(self.topic, partition) for partition in partitions}

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self._positions:
            raise OwnershipLost(f"partition {partition} of {self.topic} is not assigned here")
        self._positions[partition] = offset

    def pause(self, partitions: Sequence[int]) -> None:
        self._paused |= set(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._paused -= set(partitions)

    def lag(self) -> dict[int, int | None]:
        return {p: self._broker.end(self.topic, p) - position for p, position in self._positions.items()}

    async def stop(self, deadline: Deadline) -> None:
        group = self._broker.groups.get(self._group)
        if group is not None and self in group.members:
            await self.lose_all()
            group.members.remove(self)
            await self._broker.rebalance(self._group)

    def crash(self) -> None:
        """Vanishes as a killed process does: nothing is given up in order; the group notices at its next rebalance."""
        group = self._broker.groups[self._group]
        if self in group.members:
            group.members.remove(self)

    async def lose_all(self) -> None:
        if self._positions and self._listener is not None:
            try:
                await self._listener.revoked(frozenset(self._positions))
            except Exception as error:  # noqa: BLE001 - kept for the next poll, as the protocol says
                self._failure = error
        self._positions.clear()
        self._paused.clear()

    async def gain(self, partitions: frozenset[int], generation: int) -> None:
        self._generation = generation
        self._positions = dict.fromkeys(partitions, 0)
        if self._listener is not None:
            try:
                await self._listener.assigned(partitions)
            except Exception as error:  # noqa: BLE001
                self._failure = error


class _Done:
    async def wait(self, deadline: Deadline) -> None:
        return


class MemorySink:
    """Appends at once; see transports.base.Sink."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        return

    async def append_many(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
    ) -> None:
        for i, value in enumerate(values):
            self._broker.append(
                topic, partition, keys[i], value, timestamps_ms[i], headers[i] if headers is not None else ()
            )

    async def partitions_for(self, topic: str) -> int:
        if topic not in self._broker.topics:
            raise TopicMissing(f"no topic {topic!r}: create it first")
        return len(self._broker.topics[topic])

    async def seal(self) -> _Done:
        await self._broker.announce()
        return _Done()

    async def stop(self, deadline: Deadline) -> None:
        return


class MemoryReader:
    """See transports.base.PartitionReader."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._topic = ""
        self._positions: dict[int, int] = {}

    async def start(self, topic: str, start: Mapping[int, int] | None) -> None:
        self._topic = topic
        if topic not in self._broker.topics:
            raise TopicMissing(f"no topic {topic!r}: create it first")
        begin = {p: self._broker.begin.get((topic, p), 0) for p in range(len(self._broker.topics[topic]))}
        self._positions = begin if start is None else {p: max(offset, begin[p]) for p, offset in start.items()}

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        for attempt in range(2):
            polled: list[tuple[int, Sequence[Record]]] = []
            for partition, position in self._positions.items():
                records = self._broker.read(self._topic, partition, position, records_max)
                if records:
                    self._positions[partition] = records[-1].offset + 1
                    polled.append((partition, records))
            if polled or timeout_ms <= 0 or attempt:
                await asyncio.sleep(0)
                return polled
            await self._broker.news(timeout_ms)
        return []

    async def begin_offsets(self) -> dict[int, int]:
        return {p: self._broker.begin.get((self._topic, p), 0) for p in self._positions}

    async def end_offsets(self) -> dict[int, int]:
        return {p: self._broker.end(self._topic, p) for p in self._positions}

    def position(self, partition: int) -> int:
        return self._positions[partition]

    async def stop(self, deadline: Deadline) -> None:
        self._positions.clear()


class MemoryAdmin:
    """See transports.base.Admin."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        return

    async def describe(self, names: Sequence[str]) -> dict[str, int | None]:
        return {name: len(self._broker.topics[name]) if name in self._broker.topics else None for name in names}

    async def create(self, needs: Sequence[TopicNeed]) -> list[str]:
        made = [need.name for need in needs if need.name not in self._broker.topics]
        for need in needs:
            self._broker.create(need.name, need.partitions)
        return made

    async def stop(self) -> None:
        return


class MemoryTransport:
    """See transports.base.Transport."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker if broker is not None else MemoryBroker()

    def source(self, topic: str, group: str) -> MemorySource:
        return MemorySource(self.broker, topic, group)

    def sink(self) -> MemorySink:
        return MemorySink(self.broker)

    def reader(self) -> MemoryReader:
        return MemoryReader(self.broker)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self.broker)
