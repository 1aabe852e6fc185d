"""Proposals for what one user's settings of a known program make of it: units, names that are missing, words among numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from test_producers import T0, Plain
from test_proposing import every_second, rfc

from streamrnn.config.settings import load
from streamrnn.discovery.proposing import NoProposal, Proposal, propose
from streamrnn.records import Skipped
from streamrnn.wire.codec import Decoder

Reading = tuple[set[str], set[str], float]


def lines(line: Callable[[int], str], count: int = 8, **of: Any) -> list[Plain]:
    return [Plain(line(i).encode(), timestamp=T0 + 1000 * i, offset=i, **of) for i in range(count)]


def reading(proposal: Proposal, sample: list[Plain], **more: Any) -> tuple[Reading, list[str], list[Skipped]]:
    """((series, channels that have values, milliseconds of the first tick), reasons of refusals, what was skipped)"""
    chosen = yaml.safe_load(yaml.safe_dump(proposal.settings))
    chosen.setdefault("decode", {}).update(more)
    loaded = load([], chosen, {})
    batch, refused, skipped = Decoder(loaded.stream_spec(), loaded.decode_spec()).read(sample)
    there = {name for name, column in zip(loaded.channels, batch.values.T, strict=True) if (column == column).any()}
    first = int(batch.ts_us[0]) / 1000 if len(batch) else -1.0
    return (set(batch.series), there, first), [each.reason for each in refused], skipped


def check(sample: list[Plain], names: set[str], channels: set[str], ms: float = T0, **decode: Any) -> Proposal:
    proposal = propose(sample, "t")
    found, refused, _ = reading(proposal, sample)
    assert (found, refused) == ((names, channels, ms), [])
    assert set(proposal.settings["channels"]) == channels
    assert proposal.settings["step"] == "1s", proposal.notes
    assert {key: proposal.settings.get("decode", {}).get(key) for key in decode} == decode
    return proposal


UNITS = {"s": T0 // 1000, "ms": T0, "us": T0 * 1000, "ns": T0 * 10**6}


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_the_times_is_what_the_records_say_whatever_the_preset_has(unit: str) -> None:
    step = UNITS[unit] // (T0 // 1000)

    def at(i: int) -> int:
        return UNITS[unit] + step * i

    telegraf = every_second(lambda i: {"fields": {"v": i}, "name": "m", "tags": {"host": "gw"}, "timestamp": at(i)})
    check(telegraf, {"gw"}, {"v"}, preset="telegraf", ts_unit=None if unit == "s" else unit)
    influx = lines(lambda i: f"m,host=gw v={i} {at(i)}")
    check(influx, {"gw"}, {"v"}, preset="influx", ts_unit=None if unit == "ns" else unit)
    own = every_second(lambda i: {"series": "gw", "ts": at(i), "values": {"v": i}})
    check(own, {"gw"}, {"v"}, ts_unit=None if unit == "ms" else unit)
    other = every_second(lambda i: {"device": "gw", "at": at(i), "v": i})
    check(other, {"gw"}, {"v"}, ts_unit=None if unit == "ms" else unit)


def test_times_that_no_unit_explains_are_said() -> None:
    ahead = every_second(lambda i: {"series": "a", "ts": T0 + 1000 * i + 7_200_000, "values": {"v": i}})
    notes = "\n".join(propose(ahead, "t").notes)
    assert "6 ticks are refused by the service as `future`" in notes


def test_presets_whose_records_have_no_name() -> None:
    check(lines(lambda i: f"cpu usage={i}.5"), {"cpu"}, {"usage"}, preset="influx", series="name")
    check(
        every_second(lambda i: {"fields": {"v": i}, "name": "m", "tags": {}, "timestamp": T0 // 1000 + i}), {"m"}, {"v"}, series="name"
    )  # fmt: skip
    check(lines(lambda i: f"load {i} {T0 // 1000 + i}", key=b"n1"), {"n1"}, {"load"}, preset="graphite", series="@key")
    check(lines(lambda i: f"load {i} {T0 // 1000 + i}"), {"topic"}, {"load"}, preset="graphite", series="@topic")
    struct = [
        Plain(json.dumps({"v": 1.5 + i, "ts": T0 + 1000 * i}).encode(), b"\0\0\0\1", (), T0 + 1000 * i, i)
        for i in range(8)
    ]
    check(struct, {"topic"}, {"v"}, series="@topic")


def test_numbers_as_texts_where_others_write_numbers() -> None:
    check(
        every_second(lambda i: {"series": "a", "ts": T0 + 1000 * i, "values": {"v": f"{i}.5"}}),
        {"a"},
        {"v"},
        numbers="text",
    )
    check(
        every_second(lambda i: {"series": "a", "ts": T0 + 1000 * i, "channel": "v", "value": f"{i}.5"}),
        {"a"},
        {"v"},
        numbers="text",
    )
    changes = every_second(
        lambda i: {"before": None, "after": {"id": i, "sensor": "a", "at": T0 + 1000 * i, "price": f"{i}.50"}, "op": "c", "ts_ms": T0 + 1000 * i}
    )  # fmt: skip
    check(changes, {"a"}, {"price"}, preset="debezium", numbers="text")


def test_words_among_the_numbers_are_said_and_refused() -> None:
    states = every_second(
        lambda i: {"entity_id": "sensor.t", "state": "unavailable" if i == 3 else f"{20 + i}.5", "last_updated": rfc(i)}
    )
    proposal = propose(states, "t")
    found, refused, _ = reading(proposal, states)
    assert (found, refused) == (({"sensor.t"}, {"state"}, T0 + 123), ["type"])
    assert any("'unavailable'" in note for note in proposal.notes)


def test_records_beside_their_schema_as_kafka_connect_writes_them() -> None:
    schema = {"type": "struct", "fields": [{"type": "string", "field": "sensor"}], "name": "r"}
    sample = every_second(
        lambda i: {"schema": schema, "payload": {"sensor": f"s{i % 2}", "v": 1.5 + i, "at": T0 + 1000 * (i // 2)}}
    )
    check(sample, {"s0", "s1"}, {"v"}, unwrap="payload", series="sensor")


@pytest.mark.parametrize("write", [str.lower, str.upper])
def test_deleted_rows_are_no_readings(write: Callable[[str], str]) -> None:
    def change(i: int, kind: str = "insert") -> dict[str, Any]:
        row = {"id": i, "sensor": "a", "temp": 1.5 + i}
        return {"database": "d", "table": "t", "type": write(kind), "ts": T0 // 1000 + i, "data": row}

    sample = every_second(change)
    proposal = check(sample, {"a"}, {"temp"})
    deleted = [Plain(json.dumps(change(9, kind)).encode(), timestamp=T0) for kind in ("delete", "update")]
    found, refused, skipped = reading(proposal, deleted)
    assert (found[2], refused, [each.reason for each in skipped]) == (T0 + 9000, [], ["where"])


def test_cloud_events_by_their_headers() -> None:
    headers = (("ce_specversion", b"1.0"), ("ce_subject", b"pump-7"), ("ce_time", b"2025-11-24T16:00:00Z"))
    binary = [Plain(b'{"temp":%d}' % i, None, headers, T0 + 1000 * i, i) for i in range(6)]
    proposal = propose(binary, "t")
    assert reading(proposal, binary)[:2] == (({"pump-7"}, {"temp"}, T0), [])
    structured = [
        Plain(r.value, None, (("content-type", b"application/cloudevents+json"),), r.timestamp, r.offset)
        for r in every_second(
            lambda i: {"specversion": "1.0", "source": "/p", "subject": "pump-7", "time": rfc(i), "data": {"temp": i}}
        )
    ]
    check(structured, {"pump-7"}, {"temp"}, T0 + 123)


def test_heartbeats_beside_arrays_of_readings_are_skipped() -> None:
    trade = every_second(lambda i: {"data": [{"p": 1.5 + i, "s": "BTC", "t": T0 + 1000 * i}], "type": "trade"})
    sample = [Plain(b'{"type":"ping"}', timestamp=T0), *trade]
    proposal = check(sample, {"BTC"}, {"p"}, others="skip")
    assert any("heartbeats" in note for note in proposal.notes)


@pytest.mark.parametrize(
    ("document", "series", "channels"),
    [
        (lambda i: {"tagPath": f"Area1/P{i % 2}/Temp", "type": "Float8", "value": 20.5 + i, "timestamp": T0 + 1000 * (i // 2)}, {"Area1/P0/Temp", "Area1/P1/Temp"}, {"value"}),
        (lambda i: {"wo": f"hall {i % 2}", "value": 20.5 + i, "timestamp": T0 + 1000 * (i // 2)}, {"hall 0", "hall 1"}, {"value"}),
        (lambda i: {"slave": 1, "registers": [{"address": 40001, "name": "temp", "value": i}, {"address": 40002, "name": "flow", "value": 7}], "ts": T0 + 1000 * i}, {"temp", "flow"}, {"value"}),
        (lambda i: {"PublisherId": "p", "Messages": [{"DataSetWriterId": 7, "MetaDataVersion": {"MajorVersion": 1}, "Timestamp": T0 + 1000 * i, "Status": 0, "Payload": {"Temp": i}}]}, {"p/7"}, {"Temp"}),
        (lambda i: {"device": {"friendlyName": "k", "networkAddress": 4}, "temperature": 21.5 + i, "last_seen": T0 + 1000 * i}, {"k"}, {"temperature"}),
    ],
)  # fmt: skip
def test_what_is_a_name_and_what_a_measurement(document: Any, series: set[str], channels: set[str]) -> None:
    check(every_second(document), series, channels)


def test_the_number_of_a_part_does_not_name_the_thing() -> None:
    sample = every_second(
        lambda i: {"id": 0, "source": "init", "apower": 1.5 + i, "temperature": {"tC": 40.5}}, b"plug-1/switch:0"
    )
    check(sample, {"plug-1/switch:0"}, {"apower", "tC"})


def days(head: str, row: Callable[[datetime, int], str], hours: int = 24) -> list[Plain]:
    at = [datetime.fromtimestamp(T0 // 1000 // 86400 * 86400 + 3600 * hours * i, UTC) for i in range(14)]
    texts = [head, *(row(moment, i) for i, moment in enumerate(at))]
    return [Plain(text.encode(), offset=i) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("form", "hours", "step"),
    [
        ("%Y-%m-%d", 24, "1d"), ("%d.%m.%Y", 24, "1d"), ("%d/%m/%Y", 24, "1d"), ("%Y%m%d", 24, "1d"), ("%Y%m%d%H", 1, "1h"),
        ("%Y%m%d%H%M", 1, "1h"), ("%d-%b-%Y", 24, "1d"), ("%Y/%m/%d", 24, "1d"),
    ],
)  # fmt: skip
def test_days_are_times_too(form: str, hours: int, step: str) -> None:
    sample = days("datum;wert", lambda at, i: f"{at.strftime(form)};{i}.5", hours)
    proposal = propose(sample, "t")
    assert (proposal.settings["decode"]["ts_format"], proposal.settings["step"]) == (form, step)
    assert any("set decode.timezone" in note for note in proposal.notes)
    found, refused, _ = reading(proposal, sample, timezone="UTC")
    assert (found, refused) == (({"topic"}, {"wert"}, 1_763_942_400_000), [])


def test_a_day_and_a_time_of_day_in_two_columns_are_not_taken_for_midnight() -> None:
    sample = days("date,time,v", lambda at, i: f"{at:%Y-%m-%d},{at:%H:%M:%S},{i}.5", 1)
    proposal = propose(sample, "t")
    assert "ts" not in proposal.settings["decode"]
    assert any("two fields cannot be joined" in note for note in proposal.notes)


@pytest.mark.parametrize(
    "texts",
    [["2025-W01", "2025-W02"], ["45985.25", "45985.50"], ["24/11/25 16:00", "24/11/25 17:00"], ["1990", "1991"]],
)
def test_a_time_that_is_not_understood_is_said(texts: list[str]) -> None:
    sample = [
        Plain(text.encode(), offset=i)
        for i, text in enumerate(["time,temp", *(f"{text},{i}.5" for i, text in enumerate(texts * 4))])
    ]
    proposal = propose(sample, "t")
    assert proposal.settings["channels"] == ["temp"]
    assert any("how it is written is not known" in note for note in proposal.notes)


def test_months_and_days_with_changes_of_the_clock_are_steps_of_the_calendar() -> None:
    months = [Plain(f'{{"id":"a","ts":"2025-{i:02}-01T00:00:00Z","v":{i}}}'.encode(), offset=i) for i in range(1, 12)]
    assert propose(months, "t").settings["step"] == "1mo"
    nights = [f"2026-03-{day}T00:00:00+0{int(day > 29)}:00" for day in range(25, 32)]
    sample = [Plain(json.dumps({"id": "a", "ts": text, "v": i}).encode(), offset=i) for i, text in enumerate(nights)]
    proposal = propose(sample, "t")
    assert proposal.settings["step"] == "1d" and "align" not in proposal.settings
    assert any("by the calendar of `timezone`" in note for note in proposal.notes)


def test_expositions_of_prometheus_are_not_taken_for_graphite() -> None:
    with pytest.raises(NoProposal, match="Prometheus"):
        propose(lines(lambda i: f'# HELP x y\n# TYPE x gauge\nx{{a="b"}} {i} {T0 + 1000 * i}\n'), "t")


def test_graphite_with_a_value_that_is_not_there() -> None:
    sample = lines(lambda i: f"a.b.cpu {i} {T0 // 1000 + i}\na.b.mem NaN {T0 // 1000 + i}\n")
    assert propose(sample, "t").settings["decode"] == {"preset": "graphite"}


def test_histograms_are_named_as_what_is_not_read() -> None:
    point = {"timeUnixNano": str(T0 * 10**6), "count": "10", "sum": 12.5}
    metric = {"name": "latency", "histogram": {"dataPoints": [point]}}
    sample = every_second(lambda i: {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"metrics": [metric]}]}]})
    with pytest.raises(NoProposal, match="histogram"):
        propose(sample, "t")


def test_texts_and_blobs_of_presets_are_no_channels() -> None:
    pack = [
        {"bn": "m/", "bt": T0 // 1000, "n": "voltage", "v": 120.1},
        {"n": "label", "vs": "x"},
        {"n": "blob", "vd": "aGk="},
    ]
    check(
        [Plain(json.dumps([{**pack[0], "bt": T0 // 1000 + i}, *pack[1:]]).encode(), offset=i) for i in range(6)],
        {"m/"},
        {"voltage"},
    )
    metrics = [{"name": "temp", "doubleValue": 1.5}, {"name": "serial", "stringValue": "A7"}]
    sample = every_second(lambda i: {"timestamp": T0 + 1000 * i, "metrics": metrics}, b"spBv1.0/g/DDATA/e/d")
    check(sample, {"spBv1.0/g/DDATA/e/d"}, {"temp"})
