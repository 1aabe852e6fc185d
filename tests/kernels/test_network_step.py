"""The compiled step of the network says what PyTorch says, for any number of channels, and moves the same states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrnn.kernels import lean
from streamrnn.kernels.network import Lanes, Layers, lanes_of
from streamrnn.kernels.network import step as compiled_step
from streamrnn.model.network import Network
from streamrnn.records import F32, I64
from streamrnn.spec import ModelSpec
from streamrnn.stream.layers import layers_of


@lean
def step(slots: I64, channels: int, shown: F32, state: F32, layers: Layers, lanes: Lanes, said: F32) -> None:
    compiled_step(slots.shape[0], slots, channels, shown, state, layers, lanes, np.float32(5.0), said)


def network(inputs: int = 13, rungs: int = 3, seed: int = 0, trunk: int = 11) -> Network:
    torch.manual_seed(seed)
    made = Network(ModelSpec(tuple(map(str, range(inputs))), tuple(range(1, rungs + 1)), trunk=trunk, hidden=6)).eval()
    with torch.no_grad():
        made.out.weight.normal_(std=0.3)
        made.beside.weight.normal_(std=0.3)
        made.out.bias.normal_(std=0.3)
    return made


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9])
def test_the_compiled_step_is_that_of_the_network(channels: int) -> None:
    made, rng = network(), np.random.default_rng(channels)
    layers = layers_of(made)
    state, said = np.zeros((3, channels * made.state_size), dtype=np.float32), np.zeros((channels, 3), dtype=np.float32)
    other = torch.zeros(channels, made.state_size)
    for _ in range(20):
        shown = rng.standard_normal((channels, 13)).astype(np.float32)
        step(np.array([1]), channels, shown, state, layers, lanes_of(layers), said)
        with torch.inference_mode():
            wanted, other = made.step(torch.from_numpy(shown), other)
        assert np.allclose(said, wanted.numpy(), atol=2e-6)
        assert np.allclose(state[1].reshape(channels, -1), other.numpy(), atol=2e-6)
    assert not state[[0, 2]].any()


@pytest.mark.parametrize("trunk", [11, 16, 40])  # some outputs beyond a whole vector, one vector, one beyond two
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_series_that_walk_abreast_are_stepped_as_each_alone_bit_for_bit(channels: int, trunk: int) -> None:
    made, rng = network(trunk=trunk), np.random.default_rng(channels)
    layers, count, width = layers_of(made), 5, channels * made.state_size
    slots = rng.permutation(7)[:count]
    together = rng.standard_normal((7, width)).astype(np.float32)
    apart = together.copy()
    for _ in range(3):
        shown = rng.standard_normal((count * channels, 13)).astype(np.float32)
        said = np.zeros((count * channels, 3), dtype=np.float32)
        step(slots, channels, shown, together, layers, lanes_of(layers), said)
        for k, slot in enumerate(slots):
            rows, alone = slice(k * channels, (k + 1) * channels), np.zeros((channels, 3), dtype=np.float32)
            step(np.array([slot]), channels, shown[rows], apart, layers, lanes_of(layers), alone)
            assert np.array_equal(said[rows], alone)
        assert np.array_equal(together, apart)


def test_what_it_says_is_bounded() -> None:
    made = network()
    with torch.no_grad():
        made.out.bias.fill_(100.0)
    layers, said, state = layers_of(made), np.zeros((2, 3), dtype=np.float32), np.zeros((1, 12), dtype=np.float32)
    step(np.array([0]), 2, np.ones((2, 13), dtype=np.float32), state, layers, lanes_of(layers), said)
    assert (said == 5.0).all()


def test_a_sequence_is_its_steps() -> None:
    made = network()
    xs = torch.randn(7, 4, 13)
    with torch.inference_mode():
        together, after = made(xs, made.zero_state(4))
        state, apart = made.zero_state(4), []
        for x in xs:
            out, state = made.step(x, state)
            apart.append(out)
    assert torch.allclose(together, torch.stack(apart), atol=1e-6) and torch.allclose(after, state, atol=1e-6)


def test_a_fresh_network_says_nothing() -> None:
    torch.manual_seed(0)
    made = Network(ModelSpec(("a", "b"), (1, 2)))
    assert not made(torch.randn(3, 2, 2), made.zero_state(2))[0].any()
