"""Experts in the engine: good from the first minute on, never worse than no change, healthy whatever the field sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamrnn.records import F64, TickBatch
from streamrnn.season import SeasonSetting, season_of, season_setting
from streamrnn.spec import EXPERTS, StreamSpec
from streamrnn.stream.engine import Engine

HOUR_MS = 3_600_000
START_MS = 1_700_006_400_000  # a midnight
LIGHT = ("season-ago", "profile")


def spec(channels: int = 1, horizon: int = 6, season: str = "1d", experts: Sequence[str] = EXPERTS) -> StreamSpec:
    made = StreamSpec(
        channels=tuple(f"c{k}" for k in range(channels)), step_ms=HOUR_MS, horizon=horizon, idle_after_ms=10**15,
        experts=tuple(experts),
    )  # fmt: skip
    return replace(made, seasons=season_of(season_setting(season), HOUR_MS, None, horizon))


def served(rows: F64, settings: StreamSpec, cut: int = 500) -> tuple[F64, F64, Engine]:
    """(means [row, channel, horizon], quantiles [row, channel, level, horizon], the engine)."""
    engine, means, quantiles = Engine(settings), [], []
    for begin in range(0, len(rows), cut):
        part = rows[begin : begin + cut]
        at = np.arange(begin, begin + len(part))
        ts = START_MS + settings.step_ms * at
        batch = TickBatch(
            [], np.zeros(len(part), np.int32), at, ts, ["s"] * len(part), ts * 1000, part.copy(),
            np.full(len(part), -1, np.int16),
        )  # fmt: skip
        out = engine.process(batch).forecasts
        means.append(out.mean)
        quantiles.append(out.quantiles)
    return np.concatenate(means), np.concatenate(quantiles), engine


def ratio(rows: F64, means: F64, begin: int, end: int | None = None) -> float:
    """Squared error over that of no change, over origins `begin..end` and all horizons."""
    horizon = means.shape[2]
    at = np.arange(begin, min(end or len(rows), len(rows) - horizon))
    came = np.stack([rows[at + h] for h in range(1, horizon + 1)], axis=-1)
    return float(((means[at] - came) ** 2).mean() / ((rows[at][..., None] - came) ** 2).mean())


def daily(count: int, channels: int = 1, seed: int = 0) -> F64:
    """A day's shape and AR(1) noise around it."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((count, channels))
    for t in range(1, count):
        noise[t] = 0.8 * noise[t - 1] + 0.3 * rng.standard_normal(channels)
    hours = np.arange(count)[:, None] % 24
    return 2.0 * np.sin(2 * np.pi * hours / 24) + np.sin(4 * np.pi * hours / 24) + noise


def walk(count: int, seed: int = 0, channels: int = 1) -> F64:
    return np.cumsum(np.random.default_rng(seed).standard_t(3, (count, channels)), axis=0)


def test_a_series_with_a_day_is_forecast_well_from_its_third_day_on() -> None:
    rows = daily(1200)
    means, _, _ = served(rows, spec())
    assert ratio(rows, means, 0, 48) < 1.05
    assert ratio(rows, means, 72, 200) < 0.5
    assert ratio(rows, means, 600) < 0.3


def test_the_whole_set_beats_every_part_of_it() -> None:
    rows = daily(3000, channels=2)
    whole = ratio(rows, served(rows, spec(2))[0], 1000)
    for part in ((), LIGHT, ("moves", "stack")):
        assert whole < 0.97 * ratio(rows, served(rows, spec(2, experts=part))[0], 1000), part


def test_a_season_that_is_not_there_costs_next_to_nothing() -> None:
    rows = walk(4000)
    assert ratio(rows, served(rows, spec(season="1d"))[0], 1000) < 1.003
    rows = np.cumsum(0.5 * np.diff(walk(4001, 3), axis=0), axis=0)
    wrong = ratio(rows, served(rows, spec(season="5h"))[0], 1000)
    none = ratio(rows, served(rows, spec(season="off"))[0], 1000)
    assert wrong < none * 1.005


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_walk_is_forecast_by_its_last_value(seed: int) -> None:
    rows = walk(5000, seed, channels=2)
    means, _, _ = served(rows, spec(2, season="off"))
    assert ratio(rows, means, 1000) < 1.002


