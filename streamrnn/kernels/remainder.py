"""What the experts' mixture leaves: how large its errors are, what a network is shown of them, and how far it is believed.

The network forecasts the *remaining error* of the mixture at each rung of the horizon, in units of that error's running root
mean square
(boosting on residuals: Friedman, "Greedy function approximation", 2001; a linear and a neural model one after the other: Zhang,
"Time series forecasting using a hybrid ARIMA and neural network model", 2003). One set of weights serves all channels, so what it
is shown (`look`) has no unit: deviations, moves and distances from decayed means in usual ones, matured errors, what each expert
says beyond the mixture, the profile ahead, the calendar, the other channels.

What is emitted is  base + w · s · f : the mixture's move, the network's number f in units of s, and w, what such numbers
have been worth. w is the slope of what came on what the network had said, per channel and rung,

    β_c = (Σ f y + β · `SHRUNK` v) / (Σ f² + `SHRUNK` v),   β = (Σ_c Σ f y) / (Σ_c Σ f² + `DOUBTED` v)

(decayed sums, v forecasts overlapping at a time, y clipped), from 0 to `MOST`, times clip(β / se − ½, 0, 1) with the
standard error se = √(2 v / Σ_c Σ f²) of the slope over all channels: a network that says nothing true says nothing.
A new series has no such sums yet. What the network was worth on steps that it was not trained on, of all series, is its `credit`:
a few forecasts' worth of sums that every series' own are added to (an empirical prior: Efron & Morris 1973).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrnn.kernels import folded, inlined, inner, lean
from streamrnn.kernels.columns import (
    DEVIATIONS,
    LEVELS,
    MOVES,
    PROFILE,
    SEASON_AGO,
    STACK,
    History,
    Real,
    Remainder,
    within,
)
from streamrnn.records import F32, I64

RATE = 0.002  # weight of a frame's squared error in s²
CAP = np.float32(50.0)  # one squared error enters as at most so many usual ones
FIRST = 30
ERROR_MAX = np.float32(8.0)
JUDGED_MAX = np.float32(4.0)
HALF_LIVES = (24.0, 168.0)  # of the decayed means of errors, in frames
ERROR_RATES = tuple(1.0 - 0.5 ** (1.0 / half_life) for half_life in HALF_LIVES)
SHRUNK, DOUBTED, MOST, STANDARD = 30.0, 3.0, 1.2, 0.5
SQUARE_MAX = np.float32(1e30)

CLIP = np.float32(5.0)
SINCE = "since seen"  # the input that says how long ago the channel was seen (log of 1 + steps)
DEVIATION_LAGS, MOVE_LAGS = 6, 4
DISTANT = (1, 2, 3)  # half-lives of the decayed means of x that it is shown
HARMONICS = (3, 2)  # of the first and the second season
BASE_SHARE = np.float32(1.0 / 1.5)


def input_names(
    channels: Sequence[str],
    rungs: Sequence[int],
    experts: Sequence[int],
    seasons: Sequence[str],
    calendar: Sequence[str],
    cross: bool,
) -> list[str]:
    """What each input of the network is, in the order in which `look` writes them; `c` stands for the channel itself."""
    deviating, moving, profiled = DEVIATIONS in experts, MOVES in experts, PROFILE in experts
    names: list[str] = []
    if deviating:
        names += [f"deviation lag {j}" for j in range(DEVIATION_LAGS)]
        names += [f"deviation mean {k}" for k in range(LEVELS)]
    names += [f"move lag {j}" for j in range(MOVE_LAGS)]
    if moving:
        names += [f"distance {k}" for k in DISTANT]
    if profiled:
        names += [f"profile {h}" for h in rungs]
        if SEASON_AGO in experts:
            names += [f"season-ago {h}" for h in rungs]
    names += [f"error {h}" for h in rungs]
    names += [f"error mean {k} {h}" for h in rungs for k in range(len(HALF_LIVES))]
    names += [f"mixture {h}" for h in rungs]
    for name, expert in (("moves", MOVES), ("deviations", DEVIATIONS), ("stack", STACK)):
        if expert in experts:
            names += [f"{name} {h}" for h in rungs]
    for season, harmonics in zip(seasons, HARMONICS, strict=False):
        names += [f"wave {k} of {season}" for k in range(2 * harmonics)]
    names += ["volatility", SINCE, "passed"]
    names += [f"{wave} of {period}" for period in calendar for wave in ("sine", "cosine")]
    if cross and len(channels) > 1:
        for other in channels:
            names += [f"move of {other}", f"is {other}"]
            if deviating:
                names += [f"deviation of {other}"]
    return names


@inlined
def learn(
    r: int, stride: int, count: int, fade: Real, error: Real, said: Real, size: F32, last: F32, means: F32, worth: F32
) -> None:
    """Takes in a base error that matured at rung r, the `count`-th of them, and the number that the network had `said` (NaN:
    none). The arrays are those of `Remainder`, of one channel."""
    usual = size[r]
    squared = min(error * error, SQUARE_MAX)
    if usual > np.float32(0.0):
        z = within(error / np.sqrt(usual), ERROR_MAX)
        last[r] = z
        for k in range(len(HALF_LIVES)):
            rate = np.float32(min(ERROR_RATES[k] * stride, 1.0))
            means[r, k] += rate * (z - means[r, k])
        if said == said:
            said = within(said, CLIP)
            worth[r, 0] = fade * worth[r, 0] + said * within(z, JUDGED_MAX)
            worth[r, 1] = fade * worth[r, 1] + said * said
        if count > FIRST:
            squared = min(squared, CAP * usual)
    rate = np.float32(max(min(RATE * stride, 1.0), 1.0 / max(count, 1)))
    size[r] = usual + rate * (squared - usual)


@inlined
def believed(r: int, cells: int, credit: F32, worth: F32, out: F32) -> None:
    """`out` [channel, rung] ← how far what the network says of rung r is believed.

    `worth` [channel, rung, (Σ f y, Σ f²)], `credit` [(Σ f y, Σ f²)]; `cells`: forecasts of the rung that overlap.
    """
    v = np.float32(cells)
    channels = worth.shape[0]
    came, moved = credit[0] * v, credit[1] * v
    for c in range(channels):
        came += worth[c, r, 0]
        moved += worth[c, r, 1]
    slope = came / (moved + np.float32(DOUBTED) * v)
    sure = np.float32(0.0)
    if slope > np.float32(0.0):
        error = np.sqrt(np.float32(2.0) * v / moved)
        sure = min(max(slope / error - np.float32(STANDARD), np.float32(0.0)), np.float32(1.0))
    shrunk = np.float32(SHRUNK) * v
    for c in range(channels):
        beta = (worth[c, r, 0] + slope * shrunk) / (worth[c, r, 1] + shrunk)
        out[c, r] = min(max(beta, np.float32(0.0)), np.float32(MOST)) * sure


@folded
def _share(size: Real) -> Real:
    """1 / √size, 0 where nothing is known."""
    return np.float32(1.0) / np.sqrt(size) if size > np.float32(0.0) else np.float32(0.0)


@lean
def waves(phases: F32, cells: I64, out: F32) -> None:
    """`out` ← sine and cosine of the seasons' phases and their multiples, for all channels of a frame."""
    k = 0
    for season in range(cells.shape[0]):
        for q in range(HARMONICS[season]):
            angle = 2.0 * np.pi * (q + 1) * np.float64(phases[season]) / cells[season]
            out[k] = np.float32(np.sin(angle))
            out[k + 1] = np.float32(np.cos(angle))
            k += 2


