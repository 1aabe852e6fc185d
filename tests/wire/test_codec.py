from __future__ import annotations

import base64
import json
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.records import Rejected, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.wire.codec import DETAIL_CHARS_MAX, TS_MS_MAX, Decoder, DecodeSpec, dead_letter
from streamrnn.wire.mapping import TsUnit, split_path

CHANNELS = ("temp", "flow")
SPEC = StreamSpec(channels=CHANNELS, step_ms=1000, horizon=4)
T0 = 1_764_000_000_000


@dataclass(frozen=True)
class Plain:
    value: bytes | None
    key: bytes | None = b"key-1"
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = T0 + 7
    offset: int = 0
    partition: int = 3
    topic: str = "ticks"


def one(message: object, decode: DecodeSpec | None = None, spec: StreamSpec = SPEC, **record: Any) -> TickBatch:
    """The batch of one record that must be readable."""
    value = message if isinstance(message, bytes) else json.dumps(message).encode()
    batch, rejected = Decoder(spec, decode).decode([Plain(value, **record)])
    assert rejected == []
    assert len(batch) == 1
    return batch


def refusal(message: object, decode: DecodeSpec | None = None, spec: StreamSpec = SPEC, **record: Any) -> Rejected:
    batch, (rejected,) = Decoder(spec, decode).decode([Plain(json.dumps(message).encode(), **record)])
    assert len(batch) == 0
    return rejected


BINARY = (
    ("ce_specversion", b"1.0"),
    ("ce_type", b"tick"),
    ("ce_subject", b"pump-7"),
    ("ce_time", b"2025-11-24T16:00:00.5Z"),
    ("content-type", b"application/json"),
)

names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40)
numbers = st.floats(-1e15, 1e15) | st.integers(-(10**15), 10**15)
wides = st.fixed_dictionaries(
    {"series": names, "ts": st.integers(0, TS_MS_MAX)},
    optional={
        "values": st.dictionaries(st.sampled_from([*CHANNELS, "other"]), st.none() | numbers),
        "extra": st.text(),
    },
)


