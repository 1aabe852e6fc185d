"""The checkpointer by itself: what it writes when, what makes a checkpoint whole, and what takes that back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from making import batch
from partitions import Unreported, owned
from running import START, Clock, settings

from streamrnn.inputs import Numbering
from streamrnn.serving.checkpoint import Checkpointer, CheckpointSettings, Slice
from streamrnn.serving.partition import Partitions
from streamrnn.stores.changelog import CHECKPOINT, SERIES, ChangelogReader, Checkpoint
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.base import Committed
from streamrnn.transports.memory.transport import MemoryBroker, MemorySink, MemoryTransport

MANY = 10**6


class Written(Unreported):
    """A checkpointer of partition 0 whose engine has taken ticks of some series."""

    def __init__(self, series: int = 6, series_max: int = 64, **changes: Any) -> None:
        self.engine = Engine(settings(series_max=series_max, experts="off").stream_spec())
        self.position = 0
        self.reported: list[tuple[int, int]] = []
        self.zombies = 0
        partitions = Partitions(Numbering(one="ticks"))
        chosen = CheckpointSettings(**{"interval_s": 10.0, "records": 1000, **changes})
        self.known = Checkpointer(self.engine, Snapshots(self.engine), "state", chosen, partitions, self)
        changelog = self.known.begun(Checkpoint("ticks", 0, "w", None, 1), ((0, "w"),), 0)
        self.partition = owned(partitions, self.engine.spec, 0, changelog)
        self.tick([f"s{i}" for i in range(series)])

    def checkpointed(self, partition: int, offset: int, interval_s: float) -> None:
        self.reported.append((partition, offset))

    def written_by_another(self, partition: int) -> None:
        self.zombies += 1

    def tick(self, names: list[str]) -> None:
        """A tick of each of these series."""
        count = len(names)
        ts = np.full(count, START + 1000 * self.position, dtype=np.int64)
        offsets = np.arange(self.position, self.position + count)
        self.engine.process(replace(batch(names, ts, np.ones((count, 2))), offset=offsets))
        self.position += count

    def take(self, limit: int = MANY, force: bool = False) -> Slice | None:
        return self.known.take(self.partition, self.position, limit, force)

    def park(self) -> None:
        self.known.given_up(self.partition)
        self.partition.parked(len(self.engine.table.series(0)))

    def whole(self, force: bool = False) -> Slice:
        piece = self.take(force=force)
        assert piece is not None and piece.completes is not None
        return piece


def names(piece: Slice) -> list[str]:
    return [key[len(SERIES) :].decode() for key in piece.keys if key.startswith(SERIES)]


def test_a_checkpoint_begins_after_its_interval_or_its_records(clock: Clock) -> None:
    made = Written()
    assert made.take() is None
    clock.now_s += 9.9
    assert made.take() is None
    clock.now_s += 0.1
    assert made.take() is not None
    by_records = Written()
    by_records.position = 999
    assert by_records.take() is None
    by_records.position = 1000
    assert by_records.take() is not None
    assert Written().take(force=True) is not None


def test_slices_hold_what_a_batch_permits_and_the_last_one_completes(clock: Clock) -> None:
    made = Written(series=5)
    clock.now_s += 10.0
    pieces = [made.take(limit=2) for _ in range(3)]
    assert [piece.rows for piece in pieces if piece] == [2, 2, 1]
    assert [piece.completes is not None for piece in pieces if piece] == [False, False, True]
    found = [name for piece in pieces if piece for name in names(piece)]
    assert sorted(found) == [f"s{i}" for i in range(5)]
    # The layout stands before the first record that has it, and once.
    keys = [key for piece in pieces if piece for key in piece.keys]
    assert [key.split(b"/")[0] for key in keys[:3]] == [b"meaning", b"layout", b"s"]
    assert sum(key.startswith(b"layout/") for key in keys) == 1


def test_it_counts_only_when_its_rows_have_arrived_and_its_offset_is_committed(clock: Clock) -> None:
    made = Written()
    clock.now_s += 10.0
    piece = made.whole()
    begun = made.position
    assert made.known.complete(made.partition, begun) is None and not made.known.completes(made.partition, begun)
    made.known.arrived(piece)
    assert made.known.complete(made.partition, begun - 1) is None
    assert made.known.replays_from(made.partition) == 0
    done = made.known.complete(made.partition, begun)
    assert done is not None and done.keys == [CHECKPOINT]
    assert made.known.replays_from(made.partition) == begun and made.reported == [(0, begun)]
    assert made.known.complete(made.partition, begun) is None, "once"


def test_rows_that_move_while_it_is_written_leave_as_they_are_when_their_slice_is_taken(clock: Clock) -> None:
    made = Written(series=4)
    clock.now_s += 10.0
    first = made.take(limit=2)
    begun = made.position
    assert first is not None
    later = [name for name in ("s0", "s1", "s2", "s3") if name not in names(first)]
    made.tick([later[0], names(first)[0]])
    second = made.whole()
    assert set(names(second)) == set(later), "one that was taken waits for the next checkpoint"
    assert second.completes is not None and second.completes.offset == begun
    applied = made.engine.table.columns["applied"]
    assert applied[made.engine.table.find(0, later[0])] == made.position > begun


def test_nothing_new_is_no_checkpoint(clock: Clock) -> None:
    made = Written()
    made.known.arrived(made.whole(force=True))
    assert made.known.complete(made.partition, made.position) is not None
    clock.now_s += 100.0
    assert made.take() is None and made.take(force=True) is None


def test_series_that_were_evicted_are_deleted_from_the_changelog(clock: Clock) -> None:
    made = Written(series=4, series_max=4)
    made.known.arrived(made.whole(force=True))
    made.known.complete(made.partition, made.position)
    made.tick(["new"])
    piece = made.whole(force=True)
    assert dict(zip(piece.keys, piece.values, strict=True))[b"s/s0"] is None
    assert names(piece) == ["s0", "new"]
    # One that has come back before its deletion left is not deleted.
    made.tick(["other"])
    made.tick(["s1", "s1"])
    piece = made.whole(force=True)
    assert piece.keys.count(b"s/s1") == 1
    assert dict(zip(piece.keys, piece.values, strict=True))[b"s/s1"] is not None


def test_a_slice_that_does_not_leave_is_written_once_more(clock: Clock) -> None:
    made = Written(series=3, series_max=3)
    made.tick(["new"])
    piece = made.whole(force=True)
    assert not len(made.engine.table.changed_rows(0))
    made.known.not_sent(piece)
    assert len(made.engine.table.changed_rows(0)) == 3
    made.tick(["new"])
    again = made.whole(force=True)
    assert sorted(names(again)) == sorted(names(piece)) and any(key.startswith(b"layout/") for key in again.keys)
    assert dict(zip(again.keys, again.values, strict=True))[b"s/s0"] is None, "the deletion, too"


def test_what_another_worker_writes_in_between_makes_everything_be_written_anew(clock: Clock) -> None:
    made = Written(series=3)
    piece = made.whole(force=True)
    made.known.written({0: [(0, 5)]})
    assert made.zombies == 0
    made.known.written({0: [(6, 1)]})  # something else stands at 5
    assert made.zombies == 1 and made.known.zombie_writes(made.partition) == 1
    made.known.arrived(piece)
    assert made.known.complete(made.partition, made.position) is None, "it was taken before"
    assert len(made.engine.table.changed_rows(0)) == 3
    made.tick(["s0"])
    assert sorted(names(made.whole())) == ["s0", "s1", "s2"], "at once"


def test_weights_are_noted_where_they_come_into_use_and_only_then(clock: Clock) -> None:
    made = Written()
    assert made.known.swapped(made.partition, 5, "w") is None
    assert made.known.swapped(made.partition, 7, "v") is not None
    assert made.known.history(made.partition) == ((0, "w"), (7, "v"))
    assert made.known.swapped(made.partition, 9, "v") is None
    # An offset before: what was said of later ones came of batches that were not committed.
    assert made.known.swapped(made.partition, 6, "u") is not None
    assert made.known.history(made.partition) == ((0, "w"), (6, "u"))


def test_a_partition_that_was_parked_goes_on_where_it_was(clock: Clock) -> None:
    made = Written()
    made.known.arrived(made.whole(force=True))
    made.known.complete(made.partition, made.position)
    since = made.known.replays_from(made.partition)
    made.park()
    assert made.known.replays_from(made.partition) == -1
    assert made.take(force=True) is None
    made.partition.returned(Committed(0))
    assert made.known.replays_from(made.partition) == since
    made.tick(["s1"])
    assert names(made.whole(force=True)) == ["s1"]


def test_one_that_was_parked_while_it_was_written_begins_anew(clock: Clock) -> None:
    made = Written(series=4)
    first = made.take(limit=2, force=True)
    assert first is not None and first.completes is None
    made.park()
    made.partition.returned(Committed(0))
    made.tick(["s0"])
    piece = made.whole(force=True)
    assert piece.completes is not None and piece.completes.offset == made.position
    assert {"s0", *names(first)} | set(names(piece)) == {"s0", "s1", "s2", "s3"}


def test_a_series_that_ends_while_it_is_written_is_not_written(clock: Clock) -> None:
    made = Written(series=4)
    first = made.take(limit=2, force=True)
    assert first is not None
    left = sorted({"s0", "s1", "s2", "s3"} - set(names(first)))
    made.engine.forget(0, left[0])
    made.engine.table.adopt(1, ["elsewhere"])  # its row, in another partition
    made.engine.table.changed[:] = True
    piece = made.whole()
    assert [name for name in names(piece) if name != left[0]] == left[1:]


async def test_what_it_appends_is_what_a_reader_finds(clock: Clock) -> None:
    broker = MemoryBroker()
    broker.create("state", 1)
    sink = MemorySink(broker)
    await sink.start()
    made = Written(series=4)
    piece = made.whole(force=True)
    await made.known.append(piece, sink, START)
    made.known.arrived(piece)
    done = made.known.complete(made.partition, made.position)
    assert done is not None
    await made.known.append(done, sink, START)
    await sink.seal()
    reader = ChangelogReader(MemoryTransport(broker), "state", [0])
    await reader.start()
    states = 0
    while reader.left():
        for found in (await reader.read(10)).values():
            states += len(found.states)
    assert states == 4 and reader.checkpoints[0].offset == made.position
    # The checkpoint says where it stands: older states behind it are another worker's.
    assert reader.checkpoints[0].at == len(piece.keys)
