"""Truncated back-propagation through time (Williams & Peng 1990): chunks of a stretch in order, the state carried on.

Gradients flow within a chunk; between chunks the state is detached: the values go on, the history does not. Stretches begin with
states of zero, as a series does whose weights were just exchanged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from streamrnn.learning import TrainSpec
from streamrnn.model.loss import forecast_loss
from streamrnn.model.network import Network


@dataclass(slots=True)
class Sequences:
    """A batch of stretches of channels: inputs [T, B, input], targets [T, B, rung] (NaN: missing or not arrived), in units of the
    mixture's usual error, and what each `weighs`. Rows that belong to one series lie side by side, `channels` of them."""

    inputs: Tensor
    targets: Tensor
    weighs: Tensor
    channels: int

    def to(self, device: torch.device) -> Sequences:
        return Sequences(self.inputs.to(device), self.targets.to(device), self.weighs.to(device), self.channels)


@dataclass(slots=True)
class TrainStats:
    """What a pass did. `diverged` says why it was broken off; the weights are then those before the pass."""

    updates: int = 0
    loss: float = 0.0
    diverged: str = ""


def make_optimizer(network: Network, spec: TrainSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, foreach=True)


class Kept:
    """A network's weights as they were."""

    def __init__(self, network: Network) -> None:
        self._network, self._state = network, copy.deepcopy(network.state_dict())

    def give_back(self) -> None:
        self._network.load_state_dict(self._state)


def train_sequences(
    network: Network,
    optimizer: torch.optim.Optimizer,
    steps: Sequences,
    batch: Sequences | None,
    spec: TrainSpec,
    after_update: Callable[[], None] | None = None,
) -> TrainStats:
    """One pass: the trunk learns from single `steps`, the recurrent layers from a batch of stretches, an update per chunk;
    without a batch one of the trunk alone. `diverged` where a weight or a loss is not finite: whoever calls gives the weights of
    before back (`Kept`). `loss` is that of the trunk."""
    stats = TrainStats()
    network.train()
    length = 0 if batch is None else batch.inputs.shape[0]
    state = network.zero_state(0 if batch is None else batch.inputs.shape[1])
    losses = 0.0
    for begin in range(0, max(length, 1), spec.chunk_len):
        loss = forecast_loss(network.out(network.seen(steps.inputs)), steps.targets, steps.weighs)
        mine = float(loss.detach())
        if batch is not None:
            chunk = slice(begin, begin + spec.chunk_len)
            out, state = network(batch.inputs[chunk], state)
            state = state.detach()
            weighs = batch.weighs[chunk]
            if network.beside.last_only:  # sequence to vector
                weighs = weighs * (torch.arange(begin, begin + len(weighs)) == length - 1).to(weighs)[:, None, None]
            loss = loss + forecast_loss(out, batch.targets[chunk], weighs)
        value = float(loss.detach())
        if not math.isfinite(value):
            stats.diverged = f"the loss became {value}"
            break
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), spec.clip_norm))
        if not math.isfinite(norm):
            stats.diverged = f"the gradient's norm became {norm}"
            break
        optimizer.step()
        if after_update is not None:
            after_update()
        stats.updates += 1
        losses += mine
    network.eval()
    stats.loss = losses / max(stats.updates, 1)
    return stats


class Average:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992): calmer than the last update's."""

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.shadow = network.copied().eval()
        self._updates = 0
        self._mean: list[Tensor] = [*self.shadow.parameters()]
        self._value: list[Tensor] = [*network.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        self._updates += 1
        # A young average follows quickly; its memory grows to 1 / (1 − decay) updates.
        decay = min(self.decay, self._updates / (self._updates + 9.0))
        torch._foreach_lerp_(self._mean, self._value, 1.0 - decay)
