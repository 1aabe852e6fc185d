"""Packed rows of the series table as they lie in a buffer: looked through and put into the table's columns."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrnn.kernels import compiled, inlined
from streamrnn.records import I64, U8, Bool


def _copying(typing_context: Any, to: Any, source: Any, count: Any) -> Any:
    """Bytes from address to address, by the machine's own means: a loop over bytes takes four times as long."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source, count = arguments
        pointer = cgutils.voidptr_t
        cgutils.raw_memcpy(  # type: ignore[no-untyped-call]
            builder, builder.inttoptr(to, pointer), builder.inttoptr(source, pointer), count, 1
        )
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), generate


_copy: Any = intrinsic(_copying)


@inlined
def _integer(raw: U8, at: int) -> int:
    """A signed integer of 8 bytes, which may begin anywhere."""
    value = 0
    for k in range(8):
        value |= int(raw[at + k]) << (8 * k)
    return value


@compiled
def sound(raw: U8, begin: I64, singles: I64, doubles: I64, signs: I64, earlier: int, later: int, good: Bool) -> None:
    """Takes the mark off rows that cannot be; a row begins at each of `begin`, and all places are counted from there.

    `singles` and `doubles`: the last bytes of floating-point numbers that must be finite (an exponent of ones is an
    infinity or none). `signs`: the last bytes of integers that must not be negative. The integer at `earlier` must not
    be above that at `later`.
    """
    for i in range(len(begin)):
        at = begin[i]
        bad = _integer(raw, at + earlier) > _integer(raw, at + later)
        for place in singles:
            bad |= (raw[at + place] & 0x7F) == 0x7F and raw[at + place - 1] >= 0x80
        for place in doubles:
            bad |= (raw[at + place] & 0x7F) == 0x7F and raw[at + place - 1] >= 0xF0
        for place in signs:
            bad |= raw[at + place] >= 0x80
        if bad:
            good[i] = False


@compiled
def put(raw: U8, begin: I64, places: I64, widths: I64, addresses: I64, rows: I64) -> None:
    """Copies rows of packed columns from `begin` [row] + `places` [column] into the columns that lie at `addresses`.

    All of a row before the next one: it is read once from end to end, and rows that were given out together lie side by
    side in every column. Nothing is checked here: rows and places are within their bounds, or memory is overwritten.
    """
    source = raw.ctypes.data
    for i in range(len(rows)):
        for c in range(len(places)):
            _copy(addresses[c] + rows[i] * widths[c], source + begin[i] + places[c], widths[c])


@compiled
def joined(raw: U8, begin: I64, stop: I64, out: U8) -> None:
    """Lays what is between these places end to end."""
    to = 0
    for i in range(len(begin)):
        for at in range(begin[i], stop[i]):
            out[to] = raw[at]
            to += 1
