"""The step of a file, found from its rows: fixed, with jitter, months and years, days of a place with summer time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrnn.backtest import steps as steps
from streamrnn.backtest.steps import rows_of, step_of, usual_season, usual_step
from streamrnn.records import I64
from streamrnn.transports.files import InputError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def times(moments: list[datetime]) -> I64:
    return np.array([(moment - EPOCH) // timedelta(microseconds=1) for moment in moments], dtype=np.int64)


def monthly(count: int, every: int = 1, day: int = 1, zone: str = "UTC") -> I64:
    months = [2000 * 12 + i * every for i in range(count)]
    return times([datetime(m // 12, m % 12 + 1, day, tzinfo=ZoneInfo(zone)) for m in months])


def daily(count: int, zone: str, days: int = 1, hour: int = 0) -> I64:
    place = ZoneInfo(zone)
    first = datetime(2022, 1, 3, hour, tzinfo=place)
    return times([(first + timedelta(days=i * days)).astimezone(UTC) for i in range(count)])


@pytest.mark.parametrize("every", [1, 3, 12])
def test_months_quarters_and_years_are_found(every: int) -> None:
    step = usual_step([monthly(40, every)])
    assert (step.text, step.calendar) == ({1: "1mo", 3: "3mo", 12: "1y"}[every], True)
    # holes are whole months too
    assert usual_step([np.delete(monthly(60, every), [3, 17, 18])]).text == step.text


def test_the_ends_of_months_are_months() -> None:
    ends = times([datetime(2000 + m // 12, m % 12 + 1, 1, tzinfo=UTC) - timedelta(days=1) for m in range(1, 30)])
    assert usual_step([ends]).text == "1mo"


def test_months_of_a_place_are_found_where_it_is_named() -> None:
    step = usual_step([monthly(30, zone="Europe/London")], "Europe/London")
    assert (step.text, step.zone) == ("1mo", "Europe/London")


@pytest.mark.parametrize("zone", ["Europe/London", "America/New_York", "Australia/Sydney"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("days", [1, 7])
def test_days_and_weeks_of_a_place_with_summer_time_are_found(zone: str, named: bool, days: int) -> None:
    rows = daily(730 // days, zone, days)
    step = usual_step([rows], zone if named else None)
    assert step.text == ("1d" if days == 1 else "1w")
    assert step.zone is not None
    # Another zone may be found where nobody named one, but its days are the same instants.
    local = [(EPOCH + timedelta(microseconds=int(us))).astimezone(ZoneInfo(step.zone)) for us in rows]
    assert len({moment.time() for moment in local}) == 1
    assert named is False or step.zone == zone


def test_days_that_no_clock_explains_are_days_of_24_hours() -> None:
    rows = times([datetime(2022, 1, 1, tzinfo=UTC) + timedelta(days=i, minutes=37 * (i % 3 == 1)) for i in range(60)])
    assert usual_step([rows]).text == "1d"


@given(
    st.sampled_from(["1s", "250ms", "1m", "15m", "1h", "90m", "1d", "7s"]),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.integers(0, 2**31),
    st.floats(0, 0.004),
)
def test_a_fixed_step_is_found_through_holes_and_jitter(text: str, there: list[bool], seed: int, jitter: float) -> None:
    length = step_of(text).ms * 1000
    rng = np.random.default_rng(seed)
    present = np.flatnonzero(np.array(there) | (np.arange(30) % 3 > 0))
    rows = present * length + 1_704_067_200_000_000 + (rng.uniform(-jitter, jitter, len(present)) * length).astype(int)
    assert steps.step_of(usual_step([rows]).text).ms == step_of(text).ms


def test_series_of_a_panel_have_one_step_together() -> None:
    a, b = np.arange(20) * 3_600_000_000, np.arange(20) * 3_600_000_000 + 60_000_000
    assert usual_step([a, b]).text == "1h"


def test_what_gives_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="--step"):
        usual_step([np.array([5], dtype=np.int64)])
    with pytest.raises(InputError, match="microseconds apart"):
        usual_step([np.arange(10) * 300])
    for text in ("0mo", "5", "1x", "0s"):
        with pytest.raises(InputError, match="--step"):
            step_of(text)


@pytest.mark.parametrize(
    ("season", "step", "rows"),
    [("1d", "1h", 24), ("1d", "15m", 96), ("1w", "1d", 7), ("1y", "1mo", 12), ("1y", "3mo", 4), ("1y", "1w", 52),
     ("1d", "1w", 1), ("12mo", "1mo", 12), ("1d", "irregular", 1)],
)  # fmt: skip
def test_a_season_in_rows(season: str, step: str, rows: int) -> None:
    assert rows_of(season, step_of(step)) == rows


def test_the_usual_season_is_longer_than_the_step() -> None:
    assert [usual_season(step_of(text)) for text in ("1h", "1d", "1w", "1mo")] == ["1d", "1w", "1y", "1y"]


def test_a_day_in_a_zone_is_a_calendar_step_and_an_hour_is_not() -> None:
    assert [step_of(text, "Europe/London").calendar for text in ("1d", "1w", "1h", "1mo")] == [True, True, False, True]
    assert not step_of("1d").calendar
