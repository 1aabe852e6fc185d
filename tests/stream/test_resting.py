"""Whether a network adds anything is judged at a slope that was settled before, on steps that came since."""

from __future__ import annotations

import numpy as np
from making import look

from streamrnn.stream.resting import LOOKS, Worth


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


def test_what_looks_have_not_seen_they_do_not_vouch_for() -> None:
    right, wrong = Worth(), Worth()
    seen = []
    for _ in range(LOOKS + 2):
        look(right, 0.3)
        look(wrong, -0.3)
        seen.append(right.vouches)
        assert wrong.vouches == 0.0
    assert seen[0] == 0.0  # it settled the slope
    assert seen[-2:] == [1.0, 1.0]
    assert seen == sorted(seen)
