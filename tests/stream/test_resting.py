"""Whether a network adds anything is judged at a slope that was settled before, on steps that came since."""

from __future__ import annotations

import numpy as np

from streamrnn.model.gate import Evaluation
from streamrnn.stream.resting import LOOKS, Worth


def look(worth: Worth, cross: float) -> float:
    """One look at numbers of power 1 that go with what came as `cross` says; returns the gain at the slope that suits it best."""
    slope = max(cross, 0.0)
    gain = slope * (2.0 * cross - slope)
    none = np.zeros((1, 1))
    worth.look(Evaluation(True, (gain,), (slope,), none, none, 100, np.array([[cross, 1.0]])))
    return gain


def test_numbers_of_chance_are_little_though_each_look_has_a_slope_that_flatters_them() -> None:
    worth, rng = Worth(), np.random.default_rng(0)
    best = [look(worth, cross) for cross in rng.normal(0.0, 0.2, 200)]
    assert np.mean(best) > 0.015
    assert worth.gain < 0.0
    assert worth.little


def test_what_goes_with_what_came_is_not_little() -> None:
    worth, rng = Worth(), np.random.default_rng(0)
    for cross in rng.normal(0.3, 0.1, 40):
        look(worth, cross)
    assert worth.gain > 0.05
    assert not worth.little


def test_a_few_looks_say_nothing() -> None:
    worth = Worth()
    for _ in range(LOOKS):  # the first one settles the slope alone
        look(worth, 0.0)
    assert not worth.little
    look(worth, 0.0)
    assert worth.little


def test_candidates_that_add_nothing_are_in_vain_after_some_of_them() -> None:
    worth = Worth()
    for _ in range(LOOKS - 1):
        worth.nothing_added()
    assert not worth.in_vain
    worth.nothing_added()
    assert worth.in_vain
