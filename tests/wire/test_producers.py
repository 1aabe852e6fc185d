"""Records as real programs write them, byte for byte, and the reading that their user expects; then the traps."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from streamrnn.config.settings import ConfigError, load
from streamrnn.wire.codec import Decoded, Decoder, dead_letter
from streamrnn.wire.presets import PRESETS

T0 = 1_764_000_000_000
KAFKA_MS = 1_795_784_640_000


@dataclass(frozen=True)
class Plain:
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = KAFKA_MS
    offset: int = 0
    partition: int = 0
    topic: str = "topic"


def decoder(channels: str, **decode: Any) -> Decoder:
    settings = load([], {"input": "t", "channels": channels.split(), "step": "1s", "horizon": 3, "decode": decode}, {})
    return Decoder(settings.stream_spec(), settings.decode_spec())


def read(value: bytes | str | None, channels: str, decode: dict[str, Any], **record: Any) -> Decoded:
    data = value.encode() if isinstance(value, str) else value
    return decoder(channels, **decode).read([Plain(data, **record)])


def ticks(found: Decoded, channels: str) -> list[tuple[str, float, dict[str, float]]]:
    """(series, milliseconds, what is there) of each tick."""
    batch, names = found.batch, channels.split()
    return [
        (
            batch.series[i],
            int(batch.ts_us[i]) / 1000,
            {name: float(v) for name, v in zip(names, batch.values[i], strict=True) if not math.isnan(v)},
        )
        for i in range(len(batch))
    ]


def right(
    value: bytes | str,
    channels: str,
    decode: dict[str, Any],
    *expected: tuple[str, float, dict[str, float]],
    **record: Any,
) -> None:
    found = read(value, channels, decode, **record)
    assert [(r.reason, r.detail) for r in found.rejected] == []
    assert ticks(found, channels) == list(expected)


def why(value: bytes | str | None, channels: str, decode: dict[str, Any], **record: Any) -> list[str]:
    found = read(value, channels, decode, **record)
    assert len(found.batch) == 0
    return [f"refused {r.reason}" for r in found.rejected] + [f"skipped {s.reason}" for s in found.skipped]


# ── collectd ─────────────────────────────────────────────────────────────────────────────────────────────────────────

COLLECTD = (
    '[{"values":[1.3837890625,0.8369140625,0.4609375],"dstypes":["gauge","gauge","gauge"],'
    '"dsnames":["shortterm","midterm","longterm"],"time":1795784638.782,"interval":2.000,"host":"host-a","plugin":"load",'
    '"plugin_instance":"","type":"load","type_instance":""}]'
)
LOAD = "shortterm midterm longterm"


def test_collectd() -> None:
    expected = {"shortterm": 1.3837890625, "midterm": 0.8369140625, "longterm": 0.4609375}
    right(COLLECTD, LOAD, {"preset": "collectd"}, ("host-a/load", 1795784638782, expected))


def test_collectd_rates_begin_with_null_and_other_plugins_are_skipped() -> None:
    first = COLLECTD.replace("1.3837890625", "null")
    expected = {"midterm": 0.8369140625, "longterm": 0.4609375}
    right(first, LOAD, {"preset": "collectd"}, ("host-a/load", 1795784638782, expected))
    other = COLLECTD.replace('"dsnames":["shortterm","midterm","longterm"]', '"dsnames":["rx","tx","errors"]')
    assert why(other, LOAD, {"preset": "collectd"}) == ["skipped other"]
    assert why("[]", LOAD, {"preset": "collectd"}) == ["skipped empty"]


def test_collectd_instances_are_series_of_their_own() -> None:
    def cpu(number: int, kind: str, value: float) -> str:
        return (
            f'{{"values":[{value}],"dstypes":["derive"],"dsnames":["value"],"time":1795784640.773,"interval":2.000,'
            f'"host":"host-a","plugin":"cpu","plugin_instance":"{number}","type":"cpu","type_instance":"{kind}"}}'
        )

    record = f"[{cpu(1, 'system', 4294967236)},{cpu(1, 'idle', 96.5)},{cpu(0, 'system', 3)}]"
    right(
        record, "value", {"preset": "collectd"},
        ("host-a/cpu-1/cpu-system", 1795784640773, {"value": 4294967236.0}),
        ("host-a/cpu-1/cpu-idle", 1795784640773, {"value": 96.5}),
        ("host-a/cpu-0/cpu-system", 1795784640773, {"value": 3.0}),
    )  # fmt: skip
    # Or the kinds as channels of one series a core, as the user prefers.
    long = {
        "preset": "collectd",
        "series": ["host", ["plugin", "plugin_instance"]],
        "channel": "type_instance",
        "value": "values[0]",
    }
    right(
        record, "idle system", long,
        ("host-a/cpu-1", 1795784640773, {"system": 4294967236.0}),
        ("host-a/cpu-1", 1795784640773, {"idle": 96.5}),
        ("host-a/cpu-0", 1795784640773, {"system": 3.0}),
    )  # fmt: skip


def test_collectd_arrays_that_are_not_parallel_are_refused() -> None:
    assert why(COLLECTD.replace(',"longterm"]', "]"), LOAD, {"preset": "collectd"}) == ["refused type"]


# ── rsyslog ──────────────────────────────────────────────────────────────────────────────────────────────────────────

IMPSTATS = '{ "name": "resource-usage", "origin": "impstats", "utime": 5656, "maxrss": 6084 }'


@pytest.mark.parametrize(
    "record",
    [
        IMPSTATS,
        f"2026-11-27T13:15:48.326011+00:00 vm rsyslogd-pstats: {IMPSTATS}\n",
        f"@cee: {IMPSTATS}",
        IMPSTATS.replace("6084", '"6084"').replace("5656", '"5656"'),  # a list template
    ],
)
def test_rsyslog_impstats(record: str) -> None:
    right(record, "utime maxrss", {"preset": "rsyslog"}, ("resource-usage", KAFKA_MS, {"utime": 5656, "maxrss": 6084}))


def test_rsyslog_keys_with_dots_are_channels() -> None:
    record = '{"name":"action-0","origin":"core.action","suspended.duration":3}'
    right(record, "suspended.duration", {"preset": "rsyslog"}, ("action-0", KAFKA_MS, {"suspended.duration": 3}))


# ── cryptofeed ───────────────────────────────────────────────────────────────────────────────────────────────────────

TRADE = (
    '{"exchange":"COINBASE","symbol":"BTC-USD","side":"buy","amount":0.1,"price":64250.1,"id":"7001","type":null,'
    '"timestamp":1764000000.123456,"receipt_timestamp":1764000000.456789}'
)


def test_cryptofeed() -> None:
    preset = {"preset": "cryptofeed"}
    expected = ("COINBASE/BTC-USD", 1764000000123.456, {"price": 64250.1, "amount": 0.1})
    right(TRADE, "price amount", preset, expected, key=b"trades")
    # Another exchange is another series; numbers may be texts, or have a digit more.
    kraken = TRADE.replace("COINBASE", "KRAKEN").replace("64250.1", '"64250.10"').replace("0.1,", '"0.1",')
    right(kraken, "price amount", preset, ("KRAKEN/BTC-USD", 1764000000123.456, expected[2]), key=b"trades")
    late = TRADE.replace("1764000000.123456", "null")
    right(late, "price amount", preset, ("COINBASE/BTC-USD", 1764000000456.789, expected[2]))
    ticker = '{"exchange":"COINBASE","symbol":"BTC-USD","bid":64250.05,"ask":64250.1,"timestamp":1764000001.0,"receipt_timestamp":1764000001.1}'
    right(ticker, "bid ask", preset, ("COINBASE/BTC-USD", 1764000001000, {"bid": 64250.05, "ask": 64250.1}))
    assert why(ticker, "price", preset) == ["skipped other"]


# ── Debezium ─────────────────────────────────────────────────────────────────────────────────────────────────────────

AFTER = (
    '{"id":1,"sensor":"pump-7","at":"2026-01-02T03:04:05.100000Z","at_naive":1767323045100000,"at_ms":1767323045100,'
    '"v":0.1,"n":"Bdw=","nn":{"scale":1,"value":"GQ=="},"r":0.1}'
)
SENSOR = {"preset": "debezium", "series": "after.sensor", "ts": "after.at_ms", "scale": {"n": 3}}
ROW = ("pump-7", 1767323045100, {"v": 0.1, "n": 1.5, "nn": 2.5})


def change(after: str = AFTER, op: str = "c") -> str:
    return f'{{"before":null,"after":{after},"source":{{"name":"pg"}},"op":"{op}","ts_ms":1767323045999}}'


@pytest.mark.parametrize("op", ["r", "c", "u"])
def test_debezium(op: str) -> None:
    right(change(op=op), "v n nn", SENSOR, ROW, key=b'{"id":1}')
    right(f'{{"schema":{{"type":"struct"}},"payload":{change(op=op)}}}', "v n nn", SENSOR, ROW)


def test_debezium_times_are_read_as_their_columns_say() -> None:
    for column, unit in (("at", "ms"), ("at_naive", "us"), ("at_ms", "ms")):
        right(
            change(),
            "v",
            {**SENSOR, "scale": 3, "ts": f"after.{column}", "ts_unit": unit},
            ("pump-7", 1767323045100, {"v": 0.1}),
        )


def test_debezium_traps() -> None:
    right(change(AFTER.replace('"v":0.1', '"v":"NaN"')), "v n", SENSOR, ("pump-7", 1767323045100, {"n": 1.5}))
    assert why(change(AFTER.replace('"pump-7"', "null")), "v n", SENSOR, key=b'{"id":7}') == ["refused no-series"]
    assert why(change("null", "d"), "v n", SENSOR) == ["skipped delete"]
    assert why(None, "v n", SENSOR) == ["skipped tombstone"]
    assert why("null", "v n", SENSOR) == ["skipped tombstone"]
    # A decimal whose scale nobody has said is not guessed at.
    assert why(change(), "n", {**SENSOR, "scale": None}) == ["refused type"]
    with pytest.raises(ConfigError, match=r"series: after\.sensor"):
        decoder("v", preset="debezium")


def test_debezium_flattened() -> None:
    flat = {"preset": "debezium-flat", "series": "sensor", "ts": "at_ms", "scale": {"n": 3}}
    right(AFTER, "v n nn", flat, ROW)
    assert why("null", "v n", flat) == ["skipped tombstone"]
    assert why(AFTER[:-1] + ',"__deleted":"true"}', "v n", flat) == ["skipped delete"]


# ── Quix ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

QUIX = (
    '{"BinaryValues":{},"StringValues":{"site":["a"]},"NumericValues":{"temp":[21.4]},"Timestamps":[1764000000000000000],'
    '"TagValues":{}}'
)


def test_quix() -> None:
    expected = ("pump-7", T0, {"temp": 21.4})
    framed = f'{{"C":"JT","K":"ParameterData","V":{QUIX},"S":34,"E":165}}'
    right(framed, "temp flow", {"preset": "quix"}, expected, key=b"pump-7")
    headers = (("__Q_ModelKey", b"TimeseriesData"), ("__Q_CodecId", b"JT"))
    right(QUIX, "temp flow", {"preset": "quix"}, expected, key=b"pump-7", headers=headers)
    many = QUIX.replace("[21.4]", '[21.4,null],"flow":[1,2]').replace("000000000]", "000000000,1764000001000000000]")
    right(
        many,
        "temp flow",
        {"preset": "quix"},
        ("pump-7", T0, {"temp": 21.4, "flow": 1}),
        ("pump-7", T0 + 1000, {"flow": 2}),
        key=b"pump-7",
    )
    uneven = many.replace("[1,2]", "[1]")
    assert why(uneven, "temp flow", {"preset": "quix"}, key=b"pump-7") == ["refused type"] * 2


# ── SenML ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_senml() -> None:
    pack = '[{"n": "temp", "v": 21.5, "t": 0, "u": "Cel", "bn": "pump-7/", "bt": 1764000000}, {"n": "flow", "v": 3.25, "t": 1}]'
    preset = {"preset": "senml"}
    right(pack, "temp flow", preset, ("pump-7/", T0, {"temp": 21.5}), ("pump-7/", T0 + 1000, {"flow": 3.25}))
    added = '[{"bn":"p/","bt":1764000000.25,"bv":20},{"n":"temp","v":1.5},{"n":"flow","v":2,"t":0.000001}]'
    right(added, "temp flow", preset, ("p/", T0 + 250, {"temp": 21.5}), ("p/", T0 + 250.001, {"flow": 22}))
    relative = '[{"bn":"p/","n":"temp","v":1},{"n":"temp","v":2,"t":-10}]'
    right(relative, "temp", preset, ("p/", KAFKA_MS, {"temp": 1}), ("p/", KAFKA_MS - 10_000, {"temp": 2}))
    right(
        '[{"n":"urn:dev:ow:10e2073a:temp","v":1,"t":1764000000}]',
        "temp",
        preset,
        ("urn:dev:ow:10e2073a:", T0, {"temp": 1}),
    )


# ── Sparkplug B as JSON ──────────────────────────────────────────────────────────────────────────────────────────────


def test_sparkplug_json() -> None:
    record = (
        '{"timestamp": "1764000000000", "metrics": [{"name": "temp", "timestamp": "1764000000000", "floatValue": 21.4}, '
        '{"name": "neg", "intValue": 4294967291}, {"name":"nan","doubleValue":"NaN"}], "seq": "3"}'
    )
    key = b"spBv1.0/plant/DDATA/edge/pump-7"
    name = key.decode()
    right(
        record,
        "temp neg nan",
        {"preset": "sparkplug-json"},
        (name, T0, {"temp": 21.4}),
        (name, T0, {"neg": -5}),
        (name, T0, {}),
        key=key,
    )
    short = '{"timestamp":"1764000000000","metrics":[{"name":"temp","datatype":1,"intValue":251},{"name":"flow","datatype":7,"intValue":4294967291}]}'
    right(
        short,
        "temp flow",
        {"preset": "sparkplug-json"},
        (name, T0, {"temp": -5}),
        (name, T0, {"flow": 4294967291}),
        key=key,
    )


# ── Flink, Spark ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flink() -> None:
    record = '{"id":1,"ts":"2026-01-02 03:04:05.1","ltz":"2026-01-02 03:04:05.1Z","v":"NaN","inf":"Infinity","d":1.5,"n":null,"big":1E+5}'
    flink = {"preset": "flink", "series": "id"}
    values = {"d": 1.5, "big": 100000.0}
    right(record, "v inf d n big", {**flink, "timezone": "UTC"}, ("1", 1767323045100, values))
    right(record, "v inf d n big", {**flink, "timezone": "Europe/Berlin"}, ("1", 1767319445100, values))
    right(record, "v inf d n big", {**flink, "ts": "ltz"}, ("1", 1767323045100, values))
    found = read(record, "d", flink)
    assert [r.reason for r in found.rejected] == ["timestamp"]
    assert "decode.timezone" in found.rejected[0].detail


def test_spark() -> None:
    record = '{"sensor":"p","ts":"2026-01-02T04:04:05.100+01:00","ntz":"2026-01-02T03:04:05.100","nan":"NaN","d":1.500,"big":1.0E22}'
    spark = {"preset": "spark", "series": "sensor"}
    right(record, "nan d big", spark, ("p", 1767323045100, {"d": 1.5, "big": 1e22}))
    right(record, "d", {**spark, "ts": "ntz", "timezone": "UTC"}, ("p", 1767323045100, {"d": 1.5}))


# ── OpenTelemetry ────────────────────────────────────────────────────────────────────────────────────────────────────

OTLP = (
    '{"resourceMetrics":[{"resource":{"attributes":[{"key":"host.name","value":{"stringValue":"host-a"}}]},"scopeMetrics":'
    '[{"metrics":[{"name":"temp","unit":"Cel","gauge":{"dataPoints":[{"timeUnixNano":"1764000000000000000","asDouble":21.4},'
    '{"timeUnixNano":"1764000001000000000","asInt":"5"}]}}]}]}]}'
)


def test_otlp_json() -> None:
    preset = {"preset": "otlp-json"}
    right(OTLP, "temp", preset, ("host-a", T0, {"temp": 21.4}), ("host-a", T0 + 1000, {"temp": 5}))
    odd = OTLP.replace('"asDouble":21.4', '"asDouble":"NaN"').replace('"asInt":"5"', '"flags":1')
    right(odd, "temp", preset, ("host-a", T0, {}), ("host-a", T0 + 1000, {}))
    points = '"attributes":[{"key":"state","value":{"stringValue":"idle"}},{"key":"cpu","value":{"intValue":"0"}}],"timeUnixNano"'
    one = OTLP.replace('"timeUnixNano"', points, 1).replace("gauge", "sum")
    right(one, "temp", preset, ("host-a/0/idle", T0, {"temp": 21.4}), ("host-a", T0 + 1000, {"temp": 5}))
    assert why(OTLP.replace('"temp"', '"other"'), "temp", preset) == ["skipped other"]
    assert why(OTLP.replace("gauge", "histogram"), "temp", preset) == ["skipped empty"]


# ── Telegraf ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CPU = '{"fields":{"usage_idle":91.2},"name":"cpu","tags":{"host":"n1","cpu":"cpu0"},"timestamp":1764255600}'


def test_telegraf() -> None:
    preset = {"preset": "telegraf"}
    first, second = ("n1/cpu0", 1764255600000, {"usage_idle": 91.2}), ("n1/cpu1", 1764255600000, {"usage_idle": 91.2})
    right(CPU, "usage_idle", preset, first)
    batch = f'{{"metrics":[{CPU},{CPU.replace("cpu0", "cpu1")}]}}'
    right(batch, "usage_idle", preset, first, second)
    mem = '{"fields":{"used":5},"name":"mem","tags":{"host":"n1"},"timestamp":1764255600}'
    found = read(f'{{"metrics":[{CPU},{mem}]}}', "usage_idle", preset)
    assert ticks(found, "usage_idle") == [first]
    assert [(s.reason, s.elements) for s in found.skipped] == [("other", 1)]
    assert why(mem, "used", {**preset, "where": {"name": "cpu"}}) == ["skipped where"]


# ── Confluent's serializers ──────────────────────────────────────────────────────────────────────────────────────────


def test_confluent_json_schema() -> None:
    record = b'{"series":"pump-7","ts":1764000000000,"values":{"temp":21.4}}'
    schema = {"format": "json-schema"}
    expected = ("pump-7", T0, {"temp": 21.4})
    right(b"\x00\x00\x00\x00\x03" + record, "temp flow", schema, expected)
    right(record, "temp flow", schema, expected, headers=(("__value_schema_id", b"\x01" + bytes(16)),))
    bare = record.replace(b"21.4", b'21.4,"flow":NaN')
    right(b"\x00\x00\x00\x00\x03" + bare, "temp flow", {**schema, "numbers": "text"}, expected)
    assert why(b"\x00\x00", "temp", schema) == ["refused malformed"]


# ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prometheus_adapter() -> None:
    record = '{"timestamp":"2026-01-02T03:04:05Z","value":"21.4","name":"temp","labels":{"instance":"pump-7"}}'
    preset = {"preset": "prometheus-adapter"}
    right(record, "temp", preset, ("pump-7", 1767323045000, {"temp": 21.4}))
    right(record.replace("21.4", "NaN"), "temp", preset, ("pump-7", 1767323045000, {}))
    labels = record.replace('{"instance"', '{"__name__":"temp","zone":"b","job":"node","instance"')
    right(labels, "temp", preset, ("pump-7/node/b", 1767323045000, {"temp": 21.4}))
    assert why(record, "flow", preset) == ["skipped other"]


def test_prometheus_remote_write() -> None:
    def of(name: str, value: str) -> str:
        labels = {"__name__": name, "instance": "n1:9100", "job": "node", "cpu": "0"}
        written = ",".join(f'{{"name":"{key}","value":"{text}"}}' for key, text in labels.items())
        return f'{{"labels":[{written}],"samples":[{{"value":{value},"timestamp":"1764000000000"}}]}}'

    record = f'{{"timeseries":[{of("load", "1.5")},{of("up", "1")},{of("load", "NaN")}]}}'.replace("NaN", '"NaN"')
    preset = {"preset": "prometheus-remote-write"}
    found = read(record, "load", preset)
    name = "n1:9100/node/0"
    assert ticks(found, "load") == [(name, T0, {"load": 1.5}), (name, T0, {})]
    assert [(each.reason, each.elements) for each in found.skipped] == [("other", 1)]


def test_thingsboard() -> None:
    headers = (("tb_msg_md_deviceName", b"pump-7"), ("tb_msg_md_ts", b"1764000000000"))
    right(
        '{"temp":21.4,"flow":"3.5"}',
        "temp flow",
        {"preset": "thingsboard"},
        ("pump-7", T0, {"temp": 21.4, "flow": 3.5}),
        headers=headers,
    )
    gateway = '{"pump-7":[{"ts":1764000000000,"values":{"temp":21.4}},{"ts":1764000001000,"values":{"temp":22}}],"pump-8":[{"ts":1764000000000,"values":{"temp":1}}]}'
    right(
        gateway,
        "temp",
        {"preset": "thingsboard-gateway"},
        ("pump-7", T0, {"temp": 21.4}),
        ("pump-7", T0 + 1000, {"temp": 22}),
        ("pump-8", T0, {"temp": 1}),
    )


def test_ditto() -> None:
    head = '{"topic":"org.acme/pump-7/things/twin/events/modified","headers":{},"revision":3,"timestamp":"2025-11-24T16:00:00Z",'
    preset = {"preset": "ditto"}
    right(
        head + '"path":"/features/temp/properties/value","value":21.4}',
        "temp flow",
        preset,
        ("org.acme:pump-7", T0, {"temp": 21.4}),
    )
    whole = '"path":"/features","value":{"temp":{"properties":{"value":21.4}},"flow":{"properties":{"value":3}}}}'
    right(head + whole, "temp flow", preset, ("org.acme:pump-7", T0, {"temp": 21.4, "flow": 3}))
    assert why(head + '"path":"/attributes/place","value":"roof"}', "temp", preset) == ["skipped other"]


def test_aws_iot() -> None:
    record = '{"current":{"state":{"reported":{"temp":21.4}},"version":2},"timestamp":1764000000}'
    right(record, "temp", {"preset": "aws-iot"}, ("pump-7", T0, {"temp": 21.4}), key=b"pump-7")
    right(
        '{"state":{"reported":{"temp":21.4}},"timestamp":1764000000}',
        "temp",
        {"preset": "aws-iot"},
        ("pump-7", T0, {"temp": 21.4}),
        key=b"pump-7",
    )
    assert why('{"state":{"desired":{"temp":20}},"timestamp":1764000000}', "temp", {"preset": "aws-iot"}, key=b"p") == [
        "skipped other"
    ]


@pytest.mark.parametrize("identity", [b"pump-7", b"\xa1\x06pump-7", b"\xb1\x00\x00\x00\x06pump-7"])
def test_azure_iot_hub(identity: bytes) -> None:
    headers = (("iothub-connection-device-id", identity),)
    right('{"temp":21.4}', "temp", {"preset": "azure-iot-hub"}, ("pump-7", KAFKA_MS, {"temp": 21.4}), headers=headers)
    assert why('{"temp":21.4}', "temp", {"preset": "azure-iot-hub"}) == ["refused no-series"]


@pytest.mark.parametrize("name", [b"pump-7", b'"pump-7"'])
def test_ksqldb_windows(name: bytes) -> None:
    start, end = T0.to_bytes(8, "big"), (T0 + 5000).to_bytes(8, "big")
    preset = {"preset": "ksqldb"}
    right('{"TEMP":21.4}', "TEMP", preset, ("pump-7", T0, {"TEMP": 21.4}), key=name + start)
    right('{"TEMP":21.4}', "TEMP", preset, ("pump-7", T0, {"TEMP": 21.4}), key=name + end + start)
    right('{"TEMP":21.4}', "TEMP", preset, ("pump-7", KAFKA_MS, {"TEMP": 21.4}), key=name)
    assert why(None, "TEMP", preset, key=name + start) == ["skipped tombstone"]


def test_binance() -> None:
    trade = '{"e":"trade","E":1764000000136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1764000000000,"m":true}'
    preset = {"preset": "binance"}
    expected = ("BNBBTC", T0, {"price": 0.001, "quantity": 100})
    right(trade, "price quantity", preset, expected)
    right(f'{{"stream":"bnbbtc@trade","data":{trade}}}', "price quantity", preset, expected)
    # One letter means another thing in another event: `p` of a day's ticker is a change, not a price.
    ticker = '{"e":"24hrTicker","E":1764000000000,"s":"BNBBTC","p":"0.0015","c":"0.0025","b":"0.0024","a":"0.0026"}'
    right(ticker, "price bid ask", preset, ("BNBBTC", T0, {"price": 0.0025, "bid": 0.0024, "ask": 0.0026}))
    kline = (
        '{"e":"kline","E":1764000000000,"s":"BNBBTC","k":{"t":1763999940000,"o":"1","h":"4","l":"0.5","c":"2","v":"7"}}'
    )
    right(kline, "open close", preset, ("BNBBTC", T0, {"open": 1, "close": 2}))
    book = '{"u":400900217,"s":"BNBUSDT","b":"25.35","B":"31.21","a":"25.36","A":"40.66"}'
    right(book, "bid ask", preset, ("BNBUSDT", KAFKA_MS, {"bid": 25.35, "ask": 25.36}))
    assert why('{"result":null,"id":1}', "price", preset) == ["skipped other"]


def test_coinbase() -> None:
    match = '{"type":"match","trade_id":10,"size":"0.01","price":"64250.1","product_id":"BTC-USD","time":"2025-11-24T16:00:00.25Z"}'
    preset = {"preset": "coinbase"}
    right(match, "price size", preset, ("BTC-USD", T0 + 250, {"price": 64250.1, "size": 0.01}))
    assert why(match.replace('"match"', '"received"'), "price", preset) == ["skipped where"]
    advanced = '{"channel":"ticker","timestamp":"2025-11-24T16:00:00Z","events":[{"type":"update","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"64250.1"},{"type":"ticker","product_id":"ETH-USD","price":"3000"}]}]}'
    right(advanced, "price", preset, ("BTC-USD", T0, {"price": 64250.1}), ("ETH-USD", T0, {"price": 3000}))
    assert why('{"channel":"heartbeats","timestamp":"2025-11-24T16:00:00Z","events":[]}', "price", preset) == [
        "skipped empty"
    ]


def test_kraken() -> None:
    trade = '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":64250.1,"qty":0.1,"timestamp":"2025-11-24T16:00:00.123456Z"}]}'
    right(trade, "price qty", {"preset": "kraken"}, ("BTC/USD", T0 + 123.456, {"price": 64250.1, "qty": 0.1}))
    assert why('{"channel":"heartbeat"}', "price", {"preset": "kraken"}) == ["skipped other"]


def test_every_preset_has_a_test_and_every_key_beside_it_overrides() -> None:
    from pathlib import Path

    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    missing = [name for name in PRESETS if f'"{name}"' not in text and name not in ("kcat", "influx")]
    assert missing == []
    right(
        CPU,
        "usage_idle",
        {"preset": "telegraf", "series": "name", "ts_unit": "ms"},
        ("cpu", 1764255600, {"usage_idle": 91.2}),
    )


def test_the_effective_configuration_read_again_is_the_same() -> None:
    for decode in (
        {"preset": "telegraf", "ts_unit": "ms"},
        {"each": "[*]", "series": ["a", "b?"], "where": {"x": [1, None]}},
    ):
        chosen = load([], {"input": "t", "channels": ["temp"], "step": "1s", "horizon": 3, "decode": decode}, {})
        again = load(
            [],
            {"input": "t", "channels": ["temp"], "step": "1s", "horizon": 3, "decode": chosen.effective()["decode"]},
            {},
        )
        assert again.decode_spec() == chosen.decode_spec()


def test_a_dead_letter_names_the_element() -> None:
    record = json.dumps([json.loads(COLLECTD)[0] | {"host": host} for host in ("a", None, "c")])
    found = read(record, LOAD, {"preset": "collectd"})
    assert [name for name, _, _ in ticks(found, LOAD)] == ["a/load", "c/load"]
    assert found.batch.index.tolist() == [0, 2]
    (refused,) = found.rejected
    _, value, headers = dead_letter(refused)
    assert value == record.encode()
    assert dict(headers)["streamrnn-index"] == b"1"


# ── Databento ────────────────────────────────────────────────────────────────────────────────────────────────────────

DBN = (
    '{"ts_recv":"1764000000000000007","hd":{"ts_event":"1764000000123456789","rtype":0,"publisher_id":1,"instrument_id":5482},'
    '"action":"T","side":"A","depth":0,"price":"5411750000000","size":5,"flags":128,"ts_in_delta":22993,"sequence":1170352}'
)


def test_databento() -> None:
    preset = {"preset": "databento"}
    right(DBN, "price size", preset, ("5482", T0 + 123.456, {"price": 5411.75, "size": 5}))
    named = DBN[:-1] + ',"symbol":"ESZ5"}'
    pretty = named.replace('"5411750000000"', '"5411.750000000"').replace(
        '"1764000000123456789"', '"2025-11-24T16:00:00.123456789Z"'
    )
    right(pretty, "price size", preset, ("ESZ5", T0 + 123.456, {"price": 5411.75, "size": 5}))
    # A spread may be negative; the largest number of 64 bits is no price, and no time.
    right(named.replace('"541', '"-541'), "price", preset, ("ESZ5", T0 + 123.456, {"price": -5411.75}))
    right(
        named.replace("5411750000000", "9223372036854775807"), "price size", preset, ("ESZ5", T0 + 123.456, {"size": 5})
    )
    right(named.replace("1764000000123456789", "18446744073709551615"), "size", preset, ("ESZ5", T0, {"size": 5}))
    quote = '{"hd":{"ts_event":"1764000000000000000","rtype":1,"publisher_id":1,"instrument_id":7},"price":"9223372036854775807","size":0,"levels":[{"bid_px":"1500000000","ask_px":"1750000000","bid_sz":3,"ask_sz":4}]}'
    right(quote, "bid_px ask_px", preset, ("7", T0, {"bid_px": 1.5, "ask_px": 1.75}))
    assert why('{"hd":{"ts_event":"1","rtype":23},"msg":"Heartbeat"}', "price", preset) == ["skipped other"]
