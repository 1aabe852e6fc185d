"""Compiled inner loops of the hot path (numba): plain sequential code over contiguous rows, one series at a time.

Three rules keep a series' numbers independent of who shares its batch, bit for bit:

1. A kernel walks frames in order and touches only the row of the frame's own series; rows never meet in a reduction
   (sums for metrics are kept apart and feed nothing back).
2. No `fastmath`: the order of every floating-point operation is the one written here. (`fused` permits a product and
   a sum to become one instruction with one rounding, nothing else; that is settled when the code is compiled.)
3. Randomness and clocks do not exist on this floor.

Compiled code is cached beside the sources (or under NUMBA_CACHE_DIR), so only the first start on a machine compiles. Numba
asks whether a function's own file has changed; a kernel holds code and constants of the others, too. So what is cached
here is stamped with all sources of this folder, and an upgrade never runs on kernels of the version before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def _sources() -> str:
    """A digest of all kernels, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


SOURCES = _sources()


def _made(function: F, **settings: Any) -> F:
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy", **settings)(function)
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is not None:  # else nothing is cached here
        index._source_stamp = SOURCES  # noqa: SLF001 - what numba compares before it takes anything from its cache
    return cast(F, dispatcher)


def compiled(function: F) -> F:
    """`numba.njit` with this package's settings: cached, without the GIL, IEEE division, no fastmath."""
    return _made(function)


def fused(function: F) -> F:
    """As `compiled`, with fused multiply-add."""
    return _made(function, fastmath={"contract"})


def inlined(function: F) -> F:
    """As `compiled`, pasted into its callers: a call that passes an array costs two atomic counts, more than a digit."""
    return _made(function, inline="always")
