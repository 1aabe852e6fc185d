"""Convolutions, heads, every cell: both entrances agree however a sequence is cut, and none sees what is to come."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.kernels.remainder import SINCE
from streamrnn.model.conv import DILATIONS, CausalConv, WaveNet
from streamrnn.model.heads import Decoder, make_head
from streamrnn.model.network import NEWEST, Network
from streamrnn.model.stack import make_cell, make_stack
from streamrnn.spec import Cell, Head, ModelSpec

CELLS: list[Any] = list(get_args(Cell))
HEADS: list[Any] = list(get_args(Head))
INPUTS = ("a", "b", NEWEST, "is x", "is y", SINCE)


def network(seed: int = 0, **shape: Any) -> Network:
    """One that says something of every rung."""
    torch.manual_seed(seed)
    made = Network(ModelSpec(INPUTS, (1, 2, 4), **{"trunk": 12, "hidden": 8, **shape})).eval()
    for name, parameter in made.named_parameters():
        if name.startswith(("out.", "beside.")) and not name.endswith("share"):
            torch.nn.init.normal_(parameter, 0.0, 0.4)
    return made


def shown(steps: int, rows: int, seed: int = 1) -> torch.Tensor:
    """[step, row, input]; where a channel was not seen its numbers are 0 and its age grows."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, rows, len(INPUTS))).astype(np.float32)
    unseen = rng.random((steps, rows)) < 0.3
    x[unseen] = 0.0
    age = np.zeros(rows)
    for t in range(steps):
        age = np.where(unseen[t], age + 1, 0)
        x[t, :, -1] = np.log1p(age)
    x[:, :, 3] = np.arange(rows) % 2
    x[:, :, 4] = 1 - x[:, :, 3]
    return torch.from_numpy(x)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 40), max_size=4),
    st.integers(1, 2),
    st.sampled_from([0, 1, 4]),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_sequence_cut_anywhere_and_step_by_step_is_the_same(
    cell: Any, head: Any, steps: int, cuts: list[int], layers: int, conv: int, layer_norm: bool, seed: int
) -> None:
    net = network(seed, cell=cell, head=head, layers=layers, conv=conv, layer_norm=layer_norm)
    xs = shown(steps, 3, seed)
    edges = sorted({0, steps, *(cut for cut in cuts if cut < steps)})
    with torch.inference_mode():
        whole, end = net(xs, net.zero_state(3))
        pieces, state = [], net.zero_state(3)
        for begin, until in itertools.pairwise(edges):
            said, state = net(xs[begin:until], state)
            pieces.append(said)
        single, walked = [], net.zero_state(3)
        for x in xs:
            said, walked = net.step(x, walked)
            single.append(said)
    for out, moved in ((torch.cat(pieces), state), (torch.stack(single), walked)):
        assert torch.allclose(out, whole, atol=1e-5)
        assert torch.allclose(moved, end, atol=1e-5)
    assert end.shape == (3, net.state_size)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_to_come_changes_no_number(cell: Any, head: Any) -> None:
    net = network(cell=cell, head=head, conv=3)
    xs = shown(30, 4)
    other = xs.clone()
    other[20:] = torch.randn(other[20:].shape)
    with torch.inference_mode():
        before, after = (net(each, net.zero_state(4))[0] for each in (xs, other))
    assert torch.equal(before[:20], after[:20])
    assert not torch.allclose(before[20:], after[20:])


@pytest.mark.parametrize("head", HEADS)
def test_a_fresh_network_says_nothing_and_learns_in_every_part(head: Any) -> None:
    torch.manual_seed(0)
    net = Network(ModelSpec(INPUTS, (1, 2, 4), trunk=12, hidden=8, head=head, conv=3, dropout=0.0))
    xs, target = shown(20, 8), torch.ones(20, 8, 3)
    assert not net.eval()(xs, net.zero_state(8))[0].any()
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (net(xs, net.zero_state(8))[0] - target).square().mean().backward()
        optimizer.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in still if not name.startswith(("first.", "second.", "out."))] == []


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "wavenet"])
def test_layer_normalisation_and_dropout_on_all_cells(kind: str) -> None:
    torch.manual_seed(0)
    cell = make_cell(kind, 5, 8, layer_norm=True, dropout=0.5)
    assert any(isinstance(part, torch.nn.LayerNorm) for part in cell.modules())
    xs, state = torch.randn(7, 4, 5), torch.zeros(4, cell.state_size)
    cell.eval()
    assert torch.equal(cell(xs, state)[0], cell(xs, state)[0])
    cell.train()
    assert not torch.equal(cell(xs, state)[0], cell(xs, state)[0])


