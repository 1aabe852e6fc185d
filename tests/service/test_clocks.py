"""FAULTS rows 37 and 40: a process that stands still notices it; a time of day that jumps changes nothing."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from running import all_committed, documents, made, send, until, worker

import streamrnn
from streamrnn.service.config import Settings
from streamrnn.service.trainer import Trainer
from streamrnn.transports.base import Deadline, clock_s
from streamrnn.transports.memory import MemoryBroker, MemoryTransport
from streamrnn.transports.models import BY_OPERATOR, Pointer

# Where the time of day is asked for: what people are shown, and what is compared with another machine's word.
TIME_OF_DAY = {"cli/models.py", "cli/simulate.py", "service/history.py", "service/publish.py", "service/trainer.py"}


# ── standing still ───────────────────────────────────────────────────────────────────────────────────────────────────


def lag(running: Any) -> tuple[float, float]:
    """(seconds that the loop was late in all, how often by too much)"""
    metrics = running.observer.metrics
    return metrics.loop_lag._sum.get(), metrics.loop_blocked._value.get()


@pytest.mark.parametrize(("blocked_s", "alarms"), [(2.0, 1), (0.3, 0)])
async def test_a_step_that_blocks_the_loop_is_told(
    monkeypatch: pytest.MonkeyPatch, blocked_s: float, alarms: int
) -> None:
    chosen, broker = made(kafka={"session_timeout_ms": 3000, "heartbeat_interval_ms": 500})
    async with worker(chosen, broker) as running:
        await until(lambda: running.observer.health.serving)
        send(broker, 10)
        await until(lambda: all_committed(broker))
        before = lag(running)
        process, left = running.engine.process, [blocked_s]

        def slowly(*arguments: Any) -> Any:
            time.sleep(left.pop() if left else 0.0)
            return process(*arguments)

        monkeypatch.setattr(running.engine, "process", slowly)
        with structlog.testing.capture_logs() as told:
            send(broker, 10, first=10)
            await until(lambda: all_committed(broker) and lag(running)[0] - before[0] > blocked_s - 0.26)
        assert (lag(running)[1] - before[1] >= 1) == (alarms == 1)
        warned = [entry for entry in told if "stood still" in entry["event"]]
        assert bool(warned) == bool(alarms)
        if warned:
            assert warned[0]["seconds"] > 1.5
        text = running.observer.metrics_text().decode()
        assert "streamrnn_event_loop_lag_seconds_bucket" in text and "streamrnn_event_loop_blocked_total" in text
        # It goes on, with the same clients.
        send(broker, 10, first=20)
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 0
    assert len({(d["source"]["partition"], d["source"]["offset"]) for d in documents(broker, "app.forecasts")}) == 120


# ── a time of day that jumps ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_time_of_day_is_asked_for_where_it_must_be_and_nowhere_else() -> None:
    root = Path(streamrnn.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            if (of == "time" and node.attr in ("time", "time_ns", "localtime", "gmtime")) or (
                of in ("datetime", "date") and node.attr in ("now", "utcnow", "today")
            ):
                found.add(str(path.relative_to(root)))
    assert found == TIME_OF_DAY


class Jumping:
    """The time of day of a machine whose clock is set again and again: years back, days ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self.asked = time.time, 0
        monkeypatch.setattr(time, "time", self)

    def __call__(self) -> float:
        self.asked += 1
        return self._real() + (86_400.0, -3.0e7, 4.0e8, -1.0)[self.asked % 4]


async def served(settings: Settings, broker: MemoryBroker) -> list[dict[str, Any]]:
    send(broker, 40)
    async with worker(settings, broker) as running:
        await until(lambda: all_committed(broker))
        send(broker, 40, first=40)
        time.time()
        await until(lambda: all_committed(broker))
        assert running.observer.metrics.rebuilds._value.get() == 0
        assert running.observer.health.ready(time.monotonic()) == (True, "ok")
        status = running.observer.status()
        assert 0 <= status["uptime_s"] < 60 and status["rejected"] == {}
    said = documents(broker, "app.forecasts") + documents(broker, "app.imputed")
    return sorted(said, key=lambda document: (document["source"]["partition"], document["source"]["offset"]))


async def test_a_clock_that_jumps_changes_no_output_and_ends_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = await served(*made())
    jumping = Jumping(monkeypatch)
    assert await served(*made()) == wanted
    assert jumping.asked
    assert len(wanted) >= 320


def test_deadlines_run_on_a_clock_that_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline, began_s = Deadline(0.05), clock_s()
    Jumping(monkeypatch)
    assert not deadline.passed and 0 <= clock_s() - began_s < 5
    time.sleep(0.06)
    assert deadline.passed


@pytest.mark.parametrize("jump_ms", [0, 86_400_000, -86_400_000, 10**15, -(10**15)])
async def test_an_operators_word_holds_no_longer_than_it_should_whatever_the_clocks_say(jump_ms: int) -> None:
    """The one duration between two machines' times of day: it is bounded by what is configured."""
    chosen, broker = made(learn={"rollback_hold": "10s"})
    trainer = Trainer(chosen, MemoryTransport(broker), lambda: 1_700_000_000_000 + jump_ms)

    class Follower:
        pointer = Pointer("a", BY_OPERATOR, 1_700_000_000_000)

        def blob(self, model: str) -> None:
            return None

    trainer._follow(Follower(), [])  # type: ignore[arg-type]
    left_s = trainer._publish_from_s - clock_s()
    assert -1.0 <= left_s <= 10.0
    assert (left_s > 9.0) == (jump_ms <= 0)
