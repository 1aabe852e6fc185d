"""The series table against a plain dictionary: rows, bounds, who is evicted."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.stream.table import SCRATCH, Field, SeriesTable


def table(rows_max: int) -> SeriesTable:
    return SeriesTable([Field("count", (), np.int64), Field("trace", (2,), np.float32, float("nan"))], rows_max)


def feed(target: SeriesTable, partitions: list[int], names: list[str]) -> list[str]:
    """Counts every name's ticks in its row; returns what was evicted, in order."""
    evictions: list[str] = []
    begin = 0
    while begin < len(names):
        before = list(target.names)
        rows, evicted = target.assign(np.array(partitions, dtype=np.int32), names, begin)
        evictions += [before[row] or "?" for row in evicted if row < len(before)]
        for row in rows:
            target.columns["count"][row] += 1
        begin += len(rows)
        assert len(rows) > 0, "every call takes at least one tick"
    return evictions


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdefgh")), min_size=1, max_size=80),
    st.integers(1, 6),
    st.lists(st.integers(0, 80), max_size=4),
)
def test_rows_follow_the_least_recently_seen_rule_however_the_ticks_are_cut(
    ticks: list[tuple[int, str]], rows_max: int, cuts: list[int]
) -> None:
    model: OrderedDict[tuple[int, str], int] = OrderedDict()
    evictions = 0
    for key in ticks:
        if key in model:
            model.move_to_end(key)
        elif len(model) == rows_max:
            model.popitem(last=False)
            evictions += 1
        model[key] = model.get(key, 0) + 1
    target = table(rows_max)
    edges = sorted({0, len(ticks), *(c for c in cuts if c < len(ticks))})
    for begin, end in pairwise(edges):
        feed(target, [p for p, _ in ticks[begin:end]], [n for _, n in ticks[begin:end]])
    held = {(p, n): int(target.columns["count"][r]) for p in (0, 1) for n, r in target.series(p).items()}
    assert held == dict(model)
    assert target.evictions == evictions
    assert target.used <= rows_max


def test_a_reused_row_is_fresh() -> None:
    target = table(1)
    feed(target, [0], ["a"])
    target.columns["trace"][0] = 7.0
    assert feed(target, [0], ["b"]) == ["a"]
    assert np.isnan(target.columns["trace"][0]).all()
    assert target.columns["count"][0] == 1


def test_a_dropped_partition_gives_its_rows_back() -> None:
    target = table(3)
    feed(target, [0, 0, 1], ["a", "b", "c"])
    assert target.drop(0) == 2
    assert target.find(0, "a") is None
    assert target.find(1, "c") is not None
    assert feed(target, [1, 1], ["d", "e"]) == []
    assert target.evictions == 0


def test_rows_are_fresh_up_to_the_bound_and_keep_what_they_hold() -> None:
    target = table(100)
    names = [f"s{i}" for i in range(100)]
    feed(target, [0] * 100, names)
    assert target.used == 100
    assert np.isnan(target.columns["trace"][:100]).all()
    assert [target.find(0, name) for name in names] == list(range(100))
    assert (target.columns["count"][:100] == 1).all()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_adopted_series_keep_their_rows_and_the_last_named_are_the_last_evicted(
    batches: list[list[str]], rows_max: int
) -> None:
    target, model = table(rows_max), OrderedDict[str, None]()
    feed(target, [1], ["of another partition"])
    for names in batches:
        if target.room(len(names)) < len(names):
            names = list(dict.fromkeys(names))[:rows_max]  # each once, as it is asked for
        before = dict(target.series(0))
        rows, given_out, _ = target.adopt(0, names)
        assert [target.names[row] for row in rows] == names
        assert set(target.series(0)) <= {*before, *names}
        assert set(given_out.tolist()) == {target.series(0)[name] for name in names if name not in before}
        assert len(set(given_out.tolist())) == len(given_out)
        assert (target.partition[rows] == 0).all()
        assert all(target.series(0)[name] == before[name] for name in before.keys() & set(names))
        for name in names:
            model[name] = None
            model.move_to_end(name)
        while len(model) > len(target.series(0)):
            model.popitem(last=False)
        assert set(model) == set(target.series(0))
        assert target.room(0) == rows_max - len(target)
    # What was offered and not taken is fresh for whoever comes.
    feed(target, [0] * rows_max, [f"new {i}" for i in range(rows_max)])
    rows = np.array([*target.series(0).values()])
    assert (target.columns["count"][rows] == 1).all()
    assert np.isnan(target.columns["trace"][rows]).all()


def test_churning_keys_cost_one_search_for_many() -> None:
    target = table(1000)
    names = [f"s{i}" for i in range(5000)]
    feed(target, [0] * 5000, names)
    assert len(target) == 1000
    assert set(target.series(0)) == set(names[-1000:])


def test_fields_that_are_added_together_lie_side_by_side_and_where_a_machine_wants_them() -> None:
    mixed = [Field("a", (3,), np.uint8, 9), Field("b", (2, 3), np.float16, 0.5), Field("c", (), np.float64, -1.0)]
    target = SeriesTable(mixed, 5)
    target.add([Field("alone", (), np.uint8)])
    block, dense = target.blocks
    assert (block.size, dense.size) == (24, 1)  # 8 + 12 + 3, and one to spare
    assert target.row_bytes() == 24 + 1 + 4 + 8 + 8
    for name, column in target.columns.items():
        assert column.flags.aligned and column.shape == (5 + SCRATCH, *target.fields[name].shape)
        assert np.shares_memory(column, (dense if name == "alone" else block).rows)
    feed_rows = target.assign(np.zeros(2, dtype=np.int32), ["x", "y"], 0)[0]
    assert (target.columns["a"][feed_rows] == 9).all() and (target.columns["b"][feed_rows] == 0.5).all()
    target.columns["c"][0] = 3.0
    assert (target.columns["a"][0] == 9).all() and target.columns["c"].tolist()[:2] == [3.0, -1.0]


def test_a_field_takes_another_shape_only_where_it_lies_alone() -> None:
    target = table(3)
    with pytest.raises(ValueError, match="'count' lies beside 1 others"):
        target.replace(Field("count", (2,), np.int64))
    with pytest.raises(ValueError, match="'trace' is in the table already"):
        target.add([Field("new", (), np.int64), Field("trace", (), np.int64)])
    target.add([Field("state", (0,), np.float32)])
    assert target.columns["state"].shape == (3 + SCRATCH, 0)
    feed(target, [0], ["a"])
    target.replace(Field("state", (4,), np.float32, 2.0))
    assert target.columns["state"][0].tolist() == [2.0] * 4
    assert [field.name for block in target.blocks for field in block.fields] == ["count", "trace", "state"]
    assert set(target.fields) == set(target.columns) == {"count", "trace", "state"}
