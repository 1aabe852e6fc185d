"""A stacked GRU over ragged frames, compiled: four series abreast, their hidden states staying in the first cache.

For the sizes served here (tens of units) the weights fit in the second-level cache, and reading them from there is
what a step costs. Four rows share each reading; a lone series walks with three idle lanes beside it at little more than
its own price. Every lane runs the same instructions in the same order, so a row's result cannot depend on the other
rows, and there is neither padding nor the price of a call per step. The equations are PyTorch's (Cho et al. 2014, with
the reset gate after the product, as in cuDNN); `streamrnn.model.cells` is the reference it is tested against.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled, fused, inlined
from streamrnn.records import F32, I64

LANES = 4
LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)
ONE = np.float32(1.0)
# Taylor's coefficients of e^f; with |f| ≤ ln 2 / 2 six of them leave an error below float32's own rounding.
C2, C3, C4, C5, C6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))


@inlined
def _sigmoid(x: F32, begin: int, end: int, gain: float) -> None:
    """x ← σ(gain · x) in place, by plain arithmetic and an exponent shift: that vectorises, `exp` does not."""
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
    """out += x · weights for the four lanes; out [4, output], weights [input, output], x [4, ≥ inputs].

    Four inputs at a time, so that `out` is touched less often.
    """
    outputs = out.shape[1]
    out0, out1, out2, out3 = out[0], out[1], out[2], out[3]
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    k = 0
    while k + 4 <= inputs:
        a0, a1, a2, a3 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
        b0, b1, b2, b3 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
        c0, c1, c2, c3 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
        d0, d1, d2, d3 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
        for j in range(outputs):
            w0, w1, w2, w3 = weights[k, j], weights[k + 1, j], weights[k + 2, j], weights[k + 3, j]
            out0[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
            out1[j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
            out2[j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
            out3[j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
        k += 4
    while k < inputs:
        a0, b0, c0, d0 = x0[k], x1[k], x2[k], x3[k]
        for j in range(outputs):
            w0 = weights[k, j]
            out0[j] += a0 * w0
            out1[j] += b0 * w0
            out2[j] += c0 * w0
            out3[j] += d0 * w0
        k += 1


@inlined
def _gate(gate_in: F32, gate_hidden: F32, h: F32, hidden: int) -> None:
    """h ← the next hidden state of one lane, from its two sums of gates."""
    for j in range(2 * hidden):
        gate_in[j] += gate_hidden[j]
    _sigmoid(gate_in, 0, 2 * hidden, 1.0)
    for j in range(hidden):
        gate_in[2 * hidden + j] += gate_in[j] * gate_hidden[2 * hidden + j]
    _sigmoid(gate_in, 2 * hidden, 3 * hidden, 2.0)
    for j in range(hidden):
        candidate = np.float32(2.0) * gate_in[2 * hidden + j] - ONE
        h[j] = candidate + gate_in[hidden + j] * (h[j] - candidate)


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

    `features` [frame, input]; `weights_first` [input, 3h] of layer 0, `weights_in` [layer, h, 3h] of the others (entry
    0 unused), `weights_hidden` [layer, h, 3h], biases [layer, 3h], gates in the order r, z, n. Written: `out`
    [frame, h], the last layer's hidden state. Runs of like length should stand together: lanes walk as far
    as their longest.
    """
    layers = weights_hidden.shape[0]
    hidden = weights_hidden.shape[1]
    width = features.shape[1]
    gate_in = np.empty((LANES, 3 * hidden), dtype=np.float32)
    gate_hidden = np.empty((LANES, 3 * hidden), dtype=np.float32)
    x = np.zeros((LANES, width), dtype=np.float32)
    h = np.zeros((layers, LANES, hidden), dtype=np.float32)
    for first in range(0, runs.shape[0], LANES):
        lanes = min(LANES, runs.shape[0] - first)
        longest = 0
        for lane in range(lanes):
            slot, start, stop = runs[first + lane]
            longest = max(longest, stop - start)
            for layer in range(layers):
                for j in range(hidden):
                    h[layer, lane, j] = state[slot, layer * hidden + j]
        for t in range(longest):
            for lane in range(lanes):
                at = runs[first + lane, 1] + t
                if at < runs[first + lane, 2]:
                    for j in range(width):
                        x[lane, j] = features[at, j]
            for layer in range(layers):
                here = h[layer]
                for lane in range(LANES):
                    for j in range(3 * hidden):
                        gate_in[lane, j] = bias_in[layer, j]
                        gate_hidden[lane, j] = bias_hidden[layer, j]
                if layer == 0:
                    _multiply_add(gate_in, weights_first, x, width)
                else:
                    _multiply_add(gate_in, weights_in[layer], h[layer - 1], hidden)
                _multiply_add(gate_hidden, weights_hidden[layer], here, hidden)
                for lane in range(lanes):
                    _gate(gate_in[lane], gate_hidden[lane], here[lane], hidden)
            for lane in range(lanes):
                slot, start, stop = runs[first + lane]
                if start + t < stop:
                    for j in range(hidden):
                        out[start + t, j] = h[layers - 1, lane, j]
                if start + t == stop - 1:
                    for layer in range(layers):
                        for j in range(hidden):
                            state[slot, layer * hidden + j] = h[layer, lane, j]


@compiled
def see(inputs: F32, runs: I64, state: F32, channels: int, features: F32) -> None:
    """What the cells see [frame, F + 2C] from the front end's inputs [frame, F]; as `Network.features`.

    Zeros for missing values, the mask, the log of the steps since each channel was last seen, which are the last
    `channels` numbers of a state row and move here.
    """
    width = inputs.shape[1]
    ages = state.shape[1] - channels
    for r in range(runs.shape[0]):
        slot, start, stop = runs[r]
        for i in range(start, stop):
            delta = np.float32(np.expm1(np.float64(inputs[i, 2 * channels])))
            for j in range(width):
                value = inputs[i, j]
                features[i, j] = np.float32(0.0) if np.isnan(value) else value
            for c in range(channels):
                age = state[slot, ages + c] + delta
                missing = np.isnan(inputs[i, c])
                features[i, width + c] = np.float32(0.0) if missing else ONE
                features[i, width + channels + c] = np.float32(np.log1p(np.float64(age)))
                state[slot, ages + c] = age if missing else np.float32(0.0)
