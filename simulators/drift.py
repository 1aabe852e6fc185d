"""Known changes laid over a signal: what a forecaster has to notice and learn again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulators.signal import BLOCK, Signal, Values

Kind = Literal["step", "scale", "swap", "dead", "period"]
KINDS: tuple[Kind, ...] = ("step", "scale", "swap", "dead", "period")


@dataclass(frozen=True)
class Drift:
    """From step `at` on, `kind` holds for all series.

    step: the mean moves by 3 standard deviations; scale: swings grow threefold; swap: the first two channels change
    places; dead: the first channel stays at its last value; period: time runs twice as fast.
    """

    signal: Signal
    kind: Kind
    at: int

    @property
    def channels(self) -> tuple[str, ...]:
        return self.signal.channels

    @property
    def series(self) -> tuple[str, ...]:
        return self.signal.series

    def blocks(self) -> Iterator[Values]:
        source = self.signal.blocks()
        begin = 0
        mean = spread = last = None
        for block in source:
            out = block
            if begin + BLOCK > self.at:
                first = max(0, self.at - begin)
                if mean is None or spread is None or last is None:
                    known = block[:, : max(first, 1)]
                    mean, spread = known.mean(axis=1, keepdims=True), known.std(axis=1, keepdims=True) + 1e-9
                    last = known[:, -1:]
                out = block.copy()
                if self.kind == "period":
                    faster = np.concatenate([block[:, first:], next(source)], axis=1)[:, ::2]
                    out[:, first:] = faster[:, : BLOCK - first]
                else:
                    out[:, first:] = self._changed(block[:, first:], mean, spread, last)
            else:
                mean, spread = block.mean(axis=1, keepdims=True), block.std(axis=1, keepdims=True) + 1e-9
                last = block[:, -1:]
            yield out
            begin += BLOCK

    def _changed(self, x: Values, mean: Values, spread: Values, last: Values) -> Values:
        x = x.copy()
        if self.kind == "step":
            x += 3.0 * spread
        elif self.kind == "scale":
            x = mean + 3.0 * (x - mean)
        elif self.kind == "swap" and x.shape[2] > 1:
            x[..., [0, 1]] = x[..., [1, 0]]
        elif self.kind == "dead":
            x[..., 0] = last[..., 0]
        return x
