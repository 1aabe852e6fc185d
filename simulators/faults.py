"""What goes wrong between a sensor and a topic, at given rates: decided by the seed, not by the reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaultPlan:
    """Rates are per tick (missing channels: per value). All zero: clean ticks in order."""

    missing_channels: float = 0.0
    missing_ticks: float = 0.0
    duplicates: float = 0.0
    disorder: float = 0.0  # share of ticks that arrive later, by up to `disorder_steps`
    disorder_steps: int = 3
    late: float = 0.0  # share that arrives far too late, after `late_steps`
    late_steps: int = 30
    spikes: float = 0.0  # per value: a wild outlier
    poison: float = 0.0  # records that cannot be read, between the ticks
    future: float = 0.0  # ticks from the far future, between the others
    seed: int = 0
