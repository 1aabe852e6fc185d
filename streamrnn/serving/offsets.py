"""The operator's word: committed offsets that somebody else than this service wrote.

Kafka's tools (`kafka-consumer-groups.sh --reset-offsets`) move a group's offsets while its members are away. The
checkpoint knows nothing of that, and must not win: what was reset to is where processing goes on.

A checkpoint that is ahead of the committed offset is no sign of it. At least once, states leave as soon as their
outputs are acknowledged, and a crash may come before the commit: those ticks are in the states, their outputs are
delivered, and must not be sent twice. What counts is who wrote the offset: every commit of this service carries a note that
names the offset itself (`commit_note.committed_with`); those of tools carry none, or one that was made for another.

Where a tool wrote it, the offset is held against the one that the states have come to:

    back     It lies before. The states hold ticks that are to be processed again, and are not used: the partition begins a
             new incarnation some way before the offset, silently, so that its series are warm, and emits from the offset on.
    ahead    It lies beyond. The states hold all that was processed; what lies between is skipped: neither output nor state.
    neither  It is the same.

The first checkpoint that is written says which offset was honoured (`Checkpoint.word`) and what was skipped
(`Checkpoint.skips`), before anything is committed: after a crash in between the same offset is found again, and the states
that were made since must not be taken for older ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamrnn.serving.commit_note import UNEVEN, is_ours, was_at
from streamrnn.stores.changelog import Checkpoint, Skips
from streamrnn.transports.base import Committed

# What is remembered of what was skipped: a replay never begins so long ago.
SKIPS_MAX = 16


@dataclass(frozen=True, slots=True)
class Word:
    """What an operator wants of a partition whose states are there. `skips` are all that a replay has to leave out."""

    direction: Literal["", "back", "ahead"]
    offset: int = -1
    skips: Skips = ()
    records: int = 0  # to be processed again, or skipped
    anew: bool = False  # the states hold some of what is to be processed again


def word_of(known: Committed | None, checkpoint: Checkpoint, reached: int) -> Word:
    """What the committed offset says, where the states hold no tick from `reached` on."""
    if known is None or is_ours(known) or known.offset == checkpoint.word:
        return Word("", skips=checkpoint.skips)
    reached = max(reached, checkpoint.offset)
    # More may have been processed than the last states hold, where their worker was killed.
    done = max(reached, was_at(known))
    if known.offset < done:
        skips = skipped_before(checkpoint.skips, known.offset)
        return Word("back", known.offset, skips, done - known.offset, known.offset < reached)
    if known.offset > done:
        skips = (*checkpoint.skips, (done, known.offset))[-SKIPS_MAX:]
        return Word("ahead", known.offset, skips, known.offset - done)
    return Word("", known.offset, checkpoint.skips)


def skipped_before(skips: Skips, offset: int) -> Skips:
    """What stays skipped when everything from an offset on is to be processed again."""
    return tuple((since, min(until, offset)) for since, until in skips if since < offset)


def again_from(offset: int, begin: int, series: int, warm_up: int, records: int) -> int:
    """Where to read from so that what is emitted from `offset` on is warm: the begin of the log, or as many records back
    as a restart may have to replay (`checkpoint.records`), or as so many series need for their `warm_up` steps."""
    return max(begin, offset - max(records, int(UNEVEN * warm_up * max(series, 1))))


def next_skip(skips: Skips, position: int) -> tuple[int, int] | None:
    """The first stretch that is skipped from a position on."""
    return min(((since, until) for since, until in skips if until > position), default=None)
