"""The two-sine series of Géron, Hands-On Machine Learning (2nd edition), chapter 15: as an array, and as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulators.signal import BLOCK, Chunked, Values, names

DEFAULT_CHANNELS = ("value",)

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


@dataclass(eq=False)
class Book(Chunked):
    """The same sum of two sines and uniform noise without an end; every channel has its own sines."""

    count: int = 20
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng([self.seed, 21])
        f1, f2, self._o1, self._o2 = rng.random((4, self.count, 1, len(self.channels)))
        self._w1, self._w2 = f1 * 10.0 + 10.0, f2 * 20.0 + 20.0

    @property
    def series(self) -> tuple[str, ...]:
        return names("book", self.count)

    def _begin(self) -> Any:
        return None

    def _chunk(self, index: int, state: Any) -> tuple[Values, Any]:
        rng = np.random.default_rng([self.seed, 22, index])
        t = (np.arange(index * BLOCK, (index + 1) * BLOCK) / STEPS_PER_UNIT)[:, None]  # [BLOCK, 1]
        x = 0.5 * np.sin((t - self._o1) * self._w1) + 0.2 * np.sin((t - self._o2) * self._w2)
        x += 0.1 * (rng.random(x.shape) - 0.5)
        return x, None
