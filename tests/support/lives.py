"""Lives of one service whose configuration changes between them, on the memory transport and a virtual clock.

Every record holds four channels that are far from each other, and a configuration reads some of them: a forecast that came
from another channel's state would lie hundreds of its widths away. What a carried channel's columns hold is compared, bit for
bit, with an engine that never knew any other channel and was never interrupted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from running import settings

from streamrnn.config.settings import Settings
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.worker import Worker
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport
from streamrnn.wire.codec import Decoder

START = 1_700_000_000_000
LEVELS = {"temp": 20.0, "flow": 1000.0, "pressure": -500.0, "depth": 300.0}
PARTITIONS = 2
SERIES = tuple(f"s{i}" for i in range(6))
SESSION_S = 6.0
# Columns that a channel has for itself alone, whatever lies beside it, and those of them that have a horizon and a level.
OWN = (
    "last",
    "level",
    "level_spread",
    "move_scale",
    "fresh",
    "seen",
    "since",
    "run",
    "still",
    "anchor",
    "unit",
    "born",
)
# Without experts: the linear ones look at the other channels. What becomes of those is for `tests/stream` to see.
FIRST: dict[str, Any] = {
    "channels": ["temp", "flow"], "step": "1s", "horizon": 3, "quantiles": [0.05, 0.5, 0.95], "experts": "off",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What an operator changes from FIRST: once, and to something else. `cold`: nothing of a state can be carried."""

    once: dict[str, Any]
    twice: dict[str, Any]
    cold: bool = False


FIELDS = {channel: f"values.{channel}" for channel in LEVELS}
CASES: dict[str, Case] = {
    "a channel is added": Case({"channels": ["temp", "flow", "pressure"]}, {"channels": ["depth", "temp", "flow"]}),
    "a channel is removed": Case({"channels": ["temp"]}, {"channels": ["temp", "depth"]}),
    "channels are reordered": Case({"channels": ["flow", "temp"]}, {"channels": ["pressure", "flow", "temp"]}),
    "a channel is renamed": Case({"channels": ["temp", "pressure"]}, {"channels": ["temp", "depth"]}),
    "all channels are others": Case({"channels": ["pressure", "depth"]}, {"channels": ["temp", "flow"]}, cold=True),
    "a channel is read elsewhere": Case(
        {"decode.values": {"temp": "values.temp", "flow": "values.depth"}},
        {"decode.values": {"temp": "values.temp", "flow": "values.pressure"}},
    ),
    "a longer horizon": Case({"horizon": 7}, {"horizon": 5}),
    "a shorter horizon": Case({"horizon": 1}, {"horizon": 2}),
    "other quantiles of the same number": Case({"quantiles": [0.1, 0.5, 0.9]}, {"quantiles": [0.25, 0.5, 0.95]}),
    "more quantiles": Case({"quantiles": [0.05, 0.25, 0.5, 0.75, 0.95]}, {"quantiles": [0.5]}),
    "calendar features": Case({"calendar": ["1h"]}, {"calendar": ["1d", "1h"], "timezone": "Europe/London"}),
    "season": Case(
        {"season": "1h", "experts": "full"}, {"season": ["1h", "1d"], "timezone": "Europe/London", "experts": "full"}
    ),
    "experts and channels": Case(
        {"season": "1h", "experts": "full", "channels": ["flow", "temp"]},
        {"experts": "full", "channels": ["temp", "depth"]},
    ),
    "experts": Case({"season": "1h", "experts": "light"}, {"season": "1h", "experts": ["moves", "stack"]}),
    "some experts": Case({"experts": "auto"}, {"experts": ["moves"]}),
    "align": Case({"align": "nearest"}, {"align": "floor"}),
    "complete": Case({"complete": "channels"}, {"complete": "record"}),
    "lateness": Case({"lateness": "3s"}, {"lateness": "1s"}),
    "pending_max": Case({"lateness": "3s", "pending_max": 64}, {"lateness": "3s", "pending_max": 8}),
    "a longer step": Case({"step": "2s"}, {"step": "5s"}, cold=True),
    "no grid any more": Case({"step": "irregular"}, {"step": "250ms"}, cold=True),
    "within": Case({"within": "last"}, {"within": "sum"}, cold=True),
    "decode.ts_unit": Case({"decode.ts_unit": "s"}, {"decode.ts_unit": "us"}, cold=True),
    "a little of everything": Case(
        {"channels": ["pressure", "flow", "temp"], "horizon": 5, "quantiles": [0.05, 0.9]},
        {"channels": ["temp", "depth"], "horizon": 4, "quantiles": [0.05, 0.5, 0.9, 0.99], "calendar": ["1h"]},
    ),
}
HISTORIES = ("changed", "changed back", "changed twice")
EVENTS = ("restart", "kill", "take-over")
DELIVERIES = ("at-least-once", "exactly-once")


