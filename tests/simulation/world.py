"""One simulated life of the service: input, workers that die and come back, and the checks at its end."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from clock import CLIENT, VirtualLoop
from faults import KINDS, Faults, put_out

from streamrnn.codec import Decoder
from streamrnn.encode import Encoder
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, build, pack, weights_id
from streamrnn.service.config import Settings, load
from streamrnn.service.observe import WorkerObserver
from streamrnn.service.worker import Worker
from streamrnn.stream.engine import Engine
from streamrnn.transports.base import TransportError
from streamrnn.transports.changelog import CHECKPOINT
from streamrnn.transports.memory import MemoryBroker, MemoryRecord, MemoryTransport
from streamrnn.transports.models import ModelsWriter

START = 1_700_000_000_000
PARTITIONS = 2
TOPICS = ("app.forecasts", "app.imputed", "app.dlq")
HEAL_S = 200.0

# topic, partition, source offset, event time (0: dead letter), series, value
Row = tuple[str, int, int, int, str, bytes]


class Violation(AssertionError):
    """An invariant does not hold; the message names it."""


@dataclass
class Report:
    """What a run did, for the tally over many seeds."""

    seed: int
    delivery: str
    records: int = 0
    duplicates: int = 0
    swaps: int = 0
    starts: int = 0
    virtual_s: float = 0.0
    fired: dict[str, int] = field(default_factory=dict)


def settings(rng: random.Random, delivery: str) -> Settings:
    within = rng.choice(["one", "one", "one", "last", "mean"])
    return load(
        [],
        {
            "app": "app",
            "input": "ticks",
            "channels": ["a", "b"],
            "step": "1s",
            "horizon": 2,
            "quantiles": [0.1, 0.5, 0.9],
            "model": {"hidden": 4, "layers": 1},
            "burn_in": 6,
            "warm_up": 4,
            "within": within,
            "lateness": rng.choice(["0s", "2s"]) if within == "one" else "2s",
            "idle_after": rng.choice(["4s", "20s", "300s"]),
            "gap_max": rng.choice([0, 3, 20]),
            "imputed": rng.choice(["gaps", "all"]),
            "series_max": 64,
            "poll_timeout": "50ms",
            "delivery": delivery,
            "delivery_timeout": "5s",
            "shutdown_grace": "3s",
            "batch_records_max": rng.choice([1, 3, 7, 20, 60]),
            "checkpoint": {
                "interval": rng.choice(["10ms", "200ms", "2s", "30s"]),
                "records": rng.choice([3, 20, 1000]),
            },
            "train": "off",
            "learn": {"swap_min": "0s"},
        },
        {},
    )


@cache
def weights(number: int) -> tuple[str, bytes]:
    chosen = settings(random.Random(0), "at-least-once")
    torch.manual_seed(number)
    network = Network(chosen.model_spec())
    torch.nn.init.normal_(network.out.weight, 0.0, 0.3)
    return weights_id(network), pack(network, WeightsMeta())


def ticks(rng: random.Random, count: int) -> list[list[tuple[bytes | None, bytes | None, int]]]:
    """Per partition (key, value, time): series that speak in turn, with gaps, repeats, disorder, silence and poison."""
    logs: list[list[tuple[bytes | None, bytes | None, int]]] = []
    for partition in range(PARTITIONS):
        names = [f"s{partition}{i}" for i in range(rng.randint(1, 4))]
        log: list[tuple[bytes | None, bytes | None, int]] = []
        step = 0
        for i in range(count):
            step += rng.random() < 0.5
            if rng.random() < 0.02:
                step += rng.randint(3, 12)
            name = rng.choice(names) if rng.random() < 0.9 else names[0]
            ts = START + 1000 * (step - (rng.randint(1, 4) if rng.random() < 0.08 else 0))
            chance = rng.random()
            if chance < 0.03:
                log.append((name.encode(), rng.choice([b"{", None, b"[]", b'{"series":"x","ts":1e999}']), ts))
                continue
            values = {c: round(10 + rng.gauss(0, 1) + i / 50, 3) for c in "ab" if rng.random() < 0.9}
            log.append((name.encode(), json.dumps({"series": name, "ts": ts, "values": values}).encode(), ts))
        logs.append(log)
    return logs


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, kinds: tuple[str, ...] = KINDS, delivery: str = "") -> None:
        self.seed = seed
        rng = self.random = random.Random(f"world-{seed}")
        random.seed(seed)  # the service's own back-off
        self.settings = settings(rng, delivery or rng.choice(["at-least-once", "exactly-once"]))
        self.broker = MemoryBroker()
        self.broker.create("ticks", PARTITIONS)
        for need in self.settings.topic_needs(PARTITIONS):
            self.broker.create(need.name, need.partitions)
        self.kinds = kinds
        self.report = Report(seed, self.settings.delivery)
        self.running: dict[str, tuple[Worker, asyncio.Task[Any]]] = {}
        self.logs = ticks(rng, rng.choice([40, 120, 250]))
        self.swaps = rng.choice([0, 0, 1, 3])
        self.served = rng.random() < 0.8
        self._checked = dict.fromkeys(range(PARTITIONS), 0)
        self._over = False

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> Report:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.faults = Faults(self.seed, self.broker, self.kill, self.kinds)
        self.broker.hook = self._hook
        writer = ModelsWriter(MemoryTransport(self.broker, "trainer").sink(), "app.models")
        if self.served:
            await writer.publish(*weights(0), {}, START)
        self.faults.begin()
        slots = [asyncio.create_task(self._slot(f"w{i}")) for i in range(self.random.choice([1, 2, 3]))]
        feeding = asyncio.create_task(self._feed())
        for number in range(self.swaps):
            await asyncio.sleep(self.random.uniform(0.5, 4.0))
            await writer.publish(*weights(number + 1), {}, START)
        await feeding
        await asyncio.sleep(self.random.uniform(0.0, 5.0))
        self.faults.stop()
        await self._healed()
        self._over = True
        live = {name: worker for name, (worker, _) in self.running.items()}
        self.check(live)
        for worker in live.values():
            worker.stop()
        await asyncio.wait(slots, timeout=60.0)
        self.check_checkpoints()
        self.report.virtual_s = loop.time() - begun
        self.report.fired = self.faults.fired
        return self.report

    async def _hook(self, what: str, client: str) -> None:
        if what == "produced":
            self.check_checkpoints()
        await self.faults.at(what, client)

    async def _feed(self) -> None:
        at = [0] * PARTITIONS
        while any(at[p] < len(self.logs[p]) for p in range(PARTITIONS)):
            p = self.random.randrange(PARTITIONS)
            for key, value, ts in self.logs[p][at[p] : at[p] + self.random.choice([1, 2, 5, 30])]:
                self.broker.append("ticks", p, key, value, ts)
                at[p] += 1
            await self.broker.announce()
            await asyncio.sleep(self.random.expovariate(1 / 0.05))

    async def _slot(self, slot: str) -> None:
        """A process supervisor: what ends is started again."""
        number = 0
        while not self._over:
            client = f"{slot}.{number}"
            number += 1
            CLIENT.set(client)
            observer = WorkerObserver(self.settings.stream_spec())
            worker = Worker(self.settings, MemoryTransport(self.broker, client), observer)
            task = asyncio.create_task(worker.run())
            CLIENT.set("")
            self.running[slot] = (worker, task)
            self.report.starts += 1
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                error = task.exception()
                if not isinstance(error, TransportError):
                    raise Violation(f"a worker died of what is no fault of the broker: {error!r}") from error
            self.faults.dead.add(client)  # what it left running reaches the broker no more
            await asyncio.sleep(self.random.uniform(0.05, 1.0))
            await put_out(self.broker, client)

    def kill(self, client: str) -> None:
        """kill -9: all it was doing ends at once, and nothing of it reaches the broker any more."""
        self.faults.dead.add(client)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.end_tasks_of(client)

    async def _healed(self) -> None:
        """I10: with no more faults, everything is read, delivered and committed within a bounded time."""
        ends = {p: len(self.logs[p]) for p in range(PARTITIONS)}
        loop = asyncio.get_running_loop()
        until = loop.time() + HEAL_S
        while self.committed() != ends or any(
            self.broker.stable_end(topic, p) != self.broker.end(topic, p) for topic in TOPICS for p in range(PARTITIONS)
        ):
            if loop.time() > until:
                raise Violation(f"I10 liveness: committed {self.committed()} of {ends} after {HEAL_S} s without faults")
            await asyncio.sleep(0.5)
        await asyncio.sleep(3.0)

    def committed(self) -> dict[int, int]:
        group = self.broker.groups.get("app")
        return {p: entry.offset for (_, p), entry in sorted(group.committed.items())} if group else {}

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    def check_checkpoints(self) -> None:
        """I3: a checkpoint never says more than what was committed."""
        committed = self.committed()
        for p in range(PARTITIONS):
            log = self.broker.topics["app.state"][p]
            for record in log[self._checked[p] :]:
                if record.key == CHECKPOINT and record.value is not None and readable(record):
                    found = json.loads(record.value)["offset"]
                    if found > committed.get(p, 0):
                        raise Violation(f"I3 order: checkpoint {found} before {committed.get(p, 0)} was committed")
            self._checked[p] = len(log)

    def check(self, live: dict[str, Worker]) -> None:
        said = Counter(row for topic in TOPICS for row in self._said(topic))
        wanted, engines = self._reference()
        self.report.records = sum(len(log) for log in self.logs)
        self.report.duplicates = sum(said.values()) - len(said)
        distinct = set(said)
        if not self.swaps:
            if distinct != set(wanted):
                self._differs(distinct, set(wanted))
            self._check_states(live, engines)
        else:
            # Which weights serve when depends on the run; what is said about which record does not.
            plain = {row[:5] for row in distinct}
            if plain != {row[:5] for row in wanted}:
                self._differs(plain, {row[:5] for row in wanted})
        if self.settings.delivery == "exactly-once":
            again = Counter({row[:5]: 0 for row in distinct})
            for row, count in said.items():
                again[row[:5]] += count
            several = [row for row, count in again.items() if count > 1]
            if several:
                raise Violation(f"I1 exactly once: said more than once: {sorted(several)[:3]}")
            self._check_order()
        for worker in live.values():
            if len(worker.engine.table) > self.settings.series_max:
                raise Violation("I6 bounds: more series than series_max")

    def _differs(self, said: set[Any], wanted: set[Any]) -> None:
        lost, extra = sorted(wanted - said), sorted(said - wanted)
        raise Violation(
            f"I1 conservation: {len(lost)} outputs lost, {len(extra)} nobody should have said; "
            f"lost {lost[:2]}, extra {extra[:2]}"
        )

    def _check_order(self) -> None:
        """I2, I7: what committed transactions said of one partition is in the order of its input."""
        for topic in ("app.forecasts", "app.dlq"):
            for p in range(PARTITIONS):
                offsets = [row[2] for row in self._said(topic) if row[1] == p]
                if offsets != sorted(offsets):
                    raise Violation(f"I2 order: {topic}/{p} is not in the order of the input")

    def _check_states(self, live: dict[str, Worker], engines: dict[int, Engine]) -> None:
        """I4: every row is what an uninterrupted run has, bit for bit."""
        held: set[int] = set()
        for worker in live.values():
            if worker.pump is None:
                continue
            for p in worker.pump.owned:
                held.add(p)
                mine, theirs = worker.engine.table, engines[p].table
                if mine.series(p).keys() != theirs.series(p).keys():
                    raise Violation(f"I4 replay: partition {p} has {set(mine.series(p))}, not {set(theirs.series(p))}")
                for name, row in mine.series(p).items():
                    other = theirs.series(p)[name]
                    for column, values in mine.columns.items():
                        if column != "applied" and values[row].tobytes() != theirs.columns[column][other].tobytes():
                            raise Violation(f"I4 replay: {column} of {name} is not what an uninterrupted run has")
        if held != set(range(PARTITIONS)):
            raise Violation(f"I7 ownership: partitions {held} are owned")

    def _said(self, topic: str) -> list[Row]:
        """As a `read_committed` client sees it."""
        rows: list[Row] = []
        for p in range(PARTITIONS):
            for record in self.broker.read(topic, p, 0, 10**9)[0]:
                value = record.value or b""
                if topic == "app.dlq":
                    _, partition, offset = dict(record.headers)["streamrnn-source"].decode().split("/")
                    rows.append((topic, int(partition), int(offset), 0, "", value))
                    continue
                found = json.loads(value)
                source = found["source"]
                rows.append((topic, source["partition"], source["offset"], found["ts"], found["series"], value))
        return rows

    def _reference(self) -> tuple[set[Row], dict[int, Engine]]:
        """What one engine per partition says that is never interrupted."""
        stream = self.settings.stream_spec()
        encoder, rows, engines = Encoder(stream, "ticks"), set(), {}
        for p in range(PARTITIONS):
            engine = engines[p] = Engine(stream)
            if self.served:
                network, _ = build(weights(0)[1])
                engine.load(network, weights(0)[0])
            decoder = Decoder(stream, self.settings.decode_spec())
            records = [MemoryRecord("ticks", p, i, ts, key, value) for i, (key, value, ts) in enumerate(self.logs[p])]
            batch, unread = decoder.decode(records)
            outputs = engine.process(batch)
            offset = batch.offset
            for kind, part, texts in (
                ("app.forecasts", outputs.forecasts, encoder.forecasts(outputs.forecasts, batch)),
                ("app.imputed", outputs.imputations, encoder.imputations(outputs.imputations, batch)),
            ):
                rows |= {
                    (kind, p, int(offset[tick]), int(ts), series, text)
                    for tick, ts, series, text in zip(part.tick, part.ts_ms, part.series, texts, strict=True)
                }
            rows |= {("app.dlq", p, item.record.offset, 0, "", item.record.value or b"") for item in unread}
            rows |= {
                ("app.dlq", p, int(offset[tick]), 0, "", batch.records[tick].value) for tick, _, _ in outputs.rejected
            }
        return rows, engines


def readable(record: MemoryRecord) -> bool:
    return record.transaction is None or record.transaction.state == "committed"
