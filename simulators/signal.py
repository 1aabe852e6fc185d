"""What every signal is: clean values for all series, block after block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Steps that are computed at once. Part of a signal's definition: another length would be another stream of numbers.
BLOCK = 256


class Signal(Protocol):
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def series(self) -> tuple[str, ...]: ...

    def blocks(self) -> Iterator[Values]:
        """Endless blocks [series, BLOCK, channel]; the same every time it is asked."""
        ...


def names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}-{i}" for i in range(count))


def ar1(rng: np.random.Generator, state: Values, phi: Values, sigma: Values, steps: int) -> tuple[Values, Values]:
    """`steps` of first-order autoregressions side by side; returns [..., steps] and the last state."""
    noise = rng.standard_normal((steps, *state.shape)) * sigma
    out = np.empty((*state.shape, steps))
    for t in range(steps):
        state = phi * state + noise[t]
        out[..., t] = state
    return out, state
