"""A network at work: its weights as the compiled step takes them, or a step by torch for those that are not compiled.

Rows of a step by torch are padded to a multiple of 16. Matrix kernels pick their order of summation by the number of rows; with
multiples of 16 a row's bits did not depend on the rows beside it in any configuration tried.
"""

from __future__ import annotations

import numpy as np
import torch

from streamrnn.kernels.network import Layers
from streamrnn.kernels.products import padded
from streamrnn.model.network import Network
from streamrnn.records import F32

ROWS = 16


def layers_of(network: Network) -> Layers:
    """Raises ValueError for another kind of network than a trunk and one GRU layer."""
    if not network.plain_gru:
        raise ValueError("only a GRU of one layer without layer normalisation is compiled")
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}

    def turned(*names: str) -> F32:
        whole = np.concatenate([tensors[name].T for name in names])
        room = padded(whole.shape[-1]) - whole.shape[-1]
        return np.ascontiguousarray(np.pad(whole, [(0, 0)] * (whole.ndim - 1) + [(0, room)]), dtype=np.float32)

    core = "stack.cells.0.core."
    return Layers(
        turned("first.weight"), turned("first.bias"), turned("second.weight"), turned("second.bias"),
        turned(core + "weight_ih_l0"), turned(core + "weight_hh_l0"), turned(core + "bias_ih_l0"),
        turned(core + "bias_hh_l0"), turned("out.weight", "beside.weight"), turned("out.bias"),
    )  # fmt: skip


def stepped(network: Network, shown: F32, state: F32) -> tuple[F32, F32]:
    """What a network says of rows `shown` [row, input], and their states [row, S] after it."""
    count = len(shown)
    rows = -(-count // ROWS) * ROWS
    xs, states = torch.zeros(rows, shown.shape[1]), torch.zeros(rows, state.shape[1])
    xs[:count], states[:count] = torch.from_numpy(shown), torch.from_numpy(state)
    with torch.inference_mode():
        said, moved = network.step(xs, states)
    return said[:count].numpy(), moved[:count].numpy()
