"""The state topic: one compacted partition per input partition, from which its state is restored.

    s/<series>       a series' state as bytes (`stream.snapshot` knows what is in them); a tombstone: let go
    layout/<id>      the description of a layout, before the first record that has it
    checkpoint       JSON: from which input offset the partition's ticks must be replayed over these states, the weights
                     then in use, and where others came into use since

A writer sends states only after the outputs that led to them were acknowledged, and the checkpoint only after the
states it speaks of. A reader reads to the end the partition has when it begins, by position: compaction and
transaction markers leave holes, so that the last record's offset says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from streamrnn.transports.base import Deadline, PartitionReader, TopicUnfit, Transport

VERSION = 1
CHECKPOINT = b"checkpoint"
SERIES, LAYOUT = b"s/", b"layout/"
# A poll of the reader: enough to unpack many rows at once, little enough that the event loop is not held up.
RECORDS_MAX = 2000


class Checkpoint(msgspec.Struct, forbid_unknown_fields=False):
    """What one partition's states are worth. `swaps` are (input offset, weights id) since `offset`, oldest first.

    `life` counts the cold starts: states of an older life are not of this history. States that stand at `at` or behind
    it have come to `offset` at least, or a stranger wrote them.
    """

    input: str
    offset: int
    weights: str
    event_time_ms: int | None
    life: int
    swaps: tuple[tuple[int, str], ...] = ()
    at: int = -1  # the changelog's offset where this was to stand, had nobody else written; -1: nobody else can
    version: int = VERSION

    def weights_at(self, offset: int) -> str:
        """The weights that were in use at an input offset."""
        used = self.weights
        for since, weights in self.swaps:
            if since <= offset:
                used = weights
        return used


@dataclass(slots=True)
class Piece:
    """What one poll brought of one partition: layouts to be learnt first, series that were let go, then states in log
    order (what was let go after its state came is not among them)."""

    keys: list[bytes] = field(default_factory=list)
    states: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # where the states stand in the changelog
    gone: list[str] = field(default_factory=list)
    layouts: list[bytes] = field(default_factory=list)
    _names: set[bytes] = field(default_factory=set)
    ignored: int = 0

    def add(self, key: bytes, state: bytes | None, offset: int) -> None:
        if state is not None:
            self.keys.append(key)
            self.states.append(state)
            self.offsets.append(offset)
            self._names.add(key)
            return
        self.gone.append(key.decode(errors="replace"))
        while key in self._names:  # a tombstone ends what the same poll brought before it
            at = self.keys.index(key)
            del self.keys[at], self.states[at], self.offsets[at]
            if key not in self.keys:
                self._names.discard(key)


def series_key(name: bytes) -> bytes:
    return SERIES + name


def layout_key(layout: int) -> bytes:
    return LAYOUT + f"{layout:016x}".encode()


class ChangelogReader:
    """Reads some partitions of the state topic to the ends they have at the start. One use."""

    def __init__(self, transport: Transport, topic: str, partitions: Sequence[int]) -> None:
        self._topic, self._partitions = topic, tuple(partitions)
        self._reader: PartitionReader = transport.reader(bulk=True)
        self._ends: dict[int, int] = {}
        self.checkpoints: dict[int, Checkpoint] = {}
        # Why a partition's state cannot be used, where it cannot.
        self.unusable: dict[int, str] = {}

    async def start(self) -> None:
        """Raises TopicMissing, TransportError."""
        await self._reader.start(self._topic, dict.fromkeys(self._partitions, 0))
        self._ends = await self._reader.end_offsets()

    def left(self) -> list[int]:
        """Partitions that are not read to their end."""
        return [p for p in self._partitions if self._reader.position(p) < self._ends[p]]

    def end(self, partition: int) -> int:
        """Where the partition ended when the reading began."""
        return self._ends[partition]

    async def read(self, timeout_ms: int) -> Mapping[int, Piece]:
        pieces: dict[int, Piece] = {}
        for partition, records in await self._reader.poll(timeout_ms, RECORDS_MAX):
            piece = pieces.setdefault(partition, Piece())
            for record in records:
                key, value = record.key or b"", record.value
                if key.startswith(SERIES):
                    piece.add(key[len(SERIES) :], value, record.offset)
                elif key.startswith(LAYOUT) and value is not None:
                    piece.layouts.append(value)
                elif key == CHECKPOINT and value is not None:
                    self._checkpoint(partition, value)
                else:
                    piece.ignored += 1
        return pieces

    def _checkpoint(self, partition: int, value: bytes) -> None:
        try:
            found = msgspec.json.decode(value, type=Checkpoint)
        except msgspec.MsgspecError as error:
            self.unusable[partition] = f"the checkpoint of partition {partition} cannot be read: {error}"
            return
        if found.version > VERSION:
            raise TopicUnfit(
                f"the checkpoint of partition {partition} in {self._topic} was written by a newer version of streamrnn "
                f"(format {found.version}; this one reads up to {VERSION}): upgrade this worker"
            )
        self.checkpoints[partition] = found
        self.unusable.pop(partition, None)

    async def stop(self, deadline: Deadline) -> None:
        await self._reader.stop(deadline)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    return msgspec.json.encode(checkpoint)
