"""Memory grows with the series that come, not with `series_max`, and growing changes no bit of any result."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import cut, feed, laid, network, spec, states, walk

from streamrnn.stream import reserved, table
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Restored, Snapshots

NAMES = [f"s{i}" for i in range(30)]


@contextmanager
def memory_for(rows: int, first: int = 2) -> Iterator[None]:
    """A system that reserves no more rows than these, and a table that begins with `first`."""

    def scarce(count: int, row_bytes: int) -> Any:
        if count > rows + table.SCRATCH:
            raise MemoryError(f"{count} rows of {row_bytes} bytes")
        return reserved.reserve(count, row_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "reserve", scarce)
        patch.setattr(table, "ROWS_FIRST", first)
        yield


@pytest.mark.parametrize("series_max", [50_000_000, 2_000_000_000], ids=["reserved", "beyond all addresses"])
def test_a_series_max_beyond_the_machine_s_memory_costs_what_the_series_cost_that_come(series_max: int) -> None:
    stream = spec(channels=tuple(f"c{i}" for i in range(24)), horizon=48, series_max=series_max)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    engine = Engine(stream)
    engine.load(network(stream), "weights")
    ticks = walk(60, NAMES[:4], channels=24)
    assert feed(engine, ticks)
    assert engine.table.row_bytes() * series_max > 1 << 40
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # A table that grows by copying has 1,024 rows first, and huge pages are given whole.
    assert grown_kb < 3 * table.ROWS_FIRST * engine.table.row_bytes() / 1024


def test_where_addresses_are_free_nothing_is_ever_copied() -> None:
    target = table.SeriesTable([table.Field("count", (8,), np.int64)], 100_000_000)
    rows = target.blocks[0].rows
    target.assign(np.zeros(5000, dtype=np.int32), [f"{i}" for i in range(5000)], 0)
    assert target.blocks[0].rows is rows
    assert target.capacity == 100_000_000


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.lists(st.integers(0, 250), max_size=4), st.sampled_from(["one", "mean"]))
def test_a_table_that_grows_gives_the_same_bits(seed: int, edges: list[int], within: str) -> None:
    """Through forecasting, checkpoint and restore, with steps held open and with a network that comes in the middle."""
    stream = spec(within=within, lateness_ms=2000 if within == "mean" else 0, series_max=4096)
    ticks = walk(250, NAMES, seed=seed)
    half = len(ticks) // 2

    def lived() -> tuple[Any, ...]:
        engine = Engine(stream)
        said = feed(engine, cut(ticks, 0, half), edges)
        engine.load(network(stream), "weights")
        said += feed(engine, cut(ticks, half, len(ticks)), edges)
        kept, back = Snapshots(engine), Engine(stream)
        back.load(network(stream), "weights")
        into = Snapshots(back)
        into.learn(kept.layout()[1])
        found, records = Restored(), []
        for partition in (0, 1):
            rows = np.array(list(engine.table.series(partition).values()), dtype=np.int64)
            packed = kept.pack(partition, rows, len(ticks), 1)
            records.append(packed)
            for part in range(0, len(rows), 7):  # piece by piece, as it is read
                chosen = slice(part, part + 7)
                into.restore(partition, laid(packed[0][chosen], packed[1][chosen]), found)
        assert not found.refused
        assert states(back) == states(engine)
        return said, records, states(engine), engine.table.capacity

    *plain, capacity = lived()
    assert capacity == 4096
    with memory_for(rows=1000):
        *grown, capacity = lived()
    assert capacity < 100
    assert plain == grown


def test_series_that_came_long_ago_make_room_where_memory_ends() -> None:
    with memory_for(rows=8):
        target = table.SeriesTable([table.Field("count", (), np.int64)], 1_000_000)
        for name in NAMES:
            target.assign(np.zeros(1, dtype=np.int32), [name], 0)
        assert set(target.series(0)) == set(NAMES[-8:])
        assert target.short_of_memory and target.rows_max == 8
        rows, _, _ = target.adopt(0, NAMES[-8:])
        assert len(set(rows.tolist())) == 8
        assert target.room(5) == 0


def test_more_states_than_there_is_memory_for_keep_those_that_moved_last() -> None:
    stream = spec(series_max=1_000_000)
    source = Engine(stream)
    feed(source, walk(120, NAMES))
    kept = Snapshots(source)
    rows = np.array(list(source.table.series(0).values()), dtype=np.int64)
    with memory_for(rows=4):
        target = Engine(stream)
        into, found = Snapshots(target), Restored()
        into.learn(kept.layout()[1])
        into.restore(0, laid(*kept.pack(0, rows, 120, 1)), found)
        assert len(target.table.series(0)) == 4
        assert target.table.short_of_memory
