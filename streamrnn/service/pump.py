"""The pump: poll → decode → engine → outputs appended → delivery awaited → offset committed.

One batch is processed while the one before it is on its way to the broker, so the client's core and the broker's work
at the same time. The protocol, per batch:

 1. Poll. Records of partitions we no longer own are dropped.
 2. Under the lock that rebalances take too: decode, step the engine, append all outputs, take a slice of changed states
    (`checkpoint`), seal it all into a delivery.
 3. Await the delivery before this one (every record of it acknowledged) under a deadline.
 4. Only then may its offsets be committed (at least once: beside the next batches, one at a time and `commit_interval`
    apart; exactly once: they were part of the delivery), and only then may the states that saw its records leave.

A failed delivery or a lost broker rolls everything back: clients are rebuilt, the owned partitions' state is dropped,
restored from the changelog and brought to the committed offset by a silent replay. So what was committed was delivered,
and what was delivered twice carries the same `source` both times.

Rebalances are eager: they take every partition, often to give it back. What is given up in good order stays parked in
memory, and goes on without a restore if nobody has moved it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec
import structlog

from streamrnn.codec import Decoder
from streamrnn.records import Outputs, Record, Rejected, Skipped, SkipReason, TickBatch, take
from streamrnn.service.checkpoint import SLICE_ROWS, Checkpointer, Parked, Slice
from streamrnn.service.offsets import Word, again_from, next_skip, word_of
from streamrnn.service.outbox import Outbox
from streamrnn.service.publish import Publisher
from streamrnn.service.restart import (
    ReplayPoints,
    committed_with,
    history_of,
    is_of,
    is_ours,
    skips_beside,
    starting_points,
)
from streamrnn.service.restore import DELETED, NO_CHECKPOINT, Restoration, Restorer
from streamrnn.stream.engine import Engine
from streamrnn.transports.base import (
    LONG_AGO_S,
    Committed,
    Deadline,
    Delivery,
    OwnershipLost,
    Source,
    TopicMissing,
    TransportError,
    clock_s,
)
from streamrnn.transports.changelog import Checkpoint, History, Skips, weights_at

log = structlog.get_logger(__name__)

# How long one wait for a delivery lasts before the paused partitions are polled again: the client's idle clock, and a rejoin
# after an eviction, go on only while it is polled (aiokafka #1187).
KEEP_ALIVE_S = 1.0
# How often it is looked for records while transactions are waited for.
TAKING_S = 0.005
# States written at a time when a partition is given up and nothing else is to do.
FLUSH_ROWS = 4096
# How long a partition that was given up is kept, should the next rebalance give it back.
PARKED_S = 120.0
# Records of several ticks: how many they are taken for before any was read, and the ticks that the engine is given at once,
# for each record of a batch.
MANY_AT_FIRST, TICKS_MAX_PER_RECORD = 20.0, 2
# How often the broker is asked which topic the input is.
IDENTIFIED_S = 10.0
# How long its answer is waited for: nothing else goes on meanwhile.
ANSWERED_S = 1.0
# How often it is asked where the input's partitions begin.
RETENTION_S = 10.0


@dataclass(frozen=True, slots=True)
class PumpSettings:
    """Limits of the pump; durations in seconds or milliseconds as named."""

    # A partition that has records and gives none for so long: the client is stuck, and is built anew.
    stall_s: float = 30.0

    records_max: int = 2000
    poll_timeout_ms: int = 100
    delivery_timeout_s: float = 30.0
    commit_timeout_s: float = 10.0
    # Least time between two commits, where nobody waits for them: a commit costs the broker as much as a batch.
    commit_interval_s: float = 0.1
    # Batches on their way to the broker while another is being processed.
    in_flight_max: int = 2
    # Where a partition begins that the group never committed.
    start: Literal["earliest", "latest"] = "earliest"


class Stalled(TransportError):
    """The client gives no records where there are some."""


class InputReplaced(TransportError):
    """The input is another topic than it was, of the same name."""


class Observer(Protocol):
    """What the pump tells of its work; metrics, health and the live page listen."""

    def batch(
        self, outputs: Outputs, batch: TickBatch, unread: Sequence[Rejected], sent: tuple[int, int, int], timing: Timing
    ) -> None: ...
    def skipped(self, counts: Mapping[SkipReason, int]) -> None: ...
    def progress(self, partition: int, position: int, lag: int | None) -> None: ...
    def committed(self, partition: int, offset: int, seconds: float) -> None: ...
    def waiting(self, seconds: float) -> None: ...
    def restoring(self, partition: int) -> None: ...
    def restored(
        self, partition: int, rows: int, refused: Mapping[str, int], seconds: float, why_cold: str
    ) -> None: ...
    def carried(self, partition: int, carried: int, cold: int) -> None: ...
    def offsets_set(self, direction: str, records: int) -> None: ...
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
    offsets: dict[int, Committed]
    epoch: int
    sent_s: float
    taken: list[Slice]  # states that saw this batch: they may leave when it is acknowledged
    states: list[Slice]  # states that are part of this delivery


@dataclass(slots=True)
class _Owned:
    """One owned partition: the next offset to process, the first whose outputs are emitted, the weights it is at."""

    position: int
    emit_from: int
    committed: int
    weights: str
    history: History = ()  # of the weights that the replay repeats
    live: bool = False  # something was processed whose outputs are emitted
    skips: Skips = ()  # what an operator had skipped
    moved_s: float = field(default_factory=clock_s)

    @property
    def replaying(self) -> bool:
        return self.position < self.emit_from


@dataclass(slots=True)
class _Waiting:
    """Assigned, its state not restored yet."""

    committed: Committed | None
    begin: int
    end: int


@dataclass(slots=True)
class _Parked:
    """Given up in good order: its rows are still in the table."""

    owned: _Owned
    states: Parked | None
    series: int
    since_s: float


@dataclass(slots=True)
class _Group:
    """Records that one call of the engine takes: all with the same weights."""

    weights: str
    records: list[Record] = field(default_factory=list)
    emit_from: dict[int, int] = field(default_factory=dict)


Processed = tuple[Outputs, TickBatch, Sequence[Rejected], tuple[int, int, int], Timing]


async def _nothing_new() -> None:
    """Where no models topic is followed."""


class Pump:
    """Owns the positions of the assigned partitions; is the Source's rebalance listener."""

    def __init__(
        self,
        source: Source,
        outbox: Outbox,
        decoder: Decoder,
        engine: Engine,
        publisher: Publisher,
        observer: Observer,
        settings: PumpSettings,
        restorer: Restorer,
        checkpointer: Checkpointer,
        between_batches: Callable[[], None] = lambda: None,
        load_weights: Callable[[str], bool] = lambda weights: False,
        catch_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.owned: dict[int, _Owned] = {}
        self.has_committed = False
        self._source, self._outbox, self._decoder = source, outbox, decoder
        self._engine, self._publisher, self._observer = engine, publisher, observer
        self._restorer, self._checkpointer = restorer, checkpointer
        self._between_batches, self._load_weights = between_batches, load_weights
        self._catch_up = catch_up if catch_up is not None else _nothing_new
        self._points = ReplayPoints(engine.spec)
        self._lock = asyncio.Lock()
        self._epoch = 0  # of ownership: commits of an older one are dropped
        self._waiting: dict[int, _Waiting] = {}
        self._parked: dict[int, _Parked] = {}
        self._in_flight: deque[_InFlight] = deque()
        self._ready: list[Slice] = []  # states whose outputs were acknowledged; they leave with the next delivery
        self._to_commit: dict[int, Committed] = {}
        self._stash: list[tuple[int, Sequence[Record]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._committed_s = LONG_AGO_S
        self._hurry = asyncio.Event()  # somebody waits for the commit
        self._stopping = asyncio.Event()
        self._limits: dict[int, int] = {}  # where partitions are unreadable from
        self._watched_s = self._identified_s = self._kept_s = clock_s()
        self._overtaken: set[int] = set()  # partitions whose checkpoint lies before the input's begin, as was reported
        self._input_id = ""  # which topic of the input's name this is; "": not known
        self._missing = 0  # how often in a row there was no such topic
        self._turns = 0
        self._ticks_per_record = MANY_AT_FIRST if decoder.many else 1.0

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Ends `run` after the batch in hand; what is in flight is delivered and committed first."""
        self._stopping.set()

    async def run(self) -> None:
        """Pumps until `stop`. Raises TransportError when the broker fails beyond what the clients mend themselves."""
        while not self._stopping.is_set():
            await self._turn()
        async with self._lock:
            await self._wind_up(Deadline(self.settings.delivery_timeout_s))

    async def _turn(self) -> None:
        if self._restorer.active:
            await self._restore_some()
        idle = not self._in_flight and not self._restorer.active
        polled, self._stash = self._stash, []
        if not polled:
            timeout_ms = self.settings.poll_timeout_ms if idle else 0
            polled = list(await self._source.poll(timeout_ms, self._records_wanted()))
        self._raise_commit_error()
        self._between_batches()
        if not polled:
            if not self._in_flight:
                await self._write_states()
            await self._settle(0)
            self._drop_parked(lambda parked: clock_s() - parked.since_s > PARKED_S)
            await self._look_around()
            return
        if self._decoder.many:
            polled = self._fitting(polled)
        async with self._lock:
            processed = await self._process(polled)
        for outputs, batch, unread, sent, timing in processed:
            self._observer.batch(outputs, batch, unread, sent, timing)
        await self._settle(self.settings.in_flight_max - 1)
        if self._outbox.exactly_once:
            # A producer has one transaction at a time: what is processed before the one under way has ended waits for it,
            # and then for its own. What comes meanwhile had better leave together, unless it fills a batch.
            await self._settle(0, taking=self.settings.records_max)
        await self._look_around()

    async def _look_around(self) -> None:
        self._report_lag()
        await self._look_for_stalls()
        await self._look_at_input()
        await self._look_at_retention()

    async def _look_at_input(self) -> None:
        """Whether the input is still the topic that it was: one deleted and made anew may have grown beyond where we are.

        Raises InputReplaced, and TopicMissing where it is gone and stays away.
        """
        if clock_s() - self._identified_s < IDENTIFIED_S:
            return
        self._identified_s = clock_s()
        try:
            async with asyncio.timeout(ANSWERED_S):
                found = await self._source.topic_id()
        except (TransportError, TimeoutError):
            return  # another broker than those we need may be away; it is asked again
        self._missing = self._missing + 1 if found is None else 0
        if self._missing > 1:  # brokers that have just started may not know their topics yet
            raise TopicMissing(f"the input topic {self._source.topic!r} is gone: it was deleted under this worker")
        if found and self._input_id and found != self._input_id:
            raise InputReplaced(
                f"the input topic {self._source.topic!r} was made anew: it was topic {self._input_id}, and is {found}"
            )

    async def _look_at_retention(self) -> None:
        """Whether the input still has what a restart would replay. Where that begins in the older half of what is kept, the
        next checkpoint does not wait for its budget; where retention has overtaken it, that is reported, once."""
        if clock_s() - self._kept_s < RETENTION_S or not self.owned:
            return
        self._kept_s = clock_s()
        try:
            async with asyncio.timeout(ANSWERED_S):
                begins = await self._source.begin_offsets(sorted(self.owned))
        except (TransportError, TimeoutError):
            return  # as above
        for partition, begin in begins.items():
            owned, since = self.owned.get(partition), self._checkpointer.replays_from(partition)
            if owned is None or owned.replaying or begin <= 0:
                continue
            if 2 * (owned.position - since) > owned.position - begin:
                self._checkpointer.hurry(partition)
            if since >= begin:
                self._overtaken.discard(partition)
            elif since >= 0 and partition not in self._overtaken:
                self._overtaken.add(partition)
                log.warning(
                    "the input no longer has what a restart would replay: were this worker killed now, the partition would "
                    "start without its state. Keep the input longer (retention.ms, retention.bytes), or set "
                    "checkpoint.interval_max lower",
                    partition=partition, begin=begin, replay_from=since,
                )  # fmt: skip

    async def _look_for_stalls(self) -> None:
        """Clients are known to stop reading without a word (aiokafka #983, #1037, #1154): the broker is asked.

        Raises Stalled where a partition has records to read and gives none.
        """
        now, stall_s = clock_s(), self.settings.stall_s
        if now - self._watched_s < stall_s / 3:
            return
        self._watched_s = now
        still = [
            partition
            for partition, owned in self.owned.items()
            if now - owned.moved_s > stall_s and owned.position < self._limits.get(partition, owned.position + 1)
        ]
        if not still:
            return
        behind = await self._source.behind(still)
        for partition in still:
            if partition in self.owned and not behind.get(partition):
                self.owned[partition].moved_s = now
        stalled = {p: count for p, count in behind.items() if count > 0 and p in self.owned}
        if stalled:
            told = ", ".join(f"partition {p} ({count} records)" for p, count in sorted(stalled.items()))
            raise Stalled(f"{told} of {self._source.topic} gave nothing for {stall_s:.0f} s")

    async def _process(self, polled: Sequence[tuple[int, Sequence[Record]]]) -> list[Processed]:
        serving = self._engine.model
        groups, ends, taken = self._grouped(polled, serving)
        if not ends:
            return []
        processed: list[Processed] = []
        ticks = 0
        for group in groups:
            begin, started = time.perf_counter(), time.process_time()
            if group.weights != self._engine.model:
                self._engine.use(group.weights)
            batch, unread, skipped = self._decoder.read(group.records)
            decode_s = time.perf_counter() - begin
            if group.emit_from:
                unread = [r for r in unread if r.record.offset >= group.emit_from.get(r.record.partition, 0)]
            if skipped:
                self._count_skipped(skipped, group.emit_from)
            records, ticks = len(group.records), ticks + len(batch)
            for piece in self._pieces(batch):
                begin = time.perf_counter()
                outputs = self._engine.process(piece, group.emit_from)
                stepped = time.perf_counter()
                sent = await self._publisher.publish(outputs, piece, unread)
                timing = Timing(records, decode_s, stepped - begin, time.perf_counter() - stepped)
                timing.processor_s = time.process_time() - started
                processed.append((outputs, piece, unread, sent, timing))
                records, decode_s, unread, started = 0, 0.0, [], time.process_time()
        if serving != self._engine.model:
            self._engine.use(serving)
        if any(outputs.evicted for outputs, *_ in processed):
            self._drop_parked(lambda parked: False)
        records = sum(len(group.records) for group in groups)
        count = max(ticks, records)
        # At once to more, and slowly to fewer.
        self._ticks_per_record = max(ticks / records, 0.9 * self._ticks_per_record)
        slices = self._take_states(ends, count)
        offsets = {
            p: committed_with(
                end, self._replay_from(p, end), self._checkpointer.history(p), self._input_id, self.owned[p].skips
            )
            for p, end in ends.items()
            if not self.owned[p].replaying
        }
        await self._send(offsets, taken, slices)
        return processed

    def _count_skipped(self, skipped: Sequence[Skipped], emit_from: Mapping[int, int]) -> None:
        """What is replayed was counted before."""
        counts: dict[SkipReason, int] = {}
        for each in skipped:
            if each.record.offset >= emit_from.get(each.record.partition, 0):
                counts[each.reason] = counts.get(each.reason, 0) + each.elements
        if counts:
            self._observer.skipped(counts)

    def _pieces(self, batch: TickBatch) -> Sequence[TickBatch]:
        """A batch as the engine is given it: records of many ticks make more of them than a batch has. The offset moves,
        and states leave, when all of them are through."""
        most = TICKS_MAX_PER_RECORD * self.settings.records_max
        if len(batch) <= most:
            return [batch]
        return [take(batch, slice(at, at + most)) for at in range(0, len(batch), most)]

    def _records_wanted(self) -> int:
        """Records that make about one batch of ticks, by what records had lately."""
        return max(1, int(self.settings.records_max / max(1.0, self._ticks_per_record)))

    def _fitting(self, polled: list[tuple[int, Sequence[Record]]]) -> list[tuple[int, Sequence[Record]]]:
        """As many of these records as make about one batch of ticks; the rest waits in the stash, so that no turn takes as
        long as hundreds of batches."""
        most = self._records_wanted()
        if sum(len(records) for _, records in polled) <= most:
            return polled
        now: list[tuple[int, Sequence[Record]]] = []
        for partition, records in polled:
            if most > 0:
                now.append((partition, records[:most]))
            if len(records) > most:
                self._stash.append((partition, records[max(0, most) :]))
            most -= min(len(records), most)
        return now

    def _grouped(
        self, polled: Sequence[tuple[int, Sequence[Record]]], serving: str
    ) -> tuple[list[_Group], dict[int, int], list[Slice]]:
        """(what the engine is given, in order; where each partition then is; swaps of weights to be recorded)."""
        replays: list[_Group] = []
        live = _Group(serving)
        ends: dict[int, int] = {}
        swaps: list[Slice] = []
        for partition, chunk in polled:
            owned = self.owned.get(partition)
            if owned is None or not chunk:
                continue
            if chunk[0].offset < owned.position:  # fetched before a rewind
                chunk = [record for record in chunk if record.offset >= owned.position]
                if not chunk:
                    continue
            skip = next_skip(owned.skips, owned.position) if owned.skips else None
            if skip is not None and chunk[-1].offset >= skip[0]:
                chunk = [record for record in chunk if record.offset < skip[0]]
                self._source.seek(partition, skip[1])
                if not chunk:
                    owned.position, owned.moved_s = skip[1], clock_s()
                    continue
            else:
                skip = None
            log_time_ms = self._engine.front.log_time_ms(partition)
            self._points.note(partition, chunk[0].offset, log_time_ms, len(chunk))
            at = 0
            while at < len(chunk) and chunk[at].offset < owned.emit_from:
                weights = self._weights_at(owned, chunk[at].offset)
                group = _Group(weights, emit_from={partition: owned.emit_from})
                while at < len(chunk) and chunk[at].offset < owned.emit_from:
                    if self._weights_at(owned, chunk[at].offset) != weights:
                        break
                    group.records.append(chunk[at])
                    at += 1
                owned.weights = weights
                replays.append(group)
            if at < len(chunk):
                if owned.weights != serving or not owned.live:
                    swap = self._checkpointer.swapped(partition, chunk[at].offset, serving)
                    if swap is not None:
                        swaps.append(swap)
                    owned.weights, owned.live = serving, True
                live.records += chunk[at:] if at else chunk
            ends[partition] = owned.position = chunk[-1].offset + 1 if skip is None else skip[1]
            owned.moved_s = clock_s()
        return ([*replays, live] if live.records else replays), ends, swaps

    def _weights_at(self, owned: _Owned, offset: int) -> str:
        """The weights to replay with; those in use where the recorded ones are gone from the models topic."""
        if not owned.history:
            return owned.weights
        weights = weights_at(owned.history, offset)
        if self._engine.has(weights):
            return weights
        serving = self._engine.model
        if self._load_weights(weights):
            self._engine.use(serving)
            return weights
        log.warning(
            "weights of the time are gone, or of another kind: the replay uses those in use now",
            weights=weights, instead=serving,
        )  # fmt: skip
        # Where others came later, which may still be there, those are used from then on.
        owned.history = tuple((since, serving if which == weights else which) for since, which in owned.history)
        return serving

    def _take_states(self, ends: Mapping[int, int], count: int) -> list[Slice]:
        """Changed states of the partitions in hand: about as many rows as the batch has records, over all of them, and no
        more bytes than rows of usual size have."""
        left = max(count, SLICE_ROWS)
        slices: list[Slice] = []
        # Whose turn it is moves on, or the first would keep the others waiting.
        turn = self._turns % len(ends)
        self._turns += 1
        for partition in [*ends][turn:] + [*ends][:turn]:
            if left > 0:
                if self.owned[partition].replaying:
                    piece = self._checkpointer.take_gone(partition, left)
                else:
                    piece = self._checkpointer.take(partition, ends[partition], left)
                if piece is not None:
                    left -= piece.weight()
                    slices.append(piece)
        return slices

    async def _send(self, offsets: Mapping[int, Committed], first: Iterable[Slice], taken: list[Slice]) -> None:
        """Appends the states that may leave, seals, and puts the delivery in flight."""
        checkpointer = self._checkpointer
        # Swaps last: what waited may hold a checkpoint record that does not know of them.
        leaving, self._ready = [*self._ready, *first], []
        if self._outbox.exactly_once:
            # Outputs, states, checkpoint and offset are one transaction: nothing has to wait for anything.
            leaving += taken
            for piece in taken:
                checkpointer.arrived(piece)
            taken = []
            reached = {p: owned.position for p, owned in self.owned.items() if not owned.replaying}
        else:
            reached = {p: owned.committed for p, owned in self.owned.items()}
        now_ms = self._publisher.now_ms()  # a record's own time might be one that the broker does not take
        for piece in leaving:
            await checkpointer.append(piece, self._outbox.sink(piece.partition), now_ms)
        for partition, offset in reached.items():
            done = checkpointer.complete(partition, offset)
            if done is not None:
                leaving.append(done)
                await checkpointer.append(done, self._outbox.sink(partition), now_ms)
        delivery = await self._outbox.seal(offsets, self._publisher.sealed())
        self._in_flight.append(_InFlight(delivery, dict(offsets), self._epoch, clock_s(), taken, leaving))

    async def _write_states(self) -> None:
        """Nothing to read and nothing on its way: states go on being written all the same."""
        async with self._lock:
            if self._in_flight:
                return
            for partition, owned in self.owned.items():
                if owned.position == owned.committed and not owned.replaying:
                    piece = self._checkpointer.take(partition, owned.position, FLUSH_ROWS)
                    if piece is not None:
                        self._ready.append(piece)
            waiting = any(self._checkpointer.completes(p, owned.committed) for p, owned in self.owned.items())
            if self._ready or waiting:
                await self._send({}, [], [])

    def _replay_from(self, partition: int, offset: int) -> int:
        series = len(self._engine.table.series(partition))
        return self._points.replay_from(partition, self._engine.front.log_time_ms(partition), series, offset)

    def _report_lag(self) -> None:
        lag = self._source.lag()
        for partition, owned in self.owned.items():
            self._observer.progress(partition, owned.position, lag.get(partition))

    # ── delivered, then committed ────────────────────────────────────────────────────────────────────────────────

    async def _settle(self, leave: int, taking: int = 0) -> None:
        """Awaits deliveries until only `leave` are on their way; a slow broker finds us paused, not gone.

        `taking`: up to so many records are taken meanwhile, and when they are there the wait is over.
        """
        while len(self._in_flight) > leave and not 0 < taking <= self._stashed():
            head = self._in_flight[0]
            deadline = Deadline(self.settings.delivery_timeout_s - (clock_s() - head.sent_s))
            waiting = asyncio.ensure_future(head.delivery.wait(deadline))
            held: list[int] = []
            held_s = head.sent_s
            try:
                while not (await asyncio.wait({waiting}, timeout=TAKING_S if taking else KEEP_ALIVE_S))[0]:
                    room = taking - self._stashed()
                    if taking and room <= 0:
                        return
                    if not held:
                        held, held_s = list(self.owned), clock_s()
                        if not taking:
                            self._source.pause(held)
                    self._observer.waiting(clock_s() - head.sent_s)
                    # A partition assigned during the wait is not paused yet: what it gives is kept, not lost.
                    # Not `+= await`: that would bring back what a rebalance during the wait has taken out.
                    polled = await self._source.poll(0, room if taking else 1)
                    self._stash += polled
            finally:
                if not waiting.done():
                    waiting.cancel()
                if held:
                    still, waited_s = [p for p in held if p in self.owned], clock_s() - held_s
                    if not taking:
                        self._source.resume(still)
                    if not taking or waited_s > KEEP_ALIVE_S:
                        for partition in still:  # that they did not move was our own wish
                            self.owned[partition].moved_s += waited_s
            await waiting
            self._delivered(head)

    def _stashed(self) -> int:
        return sum(len(records) for _, records in self._stash)

    def _delivered(self, done: _InFlight) -> None:
        """The oldest in flight was acknowledged; a rebalance during the wait may have settled or dropped it already."""
        if not self._in_flight or self._in_flight[0] is not done:
            return
        self._in_flight.popleft()
        if done.epoch != self._epoch:
            return
        self._ready += done.taken
        self._checkpointer.written(done.delivery.written(self._checkpointer.topic))
        for piece in done.states:
            self._checkpointer.arrived(piece)
        for partition, committed in done.offsets.items():
            owned = self.owned.get(partition)
            if owned is None or committed.offset <= owned.committed:
                continue
            if self._outbox.exactly_once:
                self._is_committed(partition, committed.offset, clock_s() - done.sent_s)
            else:
                self._to_commit[partition] = committed
        self._commit_soon()

    def _commit_soon(self) -> None:
        task = self._committing
        if task is not None and (not task.done() or (not task.cancelled() and task.exception() is not None)):
            # Nothing behind a failed commit: it may still arrive, and would put the group back.
            return
        if self._to_commit:
            self._committing = asyncio.ensure_future(self._commit())

    async def _commit(self) -> None:
        while self._to_commit:
            await self._commit_is_due()
            offsets, self._to_commit = self._to_commit, {}
            if not offsets:  # the partitions were given up meanwhile
                return
            epoch, begin = self._epoch, clock_s()
            self._committed_s = begin
            try:
                await self._source.commit(offsets, Deadline(self.settings.commit_timeout_s))
            except OwnershipLost as lost:
                # The new owner starts from what was committed; our state goes when `revoked` is called.
                log.warning("commit refused: the partitions belong to another member", error=str(lost))
                return
            if epoch != self._epoch:
                return
            seconds = clock_s() - begin
            for partition, committed in offsets.items():
                if partition in self.owned:
                    self._is_committed(partition, committed.offset, seconds)

    def _is_committed(self, partition: int, offset: int, seconds: float) -> None:
        self.owned[partition].committed = offset
        self.has_committed = True
        honoured = self._checkpointer.honoured(partition, offset)
        if honoured is not None:
            self._ready.append(honoured)
        self._observer.committed(partition, offset, seconds)

    async def _commit_is_due(self) -> None:
        """Waits its turn, or until somebody waits for the commit."""
        wait_s = self._committed_s + self.settings.commit_interval_s - clock_s()
        if wait_s > 0 and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()

    def _raise_commit_error(self) -> None:
        task = self._committing
        if task is not None and task.done() and not task.cancelled():
            self._committing = None
            error = task.exception()
            if error is not None:
                raise error
            self._commit_soon()

    async def _drain(self, deadline: Deadline) -> None:
        """Everything in flight is delivered and committed, or TransportError is raised at the deadline.

        What has failed stays in flight: whoever drains once more, as a client does that leaves its group behind a failed
        `run`, has to fail, too, or would go on to a checkpoint of states that were never written.
        """
        self._hurry.set()
        try:
            await self._drained(deadline)
        finally:
            self._hurry.clear()

    async def _drained(self, deadline: Deadline) -> None:
        while self._in_flight:
            head = self._in_flight[0]
            await head.delivery.wait(deadline)
            self._delivered(head)
        while (task := self._committing) is not None:
            await asyncio.wait({task}, timeout=deadline.remaining_s())
            if not task.done():
                task.cancel()
                raise TransportError("the last offsets could not be committed in time; they will be processed again")
            if self._committing is task:
                self._raise_commit_error()
                if self._committing is task:  # it was cancelled
                    self._committing = None
            elif not task.cancelled() and (error := task.exception()) is not None:
                raise error  # the turn under way has seen it first: it fails, and so must who waits here

    async def _wind_up(self, deadline: Deadline) -> None:
        """Drains, then writes all changed states and a checkpoint at the committed offset, as far as time permits.

        To be called under the lock. What is not written in time costs the next owner a longer replay, nothing else.
        """
        await self._drain(deadline)
        checkpointer = self._checkpointer
        settled = {p: o.position for p, o in self.owned.items() if o.position == o.committed and not o.replaying}
        strange = {p: checkpointer.strange_writes(p) for p in settled}
        while deadline.remaining_s() > 0.5:
            # Where somebody else has begun to write, he is the owner: answering each other would have no end.
            settled = {p: at for p, at in settled.items() if checkpointer.strange_writes(p) == strange[p]}
            for partition, position in settled.items():
                if not checkpointer.completes(partition, position):
                    piece = checkpointer.take(partition, position, FLUSH_ROWS, force=True)
                    if piece is not None:
                        self._ready.append(piece)
            if not self._ready and not any(checkpointer.completes(p, at) for p, at in settled.items()):
                return
            await self._send({}, [], [])
            await self._drain(deadline)

    # ── rebalances ───────────────────────────────────────────────────────────────────────────────────────────────

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Settles the batch in hand, commits, writes the states, and parks or lets go the partitions."""
        async with self._lock:
            settled = True
            if partitions & self.owned.keys():
                try:
                    await self._wind_up(Deadline(self.settings.commit_timeout_s))
                except TransportError as error:
                    # Not committed means processed again by the next owner: late, never lost.
                    settled = False
                    log.warning("partitions given up with a batch not settled", error=str(error))
            self._let_go(partitions, park=settled)
            await self._outbox.close(sorted(partitions))

    async def assigned(self, partitions: frozenset[int]) -> None:
        async with self._lock:
            await self._begin(sorted(partitions - self.owned.keys() - self._waiting.keys()))

    async def _identify(self) -> None:
        """Which topic of its name the input is; what was parked of an earlier one is worth nothing."""
        found = await self._source.topic_id() or ""
        if found and self._input_id and found != self._input_id:
            self._drop_parked(lambda parked: True)
        self._input_id = found or self._input_id

    async def _begin(self, partitions: Sequence[int]) -> None:
        if not partitions:
            return
        await self._outbox.open(partitions)
        await self._publisher.make_room(partitions, self._outbox.sink(partitions[0]))
        await self._identify()
        committed = {
            partition: known if known is not None and is_of(known, self._input_id) else None
            for partition, known in (await self._source.committed(partitions)).items()
        }
        begin = await self._source.begin_offsets(partitions)
        end = await self._source.end_offsets(partitions)
        for partition in partitions:
            known, low, high = committed[partition], begin[partition], end[partition]
            if known is not None and not low <= known.offset <= high:
                log.error(
                    "the committed offset is not in the log (retention, or the topic was made anew)",
                    partition=partition, committed=known.offset, begin=low, end=high,
                )  # fmt: skip
            parked = self._parked.pop(partition, None)
            if parked is not None and parked.states is not None:
                if known is not None and known.offset == parked.owned.position:
                    self._checkpointer.resume(partition, parked.states)
                    self._points.begin(partition, known)
                    # Who had it in between may have written of swaps, and committed nothing.
                    self._ready.append(self._checkpointer.start(partition))
                    self._serve(partition, parked.owned)
                    log.info("partition given back: its state was still here", partition=partition)
                    continue
                self._engine.drop(partition)
            # Nothing is read before the state is there; where reading begins is settled then.
            self._source.seek(partition, low)
            self._source.pause([partition])
            self._waiting[partition] = _Waiting(known, low, high)
            self._observer.restoring(partition)
            self._restorer.add([partition])

    async def _restore_some(self) -> None:
        await self._restorer.read()
        histories = [
            history_of(self._waiting[p].committed, checkpoint)
            for p, checkpoint in self._restorer.checkpoints().items()
            if p in self._waiting
        ]
        if not all(self._engine.has(weights) for history in histories for _, weights in history):
            # Another worker may have had them before they came here: not known yet is not gone.
            await self._catch_up()
        async with self._lock:
            for done in self._restorer.apply():
                await self._look_again(done)
                self._open(done)

    async def _look_again(self, done: Restoration) -> None:
        """Where the input ends by now, if its state has come further than it went when the partition was assigned: one
        who does not know yet that it was put out of the group has processed what came since, and written that down."""
        waiting = self._waiting[done.partition]
        if done.checkpoint is not None and done.checkpoint.offset > waiting.end:
            waiting.end = (await self._source.end_offsets([done.partition]))[done.partition]

    def _open(self, done: Restoration) -> None:
        """A partition's state is there, as far as it could be had: serve from where it fits."""
        partition = done.partition
        waiting = self._waiting.pop(partition)
        known, checkpoint, why = waiting.committed, done.checkpoint, done.why
        said = checkpoint or done.before  # of offsets
        # Transactions are fenced, and their markers leave gaps of their own.
        end = -1 if self._outbox.exactly_once else done.end
        if said is not None:
            if said.input_id and self._input_id and said.input_id != self._input_id:
                why = why or f"the input was made anew: it was topic {said.input_id}, and is {self._input_id}"
                said = None
            elif said.offset > waiting.end or (known is not None and known.offset > waiting.end):
                why = why or f"its offset {said.offset} is not in the log: the topic was made anew"
                said = None
            elif said.offset < waiting.begin:
                why = why or f"retention has deleted the records since its offset {said.offset}"
        if said is not None:
            word = word_of(known, said, done.reached)
        else:
            word = Word("", skips=skips_beside(known))
        by_tool = known is not None and not is_ours(known)
        # A new partition has no state to lose. A topic that is deleted takes the group's offsets with it, not the state.
        lost = bool(why) and why != DELETED and (known is not None or why != NO_CHECKPOINT)
        if checkpoint is not None and not why and not word.anew:
            emit_from = max(checkpoint.offset, known.offset if known is not None else checkpoint.offset)
            committed = known.offset if known is not None else -1
            position, clock = self._replay_start(done, checkpoint, waiting.begin)
            self._points.begin(partition, known)
            self._engine.front.restore_clock(partition, clock)
            history = history_of(known, checkpoint)
            owned = _Owned(position, emit_from, committed, weights_at(history, position), history, skips=word.skips)
            written = msgspec.structs.replace(checkpoint, input_id=self._input_id, skips=word.skips)
            if word.offset >= 0:
                written = msgspec.structs.replace(written, word=word.offset)
            due = bool(done.carried or done.strays)
            self._checkpointer.begin(partition, written, history, end, done.strays, done.layouts, due)
            self._report_changes(done)
            if word.offset >= 0:
                self._ready.append(self._checkpointer.start(partition))
        else:
            series = len(self._engine.table.series(partition))
            strays = [*done.strays, *self._engine.table.series(partition)]
            self._engine.drop(partition)
            fresh = waiting.begin if self.settings.start == "earliest" else waiting.end
            position, emit_from = starting_points(known, waiting.begin, waiting.end, fresh)
            if said is not None:
                # No note says from where on a replay makes it warm: a tool leaves none, and ours counts steps of before,
                # since the partition came to its owner.
                warm_up, records = self._engine.spec.warm_up, self._checkpointer.records
                since = emit_from - word.records if word.direction == "ahead" else emit_from
                again = again_from(since, waiting.begin, series + len(done.found.left), warm_up, records)
                position = again if by_tool else min(position, again)
            life = done.life + (1 if done.checkpoint is not None else 0)
            serving = self._engine.model
            committed = known.offset if known is not None else -1
            owned = _Owned(position, emit_from, committed, serving, skips=word.skips)
            if owned.committed > emit_from:
                owned.committed = -1  # of a topic that is no more
            # The log's clock begins with the life of the partition's state.
            begun = Checkpoint(
                self._source.topic, position, serving, None, life, input_id=self._input_id, clocks=((position, b""),),
                word=known.offset if known is not None and by_tool else -1, skips=word.skips,
            )  # fmt: skip
            self._checkpointer.begin(partition, begun, begun.history(), end, strays, done.layouts)
            if lost:
                self._observer.carried(partition, 0, len(strays))
            self._ready.append(self._checkpointer.start(partition))
            if lost:
                log.error(
                    "partition starts without its state; its series warm up anew", partition=partition, why=why,
                    replay_from=position, emit_from=emit_from,
                )  # fmt: skip
        if word.direction:
            self._say_word(partition, word, position)
        self._observer.restored(partition, done.found.rows, done.found.refused, done.seconds, why if lost else "")
        # What there is no place for the observer reports, with what to set.
        refused = {reason: count for reason, count in done.found.refused.items() if reason != "series_max"}
        if refused:
            log.error("states in the changelog were refused", partition=partition, refused=refused)
        self._serve(partition, owned)

    def _report_changes(self, done: Restoration) -> None:
        """Once for each partition, and not again at the next start: by then its states are of the new meaning."""
        if not done.carried and not done.cold:
            return
        what = [words for plan in done.plans if plan.change is not None for words in plan.change.words]
        if any(not plan.described for plan in done.plans):
            what.append("states of a version that kept no names of channels are taken for those of this configuration")
        log.warning(
            "the partition's states are carried over into a changed configuration", partition=done.partition,
            carried=done.carried, cold=done.cold.total(), what=list(dict.fromkeys(what)), why_cold=dict(done.cold),
        )  # fmt: skip
        self._observer.carried(done.partition, done.carried, done.cold.total())

    def _say_word(self, partition: int, word: Word, position: int) -> None:
        self._observer.offsets_set(word.direction, word.records)
        if word.direction == "back":
            log.warning(
                "offset set back by an operator: records are processed again, with the weights in use now",
                partition=partition, offset=word.offset, records=word.records, replay_from=position,
            )  # fmt: skip
        else:
            log.warning(
                "offset set ahead by an operator: records are skipped", partition=partition, offset=word.offset,
                records=word.records, skipped_from=word.offset - word.records,
            )  # fmt: skip

    def _replay_start(self, done: Restoration, checkpoint: Checkpoint, begin: int) -> tuple[int, bytes]:
        """Where the replay must begin so that states which another worker wrote over with older ones come up, too, and the
        log's clock there."""
        start = checkpoint.offset
        for series, reached in done.older.items():
            if reached < begin:  # what it takes to bring this one up is deleted
                self._engine.forget(done.partition, series)
                done.found.refuse("older")
            else:
                start = min(start, reached)
        position, clock = checkpoint.clock_at(start)
        if position < begin:
            position, clock = start, b""
        if done.older:
            log.warning(
                "a worker that had lost this partition wrote older states into the changelog: the replay begins at theirs",
                partition=done.partition, series=len(done.older), replay_from=position,
            )  # fmt: skip
        return position, clock

    def limit(self, ends: Mapping[int, int]) -> None:
        """Partitions are unreadable from these offsets on; those that no longer are go on."""
        freed, self._limits = self._limits.keys() - ends.keys(), dict(ends)
        self._source.limit(ends)
        if freed & self.owned.keys():
            self._source.resume(sorted(freed & self.owned.keys()))

    def _serve(self, partition: int, owned: _Owned) -> None:
        owned.moved_s = clock_s()
        self._source.seek(partition, owned.position)
        self._source.resume([partition])
        self.owned[partition] = owned
        self._observer.assigned(partition, owned.position, owned.emit_from)
        log.info("partition assigned", partition=partition, replay_from=owned.position, emit_from=owned.emit_from)

    def _let_go(self, partitions: frozenset[int], park: bool) -> None:
        self._epoch += 1
        self._in_flight.clear()
        self._stash = [(partition, records) for partition, records in self._stash if partition not in partitions]
        for piece in self._ready:
            if piece.partition in partitions:
                self._checkpointer.not_sent(piece)
        self._ready = [piece for piece in self._ready if piece.partition not in partitions]
        for partition in partitions & self._waiting.keys():
            del self._waiting[partition]
            self._restorer.remove(partition)
            self._engine.drop(partition)
            self._observer.revoked(partition)
        for partition in partitions & self.owned.keys():
            owned = self.owned.pop(partition)
            self._to_commit.pop(partition, None)
            self._points.forget(partition)
            states = self._checkpointer.park(partition)
            series = len(self._engine.table.series(partition))
            if park and owned.position == owned.committed and not owned.replaying:
                owned.history = ()
                self._parked[partition] = _Parked(owned, states, series, clock_s())
            else:
                self._engine.drop(partition)
            self._observer.revoked(partition)
            log.info("partition revoked", partition=partition, series=series)

    def _drop_parked(self, expired: Callable[[_Parked], bool]) -> None:
        """Lets parked partitions go that are too old, or of which the table has had to let series go."""
        for partition, parked in list(self._parked.items()):
            if expired(parked) or len(self._engine.table.series(partition)) != parked.series:
                del self._parked[partition]
                self._engine.drop(partition)

    def abandon(self) -> None:
        """The clients are broken: all partitions' state is dropped, parked ones too."""
        self._let_go(frozenset([*self.owned, *self._waiting]), park=False)
        self._drop_parked(lambda parked: True)
        if self._committing is not None:
            self._committing.cancel()
            self._committing = None
        self._to_commit.clear()

    def positions(self) -> Mapping[int, tuple[int, int]]:
        """(position, first emitted offset) by owned partition."""
        return {p: (owned.position, owned.emit_from) for p, owned in self.owned.items()}

    def buffers(self) -> Mapping[str, tuple[int, int]]:
        """What waits here, and how much of it there may be: (records or rows, bound) by name."""
        settings, table = self.settings, self._engine.table
        states = [*self._ready, *(piece for batch in self._in_flight for piece in batch.taken)]
        kept_alive = math.ceil(settings.delivery_timeout_s / KEEP_ALIVE_S)  # a record each, see `_settle`
        rows_max = (settings.in_flight_max + 1) * max(settings.records_max, FLUSH_ROWS)
        return {
            "series": (len(table), table.rows_max),
            "batches_in_flight": (len(self._in_flight), settings.in_flight_max),
            "records_taken_ahead": (self._stashed(), settings.records_max + kept_alive),
            "bytes_in_flight": self._outbox.in_flight_bytes(),
            "ticks_held_back": (self._engine.front.ticks_held, table.rows_max * self._engine.spec.pending_max),
            "states_waiting": (sum(piece.rows for piece in states), rows_max),
            "series_let_go": self._checkpointer.let_go((settings.in_flight_max + 2) * settings.records_max),
            "series_parked": (sum(parked.series for parked in self._parked.values()), table.rows_max),
        }
