"""One series that floods the stream with garbage: what the others are forecast with must not suffer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from making import batch, spec

from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.model.gate import evaluate
from streamrnn.model.loss import TARGET_CLIP, forecast_loss
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences
from streamrnn.records import F64, I64, TickBatch
from streamrnn.spec import ModelSpec
from streamrnn.stream.learner import Learner

SERIES = 8
# Of a hundred ticks one comes from the honest series, all together.
FLOOD = 99
START = 1_700_000_000_000


def learner() -> Learner:
    stream = spec(channels=("a",), series_max=16)
    train = TrainSpec(chunk_len=16, burn_in=8, length=64, batch_series=8)
    learn = LearnSpec(train=train, window=800, holdout=32, series_max=16, updates=80, min_steps=400)
    return Learner(stream, ModelSpec(1, stream.horizon, stream.quantiles, hidden=16, layers=1), learn)


def honest(count: int, first: int = 0) -> TickBatch:
    rng = np.random.default_rng([0, first])
    step = np.repeat(np.arange(first, first + count), SERIES)
    which = np.tile(np.arange(SERIES), count)
    x = np.sin(0.25 * step + which) + 0.05 * rng.standard_normal(len(step))
    return batch([f"w{i}" for i in which], START + 1000 * step, x[:, None])


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
    return evaluate(made.incumbent, newest).score


@cache
def clean_score() -> float:
    return score_on_the_honest(taught(None))


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_series_that_sends_99_ticks_of_100_does_not_spoil_the_others(kind: str) -> None:
    """Not by being trained on more, nor by its errors in the gate, nor by being the only one with an anchor."""
    assert clean_score() < 0.2
    assert score_on_the_honest(taught(kind)) < 1.5 * clean_score()


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


def test_what_is_worse_on_the_anchor_is_refused_even_when_the_newest_steps_like_it() -> None:
    """All that a round trains on and compares by is turned round; only the anchor is as it was."""
    made = learner()
    made.feed(honest(900))
    assert made.round().verdict.accepted
    kept = incumbent(made)
    for name in ("training", "selection", "newest"):
        draw = getattr(made.buffer, name)

        def turned(*arguments: object, draw: Callable[..., Sequences] = draw) -> Sequences:
            found = draw(*arguments)
            return Sequences(found.inputs, -found.targets)

        setattr(made.buffer, name, turned)
    done = made.round()
    assert done.verdict.reason == "worse-on-anchor"
    assert done.candidate is not None and done.incumbent is not None
    assert done.candidate.score < done.incumbent.score  # the newest steps alone would have let it in
    assert made.incumbent is kept


def test_one_spike_counts_for_no_more_than_the_clip() -> None:
    out = torch.zeros(4, 2, 1, 2, 4, requires_grad=True)
    levels = torch.tensor([0.1, 0.5, 0.9])
    targets = torch.ones(4, 2, 1, 2)
    targets[1, 1] = 1e30
    clipped = targets.clamp(max=TARGET_CLIP)
    assert torch.equal(forecast_loss(out, targets, levels), forecast_loss(out, clipped, levels))


def test_infinity_in_the_window_ends_the_round_and_changes_no_weight() -> None:
    """Nothing lets one in; if something did, the incumbent must stay as it is, bit for bit."""
    made = learner()
    made.feed(honest(300))
    assert made.round().verdict.accepted
    kept = {name: tensor.clone() for name, tensor in incumbent(made).state_dict().items()}
    made.buffer._inputs[:] = np.inf
    for _ in range(3):
        assert made.round().network is None
    assert all(torch.equal(tensor, kept[name]) for name, tensor in incumbent(made).state_dict().items())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in made._network.state_dict().values())


def incumbent(made: Learner) -> Network:
    assert made.incumbent is not None
    return made.incumbent
