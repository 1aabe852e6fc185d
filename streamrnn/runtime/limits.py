"""What this process may use of the machine: a container's limits are not what the machine says of itself."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def processors(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Processors that may be used at a time: by the affinity of the process and the quota of its control groups, 1 at least.

    A quota of one and a half is two: the second is there half of the time. See cgroup-v2.rst, "cpu.max".
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = []
    for folder in _folders(groups, membership, "cpu"):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():  # "max" and -1: none
            quotas.append(math.ceil(int(words[0]) / int(words[1])))
    return max(1, min([there, *quotas]))


def memory_bytes(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes of memory that may be used: the machine's, or what its control groups leave. See cgroup-v2.rst, "memory.max"."""
    limits = [int(psutil.virtual_memory().total)]
    for folder in _folders(groups, membership, "memory"):
        words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        if words and words[0].isdigit():
            limits.append(int(words[0]))
    return min(limits)


def _folders(groups: Path, membership: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, from its own up; a container sees its own as the root."""
    yield from {groups, groups / controller}
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = groups / controller if controllers else groups
        at = root / path.lstrip("/")
        while at != root and root in at.parents:
            yield at
            at = at.parent


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
