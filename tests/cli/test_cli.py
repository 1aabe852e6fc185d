"""The command line as its users meet it: help at once, clear refusals, documented exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from service import ended

COMMANDS = ["demo", "run", "train", "simulate", "backtest", "validate", "topics", "inspect", "models", "version"]


def test_help_lists_the_commands_without_loading_torch() -> None:
    done = subprocess.run([sys.executable, "-m", "streamrnn", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in COMMANDS)
    probe = (
        "import sys, streamrnn.cli; print('torch' in sys.modules, 'numba' in sys.modules, 'aiokafka' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["False", "False", "False"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run"], 2, "is needed"),
        (["run", "-c", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["simulate", "weather", "--out", "x", "--count", "1"], 2, "weather"),
        (["simulate", "book"], 2, "say where to"),
        (["backtest", "nowhere.csv"], 5, "nowhere.csv"),
        (["inspect", "x", "--url", "http://127.0.0.1:1"], 2, "is the worker running"),
        (["validate", "--set", "horizon"], 2, "KEY=VALUE"),
        (["validate", "--set", "kafka.ssl_password=hunter2"], 2, "never from the command line"),
    ],
)
def test_refusals_are_one_clear_message_and_a_code(arguments: list[str], code: int, words: str) -> None:
    done = ended(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_broker_that_is_away_is_code_three(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("kafka: {bootstrap_servers: '127.0.0.1:1'}\ninput: t\nchannels: [a]\nstep: 1s\nhorizon: 2\n")
    done = ended("validate", "-c", config)
    assert (done.returncode, "no connection" in done.stderr) == (3, True)
    offline = ended("validate", "-c", config, "--offline", "--json")
    assert json.loads(offline.stdout)["configuration"]["horizon"] == 2


def test_simulate_writes_a_file_that_backtest_reads(tmp_path: Path) -> None:
    ticks, result = tmp_path / "ticks.jsonl", tmp_path / "result.json"
    made = ended("simulate", "book", "--series", "1", "--count", "900", "--out", ticks, "--seed", "4")
    assert made.returncode == 0, made.stderr
    hidden = tmp_path / "hidden.csv"
    hidden.write_text("".join(f"{row},value\n" for row in range(500, 890, 7)))
    done = ended(
        "backtest", ticks, "--horizon", "4", "--train-rows", "0:400", "--score-rows", "450:900", "--json", result,
        "--forecasts", tmp_path / "f.jsonl", "--baselines", "persistence,rls", "--train-every", "200", "--hide", hidden,
        "--plots", tmp_path / "plots",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(result.read_text())
    overall = {
        r["model"]: r
        for r in document["rows"]
        if r["channel"] is None and r["horizon"] is None and r["task"] == "forecast"
    }
    assert set(overall) == {"streamrnn", "persistence", "rls"}
    assert overall["rls"]["mse"] < overall["persistence"]["mse"]
    assert {"model", "channel", "horizon", "n", "mse", "mae", "mase", "pinball", "coverage"} <= overall[
        "streamrnn"
    ].keys()
    assert 0.8 < overall["streamrnn"]["coverage"]["0.95"] <= 1.0
    filled = [r for r in document["rows"] if r["task"] == "imputation" and r["channel"] is None]
    assert filled[0]["n"] == 56
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 900
    assert {p.name for p in (tmp_path / "plots").iterdir()} >= {"fan.png", "error_by_horizon.png"}
    assert document["wall_s"] > 0
    assert np.isfinite(document["peak_rss_mb"])
