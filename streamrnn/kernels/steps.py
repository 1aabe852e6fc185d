"""Which step of event time an instant belongs to, and where steps begin and end. All times are microseconds.

`streamrnn.calendar.StepGrid` makes the arguments: for fixed lengths the tables are empty.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import I64


@compiled
def index_of(ts_us: int, step_us: int, shift_us: int, first: int, edges: I64) -> int:
    """The number of the step at `ts_us`; irregular (`step_us` 0): the time itself. Beyond the tables, their first or last."""
    if step_us == 0:
        return ts_us
    count = edges.shape[0]
    if count == 0:
        return (ts_us + shift_us) // step_us
    low, high = 0, count  # edges[low] <= ts_us < edges[high], as far as there are such
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= ts_us:
            low = middle
        else:
            high = middle
    return int(first + low)


@compiled
def start_of(step: int, step_us: int, first: int, starts: I64) -> int:
    """Where a step begins."""
    if step_us == 0:
        return step
    if starts.shape[0] == 0:
        return step * step_us
    return int(starts[min(max(step - first, 0), starts.shape[0] - 1)])


@compiled
def end_of(step: int, step_us: int, shift_us: int, first: int, edges: I64) -> int:
    """From where on times belong to later steps; irregular: right behind the step's own time."""
    if step_us == 0:
        return step + 1
    if edges.shape[0] == 0:
        return (step + 1) * step_us - shift_us
    return int(edges[min(max(step + 1 - first, 0), edges.shape[0] - 1)])


@compiled
def offset_at(ts_us: int, instants: I64, offsets: I64) -> int:
    """How far local time is ahead of UTC at an instant; 0 without a table."""
    low, high = 0, instants.shape[0]
    if high == 0:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if instants[middle] <= ts_us:
            low = middle
        else:
            high = middle
    return int(offsets[low])


@compiled
def local_times(ts_us: I64, instants: I64, offsets: I64) -> I64:
    """The local times of instants, in microseconds: what a clock on the wall shows, counted as if it were UTC. [n]"""
    out = np.empty_like(ts_us)
    for i in range(ts_us.shape[0]):
        out[i] = ts_us[i] + offset_at(ts_us[i], instants, offsets)
    return out
