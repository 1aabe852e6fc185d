"""Writes forecasts as JSON text straight into one buffer: numbers with as many digits as the series' scale deserves.

A forecast of 4 channels × 12 steps × (mean + 3 quantiles) is 192 numbers. Turning each into a Python float and then
into its shortest exact text costs more than the whole recurrent step, and most of those digits are noise: a value is
worth about a thousandth of the usual move between two ticks. So a number is written with a fixed count of decimals,
chosen per series and channel from the running scale.

Every finite number reads back within half of its last decimal, or as the very same double where that is coarser. What is
too large or too fine for whole numbers of 53 bits goes by way of long integers, exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamrnn.kernels import compiled, folded, inlined
from streamrnn.records import F32, F64, I32, I64, U8, U64, Bool

DIGITS = 3  # decimal places below the leading digit of the scale
NUMBER_BYTES = 26  # sign, 17 digits, point, exponent "e-308"
# Up to here the product of a double with a power of ten that is one (10^22) rounds once.
EXACT = 1.0e15
EXACT_DECIMALS = 22
POWERS = np.array([float(10**k) for k in range(EXACT_DECIMALS + 1)])
SIGNIFICANT = 17  # so many digits give a double back
LIMBS = 48  # of 32 bits: the largest double, 2^1024, times 10^48 has 1,184 bits
# "00", "01", … "99": two digits for one division.
PAIRS = np.frombuffer("".join(f"{n:02d}" for n in range(100)).encode(), dtype=np.uint8)

# Indices of the constant pieces around a record's numbers, in `pieces`; the channels' names come after FIXED.
SERIES, TS, STEP, CHANNELS, MODEL, TRUE, FALSE, SOURCE, OFFSET, END, COMMA, CHANNEL_END, FIXED = range(13)


@compiled
def decimals_of(scale: float) -> int:
    if not 0.0 < scale < np.inf:
        return DIGITS
    return max(0, DIGITS - int(np.floor(np.log10(np.float64(scale)))))


@inlined
def _put_digits(buffer: U8, at: int, value: Any, digits: int) -> None:
    """Writes exactly `digits` digits of a non-negative number, in pairs from the right: one division for two digits."""
    rest = np.uint64(value)
    hundred = np.uint64(100)
    k = at + digits - 1
    while k > at:
        left = rest // hundred
        pair = np.int64(rest - left * hundred) * 2
        buffer[k] = PAIRS[pair + 1]
        buffer[k - 1] = PAIRS[pair]
        rest = left
        k -= 2
    if k == at:
        buffer[k] = np.uint8(48) + np.uint8(rest % np.uint64(10))


@inlined
def _put_integer(buffer: U8, at: int, value: Any) -> int:
    """Writes a whole number; returns the next free position."""
    if value < 0:
        buffer[at] = 45
        at += 1
        value = -value
    if value < 10:
        buffer[at] = np.uint8(48) + np.uint8(value)
        return at + 1
    digits = 2
    bound = 100
    while digits < 18 and value >= bound:
        bound *= 10
        digits += 1
    if value >= bound:
        digits += 1
    _put_digits(buffer, at, value, digits)
    return at + digits


@folded
def _put_whole(buffer: U8, at: int, value: Any) -> int:
    """As `_put_integer`, for all that is not written number by number."""
    return _put_integer(buffer, at, value)


@compiled
def _put_exponent(buffer: U8, at: int, exponent: int) -> int:
    buffer[at] = 101
    return _put_whole(buffer, at + 1, exponent)


@compiled
def _times(limbs: U64, used: int, factor: int) -> int:
    """Multiplies a long integer (32 bits a limb, the lowest first) by up to 32 bits; returns how many limbs it has."""
    carry = np.uint64(0)
    low, width = np.uint64(0xFFFFFFFF), np.uint64(32)
    for k in range(used):
        carry += limbs[k] * np.uint64(factor)
        limbs[k] = carry & low
        carry >>= width
    if carry > 0:
        limbs[used] = carry
        used += 1
    return used


@compiled
def _halved(limbs: U64, used: int, bits: int) -> int:
    """Divides a long integer by 2^bits, rounding halves up; returns how many limbs it has."""
    words, rest = bits // 32, np.uint64(bits % 32)
    low, width = np.uint64(0xFFFFFFFF), np.uint64(32)
    if words > used:
        return 0
    at = (bits - 1) // 32
    carry = np.uint64(1) << np.uint64((bits - 1) % 32)
    used = max(used, at + 1)
    while carry > 0:
        carry += limbs[at]
        limbs[at] = carry & low
        carry >>= width
        at += 1
    used = max(used, at)
    for k in range(words, used):
        above = limbs[k + 1] if k + 1 < used else np.uint64(0)
        limbs[k - words] = ((limbs[k] | (above << width)) >> rest) & low
    used -= words
    while used > 0 and limbs[used - 1] == 0:
        used -= 1
    return used


@compiled
def _decimal_digits(limbs: U64, used: int, digits: U8) -> int:
    """Writes a long integer's digits, the lowest first; returns how many. The integer is used up."""
    billion, width = np.uint64(1_000_000_000), np.uint64(32)
    count = 0
    while used > 0:
        rest = np.uint64(0)
        for k in range(used - 1, -1, -1):
            part = (rest << width) | limbs[k]
            limbs[k] = part // billion
            rest = part - limbs[k] * billion
        while used > 0 and limbs[used - 1] == 0:
            used -= 1
        for _ in range(9):
            digits[count] = rest % np.uint64(10)
            rest //= np.uint64(10)
            count += 1
    while count > 0 and digits[count - 1] == 0:
        count -= 1
    return count


