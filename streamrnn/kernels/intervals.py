"""Calibrated quantiles around a forecast's mean, tracked per channel and rung.

offset = (shape) + θ · σ, with σ the decayed root mean square of matured errors of the rung and θ moved by the pinball
gradient at each matured target: θ += RATE · (level − [target ≤ quantile]) (quantile tracking: Angelopoulos, Candès,
Tibshirani, "Conformal PID control for time series prediction", NeurIPS 2023; Gibbs & Candès, 2021). Its long-run frequency
is right whatever the data do, because θ is an integrator. Each level is judged by its own offset, as it was before sorting:
only what is sent is sorted. Otherwise a hit of one level would move another one's θ, and two that have changed places would
drive each other apart for ever. Between two rungs, offsets lie on a line.

Coming back. Plain tracking returns from afar by RATE · (1 − level) a step: 3,200 steps from θ = 8 to the upper .95. So the
step is longer where the offset lies far out in σ: quadratic from `columns.USUAL` on up to STRETCH times, and beyond what
σ allows at all a share of the way. How far out is what the *newest* offset of the level says, and the longer part of the
step asks whether that one would have been hit: what θ has just been moved by is seen at once, and a delay of h steps cannot
make it swing. The length is settled before the target is known and is the same both ways, so it changes how fast θ comes to
its place, and hardly where that is (the saturating integrator of the paper above, without its limit).

One step ahead, σ² is the mean of a slow and a quick mean square (`QUICK_SHARE`): how far the next move goes is known best by
the last few and by the last many together (Corsi, "A simple approximate long-memory model of realized volatility", 2009).

A standstill. While a channel stands still (`features.REST`), errors say nothing of how it moves, and would drive σ and θ
to where the first move finds nothing. So they are kept as they were when it moved, and only what is sent shrinks: as σ would,
by errors of 0 where no change is what was foreseen, and by those of a mean that still foresees moves where it is not
(`standing`). σ begins anew with the moves from which the scale is first known.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import inlined
from streamrnn.kernels.columns import RATE, SPREAD_SHARE, Tracking, from_bits
from streamrnn.kernels.features import REST
from streamrnn.records import F32, I64, U16

SPREAD_CAP = 64.0  # a single error enters σ² as at most this many times σ², or as 25 (scale·√h)² if that is more
SPREAD_FLOOR = 0.01  # of the scale: σ is never quite 0 where something moves
# h moves in a row go no further than h times their own size (Minkowski): σ of h steps is at most so many times h scales.
SPREAD_REACH = 8.0
LOSS_CAP = 25.0
QUICK_SHARE = 0.15  # weight of the newest squared error in the quick one
SHAPE_REACH = 16.0  # the network's shape is believed up to so many σ
STEEP = 0.25
# Nothing with this σ has its quantile further out than 1 / √(1 − level) (Chebyshev): from there on θ comes back by this share.
RETURN = 0.05
THETA_MAX = 1e3  # no more than a guard against what a foreign record may hold
SIGMA_MAX = 1e34
WIDE = 1.5  # first guess of σ in units of scale·√h: honest before anything has matured
SHRINK = float(np.log(1.0 - SPREAD_SHARE) / 2.0)


@inlined
def both(h: int, sigma: np.float64, quick: F32) -> np.float64:
    """σ of a rung; of one step half of its square is the quick one's."""
    if h > 1 or not quick[0] > 0.0:
        return sigma
    lately = np.float64(quick[0])
    return np.float64(np.sqrt(0.5 * (sigma * sigma + lately * lately)))


