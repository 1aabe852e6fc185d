"""The publisher by itself: what goes where, under which key, and when that may be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from running import START, settings

from streamrnn.records import Rejected, TickBatch
from streamrnn.serving.publish import Publisher, Written
from streamrnn.serving.refused import RefusedOutputs
from streamrnn.stream.engine import Engine
from streamrnn.transports.base import TopicMissing
from streamrnn.transports.memory.transport import MemoryRecord

PRESENT = START + 10**9


class Counts:
    """See streamrnn.serving.refused.Observer."""

    def refused(self, kind: str, error: str, count: int) -> None:
        raise AssertionError

    def dead_lettered(self, count: int) -> None:
        raise AssertionError

    def dead_letters_lost(self, count: int) -> None:
        raise AssertionError


class Appended:
    """A sink that keeps what is appended: (sink's partition, topic, partition, key, value, time, headers)."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self.rows: list[tuple[Any, ...]] = []

    def of(self, owner: int) -> Any:
        class Sink:
            async def append_many(
                _, topic: str, partition: int, keys: Any, values: Any, times: Any, headers: Any = None
            ) -> None:
                every = headers if headers is not None else [()] * len(keys)
                rows = zip(keys, values, times, every, strict=True)
                self.rows += [(owner, topic, partition, *row) for row in rows]

            async def partitions_for(_, topic: str) -> int:
                if topic not in self.counts:
                    raise TopicMissing(f"no topic {topic!r}")
                return self.counts[topic]

        return Sink()

    def to(self, topic: str) -> list[tuple[Any, ...]]:
        return [row for row in self.rows if row[1] == topic]


def made(partitions: int = 3, **counts: int) -> tuple[Publisher, Appended, Engine]:
    spec = settings(experts="off", warm_up=2).stream_spec()
    sink = Appended({"f": partitions, "i": partitions, "d": partitions, **counts})
    publisher = Publisher(spec, "ticks", Written("f", "i", "d"), sink.of, RefusedOutputs(Counts()), lambda: PRESENT)
    return publisher, sink, Engine(spec)


def batch(rows: Sequence[tuple[int, str, int, float]], values: int = 2) -> TickBatch:
    """Ticks of (partition, series, step, value); offsets count from 100 in each partition."""
    offset = [100 + sum(p == rows[i][0] for p, *_ in rows[:i]) for i in range(len(rows))]
    records = [
        MemoryRecord("ticks", p, at, START + 1000 * step, name.encode(), b"value-%d" % i)
        for i, ((p, name, step, _), at) in enumerate(zip(rows, offset, strict=True))
    ]
    return TickBatch(
        records,
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array(offset, dtype=np.int64),
        np.array([START + 1000 * row[2] for row in rows], dtype=np.int64),
        [row[1] for row in rows],
        np.array([1000 * (START + 1000 * row[2]) for row in rows], dtype=np.int64),
        np.array([[row[3]] * values for row in rows]),
        np.full(len(rows), -1, dtype=np.int16),
    )


NAN = float("nan")
# A gap in b, a missing value in c, a late tick of a.
ROWS = [
    (0, "a", 0, 1.0), (1, "b", 0, 2.0), (2, "c", 0, 3.0), (0, "a", 1, 1.5), (1, "b", 3, 2.5), (2, "c", 1, NAN), (0, "a", 0, 9.0),
]  # fmt: skip


async def published(
    publisher: Publisher, engine: Engine, ticks: TickBatch, unread: Sequence[Rejected] = ()
) -> tuple[int, int, int]:
    return await publisher.publish(engine.process(ticks), ticks, unread)


async def test_outputs_of_an_input_partition_go_to_that_partition_by_its_own_sink() -> None:
    publisher, sink, engine = made()
    await publisher.check(sink.of(0))
    sent = await published(publisher, engine, batch(ROWS))
    assert sent == (len(sink.to("f")), len(sink.to("i")), len(sink.to("d"))) == (6, 3, 1)
    for owner, _, partition, key, value, time, _ in (*sink.to("f"), *sink.to("i")):
        document = orjson.loads(value)
        assert owner == partition == "abc".index(document["series"]) == document["source"]["partition"]
        assert key == document["series"].encode() and time == PRESENT
    assert [orjson.loads(row[4])["ts"] for row in sink.to("i")] == [START + 1000, START + 2000, START + 1000]


@pytest.mark.parametrize("count", [1, 2])
async def test_outputs_with_fewer_partitions_than_the_input_wrap_around(count: int) -> None:
    publisher, sink, engine = made(count)
    await publisher.check(sink.of(0))
    await published(publisher, engine, batch(ROWS))
    assert {(row[0], row[2]) for row in sink.rows} == {(p, p % count) for p in range(3)}


async def test_partitions_that_are_new_are_looked_for_and_only_those() -> None:
    publisher, sink, engine = made(2)
    await publisher.check(sink.of(0))
    sink.counts.update(dict.fromkeys("fid", 3))
    await publisher.make_room([0, 1], sink.of(0))
    await published(publisher, engine, batch(ROWS))
    assert {row[2] for row in sink.rows} == {0, 1}, "nothing new was given: nothing was asked"
    sink.rows.clear()
    await publisher.make_room([2], sink.of(0))
    await published(publisher, engine, batch([(2, "c", 5, 1.0)]))
    assert {row[2] for row in sink.rows} == {2}


async def test_a_topic_that_is_missing_is_found_before_anything_is_sent() -> None:
    publisher, sink, _ = made()
    del sink.counts["i"]
    with pytest.raises(TopicMissing, match="'i'"):
        await publisher.check(sink.of(0))


async def test_dead_letters_are_in_the_order_of_their_records_with_reason_and_source() -> None:
    """What the decoder refused and what the grid refused, as one; of records of several ticks each element its own."""
    publisher, sink, engine = made()
    await publisher.check(sink.of(0))
    ticks = batch(ROWS)
    before = [Rejected(MemoryRecord("ticks", 0, at, START, b"k", b"{"), "malformed", "not JSON") for at in (500, 7)]
    several = MemoryRecord("ticks", 1, 3, START, b"k", b"[1,2]")
    unread = [*before, Rejected(several, "type", "x", 1), Rejected(several, "type", "x", 0)]
    sent = await published(publisher, engine, ticks, unread)
    assert sent[2] == len(sink.to("d")) == 5
    found = [(row[0], dict(row[6])) for row in sink.to("d")]
    assert [(owner, headers["streamrnn-source"]) for owner, headers in found] == [
        (0, b"ticks/0/7"), (0, b"ticks/0/102"), (0, b"ticks/0/500"), (1, b"ticks/1/3"), (1, b"ticks/1/3"),
    ]  # fmt: skip
    assert [headers["streamrnn-reason"] for _, headers in found] == [
        b"malformed",
        b"late",
        b"malformed",
        b"type",
        b"type",
    ]
    assert [headers.get("streamrnn-index") for _, headers in found] == [None, None, None, b"0", b"1"]
    assert {row[4] for row in sink.to("d")} == {b"{", b"value-6", b"[1,2]"}


async def test_what_the_grid_refuses_of_a_record_of_several_names_its_element() -> None:
    publisher, sink, engine = made()
    await publisher.check(sink.of(0))
    ticks = batch([(0, "a", 3, 1.0), (0, "a", 1, 1.0)])
    ticks.index = np.array([4, 5], dtype=np.int32)
    await published(publisher, engine, ticks)
    [letter] = sink.to("d")
    assert dict(letter[6])["streamrnn-index"] == b"5"


async def test_a_batch_without_outputs_appends_nothing() -> None:
    publisher, sink, engine = made()
    await publisher.check(sink.of(0))
    ticks = batch(ROWS)
    assert await publisher.publish(engine.process(ticks, {0: 1000, 1: 1000, 2: 1000}), ticks, []) == (0, 0, 0)
    assert not sink.rows


async def test_what_is_sealed_is_asked_for_once() -> None:
    """What goes out instead of a refused output is looked up among the records of its own delivery."""
    publisher, sink, engine = made()
    await publisher.check(sink.of(0))
    await published(publisher, engine, batch(ROWS))
    assert len(publisher._sources) == 1
    publisher.sealed()
    assert not publisher._sources
