"""States as records: what is packed comes back bit for bit, and what is not right is refused, never guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import KINDS, NETWORKS, START, batch, cut, feed, laid, network, own, said, spec, states, walk

from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import NO_MODEL, Engine
from streamrnn.stream.snapshot import VERSION, NewerVersion, Restored, Snapshots
from streamrnn.stream.table import Field
from streamrnn.wire.packed import Packed


def engine(stream: StreamSpec, served: bool = True, **shape: Any) -> Engine:
    made = Engine(stream)
    if served:
        made.load(network(stream, **shape), "weights")
    return made


def packed(source: Engine, partition: int, position: int, life: int = 1) -> tuple[list[bytes], list[bytes]]:
    rows = np.array(sorted(source.table.series(partition).values()), dtype=np.int64)
    return Snapshots(source).pack(partition, rows, position, life)


def one_answer(*pieces: tuple[list[bytes], list[bytes]]) -> Packed:
    """Several (keys, records), behind each other."""
    return laid([key for keys, _ in pieces for key in keys], [record for _, records in pieces for record in records])


def moved(source: Engine, target: Engine, position: int) -> None:
    """Everything of partitions 0 and 1 from one engine to another."""
    into = Snapshots(target)
    into.learn(Snapshots(source).layout()[1])
    for partition in (0, 1):
        found = Restored()
        keys, records = packed(source, partition, position)
        into.restore(partition, laid(keys, records), found)
        assert found.rows == len(keys) and not found.refused
        target.front.restore_clock(partition, source.front.clock(partition))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000),
    st.integers(0, 249),
    st.booleans(),
    st.sampled_from(["one", "mean"]),
    st.sampled_from(list(KINDS)),
)
def test_going_on_from_a_snapshot_gives_the_same_bits(seed: int, at: int, served: bool, within: str, kind: str) -> None:
    """Also with steps that are still open (`within: mean` and lateness), and gaps that are filled later; with every kind of
    season and of experts."""
    stream = spec(within=within, lateness_ms=2000 if within == "mean" else 0, **KINDS[kind])
    ticks = walk(250, ["x", "y", "z"], seed=seed)
    at = min(at, len(ticks))
    whole, before, after = engine(stream, served), engine(stream, served), engine(stream, served)
    feed(whole, cut(ticks, 0, at))
    wanted = feed(whole, cut(ticks, at, len(ticks)))
    feed(before, cut(ticks, 0, at))
    moved(before, after, at)
    assert feed(after, cut(ticks, at, len(ticks))) == wanted
    assert states_without_applied(after) == states_without_applied(whole)


def states_without_applied(source: Engine) -> dict[tuple[int, str], dict[str, bytes]]:
    rows = states(source)
    for columns in rows.values():
        del columns["applied"]
    return rows


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(0, 120), st.lists(st.integers(0, 120), min_size=3, max_size=3))
def test_rows_taken_at_different_offsets_are_replayed_each_from_its_own(
    seed: int, begin: int, ahead: list[int]
) -> None:
    """A fuzzy checkpoint: the replay starts at `begin`, each series' row is from `begin` or later."""
    stream = spec()
    ticks = walk(300, ["x", "y", "z"], seed=seed)
    ticks.partition[:] = 0
    begin = min(begin, len(ticks))
    whole = engine(stream)
    wanted = feed(whole, ticks)
    found, restored = Restored(), engine(stream)
    source = engine(stream)
    feed(source, cut(ticks, 0, begin))
    clock = source.front.clock(0)
    position = begin
    for name, further in sorted(zip(["x", "y", "z"], ahead, strict=True), key=lambda pair: pair[1]):
        end = min(begin + further, len(ticks))
        feed(source, cut(ticks, position, end))
        position = max(position, end)
        row = source.table.find(0, name)
        if row is not None:
            keys, records = Snapshots(source).pack(0, np.array([row]), position, 1)
            Snapshots(restored).restore(0, laid(keys, records), found)
    restored.front.restore_clock(0, clock)
    replayed = feed(restored, cut(ticks, begin, len(ticks)))
    assert [row for row in replayed if row[0] >= position] == [row for row in wanted if row[0] >= position]
    assert states_without_applied(restored) == states_without_applied(whole)


