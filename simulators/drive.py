"""Sends simulated records to a topic or a file, at a given rate or flat out, for so long or so many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import orjson
from aiokafka.partitioner import murmur2

from simulators.stream import SimRecord, Ticks
from streamrnn.transports.base import Deadline, Sink

# Records are paced in slices of this length: finer than anyone looks, coarse enough to cost nothing.
SLICE_S = 0.01
CHUNK_MAX = 2000


def partition_of(key: bytes | None, partitions: int) -> int:
    """As Kafka's default partitioner: any client sends a series' ticks to the same partition."""
    if key is None:
        return 0
    hashed: int = murmur2(key) & 0x7FFFFFFF
    return hashed % partitions


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
) -> int:
    """Sends until `count` or `seconds`, `rate` records a second (0: flat out); returns how many were acknowledged.

    `now_ms` gives the records' Kafka timestamp; by default their event time.
    """
    partitions = await sink.partitions_for(topic)
    source: Iterator[SimRecord] = iter(records)
    begin = clock()
    sent = 0
    while count is None or sent < count:
        elapsed = clock() - begin
        if seconds is not None and elapsed >= seconds:
            break
        due = CHUNK_MAX if rate <= 0 else min(int(rate * (elapsed + SLICE_S)) - sent, CHUNK_MAX)
        if due > 0:
            chunk = list(islice(source, due if count is None else min(due, count - sent)))
            if not chunk:
                break
            await _send(sink, topic, partitions, chunk, now_ms)
            sent += len(chunk)
            progress(sent)
        if rate > 0:
            await asyncio.sleep(max(0.0, begin + sent / rate - clock()) or SLICE_S / 2)
    return sent


async def _send(
    sink: Sink, topic: str, partitions: int, chunk: list[SimRecord], now_ms: Callable[[], int] | None
) -> None:
    by_partition: dict[int, list[SimRecord]] = {}
    for record in chunk:
        by_partition.setdefault(partition_of(record.key, partitions), []).append(record)
    for partition, group in by_partition.items():
        times = [record.ts_ms if now_ms is None else now_ms() for record in group]
        await sink.append_many(topic, partition, [r.key for r in group], [r.value for r in group], times)
    await (await sink.seal()).wait(Deadline(30.0))


def write_file(path: Path, records: Iterable[SimRecord], count: int) -> tuple[int, int]:
    """JSON lines; returns (written, skipped). Poison that is not a single line of UTF-8 cannot stand in such a file."""
    written = skipped = 0
    with path.open("wb") as file:
        for record in islice(records, count):
            if record.value is None or b"\n" in record.value or not _utf8(record.value):
                skipped += 1
                continue
            file.write(record.value + b"\n")
            written += 1
    return written, skipped


def write_truth(path: Path, ticks: Ticks) -> None:
    with path.open("wb") as file:
        for truth in ticks.truth:
            file.write(orjson.dumps(asdict(truth)) + b"\n")


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
