"""What all tests share: their clock, where Kafka and Chromium are looked for, one thread for torch, who runs where.

STREAMRNN_TEST_CLOCK_BEGINS_S (3): what the monotonic clock of the tests' process shows when they begin.
STREAMRNN_TEST_SEED (1): where each test's random numbers begin.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "support"))
# Some test files lend others what they have.
sys.path.extend(str(Path(__file__).parent / room) for room in ("wire", "config", "serving", "monitor", "kafka"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from broker import kafka_home
from fault_matrix import name_of, not_shown, rows

HERE = Path(__file__).parent
# The monotonic clock counts from the machine's start, and what is right an hour after that may be wrong a minute after it.
# So it begins anew here, whenever the machine was started.
CLOCK_BEGINS_S = float(os.environ.get("STREAMRNN_TEST_CLOCK_BEGINS_S", "3"))
SEED = int(os.environ.get("STREAMRNN_TEST_SEED", "1"))


def _begin_clocks() -> None:
    def begun(clock: Callable[[], float], offset: float) -> Callable[[], float]:
        return lambda: clock() - offset

    for name in ("monotonic", "perf_counter"):
        real_s, real_ns = getattr(time, name), getattr(time, f"{name}_ns")
        setattr(time, name, begun(real_s, real_s() - CLOCK_BEGINS_S))
        setattr(time, f"{name}_ns", begun(real_ns, real_ns() - int(CLOCK_BEGINS_S * 1e9)))


_begin_clocks()
torch.set_num_threads(1)
# How fast a shared machine draws examples says nothing about the code.
hypothesis.settings.register_profile("all", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("all")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers begin anew in each test: what it draws does not hang on which tests its process ran before."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


# Those that take longest, longest first: two processes that share the tests end together then. What waits for Kafka
# and what computes take turns here, so that they run side by side.
LONGEST = (
    "simulation/",
    "kafka/test_operators.py",
    "kafka/test_kafka_network.py",
    "kafka/test_kafka_topics.py",
    "kafka/test_kafka_kills.py",
    "kafka/test_kafka_transport.py",
    "kafka/test_kafka_service.py",
    "cli/test_cli.py",
    "kafka/test_kafka_faults.py",
    "kafka/test_kafka_security.py",
    "kafka/test_kafka_damage.py",
)
# Each of its tests may go to another process; others of a file stay together, with the brokers that they share, and those of
# the simulation with its pool of processes.
APART = ("kafka/test_kafka_kills.py",)
TOGETHER = ("simulation",)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.nodeid.removeprefix(f"{HERE.name}/")
        return next((number for number, begin in enumerate(LONGEST) if name.startswith(begin)), len(LONGEST))

    items.sort(key=place)
    for item in items:
        where = item.path.relative_to(HERE).as_posix()
        if where not in APART and item.config.pluginmanager.hasplugin("xdist"):
            room = where.partition("/")[0]
            item.add_marker(pytest.mark.xdist_group(room if room in TOGETHER else where))
    without = {
        "kafka": None if kafka_home() else "needs Apache Kafka: set KAFKA_HOME to a distribution",
        "kafka_long": None if kafka_home() else "needs Apache Kafka: set KAFKA_HOME to a distribution",
        "browser": None if shutil.which("chromium") else "needs Debian's chromium",
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
    }
    for item in items:
        for marker, reason in without.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which faults of FAULTS.md this run has not shown, for all of their tests were skipped. With a Kafka at hand that is
    an error: then there is nothing that such a row could be waiting for."""
    outcomes: dict[str, set[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            outcomes.setdefault(name_of(report.nodeid), set()).add(outcome)
    unseen = not_shown(outcomes, rows())
    for row in unseen:
        terminalreporter.write_line(
            f"FAULTS.md row {row.number} ({row.fault}) was not shown: all of its tests were skipped"
        )
    session = terminalreporter._session
    if unseen and kafka_home() and session is not None and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="session")
def _quiet_environment() -> None:
    for name in [name for name in os.environ if name.startswith("STREAMRNN__")]:
        del os.environ[name]
