"""Series that come by more than one partition are noticed: exactly those, at no cost for those that are known."""

from __future__ import annotations

import numpy as np
import pytest
from making import START, batch, spec

from streamrnn.records import TickBatch
from streamrnn.stream.frontend import FrontEnd
from streamrnn.stream.places import PLACES_MAX, Places


def arrived(ticks: list[tuple[str, int, int]]) -> TickBatch:
    """Ticks as (series, partition, step)."""
    names, partitions = [series for series, *_ in ticks], [partition for _, partition, _ in ticks]
    return batch(names, [START + 1000 * step for *_, step in ticks], np.ones((len(ticks), 3)), partitions)


def front(series_max: int = 100) -> FrontEnd:
    return FrontEnd(spec(series_max=series_max), fills_ahead=False)


def feed(served: FrontEnd, ticks: list[tuple[str, int, int]], cut: int) -> None:
    for at in range(0, len(ticks), cut):
        piece = arrived(ticks[at : at + cut])
        begin = 0
        while begin < len(piece):
            begin += served.process(piece, begin).consumed


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_producer_without_a_key_spreads_its_series_and_that_is_noticed(cut: int) -> None:
    """As collectd does: a new random key for every record."""
    served = front()
    rng = np.random.default_rng(3)
    feed(served, [(f"s{i}", int(rng.integers(4)), step) for step in range(30) for i in range(5)], cut)
    assert 5 <= served.places.count <= 15
    assert (served.table.names[served.places.row] or "").startswith("s")
    first, second = served.places.partitions
    assert first != second and {first, second} <= {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cut", [1, 50])
def test_exactly_the_series_that_are_in_two_partitions_are_noticed(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    shared = {f"s{i}" for i in rng.choice(60, 7, replace=False)}
    ticks = []
    for step in range(6):
        for i in rng.permutation(60).tolist():
            name = f"s{i}"
            ticks.append((name, (i + (step % 2 if name in shared else 0)) % 3, step))
    served = front(1000)
    feed(served, ticks, cut)
    assert served.places.count == len(shared)
    assert served.table.names[served.places.row] in shared


def test_series_that_are_known_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    served = front()
    feed(served, [(f"s{i}", i % 2, 0) for i in range(20)], 20)
    monkeypatch.setattr(served.places, "note", None)
    feed(served, [(f"s{i}", i % 2, step) for step in range(1, 5) for i in range(20)], 20)
    assert served.places.count == 0


def test_more_series_than_there_is_room_for_are_still_noticed() -> None:
    """Each evicts another one before it comes back: no two rows of a name are ever there at a time."""
    served = front(8)
    rng = np.random.default_rng(1)
    feed(served, [(f"s{i}", int(rng.integers(4)), step) for step in range(6) for i in range(300)], 100)
    assert served.places.count > 300


def test_a_partition_that_is_given_up_is_forgotten() -> None:
    """What the next owner does with it is not seen here: a series found elsewhere later on may have moved."""
    served = front()
    feed(served, [("a", 1, 0), ("b", 0, 0)], 10)
    served.drop(1)
    feed(served, [("a", 2, 1)], 10)
    assert served.places.count == 0
    feed(served, [("b", 2, 1)], 10)
    assert (served.places.count, served.places.partitions) == (1, (0, 2))


def test_memory_is_bounded() -> None:
    places = Places(10_000_000)
    assert len(places._identity) == len(places._partition) == PLACES_MAX
    rows = np.arange(3 * PLACES_MAX, dtype=np.int64)
    for partition in range(2):
        places.note(rows, rows * 7919 + 1, np.full(len(rows), partition, dtype=np.int32))
    assert len(places._identity) == PLACES_MAX
    assert places.count > 0
