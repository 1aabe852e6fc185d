"""A broker inside the process: partitions, offsets, transactions, groups with eager rebalances. For tests, the
deterministic simulation and the Python API.

It has the semantics the service relies on and nothing else: per-partition logs with holes where transactions ended,
`read_committed`, committed offsets with metadata, groups that revoke everything from everyone before they assign anew,
commits refused from a member of an older generation, producers fenced by a newer one of the same transactional id.

`MemoryBroker.hook` is awaited before and after the effect of every request, with its name and the client's: a
simulation delays, refuses, loses the answer or ends the client there.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from streamrnn.records import Record
from streamrnn.transports.base import (
    Committed,
    Deadline,
    DeliveryFailed,
    Listener,
    OwnershipLost,
    TopicMissing,
    TopicNeed,
    TransportError,
    Unreadable,
)

# How long a member may take to give its partitions up before the group goes on without it.
REBALANCE_TIMEOUT_S = 60.0

Hook = Callable[[str, str], Awaitable[None]]


@dataclass(slots=True)
class _Transaction:
    state: Literal["open", "committed", "aborted"] = "open"
    # (topic, partition) → offset of its first record
    first: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    transaction: _Transaction | None = None
    marker: bool = False  # of a transaction's end: takes an offset, is never read


@dataclass(slots=True)
class _Producer:
    """The broker's view of a transactional id."""

    epoch: int = 0
    open: _Transaction | None = None


@dataclass(slots=True)
class _Group:
    members: list[MemorySource] = field(default_factory=list)
    generation: int = 0
    committed: dict[tuple[str, int], Committed] = field(default_factory=dict)
    rebalancing: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryBroker:
    """Topics and groups. `topics[name][partition]` is the list of its records; `begin` where retention has come to."""

    def __init__(self) -> None:
        self.topics: dict[str, list[list[MemoryRecord]]] = {}
        self.begin: dict[tuple[str, int], int] = {}
        self.groups: dict[str, _Group] = {}
        self.producers: dict[str, _Producer] = {}
        self.damaged: set[tuple[str, int, int]] = set()  # records that cannot be read
        self.hook: Hook | None = None
        self._open: dict[tuple[str, int], list[_Transaction]] = {}
        self._news = asyncio.Condition()

    async def at(self, what: str, client: str) -> None:
        if self.hook is not None:
            await self.hook(what, client)

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────

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
        transaction: _Transaction | None = None,
        marker: bool = False,
    ) -> int:
        """Appends one record and returns its offset."""
        log = self.log(topic, partition)
        offset = self.begin.get((topic, partition), 0) + len(log)
        if transaction is not None and not marker and (topic, partition) not in transaction.first:
            transaction.first[topic, partition] = offset
            self._open.setdefault((topic, partition), []).append(transaction)
        log.append(MemoryRecord(topic, partition, offset, timestamp, key, value, tuple(headers), transaction, marker))
        return offset

    def end(self, topic: str, partition: int) -> int:
        return self.begin.get((topic, partition), 0) + len(self.log(topic, partition))

    def stable_end(self, topic: str, partition: int) -> int:
        """Up to here every transaction has ended: what `read_committed` may see."""
        running = [t.first[topic, partition] for t in self._open.get((topic, partition), ())]
        return min([self.end(topic, partition), *running])

    def read(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[MemoryRecord], int]:
        """(records, next offset): committed ones only, beyond markers and what was aborted."""
        begin, until = self.begin.get((topic, partition), 0), self.stable_end(topic, partition)
        log, at = self.log(topic, partition), max(offset, begin)
        records: list[MemoryRecord] = []
        while at < until and len(records) < count:
            record = log[at - begin]
            if (topic, partition, at) in self.damaged:
                raise Unreadable(f"record {at} of {topic}/{partition} is damaged")
            at += 1
            if not record.marker and (record.transaction is None or record.transaction.state == "committed"):
                records.append(record)
        return records, max(at, offset)

    def compact(self, topic: str, partition: int) -> None:
        """What the log cleaner does, holes closed up: the newest committed record of every key stays where it was.

        Offsets are kept, as Kafka keeps them; a removed record becomes a marker.
        """
        log = self.log(topic, partition)
        until = self.stable_end(topic, partition) - self.begin.get((topic, partition), 0)
        newest = {
            record.key: at
            for at, record in enumerate(log[:until])
            if not record.marker and (record.transaction is None or record.transaction.state == "committed")
        }
        for at, record in enumerate(log[:until]):
            if newest.get(record.key) != at and not record.marker:
                log[at] = MemoryRecord(
                    topic, partition, record.offset, record.timestamp, None, None, (), None, marker=True
                )

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

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────────────

    def init_producer(self, transactional_id: str) -> int:
        """A new user of the id: former ones are fenced, what they left open is aborted. Returns the epoch."""
        producer = self.producers.setdefault(transactional_id, _Producer())
        producer.epoch += 1
        if producer.open is not None:
            self.end_transaction(producer, "aborted")
        return producer.epoch

    def end_transaction(self, producer: _Producer, state: Literal["committed", "aborted"]) -> None:
        transaction, producer.open = producer.open, None
        if transaction is None:
            return
        transaction.state = state
        for topic, partition in transaction.first:
            self._open[topic, partition].remove(transaction)
            self.append(topic, partition, None, None, 0, (), transaction, marker=True)

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def rebalance(self, group: str) -> None:
        """Everyone gives up everything, then partitions are dealt out in turn: the eager protocol.

        The broker's own work: it goes on when the client whose joining or leaving began it is gone.
        """
        running = asyncio.get_running_loop().create_task(self._rebalance(group), context=contextvars.Context())
        await asyncio.shield(running)

    async def _rebalance(self, group: str) -> None:
        state = self.groups[group]
        async with state.rebalancing:
            for member in list(state.members):
                try:
                    await asyncio.wait_for(member.lose_all(), REBALANCE_TIMEOUT_S)
                except TimeoutError:
                    state.members.remove(member)  # it finds out when it polls or commits
            # Commits inside `revoked` were still of the old generation.
            state.generation += 1
            topics = {member.topic for member in state.members}
            shares: dict[int, list[int]] = {i: [] for i in range(len(state.members))}
            for topic in sorted(topics):
                takers = [i for i, member in enumerate(state.members) if member.topic == topic]
                for partition in range(len(self.topics.get(topic, []))):
                    shares[takers[partition % len(takers)]].append(partition)
            for i, member in enumerate(list(state.members)):
                await member.gain(frozenset(shares[i]), state.generation)
        await self.announce()

    def evict(self, member: MemorySource, group: str) -> None:
        """The group has not heard of a member for too long; it is not asked to give anything up."""
        state = self.groups[group]
        if member in state.members:
            state.members.remove(member)


