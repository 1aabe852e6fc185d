"""The broker of the memory transport: logs with holes, transactions, fencing, committed offsets, groups.

It has the semantics the service relies on and nothing else. Everything a client asks of it goes through `request`: a
hook may then delay, refuse, answer never, or let the effect come after the client has long given it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from streamrnn.records import PlainRecord
from streamrnn.transports.base import Committed, DeliveryFailed, TopicMissing, TransportError, Unreadable
from streamrnn.transports.memory.groups import Group

T = TypeVar("T")

# (name of the request, client, its effect at the broker) → the answer.
Hook = Callable[[str, str, Callable[[], Any]], Awaitable[Any]]

# key, value, timestamp, headers
Appended = tuple[bytes | None, bytes | None, int, Sequence[tuple[str, bytes]]]


# topic, partition, record → the name of the error that it is refused with, "" where it is taken.
Refuses = Callable[[str, int, Appended], str]


class WillNotTake(TransportError):
    """A batch is refused whole for what these of its records hold: index → name of the error."""

    def __init__(self, where: tuple[str, int], at: Mapping[int, str]) -> None:
        super().__init__(f"{where[0]}/{where[1]} refuses records for what they hold: {sorted(set(at.values()))}")
        self.at = at


@dataclass(slots=True)
class Transaction:
    state: Literal["open", "committed", "aborted"] = "open"
    # (topic, partition) → offset of its first record
    first: dict[tuple[str, int], int] = field(default_factory=dict)
    # group → its offsets by (topic, partition), to be committed with it
    offsets: dict[str, dict[tuple[str, int], Committed]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryRecord(PlainRecord):
    transaction: Transaction | None = None
    marker: bool = False  # of a transaction's end: takes an offset, is never read

    @property
    def visible(self) -> bool:
        """To a `read_committed` reader."""
        return not self.marker and (self.transaction is None or self.transaction.state == "committed")


@dataclass(slots=True)
class _Producer:
    """The broker's view of a transactional id."""

    epoch: int = 0
    open: Transaction | None = None


