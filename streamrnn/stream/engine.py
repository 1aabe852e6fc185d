"""The engine: ticks in, forecasts, imputations and refusals out. No clock, no socket, no await, no randomness.

The way of a batch:

    ticks ─► FrontEnd: rows, grid, scaling ─► Frames
         ─► kernels.forecast.advance: score ─► fill ─► learn ─► mix ─► network on what is left ─► quantiles

The result does not depend on how the ticks are cut into batches, nor on which series share one: bit for bit.
All per-series state is in one SeriesTable; the engine itself owns only the network and the partitions' event time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrnn.kernels import columns, forecast
from streamrnn.kernels.columns import rungs_of
from streamrnn.kernels.network import Lanes, Layers, abreast, lanes_of, no_layers
from streamrnn.kernels.remainder import HARMONICS
from streamrnn.kernels.scratch import given_of, rooms_of, scratch_of
from streamrnn.model.network import Network
from streamrnn.records import F32, Bool, Outputs, Reason, Scores, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.forecasting import forecast_fields, inputs_of, settings_of, shape_of
from streamrnn.stream.frontend import Frames, FrontEnd
from streamrnn.stream.layers import layers_of, stepped
from streamrnn.stream.outputs import OutputPart, empty_scores, join_forecasts, join_imputations
from streamrnn.stream.table import SCRATCH, Field, SeriesTable

NO_MODEL = "persistence"

# So many networks stay built: the one in use, and those that restored partitions still replay with.
NETWORKS_MAX = 4


@dataclass(frozen=True, slots=True)
class Served:
    """Weights at work; `stamp` marks the rows whose recurrent state they computed. `credit` [rung, (Σ f y, Σ f²)]: what a series
    that has not seen them believes of them."""

    layers: Layers
    lanes: Lanes
    network: Network | None
    stamp: int
    credit: F32


def _served(network: Network | None, stamp: int) -> Served:
    layers = layers_of(network) if network is not None and network.plain_gru else no_layers()
    credit: F32 = (
        np.zeros((1, 2), dtype=np.float32) if network is None else network.credit.detach().cpu().numpy().copy()
    )
    return Served(layers, lanes_of(layers), network, stamp, credit)


def stamp_of(model: str) -> int:
    """What a row remembers of the weights that computed its state; 0 before there were any."""
    return 0 if model == NO_MODEL else int.from_bytes(hashlib.sha256(model.encode()).digest()[:8], "big", signed=True)


# The network's recurrent state, whose size the weights define.
NO_STATE = Field("state", (0,), np.float32)


def engine_fields(spec: StreamSpec) -> list[Field]:
    """The columns that forecasting keeps per series; together with the front end's they are a series' whole state."""
    return [
        *forecast_fields(spec),
        Field("generation", (), np.int64),
    ]


class Engine:
    """Serves one worker's series. `process` is the whole of it; `load` swaps weights between two batches."""

    def __init__(self, spec: StreamSpec, record: bool = False) -> None:
        """`record`: what a network is trained on is kept of each stretch of frames (`recorded`)."""
        self.spec = spec
        self.inputs = inputs_of(spec)
        self.record = record
        self.table = SeriesTable(engine_fields(spec), spec.series_max)
        self.table.add([NO_STATE])
        self.front = FrontEnd(spec, self.table, fills_ahead=not record)
        self.model = NO_MODEL
        self._settings = settings_of(spec)
        self._served = _served(None, 0)
        self._networks: dict[str, Served] = {NO_MODEL: self._served}
        self.recorded = self._recording(0)
        self._place()

    def _place(self) -> None:
        """Notes where the table's arrays are, for the kernels."""
        self._rows, self._shape = shape_of(self.spec, self.table)
        seasons = len(self._settings.seasons.cells)
        self._scratches = [
            scratch_of(self._shape, self.spec.horizon, len(self.inputs), 2 * sum(HARMONICS[:seasons]))
            for _ in range(abreast(self._shape.channels))
        ]
        self._given = given_of(self._settings, self._scratches[0])
        self._rooms = rooms_of(self._settings, self._scratches)
        self._layout = self.table.layouts

    def load(self, network: Network, model: str) -> None:
        """Serves with these weights from the next tick on; recurrent states begin at zero.

        Raises ValueError when the network was built for other inputs or another horizon.
        """
        shape = network.spec
        if (shape.inputs, shape.rungs) != (tuple(self.inputs), rungs_of(self.spec.horizon)):
            raise ValueError(
                f"weights {model} are for {len(shape.inputs)} inputs and horizon {shape.rungs[-1]}, or for inputs of another "
                f"meaning; this stream has {len(self.inputs)} and {self.spec.horizon}"
            )
        state = self.state_shape(network)
        if self.table.fields["state"].shape != state:
            self.table.replace(Field("state", state, np.float32))
            self.table.columns["generation"][: self.table.used] = 0
            self._networks = {NO_MODEL: self._networks[NO_MODEL]}
        self._networks.pop(model, None)
        self._networks[model] = _served(network.eval(), stamp_of(model))
        while len(self._networks) > NETWORKS_MAX + 1:
            del self._networks[next(known for known in self._networks if known not in (NO_MODEL, self.model))]
        self.use(model)

    def state_shape(self, network: Network) -> tuple[int]:
        """Of a series' recurrent state: that of its channels side by side."""
        return (len(self.spec.channels) * network.state_size,)

    def has(self, model: str) -> bool:
        """Whether `use` can switch to these weights."""
        return model in self._networks

    def use(self, model: str) -> None:
        """Serves with weights that were loaded before (a restored partition replays with those of its time)."""
        self.model, self._served = model, self._networks[model]
        self._settings.credit[:] = self._served.credit  # the kernels have its address

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

    def watch(self, batch: TickBatch) -> Iterator[tuple[Frames, forecast.Recorded]]:
        """As `process`, with nothing made that is sent: the frames, and what of them is recorded."""
        silent: Bool = np.ones(len(batch), dtype=np.bool_)
        begin = 0
        while begin < len(batch):
            frames = self.front.process(batch, begin)
            begin += frames.consumed
            if len(frames):
                self._advance(frames, silent, empty_scores(self.spec))
            yield frames, self.recorded

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
        network = self._served.network
        if network is None or network.plain_gru:
            forecast.advance(*arguments)
        else:
            self._advance_in_waves(network, frames, arguments)
        return part

    def _advance_in_waves(self, network: Network, frames: Frames, arguments: tuple[Any, ...]) -> None:
        """As `forecast.advance`, with a network that is not compiled: the first frame of every series, then the second, ..."""
        address, shape, kernel_frames, _, net, recorded, given, _, written, matured = arguments
        state, channels = self.table.columns["state"], len(self.spec.channels)
        length = frames.runs[:, 2] - frames.runs[:, 1]
        for k in range(int(length.max())):
            chosen = frames.runs[length > k, 1] + k
            shown: F32 = np.zeros((len(chosen), channels, len(self.inputs)), dtype=np.float32)
            moves: F32 = np.zeros((len(chosen), channels, self.spec.horizon), dtype=np.float32)
            forecast.ask(address, shape, kernel_frames, net, recorded, given, written, matured, chosen, shown, moves)
            slots = frames.slot[chosen]
            said, moved = stepped(
                network, shown.reshape(-1, shown.shape[2]), state[slots].reshape(-1, network.state_size)
            )
            state[slots] = moved.reshape(len(chosen), -1)
            said = said.reshape(len(chosen), channels, -1)
            forecast.answer(address, shape, kernel_frames, net.speaks, given, written, chosen, said, moves)

    def compile_ahead(self, frames: Frames) -> None:
        """Compiles and keeps a part of what `process` needs, which another process then finds; `frames` may be none at all."""
        forecast.compile_ahead(*self._prepared(frames, None, empty_scores(self.spec))[1])

    def _prepared(self, frames: Frames, silent: Bool | None, scores: Scores) -> tuple[OutputPart, tuple[Any, ...]]:
        """Room for the outputs of these frames, and what the kernel is given."""
        self._own_states(frames)
        served, self.recorded = self._served, self._recording(len(frames))
        part = OutputPart(self.spec, self.front.steps, frames, silent, self.table)
        if self._layout != self.table.layouts:
            self._place()
        kernel_frames = columns.Frames(
            frames.slot, frames.step, frames.values, frames.base, frames.scale, frames.age, frames.age_before, frames.rest,
            frames.number, frames.phase, frames.moment, part.out_row, part.fill_row,
        )  # fmt: skip
        arguments = (
            self._rows.ctypes.data,
            self._shape,
            kernel_frames,
            frames.runs,
            forecast.Network(served.layers, served.lanes, self.table.columns["state"], served.network is not None, self.record),
            self.recorded,
            self._given,
            self._rooms,
            forecast.Written(part.mean, part.quantiles, part.fill_value, part.fill_lower, part.fill_upper, part.filled),
            forecast.Matured(
                scores.count, scores.abs_error, scores.abs_persistence, scores.abs_network, scores.count_network,
                scores.abs_base_network, scores.below, scores.inside,
            ),
        )  # fmt: skip
        return part, arguments

    def _own_states(self, frames: Frames) -> None:
        """Recurrent states that other weights computed begin anew at zero."""
        generation, slots = self.table.columns["generation"], frames.runs[:, 0]
        other = slots[generation[slots] != self._served.stamp]
        if len(other):
            self.table.columns["state"][other] = 0.0
            generation[other] = self._served.stamp

    def _recording(self, frames: int) -> forecast.Recorded:
        count = frames if self.record else 0
        channels, rungs = len(self.spec.channels), len(self._settings.ladder.h)

        def room(*more: int) -> F32:
            return np.zeros((count, channels, *more), dtype=np.float32)

        return forecast.Recorded(room(len(self.inputs)), room(rungs), room(rungs), room())
