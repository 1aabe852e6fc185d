"""Outputs to bytes: forecasts and imputations as JSON documents, one a record. `encoder_for` has the other forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import orjson

from streamrnn.calendar import milliseconds
from streamrnn.inputs import Numbering, of_topic
from streamrnn.kernels import text
from streamrnn.records import I64, KIND_TICK, U8, ForecastBatch, ImputationBatch, TickBatch
from streamrnn.spec import OutputSpec, StreamSpec
from streamrnn.wire.encode_avro import AvroEncoder
from streamrnn.wire.encode_flat import FlatEncoder
from streamrnn.wire.origins import origins
from streamrnn.wire.output_schemas import What
from streamrnn.wire.schemas import framed

# Texts around the numbers that are kept, by weights and topic: some kB each.
PIECES_MAX = 64


class Encoder:
    """Encodes what the engine gives for the input's topics: of one that is named, or of those that are numbered.

    `horizons`: the steps ahead that a forecast says, empty: all. `frames`: what stands before a forecast's document and an
    imputation's. `passed`: the ticks came through a topic of the service's own, and say where they are from.
    """

    def __init__(
        self,
        spec: StreamSpec,
        topics: str | Numbering,
        horizons: Sequence[int] = (),
        frames: tuple[bytes, bytes] = (b"", b""),
        passed: bool = False,
    ) -> None:
        self.spec = spec
        self._numbering, self._passed = of_topic(topics), passed
        self._horizons, self._frames = tuple(horizons), frames
        self._pieces: dict[tuple[str, str], tuple[U8, I64]] = {}
        self._buffer: U8 = np.empty(1 << 20, dtype=np.uint8)

    def forecasts(self, batch: ForecastBatch, ticks: TickBatch) -> list[bytes]:
        """One JSON document per forecast, in the batch's order. `source.index` is there where its record had several ticks."""
        if self._horizons:
            batch = _some_steps(batch, self._horizons)
        names, name_edges = _quoted(batch.series)
        partition = ticks.partition[batch.tick]
        values: list[bytes] = []
        for topic, begin, stop in self._numbering.runs(partition):
            pieces, edges = self._pieces_for(batch.model, topic)
            while begin < stop:
                part = slice(begin, stop)
                ends: I64 = np.zeros(stop - begin, dtype=np.int64)
                fitted = text.write_forecasts(
                    self._buffer, pieces, edges, names, name_edges[begin : stop + 1], batch.ts_us[part],
                    batch.step_us[part], self._numbering.partitions(partition[part]), ticks.offset[batch.tick[part]],
                    batch.warm[part], batch.mean[part], batch.quantiles[part], batch.scale[part], ends,
                )  # fmt: skip
                if fitted == 0:
                    self._buffer = np.empty(2 * len(self._buffer), dtype=np.uint8)
                    continue
                whole = self._buffer[: ends[fitted - 1]].tobytes()
                start = 0
                for end in ends[:fitted].tolist():
                    values.append(whole[start:end])
                    start = end
                begin += fitted
        if self._passed:
            values = [value[: value.rindex(b',"source":{')] + b',"source":' for value in values]
            sources = origins(self._numbering, ticks, batch.tick, passed=True)
            values = [value + source.document() + b"}" for value, source in zip(values, sources, strict=True)]
        elif len(ticks.index):
            places = ticks.index[batch.tick].tolist()
            # Within `source`, which is the last that a forecast says.
            values = [
                value if place < 0 else b'%s,"index":%d}}' % (value[:-2], place)
                for value, place in zip(values, places, strict=True)
            ]
        return values

    def imputations(self, batch: ImputationBatch, ticks: TickBatch) -> list[bytes]:
        """One JSON document per filled step, in the batch's order; values that came are repeated as they were read: as
        the nearest double, so that whole numbers beyond 2^53 lose their last digits."""
        values: list[bytes] = []
        channels, sources = self.spec.channels, origins(self._numbering, ticks, batch.tick, self._passed)
        for i in range(len(batch)):
            shown: dict[str, float | None] = {}
            imputed: dict[str, dict[str, float]] = {}
            for c, name in enumerate(channels):
                value = float(batch.values[i, c])
                if batch.filled[i, c]:
                    places = text.decimals_of(float(batch.scale[i, c]))
                    shown[name] = round(value, places)
                    imputed[name] = {
                        "lower": round(float(batch.lower[i, c]), places),
                        "upper": round(float(batch.upper[i, c]), places),
                    }
                else:
                    shown[name] = None if math.isnan(value) else value
            source: dict[str, str | int] = {
                "topic": sources[i].topic,
                "partition": sources[i].partition,
                "offset": sources[i].offset,
            }
            if sources[i].index >= 0:
                source["index"] = sources[i].index
            document = {
                "series": batch.series[i],
                "ts": milliseconds(int(batch.ts_us[i])),
                "values": shown,
                "imputed": imputed,
                "kind": "missing-channel" if batch.kind[i] == KIND_TICK else "missing-tick",
                "source": source,
            }
            values.append(self._frames[1] + orjson.dumps(document))
        return values

    def _pieces_for(self, model: str, topic: str) -> tuple[U8, I64]:
        """The constant text around the numbers, as one blob with edges (see `kernels.text`)."""
        if (model, topic) in self._pieces:
            return self._pieces[model, topic]
        pieces = [b""] * text.FIXED
        pieces[text.SERIES] = self._frames[0] + b'{"series":'
        pieces[text.TS] = b'"ts":'
        pieces[text.STEP] = b',"step_ms":'
        said = b',"horizons":' + orjson.dumps(self._horizons) if self._horizons else b""
        pieces[text.CHANNELS] = said + b',"channels":{'
        pieces[text.MODEL] = b'},"model":' + orjson.dumps(model) + b',"warm":'
        pieces[text.TRUE] = b"true"
        pieces[text.FALSE] = b"false"
        pieces[text.SOURCE] = b',"source":{"topic":' + orjson.dumps(topic) + b',"partition":'
        pieces[text.OFFSET] = b',"offset":'
        pieces[text.END] = b"}}"
        pieces[text.COMMA] = b","
        pieces[text.CHANNEL_END] = b"]}}"
        for channel in self.spec.channels:
            pieces.append(orjson.dumps(channel) + b':{"mean":[')
            for q, level in enumerate(self.spec.quantiles):
                opening = b'],"quantiles":{' if q == 0 else b"],"
                pieces.append(opening + orjson.dumps(f"{level:g}") + b":[")
        blob = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        edges: I64 = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in pieces], out=edges[1:])
        if len(self._pieces) > PIECES_MAX:
            self._pieces.clear()
        self._pieces[model, topic] = (blob, edges)
        return blob, edges