@pytest.mark.parametrize("power", [-40, -3, 17, 60])
def test_the_unit_of_a_channel_changes_nothing(power: int) -> None:
    """Numbers times a power of two give forecasts times that power, to the bit."""
    rows = daily(700, channels=2)
    rows[300:340] = rows[299]
    rows[400, 0] += 1e5
    means, quantiles, _ = served(rows, spec(2))
    scaled = 2.0**power
    other, others, _ = served(rows * scaled, spec(2))
    assert np.array_equal(other, means * scaled)
    assert np.array_equal(others, quantiles * scaled)


def spoilt(what: str, rows: F64, begin: int, length: int) -> F64:
    """Rows of which the first channel is disturbed for a while."""
    changed = rows.copy()
    stretch = slice(begin, begin + length)
    if what.startswith("spike"):
        changed[begin, 0] += 10.0 ** int(what[6:])
    elif what.startswith("scale"):
        changed[stretch, 0] *= float(what[6:])
    elif what.startswith("level"):
        changed[stretch, 0] += float(what[6:])
    elif what == "standstill":
        changed[stretch, 0] = changed[begin, 0]
    else:
        changed[stretch, 0] = np.nan
    return changed


@pytest.mark.parametrize(
    ("what", "soon", "later"),
    [
        ("spike 3", 1.02, 1.01), ("spike 6", 1.02, 1.01), ("spike 9", 1.02, 1.01), ("spike 20", 1.02, 1.01),
        ("standstill", 1.2, 1.03), ("missing", 1.03, 1.01), ("level 10", 1.35, 1.04), ("level 10000", 9.0, 1.06),
        ("scale 0.001", 1.2, 1.03), ("scale 30", 2.5, 1.12), ("scale 1000", 20.0, 1.35),
    ],
)  # fmt: skip
def test_what_disturbs_a_channel_is_forgotten(what: str, soon: float, later: float) -> None:
    """Its error beside that of an engine that never saw it: in the 1,500 frames that come 500 later, and from 6,000 later on.
    Of a spike nothing is left at all; its neighbours hardly notice."""
    clean = daily(14_000, channels=2, seed=4)
    rows = spoilt(what, clean, 3000, 1000)
    means, quantiles, _ = served(rows, spec(2), 2000)
    known, _, _ = served(clean, spec(2), 2000)
    assert np.isfinite(means).all() and np.isfinite(quantiles).all()
    for begin, end, most in ((4500, 6000, soon), (10_000, 14_000, later)):
        assert ratio(rows[:, :1], means[:, :1], begin, end) < most * ratio(clean[:, :1], known[:, :1], begin, end)
        assert ratio(rows[:, 1:], means[:, 1:], begin, end) < 1.05 * ratio(clean[:, 1:], known[:, 1:], begin, end)


def test_spikes_standstills_and_other_scales_leave_nothing_behind() -> None:
    """Many of them in a row; two thousand hours later forecasts are half as good again as those of an engine that never saw them
    at the worst."""
    clean = daily(6000, seed=4)
    rows = clean.copy()
    rows[1500] = 1e6 * 0.3
    rows[1600:1900] = rows[1599]
    rows[2200] = -1e9
    rows[2201] = 1e9
    rows[2600:2700] *= 50.0
    good, _, _ = served(clean, spec())
    means, quantiles, engine = served(rows, spec())
    assert np.isfinite(means).all() and np.isfinite(quantiles).all()
    assert ratio(rows, means, 4500) < 1.5 * ratio(clean, good, 4500)
    for name, column in engine.table.columns.items():
        if column.dtype.kind == "f" and name not in ("pend_mean", "seen_range", "anchor"):
            assert np.isfinite(column[0].astype(np.float64)).all(), name


