"""Deviations: a small ridge that forecasts how far the values will lie from the season's profile.

It sees the deviation, its last changes and decayed means, the other channels' deviations, and the first of these times the
sine and cosine of the season's phase: its coefficients change with the time of day (periodic autoregression: Franses and
Paap, "Periodic Time Series Models", 2004). What it says is added to the profile's own move, which is exact at every
horizon.

Its label is the deviation from the profile *as it was at the origin*. Beyond one season the profile has been moved since by
values that the ring of deviations still holds, so the old one can be recovered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrnn.kernels import folded, inlined
from streamrnn.kernels.columns import HALF_LIVES, LEVELS, History, Real, Seasons, within
from streamrnn.kernels.experts.history import PROFILE_RATE
from streamrnn.records import F32

LAGS = 3
HARMONICS = 2
MODULATED = (1, 2)  # half-lives whose decayed means are multiplied with the phase, too
CLIP = 100.0  # no more than a guard: bounded tighter it learns to undo spikes
KEPT = np.float32(1.0 - PROFILE_RATE)  # of a deviation, after the profile has moved


def features(channels: int, cross: bool) -> int:
    return 2 + LAGS + LEVELS + (channels - 1 if cross else 0) + 2 * HARMONICS * (2 + len(MODULATED))


def feature_names(channel: str, channels: Sequence[str], cross: bool) -> list[str]:
    """What each feature of a channel is, in the order in which `look` writes them."""
    means = [f"mean {half_life:g}" for half_life in HALF_LIVES]
    others = [f"deviation of {other}" for other in channels if other != channel] if cross else []
    waved = ["now", "move", *(means[level] for level in MODULATED)]
    waves = [f"{name}, wave {q}" for q in range(2 * HARMONICS) for name in waved]
    return ["1", "now", *(f"lag {j}" for j in range(1, LAGS + 1)), *means, *others, *waves]


@inlined
def waves(place: float, cells: int, out: F32) -> None:
    """Sine and cosine of the season's phase and its double; 0 where they are 0, and not what rounding leaves of it.

    A ridge weighs a feature by its energy, and makes 1e13 of a first sample of 1e-16.
    """
    for q in range(HARMONICS):
        angle = 2.0 * np.pi * (q + 1) * place / cells
        out[2 * q] = np.float32(np.sin(angle) + 1.0) - np.float32(1.0)
        out[2 * q + 1] = np.float32(np.cos(angle) + 1.0) - np.float32(1.0)


@folded
def look(c: int, x_at: int, at: int, ago: int, cross: bool, wave: F32, history: History, seen: F32) -> None:
    """`seen` [feature] ← what the expert sees at places of the two rings; `ago` 1: with the means of then, a horizon ago."""
    length, ring = history.x.shape[1], history.deviation.shape[1]
    sizes = history.sizes[c]
    reach = np.float32(CLIP) * np.sqrt(sizes[0])
    reach_r = np.float32(CLIP) * np.sqrt(sizes[1])
    r = history.deviation[c, at]
    x_before = x_at - 1 if x_at > 0 else length - 1
    move = within(history.x[c, x_at] - history.x[c, x_before], reach)
    now = within(r, reach_r)
    seen[0] = np.float32(1.0)
    seen[1] = now
    for j in range(1, LAGS + 1):
        place = at - j if at >= j else at - j + ring
        seen[1 + j] = within(history.deviation[c, place] - r, np.float32(2.0) * reach)
    k = 2 + LAGS
    mean = k
    for level in range(LEVELS):
        seen[k] = within(history.deviation_means[c, ago, level] - r, reach_r)
        k += 1
    if cross:
        for other in range(history.x.shape[0]):
            if other != c:
                seen[k] = within(history.deviation[other, at], np.float32(CLIP) * np.sqrt(history.sizes[other, 1]))
                k += 1
    for q in range(2 * HARMONICS):
        w = wave[q]
        seen[k] = now * w
        seen[k + 1] = move * w
        seen[k + 2] = seen[mean + 1] * w
        seen[k + 3] = seen[mean + 2] * w
        k += 4


@inlined
def label(c: int, origin: int, h: int, history: History, seasons: Seasons) -> Real:
    """How much the deviation has changed from after frame `origin` to h frames later, by the profile of then."""
    ring, lag = history.deviation.shape[1], seasons.lag[0]
    y = history.deviation[c, (origin + h) % ring]
    if 0 < lag < h and not seasons.keyed:
        begin = seasons.begin[0]
        phase = np.float64(history.phases[(origin + h) % history.phases.shape[0], 0])
        place = int(min(max(phase, 0.0), seasons.bins[0] - 1.0))  # whatever a foreign record says
        visits = history.visits[c, begin + place]
        rate = np.float32(max(PROFILE_RATE, 1.0 / max(visits - 1.0, 1.0)))
        j = origin + h - lag
        while j > origin:
            y += rate * history.deviation[c, j % ring]
            j -= lag
    return y - KEPT * history.deviation[c, origin % ring]
