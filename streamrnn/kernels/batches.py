"""Kafka's record batches (format 2) by their bytes: where each record's key and value lie, without an object for it.

Every step is checked against the end of the batch: bytes come from outside, and a wrong length must not be followed.
"""

from __future__ import annotations

from streamrnn.kernels import compiled, inlined
from streamrnn.records import I64, U8

DAMAGED = -1
NOTHING = -1


@inlined
def _varint(buffer: U8, at: int, stop: int) -> tuple[int, int]:
    """(a number in zigzag, the place behind it), or (0, DAMAGED)."""
    value, shift = 0, 0
    while at < stop and shift < 64:
        byte = int(buffer[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    return 0, DAMAGED


@compiled
def locate(
    buffer: U8, at: int, stop: int, base_offset: int, base_ms: int, offset: I64, timestamp_ms: I64, span: I64
) -> int:
    """Fills a row of the arrays for each of a batch's records; returns the place behind the last, or DAMAGED.

    The records lie at `at`..`stop`, as many as `offset` has rows. `span` [n, 4] holds where key and value begin and
    stop; what is null begins at NOTHING.
    """
    for i in range(len(offset)):
        length, at = _varint(buffer, at, stop)
        if at == DAMAGED or length < 1 or length > stop - at:
            return DAMAGED
        end = at + length
        delta_ms, at = _varint(buffer, at + 1, end)  # behind a byte of attributes that nobody uses
        if at == DAMAGED:
            return DAMAGED
        delta, at = _varint(buffer, at, end)
        if at == DAMAGED:
            return DAMAGED
        offset[i], timestamp_ms[i] = base_offset + delta, base_ms + delta_ms
        for part in (0, 2):
            length, at = _varint(buffer, at, end)
            if at == DAMAGED or length > end - at:
                return DAMAGED
            span[i, part] = at if length >= 0 else NOTHING
            at += max(length, 0)
            span[i, part + 1] = at
        at = end  # headers lie between
    return at