async def until(condition: Callable[[], bool]) -> None:
    """On the virtual clock, where 200 s are the end of all patience."""
    async with asyncio.timeout(200.0):
        while not condition():
            await asyncio.sleep(0.05)


@cache
def value(series: str, channel: str, step: int) -> float:
    rng = np.random.default_rng([SERIES.index(series), list(LEVELS).index(channel), step])
    return round(LEVELS[channel] + float(np.sin(step / 4 + SERIES.index(series)) + 0.2 * rng.standard_normal()), 6)


@cache
def record(series: str, step: int) -> bytes:
    at = datetime.fromtimestamp(START / 1000 + step, UTC).isoformat()
    return json.dumps({"series": series, "ts": at, "values": {c: value(series, c, step) for c in LEVELS}}).encode()


@dataclass
class Lives:
    """The broker and the workers on it."""

    delivery: str
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(SESSION_S, 300.0))
    workers: list[Worker] = field(default_factory=list)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    step: int = 0

    def chosen(self, changes: dict[str, Any]) -> Settings:
        base = {
            "delivery": self.delivery,
            "checkpoint": {"interval": "300ms"},
            "series_max": 64,
            "idle_after": "600s",
            "train": "off",
        }
        return settings(**{**base, **FIRST, **changes})

    def create(self, chosen: Settings) -> None:
        self.broker.create(chosen.input, PARTITIONS)
        for need in chosen.topic_needs(PARTITIONS):
            self.broker.create(need.name, need.partitions)

    def send(self, steps: int, names: Sequence[str] = SERIES) -> None:
        for step in range(self.step, self.step + steps):
            for series in names:
                i = SERIES.index(series)
                self.broker.append("ticks", i % PARTITIONS, series.encode(), record(series, step), START + 1000 * step)
        self.step += steps
        self.broker.announce()

    def start(self, chosen: Settings) -> Worker:
        number = len(self.workers)
        transport = MemoryTransport(self.broker, f"w{number}")
        worker = Worker(chosen, transport, WorkerObserver(chosen.stream_spec()))
        self.workers.append(worker)
        loop: Any = asyncio.get_running_loop()
        self.tasks[id(worker)] = loop.spawn(f"w{number}", worker.run())
        return worker

    async def stop(self, worker: Worker) -> None:
        worker.stop()
        await asyncio.wait_for(self.tasks[id(worker)], 60)

    def kill(self, worker: Worker) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.stop_process(f"w{self.workers.index(worker)}")

    def committed(self) -> bool:
        group = self.broker.groups.get("app")
        offsets = {p: known.offset for (_, p), known in group.committed.items()} if group else {}
        return offsets == {p: self.broker.end("ticks", p) for p in range(PARTITIONS)}

    async def served(self, *workers: Worker, written: bool = True) -> None:
        """Until everything is processed, committed and (`written`) in the changelog."""

        def there() -> bool:
            for worker in workers:
                if self.tasks[id(worker)].done():
                    self.tasks[id(worker)].result()
            pumps = [worker.pump for worker in workers if worker.pump is not None]
            owned = {p: pump for pump in pumps for p in pump.owned}
            if len(owned) < PARTITIONS or not self.committed():
                return False
            if any(
                pump.owned[p].replaying or pump.owned[p].position < self.broker.end("ticks", p)
                for p, pump in owned.items()
            ):
                return False
            return not written or not any(
                len(w.engine.table.changed_rows(p)) for w in workers for p in range(PARTITIONS)
            )

        await until(there)

    async def changed_to(self, worker: Worker, chosen: Settings, event: str, names: Sequence[str] = SERIES) -> Worker:
        """The next worker, after the present one ended in this way; nothing of the input is left unread."""
        if event == "restart":
            await self.stop(worker)
            return await self._taken(self.start(chosen))
        self.send(3, names)
        if event == "kill":
            await self.served(worker, written=False)
            self.kill(worker)
            return await self._taken(self.start(chosen))
        after = self.start(chosen)
        await until(lambda: after.pump is not None and len(after.pump.owned) == 1)
        self.send(2, names)
        await self.served(worker, after, written=False)
        self.kill(worker)
        return await self._taken(after)

    async def _taken(self, worker: Worker) -> Worker:
        await self.served(worker, written=False)
        return worker

    def counts(self, worker: Worker) -> tuple[int, int, int]:
        """(partitions that began cold, series carried, series cold), of this worker."""
        metrics = worker.observer.metrics
        found = (metrics.cold_starts, metrics.carried_rows, metrics.cold_rows)
        cold, carried, rows = (int(metric._value.get()) for metric in found)
        return cold, carried, rows

    def forecasts(self) -> list[dict[str, Any]]:
        """In the order of their records."""
        found = [json.loads(r.value) for log in self.broker.topics["app.forecasts"] for r in log if r.value is not None]
        return sorted(found, key=lambda document: int(document["source"]["offset"]))

    def uninterrupted(self, chosen: Settings, channel: str, horizon: int, quantiles: list[float]) -> Engine:
        """An engine that knows this channel alone and has seen every record."""
        spec = StreamSpec(
            (channel,), 1000, horizon, tuple(quantiles), series_max=64, idle_after_ms=600_000,
            lateness_ms=chosen.lateness, experts=(),
        )  # fmt: skip
        path = (chosen.decode.values or FIELDS)[channel]
        decoder = Decoder(spec, settings(channels=[channel], **{"decode.values": {channel: path}}).decode_spec())
        engine = Engine(spec)
        for p in range(PARTITIONS):
            records = self.broker.read("ticks", p, 0, 10**9)[0]
            batch, _ = decoder.decode(records)
            engine.process(batch)
        return engine


def check_forecasts(
    documents: list[dict[str, Any]], carried: Collection[str] = (), read: Mapping[str, Collection[str]] | None = None
) -> None:
    """Every forecast lies where its channel is, and its levels are in order; those of channels that were carried all the
    way never became as wide as a cold one's. `read`: the fields that a channel was read from, where not its own."""
    assert documents
    for document in documents:
        if (
            document["source"]["offset"] < 24
        ):  # a network says more than it knows of a channel that has come once or twice
            continue
        for channel, said in document["channels"].items():
            middles = [LEVELS[each] for each in (read or {}).get(channel, (channel,))]
            for h, mean in enumerate(said["mean"]):
                if mean is None:
                    continue
                assert min(abs(mean - middle) for middle in middles) < 8, (
                    document["series"],
                    channel,
                    mean,
                    document["source"],
                )
                levels = [said["quantiles"][level][h] for level in sorted(said["quantiles"], key=float)]
                assert levels == sorted(levels)
                if document["warm"] and channel in carried:
                    assert levels[-1] - levels[0] < 10 * (h + 1) ** 0.5, (channel, h, levels, document["source"])
