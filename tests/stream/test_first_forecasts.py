"""The first forecasts of a channel: nobody has learnt anything yet, and nobody may say anything absurd."""

from __future__ import annotations

import numpy as np
import pytest
from making import START, batch, spec

from streamrnn.season import season_of, season_setting
from streamrnn.stream.engine import Engine

HOUR_MS = 3_600_000


@pytest.mark.parametrize("horizon", [1, 6])
def test_a_series_may_begin_at_any_hour(horizon: int) -> None:
    """Where sine and cosine of the first phase are 0 but for rounding, a ridge could make anything of them."""
    seasons = tuple(season_of(season_setting("auto"), HOUR_MS, None, horizon))
    rng = np.random.default_rng(11)
    rows = 24 * 8
    start = START - START % (24 * HOUR_MS)
    for hour in range(24):
        at = start + HOUR_MS * (hour + np.arange(rows))
        values = (
            20.0 + 5.0 * np.sin(2 * np.pi * (hour + np.arange(rows)) / 24)[:, None] + rng.standard_normal((rows, 2))
        )
        engine = Engine(spec(channels=("a", "b"), step_ms=HOUR_MS, horizon=horizon, seasons=seasons))
        sent = engine.process(batch(["x"] * rows, at, values)).forecasts
        assert np.abs(sent.mean - values[:, :, None]).max() < 40.0, hour
