"""Truncated back-propagation through time (Williams & Peng 1990): chunks of a sequence in order, the state carried on.

Gradients flow within a chunk; between chunks the state is detached: the values go on, the history does not. The first
`burn_in` steps of a sequence only warm the state.
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
    """A batch of stretches of series: inputs [T, B, F], targets [T, B, C, H] (NaN: missing or not arrived)."""

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Sequences:
        return Sequences(self.inputs.to(device), self.targets.to(device))


@dataclass(slots=True)
class TrainStats:
    """What a pass did. `diverged` says why it was broken off; the weights are then those before the pass."""

    updates: int = 0
    loss: float = 0.0
    diverged: str = ""


def make_optimizer(network: Network, spec: TrainSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, betas=(0.9, 0.98))


def train_sequences(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: Sequences,
    spec: TrainSpec,
    after_update: Callable[[], None] | None = None,
) -> TrainStats:
    """One pass over a batch of sequences; an update per chunk. Leaves no weight that is not finite."""
    stats = TrainStats()
    kept = copy.deepcopy(network.state_dict())
    levels = torch.tensor(network.spec.quantiles, device=batch.inputs.device)
    network.train()
    state = network.zero_state(batch.inputs.shape[1])
    total = batch.inputs.shape[0]
    burn_in = min(spec.burn_in, max(total - 1, 0))
    if burn_in:
        with torch.no_grad():
            _, state = network.hidden(batch.inputs[:burn_in], state)
    inputs = batch.inputs
    if spec.input_noise > 0.0:
        noisy = inputs.clone()
        noisy[..., : 2 * network.spec.channels].add_(
            torch.randn_like(noisy[..., : 2 * network.spec.channels]), alpha=spec.input_noise
        )
        inputs = noisy
    losses = 0.0
    for begin in range(burn_in, total, spec.chunk_len):
        chunk = slice(begin, min(begin + spec.chunk_len, total))
        hidden, state = network.hidden(inputs[chunk], state)
        state = state.detach()
        out = network.head(torch.nn.functional.dropout(hidden, spec.head_dropout))
        loss = forecast_loss(out, batch.targets[chunk], levels)
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
        losses += value
    network.eval()
    if not stats.diverged and not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        stats.diverged = "a weight became infinite or not a number"
    if stats.diverged:
        network.load_state_dict(kept)
    stats.loss = losses / max(stats.updates, 1)
    return stats


class Average:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992): calmer than the last update's."""

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.shadow = network.copied().eval()
        self._updates = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        self._updates += 1
        # A young average follows quickly; its memory grows to 1 / (1 − decay) updates.
        decay = min(self.decay, self._updates / (self._updates + 9.0))
        for mean, value in zip(self.shadow.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)
