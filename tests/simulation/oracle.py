"""What would have been said, and what states come to, had nothing ever gone wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from unittest import mock

import numpy as np
from stream import FORECASTS, IMPUTED, LETTERS, Raw

from streamrnn.config.settings import Settings
from streamrnn.inputs import Numbering
from streamrnn.inputs import Place as InputPlace
from streamrnn.meaning import meaning_of
from streamrnn.model.weights import fitted
from streamrnn.records import I64, PlainRecord
from streamrnn.stream.engine import NO_MODEL, Engine
from streamrnn.stream.snapshot import Restored, Snapshots
from streamrnn.transports.memory.transport import MemoryRecord
from streamrnn.wire.codec import Decoder
from streamrnn.wire.encode import Encoder
from streamrnn.wire.packed import packed

# Which weights moved a series' state: (input offset, id) from there on, the first from the beginning. Where a worker of another
# configuration took it up, that configuration's name stands between.
CONFIGURATION = "@"
# As it is before a fix of it may be taken back: what is carried here is what ought to be.
_PLANNED = Snapshots._planned
Lineage = tuple[tuple[int, str], ...]

# topic, partition, source offset, event time (0: dead letter), series with the element's place (see `element`)
Place = tuple[str, int, int, int, str]


def element(series: str, index: int) -> str:
    """A series, and the place of the element in a record of several that an output is of."""
    return f"{series}#{index}" if index >= 0 else series


@dataclass(frozen=True, slots=True)
class Life:
    """One partition from end to end, uninterrupted."""

    said: dict[Place, bytes]
    engine: Engine


class Oracle:
    """An engine per partition and lineage. `blobs` are all weights by id, as they become known."""

    def __init__(
        self,
        configurations: Mapping[str, Settings],
        logs: Sequence[Sequence[Raw]],
        blobs: Mapping[str, bytes],
        places: Sequence[InputPlace],
    ) -> None:
        """`configurations` by name, the first of them first; `logs` and `places` by the input partitions' numbers."""
        self._places, self._numbering = places, Numbering()
        self._numbering.add({place: number for number, place in enumerate(places)})
        self._configurations, self._logs, self._blobs = configurations, logs, blobs
        self._lives: dict[tuple[int, Lineage], Life] = {}

    def life(self, partition: int, lineage: Lineage) -> Life:
        known = self._lives.get((partition, lineage))
        if known is None:
            known = self._lives[partition, lineage] = self._lived(partition, lineage)
        return known

    def _lived(self, partition: int, lineage: Lineage) -> Life:
        log, name = self._logs[partition], next(iter(self._configurations))
        engine, decoder, encoder = self._begun(name)
        said: dict[Place, bytes] = {}
        serving = NO_MODEL
        for (begin, model), (end, _) in pairwise([*lineage, (len(log), "")]):
            if model.startswith(CONFIGURATION):
                before, (engine, decoder, encoder) = engine, self._begun(model)
                _carry(partition, begin, before, engine)
            else:
                serving = model
            if engine.has(serving):
                engine.use(serving)
            else:
                found = fitted(self._blobs[serving], meaning_of(engine.spec), engine.inputs)
                engine.load(found.network, serving)
            records = [
                MemoryRecord(*self._places[partition], offset, ts, key, value)
                for offset, (key, value, ts) in enumerate(log[begin:end], begin)
            ]
            batch, unread, _ = decoder.read(records)
            outputs = engine.process(batch)
            offset, index = batch.offset, batch.index if len(batch.index) else np.full(len(batch), -1)
            for topic, part, texts in (
                (FORECASTS, outputs.forecasts, encoder.forecasts(outputs.forecasts, batch)),
                (IMPUTED, outputs.imputations, encoder.imputations(outputs.imputations, batch)),
            ):
                for tick, ts, series, text in zip(part.tick, part.ts_us // 1000, part.series, texts, strict=True):
                    said[topic, partition, int(offset[tick]), int(ts), element(series, int(index[tick]))] = text
            for item in unread:
                said[LETTERS, partition, item.record.offset, 0, element("", item.index)] = item.record.value or b""
            for tick, _, _ in outputs.rejected:
                said[LETTERS, partition, int(offset[tick]), 0, element("", int(index[tick]))] = (
                    batch.records[tick].value or b""
                )
        return Life(said, engine)

    def _begun(self, name: str) -> tuple[Engine, Decoder, Encoder]:
        chosen = self._configurations[name]
        spec = chosen.stream_spec()
        decoder = Decoder(spec, chosen.decode_spec())
        decoder.number_by(self._numbering)
        return Engine(spec), decoder, Encoder(spec, self._numbering)


def _carry(partition: int, offset: int, before: Engine, now: Engine) -> None:
    """All series of the partition from one configuration to another, at this input offset."""
    rows: I64 = np.array(sorted(before.table.series(partition).values()), dtype=np.int64)
    theirs, mine = Snapshots(before), Snapshots(now)
    mine.learn_meaning(theirs.meaning.id, theirs.meaning.encode())
    mine.learn(theirs.layout()[1])
    names, states = theirs.pack(partition, rows, offset, 1)
    records = [
        PlainRecord("", partition, i, 0, name, state) for i, (name, state) in enumerate(zip(names, states, strict=True))
    ]
    with mock.patch.object(Snapshots, "_planned", _PLANNED):
        mine.restore(partition, packed(partition, records), Restored())
    now.front.restore_clock(partition, before.front.clock(partition))
