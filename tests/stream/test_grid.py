"""The event-time grid: the compiled twin against the reference, and the reference against the sorted order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import making
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import START

from streamrnn.records import KIND_GAP, KIND_IDLE, KIND_TICK, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import Frames, FrontEnd

NAN = float("nan")


def spec(**changes: Any) -> StreamSpec:
    base = {"channels": ("a", "b"), "horizon": 3, "gap_max": 5, "idle_after_ms": 8000, "series_max": 50}
    return making.spec(**{**base, "future_max_ms": 60_000, **changes})


def ticks(rows: list[tuple[str, int, tuple[float, float], int]], partition: list[int] | None = None) -> TickBatch:
    """(series, ts, values, channel) rows; every record was appended at its own time or, for late ones, whenever."""
    ts = np.array([row[1] for row in rows], dtype=np.int64)
    values = np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), 2)
    names, channel = [row[0] for row in rows], [row[3] for row in rows]
    return making.batch(names, ts, values, partition or 0, np.minimum(ts, START + 500_000), channel)


def wide(series: str, ts: int, a: float = 1.0, b: float = 2.0) -> tuple[str, int, tuple[float, float], int]:
    return series, START + ts, (a, b), -1


def run(front: FrontEnd, batch: TickBatch, cuts: list[int] | None = None) -> tuple[list[Any], list[Any]]:
    """All frames as (step, kind, values, source offset, sent ahead), grouped by series, and all refusals with details."""
    frames_by_series: dict[str, list[Any]] = {}
    rejected: list[Any] = []
    edges = [0, *sorted(set(cuts or [])), len(batch)]
    for begin, end in pairwise(edges):
        part = making.cut(batch, begin, end)
        done = 0
        while done < len(part):
            frames = front.process(part, done)
            done += frames.consumed
            collect(front, frames, part, frames_by_series)
            rejected += [(int(part.offset[i]), reason, detail) for i, reason, detail in frames.rejected]
            for first in range(0, len(frames.silent), 3):
                collect(front, front.ahead(frames.silent[first : first + 3]), part, frames_by_series)
    return sorted(frames_by_series.items()), rejected


def collect(front: FrontEnd, frames: Frames, part: TickBatch, into: dict[str, list[Any]]) -> None:
    for i in range(len(frames)):
        values = tuple(None if np.isnan(v) else float(v) for v in frames.values[i])
        row = (
            int(frames.step[i]),
            int(frames.kind[i]),
            values,
            int(part.offset[frames.tick[i]]),
            bool(frames.shown[i]),
        )
        into.setdefault(front.series_name(int(frames.owner[i])), []).append(row)


def reference(stream: StreamSpec) -> FrontEnd:
    front = FrontEnd(stream)
    front._plain = False  # the reference path, also where the compiled one would serve
    return front


times = st.integers(0, 60).map(lambda n: n * 500)
arrivals = st.lists(st.tuples(st.sampled_from("vwxyz"), times, st.integers(0, 1)), max_size=60)


@settings(deadline=None, max_examples=150)
@given(arrivals, st.lists(st.integers(0, 60), max_size=5), st.sampled_from([1000, 0]))
def test_the_compiled_grid_equals_the_reference_however_the_ticks_are_cut(
    rows: list[tuple[str, int, int]], cuts: list[int], step_ms: int
) -> None:
    # Times run mostly forward, so that gaps, idle series, duplicates and late ticks all occur.
    walk = [wide(name, i * 700 + ts % 3000) for i, (name, ts, _) in enumerate(rows)]
    batch = ticks(walk, [{"v": 1, "w": 1, "x": 0, "y": 1, "z": 1}[row[0]] for row in walk])
    stream = spec(step_ms=step_ms)
    expected = run(reference(stream), batch)
    assert run(FrontEnd(stream), batch, [c for c in cuts if c < len(batch)]) == expected


@settings(deadline=None, max_examples=150)
@given(
    st.permutations(range(12)),
    st.sampled_from(["one", "last", "mean", "sum"]),
    st.integers(0, 6),
    st.lists(st.floats(-1e6, 1e6), min_size=12, max_size=12),
)
def test_inside_the_lateness_arrival_order_changes_nothing(
    order: list[int], within: Any, lateness_s: int, numbers: list[float]
) -> None:
    # One tick per 400 ms (three a step), or one per step where only one is allowed.
    spacing = 1000 if within == "one" else 400
    rows = [wide("x", i * spacing, numbers[i], numbers[-i]) for i in range(12)]
    lateness_ms = lateness_s * 1000
    # A permutation that never delays a tick by more than the lateness.
    shuffled = sorted(range(12), key=lambda i: (i * spacing + order[i] % 2 * max(lateness_ms - 1000, 0), i))
    closing = wide("x", 100_000)
    stream = spec(within=within, lateness_ms=lateness_ms, gap_max=200)
    front_a, front_b = FrontEnd(stream), FrontEnd(stream)
    sorted_frames, sorted_rejected = run(front_a, ticks([*rows, closing]))
    frames, rejected = run(front_b, ticks([*(rows[i] for i in shuffled), closing]))
    strip = [(name, [row[:3] for row in rows]) for name, rows in frames]
    assert strip == [(name, [row[:3] for row in rows]) for name, rows in sorted_frames]
    assert rejected == sorted_rejected == []


def kinds(frames: list[Any], series: str = "x") -> list[tuple[int, int]]:
    first = START // 1000
    return [(row[0] - first, row[1]) for row in dict(frames)[series]]


def test_a_gap_is_filled_when_a_later_step_closes_and_only_up_to_gap_max() -> None:
    front = FrontEnd(spec())
    frames, _ = run(front, ticks([wide("x", 0), wide("x", 3000), wide("x", 20_000)]))
    assert kinds(frames) == [
        (0, KIND_TICK),
        (1, KIND_GAP),
        (2, KIND_GAP),
        (3, KIND_TICK),
        *[(k, KIND_GAP) for k in range(4, 9)],
        (20, KIND_TICK),
    ]


def ahead(frames: list[Any], series: str = "x") -> list[int]:
    """The steps of a series that were filled ahead and sent."""
    first = START // 1000
    return [row[0] - first for row in dict(frames)[series] if row[1] == KIND_IDLE and not row[4]]


def others(seconds: range) -> list[tuple[str, int, tuple[float, float], int]]:
    """Two more series, a tick a second each: the log's time goes on when both have spoken."""
    return [wide(name, 1000 * k) for k in seconds for name in ("y", "z")]


