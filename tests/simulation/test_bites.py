"""The simulation is worth its time: with a fix of the service taken back, some seed soon violates what it should.

Fixes that only a rare course of events needs are left to `run.py --without`.
"""

from __future__ import annotations

from multiprocessing.pool import Pool

import pytest
from reverted import FIXES
from run import one_without
from world import Report

SEEDS_MAX = 200
AT_ONCE = 4
RARE = {"zombies-left-alone", "weights-looked-for"}


@pytest.mark.parametrize("name", [name for name in FIXES if name not in RARE])
def test_the_simulation_notices_when_a_fix_is_taken_back(pool: Pool, name: str) -> None:
    fix = FIXES[name]
    for seeds in ([fix.seed], *(range(first, first + AT_ONCE) for first in range(0, SEEDS_MAX, AT_ONCE))):
        for _, result in pool.map(one_without, [(seed, fix.delivery, name) for seed in seeds], 1):
            if not isinstance(result, Report):
                violation = result.strip().splitlines()[-1]
                assert violation.startswith(tuple(f"ledger.Violation: {begin}" for begin in fix.noticed)), violation
                return
    pytest.fail(f"{SEEDS_MAX} seeds have not noticed that the service no longer sees to it that {fix.what}")
