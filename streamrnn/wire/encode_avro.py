"""Outputs to Avro's binary encoding, by the schemas of `published`, after Confluent's frame.

All forecasts of a stream have as many numbers, in the same places after the series' name: one text of bytes is the pattern of
all, and a batch's numbers are put into it at once. A writer that takes one number after the other costs more than the forecast.

Source: Apache Avro 1.12 specification, "Binary encoding".
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from streamrnn.calendar import milliseconds
from streamrnn.inputs import Numbering, of_topic
from streamrnn.records import F64, I64, KIND_TICK, U8, Bool, ForecastBatch, ImputationBatch, TickBatch
from streamrnn.spec import OutputSpec, StreamSpec
from streamrnn.wire.origins import origins

_DOUBLE = struct.Struct("<d")
_END = b"\x00"  # of the blocks of an array or a map
_NULL, _SECOND = b"\x00", b"\x02"  # the branches of a union


def long(value: int) -> bytes:
    """An int or long: zigzag, seven bits a byte."""
    rest = value << 1 if value >= 0 else ~(value << 1)
    if rest < 0x80:
        return bytes((rest,))
    made = bytearray()
    while rest >= 0x80:
        made.append(rest & 0x7F | 0x80)
        rest >>= 7
    made.append(rest)
    return bytes(made)


def text(value: str) -> bytes:
    encoded = value.encode()
    return long(len(encoded)) + encoded


def double(value: float) -> bytes:
    return _DOUBLE.pack(value)


def instant(us: int, irregular: bool) -> bytes:
    """A `timestamp-millis`, or a `timestamp-micros` where steps are irregular."""
    return long(us if irregular else us // 1000)


def finite(numbers: F64) -> F64:
    """With NaN for what is infinite."""
    good: Bool = np.isfinite(numbers)
    return numbers if good.all() else np.where(good, numbers, np.nan)


class AvroEncoder:
    """Encodes what the engine gives for the input's topics; `frames` stand before a forecast's and an imputation's datum."""

    def __init__(
        self,
        spec: StreamSpec,
        topics: str | Numbering,
        output: OutputSpec,
        frames: tuple[bytes, bytes],
        passed: bool = False,
    ) -> None:
        self.spec = spec
        self._numbering, self._passed = of_topic(topics), passed
        (self._forecast_frame, self._imputation_frame) = frames
        self._steps = np.array(output.horizons or range(1, spec.horizon + 1), dtype=np.int64) - 1
        self._all = len(self._steps) == spec.horizon
        said = b"".join(long(step) for step in output.horizons)
        self._horizons = _SECOND + long(len(output.horizons)) + said + _END if output.horizons else _NULL
        self._patterns: dict[bytes, _Pattern] = {}

    def forecasts(self, batch: ForecastBatch, ticks: TickBatch) -> list[bytes]:
        """One record per forecast, in the batch's order; numbers as the engine has them, to the last bit."""
        bodies = self._bodies(batch)
        irregular, frame, model = self.spec.irregular, self._forecast_frame, text(batch.model)
        tails = (self._horizons, model + b"\x00", model + b"\x01")
        times, steps, warm = batch.ts_us.tolist(), batch.step_us.tolist(), batch.warm.tolist()
        sources = self._sources(ticks, batch.tick)
        return [
            b"".join((
                frame, text(name), instant(times[i], irregular), _DOUBLE.pack(milliseconds(steps[i])), tails[0], bodies[i],
                tails[2] if warm[i] else tails[1], sources[i],
            ))
            for i, name in enumerate(batch.series)
        ]  # fmt: skip

    def imputations(self, batch: ImputationBatch, ticks: TickBatch) -> list[bytes]:
        """One record per filled step, in the batch's order; a value that is not there is null."""
        names = [text(name) for name in self.spec.channels]
        kinds = {True: text("missing-channel"), False: text("missing-tick")}
        sources, irregular = self._sources(ticks, batch.tick), self.spec.irregular
        records: list[bytes] = []
        for i, name in enumerate(batch.series):
            parts = [self._imputation_frame, text(name), instant(int(batch.ts_us[i]), irregular), long(len(names))]
            for c, channel in enumerate(names):
                value = float(batch.values[i, c])
                parts += [channel, _NULL if math.isnan(value) else _SECOND + _DOUBLE.pack(value)]
            parts.append(_END)
            filled = np.flatnonzero(batch.filled[i]).tolist()
            if filled:
                parts.append(long(len(filled)))
            for c in filled:
                parts += [names[c], _DOUBLE.pack(batch.lower[i, c]), _DOUBLE.pack(batch.upper[i, c])]
            parts += [_END, kinds[bool(batch.kind[i] == KIND_TICK)], sources[i]]
            records.append(b"".join(parts))
        return records

    def _sources(self, ticks: TickBatch, rows: I64) -> list[bytes]:
        found = origins(self._numbering, ticks, rows, self._passed)
        topics = {topic: text(topic) for topic in {each.topic for each in found}}
        return [
            topics[of.topic]
            + long(of.partition)
            + long(of.offset)
            + (_NULL if of.index < 0 else _SECOND + long(of.index))
            for of in found
        ]

    def _bodies(self, batch: ForecastBatch) -> list[bytes]:
        """The map of the channels, for each forecast. One whose first mean is NaN has never been seen and is left out."""
        seen: Bool = ~np.isnan(batch.mean[:, :, 0])
        kinds, kind_of = np.unique(seen, axis=0, return_inverse=True)
        mean = finite(batch.mean if self._all else batch.mean[:, :, self._steps])
        quantiles = finite(batch.quantiles if self._all else batch.quantiles[:, :, :, self._steps])
        bodies: list[bytes] = [b""] * len(batch)
        for at, kind in enumerate(kinds):
            rows = np.flatnonzero(kind_of.reshape(-1) == at)
            pattern = self._pattern(kind)
            for row, body in zip(rows.tolist(), pattern.filled(mean[rows], quantiles[rows]), strict=True):
                bodies[row] = body
        return bodies

    def _pattern(self, seen: Bool) -> _Pattern:
        key = seen.tobytes()
        if key not in self._patterns:
            if len(self._patterns) > 256:
                self._patterns.clear()
            self._patterns[key] = _Pattern(self.spec, np.flatnonzero(seen).tolist(), len(self._steps))
        return self._patterns[key]


