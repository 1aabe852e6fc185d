"""What operators do in the first month, on a real broker: each ends with the right state or a line that says what to do."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from broker import Broker
from clients import settings_for
from lives import CASES, DELIVERIES, EVENTS, FIRST, HISTORIES, SERIES, check_forecasts, record
from reference import publish
from service import Forked, Process, command, configure, drained, read_all, sources
from test_identity import kept, published_weights, read, through

from streamrnn.config.settings import Settings, load
from streamrnn.stores.changelog import newest_checkpoints
from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka

# ── another configuration ────────────────────────────────────────────────────────────────────────────────────────────

PARTITIONS = 2
START_MS = 1_700_000_000_000
COLD, CARRIED = "partition starts without its state", "states are carried over into a changed configuration"


class Operated:
    """One app and the processes that serve it, one configuration after the other."""

    def __init__(self, broker: Broker, folder: Path, app: str, delivery: str = "at-least-once") -> None:
        self.broker, self.folder, self.app, self.delivery = broker, folder, app, delivery
        self.step, self.workers = 0, list[Forked]()
        self.configure({})
        command("topics", "-c", self.config, "--create", "--partitions", str(PARTITIONS))

    def configure(self, changes: dict[str, Any]) -> Settings:
        """Changes from the first configuration; dots in keys as on the command line."""
        nested: dict[str, Any] = {"checkpoint": {"interval": "200ms"}, "idle_after": "600s", "delivery": self.delivery}
        nested["warm_up"] = 8
        for key, value in {**FIRST, **changes}.items():
            *path, last = key.split(".")
            at = nested
            for part in path:
                at = at.setdefault(part, {})
            at[last] = value
        self.config = configure(self.folder, self.broker, self.app, **nested)
        self.settings = load([self.config], {}, {})
        return self.settings

    async def send(self, steps: int) -> None:
        sink = KafkaTransport(self.settings.kafka_settings()).sink()
        await sink.start()
        for p in range(PARTITIONS):
            rows = [(s, k) for k in range(self.step, self.step + steps) for s in SERIES[p::PARTITIONS]]
            await sink.append_many(
                self.settings.input, p, [s.encode() for s, _ in rows], [record(s, k) for s, k in rows],
                [START_MS + 1000 * k for _, k in rows],
            )  # fmt: skip
        await (await sink.seal()).wait(Deadline(30.0))
        await sink.stop(Deadline(10.0))
        self.step += steps

    async def run(self, steps: int = 0) -> Forked:
        """A new worker, until all that there is, and so many steps more, is committed."""
        worker = Forked(self.folder / f"{self.app}.{len(self.workers)}.log", "run", "-c", self.config)
        self.workers.append(worker)
        worker.waits_for("partition assigned")
        if steps:
            await self.send(steps)
        await drained(self.broker, self.app)
        return worker

    async def next(self, event: str, steps: int = 10) -> Forked:
        """A worker of the configuration that there is by now, after the present one has ended in this way."""
        before = self.workers[-1]
        if event == "restart":
            assert before.stop() == 0
        elif event == "kill":
            before.kill()
        else:
            after = await self.run(steps)
            before.kill()
            await self.send(steps)
            await drained(self.broker, self.app)
            return after
        return await self.run(steps)

    async def written(self) -> None:
        """Until the changelog holds all states as they are now."""
        transport, end = KafkaTransport(self.settings.kafka_settings()), self.step * len(SERIES) // PARTITIONS
        async with asyncio.timeout(60):
            while True:
                found = await newest_checkpoints(transport, f"{self.app}.state", 30.0)
                if [checkpoint.offset for checkpoint in found.values()] == [end] * PARTITIONS:
                    return
                await asyncio.sleep(0.1)

    def lines(self, worker: Forked, event: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in worker.said().splitlines() if event in line]

    async def forecasts(self, since: int = 0) -> list[dict[str, Any]]:
        """In the order of their records, of steps sent from `since` on."""
        found = [json.loads(r.value) for r in await read_all(self.broker, f"{self.app}.forecasts")]
        first = since * len(SERIES) // PARTITIONS
        return sorted((d for d in found if d["source"]["offset"] >= first), key=lambda d: d["source"]["offset"])

    async def refused(self) -> set[str]:
        return {dict(r.headers)["streamrnn-reason"].decode() for r in await read_all(self.broker, f"{self.app}.dlq")}

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()


@pytest.fixture
def operated(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> Any:
    made = Operated(broker, tmp_path, unique("operated"))
    yield made
    made.end()


@pytest.mark.kafka_long  # in process: serving/test_identity.py
async def test_a_changed_shape_costs_once_whatever_comes_after_it(operated: Operated) -> None:
    """Another horizon, weights of another cell, restarts, kills and take-overs: the old states stay in the log all the
    time, for the segment that is written to is never compacted."""
    await publish(operated.settings, *published_weights(operated.settings, "gru"))
    await operated.send(40)
    await operated.run()
    operated.configure({"horizon": 6})
    worker = await operated.next("restart")
    assert [line["carried"] for line in operated.lines(worker, CARRIED)] == [3, 3]
    assert "`horizon` was 3, and is 6" in operated.lines(worker, CARRIED)[0]["what"][0]
    lstm, blob = published_weights(operated.settings, "lstm")
    await publish(operated.settings, lstm, blob)
    worker.waits_for(lstm)
    await operated.send(5)
    await operated.written()
    for event in ("kill", "take-over", "restart"):
        worker = await operated.next(event)
        assert operated.lines(worker, COLD) == operated.lines(worker, CARRIED) == []
    assert all(document["warm"] for document in (await operated.forecasts())[-6:])
    check_forecasts(await operated.forecasts(), ("temp", "flow"))


STEPS = {"5s": 5000, "1s": 1000, "irregular": 1000}


@pytest.mark.parametrize("steps", [["5s"], pytest.param(list(STEPS), marks=pytest.mark.kafka_long)], ids=["one", "all"])
async def test_another_step_begins_anew_and_nothing_of_it_is_late_or_long_ago(
    operated: Operated, steps: list[str]
) -> None:
    await operated.send(40)
    await operated.run()
    for step in steps:
        operated.configure({"step": step})
        cost = json.loads(command("validate", "-c", operated.config, "--json"))["kept"]
        assert [(each["cold"], each["partitions"]) for each in cost] == [(True, [0, 1])]
        before = operated.step
        worker = await operated.next("restart", 30)
        cold = operated.lines(worker, COLD)
        assert [f"{line['why']}: everything starts cold" for line in cold] == 2 * cost[0]["what"]
        documents = await operated.forecasts(before)
        assert {document["step_ms"] for document in documents} == {STEPS[step]} and len(documents) >= 24
        await operated.written()
        worker = await operated.next("kill", 10)
        assert operated.lines(worker, COLD) == []
    filled = [json.loads(r.value)["ts"] for r in await read_all(operated.broker, f"{operated.app}.imputed")]
    assert all(START_MS <= ts <= START_MS + 1000 * operated.step for ts in filled)
    assert await operated.refused() <= {"duplicate"}  # several records in a step of 5 s, `within: one`
    check_forecasts(await operated.forecasts())


async def test_names_decide_and_not_places(operated: Operated) -> None:
    """Channels in another order, one renamed, levels of the same number: no forecast comes from another one's state."""
    await operated.send(60)
    await operated.run()
    operated.configure({"channels": ["pressure", "temp"], "quantiles": [0.1, 0.5, 0.9]})
    shown = command("validate", "-c", operated.config)
    worker = await operated.next("restart", 30)
    lines = operated.lines(worker, CARRIED)
    assert len(lines) == PARTITIONS
    for words in ("channel pressure starts cold: it is new", "the offsets of 0.1, 0.9 start cold"):
        assert words in shown and any(words in what for what in lines[0]["what"])
    check_forecasts(await operated.forecasts(), ("temp",))
    levels = {
        level for d in (await operated.forecasts())[-6:] for c in d["channels"].values() for level in c["quantiles"]
    }
    assert levels == {"0.1", "0.5", "0.9"}


