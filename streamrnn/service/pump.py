"""The pump: poll → decode → engine → outputs appended → delivery awaited → offset committed. At-least-once.

One batch is processed while the one before it is on its way to the broker, so the client's core and the broker's work
at the same time. The protocol, per batch:

 1. Poll. Records of partitions we no longer own are dropped.
 2. Under the lock that rebalances take too: decode, step the engine, append all outputs, seal them into a delivery.
 3. Await the delivery before this one (every record of it acknowledged) under a deadline.
 4. Only then may its offsets be committed; the commit runs beside the next batch, at most one at a time.

A failed delivery or a lost broker rolls everything back: clients are rebuilt, the owned partitions' state is dropped
and rebuilt by a silent replay up to the committed offset (see `restart`). So what was committed was delivered, and what
was delivered twice carries the same `source` both times.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from streamrnn.codec import Decoder
from streamrnn.records import Outputs, Record, Rejected, TickBatch
from streamrnn.service.publish import Publisher
from streamrnn.service.restart import ReplayPoints, committed_with, starting_points
from streamrnn.stream.engine import Engine
from streamrnn.transports.base import Committed, Deadline, Delivery, OwnershipLost, Sink, Source, TransportError

log = structlog.get_logger(__name__)

# How long one wait for a delivery lasts before the paused partitions are polled again, so that the client's idle clock
# and a rejoin after an eviction go on while the broker keeps us waiting (FAULTS 2.1, aiokafka #1187).
KEEP_ALIVE_S = 1.0


@dataclass(frozen=True, slots=True)
class PumpSettings:
    """Limits of the pump; durations in seconds or milliseconds as named."""

    records_max: int = 2000
    poll_timeout_ms: int = 100
    delivery_timeout_s: float = 30.0
    commit_timeout_s: float = 10.0
    # Batches on their way to the broker while another is being processed.
    in_flight_max: int = 2
    # Where a partition begins that the group never committed.
    start: Literal["earliest", "latest"] = "earliest"


class Observer(Protocol):
    """What the pump tells of its work; metrics, health and the live page listen."""

    def batch(
        self, outputs: Outputs, batch: TickBatch, unread: Sequence[Rejected], sent: tuple[int, int, int], timing: Timing
    ) -> None: ...
    def progress(self, partition: int, position: int, lag: int | None) -> None: ...
    def committed(self, partition: int, offset: int, seconds: float) -> None: ...
    def assigned(self, partition: int, position: int, emit_from: int) -> None: ...
    def revoked(self, partition: int) -> None: ...


@dataclass(slots=True)
class Timing:
    """Where a batch's time went; wall seconds, and processor seconds for the whole."""

    records: int = 0
    decode_s: float = 0.0
    engine_s: float = 0.0
    publish_s: float = 0.0
    processor_s: float = 0.0


@dataclass(slots=True)
class _InFlight:
    delivery: Delivery
    offsets: dict[int, int]
    replay: dict[int, int]
    epoch: int
    sent_s: float


@dataclass(slots=True)
class _Owned:
    """One owned partition: the next offset to process and the first whose outputs are emitted."""

    position: int
    emit_from: int
    committed: int = -1


