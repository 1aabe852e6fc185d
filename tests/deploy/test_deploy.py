"""Deployment files: as much as can be checked without an engine to run them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from streamrnn.cli import app
from streamrnn.config.settings import load

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_example_configuration_loads_and_states_the_defaults() -> None:
    shown = load([DEPLOY / "streamrnn.yaml"], {}, {})
    text = {"input": "ticks", "channels": ["temp", "flow"], "step": "1s", "horizon": 12}
    assert shown == load([], {**text, "log": {}, "http": {}}, {})


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_compose_names_commands_and_options_that_exist() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["kafka"]["image"].startswith("apache/kafka:")
    ours = {name: service for name, service in services.items() if name != "kafka"}
    known = commands()
    for service in ours.values():
        name, *rest = service["command"]
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in rest if word.startswith("-")} <= options
        for other, condition in service["depends_on"].items():
            assert other in services
            assert condition["condition"] in ("service_healthy", "service_completed_successfully")
    environment = {k: str(v) for k, v in ours["worker"]["environment"].items()}
    settings = load([DEPLOY / "streamrnn.yaml"], {}, environment)
    assert (settings.train, settings.kafka.bootstrap_servers, len(settings.channels)) == ("off", "kafka:9092", 4)


def test_a_trainer_in_a_container_of_its_own_weighs_less_than_its_worker() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["trainer"]["cpu_shares"] < 1024 == services["worker"].get("cpu_shares", 1024)


def test_the_image_is_pinned_unprivileged_and_fetches_no_scripts() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    [base] = [line for line in lines if line.startswith("FROM ")]
    assert ":" in base
    assert "latest" not in base
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    assert not any("curl" in line or "wget" in line or line.startswith("ADD ") for line in lines)
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (DEPLOY.parent / source).exists(), source


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", DEPLOY / "streamrnn.service"], capture_output=True, text=True, check=False
    )
    assert "streamrnn.service" not in done.stderr, done.stderr


def test_the_unit_is_hardened() -> None:
    unit = (DEPLOY / "streamrnn.service").read_text()
    for setting in ("DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "MemoryMax=", "LimitCORE=0"):
        assert setting in unit