class MemoryBroker:
    """Topics and groups. `topics[name][partition]` is the list of its records; `begin` where retention has come to.

    `session_s`: a member of a group that is not heard of for so long is evicted; `poll_interval_s`: one that does not
    poll for so long leaves by itself. None: members are taken at their word.
    """

    def __init__(self, session_s: float | None = None, poll_interval_s: float | None = None) -> None:
        self.topics: dict[str, list[list[MemoryRecord]]] = {}
        self.ids: dict[str, str] = {}
        self.configs: dict[str, dict[str, str]] = {}  # of topics, as an admin has set them; nothing heeds them
        self.begin: dict[tuple[str, int], int] = {}
        self.groups: dict[str, Group] = {}
        self.producers: dict[str, _Producer] = {}
        self.damaged: set[tuple[str, int, int]] = set()  # records that cannot be read
        self.session_s, self.poll_interval_s = session_s, poll_interval_s
        self.hook: Hook | None = None
        self.refuses: Refuses | None = None
        self._created = 0  # topics so far
        self._open: dict[tuple[str, int], list[Transaction]] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}

    async def request(self, what: str, client: str, effect: Callable[[], T]) -> T:
        """What a client asks: `effect` is what happens at the broker, in one go, and returns the answer."""
        if self.hook is None:
            return effect()
        answer: T = await self.hook(what, client, effect)
        return answer

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, topic: str, partitions: int) -> None:
        if topic not in self.topics:
            self.topics[topic] = [[] for _ in range(partitions)]
            self._created += 1
            self.ids[topic] = f"{topic}-{self._created}"

    def topic_id(self, topic: str) -> str | None:
        return self.ids.get(topic, "") if topic in self.topics else None

    def delete(self, topic: str) -> None:
        """With all offsets that groups have committed for it."""
        self.ids.pop(topic, None)
        for partition in range(len(self.topics.pop(topic))):
            self.begin.pop((topic, partition), None)
            for group in self.groups.values():
                group.committed.pop((topic, partition), None)

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
        transaction: Transaction | None = None,
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

    def produce(
        self, where: tuple[str, int], batch: Sequence[Appended], transaction: Transaction | None = None
    ) -> tuple[int, int]:
        """Appends a batch, whole; returns (offset of its first record, records). Raises WillNotTake."""
        if self.refuses is not None:
            said = {at: self.refuses(*where, record) for at, record in enumerate(batch)}
            if any(said.values()):
                raise WillNotTake(where, {at: why for at, why in said.items() if why})
        first = self.end(*where)
        for key, value, timestamp, headers in batch:
            self.append(*where, key, value, timestamp, headers, transaction)
        self.announce()
        return first, len(batch)

    def end(self, topic: str, partition: int) -> int:
        return self.begin.get((topic, partition), 0) + len(self.log(topic, partition))

    def stable_end(self, topic: str, partition: int) -> int:
        """Up to here every transaction has ended: what `read_committed` may see."""
        running = [t.first[topic, partition] for t in self._open.get((topic, partition), ())]
        return min([self.end(topic, partition), *running])

    def read(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[MemoryRecord], int]:
        """(records, next offset): committed ones only, beyond markers and what was aborted."""
        begin, until = self.begin.get((topic, partition), 0), self.stable_end(topic, partition)
        if offset > self.end(topic, partition):
            raise TransportError(f"offset {offset} of {topic}/{partition} is not in the log")
        log, at = self.log(topic, partition), max(offset, begin)
        records: list[MemoryRecord] = []
        while at < until and len(records) < count:
            record = log[at - begin]
            if (topic, partition, at) in self.damaged:
                raise Unreadable(f"record {at} of {topic}/{partition} is damaged")
            at += 1
            if record.visible:
                records.append(record)
        return records, max(at, offset)

    def compact(self, topic: str, partition: int) -> None:
        """What the log cleaner does, holes closed up: the newest committed record of every key stays where it was.

        Offsets are kept, as Kafka keeps them; a removed record becomes a marker.
        """
        log = self.log(topic, partition)
        until = self.stable_end(topic, partition) - self.begin.get((topic, partition), 0)
        newest = {record.key: at for at, record in enumerate(log[:until]) if record.visible}
        for at, record in enumerate(log[:until]):
            if newest.get(record.key) != at and not record.marker:
                log[at] = MemoryRecord(
                    topic, partition, record.offset, record.timestamp, None, None, (), None, marker=True
                )

    def announce(self) -> None:
        """Something was appended, or a group changed: who waits for news looks again."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def news(self, timeout_ms: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await asyncio.wait({future}, timeout=timeout_ms / 1000)
        finally:
            self._waiting.pop(future, None)

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────────────

    def init_producer(self, transactional_id: str) -> int:
        """A new user of the id: former ones are fenced, what they left open is aborted. Returns the epoch."""
        producer = self.producers.setdefault(transactional_id, _Producer())
        producer.epoch += 1
        self._end(producer, "aborted")
        return producer.epoch

    def transaction(self, transactional_id: str, epoch: int) -> Transaction:
        """The open transaction of this user of the id, begun if there is none."""
        producer = self._current(transactional_id, epoch)
        if producer.open is None:
            producer.open = Transaction()
        return producer.open

    def commit_transaction(self, transactional_id: str, epoch: int) -> None:
        self._end(self._current(transactional_id, epoch), "committed")

    def _current(self, transactional_id: str, epoch: int) -> _Producer:
        producer = self.producers[transactional_id]
        if producer.epoch != epoch:
            raise DeliveryFailed(f"producer {transactional_id} is fenced: a newer one has taken its place")
        return producer

    def _end(self, producer: _Producer, state: Literal["committed", "aborted"]) -> None:
        transaction, producer.open = producer.open, None
        if transaction is None:
            return
        transaction.state = state
        if state == "committed":
            for group, offsets in transaction.offsets.items():
                self.group(group).committed |= offsets
        for topic, partition in transaction.first:
            self._open[topic, partition].remove(transaction)
            self.append(topic, partition, None, None, 0, (), transaction, marker=True)
        self.announce()

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────

    def group(self, name: str) -> Group:
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(name, self.session_s, self._partitions, self.announce)
        return found

    def _partitions(self, topic: str) -> int:
        return len(self.topics.get(topic, ()))

    async def rebalance(self, group: str) -> None:
        """Everyone gives up everything, then partitions are dealt out anew."""
        await asyncio.shield(self.groups[group].rebalance())

    def offsets(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, Committed | None]:
        known: Mapping[tuple[str, int], Committed] = self.groups[group].committed if group in self.groups else {}
        return {partition: known.get((topic, partition)) for partition in partitions}
