"""Two workers that are killed, stopped and joined by others under load, on a real broker: nothing lost, nothing doubled
under exactly-once, and the states at the end bit for bit those of a run that nobody disturbed.

STREAMRNN_KILLS (100) and STREAMRNN_KILL_SEED (0) size and vary the long runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from broker import Broker
from reference import judged, publish, weights
from service import Forked, Process, configure, defects, drained, each

from streamrnn.config.settings import load
from streamrnn.stores.changelog import SERIES as SERIES_KEY
from streamrnn.transports.base import TopicNeed
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka

KILLS = int(os.environ.get("STREAMRNN_KILLS", "100"))
ZOMBIES = BROKER_KILLS = max(1, KILLS // 5)
CHURN_S = 3 * KILLS
SEED = int(os.environ.get("STREAMRNN_KILL_SEED", "0"))
DELIVERIES = ("at-least-once", "exactly-once")
PARTITIONS = 4
RATE = 1200
SERIES = 320
START_MS = 1_700_000_000_000
# Offsets of a partition of the state topic before which no state is left: more than a state of each of its series.
CLEANED = 3 * SERIES // PARTITIONS // 2
# A state topic whose log is cleaned whenever the cleaner comes by (`log.cleaner.backoff.ms`), down to the last segment.
EAGER = {
    "segment.bytes": "1048576",
    "segment.ms": "500",  # what is written to is not cleaned
    "min.cleanable.dirty.ratio": "0.01",
    "min.compaction.lag.ms": "0",
    "delete.retention.ms": "0",
}
FAULTS = (
    "--missing-channels",
    0.05,
    "--missing-ticks",
    0.02,
    "--duplicates",
    0.01,
    "--disorder",
    0.01,
    "--poison",
    0.01,
)


class Service:
    """Workers whose supervisor starts again what has ended, and the load on them."""

    def __init__(self, broker: Broker, folder: Path, app: str, delivery: str, **changes: Any) -> None:
        self.broker, self.folder, self.app = broker, folder, app
        self.luck = random.Random(f"{app}-{SEED}")
        base: dict[str, Any] = {
            "delivery": delivery,
            "model": {"hidden": 16, "layers": 1},
            "batch_records_max": 200,
            # Short ones, so that many a kill finds one being written.
            "checkpoint": {"interval": "500ms", "records": 2000},
        }
        self.config = configure(folder, broker, app, **{**base, **changes})
        self.settings = load([self.config], {}, {})
        self.workers: dict[str, Process] = {}
        self.starts = self.loads = 0
        self.exits: list[int] = []
        self.blobs: dict[str, bytes] = {}

    async def begin(self, workers: int = 2, **state: str) -> None:
        """`state`: what is to be otherwise about the state topic."""
        needs = [TopicNeed(self.settings.input, PARTITIONS, {}), *self.settings.topic_needs(PARTITIONS)]
        admin = KafkaTransport(self.settings.kafka_settings()).admin()
        await admin.start()
        await admin.create(
            [
                replace(need, config={**need.config, **state}) if need.name == self.settings.topics.state else need
                for need in needs
            ]
        )
        await admin.stop()
        await self.new_weights()
        self.load()
        for number in range(workers):
            self.start(f"w{number}")
        for worker in self.workers.values():
            worker.waits_for("partition assigned")

    def load(self) -> None:
        """Ticks; those of a simulator that gave up on the broker are followed by another's, an hour later by their time."""
        self.loads += 1
        self.simulator = Forked(
            self.folder / f"simulator.{self.loads}.log", "simulate", "sensors", "-c", self.config, "--rate", RATE,
            "--series", SERIES, "--seed", SEED, "--start-ms", START_MS + 3_600_000 * self.loads, *FAULTS,
        )  # fmt: skip

    async def new_weights(self) -> None:
        model, blob = weights(self.settings, len(self.blobs))
        self.blobs[model] = blob
        await publish(self.settings, model, blob)

    def start(self, name: str) -> Process:
        self.starts += 1
        log = self.folder / f"{name}.{self.starts}.log"
        self.workers[name] = Forked(log, "run", "-c", self.config)
        return self.workers[name]

    def any(self) -> str:
        return self.luck.choice(sorted(self.workers))

    def restart_what_ended(self) -> None:
        for name, worker in self.workers.items():
            code = worker.exit_code()
            if code is not None:
                self.exits.append(code)
                self.start(name)

    async def pause(self, seconds: float) -> None:
        """Time passes; a worker that gives up in it is started again, as systemd would."""
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.2))
            self.restart_what_ended()
            if self.simulator.exit_code() is not None:
                self.load()

    async def owning(self, wanted: dict[str, int]) -> None:
        """Waits until workers have so many partitions, restored and all."""
        async with asyncio.timeout(120):
            while any(owned(self.workers[name]) != count for name, count in wanted.items()):
                await self.pause(0.1)

    async def end(self) -> None:
        """The load ends, what is left is processed, and the workers stop one after the other."""
        self.simulator.kill()
        draining = asyncio.create_task(drained(self.broker, self.app, timeout_s=180))
        while not draining.done():
            self.restart_what_ended()
            await asyncio.sleep(0.2)
        await draining
        codes = [worker.stop() for worker in self.workers.values()]
        assert codes == [0] * len(codes)

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("w*.log")))

    def stop_all(self) -> None:
        """Whatever happened: nothing is left running."""
        for process in [*self.workers.values(), self.simulator]:
            process.signal(signal.SIGCONT)
            process.kill()


