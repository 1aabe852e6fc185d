"""The state topic: one compacted partition per input partition, from which its state is restored.

    s/<series>       a series' state as bytes (`stream.snapshot` knows what is in them); a tombstone: evicted
    layout/<id>      the description of a layout, before the first record that has it
    meaning/<id>     JSON: what numbers mean (`streamrnn.meaning`), before the first layout that names it
    checkpoint       JSON: from which input offset the partition's ticks must be replayed over these states, the weights
                     then in use, and where others came into use since

A writer sends states only after the outputs that led to them were acknowledged, and the checkpoint only after the
states it speaks of. A reader reads to the end the partition has when it begins, by position: compaction and
transaction markers leave holes, so that the last record's offset says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from streamrnn.kernels.batches import NOTHING
from streamrnn.meaning import Meaning
from streamrnn.records import I64
from streamrnn.transports.base import Deadline, PartitionReader, TopicUnfit, Transport, TransportError
from streamrnn.wire.packed import Packed, packed, text_of

VERSION = 1
CHECKPOINT = b"checkpoint"
SERIES, LAYOUT, MEANING = b"s/", b"layout/", b"meaning/"
# What a span moves by where the key is the series' name alone.
_BEHIND_PREFIX: I64 = np.array([len(SERIES), 0, 0, 0], dtype=np.int64)
# A poll of the reader: enough to unpack many rows at once, little enough that the event loop is not held up.
RECORDS_MAX = 2000
# How many records before the end a checkpoint is looked for in at first.
TAIL_RECORDS = 2000


# Offsets and lives beyond these bounds nobody has written, and arrays of them could not be compared with them.
InputOffset = Annotated[int, Meta(ge=0, lt=1 << 62)]
WeightsId = Annotated[str, Meta(max_length=64)]
Stand = Annotated[int, Meta(ge=-1, lt=1 << 62)]
Life = Annotated[int, Meta(ge=0, lt=1 << 32)]
TopicId = Annotated[str, Meta(max_length=64)]
Instant = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]

# So many checkpoints' clocks are kept: the newest, the oldest, and those between that lie evenly on a logarithmic scale.
CLOCKS_MAX = 10

# A log's clock (`kernels.silence`) at an input offset; newest first.
Clocks = tuple[tuple[int, bytes], ...]

# Input offsets (first, behind the last) that an operator had skipped, oldest first.
Skips = tuple[tuple[int, int], ...]

# Which weights were in use from which input offset on, oldest first; never empty.
History = tuple[tuple[int, str], ...]


def weights_at(history: Sequence[tuple[int, str]], offset: int) -> str:
    """The weights that were in use at an input offset; of earlier ones than are known, the earliest known."""
    used = history[0][1]
    for since, weights in history:
        if since <= offset:
            used = weights
    return used


class Checkpoint(msgspec.Struct, forbid_unknown_fields=False):
    """What one partition's states are worth. `swaps` are (input offset, weights id) since `offset`, oldest first.

    `life` counts the cold starts: states of an older life are not of this history. States that stand at `at` or behind
    it have come to `offset` at least, or a zombie writer wrote them.
    """

    input: str
    offset: InputOffset
    weights: WeightsId
    log_time_ms: Instant | None = msgspec.field(name="event_time_ms")  # of the partition's log at `offset`, for people
    life: Life
    swaps: tuple[tuple[InputOffset, WeightsId], ...] = ()
    input_id: TopicId = ""  # which topic of the input's name it was; "": not known
    at: Stand = -1  # the changelog's offset where this was to stand, had nobody else written; -1: nobody else can
    # The log's clock (`kernels.silence`) at this and at the checkpoints before it, by input offset, newest first. An older
    # state that another worker wrote last needs a replay that begins before `offset`.
    clocks: tuple[tuple[InputOffset, bytes], ...] = ()
    # Of the states at `offset`; a layout of its own says it of each record. None: a version that did not keep it.
    meaning: Meaning | None = None
    # An offset that an operator has set, and that these states honour, though nothing was committed since (-1: none); and
    # what was skipped by such words (`serving.offsets`).
    word: Stand = -1
    skips: tuple[tuple[InputOffset, InputOffset], ...] = ()
    decoder: bytes = (
        b""  # what the decoder carries (`codec.Decoder.carried`), for all offsets from the oldest clock's on
    )
    partition: int = -1  # of the input, where that is not the number of the state's own partition; -1: it is
    version: int = VERSION

    def clock_at(self, offset: int) -> tuple[int, bytes]:
        """(input offset, clock) of the newest clock that is not behind `offset`; `offset` itself with none where there is
        no such."""
        return next((known for known in self.clocks if known[0] <= offset), (offset, b""))

    def history(self) -> History:
        return (self.offset, self.weights), *self.swaps


def with_clock(clocks: Clocks, offset: int, clock: bytes) -> Clocks:
    """The clocks with a newer one, CLOCKS_MAX of them at most: a replay from any of them takes at most about twice as long
    as one from exactly where it has to begin."""
    kept = [(offset, clock), *clocks]
    while len(kept) > CLOCKS_MAX:
        ages = [1 + offset - at for at, _ in kept]
        crowded = min(range(1, len(kept) - 1), key=lambda i: ages[i + 1] / ages[i - 1])
        del kept[crowded]
    return tuple(kept)


class _Version(msgspec.Struct):
    version: int = VERSION


@dataclass(slots=True)
class Piece:
    """What one poll brought of one partition: layouts to be learnt first, series that were deleted, then states in log
    order (what was deleted after its state came is not among them), under their series' names."""

    states: Packed
    deleted: list[str] = field(default_factory=list)
    layouts: list[bytes] = field(default_factory=list)
    meanings: list[tuple[str, bytes]] = field(
        default_factory=list
    )  # (id, description), to be learnt before the layouts
    ignored: int = 0


