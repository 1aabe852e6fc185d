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
2021). Its long-run frequency is right whatever the data do, because θ is an integrator.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F32, F64, I16, I32, I64, U8, U16, Bool

LOSS_DECAY = 0.998
LOSS_SHARPNESS = 20.0
LOSS_CAP = 25.0  # squared error in units of the scale·√h that one target can add: a spike is not an argument
SPREAD_SHARE = 0.03  # weight of the newest squared error in σ²
SPREAD_CAP = 64.0  # a single error enters σ² as at most this many times σ², or as 25 (scale·√h)² if that is more
# A series that stands still for long has errors of 0: σ keeps this share of scale·√h, or the first move after it would
# look infinite, and θ would run away while σ catches up.
SPREAD_FLOOR = 0.05
THETA_MAX = 8.0
RATE = 0.05
WIDE = 1.5  # first guess of σ in units of scale·√h: honest before anything has matured
COVARIANCE_SHARE = 0.02
RIDGE = 0.05
WEIGHTS = 255.0  # steps in which the network's weight is kept
MOVES = 32767.0  # steps in which its moves are
NO_MOVE = -32768
MOVE_MAX = 1e9  # in scales
ANCHOR_REACH = 4096.0  # re-anchor when the level is further from the anchor than this many scales


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
def _solve(matrix: F64, right: F64, n: int) -> None:
    """Solves matrix · x = right in place for the leading n × n block (symmetric positive definite, by elimination)."""
    for k in range(n):
        pivot = matrix[k, k]
        for i in range(k + 1, n):
            factor = matrix[i, k] / pivot
            for j in range(k, n):
                matrix[i, j] -= factor * matrix[k, j]
            right[i] -= factor * right[k]
    for k in range(n - 1, -1, -1):
        total = right[k]
        for j in range(k + 1, n):
            total -= matrix[k, j] * right[j]
        right[k] = total / matrix[k, k]


@compiled
def _move_anchor(shift: float, c: int, pend_base: F32) -> None:
    """Re-expresses one channel's kept values after its anchor moved by `shift`."""
    for h in range(pend_base.shape[0]):
        pend_base[h, c] = np.float32(pend_base[h, c] - shift)