LONG = [
    (name, how, EVENTS[(i + h) % 3], DELIVERIES[(i + h + i // 3) % 2])
    for (i, name), (h, how) in product(enumerate(CASES), enumerate(HISTORIES))
]


@pytest.mark.kafka_long
@pytest.mark.parametrize(("name", "how", "event", "delivery"), LONG)
async def test_the_matrix_of_changes_on_a_real_broker(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], name: str, how: str, event: str, delivery: str
) -> None:
    """As `tests/serving/test_identity.py`, with processes that are really killed."""
    operated = Operated(broker, tmp_path, unique("matrix"), delivery)
    try:
        changes = through(how, name)
        history = [operated.configure(changes[0])]
        await operated.send(40)
        await operated.run()
        for change in changes[1:]:
            await operated.written()
            history.append(operated.configure(change))
            worker = await operated.next(event, 25)
            cold, carried = len(operated.lines(worker, COLD)), len(operated.lines(worker, CARRIED))
            changed = history[-1].meaning() != history[-2].meaning()
            assert (cold, carried) == ((PARTITIONS, 0) if CASES[name].cold else (0, PARTITIONS * changed))
            await operated.written()
            worker = await operated.next("restart" if event == "kill" else "kill", 10)
            assert operated.lines(worker, COLD) == operated.lines(worker, CARRIED) == []
        check_forecasts(await operated.forecasts(), () if CASES[name].cold else kept(history)[0], read(history))
    finally:
        operated.end()


# ── learning in any fleet, readiness, logs (begin) ───────────────────────────────────────────────────────────────────

NOW_MS = 1_700_000_000_000
TINY: dict[str, Any] = {
    "min_steps": 200, "updates": 60, "length": 48, "burn_in": 8, "chunk_len": 20, "holdout": 24, "window": 256,
    "batch_series": 8, "interval": "1s", "lr": 0.01, "idle": False,
}  # fmt: skip


async def send(
    broker: Broker, topic: str, series: int, steps: int, first: int = 0, partition: int | None = None
) -> None:
    """`steps` ticks of each series in their turn."""
    sink = KafkaTransport(settings_for(broker)).sink()
    await sink.start()
    try:
        for step in range(first, first + steps):
            for p in range(2):
                names = [f"pump-{i}" for i in range(series) if i % 2 == p] if partition in (None, p) else []
                if names:
                    values = [
                        json.dumps(
                            {
                                "series": name,
                                "ts": NOW_MS + 1000 * step,
                                "values": {"temp": (step * 7 + len(name)) % 13},
                            }
                        ).encode()
                        for name in names
                    ]
                    times = [NOW_MS + 1000 * step] * len(names)
                    await sink.append_many(topic, p, [name.encode() for name in names], values, times)
        await (await sink.seal()).wait(Deadline(30.0))
    finally:
        await sink.stop(Deadline(5.0))


def records(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.said().splitlines() if line.startswith("{")]


def events(process: Process) -> list[str]:
    return [record["event"] for record in records(process)]


async def page(process: Process, path: str) -> tuple[int, str]:
    [url] = [record["url"] for record in records(process) if record["event"] == "serving HTTP"]
    async with aiohttp.ClientSession() as session, session.get(url + path) as answer:
        return answer.status, await answer.text()


@pytest.fixture
def app(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> Callable[..., tuple[str, Path]]:
    """Makes a service with its topics of two partitions."""

    def made(prefix: str, **changes: Any) -> tuple[str, Path]:
        name = unique(prefix)
        config = configure(tmp_path, broker, name, channels=["temp"], horizon=2, **changes)
        command("topics", "-c", config, "--create", "--partitions", "2")
        return name, config

    return made


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def start(*arguments: object) -> Process:
        running.append(Forked(tmp_path / f"{len(running)}.log", *arguments))
        return running[-1]

    yield start
    for process in running:
        process.kill()


async def test_a_fleet_larger_than_the_trainer_keeps_comes_to_a_network(
    broker: Broker, app: Callable[..., tuple[str, Path]], started: Callable[..., Process]
) -> None:
    """Three series for every two places, each in its turn: by the order in which they spoke last none would be kept."""
    name, config = app("fleet", model={"hidden": 8, "layers": 1}, learn={**TINY, "series_max": 20})
    await send(broker, f"{name}.ticks", 30, 160)
    trainer = started("train", "-c", config)
    async with asyncio.timeout(120):
        while not any(record.get("verdict") == "accepted" for record in records(trainer)):
            assert trainer.exit_code() is None, trainer.said()[-2000:]
            await asyncio.sleep(0.2)
    assert trainer.stop() == 0
    # No more than what the first group of a new broker meets.
    assert len([record for record in records(trainer) if record["logger"].startswith("aiokafka")]) <= 1
    [version] = json.loads(command("models", "list", "-c", config, "--json"))[:1]
    assert "is kept" in command("models", "pin", version["id"], "-c", config)
    rows = {row["id"]: row["pinned"] for row in json.loads(command("models", "list", "-c", config, "--json"))}
    assert rows[version["id"]]
    command("models", "unpin", version["id"], "-c", config)
    assert not any(row["pinned"] for row in json.loads(command("models", "list", "-c", config, "--json")))
    assert "no whole weights nobody" in command("models", "pin", "nobody", "-c", config, check=False)


async def test_a_collecting_trainer_says_what_it_waits_for(
    broker: Broker, app: Callable[..., tuple[str, Path]], started: Callable[..., Process]
) -> None:
    name, config = app("collecting")
    await send(broker, f"{name}.ticks", 10, 12)
    trainer = started("train", "-c", config)
    trainer.waits_for('"waits_for"')
    [line] = [record for record in records(trainer) if "waits_for" in record]
    assert line["waits_for"] == "120 of 700 steps of all series together"
    assert line["series_met"] == 10


async def test_a_worker_of_more_series_than_places_says_so_as_it_runs_and_at_its_next_start(
    broker: Broker, app: Callable[..., tuple[str, Path]], started: Callable[..., Process]
) -> None:
    name, config = app("cliff", checkpoint={"interval": "100ms"})
    await send(broker, f"{name}.ticks", 60, 3, partition=0)
    worker = started("run", "-c", config)
    await drained(broker, name)
    assert worker.stop() == 0
    worker = started("run", "-c", config, "--set", "series_max=20")
    worker.waits_for("the state topic holds more series than series_max")
    await send(broker, f"{name}.ticks", 60, 10, first=3, partition=0)
    worker.waits_for("more series than series_max: they are evicted")
    [line] = [record for record in records(worker) if record["event"].startswith("more series than")]
    assert (line["series_max"], line["series_met"], line["level"]) == (20, 30, "warning")
    assert worker.stop() == 0


async def test_a_partition_that_refuses_what_comes_is_not_ready(
    broker: Broker, app: Callable[..., tuple[str, Path]], started: Callable[..., Process]
) -> None:
    """The input was filled anew with the same times: all of it is late."""
    name, config = app("refused")
    await send(broker, f"{name}.ticks", 4, 50)
    worker = started("run", "-c", config)
    await drained(broker, name)
    assert worker.stop() == 0
    worker = started("run", "-c", config)
    worker.waits_for('"event": "serving"')
    assert (await page(worker, "readyz"))[0] == 200
    await send(broker, f"{name}.ticks", 4, 50, partition=1)
    async with asyncio.timeout(30):
        while (status := await page(worker, "readyz"))[0] == 200:
            await asyncio.sleep(0.2)
    assert status[0] == 503
    assert "of partition 1 100% of 100 records" in status[1] and "`late`" in status[1], status
    assert (await page(worker, "livez"))[0] == 200
    worker.waits_for("most of the input is refused")
    await send(broker, f"{name}.ticks", 4, 200, first=50)  # good ones again
    async with asyncio.timeout(90):
        while (await page(worker, "readyz"))[0] != 200:
            await asyncio.sleep(0.2)
    assert worker.stop() == 0


async def test_the_first_start_on_a_new_broker_says_what_runs_and_logs_no_error(
    tmp_path: Path, started: Callable[..., Process]
) -> None:
    """The first group that a broker ever has: its coordinator is made while the worker waits."""
    broker = Broker(tmp_path / "new").start()
    try:
        config = configure(tmp_path, broker, "first")
        command("topics", "-c", config, "--create", "--partitions", "2")
        parts = [started(kind, "-c", config) for kind in ("run", "train")]
        parts[0].waits_for('"event": "serving"')
        parts[1].waits_for('"event": "training"')
        parts[0].signal(signal.SIGHUP)
        parts[0].waits_for("SIGHUP is ignored")
        [line] = [record for record in records(parts[0]) if record["event"] == "serving"]
        assert (line["app"], line["input"], line["partitions"], line["states_restored"]) == (
            "first",
            "first.ticks",
            [0, 1],
            0,
        )
        assert [part.stop() for part in parts] == [0, 0]
        assert not [record for part in parts for record in records(part) if record["level"] in ("error", "critical")]
    finally:
        broker.stop()


async def test_a_state_topic_deleted_under_a_worker_is_few_lines(
    broker: Broker, app: Callable[..., tuple[str, Path]], started: Callable[..., Process]
) -> None:
    name, config = app("deleted", kafka={
        "bootstrap_servers": broker.servers, "session_timeout_ms": 1000, "heartbeat_interval_ms": 300, "metadata_max_age_ms": 500,
    }, delivery_timeout="3s", checkpoint={"interval": "100ms"})  # fmt: skip
    worker = started("run", "-c", config)
    worker.waits_for('"event": "serving"')
    before = len(worker.said().splitlines())
    script = broker.home / "bin" / "kafka-topics.sh"
    subprocess.run(
        [script, "--bootstrap-server", broker.servers, "--delete", "--topic", f"{name}.state"],
        check=True,
        capture_output=True,
    )
    begin, step = time.monotonic(), 0
    while worker.exit_code() is None:
        assert time.monotonic() - begin < 90, worker.said()[-2000:]
        await send(broker, f"{name}.ticks", 4, 1, first=step)
        step += 1
    assert worker.exit_code() == 4
    lines = worker.said().splitlines()[before:]
    assert len(lines) <= 15, lines
    assert f"no topic '{name}.state'" in lines[-1]


# ── learning in any fleet, readiness, logs (end) ─────────────────────────────────────────────────────────────────────


# ── sizes, offsets, starting anew, two services with one name (begin) ────────────────────────────────────────────────


def tool(broker: Broker, name: str, *arguments: str) -> str:
    """One of Kafka's own; returns what it says."""
    done = subprocess.run(
        [str(broker.home / "bin" / name), "--bootstrap-server", broker.servers, *arguments],
        capture_output=True,
        text=True,
        env={**broker._environment(), "KAFKA_HEAP_OPTS": "-Xmx128m -XX:TieredStopAtLevel=1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configured(folder: Path, broker: Broker, app: str, **changes: Any) -> Path:
    """With Kafka's own session: nobody is evicted here, however slow the machine is."""
    return configure(folder, broker, app, kafka={"bootstrap_servers": broker.servers}, **changes)


async def ticks(
    broker: Broker, topic: str, count: int, first: int = 0, channels: Sequence[str] = ("temp", "flow")
) -> None:
    """One series in partition 0, a tick a second."""
    begun = 1_790_000_000_000
    sink = KafkaTransport(settings_for(broker)).sink()
    await sink.start()
    for i in range(first, first + count):
        values = {name: float((i * (k + 2)) % 7) for k, name in enumerate(channels)}
        value = json.dumps({"series": "pump", "ts": begun + 1000 * i, "values": values}).encode()
        await sink.append_many(topic, 0, [b"pump"], [value], [begun + 1000 * i])
    await (await sink.seal()).wait(Deadline(30.0))
    await sink.stop(Deadline(5.0))


async def served(broker: Broker, config: Path, app: str, log: Path) -> str:
    """A worker that reads everything and stops in good order; returns its log."""
    worker = Forked(log, "run", "-c", config)
    try:
        worker.waits_for("partition assigned")
        await drained(broker, app)
    finally:
        code = worker.stop()
    assert code == 0, worker.said()[-3000:]
    return worker.said()


def ended(*arguments: object, log: Path) -> tuple[int, str]:
    """(exit code, what it said) of a command that ends by itself."""
    process = Forked(log, *arguments)
    try:
        return process._wait(60.0), process.said()
    finally:
        process.kill()


def lines_of(text: str, word: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if word in line.get("event", "")]


async def test_states_too_large_for_their_topic_are_refused_once_and_served_when_the_topic_takes_them(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("sizes")
    wide = [f"c{i}" for i in range(100)]
    checkpoint = {"interval": "200ms"}
    small = configured(tmp_path, broker, app, channels=["temp"], checkpoint=checkpoint)
    command("topics", "-c", small, "--create", "--partitions", "1")
    config = configured(
        tmp_path,
        broker,
        app,
        channels=wide,
        horizon=48,
        checkpoint=checkpoint,
        series_max=10_000_000,
        model={"cell": "lstm", "hidden": 1024},
    )
    await ticks(broker, f"{app}.ticks", 20, channels=wide)
    code, text = ended("run", "-c", config, log=tmp_path / "refused.log")
    assert code == 4, text
    assert f"{app}.state: max.message.bytes=1048588 takes no state record of this configuration" in text
    assert "channels (100), horizon (48), quantiles (3), model.hidden (1024)" in text
    assert "series_max needs more memory than there is" in text
    shown = command("validate", "-c", config, check=False)
    assert "max.message.bytes=1048588 takes no state record" in shown
    assert "# size: a series: 1." in shown and "per 1,000 ticks/s" in shown
    assert "max.message.bytes raised" in command("topics", "-c", config, "--create")
    assert not lines_of(await served(broker, config, app, tmp_path / "first.log"), "rebuilt")
    await ticks(broker, f"{app}.ticks", 5, first=20, channels=wide)
    said = await served(broker, config, app, tmp_path / "second.log")
    [begun] = lines_of(said, "partition assigned")
    assert (begun["replay_from"], begun["emit_from"]) == (20, 20)
    assert await sources(broker, app) == {(0, offset): 1 for offset in range(25)}


async def test_the_present_rate_is_measured(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> None:
    app = unique("rate")
    config = configured(tmp_path, broker, app)
    command("topics", "-c", config, "--create", "--partitions", "1")
    over = threading.Event()

    def feed() -> None:
        while not over.is_set():
            asyncio.run(ticks(broker, f"{app}.ticks", 20))
            time.sleep(0.05)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        found = json.loads(await asyncio.to_thread(command, "validate", "-c", config, "--json"))
    finally:
        over.set()
        feeding.join()
    sizes = found["sizes"]
    assert found["ok"] and sizes["ticks_per_second"] > 0
    apart_s = sizes["checkpoint_interval_seconds"]
    bound = sizes["state_record_bytes"] * min(sizes["ticks_per_second"], sizes["series_max"] / apart_s)
    assert 10 <= apart_s <= 60 and abs(sizes["changelog_bytes_per_second"] - bound) <= 0.01 * bound


@pytest.mark.parametrize(
    ("delivery", "earlier", "wanted", "later"),
    [
        pytest.param("at-least-once", ["--to-earliest"], range(40), ["--to-latest"], marks=pytest.mark.kafka_long),
        ("exactly-once", ["--shift-by", "-10"], range(30, 40), ["--to-offset", "55"]),
    ],
    ids=["at-least-once", "exactly-once"],
)
async def test_offsets_reset_by_kafka_s_own_tool_are_where_processing_goes_on(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str],
    delivery: str, earlier: list[str], wanted: range, later: list[str],
) -> None:  # fmt: skip
    app = unique("resets")
    config = configured(tmp_path, broker, app, delivery=delivery, checkpoint={"interval": "200ms"})
    command("topics", "-c", config, "--create", "--partitions", "1")
    await ticks(broker, f"{app}.ticks", 40)
    await served(broker, config, app, tmp_path / "first.log")
    expected = Counter({(0, offset): 1 for offset in range(40)})
    assert await sources(broker, app) == expected
    reset = ("--group", app, "--topic", f"{app}.ticks", "--reset-offsets", "--execute")
    tool(broker, "kafka-consumer-groups.sh", *reset, *earlier)
    [line] = lines_of(await served(broker, config, app, tmp_path / "back.log"), "offset set back by an operator")
    assert (line["offset"], line["records"], line["replay_from"]) == (wanted[0], len(wanted), 0)
    expected += Counter((0, offset) for offset in wanted)
    assert await sources(broker, app) == expected
    await ticks(broker, f"{app}.ticks", 20, first=40)
    tool(broker, "kafka-consumer-groups.sh", *reset, *later)
    first = 60 if later == ["--to-latest"] else 55
    worker = Forked(tmp_path / "ahead.log", "run", "-c", config)
    try:
        worker.waits_for("partition assigned")
        await ticks(broker, f"{app}.ticks", 10, first=60)
        await drained(broker, app)
    finally:
        assert worker.stop() == 0
    [line] = lines_of(worker.said(), "offset set ahead by an operator")
    assert (line["offset"], line["records"], line["skipped_from"]) == (first, first - 40, 40)
    expected += Counter((0, offset) for offset in range(first, 70))
    assert await sources(broker, app) == expected


async def test_a_reset_says_what_it_would_do_does_it_and_is_refused_while_members_live(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    from confluent_kafka import Consumer

    app = unique("anew")
    config = configured(tmp_path, broker, app, checkpoint={"interval": "200ms"})
    command("topics", "-c", config, "--create", "--partitions", "2")
    await ticks(broker, f"{app}.ticks", 40)
    reset = ("reset", "-c", config, "--state", "--models", "--offsets", "--to", "earliest")
    worker = Forked(tmp_path / "first.log", "run", "-c", config)
    try:
        worker.waits_for("partition assigned")
        await drained(broker, app)
        code, text = ended(*reset, "--yes", log=tmp_path / "alive.log")
        assert code == 8, text
        assert f"group {app} has 1 live members" in text
    finally:
        assert worker.stop() == 0
    # One of the newer protocol, which the older request does not know (KIP-848).
    newer = Consumer({"bootstrap.servers": broker.servers, "group.id": app, "group.protocol": "consumer"})
    newer.subscribe([f"{app}.ticks"])
    try:
        await asyncio.to_thread(_assigned, newer)
        code, text = ended(*reset, "--yes", log=tmp_path / "newer.log")
        assert code == 8, text
        code, text = ended("run", "-c", _other_input(config, f"{app}.dlq"), log=tmp_path / "newer-run.log")
        assert code == 4 and f"read {app}.ticks and not {app}.dlq" in text, text
    finally:
        await asyncio.to_thread(newer.close)
    shown = command(*reset)
    assert f"{app}.state: 1 states in 2 partitions would be deleted" in shown
    assert f"{app}.ticks/0: 40 -> 0 (of 0 to 40; 40 records again)" in shown and "nothing was done" in shown
    assert not lines_of(await served(broker, config, app, tmp_path / "dry.log"), "operator")
    assert f"{app}.state: 1 states in 2 partitions deleted" in command(*reset, "--yes")
    said = await served(broker, config, app, tmp_path / "second.log")
    assert not [line for line in lines_of(said, "") if line["level"] == "error" and "streamrnn" in line["logger"]]
    assert await sources(broker, app) == {(0, offset): 2 for offset in range(40)}


async def test_the_runbook_s_commands_do_what_they_say(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """Those of ours, as they are written; Kafka's own are tried above."""
    runbook = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
    lines = re.findall(r"^    streamrnn (reset [^#\n]*?) *(?:#.*)?$", runbook, re.MULTILINE)
    assert len(lines) == 6
    app = unique("runbook")
    config = configured(tmp_path, broker, app)
    command("topics", "-c", config, "--create", "--partitions", "1")
    await ticks(broker, f"{app}.ticks", 10)
    await served(broker, config, app, tmp_path / "run.log")
    for line in lines:
        said = command(*line.replace("config.yaml", str(config)).split())
        assert ("nothing was done" in said) == ("--yes" not in line), said
    said = await served(broker, config, app, tmp_path / "again.log")
    [begun] = lines_of(said, "partition assigned")
    assert begun["emit_from"] == 10  # the last of them said: from now on


def _assigned(consumer: Any) -> None:
    begin = time.monotonic()
    while not consumer.assignment():
        consumer.poll(0.2)
        assert time.monotonic() - begin < 60


def _other_input(config: Path, topic: str) -> Path:
    import yaml

    other = config.with_name(f"other-{config.name}")
    other.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "input": topic}))
    return other


async def test_two_services_with_one_app_are_refused_and_the_running_one_goes_on(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("two")
    config = configured(tmp_path, broker, app, checkpoint={"interval": "200ms"})
    command("topics", "-c", config, "--create", "--partitions", "1")
    broker.create(f"{app}.others", 1)
    other = _other_input(config, f"{app}.others")
    await ticks(broker, f"{app}.ticks", 20)
    worker = Forked(tmp_path / "first.log", "run", "-c", config)
    try:
        worker.waits_for("partition assigned")
        await drained(broker, app)
        for number, arguments in enumerate((("run",), ("train",), ("validate",))):
            code, text = ended(*arguments, "-c", other, log=tmp_path / f"refused-{number}.log")
            assert code == 4, (arguments, text)
            assert f"has members that read {app}.ticks and not {app}.others" in text
        await ticks(broker, f"{app}.ticks", 20, first=20)
        await drained(broker, app)
    finally:
        assert worker.stop() == 0
    assert len(lines_of(worker.said(), "partition assigned")) == 1  # nobody has disturbed it
    assert await sources(broker, app) == {(0, offset): 1 for offset in range(40)}
    code, text = ended("run", "-c", other, log=tmp_path / "away.log")
    assert code == 4, text
    assert f"holds the states of input '{app}.ticks', and `input` is '{app}.others'" in text
    said = await served(broker, config, app, tmp_path / "second.log")
    assert lines_of(said, "partition assigned")[0]["replay_from"] == 40


# ── sizes, offsets, starting anew, two services with one name (end) ──────────────────────────────────────────────────


# ── what comes in (begin) ────────────────────────────────────────────────────────────────────────────────────────────


async def sent_as_they_come(
    broker: Broker, topic: str, records: Sequence[tuple[str, int, int, dict[str, float]]]
) -> None:
    """(series, event time, the record's own time, values), all in partition 0."""
    sink = KafkaTransport(settings_for(broker)).sink()
    await sink.start()
    for begin in range(0, len(records), 500):
        part = records[begin : begin + 500]
        await sink.append_many(
            topic, 0, [name.encode() for name, *_ in part],
            [json.dumps({"series": name, "ts": ts, "values": values}).encode() for name, ts, _, values in part],
            [record_ms for _, _, record_ms, _ in part],
        )  # fmt: skip
    await (await sink.seal()).wait(Deadline(30.0))
    await sink.stop(Deadline(5.0))


@pytest.mark.parametrize("whose", ["an hour ahead", "two minutes slow", "a backlog at ten times the speed"])
async def test_a_clock_that_is_wrong_costs_its_neighbours_nothing(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], whose: str
) -> None:
    app, steps = unique("clocks"), 300
    config = configured(tmp_path, broker, app, horizon=2, idle_after="30s")
    command("topics", "-c", config, "--create", "--partitions", "1")
    begin = int(time.time() * 1000) // 1000 * 1000 - steps * 1000
    records = []
    for i in range(steps):
        now = begin + 1000 * i
        values = {"temp": float(i % 7), "flow": float(i % 5)}
        records += [(name, now, now, values) for name in ("good-a", "good-b")]
        if whose == "an hour ahead":
            records.append(("odd", now + 3_600_000, now + 3_600_000, values))
        elif whose == "two minutes slow":
            records.append(("odd", now - 120_000, now - 120_000, values))
        else:
            late = [begin - 3_600_000 + 1000 * k for k in range(10 * i, 10 * i + 10)]
            records += [("odd", ts, ts, values) for ts in late]
    await sent_as_they_come(broker, f"{app}.ticks", records)
    await served(broker, config, app, tmp_path / "clocks.log")
    assert await read_all(broker, f"{app}.dlq") == []
    assert await read_all(broker, f"{app}.imputed") == []
    said = Counter(json.loads(r.value)["series"] for r in await read_all(broker, f"{app}.forecasts"))
    assert said == Counter(name for name, *_ in records)


async def test_bursts_of_irregular_ticks_say_the_same_however_they_are_cut(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    begin, records = int(time.time() * 1000) - 3_600_000, []
    at = begin
    for i in range(120):
        at += 100 if i % 20 else 60_000
        records.append(("pump", at, at, {"temp": float(i % 7), "flow": float(i % 5)}))
    said = []
    for most in (1, 500):
        app = unique("bursts")
        config = configured(tmp_path, broker, app, step="irregular", horizon=2, batch_records_max=most)
        command("topics", "-c", config, "--create", "--partitions", "1")
        await sent_as_they_come(broker, f"{app}.ticks", records)
        await served(broker, config, app, tmp_path / f"{app}.log")
        documents = [json.loads(r.value) for r in await read_all(broker, f"{app}.forecasts")]
        said.append([{**document, "source": document["source"]["offset"]} for document in documents])
    assert said[0] == said[1]
    assert len(said[0]) == len(records)


async def test_a_channel_that_never_comes_is_in_no_record_of_filled_steps(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app, begin = unique("never"), int(time.time() * 1000) // 1000 * 1000 - 300_000
    config = configured(tmp_path, broker, app, horizon=2)
    command("topics", "-c", config, "--create", "--partitions", "1")
    times = [begin + 1000 * i for i in range(100) if i != 50]
    await sent_as_they_come(broker, f"{app}.ticks", [("pump", ts, ts, {"temp": float(ts // 1000 % 7)}) for ts in times])
    await served(broker, config, app, tmp_path / "never.log")
    (filled,) = [json.loads(r.value) for r in await read_all(broker, f"{app}.imputed")]
    assert (filled["ts"], filled["kind"], set(filled["imputed"])) == (begin + 50_000, "missing-tick", {"temp"})


# ── what comes in (end) ──────────────────────────────────────────────────────────────────────────────────────────────
