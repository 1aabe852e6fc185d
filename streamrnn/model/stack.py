"""Layers on top of each other, and which cell a name of the configuration stands for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from streamrnn.model.cells import Cell, FusedCell, GruD, WrittenCell
from streamrnn.model.conv import CausalConv, WaveNet


class Stack(nn.Module):
    """Layers on top of each other; the state row is the layers' states side by side."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.sizes = [cell.state_size for cell in self._layers()]
        self.state_size = sum(self.sizes)

    def _layers(self) -> list[Cell]:
        return [cell for cell in self.cells if isinstance(cell, Cell)]

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """xs [T, B, inputs], state [B, S] → [T, B, hidden], [B, S]."""
        moved: list[Tensor] = []
        for cell, part in zip(self._layers(), torch.split(state, self.sizes, dim=-1), strict=True):
            xs, new = cell(xs, part)
            moved.append(new)
        return xs, torch.cat(moved, dim=-1)

    def traced(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, with the state after every step: [T, B, hidden], [T, B, S]."""
        outs: list[Tensor] = []
        states: list[Tensor] = []
        for t in range(xs.shape[0]):
            out, state = self(xs[t : t + 1], state)
            outs.append(out[0])
            states.append(state)
        return torch.stack(outs), torch.stack(states)


def make_cell(
    kind: str, inputs: int, hidden: int, ages: int = 0, layer_norm: bool = False, dropout: float = 0.0
) -> Cell:
    """`ages` is how many ages the first layer's input ends with; GRU-D above the first layer is a GRU."""
    if kind == "wavenet":
        return WaveNet(inputs, hidden, layer_norm, dropout)
    if kind == "gru-d" and ages:
        return GruD(inputs, hidden, ages, layer_norm, dropout)
    plain = "gru" if kind == "gru-d" else kind
    if layer_norm or dropout > 0.0:
        return WrittenCell(plain, inputs, hidden, layer_norm, dropout)
    return FusedCell(plain, inputs, hidden)


def make_stack(
    kind: str, inputs: int, hidden: int, layers: int, conv: int = 0, ages: int = 0, layer_norm: bool = False
) -> Stack:
    """`layers` cells of one kind and width, after a causal convolution of `conv` taps (0: none) over the `inputs`. The first cell
    is also shown the `ages` that follow them, as they are."""
    cells: list[Cell] = []
    if conv:
        cells.append(CausalConv(inputs, hidden, conv, layer_norm=layer_norm))
        inputs = hidden
    for layer in range(layers):
        shown = ages if layer == 0 else 0
        cells.append(make_cell(kind, (hidden if layer else inputs) + shown, hidden, shown, layer_norm))
    return Stack(cells)
