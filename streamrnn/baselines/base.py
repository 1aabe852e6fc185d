"""The one shape of a baseline."""

from __future__ import annotations

from typing import Protocol

from streamrnn.records import F64


class Baseline(Protocol):
    """`observe` takes the next row [channel] (NaN: missing); `forecast` gives [channel, horizon] from what was seen."""

    def observe(self, row: F64) -> None: ...
    def forecast(self) -> F64: ...
