"""Checkpoints keep to a budget of bytes a second: they come more seldom, whole, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operated import BOTH, Life, said
from partitions import Unreported, owned
from running import START, Clock, committed, documents, logs, made, of, on_virtual_clock, settings, tick
from test_topics import hints

from streamrnn.config.settings import ConfigError
from streamrnn.config.sizes import sizes_of
from streamrnn.inputs import Numbering
from streamrnn.serving import watch
from streamrnn.serving.budget import LOOK_S, WriteBudget
from streamrnn.serving.changelog_state import ChangelogState
from streamrnn.serving.checkpoint import SLICE_ROW_BYTES, SLICE_ROWS, Checkpointer, CheckpointSettings
from streamrnn.serving.partition import Partitions
from streamrnn.stores.changelog import Checkpoint
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.memory.transport import MemoryBroker

RATE = 1000.0
FOREVER = 1e9

# ── the accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────

EVENTS = st.lists(
    st.tuples(
        st.floats(-5, 30, allow_nan=False) | st.sampled_from([0.0, 0.001, 1e5, -1e5]),  # the clock's next step
        st.integers(0, 3),  # the partition
        st.floats(0, 50_000) | st.sampled_from([0.0, 1.0, 1e7]),  # what its checkpoint is charged
        st.floats(-0.9, 3.0),  # what it turns out to be more, of what was charged
        st.floats(0, 1),  # how far through the interval that is known
    ),
    max_size=60,
)


@given(EVENTS)
def test_the_rate_is_kept_whatever_the_sizes_and_the_clock(
    events: list[tuple[float, int, float, float, float]],
) -> None:
    """Between any two instants: the rate's bytes, and one checkpoint of each partition."""
    budget, now = WriteBudget(RATE, FOREVER, 100.0), 100.0
    newest, written = now, list[tuple[float, float]]()
    largest = dict.fromkeys(range(4), 0.0)
    for step, partition, size, more, share in events:
        now += step
        newest = max(newest, now)  # a clock that goes back pays nothing
        if not budget.paid(partition, now):
            continue
        budget.charge(partition, size, now)
        written.append((newest, size))
        newest = max(newest, now + LOOK_S * share)
        budget.correct(partition, size * more)
        written.append((newest, size * more))
        largest[partition] = max(largest[partition], size * (1 + max(0.0, more)))
    at = np.array([when for when, _ in written])
    upto = np.concatenate([[0.0], np.cumsum([size for _, size in written])])
    bound = sum(largest.values()) * (1 + 1e-9) + 1e-3
    for i in range(len(at)):
        spent = upto[i + 1 :] - upto[i]
        assert (spent <= RATE * (at[i:] - at[i]) + bound).all()


def asked(
    budget: WriteBudget, sizes: dict[int, float], every_s: dict[int, float], seconds: float
) -> dict[int, list[float]]:
    """When the checkpoints of each partition begin, which asks so often and has so much to write."""
    begun: dict[int, list[float]] = {p: [] for p in sizes}
    due = dict.fromkeys(sizes, 0.0)
    while (now := min(due.values())) < seconds:
        partition = min(due, key=lambda p: due[p])
        due[partition] = now + every_s[partition]
        if budget.paid(partition, now):
            budget.charge(partition, sizes[partition], now)
            begun[partition].append(now)
    return begun


def test_all_of_the_budget_is_used_and_all_partitions_are_stretched_alike() -> None:
    sizes = {0: 40_000.0, 1: 4_000.0, 2: 400.0}
    begun = asked(WriteBudget(RATE, FOREVER, 0.0), sizes, {0: 0.1, 1: 0.1, 2: 7.0}, 3000.0)
    spent = sum(sizes[p] * len(begun[p]) for p in sizes)
    assert 0.9 * RATE * 3000 < spent < 1.05 * RATE * 3000
    counts = [len(times) for times in begun.values()]
    assert max(counts) < 1.3 * min(counts), counts