class Pump:
    """Owns the positions of the assigned partitions; is the Source's rebalance listener."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        decoder: Decoder,
        engine: Engine,
        publisher: Publisher,
        observer: Observer,
        settings: PumpSettings,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.owned: dict[int, _Owned] = {}
        self._source, self._sink, self._decoder = source, sink, decoder
        self._engine, self._publisher, self._observer = engine, publisher, observer
        self._between_batches = between_batches
        self._points = ReplayPoints(engine.spec)
        self._lock = asyncio.Lock()
        self._epoch = 0  # of ownership: commits of an older one are dropped
        self._in_flight: deque[_InFlight] = deque()
        self._to_commit: dict[int, Committed] = {}
        self._stash: list[tuple[int, Sequence[Record]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Ends `run` after the batch in hand; what is in flight is delivered and committed first."""
        self._stopping.set()

    async def run(self) -> None:
        """Pumps until `stop`. Raises TransportError when the broker fails beyond what the clients mend themselves."""
        while not self._stopping.is_set():
            await self._turn()
        await self.drain(Deadline(self.settings.delivery_timeout_s))

    async def _turn(self) -> None:
        idle = not self._in_flight
        polled, self._stash = self._stash, []
        if not polled:
            timeout_ms = self.settings.poll_timeout_ms if idle else 0
            polled = list(await self._source.poll(timeout_ms, self.settings.records_max))
        self._raise_commit_error()
        self._between_batches()
        if not polled:
            if self._in_flight:
                await self._settle(0)
            self._report_lag()
            return
        async with self._lock:
            started = time.process_time()
            timing = Timing()
            batch = await self._process(polled, timing)
            timing.processor_s = time.process_time() - started
        if batch is not None:
            self._observer.batch(*batch, timing)
        await self._settle(self.settings.in_flight_max - 1)
        self._report_lag()

    async def _process(
        self, polled: Sequence[tuple[int, Sequence[Record]]], timing: Timing
    ) -> tuple[Outputs, TickBatch, Sequence[Rejected], tuple[int, int, int]] | None:
        records: list[Record] = []
        emit_from: dict[int, int] = {}
        offsets: dict[int, int] = {}
        begin = time.perf_counter()
        for partition, chunk in polled:
            owned = self.owned.get(partition)
            if owned is None or not chunk:
                continue
            if chunk[0].offset < owned.position:  # fetched before a rewind
                chunk = [record for record in chunk if record.offset >= owned.position]
                if not chunk:
                    continue
            event_time = self._engine.front.event_time_ms(partition)
            self._points.note(partition, chunk[0].offset, event_time, len(chunk))
            records += chunk
            offsets[partition] = owned.position = chunk[-1].offset + 1
            if chunk[0].offset < owned.emit_from:
                emit_from[partition] = owned.emit_from
        if not records:
            return None
        batch, unread = self._decoder.decode(records)
        decoded = time.perf_counter()
        outputs = self._engine.process(batch, emit_from)
        stepped = time.perf_counter()
        if emit_from:
            unread = [r for r in unread if r.record.offset >= emit_from.get(r.record.partition, 0)]
        sent = await self._publisher.publish(outputs, batch, unread)
        delivery = await self._sink.seal()
        timing.records = len(records)
        timing.decode_s, timing.engine_s = decoded - begin, stepped - decoded
        timing.publish_s = time.perf_counter() - stepped
        replay = {partition: self._replay_from(partition, offset) for partition, offset in offsets.items()}
        self._in_flight.append(_InFlight(delivery, offsets, replay, self._epoch, time.monotonic()))
        return outputs, batch, unread, sent

    def _replay_from(self, partition: int, offset: int) -> int:
        series = len(self._engine.table.series(partition))
        return self._points.replay_from(partition, self._engine.front.event_time_ms(partition), series, offset)

    def _report_lag(self) -> None:
        lag = self._source.lag()
        for partition, owned in self.owned.items():
            self._observer.progress(partition, owned.position, lag.get(partition))

    # ── delivered, then committed ────────────────────────────────────────────────────────────────────────────────

    async def _settle(self, leave: int) -> None:
        """Awaits deliveries until only `leave` are on their way; a slow broker finds us paused, not gone."""
        while len(self._in_flight) > leave:
            head = self._in_flight[0]
            deadline = Deadline(self.settings.delivery_timeout_s - (time.monotonic() - head.sent_s))
            waiting = asyncio.ensure_future(head.delivery.wait(deadline))
            paused: list[int] = []
            try:
                while not (await asyncio.wait({waiting}, timeout=KEEP_ALIVE_S))[0]:
                    if not paused:
                        paused = list(self.owned)
                        self._source.pause(paused)
                    # A partition assigned during the wait is not paused yet: what it gives is kept, not lost.
                    self._stash += await self._source.poll(0, 1)
            finally:
                if not waiting.done():
                    waiting.cancel()
                if paused:
                    self._source.resume([p for p in paused if p in self.owned])
            await waiting
            # A rebalance during the wait may have settled or dropped it already.
            if self._in_flight and self._in_flight[0] is head:
                self._in_flight.popleft()
                self._delivered(head)

    def _delivered(self, done: _InFlight) -> None:
        if done.epoch != self._epoch:
            return
        for partition, offset in done.offsets.items():
            owned = self.owned.get(partition)
            if owned is not None and offset > owned.emit_from - 1:
                self._to_commit[partition] = committed_with(offset, done.replay[partition])
        self._commit_soon()

    def _commit_soon(self) -> None:
        if self._to_commit and (self._committing is None or self._committing.done()):
            self._committing = asyncio.ensure_future(self._commit())

    async def _commit(self) -> None:
        while self._to_commit:
            offsets, self._to_commit = self._to_commit, {}
            epoch = self._epoch
            begin = time.perf_counter()
            try:
                await self._source.commit(offsets, Deadline(self.settings.commit_timeout_s))
            except OwnershipLost as lost:
                # The new owner starts from what was committed; our state goes when `revoked` is called.
                log.warning("commit refused: the partitions belong to another member", error=str(lost))
                return
            if epoch != self._epoch:
                return
            seconds = time.perf_counter() - begin
            for partition, committed in offsets.items():
                owned = self.owned.get(partition)
                if owned is not None:
                    owned.committed = committed.offset
                    self._observer.committed(partition, committed.offset, seconds)

    def _raise_commit_error(self) -> None:
        task = self._committing
        if task is not None and task.done() and not task.cancelled():
            self._committing = None
            error = task.exception()
            if error is not None:
                raise error
            self._commit_soon()

    async def drain(self, deadline: Deadline) -> None:
        """Everything in flight is delivered and committed, or TransportError is raised at the deadline."""
        while self._in_flight:
            head = self._in_flight.popleft()
            await head.delivery.wait(deadline)
            self._delivered(head)
        if self._committing is not None:
            await asyncio.wait({self._committing}, timeout=deadline.remaining_s())
            if not self._committing.done():
                self._committing.cancel()
                raise TransportError("the last offsets could not be committed in time; they will be processed again")
            self._raise_commit_error()
            if self._committing is not None:
                await self._committing

    # ── rebalances ───────────────────────────────────────────────────────────────────────────────────────────────

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Settles the batch in hand, commits, and lets the partitions' state go."""
        async with self._lock:
            if partitions & self.owned.keys():
                try:
                    await self.drain(Deadline(self.settings.commit_timeout_s))
                except TransportError as error:
                    # Not committed means processed again by the next owner: late, never lost.
                    log.warning("partitions given up with a batch not settled", error=str(error))
            self._let_go(partitions)

    async def assigned(self, partitions: frozenset[int]) -> None:
        async with self._lock:
            await self._begin(sorted(partitions - self.owned.keys()))

    async def _begin(self, partitions: Sequence[int]) -> None:
        if not partitions:
            return
        committed = await self._source.committed(partitions)
        begin = await self._source.begin_offsets(partitions)
        end = await self._source.end_offsets(partitions)
        fresh = begin if self.settings.start == "earliest" else end
        for partition, known in committed.items():
            if known is not None and not begin[partition] <= known.offset <= end[partition]:
                log.error(
                    "the committed offset is not in the log (retention, or the topic was made anew)",
                    partition=partition, committed=known.offset, begin=begin[partition], end=end[partition],
                )  # fmt: skip
        for partition, (position, emit_from) in starting_points(committed, begin, end, fresh).items():
            self._source.seek(partition, position)
            self.owned[partition] = _Owned(position, emit_from)
            self._observer.assigned(partition, position, emit_from)
            log.info("partition assigned", partition=partition, replay_from=position, emit_from=emit_from)

    def _let_go(self, partitions: frozenset[int]) -> None:
        self._epoch += 1
        self._in_flight.clear()
        self._stash = [(partition, records) for partition, records in self._stash if partition not in partitions]
        for partition in partitions & self.owned.keys():
            del self.owned[partition]
            self._to_commit.pop(partition, None)
            self._points.forget(partition)
            series = self._engine.drop(partition)
            self._observer.revoked(partition)
            log.info("partition revoked", partition=partition, series=series)

    async def start_over(self, source: Source, sink: Sink, publisher: Publisher) -> None:
        """Goes back to what is committed with new clients: the state of all partitions is dropped."""
        self._let_go(frozenset(self.owned))
        if self._committing is not None:
            self._committing.cancel()
            self._committing = None
        self._to_commit.clear()
        self._source, self._sink, self._publisher = source, sink, publisher

    def positions(self) -> Mapping[int, tuple[int, int]]:
        """(position, first emitted offset) by owned partition."""
        return {p: (owned.position, owned.emit_from) for p, owned in self.owned.items()}
