"""One step of the network for the channels of some series, compiled: a trunk of two layers, a GRU, a head beside both.

    a = silu(W₁ x),  b = silu(W₂ a),  h ← GRU(b, h),  f = W₃ [b; h]

Channels are rows that share the weights; up to `LANES` walk abreast, so that the weights, which lie in the second-level cache,
are read once for them: to read them takes as long as to multiply with them four times. Every lane runs the same sums in the
same order (`products`). The equations are PyTorch's (`model.network` is the reference that it is tested against): the GRU of
Cho et al. 2014 with the reset gate after the product, silu of Elfwing et al. 2018.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from streamrnn.kernels import inlined, inner, lean
from streamrnn.kernels.columns import Real
from streamrnn.kernels.products import LANES, product
from streamrnn.records import F32, I64

LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)
ONE, TWO = np.float32(1.0), np.float32(2.0)
# Taylor's coefficients of e^f; with |f| ≤ ln 2 / 2 six of them leave an error below float32's own rounding.
C2, C3, C4, C5, C6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))


class Layers(NamedTuple):
    """Weights, [input, output] each, the outputs padded with zeros (`products.padded`); gates in the order r, z, n; `head`
    [trunk and hidden, rung]."""

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
    """Room for a step, [lane, padded output]."""

    first: F32
    second: F32
    gate_in: F32
    gate_hidden: F32
    said: F32
    hidden: F32  # [lane, hidden]


def no_layers() -> Layers:
    """Of no network."""
    flat = np.zeros(0, dtype=np.float32)
    wide = np.zeros((0, 0), dtype=np.float32)
    return Layers(wide, flat, wide, flat, wide, wide, flat, flat, wide, flat)


def lanes_of(layers: Layers) -> Lanes:
    """Room for a step of these layers."""
    of = (layers.first, layers.second, layers.cell_in, layers.cell_hidden, layers.head)
    widths = (*(weights.shape[1] for weights in of), layers.cell_hidden.shape[0])
    return Lanes(*(np.zeros((LANES, width), dtype=np.float32) for width in widths))


def abreast(channels: int) -> int:
    """So many series of so many channels are best stepped together: their lanes leave none empty."""
    return LANES // math.gcd(channels, LANES)


@inlined
def _sigmoid(x: Real) -> Real:
    """By plain arithmetic and an exponent shift: that vectorises, `exp` does not."""
    y = min(max(-x, np.float32(-80.0)), np.float32(80.0))
    whole = np.floor(y * LOG2E + np.float32(0.5))
    f = y - whole * LN2
    e = ONE + f * (ONE + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return ONE / (ONE + e * power)


@lean
def _silu(lanes: int, x: F32) -> None:
    for lane in range(lanes):
        row = x[lane]
        for j in range(row.shape[0]):
            row[j] *= _sigmoid(row[j])


@lean
def _turn(into: F32, of_hidden: F32, own: F32) -> None:
    """The hidden state `own` moves on; `into` and `of_hidden` [3 · hidden] are what the trunk and it give to the gates."""
    hidden = own.shape[0]
    reset, update, candidate = into[:hidden], into[hidden : 2 * hidden], into[2 * hidden : 3 * hidden]
    for j in range(2 * hidden):
        into[j] = _sigmoid(into[j] + of_hidden[j])
    of_candidate = of_hidden[2 * hidden : 3 * hidden]
    for j in range(hidden):
        candidate[j] = TWO * _sigmoid(TWO * (candidate[j] + reset[j] * of_candidate[j])) - ONE
    for j in range(hidden):
        own[j] = candidate[j] + update[j] * (own[j] - candidate[j])


@inlined
def _address(array: F32) -> Any:
    """Where an array begins, signed as all other numbers: `product` is compiled once."""
    return np.int64(array.ctypes.data)


@inner
def step(
    count: int,
    slots: I64,
    channels: int,
    shown: F32,
    state: F32,
    layers: Layers,
    lanes: Lanes,
    limit: np.float32,
    said: F32,
) -> None:
    """`said` [series · channel, rung] ← what the network says of `shown` [series · channel, input], between ±`limit`, for the
    first `count` series; their hidden states, `state` [row, channel · hidden] at `slots` [series], move on."""
    inputs, hidden, rungs = shown.shape[1], layers.cell_hidden.shape[0], said.shape[1]
    width, trunk = layers.second.shape[0], layers.cell_in.shape[0]
    first, second, gates, wide = (
        lanes.first.shape[1],
        lanes.second.shape[1],
        lanes.gate_in.shape[1],
        lanes.said.shape[1],
    )
    to_first, to_second, to_said = _address(lanes.first), _address(lanes.second), _address(lanes.said)
    to_in, to_hidden, h = _address(lanes.gate_in), _address(lanes.gate_hidden), _address(lanes.hidden)
    w_head, total = _address(layers.head), count * channels
    for begin in range(0, total, LANES):
        n = min(LANES, total - begin)
        x = _address(shown) + 4 * begin * inputs
        for lane in range(n):
            row, of_row = (begin + lane) // channels, (begin + lane) % channels * hidden
            for j in range(hidden):
                lanes.hidden[lane, j] = state[slots[row], of_row + j]
        product(n, to_first, first, _address(layers.first_bias), 0, _address(layers.first), first, x, inputs, inputs)
        _silu(n, lanes.first)
        product(
            n, to_second, second, _address(layers.second_bias), 0, _address(layers.second), second,
            to_first, first, width,
        )  # fmt: skip
        _silu(n, lanes.second)
        product(n, to_in, gates, _address(layers.bias_in), 0, _address(layers.cell_in), gates, to_second, second, trunk)
        product(
            n, to_hidden, gates, _address(layers.bias_hidden), 0, _address(layers.cell_hidden), gates,
            h, hidden, hidden,
        )  # fmt: skip
        for lane in range(n):
            _turn(lanes.gate_in[lane], lanes.gate_hidden[lane], lanes.hidden[lane])
            row, of_row = (begin + lane) // channels, (begin + lane) % channels * hidden
            for j in range(hidden):
                state[slots[row], of_row + j] = lanes.hidden[lane, j]
        product(n, to_said, wide, _address(layers.head_bias), 0, w_head, wide, to_second, second, trunk)
        product(n, to_said, wide, to_said, wide, w_head + 4 * trunk * wide, wide, h, hidden, hidden)
        for lane in range(n):
            for r in range(rungs):
                said[begin + lane, r] = min(max(lanes.said[lane, r], -limit), limit)
