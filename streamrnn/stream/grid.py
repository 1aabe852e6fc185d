"""The event-time grid: which step a tick belongs to, when a step closes, what is late, what is a gap.

Event time is a series' own: the newest `ts` it has shown. No clock decides anything, only the log.

1. A tick ahead of its record's Kafka timestamp by more than `future_max` is refused (`future`) and moves nothing; one that
   is further from it than `past_max`, before or ahead, has a time in another unit (`timestamp`).
2. A tick whose step is closed is refused: `duplicate` when it is the step that was closed last, else `late`.
3. Within an open step, with `within: one`, any second value for a channel is a `duplicate`; so is any second record, unless
   both are long or `complete: channels` lets records with disjoint channels make one step. With `last`, `mean` and `sum`
   ticks of equal time are different events, unless `duplicates: refuse`: then the same channel at the same `ts` is one.
4. `within: one` without lateness: a wide tick closes its step at once; long ticks (and wide ones with `complete: channels`)
   close it when every channel has come or a later step begins. Otherwise a step closes when the series' event time has
   passed its end by the lateness. An irregular step ends right after its own time.
5. Steps close in order. Steps between that nothing filled are gaps: they are filled when the later step closes, at most
   `gap_max` of them for one silence; the rest are skipped and counted.
6. A series is silent when two others, by clocks that agree with its own, show that `idle_after` has passed since its last
   record (`kernels.silence`). Its gaps are then filled *ahead*, on its own clock: what is sent is computed on a copy of
   its state, which itself does not move. So no record of one series ever costs another one a tick: whatever comes later is
   accepted as if nothing had been filled. Then the series rests until it speaks again. Steps that were filled ahead are
   not sent a second time when they close, unless a tick has come for one of them: that one, and those after it, are sent
   as they are now.
7. Irregular: every time is a step of its own, its number is its `ts` (records of one time make one step by the same rules);
   neither gaps nor silence.

Values of a step are combined in the order of `ts` (of arrival where times are equal), and sums are exactly rounded
(`math.fsum`), so that the order of arrival inside the lateness changes nothing, not even the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from streamrnn.kernels.grid import (
    ACCEPTED,
    AWAKE,
    DUPLICATE,
    FALLS_SILENT,
    LATE,
    NEVER,
    PASSED_MAX_MS,
    PENDING_FULL,
    REPLAYED,
    RESTS,
    GridState,
    Rules,
    Ticks,
    implausible,
    known_times,
)
from streamrnn.kernels.silence import hear, silent_for_ms, time_ms
from streamrnn.records import F64, I16, KIND_GAP, KIND_IDLE, KIND_TICK, Reason
from streamrnn.spec import StreamSpec

STATUS_REASONS: tuple[Reason | None, ...] = (None, "late", "duplicate", "future", "pending-full", "timestamp", None)


@dataclass(slots=True)
class StepList:
    """Frames as the grid gives them, in order of arrival; `values` is one row of channels a frame."""

    slot: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    ts_us: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    tick: list[int] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    values: list[F64] = field(default_factory=list)

    def add(self, slot: int, step: int, ts_us: int, kind: int, tick: int, shown: bool, values: F64) -> None:
        self.slot.append(slot)
        self.step.append(step)
        self.ts_us.append(ts_us)
        self.kind.append(kind)
        self.tick.append(tick)
        self.shown.append(shown)
        self.values.append(values)


@dataclass(frozen=True, slots=True)
class Silence:
    """A series fell silent: the tick that shows it, and the steps after `shown` up to `until` to be filled ahead."""

    row: int
    tick: int
    shown: int
    until: int


@dataclass(slots=True)
class Aligned:
    """What the grid made of the first `consumed` ticks."""

    frames: StepList
    silent: list[Silence] = field(default_factory=list)
    consumed: int = 0
    skipped: int = 0


# One tick held back: its ts in microseconds, its channel (−1: wide), its values.
Held = tuple[int, int, F64]


class GridReference:
    """The grid in plain Python, for every case; `kernels.grid.align` is the compiled twin for the common one.

    Owns the ticks of steps that are not closed yet (`open_steps`, at most `pending_max` ticks a series; no empty entries).
    """

    def __init__(self, spec: StreamSpec, rules: Rules) -> None:
        self.spec = spec
        self.open_steps: dict[int, dict[int, list[Held]]] = {}
        self._rules = rules
        self._known_us = known_times(rules)
        self._grid = spec.grid()
        self._missing = np.full(len(spec.channels), np.nan)

    def forget(self, row: int) -> None:
        self.open_steps.pop(row, None)

    def align(self, state: GridState, rows: int, ticks: Ticks, values: F64, channel: I16) -> Aligned:
        """Takes ticks in arrival order, writes their `status`; stops before a tick of a series found silent."""
        done, rules = Aligned(StepList()), self._rules
        for i in range(len(ticks.slot)):
            row, p, ts, record_ms = (
                int(ticks.slot[i]),
                int(ticks.partition[i]),
                int(ticks.ts_us[i]),
                int(ticks.record_ms[i]),
            )
            if state.resting[row] == FALLS_SILENT:
                break
            status = int(implausible(ts, record_ms, *self._known_us, rules.past_max_ms, rules.future_max_ms))
            replayed = ticks.offset[i] < state.applied[row]
            ticks.closed[i] = state.last_step[row]
            if status == ACCEPTED:
                # The restored state of a row that is ahead has the tick already; the log's clock has not heard it.
                status = REPLAYED if replayed else self._admit(state, row, ts, values[i], int(channel[i]))
            moved = False
            if record_ms >= 0:
                moved = hear(state.clock[p], state.identity[row], record_ms, rules.idle_after_ms)
            ticks.status[i] = status
            if not replayed:
                state.heard_at[row], state.heard_ms[row] = state.clock[p, 0], record_ms
            if status == ACCEPTED:
                state.last_us[row] = max(int(state.last_us[row]), ts)
                state.resting[row] = AWAKE
                done.skipped += self._close(state, row, done.frames, i)
            if moved and rules.fills_ahead:
                self._find_silent(state, rows, p, i, int(ticks.offset[i]), done.silent)
            done.consumed += 1
        return done

    def _admit(self, state: GridState, row: int, ts: int, values: F64, channel: int) -> int:
        spec = self.spec
        step, last = self._grid.index(ts), int(state.last_step[row])
        if step <= last:
            return DUPLICATE if spec.within == "one" and step == last else LATE
        steps = self.open_steps.get(row, {})
        held = steps.get(step, [])
        for other_ts, other_channel, other_values in held:
            if spec.within != "one" and (spec.duplicates == "keep" or ts != other_ts):
                continue
            if self._overlap(channel, values, other_channel, other_values):
                return DUPLICATE
        if sum(len(ticks) for ticks in steps.values()) >= spec.pending_max:
            return PENDING_FULL
        self.open_steps.setdefault(row, {}).setdefault(step, []).append((ts, channel, values.copy()))
        # A step that was sent ahead is another one by now.
        state.previewed[row] = min(int(state.previewed[row]), step - 1)
        return ACCEPTED

    def _overlap(self, channel: int, values: F64, other_channel: int, other_values: F64) -> bool:
        """Whether two ticks of a step speak of the same channel; a wide record speaks of all, unless it need not be whole."""
        if channel >= 0 and other_channel >= 0:
            return channel == other_channel
        if self.spec.complete == "record":
            return True
        return bool((self._named(channel, values) & self._named(other_channel, other_values)).any())

    def _named(self, channel: int, values: F64) -> np.ndarray:
        """Which channels a tick speaks of: a long one of its own even where it is null. [channel]"""
        named = ~np.isnan(values)
        if channel >= 0:
            named[channel] = True
        return named

    def _close(self, state: GridState, row: int, out: StepList, tick: int) -> int:
        """Closes what the newest tick of the series closes, in order; returns the gap steps that were skipped."""
        skipped = 0
        steps = self.open_steps[row]
        for step in sorted(steps):
            if not self._closes(step, steps[step], int(state.last_us[row])):
                break
            shown = int(state.previewed[row])
            last = int(state.last_step[row])
            skipped += self._frames(row, last, step, steps.pop(step), shown, KIND_GAP, tick, out)
            state.last_step[row] = step
        if not steps:
            del self.open_steps[row]
        return skipped

    def _closes(self, step: int, held: list[Held], event_us: int) -> bool:
        spec = self.spec
        if spec.within == "one" and spec.lateness_ms == 0:
            if spec.complete == "record" and any(channel < 0 for _, channel, _ in held):
                return True
            named = np.zeros(len(self._missing), dtype=np.bool_)
            for _, channel, values in held:
                named |= self._named(channel, values)
            if named.all():
                return True
        return event_us >= self._grid.end_us(step) + spec.lateness_ms * 1000

    def _frames(
        self, row: int, last: int, step: int, held: list[Held], shown: int, gap: int, tick: int, out: StepList
    ) -> int:
        """One step as a frame, with the gaps between it and the step before (`last`); returns the gap steps left out."""
        skipped = 0
        if not self.spec.irregular and last > NEVER:
            gaps = step - last - 1
            fill = min(gaps, self.spec.gap_max)
            self._gap_frames(row, last + 1, last + fill, shown, gap, tick, out)
            skipped = gaps - fill
        out.add(row, step, self._grid.start_us(step), KIND_TICK, tick, step <= shown, self._combine(held))
        return skipped

    def _gap_frames(self, row: int, first: int, until: int, shown: int, kind: int, tick: int, out: StepList) -> None:
        for k in range(first, until + 1):
            out.add(row, k, self._grid.start_us(k), kind, tick, k <= shown, self._missing)

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

    # ── silence ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _find_silent(self, state: GridState, rows: int, p: int, tick: int, offset: int, found: list[Silence]) -> None:
        """See kernels.grid.find_silent; open steps are filled ahead, too."""
        clock, idle_after_ms = state.clock[p], self._rules.idle_after_ms
        heard_ms, awake = state.heard_ms[:rows], (state.partition[:rows] == p) & (state.resting[:rows] == AWAKE)
        # Not yet, or nothing is known of it, is what nearly all are.
        asked = (
            awake & (heard_ms >= 0) & (heard_ms <= time_ms(clock) - idle_after_ms) & (state.applied[:rows] <= offset)
        )
        for row in np.flatnonzero(asked).tolist():
            last = max(int(state.last_step[row]), max(self.open_steps.get(row, {}), default=NEVER))
            if last <= NEVER:
                continue
            passed_ms = silent_for_ms(clock, state.identity[row], state.heard_at[row], heard_ms[row], idle_after_ms)
            if passed_ms < 0:
                continue
            until = min(
                self._grid.index(int(state.last_us[row]) + min(passed_ms, PASSED_MAX_MS) * 1000) - 1,
                last + self.spec.gap_max,
            )
            shown = max(int(state.previewed[row]), int(state.last_step[row]))
            if until > shown:
                found.append(Silence(row, tick, shown, until))
                state.previewed[row] = until
                state.resting[row] = FALLS_SILENT
            else:
                state.resting[row] = RESTS

    def ahead(self, state: GridState, silence: Silence, slot: int, out: StepList) -> None:
        """The frames of a silent series up to `until`, for a copy of its row at `slot`; nothing of the series moves."""
        last = int(state.last_step[silence.row])
        for step, held in sorted(self.open_steps.get(silence.row, {}).items()):
            if step > silence.until:
                break
            self._frames(slot, last, step, held, silence.shown, KIND_IDLE, silence.tick, out)
            last = step
        until = min(silence.until, last + self.spec.gap_max)
        self._gap_frames(slot, last + 1, until, silence.shown, KIND_IDLE, silence.tick, out)
