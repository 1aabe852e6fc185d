"""Moves: a small ridge on the last moves, the distances from decayed means and the other channels' last moves.

It needs no season, and protects where the profile's level is wrong. All features are bounded by what was usual.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrnn.kernels import folded
from streamrnn.kernels.columns import HALF_LIVES, LEVELS, History, within
from streamrnn.records import F32

LAGS = 12
CLIP = 8.0
LABEL_CLIP = np.float32(10.0)  # in usual moves over the rung


def features(channels: int, cross: bool) -> int:
    return 1 + LAGS + LEVELS + (channels - 1 if cross else 0)


def feature_names(channel: str, channels: Sequence[str], cross: bool) -> list[str]:
    """What each feature of a channel is, in the order in which `look` writes them."""
    others = [f"move of {other}" for other in channels if other != channel] if cross else []
    return [
        "1",
        *(f"lag {j}" for j in range(1, LAGS + 1)),
        *(f"mean {half_life:g}" for half_life in HALF_LIVES),
        *others,
    ]


@folded
def look(c: int, at: int, ago: int, cross: bool, history: History, seen: F32) -> None:
    """`seen` [feature] ← what the expert sees `at` a place of the ring; `ago` 1: with the means of then, a horizon ago."""
    length = history.x.shape[1]
    x = history.x[c, at]
    reach_x = np.float32(CLIP) * np.sqrt(history.sizes[c, 2])
    reach = np.float32(2.0 * CLIP) * np.sqrt(history.sizes[c, 0])
    seen[0] = np.float32(1.0)
    for j in range(1, LAGS + 1):
        place = at - j if at >= j else at - j + length
        seen[j] = within(history.x[c, place] - x, reach)
    k = LAGS + 1
    for level in range(LEVELS):
        seen[k] = within(history.means[c, ago, level] - x, reach_x)
        k += 1
    if cross:
        before = at - 1 if at > 0 else length - 1
        for other in range(history.x.shape[0]):
            if other != c:
                limit = np.float32(CLIP) * np.sqrt(history.sizes[other, 0])
                seen[k] = within(history.x[other, at] - history.x[other, before], limit)
                k += 1
