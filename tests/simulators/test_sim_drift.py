"""Each drift changes what it says from its step on, and nothing before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.drift import KINDS, Drift, Kind
from simulators.registry import make
from simulators.sensors import Sensors

AT = 500


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_before_all_after(kind: Kind) -> None:
    clean, drifted = Sensors(3).block(0, 900), Drift(Sensors(3), kind, AT).block(0, 900)
    assert np.array_equal(drifted[:, :AT], clean[:, :AT])
    changed = drifted[:, AT + 1 :] != clean[:, AT + 1 :]
    assert changed[..., 0].all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 700), st.integers(1, 150)), min_size=1, max_size=4))
def test_any_block_is_a_piece_of_the_whole(kind: Kind, cuts: list[tuple[int, int]]) -> None:
    whole = Drift(Sensors(2), kind, AT).block(0, 900)
    drift = Drift(Sensors(2), kind, AT)
    for first, n in cuts:
        assert np.array_equal(drift.block(first, n), whole[:, first : first + n])


def test_what_each_does() -> None:
    x = Sensors(3).block(0, 1200)
    known = x[:, AT - 256 : AT]
    mean, spread = known.mean(axis=1, keepdims=True), known.std(axis=1, keepdims=True)

    def after(kind: Kind, size: float | None = None) -> np.ndarray:
        return Drift(Sensors(3), kind, AT, size).block(AT, 300)

    np.testing.assert_allclose(after("step") - x[:, AT : AT + 300], np.broadcast_to(3.0 * spread, (3, 300, 4)))
    np.testing.assert_allclose(after("scale", 5.0), mean + 5.0 * (x[:, AT : AT + 300] - mean))
    assert np.array_equal(after("swap"), x[:, AT : AT + 300][..., [1, 0, 2, 3]])
    assert (after("dead")[..., 0] == x[:, AT - 1 : AT, 0]).all()
    assert np.array_equal(after("dead")[..., 1:], x[:, AT : AT + 300, 1:])
    assert np.array_equal(after("period"), x[:, AT : AT + 600 : 2])


def test_drifts_nest_and_begin_at_once_too() -> None:
    twice = Drift(Drift(Sensors(1), "swap", 10), "swap", 20)
    assert np.array_equal(twice.block(20, 30), Sensors(1).block(20, 30))
    dead = make("sensors", 2, drift="dead", drift_at=0).block(0, 50)
    assert (dead[..., 0] == dead[:, :1, 0]).all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="two channels"):
        Drift(Sensors(1, ("temp",)), "swap", 5)
    with pytest.raises(ValueError, match="whole number"):
        Drift(Sensors(1), "period", 5, 1.5)
    with pytest.raises(ValueError, match="0 or later"):
        Drift(Sensors(1), "step", -1)
