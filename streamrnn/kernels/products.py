"""A product of a few vectors with one matrix, by registers: the inner loop of the network's step.

What a compiler makes of three plain loops reads and writes each sum once for every few products. Here the sums of a panel (some
lanes, one or two vectors of outputs) stay in registers while all inputs go by (Goto and van de Geijn, "Anatomy of
high-performance matrix multiplication", 2008). Numba has no words for registers, so the loop is written in LLVM's own language.
Each output is  begin + Σ_k x[k] w[k, j],  k in order, one fused multiply-add after the other: its bits depend neither on the
lanes beside it nor on the width of the processor's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from streamrnn.kernels import inner

# Two vectors for each lane must fit the registers: 32 of 16 numbers with AVX-512, 16 of 8 numbers with AVX2.
LARGE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
WIDTH, LANES = (16, 8) if LARGE else (8, 4)
_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, WIDTH)


def padded(outputs: int) -> int:
    """So many columns must a matrix have; those beyond its outputs are zero."""
    return -(-outputs // WIDTH) * WIDTH


class _Writer:
    """Writes the panel of one number of lanes and vectors at the builder's place."""

    def __init__(self, builder: ir.IRBuilder, lanes: int, vectors: int) -> None:
        self._at, self._lanes, self._vectors = builder, lanes, vectors

    def write(
        self, out: Any, out_stride: Any, begin: Any, begin_stride: Any, weights: Any, row: Any, x: Any, x_stride: Any,
        inputs: Any,
    ) -> None:  # fmt: skip
        at = self._at
        panel = [(lane, vector) for lane in range(self._lanes) for vector in range(self._vectors)]
        xs = [self._lane(x, x_stride, lane) for lane in range(self._lanes)]
        places = [self._vector(self._lane(out, out_stride, lane), vector) for lane, vector in panel]
        first = [self._loaded(self._vector(self._lane(begin, begin_stride, lane), vector)) for lane, vector in panel]
        before, loop, after = at.block, at.append_basic_block("inputs"), at.append_basic_block("inputs.end")
        at.branch(loop)

        at.position_at_end(loop)
        k, w = at.phi(_I64), at.phi(_FLOAT.as_pointer())
        sums = [at.phi(_VECTOR) for _ in panel]
        columns = [self._loaded(self._vector(w, vector)) for vector in range(self._vectors)]
        spread = [self._spread(at.load(at.gep(lane, [k]))) for lane in xs]
        later = [
            at.call(self._fused(), [spread[lane], columns[vector], total])
            for (lane, vector), total in zip(panel, sums, strict=True)
        ]
        next_k, next_w = at.add(k, ir.Constant(_I64, 1)), at.gep(w, [row])
        pairs = ((k, ir.Constant(_I64, 0), next_k), (w, weights, next_w), *zip(sums, first, later, strict=True))
        for value, begun, moved in pairs:
            value.add_incoming(begun, before)
            value.add_incoming(moved, loop)
        at.cbranch(at.icmp_signed("<", next_k, inputs), loop, after)

        at.position_at_end(after)
        for total, place in zip(later, places, strict=True):
            at.store(total, place).align = 4

    def _lane(self, base: Any, stride: Any, lane: int) -> Any:
        return self._at.gep(base, [self._at.mul(stride, ir.Constant(_I64, lane))])

    def _vector(self, base: Any, vector: int) -> Any:
        return self._at.bitcast(self._at.gep(base, [ir.Constant(_I64, vector * WIDTH)]), _VECTOR.as_pointer())

    def _loaded(self, pointer: Any) -> Any:
        value = self._at.load(pointer)
        value.align = 4
        return value

    def _spread(self, number: Any) -> Any:
        """A vector of one number."""
        unknown = ir.Constant(_VECTOR, ir.Undefined)
        one = self._at.insert_element(unknown, number, ir.Constant(_I32, 0))
        return self._at.shuffle_vector(one, unknown, ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH))

    def _fused(self) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        return cgutils.get_or_insert_function(self._at.module, kind, f"llvm.fmuladd.v{WIDTH}f32")


def _panel(vectors: int) -> Callable[..., None]:
    """A function for kernels, of `product`'s arguments, that computes the first `vectors` vectors of outputs."""

    def panel(
        context: Any, lanes: Any, out: Any, out_stride: Any, begin: Any, begin_stride: Any, weights: Any, row: Any,
        x: Any, x_stride: Any, inputs: Any,
    ) -> Any:  # fmt: skip
        del context, lanes, out, out_stride, begin, begin_stride, weights, row, x, x_stride, inputs
        return types.void(*[types.intp] * 10), written

    def written(context: Any, at: ir.IRBuilder, signature: Any, given: Any) -> Any:
        del signature
        lanes, out, out_stride, begin, begin_stride, weights, row, x, x_stride, inputs = given
        out, begin, weights, x = (at.inttoptr(address, _FLOAT.as_pointer()) for address in (out, begin, weights, x))
        end = at.append_basic_block("panel.end")
        cases = at.switch(lanes, end)
        for count in range(1, LANES + 1):
            block = at.append_basic_block(f"lanes.{count}")
            cases.add_case(ir.Constant(_I64, count), block)
            at.position_at_end(block)
            writer = _Writer(at, count, vectors)
            writer.write(out, out_stride, begin, begin_stride, weights, row, x, x_stride, inputs)
            at.branch(end)
        at.position_at_end(end)
        return context.get_dummy_value()

    return intrinsic(panel)


_ONE, _TWO = _panel(1), _panel(2)


@inner
def product(
    lanes: int,
    out: int,
    out_stride: int,
    begin: int,
    begin_stride: int,
    weights: int,
    row: int,
    x: int,
    x_stride: int,
    inputs: int,
) -> None:
    """out[lane, :row] ← begin[lane, :row] + x[lane, :inputs] · weights[:inputs, :row] for 1 to `LANES` lanes.

    All arrays by their addresses (bytes); strides from lane to lane and `row`, the padded number of outputs, in numbers. There
    is at least one input.
    """
    j = 0
    while j + 2 * WIDTH <= row:
        _TWO(lanes, out + 4 * j, out_stride, begin + 4 * j, begin_stride, weights + 4 * j, row, x, x_stride, inputs)
        j += 2 * WIDTH
    if j < row:
        _ONE(lanes, out + 4 * j, out_stride, begin + 4 * j, begin_stride, weights + 4 * j, row, x, x_stride, inputs)
