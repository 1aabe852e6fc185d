"""One step of the network for the channels of one series, compiled: a trunk of two layers, a GRU, a head beside both.

    a = silu(W₁ x),  b = silu(W₂ a),  h ← GRU(b, h),  f = W₃ [b; h]

Channels are rows that share the weights; up to four walk abreast, so that the weights, which lie in the second-level cache, are
read once for them. Every lane runs the same instructions in the same order. The equations are PyTorch's (`model.network` is the
reference that it is tested against): the GRU of Cho et al. 2014 with the reset gate after the product, silu of Elfwing et al.
2018.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamrnn.kernels import inlined, inner, lean
from streamrnn.records import F32

LANES = 4
LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)
ONE, TWO = np.float32(1.0), np.float32(2.0)
# Taylor's coefficients of e^f; with |f| ≤ ln 2 / 2 six of them leave an error below float32's own rounding.
C2, C3, C4, C5, C6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))


class Layers(NamedTuple):
    """Weights, [input, output] each; gates in the order r, z, n; `head` [trunk and hidden, rung]."""

    first: F32
    first_bias: F32
    second: F32
    second_bias: F32
    cell_in: F32
    cell_hidden: F32
    bias_in: F32
    bias_hidden: F32
    head: F32
    head_bias: F32


class Lanes(NamedTuple):
    """Room for a step, [lane, ...]."""

    shown: F32
    first: F32
    second: F32
    work: F32
    gate_in: F32
    gate_hidden: F32
    hidden: F32
    said: F32


def no_layers() -> Layers:
    """Of no network."""
    flat = np.zeros(0, dtype=np.float32)
    wide = np.zeros((0, 0), dtype=np.float32)
    return Layers(wide, flat, wide, flat, wide, wide, flat, flat, wide, flat)


def lanes_of(layers: Layers) -> Lanes:
    """Room for a step of these layers."""
    hidden, rungs = layers.cell_hidden.shape[0], layers.head.shape[1]
    widths = (
        layers.first.shape[0], layers.first.shape[1], layers.second.shape[1],
        max(layers.first.shape[1], layers.second.shape[1]), 3 * hidden, 3 * hidden, hidden, rungs,
    )  # fmt: skip
    return Lanes(*(np.zeros((LANES, width), dtype=np.float32) for width in widths))


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


@lean
def _multiply_four(out: F32, weights: F32, first: int, x: F32) -> None:
    """out += x · weights for four lanes; `weights` [input, output] from row `first` on, as many as x [4, input] has."""
    outputs, inputs = out.shape[1], x.shape[1]
    out0, out1, out2, out3 = out[0], out[1], out[2], out[3]
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    k = 0
    while k + 4 <= inputs:
        a0, a1, a2, a3 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
        b0, b1, b2, b3 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
        c0, c1, c2, c3 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
        d0, d1, d2, d3 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
        p, q, r, s = weights[first + k], weights[first + k + 1], weights[first + k + 2], weights[first + k + 3]
        for j in range(outputs):
            w0, w1, w2, w3 = p[j], q[j], r[j], s[j]
            out0[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
            out1[j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
            out2[j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
            out3[j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
        k += 4
    while k < inputs:
        a0, b0, c0, d0 = x0[k], x1[k], x2[k], x3[k]
        p = weights[first + k]
        for j in range(outputs):
            w0 = p[j]
            out0[j] += a0 * w0
            out1[j] += b0 * w0
            out2[j] += c0 * w0
            out3[j] += d0 * w0
        k += 1


@lean
def _multiply_one(out: F32, weights: F32, first: int, x: F32) -> None:
    """As `_multiply_four`, of one lane: out [output], x [input]."""
    outputs, inputs = out.shape[0], x.shape[0]
    k = 0
    while k + 4 <= inputs:
        a0, a1, a2, a3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        p, q, r, s = weights[first + k], weights[first + k + 1], weights[first + k + 2], weights[first + k + 3]
        for j in range(outputs):
            out[j] += a0 * p[j] + a1 * q[j] + a2 * r[j] + a3 * s[j]
        k += 4
    while k < inputs:
        a0 = x[k]
        p = weights[first + k]
        for j in range(outputs):
            out[j] += a0 * p[j]
        k += 1


@inlined
def _multiply(lanes: int, out: F32, weights: F32, first: int, x: F32) -> None:
    if lanes == 1:
        _multiply_one(out[0], weights, first, x[0])
    else:
        _multiply_four(out, weights, first, x)


@inlined
def _begun(lanes: int, out: F32, bias: F32) -> None:
    for lane in range(lanes):
        row = out[lane]
        for j in range(row.shape[0]):
            row[j] = bias[j]


@inlined
def _silu(lanes: int, x: F32, work: F32) -> None:
    for lane in range(lanes):
        row, gate = x[lane], work[lane]
        for j in range(row.shape[0]):
            gate[j] = row[j]
        _sigmoid(gate, 0, row.shape[0], 1.0)
        for j in range(row.shape[0]):
            row[j] *= gate[j]


@inner
def step(slot: int, shown: F32, state: F32, layers: Layers, lanes: Lanes, limit: np.float32, said: F32) -> None:
    """`said` [channel, rung] ← what the network says of `shown` [channel, input], between ±`limit`; the hidden states of the
    series, `state` [row, channel · hidden] at `slot`, move on."""
    channels, inputs = shown.shape
    hidden, trunk, rungs = layers.cell_hidden.shape[0], layers.second.shape[1], said.shape[1]
    for begin in range(0, channels, LANES):
        count = min(LANES, channels - begin)
        for lane in range(count):
            x, h = lanes.shown[lane], lanes.hidden[lane]
            for j in range(inputs):
                x[j] = shown[begin + lane, j]
            first = (begin + lane) * hidden
            for j in range(hidden):
                h[j] = state[slot, first + j]
        _begun(count, lanes.first, layers.first_bias)
        _multiply(count, lanes.first, layers.first, 0, lanes.shown)
        _silu(count, lanes.first, lanes.work)
        _begun(count, lanes.second, layers.second_bias)
        _multiply(count, lanes.second, layers.second, 0, lanes.first)
        _silu(count, lanes.second, lanes.work)
        _begun(count, lanes.gate_in, layers.bias_in)
        _multiply(count, lanes.gate_in, layers.cell_in, 0, lanes.second)
        _begun(count, lanes.gate_hidden, layers.bias_hidden)
        _multiply(count, lanes.gate_hidden, layers.cell_hidden, 0, lanes.hidden)
        for lane in range(count):
            into, from_hidden, h = lanes.gate_in[lane], lanes.gate_hidden[lane], lanes.hidden[lane]
            for j in range(2 * hidden):
                into[j] += from_hidden[j]
            _sigmoid(into, 0, 2 * hidden, 1.0)
            for j in range(hidden):
                into[2 * hidden + j] += into[j] * from_hidden[2 * hidden + j]
            _sigmoid(into, 2 * hidden, 3 * hidden, 2.0)
            first = (begin + lane) * hidden
            for j in range(hidden):
                candidate = TWO * into[2 * hidden + j] - ONE
                h[j] = candidate + into[hidden + j] * (h[j] - candidate)
                state[slot, first + j] = h[j]
        _begun(count, lanes.said, layers.head_bias)
        _multiply(count, lanes.said, layers.head, 0, lanes.second)
        _multiply(count, lanes.said, layers.head, trunk, lanes.hidden)
        for lane in range(count):
            row = lanes.said[lane]
            for r in range(rungs):
                said[begin + lane, r] = min(max(row[r], -limit), limit)