def test_a_partition_that_is_silent_keeps_nothing_from_the_others() -> None:
    budget = WriteBudget(RATE, FOREVER, 0.0)
    budget.charge(9, 1_000_000.0, 0.0)  # and never again
    begun = asked(budget, {0: 10_000.0}, {0: 0.1}, 4000.0)[0]
    assert 9.9 < begun[-1] - begun[-2] < 10.2
    assert begun[1] - begun[0] > 500  # while what the other has written is being paid


def test_what_is_owed_beyond_the_bound_is_forgotten() -> None:
    budget = WriteBudget(RATE, 60.0, 0.0)
    for now in range(100):
        budget.charge(0, 1e6, float(now))
    assert not budget.paid(0, 100.0 + 58.0) and budget.paid(0, 100.0 + 60.0)


# ── when a checkpoint begins ─────────────────────────────────────────────────────────────────────────────────────────


class Made(Checkpointer):
    """A checkpointer, and the partitions that it is of."""

    def __init__(self, engine: Engine, settings_: CheckpointSettings, partitions: int = 1) -> None:
        served = Partitions(Numbering(one="ticks"))
        super().__init__(engine, Snapshots(engine), "state", settings_, served, Unreported())
        begun = [self.begun(Checkpoint("ticks", 0, "w", None, 1), ((0, "w"),), -1) for _ in range(partitions)]
        self.of = [owned(served, engine.spec, number, changelog) for number, changelog in enumerate(begun)]

    def changelog(self, number: int) -> ChangelogState:
        changelog = self.of[number].changelog
        assert changelog is not None
        return changelog


def of_series(count: int, settings_: CheckpointSettings, partitions: int = 1) -> tuple[Made, Any]:
    """A checkpointer of partitions whose series have all changed, and what marks them as changed again."""
    engine = Engine(settings(series_max=10_000, channels=[f"c{i}" for i in range(4)]).stream_spec())
    rows = {p: engine.table.adopt(p, [f"s{i}" for i in range(count)])[0] for p in range(partitions)}
    known = Made(engine, settings_, partitions)

    def changed() -> None:
        for each in rows.values():
            engine.table.changed[each] = True

    changed()
    return known, changed


def written(known: Made, partition: int, position: int, force: bool = False) -> bool:
    """Whether a checkpoint began at this position; it is then complete."""
    piece = known.take(known.of[partition], position, 10**6, force)
    while piece is not None and piece.completes is None:
        piece = known.take(known.of[partition], position, 10**6)
    if piece is None:
        return False
    known.arrived(piece)
    assert known.complete(known.of[partition], position) is not None
    return True


def interval(known: Made, changed: Any, clock: Clock, first: int, partition: int = 0) -> float:
    """Seconds to the next checkpoint of a partition whose series all change all the time."""
    begun = clock.now_s
    for position in range(first, first + 100_000):
        clock.now_s += 0.1
        changed()
        if written(known, partition, position):
            return clock.now_s - begun
    raise AssertionError("there is no checkpoint")


def test_a_larger_state_is_written_more_seldom_and_the_budget_is_kept(clock: Clock) -> None:
    size = Snapshots(Engine(settings(channels=[f"c{i}" for i in range(4)]).stream_spec())).record_bytes()
    for count, wanted in ((10, 10.0), (90, 10.0), (400, 40.0), (550, 55.0), (5000, 60.0)):
        known, changed = of_series(count, CheckpointSettings(10.0, 10**9, 10.0 * size, 60.0))
        interval(known, changed, clock, 1)  # nothing is owed before the first
        found = interval(known, changed, clock, 200_000)
        assert found == pytest.approx(wanted, rel=0.02, abs=0.2), count
        assert known.interval_s() == pytest.approx(wanted, rel=0.02), count


def test_without_a_budget_the_interval_is_as_it_is_set(clock: Clock) -> None:
    known, changed = of_series(5000, CheckpointSettings(10.0, 10**9, 0.0, 60.0))
    assert interval(known, changed, clock, 1) == pytest.approx(10.0, abs=0.2)
    assert interval(known, changed, clock, 200_000) == pytest.approx(10.0, abs=0.2)


