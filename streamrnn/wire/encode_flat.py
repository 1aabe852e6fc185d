"""Forecasts one number a record: series, channel and step ahead, under the names that sinks and notebooks know (Nixtla's).

What a nested forecast says beside its numbers is in headers: `streamrnn-source` and `streamrnn-index` (of which record it comes),
`streamrnn-model`, `streamrnn-warm`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson

from streamrnn.calendar import milliseconds
from streamrnn.kernels import text as digits
from streamrnn.records import F32, F64, I64, Bool, ForecastBatch, TickBatch
from streamrnn.spec import OutputSpec, StreamSpec
from streamrnn.wire import encode_avro
from streamrnn.wire.codec import HEADER_INDEX, HEADER_SOURCE

HEADER_MODEL, HEADER_WARM = "streamrnn-model", "streamrnn-warm"
Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Flat:
    """Records, the forecast of the batch that each is of, and their headers."""

    values: list[bytes]
    rows: I64
    headers: list[Headers]


class FlatEncoder:
    """Encodes forecasts of one input topic; `frame` stands before each record."""

    def __init__(self, spec: StreamSpec, topic: str, output: OutputSpec, frame: bytes) -> None:
        self._spec, self._topic, self._frame = spec, topic.encode(), frame
        self._avro = output.format == "avro"
        self._horizons = list(output.horizons or range(1, spec.horizon + 1))
        self._steps = np.array(self._horizons, dtype=np.int64) - 1
        level = level_of(spec)
        self._level = (
            encode_avro.double(level) if self._avro else orjson.dumps(int(level) if level.is_integer() else level)
        )
        self._grid = spec.grid()

    def forecasts(self, batch: ForecastBatch, ticks: TickBatch) -> Flat:
        """A record for each channel that has been seen and each step ahead, by forecast, channel and step."""
        seen: Bool = ~np.isnan(batch.mean[:, :, 0])
        of, channel = np.nonzero(seen)
        levels = np.stack(
            (batch.mean[of, channel], batch.quantiles[of, channel, 0], batch.quantiles[of, channel, -1]), axis=2
        )[:, self._steps]  # fmt: skip
        times = [
            self._times(cutoff, step) for cutoff, step in zip(batch.ts_us.tolist(), batch.step_us.tolist(), strict=True)
        ]
        names, channels = batch.series, self._spec.channels
        ids = [f"{names[i]}/{channels[c]}" for i, c in zip(of.tolist(), channel.tolist(), strict=True)]
        if self._avro:
            values = self._in_avro(batch, of, ids, times, levels)
        else:
            values = self._in_json(batch, of, ids, times, _rounded(levels, batch.scale[of, channel]))
        per_row = self._headers(batch, ticks)
        rows: I64 = np.repeat(of, len(self._steps))
        return Flat(values, rows, [per_row[i] for i in rows.tolist()])

    def _times(self, cutoff_us: int, step_us: int) -> list[int]:
        """When the steps ahead are."""
        if self._spec.calendar_step is None:
            return [cutoff_us + h * step_us for h in self._horizons]
        at = self._grid.index(cutoff_us)
        return [self._grid.start_us(at + h) for h in self._horizons]

    def _in_json(
        self, batch: ForecastBatch, of: I64, ids: list[str], times: list[list[int]], levels: F64
    ) -> list[bytes]:
        numbers = iter(orjson.dumps(levels.ravel().tolist())[1:-1].split(b","))
        cutoffs = [b"%a" % milliseconds(us) for us in batch.ts_us.tolist()]
        whens = [[b"%a" % milliseconds(us) for us in each] for each in times]
        frame, horizons, level = self._frame, self._horizons, self._level
        values: list[bytes] = []
        for i, name in zip(of.tolist(), ids, strict=True):
            head, cutoff = frame + b'{"unique_id":' + orjson.dumps(name) + b',"ds":', cutoffs[i]
            for when, h in zip(whens[i], horizons, strict=True):
                values.append(
                    b'%b%b,"cutoff":%b,"h":%d,"yhat":%b,"yhat_lower":%b,"yhat_upper":%b,"level":%b}'
                    % (head, when, cutoff, h, next(numbers), next(numbers), next(numbers), level)
                )
        return values

    def _in_avro(
        self, batch: ForecastBatch, of: I64, ids: list[str], times: list[list[int]], levels: F64
    ) -> list[bytes]:
        irregular, frame, level = self._spec.irregular, self._frame, self._level
        whole, at, size = encode_avro.finite(levels).astype("<f8").tobytes(), 0, 24
        horizons = [encode_avro.long(h) for h in self._horizons]
        cutoffs = [encode_avro.instant(us, irregular) for us in batch.ts_us.tolist()]
        middles = [
            [encode_avro.instant(us, irregular) + cutoffs[i] + h for us, h in zip(each, horizons, strict=True)]
            for i, each in enumerate(times)
        ]
        values: list[bytes] = []
        for i, name in zip(of.tolist(), ids, strict=True):
            head = frame + encode_avro.text(name)
            for middle in middles[i]:
                values.append(b"".join((head, middle, whole[at : at + size], level)))
                at += size
        return values

    def _headers(self, batch: ForecastBatch, ticks: TickBatch) -> list[Headers]:
        partitions, offsets = ticks.partition[batch.tick].tolist(), ticks.offset[batch.tick].tolist()
        model = (HEADER_MODEL, batch.model.encode())
        warm = ((HEADER_WARM, b"false"), (HEADER_WARM, b"true"))
        made = [
            [(HEADER_SOURCE, b"%b/%d/%d" % (self._topic, partition, offset)), model, warm[known]]
            for partition, offset, known in zip(partitions, offsets, batch.warm.tolist(), strict=True)
        ]
        if len(ticks.index):
            for headers, place in zip(made, ticks.index[batch.tick].tolist(), strict=True):
                if place >= 0:
                    headers.append((HEADER_INDEX, b"%d" % place))
        return made


def level_of(spec: StreamSpec) -> float:
    """Percent that lie between the lowest quantile and the highest."""
    return round(100 * (spec.quantiles[-1] - spec.quantiles[0]), 6)


def _rounded(levels: F64, scale: F32) -> F64:
    """[pair, step, 3] with the digits that a pair's scale is worth, as a nested forecast has them; what is too large or too
    fine to be rounded so stays as it is."""
    places = np.array([digits.decimals_of(each) for each in scale.astype(np.float64).tolist()], dtype=np.int64)
    factor = digits.POWERS[np.minimum(places, digits.EXACT_DECIMALS)][:, None, None]
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = levels * factor
        fits = (np.abs(scaled) < digits.EXACT) & (places <= digits.EXACT_DECIMALS)[:, None, None]
        return np.where(fits, np.rint(scaled) / factor, levels) + 0.0