def test_a_counter_is_foreseen_to_a_few_thousandths_of_its_step() -> None:
    rows = 1e9 + 1000.0 * np.arange(1500.0)[:, None]
    means, _, _ = served(rows, spec(season="off"))
    came = np.stack([rows[700 + h : 1400 + h] for h in range(1, 7)], axis=-1)
    assert np.abs(means[700:1400] - came).max() < 25.0


def test_a_jump_to_another_level_is_followed() -> None:
    rows = daily(3000, seed=5)
    rows[1500:] += 60.0
    means, _, _ = served(rows, spec())
    assert ratio(rows, means, 1501, 1560) < 15.0
    assert ratio(rows, means, 1600, 1700) < 1.0
    assert ratio(rows, means, 2200) < 0.5


def test_the_day_type_tells_what_a_holiday_is_like() -> None:
    """Daily numbers, low on Sundays and on days that the calendar names."""
    rng = np.random.default_rng(0)
    days = 900
    dates = np.datetime64("2020-01-01") + np.arange(days)
    weekday = (dates.astype("datetime64[D]").astype(int) + 3) % 7
    holiday = rng.random(days) < 0.04
    off = (weekday == 6) | holiday
    rows = np.where(off, 10.0, np.where(weekday == 5, 40.0, 100.0))[:, None] + rng.normal(0, 2, (days, 1))
    setting = SeasonSetting(
        False, (), "day_type", tuple(dates[holiday & (weekday != 6)].astype("datetime64[D]").tolist())
    )
    ts = dates.astype("datetime64[ms]").astype(np.int64)
    errors = []
    for seasons in (season_of(setting, 86_400_000, None, 1), season_of(season_setting("7d"), 86_400_000, None, 1)):
        settings = replace(spec(horizon=1), step_ms=86_400_000, seasons=seasons)
        batch = TickBatch(
            [],
            np.zeros(days, np.int32),
            np.arange(days),
            ts,
            ["s"] * days,
            ts * 1000,
            rows.copy(),
            np.full(days, -1, np.int16),
        )
        means = Engine(settings).process(batch).forecasts.mean[:, 0, 0]
        errors.append(np.abs(means[300:-1] - rows[301:, 0]).mean())
    assert errors[0] < 4.0
    assert errors[0] < 0.6 * errors[1]


def test_memory_grows_with_the_logarithm_of_the_horizon() -> None:
    def size(channels: int, horizon: int, experts: Sequence[str]) -> int:
        made = spec(channels, horizon, experts=experts)
        made = replace(made, step_ms=900_000, seasons=season_of(season_setting("1d"), 900_000, None, horizon))
        return Engine(made).table.row_bytes()

    state = 2 * 64 * 4  # of a GRU with two layers
    assert size(7, 96, LIGHT) + state < 32 * 1024
    assert size(7, 96, EXPERTS) + state < (32 + 7 * 16) * 1024
    small = Engine(replace(spec(4, 12, "off", ()), step_ms=1000)).table.row_bytes() + state
    assert small < 6250
    far, near = size(7, 768, ()), size(7, 96, ())
    assert far < 4 * near


def test_a_gap_beyond_what_is_filled_is_not_taken_for_one_step() -> None:
    """What lay before it is no neighbour of what comes after it: nothing is judged or learnt across."""
    rows = daily(900, seed=6)
    settings = replace(spec(), gap_max=4)
    engine = Engine(settings)
    at = np.concatenate([np.arange(500), np.arange(511, 911)])  # eleven hours are skipped
    ts = START_MS + HOUR_MS * at
    values = np.concatenate([rows[:500], daily(911, seed=6)[511:]])
    batch = TickBatch(
        [], np.zeros(900, np.int32), np.arange(900), ts, ["s"] * 900, ts * 1000, values, np.full(900, -1, np.int16)
    )
    means = engine.process(batch).forecasts.mean
    came = np.stack([values[520 + h : 880 + h] for h in range(1, 7)], axis=-1)
    naive = values[520:880][..., None]
    assert ((means[520:880] - came) ** 2).mean() < 0.4 * ((naive - came) ** 2).mean()
