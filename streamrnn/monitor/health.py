"""Alive and ready, from what the partitions do: pure logic, time passed in.

Alive: every owned partition advances or is at its end. A partition with records to read and no progress for
`STALL_S` is the silent stall that clients of Kafka are known for; only a restart helps, so liveness goes red.
Ready: serving, every partition restored and past its silent replay, none further behind than `LAG_MAX` records, of none more
than `http.ready_refused_max` refused in the last minute, and what was sent is acknowledged: after `DELIVERY_S` without, or
after new clients, not before something is committed again. A worker that says nothing for `SILENCE_S` waits for the broker,
too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STALL_S = 60.0
LAG_MAX = 100_000
DELIVERY_S = 3.0
SILENCE_S = 5.0


@dataclass(slots=True)
class _Partition:
    position: int
    emit_from: int
    moved_s: float
    told_s: float
    lag: int | None = None


@dataclass(slots=True)
class Health:
    """Fed by the worker, asked by HTTP."""

    serving: bool = False
    trouble: str = "starting"
    partitions: dict[int, _Partition] = field(default_factory=dict)
    restoring: set[int] = field(default_factory=set)
    # Partitions whose log is damaged: a restart would not help, so they do not count for being alive.
    unreadable: dict[int, str] = field(default_factory=dict)
    # Partitions of which too much is refused, and those that began without the state they should have had; with the reasons.
    refused: dict[int, str] = field(default_factory=dict)
    cold: dict[int, str] = field(default_factory=dict)
    # Partitions whose next records wait for their schemas: a restart would not help either; with the reasons.
    without_schema: dict[int, str] = field(default_factory=dict)
    undelivered: str = ""
    label: Callable[[int], int | str] = lambda number: number  # how a partition is named
    first: Health | None = None  # of the stage before this one

    def assigned(self, partition: int, position: int, emit_from: int, now_s: float) -> None:
        self.partitions[partition] = _Partition(position, emit_from, moved_s=now_s, told_s=now_s)

    def revoked(self, partition: int) -> None:
        self.partitions.pop(partition, None)
        self.restoring.discard(partition)
        self.refused.pop(partition, None)
        self.without_schema.pop(partition, None)
        self.cold.pop(partition, None)

    def progress(self, partition: int, position: int, lag: int | None, now_s: float) -> None:
        entry = self.partitions.get(partition)
        if entry is None:
            return
        if position != entry.position or not lag:
            entry.moved_s = now_s
        entry.position, entry.lag, entry.told_s = position, lag, now_s

    def waiting(self, seconds: float, now_s: float) -> None:
        """The oldest outputs on their way are so old."""
        for entry in self.partitions.values():
            entry.told_s = now_s
        if seconds > DELIVERY_S:
            self.undelivered = f"the broker did not acknowledge outputs for {seconds:.0f} s"

    def rebuilding(self, error: str) -> None:
        self.trouble = f"clients are being rebuilt: {error}"
        self.undelivered = f"nothing was delivered since the clients were rebuilt: {error}"

    def committed(self) -> None:
        self.undelivered = ""

    def live(self, now_s: float) -> tuple[bool, str]:
        stalled = [
            f"partition {self.label(p)} has {e.lag} records to read and did not move for {now_s - e.moved_s:.0f} s"
            for p, e in sorted(self.partitions.items())
            if e.lag and now_s - e.moved_s > STALL_S and p not in self.unreadable and p not in self.without_schema
        ]
        if not stalled and self.first is not None:
            return self.first.live(now_s)
        return not stalled, "; ".join(stalled) or "ok"

    def ready(self, now_s: float) -> tuple[bool, str]:
        if self.first is not None and not (said := self.first.ready(now_s))[0]:
            return False, f"first stage: {said[1]}"
        if not self.serving or self.trouble:
            return False, self.trouble or "starting"
        if self.restoring:
            return False, f"restoring the state of partitions {[self.label(p) for p in sorted(self.restoring)]}"
        replaying = [self.label(p) for p, e in sorted(self.partitions.items()) if e.position < e.emit_from]
        if replaying:
            return False, f"replaying partitions {replaying} up to their committed offsets"
        damaged = [f"{self.label(p)}: {why}" for p, why in sorted(self.unreadable.items()) if p in self.partitions]
        if damaged:
            return False, f"cannot be read on: partition {'; '.join(damaged)}"
        waiting = [f"{self.label(p)}: {why}" for p, why in sorted(self.without_schema.items()) if p in self.partitions]
        if waiting:
            return False, f"records wait for their schemas: partition {'; '.join(waiting)}"
        if self.undelivered and any(e.lag != 0 or e.position > e.emit_from for e in self.partitions.values()):
            return False, self.undelivered
        silent_s = now_s - max((e.told_s for e in self.partitions.values()), default=now_s)
        if silent_s > SILENCE_S:
            return False, f"at one batch for {silent_s:.0f} s"
        behind = [f"{self.label(p)} by {e.lag}" for p, e in sorted(self.partitions.items()) if (e.lag or 0) > LAG_MAX]
        if behind:
            return False, f"behind: partition {', '.join(behind)} records"
        refused = [
            f"of partition {self.label(p)} {why}" for p, why in sorted(self.refused.items()) if p in self.partitions
        ]
        if refused:
            return False, f"the input is refused: {'; '.join(refused)}"
        live, why = self.live(now_s)
        return live, why

    def view(self) -> dict[str, dict[str, Any]]:
        return {str(self.label(p)): {"position": e.position, "lag": e.lag} for p, e in sorted(self.partitions.items())}
