"""What every signal is: true values for all series at any steps, the same however they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Steps that are computed at once. Part of a signal's definition: another length would be another stream of numbers.
# 64 steps of 10,000 series with 4 channels are 20 MB; of one series, still cheap to start.
BLOCK = 64

# Chunk ends whose state is kept, so that looking back a little (as Drift does for its reference) is cheap.
STATES_MAX = 16


class Signal(Protocol):
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def series(self) -> tuple[str, ...]: ...

    def block(self, first_step: int, n: int) -> Values:
        """True values [series, n, channel] of steps first_step .. first_step + n − 1; a fresh array."""
        ...


class Chunked(ABC):
    """A signal made chunk after chunk of BLOCK steps, each from its own generator and the state the last one left.

    Forward reading is cheap and needs memory for one chunk; a step far back is reached from step 0 again.
    """

    channels: tuple[str, ...]
    count: int

    def __init__(self) -> None:
        self._states: dict[int, Any] = {}
        self._newest: tuple[int, Values] | None = None

    @property
    @abstractmethod
    def series(self) -> tuple[str, ...]: ...

    @abstractmethod
    def _begin(self) -> Any:
        """The state before step 0."""

    @abstractmethod
    def _chunk(self, index: int, state: Any) -> tuple[Values, Any]:
        """Steps index·BLOCK .. of all series [series, BLOCK, channel], and the state after them. Changes nothing."""

    def block(self, first_step: int, n: int) -> Values:
        if first_step < 0 or n < 0:
            raise ValueError("steps begin at 0")
        out = np.empty((self.count, n, len(self.channels)))
        done = 0
        while done < n:
            index, offset = divmod(first_step + done, BLOCK)
            take = min(BLOCK - offset, n - done)
            out[:, done : done + take] = self._at(index)[:, offset : offset + take]
            done += take
        return out

    def _at(self, index: int) -> Values:
        if self._newest is not None and self._newest[0] == index:
            return self._newest[1]
        start = max((known for known in self._states if known <= index), default=-1)
        state = self._states[start] if start >= 0 else self._begin()
        for i in range(max(start, 0), index + 1):
            self._states[i] = state
            values, state = self._chunk(i, state)
            if len(self._states) > STATES_MAX:
                del self._states[min(self._states)]
        self._states[index + 1] = state
        self._newest = (index, values)
        return values


def names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}-{i}" for i in range(count))


def recurse(noise: NDArray[Any], state: NDArray[Any], phi: complex) -> tuple[NDArray[Any], NDArray[Any]]:
    """x[t] = phi·x[t−1] + noise[t] along the last axis, from x[−1] = state; returns x and its last column.

    By doubling (Hillis and Steele's scan, 1986): log₂ n passes over whole arrays instead of n over columns. A complex
    phi is a damped oscillation.
    """
    x = noise.copy()
    x[..., 0] += phi * state
    reach, power = 1, phi
    while reach < x.shape[-1]:
        x[..., reach:] = x[..., reach:] + power * x[..., :-reach]
        reach, power = 2 * reach, power * power
    return x, x[..., -1].copy()
