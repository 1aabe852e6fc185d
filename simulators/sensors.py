"""Machines with several sensors: a common load behind all channels, a daily cycle, inertia, and measurement noise.

x(t) = level + scale · (cycle(t) + coupling · load(t) + own(t)) + measurement noise

`load` and `own` are mean-reverting, so that today's value says something about the next minutes but less and less; the
measurement noise is what makes "no change" a poor forecast of the very next tick.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulators.signal import BLOCK, Values, ar1, names

DEFAULT_CHANNELS = ("temp", "flow", "pressure", "vibration")


@dataclass(frozen=True)
class Sensors:
    """`cycle_steps` is the length of a day in steps; `noise` is the measurement noise in units of a channel's scale."""

    count: int = 20
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    cycle_steps: float = 600.0
    noise: float = 0.25
    seed: int = 0

    @property
    def series(self) -> tuple[str, ...]:
        return names("sensor", self.count)

    def blocks(self) -> Iterator[Values]:
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.count, len(self.channels))
        level = rng.uniform(10.0, 100.0, shape)
        scale = level * rng.uniform(0.02, 0.1, shape)
        phase = rng.uniform(0.0, 2.0 * np.pi, (self.count, 1)) + rng.normal(0.0, 0.3, shape)
        swing = rng.uniform(0.8, 1.6, shape)
        second = rng.uniform(0.1, 0.5, shape)
        coupling = rng.uniform(0.4, 1.0, shape) * rng.choice([-1.0, 1.0], shape)
        load_state, own_state = np.zeros((self.count, 1)), np.zeros(shape)
        phi_load, phi_own = np.full((self.count, 1), 0.97), np.full(shape, 0.9)
        step = 0
        while True:
            t = np.arange(step, step + BLOCK)
            angle = 2.0 * np.pi * t / self.cycle_steps
            cycle = swing[..., None] * np.sin(angle + phase[..., None])
            cycle += second[..., None] * np.sin(2.0 * angle + 1.7 * phase[..., None])
            load, load_state = ar1(rng, load_state, phi_load, np.full((self.count, 1), 0.25), BLOCK)
            own, own_state = ar1(rng, own_state, phi_own, np.full(shape, 0.2), BLOCK)
            noise = self.noise * rng.standard_normal((*shape, BLOCK))
            x = level[..., None] + scale[..., None] * (cycle + coupling[..., None] * load + own + noise)
            yield x.transpose(0, 2, 1)  # [series, step, channel]
            step += BLOCK
