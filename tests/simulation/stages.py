"""Lives of a service of two stages (`repartition: on`) under the same faults: nothing is lost on the way, all counts once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

from faults import KINDS, POLL_INTERVAL_S, SESSION_S, Faults
from ledger import Violation
from stream import LEARN, START
from world import HEAL_S, Report, World, _loop

from streamrnn.config.settings import load
from streamrnn.inputs import Place
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.worker import Worker
from streamrnn.transports.memory.transport import MemoryBroker, MemoryRecord

TICKS, BETWEEN = "app.ticks", 2


class Stages(World):
    """Series that lie in one partition each, so that it is known what must come of each record; some records are poison."""

    def __init__(self, seed: int, delivery: str, kinds: tuple[str, ...] = KINDS) -> None:
        self.seed, self.kinds = seed, kinds
        rng = self.random = random.Random(f"stages-{seed}")
        random.seed(seed)
        self.places: list[Place] = rng.choice([[("in", 0), ("in", 1)], [("in.a", 0), ("in.b", 0)]])
        topics = list(dict.fromkeys(topic for topic, _ in self.places))
        chosen: dict[str, Any] = {
            "app": "app", "input": topics, "channels": ["a", "b"], "step": "1s", "horizon": 2,
            "quantiles": [0.1, 0.5, 0.9], "model": {"hidden": 4, "layers": 1}, "learn": LEARN, "warm_up": 4,
            "poll_timeout": "50ms", "delivery": delivery, "delivery_timeout": "5s", "stall_after": "3s",
            "shutdown_grace": "3s", "batch_records_max": rng.choice([1, 7, 20, 60]), "train": "off",
            "commit_interval": rng.choice(["1ms", "500ms"]), "kafka": {"metadata_max_age_ms": 1000},
            "checkpoint": {"interval": rng.choice(["10ms", "200ms", "2s"])}, "repartition": True,
            "idle_after": "1h",  # while a partition waits for its owner the others go on: no series is silent for that
        }  # fmt: skip
        self.settings = load([], chosen, {})
        self.broker = MemoryBroker(SESSION_S, POLL_INTERVAL_S)
        for topic in topics:
            self.broker.create(topic, sum(name == topic for name, _ in self.places))
        for need in self.settings.topic_needs(BETWEEN):
            self.broker.create(need.name, need.partitions)
        self.count = rng.choice([40, 120])
        self.bad: set[tuple[str, int, int]] = set()
        self.report = Report(seed, delivery)
        self.workers, self.trainers = {}, {}
        self._stops, self._killed, self._over = {}, {}, False

    async def run(self) -> Report:
        loop = _loop()
        self._violation: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._noticed)
        self.faults = Faults(self.seed, self.broker, self.kill, self._terminate, self.kinds)
        living = asyncio.create_task(self._live())
        await asyncio.wait({living, self._violation}, return_when=asyncio.FIRST_COMPLETED)
        if self._violation.done():
            self._violation.result()
        await living
        self.report.fired = self.faults.fired
        return self.report

    async def _live(self) -> None:
        self.broker.hook = lambda what, client, effect: self.faults.request(what, client, effect)
        self.faults.begin()
        slots = [asyncio.create_task(self._slot(f"w{i}", self._worker)) for i in range(self.random.choice([1, 2, 3]))]
        for step in range(self.count):
            for topic, p in self.places:
                await asyncio.sleep(self.random.expovariate(1 / 0.03))
                self._put(topic, p, step)
        await asyncio.sleep(self.random.uniform(0.0, 3.0))
        self.faults.stop()
        until = _loop().time() + HEAL_S
        while not self._at_rest():
            if _loop().time() > until:
                raise Violation(f"I10 liveness: {self._offsets()} after {HEAL_S} s without faults")
            await asyncio.sleep(0.5)
        await self._end(slots)
        self.check_end()

    def _put(self, topic: str, p: int, step: int) -> None:
        ts = START + 1000 * step
        for name in (f"{topic}{p}x", f"{topic}{p}y"):
            value = json.dumps({"series": name, "ts": ts, "values": {"a": step % 7, "b": 0.5 * step}}).encode()
            if self.random.random() < 0.03:
                value = b"{"
                self.bad.add((topic, p, self.broker.end(topic, p)))
            self.broker.append(topic, p, name.encode(), value, ts)
        self.broker.announce()

    async def _worker(self, client: str) -> None:
        worker = Worker(
            self.settings, self.transport(client), WorkerObserver(self.settings.stream_spec()), now_ms=self.now_ms
        )
        self._stops[client] = worker.stop
        await worker.run()

    # ── what must hold in the end ────────────────────────────────────────────────────────────────────────────────

    def _offsets(self) -> dict[str, dict[Place, int]]:
        return {
            name: {place: entry.offset for place, entry in group.committed.items()}
            for name, group in self.broker.groups.items()
        }

    def _at_rest(self) -> bool:
        known, ends = self._offsets(), {place: self.broker.end(*place) for place in self.places}
        if known.get("app.repartition") != ends or any(self.broker._open.values()):
            return False
        return all(known.get("app", {}).get((TICKS, p), 0) >= self._last(p) for p in range(BETWEEN))

    def _last(self, partition: int) -> int:
        """The offset after the last record that can be read."""
        log = self.broker.topics[TICKS][partition]
        return next((record.offset + 1 for record in reversed(log) if record.visible), 0)

    def _visible(self, topic: str) -> list[MemoryRecord]:
        return [record for log in self.broker.topics[topic] for record in log if record.visible]

    def check_end(self) -> None:
        once = self.settings.delivery == "exactly-once"
        everything = {(t, p, o) for t, p in self.places for o in range(self.broker.end(t, p))}
        good = everything - self.bad
        passed: Counter[tuple[str, int, int]] = Counter()
        newest: dict[tuple[int, str], int] = {}
        for record in self._visible(TICKS):
            source = json.loads(record.value or b"")["source"]
            at = source["topic"], source["partition"], source["offset"]
            passed[at] += 1
            where = record.partition, (record.key or b"").decode()
            if passed[at] == 1 and at[2] < newest.get(where, -1):
                raise Violation(f"I2 order: {at} stands after {newest[where]} of its series")
            newest[where] = max(newest.get(where, -1), at[2])
        said: Counter[tuple[str, int, int]] = Counter()
        for record in self._visible("app.forecasts"):
            document = json.loads(record.value or b"")
            source = document["source"]
            said[source["topic"], source["partition"], source["offset"]] += 1
        letters: Counter[tuple[str, int, int]] = Counter()
        for record in self._visible("app.dlq"):
            topic, p, o = dict(record.headers)["streamrnn-source"].decode().split("/")
            letters[topic, int(p), int(o)] += 1
        for what, found, wanted in (("ticks", passed, good), ("forecasts", said, good), ("letters", letters, self.bad)):
            if found.keys() != wanted:
                lost, extra = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
                raise Violation(f"I1 conservation: {what}: {len(lost)} lost {lost[:3]}, {len(extra)} extra {extra[:3]}")
            if once and (twice := [at for at, times in found.items() if times > 1]):
                raise Violation(f"I1 exactly once: {what}: {twice[:3]}")
        self.report.records = len(everything)
        self.report.repeated = sum(passed.values()) - len(passed)


def live(arguments: tuple[int, str]) -> tuple[int, Report | str]:
    """See `run.one`."""
    import traceback

    from clock import run

    seed, delivery = arguments
    try:
        return seed, run(Stages(seed, delivery).run())
    except Exception:  # noqa: BLE001 - reported with its seed
        return seed, traceback.format_exc()