def encoder_for(
    spec: StreamSpec, topics: str | Numbering, output: OutputSpec, ids: Mapping[What, int], passed: bool = False
) -> tuple[Encoder | AvroEncoder, FlatEncoder | None]:
    """(of imputations, and of forecasts unless there is another; of forecasts where they are flat). `ids`: of the schemas,
    where the format has them; `passed` as of `Encoder`."""
    forecasts, imputed = (framed(ids[what]) if what in ids else b"" for what in ("forecasts", "imputed"))
    nested: Encoder | AvroEncoder
    numbering = of_topic(topics)
    if output.format == "avro":
        nested = AvroEncoder(spec, numbering, output, (forecasts, imputed), passed)
    else:
        nested = Encoder(spec, numbering, output.horizons, (forecasts, imputed), passed)
    return nested, FlatEncoder(spec, numbering, output, forecasts, passed) if output.layout == "flat" else None


def _some_steps(batch: ForecastBatch, horizons: Sequence[int]) -> ForecastBatch:
    steps = np.array(horizons) - 1
    # A channel that was never seen is NaN at every step.
    return replace(
        batch,
        mean=np.ascontiguousarray(batch.mean[:, :, steps]),
        quantiles=np.ascontiguousarray(batch.quantiles[:, :, :, steps]),
    )


def _quoted(series: list[str]) -> tuple[U8, I64]:
    """The names as JSON, each with the comma behind it: one text, and the edges between them, `[series + 1]`.

    Made anew for each batch: with names that come once and go, whatever is kept of them for longer than the batch leaves
    the allocator's pages in pieces, and one text of all names costs less than looking each of them up.
    """
    edges: I64 = np.zeros(len(series) + 1, dtype=np.int64)
    whole = orjson.dumps(series)
    np.cumsum(list(map(len, series)), out=edges[1:])
    edges += 3 * np.arange(len(series) + 1)
    if edges[-1] == len(whole) - 1:  # plain ASCII, nothing escaped: a byte a character, two quotes and a comma
        return np.frombuffer(whole[1:-1] + b",", dtype=np.uint8), edges
    names = [orjson.dumps(name) + b"," for name in series]
    np.cumsum(list(map(len, names)), out=edges[1:])
    return np.frombuffer(b"".join(names), dtype=np.uint8), edges
