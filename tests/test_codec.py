from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.codec import DETAIL_CHARS_MAX, Decoder, DecodeSpec, dead_letter
from streamrnn.mapping import split_path
from streamrnn.records import Rejected, TickBatch
from streamrnn.spec import StreamSpec

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


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40)
numbers = st.floats(-1e15, 1e15) | st.integers(-(10**15), 10**15)
wides = st.fixed_dictionaries(
    {"series": names, "ts": st.integers(0, (1 << 62) // 1000)},
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
@given(names, st.integers(0, (1 << 62) // 1000), st.sampled_from(CHANNELS), st.none() | numbers)
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
    tight = DecodeSpec(record_bytes_max=66, series_bytes_max=3, value_abs_max=10.0, ts_min_ms=T0)
    good = {"series": "abc", "ts": T0, "values": {"temp": -10}}
    assert one(good, tight).values[0, 0] == -10.0
    assert refusal(good | {"series": "abcd"}, tight).reason == "range"
    assert refusal(good | {"values": {"temp": 10.5}}, tight).reason == "range"
    assert refusal(good | {"ts": T0 - 1}, tight).reason == "timestamp"
    assert refusal(good | {"padding": "0123456789"}, tight).reason == "too-large"


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
@given(st.integers(0, 1 << 52))
def test_units_scale_exactly(ms: int) -> None:
    assert ts_of(ms * 1000 + 999, DecodeSpec(ts_unit="us")) == ms
    assert ts_of(ms * 1_000_000 + 999_999, DecodeSpec(ts_unit="ns")) == ms
    assert ts_of(ms, DecodeSpec(ts_unit="s")) == ms * 1000


@settings(deadline=None)
@given(st.integers(0, 4_102_444_800_000))
def test_seconds_with_a_fraction_keep_their_millisecond(ms: int) -> None:
    assert ts_of(ms / 1000, DecodeSpec(ts_unit="s")) == ms


def test_a_fraction_is_refused_in_finer_units_and_a_huge_one_everywhere() -> None:
    for unit in ("ms", "us", "ns"):
        record = {"series": "p", "ts": 1.5, "values": {"temp": 1}}
        assert refusal(record, DecodeSpec(ts_unit=unit)).reason == "timestamp"
    for ts in (1e305, -1e305, -0.001, 10**40):
        assert refusal({"ts": ts, "values": {"temp": 1}}, DecodeSpec(ts_unit="s")).reason == "timestamp"


def test_without_ts_the_record_time_counts() -> None:
    assert ts_of(None) == T0 + 7
    # −1 is Kafka's "none", also where event times before 1970 are allowed.
    none = refusal({"values": {"temp": 1}}, DecodeSpec(ts_min_ms=-1000), timestamp=-1)
    assert (none.reason, none.detail) == ("timestamp", "neither the record nor its value has a timestamp")


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
        batch = one({"device": None, "ts": T0, "flow": 2, **hole}, decode)
        assert batch.series == ["key-1"]
        np.testing.assert_array_equal(batch.values, [[np.nan, 2.0]])
    assert refusal({"a": {"b": None}}, decode).reason == "no-values"
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

BINARY = (
    ("ce_specversion", b"1.0"),
    ("ce_type", b"tick"),
    ("ce_subject", b"pump-7"),
    ("ce_time", b"2025-11-24T16:00:00.5Z"),
    ("content-type", b"application/json"),
)
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
    rejected = refusal({"series": 5}, key=b"\xff", headers=(("trace", b"\x00"), ("trace", b"2")), offset=81_231)
    key, value, headers = dead_letter(rejected)
    assert (key, value) == (b"\xff", b'{"series": 5}')
    assert headers[:2] == [("trace", b"\x00"), ("trace", b"2")]
    ours = dict(headers[2:])
    assert list(ours) == ["streamrnn-reason", "streamrnn-detail", "streamrnn-source"]
    assert (ours["streamrnn-reason"], ours["streamrnn-source"]) == (b"type", b"ticks/3/81231")
    assert "$.series" in ours["streamrnn-detail"].decode()


def test_a_dead_letter_sent_round_again_keeps_one_reason() -> None:
    _, _, once = dead_letter(refusal({"series": 5}))
    _, _, twice = dead_letter(refusal({}, headers=tuple(once)))
    assert [name for name, _ in twice] == [name for name, _ in once]
    assert dict(twice)["streamrnn-reason"] == b"no-values"