def test_a_normalised_rnn_of_one_input_sees_how_large_it_is() -> None:
    torch.manual_seed(0)
    cell = make_cell("rnn", 1, 8, layer_norm=True)
    state = torch.randn(1, 8)
    near, far = (cell.step(torch.tensor([[x]]), state)[0] for x in (0.1, 1.0))
    assert (near - far).abs().max() > 0.1


def test_a_convolution_is_torchs_own_on_a_sequence_padded_with_zeros() -> None:
    torch.manual_seed(0)
    conv, xs = CausalConv(3, 5, width=4, dilation=2), torch.randn(20, 2, 3)
    theirs = torch.nn.Conv1d(3, 5, 4, dilation=2)
    with torch.no_grad():
        theirs.weight.copy_(conv.taps.weight.reshape(5, 4, 3).transpose(1, 2))
        theirs.bias.copy_(conv.taps.bias)  # type: ignore[union-attr]
        wanted = theirs(torch.nn.functional.pad(xs.permute(1, 2, 0), (6, 0))).permute(2, 0, 1)
        out, state = conv(xs, torch.zeros(2, conv.state_size))
    assert torch.allclose(out, wanted, atol=1e-6)
    assert torch.equal(state.reshape(2, 6, 3), xs[-6:].transpose(0, 1))


def test_a_wavenet_sees_sixteen_steps_and_no_more() -> None:
    torch.manual_seed(0)
    net = WaveNet(2, 6)
    xs = torch.randn(40, 1, 2, requires_grad=True)
    out, _ = net(xs, torch.zeros(1, net.state_size))
    out[-1].sum().backward()
    assert xs.grad is not None
    assert xs.grad.abs().sum((1, 2)).nonzero()[0].item() == 40 - 1 - sum(DILATIONS)


# ── heads ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_iterated_is_the_one_step_network_called_again_on_what_it_said() -> None:
    torch.manual_seed(0)
    stack, one, many = make_stack("gru", 1, 6, 2), make_head("iterated", 6, 1), make_head("iterated", 6, 4)
    with torch.no_grad():
        for head in (one, many):
            head.weight.copy_(torch.linspace(-1, 1, 6).unsqueeze(0))
        xs = torch.randn(12, 3, 1)
        together, _ = many(stack, xs, torch.zeros(3, stack.state_size), torch.zeros(12, 3, 4))
        said, state = one(stack, xs, torch.zeros(3, stack.state_size), torch.zeros(12, 3, 1))
        for rung in range(4):
            assert torch.allclose(together[-1, :, rung], said[-1, :, 0], atol=1e-6)
            said, state = one(stack, said[-1:], state, torch.zeros(1, 3, 1))


def test_a_decoder_alone_goes_from_a_vector_to_a_sequence() -> None:
    """A sine of the frequency that the vector names."""
    torch.manual_seed(0)
    decoder = Decoder(0, 1, 16, 8)
    pace = torch.linspace(0.2, 0.8, 32).unsqueeze(1)
    wanted = torch.sin(pace * torch.arange(1, 9))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    nothing = torch.zeros(32, 8)
    for _ in range(250):
        optimizer.zero_grad()
        loss = (decoder(None, pace, torch.zeros(32), nothing) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.02 * float(wanted.var())


def test_the_decoder_knows_which_channel_it_speaks_of() -> None:
    net = network(head="encoder-decoder")
    xs = shown(5, 2)
    xs[:, 1, :3] = xs[:, 0, :3]
    xs[:, 1, 5] = xs[:, 0, 5]
    with torch.no_grad():
        net.first.weight[:, 3:5] = 0.0  # only the static vector says which
        said, _ = net(xs, net.zero_state(2))
        assert not torch.allclose(said[:, 0], said[:, 1])
        net.beside.decoder.placed.zero_()
        said, _ = net(xs, net.zero_state(2))
    assert torch.allclose(said[:, 0], said[:, 1], atol=1e-6)
