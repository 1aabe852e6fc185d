"""What every transport offers: a Source of records, a Sink for outputs, a reader of whole partitions, an admin.

Transports know bytes, offsets and partitions; they know nothing of models, series or JSON. `memory`, `files` and
`kafka` implement these, and one contract suite (tests/support/contract.py) runs against memory and Kafka alike.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from streamrnn.records import Record


class TransportError(Exception):
    """The broker could not do what was asked. The message says what, where, and what to do."""


class DeliveryFailed(TransportError):
    """Some output was not acknowledged in time or was refused; nothing may be committed on its strength."""


class RecordRefused(DeliveryFailed):
    """The broker refuses a record for what it holds, and nobody said what is to be sent instead."""


class OwnershipLost(TransportError):
    """The partition belongs to another member of the group by now; roll back and wait to be assigned again."""


class Unreadable(TransportError):
    """Records in the log are damaged, or packed in a way that nothing here can unpack."""


class OperatorNeeded(TransportError):
    """Somebody has to change something first: new clients would meet the same. The message says what."""


class NotPermitted(OperatorNeeded):
    """The broker's permissions (ACLs) forbid it; the message names what is forbidden."""


class TopicMissing(OperatorNeeded):
    """A topic that is needed does not exist; the message names the command that creates it."""


class GroupAlive(OperatorNeeded):
    """Members of a group are alive, and what was asked for would be undone or do harm while they are."""


class TopicUnfit(OperatorNeeded):
    """A topic is not made as it must be, or holds what only a newer version reads; the message says what to do."""


# Before every time of `clock_s`: where a "last time" or a "not before" begins. Zero will not do: the clock counts from the
# machine's start, so that zero may be a minute ago.
LONG_AGO_S = -math.inf


def clock_s() -> float:
    """The event loop's clock, which a simulation may turn; monotonic, never the time of day."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


class Deadline:
    """A moment by which waiting ends; passed along so that several waits share one budget."""

    __slots__ = ("_at_s",)

    def __init__(self, seconds: float) -> None:
        self._at_s = clock_s() + seconds

    def remaining_s(self) -> float:
        return max(0.0, self._at_s - clock_s())

    @property
    def passed(self) -> bool:
        return self.remaining_s() == 0.0


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's committed offset (the next one to process) with the small string stored beside it."""

    offset: int
    metadata: str = ""


class Listener(Protocol):
    """Called in rebalances. `revoked` runs before the partitions go to others; both run inside the rebalance, so they
    must be quick; an exception in either is fatal to the Source (its next poll raises it). One that is no TransportError is
    a defect, which new clients would heal unseen: the event loop's exception handler is called with it at once."""

    async def revoked(self, partitions: frozenset[int]) -> None: ...
    async def assigned(self, partitions: frozenset[int]) -> None: ...


class Source(Protocol):
    """A member of a consumer group on one input topic. Positions are its user's: nothing is committed unasked."""

    topic: str

    async def start(self, listener: Listener) -> None: ...
    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        """Records by partition, in offset order within each. Empty when nothing came in time."""
        ...

    async def commit(self, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        """Raises OwnershipLost if one of the partitions is no longer ours, TransportError otherwise."""
        ...

    async def committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]: ...
    async def topic_id(self) -> str | None:
        """Distinguishes the input from an earlier topic of its name; "" where the broker gives no ids,
        None where there is no such topic. Raises TransportError."""
        ...

    async def begin_offsets(self, partitions: Sequence[int]) -> dict[int, int]: ...
    async def end_offsets(self, partitions: Sequence[int]) -> dict[int, int]: ...
    def seek(self, partition: int, offset: int) -> None: ...
    def pause(self, partitions: Sequence[int]) -> None: ...
    def resume(self, partitions: Sequence[int]) -> None: ...
    def limit(self, ends: Mapping[int, int]) -> None:
        """Partitions that are unreadable from these offsets on are read up to there only; those freed are to be
        resumed."""
        ...

    def lag(self) -> dict[int, int | None]:
        """Per owned partition: records that may be read and were not, as the last answers to polls have said; None
        while the end is unknown."""
        ...

    async def behind(self, partitions: Sequence[int]) -> dict[int, int]:
        """The same by asking the broker now: polls that bring nothing say nothing."""
        ...

    async def stop(self, deadline: Deadline) -> None: ...


class Outgoing(NamedTuple):
    """A record on its way to a topic."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes]] = ()


class Refused(NamedTuple):
    """A record that the broker refuses for what it holds, however often it is sent."""

    record: Outgoing
    error: str  # the broker's name of it: INVALID_TIMESTAMP, MESSAGE_TOO_LARGE, ...
    detail: str = ""  # the broker's words


# What is to be sent instead of the records that the broker refused, in one delivery with the others. It is called again
# with those of its answer that are refused in turn, and must come to an end. May raise an OperatorNeeded.
Instead = Callable[[Sequence[Refused]], Sequence[Outgoing]]


class Delivery(Protocol):
    """Everything appended to a Sink between two calls of `seal`."""

    async def wait(self, deadline: Deadline) -> None:
        """Returns when every record is acknowledged, or refused for what it holds and what is sent instead acknowledged.

        Raises RecordRefused where there is nothing to be sent instead, DeliveryFailed for every other failure.
        """
        ...

    def written(self, topic: str) -> Mapping[int, Sequence[tuple[int, int]]]:
        """After `wait`: by partition, the runs of offsets that the records took as (first, count), in order; a first
        of -1 is not known. Empty for transactions, whose writers are fenced and need not look."""
        ...


class Sink(Protocol):
    """Appends outputs to record batches built per partition. Bounded: when `in_flight_bytes_max` is reached, the
    records wait in the Sink's user."""

    in_flight_bytes: int  # handed over and not acknowledged
    in_flight_bytes_max: int

    async def start(self) -> None: ...
    async def append_many(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
    ) -> None: ...
    async def partitions_for(self, topic: str) -> int:
        """How many partitions the topic has; raises TopicMissing."""
        ...

    async def seal(self, instead: Instead | None = None) -> Delivery:
        """Hands the open batches to the client and returns the handle that covers all since the last seal."""
        ...

    async def stop(self, deadline: Deadline) -> None: ...


