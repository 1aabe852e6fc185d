"""Durations as people write them (`250ms`, `1s`, `15m`, `1d`) and as the code counts them (whole milliseconds)."""

from __future__ import annotations

import re
from fractions import Fraction

# Longest first: `format_ms` takes the first unit that divides the duration.
UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

# A century. Longer than that is a slip (microseconds pasted for milliseconds), and sums of it must fit 64 bits.
DURATION_MS_MAX = 36_525 * UNITS_MS["d"]

_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|[smhdw])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_ms(text: str) -> int:
    """Milliseconds of a duration such as `250ms`, `1.5s`, `15m`, `1d`, `1h30m` or `0`.

    A bare number is refused (but 0): its unit would be a guess. So is a fraction of a millisecond.
    Raises ValueError.
    """
    compact = text.strip() if isinstance(text, str) else ""
    if compact == "0":
        return 0
    if not _WHOLE.fullmatch(compact):
        raise ValueError(f"{str(text)[:40]!r} is not a duration: write it like 250ms, 1s, 15m, 1h30m or 1d")
    parts = _PART.findall(compact)
    order = [list(UNITS_MS).index(unit) for _, unit in parts]
    if order != sorted(set(order)):
        raise ValueError(f"{compact[:40]!r} is not a duration: units go from long to short, each once")
    # Fractions, not floats: 0.3s is 300 ms and not 299.99…
    ms = sum((Fraction(number) * UNITS_MS[unit] for number, unit in parts), Fraction(0))
    if ms.denominator != 1:
        raise ValueError(f"{compact[:40]!r} is not a whole number of milliseconds")
    if ms > DURATION_MS_MAX:
        raise ValueError(f"{compact[:40]!r} is longer than a century")
    return int(ms)


def format_ms(ms: int) -> str:
    """The shortest single-unit way to write a duration (90_000 is `90s`); `parse_ms` of it gives `ms` back."""
    if ms < 0:
        raise ValueError(f"a duration cannot be negative: {ms} ms")
    if ms == 0:
        return "0s"
    # Weeks are read but not written: 14d says the same to more people.
    unit = next(u for u, size in UNITS_MS.items() if u != "w" and ms % size == 0)
    return f"{ms // UNITS_MS[unit]}{unit}"
