"""From decoded ticks to frames: rows of the table, the event-time grid, online scaling. Shared by engine and trainer.

Both see exactly the same frames, so that what a network is trained on is what it will be shown when it serves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from streamrnn.grid import DUE_UNKNOWN, STATUS_REASONS, GridReference, GridState, Held
from streamrnn.kernels import features, grid
from streamrnn.records import F32, F64, I16, I32, I64, U8, Reason, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.table import Field, SeriesTable


def grid_fields() -> list[Field]:
    """The columns by which the grid looks through all series for those that fell silent."""
    return [
        Field("last_step", (), np.int64, fill=grid.NEVER),
        Field("real_step", (), np.int64, fill=grid.NEVER),
        Field("last_ts", (), np.int64, fill=grid.NEVER),
        Field("resting", (), np.uint8),
        # The input offset a restored row has come to: records below it are replayed around it, not through it.
        Field("applied", (), np.int64),
    ]


def frontend_fields(spec: StreamSpec) -> list[Field]:
    """The columns that the scaling keeps per series."""
    channels = (len(spec.channels),)
    return [
        # The partition's event time at `applied`, for a replay that has to begin at just this row.
        Field("applied_ms", (), np.int64, fill=grid.NEVER),
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

    `values` [frame, channel] with NaN for missing; `inputs` [frame, F] what the network is shown (rounded to half
    precision, as it is kept for rebuilding states); `base` [frame, channel] the last seen value; `scale`
    [frame, channel] the running scale of moves; `age` [frame, channel] steps since last seen, `age_before` one frame
    before; `rest` [frame, channel] observations since the last move (see `features.observe`); `number` [frame] how
    many steps the series had taken before. `runs` [run, 3] holds (slot, start, stop) per series.
    """

    slot: I32
    step: I64
    ts_ms: I64
    kind: U8
    tick: I64
    values: F64
    inputs: F32
    base: F64
    scale: F32
    age: F32
    age_before: F32
    rest: I32
    number: I64
    runs: I64
    # Parts of the result that are not frames.
    consumed: int  # ticks of the batch that were taken; the rest must be offered again
    evicted: list[int]  # slots that were emptied before these frames
    rejected: list[tuple[int, Reason, str]]
    skipped: int

    def __len__(self) -> int:
        return len(self.slot)


