"""A series' row of the table as arrays, made where the kernels run.

The columns of a series lie side by side in one row of bytes. Slices of the table's own columns would have strides that are
known at run time only, and each would count its owner twice: both cost more than what is done with most of them. A view made
from the row's address has neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamrnn.kernels.columns import Calibration, Filling, History, Mixture, Pending, Regression, Remainder
from streamrnn.kernels.views import part, views
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
    moves_seen: int
    deviations: int
    deviations_packed: int
    deviations_seen: int
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
    "covariance", "one_step", "swing", "doubt", "seen_range", "fill_widths", "missed", "ends",
    "error_size", "error_last", "error_means", "network_worth", "pend_said", "pend_added",
)  # fmt: skip


# (address, shape) → the arrays of the row that begins there. The table's arrays must stay where they are while these are used.
f32, f64, i64, u8, u16 = np.float32, np.float64, np.int64, np.uint8, np.uint16
series_row: Callable[[int, Shape], State] = views(
    "row",
    part(
        State,
        history=part(
            History,
            anchor=(f64, "channels"),
            unit=(f32, "channels"),
            born=(i64, "channels"),
            unbroken=(i64, 1),
            step=(i64, 1),
            x=(f32, "channels", "x"),
            known=(u8, "channels", "known"),
            deviation=(f32, "channels", "deviation"),
            phases=(f32, "phases", "seasons"),
            profile=(f32, "channels", "bins"),
            visits=(u16, "channels", "bins"),
            means=(f32, "channels", 2, "means"),
            deviation_means=(f32, "channels", 2, "deviation_means"),
            sizes=(f32, "channels", "sizes"),
            week=(f32, "channels", "week"),
        ),
        moves=part(
            Regression,
            whole=True,
            gram=(f32, "channels", "moves_packed"),
            right=(f32, "channels", "rungs", "moves"),
            weights=(f32, "channels", "moves", "rungs"),
            seen=(f32, "channels", "moves_seen"),
        ),
        deviations=part(
            Regression,
            whole=True,
            gram=(f32, "channels", "deviations_packed"),
            right=(f32, "channels", "rungs", "deviations"),
            weights=(f32, "channels", "deviations", "rungs"),
            seen=(f32, "channels", "deviations_seen"),
        ),
        mixture=part(
            Mixture,
            loss=(f32, "channels", "rungs", "losses"),
            weight=(f32, "channels", "rungs", ("losses", 1)),
            size=(f32, "channels", "rungs"),
            energy=(f32, "channels", "rungs", 2),
            slope=(f32, "channels", "rungs", 2),
            stack_gram=(f32, "channels", "rungs", "stack_packed"),
            stack_right=(f32, "channels", "rungs", "stack"),
            stack_weight=(f32, "channels", "rungs", "stack"),
        ),
        pending=part(
            Pending,
            mean=(f32, "channels", "cells"),
            raw=(u16, "channels", "cells"),
            moves=(u16, "channels", "cells", "kept"),
            offsets=(u16, "channels", "cells", "levels"),
            next=(f32, "channels"),
        ),
        calibration=part(
            Calibration,
            sigma=(f32, "channels", "rungs"),
            standing=(f32, "channels", "rungs"),
            quick=(f32, "channels", 1),
            theta=(f32, "channels", "rungs", "levels"),
        ),
        filling=part(
            Filling,
            covariance=(f32, "correlated", "correlated"),
            error=(f32, "channels"),
            swing=(f32, "channels"),
            doubt=(f32, "channels"),
            reach=(f32, "channels", 2),
            width=(f32, "channels", 2),
            missed=(i64, 1),
            ends=(u8, "channels", 2),
        ),
        errors=part(
            Remainder,
            size=(f32, "channels", "rungs"),
            last=(f32, "channels", "rungs"),
            means=(f32, "channels", "rungs", 2),
            worth=(f32, "channels", "rungs", 2),
            said=(u16, "channels", "cells"),
            added=(u16, "channels", "cells"),
        ),
    ),
)
