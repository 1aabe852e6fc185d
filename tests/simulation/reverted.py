"""Fixes that the service owes to what broke it once, each taken back: a simulation that is worth anything notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from streamrnn.meaning import Change
from streamrnn.serving import recovery
from streamrnn.serving.assignment import Assignment
from streamrnn.serving.checkpoint import Checkpointer, Slice
from streamrnn.serving.deliveries import Deliveries
from streamrnn.serving.offsets import Word
from streamrnn.serving.outbox import AtLeastOnce, ExactlyOnce
from streamrnn.serving.partition import Partition
from streamrnn.serving.pump import Pump
from streamrnn.serving.refused import RefusedOutputs
from streamrnn.serving.restore import Restorer
from streamrnn.stream.snapshot import Plan, Snapshots
from streamrnn.transports.base import Deadline, OwnershipLost, TransportError, Unreadable
from streamrnn.transports.memory.transport import MemorySource


@dataclass(frozen=True)
class Fix:
    """`taken_back` patches the service to be without it; `noticed` is how violations may begin; `seed` is one that noticed:
    it is asked first, and others where the code has changed so much since that it no longer does."""

    what: str
    delivery: str
    noticed: tuple[str, ...]
    taken_back: Callable[[], Any]
    seed: int = 0


@contextlib.contextmanager
def _all(*patches: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _patched(owner: Any, name: str, made: Callable[[Any], Any]) -> Any:
    return mock.patch.object(owner, name, made(getattr(owner, name)))


def _unawaited() -> Any:
    """Sends are begun, and the offsets committed at once."""

    def made(seal: Any) -> Any:
        async def sealed(self: AtLeastOnce, offsets: Mapping[int, Any], *instead: Any) -> Any:
            delivery = await seal(self, offsets, *instead)

            async def wait(deadline: Any) -> None:
                return

            return mock.Mock(wait=wait, written=delivery.written)

        return sealed

    return _patched(AtLeastOnce, "seal", made)


def _polls_go_on() -> Any:
    """A poll that failed is asked again, as if it had brought nothing."""

    def made(poll: Any) -> Any:
        async def polled(self: MemorySource, timeout_ms: int, records_max: int) -> Any:
            try:
                return await poll(self, timeout_ms, records_max)
            except Unreadable:
                return []

        return polled

    return _patched(MemorySource, "poll", made)


def _states_at_once() -> Any:
    """States leave with the batch that moved them, not behind its delivery."""

    def made(take: Any) -> Any:
        def taken(self: Pump, ends: Mapping[int, int], count: int) -> list[Slice]:
            self._deliveries.ready += take(self, ends, count)
            return []

        return taken

    return _patched(Pump, "_take_states", made)


def _checkpoints_at_once() -> Any:
    """A checkpoint points at an offset that is not committed yet."""
    return _patched(
        Checkpointer, "complete", lambda complete: lambda self, partition, _: complete(self, partition, 2**60)
    )


def _rows_without_offsets() -> Any:
    """A restored state does not know which records it has seen."""

    def made(restore: Any) -> Any:
        def restored(self: Snapshots, partition: int, states: Any, out: Any) -> None:
            restore(self, partition, states, out)
            rows = np.fromiter(self._table.series(partition).values(), dtype=np.int64)
            self._table.columns["applied"][rows] = 0

        return restored

    return _patched(Snapshots, "restore", made)


def _loud_replay() -> Any:
    """What is replayed is said again."""

    def made(restored: Any) -> Any:
        def loudly(self: Partition, position: int, emit_from: int, *of: Any) -> None:
            restored(self, position, position, *of)

        return loudly

    return _patched(Partition, "restored", made)


def _swaps_not_written() -> Any:
    """Nobody writes down from where on other weights were used."""
    return _all(
        mock.patch.object(Checkpointer, "swapped", lambda self, partition, offset, weights: None),
        mock.patch.object(recovery, "history_of", lambda known, checkpoint: checkpoint.history()),
    )


def _refusals_ignored() -> Any:
    """A commit that was refused because others own the partitions counts as done."""

    def made(commit: Any) -> Any:
        async def committed(self: MemorySource, offsets: Any, deadline: Any) -> None:
            with contextlib.suppress(OwnershipLost):
                await commit(self, offsets, deadline)

        return committed

    return _patched(MemorySource, "commit", made)


def _answered_zombies() -> Any:
    """Two workers that wind up write the same partition over each other's states, and answer each other."""
    return mock.patch.object(Checkpointer, "zombie_writes", lambda self, partition: 0)


def _zombies_unseen() -> Any:
    """Whatever stands in the changelog is taken for the owner's."""
    return _all(
        mock.patch.object(Checkpointer, "_written_by_another", lambda self, partition, known: None),
        mock.patch.object(Restorer, "_older", lambda self, rows, applied, found, checkpoint: {}),
    )


def _weights_not_looked_for() -> Any:
    """Weights that another worker had before they came here count as lost."""

    async def nothing(self: Assignment, histories: Any) -> None:
        return

    return mock.patch.object(Assignment, "_look_for_weights", nothing)


def _names_suffice() -> Any:
    """An input of the same name is the same input."""

    async def identified(self: Assignment) -> None:
        self._partitions.input_id = ""

    return mock.patch.object(Assignment, "_identify", identified)


