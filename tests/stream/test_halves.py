"""Numbers in two bytes: held against numpy's own halves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrnn.kernels.halves import HALF_MAX, NO_HALF, from_bits, from_half, to_bits, to_half


def test_every_half_is_read_as_numpy_reads_it_and_written_as_it_was() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    numbers = halves.view(np.float16).astype(np.float64)
    for half, number in zip(halves, numbers, strict=True):
        if np.isfinite(number):
            assert from_half(half) == number
            assert to_half(number) == half or number == 0.0  # one nothing is enough
        else:
            assert np.isnan(from_half(half))


@given(st.floats(-HALF_MAX, HALF_MAX, width=32))
def test_a_number_becomes_the_nearest_half(number: float) -> None:
    assert from_half(to_half(number)) == float(np.float32(number).astype(np.float16))


def test_what_no_half_holds() -> None:
    assert to_half(float("nan")) == NO_HALF
    for large in (1e5, 1e300, float("inf")):
        assert (from_half(to_half(large)), from_half(to_half(-large))) == (HALF_MAX, -HALF_MAX)


@given(st.floats(1e-30, 1e30) | st.floats(-1e30, -1e-30))
def test_a_half_width_keeps_eight_bits(number: float) -> None:
    assert from_bits(to_bits(number)) == pytest.approx(number, rel=2**-8)
