"""What the forecasting kernels keep and are given, as NamedTuples of arrays.

State arrays are those of one series (`rowviews`), [channel, ...]: a channel's numbers lie side by side. All of them are
float32 in the channel's own `unit` (a power of two near its scale) from its `anchor` (a value near its present level), unless
said otherwise. What is one number a series is an array of one.

The ladder of horizons. What is learnt, weighed and tracked is so at the rungs 1, 2, 3, 4, 6, 8, 12, 16, ... and the last
horizon; between two rungs it is interpolated. Forecasts that wait for their targets are kept at rungs only, and at long
ones only those of every `stride`-th frame: errors of overlapping stretches hardly differ, and eight of them in a stretch
tell as much. A stride has no divisor in common with a season, or only some hours of the day would be looked at.
Memory and time grow with the logarithm of the horizon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from streamrnn.kernels import folded, inlined
from streamrnn.records import F32, F64, I32, I64, U8, U16

# A float32 or a float64: the kernels mix them, float32 where many stand in a row.
Real: TypeAlias = Any

RUNGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Forecasts of a rung that wait for their targets, at most.
WAITING = 8
# A stride that no season has a divisor in common with is looked for up to here, or half as far again as is wanted; else below:
# the quantiles of a rung that is looked at too seldom are found late.
LONGEST_STRIDE = 7

# Half-lives of the decayed means that experts look at, in steps.
HALF_LIVES = (4.0, 16.0, 64.0, 256.0)
LEVELS = len(HALF_LIVES)

# The experts, as they are numbered everywhere.
PERSISTENCE, SEASON_AGO, PROFILE, MOVES, DEVIATIONS, STACK = range(6)
EXPERTS = 6


class Ladder(NamedTuple):
    """The rungs of a horizon; settled with the stream's settings.

    [rung]: the horizon `h`, and that of the rung below (`lower`, 0 of the first); every how many frames a forecast is kept
    (`stride`), in how many `cells`, from which one on (`begin`); what a discounted loss (`discount`) and slower sums (`fade`)
    keep from one of its forecasts to the next. [horizon]: the `share` of the rung at or above it, beside the one below.
    """

    h: I64
    lower: I64
    stride: I64
    cells: I64
    begin: I64
    discount: F64
    fade: F64
    share: F32


def rungs_of(horizon: int) -> tuple[int, ...]:
    return (*(h for h in RUNGS if h < horizon), horizon)


def strides_of(horizon: int, lags: Sequence[int]) -> list[int]:
    """Every how many frames a rung's forecast is kept; `lags`: the steps of the seasons."""
    found = []
    for h in rungs_of(horizon):
        wanted = -(-h // WAITING) if h > 12 else 1
        apart = (
            [*range(wanted, max(LONGEST_STRIDE, wanted * 3 // 2) + 1), *range(wanted - 1, 0, -1)] if wanted > 1 else [1]
        )
        found.append(next(k for k in apart if all(math.gcd(k, lag) == 1 for lag in lags if lag)))
    return found


def cells_of(horizon: int, lags: Sequence[int]) -> list[int]:
    return [-(-h // stride) for h, stride in zip(rungs_of(horizon), strides_of(horizon, lags), strict=True)]


def ladder_of(horizon: int, lags: Sequence[int], discount: float, fade: float) -> Ladder:
    h: I64 = np.array(rungs_of(horizon), dtype=np.int64)
    stride: I64 = np.array(strides_of(horizon, lags), dtype=np.int64)
    cells: I64 = np.array(cells_of(horizon, lags), dtype=np.int64)
    steps = np.arange(1, horizon + 1)
    above: I64 = np.searchsorted(h, steps).astype(np.int64)
    below = np.maximum(above - 1, 0)
    width = h[above] - h[below]
    share = np.where(width > 0, (steps - h[below]) / np.maximum(width, 1), 1.0)
    return Ladder(
        h,
        np.concatenate([[0], h[:-1]]).astype(np.int64),
        stride,
        cells,
        np.cumsum(cells) - cells,
        np.power(discount, stride).astype(np.float64),
        np.power(fade, stride).astype(np.float64),
        share.astype(np.float32),
    )


class Seasons(NamedTuple):
    """The cycles that a profile is kept of: the first, and a second one on top of it.

    [season]: `bins` of the profile, `cells` that follow each other in a circle (fewer than the bins where there is a profile for
    each of several keys), how many one step moves on (`per_step`), the steps of a season (`lag`, 0: no whole number, so there
    is no "a season ago"), where its bins `begin` in the profile's. `keyed`: the first one's places do not follow each other.
    """

    bins: I64
    cells: I64
    per_step: F64
    lag: I64
    begin: I64
    keyed: bool


class History(NamedTuple):
    """What a channel was: [channel, ...].

    `anchor` (float64) and `unit` of its numbers; the frame it was `born` with (−1: not yet), the frame since which steps
    follow each other (`unbroken`), and the last one's `step`. Rings by the frame's number: its values `x` (a fill where
    none came), one bit each for those that were `known`, its deviations from the profile, `phases` [frame, season].
    `means` [.., (now, a horizon ago), half-life] of x and of the deviations, and `sizes`: decayed mean squares of a move,
    a deviation and a value's distance from its slowest mean.
    """

    anchor: F64
    unit: F32
    born: I64
    unbroken: I64
    step: I64
    x: F32
    known: U8
    deviation: F32
    phases: F32
    profile: F32
    visits: U16
    means: F32
    deviation_means: F32
    sizes: F32
    week: F32


class Regression(NamedTuple):
    """Normal equations of one linear expert: `gram` (packed upper triangle), `right` [rung, feature], `weights` [feature, rung],
    and in `seen` the decayed count of samples and the first two moments of their energy."""

    gram: F32
    right: F32
    weights: F32
    seen: F32


class Mixture(NamedTuple):
    """What the experts are weighed by, [channel, rung, ...].

    `loss` [.., expert in use], their `weight` and in its last place the share of the mixed move that is believed; `size`:
    mean square of h-step moves, `energy` the sums of their squares and fourth powers, `slope` the sums Σ my and Σ m² of the
    mixed move m and what came, y. `stack_*`: normal equations of the stack and its weights.
    """

    loss: F32
    weight: F32
    size: F32
    energy: F32
    slope: F32
    stack_gram: F32
    stack_right: F32
    stack_weight: F32


class Pending(NamedTuple):
    """Forecasts that wait for their targets, [channel, cell, ...]: the emitted `mean` as a move from the value then (NaN:
    none), the mixture's move before its guard (`raw`), the `moves` of the experts and the `offsets` of the levels from the
    mean, as the upper halves of float32. `next` [channel]: the mixture's move one step ahead, before its guard."""

    mean: F32
    raw: U16
    moves: U16
    offsets: U16
    next: F32


class Remainder(NamedTuple):
    """What the mixture leaves, [channel, rung, ...] (`kernels.remainder`): the mean square of its errors (`size`), in units of
    its root the `last` one that matured and their decayed `means` [.., half-life]; what the network's numbers were `worth`
    [.., (Σ f y, Σ f²)]. Of forecasts that wait, as upper halves of float32: what the network `said` [channel, cell] (NaN:
    nothing) and what was `added` for it to the mixture's move."""

    size: F32
    last: F32
    means: F32
    worth: F32
    said: U16
    added: U16


class Calibration(NamedTuple):
    """`sigma` [channel, rung] root mean square of errors, in the channel's own numbers, and of those while it stands still
    (`standing`); of one step's also that of the last few (`quick` [channel, 1]); `theta` [.., level]."""

    sigma: F32
    standing: F32
    quick: F32
    theta: F32


class Filling(NamedTuple):
    """`covariance` [channel, channel] of one-step errors in units of their root mean squares; `error` [channel], their squares;
    the mean square of what lies between a value and what is usual at its time (`swing`), and the variance of the last
    frame's fill in squares of one-step errors (`doubt`, 0: it came);
    the lowest and highest value seen, `reach` [channel, 2] from the anchor in the channel's own numbers, and how often it was
    there again (`ends` [channel, 2], 255 at most); how much wider fills are, `width` [channel, (one step, by the gap's
    length)]; the last frame in which anything was `missed`."""

    covariance: F32
    error: F32
    swing: F32
    doubt: F32
    reach: F32
    width: F32
    missed: I64
    ends: U8


class Plan(NamedTuple):
    """Which experts a stream has: by expert its place among the losses (`place`) and among the moves kept (`kept`), −1: none;
    after how many frames it is believed (`wakes`); those that a stack adds up (`members`)."""

    place: I64
    kept: I64
    wakes: I64
    members: I64
    cross: bool  # the linear experts look at the other channels


class Tracking(NamedTuple):
    """What levels are tracked by; settled with the stream's settings.

    [level]: `level`, its offset in σ where errors are `normal`, how far its θ moves `up` at a miss, how far out in σ a
    quantile can be at the `furthest`, how many times longer than usual steps are at the `most`. `limit` [rung, level]: from
    where on an offset stretches its steps. [rung]: the `root` of h, 1 / h (`per_step`), and what σ² `keeps` at a forecast.
    """

    level: F64
    normal: F64
    up: F64
    furthest: F64
    most: F64
    limit: F64
    root: F64
    per_step: F64
    keeps: F64


RATE = 0.05
SPREAD_SHARE = 0.03  # weight of a frame's squared error in σ²
# An offset may lie this far (in σ) beyond that of normal errors before its steps grow; for levels further out than .05 less.
USUAL = 0.5
# Errors of overlapping stretches wander together, and θ with them: later horizons have this power more room. Beyond `NEAR`
# steps θ swings by what it is moved while nothing of it has matured, and has a share of that on top.
LATER = 0.25
NEAR, SWING = 12.0, 0.6
STRETCH = 8.0


def tracking_of(levels: Sequence[float], ladder: Ladder) -> Tracking:
    level: F64 = np.array(levels, dtype=np.float64)
    normal: F64 = np.array([NormalDist().inv_cdf(q) for q in levels])
    steps = ladder.h.astype(np.float64)
    rare = np.minimum(level, 1.0 - level)  # the rarer of hit and miss
    room = USUAL * np.sqrt(np.minimum(rare / 0.05, 1.0)) * steps[:, None] ** LATER
    return Tracking(
        level,
        normal,
        RATE * level,
        np.maximum(1.0 / np.sqrt(rare) - np.abs(normal), 1.0),
        STRETCH * np.maximum(0.05 / rare, 1.0),
        np.abs(normal) + room + SWING * RATE * np.maximum(ladder.cells - NEAR, 0.0)[:, None],
        np.sqrt(steps),
        1.0 / steps,
        np.power(1.0 - SPREAD_SHARE, ladder.stride).astype(np.float64),
    )


class Frames(NamedTuple):
    """The frames of a batch as the kernels see them, [frame, ...]: see `stream.frontend.Frames`. `out_row`, `fill_row`: the row
    to write outputs to, or −1. `phase` [frame, season] or, for seasons with a key, [frame, 1 + horizon] of one."""

    slot: I32
    step: I64
    values: F64
    base: F64
    scale: F32
    age: F32
    age_before: F32
    rest: I32
    number: I64
    phase: F64
    moment: F32
    out_row: I64
    fill_row: I64


@inlined
def to_bits(x: Real) -> np.uint16:
    """The upper half of the float32 bit pattern, rounded: 8 bits of mantissa, enough for an interval's half width."""
    return np.uint16(np.uint32(np.float32(x).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16))


@inlined
def from_bits(bits: np.uint16) -> Real:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@folded
def within(x: Real, limit: Real) -> Real:
    """x, no further from 0 than `limit`."""
    return min(max(x, -limit), limit)