def _unfenced() -> Any:
    """A transactional producer is named after its worker, not after its partition: the next owner's fences nobody."""

    def made(open_: Any) -> Any:
        async def opened(self: ExactlyOnce, partitions: Sequence[int]) -> None:
            app, self._app = self._app, f"{self._app}-{id(self)}"
            try:
                await open_(self, partitions)
            finally:
                self._app = app

        return opened

    return _patched(ExactlyOnce, "open", made)


def _drains_look_again() -> Any:
    """Who drains looks for the commit it waited for where the current turn may have put it away."""

    async def drained(self: Deliveries, deadline: Deadline) -> None:
        while self._in_flight:
            head = self._in_flight[0]
            await head.delivery.wait(deadline)
            self._delivered(head)
        while self._committing is not None:
            await asyncio.wait({self._committing}, timeout=deadline.remaining_s())
            if not self._committing.done():
                self._committing.cancel()
                raise TransportError("too late")
            self.raise_commit_error()
            if self._committing is not None and self._committing.cancelled():
                self._committing = None

    return mock.patch.object(Deliveries, "_drained", drained)


def _refusals_fail() -> Any:
    """What the broker refuses for what it holds is a failure of the delivery, as if it had been away."""

    def made(seal: Any) -> Any:
        async def sealed(self: Any, offsets: Mapping[int, Any], instead: Any = None) -> Any:
            return await seal(self, offsets)

        return sealed

    return _all(_patched(AtLeastOnce, "seal", made), _patched(ExactlyOnce, "seal", made))


def _refusals_dropped() -> Any:
    """What the broker refuses for what it holds is left out, and that is all."""

    def made(letters: Any) -> Any:
        def written(self: RefusedOutputs, *arguments: Any) -> list[Any]:
            letters(self, *arguments)
            return []

        return written

    return _patched(RefusedOutputs, "_letters", made)


def _shapes_suffice() -> Any:
    """States of the same shapes mean the same, whatever stands beside them."""

    def made(planned: Any) -> Any:
        def plan(self: Snapshots, theirs: Any) -> Plan:
            shapes, own = (
                {name: s for name, s in layout.shapes.items() if not name.startswith("meaning_")}
                for layout in (theirs, self._own)
            )
            return Plan(Change(self.meaning, self.meaning)) if shapes == own else planned(self, theirs)

        return plan

    return _patched(Snapshots, "_planned", made)


def _old_layouts_decide() -> Any:
    """A record of another layout, wherever it stands in the log, is one that nothing can be done with."""
    return mock.patch.object(
        Snapshots, "_planned", lambda self, theirs: Plan(None, "the kept state has another layout")
    )


def _words_unheard() -> Any:
    """The checkpoint wins over an offset that an operator has set."""

    def made(word_of: Any) -> Any:
        return lambda known, checkpoint, reached: Word("", skips=checkpoint.skips)

    return _patched(recovery, "word_of", made)


FIXES: Mapping[str, Fix] = {
    "await-deliveries": Fix(
        "offsets are committed when all they led to is delivered", "at-least-once", ("I1", "I3"), _unawaited
    ),
    "rewind-failed-polls": Fix(
        "what a failed poll has moved past is read again", "", ("I1", "I2"), _polls_go_on, seed=19
    ),
    "states-behind-outputs": Fix(
        "a state leaves when its outputs are delivered", "at-least-once", ("I1", "I3"), _states_at_once, seed=3
    ),
    "checkpoints-behind-commits": Fix(
        "a checkpoint names a committed offset", "at-least-once", ("I3",), _checkpoints_at_once, seed=1
    ),
    "rows-know-their-offset": Fix(
        # What a state has seen is late to it: it is refused once more, into the dead letters.
        "a replay passes by what a state has seen",
        "",
        ("I1", "I4"),
        _rows_without_offsets,
        seed=10,
    ),
    "silent-replay": Fix("a replay says nothing", "exactly-once", ("I1",), _loud_replay),
    "swaps-written": Fix("a replay uses the weights of the time", "", ("I4",), _swaps_not_written, seed=3),
    "input-ids": Fix("an input made anew is begun anew", "", ("I4", "I10"), _names_suffice, seed=3),
    "fenced-partitions": Fix("a partition has one writer", "exactly-once", ("I1", "I2", "I7", "I10"), _unfenced),
    "zombies-seen": Fix(
        "states of an evicted worker that stand over newer ones are noticed",
        "at-least-once",
        ("I4",),
        _zombies_unseen,
        seed=2,
    ),
    "zombies-left-alone": Fix("winding up ends", "at-least-once", ("I10",), _answered_zombies),
    "drains-hold-on": Fix(
        "who drains holds on to the commit it waits for", "at-least-once", ("I10",), _drains_look_again, seed=10
    ),
    "refusals-cost-a-record": Fix(
        "a record that is refused for what it holds costs that record", "", ("I10",), _refusals_fail
    ),
    "refusals-dead-lettered": Fix("what is refused for what it holds is dead-lettered", "", ("I1",), _refusals_dropped),
    "states-by-name": Fix("a state is taken up by what it means", "", ("I4",), _shapes_suffice, seed=19),
    "old-states-carried": Fix(
        "old states in the log make nothing cold", "", ("I11", "I4"), _old_layouts_decide, seed=1
    ),
    "words-heard": Fix("an offset that an operator has set counts", "", ("I1", "I4"), _words_unheard, seed=9),
    "weights-looked-for": Fix("weights may have come to others first", "", ("I4",), _weights_not_looked_for),
}
