"""What counts of a partition's changelog: states, deletions, and the checkpoints that vouch for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrnn.records import PlainRecord
from streamrnn.stores.changelog import CHECKPOINT, ChangelogReader, Checkpoint, encode_checkpoint, series_key
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport
from streamrnn.wire.packed import packed

VOUCHED, OF_ONE = "checkpoint", "checkpoint of one who cannot be interrupted"
# What is appended: a checkpoint, or (a series' name, whether it is a state).
Entry = str | tuple[str, bool]


def laid(entries: list[Entry]) -> list[PlainRecord]:
    records = []
    for stand, entry in enumerate(entries):
        if isinstance(entry, str):
            at = stand if entry == VOUCHED else -1
            key, value = CHECKPOINT, encode_checkpoint(Checkpoint("ticks", 0, "abc", None, 1, at=at))
        else:
            key, value = series_key(entry[0].encode()), b"%d" % stand if entry[1] else None
        records.append(PlainRecord("state", 0, stand, 0, key, value))
    return records


@dataclass
class Held:
    """Series by where their state stood, and those whose deletion is in doubt."""

    states: dict[str, int] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)


def read(pieces: list[list[PlainRecord]]) -> Held:
    reader, held = ChangelogReader(MemoryTransport(MemoryBroker()), "state", [0]), Held()
    for records in pieces:
        piece = reader._sorted(packed(0, records))
        for name in piece.deleted:
            held.states.pop(name, None)
        held.states |= {r.key.decode(): r.offset for r in piece.states if r.key is not None}
    held.doubtful = {name.decode() for name in reader.doubtful[0]}
    return held


def held(entries: list[Entry]) -> Held:
    """The same, entry by entry, as it is meant."""
    held, doubtful, at = Held(), dict[str, int](), -1
    for stand, entry in enumerate(entries):
        if isinstance(entry, str):
            at = stand if entry == VOUCHED else -1
            for name in list(doubtful):  # all of them stand before it
                del doubtful[name]
                held.states.pop(name, None)
        elif entry[1]:
            held.states[entry[0]] = stand
            doubtful.pop(entry[0], None)
        elif at < 0:
            held.states.pop(entry[0], None)
        else:
            doubtful.setdefault(entry[0], stand)
    held.doubtful = set(doubtful)
    return held


entries = st.lists(st.sampled_from([VOUCHED, VOUCHED, OF_ONE, *((n, s) for n in "ab" for s in (True, False))]))


@given(entries, st.lists(st.integers(1, 5)))
def test_however_it_is_cut_a_deletion_counts_when_a_checkpoint_stands_behind_it(
    log: list[Entry], cuts: list[int]
) -> None:
    records, pieces = laid(log), []
    for length in [*cuts, len(records)]:
        pieces.append(records[:length])
        records = records[length:]
    assert read([piece for piece in pieces if piece]) == held(log)


@pytest.mark.parametrize(
    ("log", "kept", "in_doubt"),
    [
        ([("a", True), ("a", False)], {}, set()),  # nobody has vouched for anything yet
        ([("a", True), OF_ONE, ("a", False)], {}, set()),
        ([("a", True), VOUCHED, ("a", False)], {"a": 0}, {"a"}),
        ([("a", True), VOUCHED, ("a", False), VOUCHED], {}, set()),
        ([("a", True), VOUCHED, ("a", False), ("a", True)], {"a": 3}, set()),
        ([("a", True), VOUCHED, ("a", False), ("b", True)], {"a": 0, "b": 3}, {"a"}),
    ],
)
def test_which_deletions_count(log: list[Entry], kept: dict[str, int], in_doubt: set[str]) -> None:
    assert read([laid(log)]) == Held(kept, in_doubt)
