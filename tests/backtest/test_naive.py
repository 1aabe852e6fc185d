"""Persistence and its season: what they say of missing values, before a season is over, and beyond one."""

from __future__ import annotations

import numpy as np
import pytest

from streamrnn.backtest.baselines.naive import Persistence, Seasonal
from streamrnn.records import F64

NAN = float("nan")


def test_persistence_is_the_last_value_of_each_channel_at_every_horizon() -> None:
    model = Persistence(2, 3)
    assert model.forecast().tolist() == [[0.0] * 3] * 2
    for row in ([1.0, NAN], [2.0, 5.0], [NAN, 6.0]):
        model.observe(np.array(row))
    assert model.forecast().tolist() == [[2.0] * 3, [6.0] * 3]


def reference(rows: list[F64], season: int, horizon: int) -> F64:
    """From the whole history at once: the newest value of the step's phase, before a season is over the newest of all."""
    values = np.array(rows)
    made = np.zeros((values.shape[1], horizon))
    for c in range(values.shape[1]):
        known = [v for v in values[:, c] if v == v]
        for h in range(horizon):
            phase = (len(values) + h) % season
            same = [values[t, c] for t in range(len(values)) if t % season == phase and values[t, c] == values[t, c]]
            if len(values) < season:
                made[c, h] = known[-1] if known else 0.0
            else:
                made[c, h] = same[-1] if same else NAN
    return made


@pytest.mark.parametrize(("season", "horizon"), [(1, 3), (4, 1), (4, 4), (4, 9), (7, 5)])
def test_the_season_is_that_of_the_whole_history(season: int, horizon: int) -> None:
    rng = np.random.default_rng(season)
    model, rows = Seasonal(2, horizon, season), []
    for t in range(40):
        row = rng.normal(size=2)
        if t >= season:  # before, what a missing one stands for is another question
            row[rng.random(2) < 0.3] = NAN
        rows.append(row)
        model.observe(row)
        assert np.array_equal(model.forecast(), reference(rows, season, horizon)), t


def test_what_was_missing_in_the_first_season_is_the_value_before_it() -> None:
    model = Seasonal(1, 3, 3)
    for value in (1.0, NAN, 3.0):
        model.observe(np.array([value]))
    assert model.forecast().tolist() == [[1.0, 1.0, 3.0]]


def test_a_row_that_is_changed_afterwards_changes_no_forecast() -> None:
    row = np.array([1.0])
    for model in (Persistence(1, 2), Seasonal(1, 2, 1)):
        row[0] = 1.0
        model.observe(row)
        row[0] = 9.0
        assert model.forecast().tolist() == [[1.0, 1.0]]
