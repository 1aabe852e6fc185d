"""The forecaster: recurrent layers and a direct multi-horizon quantile head at every step (sequence to sequence).

Units. Inputs are the front end's (moves and deviations in units of their running scales, NaN where a channel is
missing); outputs are in units of scale · √h around the last seen value, so that a random walk has spread 1 throughout.

The state row of a series is [layers' states …, steps since last seen per channel].
"""

from __future__ import annotations

import copy
import math
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamrnn.model.cells import FusedCell, Stack, make_cell
from streamrnn.spec import ModelSpec

# Width of the softplus at which a fresh head's gaps between quantiles are those of the normal distribution.
_SMALLEST_GAP = 1e-3


class Network(nn.Module):
    """See the module. Built from a ModelSpec alone; two networks of one spec differ by their weights only."""

    gap_bias: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        channels = spec.channels
        self.width = spec.input_size + 2 * channels  # what the cell sees: inputs, mask, log age
        cells = [
            make_cell(
                spec.cell,
                self.width if layer == 0 else spec.hidden,
                spec.hidden,
                channels if layer == 0 else 0,
                spec.layer_norm,
                spec.dropout,
            )
            for layer in range(spec.layers)
        ]
        self.stack = Stack(cells)
        self.state_size = self.stack.state_size + channels
        levels = len(spec.quantiles)
        self.out = nn.Linear(spec.hidden + self.width, channels * spec.horizon * (1 + levels))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self._middle = min(range(levels), key=lambda q: abs(spec.quantiles[q] - 0.5))
        self.register_buffer("gap_bias", torch.tensor(self._normal_gaps()), persistent=False)

    @property
    def plain_gru(self) -> bool:
        """Whether the compiled GRU can stand in for the layers."""
        return self.spec.cell == "gru" and all(isinstance(cell, FusedCell) for cell in self.stack.cells)

    def copied(self) -> Network:
        """Another one with the same weights, which cuDNN finds side by side (a deep copy strews them)."""
        twin = copy.deepcopy(self)
        for part in twin.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()
        return twin

    def zero_state(self, rows: int) -> Tensor:
        return torch.zeros(rows, self.state_size, device=self.out.weight.device)

    def features(self, xs: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
        """xs [T, B, F] with NaN for missing, age [B, C] → what the cells see [T, B, width], age after the last step.

        The age of a channel at a step is how many steps ago it was seen before that step, the step's own Δt counted.
        """
        channels = self.spec.channels
        missing = torch.isnan(xs[..., :channels])  # [T, B, C]
        clean = torch.nan_to_num(xs, nan=0.0)
        delta = torch.expm1(clean[..., 2 * channels : 2 * channels + 1])  # [T, B, 1]
        ages, after = (_ages_scanned if xs.device.type == "cuda" else _ages_stepwise)(delta, missing, age)
        return torch.cat([clean, (~missing).to(clean.dtype), torch.log1p(ages)], dim=-1), after

    def hidden(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """xs [T, B, F], state [B, S] → [T, B, D], [B, S]; D = hidden + width, the head's whole input."""
        layers, age = torch.split(state, [self.stack.state_size, self.spec.channels], dim=-1)
        seen, age = self.features(xs, age)
        out, layers = self.stack(seen, layers)
        return torch.cat([out, seen], dim=-1), torch.cat([layers, age], dim=-1)

    def head(self, hidden: Tensor) -> Tensor:
        """[…, D] → […, C, H, 1 + Q]: the mean, then the quantiles in the order of the spec, which never cross."""
        spec = self.spec
        raw = self.out(hidden).unflatten(-1, (spec.channels, spec.horizon, 1 + len(spec.quantiles)))
        mean, *levels = raw.unbind(-1)
        # The middle level is free, its neighbours are steps away from it, each at least a little. Level by level, each
        # as large as the mean: scans along so short an axis took four fifths of a training step on a GPU.
        m = self._middle
        outputs = [mean + levels[m]]
        for level, bias in zip(reversed(levels[:m]), reversed(self.gap_bias[:m].unbind()), strict=True):
            outputs.insert(0, outputs[0] - (functional.softplus(level + bias) + _SMALLEST_GAP))
        for level, bias in zip(levels[m + 1 :], self.gap_bias[m + 1 :].unbind(), strict=True):
            outputs.append(outputs[-1] + (functional.softplus(level + bias) + _SMALLEST_GAP))
        return torch.stack([mean, *outputs], dim=-1)

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """xs [T, B, F], state [B, S] → [T, B, C, H, 1 + Q], [B, S]."""
        hidden, state = self.hidden(xs, state)
        return self.head(hidden), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, F], state [B, S] → [B, C, H, 1 + Q], [B, S]."""
        out, state = self(x.unsqueeze(0), state)
        return out[0], state

    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def _normal_gaps(self) -> list[float]:
        """Biases at which the softplus gives the gaps between a standard normal's quantiles (0 for the middle)."""
        z = [NormalDist().inv_cdf(q) for q in self.spec.quantiles]
        biases = []
        for q in range(len(z)):
            if q == self._middle:
                biases.append(0.0)
                continue
            gap = abs(z[q] - z[q + 1 if q < self._middle else q - 1])
            biases.append(math.log(math.expm1(max(gap, 2 * _SMALLEST_GAP) - _SMALLEST_GAP)))
        return biases


def _ages_stepwise(delta: Tensor, missing: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
    """delta [T, B, 1], missing [T, B, C], age [B, C] → ages [T, B, C], age after the last step.

    What serves computes them so: the same bits, however a sequence is cut.
    """
    ages: list[Tensor] = []
    for t in range(delta.shape[0]):
        age = age + delta[t]
        ages.append(age)
        age = torch.where(missing[t], age, torch.zeros_like(age))
    return torch.stack(ages), age


def _ages_scanned(delta: Tensor, missing: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
    """As `_ages_stepwise` but for rounding, in three scans, where a loop starts a hundred small kernels on a GPU.

    An age is the time now less the time when the channel was last seen; in doubles, since times grow and ages do not.
    """
    now = torch.cumsum(delta, dim=0, dtype=torch.float64)  # [T, B, 1]
    before = torch.cat([-age.double().unsqueeze(0), torch.where(missing, -torch.inf, now)])  # [1 + T, B, C]
    seen = torch.cummax(before, dim=0).values
    ages = (now - seen[:-1]).to(age.dtype)
    return ages, torch.where(missing[-1], ages[-1], torch.zeros_like(age))
