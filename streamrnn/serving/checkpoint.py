"""When the changed states are written to the changelog, in slices that no batch notices.

A checkpoint of a partition begins at an input offset B: the rows that have changed by then are written, a slice behind
every batch, each as it is when its slice is taken and marked with the offset it has come to. When the last of them is
acknowledged, a checkpoint record says "replay from B"; rows that were taken later than B are skipped by the replay up
to their own offset (a fuzzy checkpoint, as in ARIES: Mohan et al., 1992). So the work per batch is bounded however many
series there are, and in bytes however large a state is.

How often: as `interval_s` and `records` say, as long as that keeps to a budget of bytes a second (`serving.budget`);
beyond it checkpoints come more seldom, `interval_max_s` apart at most. Each is whole all the same: one offset a partition says
where a replay begins, and a longer interval means a longer replay of the input's log, nothing else. Four cases do not wait: a
partition that is given up is written whole; one into which somebody else has written is written anew; and one whose replay
would need more weights than are kept, or records that the input is about to delete (`hurry`), has its checkpoint at once.

Order, at least once: a row may leave only after the outputs of all records that it has seen were acknowledged, or a
crash would skip those records without their outputs. So a slice is copied behind its batch and appended after that
batch's delivery, and the checkpoint record only when its offset is committed. Exactly once: rows, checkpoint, outputs
and offset are one transaction, and there is nothing to wait for.

At least once fences nobody: a worker that was stopped and wakes up after its partitions went to another may still write
an old state over a newer one, and compaction would keep it. Its writes show as a gap between the offsets of the owner's; then
every state of the partition is written anew before the next checkpoint is. A checkpoint says at which offset of the changelog
it was to stand (`at`): older states that a reader finds from there on are a zombie writer's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from streamrnn.serving.budget import WriteBudget
from streamrnn.serving.changelog_state import ChangelogState, Cycle
from streamrnn.serving.commit_note import HISTORY_MAX, still_needed
from streamrnn.serving.partition import Partition, Partitions
from streamrnn.stores.changelog import (
    CHECKPOINT,
    LAYOUT,
    SERIES,
    Checkpoint,
    History,
    encode_checkpoint,
    layout_key,
    meaning_key,
    series_key,
    weights_at,
    with_clock,
)
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.base import LONG_AGO_S, Sink, clock_s

log = structlog.get_logger(__name__)

# Rows that a batch permits at least; one of more records permits as many as it has records.
SLICE_ROWS = 256
# Bytes a row that a batch permits on top of that: rows that are larger leave in more slices, and no batch waits longer.
SLICE_ROW_BYTES = 6400
# Bytes that a slice has at most, if it has more than one row.
SLICE_BYTES_MAX = 32 << 20


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """A checkpoint of a partition begins after so many seconds or so many records, whichever comes first, as soon as the
    checkpoints of all partitions together have not written more than `bytes_s` bytes a second (0: no such budget); after
    `interval_max_s` or `swaps_max` swaps of weights whatever they have written."""

    interval_s: float = 10.0
    records: int = 100_000
    bytes_s: float = 0.0
    interval_max_s: float = 60.0
    swaps_max: int = 3


@dataclass(slots=True)
class Slice:
    """Records for the state topic, copied behind one batch, `rows` of them states; `completes` is the checkpoint that
    they are the last of."""

    partition: int
    keys: list[bytes]
    values: list[bytes | None]
    rows: int = 0
    row_bytes: int = 0  # of one of them, without ticks held back
    completes: Checkpoint | None = None
    since: int = 0  # zombie writes that were known when it was taken

    def bytes(self) -> int:
        """Of keys and values, before compression."""
        return sum(map(len, self.keys)) + sum(len(value) for value in self.values if value is not None)

    def weight(self) -> int:
        """How many rows of usual size it is worth: what a batch permits is counted in these."""
        return max(self.rows, -(-self.rows * self.row_bytes // SLICE_ROW_BYTES), len(self.keys) // 4)


class Observer(Protocol):
    """What the checkpointer reports of its work."""

    def checkpointed(self, partition: int, offset: int, interval_s: float) -> None: ...
    def written_by_another(self, partition: int) -> None: ...
    def states_appended(self, rows: int, size: int) -> None: ...


class Checkpointer:
    """Writes the changelogs of the owned partitions, and moves their ChangelogStates; belongs to the pump and is called under
    its lock."""

    def __init__(
        self,
        engine: Engine,
        snapshots: Snapshots,
        topic: str,
        settings: CheckpointSettings,
        partitions: Partitions,
        observer: Observer,
        carried: Callable[[int, int], bytes] = lambda partition, oldest: b"",
    ) -> None:
        self.topic = topic
        self._engine, self._snapshots, self._settings = engine, snapshots, settings
        self._partitions, self._observer, self._carried = partitions, observer, carried
        self._budget = WriteBudget(settings.bytes_s, settings.interval_max_s, clock_s())
        self._exceeded = False  # and said so
        engine.table.keep_evicted = True

    def begun(
        self,
        checkpoint: Checkpoint,
        history: History,
        end: int,
        orphans: Sequence[str] = (),
        layouts: Collection[int] = (),
        due: bool = False,
    ) -> ChangelogState:
        """Of a partition that was restored, or starts with nothing; its changelog was read up to `end`. `orphans` are states to
        be deleted from it. `layouts` are described in it: a second description would let compaction take away the first,
        which stands before the records that need it. `due`: changed states are to be written even where nothing comes."""
        checkpoint = msgspec.structs.replace(checkpoint, meaning=self._snapshots.meaning)
        return ChangelogState(
            checkpoint, clock_s(), history, layouts=set(layouts), to_delete=list(orphans), end=end, due=due
        )

    def given_up(self, partition: Partition) -> None:
        """Its checkpoints are no longer among those that share the budget."""
        self._budget.forget(partition.number)

    def _owned(self, number: int) -> ChangelogState | None:
        """None where the partition was given up by now."""
        partition = self._partitions.owned.get(number)
        return _known(partition) if partition is not None else None

    # ── what goes with a batch ───────────────────────────────────────────────────────────────────────────────────

    def start(self, partition: Partition) -> Slice:
        """The checkpoint record as it is known to be now; also the first of a partition that starts with nothing or comes
        back: replay from where it says."""
        number = partition.number
        piece = Slice(number, [CHECKPOINT], [encode_checkpoint(_of(partition).written)])
        self._budget.correct(number, piece.bytes())
        return piece

    def swapped(self, partition: Partition, offset: int, weights: str) -> Slice | None:
        """What is live from this offset on is of these weights: to leave with the batch that they serve first.

        None where the changelog says so already. What it says of later offsets came from an owner whose batches were
        not committed, and does not hold.
        """
        known = _of(partition)
        earlier = tuple(use for use in known.history if use[0] < offset)
        history = earlier if earlier and earlier[-1][1] == weights else (*earlier, (offset, weights))
        if history == known.history:
            return None
        known.history = history
        known.written = _with_swaps(known.written, history)
        return self.start(partition)

    @property
    def records(self) -> int:
        """How many records a restart has to replay at most, about."""
        return self._settings.records

    def honoured(self, partition: Partition, committed: int) -> Slice | None:
        """What the changelog says of the operator's offset once something behind it is committed: nothing more. None where
        it says nothing as it is."""
        known = _known(partition)
        if known is None or not 0 <= known.written.word < committed:
            return None
        known.written = msgspec.structs.replace(known.written, word=-1)
        return self.start(partition)

    def history(self, partition: Partition) -> History:
        """Which weights the partition's ticks were processed with, as far back as it is kept."""
        return _of(partition).history

    def take(self, partition: Partition, position: int, limit: int, force: bool = False) -> Slice | None:
        """The next slice of changed rows, `limit` of them at most, when there is something to write by now.

        To be called behind a batch, when the partition's state has come to `position`. `force` begins a checkpoint
        whatever the time.
        """
        known, number = _known(partition), partition.number
        if known is None:
            return None
        if known.cycle is None and not self._begin_cycle(known, number, position, force):
            return self.take_deletions(partition, limit)
        cycle = known.cycle
        assert cycle is not None  # noqa: S101
        table, size = self._engine.table, self._snapshots.record_bytes()
        rows = cycle.rows[cycle.at :][: max(1, min(limit, limit * SLICE_ROW_BYTES // size, SLICE_BYTES_MAX // size))]
        cycle.at += len(rows)
        charged = len(rows) * size
        # Some may have been evicted since, or given to others.
        rows = rows[table.changed[rows] & (table.partition[rows] == number)]
        piece = Slice(number, [], [])
        # More than can be evicted until then: one a record.
        self._add_deletions(known, piece, 4 * limit)
        if len(rows):
            layout, text = self._snapshots.layout()
            if layout not in known.layouts:
                known.layouts.add(layout)
                meaning = self._snapshots.meaning
                piece.keys += [meaning_key(meaning), layout_key(layout)]
                piece.values += [meaning.encode(), text]
            names, records = self._snapshots.pack(number, rows, position, known.written.life)
            table.changed[rows] = False
            piece.keys += [series_key(name) for name in names]
            piece.values += records
            piece.rows, piece.row_bytes = len(rows), size
        self._budget.correct(number, piece.bytes() - charged)
        piece.since = known.zombie_writes
        if cycle.at >= len(cycle.rows) and not known.to_delete:
            piece.completes = cycle.checkpoint
            known.cycle = None
        return piece

    def _begin_cycle(self, known: ChangelogState, number: int, position: int, force: bool) -> bool:
        now_s = clock_s()
        elapsed = now_s - known.began_s
        since = position - known.written.offset
        if known.waiting is not None or (since <= 0 and not (known.due and since == 0)):
            return False
        if not force:
            if elapsed < self._settings.interval_s and since < self._settings.records:
                return False
            urgent = elapsed >= self._settings.interval_max_s or len(known.written.swaps) >= self._settings.swaps_max
            if not urgent and not self._budget.paid(number, now_s):
                return False
        known.began_s, known.due = now_s, False
        front = self._engine.front
        begin = msgspec.structs.replace(
            known.written,
            offset=position,
            log_time_ms=front.log_time_ms(number),
            swaps=(),
            clocks=(clocks := with_clock(known.written.clocks, position, front.clock(number))),
            # A checkpoint behind the operator's offset is written when something behind it was committed.
            word=known.written.word if position <= known.written.word else -1,
            skips=still_needed(known.written.skips, clocks[-1][0]),
            decoder=self._carried(number, clocks[-1][0]),
        )
        rows = self._engine.table.changed_rows(number)
        known.cycle = Cycle(begin, rows)
        self._budget.charge(number, len(rows) * self._snapshots.record_bytes(), now_s)
        self._look_at_budget()
        return True

    def _look_at_budget(self) -> None:
        """Reports, once, that it cannot be kept."""
        settings, round_s = self._settings, self._budget.round_s()
        if not self._exceeded and round_s > settings.interval_max_s:
            self._exceeded = True
            log.warning(
                "checkpoint.bytes_per_second is not kept: more states change within checkpoint.interval_max than it permits",
                bytes_per_second=round(settings.bytes_s * round_s / settings.interval_max_s),
                budget=round(settings.bytes_s), interval_max_s=settings.interval_max_s,
            )  # fmt: skip

    def interval_s(self) -> float:
        """How far apart a partition's checkpoints are at present, where ticks come all the time."""
        settings = self._settings
        return max(settings.interval_s, min(self._budget.round_s(), settings.interval_max_s))

    def replays_from(self, partition: Partition) -> int:
        """The input offset that a restart would begin at; -1 for a partition that is not owned."""
        known = _known(partition)
        return known.written.offset if known is not None else -1

    def hurry(self, partition: Partition) -> None:
        """The partition's next checkpoint is due at once, whatever the budget, unless one is being written."""
        known = _known(partition)
        if known is not None and known.cycle is None and known.waiting is None:
            known.began_s = LONG_AGO_S

    def take_deletions(self, partition: Partition, limit: int) -> Slice | None:
        """Deletions of evicted series, where too many of them wait for the next checkpoint."""
        known = _of(partition)
        self._collect_evicted()
        if len(known.to_delete) <= self._settings.records:
            return None
        piece = Slice(partition.number, [], [], since=known.zombie_writes)
        self._add_deletions(known, piece, 4 * limit)
        self._budget.correct(partition.number, piece.bytes())
        return piece

    def _collect_evicted(self) -> None:
        evicted = self._engine.table.evicted
        for owner, name in evicted:
            known = self._owned(owner)
            if known is not None:
                known.to_delete.append(name)
        evicted.clear()

    def _add_deletions(self, known: ChangelogState, piece: Slice, limit: int) -> None:
        """Evicted series are deleted from the changelog, too."""
        self._collect_evicted()
        for name in dict.fromkeys(known.to_delete[:limit]):
            if self._engine.table.find(piece.partition, name) is None:
                piece.keys.append(series_key(name.encode()))
                piece.values.append(None)
        del known.to_delete[:limit]

    def deletions_waiting(self, batches: int) -> tuple[int, int]:
        """(series that are still to be deleted from the changelog, their bound); `batches`: records that may be taken in
        while a checkpoint waits for its offset to be committed, which the next one waits for."""
        owned = self._partitions.owned.values()
        count = len(self._engine.table.evicted) + sum(len(_of(partition).to_delete) for partition in owned)
        rows_max = self._engine.table.rows_max
        # More than `records` do not wait for a checkpoint; a record evicts one series at most, a restore all.
        return count, max(1, len(owned)) * (2 * self._settings.records + batches) + rows_max

    # ── what became of it ────────────────────────────────────────────────────────────────────────────────────────

    def arrived(self, piece: Slice) -> None:
        """A slice was acknowledged; with the last one the checkpoint waits for its offset to be committed."""
        known = self._owned(piece.partition)
        if known is not None and piece.completes is not None and piece.since == known.zombie_writes:
            known.waiting = piece.completes

    def written(self, runs: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """Where acknowledged records came to stand in the changelog, as (first, count) by partition."""
        for number, found in runs.items():
            known = self._owned(number)
            if known is None:
                continue
            for first, count in found:
                known.unacknowledged -= count
                if known.end not in (-1, first):
                    self._written_by_another(number, known)
                known.end = first + count if first >= 0 else -1

    def zombie_writes(self, partition: Partition) -> int:
        """How often somebody else was seen to have written into a partition's changelog."""
        known = _known(partition)
        return known.zombie_writes if known is not None else 0

    def _written_by_another(self, number: int, known: ChangelogState) -> None:
        """Whatever the zombie writer wrote over is written once more, and no checkpoint holds before that."""
        self._engine.table.changed[list(self._engine.table.series(number).values())] = True
        known.cycle = known.waiting = None
        known.zombie_writes += 1
        known.began_s = LONG_AGO_S  # the next checkpoint is due at once
        self._observer.written_by_another(number)

    def not_sent(self, piece: Slice) -> None:
        """A slice will not leave: its rows count as changed again."""
        table, known = self._engine.table, self._owned(piece.partition)
        for key, value in zip(piece.keys, piece.values, strict=True):
            if key.startswith(LAYOUT) and known is not None:
                known.layouts.clear()
            elif key.startswith(SERIES):
                name = key[len(SERIES) :].decode()
                row = table.find(piece.partition, name)
                if row is not None:
                    table.changed[row] = True
                elif value is None and known is not None:
                    known.to_delete.append(name)

    def complete(self, partition: Partition, committed: int) -> Slice | None:
        """The checkpoint record, if its rows have arrived and its offset is committed."""
        known = _known(partition)
        if known is None or known.waiting is None or known.waiting.offset > committed:
            return None
        # Weights that came into use since it began, even right where it begins, are known by now.
        at = known.end + known.unacknowledged if known.end >= 0 else -1
        known.written = _with_swaps(msgspec.structs.replace(known.waiting, at=at), known.history)
        known.history, known.waiting = known.history[-max(HISTORY_MAX, 1 + len(known.written.swaps)) :], None
        piece = self.start(partition)
        self._observer.checkpointed(partition.number, known.written.offset, self.interval_s())
        return piece

    def completes(self, partition: Partition, committed: int) -> bool:
        """Whether `complete` would return a record."""
        known = _known(partition)
        return known is not None and known.waiting is not None and known.waiting.offset <= committed

    async def append(self, piece: Slice, sink: Sink, timestamp_ms: int) -> None:
        """Appends a slice to its partition of the state topic."""
        known = self._owned(piece.partition)
        if known is not None:
            known.unacknowledged += len(piece.keys)
        if piece.keys:
            count = len(piece.keys)
            self._observer.states_appended(piece.rows, piece.bytes())
            await sink.append_many(self.topic, piece.partition, piece.keys, piece.values, [timestamp_ms] * count)


def _known(partition: Partition) -> ChangelogState | None:
    """None where it was given up by now, as may happen while a client winds up."""
    return partition.changelog if partition.owned else None


def _of(partition: Partition) -> ChangelogState:
    """Of one that is owned."""
    known = _known(partition)
    assert known is not None  # noqa: S101
    return known


def _with_swaps(checkpoint: Checkpoint, history: History) -> Checkpoint:
    """The checkpoint with the weights of its offset, and the swaps since."""
    swaps = tuple(use for use in history if use[0] > checkpoint.offset)
    return msgspec.structs.replace(checkpoint, weights=weights_at(history, checkpoint.offset), swaps=swaps)
