"""What is missing is filled from the past and from the other channels of the same frame.

A channel's one-step error is its value minus the mixture's move one step ahead (before the guard, which would flatten the
season in long gaps). Errors, in units of their running root mean squares, have a second moment over the channels. A missing
channel is filled with its forecast plus what the errors of those that came say of its own (the conditional mean of a
Gaussian), and enters the moment with its conditional mean and variance (the E step of EM: Dempster, Laird, Rubin, 1977;
Little & Rubin, "Statistical analysis with missing data", ch. 11), so it is a mean of matrices that are positive
semidefinite and stays one. What an older version left is mended where it is found not to be.

Fills go into the rings: the next forecast is made from them. A fill lies no further out than the channel has ever been. A
channel that was at its highest or lowest when it was last seen, and is there for the first time, may have moved on since: so
do counters and prices. Where it has been before is its end: no rain is below 0.

Intervals of fills are those of a forecast as long as the gap, narrower by what the other channels explain, and wider by two
numbers that are tracked as quantiles are: one for the first step of a gap (every frame one channel that came is taken for
missing, by turns), one for the gap's length (a channel that comes back shows what the fill of that very step would have
missed).
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import inlined, inner
from streamrnn.kernels.columns import LEVELS, Filling, Frames, Real
from streamrnn.kernels.features import REST
from streamrnn.kernels.intervals import both
from streamrnn.kernels.rowviews import Shape, series_row
from streamrnn.kernels.scratch import Given, scratch_at, settings_at
from streamrnn.records import F32, F64, I64, Bool

SHARE = 0.002  # weight of the newest frame in the second moment
ERROR_SHARE, ERROR_CAP = 0.01, 25.0
YOUNG_CAP = 100.0  # of squared scales: while a channel is young
SWING_SHARE = 0.002
LEAST = 0.05  # of a step's variance that the others never explain
DOUBT_MAX = 1e6
RIDGE = 0.02
CLIP = 6.0  # in root mean squares: what a one-step error enters the moment with, and moves a fill by, at most
# Fills reach wider by so much more or less at each test.
FILL_RATE, FILL_WIDTH_MAX = 0.05, 1.5
SAME = np.float32(1e-6)  # ends are the same to so many digits
LONGEST_GAP = 1e6  # in steps: a gap is no longer than this, whatever a foreign record says
FURTHER = 4  # moves beyond what it has shown that a missing channel may have made, at most one a step
TESTED = 4096  # frames since anything was missing for which widths are tested


@inner
def _factored(covariance: F32, known: I64, n: int, noise: F64, factor: F64) -> bool:
    """Writes the Cholesky factor of the block of `known` channels plus the ridge and their `noise` [channel] into `factor`;
    whether there is one."""
    for a in range(n):
        for b in range(a + 1):
            total = np.float64(covariance[known[a], known[b]])
            if a == b:
                total += RIDGE + noise[known[a]]
            for k in range(b):
                total -= factor[a, k] * factor[b, k]
            if a == b:
                if not total >= 0.5 * RIDGE:
                    return False
                factor[a, a] = np.sqrt(total)
            else:
                factor[a, b] = total / factor[b, b]
    return True


@inner
def _solved(known: I64, n: int, residual: F64, factor: F64, solved: F64) -> None:
    """The residuals of the `known` channels, made independent of each other by the factor of their covariance."""
    for a in range(n):
        total = residual[known[a]]
        for k in range(a):
            total -= factor[a, k] * solved[k]
        solved[a] = total / factor[a, a]


@inner
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


@inlined
def _share(variance: float, total: float) -> float:
    """How much of a channel's variance is explained, between 0 and 1."""
    return min(max(variance / total, 0.0), 1.0) if total > 0.0 else 0.0


@inner
def _mend(covariance: F32, everyone: I64, none: F64, factor: F64) -> None:
    """Makes a matrix that is no covariance one: what is between the channels is halved until it is."""
    channels = covariance.shape[0]
    for c in range(channels):
        covariance[c, c] = min(max(covariance[c, c], np.float32(0.0)), np.float32(CLIP**2))
    for turn in range(8):
        share = 0.5 if turn < 7 else 0.0
        for a in range(channels):
            for b in range(channels):
                if a != b:
                    covariance[a, b] = np.float32(share * covariance[a, b])
        if _factored(covariance, everyone, channels, none, factor):
            return


