"""What all tests share: where Kafka and Chromium are looked for, one thread for torch."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "kafka"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from broker import kafka_home

torch.set_num_threads(1)
# How fast a shared machine draws examples says nothing about the code.
hypothesis.settings.register_profile("all", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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


@pytest.fixture(autouse=True, scope="session")
def _quiet_environment() -> None:
    for name in [name for name in os.environ if name.startswith("STREAMRNN__")]:
        del os.environ[name]
