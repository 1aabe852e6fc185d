"""Sending: at its rate, to the right partition, and into files that can be read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from simulators.drive import produce, produce_to, read_truth, truth_file, write_file, write_truth
from simulators.faults import FaultPlan
from simulators.partition import murmur2, partition_of
from simulators.poison import poisons
from simulators.sensors import DEFAULT_CHANNELS, Sensors
from simulators.stream import SimRecord, Ticks
from streamrnn.spec import StreamSpec
from streamrnn.transports.base import TopicMissing
from streamrnn.transports.memory.transport import MemoryTransport
from streamrnn.wire.codec import Decoder

START_MS = 1_764_000_000_000


def ticks(plan: FaultPlan | None = None, **more: int) -> Ticks:
    return Ticks(Sensors(7), plan or FaultPlan(), START_MS, 1000, **more)  # type: ignore[arg-type]


# ── partitions ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "hashed"),  # from the tests of Kafka's Java client (UtilsTest.testMurmur2), signed as there
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF


@given(st.binary(max_size=40), st.integers(1, 100))
def test_partitions_are_those_of_aiokafka(key: bytes, partitions: int) -> None:
    assert murmur2(key) & 0x7FFFFFFF == reference(key) & 0x7FFFFFFF
    everything = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, everything, everything)


# ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Time that passes only by sleeping; remembers how long that was."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def transport(partitions: int = 4) -> MemoryTransport:
    made = MemoryTransport()
    made.broker.create("ticks", partitions)
    return made


async def test_everything_arrives_in_the_keys_partition_in_order() -> None:
    memory = transport()
    wanted = list(ticks(FaultPlan(poison=0.1), steps=40))
    assert await produce_to(memory, "ticks", wanted) == len(wanted)
    logs = memory.broker.topics["ticks"]
    assert sum(len(log) for log in logs) == len(wanted)
    for p, log in enumerate(logs):
        assert [(r.key, r.value, r.timestamp) for r in log] == [
            (r.key, r.value, r.ts_ms) for r in wanted if partition_of(r.key, 4) == p
        ]


async def test_timestamps_and_headers_can_be_given() -> None:
    memory = transport(1)
    records = [SimRecord(b"k", b"v", 5, headers=(("ce_id", b"1"),)), SimRecord(b"k", b"w", 6)]
    await produce(memory.sink(), "ticks", records, now_ms=lambda: 77)
    assert [(r.timestamp, r.headers) for r in memory.broker.topics["ticks"][0]] == [(77, (("ce_id", b"1"),)), (77, ())]


async def test_a_missing_topic_is_said() -> None:
    with pytest.raises(TopicMissing):
        await produce_to(MemoryTransport(), "ticks", ticks(steps=1))


@pytest.mark.parametrize("rate", [0.5, 3.0, 100.0, 1000.0, 33_333.0, 150_000.0])
async def test_the_rate_is_kept(rate: float) -> None:
    clock = Clock()
    seconds = 30.0 if rate < 100 else 1.0
    sent = await produce(transport().sink(), "ticks", ticks(), rate, seconds=seconds, clock=clock, sleep=clock.sleep)
    assert sent == pytest.approx(rate * seconds, rel=0.02, abs=1)
    assert clock.now == pytest.approx(seconds, abs=0.02)
    assert len(clock.naps) < 250 * seconds  # it does not spin


async def test_a_rate_beyond_a_chunk_per_nap_is_kept_too() -> None:
    clock = Clock()
    records = [SimRecord(b"k", b"v", 0)] * 200_000
    sent = await produce(transport().sink(), "ticks", records, 600e3, seconds=0.2, clock=clock, sleep=clock.sleep)
    assert sent == pytest.approx(120_000, abs=5000)


@pytest.mark.parametrize("slice_s", [0.01, 0.1])
async def test_it_is_never_ahead_of_the_rate_by_more_than_a_slice(slice_s: float) -> None:
    clock = Clock()
    ahead: list[float] = []
    await produce(
        transport().sink(), "ticks", ticks(), 500.0, seconds=2.0, clock=clock, sleep=clock.sleep,
        progress=lambda sent: ahead.append(sent - 500.0 * clock.now), slice_s=slice_s,
    )  # fmt: skip
    assert 500.0 * slice_s * 0.4 < max(ahead) <= 500.0 * slice_s + 1
    assert 2.0 / slice_s <= len(ahead) <= 2.0 / slice_s * 2 + 2
    assert min(ahead) >= -500.0 * 0.02


async def test_what_a_stall_held_up_is_made_up_for() -> None:
    clock = Clock()

    class Stalling:
        """The memory sink, but one delivery takes a second."""

        def __init__(self) -> None:
            self.inner = transport().sink()
            self.calls = 0

        async def partitions_for(self, topic: str) -> int:
            return await self.inner.partitions_for(topic)

        async def append_many(self, *arguments: object) -> None:
            await self.inner.append_many(*arguments)  # type: ignore[arg-type]

        async def seal(self) -> object:
            self.calls += 1
            clock.now += 1.0 if self.calls == 10 else 0.0
            return await self.inner.seal()

    sent = await produce(Stalling(), "ticks", ticks(), 5000.0, seconds=3.0, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]
    assert sent == pytest.approx(15_000, rel=0.02)


async def test_count_ends_exactly_and_flat_out_does_not_wait() -> None:
    clock = Clock()
    memory = transport()
    seen: list[int] = []
    sent = await produce(
        memory.sink(), "ticks", ticks(), count=4321, progress=seen.append, clock=clock, sleep=clock.sleep
    )
    assert sent == 4321 == sum(len(log) for log in memory.broker.topics["ticks"]) == seen[-1]
    assert clock.now == 0.0
    assert seen == sorted(seen)


async def test_a_finite_stream_ends_it() -> None:
    assert await produce(transport().sink(), "ticks", ticks(steps=10), rate=0.0, count=1000) == 70


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_holds_the_values_line_by_line(tmp_path: Path) -> None:
    records = list(ticks(steps=20))
    assert write_file(tmp_path / "ticks.jsonl", records) == (140, 0)
    assert (tmp_path / "ticks.jsonl").read_bytes().splitlines() == [r.value for r in records]
    assert write_file(tmp_path / "ticks.jsonl", ticks(), 100) == (100, 0)


def test_poison_that_is_no_line_is_left_out_of_files_and_counted(tmp_path: Path) -> None:
    bad = poisons(DEFAULT_CHANNELS)
    path = tmp_path / "poison.jsonl"
    written, skipped = write_file(path, [SimRecord(None, p.value, 0, p.reason) for p in bad])
    assert written + skipped == len(bad)
    left_out = {"tombstone", "empty", "two lines", "not UTF-8", "not UTF-8 in the series"}
    assert path.read_bytes().split(b"\n")[:-1] == [p.value for p in bad if p.name not in left_out]
    path.read_text(encoding="utf-8")


def test_truth_comes_back_from_its_file_and_reads_as_ticks(tmp_path: Path) -> None:
    plan = FaultPlan(missing_channels=0.2, late=0.1, poison=0.1, spikes=0.05)
    kept = Ticks(Sensors(7), plan, START_MS, 1000, keep_truth=True, steps=50)
    list(kept)
    write_truth(tmp_path / "kept.jsonl", kept)
    with truth_file(tmp_path / "streamed.jsonl") as write:
        list(Ticks(Sensors(7), plan, START_MS, 1000, steps=50, on_truth=write))
    assert list(read_truth(tmp_path / "kept.jsonl")) == kept.truth
    assert (tmp_path / "streamed.jsonl").read_bytes() == (tmp_path / "kept.jsonl").read_bytes()

    class Line:
        key = None
        timestamp = offset = partition = 0
        topic = "truth"
        headers: Sequence[tuple[str, bytes]] = ()

        def __init__(self, value: bytes) -> None:
            self.value = value

    lines = (tmp_path / "kept.jsonl").read_bytes().splitlines()
    batch, rejected = Decoder(StreamSpec(DEFAULT_CHANNELS, 1000, 1)).decode([Line(line) for line in lines])
    assert not rejected
    assert batch.values.tolist() == [list(t.values.values()) for t in kept.truth]
    assert json.loads(lines[0])["fate"] == kept.truth[0].fate
