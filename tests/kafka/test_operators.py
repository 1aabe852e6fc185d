"""What operators do in the first month, on a real broker: each ends with the right state or a line that says what to do."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from broker import Broker
from clients import settings_for
from service import Forked, Process, command, configure, drained

from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka import KafkaTransport

pytestmark = pytest.mark.kafka

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
