"""Starting anew, and processing again: deleting states or weights, and setting the group's offsets.

Nothing is done while members are alive: a worker would write its states again, and commit its own offsets. The topics are
compacted, so deleting is a tombstone for each key; what a restart goes by is deleted first (the checkpoint, the
pointer to the weights in use), so that a reset that was cut off leaves nothing that looks whole. Descriptions of layouts
stay: records behind the tombstones are read until the cleaner has come.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

from streamrnn.serving.commit_note import set_from
from streamrnn.serving.input_topics import topics_there
from streamrnn.serving.members import refuse_while_alive
from streamrnn.serving.publish import wall_ms
from streamrnn.stores.changelog import CHECKPOINT, SERIES
from streamrnn.stores.models import POINTER
from streamrnn.transports.base import Committed, Deadline, GroupOffsets, TopicMissing, Transport, TransportError

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

# Tombstones sent before they are waited for.
AT_ONCE = 10_000
SILENCE_S = 30.0
READ_MAX = 5000
EACH = re.compile(r"\d+:\d+(,\d+:\d+)*")


AtTime = Callable[[int], Awaitable[Mapping[int, int | None]]]


class BadTarget(ValueError):
    """Where offsets are to be set cannot be understood; the message says how it is written."""


@dataclass(frozen=True, slots=True)
class Move:
    """One partition's offset: where the group is (None: nowhere), and where it is to be. `begin`, `end` of its log."""

    topic: str
    partition: int
    now: int | None
    to: int
    begin: int
    end: int
    note: Committed | None = None  # what is committed, with a note of where the group was

    @property
    def records(self) -> int:
        """To be processed again, or (negative) skipped; 0 where nothing is known."""
        return self.now - self.to if self.now is not None else 0


@dataclass(slots=True)
class Plan:
    """What is to be done; `states` and `weights` are keys by partition, in the order in which they are deleted."""

    states: dict[int, list[bytes]] = field(default_factory=dict)
    weights: dict[int, list[bytes]] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    @property
    def series(self) -> int:
        return sum(key.startswith(SERIES) for keys in self.states.values() for key in keys)

    @property
    def versions(self) -> int:
        return sum(key.startswith(b"manifest/") for keys in self.weights.values() for key in keys)


async def plan(transport: Transport, settings: Settings, state: bool, models: bool, to: str | None) -> Plan:
    """Looks at what is there. Raises GroupAlive, BadTarget, TopicMissing, TransportError."""
    await _alone(transport, settings)
    made = Plan()
    if state:
        found = await _keys(transport, settings.topics.state)
        made.states = {p: _first(keys, CHECKPOINT, SERIES) for p, keys in found.items()}
    if models:
        found = await _keys(transport, settings.topics.models)
        made.weights = {p: _first(keys, POINTER, b"manifest/", b"weights/") for p, keys in found.items()}
    if to is not None:
        topics = await _topics(transport, settings)
        if len(topics) > 1 and (to.isdecimal() or EACH.fullmatch(to)):
            raise BadTarget(
                f"--to {to}: an offset means nothing for {len(topics)} topics; write earliest, latest or a time"
            )
        for topic in topics:
            made.moves += await _moves(transport.group_offsets(topic, settings.app), topic, to)
    return made


async def _topics(transport: Transport, settings: Settings) -> list[str]:
    admin = transport.admin()
    await admin.start()
    try:
        found = await topics_there(admin, settings)
    finally:
        await admin.stop()
    if not found:
        raise TopicMissing(f"none of the input's topics is there: {settings.inputs}")
    return found


async def _moves(offsets: GroupOffsets, topic: str, to: str) -> list[Move]:
    try:
        await offsets.start()
        begin, end = await offsets.begin(), await offsets.end()
        entries = await offsets.committed()
        known = {p: entry.offset if entry is not None else None for p, entry in entries.items()}
        targets = await _targets(to, begin, end, known, offsets.at_time)
        return [
            Move(topic, p, known.get(p), at, begin[p], end[p], set_from(at, entries.get(p)))
            for p, at in sorted(targets.items())
        ]
    finally:
        await offsets.stop(Deadline(5.0))


