"""From decoded ticks to frames: rows of the table, the event-time grid, online scaling. Shared by engine and trainer.

Both see exactly the same frames, so that what a network is trained on is what it will be shown when it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import xxhash

from streamrnn.calendar import milliseconds, zone_offsets
from streamrnn.kernels import features, grid
from streamrnn.kernels.silence import CLOCK, fresh_clocks, time_ms
from streamrnn.kernels.steps import local_times
from streamrnn.records import F32, F64, I16, I32, I64, U8, Bool, Reason, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.grid import STATUS_REASONS, GridReference, Held, Silence, StepList
from streamrnn.stream.phases import Phases
from streamrnn.stream.places import Places
from streamrnn.stream.table import Field, SeriesTable

# More ticks than a restored series may hold back, whatever it was permitted when they came.
HELD_MAX = 1 << 16


def grid_fields() -> list[Field]:
    """The columns that the grid looks at for every tick, and for silent series."""
    return [
        Field("last_step", (), np.int64, fill=grid.NEVER),
        Field("last_us", (), np.int64, fill=grid.NEVER),
        Field("heard_at", (), np.int64, fill=grid.NEVER),
        Field("heard_ms", (), np.int64, fill=grid.NEVER),
        Field("previewed", (), np.int64, fill=grid.NEVER),
        Field("resting", (), np.uint8),
        # The input offset a restored row has come to: records below it are replayed around it, not through it.
        Field("applied", (), np.int64),
    ]


def frontend_fields(spec: StreamSpec) -> list[Field]:
    """The columns that the scaling keeps per series."""
    channels = (len(spec.channels),)
    return [
        Field("prev_step", (), np.int64),
        Field("steps", (), np.int64),
        Field("dt_mean", (), np.float32),
        Field("last", channels, np.float64),
        Field("level", channels, np.float64),
        Field("level_spread", channels, np.float32),
        Field("move_scale", channels, np.float32),
        Field("fresh", channels, np.uint8),
        Field("run", channels, np.int8),
        Field("still", channels, np.uint16),
        Field("seen", channels, np.int32),
        Field("since", channels, np.float32),
    ]


@dataclass(slots=True)
class Frames:
    """Aligned, scaled steps in (series, time) order; gaps are frames whose channels are all missing.

    `values` [frame, channel] with NaN for missing; `moment` [frame, 1 + 2 · period] log of the steps that passed since the frame
    before, sine and cosine of the calendar's periods; `base` [frame, channel] the last seen value; `scale`
    [frame, channel] the running scale of moves; `age` [frame, channel] steps since last seen, `age_before` one frame
    before; `rest` [frame, channel] observations since the last move (see `features.observe`); `number` [frame] how
    many steps the series had taken before; `pace_us` [frame] the usual distance of irregular steps, 0 while there is none;
    `phase` [frame, season] where in the seasons its step stands (see `phases.Phases`), by step ahead for one with a key.
    `owner` [frame] is the row of the series, which differs from `slot` where frames are computed on a copy of the row;
    `shown` [frame]: its outputs left before, ahead of it. `runs` [run, 3] holds (slot, start, stop) per series.
    """

    slot: I32
    step: I64
    ts_us: I64
    kind: U8
    tick: I64
    values: F64
    moment: F32
    base: F64
    scale: F32
    age: F32
    age_before: F32
    rest: I32
    number: I64
    pace_us: F32
    phase: F64
    owner: I32
    shown: Bool
    runs: I64
    # Parts of the result that are not frames.
    consumed: int  # ticks of the batch that were taken; the rest must be offered again
    evicted: list[int]  # slots that were emptied before these frames
    rejected: list[tuple[int, Reason, str]]
    skipped: int
    silent: list[Silence]  # series found silent behind these frames: `ahead` gives what is to be sent of them

    def __len__(self) -> int:
        return len(self.slot)


class FrontEnd:
    """Turns tick batches into frames; owns no state but the table's columns, open steps and the partitions' clocks."""

    def __init__(self, spec: StreamSpec, table: SeriesTable | None = None, fills_ahead: bool = True) -> None:
        """Without `fills_ahead` (the trainer) silent series are not looked for: nothing is sent of them."""
        self.spec = spec
        self.table = table if table is not None else SeriesTable([], spec.series_max)
        # Side by side: a tick looks at all of them, a search for silent series only now and then.
        self.table.add(grid_fields())
        self.table.add(frontend_fields(spec))
        self.places = Places(spec.series_max)
        steps = spec.grid()
        self.steps = steps
        self._calendar_us: I64 = np.array(spec.calendar_ms, dtype=np.int64) * 1000
        self._phases = Phases(spec)
        self._zone = zone_offsets(spec.timezone) if spec.calendar_ms else zone_offsets("UTC")
        self._rules = grid.Rules(
            steps.step_us, steps.shift_us, steps.first, steps.edges, steps.starts, spec.idle_after_ms, spec.gap_max,
            min(spec.future_max_ms, grid.PASSED_MAX_MS), min(spec.past_max_ms, grid.PASSED_MAX_MS),
            fills_ahead and not spec.irregular,
        )  # fmt: skip
        self._reference = GridReference(spec, self._rules)
        # Wide ticks, each a whole step, nothing held back: the compiled grid serves them.
        self._plain = spec.lateness_ms == 0 and spec.within == "one" and spec.complete == "record"
        self._clock: I64 = fresh_clocks(16)
        self._capacity = 4096

    def series_name(self, slot: int) -> str:
        name = self.table.names[slot]
        if name is None:
            raise KeyError(f"row {slot} holds no series")
        return name

    def log_time_ms(self, partition: int) -> int | None:
        """The time that two series of a partition have reached (see `kernels.silence`), None before there are two."""
        reached_ms = time_ms(self._clock[partition]) if partition < len(self._clock) else -1
        return reached_ms if reached_ms >= 0 else None

    # ── for snapshots ────────────────────────────────────────────────────────────────────────────────────────────

    def clock(self, partition: int) -> bytes:
        """The clock of a partition's log as it is now, for `restore_clock`."""
        self._room_for_partitions(np.array([partition], dtype=np.int32))
        clock: I64 = self._clock[partition].astype("<i8")
        return clock.tobytes()

    def restore_clock(self, partition: int, clock: bytes) -> None:
        """Sets the clock of a partition's log as it was at its checkpoint. A clock
        of another size (none was written, or by another version) begins anew."""
        self._room_for_partitions(np.array([partition], dtype=np.int32))
        self._clock[partition] = np.frombuffer(clock, dtype="<i8") if len(clock) == 8 * CLOCK else 0

    @property
    def holds(self) -> bool:
        """Whether any series has ticks of steps that are not closed."""
        return bool(self._reference.open_steps)

    @property
    def ticks_held(self) -> int:
        """Ticks of steps that are not closed yet, over all series."""
        return sum(len(ticks) for steps in self._reference.open_steps.values() for ticks in steps.values())

    def held_bytes(self, row: int) -> bytes:
        """The ticks that a row holds back, as bytes; empty where there are none."""
        steps = self._reference.open_steps.get(row)
        if not steps:
            return b""
        plain = [(step, [(ts, c, v.tobytes()) for ts, c, v in held]) for step, held in sorted(steps.items())]
        return msgspec.msgpack.encode(plain)

    def held_of(self, held: bytes, ts_unit_us: int = 1) -> dict[int, list[Held]]:
        """The reverse of `held_bytes`, for `take_held`; `ts_unit_us` 1000 where times were written in milliseconds.

        Raises ValueError where these are not ticks of this stream.
        """
        spec, channels = self.spec, len(self.spec.channels)
        try:
            steps = msgspec.msgpack.decode(held, type=list[tuple[int, list[tuple[int, int, bytes]]]])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(str(error)) from error
        found: dict[int, list[Held]] = {}
        for step, ticks in steps:
            if ts_unit_us != 1 and ticks:
                step = self.steps.index(ticks[0][0] * ts_unit_us)
            found[step] = [(ts * ts_unit_us, c, np.frombuffer(v, dtype=np.float64).copy()) for ts, c, v in ticks]
            for ts, c, values in found[step]:
                right = abs(ts) < 1 << 62 and step == self.steps.index(ts)
                if not right or not -1 <= c < channels or values.shape != (channels,) or np.isinf(values).any():
                    raise ValueError("not ticks of this stream")
        # One that holds back more than a `pending_max` that was lowered since takes no more ticks until it holds fewer.
        if not all(found.values()) or sum(map(len, found.values())) > max(spec.pending_max, HELD_MAX):
            raise ValueError("more ticks than a series may hold back, or a step without any")
        return found

    def take_held(self, row: int, steps: dict[int, list[Held]]) -> None:
        """Gives a row the ticks that it holds back."""
        self._reference.open_steps[row] = steps

    def forget_held(self, rows: Iterable[int]) -> None:
        if self._reference.open_steps:
            for row in rows:
                self._reference.forget(row)

    def forget(self, partition: int, series: str) -> None:
        """Forgets one series, if it is held."""
        row = self.table.find(partition, series)
        if row is not None:
            self._reference.forget(row)
            self.table.forget(partition, series)

    def drop(self, partition: int) -> int:
        """Forgets a partition and its series; returns how many they were."""
        for row in self.table.series(partition).values():
            self._reference.forget(row)
        if partition < len(self._clock):
            self._clock[partition] = 0
        self.places.forget(partition)
        return self.table.drop(partition)

    def process(self, batch: TickBatch, begin: int = 0) -> Frames:
        """Frames of ticks `begin..begin + consumed`; offer the rest again (see `SeriesTable.assign`).

        Series in `silent` have to be filled ahead (`ahead`) before anything else is processed.
        """
        slot, evicted = self.table.assign(batch.partition, batch.series, begin)
        for row in evicted:
            self._reference.forget(row)
        stop = begin + len(slot)
        self._room_for_partitions(batch.partition[begin:stop])
        self._identify(slot)
        ticks = grid.Ticks(
            slot, batch.partition[begin:stop], batch.offset[begin:stop], batch.ts_us[begin:stop],
            batch.record_ts_ms[begin:stop], np.zeros(len(slot), dtype=np.uint8), np.empty(len(slot), dtype=np.int64),
        )  # fmt: skip
        state, channel, values = self._state(), batch.channel[begin:stop], batch.values[begin:stop]
        rested = state.resting[: self.table.used].copy()
        if self._plain and not self._reference.open_steps and not (channel >= 0).any():
            out = self._align_compiled(state, ticks, values)
        else:
            out = self._align_reference(state, ticks, values, channel)
        frames, frame_values, consumed, skipped, silent = out
        self.table.changed[slot[:consumed]] = True
        self.table.changed[frames.slot] = True
        # A series comes to rest without a frame of its own.
        self.table.changed[: self.table.used] |= state.resting[: self.table.used] > rested
        rejected: list[tuple[int, Reason, str]] = []
        if ticks.status[:consumed].any():
            for i in np.flatnonzero(ticks.status[:consumed]):
                reason = STATUS_REASONS[ticks.status[i]]
                if reason is not None:
                    detail = self._detail(reason, int(ticks.closed[i]), int(ticks.ts_us[i]), int(ticks.record_ms[i]))
                    rejected.append((begin + int(i), reason, detail))
        silent = [Silence(gap.row, begin + gap.tick, gap.shown, gap.until) for gap in silent]
        frames = frames._replace(tick=frames.tick + begin)
        return self._scaled(frames, frame_values, None, consumed, evicted, rejected, skipped, silent)

    def ahead(self, silent: Sequence[Silence]) -> Frames:
        """What is to be sent of series that fell silent, computed on copies of their rows (`SCRATCH` of them at most at a
        time): the series' own rows move when their steps close."""
        rows: I64 = np.array([gap.row for gap in silent], dtype=np.int64)
        scratch = self.table.copy_rows(rows)
        self.table.columns["resting"][rows] = grid.RESTS
        state, out = self._state(), StepList()
        for slot, gap in zip(scratch.tolist(), silent, strict=True):
            self._reference.ahead(state, gap, slot, out)
        frames, values = self._listed(out)
        owner = rows[frames.slot - scratch[0]].astype(np.int32)
        return self._scaled(frames, values, owner, 0, [], [], 0, [])

    # ── the grid ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _room_for_partitions(self, partition: I32) -> None:
        highest = int(partition.max(initial=0))
        if highest >= len(self._clock):
            extra = max(highest + 1 - len(self._clock), len(self._clock))
            self._clock = np.concatenate([self._clock, fresh_clocks(extra)])

    def _identify(self, slot: I32) -> None:
        """Gives series that speak for the first time since they have their rows the number that clocks know them by."""
        identity, names = self.table.identity, self.table.names
        rows = sorted(set(slot[identity[slot] == 0].tolist()))
        if not rows:
            return
        for row in rows:
            identity[row] = (xxhash.xxh3_64_intdigest((names[row] or "").encode()) >> 1) or 1
        spoken: I64 = np.array(rows, dtype=np.int64)
        self.places.note(spoken, identity[spoken], self.table.partition[spoken])

    def _state(self) -> grid.GridState:
        columns, table = self.table.columns, self.table
        return grid.GridState(
            table.partition, table.identity, columns["last_step"], columns["last_us"], columns["heard_at"],
            columns["heard_ms"], columns["previewed"], columns["resting"], columns["applied"], self._clock,
        )  # fmt: skip

    def _align_compiled(
        self, state: grid.GridState, ticks: grid.Ticks, values: F64
    ) -> tuple[grid.FrameList, F64, int, int, list[Silence]]:
        parts: list[grid.FrameList] = []
        begin, skipped, silent, stopped = 0, 0, 0, False
        found = grid.silences(self.table.used)
        while begin < len(ticks.slot) and not stopped:
            out = grid.frame_list(self._capacity)
            consumed, written, skips, silent, stopped = grid.align(
                begin, self.table.used, ticks, self._rules, state, out, found, silent
            )
            if consumed == 0 and not stopped:
                self._capacity *= 2  # one tick reveals more gaps than fit
                continue
            begin += consumed
            skipped += skips
            parts.append(grid.taken(out, slice(written)))
        joined = parts[0] if len(parts) == 1 else grid.joined(parts)
        frame_values: F64 = np.empty((len(joined.slot), values.shape[1]))
        grid.spread_values(joined.tick, joined.kind, values, frame_values)
        columns = (found.row, found.tick, found.shown, found.until)
        gaps = [Silence(*row) for row in zip(*(column[:silent].tolist() for column in columns), strict=True)]
        return joined, frame_values, begin, skipped, gaps

    def _align_reference(
        self, state: grid.GridState, ticks: grid.Ticks, values: F64, channel: I16
    ) -> tuple[grid.FrameList, F64, int, int, list[Silence]]:
        done = self._reference.align(state, self.table.used, ticks, values, channel)
        return *self._listed(done.frames), done.consumed, done.skipped, done.silent

    def _listed(self, steps: StepList) -> tuple[grid.FrameList, F64]:
        frames = grid.FrameList(
            np.array(steps.slot, dtype=np.int32),
            np.array(steps.step, dtype=np.int64),
            np.array(steps.ts_us, dtype=np.int64),
            np.array(steps.kind, dtype=np.uint8),
            np.array(steps.tick, dtype=np.int64),
            np.array(steps.shown, dtype=np.uint8),
        )
        return frames, np.array(steps.values, dtype=np.float64).reshape(len(steps.slot), len(self.spec.channels))

    def _detail(self, reason: Reason, closed: int, ts_us: int, record_ms: int) -> str:
        """Why a tick was refused, by the series' state at that very record; `closed` is the step that it had closed last."""
        spec, ts = self.spec, milliseconds(ts_us)
        if reason == "future":
            return f"ts {ts} is {ts_us // 1000 - record_ms} ms ahead of the record's own time, future_max is {spec.future_max_ms}"
        if reason == "pending-full":
            return f"the series holds back {spec.pending_max} ticks (pending_max) in steps not closed yet"
        if reason == "timestamp":
            return _implausible(ts_us, record_ms, spec.past_max_ms)
        if closed <= grid.NEVER:
            return f"ts {ts}: the step has this channel already"
        step = milliseconds(self.steps.start_us(closed))
        if reason == "late":
            return f"ts {ts} is late: the series has closed its steps up to {step} (`lateness` waits for such ticks)"
        if spec.within != "one" or spec.irregular:
            return f"ts {ts} came before, with the same channel; the series has closed its steps up to {step}"
        # Two usual causes, each with the setting that mends it, where it is not set.
        hints = []
        if spec.complete == "record":
            hints.append("one step in several records: `complete: channels`")
        if spec.align == "floor":
            hints.append("times that jitter around a step's edge: `align: nearest`")
        hint = f" ({'; '.join(hints)})" if hints else ""
        return f"ts {ts}: its step has this channel already, or is closed; closed up to {step}{hint}"

    # ── scaling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _scaled(
        self,
        frames: grid.FrameList,
        values: F64,
        owner: I32 | None,  # by frame, where it is not its slot
        consumed: int,
        evicted: list[int],
        rejected: list[tuple[int, Reason, str]],
        skipped: int,
        silent: list[Silence],
    ) -> Frames:
        spec = self.spec
        count = len(frames.slot)
        order = stable_order(frames.slot)  # frames of one series together, in time
        slot, step, ts_us, kind, tick, shown = grid.taken(frames, order)
        values = values[order]
        owner = slot if owner is None else owner[order]
        moment: F32 = np.empty((count, 1 + 2 * len(spec.calendar_ms)), dtype=np.float32)
        base: F64 = np.empty(values.shape)
        scale: F32 = np.empty(values.shape, dtype=np.float32)
        age: F32 = np.empty(values.shape, dtype=np.float32)
        age_before: F32 = np.empty(values.shape, dtype=np.float32)
        rest: I32 = np.empty(values.shape, dtype=np.int32)
        number: I64 = np.empty(count, dtype=np.int64)
        pace: F32 = np.empty(count, dtype=np.float32)
        column = self.table.columns
        local = local_times(ts_us, *self._zone) if len(self._zone[0]) else ts_us
        features.observe(
            slot, step, local, values, spec.irregular, spec.scale_decay, spec.level_decay, self._calendar_us,
            column["last"], column["level"], column["level_spread"], column["move_scale"], column["fresh"],
            column["run"], column["still"], column["seen"], column["since"], column["prev_step"], column["dt_mean"],
            column["steps"], moment, base, scale, age, age_before, rest, number, pace,
        )  # fmt: skip
        phase = self._phases.ahead(step) if self._phases.keyed else self._phases.of(ts_us)
        edges = np.flatnonzero(np.diff(slot)) + 1
        starts = np.concatenate([[0], edges]) if count else np.empty(0, dtype=np.int64)
        stops = np.concatenate([edges, [count]]) if count else np.empty(0, dtype=np.int64)
        runs = np.stack([slot[starts], starts, stops], axis=1) if count else np.empty((0, 3), dtype=np.int64)
        return Frames(
            slot, step, ts_us, kind, tick, values, moment, base, scale, age, age_before, rest, number, pace, phase, owner,
            shown.astype(np.bool_), runs.astype(np.int64), consumed, evicted, rejected, skipped, silent,
        )  # fmt: skip


def stable_order(keys: I32 | I64) -> I64:
    """The order that sorts whole numbers, equal ones as they come. Of 16 bits numpy sorts them in a seventh of the time."""
    if len(keys) and 0 <= keys.min() and keys.max() < 1 << 16:
        return np.argsort(keys.astype(np.uint16), kind="stable")
    return np.argsort(keys, kind="stable")


def _implausible(ts_us: int, record_ms: int, past_max_ms: int) -> str:
    """What is wrong with an event time that is nowhere near its record's, and in which unit it would be near."""
    ts = milliseconds(ts_us)
    for factor, unit in ((1000.0, "s"), (0.001, "us"), (0.000_001, "ns")):
        if record_ms > 0 and abs(ts * factor - record_ms) < past_max_ms:
            return f"ts {ts} ms is not within past_max of the record's time {record_ms}: it looks like {unit} (decode.ts_unit)"
    return f"ts {ts} ms is not within past_max of the record's time {record_ms}, or outside the calendar's years"
