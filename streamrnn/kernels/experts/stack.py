"""Stack: a weighted sum of the other experts' moves, learnt per rung (Wolpert, "Stacked generalization", 1992; Breiman, "Stacked
regressions", 1996).

Its weights are a ridge around the expert that is trusted most beforehand (deviations where there is a season, else moves),
so it begins as that one. Its move goes no further than a quarter beyond what the experts themselves say.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import lean
from streamrnn.kernels.columns import Real
from streamrnn.records import F32

MEMBERS = 4  # experts 1..4: persistence says 0
TRIANGLE = MEMBERS * (MEMBERS + 1) // 2
STRENGTH = 50.0
BEYOND = np.float32(0.25)


@lean
def learn(gram: F32, right: F32, moves: F32, error: Real, weight: Real, fade: Real) -> None:
    """Takes in what the experts said (`moves` [expert]) and by how much the trusted one was short."""
    at = 0
    for i in range(MEMBERS):
        a = weight * moves[i + 1]
        for j in range(i + 1):
            gram[at] = fade * gram[at] + a * moves[j + 1]
            at += 1
        right[i] = fade * right[i] + a * error


@lean
def solve(
    gram: F32, right: F32, weights: F32, members: int, trusted: int, energy: float, count: float, factor: F32
) -> None:
    """`weights` [member] ← the solution; `members` are in use, `energy` Σ y², `count` the samples that carry it."""
    diagonal = np.float32(0.0)
    at = 0
    for i in range(MEMBERS):
        at += i
        diagonal += gram[at + i]
    scale: Real = max(diagonal / members, energy)
    ridge = np.float32(STRENGTH * scale / max(count, 1e-2))
    at = 0
    for i in range(MEMBERS):
        for j in range(i + 1):
            total = gram[at]
            at += 1
            if i == j:
                total += ridge
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                factor[i, i] = np.float32(1.0) / np.sqrt(total) if total > np.float32(0.0) else np.float32(0.0)
            else:
                factor[i, j] = total * factor[j, j]
    for i in range(MEMBERS):
        total = right[i]
        for k in range(i):
            total -= factor[i, k] * weights[k]
        weights[i] = total * factor[i, i]
    for i in range(MEMBERS - 1, -1, -1):
        total = weights[i]
        for k in range(i + 1, MEMBERS):
            total -= factor[k, i] * weights[k]
        weights[i] = total * factor[i, i]
    weights[trusted - 1] += np.float32(1.0)
