"""Known changes laid over a signal: what a forecaster has to notice and learn again. Drifts may be nested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from simulators.signal import Signal, Values

Kind = Literal["step", "scale", "swap", "dead", "period"]
KINDS: tuple[Kind, ...] = ("step", "scale", "swap", "dead", "period")

# Steps before the change whose mean and standard deviation say what "3 standard deviations" are.
REFERENCE_STEPS = 256


@dataclass(eq=False)
class Drift:
    """From step `at` on, `kind` holds for all series.

    step: the mean moves by `size` standard deviations; scale: swings around the mean grow `size`-fold; swap: the first
    two channels change places; dead: the first channel stays at its last value; period: time runs `size` times as fast
    (a whole number).
    """

    signal: Signal
    kind: Kind
    at: int
    size: float | None = None  # by default 3, for `period` 2
    _reference: tuple[Values, Values, Values] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.at < 0:
            raise ValueError("a drift begins at a step, 0 or later")
        if self.kind == "swap" and len(self.channels) < 2:
            raise ValueError("the drift 'swap' needs two channels")
        if self.kind == "period" and (self._size < 1 or self._size != int(self._size)):
            raise ValueError("the drift 'period' needs a whole number as its size: time runs so many times as fast")

    @property
    def channels(self) -> tuple[str, ...]:
        return self.signal.channels

    @property
    def series(self) -> tuple[str, ...]:
        return self.signal.series

    @property
    def _size(self) -> float:
        return self.size if self.size is not None else 2.0 if self.kind == "period" else 3.0

    def block(self, first_step: int, n: int) -> Values:
        before = min(max(self.at - first_step, 0), n)
        if before == n:
            return self.signal.block(first_step, n)
        parts = [self.signal.block(first_step, before)] if before else []
        parts.append(self._after(first_step + before, n - before))
        return np.concatenate(parts, axis=1)

    def _after(self, first_step: int, n: int) -> Values:
        if self.kind == "period":
            pace = int(self._size)
            return self.signal.block(self.at + pace * (first_step - self.at), pace * n)[:, ::pace].copy()
        mean, spread, last = self._known()
        x = self.signal.block(first_step, n)
        if self.kind == "step":
            x += self._size * spread
        elif self.kind == "scale":
            x = mean + self._size * (x - mean)
        elif self.kind == "swap":
            x[..., [0, 1]] = x[..., [1, 0]]
        else:
            x[..., 0] = last[..., 0]
        return x

    def _known(self) -> tuple[Values, Values, Values]:
        """Mean, standard deviation and last value before the change [series, 1, channel]; after it, if it is at 0."""
        if self._reference is None:
            begin = max(0, self.at - REFERENCE_STEPS)
            known = self.signal.block(begin, self.at - begin if self.at else REFERENCE_STEPS)
            last = known[:, -1:] if self.at else known[:, :1]
            self._reference = (known.mean(axis=1, keepdims=True), known.std(axis=1, keepdims=True), last)
        return self._reference