@compiled
def _put_exact(buffer: U8, at: int, value: float, decimals: int) -> int:
    """Writes any double rounded to `decimals` places, and to 17 digits where that is coarser; null if it is not finite."""
    if not np.isfinite(value):
        for letter in (110, 117, 108, 108):
            buffer[at] = letter
            at += 1
        return at
    mantissa, power = math.frexp(abs(value))
    whole = np.uint64(mantissa * 9007199254740992.0)  # times 2^53
    power -= 53
    limbs = np.zeros(LIMBS, dtype=np.uint64)
    limbs[0], limbs[1] = whole & np.uint64(0xFFFFFFFF), whole >> np.uint64(32)
    used = 2
    for _ in range(decimals):
        used = _times(limbs, used, 10)
    while power > 0:
        by = min(power, 31)
        used = _times(limbs, used, 1 << by)
        power -= by
    if power < 0:
        used = _halved(limbs, used, -power)
    digits = np.zeros(LIMBS * 10, dtype=np.uint8)
    count = _decimal_digits(limbs, used, digits)
    if count == 0:
        buffer[at] = 48
        return at + 1
    if value < 0.0:
        buffer[at] = 45
        at += 1
    dropped = max(0, count - SIGNIFICANT)
    if dropped and digits[dropped - 1] >= 5:
        k = dropped
        while k < count and digits[k] == 9:
            digits[k] = 0
            k += 1
        digits[k] += np.uint8(1)
        if k == count:
            count += 1
            dropped += 1
    exponent = dropped - decimals
    point = exponent if -15 <= exponent < 0 else 0
    first = max(count - dropped, 1 - point) - 1  # a digit stands before the point
    for k in range(first, -1, -1):
        if k + 1 == -point:
            buffer[at] = 46
            at += 1
        buffer[at] = 48 + digits[dropped + k]
        at += 1
    if point == 0 and exponent != 0:
        at = _put_exponent(buffer, at, exponent)
    return at


@inlined
def _put_number(buffer: U8, at: int, value: float, decimals: int, factor: float) -> int:
    """Writes `value` rounded to `decimals` places (`factor` is 10 to that power), beyond 15 with an exponent.

    What is written is worked out first and written in one place: each `_put_digits` is code of its own in the caller.
    """
    size = abs(value)
    places, exponent = decimals, 0
    if 0 < decimals <= 9 and size < 1e9:
        # The usual case: whole part and fraction apart, each a small number, by floating point alone.
        floor = np.floor(size)
        rest = np.rint((size - floor) * factor)
        if rest >= factor:
            floor += 1.0
            rest = 0.0
        front, fraction = int(floor), int(rest)
    else:
        scaled = size * factor
        if not scaled < EXACT or decimals > EXACT_DECIMALS:
            return _put_exact(buffer, at, value, decimals)
        front, fraction = int(np.rint(scaled)), 0
        if decimals == 0 or decimals > 15:
            places = 0
            exponent = -decimals if front > 0 else 0
        else:
            power = int(factor)
            front, fraction = front // power, front % power
    if value < 0.0 and front + fraction > 0:
        buffer[at] = 45
        at += 1
    at = _put_integer(buffer, at, front)
    if places > 0:
        buffer[at] = 46
        _put_digits(buffer, at + 1, fraction, places)
        at += places + 1
    if exponent != 0:
        at = _put_exponent(buffer, at, exponent)
    return at


