"""Ticks on their way through a topic of the service's own (`repartition: on`): decoded at the first stage, keyed by series,
read again at the second. A record is a tick in the wire format, with the place that it is from:

    {"series": …, "ts": …, "values": {…}, "source": {"topic": …, "id": …, "partition": …, "offset": …, "index": …}}

so that outputs and dead letters of the second stage name the record that its producer wrote.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import orjson

from streamrnn.inputs import Numbering
from streamrnn.records import Record, Skipped, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.wire.codec import Decoded, Decoder
from streamrnn.wire.mapping import DecodeSpec
from streamrnn.wire.origins import origin_of

# Ticks of a partition that are remembered, and those of them that go with a checkpoint: more than are in flight when a first
# stage dies. A repeat from further back is refused as `duplicate` or `late`.
REMEMBERED, CARRIED = 16_384, 1024
_UNPACKED_MAX = 1 << 20


def encode_ticks(spec: StreamSpec, batch: TickBatch, numbering: Numbering, ids: Mapping[str, str]) -> list[bytes]:
    """One JSON document a tick. Values are repeated bit for bit, times to the microsecond; `ids` by topic."""
    values: list[bytes] = []
    places = [numbering.place(number) for number in batch.partition.tolist()]
    index = batch.index.tolist() if len(batch.index) else [-1] * len(batch)
    rows, channels, names = batch.values.tolist(), batch.channel.tolist(), spec.channels
    for i, (ts_us, offset) in enumerate(zip(batch.ts_us.tolist(), batch.offset.tolist(), strict=True)):
        topic, partition = places[i]
        source: dict[str, str | int] = {"topic": topic, "partition": partition, "offset": offset}
        if index[i] >= 0:
            source["index"] = index[i]
        if ids.get(topic):
            source["id"] = ids[topic]
        row, channel = rows[i], channels[i]
        document: dict[str, object] = {"series": batch.series[i]}
        document["ts"] = ts_us / 1000 if ts_us % 1000 else ts_us // 1000
        if channel >= 0:
            document["channel"] = names[channel]
            document["value"] = None if math.isnan(row[channel]) else row[channel]
        else:
            there = {name: value for name, value in zip(names, row, strict=True) if not math.isnan(value)}
            document["values"] = there or {names[0]: None}
        document["source"] = source
        values.append(orjson.dumps(document))
    return values


# topic's id or name, partition, offset, place in a record of several
_Key = tuple[str, int, int, int]


class Repeats:
    """The ticks that a partition has lately brought, by origin: a first stage that died sends what it had in flight again.

    What is remembered is where a tick stood first: at another offset it is a repeat, at its own it is not, so that a replay
    finds what was found before. Exact: nothing that came once is ever taken for a repeat.
    """

    def __init__(self) -> None:
        self._first: dict[int, dict[_Key, int]] = {}
        self._order: dict[int, deque[_Key]] = {}

    def repeats(self, record: Record) -> bool:
        origin = origin_of(record)
        if origin is None:
            return False
        key = origin.id or origin.topic, origin.partition, origin.offset, origin.index
        first = self._first.setdefault(record.partition, {})
        known = first.get(key)
        if known is not None:
            return known < record.offset
        order = self._order.setdefault(record.partition, deque())
        first[key] = record.offset
        order.append(key)
        if len(order) > REMEMBERED:
            del first[order.popleft()]
        return False

    def carried(self, partition: int) -> bytes:
        first, order = self._first.get(partition, {}), self._order.get(partition, deque())
        newest = [order[at] for at in range(max(0, len(order) - CARRIED), len(order))]
        return zlib.compress(msgspec.msgpack.encode([(*key, first[key]) for key in newest]), 1) if newest else b""

    def carry(self, partition: int, content: bytes) -> None:
        """Takes up what was carried, in place of what is known; what is no such thing is nothing."""
        self._first.pop(partition, None)
        self._order.pop(partition, None)
        if not content:
            return
        try:
            entries = _entries.decode(zlib.decompressobj().decompress(content, _UNPACKED_MAX))
        except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        self._first[partition] = {entry[:4]: entry[4] for entry in entries}
        self._order[partition] = deque(entry[:4] for entry in entries)


_entries = msgspec.msgpack.Decoder(list[tuple[str, int, int, int, int]])


class PassedDecoder(Decoder):
    """Reads what the first stage has written. Repeats are skipped where there can be any: not with exactly-once."""

    def __init__(self, spec: StreamSpec, repeats: bool) -> None:
        super().__init__(spec, DecodeSpec())
        self._repeats = Repeats() if repeats else None

    def read(self, records: Sequence[Record]) -> Decoded:
        if self._repeats is None:
            return super().read(records)
        again = [self._repeats.repeats(record) for record in records]
        if not any(again):
            return super().read(records)
        read = super().read([record for record, twice in zip(records, again, strict=True) if not twice])
        skipped = [Skipped(record, "repeated") for record, twice in zip(records, again, strict=True) if twice]
        return Decoded(read.batch, read.rejected, [*read.skipped, *skipped])

    def carried(self, partition: int, oldest: int) -> bytes:
        return self._repeats.carried(partition) if self._repeats is not None else b""

    def carry(self, partition: int, content: bytes) -> None:
        if self._repeats is not None:
            self._repeats.carry(partition, content)
