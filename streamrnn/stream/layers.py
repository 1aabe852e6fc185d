"""A network's weights as the compiled step takes them."""

from __future__ import annotations

import numpy as np

from streamrnn.kernels.network import Layers
from streamrnn.model.network import Network
from streamrnn.records import F32


def layers_of(network: Network) -> Layers:
    """Raises ValueError for another kind of network than a trunk and one GRU layer."""
    if not network.plain_gru:
        raise ValueError("only a GRU of one layer without layer normalisation is compiled")
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}

    def turned(name: str) -> F32:
        return np.ascontiguousarray(tensors[name].T, dtype=np.float32)

    core = "stack.cells.0.core."
    return Layers(
        turned("first.weight"), turned("first.bias"), turned("second.weight"), turned("second.bias"),
        turned(core + "weight_ih_l0"), turned(core + "weight_hh_l0"), turned(core + "bias_ih_l0"),
        turned(core + "bias_hh_l0"), turned("out.weight"), turned("out.bias"),
    )  # fmt: skip
