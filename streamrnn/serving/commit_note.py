"""Where to begin reading when there is no state to go on from, so that the first forecast is warm all the same.

The state changelog is the rule; this is for the day when it is empty, deleted, or of another configuration. Beside
every committed offset stands a second one, in the small string Kafka keeps with it: from there on the partition's ticks,
replayed silently, give every series that speaks regularly its `warm_up` steps before the first forecast leaves.

The same string says which topic the offset is of (one that was deleted may have been made anew), and which weights were in use
from which offset on. The changelog's checkpoint says so, too; but a worker that was evicted from the group may write an old
checkpoint over a new one, while its commits are refused.
"""

from __future__ import annotations

from collections import deque

import msgspec

from streamrnn.spec import StreamSpec
from streamrnn.stores.changelog import Checkpoint, History, InputOffset, Skips, TopicId, WeightsId
from streamrnn.transports.base import Committed

# A mark is kept every so many records: finer ones would cost memory, coarser ones only replay a little more.
MARK_EVERY = 256
# With an irregular grid there is no step to count time by; ticks are counted instead, with room for uneven series.
UNEVEN = 1.5
# The time of a log moves when two series speak (`kernels.silence`); with fewer, ticks are counted, too.
WITNESSES_LEAST = 3
# Marks kept of a partition, whatever its clock does: a million records.
MARKS_MAX = 4096
# Uses of weights that are written beside an offset.
HISTORY_MAX = 16


class _Note(msgspec.Struct, forbid_unknown_fields=False):
    replay_from: int
    weights: tuple[tuple[InputOffset, WeightsId], ...] = ()
    input_id: TopicId = ""
    at: int = -1  # the offset that it was written beside; -1: written before notes said so
    # Input offsets (first, behind the last) that an operator had skipped, and that a replay from `replay_from` meets.
    skips: Skips = ()


class _Set(msgspec.Struct):
    """Beside an offset that `streamrnn reset` has set: where the group was before."""

    set: InputOffset
    was: InputOffset


class ReplayPoints:
    """The marks of one partition from which one will do."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        # (offset, the log's time before it, ticks before it), oldest first
        self._marks: deque[tuple[int, int, int]] = deque(maxlen=MARKS_MAX)
        self._ticks = 0

    def begin(self, known: Committed | None) -> None:
        """The partition is taken up with its state. From where on a replay is enough is what stands beside the committed
        offset, until so much has been seen here; without such a note, from where it goes on."""
        note = _note(known) if known is not None else None
        self._marks.clear()
        self._ticks = 0
        if note is not None:
            self._marks.append((note.replay_from, -(2**62), 0))

    def note(self, offset: int, log_time_ms: int | None, ticks: int) -> None:
        """A batch of `ticks` records begins at `offset`, when the time of the partition's log is `log_time_ms`."""
        if not self._marks or offset - self._marks[-1][0] >= MARK_EVERY:
            self._marks.append((offset, log_time_ms if log_time_ms is not None else -(2**62), self._ticks))
        self._ticks += ticks

    def replay_from(self, log_time_ms: int | None, series: int, offset: int) -> int:
        """The offset to go back to, were `offset` committed now; older marks are forgotten."""
        marks, spec = self._marks, self.spec
        if not marks:
            return offset
        if spec.irregular or series < WITNESSES_LEAST:
            least = self._ticks - int(UNEVEN * spec.warm_up * max(series, 1))
            enough = [ticks <= least for _, _, ticks in marks]
        else:
            until = (log_time_ms or 0) - (spec.warm_up + 1) * spec.step_ms - spec.lateness_ms
            enough = [time <= until for _, time, _ in marks]
        while len(marks) > 1 and enough[1]:
            marks.popleft()
            enough.pop(0)
        return min(marks[0][0], offset)


def committed_with(
    offset: int, replay_from: int, history: History = (), input_id: str = "", skips: Skips = ()
) -> Committed:
    """`history` of the weights is cut to what brokers take beside an offset (4 kB, where nobody set it lower)."""
    note = _Note(replay_from, history[-HISTORY_MAX:], input_id, offset, still_needed(skips, replay_from))
    return Committed(offset, msgspec.json.encode(note).decode())


def set_from(offset: int, known: Committed | None) -> Committed:
    """An operator's offset, with a note of where the group was: states may not have come so far (a worker was killed)."""
    if known is None:
        return Committed(offset)
    was = was_at(known)
    note = _Set(offset, known.offset if was < 0 else was)  # set twice: where it was before the first time
    return Committed(offset, msgspec.json.encode(note).decode())


def was_at(known: Committed) -> int:
    """Where the group was before `streamrnn reset` has set this offset; -1 where it has not, or another tool since."""
    try:
        note = msgspec.json.decode(known.metadata, type=_Set)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return -1
    return note.was if note.set == known.offset else -1


def skips_beside(known: Committed | None) -> Skips:
    """What an operator had skipped before this was committed, as far as a replay meets it."""
    note = _note(known) if known is not None else None
    return note.skips if note is not None else ()


def still_needed(skips: Skips, oldest: int) -> Skips:
    """Those that a replay from `oldest` meets."""
    return tuple(skip for skip in skips if skip[1] > oldest)


def is_ours(known: Committed) -> bool:
    """Whether this service has committed this offset; what a tool writes has no note, or that of another offset."""
    return _note(known) is not None


def is_of(known: Committed, input_id: str) -> bool:
    """Whether an offset was committed for the topic that has this id; where one of the two is not known, it was."""
    note = _note(known)
    return note is None or not note.input_id or not input_id or note.input_id == input_id


def _note(known: Committed) -> _Note | None:
    try:
        note = msgspec.json.decode(known.metadata, type=_Note)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return note if note.at in (-1, known.offset) else None


def history_of(known: Committed | None, checkpoint: Checkpoint) -> History:
    """Which weights were in use: what was committed counts, the checkpoint's word where the commit is silent."""
    note = _note(known) if known is not None else None
    noted = note.weights if note is not None else ()
    if not noted:
        return checkpoint.history()
    return (*(use for use in checkpoint.history() if use[0] < noted[0][0]), *noted)


def starting_points(known: Committed | None, begin: int, end: int, fresh: int) -> tuple[int, int]:
    """(where to read from, first offset whose outputs are emitted) of a partition without state.

    One that was never committed starts at `fresh` (its begin or its end, by configuration), and so does one whose
    committed offset lies beyond its end: its topic was made anew. A note that cannot be read, or that retention has
    overtaken, costs warmth and nothing else.
    """
    if known is None or known.offset > end:
        return fresh, fresh
    note = _note(known)
    replay = known.offset if note is None else note.replay_from
    emit = max(known.offset, begin)
    return min(max(replay, begin), emit), emit
