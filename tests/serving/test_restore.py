"""The restorer by itself: what a partition's changelog comes to, and what it must not come to."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from making import batch
from partitions import restoring
from running import START, settings

from streamrnn.inputs import Numbering
from streamrnn.serving import restore
from streamrnn.serving.partition import Partitions
from streamrnn.serving.restore import DELETED, NO_CHECKPOINT, Restoration, Restorer
from streamrnn.stores import changelog
from streamrnn.stores.changelog import (
    CHECKPOINT,
    Checkpoint,
    encode_checkpoint,
    layout_key,
    meaning_key,
    series_key,
)
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.base import TopicUnfit, Unreadable
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport

TOPIC = "state"


def engine(**changes: Any) -> Engine:
    return Engine(settings(experts="off", **changes).stream_spec())


def stepped(made: Engine, names: list[str], first: int, partition: int = 0, steps: int = 5) -> None:
    """A tick of each series a step, at input offsets from `first` on."""
    rows = [(name, step) for step in range(first, first + steps) for name in names]
    ts, values = [START + 1000 * step for _, step in rows], np.array([[float(step), 1.0] for _, step in rows])
    made.process(batch([name for name, _ in rows], ts, values, partition))


class Changelog:
    """A state topic that records are written into, and a restorer over it."""

    def __init__(self, partitions: int = 1, input_topic: str = "ticks", **changes: Any) -> None:
        self.broker = MemoryBroker()
        self.broker.create(TOPIC, partitions)
        self.writer = engine()
        self.snapshots = Snapshots(self.writer)
        self.engine = engine(**changes)
        self.partitions = Partitions(Numbering(one=input_topic))
        self.restorer = Restorer(
            MemoryTransport(self.broker), TOPIC, self.partitions, self.engine, Snapshots(self.engine)
        )

    def append(self, key: bytes, value: bytes | None, partition: int = 0) -> None:
        self.broker.append(TOPIC, partition, key, value, START)

    def describe(self, partition: int = 0) -> None:
        layout, text = self.snapshots.layout()
        self.append(meaning_key(self.snapshots.meaning), self.snapshots.meaning.encode(), partition)
        self.append(layout_key(layout), text, partition)

    def states(self, names: list[str], offset: int, life: int = 1, partition: int = 0) -> None:
        rows = np.array([self.writer.table.find(partition, name) for name in names], dtype=np.int64)
        keys, records = self.snapshots.pack(partition, rows, offset, life)
        for key, record in zip(keys, records, strict=True):
            self.append(series_key(key), record, partition)

    def checkpoint(self, offset: int, partition: int = 0, **changes: Any) -> None:
        known = Checkpoint("ticks", offset, "w", None, 1, meaning=self.snapshots.meaning)
        self.append(CHECKPOINT, encode_checkpoint(msgspec.structs.replace(known, **changes)), partition)

    async def restored(self, *partitions: int) -> dict[int, Restoration]:
        """Reads until these partitions (0) are done."""
        wanted, found, polls = set(partitions or (0,)), {}, 0
        restoring(self.partitions, self.engine.spec, sorted(wanted))
        self.restorer.changed()
        while wanted - found.keys():
            polls += 1
            assert polls < 1000, "it does not come to an end"
            await self.restorer.read()
            found |= {done.partition: done for done in self.restorer.apply()}
        assert not self.restorer.active
        await self.restorer.stop()
        return found


def written(**changes: Any) -> Changelog:
    """Three series at input offset 15, and a checkpoint that says so."""
    made = Changelog(**changes)
    stepped(made.writer, ["a", "b", "c"], 0)
    made.describe()
    made.states(["a", "b", "c"], 15)
    made.checkpoint(15)
    return made


async def test_states_and_checkpoint_come_back_bit_for_bit() -> None:
    made = written()
    done = (await made.restored())[0]
    assert (done.why, done.life, done.reached, done.orphans, done.older) == ("", 1, 15, [], {})
    assert done.checkpoint is not None and done.checkpoint.offset == 15
    assert done.found.rows == 3 and done.end == 6
    for name in "abc":
        here, there = made.engine.table.find(0, name), made.writer.table.find(0, name)
        assert here is not None and there is not None
        for column, values in made.engine.table.columns.items():
            assert values[here].tobytes() == made.writer.table.columns[column][there].tobytes(), column
    assert not len(made.engine.table.changed_rows(0)), "what is in the changelog is not written again"


async def test_an_empty_changelog_is_a_cold_start_of_the_first_life() -> None:
    done = (await Changelog().restored())[0]
    assert (done.checkpoint, done.why, done.life, done.reached) == (None, NO_CHECKPOINT, 1, 0)


async def test_states_without_a_checkpoint_are_no_state_and_are_deleted() -> None:
    made = Changelog()
    stepped(made.writer, ["a"], 0)
    made.describe()
    made.states(["a"], 5)
    done = (await made.restored())[0]
    assert (done.checkpoint, done.why, done.orphans, done.life) == (None, NO_CHECKPOINT, ["a"], 2)
    assert made.engine.table.find(0, "a") is None


async def test_a_checkpoint_that_was_deleted_by_an_operator_is_said_to_be() -> None:
    made = written()
    made.append(CHECKPOINT, None)
    done = (await made.restored())[0]
    assert (done.checkpoint, done.why) == (None, DELETED)
    assert sorted(done.orphans) == ["a", "b", "c"] and done.life == 2


async def test_states_of_an_earlier_life_are_not_of_this_history() -> None:
    made = written()
    made.states(["b", "c"], 20, life=2)
    made.checkpoint(20, life=2)
    done = (await made.restored())[0]
    assert (done.why, done.life, done.orphans, done.reached) == ("", 2, ["a"], 20)
    assert sorted(made.engine.table.series(0)) == ["b", "c"]


async def test_a_checkpoint_of_an_earlier_life_that_comes_late_counts_for_nothing() -> None:
    made = written()
    made.states(["a"], 20, life=2)
    made.checkpoint(20, life=2)
    made.checkpoint(99, life=1)
    done = (await made.restored())[0]
    assert done.checkpoint is not None and (done.checkpoint.offset, done.life) == (20, 2)


@pytest.mark.parametrize("at_once", [2, 2000], ids=["read in pieces", "read at once"])
async def test_a_series_that_was_deleted_is_not_brought_back(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(changelog, "RECORDS_MAX", at_once)
    made = written()
    made.append(series_key(b"b"), None)
    made.checkpoint(16)
    done = (await made.restored())[0]
    assert sorted(made.engine.table.series(0)) == ["a", "c"] and not done.why


async def test_an_older_state_behind_the_checkpoints_place_is_named_with_what_it_has_come_to() -> None:
    """Another worker has written it late, over a newer one that compaction took away."""
    made = Changelog()
    stepped(made.writer, ["a", "b", "c"], 0)
    made.describe()
    made.states(["c"], 7)  # silent since, so no newer one is there
    made.states(["a", "b"], 15)
    made.checkpoint(15, at=5)
    made.states(["b"], 9)
    done = (await made.restored())[0]
    assert done.older == {} and done.reached == 15, "the newer one is still there"
    late = Changelog()
    stepped(late.writer, ["a", "b"], 0)
    late.describe()
    late.states(["a"], 15)
    late.checkpoint(15, at=3)
    late.writer.table.columns["applied"][:] = 0
    late.states(["b"], 9)
    done = (await late.restored())[0]
    assert done.older == {"b": 9}


async def test_the_states_of_another_input_stop_the_start() -> None:
    made = written(input_topic="others")
    with pytest.raises(TopicUnfit, match="'others'"):
        await made.restored()


async def test_what_nothing_can_be_carried_of_begins_anew_and_says_why() -> None:
    made = written(step="5s")
    done = (await made.restored())[0]
    assert done.checkpoint is None and "`step` was 1s, and is 5s" in done.why
    assert (done.life, done.reached) == (2, 15)
    assert done.before is not None and done.before.offset == 15
    assert sorted(done.orphans) == ["a", "b", "c"] and not made.engine.table.series(0)


async def test_what_is_carried_is_written_anew_with_the_next_checkpoint() -> None:
    made = written(horizon=5)
    done = (await made.restored())[0]
    assert (done.why, done.carried, done.cold) == ("", 3, {})
    assert len(made.engine.table.changed_rows(0)) == 3 and len(done.plans) == 1


async def test_one_that_is_taken_away_before_its_end_is_not_finished() -> None:
    made = Changelog(partitions=2)
    for partition in range(2):
        stepped(made.writer, ["a"], 0, partition)
        made.describe(partition)
        made.states(["a"], 5, partition=partition)
        made.checkpoint(5, partition)
    restoring(made.partitions, made.engine.spec, [0, 1])
    await made.restorer.read()
    taken = made.partitions.restoring[1]
    taken.released()
    made.partitions.forget(taken)
    made.restorer.changed()
    assert made.restorer.apply() == [], "a rebalance came in between: what was read is read again"
    found = []
    while made.restorer.active:
        await made.restorer.read()
        found += made.restorer.apply()
    assert [done.partition for done in found] == [0] and made.engine.table.find(1, "a") is None
    await made.restorer.stop()


async def test_a_damaged_partition_starts_without_its_state_and_the_others_with_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Changelog(partitions=3)
    for partition in range(3):
        stepped(made.writer, ["a"], 0, partition)
        made.describe(partition)
        made.states(["a"], 5, partition=partition)
        made.checkpoint(5, partition)
    plain = restore.ChangelogReader
    tries: list[list[int]] = []

    class Damaged(plain):  # type: ignore[misc,valid-type]
        def __init__(self, transport: Any, topic: str, partitions: Any) -> None:
            super().__init__(transport, topic, partitions)
            self.wanted = list(partitions)
            tries.append(self.wanted)

        async def read(self, timeout_ms: int) -> Any:
            if 1 in self.wanted:
                raise Unreadable("a batch of partition 1 is damaged")
            return await super().read(timeout_ms)

    monkeypatch.setattr(restore, "ChangelogReader", Damaged)
    found = await made.restored(0, 1, 2)
    assert [found[p].why for p in range(3)] == ["", "a batch of partition 1 is damaged", ""]
    assert [made.engine.table.find(p, "a") is not None for p in range(3)] == [True, False, True]
    # Its next life is one that no state behind the damage can have.
    assert found[1].checkpoint is None and found[1].life > 4
    assert tries[0] == [0, 1, 2] and tries.count([1]) == restore.ATTEMPTS