def test_records_already_applied_say_nothing_and_move_nothing() -> None:
    stream = spec()
    ticks = walk(120, ["x", "y"])
    ticks.partition[:] = 0
    source, target = engine(stream), engine(stream)
    feed(source, ticks)
    keys, records = packed(source, 0, len(ticks))
    Snapshots(target).restore(0, laid(keys, records), Restored())
    before = states(target)
    assert said(stream, target.process(ticks), ticks) == []
    assert states(target) == before


def test_a_networks_state_that_comes_before_its_weights_is_kept() -> None:
    """A worker that has not read the weights yet restores what another computed with them."""
    stream = spec()
    ticks = walk(200, ["x", "y"])
    whole, before, after = engine(stream), engine(stream), engine(stream, served=False)
    feed(whole, cut(ticks, 0, 100))
    wanted = feed(whole, cut(ticks, 100, len(ticks)))
    feed(before, cut(ticks, 0, 100))
    moved(before, after, 100)
    after.load(network(stream), "weights")
    assert feed(after, cut(ticks, 100, len(ticks))) == wanted
    assert states_without_applied(after) == states_without_applied(whole)


@pytest.mark.parametrize("shape", NETWORKS, ids=str)
def test_the_state_of_every_kind_of_network_comes_back_bit_for_bit(shape: dict[str, Any]) -> None:
    """What a convolution reaches back to is state as a hidden unit is."""
    stream = spec()
    ticks = walk(160, ["x", "y"])
    whole, before, after = (engine(stream, **shape) for _ in range(3))
    feed(whole, cut(ticks, 0, 70))
    wanted = feed(whole, cut(ticks, 70, len(ticks)))
    feed(before, cut(ticks, 0, 70))
    assert before.table.columns["state"][before.table.find(0, "x")].any()
    moved(before, after, 70)
    assert feed(after, cut(ticks, 70, len(ticks))) == wanted
    assert states_without_applied(after) == states_without_applied(whole)


def test_states_with_and_without_a_networks_in_one_go() -> None:
    """Room is made for the network's at the first that has one; those without are of another layout from then on."""
    stream = spec()
    ticks = walk(120, ["x", "y", "z"])
    ticks.partition[:] = 0
    early, late, target = engine(stream, served=False), engine(stream), Engine(stream)
    feed(early, ticks)
    feed(late, ticks)
    into = Snapshots(target)
    into.learn(Snapshots(late).layout()[1])
    order, found = ((early, "x"), (late, "y"), (early, "z")), Restored()
    pieces = [
        Snapshots(source).pack(0, np.array([source.table.find(0, name)]), len(ticks), 1) for source, name in order
    ]
    into.restore(0, one_answer(*pieces), found)
    assert (found.rows, found.refused) == (3, {})
    for source, name in order:
        there, here = source.table.find(0, name), target.table.find(0, name)
        for column, values in source.table.columns.items():
            if column != "state" or source is late:
                assert target.table.columns[column][here].tobytes() == values[there].tobytes(), (name, column)


@pytest.mark.parametrize("last", [False, True], ids=["without a network's", "with a network's"])
def test_of_two_states_that_have_come_as_far_the_later_one_stays(last: bool) -> None:
    """Also where they are of different layouts, which are read one after the other: compaction keeps no other."""
    stream = spec()
    ticks = walk(120, ["x"])
    ticks.partition[:] = 0
    early, late, target = engine(stream, served=False), engine(stream), engine(stream)
    feed(early, ticks)
    feed(late, ticks)
    into = Snapshots(target)
    into.learn(Snapshots(early).layout()[1])
    order = (early, late) if last else (late, early)
    pieces = [Snapshots(source).pack(0, np.array([source.table.find(0, "x")]), len(ticks), 1) for source in order]
    into.restore(0, one_answer(*pieces), Restored())
    here, there = target.table.columns["generation"], order[-1].table.columns["generation"]
    assert here[target.table.find(0, "x")] == there[order[-1].table.find(0, "x")]
    assert early.table.columns["generation"][0] != late.table.columns["generation"][0]


