from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.pool import Pool

import pytest
from run import quiet


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Processes that live seeds, one a core; started afresh, for a fork would take the threads' locks with it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores, quiet) as made:
        yield made
