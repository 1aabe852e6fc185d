"""Reads records of Avro's binary encoding into columns, by a program that a schema was turned into (`wire.avro_columns`).

A program is rows of (operation, where to, multiplier, divisor); it only goes forward, so that it ends. Nothing is read beyond a
record's end, and a record in which anything is not as it should be is marked, and left to the reader that says what.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F64, I64, U8, Bool

# Operations. UNION: so many branches, the first of which is at an index of `jumps`. GO: to a row.
END, LONG, FLOAT, DOUBLE, BOOLEAN, BYTES, FIXED, UNION, GO, NULL = range(10)
# Where to: nowhere, the series' name, its time, or a channel and those after it.
NOWHERE, NAME, TIME, CHANNEL = -1, 0, 1, 2
# Times beyond this are looked at by the other reader.
TIME_MAX = 1 << 62


@compiled
def _varint(buffer: U8, at: int, end: int) -> Any:
    """(number, where it ends; −1: it has no end, or more than 64 bits)."""
    found = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift <= np.uint64(63):
        byte = np.uint64(buffer[at])
        at += 1
        if shift == np.uint64(63) and byte > np.uint64(1):
            return np.int64(0), np.int64(-1)
        found |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            half = np.int64(found >> np.uint64(1))
            if found & np.uint64(1):
                return -half - np.int64(1), np.int64(at)
            return half, np.int64(at)
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@compiled
def read_avro(
    buffer: U8,
    begins: I64,
    ends: I64,
    rows: I64,
    ops: I64,
    jumps: I64,
    most: float,
    values: F64,
    times: I64,
    names: I64,
    fine: Bool,
) -> None:
    """Record k lies at begins[k]:ends[k] and goes to row rows[k]: channels to `values`, microseconds to `times`, the name's place
    in the buffer to `names`. `fine` stays false where the other reader has to look."""
    word = np.zeros(1, dtype=np.uint64)
    double = word.view(np.float64)
    half = np.zeros(1, dtype=np.uint32)
    single = half.view(np.float32)
    for k in range(len(begins)):
        row, at, end = rows[k], begins[k], ends[k]
        named, timed, there, good = False, False, False, True
        pc = 0
        while True:
            op, to = ops[pc, 0], ops[pc, 1]
            pc += 1
            if op == LONG:
                number, at = _varint(buffer, at, end)
                if at < 0:
                    good = False
                    break
                if to == TIME:
                    limit = TIME_MAX // ops[pc - 1, 2]
                    if number > limit or number < -limit:
                        good = False
                        break
                    times[row] = number * ops[pc - 1, 2] // ops[pc - 1, 3]
                    timed = True
                elif to >= CHANNEL:
                    value = np.float64(number)
                    if not -most <= value <= most:
                        good = False
                        break
                    values[row, to - CHANNEL] = value
                    there = True
            elif op == DOUBLE or op == FLOAT:
                size = 8 if op == DOUBLE else 4
                if at + size > end:
                    good = False
                    break
                if to >= CHANNEL:
                    bits = np.uint64(0)
                    for i in range(size):
                        bits |= np.uint64(buffer[at + i]) << np.uint64(8 * i)
                    if op == DOUBLE:
                        word[0] = bits
                        value = double[0]
                    else:
                        half[0] = np.uint32(bits)
                        value = np.float64(single[0])
                    if np.isnan(value):
                        values[row, to - CHANNEL] = np.nan
                    elif -most <= value <= most:
                        values[row, to - CHANNEL] = value
                    else:
                        good = False
                        break
                    there = True
                at += size
            elif op == UNION:
                if at >= end or buffer[at] & 1 or (buffer[at] >> 1) >= to:
                    good = False
                    break
                pc = jumps[ops[pc - 1, 2] + (buffer[at] >> 1)]
                at += 1
            elif op == GO:
                pc = to
            elif op == NULL:
                if to >= CHANNEL:
                    there = True
                elif to >= 0:  # a name or a time that is null
                    good = False
                    break
            elif op == BYTES:
                number, at = _varint(buffer, at, end)
                if at < 0 or number < 0 or number > end - at:
                    good = False
                    break
                if to == NAME:
                    names[row, 0], names[row, 1] = at, at + number
                    named = True
                at += number
            elif op == BOOLEAN or op == FIXED:
                size = 1 if op == BOOLEAN else ops[pc - 1, 2]
                if size > end - at:
                    good = False
                    break
                at += size
            else:
                break
        fine[row] = good and named and timed and there and at == end