def test_a_state_that_frames_have_passed_by_is_rebuilt() -> None:
    """Persistence serves for a while, the weights that computed the state come back: it is not that of before."""
    stream = spec()
    ticks = walk(200, ["x", "y"])
    away, fresh = engine(stream), engine(stream, served=False)
    for each in (away, fresh):
        feed(each, cut(ticks, 0, 60))
        each.use(NO_MODEL)
        feed(each, cut(ticks, 60, 130))
        each.load(network(stream), "weights")
        feed(each, cut(ticks, 130, len(ticks)))
    for where, columns in states(away).items():
        assert columns["state"] == states(fresh)[where]["state"]


def damage(record: bytes, at: int) -> bytes:
    return record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]


def test_one_flipped_bit_anywhere_is_refused() -> None:
    stream = spec()
    source = engine(stream)
    feed(source, walk(60, ["x"]))
    keys, records = packed(source, 0, 60)
    target = engine(stream)  # the same for all: nothing of any gets into it
    snapshots = Snapshots(target)
    for at in range(len(records[0])):
        found = Restored()
        try:
            snapshots.restore(0, laid(keys[:1], [damage(records[0], at)]), found)
        except NewerVersion:
            assert at == 10  # the version itself
            continue
        assert found.rows == 0 and sum(found.refused.values()) == 1, at
        assert len(target.table) == 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: r[:5], "short"),
        (lambda r: r[:-1], "digest"),
        (lambda r: r + b"x", "digest"),
        (lambda r: b"\x80\x04" + r, "not-a-state"),  # a pickle's first bytes, or anything else
        (lambda r: b"", "short"),
    ],
)
def test_what_is_not_a_state_is_refused(spoil: Any, reason: str) -> None:
    stream = spec()
    source, target, found = engine(stream), engine(stream), Restored()
    feed(source, walk(60, ["x"]))
    keys, records = packed(source, 0, 60)
    Snapshots(target).restore(0, laid(keys[:1], [spoil(records[0])]), found)
    assert found.refused == {reason: 1} and found.rows == 0


def test_a_record_under_another_series_or_of_another_partition_is_refused() -> None:
    stream = spec()
    source, target, found = engine(stream), engine(stream), Restored()
    feed(source, walk(60, ["x"]))
    keys, records = packed(source, 0, 60)
    snapshots = Snapshots(target)
    snapshots.restore(0, laid([b"y"], records[:1]), found)
    snapshots.restore(1, laid(keys[:1], records[:1]), found)
    assert found.refused == {"digest": 1, "partition": 1} and len(target.table) == 0


def test_a_newer_version_is_not_guessed_at() -> None:
    stream = spec()
    source = engine(stream)
    feed(source, walk(60, ["x"]))
    keys, records = packed(source, 0, 60)
    newer = records[0][:10] + bytes([VERSION + 1]) + records[0][11:]
    with pytest.raises(NewerVersion, match="upgrade this worker"):
        Snapshots(engine(stream)).restore(0, laid(keys[:1], [newer]), Restored())


def test_a_state_with_fewer_columns_is_read_by_their_names() -> None:
    """What an older version wrote: a column that came later starts fresh, one that is no more is left out."""
    stream = spec()
    older, newer = engine(stream), engine(stream)
    # Beside others, in blocks that are filled up by another number of bytes.
    older.table.add([Field("of_old", (2,), np.float32, 7.0), Field("both", (), np.uint16, 5)])
    newer.table.add(
        [Field("of_late", (), np.float32, 3.0), Field("both", (), np.uint16, 0), Field("more", (), np.uint8)]
    )
    feed(older, walk(60, ["x"]))
    snapshots = Snapshots(older)
    keys, records = packed(older, 0, 60)
    target, found = Snapshots(newer), Restored()
    target.restore(0, laid(keys, records), found)
    assert found.refused == {"layout-unknown": len(keys)}  # not before the description was read
    target.learn(snapshots.layout()[1])
    target.restore(0, laid(keys, records), found)
    assert found.rows == len(keys)
    row = newer.table.find(0, "x")
    assert row is not None and newer.table.columns["of_late"][row] == 3.0
    assert newer.table.columns["both"][row] == 5
    before = older.table.columns["state"][older.table.find(0, "x")]
    assert np.array_equal(newer.table.columns["state"][row], before)


