"""What forecasts are made by is said at the start, by `validate`, and on the page's summary."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import structlog
from lives import PARTITIONS, Lives, until
from running import on_virtual_clock, settings
from typer.testing import CliRunner

from streamrnn.cli import app
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.worker import Worker
from streamrnn.spec import EXPERTS
from streamrnn.transports.memory.transport import MemoryTransport

SMALL = {"step": "1h", "horizon": 24, "idle_after": "10d", "experts": "auto"}
TOO_MANY = {**SMALL, "experts_memory_max": "20KiB", "series_max": 2}


async def started(changes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """(log lines, status) of a worker that began to serve."""
    lives = Lives("at-least-once")
    chosen = lives.chosen(changes)
    lives.create(chosen)
    observer = WorkerObserver(chosen.stream_spec(), chosen.effective(), 0.5, chosen.forecasting())
    with structlog.testing.capture_logs() as logs:
        worker = Worker(chosen, MemoryTransport(lives.broker, "w"), observer)
        loop: Any = asyncio.get_running_loop()
        lives.tasks[id(worker)] = loop.spawn("w", worker.run())
        await until(lambda: worker.pump is not None and len(worker.pump.owned) == PARTITIONS)
        await lives.stop(worker)
    return logs, observer.status()


@on_virtual_clock
async def test_each_start_says_which_experts_there_are_and_why() -> None:
    logs, status = await started(SMALL)
    (said,) = [line for line in logs if line["event"] == "experts"]
    assert (said["chosen"], said["season"], said["experts"]) == ("full", ["1d", "7d"], list(EXPERTS))
    assert "within experts_memory_max (1GiB)" in said["reason"]
    assert status["forecasting"]["experts_why"] == said["reason"]
    assert (status["forecasting"]["season"], status["forecasting"]["experts"]) == (["1d", "7d"], list(EXPERTS))
    assert not [line for line in logs if line["event"].startswith("experts_memory_max")]


@on_virtual_clock
async def test_a_start_with_fewer_than_all_warns_with_what_all_would_take() -> None:
    logs, status = await started(TOO_MANY)
    (warned,) = [line for line in logs if line["event"] == "experts_memory_max has no room for all experts"]
    assert warned["log_level"] == "warning" and "full takes" in warned["reason"] and "light takes" in warned["reason"]
    assert status["forecasting"]["experts_chosen"] == "light"
    logs, _ = await started({**TOO_MANY, "experts": "light"})  # so chosen, and not for want of memory
    assert not [line for line in logs if line["event"].startswith("experts_memory_max")]


def test_validate_shows_the_same() -> None:
    sets = [f"--set={name}={value}" for name, value in {"input": "t", "channels": "[a, b]", **TOO_MANY}.items()]
    done = CliRunner().invoke(app, ["validate", "--offline", *sets])
    assert done.exit_code == 0, done.output
    assert "# season: 1d, 7d (auto)" in done.output
    assert "# experts: light (season-ago, profile): full takes" in done.output
    done = CliRunner().invoke(app, ["validate", "--offline", "--json", *sets])
    said = json.loads(done.output)["forecasting"]
    chosen = settings(channels=["a", "b"], **TOO_MANY)
    assert said == chosen.forecasting()
    assert said["experts_bytes"] == 2 * said["experts_series_bytes"] <= chosen.experts_memory_max
