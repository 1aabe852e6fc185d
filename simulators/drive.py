"""Sends simulated records to a topic or a file, at a given rate or flat out, for so long or so many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import msgspec

from simulators.partition import partition_of
from simulators.stream import SimRecord, Ticks, Truth
from streamrnn.transports.base import Deadline, Sink, Transport

# By default records are paced in slices of this length: finer than anyone looks, coarse enough to cost nothing.
SLICE_S = 0.01
CHUNK_MAX = 2000

# How long a chunk may take to be acknowledged, and a sink to stop.
DELIVERY_S = 30.0

# Partitions of keys that are remembered: hashing a key anew costs 3 µs, and simulated keys come back every step.
KEYS_MAX = 200_000


async def produce(
    sink: Sink,
    topic: str,
    records: Iterable[SimRecord],
    rate: float = 0.0,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int], None] = lambda sent: None,
    clock: Callable[[], float] = time.monotonic,
    now_ms: Callable[[], int] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    slice_s: float = SLICE_S,
) -> int:
    """Sends until `count` or `seconds`, `rate` records a second (0: flat out); returns how many were acknowledged.

    A sink that was slower than the rate for a while is sent what it missed. `now_ms` gives the records' Kafka
    timestamp; by default their event time. Raises what the sink raises: TopicMissing, DeliveryFailed.
    """
    partitions = _Partitions(await sink.partitions_for(topic))
    source: Iterator[SimRecord] = iter(records)
    begin = clock()
    sent = 0
    while count is None or sent < count:
        elapsed = clock() - begin
        if seconds is not None and elapsed >= seconds:
            break
        due = CHUNK_MAX if rate <= 0 else min(int(rate * (elapsed + slice_s)) - sent, CHUNK_MAX)
        if due > 0:
            chunk = list(islice(source, due if count is None else min(due, count - sent)))
            if not chunk:
                break
            await _send(sink, topic, partitions, chunk, now_ms)
            sent += len(chunk)
            progress(sent)
        if rate <= 0 or rate * (clock() - begin) - sent >= CHUNK_MAX:
            await sleep(0.0)  # flat out, or with a whole chunk to make up for; others must run too
            continue
        # Until the next record is due, half a slice at least; not for long, so that `seconds` is kept at low rates.
        wait = min(max(begin + (sent + 1) / rate - slice_s - clock(), slice_s / 2), 0.25)
        await sleep(wait if seconds is None else min(wait, max(begin + seconds - clock(), 0.0)))
    return sent


async def produce_to(
    transport: Transport,
    topic: str,
    records: Iterable[SimRecord],
    rate: float = 0.0,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int], None] = lambda sent: None,
    now_ms: Callable[[], int] | None = None,
) -> int:
    """`produce` with a sink of its own, started and stopped."""
    sink = transport.sink()
    await sink.start()
    try:
        return await produce(sink, topic, records, rate, count, seconds, progress, now_ms=now_ms)
    finally:
        await sink.stop(Deadline(DELIVERY_S))


class _Partitions(dict[bytes | None, int]):
    """The partition of every key asked for so far."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __missing__(self, key: bytes | None) -> int:
        if len(self) >= KEYS_MAX:
            self.clear()
        found = self[key] = partition_of(key, self._count)
        return found


async def _send(
    sink: Sink, topic: str, partitions: _Partitions, chunk: list[SimRecord], now_ms: Callable[[], int] | None
) -> None:
    by_partition: dict[int, list[SimRecord]] = {}
    for record in chunk:
        by_partition.setdefault(partitions[record.key], []).append(record)
    now = None if now_ms is None else now_ms()
    for partition, group in by_partition.items():
        times = [record.ts_ms if now is None else now for record in group]
        headers = [record.headers for record in group] if any(record.headers for record in group) else None
        await sink.append_many(topic, partition, [r.key for r in group], [r.value for r in group], times, headers)
    await (await sink.seal()).wait(Deadline(DELIVERY_S))


def write_file(path: Path, records: Iterable[SimRecord], count: int | None = None) -> tuple[int, int]:
    """JSON lines of values, of the first `count` records; returns (written, skipped).

    Keys, timestamps and headers have no place in such a file, and neither has poison that is not one line of UTF-8
    (tombstones, empty values, line breaks, other encodings): that is skipped and counted.
    """
    written = skipped = 0
    with path.open("wb") as file:
        for record in islice(records, count):
            value = record.value
            if not value or b"\n" in value or b"\r" in value or not _utf8(value):
                skipped += 1
                continue
            file.write(value + b"\n")
            written += 1
    return written, skipped


def write_truth(path: Path, ticks: Ticks) -> None:
    """The truth that `ticks` kept, as JSON lines; readable as wide ticks."""
    with truth_file(path) as write:
        for truth in ticks.truth:
            write(truth)


@contextmanager
def truth_file(path: Path) -> Iterator[Callable[[Truth], None]]:
    """For `Ticks.on_truth`: writes each step as it comes, so that long runs need no memory for their truth."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        yield lambda truth: (file.write(encoder.encode(truth) + b"\n"), None)[1]


def read_truth(path: Path) -> Iterator[Truth]:
    """What `truth_file` or `write_truth` wrote."""
    decoder = msgspec.json.Decoder(Truth)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