def metrics(worker: Process) -> dict[str, float]:
    """What a worker says of itself, by HTTP, as an operator would ask."""
    worker.waits_for("serving HTTP")
    line = next(line for line in worker.said().splitlines() if "serving HTTP" in line)
    url = line.split('"url": "')[1].split('"')[0]
    with urllib.request.urlopen(f"{url}metrics", timeout=10) as answer:  # noqa: S310 - our own, on loopback
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def owned(worker: Process) -> int:
    return sum(name.startswith("streamrnn_partition_position") for name in metrics(worker))


@pytest.fixture
def service(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> Any:
    made: list[Service] = []

    def make(delivery: str, on: Broker = broker, **changes: Any) -> Service:
        made.append(Service(on, tmp_path, unique("kills"), delivery, **changes))
        return made[-1]

    yield make
    for one in made:
        one.stop_all()


def short_and_long(short: int, count: int) -> Any:
    return pytest.mark.parametrize("count", [short, pytest.param(count, marks=pytest.mark.kafka_long)])


both = pytest.mark.parametrize("delivery", DELIVERIES)


async def judge(running: Service, what: str) -> None:
    """Ends the run and holds it against one that nobody disturbed."""
    await running.pause(2.0)
    await running.end()
    verdict = await judged(running.broker, running.settings, running.blobs)
    print(f"\n{running.settings.delivery}, {what}, at {RATE} records/s: {verdict}")
    verdict.assert_sound(exactly_once=running.settings.delivery == "exactly-once")
    assert "without its state" not in running.logs()
    assert not defects(running.logs())


@both
@short_and_long(3, KILLS)
async def test_workers_killed_at_any_moment(service: Any, delivery: str, count: int) -> None:
    running: Service = service(delivery)
    await running.begin()
    serving = 0
    for number in range(count):
        # Half of them soon, when the worker before has hardly joined or restores what it was given.
        soon = running.luck.random() < 0.5
        await running.pause(running.luck.uniform(0.0, 0.8) if soon else running.luck.uniform(0.8, 4.0))
        name = running.any()
        serving += "partition assigned" in running.workers[name].said()
        running.workers[name].kill()
        running.start(name)
        if number == count // 2:
            await running.new_weights()
    await judge(running, f"{count} kill -9 of one of two workers, {serving} while it served")


@pytest.mark.parametrize(
    ("delivery", "kills"),
    [
        ("exactly-once", 1),
        pytest.param("exactly-once", 2, marks=pytest.mark.kafka_long),
        pytest.param("at-least-once", 2, marks=pytest.mark.kafka_long),
    ],
)
async def test_what_the_cleaner_takes_away_is_not_missed(service: Any, delivery: str, kills: int) -> None:
    """The state topic's log is compacted as often as the broker can, and read by a new owner each time."""
    running: Service = service(delivery, checkpoint={"interval": "200ms", "records": 1000})
    await running.begin(**EAGER)
    for kill in range(kills):
        async with asyncio.timeout(180):
            while min(await cleaned(running)) < CLEANED * (kill + 1):
                await running.pause(0.5)
        running.workers[running.any()].kill()
        await running.pause(1.0)
    await judge(running, f"{kills} kill -9, compacted up to {await cleaned(running)}")


async def cleaned(running: Service) -> list[int]:
    """Per partition of the state topic the oldest state that is still there."""
    oldest = dict.fromkeys(range(PARTITIONS), 0)
    seen: set[int] = set()
    async for record in each(running.broker, running.settings.topics.state):
        if record.key.startswith(SERIES_KEY) and record.partition not in seen:
            seen.add(record.partition)
            oldest[record.partition] = record.offset
    return list(oldest.values())


@both
@pytest.mark.kafka_long
async def test_a_broker_killed_again_and_again(service: Any, own_broker: Broker, delivery: str) -> None:
    running: Service = service(delivery, on=own_broker)
    await running.begin()
    for _ in range(BROKER_KILLS):
        await running.pause(running.luck.uniform(0.5, 5.0))
        own_broker.kill()
        await running.pause(running.luck.choice([0.0, 3.0]))
        own_broker.start()
    await judge(running, f"{BROKER_KILLS} kill -9 of the broker, workers' exits {running.exits}")
    assert running.exits == []  # liveness: nobody ends because a broker is away for a while


@both
@short_and_long(1, ZOMBIES)
async def test_workers_stopped_beyond_their_session_that_come_back(service: Any, delivery: str, count: int) -> None:
    running: Service = service(delivery)
    await running.begin()
    for _ in range(count):
        await running.pause(running.luck.uniform(0.5, 2.0))
        await running.owning({"w0": 2, "w1": 2})
        stopped, other = running.luck.sample(["w0", "w1"], 2)
        running.workers[stopped].signal(signal.SIGSTOP)
        await running.owning({other: 4})
        await running.pause(running.luck.uniform(0.0, 2.0))
        running.workers[stopped].signal(signal.SIGCONT)
    refused = running.logs().count("commit refused") + running.logs().count("ProducerFenced")
    await judge(running, f"{count} stops beyond the session, commits of the stopped refused {refused}")


@both
@pytest.mark.kafka_long
async def test_a_rebalance_every_two_seconds(service: Any, delivery: str) -> None:
    """A third member comes and goes; nobody restores what it still has, and nobody grows."""
    running: Service = service(delivery)
    await running.begin()
    sizes: list[list[int]] = []
    for number in range(CHURN_S // 2):
        if number % 2 == 0:
            running.start("guest")
        else:
            assert running.workers.pop("guest").stop() == 0
        await running.pause(2.0)
        sizes.append([psutil.Process(worker.pid).memory_info().rss for worker in running.workers.values()][:2])
    seen = [metrics(worker) for worker in running.workers.values()]
    assert [of["streamrnn_cold_starts_total"] for of in seen] == [0.0, 0.0]
    quarter = len(sizes) // 4
    growth = [max(s[i] for s in sizes[-quarter:]) - max(s[i] for s in sizes[quarter : 2 * quarter]) for i in range(2)]
    parked = running.logs().count("its state was still here")
    restored = running.logs().count('"partition assigned"')
    await judge(
        running,
        f"a rebalance every 2 s for {CHURN_S} s, partitions restored {restored} times and found parked {parked} times, "
        f"workers grew by {[round(by / 2**20, 1) for by in growth]} MB from the second quarter to the last",
    )
    assert max(growth) < 20 * 2**20


@pytest.mark.kafka_long
async def test_a_trainer_at_work_costs_no_member_its_place(service: Any, own_broker: Broker) -> None:
    """Rows 7: members come and go while the trainer trains flat out; its network is served all the same."""
    learn = {"min_steps": 2000, "updates": 100_000, "budget": "8s", "interval": "1s"}
    session = {"bootstrap_servers": own_broker.servers, "session_timeout_ms": 3000, "heartbeat_interval_ms": 500}
    running: Service = service("at-least-once", on=own_broker, learn=learn, kafka=session)
    await running.begin()
    trainer = Process(running.folder / "trainer.log", "train", "-c", running.config)
    try:
        for number in range(30):
            if number % 2 == 0:
                running.start("guest")
            else:
                assert running.workers.pop("guest").stop() == 0
            await running.pause(2.0)
        swaps = [metrics(worker)["streamrnn_weights_swaps_total"] for worker in running.workers.values()]
    finally:
        code = trainer.stop(60)
    assert code == 0
    await running.end()
    evicted = [line for line in own_broker.log().splitlines() if "has failed, removing it" in line]
    print(f"\n30 rebalances in 60 s beside a trainer flat out: evictions {len(evicted)}, swaps {swaps}")
    assert evicted == []
    assert min(swaps) >= 2  # the first are those that the run began with
