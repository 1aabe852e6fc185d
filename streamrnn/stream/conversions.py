"""Columns of states that an older version wrote, turned into those of this one.

A column that a kept record lacks starts fresh, unless it is named here: then it is made from the record's own columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrnn.kernels.columns import rungs_of
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


def _sigma(block: Any) -> Any:
    """Root mean squares [row, horizon, channel] of errors, at the rungs: [row, channel, rung]."""
    return _at_rungs(block["spread"] if "spread" in block.dtype.names else np.sqrt(np.maximum(block["spread2"], 0.0)))


def _at_rungs(values: Any) -> Any:
    rungs = [h - 1 for h in rungs_of(values.shape[1])] if values.ndim > 2 and values.shape[1] else []
    return np.moveaxis(values[:, rungs], 1, 2) if rungs else values


def _fill_widths(block: Any) -> Any:
    """What was kept is the power of a gap's length, the second of two."""
    return np.stack([np.zeros_like(block["fill_width"]), block["fill_width"]], axis=-1)


def _error_size(block: Any) -> Any:
    """Mean squares of errors in squares of the channel's unit: those of what was sent, which the network had a part in."""
    unit = block["unit"].astype(np.float64)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where(unit > 0.0, block["sigma"] / unit, 0.0) ** 2
    return np.minimum(squared, 1e30).astype(np.float32)


# Columns of a version in which the network was an expert of the mixture and of the stack: where it stood from the end.
_WITH_NETWORK = ("losses", "weight", "pend_moves", "stack_gram", "stack_right", "stack_weight")


def as_now(name: str, block: Any) -> Any:
    """A column that these records have, without the network's place among the experts."""
    values, names = block[name], block.dtype.names
    if name not in _WITH_NETWORK or "error_size" in names or "losses" not in names or not values.shape[-1]:
        return values
    members = block["stack_right"].shape[-1] if "stack_right" in names else 0
    if name == "stack_gram":
        return values[..., : -members or None]  # its last row
    if name.startswith("stack"):
        return values[..., :-1]
    at = (2 if members else 1) + (1 if name == "weight" else 0)  # the guard's share comes last
    left = np.delete(values, values.shape[-1] - at, axis=-1)
    if name == "weight":
        total = left[..., :-1].sum(axis=-1, keepdims=True)
        left[..., :-1] /= np.where(total > 0.0, total, 1.0)
    return left


# What was learnt of the network and of persistence is not among these: channels begin anew with their next frame (`born`), and
# all experts with them.
CONVERSIONS: dict[str, tuple[Conversion, ...]] = {
    "sigma": (Conversion(("spread",), _sigma), Conversion(("spread2",), _sigma)),
    "level_theta": (Conversion(("theta",), lambda block: _at_rungs(block["theta"])),),
    "fill_widths": (Conversion(("fill_width",), _fill_widths),),
    "level_spread": (_root("level_spread2"),),
    "move_scale": (Conversion(("scale2", "last"), _move_scale),),
    "fresh": (Conversion(("scale2", "last"), lambda block: np.where(_move_scale(block) > 0.0, 8 * FRESH, 0)),),
    "error_size": (Conversion(("sigma", "unit"), _error_size),),
    "seen_range": (Conversion(("level", "level_spread2", "last", "anchor"), _seen_range),),
}


def converted(name: str, block: Any) -> Any | None:
    """A column that these records lack, made of others that they have; None where it is made of none."""
    for conversion in CONVERSIONS.get(name, ()):
        if all(source in block.dtype.names for source in conversion.sources):
            return conversion.make(block)
    return None
