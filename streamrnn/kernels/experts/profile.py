"""Profile: the move that the season's profile makes from one phase to another (see `history`)."""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import inner
from streamrnn.kernels.columns import Seasons
from streamrnn.kernels.experts.history import believed, value_at
from streamrnn.records import F32, F64, U16


@inner
def levels(places: F64, profile: F32, visits: U16, week: F32, seasons: Seasons, out: F32) -> None:
    """`out` [1 + horizon] ← what a channel's profiles say for a frame and the steps after it; NaN where they know nothing.

    `places` [season] of the frame; where the season has a key, [1 + horizon] of the one season.
    """
    ahead = out.shape[0]
    begin, cells, bins, per_step = seasons.begin[0], seasons.cells[0], seasons.bins[0], seasons.per_step[0]
    if seasons.keyed:
        for h in range(ahead):
            out[h] = value_at(profile, visits, begin, cells, places[h])
    elif per_step == 1.0:
        at = int(places[0])
        for h in range(ahead):
            out[h] = profile[begin + at] if visits[begin + at] > 0 else np.float32(np.nan)
            at += 1
            if at == bins:
                at = 0
    else:
        for h in range(ahead):
            place = places[0] + h * per_step
            place -= bins * np.floor(place / bins)
            out[h] = value_at(profile, visits, begin, cells, min(max(place, 0.0), bins - 1e-9))
    if len(seasons.bins) > 1:
        trust = believed(week)
        if trust > np.float32(0.0):
            begin, cells, bins, per_step = seasons.begin[1], seasons.cells[1], seasons.bins[1], seasons.per_step[1]
            for h in range(ahead):
                place = places[1] + h * per_step
                place -= bins * np.floor(place / bins)
                second = value_at(profile, visits, begin, cells, min(max(place, 0.0), bins - 1e-9))
                if second == second:
                    out[h] += trust * second