@pytest.mark.parametrize("make", [FrontEnd, reference])
def test_a_silent_series_is_filled_ahead_by_the_logs_time_and_then_rests(make: Any) -> None:
    front = make(spec())
    frames, rejected = run(front, ticks([wide("x", 0), *others(range(12)), wide("x", 30_000)]))
    assert rejected == []
    # The log's time has gone on by 8 s: filled up to the newest step that has ended on x's own clock (7), at most gap_max = 5.
    assert ahead(frames) == [1, 2, 3, 4, 5]
    # When it speaks again, its gaps are stepped through but not sent once more.
    spoken = [row for row in dict(frames)["x"] if row[1] != KIND_IDLE]
    assert [(row[0] - START // 1000, row[1], row[4]) for row in spoken] == [
        (0, KIND_TICK, False),
        *[(k, KIND_GAP, True) for k in range(1, 6)],
        (30, KIND_TICK, False),
    ]


@pytest.mark.parametrize("make", [FrontEnd, reference])
def test_what_was_filled_ahead_is_not_closed(make: Any) -> None:
    front = make(spec())
    rows = [wide("x", 0), *others(range(12)), wide("x", 2000, 7.0), wide("x", 4000)]
    frames, rejected = run(front, ticks(rows))
    assert rejected == []
    assert ahead(frames) == [1, 2, 3, 4, 5]
    first = START // 1000
    assert [(row[0] - first, row[1], row[4]) for row in dict(frames)["x"] if row[1] != KIND_IDLE] == [
        (0, KIND_TICK, False),
        (1, KIND_GAP, True),
        (2, KIND_TICK, False),  # served, though it had been filled
        (3, KIND_GAP, False),  # another fill than before: it knows of the tick at 2
        (4, KIND_TICK, False),
    ]


def test_steps_held_open_are_sent_ahead_and_stay_open() -> None:
    front = FrontEnd(spec(lateness_ms=5000, idle_after_ms=8000, within="mean"))
    rows = [wide("x", 0, 1.0), wide("x", 1000, 3.0), *others(range(20)), wide("x", 1500, 5.0), wide("x", 9000)]
    frames, rejected = run(front, ticks(rows))
    assert rejected == []
    first = START // 1000
    sent = [(row[0] - first, row[2][0]) for row in dict(frames)["x"] if row[1] == KIND_TICK and not row[4]]
    # Ahead: 0 and 1 as they stood. Step 1 gets another tick later and is sent as it closes; step 0 is not sent twice.
    assert sent == [(0, 1.0), (1, 3.0), (1, 4.0)]


def test_another_partition_does_not_make_a_series_silent() -> None:
    front = FrontEnd(spec())
    rows = [wide("x", 0), *others(range(12))]
    frames, _ = run(front, ticks(rows, [0, *[1] * 24]))
    assert kinds(frames) == [(0, KIND_TICK)]


@pytest.mark.parametrize("compiled", [True, False])
def test_late_duplicate_and_future_are_refused_and_move_nothing(compiled: bool) -> None:
    stream = spec()
    front = FrontEnd(stream) if compiled else reference(stream)
    rows = [
        wide("x", 0),
        wide("x", 5000),
        wide("x", 5500),  # the same step again
        wide("x", 2000),  # a step that is closed
        wide("x", 400_000_000),  # far ahead of its own record
        wide("x", 6000),
    ]
    frames, rejected = run(front, ticks(rows))
    assert [row[:2] for row in rejected] == [(2, "duplicate"), (3, "late"), (4, "future")]
    assert [row for row in kinds(frames) if row[1] == KIND_TICK] == [(0, KIND_TICK), (5, KIND_TICK), (6, KIND_TICK)]


def test_long_ticks_close_their_step_when_every_channel_came_or_a_later_step_begins() -> None:
    front = FrontEnd(spec())
    rows = [
        ("x", START, (1.0, NAN), 0),
        ("x", START + 10, (NAN, 2.0), 1),  # complete: closes at once
        ("x", START + 1000, (3.0, NAN), 0),
        ("x", START + 2000, (4.0, NAN), 0),  # the step before closes with one channel
        ("x", START + 2000, (5.0, NAN), 0),  # the same channel again
    ]
    frames, rejected = run(front, ticks(rows))
    assert [(row[2], row[3]) for row in dict(frames)["x"]] == [((1.0, 2.0), 1), ((3.0, None), 3)]
    assert [row[:2] for row in rejected] == [(4, "duplicate")]


@pytest.mark.parametrize(
    ("within", "duplicates", "expected"),
    [
        ("last", "keep", 9.0),
        ("mean", "keep", 3.75),
        ("sum", "keep", 15.0),
        ("last", "refuse", 3.0),
        ("mean", "refuse", 2.0),
        ("sum", "refuse", 6.0),
    ],
)
def test_ticks_of_a_step_are_combined_and_equal_times_are_different_events(
    within: Any, duplicates: Any, expected: float
) -> None:
    front = FrontEnd(spec(within=within, duplicates=duplicates))
    rows = [wide("x", 0, 1.0), wide("x", 300, 2.0), wide("x", 800, 3.0), wide("x", 800, 9.0), wide("x", 1000, 7.0)]
    frames, rejected = run(front, ticks(rows))
    assert [row[2][0] for row in dict(frames)["x"]] == [expected]
    assert [row[:2] for row in rejected] == ([] if duplicates == "keep" else [(3, "duplicate")])


def test_a_series_holds_back_at_most_pending_max_ticks() -> None:
    front = FrontEnd(spec(within="mean", pending_max=3))
    _, rejected = run(front, ticks([wide("x", k) for k in range(5)]))
    assert [row[:2] for row in rejected] == [(3, "pending-full"), (4, "pending-full")]


def test_more_gaps_than_the_output_holds_are_written_in_pieces() -> None:
    front = FrontEnd(spec(gap_max=300))
    front._capacity = 7
    rows = [wide(name, step * 1000) for step in (0, 250) for name in ("x", "y", "z")]
    frames, _ = run(front, ticks(rows))
    assert all(len(rows) == 251 for _, rows in frames)
