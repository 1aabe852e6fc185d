"""What goes wrong between a sensor and a topic, at given rates: decided by the seed, not by the reader."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from simulators.signal import BLOCK

# What becomes of a tick; exactly one of these. A plan's four rates of ticks are exclusive for that reason.
PLAIN, MISSING, LATE, DISORDER, DUPLICATE = range(5)
FATES = ("sent", "missing-tick", "late", "disorder", "duplicate")


@dataclass(frozen=True)
class FaultPlan:
    """Shares of ticks (missing_channels and spikes: of values). All zero: clean ticks in order.

    With a lateness of at least `disorder_steps` steps and less than `late_steps`, disordered ticks are accepted and late
    ones refused. Raises ValueError for shares outside 0..1, or if more than all ticks would have a fate.
    """

    missing_channels: float = 0.0
    missing_ticks: float = 0.0
    duplicates: float = 0.0  # sent twice, one right after the other
    disorder: float = 0.0  # share of ticks that arrive later, by 1 to `disorder_steps` steps
    disorder_steps: int = 3
    late: float = 0.0  # share that arrives far too late, after `late_steps`
    late_steps: int = 30
    spikes: float = 0.0  # per value: a wild outlier; not the truth, but nothing refuses it
    poison: float = 0.0  # records that cannot be read, between the ticks, per tick
    future: float = 0.0  # ticks from the far future, between the others, per tick
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{field.name} is a share from 0 to 1, not {value}")
        if self.missing_ticks + self.late + self.disorder + self.duplicates > 1.0:
            raise ValueError("missing_ticks, late, disorder and duplicates exclude each other: their sum is above 1")
        if not 1 <= self.disorder_steps < self.late_steps:
            raise ValueError("disorder_steps is at least 1 and less than late_steps")

    @property
    def rates(self) -> tuple[float, float, float, float]:
        """Of the fates after PLAIN, in their order."""
        return self.missing_ticks, self.late, self.disorder, self.duplicates


@dataclass(frozen=True, slots=True)
class Faults:
    """The plan's decisions for one chunk of BLOCK steps. Arrays are [step, series] (values: [step, series, channel])."""

    fate: NDArray[np.uint8]
    delay: NDArray[np.int64]  # steps by which a late or disordered tick is delayed, else 0
    gone: NDArray[np.bool_]  # values that are missing
    spike: NDArray[np.int8]  # −1, 0 or +1 per value
    poison: NDArray[np.int64]  # which poison goes before the tick: a number from 0 on, −1 for none
    future: NDArray[np.bool_]  # a tick from the future goes before this one


def decide(plan: FaultPlan, chunk: int, series: int, channels: int) -> Faults:
    """The decisions for chunk number `chunk`. Each fault draws from its own stream: changing one moves no other."""

    def stream(fault: int) -> np.random.Generator:
        return np.random.default_rng([plan.seed, 99, fault, chunk])

    ticks, values = (BLOCK, series), (BLOCK, series, channels)
    fate = np.zeros(ticks, np.uint8)
    delay = np.zeros(ticks, np.int64)
    if any(plan.rates):
        rng = stream(0)
        # side="right" and one more bin than fates: what lies beyond the last edge is plain.
        found = np.searchsorted(np.cumsum(plan.rates), rng.random(ticks), side="right") + 1
        fate[:] = np.where(found > DUPLICATE, PLAIN, found)
        delay[:] = rng.integers(1, plan.disorder_steps + 1, ticks)
        delay[fate == LATE] = plan.late_steps
        delay[(fate != LATE) & (fate != DISORDER)] = 0
    gone = stream(1).random(values) < plan.missing_channels if plan.missing_channels else np.zeros(values, np.bool_)
    spike = np.zeros(values, np.int8)
    if plan.spikes:
        rng = stream(2)
        spike[:] = (rng.random(values) < plan.spikes) * rng.choice(np.array([-1, 1], np.int8), values)
    poison = np.full(ticks, -1, np.int64)
    if plan.poison:
        rng = stream(3)
        poison[:] = np.where(rng.random(ticks) < plan.poison, rng.integers(0, 1 << 30, ticks), -1)
    future = stream(4).random(ticks) < plan.future if plan.future else np.zeros(ticks, np.bool_)
    return Faults(fate, delay, gone, spike, poison, future)