class FrontEnd:
    """Turns tick batches into frames; owns no state but the table's columns, open steps and partitions' event time."""

    def __init__(self, spec: StreamSpec, table: SeriesTable | None = None) -> None:
        self.spec = spec
        self.table = table if table is not None else SeriesTable([], spec.series_max)
        for field in grid_fields():
            self.table.add([field])
        self.table.add(frontend_fields(spec))
        self._calendar: I64 = np.array(spec.calendar_ms, dtype=np.int64)
        self._reference = GridReference(spec)
        # Wide ticks, one a step (or irregular), nothing held back: the compiled grid serves them.
        self._plain = spec.lateness_ms == 0 and (spec.irregular or spec.within == "one")
        self._held = False  # a long tick came by: from then on steps may be open, which only the reference knows
        self._partition_ts: I64 = np.full(16, grid.NEVER, dtype=np.int64)
        self._partition_due: I64 = np.full(16, DUE_UNKNOWN, dtype=np.int64)
        self._capacity = 4096

    def series_name(self, slot: int) -> str:
        name = self.table.names[slot]
        if name is None:
            raise KeyError(f"row {slot} holds no series")
        return name

    def event_time_ms(self, partition: int) -> int | None:
        """The newest event time of a partition, None before its first tick."""
        if partition >= len(self._partition_ts) or self._partition_ts[partition] == grid.NEVER:
            return None
        return int(self._partition_ts[partition])

    # ── for snapshots ────────────────────────────────────────────────────────────────────────────────────────────

    def restore_event_time(self, partition: int, event_time_ms: int | None) -> None:
        """Sets a partition's event time as it was at its checkpoint; who falls idle when is looked up anew."""
        self._room_for_partitions(np.array([partition], dtype=np.int32))
        self._partition_ts[partition] = grid.NEVER if event_time_ms is None else event_time_ms
        self._partition_due[partition] = grid.NEVER

    @property
    def holds(self) -> bool:
        """Whether any series has ticks of steps that are not closed."""
        return self._held

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

    def held_of(self, held: bytes) -> dict[int, list[Held]]:
        """The reverse of `held_bytes`, for `take_held`. Raises ValueError where these are not ticks of this stream."""
        spec, channels = self.spec, len(self.spec.channels)
        try:
            steps = msgspec.msgpack.decode(held, type=list[tuple[int, list[tuple[int, int, bytes]]]])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(str(error)) from error
        found: dict[int, list[Held]] = {}
        for step, ticks in steps:
            found[step] = [(ts, c, np.frombuffer(v, dtype=np.float64).copy()) for ts, c, v in ticks]
            for ts, c, values in found[step]:
                right = step == (ts if spec.irregular else ts // spec.step_ms) and abs(ts) < 1 << 62
                if not right or not -1 <= c < channels or values.shape != (channels,) or np.isinf(values).any():
                    raise ValueError("not ticks of this stream")
        if not all(found.values()) or sum(map(len, found.values())) > spec.pending_max:
            raise ValueError("more ticks than a series may hold back, or a step without any")
        return found

    def take_held(self, row: int, steps: dict[int, list[Held]]) -> None:
        """Gives a row the ticks that it holds back."""
        self._reference.open_steps[row] = steps
        self._held = True

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
        if partition < len(self._partition_ts):
            self._partition_ts[partition] = grid.NEVER
            self._partition_due[partition] = DUE_UNKNOWN
        return self.table.drop(partition)

    def process(self, batch: TickBatch, begin: int = 0) -> Frames:
        """Frames of ticks `begin..begin + consumed`; offer the rest again (see `SeriesTable.assign`)."""
        slot, evicted = self.table.assign(batch.partition, batch.series, begin)
        for row in evicted:
            self._reference.forget(row)
        stop = begin + len(slot)
        self._room_for_partitions(batch.partition[begin:stop])
        state = self._state()
        status: U8 = np.zeros(len(slot), dtype=np.uint8)
        channel = batch.channel[begin:stop]
        part, offset = batch.partition[begin:stop], batch.offset[begin:stop]
        ts, record_ts = batch.ts_ms[begin:stop], batch.record_ts_ms[begin:stop]
        values = batch.values[begin:stop]
        rested = state.resting[: self.table.used].copy()
        if self._plain and not self._held and not (channel >= 0).any():
            out = self._align_compiled(state, slot, part, offset, ts, record_ts, values, status)
        else:
            self._held = True
            out = self._align_reference(state, slot, part, offset, ts, record_ts, values, channel, status)
        frame_slot, step, frame_ts, kind, tick, frame_values, skipped = out
        self.table.changed[slot] = True
        self.table.changed[frame_slot] = True
        # A series that has no gap left to be filled comes to rest without a frame.
        self.table.changed[: self.table.used] |= state.resting[: self.table.used] > rested
        rejected: list[tuple[int, Reason, str]] = []
        if status.any():
            for i in np.flatnonzero(status):
                reason = STATUS_REASONS[status[i]]
                if reason is not None:
                    rejected.append((begin + int(i), reason, self._detail(reason, state, int(slot[i]), int(ts[i]))))
        return self._scaled(
            frame_slot, step, frame_ts, kind, tick + begin, frame_values, len(slot), evicted, rejected, skipped
        )

    # ── the grid ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _room_for_partitions(self, partition: I32) -> None:
        highest = int(partition.max(initial=0))
        if highest >= len(self._partition_ts):
            extra = max(highest + 1 - len(self._partition_ts), len(self._partition_ts))
            self._partition_ts = np.concatenate([self._partition_ts, np.full(extra, grid.NEVER, dtype=np.int64)])
            self._partition_due = np.concatenate([self._partition_due, np.full(extra, DUE_UNKNOWN, dtype=np.int64)])

    def _state(self) -> GridState:
        columns = self.table.columns
        return GridState(
            row_partition=self.table.partition,
            last_step=columns["last_step"],
            real_step=columns["real_step"],
            last_ts=columns["last_ts"],
            resting=columns["resting"],
            applied=columns["applied"],
            partition_ts=self._partition_ts,
            partition_due=self._partition_due,
        )

    def _align_compiled(
        self, state: GridState, slot: I32, part: I32, offset: I64, ts: I64, record_ts: I64, values: F64, status: U8
    ) -> tuple[I32, I64, I64, U8, I64, F64, int]:
        spec = self.spec
        parts: list[tuple[I32, I64, I64, U8, I64]] = []
        begin, skipped = 0, 0
        while begin < len(slot):
            size = self._capacity
            out_slot: I32 = np.empty(size, dtype=np.int32)
            out_step, out_ts, out_tick = (np.empty(size, dtype=np.int64) for _ in range(3))
            out_kind: U8 = np.empty(size, dtype=np.uint8)
            consumed, written, skips = grid.align(
                begin, slot, part, offset, ts, record_ts, spec.step_ms, spec.idle_after_ms, spec.gap_max, spec.future_max_ms,
                self.table.used, state.row_partition, state.last_step, state.real_step, state.last_ts, state.resting,
                state.applied, state.partition_ts, state.partition_due, status, out_slot, out_step, out_ts, out_kind, out_tick,
            )  # fmt: skip
            if consumed == 0:
                self._capacity *= 2  # one tick reveals more gaps than fit
                continue
            begin += consumed
            skipped += skips
            parts.append(
                (out_slot[:written], out_step[:written], out_ts[:written], out_kind[:written], out_tick[:written])
            )
        if len(parts) == 1:
            all_slot, step, frame_ts, kind, tick = parts[0]
        else:
            columns = list(zip(*parts, strict=True)) if parts else [(np.empty(0, np.int64),)] * 5
            all_slot = np.concatenate(columns[0]).astype(np.int32)
            step, frame_ts, tick = (np.concatenate(columns[i]) for i in (1, 2, 4))
            kind = np.concatenate(columns[3]).astype(np.uint8)
        frame_values: F64 = np.empty((len(all_slot), values.shape[1]))
        grid.spread_values(tick, kind, values, frame_values)
        return all_slot, step, frame_ts, kind, tick, frame_values, skipped

    def _align_reference(
        self,
        state: GridState,
        slot: I32,
        part: I32,
        offset: I64,
        ts: I64,
        record_ts: I64,
        values: F64,
        channel: I16,
        status: U8,
    ) -> tuple[I32, I64, I64, U8, I64, F64, int]:
        steps, skipped = self._reference.align(
            state, self.table.used, slot, part, offset, ts, record_ts, values, channel, status
        )
        frame_values = np.array(steps.values, dtype=np.float64).reshape(len(steps.slot), values.shape[1])
        return (
            np.array(steps.slot, dtype=np.int32),
            np.array(steps.step, dtype=np.int64),
            np.array(steps.ts, dtype=np.int64),
            np.array(steps.kind, dtype=np.uint8),
            np.array(steps.tick, dtype=np.int64),
            frame_values,
            skipped,
        )

    def _detail(self, reason: Reason, state: GridState, row: int, ts: int) -> str:
        if reason == "future":
            return f"ts {ts} is more than future_max ({self.spec.future_max_ms} ms) ahead of the record's own time"
        if reason == "pending-full":
            return f"the series holds back {self.spec.pending_max} ticks (pending_max) in steps not closed yet"
        return f"ts {ts}; the series has closed its steps up to {int(state.last_step[row]) * max(self.spec.step_ms, 1)}"

    # ── scaling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _scaled(
        self,
        slot: I32,
        step: I64,
        ts: I64,
        kind: U8,
        tick: I64,
        values: F64,
        consumed: int,
        evicted: list[int],
        rejected: list[tuple[int, Reason, str]],
        skipped: int,
    ) -> Frames:
        spec = self.spec
        count = len(slot)
        order = np.argsort(slot, kind="stable")  # frames of one series together, in time
        slot, step, ts, kind, tick, values = (
            slot[order],
            step[order],
            ts[order],
            kind[order],
            tick[order],
            values[order],
        )
        inputs: F32 = np.empty((count, spec.input_size), dtype=np.float32)
        base: F64 = np.empty(values.shape)
        scale: F32 = np.empty(values.shape, dtype=np.float32)
        age: F32 = np.empty(values.shape, dtype=np.float32)
        age_before: F32 = np.empty(values.shape, dtype=np.float32)
        rest: I32 = np.empty(values.shape, dtype=np.int32)
        number: I64 = np.empty(count, dtype=np.int64)
        column = self.table.columns
        features.observe(
            slot, step, ts, values, spec.irregular, spec.scale_decay, spec.level_decay, self._calendar,
            column["last"], column["level"], column["level_spread"], column["move_scale"], column["fresh"],
            column["run"], column["still"], column["seen"], column["since"], column["prev_step"], column["dt_mean"],
            column["steps"], inputs, base, scale, age, age_before, rest, number,
        )  # fmt: skip
        inputs = inputs.astype(np.float16).astype(np.float32)
        edges = np.flatnonzero(np.diff(slot)) + 1
        starts = np.concatenate([[0], edges]) if count else np.empty(0, dtype=np.int64)
        stops = np.concatenate([edges, [count]]) if count else np.empty(0, dtype=np.int64)
        runs = np.stack([slot[starts], starts, stops], axis=1) if count else np.empty((0, 3), dtype=np.int64)
        return Frames(
            slot, step, ts, kind, tick, values, inputs, base, scale, age, age_before, rest, number,
            runs.astype(np.int64),
            consumed, evicted, rejected, skipped,
        )  # fmt: skip