def series_key(name: bytes) -> bytes:
    return SERIES + name


def layout_key(layout: int) -> bytes:
    return LAYOUT + f"{layout:016x}".encode()


def meaning_key(meaning: Meaning) -> bytes:
    return MEANING + meaning.id.encode()


class ChangelogReader:
    """Reads some partitions of the state topic to the ends they have at the start. One use."""

    def __init__(
        self, transport: Transport, topic: str, partitions: Sequence[int], begin: Mapping[int, int] | None = None
    ) -> None:
        """`begin`: where to begin, if not at the beginning."""
        self._topic, self._partitions, self._begin = topic, tuple(partitions), begin
        self._reader: PartitionReader = transport.reader(bulk=True)
        self._ends: dict[int, int] = {}
        self.checkpoints: dict[int, Checkpoint] = {}
        # Partitions whose newest word is that there is no checkpoint (somebody has deleted it), and the newest incarnation
        # of their state that was read.
        self.deleted: set[int] = set()
        self.lives: dict[int, int] = {}
        # Why a partition's state cannot be used, where it cannot.
        self.unusable: dict[int, str] = {}
        # Series whose state was deleted behind the newest checkpoint, by where: by its owner, who will vouch for that with
        # the next one, or by one who was evicted from the group and writes late. Until then the state counts.
        self.doubtful: dict[int, dict[bytes, int]] = {p: {} for p in self._partitions}

    async def start(self) -> None:
        """Raises TopicMissing, TransportError."""
        await self._reader.start(self._topic, self._begin or dict.fromkeys(self._partitions, 0))
        self._ends = await self._reader.end_offsets()

    def left(self) -> list[int]:
        """Partitions that are not read to their end."""
        return [p for p in self._partitions if self._reader.position(p) < self._ends[p]]

    def end(self, partition: int) -> int:
        """Where the partition ended when the reading began."""
        return self._ends[partition]

    async def read(self, timeout_ms: int) -> Mapping[int, Piece]:
        polled = await self._reader.poll(timeout_ms, RECORDS_MAX)
        return {partition: self._sorted(packed(partition, records)) for partition, records in polled}

    def _sorted(self, found: Packed) -> Piece:
        begin, stop, value, _ = found.span.T
        raw = np.frombuffer(found.buffer, dtype=np.uint8)
        series = stop - begin >= len(SERIES)
        for i, letter in enumerate(SERIES):
            series[series] = raw[begin[series] + i] == letter
        plain = series & (value != NOTHING)
        states = found if plain.all() else found.take(plain)
        states = replace(states, span=states.span + _BEHIND_PREFIX)
        piece = Piece(states)
        if len(states) < len(found):
            for record in found.take(~series):
                if (record.key or b"").startswith(LAYOUT) and record.value is not None:
                    piece.layouts.append(record.value)
                elif (record.key or b"").startswith(MEANING) and record.value is not None:
                    piece.meanings.append((text_of((record.key or b"")[len(MEANING) :]), record.value))
                elif record.key == CHECKPOINT:
                    self._checkpoint(found.partition, record.value)
                else:
                    piece.ignored += 1
        if len(states) < len(found) or self.doubtful[found.partition]:
            deleted = found.take(series & (value == NOTHING))
            self._delete(piece, [(r.key[len(SERIES) :], r.offset) for r in deleted if r.key])
        return piece

    def _delete(self, piece: Piece, deletions: Sequence[tuple[bytes, int]]) -> None:
        """Takes out of a piece what was deleted, by (name, offset) in log order, as far as a checkpoint vouches for it."""
        partition, doubtful = piece.states.partition, self.doubtful[piece.states.partition]
        checkpoint = self.checkpoints.get(partition)
        at = checkpoint.at if checkpoint is not None else -1
        ended: dict[bytes, int] = {}
        later: list[tuple[bytes, int]] = []
        for name, offset in deletions:
            if at < 0 or offset < at:
                ended[name] = offset
            else:
                later.append((name, offset))
        if doubtful or later:
            names = {name for name, _ in later} | doubtful.keys()
            states = zip(piece.states.keys(), piece.states.offset.tolist(), strict=True)
            written = {name: offset for name, offset in states if name in names}
            for name in [name for name in doubtful if name in written]:
                del doubtful[name]
            for name in [name for name, offset in doubtful.items() if at < 0 or offset < at]:
                ended[name] = max(doubtful.pop(name), ended.get(name, -1))
            for name, offset in later:
                if offset > written.get(name, -1):
                    doubtful.setdefault(name, offset)
        if ended:
            piece.deleted = [name.decode(errors="replace") for name in ended]
            last = np.array([ended.get(name, -1) for name in piece.states.keys()], dtype=np.int64)
            piece.states = piece.states.take(piece.states.offset > last)

    def _checkpoint(self, partition: int, value: bytes | None) -> None:
        if value is None:
            self.checkpoints.pop(partition, None)
            self.deleted.add(partition)
            return
        try:
            self._check_version(partition, value)
            found = msgspec.json.decode(value, type=Checkpoint)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.unusable[partition] = f"the checkpoint of partition {partition} cannot be read: {error}"
            return
        if found.life < self.lives.get(partition, 0):
            return  # of one that was evicted before the partition began anew, and has written late
        self.checkpoints[partition] = found
        self.deleted.discard(partition)
        self.lives[partition] = max(self.lives.get(partition, 0), found.life)
        self.unusable.pop(partition, None)

    def _check_version(self, partition: int, value: bytes) -> None:
        """Before the rest is looked at: a newer version may have other fields."""
        version = msgspec.json.decode(value, type=_Version).version
        if version > VERSION:
            raise TopicUnfit(
                f"the checkpoint of partition {partition} in {self._topic} was written by a newer version of streamrnn "
                f"(format {version}; this one reads up to {VERSION}): upgrade this worker"
            )

    async def stop(self, deadline: Deadline) -> None:
        await self._reader.stop(deadline)


async def newest_checkpoints(transport: Transport, topic: str, timeout_s: float) -> dict[int, Checkpoint]:
    """The checkpoints of all partitions that have one, found from the ends of their logs without reading the states.

    Raises TransportError, also where that takes longer than `timeout_s`, and TopicUnfit for those of a newer version.
    """
    deadline, found = Deadline(timeout_s), dict[int, Checkpoint]()
    reader = transport.reader()
    try:
        await reader.start(topic, None)
        begin, end = await reader.begin_offsets(), await reader.end_offsets()
    finally:
        await reader.stop(Deadline(2.0))
    back = TAIL_RECORDS
    wanted = {p for p in end if end[p] > begin[p]}
    while wanted:
        tail = ChangelogReader(transport, topic, sorted(wanted), {p: max(begin[p], end[p] - back) for p in wanted})
        try:
            await tail.start()
            while tail.left():
                await tail.read(200)
                if deadline.passed:
                    raise TransportError(f"{topic} could not be read to its end in {timeout_s:.0f} s")
        finally:
            await tail.stop(Deadline(2.0))
        found |= tail.checkpoints
        wanted = {p for p in wanted if p not in found and end[p] - back > begin[p]}
        back *= 16
    return found


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    return msgspec.json.encode(checkpoint)
