"""From frames to network inputs: online scaling per series and channel, differences to the last value, Δt, calendar.

A recurrent cell on raw levels loses to persistence. What it is shown instead, per channel, is

    u = (x − last seen) / (scale · √steps since)      the newest move in units of the usual move
    z = (x − level) / spread                          where the value stands in its longer history

`scale` is the root of a decayed mean of squared moves, `level` and `spread` a decayed mean and standard deviation.
All are used before they are updated with x (score before learn) and start as plain averages, so that the first values
count fully. A spike is clipped before it enters the scale: one outlier must not make everything after it look small.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import F32, F64, I32, I64

# A move or a deviation is shown up to this many units; beyond, the network learns nothing but that it was large.
CLIP = 8.0
# A squared move enters the scale as at most this many times the present square (5² ≈ 5 σ).
SPIKE = 25.0
# Below this share of the level a scale is rounding noise of the sender, not movement.
FLOOR = 1e-7


@compiled
def _clip(x: float) -> float:
    return min(max(x, -CLIP), CLIP)


@compiled
def unit_of(scale2: float, value: float, seen: int) -> float:
    """The scale in the channel's own unit; never 0. Before a second value there is none: a tenth of the value."""
    if seen < 2:
        return max(0.1 * abs(value), 1e-3)
    return max(float(np.sqrt(scale2)), FLOOR * abs(value) + 1e-12)


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
    spread2: F32,
    scale2: F32,
    seen: I32,
    since: F32,
    prev_step: I64,
    dt_mean: F32,
    steps: I64,
    inputs: F32,
    base: F64,
    scale: F32,
    age: F32,
    number: I64,
    pace: F32,
) -> None:
    """Walks frames in (series, time) order, updating each series' scaling and writing what the network sees.

    Frame arrays are [frame], `values` [frame, channel]; state arrays are [row] or [row, channel]. Written:
    `inputs` [frame, F] (NaN where a channel is missing), `base` [frame, channel] the last seen value, `scale`
    [frame, channel], `age` [frame, channel] steps since last seen, `number` [frame] the series' count of steps so far, `pace`
    [frame] the usual distance of irregular steps. `ts` and the periods in `calendar` are in one unit.
    """
    channels = values.shape[1]
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
            if np.isnan(x):
                inputs[i, c] = np.nan
                inputs[i, channels + c] = np.nan
                if seen[s, c] > 0:
                    since[s, c] += np.float32(delta)
            else:
                n = seen[s, c]
                if n == 0:
                    inputs[i, c] = 0.0
                    inputs[i, channels + c] = 0.0
                    level[s, c] = x
                else:
                    steps_since = np.float64(since[s, c]) + delta
                    move = (x - last[s, c]) / np.sqrt(max(steps_since, 1e-3))
                    unit = unit_of(scale2[s, c], last[s, c], n)
                    deviation = x - level[s, c]
                    spread = max(np.sqrt(np.float64(spread2[s, c])), unit)
                    inputs[i, c] = np.float32(_clip(move / unit))
                    inputs[i, channels + c] = np.float32(_clip(deviation / spread))
                    squared = move * move
                    if n > 8:
                        squared = min(squared, SPIKE * unit * unit)
                        deviation = min(max(deviation, -CLIP * spread), CLIP * spread)
                    share = max(1.0 / np.float64(n), 1.0 - scale_decay)
                    scale2[s, c] = np.float32(scale2[s, c] + share * (squared - scale2[s, c]))
                    share = max(1.0 / np.float64(n + 1), 1.0 - level_decay)
                    level[s, c] += share * deviation
                    spread2[s, c] = np.float32(
                        (1.0 - share) * (np.float64(spread2[s, c]) + share * deviation * deviation)
                    )
                last[s, c] = x
                since[s, c] = 0.0
                seen[s, c] = min(n + 1, 1 << 30)
            base[i, c] = last[s, c] if seen[s, c] > 0 else np.nan
            scale[i, c] = np.float32(unit_of(scale2[s, c], last[s, c], seen[s, c]))
            age[i, c] = since[s, c]
        column = 2 * channels
        inputs[i, column] = np.float32(np.log1p(min(delta, 1e6)))
        for k in range(calendar.shape[0]):
            phase = 2.0 * np.pi * np.float64(ts[i] % calendar[k]) / np.float64(calendar[k])
            inputs[i, column + 1 + 2 * k] = np.float32(np.sin(phase))
            inputs[i, column + 2 + 2 * k] = np.float32(np.cos(phase))
