"""Lives of the whole service under faults, each from a seed; `run.py` lives many more."""

from __future__ import annotations

from multiprocessing.pool import Pool

import pytest
from run import one
from world import Report

SHORT, LONG = range(48), range(48, 400)


@pytest.mark.parametrize("seeds", [SHORT, pytest.param(LONG, marks=pytest.mark.kafka_long)], ids=["short", "long"])
@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_no_seed_violates_an_invariant(pool: Pool, delivery: str, seeds: range) -> None:
    fired: set[str] = set()
    gathered = 0
    for seed, result in pool.imap(one, [(seed, delivery) for seed in seeds]):
        assert isinstance(result, Report), (
            f"{result}\nto live it again: python tests/simulation/run.py --seeds 1 --first {seed} --delivery {delivery}"
        )
        fired |= result.fired.keys()
        gathered += result.gathered
    assert len(fired) >= 12  # most kinds of fault came up
    assert gathered > 5  # and records of no tick, one and several


def test_a_seed_lives_the_same_life_again(pool: Pool) -> None:
    reports = pool.map(one, [(3, "at-least-once")] * 2, 1)
    assert reports[0] == reports[1]
