"""What is proposed for records that nobody has described, and that it reads them rightly."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))

import test_producers as producers
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from registry import serving
from test_elements import documents
from test_otlp import metrics
from test_producers import T0, Plain
from test_sparkplug import payload as sparkplug_payload

from streamrnn.cli import app
from streamrnn.config.settings import load
from streamrnn.discovery.decode_report import warnings
from streamrnn.discovery.proposing import NoProposal, Proposal, propose
from streamrnn.runtime.exit_codes import exit_code_of
from streamrnn.serving.schemas import known_for
from streamrnn.wire.codec import Decoder

Record = tuple[str, str | bytes | None]


def otlp(i: int) -> bytes:
    message = MetricsData()
    gauge = metrics(message).add(name="temp").gauge
    gauge.data_points.add(time_unix_nano=(T0 + 1000 * i) * 1_000_000, as_double=i / 3)
    return message.SerializeToString()


def records(
    values: list[str],
    key: Any = None,
    headers: tuple[tuple[str, bytes], ...] = (),
    begin: int = T0,
    partitions: int = 1,
) -> list[Plain]:
    found = []
    for i, value in enumerate(values):
        of = key(i) if isinstance(key, Callable) else key  # type: ignore[arg-type]
        found.append(Plain(value.encode(), of, headers, begin + 1000 * i, i, i % partitions, "topic"))
    return found


LOAD = json.loads(producers.COLLECTD)[0]
# name → (records, the decode that is proposed or the preset, series, channels, step)
PRODUCERS: dict[str, tuple[list[Plain], str | None, set[str], set[str], str]] = {
    "collectd": (
        records([json.dumps([{**LOAD, "time": 1795784638.782 + 2 * i}]) for i in range(8)], lambda i: f"{i}".encode(), begin=producers.KAFKA_MS),
        "collectd", {"host-a/load"}, {"shortterm", "midterm", "longterm"}, "2s",
    ),
    "rsyslog": (records([f"2026-11-27T13:15:48+00:00 vm rsyslogd-pstats: {producers.IMPSTATS}\n"] * 4), "rsyslog", {"resource-usage"}, {"utime", "maxrss"}, "1s"),
    "cryptofeed": (
        records([producers.TRADE.replace("000.123456", f"{i:03d}.123456") for i in range(6)], b"trades"),
        "cryptofeed", {"COINBASE/BTC-USD"}, {"price", "amount"}, "1s",
    ),
    "debezium": (
        records([producers.change(producers.AFTER.replace("at_ms\":1767323045", f"at_ms\":17673230{45 + i}")) for i in range(5)] + [producers.change("null", "d")]),
        "debezium", {"pump-7"}, {"v", "nn", "r"}, "1s",
    ),
    "quix": (
        records([f'{{"C":"JT","K":"ParameterData","V":{producers.QUIX.replace("1764000000000", str(T0 + 1000 * i))}}}' for i in range(4)], b"pump-7"),
        "quix", {"pump-7"}, {"temp"}, "1s",
    ),
    "senml": (records([f'[{{"n":"temp","v":21.5,"t":0,"bn":"pump-7/","bt":{T0 // 1000 + 2 * i}}},{{"n":"flow","v":3.25}}]' for i in range(4)]), "senml", {"pump-7/"}, {"temp", "flow"}, "2s"),
    "sparkplug": (
        records([f'{{"timestamp":"{T0 + 1000 * i}","metrics":[{{"name":"temp","floatValue":21.4}},{{"name":"neg","intValue":4294967291}}],"seq":"3"}}' for i in range(4)], b"spBv1.0/p/DDATA/e"),
        "sparkplug-json", {"spBv1.0/p/DDATA/e"}, {"temp", "neg"}, "1s",
    ),
    "otlp": (records([producers.OTLP]), "otlp-json", {"host-a"}, {"temp"}, "1s"),
    "telegraf": (
        records([producers.CPU.replace("cpu0", f"cpu{i % 2}").replace("255600", str(255600 + 10 * (i // 2))) for i in range(8)] + ['{"fields":{"used":5},"name":"mem","tags":{"host":"n1"},"timestamp":1764255600}'], begin=1764255600000),
        "telegraf", {"n1/cpu0", "n1/cpu1"}, {"usage_idle"}, "10s",
    ),
    "telegraf batch": (records([f'{{"metrics":[{producers.CPU},{producers.CPU.replace("cpu0", "cpu1")}]}}'], begin=1764255600000), "telegraf", {"n1/cpu0", "n1/cpu1"}, {"usage_idle"}, "1s"),
    "prometheus": (
        records([f'{{"timestamp":"2026-01-02T03:04:{i:02d}Z","value":"21.4","name":"{name}","labels":{{"instance":"pump-7"}}}}' for i in range(4) for name in ("temp", "flow")], begin=1767323040000),
        "prometheus-adapter", {"pump-7"}, {"temp", "flow"}, "1s",
    ),
    "thingsboard": (records(['{"temp":21.4,"flow":"3.5"}'], headers=(("tb_msg_md_deviceName", b"pump-7"), ("tb_msg_md_ts", b"1764000000000"))), "thingsboard", {"pump-7"}, {"temp", "flow"}, "1s"),
    "ditto": (records(['{"topic":"org.acme/pump-7/things/twin/events/modified","path":"/features/temp/properties/value","value":21.4,"timestamp":"2025-11-24T16:00:00Z"}']), "ditto", {"org.acme:pump-7"}, {"temp"}, "1s"),
    "azure": (records(['{"temp":21.4}'] * 3, headers=(("iothub-connection-device-id", b"pump-7"),)), "azure-iot-hub", {"pump-7"}, {"temp"}, "1s"),
    "ksqldb": (records(['{"TEMP":21.4}'], b"pump-7" + T0.to_bytes(8, "big")), "ksqldb", {"pump-7"}, {"TEMP"}, "1s"),
    "binance": (records([f'{{"e":"trade","E":{T0 + 1000 * i},"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":{T0 + 1000 * i},"m":true}}' for i in range(4)]), "binance", {"BNBBTC"}, {"price", "quantity"}, "1s"),
    "coinbase": (
        records([f'{{"type":"match","trade_id":{i},"size":"0.01","price":"64250.1","product_id":"BTC-USD","time":"2025-11-24T16:00:0{i}.25Z"}}' for i in range(4)] + ['{"type":"heartbeat","product_id":"BTC-USD","time":"2025-11-24T16:00:00Z"}']),
        "coinbase", {"BTC-USD"}, {"price", "size"}, "1s",
    ),
    "kraken": (records([f'{{"channel":"trade","data":[{{"symbol":"BTC/USD","price":64250.1,"qty":0.1,"timestamp":"2025-11-24T16:00:0{i}.5Z"}}]}}' for i in range(4)] + ['{"channel":"heartbeat"}']), "kraken", {"BTC/USD"}, {"price", "qty"}, "1s"),
    "flink": (
        records([f'{{"id":1,"ts":"2026-01-02 03:04:{5 + i:02d}.1","ltz":"2026-01-02 03:04:{5 + i:02d}.1Z","v":"NaN","d":1.5,"n":null,"big":1E+5}}' for i in range(4)], begin=1767323045000),
        None, {"1"}, {"d", "big"}, "1s",
    ),
    "spark": (records([f'{{"sensor":"p","ts":"2026-01-02T04:04:0{i}.100+01:00","ntz":"2026-01-02T03:04:0{i}.100","nan":"NaN","d":1.500,"big":1.0E22}}' for i in range(4)]), None, {"p"}, {"d", "big"}, "1s"),
    "the contract": (records([f'{{"series":"pump-7","ts":{T0 + 1000 * i},"values":{{"temp":21.4,"flow":null}}}}' for i in range(4)]), None, {"pump-7"}, {"temp", "flow"}, "1s"),
    "confluent's NaN": (records([f'{{"series":"pump-7","ts":{T0 + 1000 * i},"values":{{"temp":21.4,"flow":NaN}}}}' for i in range(4)]), None, {"pump-7"}, {"temp", "flow"}, "1s"),
    "seconds": (records([json.dumps({"device_id": f"d{i % 2}", "timestamp": T0 // 1000 + i // 2, "temperature": i, "humidity": 40.5}) for i in range(10)]), None, {"d0", "d1"}, {"temperature", "humidity"}, "1s"),
    "readings of a gateway": (
        records([json.dumps({"gateway": f"g{g}", "readings": [{"sensor": f"s{j}", "t": T0 + 1000 * i, "temp": j + i} for j in range(3)]}) for i in range(4) for g in range(2)]),
        None, {f"g{g}/s{j}" for g in range(2) for j in range(3)}, {"temp"}, "1s",
    ),
    "readings of one device": (
        records([json.dumps({"device": f"d{d}", "readings": [{"ts": T0 + 5000 * i + 1000 * j, "temp": j} for j in range(5)]}) for i in range(4) for d in range(2)]),
        None, {"d0", "d1"}, {"temp"}, "1s",
    ),
    "columns": (
        records([json.dumps({"sensor": "p", "data": {"timestamps": [T0 + 2000 * i, T0 + 2000 * i + 1000], "temp": [1.5, None], "flow": [3, 4]}}) for i in range(3)]),
        None, {"p"}, {"temp", "flow"}, "1s",
    ),
    "metricbeat": (
        records([json.dumps({"@timestamp": f"2025-11-24T16:00:{10 * i:02d}Z", "host": {"name": "h"}, "system": {"cpu": {"idle": {"pct": 0.9}, "user": {"pct": 0.05}}}}) for i in range(5)]),
        None, {"h"}, {"idle_pct", "user_pct"}, "10s",
    ),
    "metrics of a device": (
        records([json.dumps({"metrics": [{"name": name, "timestamp": T0 + 1000 * i, "value": i} for name in ("temp", "flow")], "device": "plc1"}) for i in range(5)]),
        None, {"plc1"}, {"temp", "flow"}, "1s",
    ),
    "lorawan": (
        records([json.dumps({"ids": {"device_id": f"d{i % 2}"}, "received_at": f"2025-11-24T16:00:{i:02d}Z", "uplink": {"decoded": {"temp": i, "humidity": 4}, "gateways": [{"rssi": -100}]}}) for i in range(8)]),
        None, {"d0", "d1"}, {"temp", "humidity"}, "2s",
    ),
    "vector": (
        records([json.dumps({"name": name, "tags": {"host": "h1"}, "timestamp": f"2025-11-24T16:00:{i:02d}Z", "kind": "absolute", "gauge": {"value": 1.5}}) for i in range(5) for name in ("load1", "load5")]),
        None, {"h1"}, {"load1", "load5"}, "1s",
    ),
    "influx": (
        records([f"cpu,host=n1,cpu=cpu{i % 2} usage_idle=91.2,note=\"x\" {1764255600 + 10 * (i // 2)}000000000\nmem,host=n1 used=5i" for i in range(8)], begin=1764255600000),
        "influx", {"n1/cpu0", "n1/cpu1"}, {"usage_idle"}, "10s",
    ),
    "graphite": (
        records([f"host-a.load.load.{name} {i / 7!r} {1764255600 + 10 * i}\r\n" for i in range(6) for name in ("shortterm", "midterm")], begin=1764255600000),
        "graphite", {"host-a.load.load"}, {"shortterm", "midterm"}, "10s",
    ),
    "collectd's commands": (
        records([f"PUTVAL host-a/cpu-{i % 2}/cpu-system interval=2.000 {1764255600 + 2 * (i // 2)}.25:5168" for i in range(8)], begin=1764255600000),
        "collectd-command", {"host-a/cpu-0/cpu-system", "host-a/cpu-1/cpu-system"}, {"value"}, "2s",
    ),
    "sparkplug as protobuf": (
        [Plain(sparkplug_payload({"name": "temp", "alias": 1, "datatype": 10, "double_value": 1.5} if i < 2 else {"alias": 1, "double_value": i * 1.0}, at=T0 + 1000 * (i // 2)),
               f"spBv1.0/plant/N{'BIRTH' if i < 2 else 'DATA'}/E{i % 2}".encode(), (), T0 + 1000 * (i // 2), i) for i in range(8)],
        "sparkplug", {"plant/E0", "plant/E1"}, {"temp"}, "1s",
    ),
    "otlp as protobuf": (
        [Plain(otlp(i), None, (), T0 + 1000 * i, i) for i in range(6)], "otlp-proto", {"host-a"}, {"temp"}, "1s",
    ),
    "messagepack": (
        [Plain(msgspec.msgpack.encode({"device": f"d{i % 2}", "at": T0 + 1000 * (i // 2), "temp": 1.5 + i}), None, (), T0, i) for i in range(8)],
        None, {"d0", "d1"}, {"temp"}, "1s",
    ),
    "long": (records([json.dumps({"tag": name, "value": i, "ts": T0 + 1000 * i, "asset": "pump-7"}) for i in range(6) for name in ("temp", "flow")]), None, {"pump-7"}, {"temp", "flow"}, "1s"),
    "nested": (
        records([json.dumps({"meta": {"machine": {"id": f"m{i % 2}"}}, "payload": {"speed": i, "load": 0.5}, "eventTime": f"2025-11-24T16:00:{i // 2:02d}Z"}) for i in range(10)]),
        None, {"m0", "m1"}, {"speed", "load"}, "1s",
    ),
    "named by the key": (records([json.dumps({"temp": i}) for i in range(10)], lambda i: f"pump-{i % 2}".encode()), None, {"pump-0", "pump-1"}, {"temp"}, "2s"),
    "named by nothing": (records([json.dumps({"temp": i}) for i in range(10)]), None, {"topic"}, {"temp"}, "1s"),
    "exchanges": (
        records([json.dumps({"venue": venue, "symbol": "BTC-USD", "ts": T0 + 1000 * i, "bid": i}) for i in range(5) for venue in ("a", "b")]),
        None, {"a/BTC-USD", "b/BTC-USD"}, {"bid"}, "1s",
    ),
}  # fmt: skip


def every_second(document: Callable[[int], Any], key: bytes | None = None) -> list[Plain]:
    return records([json.dumps(document(i)) for i in range(6)], key)


def rfc(second: int) -> str:
    return f"2025-11-24T16:00:{second:02d}.123Z"


# What further programs write: name → (records, preset, series, channels, milliseconds of the first tick).
FURTHER: dict[str, tuple[list[Plain], str | None, set[str], set[str], float]] = {
    "fluent-bit": (
        every_second(lambda i: [T0 / 1000 + i + 0.25, {"cpu_p": 1.5 + i, "system_p": 0.5, "hostname": "n1"}]),
        None, {"n1"}, {"cpu_p", "system_p"}, T0 + 250,
    ),
    "Home Assistant's states": (
        every_second(lambda i: {"entity_id": "sensor.kitchen", "state": f"{20 + i}.5", "attributes": {"friendly_name": "Küche"}, "last_changed": rfc(i)}),
        None, {"sensor.kitchen"}, {"state"}, T0 + 123,
    ),
    "Home Assistant's events": (
        every_second(lambda i: {"event_type": "state_changed", "data": {"entity_id": "sensor.bath", "old_state": {"state": f"{19 + i}"}, "new_state": {"state": f"{20 + i}"}}, "time_fired": rfc(i)}),
        None, {"sensor.bath"}, {"state"}, T0 + 123,
    ),
    "Node-RED": (
        every_second(lambda i: {"topic": "plant/pump-7/temp", "payload": 21.4 + i, "_msgid": "a1", "qos": 0, "timestamp": T0 + 1000 * i}),
        None, {"plant/pump-7/temp"}, {"payload"}, T0,
    ),
    "Zabbix's export": (
        every_second(lambda i: {"host": {"host": "srv1", "name": "Server"}, "itemid": 100 + i % 2, "name": ("load", "memory")[i % 2], "clock": T0 // 1000 + i, "ns": 123456789, "value": 0.5 + i, "type": 0}),
        None, {"srv1"}, {"load", "memory"}, T0,
    ),
    "Prometheus remote write": (
        every_second(lambda i: {"timeseries": [{"labels": [{"name": "__name__", "value": name}, {"name": "instance", "value": "n1"}], "samples": [{"value": i, "timestamp": str(T0 + 1000 * i)}]} for name in ("up", "load1")]}),
        "prometheus-remote-write", {"n1"}, {"up", "load1"}, T0,
    ),
    "Debezium on MongoDB": (
        every_second(lambda i: {"before": None, "after": json.dumps({"_id": {"$oid": "65"}, "sensor": "pump-7", "ts": {"$date": T0 + 1000 * i}, "temp": i}), "op": "c", "ts_ms": T0 + 5000}),
        None, {"pump-7"}, {"temp"}, T0,
    ),
    "ksqlDB's columns": (every_second(lambda i: {"SENSOR": "pump-7", "TEMP": i, "ROWTIME": T0 + 1000 * i - 7}), None, {"pump-7"}, {"TEMP"}, T0 - 7),
    "AWS IoT SiteWise": (
        every_second(lambda i: {"type": "PropertyValueUpdate", "payload": {"assetId": "a-1", "values": [{"timestamp": {"timeInSeconds": T0 // 1000 + i, "offsetInNanos": 5}, "quality": "GOOD", "value": {"doubleValue": 21.4 + i}}]}}),
        None, {"a-1"}, {"doubleValue"}, T0,
    ),
    "OPC UA PubSub": (
        every_second(lambda i: {"MessageType": "ua-data", "PublisherId": "plc-1", "Messages": [{"DataSetWriterId": 1, "SequenceNumber": i, "Timestamp": rfc(i), "Payload": {"temp": {"Value": i}, "flow": {"Value": 3.25}}}]}),
        None, {"plc-1/1"}, {"temp", "flow"}, T0 + 123,
    ),
    "ChirpStack": (
        every_second(lambda i: {"deduplicationId": "x", "time": rfc(i), "deviceInfo": {"deviceName": "dev-1", "devEui": "0101"}, "devAddr": "00", "dr": 1, "fCnt": i, "fPort": 1, "object": {"temperature": i, "humidity": 55}, "rxInfo": [{"rssi": -48}]}),
        None, {"dev-1"}, {"temperature", "humidity"}, T0 + 123,
    ),
    "Bitstamp": (
        every_second(lambda i: {"data": {"id": i, "timestamp": str(T0 // 1000 + i), "amount": 0.1, "price": 64250.1, "type": 0, "microtimestamp": str(T0 * 1000 + i)}, "channel": "live_trades_btcusd", "event": "trade"}),
        None, {"live_trades_btcusd"}, {"amount", "price"}, T0,
    ),
    "Bybit": (
        every_second(lambda i: {"topic": "publicTrade.BTCUSDT", "ts": T0 + 1000 * i + 3, "data": [{"T": T0 + 1000 * i, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50"}]}),
        None, {"BTCUSDT"}, {"v", "p"}, T0,
    ),
    "candles by place": (every_second(lambda i: [T0 + 1000 * i, "0.1", "0.8", 5, T0 + 1000 * i + 999], b"BTC"), None, {"BTC"}, {"v1", "v2", "v3"}, T0),
    "InfluxDB's answers": (
        every_second(lambda i: {"results": [{"series": [{"name": "cpu", "tags": {"host": "n1"}, "columns": ["time", "usage", "text"], "values": [[rfc(i), 1.5 + i, "x"]]}]}]}),
        None, {"n1"}, {"usage"}, T0 + 123,
    ),
    "tables": (
        every_second(lambda i: {"columns": ["time", "host", "usage"], "values": [[T0 + 1000 * i, host, i] for host in ("n1", "n2")]}),
        None, {"n1", "n2"}, {"usage"}, T0,
    ),
    "CloudEvents in batches": (
        every_second(lambda i: [{"specversion": "1.0", "id": f"{i}", "source": "/plant", "type": "reading", "subject": name, "time": rfc(i), "data": {"temp": i}} for name in ("a", "b")]),
        None, {"a", "b"}, {"temp"}, T0 + 123,
    ),
    "statsd": (
        every_second(lambda i: {"name": "api.latency", "type": "timing", "value": 21.4 + i, "timestamp": T0 // 1000 + i, "tags": ["env:prod"]}),
        None, {"api.latency"}, {"value"}, T0,
    ),
    "Shelly": (
        every_second(lambda i: {"src": "plug-1", "dst": "x", "params": {"ts": T0 / 1000 + i + 0.5, "switch:0": {"id": 0, "apower": 12.5 + i, "voltage": 230.1}}}),
        None, {"plug-1"}, {"apower", "voltage"}, T0 + 500,
    ),
    "values of its own format, other names": (
        every_second(lambda i: {"node": "modbus", "group": "g1", "timestamp": T0 + 1000 * i, "values": {"temp": i, "flow": 3.25}, "errors": {}}),
        None, {"modbus"}, {"temp", "flow"}, T0,
    ),
    "NGSI-LD": (
        every_second(lambda i: {"id": "n", "type": "Notification", "data": [{"id": "urn:Room:1", "type": "Room", "temperature": {"type": "Property", "value": i, "observedAt": rfc(i)}}]}),
        None, {"urn:Room:1"}, {"temperature"}, T0 + 123,
    ),
    "Graphite's JSON": (
        every_second(lambda i: [{"target": name, "datapoints": [[1.5 + i, T0 // 1000 + i], [None, T0 // 1000 + i]]} for name in ("load", "mem")], b"n1"),
        None, {"n1"}, {"load", "mem"}, T0,
    ),
    "Datadog's series": (
        every_second(lambda i: {"series": [{"metric": name, "points": [[T0 // 1000 + i, 0.7]], "type": "gauge", "host": "n1"} for name in ("load", "mem")]}),
        None, {"n1"}, {"load", "mem"}, T0,
    ),
    "EdgeX": (
        every_second(lambda i: {"deviceName": "d1", "origin": (T0 + 1000 * i) * 10**6 + 5, "readings": [{"id": f"{i}", "origin": (T0 + 1000 * i) * 10**6, "deviceName": "d1", "resourceName": name, "valueType": "Float64", "value": "2.14e+01"} for name in ("temp", "flow")]}),
        None, {"d1"}, {"temp", "flow"}, T0,
    ),
    "NGSIv2": (
        every_second(lambda i: {"data": [{"id": "Room1", "type": "Room", "temperature": {"type": "Number", "value": i}, "TimeInstant": {"type": "DateTime", "value": rfc(i)}}]}),
        None, {"Room1"}, {"temperature"}, T0 + 123,
    ),
    "a time by its size": (every_second(lambda i: {"sentOn": T0 + 1000 * i - 3, "metrics": {"temp": i, "flow": 2}}, b"dev"), None, {"dev"}, {"temp", "flow"}, T0 - 3),
    "Canal": (
        every_second(lambda i: {"data": [{"id": f"{i}", "sensor": "p7", "temp": "1.5"}], "table": "r", "type": "INSERT", "es": T0 + 1000 * i, "ts": T0 + 1000 * i + 5}),
        None, {"p7"}, {"temp"}, T0 + 5,
    ),
    "Java's instants": (every_second(lambda i: {"meter": "m", "ts": {"epochSecond": T0 // 1000 + i, "nano": 5}, "kwh": i}), None, {"m"}, {"kwh"}, T0),
    "PostgreSQL's texts": (every_second(lambda i: {"meter": "m", "ts": f"2025-11-24 16:00:0{i}.123+00", "kwh": i}), None, {"m"}, {"kwh"}, T0 + 123),
    "numbers alone": (every_second(lambda i: 21.5 + i, b"plant/pump-7/temp"), None, {"plant/pump-7/temp"}, {"value"}, T0),
}  # fmt: skip


@pytest.mark.parametrize("name", FURTHER)
def test_what_further_programs_write_is_read_as_proposed(name: str) -> None:
    sample, preset, series, channels, first_ms = FURTHER[name]
    proposal = proposed(sample, preset, series, channels)
    chosen = load([], proposal.settings, {})
    batch, _, _ = Decoder(chosen.stream_spec(), chosen.decode_spec()).read(sample)
    assert int(batch.ts_us[0]) / 1000 == first_ms


def proposed(sample: list[Plain], preset: str | None, series: set[str], channels: set[str]) -> Proposal:
    """What is proposed for the sample, which is that preset and those channels, and reads those series."""
    proposal = propose(sample, "topic")
    assert proposal.settings.get("decode", {}).get("preset") == preset
    assert set(proposal.settings["channels"]) == channels
    assert read_again(proposal, sample) == series
    return proposal


def read_again(proposal: Proposal, sample: list[Plain]) -> set[str]:
    chosen = load([], yaml.safe_load(yaml.safe_dump(proposal.settings)), {})
    batch, refused, _ = Decoder(chosen.stream_spec(), chosen.decode_spec()).read(sample)
    assert [(r.reason, r.detail) for r in refused] == []
    return set(batch.series)


@pytest.mark.parametrize("name", PRODUCERS)
def test_a_proposal_reads_the_records_rightly(name: str) -> None:
    sample, preset, series, channels, step = PRODUCERS[name]
    proposal = proposed(sample, preset, series, channels)
    assert proposal.settings["step"] == step


def test_what_is_not_known_is_left_open_and_said() -> None:
    keyless = propose(records([producers.QUIX]), "t")
    assert keyless.settings["decode"] == {"preset": "quix", "series": "@topic"}
    assert any("have no key" in note for note in keyless.notes)
    zoned = [Plain(b'{"id":1,"ts":"2026-01-02 03:04:05.1","ltz":"2026-01-02 03:04:05.1Z","d":1.5}', timestamp=-1)]
    assert propose(zoned, "t").settings["decode"]["ts"] == "ltz"  # the other needs a zone that nobody has said
    local = records(
        [json.dumps({"id": "p1", "ts": f"2026-07-02 03:04:0{i}", "temp": i}) for i in range(5)], begin=1_782_954_240_000
    )
    notes = "\n".join(propose(local, "t").notes)
    assert "set decode.timezone" in notes
    assert "+2.0 h" in notes
    assert "refused (timestamp)" in notes
    decimals = "\n".join(propose(PRODUCERS["debezium"][0], "t").notes)
    assert "decode.scale" in decimals
    lying = records([json.dumps({"id": "p1", "ts": T0 + 1000 * i, "temp": i}) for i in range(8)], partitions=4)
    assert any("several partitions" in note for note in propose(lying, "t").notes)
    trades = records([json.dumps({"symbol": "X", "ts": T0 + 700 * (i // 2), "price": i}) for i in range(8)])
    assert propose(trades, "t").settings["within"] == "last"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"\x00\x00\x00\x00\x07\x02abc", "schema's id \\(7\\).*--set registry.url"), (b"\xff\xfe", "none of the formats"), (b'{"a":"b"}', "no numbers"), (None, "no values"),
    ],
)  # fmt: skip
def test_what_cannot_be_proposed_for_says_what_it_looks_like(value: bytes | None, words: str) -> None:
    with pytest.raises(NoProposal, match=words):
        propose([Plain(value)] * 3, "t")


@settings(deadline=None, max_examples=80)
@given(st.lists(documents, min_size=1, max_size=4))
def test_whatever_the_records_are_a_proposal_can_be_loaded(found: list[Any]) -> None:
    try:
        proposal = propose(records([json.dumps(each) for each in found]), "t")
    except NoProposal:
        return
    load([], yaml.safe_load(yaml.safe_dump(proposal.settings)), {})


def said_of(series: list[str], fields: list[dict[str, str]]) -> str:
    decode = {"series": series, "values": "*", "channel": None, "value": None}
    chosen = load([], {"input": "t", "channels": ["temp"], "step": "1s", "horizon": 2, "decode": decode}, {})
    sample = records([json.dumps({**each, "ts": T0 + 1000 * i, "temp": i}) for i, each in enumerate(fields)])
    return "\n".join(warnings(Decoder(chosen.stream_spec(), chosen.decode_spec()), sample))


@pytest.mark.parametrize("key", ["#", "^", "^.x", "temp?", "a.b", "@key", "\\", "[0]", "avg(temp)", "Küche", "m/s"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_key_of_any_signs_is_a_channel(key: str, inside: bool) -> None:
    def document(i: int) -> dict[str, Any]:
        numbers = {key: 1.5 + i, "": 7, "huge": 10**30}
        return {"id": "p", "ts": T0 + 1000 * i, **({"data": numbers} if inside else numbers)}

    sample = every_second(document)
    proposal = propose(sample, "t")
    assert read_again(proposal, sample) == {"p"}
    chosen = load([], proposal.settings, {})
    batch, _, _ = Decoder(chosen.stream_spec(), chosen.decode_spec()).read(sample)
    assert [row[chosen.channels.index(key)] for row in batch.values] == [1.5 + i for i in range(6)]


def test_an_array_that_is_not_read_is_said() -> None:
    several = every_second(
        lambda i: {"id": "x", "m": {"temp": [{"t": T0 + i, "v": 1.5}], "flow": [{"t": T0 + i, "v": 2}]}}
    )
    notes = "\n".join(propose(several, "t").notes)
    assert "m.flow[*]" in notes
    assert "are not read" in notes


def test_decode_warns_of_two_series_under_one_name_and_of_one_in_two_partitions() -> None:
    def said(series: object, sample: list[Plain]) -> str:
        decode = {"preset": "cryptofeed", "series": series}
        chosen = load([], {"input": "t", "channels": ["price"], "step": "1s", "horizon": 2, "decode": decode}, {})
        return "\n".join(warnings(Decoder(chosen.stream_spec(), chosen.decode_spec()), sample))

    both = records([producers.TRADE.replace("COINBASE", name) for name in ("COINBASE", "KRAKEN") * 4])
    assert "COINBASE and KRAKEN (exchange) take turns under the one name BTC-USD" in said("symbol", both)
    assert said(["exchange", "symbol"], both) == ""
    assert "several partitions" in said("symbol", records([producers.TRADE] * 4, partitions=2))
    small = said("symbol", records([producers.TRADE.replace("1764000000.123456", "1764000.0")] * 3))
    assert "3 ticks are refused by the service as `timestamp`" in small
    assert "as `future`" in said("symbol", records([producers.TRADE.replace("1764000000.123456", "1764100000.0")]))
    parts = [("a/b", "c"), ("a", "b/c"), ("a", "b")]
    joined = said_of(["p", "q"], [{"p": p, "q": q} for p, q in parts])
    assert "the one name a/b/c comes of 'a/b' with 'c' and of 'a' with 'b/c'" in joined
    assert said_of(["p", "q"], [{"p": p, "q": q} for p, q in parts[1:]]) == ""
    assert "the one name a comes of 'a' with nothing and of nothing with 'a'" in said_of(
        ["p?", "q?"], [{"p": "a"}, {"q": "a"}]
    )
    wire = load([], {"input": "t", "channels": ["temp"], "step": "1s", "horizon": 2}, {})
    seconds = records(['{"series":"p","ts":1764000000,"values":{"temp":1}}'])
    (words,) = warnings(Decoder(wire.stream_spec(), wire.decode_spec()), seconds)
    assert "it looks like s (decode.ts_unit)" in words


def streamrnn(*arguments: object) -> Any:
    """The command line within this process; what `main` does with errors, too."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    code = (
        done.exit_code
        if done.exception is None or isinstance(done.exception, SystemExit)
        else exit_code_of(done.exception)
    )
    return SimpleNamespace(stdout=done.stdout, returncode=code)


