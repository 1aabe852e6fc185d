"""How a partition goes on after its state was read, as a table: what was found, and what is decided."""

from __future__ import annotations

from typing import Any

import pytest

from streamrnn.serving.commit_note import committed_with, set_from
from streamrnn.serving.recovery import Cold, Found, Input, Replay, Warm, decide
from streamrnn.serving.restore import DELETED, NO_CHECKPOINT
from streamrnn.stores.changelog import Checkpoint
from streamrnn.transports.base import Committed

INPUT = Input(begin=10, end=100, id="one", fresh=10)
REPLAY = Replay(warm_up=8, records=20)


def checkpoint(offset: int, **more: Any) -> Checkpoint:
    given: dict[str, Any] = {"input_id": "one", "clocks": ((offset, b"clock"), (offset - 15, b"older")), **more}
    return Checkpoint("ticks", offset, "w1", None, 3, **given)


def ours(offset: int, replay_from: int | None = None, **more: Any) -> Committed:
    return committed_with(offset, offset if replay_from is None else replay_from, **more)


# what was found → Warm: (position, emit_from, committed, clock); Cold: (position, emit_from, committed, lost, words of why)
CASES: dict[str, tuple[Found, Input, tuple[Any, ...]]] = {
    "states at the committed offset": (Found(ours(50), checkpoint(50), reached=50), INPUT, (50, 50, 50, b"clock")),
    "states behind it are replayed": (Found(ours(60), checkpoint(50), reached=60), INPUT, (50, 60, 60, b"clock")),
    "outputs were delivered and not committed": (
        Found(ours(50), checkpoint(55), reached=58), INPUT, (55, 55, 50, b"clock"),
    ),
    "nothing was committed": (Found(None, checkpoint(50), reached=50), INPUT, (50, 50, -1, b"clock")),
    "another wrote an older state over one": (
        Found(ours(50), checkpoint(50), reached=50, older={"a": 40}), INPUT, (35, 50, 50, b"older"),
    ),
    "and its clock's records are deleted": (
        Found(ours(50), checkpoint(50), reached=50, older={"a": 40}), Input(38, 100, "one"), (40, 50, 50, b""),
    ),
    "and what would bring it up is deleted": (
        Found(ours(50), checkpoint(50), reached=50, older={"a": 8, "b": 40}), INPUT, (35, 50, 50, b"older"),
    ),
    "nobody knows the topic's id": (
        Found(ours(50), checkpoint(50, input_id=""), reached=50), INPUT, (50, 50, 50, b"clock"),
    ),
    "a new partition": (Found(None, why=NO_CHECKPOINT), INPUT, (10, 10, -1, False, "no checkpoint")),
    "a new partition, from its end": (
        Found(None, why=NO_CHECKPOINT), Input(10, 100, "one", 100), (100, 100, -1, False, "no checkpoint"),
    ),
    "a changelog that was emptied": (
        Found(ours(50, 30), why=NO_CHECKPOINT), INPUT, (30, 50, 50, True, "no checkpoint"),
    ),
    "a state that an operator deleted": (Found(ours(50, 30), why=DELETED), INPUT, (30, 50, 50, False, "was deleted")),
    "a changelog that cannot be read": (Found(ours(50, 30), why="damaged"), INPUT, (30, 50, 50, True, "damaged")),
    "a state of another meaning": (
        Found(ours(50, 45), None, "another step", before=checkpoint(50), reached=50, series=2), INPUT,
        (26, 50, 50, True, "another step"),
    ),
    "an input made anew": (
        Found(None, checkpoint(50), reached=50), Input(0, 100, "two", 0), (0, 0, -1, True, "made anew: it was topic one"),
    ),
    "an input that is shorter than the states": (
        Found(ours(50), checkpoint(50), reached=50), Input(0, 40, "one", 0), (0, 0, -1, True, "not in the log"),
    ),
    "retention has overtaken the checkpoint": (
        Found(ours(30, 25), checkpoint(20), reached=30, series=1), Input(24, 100, "one", 24),
        (24, 30, 30, True, "retention has deleted"),
    ),
    "an operator sets the offset back": (
        Found(Committed(30), checkpoint(50), reached=50, series=1), INPUT, (10, 30, 30, False, ""),
    ),
    "an operator sets it ahead": (Found(Committed(80), checkpoint(50), reached=50), INPUT, (50, 80, 80, b"clock")),
    "an operator sets it where the states are": (
        Found(Committed(50), checkpoint(50), reached=50), INPUT, (50, 50, 50, b"clock"),
    ),
    "an operator sets it ahead of states of another meaning": (
        Found(Committed(80), None, "another step", before=checkpoint(50), reached=60, series=2), INPUT,
        (36, 80, 80, True, "another step"),
    ),
    "an offset that is honoured already": (
        Found(Committed(30), checkpoint(30, word=30), reached=50), INPUT, (30, 30, 30, b"clock"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_decided(case: str) -> None:
    found, input_, wanted = CASES[case]
    decision = decide(found, input_, REPLAY)
    if isinstance(decision, Warm):
        assert (decision.position, decision.emit_from, decision.committed, decision.clock) == wanted
        return
    assert len(wanted) == 5
    assert (decision.position, decision.emit_from, decision.committed, decision.lost) == wanted[:4]
    assert wanted[4] in decision.why


@pytest.mark.parametrize("case", CASES)
def test_a_replay_never_begins_outside_the_log_nor_emits_before_it(case: str) -> None:
    found, input_, _ = CASES[case]
    decision = decide(found, input_, REPLAY)
    assert input_.begin <= decision.position <= max(decision.emit_from, input_.begin) <= input_.end
    assert decision.committed <= decision.emit_from


def test_series_that_nothing_brings_up_are_forgotten_and_no_others() -> None:
    decision = decide(*CASES["and what would bring it up is deleted"][:2], REPLAY)
    assert isinstance(decision, Warm)
    assert decision.overtaken == ("a",)


def test_a_replay_uses_the_weights_that_were_committed() -> None:
    known = ours(50, history=((40, "w1"), (45, "w2")))
    decision = decide(Found(known, checkpoint(40), reached=50), INPUT, REPLAY)
    assert isinstance(decision, Warm)
    assert decision.history == ((40, "w1"), (45, "w2"))


@pytest.mark.parametrize("offset", [20, 45, 55, 70])
def test_what_an_operator_wants_is_carried_into_the_checkpoint(offset: int) -> None:
    """Back: a new life that begins with the word. Ahead, or where nothing is to be processed again: the states serve on."""
    known = set_from(offset, ours(60))
    decision = decide(Found(known, checkpoint(50), reached=50, series=1), INPUT, REPLAY)
    assert (decision.word.direction, decision.word.offset) == ("back" if offset < 60 else "ahead", offset)
    if isinstance(decision, Cold):
        assert decision.honoured == offset and offset < 50
    else:
        assert decision.word.skips == (((60, 70),) if offset == 70 else ()) and offset > 50


def test_of_a_commit_of_our_own_there_is_no_word() -> None:
    decision = decide(Found(ours(50, 30), why="damaged"), INPUT, REPLAY)
    assert isinstance(decision, Cold)
    assert (decision.word.direction, decision.honoured) == ("", -1)
