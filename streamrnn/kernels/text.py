"""Writes forecasts as JSON text straight into one buffer: numbers with as many digits as the series' scale deserves.

A forecast of 4 channels × 12 steps × (mean + 3 quantiles) is 192 numbers. Turning each into a Python float and then
into its shortest exact text costs more than the whole recurrent step, and most of those digits are noise: a value is
worth about a thousandth of the usual move between two ticks. So a number is written with a fixed count of decimals,
chosen per series and channel from the running scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrnn.kernels import compiled, inlined
from streamrnn.records import F32, F64, I32, I64, U8, Bool

DIGITS = 3  # decimal places below the leading digit of the scale
NUMBER_BYTES = 26  # sign, 19 digits, point, exponent "e-45"
LARGEST = 9.0e18
# "00", "01", … "99": two digits for one division.
PAIRS = np.frombuffer("".join(f"{n:02d}" for n in range(100)).encode(), dtype=np.uint8)

# Indices of the constant pieces around a record's numbers, in `pieces`; the channels' names come after FIXED.
SERIES, TS, STEP, CHANNELS, MODEL, TRUE, FALSE, SOURCE, OFFSET, END, COMMA, CHANNEL_END, FIXED = range(13)


@compiled
def decimals_of(scale: float) -> int:
    if not scale > 0.0:
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


@inlined
def _put_number(buffer: U8, at: int, value: float, decimals: int, factor: float) -> int:
    """Writes `value` rounded to `decimals` places (`factor` is 10 to that power), beyond 15 with an exponent."""
    size = abs(value)
    if 0 < decimals <= 9 and size < 1e9:
        # The usual case: whole part and fraction apart, each a small number, by floating point alone.
        front = np.floor(size)
        rest = np.rint((size - front) * factor)
        if rest >= factor:
            front += 1.0
            rest = 0.0
        if value < 0.0 and front + rest > 0.0:
            buffer[at] = 45
            at += 1
        at = _put_integer(buffer, at, int(front))
        buffer[at] = 46
        _put_digits(buffer, at + 1, int(rest), decimals)
        return at + decimals + 1
    scaled = np.rint(size * factor)
    while scaled > LARGEST and decimals > 0:
        decimals -= 1
        factor /= 10.0
        scaled = np.rint(size * factor)
    whole = np.int64(min(scaled, LARGEST))
    if value < 0.0 and whole > 0:
        buffer[at] = 45
        at += 1
    if decimals == 0 or decimals > 15:
        at = _put_integer(buffer, at, whole)
        if decimals > 15 and whole > 0:
            buffer[at] = 101
            buffer[at + 1] = 45
            at = _put_integer(buffer, at + 2, decimals)
        return at
    power = np.int64(factor)
    at = _put_integer(buffer, at, whole // power)
    buffer[at] = 46
    _put_digits(buffer, at + 1, whole % power, decimals)
    return at + decimals + 1


@inlined
def _put_ms(buffer: U8, at: int, us: int) -> int:
    """Writes microseconds as milliseconds, exactly: a fraction only where there is one."""
    size = us if us >= 0 else -us
    fraction = size % 1000
    if us < 0 and fraction > 0 and size < 1000:
        buffer[at] = 45  # "-0.5": the whole part alone would lose the sign
        at += 1
    at = _put_integer(buffer, at, size // 1000 if us >= 0 else -(size // 1000))
    if fraction > 0:
        buffer[at] = 46
        _put_digits(buffer, at + 1, fraction, 3)
        at += 4
        while buffer[at - 1] == 48:
            at -= 1
    return at


@inlined
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
        at = _put_piece(buffer, at, pieces, edges, TS)
        at = _put_ms(buffer, at, ts[i])
        at = _put_piece(buffer, at, pieces, edges, STEP)
        at = _put_ms(buffer, at, step[i])
        at = _put_piece(buffer, at, pieces, edges, CHANNELS)
        first = True
        for c in range(channels):
            if np.isnan(mean[i, c, 0]):
                continue
            if not first:
                at = _put_piece(buffer, at, pieces, edges, COMMA)
            first = False
            decimals = decimals_of(scale[i, c])
            factor = 10.0**decimals
            opening = FIXED + c * (levels + 1)
            at = _put_piece(buffer, at, pieces, edges, opening)
            for h in range(horizon):
                if h > 0:
                    buffer[at] = 44
                    at += 1
                at = _put_number(buffer, at, mean[i, c, h], decimals, factor)
            for q in range(levels):
                at = _put_piece(buffer, at, pieces, edges, opening + 1 + q)
                for h in range(horizon):
                    if h > 0:
                        buffer[at] = 44
                        at += 1
                    at = _put_number(buffer, at, quantiles[i, c, q, h], decimals, factor)
            at = _put_piece(buffer, at, pieces, edges, CHANNEL_END)
        at = _put_piece(buffer, at, pieces, edges, MODEL)
        at = _put_piece(buffer, at, pieces, edges, TRUE if warm[i] else FALSE)
        at = _put_piece(buffer, at, pieces, edges, SOURCE)
        at = _put_integer(buffer, at, partition[i])
        at = _put_piece(buffer, at, pieces, edges, OFFSET)
        at = _put_integer(buffer, at, offset[i])
        at = _put_piece(buffer, at, pieces, edges, END)
        ends[i] = at
    return len(mean)
