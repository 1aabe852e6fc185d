"""What is done to numba so that it compiles faster changes nothing that it compiles, and is done at all."""

from __future__ import annotations

import gc

import numba
import pytest
from numba.core.compiler import Flags
from numba.core.errors import TypingError

from streamrnn.kernels import compiled, inlined
from streamrnn.kernels.compiling import FOUND, KNOWN


def test_numbas_functions_read_as_they_did() -> None:
    """If this fails after an upgrade of numba: read them again, and what `compiling` replaces them with. Until then it replaces
    nothing, and a cold start takes longer."""
    assert FOUND == KNOWN


@pytest.mark.parametrize("option", ["nrt", "boundscheck", "fastmath", "no_cpython_wrapper"])
def test_flags_are_equal_where_all_their_options_are(option: str) -> None:
    one, other = Flags(), Flags()
    assert one == other == one.copy()
    assert hash(one) == hash(other)
    setattr(other, option, getattr(one, option))  # set, to what it is if it is not set
    assert one == other
    assert hash(one) == hash(other)
    setattr(other, option, {"contract"} if option == "fastmath" else not getattr(one, option))
    assert one != other
    assert one.values() != other.values()


def test_a_function_that_is_pasted_twice_keeps_its_two_lives_apart() -> None:
    @inlined
    def twice(x: float) -> float:
        y = x
        for _ in range(1):
            y += x
        return y

    @inlined
    def both(x: float) -> float:
        return twice(x) * 10.0 + twice(x + 1.0)

    @compiled
    def all_of_it(x: float) -> float:
        y = 0.0
        for k in range(3):
            y += both(x + k)
        return y + both(y)

    def plain(x: float) -> float:
        y = 0.0
        for k in range(3):
            y += 20.0 * (x + k) + 2.0 * (x + k + 1.0)
        return y + 20.0 * y + 2.0 * (y + 1.0)

    assert all_of_it(3.0) == plain(3.0)


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
