"""Outputs in record batches built per partition (aiokafka's batch API): the hot path of sending.

One future per batch instead of one per record halves the processor time of a record. Every future is awaited before an
offset may be committed: in aiokafka a failed send fails nothing but its own future.

Records that the broker refuses for what they hold are left out of their batch (`kafka_mending`), and what the delivery's user
wants sent instead is part of the same delivery, in a transaction part of the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

from streamrnn.transports.base import (
    Committed,
    Deadline,
    DeliveryFailed,
    Instead,
    OperatorNeeded,
    Outgoing,
    Refused,
    TopicMissing,
    TransportError,
)
from streamrnn.transports.kafka.admin import KafkaAdmin
from streamrnn.transports.kafka.closing import close_producer, drop_producer
from streamrnn.transports.kafka.errors import explained
from streamrnn.transports.kafka.mending import mend, refused_of, runs_of
from streamrnn.transports.kafka.starting import start_client
from streamrnn.transports.refusals import replace

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings

# An idempotent producer's sequence number per partition wraps to a negative one after 2³¹ records and is then refused
# for ever (seen on a real broker); well before that the producer is replaced.
RECORDS_MAX = 2**30
NO_HEADERS: list[tuple[str, bytes]] = []
# What a producer raises that is of no use any more; one that was fenced says that it is not in a transaction.
REFUSALS = (KafkaError, IllegalOperation, OSError, AssertionError)


class Handed(NamedTuple):
    """A batch that the client has."""

    topic: str
    partition: int
    records: int
    batch: Any = None  # the client's own object


class KafkaDelivery:
    """See transports.base.Delivery."""

    def __init__(self, sink: KafkaSink, handed: dict[asyncio.Future[Any], Handed], instead: Instead | None) -> None:
        self._sink, self._handed, self._instead = sink, handed, instead
        # Lives on when a wait is cancelled: a record is replaced once.
        self._replacing: asyncio.Task[None] | None = None

    async def wait(self, deadline: Deadline) -> None:
        if not self._handed:
            return
        refused = await self._sink.acknowledged(self._handed, deadline)
        if not refused:
            return
        if self._replacing is None:
            self._replacing = self._sink.replacing(refused, self._instead)
        done, _ = await asyncio.wait({self._replacing}, timeout=deadline.remaining_s())
        if not done or self._replacing.cancelled():
            raise DeliveryFailed("what is sent instead of refused records was not acknowledged in time")
        self._replacing.result()

    def written(self, topic: str) -> Mapping[int, Sequence[tuple[int, int]]]:
        runs: dict[int, list[tuple[int, int]]] = {}
        for future, (name, partition, count, batch) in self._handed.items():
            if name == topic:
                parts = runs_of(batch)
                runs.setdefault(partition, []).extend([(future.result().offset, count)] if parts is None else parts)
        return runs


class KafkaSink:
    """See transports.base.Sink."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._name = "the producer"
        self._producer: Any = None
        self._starting: asyncio.Future[None] | None = None
        self._open: dict[tuple[str, int], Any] = {}
        self.appended = False  # something, since the last commit of a transaction
        self._handed: dict[asyncio.Future[Any], Handed] = {}
        self._outstanding: set[asyncio.Future[Any]] = set()  # what makes room when it is done
        self._replacing: set[asyncio.Task[None]] = set()
        self.in_flight_bytes = 0
        self.in_flight_bytes_max = settings.in_flight_bytes_max
        self._records = 0

    async def start(self) -> None:
        """Raises the TransportError that says why it could not, or that `stop` came before.

        If this is cancelled, the client starts on; `stop` ends it.
        """
        producer = self._producer = self._make()
        starting = self._starting = asyncio.ensure_future(
            start_client(producer, self._settings, f"starting {self._name}")
        )
        starting.add_done_callback(_look_at)
        await asyncio.wait({starting})
        if self._producer is not producer:
            raise DeliveryFailed(f"{self._name} was closed while it started")
        starting.result()

    @property
    def _client(self) -> Any:
        """Raises DeliveryFailed where there is none any more."""
        if self._producer is None:
            raise DeliveryFailed(f"{self._name} is closed")
        return self._producer

    async def _given_up(self, deadline: Deadline) -> Any:
        """The producer that is to be closed, if there is one; this object has none from here on."""
        producer, self._producer = self._producer, None
        if self._starting is not None and not self._starting.done():
            # What starts on behind its end opens connections that nobody closes, and so does what is cut off at once.
            await asyncio.wait({self._starting}, timeout=deadline.remaining_s())
            self._starting.cancel()
        return producer

    def _make(self, **options: Any) -> Any:
        settings = self._settings
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            compression_type=settings.compression_type,
            max_batch_size=settings.batch_bytes_max,
            linger_ms=0,
            **settings.client(),
            **options,
        )
        mend(producer)
        return producer

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
        where = (topic, partition)
        builder = self._open.get(where)
        if builder is None:
            builder = self._open[where] = self._client.create_batch()
        append = builder.append
        for i, value in enumerate(values):
            with_headers = NO_HEADERS if headers is None else list(headers[i])
            if append(timestamp=timestamps_ms[i], key=keys[i], value=value, headers=with_headers) is None:
                await self._hand_over(where)
                builder = self._open[where] = self._client.create_batch()
                append = builder.append
                # The first record of a batch may have any size: whether it is too large is for the broker to say.
                append(timestamp=timestamps_ms[i], key=keys[i], value=value, headers=with_headers)
        self._records += len(values)

    async def partitions_for(self, topic: str) -> int:
        try:
            return len(await self._client.partitions_for(topic))
        except UnknownTopicOrPartitionError:  # or there was no answer: asked again by one who distinguishes the two
            admin = KafkaAdmin(self._settings)
            await admin.start()
            try:
                partitions = (await admin.describe([topic]))[topic]
            finally:
                await admin.stop()
            if partitions is None:
                raise TopicMissing(f"no topic {topic!r}: `streamrnn topics --create` makes it") from None
            return partitions
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, f"asking for topic {topic}") from error

    async def seal(self, instead: Instead | None = None) -> KafkaDelivery:
        for where in list(self._open):
            await self._hand_over(where)
        delivery = KafkaDelivery(self, self._handed, instead)
        self._handed = {}
        if self._records > RECORDS_MAX:
            await delivery.wait(Deadline(self._settings.delivery_timeout_ms / 1000))
            await self.stop(Deadline(5.0))
            self._records = 0
            await self.start()
        return delivery

    async def acknowledged(self, handed: Mapping[asyncio.Future[Any], Handed], deadline: Deadline) -> list[Refused]:
        """Waits for all batches; returns the records that were left out. Raises DeliveryFailed."""
        done, pending = await asyncio.wait(handed, timeout=deadline.remaining_s())
        for future in done:
            error = future.exception() if not future.cancelled() else asyncio.CancelledError()
            if error is not None:
                doing = f"delivering to {handed[future].topic}/{handed[future].partition}"
                raise _failed_delivery(error, self._settings, doing) from error
        if pending:
            raise DeliveryFailed(
                f"{len(pending)} of {len(handed)} batches were not acknowledged by "
                f"{self._settings.bootstrap_servers} in time"
            )
        return [refused for each in handed.values() for refused in refused_of(each.batch)]

    def replacing(self, refused: Sequence[Refused], instead: Instead | None) -> asyncio.Task[None]:
        """What is to be sent instead of these, on its way; ends with the sink."""
        task = asyncio.ensure_future(replace(refused, instead, self._send_now))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        task.add_done_callback(_look_at)
        return task

    async def _send_now(self, records: Sequence[Outgoing]) -> list[Refused]:
        """Sends these beside what is being appended, a batch after the other; returns those that were refused."""
        deadline = Deadline(self._settings.delivery_timeout_ms / 1000)
        refused: list[Refused] = []
        waiting = list(reversed(records))
        while waiting:
            first, builder = waiting[-1], self._client.create_batch()
            where = (first.topic, first.partition)
            while waiting and (waiting[-1].topic, waiting[-1].partition) == where:
                _, _, key, value, timestamp_ms, headers = waiting[-1]
                if builder.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers)) is None:
                    break
                waiting.pop()
            builder.close()
            self.in_flight_bytes += builder.size()
            future, handed = await self._give(where, builder)
            refused += await self.acknowledged({future: handed}, deadline)
        return refused

    async def stop(self, deadline: Deadline) -> None:
        for task in self._replacing:
            task.cancel()
        producer = await self._given_up(deadline)
        if producer is None:
            return
        self._open.clear()
        error = await close_producer(producer, deadline)
        if error is not None:
            raise explained(error, self._settings, "stopping the producer")

    async def _hand_over(self, where: tuple[str, int]) -> None:
        """Gives one batch to the client, once there is room for it in flight."""
        future, handed = await self._give(where, await self._closed(where))
        self._handed[future] = handed

    async def _closed(self, where: tuple[str, int]) -> Any:
        """A batch that nothing is added to any more, counted as in flight."""
        builder = self._open.pop(where)
        size = builder.size()
        budget = Deadline(self._settings.delivery_timeout_ms / 1000)
        while self._outstanding and self.in_flight_bytes + size > self.in_flight_bytes_max:
            done, _ = await asyncio.wait(
                self._outstanding, timeout=budget.remaining_s(), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise DeliveryFailed(f"{self.in_flight_bytes} bytes on their way and nothing acknowledged in time")
        builder.close()
        self.in_flight_bytes += size
        return builder

    async def _give(self, where: tuple[str, int], builder: Any) -> tuple[asyncio.Future[Any], Handed]:
        """(what becomes of the batch, the batch)"""
        topic, partition = where
        size, producer = builder.size(), self._client
        try:
            future: asyncio.Future[Any] = await producer.send_batch(builder, topic, partition=partition)
        except REFUSALS as error:
            raise _failed_delivery(error, self._settings, f"sending to {topic}/{partition}") from error
        # The client fails a second future of each batch, which nobody has: an error in the log for each, by the hundred.
        batch = producer._message_accumulator._batches[TopicPartition(topic, partition)][-1]  # noqa: SLF001
        batch._drain_waiter.add_done_callback(_look_at)  # noqa: SLF001
        self._outstanding.add(future)
        future.add_done_callback(lambda done: self._acknowledged(done, size))
        return future, Handed(topic, partition, builder.record_count(), batch)

    def _acknowledged(self, future: asyncio.Future[Any], size: int) -> None:
        self.in_flight_bytes -= size
        self._outstanding.discard(future)
        _look_at(future)


def _look_at(future: asyncio.Future[Any]) -> None:
    """Or asyncio would call its exception one that was never retrieved, though `wait` raises it where it matters."""
    if not future.cancelled():
        future.exception()


def _failed_delivery(error: BaseException, settings: KafkaSettings, doing: str) -> TransportError:
    """What another attempt would not mend keeps its kind."""
    cause = explained(error, settings, doing)
    return cause if isinstance(cause, OperatorNeeded) else DeliveryFailed(str(cause))


class _Transaction:
    """A transaction on its way to its end; see transports.base.Delivery."""

    def __init__(self, ending: asyncio.Task[None]) -> None:
        self._ending = ending

    async def wait(self, deadline: Deadline) -> None:
        done, _ = await asyncio.wait({self._ending}, timeout=deadline.remaining_s())
        if not done:
            raise DeliveryFailed("a transaction did not end in time; whether it was committed is not known")
        if self._ending.cancelled():
            raise DeliveryFailed("a transaction was given up; whether it was committed is not known")
        error = self._ending.exception()
        if error is not None:
            raise error

    def written(self, topic: str) -> Mapping[int, Sequence[tuple[int, int]]]:
        return {}


class KafkaTransactionalSink(KafkaSink):
    """See transports.base.TransactionalSink.

    A transaction is a task of its own, which begins when the one before has been committed: a producer has one at a time,
    and whoever appends need not wait for it. It takes four round trips one after the other (partitions added, records,
    end; the offsets go beside the records), and with the broker's markers longer than a batch takes to be processed.

    After any error the object is of no use: its user drops it and starts another, which ends what this one left open.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        super().__init__(settings)
        self._id, self._name = transactional_id, f"the producer {transactional_id}"
        self._closed_batches: list[tuple[tuple[str, int], Any]] = []  # of the transaction to come
        self._ending: asyncio.Task[None] | None = None  # the newest transaction
        self._offering: asyncio.Future[Any] | None = None  # the newest transaction's offsets

    def _make(self, **options: Any) -> Any:
        return super()._make(
            transactional_id=self._id, transaction_timeout_ms=self._settings.transaction_timeout_ms, **options
        )

    async def commit(
        self, topic: str, offsets: Mapping[int, Committed], group: str, instead: Instead | None = None
    ) -> _Transaction:
        if self._producer is None:
            raise DeliveryFailed(f"{self._name} is closed")
        for where in list(self._open):
            await self._hand_over(where)
        batches, self._closed_batches = self._closed_batches, []
        self.appended = False
        wanted = {TopicPartition(topic, p): OffsetAndMetadata(c.offset, c.metadata) for p, c in offsets.items()}
        ending = self._ending = asyncio.ensure_future(self._transact(self._ending, batches, wanted, group, instead))
        self._outstanding.add(ending)
        ending.add_done_callback(self._ended)
        return _Transaction(ending)

    async def _hand_over(self, where: tuple[str, int]) -> None:
        """Keeps one batch for the transaction to come, once there is room for it beside those on their way."""
        self._closed_batches.append((where, await self._closed(where)))

    def _ended(self, transaction: asyncio.Future[Any]) -> None:
        self._outstanding.discard(transaction)
        _look_at(transaction)

    async def _transact(
        self,
        before: asyncio.Task[None] | None,
        batches: Sequence[tuple[tuple[str, int], Any]],
        offsets: dict[TopicPartition, OffsetAndMetadata],
        group: str,
        instead: Instead | None,
    ) -> None:
        """One whole transaction, when the one before it has been committed; after any other end nothing may follow."""
        if before is not None:
            await asyncio.wait({before})
            if _failed(before):
                raise DeliveryFailed(f"the transaction of {self._id} before this one was not committed")
        deadline = Deadline(self._settings.delivery_timeout_ms / 1000)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._client.begin_transaction()
                handed = dict([await self._give(where, builder) for where, builder in batches])
                offering = None
                if offsets:
                    offering = asyncio.ensure_future(self._client.send_offsets_to_transaction(offsets, group))
                    offering.add_done_callback(_look_at)
                    self._offering = offering
                # A failed send fails no transaction by itself: every record is acknowledged before the end. Of what was
                # refused nothing is in it, and what is sent instead becomes part of it.
                await KafkaDelivery(self, handed, instead).wait(deadline)
                if offering is not None:
                    await offering
                await self._client.commit_transaction()
        except (*REFUSALS, TimeoutError) as error:
            raise _failed_delivery(error, self._settings, f"committing the transaction of {self._id}") from error

    async def stop(self, deadline: Deadline) -> None:
        ending, self._ending = self._ending, None
        unsent = bool(self._open or self._closed_batches)
        self._closed_batches.clear()
        if not unsent and (ending is None or (ending.done() and not _failed(ending))):
            return await super().stop(deadline)
        # Flushing would send what must not be sent, and aborting could hit a later transaction.
        for transaction in [*self._outstanding, *self._replacing]:
            if isinstance(transaction, asyncio.Task):
                transaction.cancel()
        producer = await self._given_up(deadline)
        self._open.clear()
        if producer is not None:
            await drop_producer(producer)
        if self._offering is not None:
            # Not before: the client fails what it still owes, and an error that nobody takes is one more line in the log.
            self._offering.cancel()
        return None


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


__all__ = ["KafkaDelivery", "KafkaSink", "KafkaTransactionalSink", "TransportError"]
