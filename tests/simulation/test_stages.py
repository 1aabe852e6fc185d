"""Lives of a service of two stages under faults; what makes them right is missed when it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.pool import Pool
from typing import Any
from unittest import mock

import pytest
from stages import live
from world import Report

from streamrnn.serving.repartition import FirstPump
from streamrnn.wire.passed import Repeats

SEEDS = 8
SEEDS_MAX = 40


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_nothing_is_lost_between_the_stages_and_all_counts_once(pool: Pool, delivery: str) -> None:
    repeated = 0
    for seed, result in pool.imap(live, [(seed, delivery) for seed in range(SEEDS)]):
        assert isinstance(result, Report), f"seed {seed}: {result}"
        repeated += result.repeated
    assert bool(repeated) == (delivery == "at-least-once")  # what was in flight was written again


_note = FirstPump._note
BROKEN: dict[str, Callable[[], Any]] = {
    "repeats": lambda: mock.patch.object(Repeats, "repeats", lambda self, record: False),
    "carried": lambda: mock.patch.object(Repeats, "carried", lambda self, partition: b""),
    "position": lambda: mock.patch.object(
        FirstPump, "_note", lambda self, number, offset: _note(self, number, offset + 1)
    ),
}


def broken(arguments: tuple[int, str]) -> tuple[int, Report | str]:
    seed, what = arguments
    with BROKEN[what]():
        return live((seed, "at-least-once"))


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_it_is_noticed_when_it_is_taken_away(pool: Pool, what: str) -> None:
    for first in range(0, SEEDS_MAX, 4):
        found: Sequence[tuple[int, Report | str]] = pool.map(
            broken, [(seed, what) for seed in range(first, first + 4)], 1
        )
        if any(isinstance(result, str) for _, result in found):
            return
    pytest.fail(f"{SEEDS_MAX} seeds have not noticed that {what} is taken away")