def test_the_record_that_has_come_further_is_kept_whatever_the_order() -> None:
    stream = spec()
    ticks = walk(120, ["x"])
    ticks.partition[:] = 0
    source = engine(stream)
    feed(source, cut(ticks, 0, 50))
    early = packed(source, 0, 50)
    feed(source, cut(ticks, 50, len(ticks)))
    late = packed(source, 0, len(ticks))
    for order in ([early, late], [late, early]):
        for together in (True, False):
            target, found = engine(stream), Restored()
            snapshots = Snapshots(target)
            if together:
                snapshots.restore(0, one_answer(*order), found)
            else:
                for keys, records in order:
                    snapshots.restore(0, laid(keys, records), found)
            assert states(target) == states(source)


def test_ticks_that_a_newer_state_holds_back_outlive_an_older_one() -> None:
    stream = spec(within="mean", lateness_ms=2000)
    ticks = walk(120, ["x"])
    ticks.partition[:] = 0
    early, late, target = engine(stream), engine(stream), engine(stream)
    for each, until in ((early, 60), (late, 120)):
        feed(each, cut(ticks, 0, until))
    early.front.forget_held(early.table.series(0).values())
    held = [each.front.held_bytes(each.table.find(0, "x") or 0) for each in (early, late)]
    assert held[1] and not held[0]
    into, found = Snapshots(target), Restored()
    for keys, records in (packed(early, 0, 60), packed(late, 0, 120), packed(early, 0, 60)):
        into.restore(0, laid(keys, records), found)
    assert target.front.held_bytes(target.table.find(0, "x") or 0) == held[1]
    assert states(target)[0, "x"] == states(late)[0, "x"]


def test_a_newer_life_wins_over_a_higher_offset() -> None:
    stream = spec()
    source = engine(stream)
    feed(source, walk(60, ["x"]))
    old = packed(source, 0, 5000, life=1)
    source = engine(stream)
    feed(source, walk(30, ["x"], seed=9))
    new = packed(source, 0, 30, life=2)
    target, found = engine(stream), Restored()
    snapshots = Snapshots(target)
    for keys, records in (old, new, old):
        snapshots.restore(0, laid(keys, records), found)
    assert states(target)[0, "x"] == states(source)[0, "x"]
    there = target.table.series(0)
    assert found.life == 2 and found.orphans(there, 2) == [] and found.orphans(there, 1) == ["x"]


def test_a_row_that_was_let_go_says_nothing_of_the_series_that_is_given_it() -> None:
    stream = spec()
    source, target, found = engine(stream), engine(stream), Restored()
    feed(source, walk(60, ["x"]))
    snapshots = Snapshots(target)
    snapshots.restore(0, laid(*packed(source, 0, 5000, life=2)), found)
    row = target.table.find(0, "x")
    target.forget(0, "x")
    other = engine(stream)
    feed(other, walk(60, ["y"]))
    snapshots.restore(0, laid(*packed(other, 0, 60, life=1)), found)
    assert target.table.find(0, "y") == row and found.rows == 2
    assert states(target)[0, "y"] == states(other)[0, "y"]


def test_a_series_that_is_let_go_takes_the_ticks_it_holds_back_with_it() -> None:
    stream = spec(within="mean", lateness_ms=2000)
    made, fresh = engine(stream), engine(stream)
    feed(made, walk(60, ["x"]))
    assert made.front.ticks_held
    made.forget(0, "x")
    assert not made.front.ticks_held
    for each in (made, fresh):
        feed(each, walk(60, ["y"], seed=3))
    assert own(states(made)[0, "y"]) == own(states(fresh)[0, "y"])


def test_more_states_than_rows_keep_the_ones_that_moved_last() -> None:
    stream = spec(series_max=8)
    source = engine(stream)
    snapshots, target, found = Snapshots(source), engine(spec(series_max=4)), Restored()
    keys: list[bytes] = []
    records: list[bytes] = []
    for i in range(8):
        feed(source, batch([f"s{i}"], [START + i * 1000], [[1.0, 2.0, 3.0]]))
        more = snapshots.pack(0, np.array([source.table.find(0, f"s{i}")]), i + 1, 1)
        keys += more[0]
        records += more[1]
    Snapshots(target).restore(0, laid(keys, records), found)
    assert sorted(target.table.series(0)) == ["s4", "s5", "s6", "s7"]
    assert found.refused == {"series_max": 4}
