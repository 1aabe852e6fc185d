"""Which step of event time an instant belongs to, and where steps begin and end. All times are microseconds.

`streamrnn.calendar.StepGrid` makes the arguments: for fixed lengths the tables are empty.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import I64


@compiled
def _newest(times: I64, ts_us: int) -> int:
    """Where in a sorted table, of one entry at least, the last time stands that is not after `ts_us`; 0 before all."""
    low, high = 0, times.shape[0]
    while high - low > 1:
        middle = (low + high) // 2
        if times[middle] <= ts_us:
            low = middle
        else:
            high = middle
    return low


@compiled
def index_of(ts_us: int, step_us: int, shift_us: int, first: int, edges: I64) -> int:
    """The number of the step at `ts_us`; irregular (`step_us` 0): the time itself. Beyond the tables, their first or last."""
    if step_us == 0:
        return ts_us
    if edges.shape[0] == 0:
        return (ts_us + shift_us) // step_us
    return first + _newest(edges, ts_us)


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
    """From where on times belong to later steps; irregular: right after the step's own time."""
    if step_us == 0:
        return step + 1
    if edges.shape[0] == 0:
        return (step + 1) * step_us - shift_us
    return int(edges[min(max(step + 1 - first, 0), edges.shape[0] - 1)])


@compiled
def offset_at(ts_us: int, instants: I64, offsets: I64) -> int:
    """How far local time is ahead of UTC at an instant; 0 without a table."""
    return int(offsets[_newest(instants, ts_us)]) if instants.shape[0] > 0 else 0


@compiled
def local_times(ts_us: I64, instants: I64, offsets: I64) -> I64:
    """The local times of instants, in microseconds: what a clock on the wall shows, counted as if it were UTC. [n]"""
    out = np.empty_like(ts_us)
    for i in range(ts_us.shape[0]):
        out[i] = ts_us[i] + offset_at(ts_us[i], instants, offsets)
    return out
