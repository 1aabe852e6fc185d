"""A signal and a plan of faults turned into records in the wire format, with the truth kept aside."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from simulators.faults import FaultPlan
from simulators.poison import POISON
from simulators.signal import BLOCK, Signal, Values

# Far enough ahead that no clock explains it, near enough that it is a valid time (a year).
FUTURE_MS = 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class SimRecord:
    """One record to produce. `ts_ms` is the event time; `expect` is the refusal it should meet ("" for a good tick)."""

    key: bytes | None
    value: bytes | None
    ts_ms: int
    expect: str = ""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a step of a series really was, and what was done to it; `values` by channel."""

    series: str
    ts_ms: int
    values: list[float]
    sent: bool
    missing: list[str] = field(default_factory=list)


@dataclass
class Ticks:
    """Records of all series, step after step; `truth` collects what really was when `keep_truth` is on."""

    signal: Signal
    plan: FaultPlan
    start_ms: int
    step_ms: int
    long: bool = False
    digits: int = 6
    keep_truth: bool = False
    truth: list[Truth] = field(default_factory=list)

    def __iter__(self) -> Iterator[SimRecord]:
        """Endless; the consumer stops. Order of arrival is event time unless the plan says otherwise."""
        plan = self.plan
        rng = np.random.default_rng([plan.seed, 99])
        waiting: list[tuple[int, int, SimRecord]] = []  # (step at which it arrives, tie-breaker, record)
        number = 0
        step = 0
        keys = [name.encode() for name in self.signal.series]
        for block in self.signal.blocks():
            chance = rng.random((BLOCK, len(keys), 7))
            gone = rng.random(block.shape) < plan.missing_channels
            if plan.spikes:
                block = self._spiked(block, rng)
            shown = self._rounded(block)
            for k in range(BLOCK):
                ts = self.start_ms + (step + k) * self.step_ms
                while waiting and waiting[0][0] <= step + k:
                    yield heapq.heappop(waiting)[2]
                for s, key in enumerate(keys):
                    luck = chance[k, s]
                    sent = bool(luck[0] >= plan.missing_ticks)
                    if self.keep_truth:
                        missing = [c for i, c in enumerate(self.signal.channels) if gone[s, k, i]]
                        self.truth.append(Truth(key.decode(), ts, shown[s][k], sent, missing))
                    if luck[1] < plan.poison:
                        value, reason = POISON[int(luck[1] / plan.poison * len(POISON))]
                        yield SimRecord(key, value, ts, reason)
                    if luck[2] < plan.future:
                        ahead = ts + FUTURE_MS
                        yield SimRecord(key, self._document(key, ahead, shown[s][k], gone[s, k], 0)[0], ts, "future")
                    if not sent:
                        continue
                    for value in self._document(key, ts, shown[s][k], gone[s, k]):
                        record = SimRecord(key, value, ts)
                        number += 1
                        if luck[3] < plan.late:
                            heapq.heappush(
                                waiting, (step + k + plan.late_steps, number, SimRecord(key, value, ts, "late"))
                            )
                        elif luck[4] < plan.disorder:
                            later = 1 + int(luck[4] / plan.disorder * plan.disorder_steps)
                            heapq.heappush(waiting, (step + k + later, number, record))
                        else:
                            yield record
                            if luck[5] < plan.duplicates:
                                yield SimRecord(key, value, ts, "duplicate")
            step += BLOCK

    def _spiked(self, block: Values, rng: np.random.Generator) -> Values:
        hit = rng.random(block.shape) < self.plan.spikes
        spread = block.std(axis=1, keepdims=True) + 1e-9
        return np.where(hit, block + rng.choice([-1.0, 1.0], block.shape) * 20.0 * spread, block)

    def _rounded(self, block: Values) -> list[list[list[float]]]:
        """Values as a sensor sends them: `digits` significant ones."""
        size = np.floor(np.log10(np.abs(block) + 1e-300))
        factor = 10.0 ** (self.digits - 1 - size)
        rounded: list[list[list[float]]] = (np.rint(block * factor) / factor).tolist()
        return rounded

    def _document(self, key: bytes, ts: int, values: list[float], gone: Any, only: int | None = None) -> list[bytes]:
        """The tick's records: one wide, or one per channel that came."""
        channels = self.signal.channels
        series = key.decode()
        if not self.long:
            shown = {name: None if gone[i] else values[i] for i, name in enumerate(channels)}
            return [orjson.dumps({"series": series, "ts": ts, "values": shown})]
        rows = range(len(channels)) if only is None else [only]
        return [
            orjson.dumps({"series": series, "ts": ts, "channel": channels[i], "value": values[i]})
            for i in rows
            if not gone[i] or only is not None
        ]
