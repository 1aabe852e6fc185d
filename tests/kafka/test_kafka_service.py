"""The service as its users run it: separate processes on a real broker; poisoned, trained, checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from broker import Broker
from service import Forked, Output, Process, command, configure, drained, read_all

pytestmark = pytest.mark.kafka


async def test_poison_changes_no_good_ticks_output(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    said: dict[str, list[bytes]] = {}
    for kind, poison in (("clean", "0"), ("poisoned", "0.05")):
        app = unique(kind)
        config = configure(tmp_path, broker, app)
        command("topics", "-c", config, "--create", "--partitions", "2")
        command("simulate", "sensors", "-c", config, "--series", "4", "--rate", "0", "--count", "2000", "--seed", "3",
                "--start-ms", "1700000000000", "--poison", poison)  # fmt: skip
        worker = Forked(tmp_path / f"{kind}.log", "run", "-c", config)
        await drained(broker, app)
        assert worker.stop() == 0
        outputs = [
            (msgspec.json.decode(r.value, type=Output), r.value) for r in await read_all(broker, f"{app}.forecasts")
        ]
        # Coordinates differ by the poison between; everything else of a document must not.
        said[kind] = [
            value.split(b',"source"')[0] for _, value in sorted(outputs, key=lambda o: (o[0].series, o[0].ts))
        ]
        letters = await read_all(broker, f"{app}.dlq")
        if kind == "poisoned":
            assert len(letters) > 50
            reasons = {dict(r.headers)["streamrnn-reason"].decode() for r in letters}
            assert reasons >= {"tombstone", "malformed", "type", "range", "timestamp", "no-values"}
            assert all({"streamrnn-detail", "streamrnn-source"} <= dict(r.headers).keys() for r in letters)
    count = min(len(part) for part in said.values())
    assert count > 1800
    by_series = {kind: {(v.split(b",", 2)[0], v.split(b",", 2)[1]): v for v in values} for kind, values in said.items()}
    shared = by_series["clean"].keys() & by_series["poisoned"].keys()
    assert len(shared) > 1800
    assert all(by_series["clean"][key] == by_series["poisoned"][key] for key in shared)


async def test_run_train_and_simulate_as_processes_swap_weights_in(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("three")
    # Not idle by policy: the machine may be busy with other things, and this trainer is waited for.
    learn = {"min_steps": 1500, "updates": 60, "interval": "2s", "idle": False}
    config = configure(tmp_path, broker, app, model={"hidden": 16, "layers": 1}, learn=learn)
    command("topics", "-c", config, "--create", "--partitions", "4")
    parts = [
        Process(tmp_path / "run.log", "run", "-c", config),
        Process(tmp_path / "train.log", "train", "-c", config),
        Process(tmp_path / "sim.log", "simulate", "sensors", "-c", config, "--rate", "1200", "--series", "10"),
    ]
    try:
        parts[0].waits_for("weights swapped in", 300)
    finally:
        codes = [part.stop() for part in parts[:2]]
        parts[2].stop()
    assert codes == [0, 0]
    rows = json.loads(command("models", "list", "-c", config, "--json"))
    assert sum(row["current"] for row in rows) == 1
    assert "current now" in command("models", "rollback", rows[0]["id"], "-c", config)


def test_validate_and_topics_say_what_is_missing_and_make_it(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("validate")
    config = configure(tmp_path, broker, app)
    assert "topics --create" in command("validate", "-c", config, check=False)
    assert "missing" in command("run", "-c", config, check=False)
    command("topics", "-c", config, "--create", "--partitions", "3")
    checked = json.loads(command("validate", "-c", config, "--json"))
    assert checked["ok"]
    assert {row["topic"]: row["have"] for row in checked["topics"]}[f"{app}.forecasts"] == 3