class TransactionalSink(Sink, Protocol):
    """A Sink whose records and input offsets become visible together, or not at all. `start` fences the former user of
    the same id and ends what it left open. Use `commit`, never `seal`."""

    appended: bool  # something was appended since the last commit

    async def commit(
        self, topic: str, offsets: Mapping[int, Committed], group: str, instead: Instead | None = None
    ) -> Delivery:
        """Ends the transaction that the appends began; the next may begin at once and waits for this one to end.

        The delivery's `wait` returns when it is committed and raises DeliveryFailed when that is not certain.
        """
        ...


class PartitionReader(Protocol):
    """Reads named partitions of a topic from given offsets without a group: the trainer's input, the models topic."""

    async def start(self, topic: str, start: Mapping[int, int] | None) -> None:
        """`start` maps partition to offset; None reads every partition from its beginning."""
        ...

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]: ...
    async def begin_offsets(self) -> dict[int, int]: ...
    async def end_offsets(self) -> dict[int, int]: ...
    def position(self, partition: int) -> int:
        """The next offset to be read: beyond holes that compaction or transaction markers left."""
        ...

    async def stop(self, deadline: Deadline) -> None: ...


@dataclass(frozen=True, slots=True)
class TopicNeed:
    """A topic the service needs and how it must be made. Settings that begin with `message.timestamp.` are left out where the
    broker does not know them: before Kafka 3.6 it had no bounds of that kind."""

    name: str
    partitions: int
    config: Mapping[str, str]
    replication: int = -1  # chosen by the number of brokers


# Settings of topics that are looked at before a start.
CONFIGS_READ = (
    "cleanup.policy",
    "max.message.bytes",
    "retention.ms",
    "message.timestamp.type",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
)


class GroupMember(NamedTuple):
    """A live member of a consumer group. `topics` it reads; None while that cannot be known (a rebalance runs, a pattern)."""

    member: str
    client: str
    host: str
    topics: tuple[str, ...] | None


class GroupOffsets(Protocol):
    """A group's offsets in one topic, seen and set from outside, as Kafka's own tools do it. Each call may raise
    NotPermitted or TransportError."""

    async def start(self) -> None:
        """Raises TopicMissing."""
        ...

    async def committed(self) -> dict[int, Committed | None]: ...
    async def begin(self) -> dict[int, int]: ...
    async def end(self) -> dict[int, int]: ...
    async def at_time(self, time_ms: int) -> dict[int, int | None]:
        """The first offset whose record is of this time or later; None where there is no such."""
        ...

    async def set(self, offsets: Mapping[int, Committed]) -> None:
        """Commits these for a group without members."""
        ...

    async def stop(self, deadline: Deadline) -> None: ...


class Admin(Protocol):
    async def start(self) -> None: ...
    async def describe(self, names: Sequence[str]) -> dict[str, int | None]:
        """Partition count per topic, None where it does not exist. Never creates one."""
        ...

    async def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """CONFIGS_READ of those of the topics whose settings may be read."""
        ...

    async def forbidden(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """By topic, those of the wanted operations (Read, Write, Describe) that this user is known not to be permitted."""
        ...

    async def may_join(self, group: str) -> bool:
        """Whether this user may be a member of the group; yes where the broker does not say. Raises TransportError."""
        ...

    async def may_transact(self, transactional_id: str) -> bool:
        """Whether this user may know of the transactional id; without that it cannot write with it either. Raises
        TransportError."""
        ...

    async def create(self, needs: Sequence[TopicNeed]) -> list[str]:
        """Creates those that are missing, and adds partitions to those that have too few; returns the names of both.

        Raises TransportError with the broker's reason.
        """
        ...

    async def members(self, group: str) -> list[GroupMember]:
        """Of a consumer group of any protocol; none where there is no such group. Raises NotPermitted, TransportError."""
        ...

    async def alter(self, topic: str, config: Mapping[str, str]) -> None:
        """Sets these of a topic's settings and leaves the others. Raises NotPermitted, TransportError."""
        ...

    async def stop(self) -> None: ...


class Transport(Protocol):
    """One way to reach a broker; makes the four above. `group` is the consumer group's name."""

    def source(self, topic: str, group: str) -> Source: ...
    def sink(self) -> Sink: ...
    def transactional(self, transactional_id: str) -> TransactionalSink: ...
    def reader(self, bulk: bool = False) -> PartitionReader:
        """`bulk`: much is to be read, by somebody who has a digest in every record and does without headers; the
        records of a poll may come as `streamrnn.wire.packed.Packed`, and more than `records_max` of them."""
        ...

    def admin(self) -> Admin: ...
    def group_offsets(self, topic: str, group: str) -> GroupOffsets: ...
