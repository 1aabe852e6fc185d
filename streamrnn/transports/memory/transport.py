"""The memory transport: clients of a broker inside the process. For tests, the deterministic simulation, the Python API.

They behave as the service's Kafka clients do, sins included (`Flaws`): a member gives partitions up and takes them over
in a task beside its user's, beats its heart while its user does something else, fetches on when it was evicted and has
not heard of it, and says of a refused commit what aiokafka says.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from streamrnn.records import Record
from streamrnn.transports.base import (
    Committed,
    Deadline,
    DeliveryFailed,
    GroupMember,
    Instead,
    Listener,
    OperatorNeeded,
    Outgoing,
    OwnershipLost,
    RecordRefused,
    Refused,
    TopicMissing,
    TopicNeed,
    TransportError,
    clock_s,
)
from streamrnn.transports.memory.broker import Appended, MemoryBroker, MemoryRecord, Transaction, WillNotTake
from streamrnn.transports.refusals import replace

__all__ = [
    "Flaws",
    "MemoryAdmin",
    "MemoryBroker",
    "MemoryReader",
    "MemoryRecord",
    "MemorySink",
    "MemorySource",
    "MemoryTransactionalSink",
    "MemoryTransport",
]

# A transaction's sends and its end share this, as the delivery time-out of the Kafka sink.
TRANSACTION_S = 30.0

Polled = list[tuple[int, Sequence[Record]]]


@dataclass(frozen=True, slots=True)
class Flaws:
    """What aiokafka 0.14 does to its users; every one can be switched off."""

    # A failed send fails its own future and nothing else: not the sends behind it, not the flush, not the transaction.
    lone_failures: bool = True
    # An error in a poll drops what other partitions had given already, and their positions have moved on.
    drained_polls: bool = True
    # After a poll that raised or was cancelled, the client never again leaves its group for not being polled.
    idle_clock: bool = True


class MemorySource:
    """A group member on a MemoryBroker; see transports.base.Source."""

    def __init__(
        self, broker: MemoryBroker, topic: str, group: str, client: str = "", flaws: Flaws | None = None
    ) -> None:
        self.topic, self.client = topic, client
        self._broker, self._group, self._flaws = broker, group, flaws or Flaws()
        self._listener: Listener | None = None
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._ends: dict[int, int] = {}  # of partitions that are unreadable from there on
        self._generation = -1
        self._failure: BaseException | None = None
        self._left = False
        self._out = False  # the group has put us out, or we have left it for not being polled, and we know
        self._turn = 0
        # What runs beside the user: the group's words, and the heart.
        self._context = contextvars.copy_context()
        self._told: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._polling = False
        self._polled_s = clock_s()
        self._watched = True  # by the idle clock

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        self._context = contextvars.copy_context()
        if self._broker.session_s is not None:
            self._beating = asyncio.create_task(self._beat(self._broker.session_s / 3, self._broker.poll_interval_s))
        await self._join()

    # ── the group ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _join(self) -> None:
        async with self._joining:
            group = self._broker.group(self._group)
            joined = await self._broker.request("join", self.client, lambda: group.join(self))
            self._out = False
            await asyncio.shield(joined)

    async def _join_again(self) -> None:
        """Evicted while it was not looking: gives up what is held, and joins."""
        await self.hand_in()
        if self._out:
            await self._join()

    async def _beat(self, every_s: float, poll_interval_s: float | None) -> None:
        group = self._broker.group(self._group)
        self._polled_s = clock_s()
        while True:
            await asyncio.sleep(every_s)
            try:
                if self._out:
                    continue  # left for idleness: the next poll joins again
                idle_s = 0.0 if self._polling or not self._watched else clock_s() - self._polled_s
                if poll_interval_s is not None and idle_s > poll_interval_s:
                    self._out = True
                    await self._broker.request("leave", self.client, lambda: group.leave(self))
                elif not await self._broker.request("heartbeat", self.client, lambda: group.heard(self)):
                    self._out = True
                    await self._join_again()
            except TransportError:
                continue  # the broker is away; a session that ends in that time is noticed later

    def hand_in(self) -> asyncio.Task[None]:
        return self._tell(self._lose_all)

    def hand_out(self, partitions: frozenset[int], generation: int) -> asyncio.Task[None]:
        return self._tell(lambda: self._gain(partitions, generation))

    def _tell(self, word: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """The group's words are worked off in the member's own process, one after another."""
        self._told = asyncio.get_running_loop().create_task(
            self._work_off(self._told, word), context=self._context.copy()
        )
        return self._told

    async def _work_off(self, before: asyncio.Task[None] | None, word: Callable[[], Awaitable[None]]) -> None:
        if before is not None and not before.done():
            await asyncio.wait({before})
        if self._left or self._listener is None:
            return
        try:
            await word()
        except Exception as error:  # noqa: BLE001 - kept for the next poll, as the protocol says
            self._failure = error
            if not isinstance(error, TransportError):
                context = {
                    "message": f"the rebalance listener of {self.client or 'a member'} failed",
                    "exception": error,
                }
                asyncio.get_running_loop().call_exception_handler(context)

    async def _lose_all(self) -> None:
        assert self._listener is not None  # noqa: S101
        try:
            if self._positions:
                await self._listener.revoked(frozenset(self._positions))
        finally:
            self._positions.clear()
            self._paused.clear()

    async def _gain(self, partitions: frozenset[int], generation: int) -> None:
        assert self._listener is not None  # noqa: S101
        self._generation = generation
        self._positions = dict.fromkeys(sorted(partitions), 0)
        await self._listener.assigned(partitions)

    async def stop(self, deadline: Deadline) -> None:
        if self._beating is not None:
            self._beating.cancel()
        group = self._broker.groups.get(self._group)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                if group is not None and not self._left:
                    if self._positions:
                        await self.hand_in()
                    self._left = True
                    leaving = await self._broker.request("leave", self.client, lambda: group.leave(self))
                    await asyncio.shield(leaving)
        except TimeoutError:
            return  # the group learns it when the session ends
        finally:
            self._left = True
            self._positions.clear()

    def crash(self) -> None:
        """Vanishes as a killed process does: nothing is given up in order; the group notices at its next rebalance."""
        self._left = True
        self._broker.group(self._group).evict(self)

    # ── records ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        if self._failure is not None:
            raise TransportError(f"a rebalance listener failed: {self._failure}") from self._failure
        self._polling = True
        try:
            if self._out or self._forgotten():
                self._out = True
                await self._join_again()
            await asyncio.sleep(0)
            polled = await self._fetch(records_max)
            if not polled and timeout_ms > 0:
                await self._broker.news(timeout_ms)
                polled = await self._fetch(records_max)
            return polled
        except BaseException:
            self._watched = self._watched and not self._flaws.idle_clock
            raise
        finally:
            self._polling, self._polled_s = False, clock_s()

    def _forgotten(self) -> bool:
        """Without sessions there is no heart that would hear of it."""
        group = self._broker.group(self._group)
        return self._broker.session_s is None and self not in group.members and not self._left

    async def _fetch(self, records_max: int) -> Polled:
        asked = [p for p in sorted(self._positions.keys() - self._paused) if not self._at_end(p)]
        if asked:
            self._turn = (self._turn + 1) % len(asked)  # the first would keep the others waiting
        wanted = {p: self._positions[p] for p in [*asked[self._turn :], *asked[: self._turn]]}
        drained: dict[int, tuple[Sequence[Record], int]] = {}
        try:
            await self._broker.request("poll", self.client, lambda: self._drain(wanted, records_max, drained))
        except BaseException:
            if self._flaws.drained_polls:
                self._take(wanted, drained)
            raise
        return self._take(wanted, drained)

    def _drain(
        self, wanted: Mapping[int, int], records_max: int, drained: dict[int, tuple[Sequence[Record], int]]
    ) -> None:
        left = records_max
        for partition, position in wanted.items():
            count = 1 if partition in self._ends else left
            drained[partition] = self._broker.read(self.topic, partition, position, count)
            left -= len(drained[partition][0])
            if left <= 0:
                break

    def _take(self, wanted: Mapping[int, int], drained: Mapping[int, tuple[Sequence[Record], int]]) -> Polled:
        """What is still wanted: not of partitions that went, were paused, or were sought elsewhere since."""
        polled: Polled = []
        for partition, (records, position) in drained.items():
            if self._positions.get(partition) == wanted[partition] and partition not in self._paused:
                self._positions[partition] = position
                if records:
                    polled.append((partition, records))
        return polled

    def _at_end(self, partition: int) -> bool:
        return partition in self._ends and self._positions[partition] >= self._ends[partition]

    # ── offsets ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def commit(self, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        if not offsets.keys() <= self._positions.keys():
            raise OwnershipLost(f"partitions {sorted(offsets.keys() - self._positions.keys())} are not ours any more")
        group, generation, topic = self._broker.group(self._group), self._generation, self.topic
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._broker.request(
                    "commit", self.client, lambda: group.commit(self, generation, topic, offsets)
                )
        except TimeoutError as error:
            raise TransportError("committing offsets: no answer in time") from error

    async def committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]:
        return await self._broker.request(
            "fetch-offsets", self.client, lambda: self._broker.offsets(self._group, self.topic, partitions)
        )

    async def topic_id(self) -> str | None:
        return await self._broker.request("metadata", self.client, lambda: self._broker.topic_id(self.topic))

    async def begin_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        begin = self._broker.begin
        return await self._broker.request(
            "list-offsets", self.client, lambda: {p: begin.get((self.topic, p), 0) for p in partitions}
        )

    async def end_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        return await self._broker.request(
            "list-offsets", self.client, lambda: {p: self._broker.end(self.topic, p) for p in partitions}
        )

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
        ends = await self.end_offsets(partitions)
        return {p: end - self._positions[p] for p, end in ends.items() if p in self._positions}


# (topic, partition) → (offset of the first record, records)
Runs = dict[tuple[str, int], tuple[int, int]]


class _Delivery:
    """Sends on their way; see transports.base.Delivery. `refused` fills while they are."""

    def __init__(
        self,
        sends: Sequence[asyncio.Task[None]],
        runs: Runs,
        refused: list[Refused],
        replacing: Callable[[Sequence[Refused]], asyncio.Task[None]],
    ) -> None:
        self._sends, self._runs, self._refused, self._begin = sends, runs, refused, replacing
        self._replacing: asyncio.Task[None] | None = None

    async def wait(self, deadline: Deadline) -> None:
        await _done(self._sends, deadline)
        if not self._refused:
            return
        if self._replacing is None:
            self._replacing = self._begin(self._refused)
        await _done([self._replacing], deadline)

    def written(self, topic: str) -> Mapping[int, Sequence[tuple[int, int]]]:
        return {partition: [run] for (name, partition), run in self._runs.items() if name == topic}


async def _done(sends: Sequence[asyncio.Task[None]], deadline: Deadline) -> None:
    if not sends:
        return
    _, pending = await asyncio.wait(sends, timeout=deadline.remaining_s())
    if pending:
        raise DeliveryFailed("not acknowledged in time")
    for send in sends:
        error = None if send.cancelled() else send.exception()
        if isinstance(error, TransportError) and not _may_pass(error):
            raise error
        if send.cancelled() or error is not None:
            raise DeliveryFailed(str(error or "given up")) from error


def _may_pass(error: TransportError) -> bool:
    """Whether another attempt might mend it."""
    return not isinstance(error, (OperatorNeeded, RecordRefused))


class MemorySink:
    """Hands open batches over at `seal`, each to be sent by itself; see transports.base.Sink."""

    def __init__(self, broker: MemoryBroker, client: str = "", flaws: Flaws | None = None) -> None:
        self._broker, self._client, self._flaws = broker, client, flaws or Flaws()
        self._batches: dict[tuple[str, int], list[Appended]] = {}
        self.appended = False  # something, since the last commit of a transaction
        # Batches of one partition follow each other.
        self._last: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._replacing: set[asyncio.Task[None]] = set()
        self.in_flight_bytes = self.in_flight_bytes_max = 0  # nothing is serialised

    async def start(self) -> None:
        await self._broker.request("connect", self._client, lambda: None)

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
        self._broker.log(topic, partition)  # raises TopicMissing
        batch = self._batches.setdefault((topic, partition), [])
        for i, value in enumerate(values):
            batch.append((keys[i], value, timestamps_ms[i], headers[i] if headers is not None else ()))

    async def partitions_for(self, topic: str) -> int:
        topics = self._broker.topics
        count = await self._broker.request("metadata", self._client, lambda: len(topics.get(topic, ())))
        if not count:
            raise TopicMissing(f"no topic {topic!r}: create it first")
        return count

    async def seal(self, instead: Instead | None = None) -> _Delivery:
        runs: Runs = {}
        refused: list[Refused] = []
        batches, self._batches = self._batches, {}
        return _Delivery(
            self._hand_over(batches, runs, refused), runs, refused, lambda found: self._replaced(found, instead)
        )

    def _hand_over(
        self, batches: Mapping[tuple[str, int], list[Appended]], runs: Runs, refused: list[Refused]
    ) -> list[asyncio.Task[None]]:
        if self._broker.hook is None:
            for where, batch in batches.items():
                while batch:
                    try:
                        runs[where] = self._write(where, batch)
                        break
                    except WillNotTake as error:
                        batch = _without(where, batch, error, refused)
            return []
        sends = []
        for where, batch in batches.items():
            send = self._last[where] = asyncio.ensure_future(
                self._send(where, batch, self._last.get(where), runs, refused)
            )
            send.add_done_callback(_look_at)
            sends.append(send)
        return sends

    async def _send(
        self,
        where: tuple[str, int],
        batch: Sequence[Appended],
        before: asyncio.Task[None] | None,
        runs: Runs,
        refused: list[Refused],
    ) -> None:
        if before is not None:
            if not before.done():
                await asyncio.wait({before})
            if _failed(before) and not self._flaws.lone_failures:
                raise DeliveryFailed("an earlier batch failed")
        while batch:
            try:
                runs[where] = await self._broker.request("produce", self._client, partial(self._write, where, batch))
                return
            except WillNotTake as error:
                batch = _without(where, batch, error, refused)

    def _replaced(self, refused: Sequence[Refused], instead: Instead | None) -> asyncio.Task[None]:
        task = asyncio.ensure_future(replace(refused, instead, self._send_now))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        task.add_done_callback(_look_at)
        return task

    async def _send_now(self, records: Sequence[Outgoing]) -> list[Refused]:
        batches: dict[tuple[str, int], list[Appended]] = {}
        for topic, partition, key, value, timestamp_ms, headers in records:
            batches.setdefault((topic, partition), []).append((key, value, timestamp_ms, headers))
        refused: list[Refused] = []
        await _done(self._hand_over(batches, {}, refused), Deadline(TRANSACTION_S))
        return refused

    def _write(self, where: tuple[str, int], batch: Sequence[Appended]) -> tuple[int, int]:
        return self._broker.produce(where, batch)

    async def stop(self, deadline: Deadline) -> None:
        for task in self._replacing:
            task.cancel()
        waiting = [send for send in self._last.values() if not send.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=deadline.remaining_s())
        self._give_up()

    def _give_up(self) -> None:
        for send in [*self._last.values(), *self._replacing]:
            send.cancel()
        self._batches, self._last = {}, {}


class MemoryTransactionalSink(MemorySink):
    """See transports.base.TransactionalSink."""

    def __init__(
        self, broker: MemoryBroker, transactional_id: str, client: str = "", flaws: Flaws | None = None
    ) -> None:
        super().__init__(broker, client, flaws)
        self._id, self._epoch = transactional_id, -1
        self._ending: asyncio.Task[None] | None = None  # the newest transaction
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._epoch = await self._broker.request(
            "init-producer", self._client, lambda: self._broker.init_producer(self._id)
        )

    async def commit(
        self, topic: str, offsets: Mapping[int, Committed], group: str, instead: Instead | None = None
    ) -> _Delivery:
        self.appended = False
        batches, self._batches = self._batches, {}
        ending = self._ending = asyncio.ensure_future(
            self._end(self._ending, batches, topic, dict(offsets), group, instead)
        )
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        ending.add_done_callback(_look_at)
        return _Delivery([ending], {}, [], lambda refused: self._replaced(refused, instead))

    def _write(self, where: tuple[str, int], batch: Sequence[Appended]) -> tuple[int, int]:
        return self._broker.produce(where, batch, self._transaction())

    def _transaction(self) -> Transaction:
        return self._broker.transaction(self._id, self._epoch)

    async def _end(
        self,
        before: asyncio.Task[None] | None,
        batches: Mapping[tuple[str, int], list[Appended]],
        topic: str,
        offsets: Mapping[int, Committed],
        group: str,
        instead: Instead | None,
    ) -> None:
        """A whole transaction. A producer has one at a time, and none after one that failed."""
        if before is not None:
            if not before.done():
                await asyncio.wait({before})
            if _failed(before):
                raise DeliveryFailed("the transaction before was not committed")
        refused: list[Refused] = []
        await self._acknowledged(self._hand_over(batches, {}, refused))
        if refused:
            await self._acknowledged([self._replaced(refused, instead)])
        request = self._broker.request
        if offsets:
            wanted = {(topic, partition): committed for partition, committed in offsets.items()}
            await request(
                "transaction-offsets", self._client, lambda: self._transaction().offsets.update({group: wanted})
            )
        await request("end-transaction", self._client, lambda: self._broker.commit_transaction(self._id, self._epoch))

    async def _acknowledged(self, sends: Sequence[asyncio.Task[None]]) -> None:
        """A failed send fails no transaction by itself: its end must wait for every one of them."""
        await _done(sends, Deadline(TRANSACTION_S))

    async def stop(self, deadline: Deadline) -> None:
        """Drops what is open: flushing would send what must not be sent, aborting could hit a later transaction."""
        for ending in self._endings:
            ending.cancel()
        self._give_up()


def _without(
    where: tuple[str, int], batch: Sequence[Appended], error: WillNotTake, refused: list[Refused]
) -> list[Appended]:
    """The batch without what the broker named, which goes to `refused`."""
    for at, why in error.at.items():
        key, value, timestamp_ms, headers = batch[at]
        refused.append(Refused(Outgoing(*where, key, value, timestamp_ms, headers), why))
    return [record for at, record in enumerate(batch) if at not in error.at]


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def _look_at(task: asyncio.Task[Any]) -> None:
    """So that one that nobody waits for makes no noise."""
    if not task.cancelled():
        task.exception()


class MemoryReader:
    """See transports.base.PartitionReader."""

    def __init__(self, broker: MemoryBroker, client: str = "") -> None:
        self._broker, self._client = broker, client
        self._topic = ""
        self._positions: dict[int, int] = {}

    async def start(self, topic: str, start: Mapping[int, int] | None) -> None:
        self._topic = topic
        begin = await self._broker.request("list-offsets", self._client, self._begin)
        if not begin:
            raise TopicMissing(f"no topic {topic!r}: create it first")
        self._positions = begin if start is None else {p: max(offset, begin[p]) for p, offset in start.items()}

    def _begin(self) -> dict[int, int]:
        topic = self._topic
        return {p: self._broker.begin.get((topic, p), 0) for p in range(len(self._broker.topics.get(topic, ())))}

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        await asyncio.sleep(0)
        polled = await self._broker.request("read", self._client, lambda: self._read(records_max))
        if not polled and timeout_ms > 0:
            await self._broker.news(timeout_ms)
            polled = await self._broker.request("read", self._client, lambda: self._read(records_max))
        return polled

    def _read(self, records_max: int) -> Polled:
        polled: Polled = []
        left = records_max
        for partition, position in self._positions.items():
            records, self._positions[partition] = self._broker.read(self._topic, partition, position, left)
            if records:
                left -= len(records)
                polled.append((partition, records))
            if left <= 0:
                break
        return polled

    async def begin_offsets(self) -> dict[int, int]:
        begin = await self._broker.request("list-offsets", self._client, self._begin)
        return {p: begin[p] for p in self._positions}

    async def end_offsets(self) -> dict[int, int]:
        """What may be read now, as a `read_committed` client sees it."""
        broker, topic = self._broker, self._topic
        return await broker.request(
            "list-offsets", self._client, lambda: {p: broker.stable_end(topic, p) for p in self._positions}
        )

    def position(self, partition: int) -> int:
        return self._positions[partition]

    async def stop(self, deadline: Deadline) -> None:
        self._positions.clear()


class MemoryAdmin:
    """See transports.base.Admin."""

    def __init__(self, broker: MemoryBroker, client: str = "") -> None:
        self._broker, self._client = broker, client

    async def start(self) -> None:
        await self._broker.request("connect", self._client, lambda: None)

    async def describe(self, names: Sequence[str]) -> dict[str, int | None]:
        topics = self._broker.topics
        return await self._broker.request(
            "metadata", self._client, lambda: {name: len(topics[name]) if name in topics else None for name in names}
        )

    async def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        return {}

    async def members(self, group: str) -> list[GroupMember]:
        return await self._broker.request("describe-group", self._client, lambda: self._members(group))

    def _members(self, group: str) -> list[GroupMember]:
        known = self._broker.groups.get(group)
        return [GroupMember(str(id(m)), m.client, "", (m.topic,)) for m in known.members] if known is not None else []

    async def alter(self, topic: str, config: Mapping[str, str]) -> None:
        configs = self._broker.configs
        await self._broker.request("alter-configs", self._client, lambda: configs.setdefault(topic, {}).update(config))

    async def forbidden(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {}

    async def may_join(self, group: str) -> bool:
        return True

    async def may_transact(self, transactional_id: str) -> bool:
        return True

    async def create(self, needs: Sequence[TopicNeed]) -> list[str]:
        return await self._broker.request("create-topics", self._client, lambda: self._create(needs))

    def _create(self, needs: Sequence[TopicNeed]) -> list[str]:
        made = [need.name for need in needs if need.name not in self._broker.topics]
        self._broker.configs |= {need.name: dict(need.config) for need in needs if need.name in made}
        for need in needs:
            self._broker.create(need.name, need.partitions)
        return made

    async def stop(self) -> None:
        return


class MemoryGroupOffsets:
    """See transports.base.GroupOffsets."""

    def __init__(self, broker: MemoryBroker, topic: str, group: str, client: str = "") -> None:
        self._broker, self._topic, self._group, self._client = broker, topic, group, client
        self._all: range = range(0)

    async def start(self) -> None:
        count = await self._broker.request(
            "metadata", self._client, lambda: len(self._broker.topics.get(self._topic, ()))
        )
        if not count:
            raise TopicMissing(f"no topic {self._topic!r}")
        self._all = range(count)

    async def committed(self) -> dict[int, Committed | None]:
        broker = self._broker
        return await broker.request(
            "fetch-offsets", self._client, lambda: broker.offsets(self._group, self._topic, self._all)
        )

    async def begin(self) -> dict[int, int]:
        return {p: self._broker.begin.get((self._topic, p), 0) for p in self._all}

    async def end(self) -> dict[int, int]:
        return {p: self._broker.end(self._topic, p) for p in self._all}

    async def at_time(self, time_ms: int) -> dict[int, int | None]:
        logs = {p: self._broker.log(self._topic, p) for p in self._all}
        return {p: next((r.offset for r in log if r.timestamp >= time_ms), None) for p, log in logs.items()}

    async def set(self, offsets: Mapping[int, Committed]) -> None:
        await self._broker.request("commit", self._client, lambda: self._set(offsets))

    def _set(self, offsets: Mapping[int, Committed]) -> None:
        group = self._broker.group(self._group)
        if group.members:
            raise TransportError(f"group {self._group} has members")
        group.committed |= {(self._topic, p): entry for p, entry in offsets.items()}

    async def stop(self, deadline: Deadline) -> None:
        return


class MemoryTransport:
    """See transports.base.Transport. `client` names its user to the broker's hook."""

    def __init__(self, broker: MemoryBroker | None = None, client: str = "", flaws: Flaws | None = None) -> None:
        self.broker = broker if broker is not None else MemoryBroker()
        self.client, self.flaws = client, flaws or Flaws()

    def source(self, topic: str, group: str) -> MemorySource:
        return MemorySource(self.broker, topic, group, self.client, self.flaws)

    def sink(self) -> MemorySink:
        return MemorySink(self.broker, self.client, self.flaws)

    def transactional(self, transactional_id: str) -> MemoryTransactionalSink:
        return MemoryTransactionalSink(self.broker, transactional_id, self.client, self.flaws)

    def reader(self, bulk: bool = False) -> MemoryReader:
        return MemoryReader(self.broker, self.client)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self.broker, self.client)

    def group_offsets(self, topic: str, group: str) -> MemoryGroupOffsets:
        return MemoryGroupOffsets(self.broker, topic, group, self.client)
