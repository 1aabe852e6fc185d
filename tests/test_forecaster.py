"""OnlineForecaster: the service's own numbers as a Python object, and clear words for what is no tick."""

# ruff: noqa: DTZ001 - times without a zone are what notebooks have

from __future__ import annotations

import asyncio
import copy
import doctest
import math
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from running import START, all_committed, made, on_virtual_clock, tick, until

import streamrnn
from streamrnn import Forecast, OnlineForecaster, TickRefused
from streamrnn.model.weights import build
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.records import ForecastBatch, ImputationBatch, Outputs
from streamrnn.serving.worker import Worker
from streamrnn.stores.models import BY_GATE, ModelsWriter, Pointer
from streamrnn.transports.memory.transport import MemoryTransport

LEARN: dict[str, Any] = {
    "min_steps": 300, "updates": 40, "length": 48, "burn_in": 8, "chunk_len": 20, "holdout": 24, "window": 512, "batch_series": 8,
    "lr": 0.01,
}  # fmt: skip
SMALL: dict[str, Any] = {"model": {"hidden": 12}, "learn": LEARN, "warm_up": 8}
SERIES = ("a", "b", "c", "d")
STEPS, SWAP = 160, 110


# ── the same numbers as the service's ────────────────────────────────────────────────────────────────────────────────


def ticks(seed: int = 0) -> list[tuple[str, int, float | None, float | None, int]]:
    """(series, step, temp, flow, arrival in ms): gaps, missing values, series that fall silent, late and double ticks."""
    rng = np.random.default_rng(seed)
    made: list[tuple[str, int, float | None, float | None, int]] = []
    for step in range(STEPS):
        for k, name in enumerate(SERIES):
            if rng.random() < 0.08 or (name == "d" and 60 <= step < 100) or (name == "c" and 127 <= step < 150):
                continue
            value = math.sin(step / 5 + k) + 0.1 * float(rng.standard_normal())
            flow = None if rng.random() < 0.1 else 3.0 + float(rng.standard_normal())
            made.append((name, step, value, flow, START + 1000 * step + int(rng.integers(200))))
            if rng.random() < 0.03:
                made.append((name, step - int(rng.integers(2)), value, flow, START + 1000 * step + 300))
            if rng.random() < 0.02:
                made.append((name, step + 500, value, flow, START + 1000 * step + 300))
    return made