class _Pattern:
    """The bytes of the channels' map with zeros for numbers, and where the numbers stand."""

    def __init__(self, spec: StreamSpec, channels: list[int], steps: int) -> None:
        made, self._places, self._size = bytearray(), list[tuple[int, int, int]](), 8 * steps
        if channels:
            made += long(len(channels))
        for c in channels:
            made += text(spec.channels[c])
            for q in range(-1, len(spec.quantiles)):  # the mean, then the levels
                if q == 0:
                    made += long(len(spec.quantiles))
                if q >= 0:
                    made += text(f"{spec.quantiles[q]:g}")
                made += long(steps)
                self._places.append((len(made), c, q))
                made += bytes(self._size) + _END
            made += _END
        self._bytes: U8 = np.frombuffer(bytes(made + _END), dtype=np.uint8)

    def filled(self, mean: F64, quantiles: F64) -> list[bytes]:
        """With these numbers, [record, channel, step] and [record, channel, level, step]."""
        count, size = len(mean), self._size
        made = np.tile(self._bytes, (count, 1))
        for at, c, q in self._places:
            numbers: Any = np.ascontiguousarray(mean[:, c] if q < 0 else quantiles[:, c, q], dtype="<f8")
            made[:, at : at + size] = numbers.view(np.uint8)
        whole, width = made.tobytes(), made.shape[1]
        return [whole[k * width : (k + 1) * width] for k in range(count)]
