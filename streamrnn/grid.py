"""The event-time grid: which step a tick belongs to, when a step closes, what is late, what is a gap.

Rules (DESIGN 5). Event time is a series' own: the newest `ts` it has shown. No clock decides anything, only the log.

1. A tick ahead of its record's Kafka timestamp by more than `future_max` is refused (`future`) and moves nothing.
2. A tick whose step is closed is refused: `duplicate` when, with `within: one`, that step had its tick, else `late`.
3. Within an open step: the same channel again at the same `ts` is a `duplicate`, the first wins; with `within: one` any
   second value for a channel of the step is.
4. `within: one` without lateness: a wide tick closes its step at once; long ticks close it when every channel has come
   or a later step begins. Otherwise a step closes when the series' event time has passed its end by the lateness.
5. Steps close in order. Steps between that nothing filled are gaps: they are filled when the later step closes, at most
   `gap_max` of them for one silence; the rest are skipped and counted.
6. A series silent while its partition's event time moves on by `idle_after` has its open steps closed and its gaps
   filled up to the newest step that has ended, and then rests until it speaks again.
7. Irregular: every tick is a step of its own, its number is its `ts`; neither gaps nor idle filling.

Values of a step are combined in the order of `ts`, and sums are exactly rounded (`math.fsum`), so that the order of
arrival inside the lateness changes nothing, not even the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from streamrnn.kernels.grid import ACCEPTED, DUPLICATE, FUTURE, LATE, NEVER, REPLAYED
from streamrnn.records import F64, I16, I32, I64, KIND_GAP, KIND_IDLE, KIND_TICK, U8, Reason
from streamrnn.spec import StreamSpec

PENDING_FULL = 4
STATUS_REASONS: tuple[Reason | None, ...] = (None, "late", "duplicate", "future", "pending-full", None)
DUE_UNKNOWN = 2**62


@dataclass(slots=True)
class GridState:
    """Views of the table's columns that belong to the grid ([row]), and event time per partition ([partition])."""

    row_partition: I32
    last_step: I64
    real_step: I64
    last_ts: I64
    resting: U8
    applied: I64
    partition_ts: I64
    partition_due: I64


@dataclass(slots=True)
class StepList:
    """Frames as the grid gives them, in order of arrival; `values` is one row of channels a frame."""

    slot: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    ts: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    tick: list[int] = field(default_factory=list)
    values: list[F64] = field(default_factory=list)

    def add(self, slot: int, step: int, ts: int, kind: int, tick: int, values: F64) -> None:
        self.slot.append(slot)
        self.step.append(step)
        self.ts.append(ts)
        self.kind.append(kind)
        self.tick.append(tick)
        self.values.append(values)


# One tick held back: its ts, its channel (−1: wide), its values.
Held = tuple[int, int, F64]