@inlined
def lasting(swing: float, sigma: float) -> float:
    """The share of a fill's squared error that is still there a step later.

    What comes back to what is usual does so in a gap, too: nothing lies further off than the root of `swing` in the long run,
    so 1 − σ² / swing of it lasts, with σ of one-step errors. Of a walk everything does.
    """
    return min(max(1.0 - sigma * sigma / swing, 0.0), 1.0) if swing > 0.0 else 1.0


@inner
def prepare(address: int, shape: Shape, given: Given) -> None:
    """What fills and their tests need as it was before the frame's values were looked at.

    `noise` [channel] ← what lasts of the last fill's variance, in squares of one-step errors, 0 where the value came; `bounds`
    [channel, 2] ← the outer offsets of one step, in the channel's own numbers.
    """
    state, scratch, tracking = series_row(address, shape), scratch_at(given, shape), settings_at(given, shape).tracking
    history, calibration, filling = state.history, state.calibration, state.filling
    noise, bounds = scratch.noise, scratch.bounds
    last = tracking.level.shape[0] - 1
    for c in range(noise.shape[0]):
        sigma, theta = np.float64(calibration.sigma[c, 0]), calibration.theta[c, 0]
        doubt, unit = np.float64(filling.doubt[c]), np.float64(history.unit[c])
        noise[c] = 0.0
        if doubt > 0.0:
            noise[c] = doubt * lasting(np.float64(filling.swing[c]) * unit * unit, sigma)
        # Within a gap it is long ago what the last moves were like.
        wide = sigma if doubt > 0.0 else both(1, sigma, calibration.quick[c])
        a = (tracking.normal[0] + np.float64(theta[0])) * wide
        b = (tracking.normal[last] + np.float64(theta[last])) * wide
        bounds[c, 0], bounds[c, 1] = min(a, b), max(a, b)


@inlined
def _step(explained: float, width: float) -> float:
    """What one step adds to a fill's variance, in squares of one-step errors: what others do not explain, and wider by as much
    as that is wrong. Where they explain nothing it is a forecast's, which is right already."""
    return float(max(1.0 - explained, LEAST) * np.exp(2.0 * width * explained))


@inner
def _interval(
    c: int, gap: int, variance: float, explained: float, bounds: F64, filling: Filling
) -> tuple[float, float]:
    """(lower, upper) bounds of a fill from its center, in the channel's own numbers.

    `variance` of the fill, in squares of one-step errors; `explained`: the share of the newest of these that others explain.
    """
    lower, upper = bounds[c, 0], bounds[c, 1]
    # What the others explain of the move is in the center already, so the interval lies around that.
    middle = explained * (lower + upper) / 2.0
    wide = np.sqrt(variance) * np.float64(gap) ** np.float64(filling.width[c, 1])
    return min((lower - middle) * wide, 0.0), max((upper - middle) * wide, 0.0)


@inlined
def note_end(c: int, k: int, near: Real, filling: Filling) -> None:
    """Takes in whether a value, from the anchor, is the channel's lowest (k = 0) or highest (k = 1), and was before."""
    end = filling.reach[c, k]
    beyond = end - near if k == 0 else near - end
    # What was said from another anchor is not the same to the last digit. NaN: it has no end yet.
    if not beyond <= SAME * abs(end):
        filling.reach[c, k] = near
        filling.ends[c, k] = 0
    elif beyond >= -SAME * abs(end):
        filling.ends[c, k] = min(filling.ends[c, k] + 1, 255)


@inlined
def _end(c: int, k: int, x: Real, further: float, unit: float, filling: Filling) -> float:
    """How far out a fill may lie, in units, after the value `x`."""
    end, sign = np.float64(filling.reach[c, k]) / unit, 2.0 * k - 1.0
    goes_on = filling.ends[c, k] == 0 and sign * (np.float64(x) - end) >= 0.0
    return float(end + sign * further / unit) if goes_on else float(end)


