"""Machines with several sensors: common causes behind all channels, a daily cycle, inertia, and measurement noise.

x(t) = level + scale · (cycle(t) + load coupling · load(t − lag) + hunting coupling · hunting(t) + own(t) + noise(t))

`load` (slow) and `hunting` (a control loop that swings and damps) are shared by a machine's channels, `own` belongs to
one. All three return to their mean, so the present says something about the next minutes but less and less; the load
reaches some channels steps later than others; the measurement noise makes "no change" a poor forecast of the next tick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulators.signal import BLOCK, Chunked, Values, names, recurse

DEFAULT_CHANNELS = ("temp", "flow", "pressure", "vibration")

# Per step of one: autoregressive coefficients, and standard deviations in units of a channel's scale.
LOAD_PHI, LOAD_SD = 0.96, 0.5
HUNTING_PERIOD_STEPS, HUNTING_DAMPING, HUNTING_SD = 32.0, 0.985, 0.6
OWN_PHI, OWN_SD = 0.9, 0.2
LAG_STEPS_MAX = 6

HUNTING_PHI = HUNTING_DAMPING * complex(
    math.cos(2.0 * math.pi / HUNTING_PERIOD_STEPS), math.sin(2.0 * math.pi / HUNTING_PERIOD_STEPS)
)


@dataclass(eq=False)
class Sensors(Chunked):
    """`cycle_steps` is the length of a day in steps; `noise` is the measurement noise in units of a channel's scale."""

    count: int = 20
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    cycle_steps: float = 600.0
    noise: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.count, len(self.channels))
        self._level = rng.uniform(10.0, 100.0, shape)[..., None]  # [series, channel, 1]
        self._scale = self._level * rng.uniform(0.02, 0.1, (*shape, 1))
        phase = rng.uniform(0.0, 2.0 * np.pi, (self.count, 1)) + rng.normal(0.0, 0.3, shape)
        swing, second = rng.uniform(0.8, 1.6, shape), rng.uniform(0.1, 0.5, shape)
        # Coefficients of sin, cos of the day and of the half day: [4, series, channel].
        self._waves = np.stack(
            [
                swing * np.cos(phase),
                swing * np.sin(phase),
                second * np.cos(1.7 * phase),
                second * np.sin(1.7 * phase),
            ]
        )
        sign = rng.choice([-1.0, 1.0], (2, *shape))
        coupling = rng.uniform(0.5, 1.0, (2, *shape)) * sign
        self._load, self._hunting = coupling[0][..., None], coupling[1][..., None]
        self._lag = rng.integers(0, LAG_STEPS_MAX + 1, shape)

    @property
    def series(self) -> tuple[str, ...]:
        return names("sensor", self.count)

    def _begin(self) -> Any:
        """Stationary: (the last loads [series, LAG_STEPS_MAX + 1], hunting [series], own [series, channel])."""
        rng = np.random.default_rng([self.seed, 2])
        noise = rng.standard_normal((self.count, LAG_STEPS_MAX + 1)) * LOAD_SD * math.sqrt(1.0 - LOAD_PHI**2)
        load, _ = recurse(noise, rng.standard_normal(self.count) * LOAD_SD, LOAD_PHI)
        hunting = (rng.standard_normal(self.count) + 1j * rng.standard_normal(self.count)) * HUNTING_SD
        return load, hunting, rng.standard_normal((self.count, len(self.channels))) * OWN_SD

    def _chunk(self, index: int, state: Any) -> tuple[Values, Any]:
        past, hunting_state, own_state = state
        rng = np.random.default_rng([self.seed, 3, index])
        shape = (self.count, len(self.channels), BLOCK)
        load_noise = rng.standard_normal((self.count, BLOCK)) * (LOAD_SD * math.sqrt(1.0 - LOAD_PHI**2))
        load, _ = recurse(load_noise, past[:, -1], LOAD_PHI)
        load = np.concatenate([past, load], axis=1)  # [series, LAG_STEPS_MAX + 1 + BLOCK]
        pushes = rng.standard_normal((2, self.count, BLOCK)) * (HUNTING_SD * math.sqrt(1.0 - HUNTING_DAMPING**2))
        hunting, hunting_state = recurse(pushes[0] + 1j * pushes[1], hunting_state, HUNTING_PHI)
        own_noise = rng.standard_normal(shape) * (OWN_SD * math.sqrt(1.0 - OWN_PHI**2))
        own, own_state = recurse(own_noise, own_state, OWN_PHI)

        angle = (2.0 * np.pi / self.cycle_steps) * np.arange(index * BLOCK, (index + 1) * BLOCK)
        clock = np.stack([np.sin(angle), np.cos(angle), np.sin(2.0 * angle), np.cos(2.0 * angle)])  # [4, BLOCK]
        x = np.tensordot(self._waves, clock, axes=(0, 0))  # [series, channel, BLOCK]
        at = LAG_STEPS_MAX + 1 - self._lag[..., None] + np.arange(BLOCK)  # [series, channel, BLOCK]
        x += self._load * load[np.arange(self.count)[:, None, None], at]
        x += self._hunting * hunting.real[:, None, :]
        x += own
        x += self.noise * rng.standard_normal(shape)
        x *= self._scale
        x += self._level
        return x.transpose(0, 2, 1), (load[:, -LAG_STEPS_MAX - 1 :].copy(), hunting_state, own_state)
