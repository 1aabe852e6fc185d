"""The first forecasts of a channel: nobody has learnt anything yet, and nobody may say anything absurd."""

from __future__ import annotations

import numpy as np
import pytest
from making import START, batch, spec

from simulators.registry import make
from streamrnn.season import season_of, season_setting
from streamrnn.spec import EXPERTS
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


def test_a_history_that_is_read_at_once_is_forecast_well_without_a_network() -> None:
    """30,000 ticks of twenty sensors: no network is ever trained, and nobody waits for one."""
    channels = ("temp", "flow", "pressure", "vibration")
    values = make("sensors", 20, channels, seed=3).block(0, 1500).swapaxes(0, 1)  # [step, series, channel]
    stream = spec(channels=channels, horizon=12, experts=EXPERTS)
    engine, sums = Engine(stream), np.zeros(2)
    for begin in range(0, len(values), 100):
        part = values[begin : begin + 100]
        names = [f"s{k}" for k in range(part.shape[1])] * len(part)
        at = START + stream.step_ms * (begin + np.repeat(np.arange(len(part)), part.shape[1]))
        scores = engine.process(batch(names, at, part.reshape(-1, len(channels)))).scores
        sums += scores.abs_error.sum(), scores.abs_persistence.sum()
    assert sums[0] / sums[1] < 0.9
