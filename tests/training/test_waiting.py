"""A trainer that has not begun to learn says what it waits for, and how long that takes."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
import structlog
from running import made, send, settings, until

from streamrnn.durations import parse_ms
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.supervisor import heard
from streamrnn.stream.forecasting import inputs_of
from streamrnn.stream.learner import Lack
from streamrnn.stream.replay import WINDOW_LEAST, step_bytes
from streamrnn.training.trainer import Trainer, learn_spec
from streamrnn.training.waiting import LINE_S_MAX, NEVER_S, Wait, roughly
from streamrnn.transports.memory.transport import MemoryTransport


def looked(per_s: float, seconds: int, need: int = 163, begin_s: float = 3.0) -> tuple[Wait, list[Any]]:
    wait = Wait()
    with structlog.testing.capture_logs() as lines:
        for quarter in range(4 * seconds):
            wait.look(begin_s + quarter / 4, Lack(int(per_s * quarter / 4), need, each=True), 2000, 3000)
    return wait, list(lines)


@pytest.mark.parametrize("begin_s", [0.0, 3.0, 1e6])
def test_the_time_that_is_left_follows_the_rate(begin_s: float) -> None:
    wait, lines = looked(1.0, 40, begin_s=begin_s)
    assert wait.left_s() == pytest.approx(163 - 39, abs=2)
    assert wait.said() == {"waits": "39 of 163 steps of a series", "waits_s": wait.left_s()}
    assert lines[0]["event"] == "learning has not begun yet: steps are collected"
    assert lines[0]["waits_for"].endswith("of 163 steps of a series")
    assert (lines[0]["series"], lines[0]["series_met"]) == (2000, 3000)
    assert lines[0]["learn_history_needed"] == 163 * 3000  # steps of each, and all come by
    assert parse_ms(lines[0]["ready_in"]) == pytest.approx(157_000, rel=0.05)


def test_the_rate_is_that_of_the_last_minute() -> None:
    """A history is read a thousand times as fast as ticks come."""
    wait = Wait()
    for second in range(300):
        wait.look(float(second), Lack(min(second, 10) * 10 + second // 60, 163, each=True), 2000, 2000)
    assert wait.left_s() == pytest.approx(58 * 60, rel=0.1)


def test_lines_become_rare_and_the_first_comes_within_seconds() -> None:
    _, lines = looked(0.01, 20_000)
    assert 5 < len(lines) < 14
    _, lines = looked(1.0, 8)
    assert len(lines) == 1
    assert LINE_S_MAX <= 3600


def test_where_nothing_moves_it_says_that_it_will_never_be_and_what_to_set() -> None:
    wait, lines = looked(0.0, 200)
    assert wait.left_s() == NEVER_S
    assert wait.said()["waits_s"] == -1.0
    assert lines[-1]["log_level"] == "warning"
    assert "learn.holdout" in lines[-1]["event"]


def test_what_is_waited_for_changes_and_ends() -> None:
    wait = Wait()
    wait.look(0.0, Lack(0, 700, each=False), 1, 1)
    wait.look(10.0, Lack(600, 700, each=False), 1, 1)
    assert wait.words() == "600 of 700 steps of all series together"
    wait.look(20.0, Lack(70, 163, each=True), 10, 10)
    assert wait.left_s() is None
    wait.look(30.0, None, 0, 0)
    assert wait.said() == {"waits": "", "waits_s": None}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1s"),
        (95, "95s"),
        (157, "2m37s"),
        (600, "10m"),
        (7300, "2h2m"),
        (7200, "2h"),
        (200_000, "2d8h"),
        (10 * 86_400, "10d"),
    ],
)
def test_durations_are_rough_and_can_be_read_back(seconds: float, text: str) -> None:
    assert roughly(seconds) == text
    assert parse_ms(text) == pytest.approx(1000 * max(seconds, 1), rel=0.02)


async def test_a_collecting_trainer_says_so_in_its_heartbeat_its_metric_and_the_api() -> None:
    chosen, broker = made()
    send(broker, 40)
    trainer = Trainer(chosen, MemoryTransport(broker))
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.state == "collecting" and trainer.learner.ticks == 160)
        await until(lambda: trainer.said()["waits"] == "160 of 700 steps of all series together")
        said = trainer.said()
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 60)
    assert (said["series"], said["series_met"]) == (4, 4)
    observer = WorkerObserver(chosen.stream_spec())
    assert "streamrnn_trainer_waits_seconds NaN" in observer.metrics_text().decode()
    for waits_s, shown in ((12.5, "12.5"), (-1.0, "+Inf"), (None, "NaN")):
        line = heard(orjson.dumps({**said, "waits_s": waits_s}))
        assert line is not None
        observer.trainer_state(True, 0, line)
        assert f"streamrnn_trainer_waits_seconds {shown}\n" in observer.metrics_text().decode()
    assert observer.status()["trainer"]["waits"] == said["waits"]


@pytest.mark.parametrize("channels", [1, 4, 10, 100, 256])
def test_steps_that_are_kept_never_outgrow_the_trainers_memory(channels: int) -> None:
    """At the default settings, whatever the number of channels."""
    chosen = settings(channels=[f"c{i}" for i in range(channels)])
    spec = learn_spec(chosen)
    most = chosen.learn.memory_max_mb << 20
    assert 1 <= spec.series_max <= chosen.learn.series_max
    each = WINDOW_LEAST * step_bytes(chosen.stream_spec(), len(inputs_of(chosen.stream_spec())))
    assert spec.series_max * each <= most // 4 and spec.bytes_max <= most // 4
    assert (spec.series_max == chosen.learn.series_max) == (channels <= 10)
