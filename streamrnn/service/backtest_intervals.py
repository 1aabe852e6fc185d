"""Scores of predictive distributions that are given by quantiles: CRPS, NLL, interval score, coverage over time.

Between its levels a distribution is taken as normal: the quantile function is linear in the normal score of the level, and
goes on so beyond the outer levels. Normal quantiles thus give exactly the scores of the normal distribution.
All values are in one unit; the back-test's is the standard deviation of the train rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch

from streamrnn.records import F64, I64, Bool

ROLLING = 500  # consecutive scored cells of a series, channel and horizon
# A distribution narrower than this is scored as if it were so wide: a thousandth of the unit.
SIGMA_MIN = 1e-3
_SLOPE_MIN = 1e-9
_ROOT_PI = float(np.sqrt(np.pi))


def normal_scores(levels: Sequence[float]) -> F64:
    """Φ⁻¹ of each level. [level]"""
    return np.array([NormalDist().inv_cdf(level) for level in levels])


def _cdf(t: F64) -> F64:
    found: F64 = torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(t))).numpy()
    return found


def _area(t: F64) -> F64:
    """∫ Φ² from −∞ to t: t Φ² + 2 Φ φ − Φ(√2 t) / √π."""
    below = _cdf(t)
    density = np.exp(-0.5 * t * t) / np.sqrt(2.0 * np.pi)
    area: F64 = t * below**2 + 2.0 * below * density - _cdf(np.sqrt(2.0) * t) / _ROOT_PI
    return area


def crps(quantiles: F64, levels: Sequence[float], value: F64) -> F64:
    """∫ (F(x) − 1{x ≥ value})² dx, exactly, of the distribution described above (Gneiting & Raftery 2007).

    `quantiles` [..., level], rising, at least two levels; `value` [...]. The unit is that of the values.
    """
    z = normal_scores(levels)
    count = len(z)
    inner = np.maximum(np.diff(quantiles, axis=-1) / np.diff(z), _SLOPE_MIN)
    slope = np.concatenate([inner[..., :1], inner, inner[..., -1:]], axis=-1)  # [..., count + 1], tails included
    below, above = _area(z), _area(-z)  # ∫ Φ² up to a level, ∫ (1 − Φ)² from it on
    whole_below = slope[..., :-1] * np.concatenate([below[:1], np.diff(below)])
    whole_above = slope[..., 1:] * np.concatenate([-np.diff(above), above[-1:]])
    zero = np.zeros((*value.shape, 1))
    to_left = np.concatenate([zero, np.cumsum(whole_below, axis=-1)], axis=-1)
    to_right = np.concatenate([np.cumsum(whole_above[..., ::-1], axis=-1)[..., ::-1], zero], axis=-1)

    part = (quantiles <= value[..., None]).sum(axis=-1)  # which of the count + 1 parts holds the value
    at, from_ = part[..., None], np.clip(part - 1, 0, count - 1)

    def taken(of: F64, index: I64) -> F64:
        found: F64 = np.take_along_axis(of, index, axis=-1)[..., 0]
        return found

    steep = taken(slope, at)
    t = z[from_] + (value - taken(quantiles, from_[..., None])) / steep
    left, right = np.concatenate([[-np.inf], z]), np.concatenate([z, [np.inf]])
    t = np.clip(t, left[part], right[part])  # rounding
    begun, ended = np.concatenate([[0.0], below]), np.concatenate([above, [0.0]])
    here = steep * (_area(t) - begun[part] + _area(-t) - ended[part])
    score: F64 = taken(to_left, at) + here + taken(to_right, at)
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
