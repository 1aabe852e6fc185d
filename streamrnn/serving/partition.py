"""A partition's life in this worker: one word for its state, and one table of the ways from a state to the next.

    released    Nothing of it is here.
    restoring   Assigned, its source paused: its states are read from the changelog, between the batches of others.
    replaying   Its states are here. Records up to the committed offset move them once more, and nothing is sent.
    serving     Outputs of what it brings are sent.
    parked      Given up in good order. Its rows are still in the table: the next rebalance may give it back.

An owned partition is one that is replayed or served: its source gives records. One whose log is damaged from some offset on
stays in its state and is read up to there (`Partitions.limits`): it holds its states, and goes on when the log is mended.

The table is TRANSITIONS. What happens to the parts that keep something of a partition is in `assignment`, which makes every
transition but one (`Partition.advance` makes the other), under the pump's lock. A first stage (`repartition`) has partitions of
its own, which hold no states and serve at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from streamrnn.inputs import Numbering
from streamrnn.serving.changelog_state import ChangelogState, Reading
from streamrnn.serving.commit_note import ReplayPoints
from streamrnn.stores.changelog import History, Skips
from streamrnn.transports.base import Committed, clock_s


class State(StrEnum):
    RELEASED = "released"
    RESTORING = "restoring"
    REPLAYING = "replaying"
    SERVING = "serving"
    PARKED = "parked"


class Cause(StrEnum):
    ASSIGNED = "assigned by the group"
    RESTORED = "restored, or begun without a state"
    CAUGHT_UP = "come to the first offset whose outputs are sent"
    SETTLED = "given up with nothing open"
    RETURNED = "given back where it was left"
    MOVED = "given back, and its offset is another one"
    REVOKED = "given up"
    EXPIRED = "parked for too long, or worth nothing any more"


# (from, cause): to                                       what it does
TRANSITIONS: Mapping[tuple[State, Cause], State] = {
    # The source is paused; the restorer reads its changelog.
    (State.RELEASED, Cause.ASSIGNED): State.RESTORING,
    # Its changelog's state is known, from the checkpoint that was found or a first one; the source goes on from `position`.
    (State.RESTORING, Cause.RESTORED): State.REPLAYING,
    # Outputs are sent and offsets committed from here on.
    (State.REPLAYING, Cause.CAUGHT_UP): State.SERVING,
    # Everything is delivered, committed and, as far as time permitted, in the changelog; the rows stay.
    (State.SERVING, Cause.SETTLED): State.PARKED,
    # The source goes on from `position`; the rows were never away.
    (State.PARKED, Cause.RETURNED): State.SERVING,
    # Another owner has processed something, or an operator has set an offset: the rows go, and all begins as if new.
    (State.PARKED, Cause.MOVED): State.RESTORING,
    # Rows, states not sent and offsets not committed are dropped: the next owner restores and replays.
    (State.RESTORING, Cause.REVOKED): State.RELEASED,
    (State.REPLAYING, Cause.REVOKED): State.RELEASED,
    (State.SERVING, Cause.REVOKED): State.RELEASED,
    # PARKED_S have passed; or its series had to make room; or the input was made anew; or the clients are broken.
    (State.PARKED, Cause.EXPIRED): State.RELEASED,
}
OWNED = frozenset({State.REPLAYING, State.SERVING})


class ImpossibleTransition(RuntimeError):
    """A fault of this program."""


@dataclass(slots=True, eq=False)
class Partition:
    """One partition of the input. Each method that makes a transition says what it needs to be in the state that follows;
    all are called by `assignment`, but `advance`, by the pump."""

    number: int
    points: ReplayPoints  # where a replay would have to begin, had it no state to begin with
    _state: State = State.RELEASED

    # Restoring: as it was assigned, and what was read of its changelog by now (None: it is read to its end).
    known: Committed | None = None  # what the group had committed
    begin: int = 0  # of the input
    end: int = 0
    reading: Reading | None = None

    # Owned: the next offset to process, the first whose outputs are sent, the weights that its last record had.
    position: int = 0
    emit_from: int = 0
    committed: int = -1
    weights: str = ""
    history: History = ()  # of the weights that the replay repeats
    live: bool = False  # something was processed whose outputs were sent
    skips: Skips = ()  # what an operator had skipped
    moved_s: float = field(default_factory=clock_s)

    # Owned or parked: what its changelog holds. None for partitions of a first stage, which have no states.
    changelog: ChangelogState | None = None

    # Parked: how many series had to stay in the table since when.
    series: int = 0
    parked_s: float = field(default_factory=clock_s)

    @property
    def state(self) -> State:
        return self._state

    @property
    def owned(self) -> bool:
        return self._state in OWNED

    @property
    def replaying(self) -> bool:
        return self._state is State.REPLAYING

    @property
    def settled(self) -> bool:
        """Whether all that was processed is committed: its states hold what the offset says."""
        return self._state is State.SERVING and self.position == self.committed

    def _on(self, cause: Cause) -> None:
        try:
            self._state = TRANSITIONS[self._state, cause]
        except KeyError:
            raise ImpossibleTransition(f"partition {self.number} is {self._state}, and was {cause}") from None

    def assigned(self, known: Committed | None, begin: int, end: int) -> None:
        """The group has committed `known`, and the input has the offsets from `begin` to `end`."""
        self._on(Cause.ASSIGNED if self._state is not State.PARKED else Cause.MOVED)
        self.known, self.begin, self.end = known, begin, end
        self.reading, self.changelog = Reading(clock_s()), None
        self.points.begin(None)

    def restored(
        self, position: int, emit_from: int, committed: int, weights: str, changelog: ChangelogState | None = None
    ) -> None:
        """Its states have come to `position`, with these weights; `committed` is -1 where nothing was."""
        self._on(Cause.RESTORED)
        self.reading, self.changelog = None, changelog
        self.emit_from, self.committed, self.weights, self.live = emit_from, committed, weights, False
        self.history, self.skips = (), ()
        self.advance(position)

    def advance(self, position: int) -> None:
        """Everything before `position` is processed, or skipped."""
        if not self.owned:
            raise ImpossibleTransition(f"partition {self.number} is {self._state}, and has processed records")
        self.position, self.moved_s = position, clock_s()
        if self._state is State.REPLAYING and position >= self.emit_from:
            self._on(Cause.CAUGHT_UP)

    def parked(self, series: int) -> None:
        """So many series of it are in the table."""
        self._on(Cause.SETTLED)
        self.series, self.parked_s, self.history = series, clock_s(), ()
        if self.changelog is not None:
            self.changelog.given_up()

    def returned(self, known: Committed) -> None:
        """The group has committed `known`, which is where it was left."""
        self._on(Cause.RETURNED)
        self.points.begin(known)
        self.moved_s = clock_s()

    def released(self) -> None:
        self._on(Cause.EXPIRED if self._state is State.PARKED else Cause.REVOKED)
        self.reading = self.changelog = None


class Partitions:
    """Those that are not released, by number; in the order in which they were served or parked. Changed by `assignment` alone."""

    def __init__(self, numbering: Numbering) -> None:
        self.numbering = numbering
        self._all: dict[int, Partition] = {}
        # By number; asked several times a batch.
        self.owned: Mapping[int, Partition] = {}
        self.restoring: Mapping[int, Partition] = {}
        self.limits: dict[int, int] = {}  # the first offset that cannot be read, of those whose log is damaged
        self.input_ids: dict[str, str] = {}  # by input topic, which of its name it is, where that is known

    def __iter__(self) -> Iterator[Partition]:
        return iter(list(self._all.values()))

    def input_id(self, number: int) -> str:
        """Which topic of its name a partition is of; "": not known."""
        return self.input_ids.get(self.numbering.place(number)[0], "")

    def get(self, number: int) -> Partition | None:
        return self._all.get(number)

    def put(self, partition: Partition) -> None:
        """Last in the order; to be called when one comes to be restored, owned or parked."""
        self._all.pop(partition.number, None)
        self._all[partition.number] = partition
        self._look()

    def forget(self, partition: Partition) -> None:
        """It is released."""
        del self._all[partition.number]
        self._look()

    def _look(self) -> None:
        self.owned = {number: partition for number, partition in self._all.items() if partition.owned}
        self.restoring = {number: p for number, p in self._all.items() if p.state is State.RESTORING}

    def that_are(self, state: State) -> list[Partition]:
        return [partition for partition in self._all.values() if partition.state is state]
