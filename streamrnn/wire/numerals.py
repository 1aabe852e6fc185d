"""Numbers as people write them: decimal commas and points, marks between thousands."""

from __future__ import annotations

import re

# What a number with decimal commas or thousands marks may look like; blanks and ' mark thousands only.
MARKED = re.compile(r"[+-]?\d[\d.,' \u00a0\u202f]*(?:[eE][+-]?\d+)?|[+-]?[.,]\d+", re.ASCII)
# By the decimal mark.
GROUPED = {
    ",": re.compile(r"[+-]?(?:\d{1,3}(?:[.' \u00a0\u202f]\d{3})+|\d*)(?:,\d*)?(?:[eE][+-]?\d+)?", re.ASCII),
    ".": re.compile(r"[+-]?(?:\d{1,3}(?:[,' \u00a0\u202f]\d{3})+|\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII),
}


def mark_of(text: str) -> str:
    """The decimal mark that a number proves; empty where it could be either. A lone point is a decimal point."""
    points, commas = text.count("."), text.count(",")
    if points and commas:
        return "," if text.rfind(",") > text.rfind(".") else "."
    if points:
        return "," if points > 1 else "."
    if commas > 1:
        return "."
    whole, _, part = text.lstrip("+-").partition(",")
    return "" if len(part) == 3 and part.isdigit() and 1 <= len(whole) <= 3 and not whole.startswith("0") else ","


def plain(text: str, mark: str) -> str | None:
    """The number as Python reads it; None where it is none with this decimal mark."""
    if not GROUPED[mark].fullmatch(text) or not any(letter.isdigit() for letter in text):
        return None
    other = "." if mark == "," else ","
    return re.sub(rf"[{re.escape(other)}' \u00a0\u202f]", "", text).replace(",", ".")
