"""From network outputs to calibrated forecasts: score what matured, weigh the experts, track quantiles, fill gaps.

The order within a frame is what keeps the numbers honest (DESIGN 4.2, 4.3):

1. Score: every forecast whose target is this frame's value is compared with it; the error moves the experts' weights,
   the running spread and the quantile offsets of its own horizon.
2. Fill: a missing channel gets the forecast made when it was last seen, at the horizon that has passed since, corrected
   by what the other channels of the same tick turned out to be.
3. Forecast: experts are mixed, quantiles are put around the mean, and the result is kept until it matures.

Pending forecasts. A forecast for h steps ahead is needed once, h frames later. So horizon h owns a ring of exactly h
cells, and the cell a frame reads (made h frames ago) is the one it then overwrites: H(H+1)/2 cells in all.
A cell holds the move that the network foresaw, in 32,767ths of the largest it foresaw then for any horizon, and the weight
it had. The value it is a move from is kept once for all horizons, as float32 relative to the series' `anchor` (a
float64 near its present level), so that a counter at 1e9 loses no digits. The mean is what these kept numbers give: the
same when it is sent and when it is judged.

Experts. Persistence, and the network once there is one; weights are exponential in the share of the discounted squared
error (forgetting LOSS_DECAY per matured forecast), per channel and horizon.

Quantiles. offset = (mixed shape) + θ · σ, with σ the decayed root mean square of matured errors at that horizon and θ
moved by the pinball gradient at each matured target: θ += RATE · (level − [target ≤ quantile]) (quantile tracking:
Angelopoulos, Candès, Tibshirani, "Conformal PID control for time series prediction", NeurIPS 2023; Gibbs & Candès,
2021). Its long-run frequency is right whatever the data do, because θ is an integrator. Each level is judged by its own
offset, as it was before sorting: only what is sent is sorted. Otherwise a hit of one level would move another one's θ, and
two that have changed places would drive each other apart for ever.

Coming back. Plain tracking returns from afar by RATE · (1 − level) a step: 3,200 steps from θ = 8 to the upper .95. So the
step is longer where the offset lies far out in σ: quadratic from USUAL on up to STRETCH times, and beyond what
σ allows at all a share of the way. How far out is what the *newest* offset of the level says, and
the longer part of the step asks whether that one would have been hit: what θ has just been moved by is seen at once, and a
delay of h steps cannot make it swing. The length is settled before the target is known and is the same both ways, so it
changes how fast θ comes to its place, and hardly where that is (the saturating integrator of the paper above, without its limit).

A standstill. While a channel stands still (`features.REST`), errors are 0 whatever the interval is, and would drive σ and θ
to where the first move finds nothing. So they are kept as they were when it moved, and only what is sent shrinks. σ begins
anew with the moves from which the scale is first known.

Fills. The channels' one-step errors, in units of their σ, have a running second moment. A channel that is missing enters it
with its conditional mean and variance, given those that came (the E step of a Gaussian's EM: Dempster, Laird, Rubin, 1977;
Little & Rubin, "Statistical analysis with missing data", ch. 11), so it is a mean of matrices that are positive
semidefinite and stays one. What an older version left is mended where it is found not to be. What the others said at each
step of a gap is carried along. A channel that comes back shows what the fill of that step would have missed: by that the
width of fills in longer gaps is tracked, as the quantiles are.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.kernels.features import REST
from streamrnn.records import F32, F64, I16, I32, I64, U8, U16, Bool

LOSS_DECAY = 0.998
LOSS_SHARPNESS = 20.0
LOSS_CAP = 25.0  # squared error in units of the scale·√h that one target can add: a spike is not an argument
SPREAD_SHARE = 0.03  # weight of the newest squared error in σ²
SPREAD_CAP = 64.0  # a single error enters σ² as at most this many times σ², or as 25 (scale·√h)² if that is more
SPREAD_FLOOR = 0.01  # of the scale: σ is never quite 0 where something moves
# h moves in a row go no further than h times their own size (Minkowski): σ of h steps is at most so many times h scales.
SPREAD_REACH = 8.0
SHAPE_REACH = 16.0  # the network's shape is believed up to so many σ
RATE = 0.05
# An offset may lie this far (in σ) beyond that of normal errors before its steps grow; for levels further out than .05 less.
USUAL = 0.5
# Errors of overlapping stretches wander together, and θ with them: later horizons have this power more room. Beyond `NEAR` steps
# θ swings by what it is moved while nothing of it has matured, and has a share of that on top.
LATER = 0.15
NEAR, SWING = 12.0, 0.6
STEEP = 0.25
STRETCH = 8.0
# Nothing with this σ has its quantile further out than 1 / √(1 − level) (Chebyshev): from there on θ comes back by this share.
RETURN = 0.05
THETA_MAX = 1e3  # no more than a guard against what a foreign record may hold
SIGMA_MAX = 1e34
WIDE = 1.5  # first guess of σ in units of scale·√h: honest before anything has matured
COVARIANCE_SHARE = 0.01
RIDGE = 0.01
# Fills reach wider by a power of the gap's length, which moves by so much at each return of a channel.
FILL_RATE, FILL_WIDTH_MAX = 0.05, 1.0
RESIDUAL_CLIP = 4.0  # in σ: what a one-step error enters the covariance with, and what a fill is moved by, at most
LONGEST_GAP = 1e6  # in steps: a gap is no longer than this, whatever a foreign record says
FURTHER = 4  # moves beyond what it has shown that a missing channel may have made, at most one a step
WEIGHTS = 255.0  # steps in which the network's weight is kept
# The network's weight, in those steps, by its share of the loss in so many: its exponential costs more than the rest of a mean.
SHARES = 8192
WEIGHT_OF: U8 = np.rint(WEIGHTS / (1.0 + np.exp(LOSS_SHARPNESS * (2.0 * np.arange(SHARES + 1) / SHARES - 1.0)))).astype(
    np.uint8
)
MOVES = 32767.0  # steps in which its moves are
NO_MOVE = -32768
MOVE_MAX = 1e9  # in scales
ANCHOR_REACH = 4096.0  # re-anchor when the level is further from the anchor than this many scales


class Tracking(NamedTuple):
    """What levels and horizons are tracked by; all are settled with the stream's settings.

    [level]: `level`, its offset in σ where errors are `normal`, how far its θ moves `up` at a miss, how far out in σ a
    quantile can be at the `furthest`, how many times longer than usual steps are at the `most`. `limit` [horizon, level]: from
    where on an offset stretches its steps. [horizon]: the `root` of h, and 1 / h (`per_step`).
    """

    level: F64
    normal: F64
    up: F64
    furthest: F64
    most: F64
    limit: F64
    root: F64
    per_step: F64


def tracking_of(levels: Sequence[float], horizon: int) -> Tracking:
    level: F64 = np.array(levels, dtype=np.float64)
    normal: F64 = np.array([NormalDist().inv_cdf(q) for q in levels])
    steps: F64 = np.arange(1.0, horizon + 1.0)
    rare = np.minimum(level, 1.0 - level)  # the rarer of hit and miss
    room = USUAL * np.sqrt(np.minimum(rare / 0.05, 1.0)) * steps[:, None] ** LATER
    return Tracking(
        level,
        normal,
        RATE * level,
        np.maximum(1.0 / np.sqrt(rare) - np.abs(normal), 1.0),
        STRETCH * np.maximum(0.05 / rare, 1.0),
        np.abs(normal) + room + SWING * RATE * np.maximum(steps - NEAR, 0.0)[:, None],
        np.sqrt(steps),
        1.0 / steps,
    )


@compiled
def to_bits(x: float) -> np.uint16:
    """The upper half of the float32 bit pattern, rounded: 8 bits of mantissa, enough for an interval's half width."""
    return np.uint16(np.uint32(np.float32(x).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16))


