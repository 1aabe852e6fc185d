"""The shapes of a baseline."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from streamrnn.records import F64, I64


class Baseline(Protocol):
    """`observe` takes the next row [channel] (NaN: missing); `forecast` gives [channel, horizon] from what was seen."""

    def observe(self, row: F64) -> None: ...
    def forecast(self) -> F64: ...


@runtime_checkable
class WholeBaseline(Protocol):
    """A package that runs over a whole series by itself: [row, channel, horizon] of values [row, channel] and their times.

    A forecast of a row must depend on that row and older ones only.
    """

    def forecasts(self, values: F64, ts_us: I64) -> F64: ...
