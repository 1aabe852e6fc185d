"""Records of one partition as they lie in a buffer: for those who read much and look at it column by column.

A Python object for each record, with copies of its key and value, costs more than all that a restore does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from streamrnn.kernels.batches import NOTHING
from streamrnn.kernels.rows import joined
from streamrnn.records import I64, U8, Bool, PlainRecord, Record

_END = b"\0"  # behind a name; no series has it in its own


@dataclass(frozen=True, slots=True)
class Packed(Sequence[Record]):
    """`span` [n, 4]: where in `buffer` each record's key and value begin and stop; what is null begins at NOTHING. Headers are
    not kept.

    The buffer is lent: who wants something of it beyond the reader's next poll copies it, as `self[at]` and `keys` do.
    """

    topic: str
    partition: int
    buffer: bytes | memoryview
    offset: I64
    timestamp_ms: I64
    span: I64

    def __len__(self) -> int:
        return len(self.offset)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> Packed: ...
    def __getitem__(self, at: int | slice) -> Record | Packed:
        if isinstance(at, slice):
            return self.take(at)
        key, key_stop, value, value_stop = self.span[at].tolist()
        return PlainRecord(
            self.topic,
            self.partition,
            int(self.offset[at]),
            int(self.timestamp_ms[at]),
            None if key == NOTHING else bytes(self.buffer[key:key_stop]),
            None if value == NOTHING else bytes(self.buffer[value:value_stop]),
        )

    def take(self, chosen: slice | I64 | Bool) -> Packed:
        """Some of them, in the same buffer."""
        return Packed(
            self.topic, self.partition, self.buffer, self.offset[chosen], self.timestamp_ms[chosen], self.span[chosen]
        )

    def keys(self) -> list[bytes]:
        """Of records that all have one."""
        begin, stop = self.span[:, 0], self.span[:, 1]
        out: U8 = np.empty(int((stop - begin).sum()) + len(self), dtype=np.uint8)
        joined(np.frombuffer(self.buffer, dtype=np.uint8), begin, stop, _END[0], out)
        keys = out.tobytes().split(_END)[:-1]
        if len(keys) != len(self):  # some hold it themselves
            keys = [bytes(self.buffer[at:end]) for at, end in zip(begin.tolist(), stop.tolist(), strict=True)]
        return keys


def names_of(keys: Sequence[bytes]) -> list[str]:
    """Keys as text; "" where one is none."""
    together = _END.join(keys)
    if together.isascii() and together.count(_END) == len(keys) - 1:
        return together.decode().split(_END.decode())
    return [text_of(key) for key in keys]


def text_of(key: bytes) -> str:
    """A key in UTF-8 as text; "" where it is not."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return ""


def packed(partition: int, records: Sequence[Record]) -> Packed:
    """Records that came one by one, laid into a buffer; those that are packed stay as they are."""
    if isinstance(records, Packed):
        return records
    parts: list[bytes] = []
    span: I64 = np.empty((len(records), 4), dtype=np.int64)
    at = 0
    for i, record in enumerate(records):
        for column, part in ((0, record.key), (2, record.value)):
            span[i, column] = NOTHING if part is None else at
            parts.append(part or b"")
            at += len(parts[-1])
            span[i, column + 1] = at
    return Packed(
        records[0].topic if records else "",
        partition,
        b"".join(parts),
        np.array([record.offset for record in records], dtype=np.int64),
        np.array([record.timestamp for record in records], dtype=np.int64),
        span,
    )