def test_many_records_are_no_reason_to_exceed_the_budget(clock: Clock) -> None:
    known, changed = of_series(100, CheckpointSettings(10.0, 50, 1000.0, 60.0))
    interval(known, changed, clock, 1)
    assert interval(known, changed, clock, 200_000) == pytest.approx(60.0, abs=0.2)


def test_no_interval_is_longer_than_its_bound_however_many_partitions_owe(clock: Clock) -> None:
    known, changed = of_series(100, CheckpointSettings(10.0, 10**9, 1.0, 60.0), partitions=4)
    begun: dict[int, list[float]] = {p: [] for p in range(4)}
    for position in range(1, 2000):
        clock.now_s += 0.1
        changed()
        for partition, times in begun.items():
            if written(known, partition, position):
                times.append(clock.now_s)
    for times in begun.values():
        assert len(times) > 3 and np.diff(times) == pytest.approx(60.0, abs=0.2)


def test_a_partition_that_is_given_up_is_written_whole_whatever_is_owed(clock: Clock) -> None:
    known, changed = of_series(100, CheckpointSettings(10.0, 10**9, 1.0, 60.0))
    assert written(known, 0, 5, force=True)
    changed()
    assert not written(known, 0, 6)
    assert written(known, 0, 7, force=True)


def test_what_a_zombie_wrote_over_is_written_anew_at_once(clock: Clock) -> None:
    known, changed = of_series(100, CheckpointSettings(10.0, 10**9, 1.0, 600.0))
    interval(known, changed, clock, 1)
    changed()
    assert not written(known, 0, 200_000)
    known.changelog(0).end = 7
    known.written({0: [(9, 1)]})
    assert written(known, 0, 200_001)


def test_no_more_swaps_of_weights_than_are_kept_lie_behind_a_checkpoint(clock: Clock) -> None:
    """A replay has each tick's own weights, and `learn.keep` newer ones push older ones out of their topic."""
    known, changed = of_series(100, CheckpointSettings(10.0, 10**9, 1.0, 600.0, swaps_max=3))
    interval(known, changed, clock, 1)
    clock.now_s += 20.0
    for swap in range(3):
        assert not written(known, 0, 200_000 + swap)
        known.swapped(known.of[0], 200_000 + swap, f"w{swap}")
        changed()
    assert written(known, 0, 200_010)
    assert not known.changelog(0).written.swaps


def test_a_budget_that_cannot_be_kept_is_reported_once(clock: Clock) -> None:
    with logs() as lines:
        known, changed = of_series(100, CheckpointSettings(10.0, 10**9, 1.0, 60.0))
        for first in (1, 200_000, 400_000, 600_000):
            interval(known, changed, clock, first)
        slow, changed = of_series(100, CheckpointSettings(10.0, 10**9, 1e6, 60.0))
        for first in (1, 200_000):
            interval(slow, changed, clock, first)
    [line] = of(lines, "checkpoint.bytes_per_second is not kept")
    assert line["budget"] == 1 and line["bytes_per_second"] > 1000


@pytest.mark.parametrize("channels", [1, 4, 40])
def test_a_batch_carries_no_more_bytes_of_states_because_they_are_larger(channels: int) -> None:
    engine = Engine(settings(series_max=10_000, channels=[f"c{i}" for i in range(channels)]).stream_spec())
    engine.table.changed[engine.table.adopt(0, [f"s{i}" for i in range(3000)])[0]] = True
    known = Made(engine, CheckpointSettings(0.0))
    for limit in (1, SLICE_ROWS, 2000):
        piece = known.take(known.of[0], 10, limit)
        assert piece is not None and 1 <= piece.rows <= limit
        assert piece.rows == 1 or piece.rows * piece.row_bytes <= limit * SLICE_ROW_BYTES
        assert piece.weight() <= max(limit, -(-piece.row_bytes // SLICE_ROW_BYTES))


# ── in a worker ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def fed(broker: MemoryBroker, seconds: int, first: int = 0, series: int = 30) -> None:
    """Every series speaks once a second."""
    for step in range(first, first + seconds):
        for i in range(series):
            name = f"s{i}"
            broker.append("ticks", 0, name.encode(), tick(name, step, np.sin(step / 5 + i)), START + 1000 * step)
        broker.announce()
        await asyncio.sleep(1.0)


def state_bytes(broker: MemoryBroker) -> int:
    return sum(len(r.key or b"") + len(r.value or b"") for r in broker.topics["app.state"][0])


def checkpoints(broker: MemoryBroker) -> list[int]:
    """Input offsets, each once."""
    records = [r for r in broker.topics["app.state"][0] if r.key == b"checkpoint" and r.value]
    return sorted({json.loads(r.value or b"")["offset"] for r in records})


def metric(life: Life, name: str) -> float:
    lines = life.worker.observer.metrics_text().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"streamrnn_{name} "))


