"""The event-time grid for the common case: wide ticks, one per step, no lateness; or irregular ticks.

The rules are those of `streamrnn.stream.grid.GridReference`, which also serves the other cases (long records, aggregation
within a step, lateness); tests hold the two against each other tick by tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.kernels.silence import attend, counts, place_of, silent_for_ms, time_ms
from streamrnn.kernels.steps import index_of, start_of
from streamrnn.records import F64, I32, I64, KIND_GAP, KIND_TICK, U8

# Statuses of a tick, in the order of `streamrnn.stream.grid.STATUS_REASONS`.
ACCEPTED, LATE, DUPLICATE, FUTURE, PENDING_FULL, IMPLAUSIBLE = range(6)
REPLAYED = 6  # the row's state is from after this record already (a restored one, during the silent replay)

NEVER = np.iinfo(np.int64).min // 4  # far enough from the edge that sums with it do not overflow
# Longer than any span of time that means something, and short enough that its microseconds do not overflow.
PASSED_MAX_MS = 1 << 50
# A row's `resting`: its silence was noticed (its gaps were filled ahead), or is to be filled at the end of this stretch.
AWAKE, RESTS, FALLS_SILENT = 0, 1, 2


class Rules(NamedTuple):
    """What a stream's grid goes by; times in the units of the names, `edges` and `starts` as in `calendar.StepGrid`."""

    step_us: int
    shift_us: int
    first: int
    edges: I64
    starts: I64
    idle_after_ms: int
    gap_max: int
    future_max_ms: int
    past_max_ms: int
    fills_ahead: bool  # whether silent series are looked for


class GridState(NamedTuple):
    """Views of the table's columns that belong to the grid ([row]), and each partition's clock ([partition]).

    `last_step` is the newest step that is closed, `previewed` the newest whose outputs were sent ahead of it, `last_us` the
    series' event time, `heard_at` and `heard_ms` say which record of the partition was its last, and that one's own time.
    """

    partition: I32
    identity: I64
    last_step: I64
    last_us: I64
    heard_at: I64
    heard_ms: I64
    previewed: I64
    resting: U8
    applied: I64
    clock: I64


class Ticks(NamedTuple):
    """The ticks of a batch that have rows; `status` and `closed` (the step that was closed last, where it refuses) are
    written."""

    slot: I32
    partition: I32
    offset: I64
    ts_us: I64
    record_ms: I64
    status: U8
    closed: I64


class FrameList(NamedTuple):
    """Frames as they are written; `shown`: its outputs were sent ahead."""

    slot: I32
    step: I64
    ts_us: I64
    kind: U8
    tick: I64
    shown: U8


class Silences(NamedTuple):
    """Series that fell silent: row, the tick that shows it, the steps after `shown` up to `until` that are filled ahead."""

    row: I32
    tick: I64
    shown: I64
    until: I64


def frame_list(size: int) -> FrameList:
    return FrameList(
        np.empty(size, dtype=np.int32),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.uint8),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.uint8),
    )


def taken(frames: FrameList, chosen: slice | I64) -> FrameList:
    """Some of the frames."""
    return FrameList(
        frames.slot[chosen],
        frames.step[chosen],
        frames.ts_us[chosen],
        frames.kind[chosen],
        frames.tick[chosen],
        frames.shown[chosen],
    )


def joined(parts: Sequence[FrameList]) -> FrameList:
    """Frames one after the other."""
    return FrameList(
        np.concatenate([part.slot for part in parts]),
        np.concatenate([part.step for part in parts]),
        np.concatenate([part.ts_us for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.tick for part in parts]),
        np.concatenate([part.shown for part in parts]),
    )


def silences(size: int) -> Silences:
    return Silences(
        np.empty(size, dtype=np.int32),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.int64),
    )


@compiled
def known_times(rules: Rules) -> tuple[int, int]:
    """(first, end) of the event times that the calendar's table knows; without a table, all."""
    edges = rules.edges
    if edges.shape[0] > 0:
        return edges[0], edges[edges.shape[0] - 2]
    return -np.iinfo(np.int64).max, np.iinfo(np.int64).max


@compiled
def implausible(ts_us: int, record_ms: int, first_us: int, end_us: int, past_max_ms: int, future_max_ms: int) -> int:
    """Status of an event time by its record's own Kafka timestamp (-1: it has none) and by `known_times`.

    It takes numbers, not `Rules`: a call that passes arrays costs more than all that is done here.
    """
    if not first_us <= ts_us < end_us:
        return IMPLAUSIBLE
    if record_ms < 0:
        return ACCEPTED
    ahead_ms = ts_us // 1000 - record_ms
    if ahead_ms > past_max_ms or ahead_ms < -past_max_ms:
        return IMPLAUSIBLE
    return FUTURE if ts_us > (record_ms + future_max_ms) * 1000 else ACCEPTED


