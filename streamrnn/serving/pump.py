"""The pump: poll → decode → engine → outputs appended → delivery awaited → offset committed.

One batch is processed while the one before it is on its way to the broker, so the client's core and the broker's work
at the same time. The protocol, per batch:

 1. Poll. Records of partitions we no longer own are dropped.
 2. Under the lock that rebalances take too: decode, step the engine, append all outputs, take a slice of changed states
    (`checkpoint`), seal it all into a delivery (`deliveries`).
 3. Await the delivery before this one (every record of it acknowledged) under a deadline.
 4. Only then may its offsets be committed (at least once: beside the next batches, one at a time and `commit_interval`
    apart; exactly once: they were part of the delivery), and only then may the states that saw its records leave.

A failed delivery or a lost broker rolls everything back: clients are rebuilt, the owned partitions' state is dropped,
restored from the changelog and brought to the committed offset by a silent replay. So what was committed was delivered,
and what was delivered twice carries the same `source` both times.

What a partition goes through from its assignment on is `partition.TRANSITIONS`; `assignment` takes it there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import structlog

from streamrnn.monitor.reported import Timing
from streamrnn.records import Outputs, Rejected, Skipped, SkipReason, TickBatch
from streamrnn.serving.assignment import Assignment
from streamrnn.serving.checkpoint import SLICE_ROWS, Slice
from streamrnn.serving.commit_note import committed_with
from streamrnn.serving.deliveries import KEEP_ALIVE_S, Deliveries
from streamrnn.serving.intake import Intake, Polled
from streamrnn.serving.partition import Partition, State
from streamrnn.serving.parts import Parts, PumpSettings
from streamrnn.serving.replay_groups import Group, Stretch, replay_groups, stretch
from streamrnn.serving.turning import Turning
from streamrnn.serving.watch import Watch
from streamrnn.stores.changelog import weights_at
from streamrnn.transports.base import Committed, Deadline, TransportError

log = structlog.get_logger(__name__)

# States written at a time when a partition is given up and nothing else is to do.
FLUSH_ROWS = 4096

Processed = tuple[Outputs, TickBatch, Sequence[Rejected], tuple[int, int, int], Timing]


class Pump(Turning):
    """Turns the parts; is the Source's rebalance listener."""

    def __init__(self, parts: Parts, settings: PumpSettings) -> None:
        super().__init__()
        self._parts, self._settings = parts, settings
        self._numbering = parts.source.inputs.numbering
        self._partitions = parts.partitions
        self._intake = Intake(parts, settings)
        self._deliveries = Deliveries(parts, settings, self._intake)
        self._assignment = Assignment(parts, settings, self._intake, self._deliveries)
        self._watch = Watch(parts, settings, parts.checkpointer)
        self._turns = 0

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _turn(self) -> None:
        await self._assignment.restore_some(self._lock)
        polled = await self._intake.poll(wait=not self._deliveries.in_flight and not self._parts.restorer.active)
        self._deliveries.raise_commit_error()
        self._parts.weights.swap_if_due()
        if not polled:
            await self._idle()
            return
        async with self._lock:  # rebalances take it, too
            processed = await self._process(polled)
        for outputs, batch, unread, sent, timing in processed:
            self._parts.observer.batch(outputs, batch, unread, sent, timing)
        await self._deliveries.settle(self._settings.in_flight_max - 1)
        if self._parts.outbox.exactly_once:
            await self._deliveries.prefetch(self._settings.records_max)
        await self._watch.look()

    async def _idle(self) -> None:
        if not self._deliveries.in_flight:
            await self._write_states()
        await self._deliveries.settle(0)
        self._assignment.drop_expired()
        await self._watch.look()

    async def _settled(self) -> None:
        await self._wind_up(Deadline(self._settings.delivery_timeout_s))

    # ── a batch ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _process(self, polled: Polled) -> list[Processed]:
        groups, ends, swaps = self._grouped(polled)
        if not ends:
            return []
        processed: list[Processed] = []
        ticks = 0
        for group in groups:
            self._parts.weights.use(group.weights)
            done = await self._process_group(group)
            ticks += sum(len(batch) for _, batch, *_ in done)
            processed += done
        self._parts.weights.use(self._parts.weights.serving)
        if any(outputs.evicted for outputs, *_ in processed):
            self._assignment.drop_parked(lambda parked: False)
        records = sum(len(group.records) for group in groups)
        self._intake.learn(ticks, records)
        taken = self._take_states(ends, max(ticks, records))
        owned = self._partitions.owned
        offsets = {
            number: self._commit_of(owned[number], end) for number, end in ends.items() if not owned[number].replaying
        }
        await self._deliveries.send(offsets, swaps, taken)
        return processed

    def _grouped(self, polled: Polled) -> tuple[list[Group], dict[int, int], list[Slice]]:
        """(what the engine is given, in order; where each partition then is; swaps of weights to be recorded)."""
        owned, front, serving = self._partitions.owned, self._parts.engine.front, self._parts.weights.serving
        stretches: list[tuple[Stretch, int]] = []
        reached: dict[int, int] = {}  # those that only skip something, too
        for number, chunk in polled:
            partition = owned.get(number)
            if partition is None:
                continue
            part = stretch(number, chunk, reached.get(number, partition.position), partition.skips)
            if part is None:
                continue
            reached[number] = part.end
            if part.skips:
                self._parts.source.seek(number, part.end)
            if part.records:
                partition.points.note(part.records[0].offset, front.log_time_ms(number), len(part.records))
                stretches.append((part, partition.emit_from))
        groups = replay_groups(stretches, serving, lambda number, offset: self._weights_at(owned[number], offset))
        swaps: list[Slice] = []
        for part, emit_from in stretches:
            partition, live = owned[part.partition], part.live(emit_from)
            if live is not None and (partition.weights != serving or not partition.live):
                swap = self._parts.checkpointer.swapped(partition, live, serving)
                if swap is not None:
                    swaps.append(swap)
                partition.weights, partition.live = serving, True
        for number, end in reached.items():
            owned[number].advance(end)
        return groups, {part.partition: part.end for part, _ in stretches}, swaps

    def _weights_at(self, partition: Partition, offset: int) -> str:
        """The weights to replay with; those in use where the recorded ones are no longer in the models topic."""
        if partition.history:
            wanted, served = weights_at(partition.history, offset), self._parts.weights
            if not served.recall(wanted):
                log.warning(
                    "weights of the time are not there any more, or of another kind: the replay uses those in use now",
                    weights=wanted, instead=served.serving,
                )  # fmt: skip
                # Where others came later, which may still be there, those are used from then on.
                partition.history = tuple(
                    (since, served.serving if weights == wanted else weights) for since, weights in partition.history
                )
                wanted = served.serving
            partition.weights = wanted
        return partition.weights

    async def _process_group(self, group: Group) -> list[Processed]:
        """Decodes, steps the engine and appends the outputs."""
        parts = self._parts
        begin, started = time.perf_counter(), time.process_time()
        batch, unread, skipped = parts.decoder.read(group.records)
        decode_s = time.perf_counter() - begin
        if group.emit_from:
            unread = [r for r in unread if r.record.offset >= group.emit_from.get(self._numbering.of(r.record), 0)]
        if skipped:
            self._count_skipped(skipped, group.emit_from)
        records = len(group.records)
        processed: list[Processed] = []
        for piece in self._intake.pieces(batch):
            begin = time.perf_counter()
            outputs = parts.engine.process(piece, group.emit_from)
            stepped = time.perf_counter()
            sent = await parts.publisher.publish(outputs, piece, unread)
            timing = Timing(records, decode_s, stepped - begin, time.perf_counter() - stepped)
            timing.processor_s = time.process_time() - started
            processed.append((outputs, piece, unread, sent, timing))
            records, decode_s, unread, started = 0, 0.0, [], time.process_time()
        return processed

    def _count_skipped(self, skipped: Sequence[Skipped], emit_from: Mapping[int, int]) -> None:
        """What is replayed was counted before."""
        counts: dict[SkipReason, int] = {}
        for each in skipped:
            if each.record.offset >= emit_from.get(self._numbering.of(each.record), 0):
                counts[each.reason] = counts.get(each.reason, 0) + each.elements
        if counts:
            self._parts.observer.skipped(counts)

    def _commit_of(self, partition: Partition, offset: int) -> Committed:
        """What is committed when everything before `offset` is delivered."""
        engine, number = self._parts.engine, partition.number
        series = len(engine.table.series(number))
        replay_from = partition.points.replay_from(engine.front.log_time_ms(number), series, offset)
        history = self._parts.checkpointer.history(partition)
        return committed_with(offset, replay_from, history, self._partitions.input_id(number), partition.skips)

    # ── states ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_states(self, ends: Mapping[int, int], count: int) -> list[Slice]:
        """Changed states of the partitions of this batch: about as many rows as it has records, over all of them, and no
        more bytes than rows of usual size have."""
        left, checkpointer, owned = max(count, SLICE_ROWS), self._parts.checkpointer, self._partitions.owned
        slices: list[Slice] = []
        # Whose turn it is moves on, or the first would keep the others waiting.
        turn = self._turns % len(ends)
        self._turns += 1
        for number in [*ends][turn:] + [*ends][:turn]:
            if left > 0:
                if owned[number].replaying:
                    piece = checkpointer.take_deletions(owned[number], left)
                else:
                    piece = checkpointer.take(owned[number], ends[number], left)
                if piece is not None:
                    left -= piece.weight()
                    slices.append(piece)
        return slices

    async def _write_states(self) -> None:
        """Nothing to read and nothing on its way: states go on being written all the same."""
        async with self._lock:
            if self._deliveries.in_flight:
                return
            checkpointer, ready, owned = self._parts.checkpointer, self._deliveries.ready, self._partitions.owned
            for partition in owned.values():
                if partition.settled:
                    piece = checkpointer.take(partition, partition.position, FLUSH_ROWS)
                    if piece is not None:
                        ready.append(piece)
            waiting = any(checkpointer.completes(partition, partition.committed) for partition in owned.values())
            if ready or waiting:
                await self._deliveries.send({}, [], [])

    async def _wind_up(self, deadline: Deadline) -> None:
        """Drains, then writes all changed states and a checkpoint at the committed offset, as far as time permits.

        To be called under the lock. What is not written in time costs the next owner a longer replay, nothing else.
        """
        await self._deliveries.drain(deadline)
        checkpointer = self._parts.checkpointer
        settled = [(p, p.position, checkpointer.zombie_writes(p)) for p in self._partitions.owned.values() if p.settled]
        while deadline.remaining_s() > 0.5:
            # Where somebody else has begun to write, he is the owner: answering each other would have no end.
            settled = [each for each in settled if checkpointer.zombie_writes(each[0]) == each[2]]
            for partition, position, _ in settled:
                if not checkpointer.completes(partition, position):
                    piece = checkpointer.take(partition, position, FLUSH_ROWS, force=True)
                    if piece is not None:
                        self._deliveries.ready.append(piece)
            if not self._deliveries.ready and not any(checkpointer.completes(p, at) for p, at, _ in settled):
                return
            await self._deliveries.send({}, [], [])
            await self._deliveries.drain(deadline)

    # ── rebalances ───────────────────────────────────────────────────────────────────────────────────────────────

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Settles the current batch, commits, writes the states, and parks or releases the partitions."""
        async with self._lock:
            settled = True
            if partitions & self._partitions.owned.keys():
                try:
                    await self._wind_up(Deadline(self._settings.commit_timeout_s))
                except TransportError as error:
                    # Not committed means processed again by the next owner: late, never lost.
                    settled = False
                    log.warning("partitions given up with a batch not settled", error=str(error))
            self._assignment.revoked(partitions, park=settled)
            await self._parts.outbox.close(sorted(partitions))

    async def assigned(self, partitions: frozenset[int]) -> None:
        async with self._lock:
            await self._assignment.assigned(partitions)

    def limit(self, ends: Mapping[int, int]) -> None:
        """Partitions are unreadable from these offsets on; those that no longer are go on."""
        self._assignment.limit(ends)

    def abandon(self) -> None:
        """The clients are broken: all partitions' state is dropped, parked ones too."""
        self._assignment.abandon()

    # ── what others ask ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def owned(self) -> Mapping[int, Partition]:
        """Those that are replayed or served, by number."""
        return self._partitions.owned

    @property
    def has_committed(self) -> bool:
        return self._deliveries.has_committed

    def positions(self) -> Mapping[int, tuple[int, int]]:
        """(position, first emitted offset) by owned partition."""
        return {number: (partition.position, partition.emit_from) for number, partition in self.owned.items()}

    def buffers(self) -> Mapping[str, tuple[int, int]]:
        """What waits here, and how much of it there may be: (records or rows, bound) by name."""
        settings, engine, table = self._settings, self._parts.engine, self._parts.engine.table
        kept_alive = math.ceil(settings.delivery_timeout_s / KEEP_ALIVE_S)  # a record each, see `Deliveries.settle`
        rows_max = (settings.in_flight_max + 1) * max(settings.records_max, FLUSH_ROWS)
        evicted = self._parts.checkpointer.deletions_waiting((settings.in_flight_max + 2) * settings.records_max)
        return {
            "series": (len(table), table.rows_max),
            "batches_in_flight": (self._deliveries.in_flight, settings.in_flight_max),
            "records_taken_ahead": (self._intake.count, settings.records_max + kept_alive),
            "bytes_in_flight": self._parts.outbox.in_flight_bytes(),
            "ticks_held_back": (engine.front.ticks_held, table.rows_max * engine.spec.pending_max),
            "states_waiting": (self._deliveries.states_waiting(), rows_max),
            "series_evicted": evicted,
            "series_parked": (sum(p.series for p in self._partitions.that_are(State.PARKED)), table.rows_max),
        }
