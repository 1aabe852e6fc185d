"""Scores of predictive distributions that are given by quantiles: CRPS, NLL, interval score, coverage over time.

Between its levels a distribution is taken as normal: the quantile function is linear in the normal score of the level, and
goes on so beyond the outer levels. Normal quantiles thus give exactly the scores of the normal distribution.
All values are in one unit; the back-test's is the standard deviation of the train rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F64, I64, Bool

ROLLING = 500  # consecutive scored cells of a series, channel and horizon
# A distribution narrower than this is scored as if it were so wide: a thousandth of the unit.
SIGMA_MIN = 1e-3
SLOPE_MIN = 1e-9


def normal_scores(levels: Sequence[float]) -> F64:
    """Φ⁻¹ of each level. [level]"""
    return np.array([NormalDist().inv_cdf(level) for level in levels])


def crps(quantiles: F64, levels: Sequence[float], value: F64) -> F64:
    """∫ (F(x) − 1{x ≥ value})² dx, exactly, of the distribution described above (Gneiting & Raftery 2007).

    `quantiles` [..., level], rising, at least two levels; `value` [...]. The unit is that of the values.
    """
    flat = np.ascontiguousarray(quantiles, dtype=np.float64).reshape(-1, len(levels))
    score: F64 = _crps(flat, normal_scores(levels), np.ascontiguousarray(value, dtype=np.float64).ravel())
    return score.reshape(value.shape)


@compiled
def _area(t: float) -> float:
    """∫ Φ² from −∞ to t: t Φ² + 2 Φ φ − Φ(√2 t) / √π."""
    below = 0.5 * math.erfc(-t / math.sqrt(2.0))
    density = math.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
    return t * below * below + 2.0 * below * density - 0.5 * math.erfc(-t) / math.sqrt(math.pi)


@compiled
def _crps(quantiles: F64, z: F64, value: F64) -> F64:
    """`quantiles` [n, level], `z` [level], `value` [n]: sums of ∫ F² below the value and ∫ (1 − F)² above it, part by part.

    A part lies between two levels, the first and the last beyond them; within it F is normal with the part's slope as σ.
    """
    count = len(z)
    score = np.zeros(len(value))
    below, above = np.empty(count), np.empty(count)
    for k in range(count):
        below[k], above[k] = _area(z[k]), _area(-z[k])
    for i in range(len(value)):
        total = 0.0
        for part in range(count + 1):  # between levels part − 1 and part
            low = min(max(part - 1, 0), count - 2)
            slope = max((quantiles[i, low + 1] - quantiles[i, low]) / (z[low + 1] - z[low]), SLOPE_MIN)
            if part < count and value[i] >= quantiles[i, part]:
                total += slope * (below[part] - (below[part - 1] if part else 0.0))
            elif part and value[i] < quantiles[i, part - 1]:
                total += slope * (above[part - 1] - (above[part] if part < count else 0.0))
            else:
                at = max(part - 1, 0)
                t = z[at] + (value[i] - quantiles[i, at]) / slope
                if part:
                    t = max(t, z[part - 1])  # rounding
                if part < count:
                    t = min(t, z[part])
                total += slope * (_area(t) - (below[part - 1] if part else 0.0))
                total += slope * (_area(-t) - (above[part] if part < count else 0.0))
        score[i] = total
    return score


def nll(mean: F64, low: F64, high: F64, levels: tuple[float, float], value: F64) -> F64:
    """−log of a normal density at `value`: its mean is the forecast's, its σ such that low..high are `levels` apart.

    σ is at least SIGMA_MIN. All arrays [...].
    """
    z = normal_scores(levels)
    sigma = np.maximum((high - low) / (z[1] - z[0]), SIGMA_MIN)
    score: F64 = np.log(sigma) + 0.5 * np.log(2.0 * np.pi) + 0.5 * ((value - mean) / sigma) ** 2
    return score


def interval_score(low: F64, high: F64, levels: tuple[float, float], value: F64) -> F64:
    """Winkler's score: the width, and what lies outside divided by the chance of that side (Winkler 1972). [...]"""
    score: F64 = high - low
    score = score + np.maximum(low - value, 0.0) / levels[0] + np.maximum(value - high, 0.0) / (1.0 - levels[1])
    return score


def rolling_coverage(inside: Bool, series: I64, window: int = ROLLING) -> F64:
    """Share of `inside` [n] in every `window` consecutive cells of one series (`series` [n], cells of a series together)."""
    found = []
    for begin, end in _runs(series):
        if end - begin >= window:
            total = np.concatenate([[0], np.cumsum(inside[begin:end])])
            found.append((total[window:] - total[:-window]) / window)
    return np.concatenate(found) if found else np.zeros(0)


def _runs(series: I64) -> list[tuple[int, int]]:
    cuts = np.flatnonzero(np.diff(series)) + 1
    edges = [0, *cuts.tolist(), len(series)]
    return [(begin, end) for begin, end in pairwise(edges) if end > begin]
