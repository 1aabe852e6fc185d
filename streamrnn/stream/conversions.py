"""Columns of states that an older version wrote, turned into those of this one.

A column that a kept record lacks starts fresh, unless it is named here: then it is made from the record's own columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrnn.kernels.features import CLIP, FLOOR, FRESH


@dataclass(frozen=True, slots=True)
class Conversion:
    """`make` is given the records, as a structured array that has the fields `sources`, and returns the column."""

    sources: tuple[str, ...]
    make: Callable[[Any], Any]


def _root(name: str) -> Conversion:
    """Mean squares were kept as such. What is no number stays none: the row is refused."""
    return Conversion((name,), lambda block: np.sqrt(np.maximum(block[name], 0.0)))


def _move_scale(block: Any) -> Any:
    """The scale of a channel that stood still had shrunk to nothing: then the next move sets it, as the first one does."""
    scale = np.sqrt(np.maximum(block["scale2"], 0.0))
    return np.where(scale < FLOOR * np.abs(block["last"]), 0.0, scale)


def _seen_range(block: Any) -> Any:
    """The extremes were not kept: what a value can be, by its mean and standard deviation, from the anchor."""
    middle = block["level"] - block["anchor"]
    reach = CLIP * np.sqrt(np.maximum(block["level_spread2"], 0.0))
    last = block["last"] - block["anchor"]
    return np.stack([np.minimum(middle - reach, last), np.maximum(middle + reach, last)], axis=-1)


CONVERSIONS: dict[str, Conversion] = {
    "spread": _root("spread2"),
    "level_spread": _root("level_spread2"),
    "move_scale": Conversion(("scale2", "last"), _move_scale),
    "fresh": Conversion(("scale2", "last"), lambda block: np.where(_move_scale(block) > 0.0, 8 * FRESH, 0)),
    "seen_range": Conversion(("level", "level_spread2", "last", "anchor"), _seen_range),
}
