"""Readiness and log say what is so: refused input, series that never get warm, a network that never came, what runs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from running import START, Clock, all_committed, logs, made, of, send, settings, tick, until, worker

from streamrnn import __version__
from streamrnn.config.settings import ConfigError
from streamrnn.monitor import observer as observe
from streamrnn.monitor.notices import Fate
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.transports.memory.transport import MemoryBroker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    chosen = Clock()
    monkeypatch.setattr(observe, "clock_s", chosen)
    return chosen


def metric(observer: WorkerObserver, name: str, labels: str = "") -> float:
    found = re.search(rf"^streamrnn_{name}{re.escape(labels)} (.*)$", observer.metrics_text().decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def ready(observer: WorkerObserver) -> tuple[bool, str]:
    """Just after a progress, as a running worker is asked."""
    from time import monotonic

    return observer.health.ready(monotonic())


def late(broker: MemoryBroker, partition: int, count: int) -> None:
    """Ticks of a step that is closed long since."""
    for _ in range(count):
        broker.append("ticks", partition, b"a", tick(f"a{partition}", 0, 1.0), START + 10_000_000)


# ── refused input ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_partition_of_which_most_is_refused_for_a_minute_is_not_ready_and_says_why(clock: Clock) -> None:
    chosen, broker = made(2)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            send(broker, 30)
            await until(lambda: all_committed(broker))
            late(broker, 1, 200)
            await until(lambda: all_committed(broker))
            running.observer.look()
            assert ready(running.observer) == (True, "ok")  # not yet a minute
            assert not of(lines, "most of the input is refused")
            clock.now_s += 61.0
            send(broker, 30, first=30)
            late(broker, 1, 200)
            await until(lambda: all_committed(broker))
            running.observer.look()
            fine, why = ready(running.observer)
            assert not fine and "partition 1" in why and "`late`" in why and "http.ready_refused_max" in why
            assert "partition 0" not in why
            assert metric(running.observer, "partition_refused_share", '{partition="1"}') > 0.5
            assert metric(running.observer, "partition_refused_share", '{partition="0"}') == 0.0
            await until(lambda: of(lines, "most of the input is refused"))
            clock.now_s += 61.0  # nothing more is refused
            send(broker, 10, first=60)
            await until(lambda: all_committed(broker))
            running.observer.look()
            assert ready(running.observer) == (True, "ok")
    [line] = of(lines, "most of the input is refused")
    assert (line["partitions"], line["reason"]) == ([1], "late")


async def test_a_partition_of_which_nothing_can_be_used_is_not_ready_within_seconds(clock: Clock) -> None:
    """A wrong `decode` or `step` must not survive a rollout."""
    chosen, broker = made(1)
    async with worker(chosen, broker) as running:
        for step in range(20):
            value = json.dumps({"series": "s", "ts": START // 1000 + step, "values": {"temp": 1.0}}).encode()
            broker.append("ticks", 0, b"s", value, START + 1000 * step)
        await until(lambda: all_committed(broker))
        clock.now_s += 6.0
        running.observer.look()
        fine, why = ready(running.observer)
        assert not fine and "100%" in why and "`timestamp`" in why


@pytest.mark.parametrize(("allowed", "expected"), [(0.5, False), (0.9, True), (1.0, True)])
def test_how_much_may_be_refused_is_set(allowed: float, expected: bool, clock: Clock) -> None:
    observer = WorkerObserver(settings().stream_spec(), ready_refused_max=allowed)
    observer.assigned(0, 0, 0)
    observer.serving()
    for _ in range(63):
        part = Fate(20, 16, {"late": 16})
        observer.notices.last_minute.add(clock.now_s, {0: part})
        clock.now_s += 1.0
    observer.look()
    assert ready(observer)[0] is expected


def test_a_partition_that_is_given_away_takes_its_refusals_along(clock: Clock) -> None:
    observer = WorkerObserver(settings().stream_spec())
    observer.assigned(0, 0, 0)
    observer.serving()
    part = Fate(20, 20, {"late": 20})
    observer.notices.last_minute.add(clock.now_s, {0: part})
    clock.now_s += 10.0
    observer.look()
    assert not ready(observer)[0]
    assert 'partition_refused_share{partition="0"}' in observer.metrics_text().decode()
    observer.revoked(0)
    observer.assigned(0, 0, 0)
    observer.look()
    assert ready(observer)[0]
    assert 'partition_refused_share{partition="0"}' not in observer.metrics_text().decode()


@pytest.mark.parametrize("wrong", [0, -0.1, 1.1, "most"])
def test_a_share_is_between_nothing_and_all(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"http\.ready_refused_max"):
        settings(http={"ready_refused_max": wrong})


# ── series that never get warm ───────────────────────────────────────────────────────────────────────────────────────


def scan(broker: MemoryBroker, series: int, first: int, steps: int) -> None:
    for step in range(first, first + steps):
        for i in range(series):
            broker.append("ticks", 0, str(i).encode(), tick(f"pump-{i}", step, 1.0), START + 1000 * step)


@pytest.mark.parametrize(("series", "expected"), [(20, False), (30, True)])
async def test_more_series_in_their_turn_than_places_are_said_and_counted(
    series: int, expected: bool, clock: Clock
) -> None:
    chosen, broker = made(1, series_max=20)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            scan(broker, series, 0, 12)
            await until(lambda: all_committed(broker))
            running.observer.look()
            clock.now_s += 61.0
            scan(broker, series, 12, 12)
            await until(lambda: all_committed(broker))
            running.observer.look()
            running.observer.look()
            returned, cold = (metric(running.observer, name) for name in ("series_returned_total", "series_cold_share"))
    said = of(lines, "more series than series_max")
    assert len(said) == (2 if expected else 0)  # one a minute
    assert cold == expected
    assert (returned > 500) == expected and returned in range(23 * 30 + 1)  # two of them may share a place
    if expected:
        assert (said[0]["log_level"], said[0]["series_max"], said[0]["series_met"]) == ("warning", 20, 30)
        assert said[0]["bytes_each"] > 100


async def test_a_changelog_of_more_series_than_places_is_said_at_the_start(clock: Clock) -> None:
    chosen, broker = made(1)
    async with worker(chosen, broker):
        scan(broker, 40, 0, 3)
        await until(lambda: all_committed(broker))
    with logs() as lines:
        async with worker(settings(series_max=25), broker) as running:
            await until(lambda: of(lines, "partition assigned"))
            assert len(running.engine.table) == 25
    [line] = of(lines, "the state topic holds more series than series_max")
    assert (line["log_level"], line["series_max"]) == ("warning", 25) and line["evicted"] >= 15
    with logs() as lines:
        async with worker(chosen, broker):
            await until(lambda: of(lines, "partition assigned"))
    assert not of(lines, "more series than series_max")
    assert not [line for line in lines if line["log_level"] != "info"]


# ── a network that never came ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("trainer", "cause", "remedy"),
    [
        (None, "train is off", "streamrnn train"),
        ({"up": False, "restarts": 3}, "does not run (3 restarts)", "log"),
        ({"up": True, "waits": "20 of 163 steps of a series", "waits_s": 90.0}, "20 of 163", "90.0 s at the present"),
        ({"up": True, "waits": "20 of 163 steps of a series", "waits_s": -1.0}, "20 of 163", "never at the present"),
        ({"up": True, "refused": 7, "accepted": 0, "last": "not-better"}, "none of 7 candidates", "learn.history"),
        ({"up": True, "state": "training"}, "the trainer is training", "models list"),
    ],
)
def test_a_network_that_was_never_learnt_is_said_with_its_cause(
    trainer: dict[str, Any] | None, cause: str, remedy: str, clock: Clock
) -> None:
    observer = WorkerObserver(settings().stream_spec())
    if trainer is not None:
        observer.trainer_state(trainer["up"], trainer.get("restarts", 0), trainer)
    with logs() as lines:
        for _ in range(120):  # ten hours without a tick, then two with
            observer.look()
            clock.now_s += 300.0
        assert not lines
        observer.summary.ticks = 1
        for _ in range(24):
            observer.look()
            clock.now_s += 300.0
    said = of(lines, "no network is in use")
    assert len(said) == 2  # one an hour
    assert cause in said[0]["cause"] and remedy in said[0]["remedy"]
    assert metric(observer, "network_served") == 0.0


def test_where_a_network_serves_nothing_is_said(clock: Clock) -> None:
    observer = WorkerObserver(settings().stream_spec())
    observer.summary.ticks, observer.model = 1, "w-1"
    with logs() as lines:
        for _ in range(24):
            observer.look()
            clock.now_s += 300.0
    assert not lines
    assert metric(observer, "network_served") == 1.0


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_line_says_what_runs_at_the_start_and_after_a_restart(clock: Clock) -> None:
    chosen, broker = made(2, delivery="exactly-once")
    for restored in (0, 4):
        with logs() as lines:
            async with worker(chosen, broker) as running:
                running.observer.effective = chosen.effective()
                await until(lambda: of(lines, "serving"))
                send(broker, 3, first=3 * restored)
                await until(lambda: all_committed(broker))
                running.observer.look()
        [line] = of(lines, "serving")
        assert (line["version"], line["app"], line["input"], line["delivery"]) == (
            __version__, "app", "ticks", "exactly-once",
        )  # fmt: skip
        assert (line["weights"], line["partitions"], line["states_restored"]) == ("persistence", [0, 1], restored)
        assert line["cold"] == {}


def test_a_stand_by_says_that_it_has_no_partition(clock: Clock) -> None:
    observer = WorkerObserver(settings().stream_spec())
    observer.serving()
    with logs() as lines:
        for _ in range(100):
            observer.look()
            clock.now_s += 0.25
    [line] = of(lines, "serving")
    assert line["partitions"] == []


async def test_partitions_that_began_cold_are_counted_and_named() -> None:
    observer = WorkerObserver(settings().stream_spec())
    for partition, why in ((0, ""), (1, "retention")):
        observer.restored(partition, 0, {}, 0.1, why)
        observer.assigned(partition, 0, 0)
    assert (metric(observer, "partitions_owned"), metric(observer, "partitions_cold")) == (2, 1)
    assert observer.status()["cold"] == {"1": "retention"}
    observer.revoked(1)
    assert (metric(observer, "partitions_owned"), metric(observer, "partitions_cold")) == (1, 0)