class Listening(WorkerObserver):
    """Keeps what the engine gave."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.outputs: list[Outputs] = []

    def batch(self, outputs: Outputs, *more: Any) -> None:
        self.outputs.append(outputs)
        super().batch(outputs, *more)


def forecasts_of(batch: ForecastBatch) -> list[tuple[Any, ...]]:
    return [
        (name, us, batch.mean[i].tobytes(), batch.quantiles[i].tobytes(), bool(batch.warm[i]), batch.model)
        for i, (name, us) in enumerate(zip(batch.series, batch.ts_us.tolist(), strict=True))
    ]


def fills_of(batch: ImputationBatch) -> list[tuple[Any, ...]]:
    arrays = (batch.values, batch.filled, batch.lower, batch.upper)
    return [
        (name, us, *(array[i].tobytes() for array in arrays))
        for i, (name, us) in enumerate(zip(batch.series, batch.ts_us.tolist(), strict=True))
    ]


async def served(changes: dict[str, Any], weights: bytes) -> list[Outputs]:
    """What a worker on the memory transport gives for `ticks`; the weights come into use at SWAP."""
    chosen, broker = made(1, train="off", **changes)
    model = build(weights)[1].id if weights else ""
    observer = Listening(chosen.stream_spec())
    worker = Worker(chosen, MemoryTransport(broker), observer)
    task = asyncio.create_task(worker.run())
    try:
        for name, step, temp, flow, arrived in ticks():
            if weights and step == SWAP and worker.engine.model == "persistence":
                broker.announce()
                await until(lambda: all_committed(broker))
                sink = MemoryTransport(broker).sink()
                await sink.start()
                writer = ModelsWriter(sink, chosen.topics.models)
                await writer.upload(model, weights, {}, START)
                await writer.point(Pointer(model, BY_GATE, START))
                await until(lambda: (worker.weights and worker.weights.pending) or worker.engine.model == model)
            broker.append("ticks", 0, name.encode(), tick(name, step, temp, flow), arrived)
        broker.announce()
        await until(lambda: all_committed(broker))
    finally:
        worker.stop()
        await asyncio.wait_for(task, 60)
    return observer.outputs


CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "late ticks are waited for": {"lateness": "2s"},
    "all experts, a season": {"season": "20s", "experts": "full", "within": "last", "quantiles": [0.1, 0.5, 0.9, 0.95]},
    "the complete series": {"imputed": "all", "idle_after": "5s", "align": "nearest"},
}


@pytest.mark.parametrize(("name", "learnt"), [("plain", False), *((name, True) for name in CHANGES)])
def test_it_says_what_the_service_says_bit_for_bit(name: str, learnt: bool, tmp_path: Path) -> None:
    """With learnt weights from SWAP on, and a forecaster that is saved and loaded in between."""
    changes = CHANGES[name]
    mine = OnlineForecaster(channels=["temp", "flow"], step="1s", horizon=3, **{**SMALL, **changes})
    said: list[Forecast] = []
    filled: list[tuple[Any, ...]] = []
    refused = 0
    weights = b""
    for name, step, temp, flow, arrived in ticks():
        if step == SWAP and learnt and not weights:
            fit = mine.fit()
            assert fit.accepted, fit
            weights = mine.weights
        if step == 130 and refused:  # somewhere after it
            mine.save(tmp_path / "saved")
            mine = OnlineForecaster.load(tmp_path / "saved")
        try:
            mine.learn_one({"temp": temp, "flow": flow}, ts=START + 1000 * step, series=name, arrived=arrived)
        except TickRefused:
            refused += 1
        said += mine.forecast_many() if mine._forecasts else []
        filled += [each for part in mine._filled for each in fills_of(part)]
    outputs: list[Outputs] = []

    @on_virtual_clock
    async def run() -> None:
        outputs.extend(await served({**flat(SMALL), **changes}, weights))

    run()
    theirs = {each[:2]: each for part in outputs for each in forecasts_of(part.forecasts)}
    assert (
        len(said) > 200 and mine.rejected["late"] + mine.rejected["duplicate"] + mine.rejected["future"] == refused > 5
    )
    for forecast in said:
        us = round(forecast.ts.timestamp() * 1e6)
        levels = np.stack(list(forecast.quantiles.values()), axis=1)
        assert theirs[forecast.series, us] == (
            forecast.series, us, forecast.mean.tobytes(), levels.tobytes(), forecast.warm, forecast.model,
        )  # fmt: skip
    assert filled == [each for part in outputs for each in fills_of(part.imputations)]
    assert len(filled) > 50
    newest = dict(theirs.keys())
    assert {f.series: round(f.ts.timestamp() * 1e6) for f in mine.forecast_many()} == newest
    assert (mine.model == "persistence") != learnt
    assert sum(mine.rejected.values()) == sum(len(part.rejected) for part in outputs)


def flat(sections: dict[str, Any]) -> dict[str, Any]:
    return {
        key if not isinstance(value, dict) else f"{key}.{name}": each
        for key, value in sections.items()
        for name, each in (value.items() if isinstance(value, dict) else [("", value)])
    }


# ── saved and loaded ─────────────────────────────────────────────────────────────────────────────────────────────────


def walk(count: int, seed: int = 0) -> list[float]:
    return [float(each) for each in np.random.default_rng(seed).standard_normal(count).cumsum()]


def hourly(**settings: Any) -> OnlineForecaster:
    return OnlineForecaster(**{"step": "1h", "horizon": 3, "experts": "light", "train": "off", **settings})


@pytest.mark.parametrize("way", ["file", "bytes", "copy"])
def test_what_is_saved_goes_on_bit_for_bit(way: str, tmp_path: Path) -> None:
    """With ticks held back, more series than there is room for, and one that was silent longest."""
    mine = hourly(lateness="1h", series_max=3)
    values = walk(80)
    for hour, value in enumerate(values[:40]):
        mine.learn_one(value, ts=hour * 3_600_000, series="abc"[hour % 3])
    if way == "file":
        mine.save(tmp_path / "f")
        other = OnlineForecaster.load(tmp_path / "f")
    else:
        other = OnlineForecaster.from_bytes(mine.to_bytes()) if way == "bytes" else copy.deepcopy(mine)
    assert other.forecast_many() == mine.forecast_many()
    for hour, value in enumerate(values[40:], 40):
        for each in (mine, other):
            each.learn_one(value, ts=hour * 3_600_000, series="dabc"[hour % 4])
        assert other.forecast_many() == mine.forecast_many(), hour
        assert other.series == mine.series
    assert mine.evicted > 3 and len(mine.forecast_many()) == 3


def test_a_file_that_is_no_forecaster_is_said_to_be_none(tmp_path: Path) -> None:
    mine = hourly()
    mine.learn_one(1.0, ts=0)
    whole = mine.to_bytes()
    for saved, why in (
        (b"", "not a saved forecaster"),
        (b"PK\x03\x04 a zip file, and more of it than the header is long", "not a saved forecaster"),
        (whole[:-1], "digest"),
        (whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], "digest"),
        (whole[:5] + b"\x09" + whole[6:], "newer streamrnn"),
    ):
        (tmp_path / "f").write_bytes(saved)
        with pytest.raises(ValueError, match=why) as caught:
            OnlineForecaster.load(tmp_path / "f")
        assert str(tmp_path / "f") in str(caught.value)


# ── what is no tick ──────────────────────────────────────────────────────────────────────────────────────────────────

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown channel": ({"y": {"tmep": 1.0}}, "'tmep' is not one of channels temp, flow; did you mean temp?"),
    "no channel": ({"y": {}}, "no channel of temp, flow"),
    "one value of two": ({"y": 1.0}, "write a dict"),
    "a text": ({"y": {"temp": "21.4"}}, "channel 'temp': '21.4' is not a number"),
    "a truth": ({"y": {"temp": True}}, "channel 'temp': True is not a number"),
    "infinite": ({"y": {"temp": float("inf")}}, "channel 'temp': inf is not finite"),
    "too large": ({"y": {"temp": 1e31}}, "channel 'temp': 1e"),
    "no time": ({"ts": "yesterday"}, "ts: 'yesterday' is not RFC 3339"),
    "a list for a time": ({"ts": [1]}, r"ts: \[1\] is not a time"),
    "not a time": ({"ts": np.datetime64("NaT")}, "is not a time"),
    "microseconds": ({"ts": START * 1000}, "centuries away; whole numbers are milliseconds"),
    "no name": ({"series": ""}, "series: '' is no name"),
    "a name with a line in it": ({"series": "a\nb"}, "is no name"),
    "a name that is none": ({"series": 1.5}, "series: 1.5 is no name"),
    "late": ({"ts": START - 1000}, "series 'pump-7', ts .*: late: .*closed its steps up to"),
    "twice": ({"ts": START}, "duplicate: .*its step has this channel already"),
    "ahead of its arrival": ({"ts": START + 3_600_000, "arrived": START}, "future: .*future_max"),
    "decades from its arrival": ({"ts": 0, "arrived": START}, "timestamp: .*past_max"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_tick_that_cannot_be_taken_says_why_and_changes_no_number(case: tuple[dict[str, Any], str]) -> None:
    given, why = case
    mine, other = (
        OnlineForecaster(["temp", "flow"], step="1s", horizon=3, experts="light", train="off") for _ in range(2)
    )
    for each in (mine, other):
        for step, value in enumerate(walk(20)):
            each.learn_one({"temp": value, "flow": 1.0}, ts=START + 1000 * (step - 19), series="pump-7")
    good: dict[str, Any] = {"y": {"temp": 1.0, "flow": 2.0}, "ts": START + 1000, "series": "pump-7"}
    with pytest.raises((ValueError, TypeError), match=why):
        mine.learn_one(**{**good, **given})
    assert mine.forecast_many() == other.forecast_many()
    for each in (mine, other):
        each.learn_one(**good)
    assert mine.forecast() == other.forecast() and mine.series == other.series == ("pump-7",)


def test_what_is_asked_of_no_series_names_those_that_there_are() -> None:
    mine = hourly()
    with pytest.raises(ValueError, match="nothing is forecast yet"):
        mine.forecast()
    for name in ("pump-7", "pump-8"):
        mine.learn_one(1.0, ts=0, series=name)
    with pytest.raises(ValueError, match="say which series: there are pump-7, pump-8"):
        mine.forecast()
    with pytest.raises(ValueError, match=r"'pump-9' has no forecast: did you mean pump-[78]"):
        mine.forecast(series="pump-9")
    with pytest.raises(ValueError, match="horizon: 4 steps are asked for, and the forecaster was made for 3"):
        mine.forecast(4, series="pump-7")


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"latenes": "5s"}, "latenes: unknown setting; did you mean lateness?"),
    "of the service": ({"http": {}}, "http: is a setting of the service alone"),
    "a section's key": ({"learn": {"update": 3}}, "learn.update: unknown key; did you mean updates?"),
    "no duration": ({"lateness": "soon"}, "lateness: .*is not a duration"),
    "no step": ({"step": "1 fortnight"}, "step: "),
    "no horizon": ({"horizon": 0}, "horizon: "),
    "channels as a text": ({"channels": "temp"}, "channels: write a list"),
    "no way to train": ({"train": "later"}, "train: 'later' is not known"),
    "no season": ({"season": "fortnightly"}, "season: "),
    "no zone": ({"timezone": "Europe/Lodnon"}, "timezone: "),
}


@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_setting_that_cannot_be_used_says_which_and_what_to_write(case: tuple[dict[str, Any], str]) -> None:
    given, why = case
    with pytest.raises(ValueError, match=why):
        OnlineForecaster(**{"step": "1h", "horizon": 3, **given})


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_times_are_read_as_they_are_written_and_come_back_as_they_came() -> None:
    us = 1_795_000_000_250_000
    aware = datetime.fromtimestamp(us / 1e6, UTC)
    for ts in (us // 1000, float(us / 1000), aware.isoformat(), aware, aware.astimezone(ZoneInfo("Asia/Kolkata"))):
        mine = hourly(step="irregular")
        mine.learn_one(1.0, ts=ts)
        assert mine.forecast().ts == aware, ts
    for local in (
        datetime(2026, 7, 1, 12),
        np.datetime64("2026-07-01T12:00"),
        "2026-07-01 12:00:00",
        "2026-07-01T12:00",
    ):
        mine = hourly(timezone="Europe/London")
        mine.learn_one(1.0, ts=local)
        assert mine.forecast().ts == datetime(2026, 7, 1, 12) and mine.forecast().times[0] == datetime(2026, 7, 1, 13)
        assert int(mine._engine.table.columns["last_us"][0]) == 1_782_903_600_000_000  # 11:00 in UTC
    mine = hourly(step="1d", timezone="Europe/London", season="off")
    mine.learn_one(1.0, ts=date(2026, 10, 24))
    assert mine.forecast().times == tuple(datetime(2026, 10, day) for day in (25, 26, 27))
    mine.learn_one(1.0)  # the next one is the day of 25 hours
    mine.learn_one(1.0)
    assert mine.forecast().ts == datetime(2026, 10, 26)
    with pytest.raises(ValueError, match="happens twice in Europe/London"):
        mine.learn_one(1.0, ts=datetime(2026, 10, 25, 1, 30))
    with pytest.raises(ValueError, match="needed with step irregular"):
        hourly(step="irregular").learn_one(1.0)


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def panel(kind: str) -> Any:
    """Two series of two channels, rows of the second first; a value missing, a step missing."""
    hours = [hour for hour in range(40) if hour != 17]
    begin = datetime(2026, 11, 23)
    columns = {
        "ds": [begin + timedelta(hours=hour) for _ in "ba" for hour in hours],
        "unique_id": [name for name in "ba" for _ in hours],
        "temp": [None if hour == 30 else math.sin(hour + k) for k in range(2) for hour in hours],
        "flow": [hour % 7 for k in range(2) for hour in hours],
    }
    if kind == "dict":
        return columns
    package = pytest.importorskip(kind.partition(" ")[0])
    frame = package.DataFrame(columns)
    if kind == "pandas with a zone":
        frame["ds"] = frame["ds"].dt.tz_localize("Asia/Kolkata")
    if kind == "pandas with NA":
        frame = frame.convert_dtypes()
    if kind == "polars with a zone":
        frame = frame.with_columns(package.col("ds").dt.replace_time_zone("Asia/Kolkata"))
    return frame


@pytest.mark.parametrize(
    "kind", ["dict", "pandas", "pandas with a zone", "pandas with NA", "polars", "polars with a zone"]
)
def test_a_frame_is_the_ticks_one_by_one_in_the_order_of_their_times(kind: str) -> None:
    frame, columns = panel(kind), panel("dict")
    mine, other = (OnlineForecaster(["temp", "flow"], step="1h", horizon=3, train="off") for _ in range(2))
    learnt = mine.learn_many(frame)
    assert (learnt.rows, learnt.refused) == (78, [])
    zone = ZoneInfo("Asia/Kolkata") if "zone" in kind else None
    fills: list[Any] = []
    for row in sorted(range(78), key=lambda row: columns["ds"][row]):
        ts = columns["ds"][row].replace(tzinfo=zone)
        other.learn_one(
            {name: columns[name][row] for name in ("temp", "flow")}, ts=ts, series=columns["unique_id"][row]
        )
        fills += other.impute()
    assert mine.forecast_many() == other.forecast_many()
    assert list(mine.impute()) == fills and len(fills) == 4
    assert {fill.kind for fill in fills} == {"missing-tick", "missing-channel"}
    made = mine.forecast_many()
    table = made.to_polars() if "polars" in kind else made.to_pandas() if "pandas" in kind else made.columns()
    assert list(getattr(table, "columns", table)) == list(made.columns())
    assert sorted(set(table["unique_id"])) == ["a/flow", "a/temp", "b/flow", "b/temp"]
    assert len(table["yhat"]) == 2 * 2 * 3 and set(table["level"]) == {90.0}
    assert len(mine.impute().columns()["y"]) == 8


FRAMES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such channel": ({"temp": ..., "tmep": [1.0] * 78}, {}, "no column 'temp'; it has ds, unique_id, flow, tmep"),
    "no time": ({}, {"ts": "time"}, "no column 'time'"),
    "no series": ({}, {"series": "host"}, "no column 'host'"),
    "a text in row 3": ({"temp": [1.0, 1.0, 1.0, "n/a", *[1.0] * 74]}, {}, "row 3, column 'temp': 'n/a' is not a number"),
    "infinite in row 2": ({"temp": np.array([1.0, 1.0, np.inf, *[1.0] * 75])}, {}, "row 2, column 'temp': inf is not finite"),
    "no time in row 1": ({"ds": [datetime(2026, 1, 1), None, *[datetime(2026, 1, 1)] * 76]}, {}, "row 1, column 'ds': None is"),
    "days or months": ({"ds": ["01/02/2026"] * 78}, {}, "row 0, column 'ds': '01/02/2026' is not RFC 3339"),
    "a series without a name": ({"unique_id": ["a"] * 77 + [""]}, {}, "series: '' is no name"),
    "too short": ({"flow": [1.0]}, {}, "column 'flow' has 1 rows, and 'ds' has 78"),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_that_cannot_be_read_is_refused_whole(case: tuple[dict[str, Any], dict[str, Any], str]) -> None:
    changed, named, why = case
    frame = {name: column for name, column in {**panel("dict"), **changed}.items() if column is not ...}
    mine = OnlineForecaster(["temp", "flow"], step="1h", horizon=3, train="off")
    with pytest.raises((ValueError, TypeError), match=why):
        mine.learn_many(frame, **named)
    assert not mine.series


def test_rows_that_the_grid_refuses_are_named_and_the_others_learnt() -> None:
    frame = {"ds": [0, 3_600_000, 3_600_000, 7_200_000], "y": [1.0, 2.0, 3.0, 4.0]}
    mine = hourly()
    with pytest.raises(TickRefused, match=r"1 of 4 rows were refused, .*row 2, series 'series': duplicate") as caught:
        mine.learn_many(frame)
    assert caught.value.reason == "duplicate" and mine.rejected == {"duplicate": 1}
    again = hourly()
    learnt = again.learn_many(frame, refused="keep")
    assert [each[:2] for each in learnt.refused] == [(2, "duplicate")]
    assert again.forecast() == mine.forecast() and mine.forecast().ts == datetime(1970, 1, 1, 2, tzinfo=UTC)


# ── river ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_river_evaluates_it_as_its_own_forecasters() -> None:
    from river import datasets, evaluate, metrics, time_series

    # Months of 28 to 31 days, a year's season on top of growth.
    mine = OnlineForecaster(step="1mo", horizon=12, time="month", train="off")
    assert isinstance(mine, time_series.base.Forecaster)
    scored = evaluate.evaluate(datasets.AirlinePassengers(), mine, metrics.MAE(), horizon=12).get()
    rivers = time_series.HoltWinters(alpha=0.3, beta=0.1, gamma=0.6, seasonality=12, multiplicative=True)
    theirs = evaluate.evaluate(datasets.AirlinePassengers(), rivers, metrics.MAE(), horizon=12).get()
    assert len(scored) == len(theirs) == 12 and all(map(math.isfinite, scored))
    assert np.mean(scored) < 100, scored  # of 280 passengers on average; a year of no change is off by 40 to 120
    assert mine.forecast().ts == datetime(1959, 12, 1) and mine.forecast().times[-1] == datetime(1960, 12, 1)
    # Without times, every tick is the next step.
    plain = OnlineForecaster(step="1h", horizon=12, season="12h", train="off")
    assert all(map(math.isfinite, evaluate.evaluate(datasets.AirlinePassengers(), plain, metrics.MAE(), 12).get()))


def test_river_clones_it_and_shows_its_parameters() -> None:
    mine = hourly(lateness="2h", learn={"updates": 7})
    mine.learn_one(1.0, ts=0)
    fresh = mine.clone({"horizon": 5})
    assert (fresh.horizon, fresh.settings, fresh.series) == (5, mine.settings, ())
    assert "horizon=3" in repr(mine) and "lateness" in repr(mine)
    several = OnlineForecaster(["a", "b"], step="1h", horizon=2, train="off")
    several.learn_one({"a": 1.0, "b": 2.0}, ts=0)
    assert list(several.forecast(2)) == [{"a": 1.0, "b": 2.0}] * 2


def test_features_that_do_not_hold_the_time_are_said_to_lack_it() -> None:
    with pytest.raises(ValueError, match="x has no 'month'"):
        OnlineForecaster(step="1mo", horizon=1, time="month", train="off").learn_one(1.0, {"day": 3})


# ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_says_what_is_missing_for_a_first_network() -> None:
    mine = OnlineForecaster(step="1s", horizon=3, learn=LEARN)
    mine.learn_one(1.0, ts=START)
    assert mine.fit().reason == "too little yet: 1 of 300 steps in all" and mine.model == "persistence"
    with pytest.raises(ValueError, match='make the forecaster with train="fit"'):
        hourly().fit()


def test_training_leaves_torchs_own_numbers_alone_and_repeats() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        mine = OnlineForecaster(["temp", "flow"], step="1s", horizon=3, **SMALL)
        for name, step, temp, flow, _ in ticks():
            try:
                mine.learn_one({"temp": temp, "flow": flow}, ts=START + 1000 * step, series=name)
            except TickRefused:
                continue
        mine.fit()
        found.append((mine.weights, torch.rand(3).tolist()))
        torch.manual_seed(5)
        assert found[-1][1] == torch.rand(3).tolist()
    assert [build(weights)[1].id for weights, _ in found] == [mine.model] * 2 and mine.model != "persistence"


def test_in_the_background_weights_come_by_themselves_and_a_failure_does_not_hurt() -> None:
    mine = OnlineForecaster(
        ["temp", "flow"], step="1s", horizon=3, train="background", **{**SMALL, "learn": {**LEARN, "interval": "1ms"}}
    )
    given = [(name, step, temp, flow) for name, step, temp, flow, _ in ticks() if name != "d"]
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    lap = 0
    while mine.model == "persistence" and datetime.now(UTC) < deadline:
        for name, step, temp, flow in given:
            try:
                mine.learn_one({"temp": temp, "flow": flow}, ts=START + 1000 * (step + STEPS * lap), series=name)
            except TickRefused:
                continue
        lap += 1
    assert mine.model != "persistence"
    used = mine.to_bytes()  # waits for the round that runs
    assert mine._training is not None

    def failing(*_: Any) -> Any:
        raise RuntimeError("the device has gone")

    mine._training.learner.round = failing  # type: ignore[method-assign]
    weights = mine.model
    with pytest.warns(RuntimeWarning, match="the weights in use serve on: the device has gone"):
        mine._training._pace._next_s = 0.0
        mine.learn_one({"temp": 1.0}, ts=START + 1000 * STEPS * (lap + 20), series="a")
        mine.to_bytes()
    mine.learn_one({"temp": 1.0}, ts=START + 1000 * STEPS * (lap + 21), series="a")
    assert mine.forecast(series="a").model == weights == OnlineForecaster.from_bytes(used).model


# ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_door_gives_what_it_names_and_costs_nothing_before() -> None:
    program = (
        "import sys, streamrnn; "
        "heavy = {'torch', 'numpy', 'numba', 'river', 'pydantic'} & set(sys.modules); assert not heavy, heavy; "
        "assert [n for n in sys.modules if n.startswith('streamrnn.')] == []; "
        "found = {name: getattr(streamrnn, name) for name in streamrnn.__all__}; "
        "assert set(dir(streamrnn)) == set(found), dir(streamrnn)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'Forecastr'"):
        _ = streamrnn.Forecastr


def test_the_examples_are_right() -> None:
    import streamrnn.forecaster

    with warnings.catch_warnings():
        found = doctest.testmod(streamrnn.forecaster, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 8 and not found.failed