class MemorySource:
    """A group member on a MemoryBroker; see transports.base.Source."""

    def __init__(self, broker: MemoryBroker, topic: str, group: str, client: str = "") -> None:
        self.topic = topic
        self._broker, self._group, self._client = broker, group, client
        self.client = client
        self._listener: Listener | None = None
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._ends: dict[int, int] = {}  # of partitions that are unreadable from there on
        self._generation = -1
        self._failure: BaseException | None = None
        self._left = False

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        await self._broker.at("join", self._client)
        group = self._broker.groups.setdefault(self._group, _Group())
        group.members.append(self)
        await self._broker.rebalance(self._group)

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        if self._failure is not None:
            raise TransportError(f"a rebalance listener failed: {self._failure}") from self._failure
        await self._broker.at("poll", self._client)
        group = self._broker.groups[self._group]
        if self not in group.members and not self._left:
            # Put out while it was not looking: give up what is held, and join again.
            await self.lose_all()
            group.members.append(self)
            await self._broker.rebalance(self._group)
        for attempt in range(2):
            polled: list[tuple[int, Sequence[Record]]] = []
            left = records_max
            for partition in sorted(self._positions.keys() - self._paused):
                position = self._positions[partition]
                if position > self._broker.end(self.topic, partition):
                    raise TransportError(f"offset {position} of {self.topic}/{partition} is not in the log")
                if position >= self._ends.get(partition, position + 1):
                    continue
                count = 1 if partition in self._ends else left
                records, self._positions[partition] = self._broker.read(self.topic, partition, position, count)
                if records:
                    left -= len(records)
                    polled.append((partition, records))
                if left <= 0:
                    break
            if polled or timeout_ms <= 0 or attempt:
                # As in aiokafka, an error here has drained what the others held: positions have moved on.
                await self._broker.at("polled", self._client)
                await asyncio.sleep(0)
                return polled
            await self._broker.news(timeout_ms)
        return []

    async def commit(self, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        await self._broker.at("commit", self._client)
        group = self._broker.groups[self._group]
        if (
            self not in group.members
            or self._generation != group.generation
            or not offsets.keys() <= self._positions.keys()
        ):
            raise OwnershipLost(f"group {self._group} has moved on to generation {group.generation}")
        for partition, committed in offsets.items():
            group.committed[self.topic, partition] = committed
        await self._broker.at("committed", self._client)

    async def committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]:
        await self._broker.at("fetch-offsets", self._client)
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

    def limit(self, ends: Mapping[int, int]) -> None:
        self._ends = dict(ends)

    def lag(self) -> dict[int, int | None]:
        return {p: self._broker.stable_end(self.topic, p) - position for p, position in self._positions.items()}

    async def behind(self, partitions: Sequence[int]) -> dict[int, int]:
        lag = self.lag()
        return {p: lag[p] or 0 for p in partitions if p in lag}

    async def stop(self, deadline: Deadline) -> None:
        self._left = True
        group = self._broker.groups.get(self._group)
        if group is not None and self in group.members:
            await self.lose_all()
            if self in group.members:
                group.members.remove(self)
            await self._broker.rebalance(self._group)

    def crash(self) -> None:
        """Vanishes as a killed process does: nothing is given up in order; the group notices at its next rebalance."""
        self._left = True
        self._broker.evict(self, self._group)

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