async def execute(transport: Transport, settings: Settings, plan: Plan) -> None:
    """Does it. Raises GroupAlive, TransportError; what was done by then stays done, and it can be done again."""
    await _alone(transport, settings)
    sink = transport.sink()
    await sink.start()
    try:
        for topic, parts in ((settings.topics.state, plan.states), (settings.topics.models, plan.weights)):
            now_ms = wall_ms()
            for partition, keys in parts.items():
                for part in (keys[:1], *(keys[at : at + AT_ONCE] for at in range(1, len(keys), AT_ONCE))):
                    await sink.append_many(topic, partition, part, [None] * len(part), [now_ms] * len(part))
                    await (await sink.seal()).wait(Deadline(settings.delivery_timeout_s))
    finally:
        await sink.stop(Deadline(5.0))
    for topic, moves in groupby(plan.moves, key=lambda move: move.topic):
        offsets = transport.group_offsets(topic, settings.app)
        try:
            await offsets.start()
            await offsets.set({move.partition: move.note or Committed(move.to) for move in moves})
        finally:
            await offsets.stop(Deadline(5.0))


async def _alone(transport: Transport, settings: Settings) -> None:
    admin = transport.admin()
    await admin.start()
    try:
        await refuse_while_alive(admin, settings)
    finally:
        await admin.stop()


async def _keys(transport: Transport, topic: str) -> dict[int, list[bytes]]:
    """The keys by partition that hold something."""
    reader = transport.reader()
    found: dict[int, dict[bytes, bool]] = {}
    try:
        await reader.start(topic, None)
        ends = await reader.end_offsets()
        silence = Deadline(SILENCE_S)
        while any(reader.position(p) < end for p, end in ends.items()):
            polled = await reader.poll(200, READ_MAX)
            for partition, records in polled:
                keys = found.setdefault(partition, {})
                for record in records:
                    keys[record.key or b""] = record.value is not None
            if polled:
                silence = Deadline(SILENCE_S)
            elif silence.passed:
                raise TransportError(f"{topic} gave nothing for {SILENCE_S:.0f} s")
    finally:
        await reader.stop(Deadline(5.0))
    return {p: [key for key, there in keys.items() if there] for p, keys in sorted(found.items())}


def _first(keys: Sequence[bytes], *beginnings: bytes) -> list[bytes]:
    """Those keys that begin so, the first kind first."""
    return [key for beginning in beginnings for key in keys if key.startswith(beginning)]


# ── where to ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _targets(
    to: str, begin: Mapping[int, int], end: Mapping[int, int], known: Mapping[int, int | None], at_time: AtTime
) -> dict[int, int]:
    """The offset of each partition that is to be set, within what the log holds. Raises BadTarget, TransportError."""
    if to in ("earliest", "latest"):
        return dict(begin if to == "earliest" else end)
    if EACH.fullmatch(to):
        each = {int(p): int(at) for p, at in (part.split(":") for part in to.split(","))}
        if unknown := sorted(each.keys() - begin.keys()):
            raise BadTarget(f"--to {to}: no partition {unknown[0]}; there are {len(begin)}")
        return {p: _within(at, begin[p], end[p]) for p, at in each.items()}
    if re.fullmatch(r"[+-]\d+", to):
        return {p: _within(at + int(to), begin[p], end[p]) for p, at in known.items() if at is not None}
    if to.isdecimal():
        return {p: _within(int(to), begin[p], end[p]) for p in begin}
    found = await at_time(_time_ms(to))
    return {p: end[p] if (at := found.get(p)) is None else _within(at, begin[p], end[p]) for p in begin}


def _within(offset: int, begin: int, end: int) -> int:
    return min(max(offset, begin), end)


def _time_ms(text: str) -> int:
    try:
        time_of = datetime.fromisoformat(text)
    except ValueError:
        time_of = None
    if time_of is None or time_of.tzinfo is None:
        raise BadTarget(
            f"--to {text}: write earliest, latest, a time with its zone (2026-11-27T18:00:00Z), an offset (1200), a "
            "distance (-100, +100), or an offset each (0:1200,3:900)"
        )
    return int(time_of.timestamp() * 1000)