@BOTH
@on_virtual_clock
async def test_a_service_writes_no_more_than_its_budget_and_says_what_it_writes(delivery: str) -> None:
    _, broker = made(partitions=1)
    size = sizes_of(settings()).state_usual
    chosen = {"interval": "2s", "bytes_per_second": size * 5, "interval_max": "30s"}
    life = Life(broker, delivery=delivery, checkpoint=chosen, idle_after="600s")
    await fed(broker, 120)
    # 30 states of at most `size` bytes: 6 s apart, or less while there is no network.
    assert state_bytes(broker) < 1.1 * 5 * size * 120
    gaps = [b - a for a, b in pairwise(checkpoints(broker)[2:])]
    assert len(gaps) > 5 and min(gaps) > 3 * 30
    assert metric(life, "checkpoint_interval_seconds") == pytest.approx(float(np.mean(gaps)) / 30, rel=0.3)
    await life.stop()
    counted = metric(life, "state_bytes_total")
    assert counted == pytest.approx(state_bytes(broker), rel=0.02) and counted > 0
    # The end is no checkpoint like the others: the next worker has nothing to replay.
    assert checkpoints(broker)[-1] == broker.end("ticks", 0) == 120 * 30


@BOTH
@on_virtual_clock
async def test_killed_long_after_its_checkpoint_it_goes_on_as_if_nothing_had_happened(delivery: str) -> None:
    """The whole of what came since is replayed; outputs and states are those of a worker that was never killed."""
    rare = {"interval": "1s", "bytes_per_second": 1, "interval_max": "1000s"}
    _, broker = made(partitions=1)
    life = Life(broker, delivery=delivery, checkpoint=rare, idle_after="600s")
    await fed(broker, 40, series=6)
    await life.serves()
    assert broker.end("ticks", 0) - checkpoints(broker)[-1] > 30 * 6
    life.kill()
    again = Life(broker, delivery=delivery, checkpoint=rare, idle_after="600s")
    await fed(broker, 5, first=40, series=6)
    await (await again.serves()).stop()
    _, other = made(partitions=1)
    plain = Life(other, delivery=delivery, idle_after="600s")
    await fed(other, 45, series=6)
    await (await plain.serves()).stop()
    wanted, found = said(other), said(broker)
    assert sorted(set(found)) == sorted(wanted)
    if delivery == "exactly-once":
        assert len(found) == len(wanted)
    ours, theirs = again.worker.engine.table, plain.worker.engine.table
    rows, others = ours.series(0), theirs.series(0)
    assert rows.keys() == others.keys()
    for name, row in rows.items():
        for column, values in ours.columns.items():
            if column not in ("applied", "state"):
                assert values[row].tobytes() == theirs.columns[column][others[name]].tobytes(), column


def deleted(broker: MemoryBroker, upto: int) -> None:
    """What retention does."""
    gone = upto - broker.begin.get(("ticks", 0), 0)
    del broker.topics["ticks"][0][:gone]
    broker.begin["ticks", 0] = upto