@inlined
def track(
    r: int,
    h: int,
    stride: int,
    offsets: U16,
    fresh: U16,
    error: float,
    size: float,
    before: float,
    noise: float,
    still: int,
    theta: F32,
    sigmas: F32,
    standing: F32,
    quick: F32,
    tracking: Tracking,
    below: I64,
) -> int:
    """Moves `theta` [level] and σ of rung r (h steps) by an error that matured: y lies `error` above the mean of the forecast
    that had these `offsets` [level].

    `fresh`: the rung's newest offsets. `before`: steps since the channel had been seen when the target came, and `noise`, the
    variance of the fill of the last one in squares of one-step errors; `still`: observations
    since its last move. Returns how many levels lay at or above y; `below` [level] counts them, in the order in which they were
    sent.
    """
    levels = tracking.level.shape[0]
    moving = size
    if still > REST:
        moving *= np.exp(-SHRINK * still)
    sigma = max(np.float64(sigmas[r]), SPREAD_FLOOR * size)
    stands = still >= REST + h or not sigma > 0.0
    if REST + h <= still < REST + h + stride:
        # It stands still: what the last REST errors of 0 took from σ is given back.
        sigmas[r] = np.float32(min(sigma * np.exp(-SHRINK * REST), SPREAD_REACH * h * moving))
        if h == 1:
            quick[0] = sigmas[r]
    widened = np.sqrt(1.0 + before * tracking.per_step[r]) if before > 0.0 else 1.0
    usual = both(h, np.float64(sigma), quick)
    wide = usual * widened
    hits = 0
    for q in range(levels):
        hit = bool(error <= np.float64(from_bits(offsets[q])))
        if hit:
            # Sorted, as they were sent, it is the upper ones that are hit.
            below[levels - 1 - hits] += 1
            hits += 1
        if not stands:
            moved = np.float64(theta[q]) + (tracking.up[q] - RATE if hit else tracking.up[q])
            last = np.float64(from_bits(fresh[q]))
            if abs(last) > tracking.limit[r, q] * wide:
                last /= widened
                if h > 1:
                    hit = bool(error <= last)
                out = abs(last) / usual - abs(tracking.normal[q])
                grown = (out + abs(tracking.normal[q]) - tracking.limit[r, q]) / STEEP
                moved += (tracking.up[q] - RATE if hit else tracking.up[q]) * min(grown * grown, tracking.most[q])
                if (last > 0.0) == hit and out > tracking.furthest[q]:
                    moved -= np.sign(last) * RETURN * (out - tracking.furthest[q])
                moved = min(max(moved, -THETA_MAX), THETA_MAX)
            theta[q] = np.float32(moved)
    squared = error * error
    if stands:
        known = np.float64(standing[r])
        standing[r] = np.float32(min(np.sqrt(squared + tracking.keeps[r] * (known * known - squared)), sigma))
    else:
        if h == 1:
            squared /= 1.0 + noise
        unit = size * tracking.root[r]
        squared = min(squared, max(SPREAD_CAP * sigma * sigma, LOSS_CAP * unit * unit))
        if h == 1:
            lately = np.float64(quick[0]) if quick[0] > 0.0 else sigma
            lately = np.sqrt(squared + (1.0 - QUICK_SHARE) * (lately * lately - squared))
            quick[0] = np.float32(min(lately, SPREAD_REACH * size))
        sigma = np.sqrt(squared + tracking.keeps[r] * (sigma * sigma - squared))
        sigmas[r] = np.float32(min(sigma, SPREAD_REACH * h * size))
    return hits


@inlined
def opened(
    r: int,
    h: int,
    size: float,
    one_step: float,
    rest: int,
    shrunk: float,
    sigmas: F32,
    standing: F32,
    quick: F32,
    tracking: Tracking,
) -> float:
    """σ of a rung as it is now; guessed where the channel's scale is first known, and where there is none yet.

    `one_step`: σ of the first rung before any of these guesses; `shrunk`: what σ has shrunk by since the last move.
    """
    known = np.float64(sigmas[r])
    if rest < 0 or known == 0.0:
        guess = WIDE * size * tracking.root[r]
        if rest < -1 and known > 0.0:
            # It moves otherwise than before, but grows over the horizon as before.
            guess = max(known, min(guess, WIDE * size * known / one_step))
        sigmas[r] = np.float32(guess)
        known = guess
        if h == 1:
            quick[0] = np.float32(guess)
    known = both(h, known, quick)
    stands = rest > REST + h - 1
    if stands:
        known *= shrunk * np.exp(-SHRINK * h)
    known = np.float64(min(max(known, SPREAD_FLOOR * size), min(SPREAD_REACH * size, SIGMA_MAX) * h))
    if stands:
        among = np.float64(standing[r])
        known = np.sqrt(known * known + among * among)
    else:
        standing[r] = np.float32(0.0)
    return known