@inner
def fill(
    i: int,
    frames: Frames,
    address: int,
    shape: Shape,
    given: Given,
    value_out: F64,
    lower_out: F64,
    upper_out: F64,
    filled_out: Bool,
) -> None:
    """Fills `Scratch.x` where nothing came, writes fills to their outputs, and learns from what came."""
    state, scratch, levels = (
        series_row(address, shape),
        scratch_at(given, shape),
        settings_at(given, shape).tracking.level,
    )
    history, pending, filling = state.history, state.pending, state.filling
    x, came, seen, residual, left, part = (
        scratch.x,
        scratch.came,
        scratch.seen,
        scratch.residual,
        scratch.left,
        scratch.part,
    )
    factor, solved, explained, shifts, apart = (
        scratch.joint,
        scratch.solved,
        scratch.explained,
        scratch.shifts,
        scratch.apart,
    )
    noise, bounds, none, known, missing = scratch.noise, scratch.bounds, scratch.none, scratch.known, scratch.missing
    but, everyone = scratch.but, scratch.everyone
    n = frames.number[i]
    row = frames.fill_row[i]
    channels = x.shape[0]
    length = history.x.shape[1]
    before = (n - 1) % length
    covariance = filling.covariance
    correlated = covariance.shape[0] > 0
    ring = history.deviation.shape[1]
    others, absent = 0, 0
    for c in range(channels):
        residual[c] = np.nan
        explained[c] = 0.0
        if seen[c] == 0:
            continue
        if not came[c]:
            missing[absent] = c
            absent += 1
        elif n > history.born[c]:
            usual = np.float64(filling.error[c])
            if usual > 0.0:
                error = np.float64(x[c] - (history.x[c, before] + pending.next[c]))
                residual[c] = min(max(error / np.sqrt(usual), -CLIP), CLIP)
                known[others] = c
                others += 1
    if absent > 0:
        filling.missed[0] = n
    joint = correlated and others > 0
    if joint and absent > 0:
        if not _factored(covariance, known, others, none, factor):
            _mend(covariance, everyone, none, factor)
            _factored(covariance, known, others, none, factor)
        _solved(known, others, residual, factor, solved)
        for m in range(absent):
            c = missing[m]
            shift, variance = _explained(covariance, c, known, others, factor, solved, part[m])
            residual[c] = min(max(shift, -CLIP), CLIP)
            explained[c] = _share(variance, np.float64(covariance[c, c]))
            for k in range(m + 1):
                total = np.float64(covariance[c, missing[k]])
                for a in range(others):
                    total -= part[m, a] * part[k, a]
                left[m, k] = total
            left[m, m] = max(left[m, m], 0.0)
            shifts[m] = residual[c]
        returning = False
        for a in range(others):
            returning = returning or noise[known[a]] > 0.0
        if returning and _factored(covariance, known, others, noise, factor):
            # A channel that comes back shows the error of a whole gap: that is much for one that was missing with it, and
            # little for one that is missing for the first time.
            _solved(known, others, residual, factor, solved)
            for m in range(absent):
                c = missing[m]
                if noise[c] == 0.0:
                    shift, variance = _explained(covariance, c, known, others, factor, solved, apart)
                    shifts[m] = min(max(shift, -CLIP), CLIP)
                    explained[c] = _share(variance, np.float64(covariance[c, c]))
    for m in range(absent):
        c = missing[m]
        unit = np.float64(history.unit[c])
        value: float = np.float64(history.x[c, before])
        if n > history.unbroken[0]:
            value += np.float64(pending.next[c])
        if joint:
            value += shifts[m] * np.sqrt(np.float64(filling.error[c]))
        gap = int(np.rint(min(max(np.float64(frames.age[i, c]), 1.0), LONGEST_GAP)))
        further = min(gap, FURTHER) * np.float64(frames.scale[i, c])
        if filling.reach[c, 0] <= filling.reach[c, 1] and unit > 0.0:
            last = history.x[c, before]
            low, high = _end(c, 0, last, further, unit, filling), _end(c, 1, last, further, unit, filling)
            value = min(max(value, low), high)
        x[c] = np.float32(value)
        variance = noise[c] + _step(explained[c], np.float64(filling.width[c, 0]))
        if row >= 0:
            lower, upper = _interval(c, gap, variance, explained[c], bounds, filling)
            center = history.anchor[c] + np.float64(x[c]) * unit
            filled_out[row, c] = True
            value_out[row, c] = center
            lower_out[row, c] = center + lower
            upper_out[row, c] = center + upper
        filling.doubt[c] = np.float32(min(variance, DOUBT_MAX))
    if n - filling.missed[0] < TESTED and filling.missed[0] >= 0:
        turn = n % others if others > 0 else 0
        for one in range(others):
            c = known[one]
            returns = frames.age_before[i, c] > 0.0
            if not (returns or one == turn) or frames.rest[i, c] > REST or not frames.scale[i, c] > 0.0:
                continue
            shift, share = 0.0, 0.0
            if joint and others > 1:
                rest_of = 0
                for a in range(others):
                    # Not of those that were missing with it: within the gap they had nothing to say.
                    if known[a] != c and not (returns and noise[known[a]] > 0.0):
                        but[rest_of] = known[a]
                        rest_of += 1
                if rest_of > 0 and _factored(covariance, but, rest_of, noise, factor):
                    _solved(but, rest_of, residual, factor, solved)
                    shift, variance = _explained(covariance, c, but, rest_of, factor, solved, apart)
                    shift = min(max(shift, -CLIP), CLIP)
                    share = _share(variance, np.float64(covariance[c, c]))
            gap = int(np.rint(min(np.float64(frames.age_before[i, c]) + 1.0, LONGEST_GAP)))
            variance = noise[c] + _step(share, np.float64(filling.width[c, 0]))
            lower, upper = _interval(c, gap, variance, share, bounds, filling)
            foreseen = history.x[c, before] + pending.next[c] + shift * np.sqrt(filling.error[c])
            error = (np.float64(x[c]) - foreseen) * np.float64(history.unit[c])
            missed = 0.0 if lower <= error <= upper else 1.0
            which = 0 if gap == 1 else 1
            by = FILL_RATE * (missed - 1.0 + levels[len(levels) - 1] - levels[0])
            by *= share if which == 0 else 1.0 / max(np.log(np.float64(gap)), 1.0)
            moved = np.float64(filling.width[c, which]) + by
            filling.width[c, which] = np.float32(min(max(moved, -FILL_WIDTH_MAX), FILL_WIDTH_MAX))
    for c in range(channels):
        if seen[c] == 0 or not came[c] or n <= history.born[c]:
            continue
        error = np.float64(x[c] - (history.x[c, before] + pending.next[c]))
        usual, age = np.float64(filling.error[c]), n - history.born[c]
        squared = error * error
        most: Real = np.float64(frames.scale[i, c]) / np.float64(history.unit[c]) if history.unit[c] > 0.0 else 0.0
        if age > 60 and usual > 0.0:
            squared = min(squared, ERROR_CAP * usual)
        else:
            squared = min(squared, YOUNG_CAP * most * most)
        filling.error[c] = np.float32(usual + max(ERROR_SHARE, 1.0 / age) * (squared - usual))
        if filling.doubt[c] == 0.0:
            # How far the values lie from what is usual at this time: the last one's, whose deviation is known by now.
            away = np.float64(history.deviation[c, (n - 1) % ring] if ring > 0 else 0.0)
            if ring == 0 and history.means.shape[2] > 0:
                away = np.float64(history.x[c, before] - history.means[c, 0, LEVELS - 1])
            swing = np.float64(filling.swing[c])
            squared = away * away
            if age > 60 and swing > 0.0:
                squared = min(squared, ERROR_CAP * swing)
            filling.swing[c] = np.float32(swing + max(SWING_SHARE, 1.0 / age) * (squared - swing))
        filling.doubt[c] = np.float32(0.0)
    if joint:
        oldest = n
        for c in range(channels):
            if seen[c] > 0:
                oldest = min(oldest, history.born[c])
        share = max(SHARE, 1.0 / max(n - oldest, 1))
        # All of it is moved, or it would be no covariance: what has shown no error yet has one of 0.
        for a in range(channels):
            if np.isnan(residual[a]):
                residual[a] = 0.0
        for a in range(channels):
            for b in range(channels):
                product = residual[a] * residual[b]
                covariance[a, b] += np.float32(share * (product - covariance[a, b]))
        for m in range(absent):
            for k in range(m + 1):
                covariance[missing[m], missing[k]] += np.float32(share * left[m, k])
                if k < m:
                    covariance[missing[k], missing[m]] = covariance[missing[m], missing[k]]
