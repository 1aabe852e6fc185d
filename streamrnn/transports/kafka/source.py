"""A member of a consumer group, by aiokafka 0.14. Why it is written as it is:

- Positions are ours. When `getmany` raises, records it had drained from other partitions are lost and their positions
  have moved on, so every exception ends this source: its user makes a new one and seeks to where it knows it was.
- A partition that is known to be damaged from some offset on is read alone, a record at a time, up to there: drained
  together with others, its error would cost them what they gave, each time anew.
- `getmany` is never wrapped in a time-out: a cancelled one disables the client's idle watchdog for good.
- No deserializers (a raising one repeats its record for ever), no auto-commit, no automatic offset reset.
- Round-robin, not sticky, assignment (aiokafka #1175, #1176).
- Exceptions in rebalance listeners are swallowed by the client; here they end the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from streamrnn.records import Record
from streamrnn.transports.base import (
    Committed,
    Deadline,
    Inputs,
    Listener,
    OwnershipLost,
    TransportError,
    inputs_read,
)
from streamrnn.transports.kafka.closing import close_consumer
from streamrnn.transports.kafka.errors import explained, reading_failed
from streamrnn.transports.kafka.starting import start_client
from streamrnn.transports.kafka.topic_id import TopicIds, ids_in

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    def __init__(self, source: KafkaSource, listener: Listener) -> None:
        self._source, self._listener = source, listener

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        partitions = self._source.numbered(revoked)
        await self._source.guarded(self._listener.revoked(partitions), "giving partitions up")
        self._source.forget(partitions)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        await self._source.guarded(self._take_over(assigned), "taking partitions over")
        self._source.joined.set()

    async def _take_over(self, assigned: Sequence[TopicPartition]) -> None:
        self._source.hold(assigned)
        await self._source.inputs.admit([(tp.topic, tp.partition) for tp in assigned])
        await self._listener.assigned(self._source.taken(assigned))


class KafkaSource:
    """See transports.base.Source."""

    def __init__(self, settings: KafkaSettings, topic: str | Inputs, group: str) -> None:
        self.inputs = inputs_read(topic)
        self._settings, self._group = settings, group
        self._consumer: Any = None
        self._positions: dict[int, int] = {}
        self._held: set[int] = set()  # assigned, and nobody has said yet where to begin
        self._ends: dict[int, int] = {}  # of partitions that are unreadable from there on
        self._failure: TransportError | None = None
        self.joined = asyncio.Event()

    async def start(self, listener: Listener) -> None:
        settings = self._settings
        self._consumer = AIOKafkaConsumer(
            group_id=self._group,
            group_instance_id=settings.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            max_poll_interval_ms=settings.max_poll_interval_ms,
            isolation_level=settings.isolation_level,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            fetch_max_bytes=settings.fetch_max_bytes,
            max_partition_fetch_bytes=settings.max_partition_fetch_bytes,
            **settings.client(),
        )
        self._consumer.subscribe(list(self.inputs.topics), listener=_Rebalances(self, listener))
        await start_client(self._consumer, settings, f"joining group {self._group}")
        try:
            # A group is joined once its members have given up what they had, for which they are given the rebalance time.
            await asyncio.wait_for(
                self.joined.wait(), (settings.rebalance_timeout_ms + settings.session_timeout_ms) / 1000 + 10
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise explained(error, settings, f"joining group {self._group}") from error
        if self._failure is not None:
            raise self._failure

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        if self._failure is not None:
            raise self._failure
        try:
            fetched = await self._fetched(timeout_ms, records_max)
        except Exception as error:
            raise reading_failed(error, self._settings, self._what()) from error
        polled: list[tuple[int, Sequence[Record]]] = []
        for tp, records in fetched.items():
            number = self._number(tp)
            if number in self._positions and records:
                self._positions[number] = records[-1].offset + 1
                polled.append((number, records))
                if self._at_end(number):
                    self.pause([number])
        if self._failure is not None:
            raise self._failure
        return polled

    async def _fetched(self, timeout_ms: int, records_max: int) -> dict[TopicPartition, Sequence[Record]]:
        getmany = self._consumer.getmany
        limited = [self._tp(p) for p in self._positions if p in self._ends]
        if not limited:
            everything: dict[TopicPartition, Sequence[Record]] = await getmany(
                timeout_ms=timeout_ms, max_records=records_max
            )
            return everything
        whole = [self._tp(p) for p in self._positions if p not in self._ends]
        if not whole:
            # Those at their end are paused, and give nothing: the wait is kept, and the client's idle clock.
            one: dict[TopicPartition, Sequence[Record]] = await getmany(*limited, timeout_ms=timeout_ms, max_records=1)
            return one
        # One call after the other: what the first ones gave is worth nothing where the next one met a rebalance or a seek.
        held: dict[TopicPartition, tuple[int, Sequence[Record]]] = {}
        for tp in limited:
            if self._number(tp) in self._positions and not self._at_end(self._number(tp)):
                found = await getmany(tp, max_records=1)
                held |= {tp: (self._positions.get(self._number(tp), -1), records) for tp, records in found.items()}
        rest: dict[TopicPartition, Sequence[Record]] = await getmany(
            *whole, timeout_ms=0 if held else timeout_ms, max_records=records_max
        )
        kept = {
            tp: records for tp, (position, records) in held.items() if self._positions.get(self._number(tp)) == position
        }
        return kept | rest

    async def commit(self, offsets: Mapping[int, Committed], deadline: Deadline) -> None:
        wanted = {self._tp(p): OffsetAndMetadata(c.offset, c.metadata) for p, c in offsets.items()}
        if lost := wanted.keys() - self._consumer.assignment():
            raise OwnershipLost(f"{', '.join(f'{tp.topic}/{tp.partition}' for tp in sorted(lost))}: not ours any more")
        if self._consumer._coordinator.generation < 0:  # noqa: SLF001
            # Evicted from the group and not back yet. Sent like this, a commit would count once all the others have left.
            raise OwnershipLost(f"no member of group {self._group} at this moment")
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError) as error:
            raise OwnershipLost(f"{self._what()}: {error}") from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise explained(error, self._settings, f"committing offsets of {self._what()}") from error

    async def committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]:
        # consumer.committed() drops the metadata that was stored beside the offset; the coordinator keeps it.
        try:
            known = await self._consumer._coordinator.fetch_committed_offsets(  # noqa: SLF001
                [self._tp(partition) for partition in partitions]
            )
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, f"reading the offsets of group {self._group}") from error
        found: dict[int, Committed | None] = {}
        for partition in partitions:
            entry = known.get(self._tp(partition))
            found[partition] = Committed(entry.offset, entry.metadata or "") if entry and entry.offset >= 0 else None
        return found

    async def topic_ids(self) -> Mapping[str, str | None]:
        client, topics = self._consumer._client, self._topics()  # noqa: SLF001
        try:
            return ids_in(await client.send(client.get_random_node(), TopicIds(topics)))
        except NotImplementedError:
            return dict.fromkeys(topics, "")
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, f"asking for topic {', '.join(topics)}") from error

    async def follow(self, topics: Sequence[str]) -> bool:
        """In place: `subscribe` would take the assignment away before it is revoked, and what is in flight could not be
        committed. During a rebalance it has to wait: its answer may still hold a topic that is left."""
        consumer, wanted = self._consumer, frozenset(topics)
        subscription, coordinator = consumer._subscription.subscription, consumer._coordinator  # noqa: SLF001
        if subscription._reassignment_in_progress or coordinator._rejoin_needed_fut.done():  # noqa: SLF001
            return False
        subscription._topics = wanted  # noqa: SLF001
        consumer._client.set_topics(wanted)  # noqa: SLF001
        coordinator.request_rejoin()
        return True

    def _topics(self) -> list[str]:
        return sorted(self._consumer._subscription.subscription.topics)  # noqa: SLF001

    def _what(self) -> str:
        return ", ".join(self.inputs.topics)

    async def begin_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        return await self._offsets(self._consumer.beginning_offsets, partitions)

    async def end_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        return await self._offsets(self._consumer.end_offsets, partitions)

    async def _offsets(self, ask: Any, partitions: Sequence[int]) -> dict[int, int]:
        try:
            answer = await ask([self._tp(partition) for partition in partitions])
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, f"asking for the offsets of {self._what()}") from error
        return {self._number(tp): offset for tp, offset in answer.items()}

    def seek(self, partition: int, offset: int) -> None:
        try:
            self._consumer.seek(self._tp(partition), offset)
        except IllegalStateError as error:
            raise OwnershipLost(f"partition {self.inputs.numbering.label(partition)} is not assigned here") from error
        self._positions[partition] = offset
        if partition in self._held:
            self._held.discard(partition)
            self.resume([partition])

    def pause(self, partitions: Sequence[int]) -> None:
        self._consumer.pause(*[self._tp(p) for p in partitions if p in self._positions])

    def resume(self, partitions: Sequence[int]) -> None:
        self._consumer.resume(*[self._tp(p) for p in partitions if p in self._positions and not self._at_end(p)])

    def limit(self, ends: Mapping[int, int]) -> None:
        self._ends = dict(ends)

    def _at_end(self, partition: int) -> bool:
        return partition in self._ends and self._positions[partition] >= self._ends[partition]

    def lag(self) -> dict[int, int | None]:
        consumer, lags = self._consumer, dict.fromkeys(self._positions)
        for tp in consumer.assignment() & {self._tp(partition) for partition in self._positions}:
            end = consumer.highwater(tp)
            if self._settings.isolation_level == "read_committed":
                # Behind an open transaction there is nothing that may be read.
                stable = consumer.last_stable_offset(tp)
                end = end if stable is None or stable < 0 else stable
            lags[self._number(tp)] = None if end is None else max(0, end - self._reached(tp))
        return lags

    async def behind(self, partitions: Sequence[int]) -> dict[int, int]:
        ends = await self.end_offsets(partitions)
        assigned = self._consumer.assignment()
        return {p: ends[p] - self._reached(self._tp(p)) for p in ends if self._tp(p) in assigned}

    def _reached(self, tp: TopicPartition) -> int:
        """The client's own position: unlike that of the last record it lies behind a transaction's marker."""
        state = self._consumer._subscription.subscription.assignment.state_value(tp)  # noqa: SLF001
        position: int = state.position if state.has_valid_position else self._positions[self._number(tp)]
        return position

    async def stop(self, deadline: Deadline) -> None:
        if self._consumer is None:
            return
        error = await close_consumer(self._consumer, deadline)
        if error is not None:
            raise explained(error, self._settings, "leaving the group")

    # ── for the rebalance listener ───────────────────────────────────────────────────────────────────────────────

    async def guarded(self, call: Any, doing: str) -> None:
        try:
            await call
        except (TransportError, KafkaError, OSError) as error:
            self._failure = explained(error, self._settings, doing)
        except Exception as error:  # noqa: BLE001 - aiokafka would swallow it; the next poll raises it
            self._failure = TransportError(f"{doing} failed: {type(error).__name__}: {error}")
            context = {"message": f"{doing} failed by an error in the service", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def hold(self, assigned: Sequence[TopicPartition]) -> None:
        """The client must not look for a position of its own: where there is none, the polls of all would raise it."""
        for tp in assigned:
            self._consumer.pause(tp)
            self._consumer.seek(tp, 0)

    def taken(self, assigned: Sequence[TopicPartition]) -> frozenset[int]:
        """The numbers of partitions that are held from now on."""
        partitions = self.numbered(assigned)
        self._held |= partitions
        return partitions

    def numbered(self, places: Sequence[TopicPartition]) -> frozenset[int]:
        """Of those that have a number: one whose taking over has failed may have none."""
        numbering = self.inputs.numbering
        return frozenset(self._number(tp) for tp in places if (tp.topic, tp.partition) in numbering)

    def forget(self, partitions: frozenset[int]) -> None:
        self._held -= partitions
        for partition in partitions:
            self._positions.pop(partition, None)

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(*self.inputs.numbering.place(partition))

    def _number(self, tp: TopicPartition) -> int:
        return self.inputs.numbering.number(tp.topic, tp.partition)
