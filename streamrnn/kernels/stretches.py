"""What lies ahead of every step of a stretch, for training: a whole batch in one walk over the ring's rows."""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F32, I64

ANCHOR_LEN = 64
ANCHOR_EVERY = 8


@compiled
def is_anchor(number: int) -> bool:
    """Whether a step belongs to the anchor, by its number in its series."""
    return number // ANCHOR_LEN % ANCHOR_EVERY == ANCHOR_EVERY - 1


@compiled
def look_ahead(
    values: F32,
    base: F32,
    scale: F32,
    root: F32,
    row: I64,
    end: I64,
    target_from: I64,
    target_to: I64,
    anchor: bool,
    targets: F32,
) -> None:
    """Fills `targets` [T, B, C, H], in units of scale · √h around the last seen value, for steps [end − T, end) of rows.

    `values`, `base`, `scale` [row, window, C] are rings by a step's number; `root` [H] is √h. NaN where there is
    no unit yet, and where the step ahead lies outside [target_from, target_to), or belongs to the anchor where `anchor` is False.
    """
    window = values.shape[1]
    length, _, channels, horizon = targets.shape
    ahead = np.empty((channels, length + horizon), dtype=np.float32)  # all that one series' targets come from, in a row
    for b in range(len(row)):
        ring, first = row[b], end[b] - length
        for k in range(1, length + horizon):
            number = first + k
            wanted = target_from[b] <= number < target_to[b] and (anchor or not is_anchor(number))
            there = number % window
            for c in range(channels):
                ahead[c, k] = values[ring, there, c] if wanted else np.float32(np.nan)
        for t in range(length):
            at = (first + t) % window
            for c in range(channels):
                level, unit = base[ring, at, c], scale[ring, at, c]
                for h in range(horizon):
                    target = (ahead[c, t + 1 + h] - level) / (unit * root[h])
                    targets[t, b, c, h] = target if unit > 0.0 else np.float32(np.nan)
