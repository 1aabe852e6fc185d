"""Cells and the network: two entrances that agree, rows that do not meet, a fresh one that says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamrnn.kernels.remainder import SINCE
from streamrnn.model.device import full_precision
from streamrnn.model.network import Network
from streamrnn.spec import ModelSpec
from streamrnn.stream.layers import layers_of, stepped

CELLS: list[Any] = ["rnn", "gru", "lstm", "gru-d"]
INPUTS = ("a", "b", "c", "d", SINCE)


def network(cell: Any = "gru", layers: int = 2, seed: int = 0, **changes: Any) -> Network:
    torch.manual_seed(seed)
    made = Network(ModelSpec(INPUTS, (1, 2, 4), cell, trunk=24, hidden=16, layers=layers, **changes)).eval()
    torch.nn.init.normal_(made.out.weight, 0.0, 0.3)
    torch.nn.init.normal_(made.beside.weight, 0.0, 0.3)
    return made


def shown(steps: int, rows: int) -> torch.Tensor:
    """[step, row, input]; the last one is how long ago the channel was seen."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, rows, len(INPUTS))).astype(np.float32)
    x[..., -1] = np.log1p(rng.integers(0, 4, (steps, rows)))
    return torch.from_numpy(x)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_step_and_forward_agree(cell: Any, layers: int, layer_norm: bool) -> None:
    net = network(cell, layers, layer_norm=layer_norm)
    xs = shown(40, 16)
    with torch.inference_mode():
        whole, end = net(xs, net.zero_state(16))
        state = net.zero_state(16)
        for t in range(40):
            out, state = net.step(xs[t], state)
            assert torch.allclose(out, whole[t], atol=1e-5)
    assert torch.allclose(state, end, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_in_pieces_gives_the_state_of_the_whole(cell: Any) -> None:
    net = network(cell)
    xs = shown(60, 16)
    with torch.inference_mode():
        _, whole = net(xs, net.zero_state(16))
        state = net.zero_state(16)
        for begin, end in ((0, 1), (1, 17), (17, 60)):
            _, state = net(xs[begin:end], state)
    assert torch.equal(whole, state) or torch.allclose(whole, state, atol=1e-6)
    assert not torch.allclose(whole, net.zero_state(16))


def test_gru_d_lets_its_memory_fade_with_the_time_since_last_seen() -> None:
    net = network("gru-d", 1)
    torch.nn.init.constant_(net.stack.cells[0].decay.weight, 1.0)
    xs = shown(2, 16)
    xs[1, :, -1] = 0.0
    late = xs.clone()
    late[1, :, -1] = np.log1p(50.0)  # the channel was seen fifty steps ago
    with torch.inference_mode():
        _, first = net(xs[:1], net.zero_state(16))
        _, near = net(xs[1:], first)
        _, near_blank = net(xs[1:], torch.zeros_like(first))
        _, far = net(late[1:], first)
        _, far_blank = net(late[1:], torch.zeros_like(first))
    assert (far - far_blank).norm() < 0.2 * (near - near_blank).norm()


@pytest.mark.parametrize("cell", CELLS)
def test_a_fresh_network_says_nothing(cell: Any) -> None:
    net = Network(ModelSpec(INPUTS, (1, 2, 4), cell))
    with torch.inference_mode():
        out, _ = net(shown(5, 4), net.zero_state(4))
    assert not out.any()


@pytest.mark.parametrize("cell", CELLS)
def test_who_shares_a_step_changes_no_bit(cell: Any) -> None:
    net = network(cell)
    xs = shown(20, 40).numpy()
    together: Any = np.zeros((40, net.state_size), dtype=np.float32)
    apart = together.copy()
    for x in xs:
        said, together = stepped(net, x, together)
        for begin, end in ((0, 1), (1, 18), (18, 40)):
            alone, apart[begin:end] = stepped(net, x[begin:end], apart[begin:end])
            assert np.array_equal(alone, said[begin:end])
    assert np.array_equal(together, apart)


def test_a_gru_of_one_layer_is_compiled_and_no_other() -> None:
    assert network("gru", 1).plain_gru
    layers_of(network("gru", 1))
    for other in (network("gru", 2), network("lstm", 1), network("gru", 1, layer_norm=True)):
        assert not other.plain_gru
        with pytest.raises(ValueError, match="is compiled"):
            layers_of(other)


def test_dropout_is_one_mask_per_sequence_and_only_in_training() -> None:
    net = network(dropout=0.5)
    xs = shown(1, 16).expand(6, 16, len(INPUTS))
    with torch.no_grad():
        quiet = [net(xs, net.zero_state(16))[0] for _ in range(2)]
        net.train()
        loud = [net.seen(xs) for _ in range(2)]
    assert torch.equal(*quiet)
    assert not torch.equal(*loud)
    assert torch.equal(loud[0][0], loud[0][5])


def test_no_gradient_of_the_recurrent_layers_reaches_the_trunk() -> None:
    net = network().train()
    out, _ = net(shown(6, 4), net.zero_state(4))
    torch.autograd.backward(out.square().sum())
    assert net.first.weight.grad is None and net.out.weight.grad is None
    assert net.beside.weight.grad is not None and bool(net.beside.weight.grad.any())


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_processor() -> None:
    full_precision()
    net = network()
    xs = shown(50, 16)
    with torch.inference_mode():
        here, _ = net(xs, net.zero_state(16))
        there = net.cuda()
        out, _ = there(xs.cuda(), there.zero_state(16))
    assert torch.allclose(out.cpu(), here, atol=1e-4)
