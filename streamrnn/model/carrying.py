"""A network of one meaning as one of another, by the names of channels, quantile levels and calendar features.

What a network is shown and what it says are rows of numbers with places; the recurrent layers above the first know no places
and are taken as they are. A new channel or feature gets weights of 0: it moves nothing, and is forecast as its last value
until a network comes that was trained with it. One that is no more is left out. A quantile is written as its gap to the next
one towards the middle, so a gap is carried where both its ends are known, and is that of a normal distribution elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from streamrnn.meaning import Change
from streamrnn.model.network import Network
from streamrnn.spec import ModelSpec

# Tensors with a network's inputs along their last axis, in the first layer; GRU-D's decay has the channels' ages alone.
INPUTS = ("cells.0.core.weight_ih_l0", "cells.0.from_input.weight", "cells.0.core.from_input.weight")
AGES = ("cells.0.decay.weight",)


def carried(network: Network, change: Change) -> Network:
    """The network with the meaning of now, in evaluation mode; `change.cold_weights` says whether there is one."""
    before = network.spec
    spec = replace(
        before,
        channels=len(change.now.channels),
        horizon=change.now.horizon,
        quantiles=change.now.quantiles,
        calendars=len(change.now.calendar),
    )
    made = Network(spec)
    columns = _inputs(change)
    head = [*range(before.hidden), *(before.hidden + at if at >= 0 else -1 for at in columns)]
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(INPUTS):
            tensor = _picked(tensor, columns, 1)
        elif name.endswith(AGES):
            tensor = _picked(tensor, change.channels, 1)
        elif name == "out.weight":
            tensor = _picked(_picked(tensor, _said(before, spec, change), 0), head, 1)
        elif name == "out.bias":
            tensor = _picked(tensor, _said(before, spec, change), 0)
        tensors[name] = tensor
    made.load_state_dict(tensors)
    return made.eval()


def carried_skill(skill: Sequence[float], horizon: int) -> list[float]:
    """By horizon; where there was none, no better than no change."""
    return [*skill[:horizon], *[1.0] * (horizon - len(skill))] if skill else []


def _picked(tensor: Tensor, places: Sequence[int], axis: int) -> Tensor:
    """What lies at these places along an axis, 0 for −1."""
    index = torch.tensor([max(place, 0) for place in places], dtype=torch.int64)
    shape = [1] * tensor.dim()
    shape[axis] = len(places)
    known = torch.tensor([float(place >= 0) for place in places]).reshape(shape)
    return tensor.detach().cpu().index_select(axis, index) * known


def _inputs(change: Change) -> list[int]:
    """For each number that the first layer sees, its place before: moves, deviations, Δt, calendar, masks, ages."""
    channels, count = change.channels, len(change.before.channels)
    features = 2 * count + 1 + 2 * len(change.before.calendar)

    def block(begin: int) -> list[int]:
        return [begin + c if c >= 0 else -1 for c in channels]

    calendar = [2 * count + 1 + 2 * k + part if k >= 0 else -1 for k in change.calendar for part in (0, 1)]
    return [*block(0), *block(count), 2 * count, *calendar, *block(features), *block(features + count)]


def _said(before: ModelSpec, now: ModelSpec, change: Change) -> list[int]:
    """For each number that the head says [channel, horizon, mean and levels], its place before, or −1."""
    levels = _levels(change, before.quantiles, now.quantiles)
    places: list[int] = []
    for c in change.channels:
        for h in range(now.horizon):
            known = c >= 0 and h < before.horizon
            begin = (c * before.horizon + h) * (1 + len(before.quantiles))
            places += [begin if known else -1, *(begin + 1 + q if known and q >= 0 else -1 for q in levels)]
    return places


def _levels(change: Change, before: Sequence[float], now: Sequence[float]) -> list[int]:
    """For each level, where the same number stood before: the middle itself, or a gap with the same two ends."""
    old, new = middle(before), middle(now)
    places: list[int] = []
    for q, place in enumerate(change.levels):
        if place < 0:
            places.append(-1)
        elif q == new or place == old:
            places.append(place if q == new and place == old else -1)
        else:
            inner, was = (q + 1, place + 1) if q < new else (q - 1, place - 1)
            same = (place < old) == (q < new) and 0 <= was < len(before) and before[was] == now[inner]
            places.append(place if same else -1)
    return places


def middle(levels: Sequence[float]) -> int:
    """The level nearest to the median, from which the others are steps away (`Network.head`)."""
    return min(range(len(levels)), key=lambda q: abs(levels[q] - 0.5))
