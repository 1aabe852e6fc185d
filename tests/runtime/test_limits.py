"""Processors and memory by the limits of control groups, both versions, nested and not."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from streamrnn.runtime.limits import memory_bytes, processors

THERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def laid(folder: Path, files: dict[str, str], membership: str) -> tuple[Path, Path]:
    groups, own = folder / "cgroup", folder / "own"
    groups.mkdir()
    for name, text in files.items():
        path = groups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own.write_text(membership)
    return groups, own


@pytest.mark.parametrize(
    ("files", "membership", "most"),
    [
        ({}, "", THERE),
        ({"cpu.max": "max 100000\n"}, "0::/\n", THERE),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),  # as a container sees its own
        ({"a.slice/cpu.max": "100000 100000", "a.slice/b.service/cpu.max": "max 100000"}, "0::/a.slice/b.service\n", 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/\n", 1),
        (
            {"cpu/docker/x/cpu.cfs_quota_us": "-1", "cpu/docker/x/cpu.cfs_period_us": "100000"},
            "4:cpu:/docker/x\n",
            THERE,
        ),
        ({"cpu.max": "9900000 100000\n"}, "0::/\n", THERE),
        ({"cpu.max": "broken"}, "no membership", THERE),
    ],
)
def test_processors_are_those_that_a_control_group_leaves(
    tmp_path: Path, files: dict[str, str], membership: str, most: int
) -> None:
    assert processors(*laid(tmp_path, files, membership)) == most


@pytest.mark.parametrize(
    ("files", "membership", "limit"),
    [
        ({}, "", None),
        ({"memory.max": "max"}, "0::/\n", None),
        ({"memory.max": "268435456\n"}, "0::/\n", 1 << 28),
        ({"a/memory.max": "268435456", "a/b/memory.max": "536870912"}, "0::/a/b\n", 1 << 28),
        ({"memory/memory.limit_in_bytes": "268435456"}, "9:memory:/\n", 1 << 28),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, "9:memory:/\n", None),
    ],
)
def test_memory_is_what_a_control_group_leaves(
    tmp_path: Path, files: dict[str, str], membership: str, limit: int | None
) -> None:
    assert memory_bytes(*laid(tmp_path, files, membership)) == (limit or psutil.virtual_memory().total)


def test_an_affinity_is_a_limit() -> None:
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(before)})
            assert processors() == 1
        finally:
            os.sched_setaffinity(0, before)
