"""What spares work while numba compiles changes nothing of what it compiles."""

from __future__ import annotations

import copy
import gc

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError
from numba.core.inline_closurecall import InlineWorker

from streamrnn.kernels import folded, inlined, lean
from streamrnn.kernels.columns import Regression
from streamrnn.kernels.views import part


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


@inlined
def _twice(x: float) -> float:
    y = x
    for _ in range(1):
        y = y + x
    return y


@folded
def _times(x: float, count: int) -> float:
    total = 0.0
    for _ in range(count):
        total += _twice(x)
    return total


@lean
def _sum(x: float) -> float:
    return _times(x, 1) + _times(x, 2) + _twice(_twice(x))


def test_a_kernel_is_compiled_once_for_all_constants_it_is_called_with() -> None:
    """Otherwise a cold start compiles the same code several times."""
    assert _sum(1.0) == 2.0 + 4.0 + 4.0
    assert _times.signatures == [(numba.float64, numba.int64)]  # type: ignore[attr-defined]


def test_variables_are_not_copied_with_each_block_of_a_pasted_function() -> None:
    """Otherwise a cold start takes half as long again; numba's inliner has changed if this fails."""
    assert InlineWorker.run_untyped_passes.__module__ == "streamrnn.kernels.compiling"
    seen = []

    @numba.njit(inline="always")
    def pasted(x: float) -> float:
        return x + 1.0 if x > 0.0 else x

    usual = InlineWorker.inline_ir

    def watched(
        self: InlineWorker, caller: object, block: object, i: int, callee: object, *rest: object, **more: object
    ) -> object:
        seen.extend({id(b.scope): b.scope for b in callee.blocks.values()}.values())  # type: ignore[attr-defined]
        return usual(self, caller, block, i, callee, *rest, **more)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InlineWorker, "inline_ir", watched)
        outer = numba.njit(lambda x: pasted(x) + pasted(-x))
        assert outer(2.0) == 1.0
    assert len(seen) == 2 and all(copy.deepcopy(scope) is scope for scope in seen)


def test_fields_of_views_stand_in_their_order() -> None:
    """An array's place in the list of addresses is its place among the fields."""
    with pytest.raises(TypeError, match="in this order"):
        part(Regression, right=(np.float32, 1), gram=(np.float32, 1), weights=(np.float32, 1), seen=(np.float32, 1))
