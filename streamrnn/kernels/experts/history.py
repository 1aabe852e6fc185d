"""What a channel was: rings of values, the profile of its season, decayed means, sizes. All experts look at it.

The profile is a running value per phase of the season (bins of the day, days of the week, types of day),

    s[φ] ← s[φ] + a · (x − s[φ]),   a = max(`PROFILE_RATE`, 1 / (visits + 1))

a spike moves it by no more than `SPIKE` usual deviations. Where a step is less than a bin, the value between two bins is a
line, and both are moved by their share. What is left, r = x − s, is what the experts of deviations see.

The second season lies on top of the first: a profile of r, believed as far as it has explained r lately (`week`: the energy
of r, what the second profile explained of it, and their product, decayed over some weeks).

Means and sizes start as plain averages; what enters them is bounded by what was usual, so that one absurd value cannot be
seen in them for long. A second copy of the means runs a horizon later: the features that a label belongs to can be rebuilt
from the rings, and none is ever stored.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import folded, inlined, inner
from streamrnn.kernels.columns import HALF_LIVES, LEVELS, Filling, History, Real, Seasons, within
from streamrnn.records import F32, I64, U16, Bool

PROFILE_RATE = 0.1
WEEK_RATE = 0.2
SPIKE = 8.0
SIZE_RATE = 0.005
SIZE_CAP = 25.0
# So many frames are averaged before anything is bounded by what was usual.
FIRST = 30
# The unit fits while the scale is within these shares of it: beyond, squares of squares are no float32.
UNIT_LOW, UNIT_HIGH = 2.0**-24, 2.0**24
# Before the channel has shown how it moves, its unit is a guess.
YOUNG, GUESS_LOW, GUESS_HIGH = 48, 2.0**-8, 2.0**8
X_MAX = np.float32(2.0**28)
# What lies farther from the anchor than this many scales has lost the digits that its moves are in (float32 has 24 bits). Scales
# are counted from a billionth of the unit, where the channel begins anew, to where `X_MAX` is still far.
ANCHOR_REACH, ANCHOR_FINEST, ANCHOR_COARSEST = 4096.0, 2.0**-30, 2.0**12
RATES = 1.0 - 0.5 ** (1.0 / np.array(HALF_LIVES))
WEEK_LOW, WEEK_WIDTH = 0.1, 0.2


@inner
def power_of_two(x: float) -> Real:
    """The power of two nearest to x > 0."""
    return np.float32(2.0 ** np.rint(np.log2(x)))


@inlined
def is_known(history: History, c: int, at: int) -> bool:
    """Whether the value in this place of the ring came (it is a fill otherwise)."""
    return bool((history.known[c, at >> 3] >> (at & 7)) & 1)


@inner
def forgotten(c: int, n: int, history: History) -> None:
    """Begins a channel's history with frame n."""
    history.born[c] = n
    history.unit[c] = 0.0
    history.x[c] = 0.0
    history.known[c] = 0
    history.deviation[c] = 0.0
    history.profile[c] = 0.0
    history.visits[c] = 0
    history.means[c] = 0.0
    history.deviation_means[c] = 0.0
    history.sizes[c] = 0.0
    history.week[c] = 0.0


@inner
def fits(c: int, n: int, scale: float, moving: bool, history: History) -> bool:
    """Whether what is kept of a channel is still of use: its unit fits the present scale."""
    unit = np.float64(history.unit[c])
    if not (unit > 0.0 and scale > 0.0):
        return True
    low, high = UNIT_LOW, UNIT_HIGH
    if n - history.born[c] < YOUNG:
        low, high = GUESS_LOW, GUESS_HIGH
    return bool(scale <= high * unit and (scale >= low * unit or not moving))


@inner
def move_anchor(c: int, to: float, history: History, filling: Filling, seasons: Seasons) -> None:
    """Says everything of a channel from another anchor."""
    shift = to - history.anchor[c]
    history.anchor[c] = to
    for k in range(2):
        filling.reach[c, k] = np.float32(filling.reach[c, k] - shift)
    if not history.unit[c] > 0.0:
        return
    units = np.float32(shift / np.float64(history.unit[c]))
    for k in range(history.x.shape[1]):
        history.x[c, k] = within(history.x[c, k] - units, X_MAX)
    first = seasons.bins[0] if history.profile.shape[1] > 0 else 0
    for k in range(first):
        if history.visits[c, k] > 0:
            history.profile[c, k] = within(history.profile[c, k] - units, X_MAX)
    for k in range(history.means.shape[2]):
        history.means[c, 0, k] -= units
        history.means[c, 1, k] -= units


@folded
def value_at(profile: F32, visits: U16, begin: int, cells: int, place: float) -> Real:
    """A profile's value at a place among its bins: a line between two; NaN where it was never seen.

    `profile`, `visits` [bin] of one channel; the season's `cells` follow each other in a circle, its bins `begin` there.
    """
    low = int(place)
    share = np.float32(place - low)
    high = low + 1 if (low + 1) % cells > 0 else low + 1 - cells
    value = np.float32(np.nan)
    if visits[begin + low] > 0:
        value = profile[begin + low]
    if share > np.float32(0.0) and visits[begin + high] > 0:
        upper = profile[begin + high]
        value = value + share * (upper - value) if value == value else upper
    return value


