"""Season ago: the value of the same phase, one whole season before the target (or more, where the horizon is longer)."""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import inlined
from streamrnn.kernels.columns import Real
from streamrnn.records import F32


@inlined
def season_ago(x: F32, origin: int, h: int, lag: int, since: int) -> Real:
    """The move it foresees from frame `origin` to h frames later; 0 where the frames `since` then do not reach back so far.

    `x`: the ring of values; `lag`: frames of a season.
    """
    then = origin + h - lag * ((h + lag - 1) // lag)
    move = np.float32(0.0)
    if then >= since:
        move = x[then % x.shape[0]] - x[origin % x.shape[0]]
    return move
