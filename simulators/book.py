"""The two-sine series of Géron, Hands-On Machine Learning (2nd edition), chapter 15: as an array, and as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.signal import BLOCK, Values, names

# The array's series span t = 0..1 in 50-odd steps; the stream goes on at the same pace.
STEPS_PER_UNIT = 50.0


def book_series(batch: int, n_steps: int, seed: int = 42) -> NDArray[np.float32]:
    """The book's training array [batch, n_steps, 1], from numpy's legacy generator so that its numbers come out."""
    legacy = np.random.RandomState(seed)
    f1, f2, o1, o2 = legacy.rand(4, batch, 1)
    t = np.linspace(0.0, 1.0, n_steps)
    series = 0.5 * np.sin((t - o1) * (f1 * 10.0 + 10.0))
    series += 0.2 * np.sin((t - o2) * (f2 * 20.0 + 20.0))
    series += 0.1 * (legacy.rand(batch, n_steps) - 0.5)
    shaped: NDArray[np.float32] = series[..., np.newaxis].astype(np.float32)
    return shaped


@dataclass(frozen=True)
class Book:
    count: int = 20
    channels: tuple[str, ...] = ("value",)
    seed: int = 0

    @property
    def series(self) -> tuple[str, ...]:
        return names("book", self.count)

    def blocks(self) -> Iterator[Values]:
        rng = np.random.default_rng([self.seed, 3])
        f1, f2, o1, o2 = rng.random((4, self.count, 1))
        step = 0
        while True:
            t = np.arange(step, step + BLOCK) / STEPS_PER_UNIT
            x = 0.5 * np.sin((t - o1) * (f1 * 10.0 + 10.0)) + 0.2 * np.sin((t - o2) * (f2 * 20.0 + 20.0))
            x += 0.1 * (rng.random((self.count, BLOCK)) - 0.5)
            yield np.repeat(x[..., None], len(self.channels), axis=2)
            step += BLOCK
