"""The record batches (format 2) in one partition's part of a fetch's answer: whose they are, and where their records lie.

Pure bytes, no client. A batch's checksum is not looked at: it costs as much as all the rest of reading, and whoever
reads in bulk has a digest in every record. Whatever the bytes, they are read within their bounds or refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException

from streamrnn.kernels import batches
from streamrnn.records import I64
from streamrnn.wire.packed import Packed

# Base offset, length of what follows, leader epoch, format, checksum, attributes, last offset (from the base), first and
# last timestamp, producer's id and epoch, its sequence number, how many records.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_BEFORE_LENGTH = 12
_FORMAT = 2
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_DECODE = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}
# The key of a control record: its format, and what became of the transaction.
_MARKER = struct.Struct(">hh")
_ABORTED = 0


class _Batch(NamedTuple):
    base: int
    next: int  # the offset behind it, which may be further than its last record
    first_ms: int
    producer: int
    attributes: int
    records: int
    begin: int  # of its records in the answer
    stop: int


def unpack(
    topic: str, partition: int, position: int, data: bytes | memoryview, aborted: Iterable[tuple[int, int]] = ()
) -> tuple[Packed, int]:
    """(the records from `position` on, where to read on).

    `aborted`: (producer, first offset) of transactions that are not to be seen. Raises CorruptRecordException.
    """
    hidden = _Hidden(aborted)
    buffers: list[bytes | memoryview] = [data]
    size = len(data)
    offsets, times, spans = [_NONE], [_NONE], [_NONE.reshape(0, 4)]
    at = 0
    while (batch := _batch_at(data, at)) is not None:
        at = batch.stop
        if not hidden.hides(batch, data):
            codec = batch.attributes & _CODEC
            if codec:
                body = _decoded(codec, bytes(data[batch.begin : batch.stop]))
                offset, timestamp, span = _located(body, 0, len(body), batch)
                span[span != batches.NOTHING] += size
                buffers.append(body)
                size += len(body)
            else:
                offset, timestamp, span = _located(data, batch.begin, batch.stop, batch)
            # It may begin before what was asked for.
            since = int(np.searchsorted(offset, position)) if batch.base < position else 0
            offsets.append(offset[since:])
            times.append(timestamp[since:])
            spans.append(span[since:])
        position = max(position, batch.next)
    whole = data if len(buffers) == 1 else b"".join(buffers)
    return Packed(
        topic, partition, whole, np.concatenate(offsets), np.concatenate(times), np.concatenate(spans)
    ), position


_NONE: I64 = np.empty(0, dtype=np.int64)


def _batch_at(data: bytes | memoryview, at: int) -> _Batch | None:
    """None at the end, or where an answer that was full cuts a batch off."""
    if at + _HEADER.size > len(data):
        return None
    base, length, _, kind, _, attributes, last, first_ms, _, producer, _, _, count = _HEADER.unpack_from(data, at)
    stop = at + _BEFORE_LENGTH + length
    if kind != _FORMAT:
        raise CorruptRecordException(f"a batch of format {kind} at offset {base}; only format {_FORMAT} is read")
    if stop < at + _HEADER.size or last < 0 or not 0 <= count <= last + 1:
        raise CorruptRecordException(f"a batch of {length} bytes and {count} records at offset {base}")
    if stop > len(data):
        return None
    return _Batch(base, base + last + 1, first_ms, producer, attributes, count, at + _HEADER.size, stop)


def _decoded(codec: int, packed: bytes) -> bytes:
    try:
        return bytes(_DECODE[codec](packed))
    except Exception as error:  # the codecs raise what they like
        raise CorruptRecordException(f"a batch that cannot be unpacked: {type(error).__name__}: {error}") from error


def _located(body: bytes | memoryview, begin: int, stop: int, batch: _Batch) -> tuple[I64, I64, I64]:
    count = batch.records
    offset, timestamp = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    span: I64 = np.empty((count, 4), dtype=np.int64)
    raw = np.frombuffer(body, dtype=np.uint8)
    if batches.locate(raw, begin, stop, batch.base, batch.first_ms, offset, timestamp, span) == batches.DAMAGED:
        raise CorruptRecordException(f"a damaged batch at offset {batch.base}")
    return offset, timestamp, span


class _Hidden:
    """Which batches are not to be seen: markers, and what belongs to aborted transactions."""

    def __init__(self, aborted: Iterable[tuple[int, int]]) -> None:
        self._ahead = sorted(aborted, key=lambda entry: entry[1], reverse=True)
        self._open: set[int] = set()  # producers in an aborted transaction

    def hides(self, batch: _Batch, data: bytes | memoryview) -> bool:
        while self._ahead and self._ahead[-1][1] <= batch.base:
            self._open.add(self._ahead.pop()[0])
        if batch.attributes & _CONTROL:
            _, _, span = _located(data, batch.begin, batch.stop, batch)
            if len(span) and _MARKER.unpack_from(data[span[0, 0] : span[0, 1]])[1] == _ABORTED:
                self._open.discard(batch.producer)
            return True
        return bool(batch.attributes & _TRANSACTIONAL) and batch.producer in self._open
