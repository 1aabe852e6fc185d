"""Numbers in two bytes: what a series keeps many of, and needs no more digits of than these."""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled

# IEEE 754 binary16, 11 bits of mantissa: for what lies around 1 and must be exact to a thousandth and better.
HALF_MAX = 65504.0
NO_HALF = 0x7E00  # no number
# A float32's exponent counts from 127, a half's from 15: multiplied by this, one's bits are the other's, moved.
_DOWN, _UP = 2.0**-112, 2.0**112


@compiled
def to_bits(x: float) -> np.uint16:
    """The upper half of the float32 bit pattern, rounded: 8 bits of mantissa, enough for an interval's half width."""
    return np.uint16(np.uint32(np.float32(x).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16))


@compiled
def from_bits(bits: np.uint16) -> float:
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


@compiled
def to_half(x: float) -> np.uint16:
    """The nearest half, of two the even one; what is too large becomes the largest."""
    if np.isnan(x):
        return np.uint16(NO_HALF)
    small = np.uint32(np.float32(min(abs(x), HALF_MAX) * _DOWN).view(np.uint32))
    even = (small >> np.uint32(13)) & np.uint32(1)
    bits = np.uint32(small + np.uint32(0x0FFF) + even) >> np.uint32(13)
    return np.uint16(bits | np.uint32(0x8000)) if x < 0.0 else np.uint16(bits)


@compiled
def from_half(half: np.uint16) -> float:
    """Infinities, which `to_half` never makes, come back as no numbers."""
    size = np.uint32(half) & np.uint32(0x7FFF)
    if size >= np.uint32(0x7C00):
        return np.nan
    x = np.float64(np.uint32(size << np.uint32(13)).view(np.float32)) * _UP
    return -x if half >= 0x8000 else x
