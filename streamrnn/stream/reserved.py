"""Memory for rows that may never come: addresses are taken at once, pages when something is written.

A table has room for `series_max` series from the start and its arrays never move, so that nothing is copied while ticks
wait, and whoever holds an array of it holds the one in use. What the system counts against its memory is what was written.

An ordinary allocation will not do: Linux refuses one that is larger than the machine, touched or not, unless it is
mapped with MAP_NORESERVE; and where it must account for every page (`vm.overcommit_memory=2`, a limit on addresses) it
refuses that, too. Then the table grows by copying (`stream.table`).
"""

from __future__ import annotations

import mmap
import platform
import sys

import numpy as np

from streamrnn.records import U8

# Below this an ordinary allocation does the same.
MAPPED_BYTES = 4 << 20
# Python names it from 3.13 on; the number is that of Linux on these machines.
_NORESERVE = 0x4000 if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64") else 0


def reserve(rows: int, row_bytes: int) -> U8:
    """[rows, row_bytes] of unspecified content. Raises MemoryError where the system does not give so many addresses."""
    size = rows * row_bytes
    if size < MAPPED_BYTES or not _NORESERVE:
        try:
            return np.empty((rows, row_bytes), dtype=np.uint8)
        except ValueError as error:  # more than numpy can count
            raise MemoryError(f"{rows} rows of {row_bytes} bytes") from error
    try:
        mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"{rows} rows of {row_bytes} bytes: {error}") from error
    try:
        mapped.madvise(mmap.MADV_HUGEPAGE)  # as numpy does for large arrays: rows are looked up all over the table
    except OSError:
        pass  # a kernel without huge pages
    return np.frombuffer(mapped, dtype=np.uint8).reshape(rows, row_bytes)
