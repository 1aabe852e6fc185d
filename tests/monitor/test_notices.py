"""What is wrong with the input is said in the log: once a minute, with a count, an example and what to set."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from running import START, Clock, all_committed, documents, logs, made, of, send, settings, tick, until, worker

from streamrnn.monitor import observer as observe
from streamrnn.monitor.notices import HANDFUL, NothingUsed, Pace, Refusals, fates
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.stream.engine import Engine
from streamrnn.training.trainer import Trainer
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport
from streamrnn.wire.codec import Decoder

# ── nothing is used ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("used", [False, True])
def test_an_input_of_which_all_is_skipped_is_said_once_a_minute(used: bool) -> None:
    nothing = NothingUsed()
    with logs() as lines:
        for second in range(100):
            nothing.add({"where": 3, "tombstone": 9})
            nothing.look(float(second), used)
    assert len(of(lines, "all of the input is skipped")) == (0 if used else 2)
    if not used:
        assert lines[0]["skipped"]["where"] > 0
        assert "streamrnn decode" in lines[0]["event"]


# ── one line a minute ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("boot_s", [0.0, 3.0, 1e6])
def test_news_pass_at_once_and_then_once_a_minute(boot_s: float) -> None:
    """Also on a machine that has just booted: the clock begins near 0."""
    pace = Pace()
    assert pace.news(boot_s, 0) == 0
    assert pace.news(boot_s, 3) == 3
    assert [pace.news(boot_s + s, 3 + s) for s in range(1, 60)] == [0] * 59
    assert pace.news(boot_s + 60, 70) == 67
    assert pace.news(boot_s + 200, 70) == 0


class Minutes:
    """A window fed with good and bad records, second by second."""

    def __init__(self, begin_s: float = 0.0) -> None:
        self.now_s = begin_s
        self.refusals = Refusals()
        self.said: list[tuple[float, dict[str, Any]]] = []
        self._engine, self._decoder = Engine(settings().stream_spec()), Decoder(settings().stream_spec())
        self._offset = 0

    def second(self, good: int, bad: int) -> None:
        broker = MemoryBroker()
        broker.create("ticks", 1)
        for i in range(good):
            broker.append("ticks", 0, b"k", tick("s", self._offset + i, 1.0), START + 1000 * (self._offset + i))
        for _ in range(bad):
            broker.append("ticks", 0, b"k", b'{"series":"s","ts":1,"values":{"temp":"21"}}', START)
        self._offset += good
        batch, bad_ones = self._decoder.decode(broker.topics["ticks"][0])
        outputs = self._engine.process(batch)
        self.refusals.add(self.now_s, fates(outputs, batch, bad_ones), outputs, batch, bad_ones)
        for _ in range(4):
            said = self.refusals.look(self.now_s)
            if said is not None:
                self.said.append((self.now_s, said))
            self.now_s += 0.25


@pytest.mark.parametrize("boot_s", [0.0, 3.0, 1e6])
def test_a_wrong_configuration_is_said_within_seconds_and_then_once_a_minute(boot_s: float) -> None:
    minutes = Minutes(boot_s)
    for _ in range(200):
        minutes.second(0, 2)
    times = [at - boot_s for at, _ in minutes.said]
    assert times[0] <= 6.0
    assert len(times) == 4
    assert all(later - earlier >= 60.0 for earlier, later in pairwise(times))
    said = minutes.said[0][1]
    assert (said["share"], said["reason"], said["refused"]) == (1.0, "type", {"type": said["records"]})
    assert said["source"] == "ticks/0/0" and "$.values.temp" in said["detail"]


def test_more_than_half_of_a_minute_is_said_and_half_of_it_is_not() -> None:
    for bad, expected in ((4, 0), (5, 1)):
        minutes = Minutes()
        for second in range(62):
            # All the bad ones in one half of the minute: it is the minute that counts.
            minutes.second(8, 0 if second < 30 else 2 * bad + 6)
        assert len(minutes.said) == expected, bad
        if expected:
            assert minutes.said[0][0] >= 59.0
            assert 0.5 < minutes.said[0][1]["share"] < 0.6


def test_a_few_bad_records_alone_are_no_line() -> None:
    minutes = Minutes()
    minutes.second(1, 0)
    for _ in range(70):
        minutes.second(0, 0)
    minutes.second(0, HANDFUL - 1)
    for _ in range(130):
        minutes.second(0, 0)
    assert minutes.said == []


def test_good_times_after_bad_ones_are_not_blamed_for_them() -> None:
    minutes = Minutes()
    for _ in range(61):
        minutes.second(1, 9)
    for _ in range(180):
        minutes.second(10, 0)
    assert len(minutes.said) == 1


# ── the service ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    chosen = Clock()
    monkeypatch.setattr(observe, "clock_s", chosen)
    return chosen


async def test_a_stream_that_is_refused_as_a_whole_is_said_with_reason_share_and_example(clock: Clock) -> None:
    chosen, broker = made(1)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            for step in range(40):
                value = json.dumps({"series": "s", "ts": START + 1000 * step, "values": {"temp": "21.4"}}).encode()
                broker.append("ticks", 0, b"s", value, START + 1000 * step)
            await until(lambda: all_committed(broker))
            clock.now_s += 6.0
            await until(lambda: of(lines, "most of the input is refused"))
            for _ in range(3):
                running.observer.look()
            text = running.observer.metrics_text().decode()
    [line] = of(lines, "most of the input is refused")
    assert (line["log_level"], line["share"], line["records"]) == ("warning", 1.0, 40)
    assert (line["reason"], line["refused"]) == ("type", {"type": 40})
    assert "$.values.temp" in line["detail"]
    assert line["source"] == "ticks/0/0"
    assert "streamrnn_refused_share 1.0" in text


async def test_ticks_that_the_grid_refuses_count_too(clock: Clock) -> None:
    """Seconds read as milliseconds: each record is well formed, and none is a time near its own."""
    chosen, broker = made(1)
    with logs() as lines:
        async with worker(chosen, broker):
            for step in range(40):
                value = json.dumps({"series": "s", "ts": START // 1000 + step, "values": {"temp": 1.0}}).encode()
                broker.append("ticks", 0, b"s", value, START + 1000 * step)
            await until(lambda: all_committed(broker))
            clock.now_s += 6.0
            await until(lambda: of(lines, "most of the input is refused"))
    [line] = of(lines, "most of the input is refused")
    assert (line["reason"], line["share"]) == ("timestamp", 1.0)
    assert "looks like s" in line["detail"]
    assert documents(broker, "app.forecasts") == []


@pytest.mark.parametrize("key", [b'"pump-7"', b'{"schema":{"type":"int32"},"payload":1}'])
async def test_keys_that_are_json_are_served_and_said(clock: Clock, key: bytes) -> None:
    chosen, broker = made(1)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            for step in range(20):
                value = json.dumps({"ts": START + 1000 * step, "values": {"temp": 1.0}}).encode()
                broker.append("ticks", 0, key, value, START + 1000 * step)
            await until(lambda: all_committed(broker))
            await until(lambda: of(lines, "keys that are JSON"))
            running.observer.look()
            text = running.observer.metrics_text().decode()
    assert len(of(lines, "keys that are JSON")) == 1  # a minute has not passed
    [line] = of(lines, "keys that are JSON")
    assert line["example"] == key.decode() and "decode.series" in line["event"]
    assert "streamrnn_json_keys_total 20.0" in text
    assert {d["series"] for d in documents(broker, "app.forecasts")} == {key.decode()}


def spread(broker: MemoryBroker, steps: int, partitions: int = 4) -> None:
    """As a producer with a new random key for every record does it."""
    rng = np.random.default_rng(7)
    for step in range(steps):
        for name in ("a", "b"):
            partition = int(rng.integers(partitions))
            broker.append(
                "ticks", partition, str(rng.integers(10**9)).encode(), tick(name, step, 1.0), START + 1000 * step
            )


async def test_a_series_on_two_partitions_of_one_worker_is_said_and_counted(clock: Clock) -> None:
    chosen, broker = made(4)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            spread(broker, 30)
            await until(lambda: all_committed(broker))
            await until(lambda: of(lines, "more than one partition"))
            running.observer.look()
            text = running.observer.metrics_text().decode()
    line = of(lines, "more than one partition")[0]
    assert line["log_level"] == "warning" and line["example"] in ("a", "b") and line["times"] >= 1
    assert len(set(line["partitions"])) == 2
    assert len(of(lines, "more than one partition")) == 1
    assert "streamrnn_series_shared_total 0.0" not in text and "streamrnn_series_shared_total" in text


async def test_what_each_of_several_workers_cannot_see_their_trainer_says() -> None:
    """One partition a worker: none of them sees a series twice. One of all trainers says it, and every one counts it."""
    chosen, broker = made(4)
    spread(broker, 30)
    trainers = [Trainer(chosen, MemoryTransport(broker)) for _ in range(2)]
    with logs() as lines:
        tasks = [asyncio.create_task(trainer.run()) for trainer in trainers]
        try:
            await until(lambda: of(lines, "more than one partition"))
            await until(lambda: all(trainer.said()["shared"] > 0 for trainer in trainers))
        finally:
            for trainer in trainers:
                trainer.stop()
            await asyncio.gather(*tasks)
    assert len(of(lines, "more than one partition")) == 1
    observer = WorkerObserver(chosen.stream_spec())
    observer.trainer_state(True, 0, trainers[0].said())
    assert 'streamrnn_trainer{what="shared"}' in observer.metrics_text().decode()


async def test_a_stream_as_it_should_be_is_no_news(clock: Clock) -> None:
    chosen, broker = made(4)
    with logs() as lines:
        async with worker(chosen, broker) as running:
            send(broker, 30, partitions=4)
            await until(lambda: all_committed(broker))
            clock.now_s += 61.0
            running.observer.look()
            text = running.observer.metrics_text().decode()
    assert not [line for line in lines if line["log_level"] == "warning"]
    for name in ("refused_share", "series_shared_total", "json_keys_total"):
        assert f"streamrnn_{name} 0.0" in text
