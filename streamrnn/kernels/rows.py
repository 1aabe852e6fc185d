"""Packed rows of the series table as they lie in a buffer: looked through and put into the table's blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from streamrnn.kernels import compiled
from streamrnn.records import I64, U8, Bool

U64 = NDArray[np.uint64]

TAKEN, OLDER, DAMAGED, ELSEWHERE, IMPOSSIBLE = range(5)
# Where in a row's header these lie, in words of 4 bytes.
PARTITION, LIFE = 3, 4


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


@compiled
def admit(
    raw: U8,
    begin: I64,
    stand: I64,
    to: I64,
    whole: Bool,
    partition: int,
    # the layout
    size: int,
    checks: I64,
    applied: int,
    places: I64,
    widths: I64,
    addresses: I64,
    # by row of the table
    lived: I64,
    stood: I64,
    reached: I64,
    verdict: U8,
) -> None:
    """Looks through packed rows and puts those that are good into the table's blocks, one after the other: a row is
    fetched once into the processor's nearest memory, and all that is done with it is done there.

    A row begins in `raw` at each of `begin`, stands at `stand` in the log, and goes to row `to` of the table (-1: it is
    only looked at). `verdict` says what became of it: DAMAGED (not `whole`), ELSEWHERE (of another partition),
    IMPOSSIBLE, OLDER than what the table's row holds (by its life, the input offset it has come to, where it stands), or
    TAKEN. `checks` [n, 6]: (width in bytes, first, stop, mask, value, beyond), a word of the row that has this value
    behind this mask, or (`beyond` 1) a larger one, cannot be; `applied`: the word of 8 bytes that holds the offset.
    `places` and `widths` of the blocks, in bytes, which lie at `addresses`. `lived` and `stood` hold 1 more than the
    life and the place, 0: nothing yet; `reached` is the table's column of offsets.

    Nothing is checked of places and rows: they are within their bounds, or memory is overwritten.
    """
    words8: U64 = np.empty((size + 7) // 8, dtype=np.uint64)
    words4, words2, numbers = words8.view(np.uint32), words8.view(np.uint16), words8.view(np.int64)
    source, here = raw.ctypes.data, words8.ctypes.data
    for i in range(len(begin)):
        if not whole[i]:
            verdict[i] = DAMAGED
            continue
        _copy(here, source + begin[i], size)
        if np.int64(words4[PARTITION]) != partition:
            verdict[i] = ELSEWHERE
            continue
        bad = False
        for c in range(len(checks)):
            first, stop, mask, value = checks[c, 1], checks[c, 2], checks[c, 3], checks[c, 4]
            if checks[c, 5] == 1:
                if checks[c, 0] == 4:
                    bad |= _exceeds(words4[first:stop], np.uint32(mask), np.uint32(value))
                else:
                    bad |= _exceeds(words2[first:stop], np.uint16(mask), np.uint16(value))
            elif checks[c, 0] == 4:
                bad |= _holds(words4[first:stop], np.uint32(mask), np.uint32(value))
            elif checks[c, 0] == 2:
                bad |= _holds(words2[first:stop], np.uint16(mask), np.uint16(value))
            else:
                bad |= _holds(words8[first:stop], np.uint64(mask), np.uint64(value))
        if bad:
            verdict[i] = IMPOSSIBLE
            continue
        row = to[i]
        if row >= 0:
            life, offset = np.int64(words4[LIFE]) + 1, numbers[applied]
            if life < lived[row] or (
                life == lived[row] and (offset < reached[row] or (offset == reached[row] and stand[i] + 1 < stood[row]))
            ):
                verdict[i] = OLDER
                continue
            lived[row], stood[row] = life, stand[i] + 1
            for c in range(len(places)):
                _copy(addresses[c] + row * widths[c], here + places[c], widths[c])
        verdict[i] = TAKEN


@compiled
def _holds(words: Any, mask: Any, value: Any) -> bool:
    """Whether one of these words, of which there is one at least, has this value behind the mask.

    By the least difference of all: the machine finds that a vector at a time, in the words' own width.
    """
    kind = words.dtype.type
    least = kind((words[0] & mask) ^ value)
    for k in range(1, len(words)):
        differs = kind((words[k] & mask) ^ value)
        least = differs if differs < least else least
    return bool(least == 0)


@compiled
def _exceeds(words: Any, mask: Any, value: Any) -> bool:
    """Whether one of these words, of which there is one at least, is larger than this value behind the mask: a float without
    its sign is the larger the larger its bits are, and what is no number is larger than all."""
    kind = words.dtype.type
    most = kind(words[0] & mask)
    for k in range(1, len(words)):
        behind = kind(words[k] & mask)
        most = behind if behind > most else most
    return bool(most > value)


@compiled
def lifted(raw: U8, begin: I64, size: int, out: U8) -> None:
    """Lays `size` bytes from each of these places end to end; they are within their bounds, or others are read."""
    source, to = raw.ctypes.data, out.ctypes.data
    for i in range(len(begin)):
        _copy(to + i * size, source + begin[i], size)


@compiled
def joined(raw: U8, begin: I64, stop: I64, between: int, out: U8) -> None:
    """Lays what is between these places end to end, and a byte `between` behind each."""
    to = 0
    for i in range(len(begin)):
        for at in range(begin[i], stop[i]):
            out[to] = raw[at]
            to += 1
        out[to] = between
        to += 1