@on_virtual_clock
async def test_a_checkpoint_does_not_wait_until_the_input_has_deleted_what_it_would_replay() -> None:
    rare = {"interval": "1s", "bytes_per_second": 100, "interval_max": "10000s"}
    _, broker = made(partitions=1)
    life = Life(broker, checkpoint=rare, idle_after="600s")
    with logs() as lines:
        await fed(broker, 60, series=4)
        kept = checkpoints(broker)[-1]
        assert kept < 20 * 4
        deleted(broker, kept - 1)  # no more than what lies before the checkpoint, nearly
        await fed(broker, 15, first=60, series=4)
        assert checkpoints(broker)[-1] > 60 * 4
        assert not of(lines, "no longer has what a restart would replay")
        deleted(broker, checkpoints(broker)[-1] + 10)
        await fed(broker, 25, first=75, series=4)
        assert len(of(lines, "no longer has what a restart would replay")) == 1
        assert checkpoints(broker)[-1] > broker.begin["ticks", 0]
    assert watch.RETENTION_S < 15
    await life.stop()


@on_virtual_clock
async def test_a_replay_that_the_input_no_longer_has_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpointer, "hurry", lambda self, partition: None)  # as where the state topic takes nothing
    rare = {"interval": "1s", "bytes_per_second": 100, "interval_max": "10000s"}
    _, broker = made(partitions=1)
    life = Life(broker, checkpoint=rare, idle_after="600s")
    with logs() as lines:
        await fed(broker, 40, series=4)
        deleted(broker, checkpoints(broker)[-1] + 10)
        await fed(broker, 50, first=40, series=4)
    assert len(of(lines, "no longer has what a restart would replay")) == 1
    await life.stop()


@on_virtual_clock
async def test_where_the_input_keeps_all_the_budget_alone_decides() -> None:
    rare = {"interval": "1s", "bytes_per_second": 100, "interval_max": "10000s"}
    _, broker = made(partitions=1)
    life = Life(broker, checkpoint=rare, idle_after="600s")
    await fed(broker, 60, series=4)
    deleted(broker, 2)
    kept = checkpoints(broker)[-1]
    assert len(checkpoints(broker)) <= 3 and kept < 20 * 4
    await life.stop()
    assert committed(broker) and documents(broker, "app.forecasts")


# ── beforehand ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_input_that_is_kept_for_less_than_a_replay_may_need_is_named() -> None:
    assert not await hints({"ticks": {"retention.ms": "120000"}})
    assert not await hints({"ticks": {"retention.ms": "-1"}})
    assert not await hints({"ticks": {"retention.ms": "1000", "cleanup.policy": "compact"}})
    [hint] = (await hints({"ticks": {"retention.ms": "119000"}}))["ticks"]
    assert "checkpoint.interval_max" in hint and "--entity-name ticks --add-config retention.ms=120000" in hint
    assert not await hints({"ticks": {"retention.ms": "119000"}}, checkpoint={"interval_max": "30s"})


def test_the_bounds_of_a_configuration_fit_each_other() -> None:
    assert settings().checkpoint.interval_max == 60_000
    assert (
        settings(checkpoint={"interval": "5m"}).checkpoint.interval_max == 300_000
    )  # as it was before there was a budget
    with pytest.raises(ConfigError, match="interval_max must be at least interval"):
        settings(checkpoint={"interval": "5m", "interval_max": "1m"})


def test_the_default_case_writes_at_most_twice_what_it_wrote_without_a_budget() -> None:
    """500 series of four channels, 6.4 kB each, every 10 s: 320 kB a second. However large a state becomes."""
    assert settings().checkpoint.bytes_per_second <= 2 * 500 * 6360 / 10
    for channels, horizon in ((4, 12), (4, 96), (12, 48)):
        chosen = settings(channels=[f"c{i}" for i in range(channels)], horizon=horizon, series_max=500)
        sizes = sizes_of(chosen)
        needed = 500 * sizes.state_usual / 60  # what no budget can go below
        assert sizes.changelog_bytes_s(500.0) <= max(2 * 500 * 6360 / 10, 1.001 * needed)
        plain = settings(
            channels=[f"c{i}" for i in range(channels)], horizon=horizon, series_max=500,
            checkpoint={"bytes_per_second": 0},
        )  # fmt: skip
        assert sizes_of(plain).interval_s(500.0) == 10.0
