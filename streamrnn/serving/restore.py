"""Brings partitions' states back from the changelog, a poll at a time, between the batches of those that serve.

A restore is not done inside the rebalance: a large state would outlast the time that a group gives its members, they
would be evicted, and the next rebalance would begin it anew, for ever (quix-streams #1131, #1146). The partition is
assigned, paused, and served when its state is there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import structlog

from streamrnn.meaning import Change
from streamrnn.records import I64
from streamrnn.serving.changelog_state import Reading
from streamrnn.serving.members import refuse_another_input
from streamrnn.serving.partition import Partitions
from streamrnn.stores.changelog import ChangelogReader, Checkpoint
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Plan, Restored, SnapshotError, Snapshots
from streamrnn.transports.base import Deadline, Transport, TransportError, Unreadable, clock_s

log = structlog.get_logger(__name__)

READ_MS = 50
# A reader that gets nothing for so long is stuck: the clients are built anew.
SILENCE_S = 30.0
# So often is a damaged changelog read before its partition starts without it.
ATTEMPTS = 2
NO_CHECKPOINT = "the changelog holds no checkpoint"
DELETED = "its state was deleted (`streamrnn reset --state`)"


@dataclass(slots=True)
class Restoration:
    """What was found for one partition. Without a checkpoint it starts with nothing; `why` says the reason."""

    partition: int
    checkpoint: Checkpoint | None = None
    why: str = ""
    found: Restored = field(default_factory=Restored)
    seconds: float = 0.0
    life: int = 0  # of the partition's state: the checkpoint's, or the next new one
    orphans: list[str] = field(default_factory=list)  # states of other lives, to be deleted
    end: int = -1  # of the changelog when it was read
    # Series whose state another worker wrote over with an older one, and the input offset that this has come to.
    older: dict[str, int] = field(default_factory=dict)
    layouts: set[int] = field(default_factory=set)  # that its changelog describes
    carried: int = 0  # series whose state was of another meaning, or of a version that kept none
    plans: list[Plan] = field(default_factory=list)  # how
    cold: Counter[str] = field(default_factory=Counter)  # series of whose state nothing could be carried, by why
    # The input offset that the furthest of its states has come to, of those that cannot be carried, too.
    reached: int = 0
    # That of states of which nothing can be carried: what it says of the input's offsets holds all the same.
    before: Checkpoint | None = None


class Restorer:
    """One reader for all partitions that are restored; a rebalance that changes them starts it anew.

    Where the changelog cannot be read, they are read one by one, and the damaged one starts without its state.
    """

    def __init__(
        self, transport: Transport, topic: str, partitions: Partitions, engine: Engine, snapshots: Snapshots
    ) -> None:
        self._transport, self._topic, self._partitions = transport, topic, partitions
        self._engine, self._snapshots = engine, snapshots
        self._reader: ChangelogReader | None = None
        self._changed = False
        self._one_by_one = False
        self._reading: set[int] = set()
        self._moved_s = clock_s()

    @property
    def active(self) -> bool:
        return any(partition.reading is not None for partition in self._partitions.restoring.values())

    @property
    def _waiting(self) -> dict[int, Reading]:
        """By number, what was read of those that are not done."""
        return {n: p.reading for n, p in self._partitions.restoring.items() if p.reading is not None}

    def changed(self) -> None:
        """Other partitions are restored than before."""
        self._changed = True

    async def read(self) -> None:
        """Reads some more; what it brings is applied by `apply`. Raises TransportError."""
        if self._changed or self._reader is None:
            await self._begin()
        reader = self._reader
        if reader is None or not reader.left():
            return
        try:
            self._pieces = await reader.read(READ_MS)
        except Unreadable as error:
            self._single_out(str(error))
            return
        if self._pieces:
            self._moved_s = clock_s()
        elif clock_s() - self._moved_s > SILENCE_S and reader.left():
            raise TransportError(f"partitions {reader.left()} of {self._topic} gave nothing for {SILENCE_S:.0f} s")

    async def _begin(self) -> None:
        await self.stop()
        self._changed, self._moved_s = False, clock_s()
        wanted = sorted(p for p, known in self._waiting.items() if not known.damaged)
        self._reading = set(wanted[:1] if self._one_by_one else wanted)
        reader = ChangelogReader(self._transport, self._topic, sorted(self._reading))
        try:
            await reader.start()
        except BaseException:
            await reader.stop(Deadline(1.0))
            raise
        self._reader = reader

    def _single_out(self, error: str) -> None:
        self._pieces, self._changed = {}, True
        if len(self._reading) > 1:
            self._one_by_one = True
            return
        waiting = self._waiting
        for number in self._reading & waiting.keys():
            known = waiting[number]
            known.failures += 1
            if known.failures >= ATTEMPTS:
                known.damaged = error
                self._changed = False  # `apply` ends it

    def apply(self) -> list[Restoration]:
        """Puts into the table what was read; returns the partitions that are done. Raises TransportError."""
        reader = self._reader
        if reader is None or self._changed:  # a rebalance came in between: begin anew
            return []
        waiting = self._waiting
        pieces, self._pieces = self._pieces, {}
        for partition, piece in pieces.items():
            known = waiting.get(partition)
            if known is None:
                continue
            try:
                for meaning, text in piece.meanings:
                    self._snapshots.learn_meaning(meaning, text)
                known.layouts |= {self._snapshots.learn(text) for text in piece.layouts}
                for name in piece.deleted:
                    self._engine.forget(partition, name)
                    known.found.left.pop(name, None)
                self._snapshots.restore(partition, piece.states, known.found)
            except SnapshotError as error:
                raise TransportError(str(error)) from error
        unread = self._reading & set(reader.left())
        done = sorted(p for p in self._reading & waiting.keys() if p not in unread or waiting[p].damaged)
        if done and not self._reading - set(done):
            self._changed = True  # on to those that wait for their turn
        return [self._finished(reader, p, waiting[p]) for p in done if not self._read_again(p, waiting[p])]

    def _read_again(self, partition: int, known: Reading) -> bool:
        """Compaction may leave the description of a layout behind records that have it (where it was written twice): then
        they are read once more, with what is known now."""
        if known.again or known.damaged or not any(map(self._snapshots.knows, known.found.unknown)):
            return False
        for name in list(self._engine.table.series(partition)):
            self._engine.forget(partition, name)
        self._partitions.restoring[partition].reading = Reading(known.began_s, again=True)
        self._reading.discard(partition)
        if not self._reading:
            self._changed = True
        return True

    def _finished(self, reader: ChangelogReader, partition: int, known: Reading) -> Restoration:
        self._partitions.restoring[partition].reading = None
        found, table = known.found, self._engine.table
        checkpoint = reader.checkpoints.get(partition)
        why = known.damaged or reader.unusable.get(partition, "")
        if not why and checkpoint is None:
            why = DELETED if partition in reader.deleted else NO_CHECKPOINT
        if checkpoint is not None:
            refuse_another_input(self._topic, self._partitions.numbering, partition, checkpoint)
        readable = not why
        if not why and checkpoint is not None and checkpoint.meaning is not None:
            why = Change(checkpoint.meaning, self._snapshots.meaning).cold
        there = table.series(partition)
        for name in found.outdated(there, table.columns["applied"]):
            self._engine.forget(partition, name)
        if not why and checkpoint is not None and len(found.orphans(there, checkpoint.life)) == len(there):
            why = next((why for life, _, why in found.left.values() if life >= checkpoint.life), "")
        last = max(reader.lives.get(partition, 0), found.life)
        if known.damaged:
            # Lives that lie behind the damage have a lower number: every life wrote a record at least.
            last = max(last, reader.end(partition) + 1)
        done = Restoration(partition, None if why else checkpoint, why, found, clock_s() - known.began_s)
        done.layouts = known.layouts
        if why and readable and checkpoint is not None:
            done.before = checkpoint
            there_of = [row for row in there.values() if found.lived[row] == checkpoint.life + 1]
            done.reached = max(
                int(table.columns["applied"][there_of].max(initial=0)),
                *(applied for life, applied, _ in found.left.values() if life == checkpoint.life),
                0,
            )
        done.life = last + 1 if done.checkpoint is None else done.checkpoint.life
        done.orphans = [*there] if done.checkpoint is None else found.orphans(there, done.life)
        for name in done.orphans:
            self._engine.forget(partition, name)
        self._look_at_changes(done)
        for key in reader.doubtful[partition]:
            row = self._engine.table.find(partition, key.decode(errors="replace"))
            if row is not None:  # its deletion does not count: with the next checkpoint it stands before it
                self._engine.table.changed[row] = True
        done.end = reader.end(partition)
        table = self._engine.table
        rows: I64 = np.fromiter(table.series(partition).values(), dtype=np.int64)
        applied: I64 = table.columns["applied"][rows]
        done.reached = max(done.reached, int(applied.max(initial=0)))
        if done.checkpoint is not None and done.checkpoint.at >= 0:
            done.older = self._older(rows, applied, known.found, done.checkpoint)
        return done

    def _look_at_changes(self, done: Restoration) -> None:
        """States that were carried are written in the meaning of now with the next checkpoint, and those of which nothing
        could be carried are deleted: a change costs once."""
        found, table, there = done.found, self._engine.table, self._engine.table.series(done.partition)
        rows = np.fromiter(there.values(), dtype=np.int64, count=len(there))
        if found.plans and len(rows):
            through = found.through[rows]
            changed = np.array([False, *(plan.news for plan in found.plans)])[through]
            table.changed[rows[changed]] = True
            done.carried = int(changed.sum())
            done.plans = [found.plans[k - 1] for k in np.unique(through[changed]).tolist()]
        lost, known = [name for name in found.left if name not in there], set(done.orphans)
        done.orphans += [name for name in lost if name not in known]
        done.cold = Counter(found.left[name][2] for name in lost if found.left[name][0] == done.life)

    def _older(self, rows: I64, applied: I64, found: Restored, checkpoint: Checkpoint) -> dict[str, int]:
        """Compaction has kept what a zombie writer wrote: a state of this history, but not the newest."""
        names = self._engine.table.names
        wrong = (found.stood[rows] > checkpoint.at) & (applied < checkpoint.offset)
        return {names[row] or "": at for row, at in zip(rows[wrong], applied[wrong].tolist(), strict=True)}

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Those of the partitions that were read to their ends."""
        if self._reader is None:
            return {}
        unread = set(self._reader.left())
        return {p: checkpoint for p, checkpoint in self._reader.checkpoints.items() if p not in unread}

    async def stop(self, deadline: Deadline | None = None) -> None:
        reader, self._reader = self._reader, None
        self._pieces = {}
        if reader is not None:
            await reader.stop(deadline or Deadline(2.0))
