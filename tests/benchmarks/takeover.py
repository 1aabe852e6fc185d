"""How long a partition is without forecasts when its worker dies: two workers share four partitions under a steady load,
one of them is killed by kill -9, the other goes on with its partitions.

From the kill to the first forecast of the new owner, by its append time, per partition. What the session time-out takes
is distinguished: until then the broker does not know of the death, and it is a setting. The stages, in order:

  evicted    the broker has missed the dead one for the session time-out (by the broker's log)
  assigned   the survivor has given up and got back its own partitions, and got those of the dead one
  restored   their states were read back from the changelog (by the survivor's metrics and log)
  forecast   the ticks since the checkpoint were replayed silently, and the first new ones left

    KAFKA_HOME=… python tests/benchmarks/takeover.py [--series 1000 20000] [--rounds 3] [--session-timeout-ms 3000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from broker import Broker
from delivery import DELIVERIES, SETTINGS
from latency import topics_by_broker_time
from reference import publish, weights
from service import Forked, configure, drained, each

PARTITIONS = 4
START_MS = 1_700_000_000_000
STEPS = 3  # that every series has seen before the load begins
CHECKPOINT_S = 10.0
STAGES = ("evicted", "assigned", "restored", "forecast")


@dataclass
class Taken:
    """One partition that was taken over; epoch seconds."""

    partition: int
    killed: float
    evicted: float
    assigned: float
    restored: float
    replayed: int
    forecast: float = 0.0

    def stages(self) -> list[float]:
        """Milliseconds of each stage."""
        times = (self.killed, self.evicted, self.assigned, self.restored, self.forecast)
        return [1000 * (after - before) for before, after in pairwise(times)]


# ── what logs and metrics say ───────────────────────────────────────────────────────────────────────────────────


def events(worker: Forked) -> Iterator[tuple[float, dict[str, Any]]]:
    for line in worker.said().splitlines():
        if line.startswith("{") and line.endswith("}"):
            event = json.loads(line)
            yield datetime.fromisoformat(event["timestamp"]).timestamp(), event


def owned(worker: Forked) -> set[int]:
    found: set[int] = set()
    for _, event in events(worker):
        if event["event"] in ("partition assigned", "partition given back: its state was still here"):
            found.add(event["partition"])
        elif event["event"] == "partition revoked":
            found.discard(event["partition"])
    return found


def restores(worker: Forked) -> tuple[float, float]:
    """(partitions restored, seconds that it took them together)"""
    url = next(event["url"] for _, event in events(worker) if event["event"] == "serving HTTP")
    with urllib.request.urlopen(f"{url.rstrip('/')}/metrics") as answer:  # noqa: S310
        text = answer.read().decode()
    count, total = (re.search(rf"^streamrnn_restore_seconds_{name} (\S+)", text, re.M) for name in ("count", "sum"))
    return (float(count[1]), float(total[1])) if count and total else (0.0, 0.0)


def evicted(broker: Broker, group: str, since: float) -> float:
    """When the broker evicted a member of the group, by its own log."""
    summed = f"in group {group} has failed, removing it"
    for line in broker.log().splitlines():
        stamp = re.match(r"\[?(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d),(\d{3})", line)
        if stamp and summed in line:
            at = datetime.fromisoformat(f"{stamp[1]}.{stamp[2]}").astimezone().timestamp()
            if at >= since:
                return at
    raise AssertionError("the broker has not said that it evicted the dead one")


# ── one case ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Case:
    """Two workers, their load, and what they take over from each other."""

    def __init__(self, broker: Broker, folder: Path, delivery: str, series: int, options: argparse.Namespace) -> None:
        from streamrnn.config.settings import load

        self.broker, self.folder, self.series, self.options = broker, folder, series, options
        self.app = f"{delivery}.{series}"
        session_ms = options.session_timeout_ms
        kafka = {
            "bootstrap_servers": broker.servers, "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": max(100, session_ms // 10),
        }  # fmt: skip
        self.config = configure(
            folder, broker, self.app, kafka=kafka, delivery=delivery, series_max=max(2 * series, 10_000),
            checkpoint={"interval": f"{CHECKPOINT_S:.0f}s"}, **SETTINGS,
        )  # fmt: skip
        self.settings = load([self.config], {}, {})
        self.luck = random.Random(self.app)
        self.workers: list[Forked] = []
        self.started = 0
        self.taken: list[Taken] = []

    def start(self) -> None:
        self.started += 1
        self.workers.append(Forked(self.folder / f"{self.app}.{self.started}.log", "run", "-c", self.config))

    def run(self) -> list[Taken]:
        topics_by_broker_time(self.broker, self.app, self.config)
        asyncio.run(self.prepare())
        simulator: Forked | None = None
        try:
            for _ in range(2):
                self.start()
            self.shared(timeout_s=60)
            asyncio.run(drained(self.broker, self.app, 120))
            simulator = Forked(
                self.folder / f"{self.app}.sim.log", "simulate", "sensors", "-c", self.config,
                "--rate", self.options.rate, "--series", self.series, "--start-ms", START_MS + 1000 * STEPS,
            )  # fmt: skip
            time.sleep(CHECKPOINT_S)  # all there is stands in a checkpoint
            for _ in range(self.options.rounds):
                # At any moment between two checkpoints.
                time.sleep(self.luck.uniform(2, 2 + CHECKPOINT_S / 2))
                self.taken += self.kill()
                self.start()
                self.shared(timeout_s=60)
        finally:
            for process in [*self.workers, *([simulator] if simulator else [])]:
                process.kill()
        asyncio.run(self.first_forecasts())
        return self.taken

    async def prepare(self) -> None:
        """Weights, and some steps of every series."""
        from simulators.drive import produce_to
        from simulators.faults import FaultPlan
        from simulators.sensors import Sensors
        from simulators.stream import Ticks
        from streamrnn.transports.kafka.transport import KafkaTransport

        await publish(self.settings, *weights(self.settings, 0))
        ticks = islice(iter(Ticks(Sensors(self.series), FaultPlan(), START_MS, 1000)), STEPS * self.series)
        transport = KafkaTransport(self.settings.kafka_settings())
        await produce_to(transport, self.settings.input, ticks, now_ms=lambda: int(time.time() * 1000))

    def shared(self, timeout_s: float) -> None:
        """Waits until each worker has its half."""
        self.until(lambda: [len(owned(worker)) for worker in self.workers] == [PARTITIONS // 2] * 2, timeout_s)

    def until(self, holds: Any, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, "\n".join(worker.said()[-2000:] for worker in self.workers)
            time.sleep(0.1)

    def kill(self) -> list[Taken]:
        victim = self.workers.pop(self.luck.randrange(2))
        survivor = self.workers[0]
        lost = owned(victim)
        count, total = restores(survivor)
        killed = time.time()
        victim.signal(signal.SIGKILL)
        victim.kill()
        self.until(lambda: len(owned(survivor)) == PARTITIONS, 60 + self.options.session_timeout_ms / 1000)
        time.sleep(2.5)  # their first forecasts
        more, longer = restores(survivor)
        took = (longer - total) / max(1.0, more - count)
        out = evicted(self.broker, self.app, killed)
        found = []
        for at, event in events(survivor):
            if at > killed and event["event"] == "partition assigned" and event["partition"] in lost:
                replayed = event["emit_from"] - event["replay_from"]
                found.append(Taken(event["partition"], killed, out, at - took, at, replayed))
        return found

    async def first_forecasts(self) -> None:
        """The first that was appended behind each partition's restore."""
        async for record in each(self.broker, self.settings.topics.forecasts):
            for taken in self.taken:
                if taken.partition == record.partition and not taken.forecast:
                    if record.timestamp / 1000 >= taken.restored:
                        taken.forecast = record.timestamp / 1000
        assert all(taken.forecast for taken in self.taken), "a partition has no forecast of its new owner"


