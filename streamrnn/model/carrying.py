"""A network for some inputs and rungs as one for others, by their names.

The recurrent layers know no names and are taken as they are. A new input gets weights of 0: it moves nothing until a network
comes that was trained with it. One that is no more is left out. Of a new rung nothing is said: heads that go from
rung to rung come to those of both by the same way, for two ladders differ only above the nearer horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from streamrnn.model.heads import Direct
from streamrnn.model.network import Network


def carried(network: Network, inputs: Sequence[str], rungs: Sequence[int]) -> Network:
    """The network with these inputs and rungs, in evaluation mode."""
    before = network.spec
    made = Network(replace(before, inputs=tuple(inputs), rungs=tuple(rungs)))
    columns, rows = _places(before.inputs, inputs), _places(before.rungs, rungs)
    static = _places(network.static, made.static)
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name == "first.weight":
            tensor = _picked(tensor, columns, 1)
        elif name.startswith("out.") or name in ("credit", "beside.share", "beside.decoder.share"):
            tensor = _picked(tensor, rows, 0)
        elif name == "beside.weight" and isinstance(network.beside, Direct):
            tensor = _picked(tensor, rows, 0)
        elif name == "beside.decoder.placed":
            tensor = _picked(tensor, static, 1)
        tensors[name] = tensor
    made.load_state_dict(tensors)
    return made.eval()


def _places(before: Sequence[object], now: Sequence[object]) -> list[int]:
    known = {each: i for i, each in enumerate(before)}
    return [known.get(each, -1) for each in now]


def _picked(tensor: Tensor, places: Sequence[int], axis: int) -> Tensor:
    """What lies at these places along an axis, 0 for −1."""
    if not tensor.shape[axis]:
        return tensor.new_zeros([len(places) if k == axis else size for k, size in enumerate(tensor.shape)])
    index = torch.tensor([max(place, 0) for place in places], dtype=torch.int64)
    shape = [1] * tensor.dim()
    shape[axis] = len(places)
    known = torch.tensor([float(place >= 0) for place in places]).reshape(shape)
    return tensor.detach().cpu().index_select(axis, index) * known
