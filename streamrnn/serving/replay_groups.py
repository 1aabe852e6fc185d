"""How polled records are given to the engine: those of replays by the weights of their time, all that is live together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streamrnn.records import Record
from streamrnn.serving.offsets import next_skip
from streamrnn.stores.changelog import Skips


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one partition gives to a batch; `end` is where it stands after that."""

    partition: int
    records: Sequence[Record]
    end: int
    skips: bool = False  # `end` lies after something that an operator had skipped: the source has to be set there

    def live(self, emit_from: int) -> int | None:
        """The offset of the first record whose outputs are sent."""
        return next((record.offset for record in self.records if record.offset >= emit_from), None)


@dataclass(slots=True)
class Group:
    """Records that one call of the engine takes: all with the same weights."""

    weights: str
    records: list[Record] = field(default_factory=list)
    emit_from: dict[int, int] = field(default_factory=dict)


def stretch(partition: int, chunk: Sequence[Record], position: int, skips: Skips) -> Stretch | None:
    """What of a polled chunk is to be processed: nothing before `position` (it was fetched before a rewind), and nothing from
    the next skipped record on. None where there is nothing to do."""
    if chunk and chunk[0].offset < position:
        chunk = [record for record in chunk if record.offset >= position]
    if not chunk:
        return None
    skip = next_skip(skips, position) if skips else None
    if skip is not None and chunk[-1].offset >= skip[0]:
        return Stretch(partition, [record for record in chunk if record.offset < skip[0]], skip[1], skips=True)
    return Stretch(partition, chunk, chunk[-1].offset + 1)


def replay_groups(
    stretches: Sequence[tuple[Stretch, int]], serving: str, weights_at: Callable[[int, int], str]
) -> list[Group]:
    """What the engine is given, in order. A stretch comes with the first offset of its partition whose outputs are sent;
    `weights_at` says which weights a record of (partition, offset) before it is replayed with."""
    replays: list[Group] = []
    live = Group(serving)
    for part, emit_from in stretches:
        records, at, group = part.records, 0, Group("")
        while at < len(records) and records[at].offset < emit_from:
            weights = weights_at(part.partition, records[at].offset)
            if not group.records or weights != group.weights:
                group = Group(weights, emit_from={part.partition: emit_from})
                replays.append(group)
            group.records.append(records[at])
            at += 1
        live.records += records[at:] if at else records
    return [*replays, live] if live.records else replays
