"""Ridge regression in information form, one set of normal equations for all rungs of the horizon.

    G ← λ G + ω f fᵀ,   b_h ← λ b_h + ω f y_h,   w_h = (G + ρ diag G)⁻¹ b_h,   ρ = `RIDGE` / n

(recursive least squares of Haykin, "Adaptive Filter Theory", ch. 10, without the inverse: G cannot lose its definiteness to
rounding, and the ridge does not fade). The ridge is a share of each feature's own energy, so no feature has a unit. n counts
the samples that carry the energy, (Σe)² / Σe² with e = |f|²: after a jump in variance only the new ones count, and the
ridge is strong again.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import lean
from streamrnn.kernels.columns import Real
from streamrnn.records import F32

FORGETTING = np.float32(0.9998)
RIDGE = 40.0
MOST = np.float32(1e38)  # squares of what is absurd are no float32
# A pivot below this share of its feature's energy is rounding: the feature is a sum of others, or 0.
NOTHING = np.float32(1e-5)
# A sample whose one feature or label has this many times its usual energy weighs less: it is absurd.
ABSURD = np.float32(1000.0)
# Equations from moves more than this many times as strong as those of now (in squares) are forgotten faster, at most so fast: at
# the usual pace what comes now would count for nothing for as long as it takes to forget a million.
STRONG, FASTEST = np.float32(3.0), np.float32(0.01)
ENOUGH = 30.0
# An old channel's equations are solved at every 16th frame (a power of two): their solution hardly moves between.
SELDOM = 16


def packed(features: int) -> int:
    """Numbers in the upper triangle of a square matrix."""
    return features * (features + 1) // 2


@lean
def say(weights: F32, features: F32, said: F32) -> None:
    """`said` [rung] ← what the weights [feature, rung] make of the features."""
    rungs = weights.shape[1]
    said[:rungs] = np.float32(0.0)
    for j in range(weights.shape[0]):
        row, f = weights[j], features[j]
        for r in range(rungs):
            said[r] += row[r] * f


@lean
def learn(gram: F32, right: F32, seen: F32, features: F32, labels: F32, guarded: bool, most: Real, now: Real) -> None:
    """Takes one sample in, with the weight `most` or, where features are `guarded`, less if one of them is absurd.

    `now`: the usual energy of the second feature, which is the first one that moves.
    """
    rungs, size = right.shape
    fade = FORGETTING
    usual, moved = gram[size], features[1] * features[1]
    strong = STRONG * seen[0] * max(now, moved)
    if moved > np.float32(0.0) and usual > strong:
        fade = np.float32(1.0) - min((np.float32(1.0) - FORGETTING) * (usual / strong) * (usual / strong), FASTEST)
    energy = np.float32(0.0)
    for j in range(1, size):
        energy += features[j] * features[j]
    weight = most
    if guarded and seen[0] >= ENOUGH:
        worst = np.float32(0.0)
        at = 0
        for j in range(size):
            energetic = gram[at]
            odd = features[j] * features[j] * seen[0]
            if odd > worst * energetic and energetic > np.float32(0.0):
                worst = odd / energetic
            at += size - j
        if worst > ABSURD:
            weight = min(weight, ABSURD / worst)
    # Slices, since an index that may be negative is looked at for each number.
    at = 0
    for i in range(size):
        a = weight * features[i]
        row, others = gram[at : at + size - i], features[i:size]
        for k in range(row.shape[0]):
            row[k] = fade * row[k] + a * others[k]
        at += size - i
    for r in range(rungs):
        a = weight * labels[r]
        row = right[r]
        for k in range(size):
            row[k] = fade * row[k] + a * features[k]
    energy *= weight
    seen[0] = fade * seen[0] + np.float32(1.0)
    seen[1] = fade * seen[1] + energy
    # A weight enters the square of a sum as its own square (Kish's effective size).
    seen[2] = min(fade * fade * seen[2] + min(energy * energy, MOST), MOST)


@lean
def solve(gram: F32, right: F32, seen: F32, weights: F32, work: F32, inverse: F32) -> None:
    """`weights` [feature, rung] ← the solution, by elimination (L D Lᵀ) of the equations and their right sides together.

    Four pivots at a time: a row is loaded and stored once for all of them. `work` [≥ p, ≥ p + rungs], `inverse` [≥ p]: scratch.
    """
    rungs, size = right.shape
    width = size + rungs
    count = seen[0]
    if seen[2] > 0.0:
        count = min(count, seen[1] * seen[1] / seen[2])
    stretched = np.float32(1.0 + RIDGE / max(count, 1e-3))
    at = 0
    for i in range(size):
        row, to = gram[at : at + size - i], work[i, i:size]
        for k in range(row.shape[0]):
            to[k] = row[k]
        at += size - i
        inverse[i] = NOTHING * work[i, i]  # what the pivot has to exceed
        work[i, i] *= stretched
        for r in range(rungs):
            work[i, size + r] = right[r, i]
    j = 0
    while j < size:
        after = min(j + 4, size)
        for b in range(j, after):
            share = np.float32(0.0)
            if work[b, b] > inverse[b]:
                share = np.float32(1.0) / work[b, b]
            inverse[b] = share
            for i in range(b + 1, after):
                left = work[b, i] * share
                row, first = work[i, i:width], work[b, i:width]
                for k in range(row.shape[0]):
                    row[k] -= left * first[k]
        if after < size:
            for i in range(after, size):
                a, b = work[j, i] * inverse[j], work[j + 1, i] * inverse[j + 1]
                c, d = work[j + 2, i] * inverse[j + 2], work[j + 3, i] * inverse[j + 3]
                row = work[i, i:width]
                first, second = work[j, i:width], work[j + 1, i:width]
                third, fourth = work[j + 2, i:width], work[j + 3, i:width]
                for k in range(row.shape[0]):
                    row[k] -= (a * first[k] + b * second[k]) + (c * third[k] + d * fourth[k])
        j = after
    for i in range(size - 1, -1, -1):
        to = weights[i]
        for r in range(rungs):
            to[r] = work[i, size + r]
        k = i + 1
        while k + 3 < size:
            a, b, c, d = work[i, k], work[i, k + 1], work[i, k + 2], work[i, k + 3]
            first, second, third, fourth = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            for r in range(rungs):
                to[r] -= (a * first[r] + b * second[r]) + (c * third[r] + d * fourth[r])
            k += 4
        while k < size:
            a = work[i, k]
            first = weights[k]
            for r in range(rungs):
                to[r] -= a * first[r]
            k += 1
        for r in range(rungs):
            to[r] *= inverse[i]


@lean
def solves(n: int, c: int, samples: int) -> bool:
    """Whether channel c solves its equations at frame n, having learnt from so many: about once for each quarter more that it has
    learnt from, by turns, at last every `SELDOM`-th time."""
    every = min(max(samples >> 2, 2), SELDOM)
    while every & (every - 1):
        every &= every - 1
    return (n + c) % every == 0