def summed(delivery: str, series: int, taken: Sequence[Taken]) -> dict[str, Any]:
    medians = [statistics.median(stages) for stages in zip(*(t.stages() for t in taken), strict=True)]
    whole = [1000 * (t.forecast - t.killed) for t in taken]
    after = [1000 * (t.forecast - t.evicted) for t in taken]
    return {
        "delivery": delivery,
        "series": series,
        "takeovers": len(taken),
        **{f"{name}_ms": round(value, 1) for name, value in zip(STAGES, medians, strict=True)},
        "replayed": statistics.median(t.replayed for t in taken),
        "after_eviction_ms": round(statistics.median(after), 1),
        "after_eviction_max_ms": round(max(after), 1),
        "whole_ms": round(statistics.median(whole), 1),
        "whole_max_ms": round(max(whole), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1000.0, help="ticks a second while workers are killed")
    parser.add_argument("--session-timeout-ms", type=int, default=3000)
    parser.add_argument("--delivery", choices=DELIVERIES, nargs="+", default=list(DELIVERIES))
    options = parser.parse_args()
    rows = []
    print(
        f"kill -9 of one of two workers at {options.rate:.0f} ticks/s, session time-out {options.session_timeout_ms} ms; "
        f"milliseconds, medians over the partitions taken over in {options.rounds} rounds"
    )
    print(
        f"  {'':<15}{'series':>8}{'evicted':>10}{'assigned':>10}{'restored':>10}{'forecast':>10}{'(replayed)':>12}"
        f"{'since eviction':>16}{'largest':>9}{'since the kill':>16}"
    )
    for delivery in options.delivery:
        for series in options.series:
            with tempfile.TemporaryDirectory() as name:
                broker = Broker(Path(name) / "kafka").start()
                try:
                    row = summed(delivery, series, Case(broker, Path(name), delivery, series, options).run())
                finally:
                    broker.stop()
            rows.append(row)
            stages = "".join(f"{row[f'{stage}_ms']:10.0f}" for stage in STAGES)
            print(
                f"  {delivery:<15}{series:>8}{stages}{row['replayed']:12.0f}{row['after_eviction_ms']:16.0f}"
                f"{row['after_eviction_max_ms']:9.0f}{row['whole_ms']:16.0f}",
                flush=True,
            )
    print(json.dumps({"session_timeout_ms": options.session_timeout_ms, "rows": rows}))


if __name__ == "__main__":
    main()
