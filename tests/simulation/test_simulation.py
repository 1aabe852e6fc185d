"""Lives of the whole service under faults, each from a seed; `run.py` lives many more."""

from __future__ import annotations

import pytest
from run import one, quiet
from world import Report

SEEDS = 20


@pytest.fixture(scope="module", autouse=True)
def _silence() -> None:
    quiet()


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_no_seed_violates_an_invariant(delivery: str) -> None:
    fired: set[str] = set()
    for seed in range(SEEDS):
        _, result = one((seed, delivery))
        assert isinstance(result, Report), (
            f"{result}\nto live it again: python tests/simulation/run.py --seeds 1 --first {seed} --delivery {delivery}"
        )
        fired |= result.fired.keys()
    assert len(fired) >= 8  # most kinds of fault came up


def test_a_seed_lives_the_same_life_again() -> None:
    reports = [one((3, "at-least-once"))[1] for _ in range(2)]
    assert reports[0] == reports[1]
