"""Causal convolutions over time as layers with a state: what a step is made of is kept from one call to the next.

- `CausalConv`: one convolution; its state is the window, the inputs of the steps before that it reaches back to.
- `WaveNet` (van den Oord et al., "WaveNet: a generative model for raw audio", 2016; here in its plain form, with rectifiers
  instead of gates): convolutions of width 2 whose reach doubles from one to the next, 1, 2, 4 and 8 steps. No unit is recurrent:
  a sequence is computed layer by layer, all steps at once, and a step costs as much as one of a simple RNN of that depth.

A sequence begins as if zeros had come before it. Both entrances multiply the same rows by the same matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamrnn.model.cells import Cell

DILATIONS = (1, 2, 4, 8)
WIDTH = 2


class CausalConv(Cell):
    """`width` taps, `dilation` steps apart, the newest of them the present step; linear. `hidden` is the number of filters. What
    the input holds after its first `inputs` numbers goes by, to the end of the output. State [B, reach · inputs], the oldest
    step first."""

    def __init__(
        self, inputs: int, filters: int, width: int, dilation: int = 1, layer_norm: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(inputs, filters)
        self.width, self.dilation, self.dropout = width, dilation, dropout
        self.reach = (width - 1) * dilation
        self.state_size = self.reach * inputs
        self.taps = nn.Linear(width * inputs, filters)
        nn.init.xavier_uniform_(self.taps.weight)
        nn.init.zeros_(self.taps.bias)
        self.norm = nn.LayerNorm(filters) if layer_norm else nn.Identity()

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps, rows = xs.shape[:2]
        by, xs = xs[..., self.inputs :], xs[..., : self.inputs]
        before = state.reshape(rows, self.reach, self.inputs).transpose(0, 1)
        whole = torch.cat([before, xs])
        seen = torch.cat([whole[k * self.dilation : k * self.dilation + steps] for k in range(self.width)], dim=-1)
        out: Tensor = self.norm(self.taps(seen))
        if self.training and self.dropout > 0.0:
            # One draw for a whole sequence, as in the recurrent cells.
            out = out * functional.dropout(out.new_ones(out.shape[1:]), self.dropout)
        moved = whole[steps:].transpose(0, 1).reshape(rows, self.state_size)
        return (torch.cat([out, by], dim=-1) if by.shape[-1] else out), moved


class WaveNet(Cell):
    """Convolutions of width 2 with the dilations 1, 2, 4, 8, each rectified: a step sees itself and the 15 before it, with two of
    these layers the 30 before it. The state is that of the convolutions, side by side."""

    def __init__(self, inputs: int, filters: int, layer_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__(inputs, filters)
        self.convolutions = nn.ModuleList(
            CausalConv(filters if k else inputs, filters, WIDTH, dilation, layer_norm, dropout)
            for k, dilation in enumerate(DILATIONS)
        )
        self._sizes = [conv.state_size for conv in self._layers()]
        self.state_size = sum(self._sizes)

    def _layers(self) -> list[CausalConv]:
        return [conv for conv in self.convolutions if isinstance(conv, CausalConv)]

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        moved: list[Tensor] = []
        for conv, part in zip(self._layers(), torch.split(state, self._sizes, dim=-1), strict=True):
            xs, new = conv(xs, part)
            xs = functional.relu(xs)
            moved.append(new)
        return xs, torch.cat(moved, dim=-1)
