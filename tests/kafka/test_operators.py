"""What operators do, with the tools that they have: on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from clients import settings_for
from service import Forked, command, configure, drained, sources

from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka import KafkaTransport

pytestmark = pytest.mark.kafka

# ── sizes, offsets, starting anew, two services with one name ────────────────────────────────────────────────────────


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
    """With Kafka's own session: nobody is put out here, however slow the machine is."""
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


def events(text: str, word: str) -> list[dict[str, Any]]:
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
    config = configured(tmp_path, broker, app, channels=wide, horizon=48, checkpoint=checkpoint, series_max=10_000_000)
    await ticks(broker, f"{app}.ticks", 20, channels=wide)
    code, text = ended("run", "-c", config, log=tmp_path / "refused.log")
    assert code == 4, text
    assert f"{app}.state: max.message.bytes=1048588 takes no state record of this configuration" in text
    assert "channels (100), horizon (48), quantiles (3), burn_in (64)" in text
    assert "series_max needs more memory than there is" in text
    shown = command("validate", "-c", config, check=False)
    assert "max.message.bytes=1048588 takes no state record" in shown
    assert "# size: a series: 1." in shown and "per 1,000 ticks/s" in shown
    assert "max.message.bytes raised" in command("topics", "-c", config, "--create")
    assert not events(await served(broker, config, app, tmp_path / "first.log"), "rebuilt")
    await ticks(broker, f"{app}.ticks", 5, first=20, channels=wide)
    said = await served(broker, config, app, tmp_path / "second.log")
    [begun] = events(said, "partition assigned")
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
    bound = sizes["state_record_bytes"] * min(sizes["ticks_per_second"], sizes["series_max"] / 10)
    assert abs(sizes["changelog_bytes_per_second"] - bound) <= 1


@pytest.mark.parametrize(
    ("delivery", "earlier", "wanted", "later"),
    [
        ("at-least-once", ["--to-earliest"], range(40), ["--to-latest"]),
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
    [told] = events(await served(broker, config, app, tmp_path / "back.log"), "offset set back by an operator")
    assert (told["offset"], told["records"], told["replay_from"]) == (wanted[0], len(wanted), 0)
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
    [told] = events(worker.said(), "offset set ahead by an operator")
    assert (told["offset"], told["records"], told["skipped_from"]) == (first, first - 40, 40)
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
    assert not events(await served(broker, config, app, tmp_path / "dry.log"), "operator")
    assert f"{app}.state: 1 states in 2 partitions deleted" in command(*reset, "--yes")
    said = await served(broker, config, app, tmp_path / "second.log")
    assert not [line for line in events(said, "") if line["level"] == "error" and "streamrnn" in line["logger"]]
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
    [begun] = events(said, "partition assigned")
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
            assert f"group {app} has members that read {app}.ticks and not {app}.others" in text
        await ticks(broker, f"{app}.ticks", 20, first=20)
        await drained(broker, app)
    finally:
        assert worker.stop() == 0
    assert len(events(worker.said(), "partition assigned")) == 1  # nobody has disturbed it
    assert await sources(broker, app) == {(0, offset): 1 for offset in range(40)}
    code, text = ended("run", "-c", other, log=tmp_path / "away.log")
    assert code == 4, text
    assert f"holds the states of input '{app}.ticks', and `input` is '{app}.others'" in text
    said = await served(broker, config, app, tmp_path / "second.log")
    assert events(said, "partition assigned")[0]["replay_from"] == 40
