"""`repartition: on`: the ticks of one series meet in one partition, wherever their records lie; nothing lost, none twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import START, documents, on_virtual_clock, settings, tick, until, worker

from streamrnn.config.settings import ConfigError, Settings
from streamrnn.inputs import Numbering
from streamrnn.records import TickBatch
from streamrnn.serving.merge import Merge
from streamrnn.transports.memory.transport import MemoryBroker, MemoryRecord
from streamrnn.wire import passed
from streamrnn.wire.origins import origin_of
from streamrnn.wire.passed import PassedDecoder, Repeats, encode_ticks

BOTH = pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])


def served(topics: dict[str, int], between: int = 3, **changes: Any) -> tuple[Settings, MemoryBroker]:
    broker = MemoryBroker()
    base = {"input": list(topics), "repartition": True, "checkpoint": {"interval": "50ms"}}
    chosen = settings(**{**base, **changes})
    for name, partitions in topics.items():
        broker.create(name, partitions)
    for need in chosen.topic_needs(between):
        broker.create(need.name, need.partitions)
    return chosen, broker


def visible(broker: MemoryBroker, topic: str) -> Iterator[MemoryRecord]:
    for log in broker.topics[topic]:
        yield from (record for record in log if record.visible)


def read(broker: MemoryBroker, *topics: str) -> Callable[[], bool]:
    """All of the input is on `app.ticks`, and all of that is served."""

    def done() -> bool:
        first = broker.groups["app.repartition"].committed if "app.repartition" in broker.groups else {}
        then = broker.groups["app"].committed if "app" in broker.groups else {}
        ends = {(t, p): broker.end(t, p) for t in topics for p in range(len(broker.topics[t]))}
        if any(first.get(at) is None or first[at].offset != end for at, end in ends.items()):
            return False
        last = [next((r.offset + 1 for r in reversed(log) if r.visible), 0) for log in broker.topics["app.ticks"]]
        return all(
            not end or (("app.ticks", p) in then and then["app.ticks", p].offset >= end) for p, end in enumerate(last)
        )

    return done


def said(broker: MemoryBroker) -> Counter[tuple[str, int, int]]:
    found = Counter[tuple[str, int, int]]()
    for record in visible(broker, "app.forecasts"):
        source = json.loads(record.value or b"")["source"]
        found[source["topic"], source["partition"], source["offset"]] += 1
    return found


@BOTH
@on_virtual_clock
async def test_a_series_in_several_partitions_is_one_series(delivery: str) -> None:
    chosen, broker = served({"in": 4}, delivery=delivery)
    rng = random.Random(1)
    for step in range(60):
        for name in ("a", "b", "c"):
            p = rng.randrange(4)
            broker.append("in", p, b"k%d" % step, tick(name, step, float(step)), START + 1000 * step)
    broker.append("in", 2, b"k", b"{", START)
    async with worker(chosen, broker) as running:
        await until(read(broker, "in"))
        assert running.observer.metrics.shared._value.get() == 0
        assert running.observer.health.ready(running.observer.started_s)[0]
        status = running.observer.status()
        assert {"in/0", "in/1", "in/2", "in/3"} < set(status["partitions"])
        assert status["lag"] == 0
    of_series: dict[str, set[int]] = {}
    for p, log in enumerate(broker.topics["app.ticks"]):
        for record in log:
            if record.visible:
                assert record.key is not None
                of_series.setdefault(record.key.decode(), set()).add(p)
    assert set(of_series) == {"a", "b", "c"}
    assert all(len(partitions) == 1 for partitions in of_series.values())
    (letter,) = (r for r in visible(broker, "app.dlq") if dict(r.headers)["streamrnn-reason"] == b"malformed")
    assert dict(letter.headers)["streamrnn-source"] == f"in/2/{len(broker.topics['in'][2]) - 1}".encode()
    assert letter.value == b"{"
    total = Counter({("in", p, o): 1 for p in range(4) for o in range(len(broker.topics["in"][p]))})
    late = Counter[tuple[str, int, int]]()
    for record in visible(broker, "app.dlq"):
        topic, p, o = dict(record.headers)["streamrnn-source"].decode().split("/")
        late[topic, int(p), int(o)] += 1
    assert said(broker) + late == total  # every record ends in one place, and names its own


@BOTH
@on_virtual_clock
async def test_channels_of_one_series_from_several_topics_meet_in_one_step(delivery: str) -> None:
    chosen, broker = served({"temp": 2, "flow": 1}, delivery=delivery, complete="channels", lateness="5s")
    for step in range(40):
        for topic, p in (("temp", step % 2), ("flow", 0)):
            value = {"series": "pump", "ts": START + 1000 * step, "values": {topic: float(step)}}
            broker.append(topic, p, None, json.dumps(value).encode(), START + 1000 * step)
            broker.announce()
    async with worker(chosen, broker) as running:
        await until(read(broker, "temp", "flow"))
        assert len(running.engine.table) == 1
    forecasts = documents(broker, "app.forecasts")
    assert all(set(document["channels"]) == {"temp", "flow"} for document in forecasts[2:])
    assert len({document["ts"] for document in forecasts}) == len(forecasts) >= 30


@BOTH
@on_virtual_clock
async def test_what_was_in_flight_when_a_worker_was_killed_is_written_again_and_counts_once(delivery: str) -> None:
    chosen, broker = served({"in": 2}, delivery=delivery, batch_records_max=10, commit_interval="2s")
    for step in range(80):
        for p in range(2):
            name = f"s{p}"
            broker.append("in", p, None, tick(name, step, float(step)), START + 1000 * step)
    for _ in range(3):
        async with worker(chosen, broker) as running:
            await until(lambda: sum(said(broker).values()) % 80 > 40 or read(broker, "in")())
            for task in asyncio.all_tasks():  # kill -9: nothing is given up in good order
                if task is not asyncio.current_task() and "restart" in task.get_name():
                    task.cancel()
            assert running.first is not None
            pump = running.first.pump
            if pump is not None and delivery == "at-least-once":
                pump._to_commit.clear()  # what it would have committed
                pump._in_flight = None
    async with worker(chosen, broker):
        await until(read(broker, "in"))
    found = said(broker)
    assert found.keys() == {("in", p, o) for p in range(2) for o in range(80)}
    assert set(found.values()) == {1}
    assert not list(visible(broker, "app.dlq"))


@on_virtual_clock
async def test_a_refusal_at_the_second_stage_names_the_record_of_the_first() -> None:
    chosen, broker = served({"in": 1}, decode={"each": "r[*]"})
    ticks = [json.loads(tick("a", step, 1.0)) for step in (0, 1, 2, 1)]
    broker.append("in", 0, b"k", json.dumps({"r": ticks}).encode(), START)
    async with worker(chosen, broker):
        await until(read(broker, "in"))
    (letter,) = visible(broker, "app.dlq")
    headers = dict(letter.headers)
    assert headers["streamrnn-source"] == b"in/0/0"
    assert headers["streamrnn-index"] == b"3"
    assert [d["source"]["index"] for d in documents(broker, "app.forecasts")] == [0, 1, 2]


# ── in the order of their times ──────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.lists(st.integers(0, 50), max_size=20), min_size=1, max_size=4),
    st.integers(1, 7),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_partitions_are_merged_by_time_and_nothing_is_lost(
    times: list[list[int]], chunk: int, most: int, rng: random.Random
) -> None:
    """However they come: each keeps its own order, and where no clock goes back the whole is in order."""
    logs = [[MemoryRecord("in", p, o, t, None, b"") for o, t in enumerate(each)] for p, each in enumerate(times)]
    merge, at, found = Merge(8), [0] * len(logs), list[MemoryRecord]()
    now_s = 0.0
    while len(found) < sum(map(len, logs)):
        p = rng.randrange(len(logs))
        if p not in merge.full():
            merge.add(p, logs[p][at[p] : at[p] + chunk])
            at[p] = min(len(logs[p]), at[p] + chunk)
        lag = {p: len(log) - at[p] for p, log in enumerate(logs)}
        taken = merge.take(most, lag, now_s)
        assert sum(len(records) for _, records in taken) <= most
        for p, records in taken:
            assert {record.partition for record in records} == {p}
            found += records  # type: ignore[arg-type]
    for p, log in enumerate(logs):
        assert [record for record in found if record.partition == p] == log
    clocks = [max(r.timestamp for r in found[: i + 1] if r.partition == found[i].partition) for i in range(len(found))]
    assert clocks == sorted(clocks)


def test_a_partition_that_does_not_show_what_it_has_holds_the_others_up_for_a_moment_only() -> None:
    merge = Merge(8)
    merge.add(0, [MemoryRecord("in", 0, o, o, None, b"") for o in range(4)])
    assert not merge.take(9, {0: 0, 1: 5}, 10.0)
    assert not merge.take(9, {0: 0, 1: 5}, 10.9)
    assert len(merge.take(2, {0: 0, 1: 5}, 11.0)[0][1]) == 2
    assert len(merge.take(2, {0: 0, 1: None}, 11.1)[0][1]) == 2  # it has not spoken since
    merge.add(1, [MemoryRecord("in", 1, 0, 0, None, b"")])
    assert merge.take(9, {0: 0, 1: 4}, 11.2)
    merge.add(0, [MemoryRecord("in", 0, 4, 4, None, b"")])
    assert not merge.take(9, {0: 0, 1: 4}, 11.3)
    merge.drop([0])
    assert len(merge) == 0


# ── a tick on its way ────────────────────────────────────────────────────────────────────────────────────────────────

SPEC = settings().stream_spec()
numbers = st.floats(allow_nan=True, allow_infinity=False, width=64)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=9),
            st.integers(-(10**15), 4 * 10**15),
            st.tuples(numbers, numbers),
            st.sampled_from([-1, 0, 1]),
            st.integers(-1, 5),
        ),
        max_size=20,
    )
)
def test_a_tick_arrives_as_it_left(drawn: list[tuple[str, int, tuple[float, float], int, int]]) -> None:
    """Series, time to the microsecond, values bit for bit, channel, and the place that it is from."""
    limit = 1e15  # decode.value_abs_max refuses what is beyond, at either stage
    values = np.array([[v if abs(v) < limit else np.nan for v in row] for _, _, row, _, _ in drawn]).reshape(-1, 2)
    channel = np.array([c for *_, c, _ in drawn], np.int16)
    for row, c in enumerate(channel):
        if c >= 0:
            values[row, 1 - c] = np.nan
    count = len(drawn)
    batch = TickBatch(
        records=[], partition=np.zeros(count, np.int32), offset=np.arange(count),
        record_ts_ms=np.zeros(count, np.int64), series=[name for name, *_ in drawn],
        ts_us=np.array([us for _, us, *_ in drawn], np.int64), values=values, channel=channel,
        index=np.array([i for *_, i in drawn], np.int32),
    )  # fmt: skip
    numbering = Numbering()
    numbering.add({("in", 3): 0})
    texts = encode_ticks(SPEC, batch, numbering, {"in": "id"})
    records = [MemoryRecord("app.ticks", 0, 7 + i, START, b"k", text) for i, text in enumerate(texts)]
    read, refused, _ = PassedDecoder(SPEC, repeats=False).read(records)
    assert not refused
    assert read.series == batch.series
    assert read.ts_us.tolist() == batch.ts_us.tolist()
    np.testing.assert_array_equal(read.values, batch.values)
    assert read.channel.tolist() == batch.channel.tolist()
    for at, record in enumerate(records):
        origin = origin_of(record)
        assert origin is not None
        assert (origin.topic, origin.partition, origin.offset, origin.id) == ("in", 3, at, "id")
        assert origin.index == drawn[at][4]


def of(at: int, offset: int, index: int = -1, topic_id: str = "t1") -> MemoryRecord:
    source = {"topic": "in", "id": topic_id, "partition": 0, "offset": offset, "index": index}
    return MemoryRecord("app.ticks", 0, at, START, b"k", json.dumps({"source": source}).encode())


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_a_repeat_is_one_whenever_it_is_read_again(origins: list[int], kept: int, back: int) -> None:
    """The first of two counts, a replay from anywhere after what was carried finds the same."""
    log = [of(at, offset) for at, offset in enumerate(origins)]
    whole = Repeats()
    found = [whole.repeats(record) for record in log]
    assert found == [offset in origins[:at] for at, offset in enumerate(origins)]
    before = Repeats()
    for record in log[:kept]:
        before.repeats(record)
    after = Repeats()
    after.carry(0, before.carried(0))
    begin = min(back, kept)
    assert [after.repeats(record) for record in log[begin:]] == found[begin:]
    assert [whole.repeats(record) for record in log] == found


def test_a_topic_that_was_made_anew_repeats_nothing() -> None:
    repeats = Repeats()
    assert not repeats.repeats(of(0, 0))
    assert not repeats.repeats(of(1, 0, topic_id="t2"))
    assert repeats.repeats(of(2, 0))
    assert not repeats.repeats(MemoryRecord("app.ticks", 0, 3, START, None, b"{"))


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed, "REMEMBERED", 10)
    repeats = Repeats()
    assert not any(repeats.repeats(of(at, at)) for at in range(30))
    assert len(repeats._first[0]) == len(repeats._order[0]) == 10


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="sparkplug"):
        settings(repartition=True, decode={"preset": "sparkplug"})
    assert settings(repartition="on").repartition == settings(repartition=True).repartition == "on"
    assert settings().inputs.one == "ticks"
    assert settings(repartition=True).inputs.one == "app.ticks"
