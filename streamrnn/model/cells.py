"""Recurrent cells, each with two entrances that agree: `step` for one frame, `forward` for a sequence.

Every cell is functional: it takes its state and returns the new one, and never keeps any. A cell's state is one flat
row per series, [row, state_size], so that a table can hold the states of all series of any kind of cell.

- plain RNN, GRU (Cho et al. 2014), LSTM (Hochreiter & Schmidhuber 1997): torch's fused sequence kernels, in both
  entrances, so that they agree bit for bit;
- any of them with recurrent layer normalisation (Ba, Kiros, Hinton 2016) or recurrent dropout (the candidate is
  dropped, Semeniuta, Severyn, Barth 2016): the equations written out;
- GRU-D (Che et al. 2018): the hidden state decays with the time since each channel was last seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Blocks of hidden units in the products: one for the candidate, the others for the gates.
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


class Cell(nn.Module):
    """One recurrent layer. `state_size` floats of state per row, the hidden vector first."""

    def __init__(self, inputs: int, hidden: int, states: int = 1) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.state_size = states * hidden

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, inputs], state [B, S] → hidden [B, hidden], state [B, S]."""
        out, state = self(x.unsqueeze(0), state)
        return out[0], state

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """xs [T, B, inputs], state [B, S] → hidden [T, B, hidden], state [B, S]."""
        raise NotImplementedError


class FusedCell(Cell):
    """A plain RNN, GRU or LSTM layer on torch's own sequence kernel; its weights are in PyTorch's layout."""

    def __init__(self, kind: str, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, states=2 if kind == "lstm" else 1)
        self.kind = kind
        self.core: nn.RNNBase
        if kind == "lstm":
            self.core = nn.LSTM(inputs, hidden)
        else:
            self.core = nn.GRU(inputs, hidden) if kind == "gru" else nn.RNN(inputs, hidden)

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "lstm":
            h, c = state.chunk(2, dim=-1)
            out, (h, c) = self.core(xs, (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()))
            return out, torch.cat([h[0], c[0]], dim=-1)
        out, h = self.core(xs, state.unsqueeze(0).contiguous())
        return out, h[0]


class WrittenCell(Cell):
    """The same three cells with their equations written out, for layer normalisation and recurrent dropout."""

    def __init__(self, kind: str, inputs: int, hidden: int, layer_norm: bool, dropout: float) -> None:
        super().__init__(inputs, hidden, states=2 if kind == "lstm" else 1)
        self.kind, self.dropout = kind, dropout
        gates = GATES[kind]
        self.from_input = nn.Linear(inputs, gates * hidden)
        self.from_hidden = nn.Linear(hidden, gates * hidden)
        # Normalised per gate block, [row, gate, hidden]: with gates the shares of input and hidden state each by itself, in the
        # plain RNN their sum, as in the paper. There a share of a single number would keep nothing but its sign.
        apart, together = layer_norm and kind != "rnn", layer_norm and kind == "rnn"
        self.norm_input = nn.LayerNorm(hidden) if apart else nn.Identity()
        self.norm_hidden = nn.LayerNorm(hidden) if apart else nn.Identity()
        self.norm = nn.LayerNorm(hidden) if together else nn.Identity()
        for parameter in (*self.from_input.parameters(), *self.from_hidden.parameters()):
            nn.init.uniform_(parameter, -1.0 / math.sqrt(hidden), 1.0 / math.sqrt(hidden))

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        gates = GATES[self.kind]
        projected = self.norm_input(self.from_input(xs).unflatten(-1, (gates, self.hidden)))  # [T, B, gates, hidden]
        keep = self._mask(state)
        outs: list[Tensor] = []
        for t in range(xs.shape[0]):
            state = self._move(projected[t], state, keep)
            outs.append(state[:, : self.hidden])
        return torch.stack(outs), state

    def _mask(self, state: Tensor) -> Tensor | None:
        """Which candidates are kept: one draw for a whole sequence, in training only. [B, hidden]"""
        if not self.training or self.dropout == 0.0:
            return None
        kept = torch.full((state.shape[0], self.hidden), 1.0 - self.dropout, device=state.device)
        return torch.bernoulli(kept) / (1.0 - self.dropout)

    def _move(self, gi: Tensor, state: Tensor, keep: Tensor | None) -> Tensor:
        """One step; gi [B, gates, hidden] is the input's share of the gates."""
        gates = GATES[self.kind]
        h = state[:, : self.hidden]
        gh = self.norm_hidden(self.from_hidden(h).unflatten(-1, (gates, self.hidden)))  # [B, gates, hidden]
        if self.kind == "rnn":
            candidate = torch.tanh(self.norm(gi[:, 0] + gh[:, 0]))
            return candidate if keep is None else candidate * keep
        if self.kind == "gru":
            r, z = torch.sigmoid(gi[:, :2] + gh[:, :2]).unbind(1)
            candidate = torch.tanh(gi[:, 2] + r * gh[:, 2])
            if keep is not None:
                candidate = candidate * keep
            return candidate + z * (h - candidate)
        c = state[:, self.hidden :]
        i, f, o = torch.sigmoid(gi[:, [0, 1, 3]] + gh[:, [0, 1, 3]]).unbind(1)
        candidate = torch.tanh(gi[:, 2] + gh[:, 2])
        if keep is not None:
            candidate = candidate * keep
        c = f * c + i * candidate
        return torch.cat([o * torch.tanh(c), c], dim=-1)


class GruD(Cell):
    """GRU-D: before every step the hidden state decays by exp(−max(0, W·δ + b)), δ the log time since last seen.

    Its input must end with the mask and the log ages of the channels ([…, mask C, age C]); the values that stand in for
    missing ones are the network's zeros, which decay needs no help: differences and deviations have mean 0.
    """

    def __init__(self, inputs: int, hidden: int, channels: int, layer_norm: bool, dropout: float) -> None:
        super().__init__(inputs, hidden)
        self.channels = channels
        self.decay = nn.Linear(channels, hidden)
        self.core = WrittenCell("gru", inputs, hidden, layer_norm, dropout)
        nn.init.uniform_(self.decay.weight, 0.0, 0.1)
        nn.init.zeros_(self.decay.bias)

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        core = self.core
        projected = core.norm_input(core.from_input(xs).unflatten(-1, (3, self.hidden)))
        factor = torch.exp(-torch.relu(self.decay(xs[..., -self.channels :])))  # [T, B, hidden]
        keep = core._mask(state)  # noqa: SLF001
        outs: list[Tensor] = []
        for t in range(xs.shape[0]):
            state = core._move(projected[t], factor[t] * state, keep)  # noqa: SLF001
            outs.append(state)
        return torch.stack(outs), state
