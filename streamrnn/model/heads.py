"""Heads: how forecasts of several steps come from recurrent layers that have seen a sequence.

- `sequence` (sequence to sequence): after every step one number for each rung of the horizon, all learnt from.
- `vector` (sequence to vector): the same numbers, learnt at the last step of a stretch alone.
- `iterated`: one number a step. What was said of one rung takes the place of what was seen there, the recurrent layers make a
  step with it, and say the next: as many steps as there are rungs.
- `encoder-decoder` (Cho et al. 2014; Sutskever, Vinyals, Le 2014): a second recurrent layer begins with what the first ones have
  come to and a static vector, is shown what it said of the rung before, and says the next one. Without an encoder it is a network
  from a vector to a sequence.

A head is given the layers, what they are shown, and a first forecast that it adds to; it says nothing before it is trained. What
is fed back never lies further from 0 than what is shown.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamrnn.kernels.remainder import CLIP
from streamrnn.model.cells import FusedCell
from streamrnn.model.stack import Stack
from streamrnn.spec import Head as Name

FED_MAX = float(CLIP)


class Head(nn.Module):
    """`last_only`: learns at the last step of a stretch. `dropout` of hidden units, drawn once for a stretch."""

    last_only = False

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(
        self, layers: Stack, below: Tensor, state: Tensor, first: Tensor, static: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """below [T, B, inputs] is what the layers are shown, state [B, S] theirs, first [T, B, rung] what is known without them,
        static [T, B, n] → [T, B, rung], [B, S]."""
        raise NotImplementedError

    def mask(self, hidden: Tensor) -> Tensor | None:
        """What hidden units are multiplied by in training, [B, hidden]: a draw for each step would take longer than the step."""
        if not self.training or self.dropout == 0.0:
            return None
        return functional.dropout(hidden.new_ones(hidden.shape[1:]), self.dropout)


class Direct(Head):
    """A number for each rung from the hidden units."""

    def __init__(self, hidden: int, rungs: int, dropout: float = 0.0, last_only: bool = False) -> None:
        super().__init__(dropout)
        self.last_only = last_only
        self.weight = nn.Linear(hidden, rungs, bias=False).weight
        nn.init.zeros_(self.weight)

    def forward(
        self, layers: Stack, below: Tensor, state: Tensor, first: Tensor, static: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden, state = layers(below, state)
        mask = self.mask(hidden)
        return first + functional.linear(hidden if mask is None else hidden * mask, self.weight), state


class Iterated(Head):
    """The number at place `fed` of the layers' input is what was seen; on the way along the rungs, what was said."""

    def __init__(self, hidden: int, rungs: int, fed: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.fed = fed
        self.weight = nn.Parameter(torch.zeros(1, hidden))
        self.share = nn.Parameter(torch.ones(rungs))  # of a rung in what the layers say

    def forward(
        self, layers: Stack, below: Tensor, state: Tensor, first: Tensor, static: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        steps, rows, rungs = first.shape
        if rungs == 1:
            hidden, state = layers(below, state)
            states = state
        else:
            hidden, states = layers.traced(below, state)
            state, states = states[-1], states.flatten(0, 1)
        mask = self.mask(hidden)
        if mask is not None:
            mask = mask.expand(steps, -1, -1).flatten(0, 1)
        shown, hidden, first = below.flatten(0, 1), hidden.flatten(0, 1), first.flatten(0, 1)
        said: list[Tensor] = []
        for rung in range(rungs):
            if rung:
                fed = said[-1].clamp(-FED_MAX, FED_MAX).unsqueeze(1)
                shown = torch.cat([shown[:, : self.fed], fed, shown[:, self.fed + 1 :]], dim=1)
                out, states = layers(shown.unsqueeze(0), states)
                hidden = out[0]
            each = functional.linear(hidden if mask is None else hidden * mask, self.weight)[:, 0]
            said.append(first[:, rung] + self.share[rung] * each)
        return torch.stack(said, dim=1).reshape(steps, rows, rungs), state


class Decoder(nn.Module):
    """From a vector to a sequence: a GRU that begins with what is `encoded` and is shown the `static` vector at every step."""

    def __init__(self, encoded: int, static: int, hidden: int, rungs: int) -> None:
        super().__init__()
        self.encoded, self.static = encoded, static
        self.begin = nn.Linear(encoded, hidden) if encoded else None
        self.placed = nn.Parameter(
            torch.empty(hidden, static).uniform_(-1.0, 1.0)
        )  # what the static vector makes of itself
        self.core = FusedCell("gru", 1 + hidden, hidden)
        self.weight = nn.Parameter(torch.zeros(1, hidden))
        self.share = nn.Parameter(torch.ones(rungs))

    def forward(
        self, encoded: Tensor | None, static: Tensor | None, begin: Tensor, first: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """encoded [N, encoded], static [N, static], begin [N] what was seen last, first [N, rung] → [N, rung]."""
        if self.begin is not None and encoded is not None:
            state = torch.tanh(self.begin(encoded))
        else:
            state = first.new_zeros(first.shape[0], self.core.hidden)
        place = first.new_zeros(first.shape[0], self.core.hidden)
        if static is not None:
            place = torch.tanh(functional.linear(static, self.placed))
        before = begin
        said: list[Tensor] = []
        for rung in range(first.shape[1]):
            fed = before.clamp(-FED_MAX, FED_MAX).unsqueeze(1)
            hidden, state = self.core.step(torch.cat([fed, place], dim=1), state)
            each = functional.linear(hidden if mask is None else hidden * mask, self.weight)[:, 0]
            before = first[:, rung] + self.share[rung] * each
            said.append(before)
        return torch.stack(said, dim=1)


class EncoderDecoder(Head):
    """The recurrent layers encode, a `Decoder` speaks. `fed`: the place of what was seen in the layers' input."""

    def __init__(self, hidden: int, rungs: int, fed: int, static: int, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.fed = fed
        self.decoder = Decoder(hidden, static, hidden, rungs)

    def forward(
        self, layers: Stack, below: Tensor, state: Tensor, first: Tensor, static: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden, state = layers(below, state)
        mask = self.mask(hidden)
        said = self.decoder(
            hidden.flatten(0, 1),
            None if static is None else static.flatten(0, 1),
            below[..., self.fed].flatten(),
            first.flatten(0, 1),
            None if mask is None else mask.expand(len(below), -1, -1).flatten(0, 1),
        )
        return said.reshape(first.shape), state


def make_head(name: Name, hidden: int, rungs: int, fed: int = 0, static: int = 0, dropout: float = 0.0) -> Head:
    """`fed`: place of what is fed back in the layers' input; `static`: length of the static vector."""
    if name == "iterated":
        return Iterated(hidden, rungs, fed, dropout)
    if name == "encoder-decoder":
        return EncoderDecoder(hidden, rungs, fed, static, dropout)
    return Direct(hidden, rungs, dropout, last_only=name == "vector")
