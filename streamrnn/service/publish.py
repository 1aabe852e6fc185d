"""Engine outputs to the three output topics, partition by partition: outputs of input partition p go to partition p."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from streamrnn.codec import dead_letter
from streamrnn.encode import Encoder
from streamrnn.records import I32, I64, Outputs, Rejected, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.transports.base import Sink

# A dead letter is larger than what it buries, by the headers that say why. A value near the broker's limit is cut to this
# many bytes, and a header tells how many there were: a record that cannot be buried would stop the service for ever.
LETTER_BYTES_MAX = 800_000


class Publisher:
    """Encodes and appends; what was appended is covered by the Sink's next `seal`."""

    def __init__(
        self,
        spec: StreamSpec,
        input_topic: str,
        forecasts: str,
        imputed: str,
        dead_letters: str,
        sink: Callable[[int], Sink],
    ) -> None:
        """`sink` gives the Sink for what belongs to an input partition."""
        self._encoder = Encoder(spec, input_topic)
        self._forecasts, self._imputed, self._dead_letters = forecasts, imputed, dead_letters
        self._sink = sink
        self._partitions: dict[str, int] = {}

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
        forecasts, imputations = outputs.forecasts, outputs.imputations
        if len(forecasts):
            await self._append(
                self._forecasts, forecasts.tick, forecasts.series, self._encoder.forecasts(forecasts, batch), batch
            )
        if len(imputations):
            await self._append(
                self._imputed,
                imputations.tick,
                imputations.series,
                self._encoder.imputations(imputations, batch),
                batch,
            )
        refused = [
            *unread,
            *(Rejected(batch.records[tick], reason, detail) for tick, reason, detail in outputs.rejected),
        ]
        if refused:
            await self._bury(refused)
        return len(forecasts), len(imputations), len(refused)

    async def _append(self, topic: str, tick: I64, series: list[str], values: list[bytes], batch: TickBatch) -> None:
        keys = [name.encode() for name in series]
        # Outputs carry the time of the record that caused them, so that retention treats both alike.
        times: list[int] = batch.record_ts_ms[tick].tolist()
        for partition, begin, end in _stretches(batch.partition[tick]):
            await self._sink(partition).append_many(
                topic,
                partition % self._partitions.get(topic, partition + 1),
                keys[begin:end],
                values[begin:end],
                times[begin:end],
            )

    async def _bury(self, refused: Iterable[Rejected]) -> None:
        topic = self._dead_letters
        by_partition: dict[int, list[Rejected]] = {}
        for item in refused:
            by_partition.setdefault(item.record.partition, []).append(item)
        for partition, items in by_partition.items():
            items.sort(key=lambda item: item.record.offset)
            letters = [_cut(*dead_letter(item)) for item in items]
            await self._sink(partition).append_many(
                topic,
                partition % self._partitions.get(topic, partition + 1),
                [key for key, _, _ in letters],
                [value for _, value, _ in letters],
                [item.record.timestamp for item in items],
                [headers for _, _, headers in letters],
            )


def _cut(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    if value is None or len(value) <= LETTER_BYTES_MAX:
        return key, value, headers
    return key, value[:LETTER_BYTES_MAX], [*headers, ("streamrnn-truncated", str(len(value)).encode())]


def _stretches(partition: I32) -> Iterable[tuple[int, int, int]]:
    """(partition, begin, end) of runs of equal partitions."""
    edges = [0, *(np.flatnonzero(np.diff(partition)) + 1).tolist(), len(partition)]
    for begin, end in pairwise(edges):
        yield int(partition[begin]), begin, end
