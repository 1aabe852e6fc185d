"""A network carried into another configuration says of what it knew what it said before."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from streamrnn.kernels.columns import rungs_of
from streamrnn.meaning import Meaning, meaning_of
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsError, WeightsMeta, fitted, pack, weights_id
from streamrnn.spec import Cell, Head, ModelSpec, StreamSpec
from streamrnn.stream.forecasting import inputs_of

GIVEN: dict[str, Any] = {"channels": ("a", "b"), "step_ms": 1000, "horizon": 4, "experts": ()}


def stream(**changes: Any) -> StreamSpec:
    return StreamSpec(**{**GIVEN, **changes})


def meaning(**changes: Any) -> Meaning:
    return meaning_of(stream(**changes))


def made(cell: Cell = "gru", head: Head = "sequence", conv: int = 0) -> Network:
    torch.manual_seed(0)
    spec, names = stream(), tuple(inputs_of(stream()))
    network = Network(ModelSpec(names, rungs_of(spec.horizon), cell, 8, 6, conv=conv, head=head))
    for parameter in (*network.out.parameters(), *network.beside.parameters()):
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return network.eval()


def carried(network: Network, **changes: Any) -> Network:
    blob = pack(network, WeightsMeta(), meaning())
    return fitted(blob, meaning(**changes), inputs_of(stream(**changes))).network


def said(network: Network, numbers: dict[str, torch.Tensor]) -> torch.Tensor:
    """What it says of 20 steps [T, rung] with these inputs, and any numbers for others."""
    torch.manual_seed(5)
    xs = torch.stack([numbers.get(name, torch.randn(20)) for name in network.spec.inputs], dim=1)
    with torch.inference_mode():
        return network(xs[:, None], network.zero_state(1))[0][:, 0]


@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("head", get_args(Head))
@pytest.mark.parametrize(
    "changes",
    [
        {"channels": ("new", "b", "a")},
        {"calendar_ms": (3_600_000,)},
        {"quantiles": (0.1, 0.9)},
        {"experts": ("moves",)},
        {"horizon": 12},
        {"horizon": 3},
    ],
    ids=str,
)
def test_what_it_knew_counts_as_before_and_what_is_new_for_nothing(
    cell: Cell, head: Head, changes: dict[str, Any]
) -> None:
    network = made(cell, head, conv=3)
    other = carried(network, **changes)
    torch.manual_seed(1)
    numbers = {name: torch.randn(20) for name in network.spec.inputs}
    if changes.get("horizon") == 3:  # what it is no longer shown has been 0
        numbers |= {name: torch.zeros(20) for name in network.spec.inputs if name not in other.spec.inputs}
    before, now = said(network, numbers), said(other, numbers)
    for r, h in enumerate(other.spec.rungs):
        if h in network.spec.rungs:
            assert torch.allclose(now[:, r], before[:, network.spec.rungs.index(h)], atol=1e-5)
        else:
            assert not now[:, r].any()


def test_nothing_changed_is_the_same_network_and_no_word() -> None:
    network = made()
    blob = pack(network, WeightsMeta(gain=[0.1, 0.2, 0.3, 0.4]), meaning())
    found = fitted(blob, meaning(), inputs_of(stream()))
    assert found.words == () and found.meta.gain == [0.1, 0.2, 0.3, 0.4]
    assert weights_id(found.network) == weights_id(network)


def test_what_is_new_is_said_and_adds_nothing_yet() -> None:
    blob = pack(made(), WeightsMeta(gain=[0.5] * 4), meaning())
    found = fitted(blob, meaning(horizon=6), inputs_of(stream(horizon=6)))
    assert found.meta.gain == [0.5, 0.5, 0.5, 0.5, 0.0]
    assert "6 steps ahead" in "; ".join(found.words) and "more numbers" in "; ".join(found.words)


@pytest.mark.parametrize("changes", [{"step_ms": 2000}, {"channels": ("x",)}, {"within": "last"}], ids=str)
def test_weights_of_another_meaning_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="another meaning"):
        carried(made(), **changes)


def test_weights_that_say_nothing_of_their_meaning_serve_by_their_inputs() -> None:
    network = made()
    blob = pack(network, WeightsMeta())
    assert weights_id(fitted(blob, meaning(), inputs_of(stream())).network) == weights_id(network)
