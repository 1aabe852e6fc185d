"""A series' row of the table as arrays, made where the kernels run.

The columns of a series lie side by side in one row of bytes. Slices of the table's own columns would have strides that are
known at run time only, and each would count its owner twice: both cost more than what is done with most of them. A view made
from the row's address has neither.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from streamrnn.kernels import inlined
from streamrnn.kernels.columns import Calibration, Filling, History, Mixture, Pending, Regression, Remainder
from streamrnn.records import I64


class State(NamedTuple):
    """All that forecasting keeps of one series."""

    history: History
    moves: Regression
    deviations: Regression
    mixture: Mixture
    pending: Pending
    calibration: Calibration
    filling: Filling
    errors: Remainder


class Shape(NamedTuple):
    """Lengths of a row's axes; `at` [field]: where in the row each field begins, in the order of `FIELDS`; `size` in bytes."""

    at: I64
    size: int
    channels: int
    x: int
    known: int
    deviation: int
    phases: int
    seasons: int
    bins: int
    means: int
    deviation_means: int
    sizes: int
    week: int
    moves: int
    moves_packed: int
    deviations: int
    deviations_packed: int
    rungs: int
    losses: int
    stack: int
    stack_packed: int
    cells: int
    kept: int
    levels: int
    correlated: int


# The order of `Shape.at`.
FIELDS = (
    "anchor", "unit", "born", "unbroken", "frame_step", "x", "known", "deviation", "phases", "profile", "visits", "means",
    "deviation_means", "sizes", "week",
    "moves_gram", "moves_right", "moves_weights", "moves_seen",
    "deviations_gram", "deviations_right", "deviations_weights", "deviations_seen",
    "losses", "weight", "move_size", "energy", "slope", "stack_gram", "stack_right", "stack_weight",
    "pend_mean", "pend_raw", "pend_moves", "pend_offsets", "next_move", "sigma", "standing", "quick", "level_theta",
    "covariance", "one_step", "swing", "doubt", "seen_range", "fill_widths", "missed",
    "error_size", "error_last", "error_means", "network_worth", "pend_said", "pend_added", "ends",
)  # fmt: skip


# Numba says nothing of their types.
_make: Any = arrayobj.make_array
_populate: Any = arrayobj.populate_array
_unpacked: Any = cgutils.unpack_tuple


def _view(typingctx: Any, address: Any, shape: Any, dtype: Any) -> Any:
    """The array of this shape and kind whose numbers begin at an address, one after the other. Nobody owns it."""
    kind = types.Array(dtype.dtype, shape.count, "C")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = _make(kind)(context, builder)
        number = context.get_data_type(kind.dtype)
        width = context.get_constant(types.intp, context.get_abi_sizeof(number))
        lengths = _unpacked(builder, arguments[1])
        strides = [width]
        for length in reversed(lengths[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        _populate(
            made,
            data=builder.inttoptr(arguments[0], number.as_pointer()),
            shape=lengths,
            strides=strides,
            itemsize=width,
            meminfo=None,
        )
        return made._getvalue()  # noqa: SLF001 - there is no other way to a struct's value

    return kind(types.intp, shape, dtype), codegen


array_at: Any = intrinsic(_view)


@inlined
def series_row(address: int, shape: Shape) -> State:
    """The arrays of the row that begins at `address`. The table's arrays must stay where they are while these are used."""
    at = shape.at
    c, r = shape.channels, shape.rungs
    f32, f64, i64, u8, u16 = np.float32, np.float64, np.int64, np.uint8, np.uint16
    return State(
        History(
            array_at(address + at[0], (c,), f64),
            array_at(address + at[1], (c,), f32),
            array_at(address + at[2], (c,), i64),
            array_at(address + at[3], (1,), i64),
            array_at(address + at[4], (1,), i64),
            array_at(address + at[5], (c, shape.x), f32),
            array_at(address + at[6], (c, shape.known), u8),
            array_at(address + at[7], (c, shape.deviation), f32),
            array_at(address + at[8], (shape.phases, shape.seasons), f32),
            array_at(address + at[9], (c, shape.bins), f32),
            array_at(address + at[10], (c, shape.bins), u16),
            array_at(address + at[11], (c, 2, shape.means), f32),
            array_at(address + at[12], (c, 2, shape.deviation_means), f32),
            array_at(address + at[13], (c, shape.sizes), f32),
            array_at(address + at[14], (c, shape.week), f32),
        ),
        Regression(
            array_at(address + at[15], (c, shape.moves_packed), f32),
            array_at(address + at[16], (c, r, shape.moves), f32),
            array_at(address + at[17], (c, shape.moves, r), f32),
            array_at(address + at[18], (c, 3 if shape.moves > 0 else 0), f32),
        ),
        Regression(
            array_at(address + at[19], (c, shape.deviations_packed), f32),
            array_at(address + at[20], (c, r, shape.deviations), f32),
            array_at(address + at[21], (c, shape.deviations, r), f32),
            array_at(address + at[22], (c, 3 if shape.deviations > 0 else 0), f32),
        ),
        Mixture(
            array_at(address + at[23], (c, r, shape.losses), f32),
            array_at(address + at[24], (c, r, shape.losses + 1), f32),
            array_at(address + at[25], (c, r), f32),
            array_at(address + at[26], (c, r, 2), f32),
            array_at(address + at[27], (c, r, 2), f32),
            array_at(address + at[28], (c, r, shape.stack_packed), f32),
            array_at(address + at[29], (c, r, shape.stack), f32),
            array_at(address + at[30], (c, r, shape.stack), f32),
        ),
        Pending(
            array_at(address + at[31], (c, shape.cells), f32),
            array_at(address + at[32], (c, shape.cells), u16),
            array_at(address + at[33], (c, shape.cells, shape.kept), u16),
            array_at(address + at[34], (c, shape.cells, shape.levels), u16),
            array_at(address + at[35], (c,), f32),
        ),
        Calibration(
            array_at(address + at[36], (c, r), f32),
            array_at(address + at[37], (c, r), f32),
            array_at(address + at[38], (c, 1), f32),
            array_at(address + at[39], (c, r, shape.levels), f32),
        ),
        Filling(
            array_at(address + at[40], (shape.correlated, shape.correlated), f32),
            array_at(address + at[41], (c,), f32),
            array_at(address + at[42], (c,), f32),
            array_at(address + at[43], (c,), f32),
            array_at(address + at[44], (c, 2), f32),
            array_at(address + at[45], (c, 2), f32),
            array_at(address + at[46], (1,), i64),
            array_at(address + at[53], (c, 2), u8),
        ),
        Remainder(
            array_at(address + at[47], (c, r), f32),
            array_at(address + at[48], (c, r), f32),
            array_at(address + at[49], (c, r, 2), f32),
            array_at(address + at[50], (c, r, 2), f32),
            array_at(address + at[51], (c, shape.cells), u16),
            array_at(address + at[52], (c, shape.cells), u16),
        ),
    )
