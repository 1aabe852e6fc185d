"""A process that stands still notices it; a time of day that jumps changes nothing; no clock begins at a known time."""

from __future__ import annotations

import ast
import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from running import all_committed, documents, made, on_virtual_clock, send, until, worker

import streamrnn
from streamrnn.config.settings import Settings
from streamrnn.stores.models import BY_OPERATOR, Pointer
from streamrnn.training.trainer import Trainer
from streamrnn.transports.base import Deadline, clock_s
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport

# Where the time of day is asked for: what people are shown, and what is compared with another machine's word.
TIME_OF_DAY = {
    "cli/models.py", "cli/simulate.py", "config/settings.py", "monitor/recent.py", "serving/publish.py", "training/trainer.py",
}  # fmt: skip


# ── standing still ───────────────────────────────────────────────────────────────────────────────────────────────────


def lag(running: Any) -> tuple[float, float]:
    """(seconds that the loop was late in all, how often by too much)"""
    metrics = running.observer.metrics
    return metrics.loop_lag._sum.get(), metrics.loop_blocked._value.get()


@pytest.mark.parametrize(("blocked_s", "alarms"), [(2.0, 1), (0.3, 0)])
@on_virtual_clock
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
            asyncio.get_running_loop().stand_still(left.pop() if left else 0.0)  # type: ignore[attr-defined]
            return process(*arguments)

        monkeypatch.setattr(running.engine, "process", slowly)
        with structlog.testing.capture_logs() as lines:
            send(broker, 10, first=10)
            await until(lambda: all_committed(broker) and lag(running)[0] - before[0] > blocked_s - 0.26)
        assert (lag(running)[1] - before[1] >= 1) == (alarms == 1)
        warned = [entry for entry in lines if "event loop was blocked" in entry["event"]]
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
    later, soon = Deadline(3600.0), Deadline(0.05)
    Jumping(monkeypatch)
    assert 3000.0 < later.remaining_s() <= 3600.0
    time.sleep(0.06)
    assert soon.passed and not later.passed


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


# ── a clock that counts from the machine's start ─────────────────────────────────────────────────────────────────────

ASKED = {"clock", "clock_s", "monotonic", "perf_counter", "time"}


def targets(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """(name, value) of everything that is assigned, arguments and defaults of fields as well; of `a.b` the name is b."""
    pairs: list[tuple[ast.AST, ast.expr | None]] = []
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs += zip(target.elts, node.value.elts, strict=False)
            else:
                pairs.append((target, node.value))
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        pairs.append((node.target, node.value))
    elif isinstance(node, ast.keyword) and node.arg:
        return [(node.arg, node.value)]
    named = [(getattr(target, "id", getattr(target, "attr", "")), value) for target, value in pairs]
    return [(name, value) for name, value in named if name and value is not None]


def is_time(value: ast.expr, times: set[str]) -> bool:
    """Whether it is a clock's word, or that and some seconds; the difference of two is none."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.FloorDiv | ast.Mult):
        return is_time(value.left, times) or is_time(value.right, times)
    if isinstance(value, ast.Call):
        name = getattr(value.func, "id", getattr(value.func, "attr", ""))
        of = getattr(getattr(value.func, "value", None), "id", "")
        return name in ASKED and of not in ("np", "datetime")
    return getattr(value, "id", getattr(value, "attr", "")) in times


def begins_at_a_number(source: str) -> set[str]:
    """Names that hold a clock's time at some moment and a plain number at another."""
    assigned = [pair for node in ast.walk(ast.parse(source)) for pair in targets(node)]
    times: set[str] = set()
    while more := {name for name, value in assigned if name not in times and is_time(value, times)}:
        times |= more
    return {name for name, value in assigned if name in times and isinstance(value, ast.Constant | ast.UnaryOp)} - {
        name for name, value in assigned if isinstance(value, ast.Constant) and value.value is None
    }


def test_no_time_begins_at_a_number() -> None:
    """The monotonic clock counts from the machine's start: a "last time" of 0.0 is half a minute ago soon after it."""
    broken = "class A:\n  last_s: float = 0.0\n  def go(self):\n    a, now = 1, clock_s()\n    self.last_s = now + 1"
    assert begins_at_a_number(broken) == {"last_s"}
    assert begins_at_a_number(broken.replace("0.0", "LONG_AGO_S")) == set()
    root = Path(streamrnn.__file__).parent
    found = {str(path.relative_to(root)): begins_at_a_number(path.read_text()) for path in root.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


async def test_the_tests_clock_begins_as_on_a_machine_that_was_just_started() -> None:
    """So that every test of this process is a test of that (tests/conftest.py)."""
    begin_s = time.clock_gettime(time.CLOCK_MONOTONIC) - time.monotonic()
    assert clock_s() == pytest.approx(time.clock_gettime(time.CLOCK_MONOTONIC) - begin_s, abs=60.0)
    assert time.perf_counter() == pytest.approx(time.monotonic(), abs=60.0)
    assert begin_s != 0.0