@folded
def _moved(
    c: int, season: int, place: float, x: Real, by: Real, rate: float, history: History, seasons: Seasons
) -> None:
    """Moves a profile's bins at a place by `by`; a bin that is seen for the first time takes x."""
    low = int(place)
    share = place - low
    begin, cells = seasons.begin[season], seasons.cells[season]
    high = low + 1 if (low + 1) % cells > 0 else low + 1 - cells
    slow = rate * min(1.0, seasons.per_step[season])
    for k in range(2):
        at, weight = (begin + low, 1.0 - share) if k == 0 else (begin + high, share)
        if weight <= 0.0:
            continue
        visits = history.visits[c, at]
        if visits == 0:
            history.profile[c, at] = x
        else:
            history.profile[c, at] += np.float32(max(slow, 1.0 / (visits + 1.0)) * weight) * by
        if visits < 65535:
            history.visits[c, at] = visits + 1


@folded
def _run(means: F32, horizon_ago: int, x: Real, age: int, limit: Real) -> None:
    for k in range(LEVELS):
        rate = np.float32(max(RATES[k], 1.0 / (age + 1.0)))
        means[horizon_ago, k] += rate * within(x - means[horizon_ago, k], limit)


@folded
def believed(week: F32) -> Real:
    """How far the second profile is believed: by the share of the first one's deviations that it has explained, past days of
    which it knew nothing."""
    trust = np.float32(0.0)
    if week[0] > np.float32(0.0) and week[1] > np.float32(0.0) and week[2] > np.float32(0.0):
        # In float64: these are squares, whose product is none in float32.
        explained = np.float64(week[2]) * np.float64(week[2]) / (np.float64(week[0]) * np.float64(week[1]))
        trust = np.float32(min(max((explained - WEEK_LOW) / WEEK_WIDTH, 0.0), 1.0))
        trust *= min(week[2] / week[1], np.float32(1.0))
    return trust


@inlined
def _taken(c: int, n: int, x: Real, came: bool, horizon: int, phases: F32, history: History, seasons: Seasons) -> None:
    age = n - history.born[c]
    length = history.x.shape[1]
    at = n % length
    before = history.x[c, (n - 1) % length]
    x = within(x, X_MAX)
    history.x[c, at] = x
    bit = np.uint8(1 << (at & 7))
    if history.known.shape[1] > 0:
        if came:
            history.known[c, at >> 3] |= bit
        else:
            history.known[c, at >> 3] &= ~bit
    sizes = history.sizes[c]
    if sizes.shape[0] == 0:  # no expert looks at more than the values
        return
    bounded = age > FIRST
    huge = np.float32(np.inf)
    limit_x = np.float32(SPIKE) * np.sqrt(sizes[2]) if bounded else huge
    limit_r = np.float32(SPIKE) * np.sqrt(sizes[1]) if bounded else huge
    r = np.float32(0.0)
    ring = history.deviation.shape[1]
    # "A season ago" needs no profile.
    seasonal = len(seasons.bins) if history.profile.shape[1] > 0 else 0
    if seasonal > 0:
        expected = value_at(
            history.profile[c], history.visits[c], seasons.begin[0], seasons.cells[0], np.float64(phases[0])
        )
        r = x - expected if expected == expected else np.float32(0.0)
        clipped = within(r, limit_r)
        _moved(c, 0, phases[0], x, clipped, PROFILE_RATE, history, seasons)
        if seasonal > 1:
            second = value_at(
                history.profile[c], history.visits[c], seasons.begin[1], seasons.cells[1], np.float64(phases[1])
            )
            if second == second:
                week = history.week[c]
                rate = np.float32(1.0 / (4.0 * seasons.bins[1] / seasons.per_step[1]))
                # Not in the first weeks: a second profile that was seen once repeats the last week's noise.
                if history.visits[c, seasons.begin[1] + int(phases[1])] > 1:
                    week[0] += rate * (clipped * clipped - week[0])
                    week[1] += rate * (second * second - week[1])
                    week[2] += rate * (clipped * second - week[2])
                r -= believed(week) * second
                _moved(c, 1, phases[1], clipped, within(clipped - second, limit_r), WEEK_RATE, history, seasons)
            else:
                _moved(c, 1, phases[1], clipped, np.float32(0.0), WEEK_RATE, history, seasons)
        if ring > 0:
            history.deviation[c, n % ring] = r
    then = age - horizon
    open_then = then <= FIRST
    if history.means.shape[2] > 0:
        _run(history.means[c], 0, x, age, limit_x)
        if then >= 0:
            _run(history.means[c], 1, history.x[c, (n - horizon) % length], then, huge if open_then else limit_x)
    if ring > 0:
        _run(history.deviation_means[c], 0, r, age, limit_r)
        if then >= 0:
            past = history.deviation[c, (n - horizon) % ring]
            _run(history.deviation_means[c], 1, past, then, huge if open_then else limit_r)
    if age > 0:
        rate = np.float32(max(SIZE_RATE, 1.0 / (age + 1.0)))
        slowest = history.means[c, 0, LEVELS - 1] if history.means.shape[2] > 0 else x
        for k in range(3):
            v = x - before
            if k == 1:
                v = r
            elif k == 2:
                v = slowest - x
            squared, usual = v * v, sizes[k]
            if bounded and squared > np.float32(SIZE_CAP) * usual and usual > 0.0:
                squared = np.float32(SIZE_CAP) * usual
            sizes[k] = usual + rate * (squared - usual) if usual > 0.0 else squared


@inner
def take_in(
    n: int, values: F32, came: Bool, seen: I64, horizon: int, phases: F32, history: History, seasons: Seasons
) -> None:
    """Takes the values [channel] of frame n in, those that came and fills. `phases` [season]: where its bins are."""
    for c in range(values.shape[0]):
        if seen[c] > 0:
            _taken(c, n, values[c], came[c], horizon, phases, history, seasons)
