"""Records of many ticks and of any shape: one reading whatever way the decoder takes, and nothing but refusals."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_producers import T0, Plain, decoder, right, ticks, why

from streamrnn.calendar import zone_of
from streamrnn.config.settings import ConfigError
from streamrnn.records import REASONS, SKIP_REASONS
from streamrnn.wire.codec import DETAIL_CHARS_MAX, Decoder, dead_letter
from streamrnn.wire.instants import Refused, TextTimes

CHANNELS = "temp flow"


def test_a_list_of_readings_is_that_many_ticks() -> None:
    record = '{"device":"pump-7","readings":[{"at":1764000000,"t":21.4},{"at":1764000001.5,"t":22,"f":null}]}'
    decode = {
        "each": "readings[*]", "series": "^.device", "ts": "at", "ts_unit": "s", "values": {"temp": "t", "flow": "f"},
    }  # fmt: skip
    right(record, CHANNELS, decode, ("pump-7", T0, {"temp": 21.4}), ("pump-7", T0 + 1500, {"temp": 22}))


def test_arrays_within_arrays_and_ways_out() -> None:
    record = (
        '{"site":"a","lines":[{"name":"l1","pumps":[{"id":1,"temp":1},{"id":2,"temp":2}]},{"name":"l2","pumps":[]},'
        '{"name":"l3","pumps":[{"id":3,"temp":3}]}],"ts":1764000000000}'
    )
    decode = {"each": "lines[*].pumps[*]", "series": ["^.^.site", "^.name", "id"], "ts": "^.^.ts", "values": "*"}
    expected = [(f"a/l{line}/{pump}", T0, {"temp": float(pump)}) for line, pump in ((1, 1), (1, 2), (3, 3))]
    right(record, CHANNELS, decode, *expected)


def test_objects_whose_keys_are_names() -> None:
    record = '{"ts":1764000000000,"devices":{"pump-7":{"temp":1},"pump-8":{"temp":2,"flow":3}}}'
    decode = {"each": "devices.*", "series": "#", "ts": "^.ts", "values": "*"}
    right(record, CHANNELS, decode, ("pump-7", T0, {"temp": 1}), ("pump-8", T0, {"temp": 2, "flow": 3}))
    bare = '{"id":"p","ts":1764000000000,"readings":{"temp":1,"flow":2}}'
    long = {"each": "readings.*", "series": "^.id", "ts": "^.ts", "channel": "#", "value": "."}
    right(bare, CHANNELS, long, ("p", T0, {"temp": 1}), ("p", T0, {"flow": 2}))


def test_columns_of_arrays() -> None:
    record = '{"id":"p","t":[1764000000000,1764000001000],"cols":{"temp":[1,2],"flow":[3,null]}}'
    decode = {"each": "t[*]", "series": "^.id", "ts": ".", "values": "^.cols.*[#]"}
    right(record, CHANNELS, decode, ("p", T0, {"temp": 1, "flow": 3}), ("p", T0 + 1000, {"temp": 2}))
    assert why(record.replace("[1,2]", "[1,2,3]"), CHANNELS, decode) == ["refused type"] * 2


def test_keys_may_begin_with_the_sign_of_the_record() -> None:
    record = '{"@timestamp":"2025-11-24T16:00:00Z","@key":"p","temp":1}'
    right(record, CHANNELS, {"series": "\\@key", "ts": "@timestamp", "values": "*"}, ("p", T0, {"temp": 1}), key=b"k")
    right(
        record,
        CHANNELS,
        {"series": "@key", "ts": "@time", "values": "*"},
        ("k", T0 + 7, {"temp": 1}),
        key=b"k",
        timestamp=T0 + 7,
    )


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_records_own_time_has_its_own_unit(unit: str) -> None:
    decode = {"ts": ["at", "@window.start", "@time"], "ts_unit": unit, "values": "*"}
    right('{"series":"p","temp":1}', CHANNELS, decode, ("p", T0 + 7, {"temp": 1}), timestamp=T0 + 7)
    right(
        '{"series":"p","temp":1}',
        CHANNELS,
        decode,
        ("p", T0, {"temp": 1}),
        timestamp=T0 + 7,
        key=b"k" + T0.to_bytes(8, "big"),
    )
    assert why('{"series":"p","temp":1}', CHANNELS, decode, timestamp=-1) == ["refused timestamp"]


@pytest.mark.parametrize(("text", "temp"), [("21.4", 21.4), ('"21.4"', 21.4), ("NaN", None), ("-0", -0.0)])
def test_a_record_that_is_a_number_alone(text: str, temp: float | None) -> None:
    values = {} if temp is None else {"temp": temp}
    decode = {"series": "@key", "values": {"temp": "."}, "numbers": "text"}
    right(text, "temp", decode, ("plant/p", T0, values), key=b"plant/p", timestamp=T0)


def test_a_record_that_is_a_row_without_names() -> None:
    pair = '[1764000000.5,{"host":"n1","temp":1.5}]'
    decode = {"series": "[1].host", "ts": "[0]", "ts_unit": "s", "values": "[1].*"}
    right(pair, "temp", decode, ("n1", T0 + 500, {"temp": 1.5}))
    trades = '[0,[["5541.2","0.1","1764000000.321597"],["6060","0.2","1764000001.5"]],"trade","XBT/USD"]'
    decode = {
        "each": "[1][*]",
        "series": "^.[3]",
        "ts": "[2]",
        "ts_unit": "s",
        "values": {"temp": "[0]"},
        "numbers": "text",
    }
    right(trades, "temp", decode, ("XBT/USD", T0 + 321.597, {"temp": 5541.2}), ("XBT/USD", T0 + 1500, {"temp": 6060}))


def test_json_that_stands_as_a_text_within_json() -> None:
    decode = {"unwrap": "after", "series": "id", "ts": "ts.$date", "values": "*", "tombstones": "skip"}
    inner = json.dumps({"id": "p", "ts": {"$date": T0 + 0.5}, "temp": 1.5})
    right(json.dumps({"op": "c", "after": inner}), "temp", decode, ("p", T0 + 0.5, {"temp": 1.5}))
    assert why('{"op":"d","after":null}', "temp", decode) == ["skipped empty"]
    for bad in ("{", "[" * 5000, '{"id":"p","ts":1'):
        assert why(json.dumps({"after": bad}), "temp", decode) == ["refused malformed"]
    assert why(json.dumps({"after": "text"}), "temp", decode) == ["refused type"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("field", "reason"), [("temp", "range"), ("ts", "timestamp")])
def test_a_number_that_no_double_holds_costs_its_element_alone(place: int, field: str, reason: str) -> None:
    rows = [{"id": "p", "ts": T0 + 1000 * i, "temp": float(i)} for i in range(3)]
    rows[place][field] = 123456789
    record = json.dumps({"r": rows}).replace("123456789", "1e400")
    for decode in ({"series": "id", "values": "*"}, {"series": "id", "values": "*", "where": {"id": "p"}, "ts": "ts"}):
        found = decoder("temp", each="r[*]", channel=None, value=None, **decode).read([Plain(record.encode())])
        assert [int(us) // 1000 for us in found.batch.ts_us] == [T0 + 1000 * i for i in range(3) if i != place]
        assert [(each.reason, each.index) for each in found.rejected] == [(reason, place)]
    unread = json.dumps({"r": [{"id": "p", "ts": T0, "temp": 1, "z": 123456789}]}).replace("123456789", "1e400")
    right(unread, "temp", {"each": "r[*]", "series": "id", "values": "*", "where": {"id": "p"}}, ("p", T0, {"temp": 1}))


def test_an_empty_value_is_a_deletion_where_those_are_skipped() -> None:
    assert why(b"", "temp", {"tombstones": "skip"}) == ["skipped tombstone"]
    assert why(None, "temp", {"tombstones": "skip"}) == ["skipped tombstone"]
    assert why(b"", "temp", {"values": "*"}) == ["refused malformed"]


@pytest.mark.parametrize(
    "text",
    ["2016-12-31T23:59:60", "2026-02-30T00:00", "2026-06-30 24:00:01", "2026-13-01T00:00:00", "0000-01-01T00:00:00"],
)
def test_a_local_time_that_there_is_not_is_refused(text: str) -> None:
    for zone in ("UTC", "Europe/London", "Pacific/Apia"):
        decode = {"series": "id", "values": "*", "timezone": zone}
        assert why(f'{{"id":"p","ts":"{text}","temp":1}}', "temp", decode) == ["refused timestamp"]


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2025-11-24 16:00:00.123+00", T0 + 123), ("2025-11-24T17:00:00.1234567890+0100", T0 + 123.456), ("2025-11-24 16:00:00 UTC", T0),
        ("2025-11-24 16:00:00 -00", T0), ("2025-11-24 12:30:00 -0330", T0), ("2025-11-24 16:00:00 GMT", T0), ("2025-11-24 16:00:00 CET", None),
        ("2025-11-24 16:00:00+9", None), ("2025-11-24 16:00:60+00", None), ("2025-11-24 16:00:00+9900", None), ("2025-11-24 16:00:00", None),
        # Java leaves out seconds that are zero, and puts the zone's name last; the basic format has no signs between.
        ("2025-11-24T16:00Z", T0), ("2025-11-24T17:00+01:00", T0), ("2025-11-24T17:00:00.5+01:00[Europe/Berlin]", T0 + 500),
        ("2025-11-24T16:00:00Z[UTC]", T0), ("20251124T160000Z", T0), ("20251124T170000.25+0100", T0 + 250), ("20251124T1600Z", T0),
        ("2025-11-24T16:00:00,5Z", T0 + 500), ("20251124T160000", None), ("2025-11-24T24:00Z", None), ("2025-W48-1T16:00:00Z", None),
        ("2025-11-24T16:00:00[Europe/Berlin]", None), ("2025-02-29T16:00Z", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("decode", [{}, {"series": ["id"]}])
def test_offsets_as_databases_write_them(text: str, ms: float | None, decode: dict[str, Any]) -> None:
    record = json.dumps({"series": "p", "id": "p", "ts": text, "values": {"temp": 1}})
    if ms is None:
        assert why(record, "temp", decode) == ["refused timestamp"]
    else:
        right(record, "temp", decode, ("p", ms, {"temp": 1}))


_PARTS = st.tuples(*(st.integers(0, most) for most in (9999, 14, 33, 26, 62, 62)))


@settings(deadline=None, max_examples=200)
@given(_PARTS, st.sampled_from("T "), st.sampled_from(["", "Z", ".999999999", ",5", "+99:99", "-14:00"]))
def test_no_text_of_a_time_is_more_than_refused(parts: tuple[int, ...], between: str, end: str) -> None:
    year, month, day, hour, minute, second = parts
    text = f"{year:04d}-{month:02d}-{day:02d}{between}{hour:02d}:{minute:02d}:{second:02d}{end}"
    for times in _TIMES:
        try:
            times.us(text)
        except Refused as refusal:
            assert refusal.reason == "timestamp"


_TIMES = [
    TextTimes("ms", form, zone_of(zone))
    for form in (None, "%Y-%m-%d %H:%M:%S")
    for zone in ("Europe/London", "America/St_Johns", "Pacific/Apia")
]


@pytest.mark.parametrize("form", ["%Q", "%", "%Y%Y", "", "now"])
def test_a_form_of_times_that_reads_nothing_is_a_mistake_of_the_configuration(form: str) -> None:
    with pytest.raises(ConfigError, match=r"decode: ts_format .* write it as Python's strptime reads it"):
        decoder("temp", series="id", ts_format=form, timezone="UTC")


def test_a_question_mark_after_a_backslash_is_of_the_key() -> None:
    right('{"id?":"p","ts":1764000000000,"temp":1}', "temp", {"series": "id\\?", "values": "*"}, ("p", T0, {"temp": 1}))
    assert why('{"ts":1764000000000,"temp":1}', "temp", {"series": ["id\\?"], "values": "*"}) == ["refused no-series"]


def test_arrays_by_number() -> None:
    record = '[321,[["5541.2","0.1","1764000000.25"],["5541.3","0.2","1764000001"]],"trade","XBT/USD"]'
    each = {"each": "[1][*]", "ts_unit": "s", "numbers": "text", "values": {"temp": "[0]", "flow": "[1]"}}
    decode = {**each, "series": "^.[3]", "ts": "[2]"}
    right(
        record,
        CHANNELS,
        decode,
        ("XBT/USD", T0 + 250, {"temp": 5541.2, "flow": 0.1}),
        ("XBT/USD", T0 + 1000, {"temp": 5541.3, "flow": 0.2}),
    )


def test_what_stands_in_the_record_itself() -> None:
    record = '{"temp":1,"ts":1764000000000}'
    for series, name in (
        ("@key", '{"id":{"no":7}}'), ("@key.id.no", "7"), ("@header.device", "pump-7"), (["@topic", "@partition"], "topic/0"),
    ):  # fmt: skip
        decode = {"series": series, "values": "*"}
        right(
            record, CHANNELS, decode, (name, T0, {"temp": 1}), key=b'{"id":{"no":7}}', headers=(("device", b"pump-7"),)
        )
    assert why(record, CHANNELS, {"series": "@key.id", "values": "*"}, key=b"plain") == ["refused no-series"]
    assert why(record, CHANNELS, {"series": "@header.x", "values": "*"}) == ["refused no-series"]
    assert why(record, CHANNELS, {"series": "@key", "values": "*"}, key=b"\xff") == ["refused range"]


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ({"kind": "cpu"}, True), ({"kind": "mem"}, False), ({"kind": ["mem", "cpu"]}, True), ({"no": 3}, True),
        ({"no": "3"}, False), ({"no": 3.0}, True), ({"on": True}, True), ({"on": 1}, False), ({"none": None}, True),
        ({"nowhere": None}, True), ({"kind": "*"}, True), ({"none": "*"}, False), ({"kind": "cpu", "no": 4}, False),
        ({"@topic": "topic"}, True), ({"kind": {"a": 1}}, None),
    ],
)  # fmt: skip
def test_where_takes_and_skips(where: dict[str, Any], taken: bool | None) -> None:
    record = '{"kind":"cpu","no":3,"on":true,"none":null,"temp":1,"ts":1764000000000,"series":"p"}'
    if taken is None:
        with pytest.raises(Exception, match=r"decode\.where"):
            decoder(CHANNELS, where=where, values="*")
    elif taken:
        right(record, CHANNELS, {"where": where, "values": "*"}, ("p", T0, {"temp": 1}))
    else:
        assert why(record, CHANNELS, {"where": where, "values": "*"}) == ["skipped where"]


NUMBERS: list[tuple[str, str, float | str | None]] = [
    ("strict", "21.40", 21.4), ("strict", '"21.40"', "type"), ("strict", '"NaN"', "type"), ("strict", "null", None),
    ("strict", "true", "type"), ("strict", "1e31", "range"), ("strict", "1e999", "range"), ("strict", "[1]", "type"),
    ("text", '"21.40"', 21.4), ("text", "21.40", 21.4), ("text", '" -1e3 "', -1000.0), ("text", '"NaN"', None),
    ("text", '"Infinity"', None), ("text", '"-Infinity"', None), ("text", '"+Inf"', None), ("text", '""', None),
    ("text", '"warm"', "type"), ("text", '"1e31"', "range"), ("text", '"1_000"', "type"), ("text", '"0x10"', "type"),
    ("text", "true", "type"), ("text", "NaN", None), ("text", "-Infinity", None), ("text", '"٣"', "type"),
    ("decimal", '"Bdw="', 15.0), ("decimal", '{"scale":1,"value":"GQ=="}', 2.5), ("decimal", '"NaN"', None),
    ("decimal", "0.1", 0.1), ("decimal", '"/w=="', -0.01), ("decimal", '"1.5"', "type"), ("decimal", '"A"', "type"),
    ("decimal", '{"scale":"x","value":"GQ=="}', "type"), ("decimal", '{"scale":9999,"value":"GQ=="}', "range"),
]  # fmt: skip


@pytest.mark.parametrize(("numbers", "text", "expected"), NUMBERS)
@pytest.mark.parametrize("each", [None, "[*]"])
def test_numbers_as_they_are_written(numbers: str, text: str, expected: float | str | None, each: str | None) -> None:
    record = f'{{"series":"p","ts":1764000000000,"values":{{"temp":{text}}}}}'
    decode = {"numbers": numbers, "scale": 2, **({"each": each} if each else {})}
    record = f"[{record}]" if each else record
    if isinstance(expected, str):
        assert why(record, CHANNELS, decode) == [f"refused {expected}"]
    else:
        right(record, CHANNELS, decode, ("p", T0, {} if expected is None else {"temp": expected}))


@pytest.mark.parametrize(
    ("text", "decode", "ms"),
    [
        ("2025-11-24 16:00:00", {"timezone": "UTC"}, T0),
        ("2025-11-24T17:00:00.25", {"timezone": "Europe/Berlin"}, T0 + 250),
        ("2025-11-24 16:00:00.123456789", {"timezone": "UTC"}, T0 + 123.456),
        ("2025-11-24T16:00", {"timezone": "UTC"}, T0),
        ("2025-11-24T16:00:00", {}, None),
        ("24.11.2025 17:00:00", {"ts_format": "%d.%m.%Y %H:%M:%S", "timezone": "Europe/Berlin"}, T0),
        ("24.11.2025 17:00:00", {"ts_format": "%d.%m.%Y %H:%M:%S"}, None),
        ("24.11.2025 17:00:00 +0100", {"ts_format": "%d.%m.%Y %H:%M:%S %z"}, T0),
        ("2025-11-24T16:00:00Z", {"ts_format": "%d.%m.%Y"}, None),
        ("2026-10-25 02:30:00", {"timezone": "Europe/Berlin"}, None),  # happens twice
        ("2026-03-29 02:30:00", {"timezone": "Europe/Berlin"}, None),  # never happens
        ("2025-11-24T17:00:00+01:00", {"timezone": "America/New_York"}, T0),
        ("1764000000", {"ts_unit": "s"}, T0),
    ],
)
def test_times_in_texts(text: str, decode: dict[str, Any], ms: float | None) -> None:
    record = json.dumps({"series": "p", "ts": text, "values": {"temp": 1}})
    if ms is None:
        assert why(record, CHANNELS, {"values": "values.*", **decode}) == ["refused timestamp"]
    else:
        right(record, CHANNELS, {"values": "values.*", **decode}, ("p", ms, {"temp": 1}))


@pytest.mark.parametrize(
    "decode", [{"each": "[*]"}, {"each": ["x[*]", "."], "values": "values.*"}, {"each": "m[*]", "ts": "^.at"}]
)
def test_seconds_are_cut_off_as_they_are_written_in_every_way(decode: dict[str, Any]) -> None:
    number = "1764000005.999999999"
    element = f'{{"series":"p","ts":{number},"values":{{"temp":1}}}}'
    record = {"[*]": f"[{element}]", "m[*]": f'{{"at":{number},"m":[{element}]}}'}.get(str(decode["each"]), element)
    right(record, CHANNELS, {**decode, "ts_unit": "s"}, ("p", 1764000005999.999, {"temp": 1}))


def test_an_element_that_cannot_be_read_costs_its_neighbours_nothing() -> None:
    good = {"series": "p", "ts": T0, "values": {"temp": 1}}
    bad: list[Any] = [
        {**good, "values": {"temp": "x"}},
        {**good, "ts": "noon"},
        {**good, "series": ""},
        {"ts": T0},
        7,
        None,
        [good],
    ]
    record = json.dumps([good, *bad, {**good, "ts": T0 + 1000}]).encode()
    found = decoder(CHANNELS, each="[*]").read([Plain(record, key=b"k")])
    assert ticks(found, CHANNELS) == [("p", T0, {"temp": 1}), ("p", T0 + 1000, {"temp": 1})]
    assert found.batch.index.tolist() == [0, 8]
    assert [(r.index, r.reason) for r in found.rejected] == [
        (1, "type"), (2, "timestamp"), (3, "range"), (4, "no-values"), (5, "type"), (6, "no-values"), (7, "type"),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 500])
def test_records_of_none_one_and_very_many_ticks(count: int) -> None:
    record = json.dumps([{"series": f"s{i}", "ts": T0 + i, "values": {"temp": i}} for i in range(count)]).encode()
    found = decoder(CHANNELS, each="[*]").read([Plain(record, offset=5), Plain(record, offset=6, partition=2)])
    assert len(found.batch) == 2 * count
    assert found.batch.offset.tolist() == [5] * count + [6] * count
    assert found.batch.partition.tolist() == [0] * count + [2] * count
    assert found.batch.index.tolist() == (list(range(count)) * 2 if count > 1 else [])
    assert [s.reason for s in found.skipped] == (["empty"] * 2 if not count else [])
    assert [r.offset for r in found.batch.records] == found.batch.offset.tolist()


@pytest.mark.parametrize("wanted", [["a", "b"], [["a", "b"]], ["a", "c?"]])
def test_a_series_that_is_no_text_is_refused(wanted: list[Any]) -> None:
    for odd in ([1], {"x": 1}, True, None):
        record = json.dumps({"a": "p", "b": odd, "c": odd, "ts": T0, "temp": 1})
        said = why(record, CHANNELS, {"series": wanted, "values": "*"}) if odd not in (True, None) else []
        assert said in ([], ["refused type"])
    named = decoder(CHANNELS, series=["a", "b"], values="*")
    for b, name in ((1, "p/1"), (True, "p/true"), (1, "p/1"), (1.0, "p/1"), ("1", "p/1")):
        batch, _ = named.decode([Plain(json.dumps({"a": "p", "b": b, "ts": T0, "temp": 1}).encode())])
        assert batch.series == [name]


def test_cloudevents_hold_any_shape() -> None:
    data = [{"temp": 1}, {"temp": 2, "series": "q", "ts": T0 + 1000}]
    decode = {"each": "[*]", "values": "*"}
    expected = ("p", T0, {"temp": 1}), ("q", T0 + 1000, {"temp": 2})
    event = {"specversion": "1.0", "subject": "p", "time": "2025-11-24T16:00:00Z", "data": data}
    right(json.dumps(event), CHANNELS, decode, *expected, headers=(("content-type", b"application/cloudevents+json"),))
    headers = (("ce_specversion", b"1.0"), ("ce_subject", b"p"), ("ce_time", b"2025-11-24T16:00:00Z"))
    right(json.dumps(data), CHANNELS, decode, *expected, headers=headers)
    assert why(
        json.dumps({**event, "data": None}),
        CHANNELS,
        decode,
        headers=(("content-type", b"application/cloudevents+json"),),
    ) == ["refused no-values"]


@pytest.mark.parametrize(
    ("decode", "words"),
    [
        ({"each": "a.b"}, "must end with"), ({"each": "@key"}, "begin in the record"), ({"each": "a[x]"}, "no number"),
        ({"series": []}, "empty list"), ({"values": "fields"}, r"has no \*"),
        ({"values": {"temp": "a[0]", "flow": "a[0]"}}, "same path"), ({"values": {"*": "a.*", "speed": "s"}}, "'speed'"),
        ({"ts": "a..b", "each": "[*]"}, "empty key"), ({"timezone": "Mars/Base"}, "timezone"), ({"scale": {"x": 1}, "numbers": "decimal"}, "'x'"),
        ({"each": ["a[*]", "a[*]"]}, "named twice"), ({"preset": "nobody"}, "one of"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_work_says_so(decode: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        decoder(CHANNELS, **decode)


def test_the_example_in_the_guide_is_one() -> None:
    text = (Path(__file__).parents[2] / "deploy" / "GUIDE.md").read_text()
    (example,) = re.findall(r"```yaml\ndecode:.*?```", text, re.DOTALL)
    decode = yaml.safe_load(example.removeprefix("```yaml").removesuffix("```"))["decode"]
    record = {
        "payload": {
            "metrics": [
                {
                    "name": "cpu",
                    "op": "c",
                    "tags": {"host": "a"},
                    "time": "24.11.2025 16:00:00",
                    "fields": {"idle": "91,2"},
                }
            ]
        }
    }
    right(json.dumps(record), "idle", decode, ("a", T0, {"idle": 91.2}))


# ── one reading, whatever the way ────────────────────────────────────────────────────────────────────────────────────

WAYS: list[dict[str, Any]] = [
    {"each": "[*]"},
    {"each": "m[*]", "series": "^.id", "ts": "ts", "values": {"temp": "t", "flow": "u.f"}},
    {"each": "m[*]", "series": ["^.id", "series"], "ts": ["^.ts", "ts"], "ts_unit": "s", "values": "values.*", "numbers": "text"},
    {"each": "m[*].m[*]", "series": "^.id", "values": "values.*", "where": {"^.^.on": [True, None]}, "channel": None, "value": None},
    {"series": ["id", "m[0]"], "ts": "ts", "values": {"temp": "t", "flow": "values[^.id=flow]"}, "others": "skip"},
    {"series": "m[key=id].value", "ts": "ts", "ts_unit": "us", "values": "*", "numbers": "decimal", "scale": 1},
    {"preset": "collectd"},
    {"preset": "telegraf"},
    {"preset": "otlp-json"},
]  # fmt: skip
DECODERS = [decoder(CHANNELS, **way) for way in WAYS]
leaves = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([T0, T0 / 1000, 1764000000.25, 1e31, 2**70])
    | st.sampled_from(["p", "", "temp", "id", "NaN", "21.4", "2025-11-24T16:00:00Z", "GQ=="])
)  # fmt: skip
KEYS = [
    "m",
    "id",
    "on",
    "ts",
    "t",
    "u",
    "f",
    "series",
    "values",
    "temp",
    "flow",
    "key",
    "value",
    "metrics",
    "fields",
    "tags",
    "host",
]
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)
elements = st.fixed_dictionaries(
    {}, optional={
        "series": leaves, "ts": leaves, "values": st.dictionaries(st.sampled_from(["temp", "flow"]), leaves) | leaves,
        "t": leaves, "u": st.dictionaries(st.just("f"), leaves), "id": leaves, "m": st.lists(leaves, max_size=2),
    },
)  # fmt: skip
records = documents | st.lists(elements, max_size=4) | st.fixed_dictionaries(
    {"m": st.lists(elements | st.fixed_dictionaries({"m": st.lists(elements, max_size=3), "id": leaves}), max_size=4)},
    optional={"id": leaves, "ts": leaves, "on": leaves},
)  # fmt: skip


def picture(which: Decoder, payload: bytes) -> tuple[Any, ...]:
    batch, refused, skipped = which.read([Plain(payload, key=b"k")])
    return (
        batch.series, batch.ts_us.tolist(), batch.values.tobytes(), batch.channel.tolist(), batch.index.tolist(),
        [(r.reason, r.index) for r in refused], [(s.reason, s.elements) for s in skipped],
    )  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(records)
def test_structs_and_plain_objects_give_the_same(document: Any) -> None:
    payload = json.dumps(document).encode()
    for way, which in zip(WAYS, DECODERS, strict=True):
        general = which._general
        assert general is not None
        by_structs = picture(which, payload)
        direct, rows = general.layout._direct, general._rows
        general.layout._direct = general._rows = None
        try:
            assert picture(which, payload) == by_structs, way
        finally:
            general.layout._direct, general._rows = direct, rows


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "series": st.text(max_size=5),
                "ts": leaves,
                "values": st.dictionaries(st.sampled_from(["temp", "flow", "x"]), leaves),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_an_array_is_what_its_elements_are_as_records(messages: list[Any]) -> None:
    whole, single = decoder(CHANNELS, each="[*]"), decoder(CHANNELS)
    batch, refused = whole.decode([Plain(json.dumps(messages).encode(), key=b"k")])
    each = [Plain(json.dumps(message).encode(), key=b"k") for message in messages]
    alone, refused_alone = single.decode(each)
    assert (batch.series, batch.ts_us.tolist(), batch.values.tobytes()) == (
        alone.series,
        alone.ts_us.tolist(),
        alone.values.tobytes(),
    )
    assert len(refused) == len(refused_alone)


# ── hostile bytes ────────────────────────────────────────────────────────────────────────────────────────────────────

PRESET_DECODERS = [
    decoder(CHANNELS, preset=name, **({"series": "after.id"} if name == "debezium" else {}))
    for name in ("collectd", "telegraf", "debezium", "quix", "senml", "otlp-json", "sparkplug-json", "ditto", "binance", "rsyslog", "coinbase", "thingsboard-gateway", "ksqldb", "aws-iot")
]  # fmt: skip
HOSTILE = [
    b"[" * 100_000, b'{"metrics":' * 50_000, b'{"m":' + b"[" * 100_000, b"[" + b"0," * 100_000 + b"0]",
    b"[" + b"{}," * 60_000 + b"{}]", b'{"metrics":[' + b"{}," * 60_000 + b"{}]}", b'{"V":{"Timestamps":[' + b"1," * 100_000 + b"1]}}",
    b'[{"bt":' + b"9" * 400_000 + b"}]", b'[{"n":"a","v":1e999,"bv":1e999}]', b'[{"n":1,"bn":2}]', b'{"metrics":[{"name":"temp","longValue":"' + b"9" * 9999 + b'"}]}',
    b'{"topic":"a/b","path":"' + b"/a" * 50_000 + b'","value":1}', b"NaN", b"[NaN]", b'{"metrics":NaN}', b"\xff", b"null", b" null ", b"[null]", b"[[[]]]",
    b'{"after":{"temp":"' + b"A" * 100_000 + b'"},"op":"c","ts_ms":1}', b'{"after":{"temp":{"scale":1e308,"value":"GQ=="}},"op":"c"}',
    b'{"e":[],"k":3}', b'{"a":[{"ts":1,"values":{"temp":1}}]}', b"9" * 10_000, b"[" + b"9" * 5_000 + b"]", b'[{"time":1e400}]', rb'{"\ud800":1}',
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_bombs_are_refused_in_bounded_time(number: int) -> None:
    payload = HOSTILE[number]
    for which in [*DECODERS, *PRESET_DECODERS]:
        begin = time.process_time()
        batch, refused, skipped = which.read([Plain(payload, key=b"k")])
        assert len(batch) + len(refused) + len(skipped) > 0
        assert len(batch) + len(refused) <= which.decode_spec.elements_max
        # An honest record of this size takes as long; a second is three times what the slowest machine needs.
        assert time.process_time() - begin < 1.0
        for refusal in refused:
            assert refusal.reason in REASONS
            assert 0 < len(refusal.detail) <= DETAIL_CHARS_MAX
            assert refusal.detail.isprintable()


@settings(deadline=None, max_examples=120)
@given(
    documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=60),
    st.integers(0, 100),
    st.binary(max_size=4),
)
def test_nothing_but_a_refusal_leaves_a_preset(payload: bytes, at: int, put: bytes) -> None:
    damaged = payload[:at] + put + payload[at:]
    before, after = Plain(b"[]", offset=1), Plain(b"{}", offset=3)
    for which in PRESET_DECODERS:
        for value in (payload, damaged):
            batch, refused, skipped = which.read([before, Plain(value, offset=2, key=value[:9]), after])
            assert {1, 3} <= {r.record.offset for r in refused} | {s.record.offset for s in skipped}
            assert (np.abs(batch.values[~np.isnan(batch.values)]) <= 1e30).all()
            assert all(r.detail.isprintable() and dead_letter(r)[1] == r.record.value for r in refused)
            assert all(s.reason in SKIP_REASONS for s in skipped)
            assert all(name and name.isprintable() for name in batch.series)