@compiled
def advance(
    slot: I32,
    values: F64,
    base: F64,
    scale: F32,
    age: F32,
    number: I64,
    out_row: I64,
    fill_row: I64,
    net: F32,
    has_net: bool,
    skill: F32,
    levels: F64,
    normal: F64,
    # state
    anchor: F64,
    pend_base: F32,
    pend_unit: U16,
    pend_move: I16,
    pend_weight: U8,
    pend_off: U16,
    spread2: F32,
    theta: F32,
    loss: F32,
    covariance: F32,
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
    frame_error: F32,
) -> None:
    """One pass over frames in (series, time) order.

    Frame arrays: `values`, `base`, `scale`, `age` [frame, channel]; `net` [frame, channel, horizon, 1 + level]
    in units of scale·√h around `base`; `out_row`/`fill_row` [frame] the row to write outputs to, or −1. State:
    [row, cell, channel], [row, horizon, channel], ... Outputs: `mean_out` [row, channel, horizon], `quantile_out`
    [row, channel, level, horizon].
    `skill` [horizon] is the network's squared error over persistence's on held-out data: its weight until it has a
    record of its own. `frame_error` [frame]: mean scaled one-step error of the frame's matured channels (NaN: none).
    """
    channels = values.shape[1]
    horizon = pend_base.shape[1]
    quantiles = levels.shape[0]
    root = np.sqrt(np.arange(1, horizon + 1).astype(np.float64))
    offsets = np.empty(quantiles)
    residual = np.empty(channels)
    finer = np.empty(channels)
    speaks = np.empty(channels, dtype=np.bool_)
    known = np.empty(channels, dtype=np.int64)
    matrix = np.empty((channels, channels))
    solved = np.empty(channels)
    right = np.empty(channels)
    correlated = covariance.shape[1] > 0

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
                _move_anchor(shift, c, pend_base[s])
                anchor[s, c] = base[i, c]

        # ── 1. score what matured ────────────────────────────────────────────────────────────────────────────────
        observed = 0
        for c in range(channels):
            residual[c] = np.nan
        for h in range(min(horizon, n)):
            cell = h * (h + 1) // 2 + n % (h + 1)
            ring = (n - h - 1) % horizon
            for c in range(channels):
                x = values[i, c]
                if np.isnan(x):
                    continue
                origin = np.float64(pend_base[s, ring, c])
                if np.isnan(origin):
                    continue
                move = _told(pend_unit[s, ring, c], pend_move[s, cell, c])
                mean = _mixed(origin, move, pend_weight[s, cell, c])
                y = x - anchor[s, c]
                unit = np.float64(scale[i, c]) * root[h]
                sigma2 = max(np.float64(spread2[s, h, c]), (SPREAD_FLOOR * unit) ** 2)
                error = y - mean
                if h == 0:
                    residual[c] = min(max(error / np.sqrt(sigma2), -4.0), 4.0)
                    observed += 1
                # the experts
                naive = y - origin
                network = naive - move
                count[c, h] += 1
                abs_error[c, h] += abs(error) / scale[i, c]
                abs_persistence[c, h] += abs(naive) / scale[i, c]
                if not np.isnan(network):
                    count_network[c, h] += 1
                    abs_network[c, h] += abs(network) / scale[i, c]
                    abs_persistence_network[c, h] += abs(naive) / scale[i, c]
                if net_ready[s] == 0 or not np.isnan(network):
                    share = min(naive * naive / (unit * unit), LOSS_CAP)
                    loss[s, h, c, 0] = np.float32(LOSS_DECAY * loss[s, h, c, 0] + share)
                    if not np.isnan(network):
                        share = min(network * network / (unit * unit), LOSS_CAP)
                        loss[s, h, c, 1] = np.float32(LOSS_DECAY * loss[s, h, c, 1] + share)
                # the quantiles
                hits = 0
                for q in range(quantiles):
                    hit = y <= mean + from_bits(pend_off[s, cell, c, q])
                    if hit:
                        below[c, h, q] += 1
                        hits += 1
                    moved = np.float64(theta[s, h, c, q]) + RATE * (levels[q] - (1.0 if hit else 0.0))
                    theta[s, h, c, q] = np.float32(min(max(moved, -THETA_MAX), THETA_MAX))
                if 0 < hits < quantiles:
                    inside[c, h] += 1
                # the spread
                squared = min(error * error, max(SPREAD_CAP * sigma2, LOSS_CAP * unit * unit))
                spread2[s, h, c] = np.float32(sigma2 + SPREAD_SHARE * (squared - sigma2))
        if observed > 0:
            total = 0.0
            for c in range(channels):
                if not np.isnan(residual[c]):
                    total += abs(residual[c])
            frame_error[i] = np.float32(total / observed)
        else:
            frame_error[i] = np.nan

        # ── 2. fill what is missing ──────────────────────────────────────────────────────────────────────────────
        row = fill_row[i]
        if row >= 0:
            for c in range(channels):
                filled[row, c] = False
                fill_value[row, c] = values[i, c]
                fill_lower[row, c] = values[i, c]
                fill_upper[row, c] = values[i, c]
                if not np.isnan(values[i, c]) or np.isnan(base[i, c]):
                    continue
                filled[row, c] = True
                gone = max(1, int(np.rint(age[i, c])))
                h = min(gone, horizon) - 1
                cell = h * (h + 1) // 2 + n % (h + 1)
                ring = (n - h - 1) % horizon
                origin = np.float64(pend_base[s, ring, c])
                widen = np.sqrt(max(1.0, gone / horizon))
                if n <= h or np.isnan(origin):
                    center = base[i, c]
                    lower = -2.0 * WIDE * scale[i, c] * np.sqrt(np.float64(gone))
                    upper = -lower
                else:
                    move = _told(pend_unit[s, ring, c], pend_move[s, cell, c])
                    center = anchor[s, c] + _mixed(origin, move, pend_weight[s, cell, c])
                    lower = from_bits(pend_off[s, cell, c, 0]) * widen
                    upper = from_bits(pend_off[s, cell, c, quantiles - 1]) * widen
                    others = 0
                    if correlated and observed > 0:
                        for j in range(channels):
                            if not np.isnan(residual[j]):
                                known[others] = j
                                others += 1
                        for a in range(others):
                            right[a] = covariance[s, known[a], c]
                            solved[a] = right[a]
                            for b in range(others):
                                matrix[a, b] = covariance[s, known[a], known[b]]
                            matrix[a, a] += RIDGE
                        _solve(matrix, solved, others)
                        shift = 0.0
                        explained = 0.0
                        for a in range(others):
                            shift += solved[a] * residual[known[a]]
                            explained += solved[a] * right[a]
                        step_sigma = np.sqrt(np.float64(spread2[s, 0, c]))
                        center += step_sigma * shift
                        share = explained * np.float64(spread2[s, 0, c]) / np.float64(spread2[s, h, c])
                        narrow = np.sqrt(min(max(1.0 - share, 0.05), 1.0))
                        lower *= narrow
                        upper *= narrow
                fill_value[row, c] = center
                fill_lower[row, c] = center + lower
                fill_upper[row, c] = center + upper

        if correlated and observed > 0:
            for a in range(channels):
                if np.isnan(residual[a]):
                    continue
                for b in range(channels):
                    if not np.isnan(residual[b]):
                        product = residual[a] * residual[b]
                        covariance[s, a, b] += np.float32(COVARIANCE_SHARE * (product - covariance[s, a, b]))

        # ── 3. forecast ──────────────────────────────────────────────────────────────────────────────────────────
        row = out_row[i]
        ring = n % horizon
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
        for h in range(horizon):
            cell = h * (h + 1) // 2 + n % (h + 1)
            for c in range(channels):
                if np.isnan(base[i, c]):
                    pend_move[s, cell, c] = NO_MOVE
                    pend_weight[s, cell, c] = 0
                    if row >= 0:
                        mean_out[row, c, h] = np.nan
                        for q in range(quantiles):
                            quantile_out[row, c, q, h] = np.nan
                    continue
                unit = np.float64(scale[i, c]) * root[h]
                if spread2[s, h, c] == 0.0 or n < 2:
                    spread2[s, h, c] = np.float32((WIDE * unit) ** 2 + 1e-30)
                # A forecast from a value seen `age` steps ago reaches that much further.
                sigma2 = max(np.float64(spread2[s, h, c]), (SPREAD_FLOOR * unit) ** 2)
                sigma = np.sqrt(sigma2 * (1.0 + age[i, c] / (h + 1.0)))
                origin = np.float64(pend_base[s, ring, c])
                steps = np.int16(NO_MOVE)
                kept = np.uint8(0)
                mean = origin
                if speaks[c]:
                    lost = np.float64(loss[s, h, c, 0]) + np.float64(loss[s, h, c, 1])
                    share = np.float64(loss[s, h, c, 1]) / lost if lost > 0.0 else 0.5
                    weight = 1.0 / (1.0 + np.exp(LOSS_SHARPNESS * (2.0 * share - 1.0)))
                    # What is scored later is what is sent now: the kept, rounded numbers.
                    kept = np.uint8(weight * WEIGHTS + 0.5)
                    far = np.rint(np.float64(net[i, c, h, 0]) * root[h] * finer[c])
                    steps = np.int16(min(max(far, -MOVES), MOVES))
                    network = _told(pend_unit[s, ring, c], steps)
                    mean = _mixed(origin, network, kept)
                    weight = np.float64(kept) * (1.0 / WEIGHTS)
                    for q in range(quantiles):
                        shape = np.float64(net[i, c, h, 1 + q]) * unit - network
                        offsets[q] = (1.0 - weight) * normal[q] * sigma + weight * shape
                else:
                    for q in range(quantiles):
                        offsets[q] = normal[q] * sigma
                pend_move[s, cell, c], pend_weight[s, cell, c] = steps, kept
                for q in range(quantiles):
                    offsets[q] += np.float64(theta[s, h, c, q]) * sigma
                # Each level is tracked by itself, so neighbours may cross: sorting never makes the pinball loss worse
                # (Chernozhukov, Fernández-Val, Galichon 2010).
                for q in range(1, quantiles):
                    moving = offsets[q]
                    k = q - 1
                    while k >= 0 and offsets[k] > moving:
                        offsets[k + 1] = offsets[k]
                        k -= 1
                    offsets[k + 1] = moving
                if row >= 0:
                    mean_out[row, c, h] = anchor[s, c] + mean
                for q in range(quantiles):
                    bits = to_bits(offsets[q])
                    pend_off[s, cell, c, q] = bits
                    if row >= 0:
                        quantile_out[row, c, q, h] = anchor[s, c] + mean + from_bits(bits)