# (topic, partition) → (offset of the first record, records)
Runs = dict[tuple[str, int], tuple[int, int]]


class _Done:
    """A delivery that has arrived; see transports.base.Delivery."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def wait(self, deadline: Deadline) -> None:
        return

    def written(self, topic: str) -> Mapping[int, Sequence[tuple[int, int]]]:
        return {partition: [run] for (name, partition), run in self._runs.items() if name == topic}


class _Task(_Done):
    """A delivery on its way."""

    def __init__(self, task: asyncio.Task[None], runs: Runs) -> None:
        super().__init__(runs)
        self._task = task

    async def wait(self, deadline: Deadline) -> None:
        done, _ = await asyncio.wait({self._task}, timeout=deadline.remaining_s())
        if not done:
            raise DeliveryFailed("not acknowledged in time")
        if self._task.cancelled():
            raise DeliveryFailed("given up")
        error = self._task.exception()
        if error is not None:
            raise DeliveryFailed(str(error)) from error


Appended = tuple[bytes | None, bytes | None, int, Sequence[tuple[str, bytes]]]


class MemorySink:
    """Hands open batches over at `seal`; see transports.base.Sink."""

    def __init__(self, broker: MemoryBroker, client: str = "") -> None:
        self._broker, self._client = broker, client
        self._batches: dict[tuple[str, int], list[Appended]] = {}
        self.in_flight_bytes = self.in_flight_bytes_max = 0  # nothing is serialised
        self._tail: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._broker.at("connect", self._client)

    async def append_many(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
    ) -> None:
        self._broker.log(topic, partition)  # raises TopicMissing
        batch = self._batches.setdefault((topic, partition), [])
        for i, value in enumerate(values):
            batch.append((keys[i], value, timestamps_ms[i], headers[i] if headers is not None else ()))

    async def partitions_for(self, topic: str) -> int:
        if topic not in self._broker.topics:
            raise TopicMissing(f"no topic {topic!r}: create it first")
        return len(self._broker.topics[topic])

    async def seal(self) -> _Done | _Task:
        batches, self._batches = self._batches, {}
        runs: Runs = {}
        if self._broker.hook is None:
            for where, batch in batches.items():
                runs[where] = self._write(where, batch, None)
            await self._broker.announce()
            return _Done(runs)
        self._tail = asyncio.ensure_future(self._deliver(batches, self._tail, runs))
        self._tail.add_done_callback(lambda done: done.cancelled() or done.exception())
        return _Task(self._tail, runs)

    async def _deliver(
        self, batches: Mapping[tuple[str, int], Sequence[Appended]], before: asyncio.Task[None] | None, runs: Runs
    ) -> None:
        """In order, one partition after another: each may be the last that a dying client delivers."""
        if before is not None:
            await before
        for where, batch in batches.items():
            await self._broker.at("produce", self._client)
            runs[where] = self._write(where, batch, None)
            await self._broker.announce()
            await self._broker.at("produced", self._client)

    def _write(
        self, where: tuple[str, int], batch: Sequence[Appended], transaction: _Transaction | None
    ) -> tuple[int, int]:
        first = self._broker.end(*where)
        for key, value, timestamp, headers in batch:
            self._broker.append(*where, key, value, timestamp, headers, transaction)
        return first, len(batch)

    async def stop(self, deadline: Deadline) -> None:
        if self._tail is not None and not self._tail.done():
            await asyncio.wait({self._tail}, timeout=deadline.remaining_s())
            self._tail.cancel()


class MemoryTransactionalSink(MemorySink):
    """See transports.base.TransactionalSink."""

    def __init__(self, broker: MemoryBroker, transactional_id: str, client: str = "") -> None:
        super().__init__(broker, client)
        self._id, self._epoch = transactional_id, -1
        self.appended = False

    async def start(self) -> None:
        await self._broker.at("init-producer", self._client)
        self._epoch = self._broker.init_producer(self._id)
        await self._broker.announce()

    async def append_many(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
    ) -> None:
        self.appended = True
        await super().append_many(topic, partition, keys, values, timestamps_ms, headers)

    async def commit(self, topic: str, offsets: Mapping[int, Committed], group: str) -> _Task:
        batches, self._batches = self._batches, {}
        self.appended = False
        if self._tail is not None:
            await _Task(self._tail, {}).wait(Deadline(30.0))
        self._tail = asyncio.ensure_future(self._end(batches, topic, dict(offsets), group))
        self._tail.add_done_callback(lambda done: done.cancelled() or done.exception())
        return _Task(self._tail, {})

    async def _end(
        self,
        batches: Mapping[tuple[str, int], Sequence[Appended]],
        topic: str,
        offsets: Mapping[int, Committed],
        group: str,
    ) -> None:
        broker = self._broker
        for where, batch in batches.items():
            await broker.at("produce", self._client)
            producer = self._mine()
            if producer.open is None:
                producer.open = _Transaction()
            self._write(where, batch, producer.open)
            await broker.at("produced", self._client)
        await broker.at("end-transaction", self._client)
        producer = self._mine()
        for partition, committed in offsets.items():
            broker.groups.setdefault(group, _Group()).committed[topic, partition] = committed
        broker.end_transaction(producer, "committed")
        await broker.announce()
        await broker.at("ended-transaction", self._client)

    def _mine(self) -> _Producer:
        producer = self._broker.producers[self._id]
        if producer.epoch != self._epoch:
            raise DeliveryFailed(f"producer {self._id} is fenced: a newer one has taken its place")
        return producer

    async def stop(self, deadline: Deadline) -> None:
        self._batches = {}
        if self._tail is not None:
            self._tail.cancel()


class MemoryReader:
    """See transports.base.PartitionReader."""

    def __init__(self, broker: MemoryBroker, client: str = "") -> None:
        self._broker, self._client = broker, client
        self._topic = ""
        self._positions: dict[int, int] = {}

    async def start(self, topic: str, start: Mapping[int, int] | None) -> None:
        self._topic = topic
        if topic not in self._broker.topics:
            raise TopicMissing(f"no topic {topic!r}: create it first")
        begin = {p: self._broker.begin.get((topic, p), 0) for p in range(len(self._broker.topics[topic]))}
        self._positions = begin if start is None else {p: max(offset, begin[p]) for p, offset in start.items()}

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        await self._broker.at("read", self._client)
        for attempt in range(2):
            polled: list[tuple[int, Sequence[Record]]] = []
            left = records_max
            for partition, position in self._positions.items():
                records, self._positions[partition] = self._broker.read(self._topic, partition, position, left)
                if records:
                    left -= len(records)
                    polled.append((partition, records))
                if left <= 0:
                    break
            if polled or timeout_ms <= 0 or attempt:
                await asyncio.sleep(0)
                return polled
            await self._broker.news(timeout_ms)
        return []

    async def begin_offsets(self) -> dict[int, int]:
        return {p: self._broker.begin.get((self._topic, p), 0) for p in self._positions}

    async def end_offsets(self) -> dict[int, int]:
        """What may be read now, as a `read_committed` client is told."""
        return {p: self._broker.stable_end(self._topic, p) for p in self._positions}

    def position(self, partition: int) -> int:
        return self._positions[partition]

    async def stop(self, deadline: Deadline) -> None:
        self._positions.clear()


class MemoryAdmin:
    """See transports.base.Admin."""

    def __init__(self, broker: MemoryBroker, client: str = "") -> None:
        self._broker, self._client = broker, client

    async def start(self) -> None:
        await self._broker.at("connect", self._client)

    async def describe(self, names: Sequence[str]) -> dict[str, int | None]:
        return {name: len(self._broker.topics[name]) if name in self._broker.topics else None for name in names}

    async def policies(self, names: Sequence[str]) -> dict[str, str]:
        return {}

    async def create(self, needs: Sequence[TopicNeed]) -> list[str]:
        made = [need.name for need in needs if need.name not in self._broker.topics]
        for need in needs:
            self._broker.create(need.name, need.partitions)
        return made

    async def stop(self) -> None:
        return


class MemoryTransport:
    """See transports.base.Transport. `client` names its user to the broker's hook."""

    def __init__(self, broker: MemoryBroker | None = None, client: str = "") -> None:
        self.broker = broker if broker is not None else MemoryBroker()
        self.client = client

    def source(self, topic: str, group: str) -> MemorySource:
        return MemorySource(self.broker, topic, group, self.client)

    def sink(self) -> MemorySink:
        return MemorySink(self.broker, self.client)

    def transactional(self, transactional_id: str) -> MemoryTransactionalSink:
        return MemoryTransactionalSink(self.broker, transactional_id, self.client)

    def reader(self, bulk: bool = False) -> MemoryReader:
        return MemoryReader(self.broker, self.client)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self.broker, self.client)
