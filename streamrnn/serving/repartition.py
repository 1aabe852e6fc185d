"""The first stage of `repartition: on`: the input decoded, and its ticks written to `<app>.ticks`, keyed by series.

Where the records of one series come by several partitions, or its channels by several topics, each partition would keep a
state of its own. So the ticks of a series are brought together in one partition first; the second stage is the worker as it
is, with `<app>.ticks` for its input. Workers share both by Kafka's group protocol, in a group each.

One batch is decoded while the one before it is on its way, and appended once that one is acknowledged and its offsets may be
committed. At least once: what was in flight when a stage dies is written again, and skipped at the second stage
(`wire.passed`). Exactly once: ticks, dead letters and offsets are one transaction for each partition of the input. What
cannot be read is dead-lettered here, as it came; a tick carries its record's time and place along.
Partitions are read in the order of their records' times (`merge`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog
from aiokafka.partitioner import murmur2

from streamrnn.records import Record, Rejected, Skipped, SkipReason, TickBatch
from streamrnn.runtime.background import BackgroundTasks
from streamrnn.serving.commit_note import ReplayPoints, committed_with, is_of
from streamrnn.serving.input_topics import TopicsWatch, WrittenTopics
from streamrnn.serving.intake import Intake, Polled
from streamrnn.serving.merge import Merge
from streamrnn.serving.outbox import AtLeastOnce, ExactlyOnce, Outbox
from streamrnn.serving.partition import Partition, Partitions
from streamrnn.serving.parts import Fetcher, PumpSettings, TakenIn, pump_settings
from streamrnn.serving.publish import bury, by_number, wall_ms
from streamrnn.serving.refused import Observer as RefusedObserver
from streamrnn.serving.refused import OutputTopics, RefusedOutputs, bounded, cut
from streamrnn.serving.schemas import fetcher_of
from streamrnn.serving.turning import Turning
from streamrnn.serving.watch import Watch
from streamrnn.spec import PLAIN, StreamSpec
from streamrnn.transports.base import (
    LONG_AGO_S,
    Committed,
    Deadline,
    Delivery,
    OperatorNeeded,
    OwnershipLost,
    Source,
    Transport,
    TransportError,
    clock_s,
)
from streamrnn.wire.codec import Decoder, dead_letter
from streamrnn.wire.output_schemas import source_in
from streamrnn.wire.passed import encode_ticks

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

log = structlog.get_logger(__name__)

BACKOFF_S = (0.2, 10.0)
# Series whose partition is remembered.
SERIES_KNOWN = 100_000
CLOSING_S = 2.0
TIME_MS = (0, 1 << 62)


class FirstObserver(TakenIn, RefusedObserver, Protocol):
    """What the first stage reports of its work."""

    def skipped(self, counts: Mapping[SkipReason, int]) -> None: ...
    def repartitioned(self, ticks: int, unread: Sequence[Rejected], letters: int) -> None: ...
    def assigned(self, partition: int, position: int, emit_from: int) -> None: ...
    def revoked(self, partition: int) -> None: ...
    def committed(self, partition: int, offset: int, seconds: float) -> None: ...
    def waiting(self, seconds: float) -> None: ...
    def number_by(self, label: Callable[[int], int | str]) -> None: ...
    def serving(self) -> None: ...
    def rebuilding(self, error: str) -> None: ...


@dataclass(frozen=True, slots=True)
class FirstParts:
    """Decoder, fetcher and observer live as long as the worker; the others as long as the clients."""

    source: Source
    outbox: Outbox
    partitions: Partitions
    decoder: Decoder
    observer: FirstObserver
    refused: RefusedOutputs
    fetcher: Fetcher | None


@dataclass(frozen=True, slots=True)
class Between:
    """Where ticks and dead letters go, by name and partitions."""

    ticks: str
    partitions: int
    dead_letters: str
    letters: int


@dataclass(slots=True)
class _InFlight:
    delivery: Delivery
    offsets: dict[int, Committed]
    sent_s: float


class FirstPump(Turning):
    """Turns the parts of the first stage; is its Source's rebalance listener."""

    def __init__(
        self, parts: FirstParts, settings: PumpSettings, spec: StreamSpec, between: Between, now_ms: Callable[[], int]
    ) -> None:
        super().__init__()
        self._parts, self._settings, self._spec, self._between, self._now_ms = parts, settings, spec, between, now_ms
        self._numbering = parts.source.inputs.numbering
        self._partitions = parts.partitions
        self._intake = Intake(parts, settings)
        self._watch = Watch(parts, settings, None)
        self._topics = OutputTopics(
            self._numbering,
            "",
            "",
            between.dead_letters,
            lambda number: number % between.letters,
            source_in(spec, PLAIN),
            ticks=between.ticks,
        )
        self._in_flight: _InFlight | None = None
        self._to_commit: dict[int, Committed] = {}
        self._committed_s = LONG_AGO_S
        self._partition_of: dict[str, int] = {}
        self._merge = Merge(settings.records_max)
        self._ownership = 0  # counts rebalances
        self._full: set[int] = set()  # paused, for they have enough waiting

    async def _turn(self) -> None:
        ownership = self._ownership
        polled = await self._intake.poll(wait=self._in_flight is None and not len(self._merge))
        async with self._lock:  # rebalances take it, too
            if ownership != self._ownership:
                polled = self._begin_again()
            read = self._read(self._merged(polled))
            await self._settle(commit=read is None)
            if read is not None:
                await self._send(*read)
        await self._watch.look()

    def _begin_again(self) -> Polled:
        """A rebalance came during the poll: what that brought may be of before it, and of partitions that are read from
        further back now. All is read on from where it is."""
        owned = self._partitions.owned
        self._intake.drop(frozenset(owned))
        for number, partition in owned.items():
            self._parts.source.seek(number, self._merge.next_offset(number, partition.position))
        return []

    def _merged(self, polled: Polled) -> Polled:
        """What is to be processed now: of these records and those that wait, the oldest."""
        owned, source, merge = self._partitions.owned, self._parts.source, self._merge
        for number, records in polled:
            if number in owned:
                merge.add(number, records)
                owned[number].moved_s = clock_s()
        before, lag = merge.full(), source.lag()
        found: Polled = list(merge.take(self._settings.records_max, {n: lag.get(n) for n in owned}, clock_s()))
        full = merge.full()
        source.pause(sorted((full - self._full) & owned.keys()))
        self._intake.resume((self._full | before) - full)
        self._full = full
        return found

    async def _settled(self) -> None:
        await self._settle(commit=True)

    # ── a batch ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, polled: Polled) -> tuple[TickBatch, list[Rejected], list[Skipped], dict[int, int]] | None:
        """What these records are, of the partitions that are ours, and where each then is."""
        owned, ends, records = self._partitions.owned, dict[int, int](), list[Record]()
        for number, chunk in polled:
            if number in owned:
                fresh = [record for record in chunk if record.offset >= ends.get(number, owned[number].position)]
                if fresh:
                    records += fresh
                    ends[number] = fresh[-1].offset + 1
        if not records:
            return None
        batch, unread, skipped = self._parts.decoder.read(records)
        if self._parts.outbox.exactly_once and (cut_at := self._first_of_another(batch, records)):
            self._merge.put_back([(self._numbering.of(record), record) for record in records[cut_at:]])
            records = records[:cut_at]
            batch, unread, skipped = self._parts.decoder.read(records)
            ends = {self._numbering.of(record): record.offset + 1 for record in records}
        self._intake.learn(len(batch), len(records))
        for number, end in ends.items():
            owned[number].advance(end)
        return batch, unread, skipped, ends

    def _first_of_another(self, batch: TickBatch, records: Sequence[Record]) -> int:
        """Where to cut these records, so that the ticks of one series that come from several partitions keep their order: each
        partition has a transaction of its own, and those of one batch become visible in any order. Ticks no further apart than
        `lateness` may. 0: nowhere."""
        lateness_us = 1000 * self._spec.lateness_ms
        met: dict[str, tuple[int, int, int]] = {}  # by series: (partition, -1 of several; first and last time)
        rows = zip(batch.series, batch.partition.tolist(), batch.ts_us.tolist(), batch.records, strict=True)
        for series, number, ts_us, record in rows:
            known, first, last = met.get(series, (number, ts_us, ts_us))
            known, first, last = known if known == number else -1, min(first, ts_us), max(last, ts_us)
            if known < 0 and last - first > lateness_us:
                return next(at for at, each in enumerate(records) if each is record)
            met[series] = known, first, last
        return 0

    async def _send(
        self, batch: TickBatch, unread: Sequence[Rejected], skipped: Sequence[Skipped], ends: Mapping[int, int]
    ) -> None:
        """Appends, and puts the delivery in flight; to be called with nothing in flight."""
        now_ms = self._now_ms()
        await self._append(batch, now_ms)
        kept = bounded(unread)
        for number, items in by_number(kept, self._numbering).items():
            letters = [cut(*dead_letter(item)) for item in items]
            place = number % self._between.letters
            await bury(self._parts.outbox.sink(number), self._between.dead_letters, place, letters, now_ms)
        offsets = {number: self._note(number, end) for number, end in ends.items()}
        instead = self._parts.refused.instead(self._topics, [batch.records], self._now_ms)
        delivery = await self._parts.outbox.seal(offsets, instead)
        self._in_flight = _InFlight(delivery, offsets, clock_s())
        if skipped:
            counts: dict[SkipReason, int] = {}
            for each in skipped:
                counts[each.reason] = counts.get(each.reason, 0) + each.elements
            self._parts.observer.skipped(counts)
        self._parts.observer.repartitioned(len(batch), unread, len(kept))

    async def _append(self, batch: TickBatch, now_ms: int) -> None:
        values = encode_ticks(self._spec, batch, self._numbering, self._partitions.input_ids)
        least, most = TIME_MS
        times = [ts if least <= ts < most else now_ms for ts in batch.record_ts_ms.tolist()]
        # One producer for all keeps the order of the whole; with a transaction for each partition, see `_first_of_another`.
        apart = self._parts.outbox.exactly_once
        rows: dict[tuple[int, int], list[int]] = {}
        for row, (number, series) in enumerate(zip(batch.partition.tolist(), batch.series, strict=True)):
            rows.setdefault((number if apart else 0, self._place(series)), []).append(row)
        for (number, partition), some in rows.items():
            await self._parts.outbox.sink(number).append_many(
                self._between.ticks,
                partition,
                [batch.series[row].encode() for row in some],
                [values[row] for row in some],
                [times[row] for row in some],
            )

    def _place(self, series: str) -> int:
        """The partition of a series: as Kafka's own producers choose it by the key."""
        known = self._partition_of.get(series)
        if known is None:
            if len(self._partition_of) >= SERIES_KNOWN:
                self._partition_of.clear()
            known = self._partition_of[series] = (murmur2(series.encode()) & 0x7FFFFFFF) % self._between.partitions
        return known

    def _note(self, number: int, offset: int) -> Committed:
        return committed_with(offset, offset, (), self._partitions.input_id(number))

    # ── delivered and committed ──────────────────────────────────────────────────────────────────────────────────

    async def _settle(self, commit: bool) -> None:
        """Nothing is in flight any more; `commit`: nor is any offset left to be committed. Raises TransportError."""
        sent, settings = self._in_flight, self._settings
        if sent is not None:
            await sent.delivery.wait(Deadline(settings.delivery_timeout_s - (clock_s() - sent.sent_s)))
            self._in_flight = None
            if self._parts.outbox.exactly_once:
                self._are_committed(sent.offsets, clock_s() - sent.sent_s)
            else:
                self._to_commit |= sent.offsets
        if self._to_commit and (commit or clock_s() - self._committed_s >= settings.commit_interval_s):
            offsets, self._to_commit = self._to_commit, {}
            begin = self._committed_s = clock_s()
            try:
                await self._parts.source.commit(offsets, Deadline(settings.commit_timeout_s))
            except OwnershipLost as lost:
                log.warning("commit refused: the partitions belong to another member", error=str(lost))
                return
            self._are_committed(offsets, clock_s() - begin)

    def _are_committed(self, offsets: Mapping[int, Committed], seconds: float) -> None:
        for number, committed in offsets.items():
            if number in self._partitions.owned:
                self._partitions.owned[number].committed = committed.offset
                self._parts.observer.committed(number, committed.offset, seconds)

    # ── rebalances ───────────────────────────────────────────────────────────────────────────────────────────────

    async def revoked(self, partitions: frozenset[int]) -> None:
        async with self._lock:
            self._ownership += 1
            try:
                await self._settle(commit=True)
            except TransportError as error:
                # Not committed means written again by the next owner, and skipped by who reads it.
                log.warning("partitions given up with a batch not settled", error=str(error))
            self._in_flight = None
            self._intake.drop(partitions)
            self._merge.drop(partitions)
            self._full -= partitions
            for number in partitions:
                self._to_commit.pop(number, None)
                partition = self._partitions.get(number)
                if partition is not None:
                    partition.released()
                    self._partitions.forget(partition)
                    self._parts.observer.revoked(number)
            await self._parts.outbox.close(sorted(partitions))

    async def assigned(self, partitions: frozenset[int]) -> None:
        async with self._lock:
            self._ownership += 1
            new = sorted(number for number in partitions if self._partitions.get(number) is None)
            if new:
                await self._begin(new)

    async def _begin(self, new: Sequence[int]) -> None:
        source, outbox = self._parts.source, self._parts.outbox
        await outbox.open(new)
        self._partitions.input_ids.update({t: said for t, said in (await source.topic_ids()).items() if said})
        known = await source.committed(new)
        begins, ends = await source.begin_offsets(new), await source.end_offsets(new)
        for number in new:
            begin, end, entry = begins[number], ends[number], known[number]
            if entry is not None and (entry.offset > end or not is_of(entry, self._partitions.input_id(number))):
                entry = None  # of an earlier topic of this name
            from_begin = self._settings.start == "earliest" or self._numbering.place(number) in self._numbering.later
            fresh = begin if from_begin else end
            at = fresh if entry is None else max(entry.offset, begin)
            partition = Partition(number, ReplayPoints(self._spec))
            partition.assigned(entry, begin, end)
            partition.restored(at, at, -1 if entry is None else entry.offset, "")
            self._partitions.put(partition)
            source.seek(number, at)
            source.resume([number])
            self._parts.observer.assigned(number, at, at)
            log.info("partition assigned to the first stage", partition=self._numbering.label(number), position=at)


