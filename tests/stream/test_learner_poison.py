"""One series that floods the stream with garbage: what the others are forecast with must not suffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from making import batch, bends, shaped, spec

from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.model.gate import evaluate
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences
from streamrnn.records import F64, I64, TickBatch
from streamrnn.stream.learner import Learner
from streamrnn.stream.replay import TARGET_MAX

SERIES = 8
# Of a hundred ticks one comes from the honest series, all together.
FLOOD = 99
START = 1_700_000_000_000


def learner() -> Learner:
    stream = spec(channels=("a",), series_max=16)
    train = TrainSpec(chunk_len=16, burn_in=8, length=16, batch_series=8, lr=1e-2, weight_decay=1e-2)
    learn = LearnSpec(train=train, window=800, holdout=32, series_max=16, updates=120, min_steps=400)
    return Learner(stream, shaped(stream), learn)


MAPS = bends(6000, SERIES)


def honest(count: int, first: int = 0) -> TickBatch:
    step = np.repeat(np.arange(first, first + count), SERIES)
    which = np.tile(np.arange(SERIES), count)
    return batch([f"w{i}" for i in which], START + 1000 * step, MAPS[step, which][:, None])


Garbage = Callable[[I64, np.random.Generator], F64]
GARBAGE: dict[str, Garbage] = {
    "noise of any size": lambda t, rng: rng.uniform(-1e12, 1e12, len(t)),
    "drift that turns round": lambda t, rng: np.where(t % 200 < 100, 1, -1) * np.exp(np.minimum(0.02 * t, 30.0)),
    "spikes": lambda t, rng: np.where(t % 3 == 0, 1e6 * rng.standard_normal(len(t)), 0.0),
    "constant": lambda t, rng: np.full(len(t), 7.0),
    "the others' pattern the wrong way round": lambda t, rng: np.sin(-0.25 * t) * np.where(t % 2, 1, -1),
}


def poison(kind: str, count: int, first: int) -> TickBatch:
    t = np.arange(first, first + count)
    values = GARBAGE[kind](t, np.random.default_rng([1, first]))
    return batch(["evil"] * count, START + 1000 * t, np.asarray(values, dtype=np.float64)[:, None])


def taught(kind: str | None) -> Learner:
    """Three rounds, each after more of both has come."""
    made, at = learner(), 0
    for count in (300, 60, 60):
        made.feed(honest(count, at))
        if kind is not None:
            made.feed(poison(kind, count * SERIES * FLOOD, at * SERIES * FLOOD))
        at += count
        made.round()
    return made


def score_on_the_honest(made: Learner) -> float:
    assert made.incumbent is not None, "nothing was accepted"
    later = learner()
    later.feed(honest(400, first=5000))
    newest = later.buffer.newest(np.random.default_rng(0), 64, 8)
    assert newest is not None
    return evaluate(made.incumbent, newest, 8).score


@cache
def clean_score() -> float:
    return score_on_the_honest(taught(None))


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_series_that_sends_99_ticks_of_100_does_not_spoil_the_others(kind: str) -> None:
    """Not by being trained on more, nor by its errors in the gate, nor by being the only one with an anchor."""
    assert clean_score() < 0.8
    assert 1.0 - score_on_the_honest(taught(kind)) > 0.8 * (1.0 - clean_score())


@pytest.mark.parametrize("drifts", [False, True])
def test_a_series_full_of_garbage_neither_is_a_drift_nor_hides_one(drifts: bool) -> None:
    """An alarm means a round at once: whoever can raise it at will could keep the trainer busy for ever."""
    made, rng = learner(), np.random.default_rng(2)

    def evil(first: int, count: int) -> TickBatch:
        """Quiet until its scale is as good as nothing, then one jump."""
        t = np.arange(first, first + count)
        values = np.where(t % 97 == 0, 1e9 * rng.standard_normal(count), 7.0)
        return batch(["evil"] * count, START + 1000 * t, values[:, None])

    made.feed(honest(300))
    made.feed(evil(0, 300))
    assert made.round().verdict.accepted
    for step in range(300, 1500, 8):
        ticks = honest(8, first=step)
        if drifts and step > 1100:
            ticks.values[:] = rng.standard_normal(ticks.values.shape)
        made.feed(ticks)
        made.feed(evil(step, 8))
    assert (made.drifts > 0) == drifts


def test_a_candidate_that_was_taught_the_wrong_way_round_is_refused() -> None:
    made = learner()
    made.feed(honest(900))
    assert made.round().verdict.accepted
    kept, draw = incumbent(made), made.buffer.training

    def turned(*arguments: Any) -> Sequences | None:
        found = draw(*arguments)
        return None if found is None else replace(found, targets=-found.targets)

    made.buffer.training = turned  # type: ignore[method-assign]
    reasons = {made.round().verdict.reason for _ in range(3)}
    assert reasons <= {"not-better", "adds-nothing"}
    assert made.incumbent is kept


def test_one_spike_counts_for_no_more_than_the_clip() -> None:
    made = learner()
    ticks = honest(300)
    ticks.values[8 * 150 + 3] = 1e12
    made.feed(ticks)
    found = made.buffer.training(np.random.default_rng(0), 200, 16)
    assert found is not None
    targets = found.targets[~torch.isnan(found.targets)]
    assert targets.abs().max() == TARGET_MAX and (targets.abs() > 4.0).float().mean() < 0.02


def test_infinity_in_the_window_ends_the_round_and_changes_no_weight() -> None:
    """Nothing lets one in; if something did, the incumbent must stay as it is, bit for bit."""
    made = learner()
    made.feed(honest(300))
    assert made.round().verdict.accepted
    kept = {name: tensor.clone() for name, tensor in incumbent(made).state_dict().items()}
    made.buffer._seen[:] = np.inf
    for _ in range(3):
        assert made.round().network is None
    assert all(torch.equal(tensor, kept[name]) for name, tensor in incumbent(made).state_dict().items())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in made._network.state_dict().values())


def incumbent(made: Learner) -> Network:
    assert made.incumbent is not None
    return made.incumbent
