"""A stacked GRU over ragged frames, compiled: one series after the other, its hidden state staying in the first cache.

For the sizes served here (tens of units) the weights fit in the second-level cache, so a row by itself costs about what
it costs inside a large matrix product, without padding, without the price of a call per step, and with a result
that cannot depend on the other rows. The equations are PyTorch's (Cho et al. 2014, with the reset gate after the
product, as in cuDNN); `streamrnn.model.cells` is the reference it is tested against.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled, fused
from streamrnn.records import F32, I64

LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)
ONE = np.float32(1.0)
# Taylor's coefficients of e^f; with |f| ≤ ln 2 / 2 six of them leave an error below float32's own rounding.
C2, C3, C4, C5, C6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))


@compiled
def _sigmoid(x: F32, begin: int, end: int, gain: float) -> None:
    """x ← σ(gain · x) in place. Written with plain arithmetic and an exponent shift, which vectorises; `exp` does not."""
    scale = np.float32(gain)
    for i in range(begin, end):
        y = -x[i] * scale
        y = min(max(y, np.float32(-80.0)), np.float32(80.0))
        whole = np.floor(y * LOG2E + np.float32(0.5))
        f = y - whole * LN2
        e = ONE + f * (ONE + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
        power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
        x[i] = ONE / (ONE + e * power)


@fused
def _multiply_add(out: F32, weights: F32, x: F32, inputs: int) -> None:
    """out += x · weights, weights [input, output]; eight inputs at a time, so that `out` is touched less often."""
    outputs = out.shape[0]
    k = 0
    while k + 8 <= inputs:
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        e, f, g, h = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        for j in range(outputs):
            low = a * weights[k, j] + b * weights[k + 1, j] + c * weights[k + 2, j] + d * weights[k + 3, j]
            high = e * weights[k + 4, j] + f * weights[k + 5, j] + g * weights[k + 6, j] + h * weights[k + 7, j]
            out[j] += low + high
        k += 8
    while k < inputs:
        a = x[k]
        for j in range(outputs):
            out[j] += a * weights[k, j]
        k += 1


@compiled
def run_gru(
    features: F32,
    runs: I64,
    state: F32,
    weights_in: F32,
    weights_first: F32,
    weights_hidden: F32,
    bias_in: F32,
    bias_hidden: F32,
    out: F32,
) -> None:
    """Steps every run (slot, start, stop) through all layers; `state` [row, ≥ layers·hidden] moves in place.

    `features` [frame, input]; `weights_first` [input, 3h] of layer 0, `weights_in` [layer, h, 3h] of the others (entry 0
    unused), `weights_hidden` [layer, h, 3h], biases [layer, 3h], gates in the order r, z, n. Written: `out` [frame, h],
    the last layer's hidden state.
    """
    layers = weights_hidden.shape[0]
    hidden = weights_hidden.shape[1]
    width = features.shape[1]
    gate_in = np.empty(3 * hidden, dtype=np.float32)
    gate_hidden = np.empty(3 * hidden, dtype=np.float32)
    h = np.empty((layers, hidden), dtype=np.float32)
    for r in range(runs.shape[0]):
        slot = runs[r, 0]
        for layer in range(layers):
            for j in range(hidden):
                h[layer, j] = state[slot, layer * hidden + j]
        for i in range(runs[r, 1], runs[r, 2]):
            for layer in range(layers):
                here = h[layer]
                for j in range(3 * hidden):
                    gate_in[j] = bias_in[layer, j]
                    gate_hidden[j] = bias_hidden[layer, j]
                if layer == 0:
                    _multiply_add(gate_in, weights_first, features[i], width)
                else:
                    _multiply_add(gate_in, weights_in[layer], h[layer - 1], hidden)
                _multiply_add(gate_hidden, weights_hidden[layer], here, hidden)
                for j in range(2 * hidden):
                    gate_in[j] += gate_hidden[j]
                _sigmoid(gate_in, 0, 2 * hidden, 1.0)
                for j in range(hidden):
                    gate_in[2 * hidden + j] += gate_in[j] * gate_hidden[2 * hidden + j]
                _sigmoid(gate_in, 2 * hidden, 3 * hidden, 2.0)
                for j in range(hidden):
                    candidate = np.float32(2.0) * gate_in[2 * hidden + j] - ONE
                    here[j] = candidate + gate_in[hidden + j] * (here[j] - candidate)
            for j in range(hidden):
                out[i, j] = h[layers - 1, j]
        for layer in range(layers):
            for j in range(hidden):
                state[slot, layer * hidden + j] = h[layer, j]
