"""What a new series believes of a network that was right for others: at once, by its credit, and no longer than it is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from making import batch

from streamrnn.kernels.columns import rungs_of
from streamrnn.model.gate import CREDIT_MOST, evaluate
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences
from streamrnn.model.weights import WeightsMeta, build, pack, unpack, weights_id
from streamrnn.records import F64
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine

HORIZON = 2
WARM = 9  # steps before a series' forecasts are more than its last value
STREAM = StreamSpec(channels=("a",), step_ms=1000, horizon=HORIZON, series_max=8, experts=())


def constant(engine: Engine, number: float, credit: float) -> Network:
    """A network that says `number` in usual errors, whatever it is shown."""
    made = Network(ModelSpec(tuple(engine.inputs), rungs_of(HORIZON), trunk=8, hidden=4))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.out.bias.fill_(number)
    made.credit[:] = torch.tensor([credit, credit])
    return made.eval()


def means(value: Callable[[int], float], steps: int, number: float | None, credit: float = 0.0) -> F64:
    """Forecasts [step, horizon] of a new series."""
    engine = Engine(STREAM)
    if number is not None:
        engine.load(constant(engine, number, credit), "w")
    at = np.arange(steps)
    values = np.array([[value(k)] for k in at])
    return engine.process(batch(["new"] * steps, 1_700_000_000_000 + 1000 * at, values)).forecasts.mean[:, 0]


def test_a_new_series_believes_at_once_what_was_right_for_others() -> None:
    def climbs(k: int) -> float:
        return float(k)

    alone, doubted, credited = (means(climbs, 12, *given) for given in ((None,), (1.0,), (1.0, CREDIT_MOST)))
    assert np.allclose(alone[:, 0], np.arange(12))  # each time as far as the step is wide too low
    assert (credited[WARM:, 0] - alone[WARM:, 0] > 0.8).all()
    assert (doubted[WARM:, 0] - alone[WARM:, 0] < 0.5).all()


def test_a_series_for_which_it_is_wrong_believes_it_no_longer() -> None:
    def falls(k: int) -> float:
        return -float(k)

    alone, credited = means(falls, 60, None), means(falls, 60, 1.0, CREDIT_MOST)
    assert not np.array_equal(credited[: WARM + 2], alone[: WARM + 2])
    assert np.array_equal(credited[40:], alone[40:])


def sequences(right: float, rows: int = 40) -> tuple[Network, Sequences]:
    """A network that says what its one input says, and targets that are as much of that, and noise."""
    torch.manual_seed(3)  # what its layers begin with
    made = Network(ModelSpec(("x",), (1, 4), trunk=8, hidden=4)).eval()
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(64, rows, 1, generator=generator)
    with torch.inference_mode():
        torch.nn.init.normal_(made.out.weight, 0.0, 0.5, generator=generator)
        said = made(inputs, made.zero_state(rows))[0]
    targets = right * said + 0.5 * torch.randn(said.shape, generator=generator)
    return made, Sequences(inputs, targets, torch.ones_like(targets), 1)


def test_credit_is_what_it_was_worth_on_steps_that_it_was_not_trained_on() -> None:
    credit = evaluate(*sequences(0.5), 8).credit
    assert credit.shape == (2, 2)
    assert credit[0, 0] / credit[0, 1] == pytest.approx(0.5, abs=0.1)
    assert 0.0 < credit[0, 1] <= CREDIT_MOST
    assert credit[1, 1] <= credit[0, 1]  # forecasts that overlap are fewer


@pytest.mark.parametrize("right", [0.0, -0.5])
def test_a_network_that_was_not_right_has_none(right: float) -> None:
    assert not evaluate(*sequences(right), 8).credit.any()


def test_credit_travels_with_the_weights_and_weights_without_any_keep_their_name() -> None:
    made, _ = sequences(0.5)
    before = weights_id(made)
    blob = pack(made, WeightsMeta())
    made.credit[:] = 3.0
    assert weights_id(made) != before
    again, _ = build(pack(made, WeightsMeta()))
    assert torch.equal(again.credit, made.credit)
    _, tensors, meta = unpack(blob)
    assert meta.id == before and not tensors["credit"].any()


def test_weights_of_a_version_that_gave_no_credit_are_read() -> None:
    made, _ = sequences(0.5)
    state = made.state_dict
    made.state_dict = lambda *given, **more: {k: v for k, v in state(*given, **more).items() if k != "credit"}  # type: ignore[method-assign]
    blob = pack(made, WeightsMeta())
    del made.state_dict
    again, meta = build(blob)
    assert not again.credit.any()
    assert meta.id == weights_id(made)
