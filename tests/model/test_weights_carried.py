"""A network carried into another configuration says of what it knew what it said before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
import torch

from streamrnn.meaning import Meaning, meaning_of
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsError, WeightsMeta, fitted, pack, weights_id
from streamrnn.spec import Cell, ModelSpec, StreamSpec

CHANNELS, HORIZON, LEVELS = ("a", "b"), 4, (0.05, 0.25, 0.5, 0.95)
HOUR, DAY = 3_600_000, 86_400_000


def meaning(**changes: Any) -> Meaning:
    given = {"channels": CHANNELS, "step_ms": 1000, "horizon": HORIZON, "quantiles": LEVELS, "calendar_ms": (HOUR,)}
    return meaning_of(StreamSpec(**{**given, **changes}))


def made(cell: Cell = "gru", layer_norm: bool = False, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(ModelSpec(2, HORIZON, LEVELS, 1, cell, hidden=8, layers=2, layer_norm=layer_norm))
    torch.nn.init.normal_(network.out.weight, 0.0, 0.3)
    torch.nn.init.normal_(network.out.bias, 0.0, 0.3)
    return network.eval()


def carried(network: Network, **changes: Any) -> Network:
    return fitted(pack(network, WeightsMeta(), meaning()), meaning(**changes)).network


def shown(network: Network, channels: tuple[str, ...], calendar: tuple[int, ...] = (HOUR,)) -> torch.Tensor:
    """What it says of 20 steps [T, C, H, 1 + Q], in which channels other than `a` and `b` never come, nor other features."""
    torch.manual_seed(1)
    u, z, delta, features = torch.randn(20, 2), torch.randn(20, 2), torch.full((20, 1), 0.7), torch.randn(20, 2)
    u[3:6, 1] = z[3:6, 1] = torch.nan  # one is missing for a while
    at = [CHANNELS.index(c) if c in CHANNELS else -1 for c in channels]
    columns = [part[:, k] if k >= 0 else torch.full((20,), torch.nan) for part in (u, z) for k in at]
    columns.append(delta[:, 0])
    for period in calendar:
        columns += [features[:, k] if period == HOUR else torch.randn(20) for k in (0, 1)]
    with torch.inference_mode():
        out, _ = network(torch.stack(columns, dim=1).unsqueeze(1), network.zero_state(1))
    return out[:, 0]


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "gru-d"])
def test_a_channel_is_added_in_front_and_the_others_change_places(cell: Cell, layer_norm: bool) -> None:
    network, names = made(cell, layer_norm), ("new", "b", "a")
    other = carried(network, channels=names, calendar_ms=(DAY, HOUR))
    before, now = shown(network, CHANNELS), shown(other, names, (DAY, HOUR))
    assert torch.allclose(now[:, [2, 1]], before, atol=1e-5)
    assert not now[:, 0, :, 0].any()  # of the new one, that it stays where it is
    assert all((now[:, 0, :, q] < now[:, 0, :, q + 1]).all() for q in range(1, len(LEVELS)))


def test_a_channel_that_is_removed_leaves_the_rest_of_the_network() -> None:
    network = made()
    other = carried(network, channels=("b",))
    assert other.out.weight.shape[0] == HORIZON * (1 + len(LEVELS))
    rows = network.out.weight.reshape(2, -1, network.out.weight.shape[1])[1]
    assert torch.equal(other.out.weight[:, : network.spec.hidden], rows[:, : network.spec.hidden])


@pytest.mark.parametrize("horizon", [2, 7])
def test_another_horizon_keeps_the_steps_of_both(horizon: int) -> None:
    network = made()
    other = carried(network, horizon=horizon)
    before, now = shown(network, CHANNELS), shown(other, CHANNELS)
    both = min(horizon, HORIZON)
    assert torch.allclose(now[:, :, :both], before[:, :, :both], atol=1e-5)
    assert not now[:, :, HORIZON:, 0].any()
    # The recurrent state is the same: whoever has it may go on with it.
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.stack.state_dict().values(), other.stack.state_dict().values(), strict=True)
    )


def test_other_quantiles_keep_the_mean_and_the_gaps_of_both() -> None:
    network = made()
    other = carried(network, quantiles=(0.01, 0.05, 0.25, 0.5, 0.75))
    before, now = shown(network, CHANNELS), shown(other, CHANNELS)
    assert torch.allclose(now[..., 0], before[..., 0], atol=1e-5)
    for level, was in ((2, 1), (3, 2), (4, 3)):  # 0.05, 0.25, 0.5
        assert torch.allclose(now[..., level], before[..., was], atol=1e-5)
    assert all((now[..., q] < now[..., r]).all() for q, r in pairwise(range(1, 6)))


def test_levels_of_the_same_number_do_not_take_each_others_gaps() -> None:
    network = made()
    other = carried(network, quantiles=(0.1, 0.25, 0.5, 0.9))
    before, now = shown(network, CHANNELS), shown(other, CHANNELS)
    assert torch.allclose(now[..., 2:4], before[..., 2:4], atol=1e-5)
    normal = made()
    torch.nn.init.zeros_(normal.out.weight)
    torch.nn.init.zeros_(normal.out.bias)
    plain = shown(carried(normal, quantiles=(0.1, 0.25, 0.5, 0.9)), CHANNELS)
    for level, inner in ((1, 2), (4, 3)):
        assert torch.allclose(now[..., level] - now[..., inner], plain[..., level] - plain[..., inner], atol=1e-5)


def test_the_same_meaning_is_the_same_network() -> None:
    network = made()
    found = fitted(pack(network, WeightsMeta(skill=[0.5] * HORIZON), meaning()), meaning())
    assert weights_id(found.network) == weights_id(network)
    assert found.words == () and found.meta.skill == [0.5] * HORIZON


def test_the_skill_of_new_horizons_is_that_of_no_change() -> None:
    blob = pack(made(), WeightsMeta(skill=[0.5] * HORIZON), meaning())
    assert fitted(blob, meaning(horizon=6)).meta.skill == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert fitted(blob, meaning(horizon=2)).meta.skill == [0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"step_ms": 5000}, "`step` was 1s, and is 5s"),
        ({"step_ms": 0}, "`step` was 1s, and is irregular"),
        ({"within": "sum"}, "`within` was one, and is sum"),
        ({"channels": ("x", "y")}, "none of its `channels` is left: they were a, b, and are x, y"),
    ],
)
def test_weights_of_another_meaning_are_refused_in_the_words_of_the_configuration(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(WeightsError, match=says):
        carried(made(), **changes)


def test_weights_that_say_nothing_of_their_meaning_are_taken_as_far_as_their_shape_agrees() -> None:
    network = made()
    blob = pack(network, WeightsMeta())
    assert weights_id(fitted(blob, meaning()).network) == weights_id(network)
    assert fitted(blob, meaning(horizon=6)).network.spec.horizon == 6
    with pytest.raises(WeightsError, match="2 `channels` and 1 `calendar` features"):
        fitted(blob, meaning(channels=("a", "b", "c")))


def test_a_description_that_is_not_that_of_the_tensors_is_refused() -> None:
    odd = msgspec.structs.replace(meaning(), channels=("a", "b", "c"))
    with pytest.raises(WeightsError):
        fitted(pack(made(), WeightsMeta(), odd), meaning())