@compiled
def from_bits(bits: np.uint16) -> float:
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


@compiled
def _told(unit: np.uint16, steps: np.int16) -> float:
    """The move that the network foresaw, from what is kept of it."""
    return from_bits(unit) * np.float64(steps) if steps != NO_MOVE else np.nan


@compiled
def _mixed(origin: float, move: float, weight: np.uint8) -> float:
    """The experts' mean: the origin alone is what persistence says, and all there is without a network."""
    return origin + np.float64(weight) * (1.0 / WEIGHTS) * move if weight > 0 else origin


@compiled
def _factored(covariance: F32, known: I64, n: int, ridge: float, factor: F64) -> bool:
    """Writes the Cholesky factor of the block of `known` channels plus `ridge` into `factor`; whether there is one."""
    for a in range(n):
        for b in range(a + 1):
            total = np.float64(covariance[known[a], known[b]])
            if a == b:
                total += ridge
            for k in range(b):
                total -= factor[a, k] * factor[b, k]
            if a == b:
                if not total >= 0.5 * ridge:
                    return False
                factor[a, a] = np.sqrt(total)
            else:
                factor[a, b] = total / factor[b, b]
    return True


@compiled
def _solved(known: I64, n: int, residual: F64, factor: F64, solved: F64) -> None:
    """The residuals of the `known` channels, made independent of each other by the factor of their covariance."""
    for a in range(n):
        total = residual[known[a]]
        for k in range(a):
            total -= factor[a, k] * solved[k]
        solved[a] = total / factor[a, a]


