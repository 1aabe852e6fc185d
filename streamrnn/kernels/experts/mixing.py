"""How experts become one forecast: weights by what has matured, and a guard against no change at all.

Weights, per channel and rung, are exponential in a loss relative to the best expert's,

    w_k ∝ exp(−η (L_k − L_min) / L_min),   η = min(`ETA`, `ETA_SHARE` · n_y),   n_y = (Σ y²)² / Σ y⁴

of the discounted squared errors L (exponentially weighted averages: Vovk, 1990; Cesa-Bianchi and Lugosi, "Prediction, Learning,
and Games", 2006, ch. 2; relative to the best, so that neither a unit nor the number of experts matters). n_y counts the
moves that carry the energy: after one large move nobody has proven anything. One error enters as at most `CAP` usual
squared moves. An expert that has not spoken long enough has the loss of persistence, and half as much again: it must not inherit
trust.

The guard. With m the mixed move and y what came, β = Σ m y / Σ m² is what the move was worth, with the standard error
se = √(v V / Σ m²), v forecasts overlapping at a time and V the usual squared move of now: when moves become larger than those
that β was learnt from, it is believed less at once. What is emitted is m · clip(β, 0, 1) · clip(β / se − ½, 0, 1): on prices,
where nothing is to be foreseen, that is no change at all, and never worse.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import inlined
from streamrnn.kernels.columns import DEVIATIONS, MOVES, PERSISTENCE, STACK, Real
from streamrnn.kernels.experts import stack
from streamrnn.records import F32, I64

DISCOUNT = 0.998
FADE = 0.9995
ETA, ETA_SHARE = 10.0, 1.5
CAP = np.float32(100.0)
FARTHEST = np.float32(2.0**28)  # what a move can be at all (`history.X_MAX`)
ASLEEP = np.float32(1.5)
BELIEVED = 10.0  # an expert's move goes as far as so many usual moves over the rung
STANDARD = 0.5  # standard errors that the guard takes from β
ABSURD = np.float32(1000.0)  # a squared move beyond so many usual ones weighs less in slow sums
CAP_MAX, ENERGY_MAX = np.float32(1e30), np.float32(1e38)  # whatever a foreign record says of usual moves
STACKED_MAX = np.float32(1e6)
# What has been summed up is forgotten in a hurry where its squared moves were so many times those of now.
STRONG, HASTY = np.float32(10.0), np.float32(0.99)
# Where they were so many times the channel's scale of now, nothing slower will do (an instrument that spans decades, such as
# light at dusk): the logarithm of what is too large loses this share at each step.
VAST, HURRY = np.float32(1e4), 1.0 / 32.0
FIRST = 8  # frames of a channel that nothing is scored on
NEGLIGIBLE = 12.0  # a weight of e^−12 is 0
# Weights and stacks are solved for at every 4th forecast of a rung, at each one while the channel is young.
SELDOM, YOUNG = 4, 32


@inlined
def hurried(past: Real, quiet: Real) -> Real:
    """The share that a step keeps of a mean of squared moves, `past`, by the squared scale of now, `quiet`: 1 where they fit."""
    if not (quiet > np.float32(0.0) and past > VAST * quiet):
        return np.float32(1.0)
    return np.float32((np.float64(VAST) * np.float64(quiet) / np.float64(past)) ** HURRY)


@inlined
def score(
    r: int,
    age: int,
    h: int,
    stride: int,
    turn: int,
    discount: float,
    fade: float,
    now: Real,
    quiet: Real,
    y: Real,
    moves: F32,
    raw: Real,
    loss: F32,
    size: F32,
    energy: F32,
    slope: F32,
    stack_gram: F32,
    stack_right: F32,
    stack_weight: F32,
    place: I64,
    members: I64,
    wakes: I64,
    factor: F32,
) -> None:
    """Takes in what came of a channel: `y` the move over rung r, `moves` [expert] what each had said, `raw` the mixture; `now`
    the usual squared move of one step (0: not known), `quiet` the square of the channel's scale (0: none yet).

    `age`: frames between the channel's first and the target; `turn`: number of the forecast among those of this rung, by which
    solving takes turns. The arrays are those of `Mixture`, of one channel; `loss` [expert in use] and the stack's of one rung.
    """
    settled = age > h + 38
    usual = size[r]
    faded, discounted = np.float32(fade), np.float32(discount)
    if now > np.float32(0.0) and y != np.float32(0.0):
        # It has become much calmer: sums of what came before would rule for a long time.
        if size[0] > STRONG * now:
            discounted = min(discounted, HASTY)
        if energy[0, 0] * np.float32(1.0 - fade) > STRONG * now:
            faded = min(faded, HASTY)
        discounted = min(discounted, hurried(size[0], quiet))
        # Not what the stack has learnt: its weights are of shares, whatever the size of the moves.
        kept = min(faded, hurried(energy[0, 0] * np.float32(1.0 - fade), quiet))
    else:
        kept = faded
    limit = FARTHEST
    if settled and usual > np.float32(0.0):
        limit = min(np.float32(BELIEVED) * np.sqrt(usual), FARTHEST)
    for member in range(members.shape[0]):
        k = members[member]
        moves[k] = min(max(moves[k], -limit), limit) if moves[k] == moves[k] else np.float32(0.0)
    moves[STACK] = min(max(moves[STACK], -limit), limit) if moves[STACK] == moves[STACK] else np.float32(0.0)
    squared = y * y
    if settled and usual > np.float32(0.0):
        squared = min(squared, CAP * usual)
    count = (age - FIRST - h) // stride + 1
    rate = max(np.float32(1.0) - discounted, np.float32(1.0 / max(count, 1)))
    usual += rate * (squared - usual)
    size[r] = usual
    cap = min(CAP * usual, CAP_MAX)
    squared = min(y * y, cap)
    energy[r, 0] = kept * energy[r, 0] + squared
    energy[r, 1] = min(kept * kept * energy[r, 1] + squared * squared, ENERGY_MAX)
    # losses
    spoken = age - h
    first = place[PERSISTENCE]
    loss[first] = discounted * loss[first] + squared
    for member in range(members.shape[0] + 1):
        k = members[member] if member < members.shape[0] else STACK
        at = place[k]
        if at >= 0:
            lost = loss[at]
            if spoken < wakes[k] + (h if k < MOVES else 0):
                lost = min(ASLEEP * loss[first], ENERGY_MAX)
            d = moves[k] - y
            loss[at] = discounted * lost + min(d * d, cap)
    # the guard, the stack
    weight = np.float32(1.0)
    if y * y > ABSURD * usual:
        weight = ABSURD * usual / (y * y)
    slope[r, 0] = kept * slope[r, 0] + weight * raw * y
    slope[r, 1] = kept * slope[r, 1] + weight * raw * raw
    if place[STACK] >= 0:
        trusted = DEVIATIONS if place[DEVIATIONS] >= 0 else MOVES
        for k in range(1, STACK):
            if place[k] < 0:
                moves[k] = np.float32(0.0)
        stack.learn(stack_gram, stack_right, moves, y - moves[trusted], weight, faded)
        if age < YOUNG or turn % SELDOM == 0:
            samples = (1.0 - fade ** max(count, 1)) / (1.0 - fade)
            if energy[r, 1] > np.float32(0.0):
                samples = min(samples, 3.0 * energy[r, 0] * (energy[r, 0] / energy[r, 1]))
            stack.solve(stack_gram, stack_right, stack_weight, members.shape[0], trusted, energy[r, 0], samples, factor)
            for k in range(stack_weight.shape[0]):
                if not abs(stack_weight[k]) < STACKED_MAX:
                    # No such weights are learnt from numbers: it begins again.
                    stack_gram[:] = np.float32(0.0)
                    stack_right[:] = np.float32(0.0)
                    stack_weight[:] = np.float32(0.0)
                    stack_weight[trusted - 1] = np.float32(1.0)


@inlined
def weigh(loss: F32, weight: F32, energy: F32, known: bool, place: I64) -> None:
    """The weights of a rung by the losses so far; before anything is `known` to have matured there is only persistence."""
    used = loss.shape[0]
    first = place[PERSISTENCE]
    best = np.float32(np.inf)
    for k in range(used):
        best = min(best, loss[k])
    sharp = np.float32(ETA)
    if energy[1] > np.float32(0.0):
        sharp = min(sharp, np.float32(ETA_SHARE) * energy[0] * (energy[0] / energy[1]))
    total = np.float32(0.0)
    for k in range(used):
        w = np.float32(0.0)
        if not known:
            if k == first:
                w = np.float32(1.0)
        else:
            d = loss[k] - best
            w = np.float32(1.0)
            if d > np.float32(0.0):
                power = sharp * d / best
                w = np.exp(-power) if power < np.float32(NEGLIGIBLE) else np.float32(0.0)
        weight[k] = w
        total += w
    for k in range(used):
        weight[k] /= total


@inlined
def believed(usual: Real, slope: F32, known: bool, cells: int) -> Real:
    """The share of a rung's mixed move that is emitted; `usual`: mean square of the rung's moves."""
    share = np.float32(0.0 if known else 1.0)
    came, moved = slope[0], slope[1]
    if known and moved > np.float32(0.0) and came > np.float32(0.0):
        beta = came / moved
        error = np.sqrt(np.float32(cells) * usual / moved)
        sure = beta / error - np.float32(STANDARD) if error > np.float32(0.0) else np.float32(1.0)
        # Nothing where it is no number.
        share = np.float32(0.0)
        if sure > np.float32(0.0):
            share = min(beta, np.float32(1.0)) * min(sure, np.float32(1.0))
    return share