@compiled
def align(
    begin: int, rows: int, ticks: Ticks, rules: Rules, state: GridState, out: FrameList, found: Silences, silent: int
) -> tuple[int, int, int, int, bool]:
    """Takes ticks `begin..` in arrival order and writes the frames they give, until the output is full.

    Returns (ticks consumed, frames written, gap steps beyond `gap_max` that were skipped, series found silent so far, of
    which there were `silent` before, whether it stopped before a tick of one of those). `rows` of the table are in use.
    A record below `applied` has moved its series before (the state was restored from after it): it moves the log's clock,
    and no row that is ahead of it.
    """
    capacity = out.slot.shape[0]
    written = 0
    skipped = 0
    irregular = rules.step_us == 0
    first_us, end_us = known_times(rules)
    p = 0
    clock = state.clock[p]
    i = begin
    while i < ticks.slot.shape[0]:
        s = ticks.slot[i]
        if state.resting[s] == FALLS_SILENT:
            return i - begin, written, skipped, silent, True
        if ticks.partition[i] != p:
            p = ticks.partition[i]
            clock = state.clock[p]
        t = ticks.ts_us[i]
        replayed = ticks.offset[i] < state.applied[s]
        step = index_of(t, rules.step_us, rules.shift_us, rules.first, rules.edges)
        last = state.last_step[s]
        status = implausible(t, ticks.record_ms[i], first_us, end_us, rules.past_max_ms, rules.future_max_ms)
        if status == ACCEPTED:
            if replayed:
                status = REPLAYED
            elif step <= last:
                status = DUPLICATE if step == last else LATE
        gaps, fill = 0, 0
        if status == ACCEPTED and not irregular and last > NEVER:
            gaps = step - last - 1
            fill = min(gaps, rules.gap_max)
        if written + fill + 1 > capacity:
            # Nothing of this tick has been done: the caller comes back with an empty (or larger) output.
            return i - begin, written, skipped, silent, False

        moved = False
        if ticks.record_ms[i] >= 0:
            place = place_of(clock, state.identity[s])
            if counts(clock, place):
                moved = attend(clock, place, state.identity[s], ticks.record_ms[i], rules.idle_after_ms)
        ticks.status[i] = status
        ticks.closed[i] = last
        if not replayed:
            state.heard_at[s] = clock[0]
            state.heard_ms[s] = ticks.record_ms[i]
        if status == ACCEPTED:
            for k in range(fill):
                out.slot[written] = s
                out.step[written] = last + 1 + k
                out.ts_us[written] = start_of(last + 1 + k, rules.step_us, rules.first, rules.starts)
                out.kind[written] = KIND_GAP
                out.tick[written] = i
                out.shown[written] = 1 if last + 1 + k <= state.previewed[s] else 0
                written += 1
            skipped += gaps - fill
            out.slot[written] = s
            out.step[written] = step
            out.ts_us[written] = start_of(step, rules.step_us, rules.first, rules.starts)
            out.kind[written] = KIND_TICK
            out.tick[written] = i
            out.shown[written] = 0
            written += 1
            state.last_step[s] = step
            state.last_us[s] = max(state.last_us[s], t)
            state.previewed[s] = min(state.previewed[s], step - 1)
            state.resting[s] = AWAKE
        if moved and rules.fills_ahead:
            silent = find_silent(p, i, ticks.offset[i], rows, rules, state, found, silent)
        i += 1
    return i - begin, written, skipped, silent, False


@compiled
def find_silent(
    p: int,
    tick: int,
    offset: int,
    rows: int,
    rules: Rules,
    state: GridState,
    found: Silences,
    silent: int,
) -> int:
    """Notes the series of partition p that are silent by now, and how far their gaps are filled ahead: on their own clock.
    Returns how many are noted by now."""
    clock = state.clock[p]
    reached_ms = time_ms(clock)
    for r in range(rows):
        if state.partition[r] != p or state.resting[r] != AWAKE or state.last_step[r] <= NEVER:
            continue
        # Not yet, or nothing is known of it: no record had a time, or the state is from before such were kept.
        if reached_ms - state.heard_ms[r] < rules.idle_after_ms or state.heard_ms[r] < 0 or state.applied[r] > offset:
            continue
        passed_ms = silent_for_ms(clock, state.identity[r], state.heard_at[r], state.heard_ms[r], rules.idle_after_ms)
        if passed_ms < 0:
            continue
        last = state.last_step[r]
        at = state.last_us[r] + min(passed_ms, PASSED_MAX_MS) * 1000
        until = index_of(at, rules.step_us, rules.shift_us, rules.first, rules.edges) - 1
        until = min(until, last + rules.gap_max)
        shown = max(state.previewed[r], last)
        if until > shown:
            found.row[silent] = r
            found.tick[silent] = tick
            found.shown[silent] = shown
            found.until[silent] = until
            silent += 1
            state.previewed[r] = until
            state.resting[r] = FALLS_SILENT
        else:
            state.resting[r] = RESTS
    return silent


@compiled
def spread_values(tick: I64, kind: U8, ticks: F64, out: F64) -> None:
    """Gives every frame its tick's values, NaN to gaps: [frame, channel]."""
    for i in range(tick.shape[0]):
        for c in range(ticks.shape[1]):
            out[i, c] = ticks[tick[i], c] if kind[i] == KIND_TICK else np.nan
