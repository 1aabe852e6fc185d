"""Garbage is collected seldom while numba compiles, and as before when it has done."""

from __future__ import annotations

import gc

import numba
import pytest
from numba.core.errors import TypingError

import streamrnn.kernels  # noqa: F401 - it is what asks for that


def test_garbage_is_collected_as_before_once_all_is_compiled() -> None:
    before = gc.get_threshold()

    @numba.njit
    def inner(x: float) -> float:
        return x + 1.0

    @numba.njit
    def fails(x: float) -> float:
        return inner(x) + "no number"  # type: ignore[operator]

    with pytest.raises(TypingError):
        fails(1.0)
    assert inner(1.0) == 2.0
    assert gc.get_threshold() == before
