"""From a producer's bytes to the steps of its series: what people's topics look like, and what they expect of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import batch

from streamrnn.calendar import parse_step, step_grid, zone_offsets
from streamrnn.kernels.steps import local_times, offset_at
from streamrnn.records import KIND_TICK, Outputs, PlainRecord, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.wire.codec import Decoder
from streamrnn.wire.encode import Encoder
from streamrnn.wire.mapping import DecodeSpec

NOON = 1_795_777_200_000  # 2026-11-27 11:00 UTC


def stream(**changes: Any) -> StreamSpec:
    base: dict[str, Any] = {
        "channels": ("x",),
        "step_ms": 1000,
        "horizon": 3,
        "series_max": 50,
        "warm_up": 2,
    }
    return StreamSpec(**{**base, **changes})


def served(
    spec: StreamSpec, documents: list[dict[str, Any]], decode: DecodeSpec | None = None
) -> tuple[Outputs, TickBatch]:
    """What the engine makes of these records; each was appended at noon."""
    records = [PlainRecord("t", 0, i, NOON, None, json.dumps(d).encode()) for i, d in enumerate(documents)]
    ticks, undecodable = Decoder(spec, decode).decode(records)
    assert undecodable == []
    return Engine(spec).process(ticks), ticks


def values_seen(spec: StreamSpec, outputs: Outputs, ticks: TickBatch) -> list[dict[str, Any]]:
    """The complete series, with `imputed: all`."""
    return [json.loads(text)["values"] for text in Encoder(spec, "t").imputations(outputs.imputations, ticks)]


def trade(ms: int, price: float, amount: float) -> dict[str, Any]:
    return {"series": "BTC", "ts": NOON - 60_000 + ms, "values": {"price": price, "amount": amount}}


TRADES = [
    trade(100, 100.0, 0.5),
    trade(100, 100.01, 0.25),
    trade(100, 100.02, 1.0),
    trade(500, 100.0, 0.5),
    trade(500, 100.01, 0.25),
    trade(500, 100.02, 1.0),
    trade(1200, 99.0, 9.0),
]


@pytest.mark.parametrize(("within", "expected"), [("sum", 3.5), ("last", 1.0), ("mean", 3.5 / 6)])
def test_fills_that_share_a_millisecond_all_count(within: Any, expected: float) -> None:
    spec = stream(channels=("price", "amount"), within=within, impute_all=True)
    outputs, ticks = served(spec, TRADES)
    assert outputs.rejected == []
    assert values_seen(spec, outputs, ticks)[0]["amount"] == pytest.approx(expected)


def test_a_producer_that_repeats_itself_is_refused_where_one_wishes() -> None:
    spec = stream(channels=("price", "amount"), within="sum", duplicates="refuse", impute_all=True)
    outputs, ticks = served(spec, TRADES)
    assert [(tick, reason) for tick, reason, _ in outputs.rejected] == [(i, "duplicate") for i in (1, 2, 4, 5)]
    assert values_seen(spec, outputs, ticks)[0]["amount"] == 1.0


def test_trades_of_one_instant_are_one_irregular_step_where_they_are_added_up() -> None:
    spec = stream(channels=("price", "amount"), within="sum", step_ms=0, impute_all=True)
    outputs, ticks = served(spec, TRADES)
    assert outputs.rejected == []
    assert [v["amount"] for v in values_seen(spec, outputs, ticks)] == [1.75, 1.75]


def test_ticks_a_third_of_a_millisecond_apart_are_each_a_step() -> None:
    begin_ns = (NOON - 10_000) * 1_000_000
    documents = [{"series": "ES", "ts": begin_ns + 300_000 * k, "values": {"x": 5000 + k % 3}} for k in range(120)]
    spec = stream(step_ms=0)
    outputs, ticks = served(spec, documents, DecodeSpec(ts_unit="ns"))
    assert outputs.rejected == []
    sent = [json.loads(text) for text in Encoder(spec, "t").forecasts(outputs.forecasts, ticks)]
    assert [document["ts"] for document in sent] == [
        pytest.approx(NOON - 10_000 + 0.3 * k, abs=1e-6) for k in range(120)
    ]
    assert sent[-1]["step_ms"] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("shape", ["long", "channels"])
def test_channels_of_one_instant_are_one_irregular_step(shape: str) -> None:
    documents = []
    for k in range(30):
        for name, value in (("a", 1.0 + k), ("b", 2.0 * k)):
            tick = {"values": {name: value}} if shape == "channels" else {"channel": name, "value": value}
            documents.append({"series": "s", "ts": NOON - 100_000 + 777 * k} | tick)
    spec = stream(channels=("a", "b"), step_ms=0, complete="record" if shape == "long" else "channels", impute_all=True)
    outputs, ticks = served(spec, documents)
    assert outputs.rejected == []
    assert values_seen(spec, outputs, ticks) == [{"a": 1.0 + k, "b": 2.0 * k} for k in range(30)]


def test_a_setting_that_is_set_is_not_recommended() -> None:
    documents = [{"series": "n1", "ts": NOON - 100_000, "values": {"cpu": 1.0, "mem": 1.0}}] * 2
    spec = stream(channels=("cpu", "mem"), step_ms=10_000, complete="channels", align="nearest")
    outputs, _ = served(spec, documents)
    assert "complete" not in outputs.rejected[0][2] and "align" not in outputs.rejected[0][2]


def test_cpu_and_memory_of_one_host_come_in_two_records() -> None:
    documents = [
        {"series": "n1", "ts": NOON - 100_000 + 10_000 * k, "values": {name: value}}
        for k in range(5)
        for name, value in (("cpu", 20.0 + k), ("mem", 61.0 - k))
    ]
    spec = stream(channels=("cpu", "mem"), step_ms=10_000, complete="channels", impute_all=True)
    outputs, ticks = served(spec, documents)
    assert outputs.rejected == []
    assert values_seen(spec, outputs, ticks) == [{"cpu": 20.0 + k, "mem": 61.0 - k} for k in range(5)]
    # A forecast leaves with the record that completes the step.
    assert outputs.forecasts.tick.tolist() == [1, 3, 5, 7, 9]
    refused, _ = served(stream(channels=("cpu", "mem"), step_ms=10_000), documents)
    assert [(tick, reason) for tick, reason, _ in refused.rejected] == [(k, "duplicate") for k in (1, 3, 5, 7, 9)]
    assert "complete: channels" in refused.rejected[0][2]


def test_records_of_a_step_that_overlap_are_refused_and_a_missing_one_is_not_waited_for() -> None:
    rows = [{"cpu": 1.0}, {"cpu": 2.0, "mem": 3.0}, {"mem": 4.0}]
    documents = [{"series": "n1", "ts": NOON - 100_000, "values": v} for v in rows]
    documents.append({"series": "n1", "ts": NOON - 90_000, "values": {"cpu": 5.0}})
    documents.append({"series": "n1", "ts": NOON - 80_000, "values": {"cpu": 6.0}})
    spec = stream(channels=("cpu", "mem"), step_ms=10_000, complete="channels")
    outputs, ticks = served(spec, documents)
    assert [(tick, reason) for tick, reason, _ in outputs.rejected] == [(1, "duplicate")]
    fills = [json.loads(text) for text in Encoder(spec, "t").imputations(outputs.imputations, ticks)]
    assert [(f["ts"], list(f["imputed"])) for f in fills] == [(NOON - 90_000, ["mem"])]


def test_a_tick_just_before_the_full_minute_belongs_to_it() -> None:
    rng = np.random.default_rng(0)
    jitter = rng.integers(-40, 41, 200)
    documents = [
        {"series": "a", "ts": int(NOON - 300 * 60_000 + 60_000 * k + jitter[k]), "values": {"x": 20 + 0.1 * k}}
        for k in range(200)
    ]
    nearest, _ = served(stream(step_ms=60_000, align="nearest"), documents)
    assert nearest.rejected == [] and len(nearest.imputations) == 0
    assert (nearest.forecasts.ts_us % 60_000_000 == 0).all() and len(nearest.forecasts) == 200
    floor, _ = served(stream(step_ms=60_000), documents)
    assert {reason for _, reason, _ in floor.rejected} == {"duplicate"}
    assert all("align: nearest" in detail for _, _, detail in floor.rejected)


def test_a_refusal_tells_of_the_series_as_it_was_at_that_record() -> None:
    begin = NOON - 100_000
    ms = [0, 5000, 2000, 50_000, 4000]
    outputs, _ = served(stream(gap_max=2), [{"series": "a", "ts": begin + at, "values": {"x": 1.0}} for at in ms])
    assert [(tick, reason) for tick, reason, _ in outputs.rejected] == [(2, "late"), (4, "late")]
    assert f"up to {begin + 5000} " in outputs.rejected[0][2] and f"up to {begin + 50_000} " in outputs.rejected[1][2]


@pytest.mark.parametrize(
    ("factor", "unit"), [(0.001, "s"), (1000, "us"), (1_000_000, "ns")], ids=["seconds", "microseconds", "nanoseconds"]
)
def test_times_in_another_unit_are_refused_with_the_unit(factor: float, unit: str) -> None:
    documents = [{"series": "a", "ts": int((NOON + 1000 * k) * factor), "values": {"x": 1.0}} for k in range(-9, 0)]
    records = [PlainRecord("t", 0, i, NOON, None, json.dumps(d).encode()) for i, d in enumerate(documents)]
    ticks, undecodable = Decoder(stream()).decode(records)
    outputs = Engine(stream()).process(ticks)
    refused = [(item.reason, item.detail) for item in undecodable] + [row[1:] for row in outputs.rejected]
    assert len(refused) == 9 and len(outputs.forecasts) == 0
    assert {reason for reason, _ in refused} == {"timestamp"}
    if len(outputs.rejected):
        assert all(f"looks like {unit}" in detail for _, _, detail in outputs.rejected)


def test_a_real_history_is_read_where_past_max_allows_it() -> None:
    spec = stream(past_max_ms=100 * 365 * 86_400_000)
    ticks = batch(["a"], [-152_668_800_000], np.ones((1, 1)), record_ts=[NOON])
    assert Engine(spec).process(ticks).rejected == []
    assert [reason for _, reason, _ in Engine(stream()).process(ticks).rejected] == ["timestamp"]


# ── the calendar ─────────────────────────────────────────────────────────────────────────────────────────────────────


def calendar(step: str, timezone: str, **changes: Any) -> StreamSpec:
    step_ms, calendar_step = parse_step(step, timezone)
    return stream(step_ms=step_ms, calendar_step=calendar_step, timezone=timezone, idle_after_ms=3 * step_ms, **changes)


def midnights(timezone: str, first: datetime, days: int) -> list[int]:
    zone = ZoneInfo(timezone)
    dates = [first.date() + timedelta(days=k) for k in range(days)]
    return [int(datetime(d.year, d.month, d.day, tzinfo=zone).timestamp()) * 1000 for d in dates]


@pytest.mark.parametrize(
    "timezone", ["Europe/London", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata"]
)
def test_the_days_of_a_place_are_steps_with_summer_time_and_all(timezone: str) -> None:
    ts = midnights(timezone, datetime(2025, 1, 1, tzinfo=UTC), 500)
    values = np.arange(500.0)[:, None] % 7
    outputs = Engine(calendar("1d", timezone)).process(batch(["site"] * 500, ts, values))
    assert outputs.rejected == [] and len(outputs.imputations) == 0
    assert (outputs.forecasts.ts_us // 1000).tolist() == ts
    # Element 0 is the forecast for the day that follows, whether it begins 23, 24 or 25 hours later.
    assert (outputs.forecasts.step_us[:-1] // 1000).tolist() == np.diff(ts).tolist()


def test_a_missing_day_is_filled_once_and_no_day_of_summer_time_is() -> None:
    ts = midnights("Europe/London", datetime(2026, 3, 25, tzinfo=UTC), 12)
    del ts[6]
    outputs = Engine(calendar("1d", "Europe/London")).process(batch(["site"] * 11, ts, np.ones((11, 1))))
    assert outputs.rejected == []
    assert (outputs.imputations.ts_us // 1000).tolist() == midnights(
        "Europe/London", datetime(2026, 3, 31, tzinfo=UTC), 1
    )


@pytest.mark.parametrize(("step", "months"), [("1mo", 1), ("3mo", 3), ("1y", 12)])
def test_months_quarters_and_years_are_steps(step: str, months: int) -> None:
    begins = [datetime(2000 + k * months // 12, k * months % 12 + 1, 1, tzinfo=UTC) for k in range(80)]
    ts = [int(at.timestamp()) * 1000 for at in begins if at.year < 2060]
    outputs = Engine(calendar(step, "UTC")).process(batch(["riders"] * len(ts), ts, np.ones((len(ts), 1))))
    assert outputs.rejected == [] and len(outputs.imputations) == 0
    assert (outputs.forecasts.ts_us // 1000).tolist() == ts


def test_weeks_begin_on_monday() -> None:
    grid = calendar("1w", "UTC").grid()
    begin = datetime.fromtimestamp(grid.start_us(grid.index(NOON * 1000)) / 1e6, UTC)
    assert (begin.weekday(), begin.hour, begin.day) == (0, 0, 23)


def test_a_tick_is_nearest_to_the_midnight_that_is_nearest() -> None:
    spec = calendar("1d", "Europe/London", align="nearest")
    ts = [
        at + 1000 * s
        for at, s in zip(
            midnights("Europe/London", datetime(2026, 3, 20, tzinfo=UTC), 15), [-9, 9, -1] * 5, strict=True
        )
    ]
    outputs = Engine(spec).process(batch(["site"] * 15, ts, np.ones((15, 1))))
    assert outputs.rejected == [] and len(outputs.imputations) == 0


ZONES = [
    "UTC",
    "Europe/London",
    "America/Sao_Paulo",
    "Asia/Tehran",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
]


# A zone's table is made anew for each example: so each looks at several instants.
INSTANTS = st.lists(st.integers(-3_000_000_000, 4_000_000_000), min_size=6, max_size=12)


@settings(deadline=None, max_examples=50)
@given(
    INSTANTS,
    st.sampled_from(["250ms", "1s", "1h", "1d", "2d", "1w", "1mo", "3mo", "1y"]),
    st.sampled_from(ZONES),
    st.sampled_from(["floor", "nearest"]),
)
def test_every_instant_lies_in_one_step(seconds: list[int], step: str, timezone: str, align: Any) -> None:
    grid = step_grid(*parse_step(step, timezone), align)
    for ts in (second * 1_000_000 + 123_456 for second in seconds):
        k = grid.index(ts)
        assert grid.index(grid.start_us(k)) == k and grid.start_us(k) < grid.start_us(k + 1)
        assert grid.end_us(k - 1) <= ts < grid.end_us(k)
        if align == "floor":
            assert grid.start_us(k) <= ts < grid.start_us(k + 1)
        else:
            distance = abs(grid.start_us(k) - ts)
            assert distance <= abs(grid.start_us(k + 1) - ts) and distance <= abs(grid.start_us(k - 1) - ts)


@settings(deadline=None, max_examples=50)
@given(INSTANTS, st.sampled_from(ZONES))
def test_local_time_is_that_of_the_zone(seconds: list[int], timezone: str) -> None:
    offsets = zone_offsets(timezone)
    for second in seconds:
        shift = datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(timezone)).utcoffset()
        assert shift is not None
        assert offset_at(second * 1_000_000, *offsets) == shift // timedelta(microseconds=1)


def test_a_days_phase_is_local() -> None:
    """Nine in the morning looks the same to the network in winter and in summer."""
    from streamrnn.stream.frontend import FrontEnd

    zone = ZoneInfo("Europe/London")
    ts = [int(datetime(2026, month, 10, 9, tzinfo=zone).timestamp()) * 1000 for month in (1, 7)]
    front = FrontEnd(stream(step_ms=3_600_000, calendar_ms=(86_400_000,), timezone="Europe/London", gap_max=0))
    frames = front.process(batch(["a", "a"], ts, np.ones((2, 1))))
    assert (frames.kind == KIND_TICK).all()
    assert np.array_equal(frames.moment[0, -2:], frames.moment[1, -2:])
    assert local_times(np.array(ts) * 1000, *zone_offsets("Europe/London"))[1] // 3_600_000_000 % 24 == 9


def test_one_long_record_does_not_slow_the_table_down_for_good() -> None:
    made = Engine(stream(channels=("x", "y")))
    served_by: list[str] = []
    for name in ("_align_compiled", "_align_reference"):
        whole = getattr(made.front, name)
        setattr(made.front, name, lambda *a, n=name, w=whole: (served_by.append(n), w(*a))[1])
    wide = batch(["a", "b"], [NOON, NOON], np.ones((2, 2)))
    long = batch(["a"], [NOON + 1000], [[1.0, np.nan]])
    long.channel[:] = 0
    other = batch(["a"], [NOON + 1000], [[np.nan, 1.0]])
    other.channel[:] = 1
    later = batch(["a", "b"], [NOON + 2000, NOON + 2000], np.ones((2, 2)))
    for ticks in (wide, long, other, later):
        made.process(ticks)
    assert served_by == ["_align_compiled", "_align_reference", "_align_reference", "_align_compiled"]
