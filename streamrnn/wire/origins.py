"""Where ticks are from: the record that a producer wrote, through a topic of the service's own, too (`wire.passed`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import orjson

from streamrnn.inputs import Numbering
from streamrnn.records import I64, PlainRecord, Record, Rejected, TickBatch


class Origin(msgspec.Struct, frozen=True):
    """Where a tick is from; `id` says which topic of its name, "" where that is not known."""

    topic: str
    partition: int
    offset: int
    index: int = -1
    id: str = ""

    def document(self) -> bytes:
        """As `source` says it in JSON."""
        said: dict[str, str | int] = {"topic": self.topic, "partition": self.partition, "offset": self.offset}
        if self.index >= 0:
            said["index"] = self.index
        return orjson.dumps(said)


class _Tick(msgspec.Struct):
    source: Origin


_tick = msgspec.json.Decoder(_Tick)


def origin_of(record: Record) -> Origin | None:
    """Of a tick that was passed on; None where it says none: nobody but the first stage should write to its topic."""
    try:
        return _tick.decode(record.value or b"").source
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def origins(numbering: Numbering, ticks: TickBatch, rows: I64, passed: bool) -> list[Origin]:
    """Of these ticks; `passed`: their records say it."""
    partitions, offsets = ticks.partition[rows].tolist(), ticks.offset[rows].tolist()
    index: list[int] = ticks.index[rows].tolist() if len(ticks.index) else [-1] * len(partitions)
    places = {number: numbering.place(number) for number in set(partitions)}
    found = [
        Origin(*places[number], offset, place) for number, offset, place in zip(partitions, offsets, index, strict=True)
    ]
    if not passed:
        return found
    return [origin_of(ticks.records[row]) or known for row, known in zip(rows.tolist(), found, strict=True)]


@dataclass(frozen=True, slots=True)
class Located(PlainRecord):
    """A tick's record with the place that the tick is from; `index` as in `Origin`."""

    index: int = -1


def located(record: Record) -> Record:
    """The record itself where it says no origin."""
    found = origin_of(record)
    if found is None:
        return record
    key, value, headers = record.key, record.value, record.headers
    return Located(found.topic, found.partition, found.offset, record.timestamp, key, value, headers, found.index)


def rejected_at_origin(rejected: Rejected) -> Rejected:
    """The same refusal, of the place that the tick is from."""
    record = located(rejected.record)
    return replace(rejected, record=record, index=record.index if isinstance(record, Located) else rejected.index)
