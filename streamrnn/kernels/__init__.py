"""Compiled inner loops of the hot path (numba): plain sequential code over contiguous rows, one series at a time.

Three rules keep a series' numbers independent of who shares its batch, bit for bit:

1. A kernel walks frames in order and touches only the row of the frame's own series; rows never meet in a reduction
   (sums for metrics are kept apart and feed nothing back).
2. No `fastmath`: the order of every floating-point operation is the one written here. (`fused` permits a product and
   a sum to become one instruction with one rounding, nothing else; that is settled when the code is compiled.)
3. Randomness and clocks do not exist on this floor.

Compiled code is kept (`kernels.caching`), so only the first start on a machine compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from streamrnn.kernels.caching import KernelCache
from streamrnn.kernels.compiling import hasten, without_constants

F = TypeVar("F", bound=Callable[..., Any])

hasten()


def _made(function: F, **settings: Any) -> F:
    dispatcher = numba.njit(nogil=True, error_model="numpy", **settings)(function)
    if hasattr(dispatcher, "_cache"):  # not so where NUMBA_DISABLE_JIT leaves the function as it is
        dispatcher._cache = KernelCache(function)  # noqa: SLF001 - as `cache=True` does with numba's own
        without_constants(dispatcher)
    return cast(F, dispatcher)


def compiled(function: F) -> F:
    """`numba.njit` with this package's settings: cached, without the GIL, IEEE division, no fastmath."""
    return _made(function)


def fused(function: F) -> F:
    """As `compiled`, with fused multiply-add."""
    return _made(function, fastmath={"contract"})


def lean(function: F) -> F:
    """As `fused`, for functions that are given many arrays: nobody counts who holds them.

    They may be looked into, cut into slices and passed on; none can be made. Counting costs two atomic operations for each
    array at each call, more than what most calls do.
    """
    return _made(function, fastmath={"contract"}, _nrt=False, no_cfunc_wrapper=True)


def inner(function: F) -> F:
    """As `lean`, for functions that only other kernels call: Python cannot, which spares the code that unpacks its arguments.

    That is as much again as the function itself where it is given all of a series' arrays.
    """
    return _made(function, fastmath={"contract"}, _nrt=False, no_cfunc_wrapper=True, no_cpython_wrapper=True)


def folded(function: F) -> F:
    """As `inner`, compiled once and then made part of each caller by LLVM: for what is called in several places."""
    return _made(
        function,
        fastmath={"contract"},
        _nrt=False,
        no_cfunc_wrapper=True,
        no_cpython_wrapper=True,
        forceinline=True,
    )


def inlined(function: F) -> F:
    """As `compiled`, pasted into its callers before these are compiled, with their settings: once more in each place."""
    return _made(function, inline="always")
