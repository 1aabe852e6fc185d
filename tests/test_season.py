"""Seasons: which one a step has, and where in it each step stands, through changes of the clock and holidays."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from streamrnn.calendar import parse_step
from streamrnn.records import F64, I64
from streamrnn.season import DAY_TYPE, LAG_MAX, Season, season_of, season_setting
from streamrnn.spec import StreamSpec
from streamrnn.stream.phases import Phases

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = ("UTC", "Europe/London", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo")
# Over both changes of the clock in each of the zones.
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def spec(step: str, season: Any = "auto", timezone: str = "UTC", horizon: int = 24) -> StreamSpec:
    step_ms, calendar_step = parse_step(step, timezone)
    seasons = season_of(season_setting(season), step_ms, calendar_step, horizon)
    return StreamSpec(
        ("x",), step_ms, horizon, calendar_step=calendar_step, timezone=timezone, seasons=seasons, align="floor"
    )  # fmt: skip


def frames(of: StreamSpec, count: int, begin: datetime = BEGIN, every: int = 1) -> tuple[I64, I64]:
    """(step, begin of the step in microseconds) of `count` frames in a row, or of every n-th of them."""
    grid = of.grid()
    first = grid.index((begin - EPOCH) // timedelta(microseconds=1))
    step: I64 = np.arange(first, first + count, every, dtype=np.int64)
    return step, np.array([grid.start_us(each) for each in step.tolist()], dtype=np.int64)


def local(ts_us: int, zone: str) -> datetime:
    return (EPOCH + timedelta(microseconds=ts_us)).astimezone(ZoneInfo(zone))


def shape(of: StreamSpec) -> list[tuple[str, int, float, int]]:
    return [(each.name, each.bins, round(each.per_step, 6), each.lag) for each in of.seasons]


# ── which season ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("step", "horizon", "expected"),
    [
        ("1h", 24, [("1d", 24, 1.0, 24), ("7d", 168, 1.0, 168)]),
        ("30m", 24, [("1d", 48, 1.0, 48), ("7d", 336, 1.0, 336)]),
        ("15m", 24, [("1d", 96, 1.0, 96)]),
        ("5m", 1, [("1d", 288, 1.0, 288)]),
        ("6h", 4, [("1d", 4, 1.0, 4), ("7d", 28, 1.0, 28)]),
        ("7m", 4, [("1d", 206, round(206 * 7 / 1440, 6), 0)]),
        ("1m", 15, [("1d", 96, round(1 / 15, 6), 1440)]),
        ("1m", 14, []),
        ("1s", 900, [("1d", 96, round(1 / 900, 6), 0)]),
        ("1s", 12, []),
        ("7h", 12, []),
        ("1d", 7, [("7d", 7, 1.0, 7)]),
        ("24h", 7, [("7d", 7, 1.0, 7)]),
        ("2d", 7, []),
        ("1w", 7, []),
        ("1mo", 12, [("1y", 12, 1.0, 12)]),
        ("3mo", 12, []),
        ("irregular", 12, []),
    ],
)
def test_without_a_setting_the_step_and_the_horizon_say_what_repeats(
    step: str, horizon: int, expected: list[tuple[str, int, float, int]]
) -> None:
    assert shape(spec(step, horizon=horizon)) == expected


def test_days_of_a_zone_have_the_week_as_days_of_utc_have() -> None:
    assert shape(spec("1d", timezone="Europe/London")) == shape(spec("1d")) == [("7d", 7, 1.0, 7)]


@pytest.mark.parametrize(
    ("step", "season", "expected"),
    [
        ("1h", "1d", [("1d", 24, 1.0, 24)]),
        ("15m", ["1d", "7d"], [("1d", 96, 1.0, 96), ("7d", 336, 0.5, 672)]),
        ("1h", ["24h", "1w"], [("1d", 24, 1.0, 24), ("7d", 168, 1.0, 168)]),
        ("12h", "1d", [("1d", 2, 1.0, 2)]),
        ("10s", "8h", [("8h", 96, round(96 / 2880, 6), 0)]),
        ("1m", "1h", [("1h", 60, 1.0, 60)]),
        ("1mo", "12mo", [("1y", 12, 1.0, 12)]),
        ("3mo", "1y", [("1y", 4, 1.0, 4)]),
        ("1w", "1y", [("1y", 52, round(52 * 7 / 365.2425, 6), 0)]),
        ("1d", "1mo", [("1mo", 31, round(31 * 12 / 365.2425, 6), 0)]),
        ("1h", {"key": "day_type"}, [("day_type", 72, 1.0, 168)]),
        ("1d", {"key": "day_type"}, [("day_type", 3, 1.0, 7)]),
        ("1m", {"key": "day_type"}, [("day_type", 288, round(1 / 15, 6), 0)]),
        ("1h", "off", []),
        ("1h", False, []),
    ],
)
def test_a_season_that_is_named(step: str, season: Any, expected: list[tuple[str, int, float, int]]) -> None:
    assert shape(spec(step, season)) == expected


@pytest.mark.parametrize(
    ("step", "season", "words"),
    [
        ("irregular", "1d", "irregular.*auto or off"),
        ("1d", "1d", "1d: a season has two steps at least, and `step` is 1d"),
        ("1mo", "7d", "write 1y"),
        ("1w", {"key": "day_type"}, "a step is a day or shorter"),
        ("18h", {"key": "day_type"}, "half a day"),
        ("1h", "daily", "did you mean 1d"),
        ("1h", "automatc", "did you mean auto"),
        ("1h", "day_type", "write .key: day_type."),
        ("1h", 24, r"write auto, off, a duration such as 1d"),
        ("1h", [24], "steps are not counted"),
        ("1h", ["7d", "1d"], "the shorter season first"),
        ("1h", ["1d", "24h"], "each once"),
        ("1h", ["8h", "1d", "7d"], "2 at most"),
        ("1h", [], "write auto, off"),
        ("1h", {"kye": "day_type"}, "'kye': unknown key; did you mean key"),
        ("1h", {"key": "daytype"}, "'daytype' is not known; write .key: day_type"),
        ("1h", {"holidays": ["2026-12-25"]}, "write .key: day_type"),
        ("1h", {"key": "day_type", "holidays": ["25.12.2026"]}, "'25.12.2026' is not a date"),
        ("1h", {"key": "day_type", "holidays": 25}, "a list of dates"),
    ],
)
def test_what_no_season_can_be_is_refused_with_what_to_write(step: str, season: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spec(step, season)


@pytest.mark.parametrize("season", ["auto", "off", "1d", ["1d", "7d"], {"key": "day_type", "holidays": ["2026-12-25"]}])
def test_a_setting_is_written_as_it_is_read(season: Any) -> None:
    assert season_setting(season).plain() == season
    assert season_setting(season_setting(season).plain()) == season_setting(season)


# ── where a step stands ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    ("step", "season"), [("15m", "1d"), ("1h", ["1d", "7d"]), ("7m", "1d"), ("1s", "1d"), ("20m", "7d")]
)
def test_positions_follow_the_clock_on_the_wall(step: str, season: Any, zone: str) -> None:
    """Against the standard library's time zones, a step at a time, over both changes of the clock."""
    of = spec(step, season, zone)
    count = 400 * 86_400_000 // of.step_ms
    _, ts = frames(of, count, every=max(1, count // 2000))
    positions = Phases(of).of(ts)
    assert positions.shape == (len(ts), len(of.seasons))
    for k, known in enumerate(of.seasons):
        assert (positions[:, k] >= 0).all() and (positions[:, k] < known.bins).all()
        for at, found in zip(ts.tolist(), positions[:, k].tolist(), strict=True):
            wall = local(at, zone)
            seconds = (
                wall.hour * 3600
                + wall.minute * 60
                + wall.second
                + (wall.weekday() * 86400 if known.name == "7d" else 0)
            )
            exact = seconds / (604800 if known.name == "7d" else 86400) * known.bins
            # Whole cells where a step has its own: Kolkata's hours begin at half past.
            assert found == (np.floor(exact + 1e-9) if known.per_step == 1.0 else pytest.approx(exact, abs=1e-9))


@pytest.mark.parametrize(
    ("zone", "spring", "autumn"),
    [
        ("Europe/London", date(2024, 3, 31), date(2024, 10, 27)),
        ("America/New_York", date(2024, 3, 10), date(2024, 11, 3)),
    ],
)
def test_an_hour_that_clocks_skip_is_skipped_and_one_shown_twice_is_met_twice(
    zone: str, spring: date, autumn: date
) -> None:
    of = spec("1h", "1d", zone)
    for day, hours in ((spring, 23), (autumn, 25), (date(2024, 6, 1), 24)):
        midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        _, ts = frames(of, hours + 1, midnight)
        found = Phases(of).of(ts)[:, 0].astype(int).tolist()
        assert found[0] == found[hours] == 0 and 0 not in found[1:hours]
        assert found[hours - 1] == 23
        missing = set(range(24)) - set(found[:hours])
        assert len(missing) == (1 if hours == 23 else 0)
        assert len(found[:hours]) - len(set(found[:hours])) == (1 if hours == 25 else 0)


@pytest.mark.parametrize("zone", ZONES)
def test_days_of_a_zone_know_their_weekday(zone: str) -> None:
    of = spec("1d", "auto", zone)
    _, ts = frames(of, 800)
    found = Phases(of).of(ts)[:, 0].tolist()
    assert found == [local(at, zone).weekday() for at in ts.tolist()]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_months_know_their_place_in_the_year(zone: str) -> None:
    of = spec("1mo", "auto", zone)
    _, ts = frames(of, 40, datetime(1968, 5, 15, tzinfo=UTC))
    assert Phases(of).of(ts)[:, 0].tolist() == [local(at, zone).month - 1 for at in ts.tolist()]
    quarters = spec("3mo", "1y", zone)
    _, ts = frames(quarters, 9)
    assert Phases(quarters).of(ts)[:, 0].tolist() == [(local(at, zone).month - 1) // 3 for at in ts.tolist()]


@pytest.mark.parametrize("season", ["1y", "1mo"])
def test_days_in_a_year_or_a_month_run_from_its_first_to_its_last(season: str) -> None:
    of = spec("1d", season, "Europe/London")
    _, ts = frames(of, 1500)
    found = Phases(of).of(ts)[:, 0]
    known = of.seasons[0]
    for at, position in zip(ts.tolist(), found.tolist(), strict=True):
        day = local(at, "Europe/London")
        first = day.day == 1 and (season == "1mo" or day.month == 1)
        assert position == 0.0 if first else 0.0 < position < known.bins
    moved = np.diff(found)
    assert np.abs(moved[moved > 0] - known.per_step).max() < 0.15  # months have 28 to 31 days


def test_every_step_has_one_cell_and_the_next_step_the_next_one() -> None:
    for step, season in (("15m", "1d"), ("1h", ["1d", "7d"]), ("5m", "1d"), ("1mo", "1y"), ("1d", "7d"), ("1m", "1h")):
        of = spec(step, season)
        _, ts = frames(of, 500)
        positions = Phases(of).of(ts)
        for k, known in enumerate(of.seasons):
            assert known.per_step == 1.0 and known.lag == known.bins
            assert np.array_equal(np.diff(positions[:, k]) % known.bins, np.ones(499))


@pytest.mark.parametrize(("step", "season"), [("7m", "1d"), ("1s", "1d"), ("20m", "7d"), ("1w", "1y")])
def test_positions_between_cells_move_on_by_per_step(step: str, season: str) -> None:
    of = spec(step, season)
    _, ts = frames(of, 3000)
    known = of.seasons[0]
    moved = np.diff(Phases(of).of(ts)[:, 0]) % known.bins
    assert np.abs(moved - known.per_step).max() < (0.02 if season == "1y" else 1e-9)


# ── days by their type ───────────────────────────────────────────────────────────────────────────────────────────────

HOLIDAYS = ["2024-03-29", "2024-12-25", "2024-12-26", "2025-01-01"]


def day_type(day: date) -> int:
    return 2 if day.isoformat() in HOLIDAYS or day.weekday() == 6 else 1 if day.weekday() == 5 else 0


@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "America/New_York"])
@pytest.mark.parametrize("step", ["1h", "1d", "7m", "1m", "12h"])
def test_a_days_type_chooses_its_profile_and_holidays_are_sundays(step: str, zone: str) -> None:
    of = spec(step, {"key": "day_type", "holidays": HOLIDAYS}, zone)
    count = 400 * 86_400_000 // of.step_ms
    _, ts = frames(of, count, every=max(1, count // 2000))
    (known,) = of.seasons
    for at, position in zip(ts.tolist(), Phases(of).of(ts)[:, 0].tolist(), strict=True):
        wall = local(at, zone)
        kind, within = divmod(position, known.cells)
        assert kind == day_type(wall.date())
        exact = (wall.hour * 60 + wall.minute) / 1440 * known.cells
        assert within == (np.floor(exact + 1e-9) if known.per_step == 1.0 else pytest.approx(exact, abs=1e-6))


@pytest.mark.parametrize("zone", ["UTC", "Europe/London"])
@pytest.mark.parametrize("step", ["1h", "1d", "7m"])
def test_positions_ahead_are_those_that_the_steps_then_have(step: str, zone: str) -> None:
    of = spec(step, {"key": "day_type", "holidays": HOLIDAYS}, zone, horizon=30)
    phases = Phases(of)
    assert phases.keyed
    number, ts = frames(of, 2000)
    whole = phases.of(ts)[:, 0]
    for rows in (np.arange(1500), np.array([7]), np.array([3, 900, 3, 1400, 0]), np.zeros(0, dtype=np.int64)):
        found = phases.ahead(number[rows])
        assert found.shape == (len(rows), 31)
        assert np.array_equal(found, whole[rows[:, None] + np.arange(31)])


# ── of what else they do not depend ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("step", "season"),
    [("1h", ["1d", "7d"]), ("7m", "1d"), ("1s", "1d"), ("1d", "7d"), ("1mo", "1y"), ("1h", {"key": "day_type"})],
)
def test_a_batch_cut_anywhere_has_the_same_positions_to_the_last_bit(step: str, season: Any) -> None:
    of = spec(step, season, "America/New_York")
    phases = Phases(of)
    number, ts = frames(of, 700, datetime(2024, 3, 1, tzinfo=UTC))
    order = np.random.default_rng(1).permutation(len(ts))
    whole: F64 = phases.of(ts)
    assert np.array_equal(phases.of(ts[order]), whole[order])
    cuts = [0, 1, 2, 9, 350, 700]
    assert np.array_equal(np.concatenate([phases.of(ts[a:b]) for a, b in pairwise(cuts)]), whole)
    if phases.keyed:
        ahead = phases.ahead(number)
        assert np.array_equal(phases.ahead(number[order]), ahead[order])
        assert np.array_equal(np.concatenate([phases.ahead(number[a:b]) for a, b in pairwise(cuts)]), ahead)


def test_no_season_is_no_column() -> None:
    of = spec("1h", "off")
    phases = Phases(of)
    assert phases.of(frames(of, 5)[1]).shape == (5, 0)
    assert not phases.keyed


def test_every_lag_is_bounded_and_whole() -> None:
    """Whatever the step: at most LAG_MAX values are kept, at most 336 cells, and both say the same season."""
    for step in (
        "1s",
        "2s",
        "10s",
        "30s",
        "1m",
        "2m",
        "3m",
        "4m",
        "5m",
        "9m",
        "10m",
        "20m",
        "45m",
        "50m",
        "90m",
        "5h",
        "12h",
    ):
        for season in ("1d", "7d", "8h", ["1d", "7d"]):
            try:
                seasons = spec(step, season).seasons
            except ValueError:
                continue
            for known in seasons:
                assert 2 <= known.bins <= 336 and 0 <= known.lag <= LAG_MAX
                assert known.lag == 0 or known.lag * known.per_step == pytest.approx(known.bins)


def test_a_season_is_a_plain_value() -> None:
    assert Season("1d", 24, 1.0, 24) == spec("1h", "1d").seasons[0]
    assert hash(spec("1h", ["1d", "7d"])) == hash(spec("1h", ["1d", "7d"]))
    assert DAY_TYPE == "day_type"
