"""Cells and the network: two entrances that agree, rows that do not meet, quantiles in order."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from streamrnn.stream.runner import GruRunner, TorchRunner, make_runner, self_test

from streamrnn.model.device import full_precision
from streamrnn.model.network import Network, _ages_scanned, _ages_stepwise
from streamrnn.spec import ModelSpec

CELLS: list[Any] = ["rnn", "gru", "lstm", "gru-d"]


def network(cell: Any = "gru", layers: int = 2, seed: int = 0, **changes: Any) -> Network:
    torch.manual_seed(seed)
    made = Network(ModelSpec(3, 4, (0.05, 0.25, 0.5, 0.75, 0.95), 1, cell, hidden=16, layers=layers, **changes)).eval()
    torch.nn.init.normal_(made.out.weight, 0.0, 0.3)
    return made


def frames(steps: int, rows: int, missing: float = 0.2) -> torch.Tensor:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, rows, 9)).astype(np.float32)
    x[..., 6] = np.log1p(1.0)
    gone = rng.random((steps, rows, 3)) < missing
    x[..., :3][gone] = np.nan
    x[..., 3:6][gone] = np.nan
    return torch.from_numpy(x)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_step_and_forward_agree(cell: Any, layers: int, layer_norm: bool) -> None:
    net = network(cell, layers, layer_norm=layer_norm)
    xs = frames(40, 16)
    with torch.inference_mode():
        whole, end = net(xs, net.zero_state(16))
        state = net.zero_state(16)
        for t in range(40):
            out, state = net.step(xs[t], state)
            assert torch.allclose(out, whole[t], atol=1e-5)
    assert torch.allclose(state, end, atol=1e-5)
    if not layer_norm and cell != "gru-d":
        assert torch.equal(state, end), "the fused cells agree bit for bit"


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_in_pieces_gives_the_state_of_the_whole(cell: Any) -> None:
    net = network(cell)
    xs = frames(60, 16)
    with torch.inference_mode():
        _, whole = net(xs, net.zero_state(16))
        state = net.zero_state(16)
        for begin, end in ((0, 1), (1, 17), (17, 60)):
            _, state = net(xs[begin:end], state)
    assert torch.equal(whole, state) or torch.allclose(whole, state, atol=1e-6)
    assert not torch.allclose(whole, net.zero_state(16))


def test_missing_values_reach_nothing_but_the_mask_and_the_age() -> None:
    net = network()
    xs = frames(30, 16, missing=0.6)
    with torch.inference_mode():
        out, state = net(xs, net.zero_state(16))
    assert torch.isfinite(out).all()
    assert torch.isfinite(state).all()
    gone = torch.isnan(xs[-1, :, 0])
    ages = state[:, net.stack.state_size]
    assert (ages[~gone] == 0).all()
    assert (ages[gone] >= 1).all()


def test_gru_d_lets_its_memory_fade_with_the_time_since_last_seen() -> None:
    net = network("gru-d", 1)
    decay = net.stack.cells[0].decay
    torch.nn.init.constant_(decay.weight, 1.0)
    xs = frames(2, 16, missing=0.0)
    late = xs.clone()
    late[1, :, 6] = np.log1p(50.0)  # the second frame comes fifty steps later
    with torch.inference_mode():
        _, first = net(xs[:1], net.zero_state(16))
        _, near = net(xs[1:], first)
        _, far = net(late[1:], first)
        _, blank = net(late[1:], torch.cat([torch.zeros(16, 16), first[:, 16:]], dim=1))
    assert (far[:, :16] - blank[:, :16]).norm() < 0.2 * (near[:, :16] - blank[:, :16]).norm()


def test_a_fresh_network_says_persistence_with_normal_quantiles() -> None:
    net = Network(ModelSpec(2, 3, (0.05, 0.5, 0.95)))
    with torch.inference_mode():
        out, _ = net(frames(5, 4)[..., [0, 1, 3, 4, 6]], net.zero_state(4))
    assert (out[..., 0] == 0).all()
    z = torch.tensor([NormalDist().inv_cdf(q) for q in (0.05, 0.5, 0.95)])
    assert torch.allclose(out[..., 1:], z.expand_as(out[..., 1:]), atol=1e-4)


def test_quantiles_never_cross_whatever_the_weights() -> None:
    net = network()
    torch.nn.init.normal_(net.out.weight, 0.0, 30.0)
    with torch.inference_mode():
        out, _ = net(frames(20, 16), net.zero_state(16))
    assert (out[..., 1:].diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_runners_pass_their_self_test(cell: Any) -> None:
    assert self_test(make_runner(network(cell)), 9)


def uneven(steps: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Frames at any distance in time, with channels that stay away for long."""
    rng = np.random.default_rng(seed)
    xs = frames(steps, 1, missing=0.7)[:, 0].numpy()
    xs[:, 6] = np.log1p(rng.exponential(2.0, steps))
    return xs


@pytest.mark.parametrize("cell", CELLS)
def test_at_uneven_distances_any_cut_gives_the_same_bits(cell: Any) -> None:
    runner = make_runner(network(cell))
    for seed in range(20):
        xs = uneven(30, seed)
        whole: Any = np.zeros((1, runner.network.state_size), dtype=np.float32)
        single = whole.copy()
        together = runner.run(xs, np.array([[0, 0, 30]]), whole)
        apart = [runner.run(xs[i : i + 1], np.array([[0, 0, 1]]), single)[0] for i in range(30)]
        assert np.array_equal(together, np.stack(apart))
        assert np.array_equal(whole, single)


def test_ages_by_scans_are_those_by_steps() -> None:
    torch.manual_seed(0)
    delta = torch.rand(200, 5, 1) * 3
    delta[90] = 1e6  # a long rest
    missing = torch.rand(200, 5, 4) < 0.8
    missing[:, 0] = True
    begun = torch.rand(5, 4) * 40
    stepwise, scanned = _ages_stepwise(delta, missing, begun), _ages_scanned(delta, missing, begun)
    for one, other in zip(stepwise, scanned, strict=True):
        assert torch.allclose(one, other, rtol=1e-5)
    assert float(stepwise[0].max()) > 1e6


def test_the_compiled_gru_equals_the_torch_gru() -> None:
    net = network()
    xs = frames(200, 1)[:, 0].numpy()
    runs = np.array([[0, 0, 90], [2, 90, 91], [1, 91, 130], [3, 130, 131], [4, 131, 200]])
    compiled: Any = np.zeros((5, net.state_size), dtype=np.float32)
    reference: Any = np.zeros((5, net.state_size), dtype=np.float32)
    assert isinstance(make_runner(net), GruRunner)
    ours, theirs = GruRunner(net).run(xs, runs, compiled), TorchRunner(net).run(xs, runs, reference)
    assert np.allclose(ours, theirs, atol=2e-5)
    assert np.allclose(compiled, reference, atol=2e-6)


def test_recurrent_dropout_is_one_mask_per_sequence_and_only_in_training() -> None:
    net = network(dropout=0.5)
    xs = frames(6, 16)
    with torch.no_grad():
        quiet = [net(xs, net.zero_state(16))[0] for _ in range(2)]
        net.train()
        loud = [net(xs, net.zero_state(16))[0] for _ in range(2)]
    assert torch.equal(*quiet)
    assert not torch.equal(*loud)


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_processor() -> None:
    full_precision()
    net = network()
    xs = frames(50, 16)
    with torch.inference_mode():
        here, _ = net(xs, net.zero_state(16))
        there = net.cuda()
        out, _ = there(xs.cuda(), there.zero_state(16))
    assert torch.allclose(out.cpu(), here, atol=1e-4)
