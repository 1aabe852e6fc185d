"""The ridges' equations, beside numpy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.kernels.experts import ridge, stack
from streamrnn.records import F32

ONE = np.float32(1.0)
LOUD = np.float32(1e30)  # features of now that are stronger than any


def empty(features: int, rungs: int) -> tuple[F32, F32, F32, F32, F32, F32]:
    f32 = np.float32
    return (
        np.zeros(ridge.packed(features), f32), np.zeros((rungs, features), f32), np.zeros(3, f32),
        np.zeros((features, rungs), f32), np.zeros((features, features + rungs), f32), np.zeros(features, f32),
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 33), st.integers(1, 13), st.integers(0, 2**31))
def test_the_solution_is_that_of_the_weighted_ridge(features: int, rungs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gram, right, seen, weights, work, inverse = empty(features, rungs)
    x = rng.standard_normal((200, features)).astype(np.float32) * rng.uniform(0.01, 100, features).astype(np.float32)
    x[:, 0] = 1.0
    y = (x @ rng.standard_normal((features, rungs)) + rng.standard_normal((200, rungs))).astype(np.float32)
    for row, label in zip(x, y, strict=True):
        ridge.learn(gram, right, seen, row, label, False, ONE, LOUD)
    ridge.solve(gram, right, seen, weights, work, inverse)
    old = float(ridge.FORGETTING) ** np.arange(199, -1, -1)
    energy = (x[:, 1:].astype(np.float64) ** 2).sum(1)
    count = min(old.sum(), (old * energy).sum() ** 2 / ((old * energy) ** 2).sum())
    g = (x * old[:, None]).T.astype(np.float64) @ x
    right_side = (x * old[:, None]).T.astype(np.float64) @ y
    expected = np.linalg.solve(g + ridge.RIDGE / count * np.diag(np.diag(g)), right_side)
    size = np.sqrt(np.diag(g))[:, None]
    assert np.abs((weights - expected) * size).max() < 2e-3 * np.abs(expected * size).max()


def test_a_feature_without_energy_or_made_of_others_has_no_weight_and_breaks_nothing() -> None:
    rng = np.random.default_rng(1)
    gram, right, seen, weights, work, inverse = empty(5, 2)
    for _ in range(50_000):
        a, b = rng.standard_normal(2)
        row = np.array([1.0, a, 0.0, b, a], dtype=np.float32)  # the third says nothing, the last repeats the second
        ridge.learn(gram, right, seen, row, np.array([a + b, b], dtype=np.float32), False, ONE, LOUD)
    ridge.solve(gram, right, seen, weights, work, inverse)
    assert np.isfinite(weights).all()
    assert not weights[2].any()
    assert np.abs(weights[1, 0] + weights[4, 0] - 1.0) < 0.02
    assert np.abs(weights[3] - 1.0).max() < 0.02


def test_what_was_a_thousand_times_as_strong_is_forgotten_in_a_few_thousand_samples() -> None:
    """At the usual pace the old slope of 2 would be found for seventy thousand."""
    rng = np.random.default_rng(3)
    gram, right, seen, weights, work, inverse = empty(2, 1)
    for k in range(3500):
        size, slope = (1000.0, 2.0) if k < 500 else (1.0, -1.0)
        a = rng.standard_normal() * size
        row = np.array([1.0, a], dtype=np.float32)
        ridge.learn(gram, right, seen, row, np.array([slope * a], np.float32), False, ONE, np.float32(size * size))
    ridge.solve(gram, right, seen, weights, work, inverse)
    assert weights[1, 0] < 0.5


def test_an_absurd_label_moves_little() -> None:
    rng = np.random.default_rng(4)
    gram, right, seen, weights, work, inverse = empty(2, 1)
    for k in range(500):
        a = rng.standard_normal()
        label, most = (1e9 * a, np.float32(1000.0 / 1e18)) if k == 400 else (a, ONE)
        row = np.array([1.0, a], dtype=np.float32)
        ridge.learn(gram, right, seen, row, np.array([label], np.float32), True, most, LOUD)
    ridge.solve(gram, right, seen, weights, work, inverse)
    assert abs(weights[1, 0] - 1.0) < 0.2


def test_the_stack_begins_as_the_expert_that_is_trusted_and_finds_the_better_sum() -> None:
    rng = np.random.default_rng(2)
    gram, right = np.zeros(stack.TRIANGLE, np.float32), np.zeros(stack.MEMBERS, np.float32)
    weights, factor = np.zeros(stack.MEMBERS, np.float32), np.zeros((5, 5), np.float32)
    stack.solve(gram, right, weights, 4, 4, 1.0, 1.0, factor)
    assert weights.tolist() == [0.0, 0.0, 0.0, 1.0]
    energy = 0.0
    for _ in range(4000):
        moves = np.concatenate([[0.0], rng.standard_normal(4), [0.0]]).astype(np.float32)
        y = np.float32(0.5 * moves[3] + 0.5 * moves[4])
        stack.learn(gram, right, moves, y - moves[4], np.float32(1.0), np.float32(0.9995))
        energy = 0.9995 * energy + float(y) ** 2
    stack.solve(gram, right, weights, 4, 4, energy, 2000.0, factor)
    assert np.abs(weights - [0.0, 0.0, 0.5, 0.5]).max() < 0.03
