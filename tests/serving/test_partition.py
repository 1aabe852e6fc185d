"""A partition's life: every transition of the table can be made, each by its method, and no other can."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from running import settings

from streamrnn.inputs import Numbering
from streamrnn.serving.changelog_state import ChangelogState
from streamrnn.serving.commit_note import ReplayPoints, committed_with
from streamrnn.serving.partition import OWNED, TRANSITIONS, Cause, ImpossibleTransition, Partition, Partitions, State
from streamrnn.stores.changelog import Checkpoint

PACKAGE = Path(__file__).parents[2] / "streamrnn"
KNOWN = committed_with(7, 3)
CHANGELOG = ChangelogState(Checkpoint("ticks", 7, "w", None, 0), 0.0, ((7, "w"),))

# The shortest way from released to each state.
WAYS: dict[State, list[Cause]] = {
    State.RELEASED: [],
    State.RESTORING: [Cause.ASSIGNED],
    State.REPLAYING: [Cause.ASSIGNED, Cause.RESTORED],
    State.SERVING: [Cause.ASSIGNED, Cause.RESTORED, Cause.CAUGHT_UP],
    State.PARKED: [Cause.ASSIGNED, Cause.RESTORED, Cause.CAUGHT_UP, Cause.SETTLED],
}

# What makes each transition.
CALLS: dict[Cause, Callable[[Partition], object]] = {
    Cause.ASSIGNED: lambda partition: partition.assigned(KNOWN, 0, 9),
    Cause.RESTORED: lambda partition: partition.restored(3, 7, 7, "w", CHANGELOG),
    Cause.CAUGHT_UP: lambda partition: partition.advance(7),
    Cause.SETTLED: lambda partition: partition.parked(2),
    Cause.RETURNED: lambda partition: partition.returned(KNOWN),
    Cause.MOVED: lambda partition: partition.assigned(KNOWN, 0, 9),
    Cause.REVOKED: lambda partition: partition.released(),
    Cause.EXPIRED: lambda partition: partition.released(),
}

# One method makes two transitions, by the state that it is called in; a partition that is served moves on in its state.
SAME_CALL = {
    (State.RELEASED, Cause.MOVED),
    (State.PARKED, Cause.ASSIGNED),
    (State.PARKED, Cause.REVOKED),
    *((state, Cause.EXPIRED) for state in (State.RESTORING, State.REPLAYING, State.SERVING)),
    (State.SERVING, Cause.CAUGHT_UP),
}


def made(state: State) -> Partition:
    partition = Partition(0, ReplayPoints(settings().stream_spec()))
    for cause in WAYS[state]:
        CALLS[cause](partition)
    assert partition.state is state
    return partition


@pytest.mark.parametrize(("state", "cause"), list(product(State, Cause)), ids=lambda word: word.name)
def test_the_table_is_all_that_can_happen(state: State, cause: Cause) -> None:
    partition = made(state)
    to = TRANSITIONS.get((state, cause))
    if to is not None:
        CALLS[cause](partition)
        assert partition.state is to
    elif (state, cause) not in SAME_CALL:
        with pytest.raises(ImpossibleTransition, match="partition 0 is"):
            CALLS[cause](partition)
        assert partition.state is state
    with pytest.raises(AttributeError):
        partition.state = State.SERVING  # type: ignore[misc]


def test_every_state_is_reached_and_left_again() -> None:
    reached, grew = {State.RELEASED}, True
    while grew:
        after = reached | {to for (state, _), to in TRANSITIONS.items() if state in reached}
        grew, reached = after != reached, after
    assert reached == set(State)
    for state in State:
        assert any(since is state for since, _ in TRANSITIONS)
        path, grew = {state}, True
        while grew:
            after = path | {to for (since, _), to in TRANSITIONS.items() if since in path}
            grew, path = after != path, after
        assert State.RELEASED in path  # there is a way out of everything
    assert {cause for _, cause in TRANSITIONS} == set(Cause)


def test_what_the_table_must_not_hold() -> None:
    """Without this a row too many would be a transition like any other."""
    into = {to: {(since, cause) for (since, cause), end in TRANSITIONS.items() if end is to} for to in State}
    # Only what is delivered and committed stays in memory, and only that returns without a restore.
    assert into[State.PARKED] == {(State.SERVING, Cause.SETTLED)}
    assert into[State.SERVING] == {(State.REPLAYING, Cause.CAUGHT_UP), (State.PARKED, Cause.RETURNED)}
    # Nothing is processed before its state was looked for.
    assert into[State.REPLAYING] == {(State.RESTORING, Cause.RESTORED)}
    assert into[State.RESTORING] == {(State.RELEASED, Cause.ASSIGNED), (State.PARKED, Cause.MOVED)}
    # Everything ends when it is given up, by one cause each.
    assert into[State.RELEASED] == {
        (State.PARKED, Cause.EXPIRED),
        *((state, Cause.REVOKED) for state in (State.RESTORING, State.REPLAYING, State.SERVING)),
    }


def test_nothing_else_sets_a_state() -> None:
    """One line of one method writes the word; the transitions are made in `assignment`, but serving begins by itself."""
    writes: list[tuple[str, str]] = []
    calls: dict[str, set[str]] = {}
    methods = {"assigned", "restored", "parked", "returned", "released"}
    for path in sorted((PACKAGE / "serving").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for inner in ast.walk(node):
                    targets = inner.targets if isinstance(inner, ast.Assign) else []
                    writes += [
                        (path.stem, node.name) for t in targets if isinstance(t, ast.Attribute) and t.attr == "_state"
                    ]
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "partition"
            ):
                calls.setdefault(node.func.attr, set()).add(path.stem)
    assert writes == [("partition", "_on")]
    for method in methods:
        # A first stage has partitions of its own, without states.
        assert calls[method] - {"repartition"} == {"assignment"}, method


@pytest.mark.parametrize("state", State)
def test_a_partition_has_what_its_state_needs_and_nobody_else_keeps_it(state: State) -> None:
    partition = made(state)
    assert (partition.reading is not None) == (state is State.RESTORING)
    assert (partition.changelog is not None) == (state in (*OWNED, State.PARKED))
    for path in sorted((PACKAGE / "serving").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and path.stem != "changelog_state":
                kept = ast.unparse(node)
                assert not kept.startswith("dict[int, ") or "ChangelogState" not in kept, f"{path.name}: {kept}"


def test_a_replay_ends_where_outputs_begin() -> None:
    partition = made(State.RESTORING)
    partition.restored(3, 7, 7, "w")
    assert partition.owned and partition.replaying and not partition.settled
    partition.advance(6)
    partition.committed = 6  # outputs were delivered beyond it, and never committed
    assert partition.replaying and not partition.settled
    partition.advance(8)
    assert partition.state is State.SERVING and not partition.settled
    partition.committed = 8
    assert partition.settled


def test_a_partition_with_nothing_to_replay_is_served_at_once() -> None:
    partition = made(State.RESTORING)
    partition.restored(7, 7, -1, "w")
    assert partition.state is State.SERVING


def test_what_returns_is_as_it_was_and_what_was_moved_begins_anew() -> None:
    partition = made(State.PARKED)
    partition.returned(KNOWN)
    assert (partition.position, partition.emit_from, partition.weights) == (7, 7, "w")
    assert partition.changelog is CHANGELOG
    assert partition.points.replay_from(None, 1, 7) == 3  # as stands beside the committed offset
    partition = made(State.PARKED)
    partition.assigned(committed_with(8, 8), 0, 9)
    assert partition.changelog is None
    partition.restored(8, 8, 8, "v")
    assert (partition.position, partition.weights, partition.live, partition.skips) == (8, "v", False, ())


def test_partitions_are_found_by_number_and_by_state() -> None:
    partitions = Partitions(Numbering(one="ticks"))
    for number, state in enumerate(State):
        partition = made(state)
        partition.number = number
        partitions.put(partition)
    assert {p.state for p in partitions.owned.values()} == OWNED
    assert [p.number for p in partitions.that_are(State.PARKED)] == [list(State).index(State.PARKED)]
    first = partitions.get(0)
    assert first is not None
    partitions.put(first)
    assert [p.number for p in partitions][-1] == 0
    partitions.forget(first)
    assert partitions.get(0) is None
