"""Amounts of memory as people write them (`1GiB`, `512MB`) and as the code counts them (bytes)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

UNITS: Final = {
    "tib": 1 << 40, "gib": 1 << 30, "mib": 1 << 20, "kib": 1 << 10,
    "tb": 10**12, "gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1,
}  # fmt: skip
_SHOWN: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]+)")
BYTES_MAX: Final = 1 << 60


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as `1GiB`, `1.5GB`, `512MB`, `0B`. A bare number is bytes. Raises ValueError."""
    compact = text.strip().lower()
    found = _AMOUNT.fullmatch(compact)
    if compact.isascii() and compact.isdigit() and len(compact) < 20:
        made = Fraction(int(compact))
    elif found is not None and found[2] in UNITS:
        made = Fraction(found[1]) * UNITS[found[2]]
    else:
        raise ValueError(f"{text[:40]!r} is not an amount of memory: write it like 1GiB, 512MB or 0")
    if made.denominator != 1 or made > BYTES_MAX:
        raise ValueError(f"{text[:40]!r} is not a whole number of bytes, or more than there are")
    return int(made)


def format_bytes(count: int) -> str:
    """The shortest way to write an amount, rounded to three digits: 1GiB, 38.4MiB."""
    for unit, size in _SHOWN:
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 1000 * size else f"{count / size:.0f}{unit}"
    return f"{count}B"


def exact_bytes(count: int) -> str:
    """An amount such that `parse_bytes` gives it back: `1GiB`, or plain bytes."""
    for unit, size in _SHOWN:
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"