@inlined
def _put_ms(buffer: U8, at: int, us: int) -> int:
    """Writes microseconds as milliseconds, exactly: a fraction only where there is one."""
    size = us if us >= 0 else -us
    fraction = size % 1000
    if us < 0 and fraction > 0 and size < 1000:
        buffer[at] = 45  # "-0.5": the whole part alone would lose the sign
        at += 1
    at = _put_whole(buffer, at, size // 1000 if us >= 0 else -(size // 1000))
    if fraction > 0:
        buffer[at] = 46
        _put_digits(buffer, at + 1, fraction, 3)
        at += 4
        while buffer[at - 1] == 48:
            at -= 1
    return at


@folded
def _put_piece(buffer: U8, at: int, pieces: U8, edges: I64, piece: int) -> int:
    for k in range(edges[piece], edges[piece + 1]):
        buffer[at] = pieces[k]
        at += 1
    return at


@compiled
def write_forecasts(
    buffer: U8,
    pieces: U8,
    edges: I64,
    series: U8,
    series_edges: I64,
    ts: I64,
    step: I64,
    partition: I32,
    offset: I64,
    warm: Bool,
    mean: F64,
    quantiles: F64,
    scale: F32,
    ends: I64,
) -> int:
    """Writes records one after another into `buffer`; `ends[i]` is where record i ends. Returns how many fitted.

    `series` holds the names as JSON, each with the comma behind it; `ts` and `step` are microseconds, written as milliseconds
    (with a fraction where there is one); `mean` is [record, channel, horizon], `quantiles`
    [record, channel, level, horizon]. A channel whose mean is NaN has never been seen and is left out. Piece
    FIXED + c·(levels + 1) opens channel c, the next ones open its levels.
    """
    records, channels, horizon = mean.shape[0], mean.shape[1], mean.shape[2]
    levels = quantiles.shape[2]
    numbers = channels * (levels + 1) * horizon * (NUMBER_BYTES + 1)
    at = 0
    for i in range(records):
        room = numbers + edges[len(edges) - 1] + series_edges[i + 1] - series_edges[i] + 128
        if at + room > buffer.shape[0]:
            return i
        at = _put_piece(buffer, at, pieces, edges, SERIES)
        for k in range(series_edges[i], series_edges[i + 1]):
            buffer[at] = series[k]
            at += 1
        for k in range(2):
            at = _put_piece(buffer, at, pieces, edges, TS + k)  # then STEP
            at = _put_ms(buffer, at, ts[i] if k == 0 else step[i])
        at = _put_piece(buffer, at, pieces, edges, CHANNELS)
        first = True
        for c in range(channels):
            if np.isnan(mean[i, c, 0]):
                continue
            if not first:
                at = _put_piece(buffer, at, pieces, edges, COMMA)
            first = False
            decimals = decimals_of(scale[i, c])
            factor = POWERS[min(decimals, EXACT_DECIMALS)]
            opening = FIXED + c * (levels + 1)
            for q in range(-1, levels):  # the mean, then the levels
                at = _put_piece(buffer, at, pieces, edges, opening + 1 + q)
                for h in range(horizon):
                    if h > 0:
                        buffer[at] = 44
                        at += 1
                    value = mean[i, c, h] if q < 0 else quantiles[i, c, q, h]
                    at = _put_number(buffer, at, value, decimals, factor)
            at = _put_piece(buffer, at, pieces, edges, CHANNEL_END)
        at = _put_piece(buffer, at, pieces, edges, MODEL)
        at = _put_piece(buffer, at, pieces, edges, TRUE if warm[i] else FALSE)
        for k in range(2):
            at = _put_piece(buffer, at, pieces, edges, SOURCE + k)  # then OFFSET
            at = _put_whole(buffer, at, np.int64(partition[i]) if k == 0 else offset[i])
        at = _put_piece(buffer, at, pieces, edges, END)
        ends[i] = at
    return len(mean)