@dataclass(slots=True)
class Repartitioner:
    """The first stage of a worker, beside the second: keeps its clients alive, ends cleanly."""

    settings: Settings
    transport: Transport
    observer: FirstObserver
    now_ms: Callable[[], int] = wall_ms
    pump: FirstPump | None = None
    inputs: WrittenTopics = field(init=False)
    decoder: Decoder = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _source: Source | None = None

    def __post_init__(self) -> None:
        self.inputs = WrittenTopics(self.transport, self.settings)
        self.decoder = Decoder(self.settings.stream_spec(), self.settings.decode_spec())
        self.decoder.number_by(self.inputs.numbering)
        self.observer.number_by(self.inputs.numbering.label)

    def stop(self) -> None:
        self._stopping.set()
        if self.pump is not None:
            self.pump.stop()

    async def ended(self, deadline: Deadline) -> None:
        """Waits for the clean end that `stop` has asked for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline.remaining_s()):
                await self._ended.wait()

    async def run(self) -> None:
        """Until `stop`. Raises OperatorNeeded; other troubles of the broker are met with new clients."""
        try:
            self.inputs.topics = await self.inputs.look()
            fetcher = fetcher_of(self.settings, self.decoder)
            watch = TopicsWatch(self.inputs, self.settings.kafka.metadata_max_age_ms / 1000)
            beside = [watch.run(lambda: self._source)]
            if fetcher is not None:
                beside.append(fetcher.run())
            async with BackgroundTasks(self.stop, *beside):
                await self._serve(fetcher)
        finally:
            self._ended.set()

    async def _serve(self, fetcher: Fetcher | None) -> None:
        failures, refused = 0, RefusedOutputs(self.observer)
        while not self._stopping.is_set():
            settings = self.settings
            source = self._source = self.transport.source(self.inputs, settings.first_group)
            outbox = self._outbox()
            begun_s = clock_s()
            try:
                between = await self._between(outbox)
                parts = FirstParts(
                    source, outbox, Partitions(self.inputs.numbering), self.decoder, self.observer, refused, fetcher
                )
                self.pump = FirstPump(
                    parts,
                    pump_settings(settings, settings.batch_records_max),
                    settings.stream_spec(),
                    between,
                    self.now_ms,
                )
                if self._stopping.is_set():
                    self.pump.stop()
                await source.start(self.pump)
                self.observer.serving()
                await self.pump.run()
            except OperatorNeeded:
                raise
            except TransportError as error:
                if self._stopping.is_set():
                    return
                failures = 1 if clock_s() - begun_s > BACKOFF_S[1] else failures + 1
                self.observer.rebuilding(str(error))
                least, most = BACKOFF_S
                wait_s = min(most, least * 2 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)  # noqa: S311
                log.warning(
                    "clients of the first stage are rebuilt after an error", error=str(error), wait_s=round(wait_s, 2)
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)
            finally:
                self._source = None
                await asyncio.gather(
                    source.stop(Deadline(CLOSING_S)), outbox.stop(Deadline(CLOSING_S)), return_exceptions=True
                )

    def _outbox(self) -> AtLeastOnce | ExactlyOnce:
        if self.settings.delivery == "exactly-once":
            return ExactlyOnce(self.transport, self.settings.first_group, self.inputs.numbering)
        return AtLeastOnce(self.transport)

    async def _between(self, outbox: AtLeastOnce | ExactlyOnce) -> Between:
        topics, sink = self.settings.topics, await outbox.start()
        ticks, letters = await sink.partitions_for(topics.ticks), await sink.partitions_for(topics.dlq)
        return Between(topics.ticks, ticks, topics.dlq, letters)