class GridReference:
    """The grid in plain Python, for every case; `kernels.grid.align` is the compiled twin for the common one.

    Owns the ticks of steps that are not closed yet (`open_steps`, at most `pending_max` ticks a series).
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.open_steps: dict[int, dict[int, list[Held]]] = {}
        self._missing = np.full(len(spec.channels), np.nan)

    def forget(self, row: int) -> None:
        self.open_steps.pop(row, None)

    def align(
        self,
        state: GridState,
        rows: int,
        slot: I32,
        partition: I32,
        offset: I64,
        ts: I64,
        record_ts: I64,
        values: F64,
        channel: I16,
        status: U8,
    ) -> tuple[StepList, int]:
        """Takes ticks in arrival order; writes `status` and returns the frames and the number of skipped gap steps."""
        out = StepList()
        skipped = 0
        for i in range(len(slot)):
            row, p, t = int(slot[i]), int(partition[i]), int(ts[i])
            if offset[i] < state.applied[row] and t <= record_ts[i] + self.spec.future_max_ms:
                status[i] = REPLAYED  # the restored state has it already; the partition's event time has not
            else:
                status[i] = self._admit(state, row, t, int(record_ts[i]), values[i], int(channel[i]))
                if status[i] != ACCEPTED:
                    continue
                if t > state.last_ts[row]:
                    state.last_ts[row] = t
                state.resting[row] = 0
                skipped += self._close(state, row, out, i)
            if t > state.partition_ts[p]:
                state.partition_ts[p] = t
                if not self.spec.irregular and t >= state.partition_due[p]:
                    self._fill_idle(state, rows, p, t, i, int(offset[i]), out)
            if not self.spec.irregular:
                state.partition_due[p] = min(
                    int(state.partition_due[p]), int(state.last_ts[row]) + self.spec.idle_after_ms
                )
        return out, skipped

    def _admit(self, state: GridState, row: int, ts: int, record_ts: int, values: F64, channel: int) -> int:
        spec = self.spec
        if ts > record_ts + spec.future_max_ms:
            return FUTURE
        step = ts if spec.irregular else ts // spec.step_ms
        if step <= state.last_step[row]:
            return DUPLICATE if spec.within == "one" and step == state.real_step[row] else LATE
        steps = self.open_steps.setdefault(row, {})
        held = steps.setdefault(step, [])
        for other_ts, other_channel, _ in held:
            overlap = channel < 0 or other_channel < 0 or channel == other_channel
            if overlap and (spec.within == "one" or ts == other_ts):
                return DUPLICATE
        if sum(len(ticks) for ticks in steps.values()) >= spec.pending_max:
            return PENDING_FULL
        held.append((ts, channel, values.copy()))
        return ACCEPTED

    def _close(self, state: GridState, row: int, out: StepList, tick: int) -> int:
        """Closes what the newest tick of the series closes, in order; returns the gap steps that were skipped."""
        skipped = 0
        steps = self.open_steps[row]
        for step in sorted(steps):
            if not self._closes(step, steps[step], int(state.last_ts[row])):
                break
            skipped += self._take(state, row, step, out, tick)
        return skipped

    def _closes(self, step: int, held: list[Held], event_ts: int) -> bool:
        spec = self.spec
        if spec.irregular:
            return event_ts >= step + spec.lateness_ms
        if spec.within == "one" and spec.lateness_ms == 0:
            named = {channel for _, channel, _ in held}
            if -1 in named or len(named) == len(spec.channels):
                return True
        return event_ts >= (step + 1) * spec.step_ms + spec.lateness_ms

    def _take(self, state: GridState, row: int, step: int, out: StepList, tick: int) -> int:
        """One step becomes a frame, with the gaps before it."""
        spec = self.spec
        skipped = 0
        last = int(state.last_step[row])
        if not spec.irregular and last > NEVER:
            gaps = step - last - 1
            fill = min(gaps, max(spec.gap_max - (last - int(state.real_step[row])), 0))
            for k in range(last + 1, last + 1 + fill):
                out.add(row, k, k * spec.step_ms, KIND_GAP, tick, self._missing)
            skipped = gaps - fill
        ts = step if spec.irregular else step * spec.step_ms
        out.add(row, step, ts, KIND_TICK, tick, self._combine(self.open_steps[row].pop(step)))
        state.last_step[row] = step
        state.real_step[row] = step
        return skipped

    def _combine(self, held: list[Held]) -> F64:
        """The step's value per channel: the only one, the newest, the mean or the sum."""
        if len(held) == 1:
            return held[0][2]
        combined = self._missing.copy()
        ordered = sorted(held, key=lambda tick: tick[0])
        for c in range(len(combined)):
            present = [float(values[c]) for _, _, values in ordered if not math.isnan(values[c])]
            if not present:
                continue
            if self.spec.within in ("one", "last"):
                combined[c] = present[-1]
            else:
                total = math.fsum(present)
                combined[c] = total / len(present) if self.spec.within == "mean" else total
        return combined

    def _fill_idle(self, state: GridState, rows: int, p: int, now: int, tick: int, offset: int, out: StepList) -> None:
        spec = self.spec
        due = DUE_UNKNOWN
        until = now // spec.step_ms - 1
        for row in np.flatnonzero(state.row_partition[:rows] == p).tolist():
            if state.resting[row] or (state.last_step[row] <= NEVER and not self.open_steps.get(row)):
                continue
            falls_due = int(state.last_ts[row]) + spec.idle_after_ms
            if falls_due > now or state.applied[row] > offset:
                due = min(due, falls_due)
                continue
            for step in sorted(self.open_steps.get(row, {})):
                self._take(state, row, step, out, tick)
            last = int(state.last_step[row])
            fill = min(until - last, spec.gap_max - (last - int(state.real_step[row])))
            for k in range(last + 1, last + 1 + fill):
                out.add(row, k, k * spec.step_ms, KIND_IDLE, tick, self._missing)
            state.last_step[row] += max(fill, 0)
            state.resting[row] = 1
        state.partition_due[p] = due