@settings(deadline=None)
@given(st.lists(wides, max_size=6))
def test_wide_records_round_trip(messages: list[dict[str, Any]]) -> None:
    records = [Plain(json.dumps(message).encode(), offset=i) for i, message in enumerate(messages)]
    batch, rejected = Decoder(SPEC).decode(records)
    readable = [i for i, m in enumerate(messages) if any(channel in m.get("values", {}) for channel in CHANNELS)]
    assert batch.offset.tolist() == readable
    assert {r.reason for r in rejected} <= {"no-values"}
    for row, i in enumerate(readable):
        assert (batch.series[row], batch.ts_us[row] // 1000) == (messages[i]["series"], messages[i]["ts"])
        expected = [messages[i]["values"].get(channel) for channel in CHANNELS]
        np.testing.assert_array_equal(batch.values[row], np.array(expected, np.float64))
    assert (batch.channel == -1).all()


@settings(deadline=None)
@given(names, st.integers(0, TS_MS_MAX), st.sampled_from(CHANNELS), st.none() | numbers)
def test_long_records_round_trip(series: str, ts: int, channel: str, value: float | None) -> None:
    batch = one({"series": series, "ts": ts, "channel": channel, "value": value})
    index = CHANNELS.index(channel)
    assert (batch.series, batch.ts_us[0] // 1000, batch.channel[0]) == ([series], ts, index)
    np.testing.assert_array_equal(batch.values[0, index], np.nan if value is None else float(value))
    assert np.isnan(batch.values[0, 1 - index])


def test_the_columns_have_the_types_of_the_contract() -> None:
    batch = one({"series": "p", "ts": T0, "values": {"temp": 1, "flow": None}}, offset=81_231)
    assert (batch.partition.tolist(), batch.offset.tolist(), batch.record_ts_ms.tolist()) == ([3], [81_231], [T0 + 7])
    kinds = [a.dtype.name for a in (batch.partition, batch.offset, batch.record_ts_ms, batch.ts_us, batch.values)]
    assert kinds == ["int32", "int64", "int64", "int64", "float64"]
    assert batch.channel.dtype == np.int16
    empty, _ = Decoder(SPEC).decode([])
    assert (len(empty), empty.values.shape, empty.values.dtype) == (0, (0, 2), np.float64)


def test_all_channels_null_is_a_tick_and_none_named_is_not() -> None:
    assert np.isnan(one({"series": "p", "ts": T0, "values": {"temp": None}}).values).all()
    assert refusal({"series": "p", "ts": T0, "values": {"other": 1}}).reason == "no-values"


def test_wide_values_win_over_a_channel_field() -> None:
    batch = one({"series": "p", "ts": T0, "values": {"temp": 1}, "channel": "flow", "value": 2})
    assert batch.channel.tolist() == [-1]
    np.testing.assert_array_equal(batch.values, [[1.0, np.nan]])


def test_long_records_can_be_switched_off() -> None:
    off = DecodeSpec(channel=None, value=None)
    assert refusal({"series": "p", "ts": T0, "channel": "temp", "value": 2}, off).reason == "no-values"
    assert one({"series": "p", "ts": T0, "values": {"temp": 2}, "channel": 7, "value": "x"}, off).series == ["p"]


def test_series_falls_back_to_the_key() -> None:
    assert one({"ts": T0, "values": {"temp": 1}}).series == ["key-1"]
    assert one({"series": None, "ts": T0, "values": {"temp": 1}}, key="é".encode()).series == ["é"]
    assert one({"ts": T0, "values": {"temp": 1}}, key="already text").series == ["already text"]
    for key in (None, 10**12):
        assert refusal({"ts": T0, "values": {"temp": 1}}, key=key).reason == "no-series"


def test_256_bytes_of_series_are_allowed_in_any_script() -> None:
    for name in ("a" * 256, "é" * 128, "😀" * 64):
        assert one({"series": name, "ts": T0, "values": {"temp": 1}}).series == [name]
        assert refusal({"series": name + "a", "ts": T0, "values": {"temp": 1}}).reason == "range"


def test_bounds_are_configurable() -> None:
    tight = DecodeSpec(record_bytes_max=66, series_bytes_max=3, value_abs_max=10.0)
    good = {"series": "abc", "ts": T0, "values": {"temp": -10}}
    assert one(good, tight).values[0, 0] == -10.0
    for bad, reason, setting in (
        ({"series": "abcd"}, "range", "decode.series_bytes_max"),
        ({"values": {"temp": 10.5}}, "range", "decode.value_abs_max"),
        ({"padding": "0123456789"}, "too-large", "decode.record_bytes_max"),
    ):
        refused = refusal(good | bad, tight)
        assert refused.reason == reason
        assert setting in refused.detail


# --- event time -------------------------------------------------------------------------------------------------


def ts_of(ts: object, decode: DecodeSpec | None = None, **record: Any) -> int:
    return int(one({"series": "p", "ts": ts, "values": {"temp": 1}}, decode, **record).ts_us[0] // 1000)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2025-11-24T16:00:00Z", T0),
        ("2025-11-24T16:00:00.250Z", T0 + 250),
        ("2025-11-24T17:30:00.25+01:30", T0 + 250),
        ("2025-11-24T08:00:00.000999-08:00", T0),
        ("2025-11-24t16:00:00z", T0),
        ("2025-11-24 16:00:00Z", T0),
        ("2025-11-24T16:00:00.123456789Z", T0 + 123),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_rfc_3339(text: str, ms: int) -> None:
    assert ts_of(text) == ms
    assert ts_of(text, DecodeSpec(ts_unit="ns")) == ms


@settings(deadline=None)
@given(
    st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
)
def test_any_instant_in_any_offset(instant: datetime, offset_min: int) -> None:
    shown = instant.astimezone(timezone(timedelta(minutes=offset_min))).isoformat()
    assert ts_of(shown) == (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@settings(deadline=None)
@given(st.integers(-(1 << 42), 1 << 42))
def test_units_scale_exactly(ms: int) -> None:
    assert ts_of(ms * 1000 + 999, DecodeSpec(ts_unit="us")) == ms
    assert ts_of(ms * 1_000_000 + 999_999, DecodeSpec(ts_unit="ns")) == ms
    assert ts_of(ms, DecodeSpec(ts_unit="s")) == ms * 1000


@settings(deadline=None)
@given(st.integers(0, 4_102_444_800_000))
def test_seconds_with_a_fraction_keep_their_millisecond(ms: int) -> None:
    assert ts_of(ms / 1000, DecodeSpec(ts_unit="s")) == ms


UNITS: dict[TsUnit, int | Fraction] = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": Fraction(1, 1000)}


def us_of(ts: str, unit: TsUnit = "ms", **record: Any) -> int:
    """Event time in microseconds of a record that holds this JSON."""
    message = b'{"series":"p","ts":%s,"values":{"temp":1}}' % ts.encode()
    return int(one(message, DecodeSpec(ts_unit=unit), **record).ts_us[0])


@settings(deadline=None)
@given(
    st.sampled_from(sorted(UNITS, key=str)),
    st.integers(-(10**9), 4 * 10**9),
    st.integers(0, 10**15 - 1),
    st.integers(0, 15),
    st.booleans(),
)
def test_a_number_with_a_fraction_is_read_as_written_and_cut_off(
    unit: TsUnit, seconds: int, fraction: int, places: int, exponent: bool
) -> None:
    """Whatever the writer: Python's `time.time()`, Java's `1.795781400000E12`, a decimal column with more digits than a
    double has. The right instant is the one of exact arithmetic on the text."""
    exact = Fraction(seconds) + Fraction(fraction // 10 ** (15 - places), 10**places)
    count = exact * 10**6 / UNITS[unit]
    shift = 9 if exponent else 0
    scaled = count / 10**shift
    whole, rest = divmod(abs(scaled), 1)
    digits = f"{rest.numerator * 10**24 // rest.denominator:024d}".rstrip("0") or "0"
    text = f"{'-' if scaled < 0 else ''}{whole}.{digits}" + (f"E{shift}" if exponent else "")
    assert us_of(text, unit) == math.floor(exact * 10**6)
    assert us_of(text, unit, headers=BINARY) == math.floor(exact * 10**6)


def test_a_java_producer_writes_its_milliseconds_as_a_double() -> None:
    assert us_of("1.795781400000E12") == 1_795_781_400_000_000
    assert us_of("1.7957814001234567E9", "s") == 1_795_781_400_123_456
    assert us_of("1795781400000.0") == 1_795_781_400_000_000
    assert us_of("-0.5") == -500
    assert us_of("-0.0001") == -1
    assert us_of("1e-400") == 0


@settings(deadline=None)
@given(st.integers(1_000_000_000_000_000, 3_999_999_999_999_999))
def test_pythons_seconds_keep_their_microsecond(us: int) -> None:
    stamp = datetime.fromtimestamp(us // 10**6, UTC).replace(microsecond=us % 10**6).timestamp()
    assert us_of(json.dumps(stamp), "s") == us


def test_seconds_near_a_microsecond_are_on_the_side_that_is_written() -> None:
    """Where a double is the same for what is just below and just above."""
    rng = random.Random(5)
    texts = []
    for _ in range(5000):
        us = rng.randrange(10**15, 4 * 10**15)
        finer = rng.choice(["9" * rng.randrange(1, 8), "0" * rng.randrange(1, 8) + "1", "5", "12", "88", "4999"])
        texts += [repr(us / 1e6 + rng.random() * 1e-6), f"{us // 10**6}.{us % 10**6:06d}{finer}", f"{us / 1e15!r}E9"]
    records = [Plain(b'{"series":"p","ts":%s,"values":{"temp":1}}' % text.encode()) for text in texts]
    batch, refused = Decoder(SPEC, DecodeSpec(ts_unit="s")).decode(records)
    assert refused == []
    assert batch.ts_us.tolist() == [math.floor(Fraction(Decimal(text)) * 10**6) for text in texts]


@settings(deadline=None)
@given(st.integers(0, 4 * 10**9), st.integers(0, 10**9 - 1))
def test_the_same_instant_is_the_same_tick_however_it_is_written(seconds: int, ns: int) -> None:
    expected = (seconds * 10**9 + ns) // 1000
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    written: set[tuple[str, TsUnit]] = {
        (f"{seconds * 10**9 + ns}", "ns"),
        (f'"{text}.{ns:09d}Z"', "ms"),
        (f'"{text}.{ns:09d}+00:00"', "s"),
        (f"{seconds}.{ns:09d}", "s"),
        (f"{seconds * 1000 + ns // 10**6}.{ns % 10**6:06d}", "ms"),
    }
    assert {us_of(*how) for how in written} == {expected}
    event = (("ce_specversion", b"1.0"), ("ce_time", f"{text}.{ns:09d}Z".encode()))
    assert one({"series": "p", "values": {"temp": 1}}, headers=event).ts_us[0] == expected


def test_nanoseconds_just_before_a_second_stay_before_it() -> None:
    assert us_of('"2026-11-27T12:00:05.999999999Z"') % 10**6 == 999_999
    assert us_of('"2026-12-31T23:59:59.9999999+00:00"') % 10**6 == 999_999
    assert us_of("1795780805.999999999", "s") % 10**6 == 999_999


def test_a_time_is_refused_only_where_it_does_not_fit() -> None:
    units: list[tuple[str, TsUnit]] = [("1e305", "s"), ("-1e305", "s"), ("9" * 40, "ms"), ("1e19", "us")]
    for ts, unit in [*units, ("9" * 5000, "s"), ("[1]", "s"), ("true", "s"), ("{}", "ms"), ("4611686018428", "s")]:
        refused = Decoder(SPEC, DecodeSpec(ts_unit=unit)).decode(
            [Plain(b'{"ts":%s,"values":{"temp":1}}' % ts.encode())]
        )[1]
        assert [r.reason for r in refused] == ["timestamp"]
        assert "decode.ts" in refused[0].detail


def test_a_history_from_before_1970_is_read() -> None:
    assert ts_of(-1) == -1
    assert ts_of("1871-01-01T00:00:00Z") == -3_124_137_600_000
    assert us_of("-0.25", "s") == -250_000


def test_a_text_that_is_no_instant_says_what_it_should_be() -> None:
    for text in (
        "",
        "noon",
        "2026-11-23",
        "2026-11-23T15:00:00",
        "2026",
        "2025-11-24T16:00:00Z ",
        "x" * 999,
    ):
        refused = refusal({"ts": text, "values": {"temp": 1}})
        assert refused.reason == "timestamp"
        assert "RFC 3339" in refused.detail


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_digits_in_a_text_are_a_number_of_the_unit(unit: TsUnit) -> None:
    count = {"s": T0 // 1000, "ms": T0, "us": T0 * 1000, "ns": T0 * 1_000_000}[unit]
    assert ts_of(str(count), DecodeSpec(ts_unit=unit)) == T0
    assert us_of(f'"{T0 // 1000}.123456789"', "s") == T0 * 1000 + 123_456


def test_a_series_may_be_named_by_a_number() -> None:
    assert one({"series": 7, "ts": T0, "values": {"temp": 1}}).series == ["7"]
    assert refusal({"series": 7.5, "ts": T0, "values": {"temp": 1}}).reason == "type"


def test_without_ts_the_record_time_counts() -> None:
    assert ts_of(None) == T0 + 7
    # −1 is Kafka's "none".
    none = refusal({"values": {"temp": 1}}, timestamp=-1)
    assert none.reason == "timestamp"
    assert "neither the record nor its value has a timestamp" in none.detail


# --- numbers ----------------------------------------------------------------------------------------------------


def value_of(text: str, decode: DecodeSpec | None = None) -> float:
    return float(one(b'{"series":"p","ts":1,"values":{"temp":%s}}' % text.encode(), decode).values[0, 0])


@settings(deadline=None)
@given(
    st.integers(-(10**30), 10**30).map(str)
    | st.decimals(-(10**30), 10**30, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:.25f}")
    | st.floats(-1e30, 1e30).map(repr)
)
def test_any_number_is_read_as_the_nearest_double(text: str) -> None:
    assert value_of(text) == float(text)


def test_counters_and_wei_are_values() -> None:
    assert value_of("9007199254740993") == 9007199254740992.0
    assert value_of("18446744073709551615") == 2.0**64
    assert value_of("100000000000000000000") == value_of("1e20") == 1e20


def test_the_bound_of_values_is_a_setting() -> None:
    assert value_of("1e30") == 1e30
    refused = refusal({"ts": 1, "values": {"temp": 2e30}})
    assert refused.reason == "range"
    assert "decode.value_abs_max" in refused.detail
    assert value_of("1e300", DecodeSpec(value_abs_max=1e300)) == 1e300
    assert value_of("1" + "0" * 300, DecodeSpec(value_abs_max=1e300)) == 1e300


# --- fallbacks --------------------------------------------------------------------------------------------------

HOLES: list[dict[str, Any]] = [{}, {"device": None}, {"device": {}}, {"device": {"id": None, "at": None}}]
MAPPED = DecodeSpec(series="device.id", ts="device.at")


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("headers", [(), BINARY], ids=["plain", "CloudEvent"])
def test_a_mapped_field_that_is_null_or_absent_is_not_replaced(
    hole: dict[str, Any], headers: tuple[tuple[str, bytes], ...]
) -> None:
    """Neither the key, nor Kafka's time, nor what a CloudEvent's envelope says."""
    values = {"values": {"temp": 1}}
    no_name = refusal(hole | values | {"ts": T0}, DecodeSpec(series="device.id"), headers=headers)
    assert no_name.reason == "no-series"
    assert "'device.id'" in no_name.detail and "decode.series" in no_name.detail
    no_time = refusal(hole | values | {"series": "p"}, DecodeSpec(ts="device.at"), headers=headers)
    assert no_time.reason == "timestamp"
    assert "'device.at'" in no_time.detail and "decode.ts" in no_time.detail


def test_a_mapped_field_that_is_an_empty_text_is_not_replaced() -> None:
    message = {"device": {"id": "", "at": T0}, "values": {"temp": 1}}
    assert refusal(message, MAPPED).reason == "no-series"
    assert refusal(message | {"device": {"id": "p", "at": ""}}, MAPPED).reason == "timestamp"


def test_the_contracts_own_names_count_as_mapped_where_they_are_written_down() -> None:
    assert refusal({"ts": T0, "values": {"temp": 1}}, DecodeSpec(series="series")).reason == "no-series"
    assert refusal({"series": "p", "values": {"temp": 1}}, DecodeSpec(ts="ts")).reason == "timestamp"
    assert one({"series": "p", "ts": T0, "values": {"temp": 1}}, DecodeSpec(series="series", ts="ts")).series == ["p"]


@pytest.mark.parametrize(
    "key", [b'"pump-7"', b'{"id":1}', b'{"schema":{"type":"string"},"payload":"pump-7"}', b'["a",1]']
)
def test_a_key_that_is_json_text_is_served_and_counted(key: bytes) -> None:
    decoder = Decoder(SPEC)
    record = Plain(b'{"ts":1,"values":{"temp":1}}', key=key)
    batch, refused = decoder.decode([record, record])
    assert (batch.series, refused) == ([key.decode()] * 2, [])
    assert (decoder.json_keys.count, decoder.json_keys.example) == (2, key.decode())


def test_a_key_that_only_looks_like_json_or_names_nothing_is_not_counted() -> None:
    decoder = Decoder(SPEC)
    plain = b'{"ts":1,"values":{"temp":1}}'
    named = b'{"series":"p","ts":1,"values":{"temp":1}}'
    records = [Plain(plain, key=key) for key in (b"pump-7", b"17", b"{pump}", b"[a", b'"', b"true", b"")]
    decoder.decode([*records, Plain(named, key=b'{"id":1}'), Plain(plain, key=b'{"id":1}', headers=BINARY)])
    assert decoder.json_keys.count == 0


# --- mapping ----------------------------------------------------------------------------------------------------


def test_paths_map_any_shape() -> None:
    decode = DecodeSpec(
        series="device.id", ts="time", ts_unit="s", values={"temp": "readings.temperature", "flow": r"q\.in"}
    )
    message = {"device": {"id": "p", "x": 1}, "time": 1.5, "readings": {"temperature": 3}, "q.in": 4.5}
    batch = one(message, decode)
    assert (batch.series, (batch.ts_us // 1000).tolist(), batch.values.tolist()) == (["p"], [1500], [[3.0, 4.5]])


def test_an_object_on_the_way_that_is_null_or_absent_is_only_missing() -> None:
    decode = DecodeSpec(series="device.id", values={"temp": "a.b.temp", "flow": "flow"})
    for hole in ({"a": None}, {"a": {"b": None}}, {"a": {}}, {}):
        batch = one({"device": {"id": "p"}, "ts": T0, "flow": 2, **hole}, decode)
        np.testing.assert_array_equal(batch.values, [[np.nan, 2.0]])
    no_values = refusal({"device": {"id": "p"}, "a": {"b": None}}, decode)
    assert no_values.reason == "no-values"
    assert "'a.b.temp', 'flow'" in no_values.detail
    assert refusal({"a": {"b": 5}, "flow": 2}, decode).reason == "type"


def test_one_channel_may_be_read_from_the_field_of_the_long_form() -> None:
    single = StreamSpec(channels=("price",), step_ms=1000, horizon=4)
    batch = one({"series": "p", "ts": T0, "value": 5}, DecodeSpec(values={"price": "value"}), single)
    assert (batch.values.tolist(), batch.channel.tolist()) == ([[5.0]], [-1])


def test_awkward_channel_names() -> None:
    channels = ("a.b", "1", "class", "__init__", "f0", "é ü")
    spec = StreamSpec(channels=channels, step_ms=1000, horizon=4)
    batch = one({"series": "p", "ts": T0, "values": {name: i for i, name in enumerate(channels)}}, spec=spec)
    assert batch.values.tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]


@pytest.mark.parametrize(
    ("decode", "hint"),
    [
        (DecodeSpec(values={"temp": "t"}), "no path to the channel 'flow'"),
        (DecodeSpec(values={"temp": "t", "flow": "f", "speed": "s"}), "'speed'"),
        (DecodeSpec(values={"temp": "t", "flow": "t"}), "same path"),
        (DecodeSpec(values={"temp": "t", "flow": "ts"}), "two fields"),
        (DecodeSpec(values={"temp": "ts.t", "flow": "f"}), "goes through 'ts'"),
        (DecodeSpec(values={"temp": "a.b", "flow": "a"}), "goes through it"),
        (DecodeSpec(values={"temp": "value.t", "flow": "f"}), "decode.channel and decode.value to null"),
        (DecodeSpec(series=""), "empty key"),
        (DecodeSpec(series="a..b"), "empty key"),
        (DecodeSpec(series='a"b'), "cannot be mapped"),
        (DecodeSpec(channel=None), "both"),
        (DecodeSpec(value_abs_max=float("inf")), "finite"),
        (DecodeSpec(record_bytes_max=0), "positive"),
    ],
)
def test_a_mapping_that_cannot_work_says_so_at_once(decode: DecodeSpec, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        Decoder(SPEC, decode)


def test_the_detail_is_bounded_whatever_the_names() -> None:
    decode = DecodeSpec(values={"temp": "x" * 4000, "flow": "flow"})
    assert len(refusal({"x" * 4000: "warm"}, decode).detail) == DETAIL_CHARS_MAX


def test_split_path() -> None:
    assert split_path("a") == ("a",)
    assert split_path("a.b.c") == ("a", "b", "c")
    assert split_path(r"a\.b.c") == ("a.b", "c")


# --- CloudEvents ------------------------------------------------------------------------------------------------

STRUCTURED = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def test_binary_cloud_event_names_series_and_time_where_the_record_does_not() -> None:
    bare = one({"values": {"temp": 1}}, headers=BINARY)
    assert (bare.series, (bare.ts_us // 1000).tolist()) == (["pump-7"], [T0 + 500])
    own = one({"series": "p", "ts": T0, "values": {"temp": 1}}, headers=BINARY)
    assert (own.series, (own.ts_us // 1000).tolist()) == (["p"], [T0])
    keyed = (("ce_specversion", b"1.0"), ("ce_partitionkey", b"line-2"))
    assert one({"values": {"temp": 1}}, headers=keyed).series == ["line-2"]


def test_ce_headers_without_a_version_mean_nothing() -> None:
    batch = one({"values": {"temp": 1}}, headers=BINARY[1:])
    assert (batch.series, (batch.ts_us // 1000).tolist()) == (["key-1"], [T0 + 7])


def test_bad_envelope_is_refused_only_where_it_is_needed() -> None:
    bad = (("ce_specversion", b"1.0"), ("ce_subject", b"\xff"), ("ce_time", b"noon"))
    assert refusal({"ts": T0, "values": {"temp": 1}}, headers=bad).reason == "range"
    assert refusal({"series": "p", "values": {"temp": 1}}, headers=bad).reason == "timestamp"
    assert one({"series": "p", "ts": T0, "values": {"temp": 1}}, headers=bad).series == ["p"]


def test_structured_cloud_event() -> None:
    data = {"values": {"temp": 1}}
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": "pump-7"}
    event["time"] = "2025-11-24T16:00:00.5Z"
    packed = {"data_base64": base64.b64encode(json.dumps(data).encode()).decode()}
    for body in ({"data": data}, packed):
        batch = one(event | body, headers=STRUCTURED)
        assert (batch.series, (batch.ts_us // 1000).tolist(), batch.values[0, 0]) == (["pump-7"], [T0 + 500], 1.0)
    assert refusal(event, headers=STRUCTURED).reason == "no-values"
    assert refusal(event | {"data": {"ts": "x"}}, headers=STRUCTURED).reason == "timestamp"
    assert refusal(event | {"data": "text"}, headers=STRUCTURED).reason == "type"
    assert refusal(event | {"data_base64": "%%%"}, headers=STRUCTURED).reason == "malformed"
    assert refusal(event | {"data": data, "time": "noon"}, headers=STRUCTURED).reason == "timestamp"


# --- dead letters -----------------------------------------------------------------------------------------------


def test_dead_letter_keeps_the_record_and_says_why_and_whence() -> None:
    rejected = refusal({"series": True}, key=b"\xff", headers=(("trace", b"\x00"), ("trace", b"2")), offset=81_231)
    key, value, headers = dead_letter(rejected)
    assert (key, value) == (b"\xff", b'{"series": true}')
    assert headers[:2] == [("trace", b"\x00"), ("trace", b"2")]
    ours = dict(headers[2:])
    assert list(ours) == ["streamrnn-reason", "streamrnn-detail", "streamrnn-source"]
    assert (ours["streamrnn-reason"], ours["streamrnn-source"]) == (b"type", b"ticks/3/81231")
    assert "$.series" in ours["streamrnn-detail"].decode()


def test_a_dead_letter_sent_round_again_keeps_one_reason() -> None:
    _, _, once = dead_letter(refusal({"series": True}))
    _, _, twice = dead_letter(refusal({}, headers=tuple(once)))
    assert [name for name, _ in twice] == [name for name, _ in once]
    assert dict(twice)["streamrnn-reason"] == b"no-values"
