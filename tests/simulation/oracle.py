"""What would have been said, and what states come to, had nothing ever gone wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from stream import FORECASTS, IMPUTED, LETTERS, Raw

from streamrnn.codec import Decoder
from streamrnn.encode import Encoder
from streamrnn.model.weights import build
from streamrnn.service.config import Settings
from streamrnn.stream.engine import NO_MODEL, Engine
from streamrnn.transports.memory import MemoryRecord

# Which weights moved a series' state: (input offset, id) from there on, the first from the beginning.
Lineage = tuple[tuple[int, str], ...]

# topic, partition, source offset, event time (0: dead letter), series
Place = tuple[str, int, int, int, str]


@dataclass(frozen=True, slots=True)
class Life:
    """One partition from end to end, uninterrupted."""

    said: dict[Place, bytes]
    engine: Engine


class Oracle:
    """An engine per partition and lineage. `blobs` are all weights by id, as they become known."""

    def __init__(self, settings: Settings, logs: Sequence[Sequence[Raw]], blobs: Mapping[str, bytes]) -> None:
        self._settings, self._logs, self._blobs = settings, logs, blobs
        self._spec = settings.stream_spec()
        self._encoder = Encoder(self._spec, "ticks")
        self._lives: dict[tuple[int, Lineage], Life] = {}

    def life(self, partition: int, lineage: Lineage) -> Life:
        known = self._lives.get((partition, lineage))
        if known is None:
            known = self._lives[partition, lineage] = self._lived(partition, lineage)
        return known

    def _lived(self, partition: int, lineage: Lineage) -> Life:
        engine, decoder, log = (
            Engine(self._spec),
            Decoder(self._spec, self._settings.decode_spec()),
            self._logs[partition],
        )
        said: dict[Place, bytes] = {}
        for (begin, model), (end, _) in pairwise([*lineage, (len(log), "")]):
            if engine.has(model):
                engine.use(model)
            elif model != NO_MODEL:
                network, meta = build(self._blobs[model])
                engine.load(network, model, np.array(meta.skill, dtype=np.float32) if meta.skill else None)
            records = [
                MemoryRecord("ticks", partition, offset, ts, key, value)
                for offset, (key, value, ts) in enumerate(log[begin:end], begin)
            ]
            batch, unread = decoder.decode(records)
            outputs = engine.process(batch)
            offset = batch.offset
            for topic, part, texts in (
                (FORECASTS, outputs.forecasts, self._encoder.forecasts(outputs.forecasts, batch)),
                (IMPUTED, outputs.imputations, self._encoder.imputations(outputs.imputations, batch)),
            ):
                for tick, ts, series, text in zip(part.tick, part.ts_us // 1000, part.series, texts, strict=True):
                    said[topic, partition, int(offset[tick]), int(ts), series] = text
            for item in unread:
                said[LETTERS, partition, item.record.offset, 0, ""] = item.record.value or b""
            for tick, _, _ in outputs.rejected:
                said[LETTERS, partition, int(offset[tick]), 0, ""] = batch.records[tick].value or b""
        return Life(said, engine)
