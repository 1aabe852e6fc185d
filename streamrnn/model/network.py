"""The network: a trunk of two layers, recurrent layers above it, and a head on both.

It forecasts what the experts' mixture leaves, at each rung of the horizon, in units of that error's running root mean square
(`kernels.remainder` says what it is shown, and what becomes of what it says). One set of weights serves every channel of every
series: a row is one channel.

The trunk says what follows from one step's numbers, and learns it from steps drawn one by one: those of a stretch are much
alike, and what is learnt from few of them is over-fitted. The recurrent layers see what the trunk makes of the steps in turn,
and learn what it leaves; no gradient of theirs reaches it. A fresh network says nothing: its heads begin at zero.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamrnn.kernels.remainder import SINCE
from streamrnn.model.cells import FusedCell
from streamrnn.model.heads import Direct, make_head
from streamrnn.model.stack import make_stack
from streamrnn.spec import ModelSpec

NEWEST = "error 1"  # the input that says what the mixture's newest error one step ahead was
STATIC = "is "  # inputs that never change: which channel it is


class Network(nn.Module):
    """See the module. Built from a ModelSpec alone; two networks of one spec differ by their weights only."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.first = nn.Linear(len(spec.inputs), spec.trunk)
        self.second = nn.Linear(spec.trunk, spec.trunk)
        # GRU-D forgets by how long ago the channel was seen: its first layer is shown that, too.
        self._since = spec.inputs.index(SINCE) if spec.cell == "gru-d" and SINCE in spec.inputs else -1
        # Heads that feed back what they say are shown the newest error one step ahead, whose place it takes.
        feeds = spec.head in ("iterated", "encoder-decoder")
        self._newest = spec.inputs.index(NEWEST) if feeds and NEWEST in spec.inputs else -1
        self.static = tuple(name for name in spec.inputs if name.startswith(STATIC)) if feeds else ()
        self._static = [spec.inputs.index(name) for name in self.static]
        self.stack = make_stack(
            spec.cell,
            spec.trunk + feeds,
            spec.hidden,
            spec.layers,
            spec.conv,
            int(self._since >= 0),
            spec.layer_norm,
        )
        self.state_size = self.stack.state_size  # of one channel
        self.out = nn.Linear(spec.trunk, len(spec.rungs))
        # [rung, (Σ f y, Σ f²)] of steps that it was not trained on (`model.gate`): what a new series believes of it.
        self.register_buffer("credit", torch.zeros(len(spec.rungs), 2))
        self.credit: Tensor
        self.beside = make_head(spec.head, spec.hidden, len(spec.rungs), spec.trunk, len(self._static), spec.dropout)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    @property
    def plain_gru(self) -> bool:
        """Whether the compiled step can stand in for it."""
        return (
            self.spec.cell == "gru"
            and self.spec.layers == 1
            and self.spec.conv == 0
            and isinstance(self.stack.cells[0], FusedCell)
            and isinstance(self.beside, Direct)
        )

    def copied(self) -> Network:
        """Another one with the same weights, which cuDNN finds side by side (a deep copy strews them)."""
        twin = copy.deepcopy(self)
        for part in twin.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()
        return twin

    def zero_state(self, rows: int) -> Tensor:
        return torch.zeros(rows, self.state_size, device=self.out.weight.device)

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """xs [T, B, inputs], state [B, S] → [T, B, rung], [B, S]; B rows are channels of series."""
        seen = self.seen(xs)
        said = self.out(seen)
        if self.training:
            seen, said = seen.detach(), said.detach()
        static = xs[..., self._static] if self._static else None
        out, state = self.beside(self.stack, self._below(seen, xs), state, said, static)
        return out, state

    def _below(self, seen: Tensor, xs: Tensor) -> Tensor:
        """What the layers above the trunk are shown, [T, B, ...]: the trunk's units, then what is fed back, then the age."""
        parts = [seen]
        if not isinstance(self.beside, Direct):
            parts.append(
                xs[..., self._newest : self._newest + 1] if self._newest >= 0 else seen.new_zeros(*seen.shape[:2], 1)
            )
        if self._since >= 0:
            parts.append(xs[..., self._since : self._since + 1])
        return torch.cat(parts, dim=-1) if len(parts) > 1 else seen

    def seen(self, xs: Tensor) -> Tensor:
        """What the trunk makes of xs [T, B, inputs]: [T, B, trunk]."""
        first = self._dropped(functional.silu(self.first(xs)))
        return self._dropped(functional.silu(self.second(first)))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, inputs], state [B, S] → [B, rung], [B, S]."""
        out, state = self(x.unsqueeze(0), state)
        return out[0], state

    def _dropped(self, x: Tensor) -> Tensor:
        """Which units a row must do without is drawn once for a stretch (Gal & Ghahramani 2016): drawing it anew for each step
        takes longer than the step."""
        if not self.training or self.spec.dropout == 0.0:
            return x
        return x * functional.dropout(x.new_ones(x.shape[1:]), self.spec.dropout)
