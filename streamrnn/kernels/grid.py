"""The event-time grid for the common case: wide ticks, one per step, no lateness; or irregular ticks.

The rules are those of `streamrnn.grid.GridReference`, which also serves the other cases (long records, aggregation
within a step, lateness); tests hold the two against each other tick by tick.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F64, I32, I64, KIND_GAP, KIND_IDLE, KIND_TICK, U8

# Statuses of a tick, in the order of `streamrnn.grid.STATUS_REASONS`.
ACCEPTED, LATE, DUPLICATE, FUTURE = 0, 1, 2, 3
REPLAYED = 5  # the row's state is from after this record already (a restored one, during the silent replay)

NEVER = np.iinfo(np.int64).min // 4  # far enough from the edge that sums with it do not overflow


@compiled
def align(
    begin: int,
    slot: I32,
    partition: I32,
    offset: I64,
    ts: I64,
    record_ts: I64,
    step_ms: int,
    idle_after_ms: int,
    gap_max: int,
    future_max_ms: int,
    rows: int,
    row_partition: I32,
    last_step: I64,
    real_step: I64,
    last_ts: I64,
    resting: U8,
    applied: I64,
    partition_ts: I64,
    partition_due: I64,
    status: U8,
    out_slot: I32,
    out_step: I64,
    out_ts: I64,
    out_kind: U8,
    out_tick: I64,
) -> tuple[int, int, int]:
    """Takes ticks `begin..` in arrival order and writes the frames they give, until the output is full.

    Returns (ticks consumed, frames written, gap steps beyond `gap_max` that were skipped). `step_ms` 0 means irregular:
    the step number is the time stamp itself, and there are neither gaps nor idle filling.
    `partition_due[p]` is a lower bound of the event time at which some series of partition p falls idle, so that
    the rows are searched only when it is reached. A record below `applied[s]` has moved its series before (the state
    was restored from after it): it moves the partition's event time, and no row that is ahead of it.
    """
    capacity = out_slot.shape[0]
    written = 0
    skipped = 0
    irregular = step_ms == 0
    i = begin
    while i < slot.shape[0]:
        s = slot[i]
        p = partition[i]
        t = ts[i]
        step = t if irregular else t // step_ms
        if t > record_ts[i] + future_max_ms:
            status[i] = FUTURE
            i += 1
            continue
        replayed = offset[i] < applied[s]
        if step <= last_step[s] and not replayed:
            status[i] = DUPLICATE if step == real_step[s] else LATE
            i += 1
            continue

        # Gaps between the last step and this one, what an idle fill already made counted in.
        gap_from = last_step[s] + 1
        gaps = 0
        if not irregular and last_step[s] > NEVER and not replayed:
            gaps = step - gap_from
            left = gap_max - (last_step[s] - real_step[s])
            fill = min(gaps, max(left, 0))
        else:
            fill = 0
        searches = not irregular and t > partition_ts[p] and t >= partition_due[p]
        room = fill + 1
        if searches:
            room += _idle_frames(
                p, s, t, offset[i], step_ms, idle_after_ms, gap_max, rows, row_partition, last_step, real_step,
                last_ts, resting, applied,
            )  # fmt: skip
        if written + room > capacity:
            # Nothing of this tick has been done: the caller comes back with an empty (or larger) output.
            return i - begin, written, skipped
        for k in range(fill):
            out_slot[written] = s
            out_step[written] = gap_from + k
            out_ts[written] = (gap_from + k) * step_ms
            out_kind[written] = KIND_GAP
            out_tick[written] = i
            written += 1
        skipped += gaps - fill
        if replayed:
            status[i] = REPLAYED
        else:
            out_slot[written] = s
            out_step[written] = step
            out_ts[written] = t if irregular else step * step_ms
            out_kind[written] = KIND_TICK
            out_tick[written] = i
            written += 1
            status[i] = ACCEPTED
            last_step[s] = step
            real_step[s] = step
            last_ts[s] = t
            resting[s] = 0

        partition_ts[p] = max(partition_ts[p], t)
        if searches:
            written, partition_due[p] = _fill_idle(
                p, t, i, offset[i], step_ms, idle_after_ms, gap_max, rows, row_partition, last_step, real_step, last_ts,
                resting, applied, out_slot, out_step, out_ts, out_kind, out_tick, written,
            )  # fmt: skip
        if not irregular:
            partition_due[p] = min(partition_due[p], t + idle_after_ms)
        i += 1
    return i - begin, written, skipped


@compiled
def _idle_frames(
    p: int,
    speaking: int,
    now: int,
    offset: int,
    step_ms: int,
    idle_after_ms: int,
    gap_max: int,
    rows: int,
    row_partition: I32,
    last_step: I64,
    real_step: I64,
    last_ts: I64,
    resting: U8,
    applied: I64,
) -> int:
    """How many frames `_fill_idle` will write, were it called now (`speaking` is not silent: its tick is at hand)."""
    until = now // step_ms - 1
    frames = 0
    for r in range(rows):
        if row_partition[r] != p or r == speaking or resting[r] == 1 or last_step[r] <= NEVER or applied[r] > offset:
            continue
        if last_ts[r] + idle_after_ms <= now:
            frames += max(0, min(until - last_step[r], gap_max - (last_step[r] - real_step[r])))
    return frames


@compiled
def _fill_idle(
    p: int,
    now: int,
    tick: int,
    offset: int,
    step_ms: int,
    idle_after_ms: int,
    gap_max: int,
    rows: int,
    row_partition: I32,
    last_step: I64,
    real_step: I64,
    last_ts: I64,
    resting: U8,
    applied: I64,
    out_slot: I32,
    out_step: I64,
    out_ts: I64,
    out_kind: U8,
    out_tick: I64,
    written: int,
) -> tuple[int, int]:
    """Fills the gaps of partition p's silent series up to `now`, lets them rest; returns the next due time too."""
    due = 2**62
    until = now // step_ms - 1  # the newest step that has ended
    for r in range(rows):
        if row_partition[r] != p or resting[r] == 1 or last_step[r] <= NEVER:
            continue
        falls_due = last_ts[r] + idle_after_ms
        if falls_due > now or applied[r] > offset:
            due = min(due, falls_due)
            continue
        fill = min(until - last_step[r], gap_max - (last_step[r] - real_step[r]))
        for k in range(fill):
            out_slot[written] = r
            out_step[written] = last_step[r] + 1 + k
            out_ts[written] = (last_step[r] + 1 + k) * step_ms
            out_kind[written] = KIND_IDLE
            out_tick[written] = tick
            written += 1
        last_step[r] += max(fill, 0)
        resting[r] = 1
    return written, due


@compiled
def spread_values(tick: I64, kind: U8, ticks: F64, out: F64) -> None:
    """Gives every frame its tick's values, NaN to gaps: [frame, channel]."""
    for i in range(tick.shape[0]):
        for c in range(ticks.shape[1]):
            out[i, c] = ticks[tick[i], c] if kind[i] == KIND_TICK else np.nan
