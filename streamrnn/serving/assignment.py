"""Which partitions are this worker's, and what every part does when one of them changes its state.

Every transition of `partition.TRANSITIONS` but the one to serving is made here, under the pump's lock, which rebalances take,
too. Rebalances are eager: they take every partition, often to give it back. What is given up in good order stays parked in
memory, and goes on without a restore if nobody has moved it since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from streamrnn.serving.commit_note import ReplayPoints, history_of, is_of
from streamrnn.serving.deliveries import Deliveries
from streamrnn.serving.intake import Intake
from streamrnn.serving.offsets import Word
from streamrnn.serving.partition import Partition, State
from streamrnn.serving.parts import Parts, PumpSettings
from streamrnn.serving.recovery import Cold, Found, Input, Replay, Warm, decide
from streamrnn.serving.restore import Restoration
from streamrnn.stores.changelog import Checkpoint, History, weights_at
from streamrnn.transports.base import Committed, clock_s

log = structlog.get_logger(__name__)

# How long a partition that was given up is kept, should the next rebalance give it back.
PARKED_S = 120.0


class Assignment:
    """Owns the Partitions. All calls but `restore_some` come under the pump's lock."""

    def __init__(self, parts: Parts, settings: PumpSettings, intake: Intake, deliveries: Deliveries) -> None:
        self._parts, self._settings, self._partitions = parts, settings, parts.partitions
        self._intake, self._deliveries = intake, deliveries
        self._numbering = self._partitions.numbering
        self._label = self._numbering.label

    # ── assigned ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def assigned(self, numbers: frozenset[int]) -> None:
        """Those that are not here yet are restored, or go on where they were parked."""
        here = (State.RESTORING, State.REPLAYING, State.SERVING)
        new = sorted(numbers - {partition.number for partition in self._partitions if partition.state in here})
        if not new:
            return
        parts = self._parts
        await parts.outbox.open(new)
        await parts.publisher.make_room(new, parts.outbox.sink(new[0]))
        await self._identify()
        input_id = self._partitions.input_id
        committed = {
            number: known if known is not None and is_of(known, input_id(number)) else None
            for number, known in (await parts.source.committed(new)).items()
        }
        begin = await parts.source.begin_offsets(new)
        end = await parts.source.end_offsets(new)
        for number in new:
            self._begin(number, committed[number], begin[number], end[number])

    async def _identify(self) -> None:
        """Which topics of their names the input's are; what was parked of earlier ones is worth nothing."""
        known, place = self._partitions.input_ids, self._numbering.place
        found = {topic: said for topic, said in (await self._parts.source.topic_ids()).items() if said}
        anew = {topic for topic, said in found.items() if known.get(topic, said) != said}
        if anew:
            self.drop_parked(lambda parked: place(parked.number)[0] in anew)
        known.update(found)

    def _begin(self, number: int, known: Committed | None, begin: int, end: int) -> None:
        parts = self._parts
        if known is not None and not begin <= known.offset <= end:
            log.error(
                "the committed offset is not in the log (retention, or the topic was made anew)",
                partition=self._label(number), committed=known.offset, begin=begin, end=end,
            )  # fmt: skip
        partition = self._partitions.get(number)
        if partition is None:
            partition = Partition(number, ReplayPoints(parts.engine.spec))
        elif known is not None and known.offset == partition.position:
            self._return(partition, known)
            return
        else:
            parts.engine.drop(number)
        partition.assigned(known, begin, end)
        self._partitions.put(partition)
        # Nothing is read before the state is there; where reading begins is settled then.
        parts.source.seek(number, begin)
        parts.source.pause([number])
        parts.observer.restoring(number)
        parts.restorer.changed()

    def _return(self, partition: Partition, known: Committed) -> None:
        partition.returned(known)
        # Who had it in between may have written of swaps, and committed nothing.
        self._deliveries.ready.append(self._parts.checkpointer.start(partition))
        self._serve(partition)
        log.info("partition given back: its state was still here", partition=self._label(partition.number))

    def _serve(self, partition: Partition) -> None:
        source = self._parts.source
        self._partitions.put(partition)
        source.seek(partition.number, partition.position)
        source.resume([partition.number])
        self._parts.observer.assigned(partition.number, partition.position, partition.emit_from)
        log.info(
            "partition assigned", partition=self._label(partition.number), replay_from=partition.position,
            emit_from=partition.emit_from,
        )  # fmt: skip

    # ── restored ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def restore_some(self, lock: asyncio.Lock) -> None:
        """One poll of the changelog, where partitions are restored; those that are read to their ends go on."""
        restorer = self._parts.restorer
        if not restorer.active:
            return
        await restorer.read()
        read = restorer.checkpoints()
        await self._look_for_weights(
            [
                history_of(partition.known, read[partition.number])
                for partition in self._partitions.that_are(State.RESTORING)
                if partition.number in read
            ]
        )
        async with lock:
            for done in restorer.apply():
                partition = self._partitions.get(done.partition)
                assert partition is not None  # noqa: S101
                await self._look_again(partition, done)
                self._recover(partition, done)

    async def _look_for_weights(self, histories: Sequence[History]) -> None:
        """Another worker may have had them before they came here: not known yet is not lost."""
        weights = self._parts.weights
        if not all(weights.has(model) for history in histories for _, model in history):
            await weights.catch_up()

    async def _look_again(self, partition: Partition, done: Restoration) -> None:
        """Where the input ends by now, if its state has come further than it went when the partition was assigned: one
        who does not know yet that it was evicted from the group has processed what came since, and written that down."""
        if done.checkpoint is not None and done.checkpoint.offset > partition.end:
            partition.end = (await self._parts.source.end_offsets([done.partition]))[done.partition]

    def _recover(self, partition: Partition, done: Restoration) -> None:
        """A partition's state is there, as far as it could be had: it goes on from where it fits."""
        parts, number = self._parts, partition.number
        found = Found(
            partition.known, done.checkpoint, done.why, done.before, done.reached, done.older,
            len(parts.engine.table.series(number)) + len(done.found.left),
        )  # fmt: skip
        from_begin = self._settings.start == "earliest" or self._numbering.place(number) in self._numbering.later
        fresh = partition.begin if from_begin else partition.end
        decision = decide(
            found,
            Input(partition.begin, partition.end, self._partitions.input_id(number), fresh),
            Replay(parts.engine.spec.warm_up, parts.checkpointer.records),
        )
        parts.decoder.carry(number, decision.decoder)
        if isinstance(decision, Warm):
            self._go_on(partition, done, decision)
        else:
            self._begin_anew(partition, done, decision)
        if decision.word.direction:
            self._report_word(number, decision.word, decision.position)
        why_cold = decision.why if isinstance(decision, Cold) and decision.lost else ""
        parts.observer.restored(number, done.found.rows, done.found.refused, done.seconds, why_cold)
        # What there is no place for the observer reports, with what to set.
        refused = {reason: count for reason, count in done.found.refused.items() if reason != "series_max"}
        if refused:
            log.error("states in the changelog were refused", partition=self._label(number), refused=refused)
        self._serve(partition)

    def _go_on(self, partition: Partition, done: Restoration, warm: Warm) -> None:
        """With the states that were found."""
        parts, number, word = self._parts, partition.number, warm.word
        for series in warm.overtaken:
            parts.engine.forget(number, series)
            done.found.refuse("older")
        if done.older:
            log.warning(
                "a worker that had lost this partition wrote older states into the changelog: the replay begins at theirs",
                partition=self._label(number), series=len(done.older), replay_from=warm.position,
            )  # fmt: skip
        written = msgspec.structs.replace(warm.checkpoint, input_id=self._partitions.input_id(number), skips=word.skips)
        if word.offset >= 0:
            written = msgspec.structs.replace(written, word=word.offset)
        due = bool(done.carried or done.orphans)
        changelog = parts.checkpointer.begun(written, warm.history, self._end_of(done), done.orphans, done.layouts, due)
        weights = weights_at(warm.history, warm.position)
        partition.restored(warm.position, warm.emit_from, warm.committed, weights, changelog)
        partition.history, partition.skips = warm.history, word.skips
        partition.points.begin(partition.known)
        parts.engine.front.restore_clock(number, warm.clock)
        self._report_changes(done)
        if word.offset >= 0:
            self._deliveries.ready.append(parts.checkpointer.start(partition))

    def _begin_anew(self, partition: Partition, done: Restoration, cold: Cold) -> None:
        """Without states: what is left of older ones is deleted from the changelog."""
        parts, number, serving = self._parts, partition.number, self._parts.weights.serving
        orphans = [*done.orphans, *parts.engine.table.series(number)]
        parts.engine.drop(number)
        life = done.life + (1 if done.checkpoint is not None else 0)
        # The log's clock begins with the life of the partition's state.
        topic, partition_of_it = self._numbering.place(number)
        begun = Checkpoint(
            topic, cold.position, serving, None, life, input_id=self._partitions.input_id(number),
            clocks=((cold.position, b""),), word=cold.honoured, skips=cold.word.skips, decoder=cold.decoder,
            partition=partition_of_it if partition_of_it != number else -1,
        )  # fmt: skip
        changelog = parts.checkpointer.begun(begun, begun.history(), self._end_of(done), orphans, done.layouts)
        partition.restored(cold.position, cold.emit_from, cold.committed, serving, changelog)
        partition.skips = cold.word.skips
        if cold.lost:
            parts.observer.carried(number, 0, len(orphans))
        self._deliveries.ready.append(parts.checkpointer.start(partition))
        if cold.lost:
            log.error(
                "partition starts without its state; its series warm up anew", partition=self._label(number), why=cold.why,
                replay_from=cold.position, emit_from=cold.emit_from,
            )  # fmt: skip

    def _end_of(self, done: Restoration) -> int:
        """Of the changelog: a gap after it says that somebody else has written. Transactions are fenced, and their markers
        leave gaps of their own."""
        return -1 if self._parts.outbox.exactly_once else done.end

    def _report_changes(self, done: Restoration) -> None:
        """Once for each partition, and not again at the next start: by then its states are of the new meaning."""
        if not done.carried and not done.cold:
            return
        what = [words for plan in done.plans if plan.change is not None for words in plan.change.words]
        if any(not plan.described for plan in done.plans):
            what.append("states of a version that kept no names of channels are taken for those of this configuration")
        log.warning(
            "the partition's states are carried over into a changed configuration", partition=self._label(done.partition),
            carried=done.carried, cold=done.cold.total(), what=list(dict.fromkeys(what)), why_cold=dict(done.cold),
        )  # fmt: skip
        self._parts.observer.carried(done.partition, done.carried, done.cold.total())

    def _report_word(self, number: int, word: Word, position: int) -> None:
        self._parts.observer.offsets_set(word.direction, word.records)
        if word.direction == "back":
            log.warning(
                "offset set back by an operator: records are processed again, with the weights in use now",
                partition=self._label(number), offset=word.offset, records=word.records, replay_from=position,
            )  # fmt: skip
        else:
            log.warning(
                "offset set ahead by an operator: records are skipped", partition=self._label(number), offset=word.offset,
                records=word.records, skipped_from=word.offset - word.records,
            )  # fmt: skip

    # ── given up ─────────────────────────────────────────────────────────────────────────────────────────────────

    def revoked(self, numbers: frozenset[int], park: bool) -> None:
        """`park`: what is settled may stay in memory."""
        parts = self._parts
        self._intake.drop(numbers)
        self._deliveries.drop(numbers)
        leaving = sorted((p for p in self._partitions if p.number in numbers), key=lambda p: p.number)
        for partition in leaving:
            if partition.state is State.RESTORING:
                self._release(partition)
                parts.restorer.changed()
                parts.observer.revoked(partition.number)
        for partition in leaving:
            if partition.owned:
                number = partition.number
                series = len(parts.engine.table.series(number))
                parts.checkpointer.given_up(partition)
                if park and partition.settled:
                    partition.parked(series)
                    self._partitions.put(partition)
                else:
                    self._release(partition)
                parts.observer.revoked(number)
                log.info("partition revoked", partition=self._label(number), series=series)

    def drop_expired(self) -> None:
        """Releases those that are parked for too long."""
        self.drop_parked(lambda parked: clock_s() - parked.parked_s > PARKED_S)

    def drop_parked(self, expired: Callable[[Partition], bool]) -> None:
        """Releases parked partitions that are, or of which the table has had to evict series."""
        for parked in self._partitions.that_are(State.PARKED):
            if expired(parked) or len(self._parts.engine.table.series(parked.number)) != parked.series:
                self._release(parked)

    def _release(self, partition: Partition) -> None:
        self._parts.engine.drop(partition.number)
        partition.released()
        self._partitions.forget(partition)

    def abandon(self) -> None:
        """The clients are broken: all partitions' state is dropped, parked ones too."""
        self.revoked(frozenset(partition.number for partition in self._partitions), park=False)
        self.drop_parked(lambda parked: True)
        self._deliveries.abandon()

    # ── unreadable ───────────────────────────────────────────────────────────────────────────────────────────────

    def limit(self, ends: Mapping[int, int]) -> None:
        """Partitions are unreadable from these offsets on; those that no longer are go on."""
        limits = self._partitions.limits
        mended = sorted((limits.keys() - ends.keys()) & self._partitions.owned.keys())
        self._partitions.limits = dict(ends)
        self._parts.source.limit(ends)
        if mended:
            self._intake.resume(mended)
