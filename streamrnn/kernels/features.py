"""Online scaling per series and channel: how far a channel usually moves, where it stands; Δt, calendar.

`scale` is the root of a decayed mean of squared moves, `level` and `spread` a decayed mean and standard deviation.
All are used before they are updated with x (score before learn) and start as plain averages, so that the first values
count fully. A spike is clipped before it enters the scale: one outlier must not make everything after it look small.
Several in a row are no spike: then the channel moves otherwise than before, and the average begins anew.

A standstill. A channel whose value has not changed for `REST` observations stands still, and `move_scale` is put back to
what it was when the channel last moved: only the unit that is used shrinks on, as a decayed mean would. With the first
move the unit is that of the last movement again. The average begins with the first move that a channel
ever makes; before it there is no scale, and the unit is what the sender's rounding allows.

Every bound is relative to what the channel has shown: multiply a channel by any number and its inputs stay the same. So
the roots are kept, not the squares, which float32 could not hold for values of 1e20 or 1e-20.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F32, F64, I8, I32, I64, U8, U16

# A deviation enters the level as at most so many spreads.
CLIP = 8.0
# A squared move enters the scale as at most this many times the present square (5² ≈ 5 σ).
SPIKE = 25.0
# Below this share of the level a scale is rounding noise of the sender, not movement.
FLOOR = 1e-15
# Observations without a move after which a channel stands still.
REST = 24
# The first moves that the average is made of; until then nothing is clipped, and intervals follow them (see forecast).
FRESH = 8
# So many moves in a row beyond the clip are no spikes: a spike has two, there and back; two side by side have three.
JUMP = 4
# So many moves in a row, each this much smaller than the scale, are no chance either.
CALM, CALM_RATIO = 32, 30.0
STILL_MAX = 65535


@compiled
def unit_of(move_scale: float, value: float, seen: int, still: int, shrink: float) -> float:
    """The scale in the channel's own unit. Before a second value there is none: a tenth of the value.

    0 as long as a channel has shown nothing but 0. `still`: observations since the last move; `shrink`: the decay of a
    scale in one of them.
    """
    if seen < 2:
        return 0.1 * abs(value)
    unit = move_scale
    if still > REST:
        unit *= np.exp(np.log(shrink) * still)
    return max(unit, FLOOR * abs(value))


@compiled
def _mean_square(root: float, share: float, squared: float) -> float:
    """The root of a mean square, after `squared` entered it with this share."""
    before = root * root
    return float(np.sqrt(before + share * (squared - before)))


@compiled
def _decayed(fresh: int, decay: float) -> float:
    """What is left of a mean square after `REST` squares of 0, the last of which was the `fresh`-th of all."""
    left = 1.0
    for k in range(max(fresh - REST, 1) + 1, fresh + 1):
        left *= 1.0 - max(1.0 / k, 1.0 - decay)
    return left


@compiled
def observe(
    slot: I32,
    step: I64,
    ts: I64,
    values: F64,
    irregular: bool,
    scale_decay: float,
    level_decay: float,
    calendar: I64,
    last: F64,
    level: F64,
    level_spread: F32,
    move_scale: F32,
    fresh: U8,
    run: I8,
    still: U16,
    seen: I32,
    since: F32,
    prev_step: I64,
    dt_mean: F32,
    steps: I64,
    moment: F32,
    base: F64,
    scale: F32,
    age: F32,
    age_before: F32,
    rest: I32,
    number: I64,
    pace: F32,
) -> None:
    """Walks frames in (series, time) order, updating each series' scaling.

    Frame arrays are [frame], `values` [frame, channel]; state arrays are [row] or [row, channel]. Written:
    `moment` [frame, 1 + 2 · period] log of the steps that passed, sine and cosine of the calendar's periods, `base`
    [frame, channel] the last seen value, `scale` [frame, channel], `age` [frame, channel] steps since last seen,
    `age_before` the same one frame before, `rest` [frame, channel] observations since the channel last moved, or −k at the
    k-th of the `FRESH` moves from which its scale is first known, `number` [frame] the series' count of steps so far, `pace`
    [frame] the usual distance of irregular steps. `ts` and the periods in `calendar` are in one unit.

    State: `move_scale`, the average of `fresh` squares (its root); `run`, moves in a row that do not fit it (negative:
    too small); `still`, observations since the last move.
    """
    channels = values.shape[1]
    shrink = np.sqrt(scale_decay)
    for i in range(slot.shape[0]):
        s = slot[i]
        delta = 1.0
        if steps[s] > 0:
            gap = np.float64(step[i] - prev_step[s])
            if irregular:
                dt = np.float64(dt_mean[s])
                delta = gap / dt if dt > 0.0 else 1.0
                share = max(1.0 / np.float64(steps[s]), 0.02)
                dt_mean[s] = np.float32(dt + share * (gap - dt))
            else:
                delta = gap
        prev_step[s] = step[i]
        pace[i] = dt_mean[s]
        number[i] = steps[s]
        steps[s] += 1
        for c in range(channels):
            x = values[i, c]
            age_before[i, c] = since[s, c]
            if np.isnan(x):
                rest[i, c] = still[s, c]
                if seen[s, c] > 0:
                    since[s, c] += np.float32(delta)
            else:
                n = seen[s, c]
                rest[i, c] = 0
                if n == 0:
                    level[s, c] = x
                else:
                    steps_since = np.float64(since[s, c]) + delta
                    move = (x - last[s, c]) / np.sqrt(max(steps_since, 1e-3))
                    kept = np.float64(move_scale[s, c])
                    unit = unit_of(kept, last[s, c], n, still[s, c], shrink)
                    deviation = x - level[s, c]
                    spread = max(np.float64(level_spread[s, c]), unit)
                    if move == 0.0:
                        still[s, c] = min(still[s, c] + 1, STILL_MAX)
                        rest[i, c] = still[s, c]
                        if fresh[s, c] > 0 and still[s, c] <= REST:
                            fresh[s, c] = min(fresh[s, c] + 1, 255)
                            share = max(1.0 / np.float64(fresh[s, c]), 1.0 - scale_decay)
                            move_scale[s, c] = np.float32(_mean_square(kept, share, 0.0))
                        elif fresh[s, c] > 0 and still[s, c] == REST + 1:
                            move_scale[s, c] = np.float32(kept / np.sqrt(_decayed(fresh[s, c], scale_decay)))
                            fresh[s, c] = 255 if fresh[s, c] == 255 else max(int(fresh[s, c]) - REST, 1)
                    else:
                        still[s, c] = 0
                        first = fresh[s, c] == 0
                        squared = move * move
                        if fresh[s, c] > FRESH:
                            usual = max(kept, FLOOR * abs(last[s, c]))
                            if squared > SPIKE * usual * usual:
                                run[s, c] = max(run[s, c], 0) + 1
                                squared = SPIKE * usual * usual
                            elif abs(move) * CALM_RATIO < usual:
                                run[s, c] = min(run[s, c], 0) - 1
                            else:
                                run[s, c] = 0
                            if run[s, c] >= JUMP or run[s, c] <= -CALM:
                                run[s, c] = 0
                                fresh[s, c] = 0
                                squared = move * move
                        fresh[s, c] = min(fresh[s, c] + 1, 255)
                        share = max(1.0 / np.float64(fresh[s, c]), 1.0 - scale_decay)
                        move_scale[s, c] = np.float32(_mean_square(kept, share, squared))
                        if fresh[s, c] <= FRESH:
                            rest[i, c] = -1 if first else -max(int(fresh[s, c]), 2)
                    if n > FRESH:
                        spread = max(spread, np.float64(move_scale[s, c]))
                        deviation = min(max(deviation, -CLIP * spread), CLIP * spread)
                    share = max(1.0 / np.float64(n + 1), 1.0 - level_decay)
                    level[s, c] += share * deviation
                    squared = np.float64(level_spread[s, c]) ** 2 + share * deviation * deviation
                    level_spread[s, c] = np.float32(np.sqrt((1.0 - share) * squared))
                last[s, c] = x
                since[s, c] = 0.0
                seen[s, c] = min(n + 1, 1 << 30)
            base[i, c] = last[s, c] if seen[s, c] > 0 else np.nan
            scale[i, c] = np.float32(unit_of(move_scale[s, c], last[s, c], seen[s, c], still[s, c], shrink))
            age[i, c] = since[s, c]
        moment[i, 0] = np.float32(np.log1p(min(delta, 1e6)))
        for k in range(calendar.shape[0]):
            phase = 2.0 * np.pi * np.float64(ts[i] % calendar[k]) / np.float64(calendar[k])
            moment[i, 1 + 2 * k] = np.float32(np.sin(phase))
            moment[i, 2 + 2 * k] = np.float32(np.cos(phase))