def test_the_commands_in_the_order_of_a_new_user(tmp_path: Path) -> None:
    sample = PRODUCERS["telegraf"][0]
    path, config = tmp_path / "t.kcat", tmp_path / "config.yaml"
    lines = [
        {
            "topic": "metrics",
            "partition": 0,
            "offset": r.offset,
            "tstype": "create",
            "ts": r.timestamp,
            "key": None,
            "payload": (r.value or b"").decode(),
        }
        for r in sample
    ]
    lines[0]["payload_base64"] = base64.b64encode(lines[0].pop("payload").encode()).decode()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = streamrnn("decode", path)
    assert shown.returncode == 0, shown.stdout
    assert yaml.safe_load(shown.stdout)["decode"]["preset"] == "telegraf"  # the whole of it is a configuration
    made = streamrnn("init", "--topic", "metrics", "--file", path, "--out", config)
    assert made.returncode == 0, made.stdout
    assert streamrnn("init", "--topic", "metrics", "--file", path, "--out", config).returncode == 2
    assert streamrnn("validate", "--offline", "-c", config).returncode == 0
    said = tmp_path / "said.yaml"
    more = ("--set", "app=plant", "--set", "horizon=24", "--set", "step=30s", "--set", "http.port=0")
    assert streamrnn("init", "--topic", "metrics", "--file", path, "--out", said, *more).returncode == 0
    written = yaml.safe_load(said.read_text())
    assert (written["app"], written["horizon"], written["step"], written["http"]) == ("plant", 24, "30s", {"port": 0})
    again = streamrnn("init", "--topic", "metrics", "--file", path, "--out", tmp_path / "b.yaml", "-c", said)
    assert again.returncode == 0, again.stdout
    assert yaml.safe_load((tmp_path / "b.yaml").read_text())["step"] == "30s"
    read = streamrnn("decode", path, "-c", config, "-n", 3, "--json")
    assert [json.loads(line) for line in read.stdout.splitlines()] == [
        {
            "record": i,
            "ticks": [
                {"series": f"n1/cpu{i % 2}", "ts": 1764255600000 + 10000 * (i // 2), "values": {"usage_idle": 91.2}}
            ],
            "refused": None,
            "skipped": None,
        }
        for i in range(3)
    ]
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"fields":{"usage_idle":"x"},"name":"cpu","tags":{"host":"a"},"timestamp":1}\n{"name":"mem"}\n')
    first, second = (json.loads(line) for line in streamrnn("decode", bad, "-c", config, "--json").stdout.splitlines())
    assert (first["refused"], first["ticks"], "usage_idle" in first["detail"]) == ("type", [], True)
    assert (second["refused"], second["skipped"]) == (None, "where")
    assert streamrnn("decode").returncode == 2
    assert streamrnn("decode", tmp_path / "nowhere").returncode == 5


def test_records_of_a_registry_are_proposed_for_by_their_schemas(tmp_path: Path) -> None:
    schema = {
        "type": "record", "name": "Reading", "fields": [
            {"name": "sensor", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "temp", "type": ["null", "double"]}, {"name": "flow", "type": "float"},
        ],
    }  # fmt: skip
    with serving() as registered:
        serializer = AvroSerializer(SchemaRegistryClient({"url": registered.url}), json.dumps(schema))
        context = SerializationContext("t", MessageField.VALUE)
        sample = [
            Plain(serializer({"sensor": f"p{i % 2}", "at": (T0 + 1000 * (i // 2)) * 1000, "temp": i * 1.0, "flow": 1.0}, context), None, (), T0 + 500 * i, i)
            for i in range(8)
        ]  # fmt: skip
        given = load(
            [], {"input": "t", "channels": ["x"], "step": "1s", "horizon": 3, "registry": {"url": registered.url}}, {}
        )
        proposal = propose(sample, "t", known_for(given, sample))
        assert proposal.settings["decode"]["format"] == "avro"
        assert (proposal.settings["step"], set(proposal.settings["channels"])) == ("1s", {"temp", "flow"})
        assert not any("refused" in note for note in proposal.notes)
        file = tmp_path / "records.jsonl"
        file.write_text("".join(
            json.dumps({"topic": "t", "partition": 0, "offset": r.offset, "ts": r.timestamp, "key": None, "payload_base64": base64.b64encode(r.value or b"").decode()}) + "\n"
            for r in sample
        ))  # fmt: skip
        found = CliRunner().invoke(app, ["decode", str(file), "--set", f"registry.url={registered.url}"])
        assert found.exit_code == 0, found.output
        shown = yaml.safe_load(found.output)
        assert shown["registry"] == {"url": registered.url}
        assert "8 records: 8 ticks of 2 series" in found.output