@compiled
def _explained(covariance: F32, c: int, known: I64, n: int, factor: F64, solved: F64, part: F64) -> tuple[float, float]:
    """(mean, variance) of channel c's residual that the known ones explain; `part` [n]: by each of `solved`."""
    mean, variance = 0.0, 0.0
    for a in range(n):
        total = np.float64(covariance[c, known[a]])
        for k in range(a):
            total -= factor[a, k] * part[k]
        part[a] = total / factor[a, a]
        mean += part[a] * solved[a]
        variance += part[a] * part[a]
    return mean, variance


@compiled
def _mend(covariance: F32, everyone: I64, factor: F64) -> None:
    """Makes a matrix that is no covariance one: what is between the channels is halved until it is."""
    channels = covariance.shape[0]
    for c in range(channels):
        covariance[c, c] = min(max(covariance[c, c], np.float32(0.0)), np.float32(RESIDUAL_CLIP**2))
    for turn in range(8):
        share = 0.5 if turn < 7 else 0.0
        for a in range(channels):
            for b in range(channels):
                if a != b:
                    covariance[a, b] = np.float32(share * covariance[a, b])
        if _factored(covariance, everyone, channels, RIDGE, factor):
            return


@compiled
def _move_anchor(shift: float, c: int, pend_base: F32, seen_range: F32) -> None:
    """Re-expresses one channel's kept values after its anchor moved by `shift`."""
    for k in range(2):
        seen_range[c, k] = np.float32(seen_range[c, k] - shift)
    for h in range(pend_base.shape[0]):
        pend_base[h, c] = np.float32(pend_base[h, c] - shift)


