"""The engine: ticks in, forecasts, imputations and refusals out. No clock, no socket, no await, no randomness.

The way of a batch:

    ticks ─► FrontEnd: rows, grid, scaling ─► Frames ─► network over all frames (ragged, batched over series)
                                                 └────► kernels.forecast.advance: score ─► fill ─► mix ─► quantiles

The result does not depend on how the ticks are cut into batches, nor on which series share one: bit for bit.
All per-series state is in one SeriesTable; the engine itself owns only the network and the partitions' event time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrnn.kernels import columns, forecast
from streamrnn.kernels.scratch import given_of, scratch_of
from streamrnn.model.network import Network
from streamrnn.records import F32, F64, I64, Bool, Outputs, Reason, Scores, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.forecasting import forecast_fields, settings_of, shape_of
from streamrnn.stream.frontend import Frames, FrontEnd
from streamrnn.stream.outputs import OutputPart, empty_scores, join_forecasts, join_imputations
from streamrnn.stream.runner import Runner, make_runner
from streamrnn.stream.table import SCRATCH, Field, SeriesTable

NO_MODEL = "persistence"

# So many networks stay built: the one in use, and those that restored partitions still replay with.
NETWORKS_MAX = 4


@dataclass(frozen=True, slots=True)
class Served:
    """Weights at work. `skill` [rung]: see `load`; `stamp` marks the rows whose recurrent state they computed."""

    runner: Runner | None
    skill: F64
    stamp: int


def stamp_of(model: str) -> int:
    """What a row remembers of the weights that computed its state; 0 before there were any."""
    return 0 if model == NO_MODEL else int.from_bytes(hashlib.sha256(model.encode()).digest()[:8], "big", signed=True)


# The network's recurrent state, whose size the weights tell.
NO_STATE = Field("state", (0,), np.float32)


def engine_fields(spec: StreamSpec) -> list[Field]:
    """The columns that forecasting keeps per series; together with the front end's they are a series' whole state."""
    return [
        *forecast_fields(spec),
        Field("ring", (spec.burn_in, spec.input_size), np.float16),
        Field("generation", (), np.int64),
    ]


class Engine:
    """Serves one worker's series. `process` is the whole of it; `load` swaps weights between two batches."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.table = SeriesTable(engine_fields(spec), spec.series_max)
        self.table.add([NO_STATE])
        self.front = FrontEnd(spec, self.table)
        self.model = NO_MODEL
        self._settings = settings_of(spec)
        self._served = Served(None, np.ones(len(self._settings.ladder.h)), 0)
        self._networks: dict[str, Served] = {NO_MODEL: self._served}
        self._place()

    def _place(self) -> None:
        """Notes where the table's arrays are, for the kernels."""
        self._rows, self._shape = shape_of(self.spec, self.table)
        self._scratch = scratch_of(self._shape, self.spec.horizon)
        self._given = given_of(self._settings, self._scratch)
        self._layout = self.table.layouts

    def load(self, network: Network, model: str, skill: F32 | None = None) -> None:
        """Serves with these weights from the next tick on.

        `skill` [horizon]: held-out squared error over persistence's. Every series' state is rebuilt from its last
        `burn_in` frames when it is next touched: the same numbers as rebuilding all now, without the stall.
        Raises ValueError when the network was built for other channels, horizon or quantiles.
        """
        shape = network.spec
        spec = self.spec
        wanted = (len(spec.channels), spec.horizon, spec.quantiles, len(spec.calendar_ms))
        if (shape.channels, shape.horizon, tuple(shape.quantiles), shape.calendars) != wanted:
            raise ValueError(
                f"weights {model} are for {shape.channels} channels, horizon {shape.horizon}, quantiles "
                f"{list(shape.quantiles)}; this stream has {wanted[0]}, {wanted[1]}, {list(wanted[2])}"
            )
        if skill is not None and not (skill.shape == (spec.horizon,) and bool(np.isfinite(skill).all())):
            raise ValueError(f"weights {model} come with a skill of another horizon than {spec.horizon}")
        if self.table.fields["state"].shape != (network.state_size,):
            self.table.replace(Field("state", (network.state_size,), np.float32))
            self.table.columns["generation"][: self.table.used] = 0
            self._networks = {NO_MODEL: self._networks[NO_MODEL]}
        rungs = self._settings.ladder.h - 1
        kept = np.ones(len(rungs)) if skill is None else skill[rungs].astype(np.float32).astype(np.float64)
        self._networks.pop(model, None)
        self._networks[model] = Served(make_runner(network), kept, stamp_of(model))
        while len(self._networks) > NETWORKS_MAX + 1:
            del self._networks[next(known for known in self._networks if known not in (NO_MODEL, self.model))]
        self.use(model)

    def has(self, model: str) -> bool:
        """Whether `use` can switch to these weights."""
        return model in self._networks

    def use(self, model: str) -> None:
        """Serves with weights that were loaded before (a restored partition replays with those of its time)."""
        self.model, self._served = model, self._networks[model]

    def drop(self, partition: int) -> int:
        """Lets a partition's series go; returns how many they were."""
        return self.front.drop(partition)

    def forget(self, partition: int, series: str) -> None:
        """Lets one series go, if it is held, and the ticks that it holds back."""
        self.front.forget(partition, series)

    def process(self, batch: TickBatch, emit_from: Mapping[int, int] | None = None) -> Outputs:
        """Steps every series the ticks concern. Records below `emit_from[partition]` move the state silently."""
        spec = self.spec
        parts: list[OutputPart] = []
        rejected: list[tuple[int, Reason, str]] = []
        scores = empty_scores(spec)
        frames_total, skipped, begin = 0, 0, 0
        evictions = self.table.evictions
        silent = self._silent(batch, emit_from)
        while begin < len(batch):
            frames = self.front.process(batch, begin)
            begin += frames.consumed
            rejected += frames.rejected
            skipped += frames.skipped
            frames_total += len(frames)
            if len(frames):
                parts.append(self._advance(frames, silent, scores))
            for first in range(0, len(frames.silent), SCRATCH):
                # On copies of the rows: nothing matures in them, and nothing of them is kept.
                ahead = self.front.ahead(frames.silent[first : first + SCRATCH])
                frames_total += len(ahead)
                parts.append(self._advance(ahead, silent, empty_scores(spec)))
        if silent is not None:
            rejected = [item for item in rejected if not silent[item[0]]]
        return Outputs(
            forecasts=join_forecasts(spec, parts, self.model),
            imputations=join_imputations(spec, parts),
            rejected=rejected,
            scores=scores,
            frames=frames_total,
            skipped=skipped,
            evicted=self.table.evictions - evictions,
        )

    # ── one stretch of frames ────────────────────────────────────────────────────────────────────────────────────

    def _silent(self, batch: TickBatch, emit_from: Mapping[int, int] | None) -> Bool | None:
        if not emit_from:
            return None
        silent: Bool = np.zeros(len(batch), dtype=np.bool_)
        for partition, offset in emit_from.items():
            silent |= (batch.partition == partition) & (batch.offset < offset)
        return silent if silent.any() else None

    def _advance(self, frames: Frames, silent: Bool | None, scores: Scores) -> OutputPart:
        part, arguments = self._prepared(frames, silent, scores)
        forecast.advance(*arguments)
        return part

    def compile_ahead(self, frames: Frames) -> None:
        """Compiles and keeps a part of what `process` needs, which another process then finds; `frames` may be none at all."""
        forecast.compile_ahead(*self._prepared(frames, None, empty_scores(self.spec))[1])

    def _prepared(self, frames: Frames, silent: Bool | None, scores: Scores) -> tuple[OutputPart, tuple[Any, ...]]:
        """Room for the outputs of these frames, and what the kernel is given; the network has run."""
        spec = self.spec
        column = self.table.columns
        net, has_net = self._run_network(frames)
        column["ring"][frames.slot, frames.number % spec.burn_in] = frames.inputs
        part = OutputPart(spec, self.front.steps, frames, silent, self.table)
        if self._layout != self.table.layouts:
            self._place()
        kernel_frames = columns.Frames(
            frames.slot, frames.step, frames.values, frames.base, frames.scale, frames.age, frames.age_before, frames.rest,
            frames.number, frames.phase, part.out_row, part.fill_row,
        )  # fmt: skip
        arguments = (
            self._rows.ctypes.data,
            self._shape,
            kernel_frames,
            forecast.Network(net, has_net, self._served.skill),
            self._given,
            forecast.Written(part.mean, part.quantiles, part.fill_value, part.fill_lower, part.fill_upper, part.filled),
            forecast.Matured(
                scores.count, scores.abs_error, scores.abs_persistence, scores.abs_network, scores.count_network,
                scores.abs_persistence_network, scores.below, scores.inside,
            ),
        )  # fmt: skip
        return part, arguments

    def _run_network(self, frames: Frames) -> tuple[F32, bool]:
        served = self._served
        if served.runner is None:
            # Frames pass that no network sees: a state from before them is to be rebuilt.
            self.table.columns["generation"][frames.runs[:, 0]] = served.stamp
            shape = (0, len(self.spec.channels), self.spec.horizon, 1 + len(self.spec.quantiles))
            return np.zeros(shape, dtype=np.float32), False
        column = self.table.columns
        state: F32 = column["state"]
        slots = frames.runs[:, 0]
        stale = frames.runs[column["generation"][slots] != served.stamp]
        if len(stale):
            self._rebuild(served.runner, stale, frames.number[stale[:, 1]], state)
            column["generation"][stale[:, 0]] = served.stamp
        return served.runner.run(frames.inputs, frames.runs, state), True

    def _rebuild(self, runner: Runner, runs: I64, number: I64, state: F32) -> None:
        """Runs the kept frames of these series through the weights now served, from a zero state."""
        column = self.table.columns
        slots = runs[:, 0]
        state[slots] = 0.0
        kept = np.minimum(number, self.spec.burn_in)
        some = kept > 0
        if some.any():
            ring = column["ring"]
            pieces, begins, begin = [], [], 0
            for slot, count, length in zip(slots[some], number[some], kept[some], strict=True):
                at = np.arange(count - length, count) % self.spec.burn_in
                pieces.append(ring[slot, at])
                begins.append((slot, begin, begin + length))
                begin += length
            inputs = np.concatenate(pieces).astype(np.float32)
            runner.rebuild(inputs, np.array(begins, dtype=np.int64), state)
