"""Some records of a file or a topic, to be looked at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.records import Record
from streamrnn.serving.input_topics import to_be_read
from streamrnn.transports.base import Deadline, TopicMissing, Transport
from streamrnn.transports.files import InputError, read_lines

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

# How long a topic is waited for that has fewer records than its offsets say (transactions leave markers among them).
QUIET_S = 3.0


def of_file(path: Path, count: int) -> list[Record]:
    """The first records of a file. Raises InputError."""
    records: list[Record] = list(islice(read_lines(path, path.name.split(".")[0]), count))
    if not records:
        raise InputError(f"{path}: holds no records")
    return records


async def of_input(transport: Transport, settings: Settings, topic: str | None, count: int) -> list[Record]:
    """The newest records of the topic, or of the configuration's input: of all of its topics alike. Raises TransportError."""
    if topic is not None:
        return await of_topic(transport, topic, count)
    read = await to_be_read(transport, settings, written=True)
    topics = [read] if isinstance(read, str) else read.topics
    share = -(-count // len(topics))
    return [record for name in topics for record in await of_topic(transport, name, share)][:count]


async def of_topic(transport: Transport, topic: str, count: int) -> list[Record]:
    """The newest records of a topic, of all partitions alike, in the order of their partitions. Raises TransportError."""
    admin = transport.admin()
    await admin.start()
    try:
        if (await admin.describe([topic]))[topic] is None:
            raise TopicMissing(f"there is no topic {topic!r}")
    finally:
        await admin.stop()
    reader = transport.reader()
    try:
        await reader.start(topic, None)
        begins, ends = await reader.begin_offsets(), await reader.end_offsets()
    finally:
        await reader.stop(Deadline(2.0))
    held = {partition: end - begins[partition] for partition, end in ends.items() if end > begins[partition]}
    each, left = dict.fromkeys(held, 0), count
    while left > 0 and (open_ := [p for p in held if each[p] < held[p]]):
        share = max(1, left // len(open_))
        for partition in open_:
            more = min(share, left, held[partition] - each[partition])
            each[partition], left = each[partition] + more, left - more
    wanted = {partition: ends[partition] - most for partition, most in each.items() if most}
    found: dict[int, list[Record]] = {partition: [] for partition in wanted}
    if not wanted:
        return []
    reader = transport.reader()
    try:
        await reader.start(topic, wanted)
        quiet_s = time.monotonic()
        while time.monotonic() - quiet_s < QUIET_S and any(reader.position(p) < ends[p] for p in wanted):
            polled: Sequence[tuple[int, Sequence[Record]]] = await reader.poll(200, 500)
            for partition, records in polled:
                quiet_s = time.monotonic()
                found.setdefault(partition, []).extend(record for record in records if record.offset < ends[partition])
    finally:
        await reader.stop(Deadline(2.0))
    return [record for partition in sorted(found) for record in found[partition][: each.get(partition, 0)]]
