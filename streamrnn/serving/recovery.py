"""How a partition goes on when its state was read: warm, from where its states fit, or cold, with the reason. Pure.

It is decided by the committed offset and who wrote it (`offsets`, `commit_note`), by the checkpoint and how far the states
have come (`restore`), and by the offsets that the input still has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamrnn.serving.commit_note import history_of, is_ours, skips_beside, starting_points
from streamrnn.serving.offsets import Word, again_from, word_of
from streamrnn.serving.restore import DELETED, NO_CHECKPOINT
from streamrnn.stores.changelog import Checkpoint, History
from streamrnn.transports.base import Committed


@dataclass(frozen=True, slots=True)
class Input:
    """What the input was when the partition was assigned: the offsets it has, and which topic of its name it is ("": not
    known). `fresh`: where a partition begins that was never committed."""

    begin: int
    end: int
    id: str = ""
    fresh: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one partition."""

    known: Committed | None  # what the group has committed
    checkpoint: Checkpoint | None = None  # of states that can be used
    why: str = ""  # there is none
    before: Checkpoint | None = None  # of states of which nothing can be carried: its offsets hold all the same
    reached: int = 0  # the input offset that the furthest state has come to
    # Series whose state another worker wrote over with an older one, and the input offset that this has come to.
    older: Mapping[str, int] = field(default_factory=dict)
    series: int = 0  # that were found, those of which nothing can be carried among them


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay takes so that a partition without state is warm: `warm_up` steps of every series, and no fewer
    `records` than a restart may have to replay in any case."""

    warm_up: int
    records: int


@dataclass(frozen=True, slots=True)
class Warm:
    """The states fit: replay from `position`, whose log has this clock; emit from `emit_from` on."""

    position: int
    emit_from: int
    committed: int  # -1: nothing was
    word: Word
    clock: bytes
    history: History  # of the weights to replay with
    checkpoint: Checkpoint
    decoder: bytes  # what the decoder carries over
    overtaken: tuple[str, ...] = ()  # series of which retention has deleted what would bring them up: to be forgotten


@dataclass(frozen=True, slots=True)
class Cold:
    """The partition begins a new life without state. `lost`: it should have had one."""

    position: int
    emit_from: int
    committed: int
    word: Word
    why: str
    lost: bool
    decoder: bytes  # what the decoder carries over, though there are no states
    honoured: int  # the operator's offset that this life begins with, -1 where it is of this service


def decide(found: Found, input_: Input, replay: Replay) -> Warm | Cold:
    """The first that holds: no usable state; another topic of the input's name; an offset that the log does not have;
    retention has deleted what a replay needs; an operator wants records again that the states hold. Else warm."""
    said, why = _valid(found, input_)
    word = Word("", skips=skips_beside(found.known)) if said is None else word_of(found.known, said, found.reached)
    if found.checkpoint is not None and not why and not word.anew:
        return _warm(found, found.checkpoint, input_, word)
    return _cold(found, said, why, word, input_, replay)


def _valid(found: Found, input_: Input) -> tuple[Checkpoint | None, str]:
    """(the checkpoint whose offsets are those of this input, why the states cannot be used)."""
    said, why, known = found.checkpoint or found.before, found.why, found.known
    if said is None:
        return None, why
    if said.input_id and input_.id and said.input_id != input_.id:
        return None, why or f"the input was made anew: it was topic {said.input_id}, and is {input_.id}"
    if said.offset > input_.end or (known is not None and known.offset > input_.end):
        return None, why or f"its offset {said.offset} is not in the log: the topic was made anew"
    if said.offset < input_.begin:
        why = why or f"retention has deleted the records since its offset {said.offset}"
    return said, why


def _warm(found: Found, checkpoint: Checkpoint, input_: Input, word: Word) -> Warm:
    committed = found.known.offset if found.known is not None else -1
    # The replay begins so that states which another worker wrote over with older ones come up, too.
    overtaken = tuple(series for series, reached in found.older.items() if reached < input_.begin)
    start = min([checkpoint.offset, *(reached for reached in found.older.values() if reached >= input_.begin)])
    position, clock = checkpoint.clock_at(start)
    if position < input_.begin:
        position, clock = start, b""
    return Warm(
        position, max(checkpoint.offset, committed), committed, word, clock, history_of(found.known, checkpoint),
        checkpoint, checkpoint.decoder, overtaken,
    )  # fmt: skip


def _cold(found: Found, said: Checkpoint | None, why: str, word: Word, input_: Input, replay: Replay) -> Cold:
    known = found.known
    position, emit_from = starting_points(known, input_.begin, input_.end, input_.fresh)
    if said is not None:
        # No note says from where on a replay makes it warm: a tool leaves none, and ours counts steps of before, since the
        # partition came to its owner.
        since = emit_from - word.records if word.direction == "ahead" else emit_from
        position = min(position, again_from(since, input_.begin, found.series, replay.warm_up, replay.records))
    committed = known.offset if known is not None else -1
    if committed > emit_from:
        committed = -1  # of a topic that is no more
    # A new partition has no state to lose. A topic that is deleted takes the group's offsets with it, not the state.
    lost = bool(why) and why != DELETED and (known is not None or why != NO_CHECKPOINT)
    honoured = known.offset if known is not None and not is_ours(known) else -1
    return Cold(position, emit_from, committed, word, why, lost, said.decoder if said is not None else b"", honoured)
