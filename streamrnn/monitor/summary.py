"""How good the forecasts of the last seconds were: sums of scores in one-second bins, thrown away as they age."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamrnn.records import Scores
from streamrnn.spec import StreamSpec
from streamrnn.stream.outputs import empty_scores

BIN_S = 1.0
BINS_MAX = 120


@dataclass(slots=True)
class _Bin:
    at_s: float
    scores: Scores
    ticks: int = 0
    sent: list[int] = field(default_factory=lambda: [0, 0, 0])
    refused: int = 0


class Summary:
    """Rolling totals; time is passed in, so that tests need no clock."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self._bins: deque[_Bin] = deque(maxlen=BINS_MAX)
        self.ticks = self.forecasts = self.imputations = self.dead_letters = 0

    def add(self, now_s: float, scores: Scores, ticks: int, sent: tuple[int, int, int], refused: int) -> None:
        at = now_s // BIN_S * BIN_S
        if not self._bins or self._bins[-1].at_s != at:
            self._bins.append(_Bin(at, empty_scores(self.spec)))
        head = self._bins[-1]
        for name in Scores.__slots__:
            getattr(head.scores, name).__iadd__(getattr(scores, name))
        head.ticks += ticks
        head.refused += refused
        head.sent = [have + more for have, more in zip(head.sent, sent, strict=True)]
        self.ticks += ticks
        self.forecasts += sent[0]
        self.imputations += sent[1]
        self.dead_letters += sent[2]

    def view(self, now_s: float, last_s: float) -> dict[str, Any]:
        """Figures over the last `last_s` seconds; None where nothing matured.

        Errors are mean absolute errors in units of the series' usual move. `network_gain` is what of the error
        of the mixture alone the network takes away, over the same targets.
        """
        bins = [entry for entry in self._bins if entry.at_s > now_s - last_s - BIN_S]
        total = empty_scores(self.spec)
        for entry in bins:
            for name in Scores.__slots__:
                getattr(total, name).__iadd__(getattr(entry.scores, name))
        span = max(min(last_s, now_s - bins[0].at_s), BIN_S) if bins else last_s
        refused, ticks = sum(entry.refused for entry in bins), sum(entry.ticks for entry in bins)
        count, with_network = int(total.count.sum()), int(total.count_network.sum())

        def mean(sums: Any, of: int) -> float | None:
            return float(sums.sum()) / of if of else None

        error, naive = mean(total.abs_error, count), mean(total.abs_persistence, count)
        network, against = mean(total.abs_network, with_network), mean(total.abs_base_network, with_network)
        by_horizon = total.count.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = total.inside.sum(axis=0) / by_horizon
        return {
            "window_s": last_s,
            "ticks_per_s": round(ticks / span, 1),
            "refused_share": refused / (refused + ticks) if refused + ticks else None,
            "ticks": self.ticks,
            "forecasts": self.forecasts,
            "imputations": self.imputations,
            "dead_letters": self.dead_letters,
            "matured": count,
            "forecast_mae": error,
            "persistence_mae": naive,
            "forecast_ratio": error / naive if error is not None and naive else None,
            "network_mae": network,
            "without_network_mae": against,
            "network_gain": 1.0 - network / against if network is not None and against else None,
            "coverage": mean(total.inside, count),
            "coverage_nominal": self.spec.quantiles[-1] - self.spec.quantiles[0],
            "coverage_by_horizon": [
                None if n == 0 else round(float(share), 4) for n, share in zip(by_horizon, inside, strict=True)
            ],
        }