@compiled
def advance(
    slot: I32,
    values: F64,
    base: F64,
    scale: F32,
    age: F32,
    age_before: F32,
    rest: I32,
    number: I64,
    out_row: I64,
    fill_row: I64,
    net: F32,
    has_net: bool,
    skill: F32,
    tracking: Tracking,
    # state
    anchor: F64,
    pend_base: F32,
    pend_unit: U16,
    pend_move: I16,
    pend_weight: U8,
    pend_off: U16,
    spread: F32,
    theta: F32,
    loss: F32,
    covariance: F32,
    seen_range: F32,
    carried: F32,
    fill_width: F32,
    net_ready: U8,
    # outputs
    mean_out: F64,
    quantile_out: F64,
    fill_value: F64,
    fill_lower: F64,
    fill_upper: F64,
    filled: Bool,
    # scores of what matured
    count: I64,
    abs_error: F64,
    abs_persistence: F64,
    abs_network: F64,
    count_network: I64,
    abs_persistence_network: F64,
    below: I64,
    inside: I64,
) -> None:
    """One pass over frames in (series, time) order.

    Frame arrays: `values`, `base`, `scale`, `age`, `age_before`, `rest` [frame, channel]; `net` [frame, channel,
    horizon, 1 + level] in units of scale·√h around `base`; `out_row`/`fill_row` [frame] the row to write outputs to, or −1.
    State: [row, cell, channel], [row, horizon, channel], ... Outputs: `mean_out` [row, channel, horizon], `quantile_out`
    [row, channel, level, horizon].
    `skill` [horizon] is the network's squared error over persistence's on held-out data: its weight until it has a
    record of its own.
    """
    channels = values.shape[1]
    horizon = pend_base.shape[1]
    quantiles = tracking.level.shape[0]
    root, per_step = tracking.root, tracking.per_step
    levels, normal, up, limit = tracking.level, tracking.normal, tracking.up, tracking.limit
    furthest, most = tracking.furthest, tracking.most
    offsets = np.empty(quantiles)
    residual = np.empty(channels)
    finer = np.empty(channels)
    speaks = np.empty(channels, dtype=np.bool_)
    shrunk = np.empty(channels)
    one_step = np.empty(channels)
    everyone = np.arange(channels)
    known = np.empty(channels, dtype=np.int64)
    missing = np.empty(channels, dtype=np.int64)
    but = np.empty(channels, dtype=np.int64)
    factor = np.empty((channels, channels))
    solved = np.empty(channels)
    part = np.empty((channels, channels))
    left = np.empty((channels, channels))
    explained = np.empty(channels)
    correlated = covariance.shape[1] > 0
    size = np.empty(channels)  # the scale, and the inverse of it
    per_size = np.empty(channels)
    widest = np.empty(channels)
    turn = np.empty(horizon, dtype=np.int64)  # n modulo h + 1: which of its cells a horizon is at
    rate = np.log(1.0 - SPREAD_SHARE) / 2.0

    for i in range(slot.shape[0]):
        s = slot[i]
        n = number[i]

        # A first network inherits its weight from the gate's held-out comparison.
        if has_net and net_ready[s] == 0:
            for h in range(horizon):
                for c in range(channels):
                    if loss[s, h, c, 0] == 0.0:
                        loss[s, h, c, 0] = 1e-3
                    loss[s, h, c, 1] = loss[s, h, c, 0] * skill[h]
            net_ready[s] = 1

        # ── anchors ──────────────────────────────────────────────────────────────────────────────────────────────
        for c in range(channels):
            if np.isnan(base[i, c]):
                continue
            if np.isnan(anchor[s, c]):
                anchor[s, c] = base[i, c]
            elif abs(base[i, c] - anchor[s, c]) > ANCHOR_REACH * scale[i, c]:
                shift = base[i, c] - anchor[s, c]
                _move_anchor(shift, c, pend_base[s], seen_range[s])
                anchor[s, c] = base[i, c]
            if not np.isnan(values[i, c]):
                x = np.float32(values[i, c] - anchor[s, c])
                # The other way round, so that the first value is taken: nothing is less than NaN.
                if not x >= seen_range[s, c, 0]:
                    seen_range[s, c, 0] = x
                if not x <= seen_range[s, c, 1]:
                    seen_range[s, c, 1] = x

        # ── 1. score what matured ────────────────────────────────────────────────────────────────────────────────
        observed = 0
        for c in range(channels):
            residual[c] = np.nan
            size[c] = scale[i, c]
            per_size[c] = 1.0 / size[c] if size[c] > 0.0 else 0.0
        now = n % horizon
        for h in range(horizon):
            turn[h] = n % (h + 1)
        matured = min(horizon, n)
        for c in range(channels):
            if np.isnan(values[i, c]):
                continue
            y = values[i, c] - anchor[s, c]
            before, still = np.float64(age_before[i, c]), rest[i, c]
            moving = size[c] if still <= REST else size[c] * np.exp(-rate * still)
            for h in range(matured):
                cell = h * (h + 1) // 2 + turn[h]
                last = cell - 1 if turn[h] > 0 else cell + h
                ring = now - h - 1 if now > h else now - h - 1 + horizon
                origin = np.float64(pend_base[s, ring, c])
                if np.isnan(origin):
                    continue
                move = _told(pend_unit[s, ring, c], pend_move[s, cell, c])
                mean = _mixed(origin, move, pend_weight[s, cell, c])
                unit = size[c] * root[h]
                sigma = max(np.float64(spread[s, h, c]), SPREAD_FLOOR * size[c])
                error = y - mean
                if h == 0:
                    # The forecast of one step reached further where the value before it was missing.
                    reach = sigma * np.sqrt(1.0 + before) if before > 0.0 else sigma
                    residual[c] = min(max(error / reach, -RESIDUAL_CLIP), RESIDUAL_CLIP) if reach > 0.0 else 0.0
                    observed += 1
                # the experts
                naive = (y - origin) * per_size[c]
                count[c, h] += 1
                abs_error[c, h] += abs(error) * per_size[c]
                abs_persistence[c, h] += abs(naive)
                if net_ready[s] == 0:
                    if size[c] > 0.0:
                        share = min(naive * naive * per_step[h], LOSS_CAP)
                        loss[s, h, c, 0] = np.float32(LOSS_DECAY * loss[s, h, c, 0] + share)
                elif not np.isnan(move):
                    network = (y - origin - move) * per_size[c]
                    count_network[c, h] += 1
                    abs_network[c, h] += abs(network)
                    abs_persistence_network[c, h] += abs(naive)
                    if size[c] > 0.0:
                        share = min(naive * naive * per_step[h], LOSS_CAP)
                        loss[s, h, c, 0] = np.float32(LOSS_DECAY * loss[s, h, c, 0] + share)
                        share = min(network * network * per_step[h], LOSS_CAP)
                        loss[s, h, c, 1] = np.float32(LOSS_DECAY * loss[s, h, c, 1] + share)
                # the quantiles
                stands = still > REST + h or not sigma > 0.0
                if still == REST + h + 1:
                    # It stands still: what the last REST errors of 0 took from σ is given back.
                    spread[s, h, c] = np.float32(min(sigma * np.exp(-rate * REST), SPREAD_REACH * (h + 1.0) * moving))
                widened = np.sqrt(1.0 + before * per_step[h]) if before > 0.0 else 1.0
                wide = sigma * widened
                hits = 0
                for q in range(quantiles):
                    hit = y <= mean + from_bits(pend_off[s, cell, c, q])
                    if hit:
                        # Sorted, as they were sent, it is the upper ones that are hit.
                        below[c, h, quantiles - 1 - hits] += 1
                        hits += 1
                    if stands:
                        continue
                    moved = np.float64(theta[s, h, c, q]) + (up[q] - RATE if hit else up[q])
                    newest = from_bits(pend_off[s, last, c, q])
                    if abs(newest) > limit[h, q] * wide:
                        newest /= widened
                        if h > 0:
                            hit = error <= newest
                        out = abs(newest) / sigma - abs(normal[q])
                        grown = (out + abs(normal[q]) - limit[h, q]) / STEEP
                        moved += (up[q] - RATE if hit else up[q]) * min(grown * grown, most[q])
                        if (newest > 0.0) == hit and out > furthest[q]:
                            moved -= np.sign(newest) * RETURN * (out - furthest[q])
                        moved = min(max(moved, -THETA_MAX), THETA_MAX)
                    theta[s, h, c, q] = np.float32(moved)
                if 0 < hits < quantiles:
                    inside[c, h] += 1
                # the spread
                if not stands:
                    squared = error * error
                    if h == 0:
                        squared /= 1.0 + before
                    squared = min(squared, max(SPREAD_CAP * sigma * sigma, LOSS_CAP * unit * unit))
                    sigma = np.sqrt(sigma * sigma + SPREAD_SHARE * (squared - sigma * sigma))
                    spread[s, h, c] = np.float32(min(sigma, SPREAD_REACH * (h + 1.0) * size[c]))

        # ── 2. fill what is missing ──────────────────────────────────────────────────────────────────────────────
        others, absent = 0, 0
        if correlated and observed > 0:
            for c in range(channels):
                if not np.isnan(residual[c]):
                    known[others] = c
                    others += 1
                elif not np.isnan(base[i, c]):
                    missing[absent] = c
                    absent += 1
            if absent > 0:
                # What the missing ones have been, given those that came: residual = its mean, left = its variance.
                if not _factored(covariance[s], known, others, RIDGE, factor):
                    _mend(covariance[s], everyone, factor)
                    _factored(covariance[s], known, others, RIDGE, factor)
                _solved(known, others, residual, factor, solved)
                for m in range(absent):
                    c = missing[m]
                    shift, explained[c] = _explained(covariance[s], c, known, others, factor, solved, part[m])
                    residual[c] = min(max(shift, -RESIDUAL_CLIP), RESIDUAL_CLIP)
                    for k in range(m + 1):
                        total = np.float64(covariance[s, c, missing[k]])
                        for a in range(others):
                            total -= part[m, a] * part[k, a]
                        left[m, k] = total
                    left[m, m] = max(left[m, m], 0.0)
        row = fill_row[i]
        for c in range(channels):
            if row >= 0:
                filled[row, c] = False
                fill_value[row, c] = values[i, c]
                fill_lower[row, c] = values[i, c]
                fill_upper[row, c] = values[i, c]
            came = not np.isnan(values[i, c])
            if (came and not age_before[i, c] > 0.0) or np.isnan(base[i, c]):
                carried[s, c] = 0.0
                continue
            # A channel that comes back says how wide the fill of this very step ought to have been.
            shift, share = 0.0, 0.0
            if came and others > 1:
                rest_of = 0
                for a in range(others):
                    if known[a] != c:
                        but[rest_of] = known[a]
                        rest_of += 1
                if rest_of < others and _factored(covariance[s], but, rest_of, RIDGE, factor):
                    _solved(but, rest_of, residual, factor, solved)
                    shift, share = _explained(covariance[s], c, but, rest_of, factor, solved, part[0])
                    shift = min(max(shift, -RESIDUAL_CLIP), RESIDUAL_CLIP)
            elif absent > 0 and not came:
                shift, share = residual[c], explained[c]
            if shift != 0.0:
                carried[s, c] += np.float32(max(np.float64(spread[s, 0, c]), SPREAD_FLOOR * size[c]) * shift)
            if row < 0 and not came:
                continue
            # The share of its variance that the others leave.
            variance = np.float64(covariance[s, c, c]) if correlated else 0.0
            explained_share = min(max(share / variance, 0.0), 1.0) if variance > 0.0 else 0.0
            narrow = np.sqrt(max(1.0 - explained_share, 0.05))
            waited = np.float64(age_before[i, c]) + 1.0 if came else np.float64(age[i, c])
            gone = int(np.rint(min(max(waited, 1.0), LONGEST_GAP)))
            narrow *= (gone + 1.0) ** np.float64(fill_width[s, c])
            h = min(gone, horizon) - 1
            cell = h * (h + 1) // 2 + turn[h]
            ring = (n - h - 1) % horizon
            origin = np.float64(pend_base[s, ring, c])
            known_before = n > h and not np.isnan(origin)
            if known_before:
                move = _told(pend_unit[s, ring, c], pend_move[s, cell, c])
                center = _mixed(origin, move, pend_weight[s, cell, c]) + np.float64(carried[s, c])
                lower, upper = from_bits(pend_off[s, cell, c, 0]), from_bits(pend_off[s, cell, c, 0])
                for q in range(1, quantiles):
                    lower = min(lower, from_bits(pend_off[s, cell, c, q]))
                    upper = max(upper, from_bits(pend_off[s, cell, c, q]))
                # What the others explain of the move is in the center already, so the interval lies around that.
                middle = explained_share * (lower + upper) / 2.0
                lower = min((lower - middle) * narrow, 0.0)
                upper = max((upper - middle) * narrow, 0.0)
            else:
                center = base[i, c] - anchor[s, c]
                upper = 2.0 * WIDE * size[c] * np.sqrt(np.float64(gone))
                lower = -upper
            # No further than the channel has ever been, but for the moves that it may have made since (a counter's).
            further = min(gone, FURTHER) * size[c]
            if seen_range[s, c, 0] <= seen_range[s, c, 1]:
                center = min(max(center, seen_range[s, c, 0] - further), seen_range[s, c, 1] + further)
            if came:
                carried[s, c] = 0.0
                if known_before and rest[i, c] <= REST and size[c] > 0.0:
                    error = values[i, c] - anchor[s, c] - center
                    missed = 0.0 if lower <= error <= upper else 1.0
                    moved = fill_width[s, c] + FILL_RATE * (missed - 1.0 + levels[quantiles - 1] - levels[0])
                    fill_width[s, c] = np.float32(min(max(moved, -FILL_WIDTH_MAX), FILL_WIDTH_MAX))
                continue
            filled[row, c] = True
            fill_value[row, c] = anchor[s, c] + center
            fill_lower[row, c] = anchor[s, c] + center + lower
            fill_upper[row, c] = anchor[s, c] + center + upper

        if correlated and observed > 0:
            for a in range(channels):
                if np.isnan(residual[a]):
                    continue
                for b in range(channels):
                    if not np.isnan(residual[b]):
                        product = residual[a] * residual[b]
                        covariance[s, a, b] += np.float32(COVARIANCE_SHARE * (product - covariance[s, a, b]))
            for m in range(absent):
                for k in range(m + 1):
                    covariance[s, missing[m], missing[k]] += np.float32(COVARIANCE_SHARE * left[m, k])
                    if k < m:
                        covariance[s, missing[k], missing[m]] = covariance[s, missing[m], missing[k]]

        # ── 3. forecast ──────────────────────────────────────────────────────────────────────────────────────────
        row = out_row[i]
        ring = now
        for c in range(channels):
            pend_base[s, ring, c] = np.float32(base[i, c] - anchor[s, c])
            # What is infinite or no number is nothing that a network says.
            largest, odd = 0.0, 0
            if has_net:
                for h in range(horizon):
                    far = abs(np.float64(net[i, c, h, 0]) * root[h])
                    largest = far if far > largest else largest
                    odd += not far < MOVE_MAX
            speaks[c] = has_net and odd == 0
            # Rounded to 8 bits it is smaller by a part in 500 at most.
            pend_unit[s, ring, c] = to_bits(largest * np.float64(scale[i, c]) * (1.004 / MOVES)) if speaks[c] else 0
            unit = from_bits(pend_unit[s, ring, c])
            finer[c] = np.float64(scale[i, c]) / unit if unit > 0.0 else 0.0
            one_step[c] = max(np.float64(spread[s, 0, c]), SPREAD_FLOOR * size[c])
            widest[c] = min(SPREAD_REACH * size[c], SIGMA_MAX)
            shrunk[c] = np.exp(rate * rest[i, c]) if rest[i, c] > REST else 1.0
        for c in range(channels):
            if np.isnan(base[i, c]):
                for h in range(horizon):
                    cell = h * (h + 1) // 2 + turn[h]
                    pend_move[s, cell, c] = NO_MOVE
                    pend_weight[s, cell, c] = 0
                if row >= 0:
                    mean_out[row, c] = np.nan
                    quantile_out[row, c] = np.nan
                continue
            origin = np.float64(pend_base[s, ring, c])
            level = anchor[s, c]
            reached, begins = np.float64(age[i, c]), rest[i, c] < 0
            for h in range(horizon):
                cell = h * (h + 1) // 2 + turn[h]
                known_sigma = np.float64(spread[s, h, c])
                if begins or known_sigma == 0.0:
                    guess = WIDE * size[c] * root[h]
                    if rest[i, c] < -1 and known_sigma > 0.0:
                        # It moves otherwise than before, but grows over the horizon as before.
                        guess = max(known_sigma, min(guess, WIDE * size[c] * known_sigma / one_step[c]))
                    spread[s, h, c] = np.float32(guess)
                    known_sigma = guess
                shrinks = shrunk[c] * np.exp(-rate * (h + 1.0)) if rest[i, c] > REST + h else 1.0
                # A forecast from a value seen `age` steps ago reaches that much further.
                sigma = min(max(known_sigma * shrinks, SPREAD_FLOOR * size[c]), widest[c] * (h + 1.0))
                if reached > 0.0:
                    sigma *= np.sqrt(1.0 + reached * per_step[h])
                kept_move = np.int16(NO_MOVE)
                kept = np.uint8(0)
                mean = origin
                if speaks[c]:
                    lost = np.float64(loss[s, h, c, 0]) + np.float64(loss[s, h, c, 1])
                    share = np.float64(loss[s, h, c, 1]) / lost if lost > 0.0 else 0.5
                    # What is scored later is what is sent now: the kept, rounded numbers.
                    kept = WEIGHT_OF[int(share * SHARES + 0.5) if 0.0 <= share <= 1.0 else SHARES // 2]
                    far = np.rint(np.float64(net[i, c, h, 0]) * root[h] * finer[c])
                    kept_move = np.int16(min(max(far, -MOVES), MOVES))
                    network = _told(pend_unit[s, ring, c], kept_move)
                    mean = _mixed(origin, network, kept)
                    weight = np.float64(kept) * (1.0 / WEIGHTS)
                    unit = size[c] * root[h]
                    for q in range(quantiles):
                        shape = np.float64(net[i, c, h, 1 + q]) * unit - network
                        shape = min(max(shape, -SHAPE_REACH * sigma), SHAPE_REACH * sigma)
                        offset = ((1.0 - weight) * normal[q] + np.float64(theta[s, h, c, q])) * sigma + weight * shape
                        bits = to_bits(offset)
                        pend_off[s, cell, c, q] = bits
                        offsets[q] = from_bits(bits)
                else:
                    for q in range(quantiles):
                        bits = to_bits((normal[q] + np.float64(theta[s, h, c, q])) * sigma)
                        pend_off[s, cell, c, q] = bits
                        offsets[q] = from_bits(bits)
                pend_move[s, cell, c], pend_weight[s, cell, c] = kept_move, kept
                if row < 0:
                    continue
                # Each level is tracked by itself, so neighbours may cross: sorting never makes the pinball loss worse
                # (Chernozhukov, Fernández-Val, Galichon 2010).
                for q in range(1, quantiles):
                    one = offsets[q]
                    k = q - 1
                    while k >= 0 and offsets[k] > one:
                        offsets[k + 1] = offsets[k]
                        k -= 1
                    offsets[k + 1] = one
                mean_out[row, c, h] = level + mean
                for q in range(quantiles):
                    quantile_out[row, c, q, h] = level + mean + offsets[q]
