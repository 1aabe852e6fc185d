"""The series table against a plain dictionary: rows, bounds, who is let go."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.stream.table import Field, SeriesTable


def table(rows_max: int) -> SeriesTable:
    return SeriesTable([Field("count", (), np.int64), Field("trace", (2,), np.float32, float("nan"))], rows_max)


def feed(target: SeriesTable, partitions: list[int], names: list[str]) -> list[str]:
    """Counts every name's ticks in its row; returns what was let go, in order."""
    gone: list[str] = []
    begin = 0
    while begin < len(names):
        before = list(target.names)
        rows, evicted = target.assign(np.array(partitions, dtype=np.int32), names, begin)
        gone += [before[row] or "?" for row in evicted if row < len(before)]
        for row in rows:
            target.columns["count"][row] += 1
        begin += len(rows)
        assert len(rows) > 0, "every call takes at least one tick"
    return gone


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
    assert np.isnan(target.columns["trace"]).all()
    assert [target.find(0, name) for name in names] == list(range(100))
    assert (target.columns["count"] == 1).all()


def test_churning_keys_cost_one_search_for_many() -> None:
    target = table(1000)
    names = [f"s{i}" for i in range(5000)]
    feed(target, [0] * 5000, names)
    assert len(target) == 1000
    assert set(target.series(0)) == set(names[-1000:])
