"""Ridge regression in information form, one set of normal equations for all rungs of the horizon.

    G ← λ G + ω f fᵀ,   b_h ← λ b_h + ω f y_h,   w_h = (G + ρ diag G)⁻¹ b_h,   ρ = `RIDGE` / n

(recursive least squares of Haykin, "Adaptive Filter Theory", ch. 10, without the inverse: G cannot lose its definiteness to
rounding, and the ridge does not fade). The ridge is a share of each feature's own energy, so no feature has a unit. n counts
the samples that carry the energy, (Σe)² / Σe² with e = |f|²: after a jump in variance only the new ones count, and the
ridge is strong again.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import fused
from streamrnn.records import F32

FORGETTING = np.float32(0.9998)
RIDGE = 40.0
# A pivot below this share of its feature's energy is rounding: the feature is a sum of others, or 0.
NOTHING = np.float32(1e-5)
# A sample whose one feature has this many times its usual energy weighs less: it is absurd.
LEVERAGE = 1000.0
ENOUGH = 30.0


def packed(features: int) -> int:
    """Numbers in the lower triangle of a square matrix."""
    return features * (features + 1) // 2


@fused
def say(weights: F32, features: F32, said: F32) -> None:
    """`said` [rung] ← what the weights [feature, rung] make of the features."""
    rungs = weights.shape[1]
    said[:rungs] = np.float32(0.0)
    for j in range(weights.shape[0]):
        f = features[j]
        for r in range(rungs):
            said[r] += weights[j, r] * f


@fused
def learn(gram: F32, right: F32, seen: F32, features: F32, labels: F32, leverage: float) -> None:
    """Takes one sample in; one that is absurd, with a feature of more than `leverage` times its usual energy, weighs less."""
    size, rungs = right.shape
    energy = np.float32(0.0)
    for j in range(1, size):
        energy += features[j] * features[j]
    weight = np.float32(1.0)
    if leverage > 0.0 and seen[0] >= ENOUGH:
        most = np.float32(0.0)
        at = 0
        for j in range(size):
            at += j
            usual = gram[at + j]
            odd = features[j] * features[j] * seen[0]
            if odd > most * usual:
                most = odd / usual if usual > 0.0 else most
        if most > leverage:
            weight = np.float32(leverage) / most
    at = 0
    for i in range(size):
        a = weight * features[i]
        for j in range(i + 1):
            gram[at + j] = FORGETTING * gram[at + j] + a * features[j]
        at += i + 1
        for r in range(rungs):
            right[i, r] = FORGETTING * right[i, r] + a * labels[r]
    energy *= weight
    seen[0] = FORGETTING * seen[0] + np.float32(1.0)
    seen[1] = FORGETTING * seen[1] + energy
    seen[2] = FORGETTING * seen[2] + energy * energy


@fused
def solve(gram: F32, right: F32, seen: F32, weights: F32, factor: F32, column: F32) -> None:
    """`weights` [feature, rung] ← the solution, by Cholesky's factor. `factor` [≥ p, ≥ p], `column` [≥ p]: scratch."""
    size, rungs = right.shape
    count = seen[0]
    if seen[2] > 0.0:
        count = min(count, seen[1] * seen[1] / seen[2])
    stretched = np.float32(1.0 + RIDGE / max(count, 1e-3))
    at = 0
    for i in range(size):
        for j in range(i + 1):
            factor[i, j] = gram[at + j]
        at += i + 1
        factor[i, i] *= stretched
    for i in range(size):
        for r in range(rungs):
            weights[i, r] = right[i, r]
    at = 0
    for j in range(size):
        at += j
        pivot = factor[j, j]
        inverse = np.float32(0.0)
        if pivot > NOTHING * gram[at + j]:
            inverse = np.float32(1.0) / np.sqrt(pivot)
        factor[j, j] = inverse  # what the solutions need
        for r in range(rungs):
            weights[j, r] *= inverse
        for i in range(j + 1, size):
            column[i] = factor[i, j] * inverse
        for i in range(j + 1, size):
            left = column[i]
            factor[i, j] = left
            for k in range(j + 1, i + 1):
                factor[i, k] -= left * column[k]
            for r in range(rungs):
                weights[i, r] -= left * weights[j, r]
    for j in range(size - 1, -1, -1):
        inverse = factor[j, j]
        for r in range(rungs):
            weights[j, r] *= inverse
        for i in range(j):
            left = factor[j, i]
            for r in range(rungs):
                weights[i, r] -= left * weights[j, r]


@fused
def solves(n: int, c: int, age: int, horizon: int) -> bool:
    """Whether channel c solves its equations at frame n: always while it is young, then more seldom, by turns."""
    return age < horizon + 64 or (n + c) % 8 == 0 or (age < 512 and (n + c) % 4 == 0)
