"""Engine outputs to the three output topics, partition by partition: outputs of input partition p go to partition p."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from streamrnn.inputs import Numbering, of_topic
from streamrnn.records import I32, I64, ForecastBatch, ImputationBatch, Outputs, Record, Rejected, TickBatch
from streamrnn.serving.refused import OutputTopics, RefusedOutputs, bounded, cut
from streamrnn.spec import PLAIN, OutputSpec, StreamSpec
from streamrnn.transports.base import Instead, Sink
from streamrnn.wire.codec import dead_letter
from streamrnn.wire.encode import encoder_for
from streamrnn.wire.encode_flat import Flat
from streamrnn.wire.origins import rejected_at_origin
from streamrnn.wire.output_schemas import What, source_in

# Key, value and headers of a dead letter.
Letter = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]

# Event times beyond these (1970, the year 10000) are no times that a record may carry.
EVENT_MS = (0, 253_402_300_800_000)


def wall_ms() -> int:
    """The time of day in milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclass(frozen=True, slots=True)
class Written:
    """The output topics, and how forecasts and fills are written: `timestamp` is what their records carry, the present or the
    event time that they are about (dead letters always carry the present); `ids` are of the schemas that `output` names."""

    forecasts: str
    imputed: str
    dead_letters: str
    timestamp: Literal["now", "event"] = "now"
    output: OutputSpec = PLAIN
    ids: Mapping[What, int] = field(default_factory=dict)