@inner
def look(
    c: int,
    n: int,
    here: int,
    age: Real,
    volatility: Real,
    place: I64,
    cross: bool,
    h: I64,
    history: History,
    sizes: F32,
    errors: Remainder,
    wave: F32,
    moment: F32,
    foreseen: F32,
    base: F32,
    seen: F32,
) -> None:
    """`seen` [input] ← what a network is shown of channel c at frame n (see `input_names`), no further than `CLIP` from 0.

    `sizes` [channel, rung]: mean squares of moves; `foreseen` [expert, horizon] and `base` [horizon]: moves.
    """
    length, rungs, channels = history.x.shape[1], h.shape[0], history.x.shape[0]
    deviating = place[DEVIATIONS] >= 0
    ring = history.deviation.shape[1]
    at = n % ring if deviating else 0
    of_move = _share(sizes[c, 0])
    k = 0
    if deviating:
        r = history.deviation[c]
        of_deviation = _share(history.sizes[c, 1])
        for j in range(DEVIATION_LAGS):
            before = at - j if at >= j else at - j + ring
            seen[k + j] = within(r[before] * of_deviation, CLIP)
        k += DEVIATION_LAGS
        for level in range(LEVELS):
            seen[k + level] = within((history.deviation_means[c, 0, level] - r[at]) * of_deviation, CLIP)
        k += LEVELS
    x = history.x[c]
    for j in range(MOVE_LAGS):
        new = here - j if here >= j else here - j + length
        old = new - 1 if new >= 1 else length - 1
        seen[k + j] = within((x[new] - x[old]) * of_move, CLIP)
    k += MOVE_LAGS
    if place[MOVES] >= 0:
        share = _share(history.sizes[c, 2])
        for j in range(len(DISTANT)):
            seen[k + j] = within((history.means[c, 0, DISTANT[j]] - x[here]) * share, CLIP)
        k += len(DISTANT)
    if place[PROFILE] >= 0:
        of_r = _share(history.sizes[c, 1])
        for j in range(rungs):
            seen[k + j] = within(foreseen[PROFILE, h[j] - 1] * of_r, CLIP)
        k += rungs
        if place[SEASON_AGO] >= 0:
            for j in range(rungs):
                apart = foreseen[SEASON_AGO, h[j] - 1] - foreseen[PROFILE, h[j] - 1]
                seen[k + j] = within(apart * of_r, CLIP)
            k += rungs
    for j in range(rungs):
        seen[k + j] = within(errors.last[c, j], CLIP)
    k += rungs
    for j in range(rungs):
        for q in range(len(HALF_LIVES)):
            seen[k] = within(errors.means[c, j, q], CLIP)
            k += 1
    for j in range(rungs):
        share = _share(errors.size[c, j])
        seen[k + j] = within(base[h[j] - 1] * share * BASE_SHARE, CLIP)
    k += rungs
    for expert in (MOVES, DEVIATIONS, STACK):
        if place[expert] >= 0:
            for j in range(rungs):
                share = np.float32(1.5) * _share(errors.size[c, j])
                seen[k + j] = within((foreseen[expert, h[j] - 1] - base[h[j] - 1]) * share, CLIP)
            k += rungs
    for j in range(wave.shape[0]):
        seen[k + j] = wave[j]
    k += wave.shape[0]
    seen[k] = within(volatility, CLIP)
    seen[k + 1] = within(np.float32(np.log1p(np.float64(age))), CLIP)
    k += 2
    for j in range(moment.shape[0]):
        seen[k + j] = within(moment[j], CLIP)
    k += moment.shape[0]
    if cross and channels > 1:
        old = here - 1 if here >= 1 else length - 1
        for other in range(channels):
            moved = history.x[other, here] - history.x[other, old]
            seen[k] = within(moved * _share(sizes[other, 0]), CLIP)
            seen[k + 1] = np.float32(1.0) if other == c else np.float32(0.0)
            k += 2
            if deviating:
                seen[k] = within(history.deviation[other, at] * _share(history.sizes[other, 1]), CLIP)
                k += 1