class Publisher:
    """Encodes and appends; what was appended is covered by the Sink's next `seal`."""

    def __init__(
        self,
        spec: StreamSpec,
        inputs: str | Numbering,
        written: Written,
        sink: Callable[[int], Sink],
        refused: RefusedOutputs,
        now_ms: Callable[[], int] = wall_ms,
        passed: bool = False,
    ) -> None:
        """`sink` gives the Sink for what belongs to an input partition. `passed`: the ticks came through a topic of the service's
        own, and say where they are from."""
        forecasts, imputed, dead_letters = written.forecasts, written.imputed, written.dead_letters
        self.now_ms = now_ms
        self._numbering, self._passed = of_topic(inputs), passed
        self._encoder, self._flat = encoder_for(spec, self._numbering, written.output, written.ids, passed)
        self._forecasts, self._imputed, self._dead_letters = forecasts, imputed, dead_letters
        self._sink, self._refused, self._by_event_time = sink, refused, written.timestamp == "event"
        self._partitions: dict[str, int] = {}
        self._topics = OutputTopics(
            self._numbering, forecasts, imputed, dead_letters, lambda partition: self._place(dead_letters, partition),
            source_in(spec, written.output), passed=passed,
        )  # fmt: skip
        self._sources: list[Sequence[Record]] = []  # of what was published since the last `sealed`

    async def check(self, sink: Sink) -> Mapping[str, int]:
        """Partition counts of the output topics; raises TopicMissing."""
        for topic in (self._forecasts, self._imputed, self._dead_letters):
            self._partitions[topic] = await sink.partitions_for(topic)
        return self._partitions

    async def make_room(self, partitions: Sequence[int], sink: Sink) -> None:
        """For input partitions that are given to us: they may be new, and those of the outputs newer than the last look."""
        if self._partitions and max(partitions) >= min(self._partitions.values()):
            await self.check(sink)

    async def publish(self, outputs: Outputs, batch: TickBatch, unread: Sequence[Rejected]) -> tuple[int, int, int]:
        """Appends all of a batch's outputs; returns how many forecasts, imputations and dead letters."""
        forecasts, imputations, now_ms = outputs.forecasts, outputs.imputations, self.now_ms()
        if len(forecasts):
            if self._flat is None:
                await self._append(self._forecasts, forecasts, self._encoder.forecasts(forecasts, batch), batch, now_ms)
            else:
                await self._append_flat(
                    self._forecasts, forecasts, self._flat.forecasts(forecasts, batch), batch, now_ms
                )
        if len(imputations):
            await self._append(self._imputed, imputations, self._encoder.imputations(imputations, batch), batch, now_ms)
        if len(forecasts) or len(imputations):
            self._sources.append(batch.records)
        index = batch.index
        refused = [
            *unread,
            *(
                Rejected(batch.records[tick], reason, detail, int(index[tick]) if len(index) else -1)
                for tick, reason, detail in outputs.rejected
            ),
        ]
        letters = await self._bury(refused, now_ms) if refused else 0
        return len(forecasts), len(imputations), letters

    def sealed(self) -> Instead:
        """What is to be sent instead of what the broker refuses of all that was published since the last call."""
        sources, self._sources = self._sources, []
        return self._refused.instead(self._topics, sources, self.now_ms)

    def _place(self, topic: str, partition: int) -> int:
        """Where what comes of an input partition goes."""
        return partition % self._partitions.get(topic, partition + 1)

    async def _append(
        self, topic: str, part: ForecastBatch | ImputationBatch, values: list[bytes], batch: TickBatch, now_ms: int
    ) -> None:
        keys = [name.encode() for name in part.series]
        times: list[int] = self._times(part.ts_us, now_ms)
        for partition, begin, end in _stretches(batch.partition[part.tick]):
            await self._sink(partition).append_many(
                topic, self._place(topic, partition), keys[begin:end], values[begin:end], times[begin:end]
            )

    async def _append_flat(self, topic: str, part: ForecastBatch, flat: Flat, batch: TickBatch, now_ms: int) -> None:
        names, of = [name.encode() for name in part.series], flat.rows.tolist()
        keys, each = [names[i] for i in of], self._times(part.ts_us, now_ms)
        times = [each[i] for i in of]
        for partition, begin, end in _stretches(batch.partition[part.tick[flat.rows]]):
            await self._sink(partition).append_many(
                topic, self._place(topic, partition), keys[begin:end], flat.values[begin:end], times[begin:end],
                flat.headers[begin:end],
            )  # fmt: skip

    def _times(self, ts_us: I64, now_ms: int) -> list[int]:
        """Record times of outputs about these event times."""
        if not self._by_event_time:
            return [now_ms] * len(ts_us)
        ts_ms, (least, most) = ts_us // 1000, EVENT_MS
        times: list[int] = np.where((ts_ms >= least) & (ts_ms < most), ts_ms, now_ms).tolist()
        return times

    async def _bury(self, refused: Sequence[Rejected], now_ms: int) -> int:
        """Appends dead letters; returns how many."""
        kept = bounded(refused)
        for partition, items in by_number(kept, self._numbering).items():
            letters = [cut(*dead_letter(rejected_at_origin(item) if self._passed else item)) for item in items]
            place = self._place(self._dead_letters, partition)
            await bury(self._sink(partition), self._dead_letters, place, letters, now_ms)
        return len(kept)


def by_number(refused: Sequence[Rejected], numbering: Numbering) -> dict[int, list[Rejected]]:
    """Refused records by the numbers of their partitions, each in the order of the log."""
    found: dict[int, list[Rejected]] = {}
    for item in refused:
        found.setdefault(numbering.of(item.record), []).append(item)
    for items in found.values():
        items.sort(key=lambda item: (item.record.offset, item.index))
    return found


async def bury(sink: Sink, topic: str, partition: int, letters: Sequence[Letter], now_ms: int) -> None:
    """Appends dead letters."""
    keys, values, headers = zip(*letters, strict=True)
    await sink.append_many(topic, partition, keys, values, [now_ms] * len(letters), headers)


def _stretches(partition: I32) -> Iterable[tuple[int, int, int]]:
    """(partition, begin, end) of runs of equal partitions."""
    edges = [0, *(np.flatnonzero(np.diff(partition)) + 1).tolist(), len(partition)]
    for begin, end in pairwise(edges):
        yield int(partition[begin]), begin, end
