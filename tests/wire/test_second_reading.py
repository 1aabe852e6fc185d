"""Generated records of every format, written by the libraries that people use for it, read by our decoder: times equal, values
equal bit for bit. A few hundred in `make test`, 10,000 of each in `make test-kafka-long`, which prints a line for each of them.

What a library would do to a number is not worked out here: what went in is what has to come out.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import json_format
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from optional import needs
from registry import serving
from test_producers import Plain
from test_registry import MILLIS, READING, configured, fetch, record_of

from streamrnn.wire.codec import Decoder

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONTEXT = SerializationContext("t", MessageField.VALUE)
SHORT, LONG = 300, 10_000
NAMES = ["pump-7", "ü ж", "a/b", "x.y", "名前", 'q"uote', "back\\slash", "comma,=; ", "42"]
PLAIN_NAMES = ["pump-7", "host-a", "x.y", "42", "ä"]


@dataclass
class Tick:
    series: str
    us: int
    values: dict[str, float | None]


@dataclass
class Written:
    """`records`, and the ticks that they hold, in order."""

    channels: str
    decode: dict[str, Any]
    records: list[Plain] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)


class Draw:
    """Numbers and times of every kind that a format has."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def number(self) -> float:
        """Any finite double that is taken (decode.value_abs_max)."""
        kind = self.rng.randrange(6)
        if kind == 0:
            found = struct.unpack("<d", self.rng.randbytes(8))[0]
            return found if abs(found) < 1e30 else 0.1
        if kind == 1:
            return self.rng.choice(
                [0.0, -0.0, 5e-324, -2.2250738585072014e-308, 1e29, 1 / 3, 2.0**53 + 2, 123456789.123456789]
            )
        if kind == 2:
            return float(self.rng.randrange(-(10**6), 10**6))
        return self.rng.gauss(0, 10.0 ** self.rng.randrange(-6, 9))

    def single(self) -> float:
        """A double that is a float of 32 bits, too."""
        return float(struct.unpack("<f", struct.pack("<f", self.rng.gauss(0, 10.0 ** self.rng.randrange(-6, 9))))[0])

    def whole(self, bits: int = 64) -> int:
        return self.rng.randrange(-(2 ** (bits - 1)), 2 ** (bits - 1))

    def name(self, names: list[str] = NAMES) -> str:
        return self.rng.choice(names)

    def us(self, unit: int = 1) -> int:
        """Microseconds since 1970 (1990 to 2060), a multiple of `unit`."""
        return self.rng.randrange(631_152_000_000_000, 2_840_140_800_000_000) // unit * unit


def moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


# ── one writer a format ──────────────────────────────────────────────────────────────────────────────────────────


def json_and_orjson(draw: Draw, count: int, _: str) -> Written:
    made = Written("temp flow", {})
    for i in range(count):
        us, series = draw.us(1 if i % 2 else 1000), draw.name()
        ts: Any = us // 1000 if i % 4 == 0 else moment(us).isoformat()
        values = {"temp": draw.number(), "flow": draw.rng.choice([None, draw.number()])}
        if i % 4 != 0:
            document: Any = {"series": series, "ts": ts, "values": values}
        elif i % 8:
            document, values = (
                {"series": series, "ts": ts, "channel": "temp", "value": values["temp"]},
                {"temp": values["temp"]},
            )
            us = us // 1000 * 1000
        else:
            document, us = {"series": series, "ts": ts, "values": {**values, "other": "x"}}, us // 1000 * 1000
        made.records.append(Plain(orjson.dumps(document) if i % 3 else json.dumps(document).encode()))
        made.ticks.append(Tick(series, us, values))
    return made


def seconds_in_json(draw: Draw, count: int, _: str) -> Written:
    """Seconds as a double with microseconds, as Python's `time.time()` gives them."""
    made = Written("temp", {"series": "id", "ts": "t", "ts_unit": "s", "values": {"temp": "v"}})
    for _i in range(count):
        us, value = draw.us(), draw.number()
        made.records.append(Plain(json.dumps({"id": "p", "t": us / 1e6, "v": value}).encode()))
        made.ticks.append(Tick("p", us, {"temp": value}))
    return made


def texts_in_json(draw: Draw, count: int, _: str) -> Written:
    made = Written("temp", {"series": "id", "ts": "t", "ts_unit": "us", "values": {"temp": "v"}, "numbers": "text"})
    for _i in range(count):
        us, value = draw.us(), draw.number()
        text = draw.rng.choice([repr(value), f"{value:.17e}", str(Decimal(repr(value))), f"{value:.17g}"])
        made.records.append(Plain(json.dumps({"id": "p", "t": str(us), "v": text}).encode()))
        made.ticks.append(Tick("p", us, {"temp": value}))
    return made


def json_schema(draw: Draw, count: int, url: str) -> Written:
    schema = {
        "title": "Reading", "type": "object",
        "properties": {"series": {"type": "string"}, "ts": {"type": "integer"}, "temp": {"type": "number"}},
    }  # fmt: skip
    made = Written("temp", {"format": "json-schema", "values": {"temp": "temp"}, "series": "series", "ts": "ts"})
    serializer = JSONSerializer(json.dumps(schema), SchemaRegistryClient({"url": url}), conf={"validate": False})
    for _ in range(count):
        us, series, value = draw.us(1000), draw.name(), draw.number()
        made.records.append(Plain(serializer({"series": series, "ts": us // 1000, "temp": value}, CONTEXT)))
        made.ticks.append(Tick(series, us, {"temp": value}))
    return made


AVRO = record_of(
    ("series", "string"), ("ts", {"type": "long", "logicalType": "timestamp-micros"}), ("a", "double"), ("b", ["null", "double"]),
    ("c", "long"), ("d", ["null", "float"]), name="Wide",
)  # fmt: skip


def avro_wide(draw: Draw, count: int, url: str) -> Written:
    made = Written("a b c d", {"format": "avro", "values": "*", "channel": None, "value": None})
    serializer = AvroSerializer(SchemaRegistryClient({"url": url}), json.dumps(AVRO))
    head, parsed = serializer({"series": "s", "ts": EPOCH, "a": 0.0, "c": 0}, CONTEXT)[:5], fastavro.parse_schema(AVRO)
    for i in range(count):
        us, series = draw.us(), draw.name()
        values = {
            "a": draw.number(), "b": draw.rng.choice([None, draw.number()]), "c": draw.whole(),
            "d": draw.rng.choice([None, draw.single()]),
        }  # fmt: skip
        document = {"series": series, "ts": moment(us), **values}
        if i % 2:
            value = serializer(document, CONTEXT)
        else:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed, document)
            value = head + out.getvalue()
        made.records.append(Plain(value))
        made.ticks.append(Tick(series, us, {name: None if v is None else float(v) for name, v in values.items()}))
    return made


def avro_arrays(draw: Draw, count: int, url: str) -> Written:
    """Readings of a device in an array, with a union of types."""
    reading = record_of(("at", MILLIS), ("temp", ["null", "double", "long", "string"]), name="One")
    schema = record_of(("device", "string"), ("readings", {"type": "array", "items": reading}), name="Device")
    decode = {
        "format": "avro", "each": "readings[*]", "series": "^.device", "ts": "at", "values": {"temp": "temp"}, "numbers": "text",
    }  # fmt: skip
    made = Written("temp", decode)
    serializer = AvroSerializer(SchemaRegistryClient({"url": url}), json.dumps(schema))
    while len(made.ticks) < count:
        series, readings = draw.name(), []
        for _ in range(draw.rng.randrange(1, 5)):
            us, number = draw.us(1000), draw.number()
            value: Any = draw.rng.choice([None, number, draw.whole(54), repr(number)])
            readings.append({"at": moment(us), "temp": value})
            made.ticks.append(Tick(series, us, {"temp": None if value is None else float(value)}))
        made.records.append(Plain(serializer({"device": series, "readings": readings}, CONTEXT)))
    return made


def protobuf(draw: Draw, count: int, url: str) -> Written:
    made = Written("temp count flow", {"format": "protobuf", "values": "*", "channel": None, "value": None})
    serializer = ProtobufSerializer(READING, SchemaRegistryClient({"url": url}), conf={"use.deprecated.format": False})
    for _ in range(count):
        us, series, temp, whole = draw.us(), draw.name(), draw.number(), draw.whole()
        message = READING(series=series, temp=temp, count=whole)
        message.ts.FromMicroseconds(us)
        flow = draw.rng.choice([None, draw.single()])
        if flow is not None:
            message.flow = flow
        made.records.append(Plain(serializer(message, CONTEXT)))
        made.ticks.append(Tick(series, us, {"temp": temp, "count": float(whole), "flow": flow}))
    return made


def messagepack(draw: Draw, count: int, _: str) -> Written:
    msgpack = needs("msgpack")
    made = Written("temp flow", {"format": "msgpack"})
    for i in range(count):
        us, series = draw.us(1 if i % 2 else 1000), draw.name()
        values = {"temp": draw.number(), "flow": draw.rng.choice([None, math.nan, draw.whole(54), draw.number()])}
        ts = msgpack.Timestamp.from_unix_nano(us * 1000) if i % 2 else us // 1000
        made.records.append(Plain(msgpack.packb({"series": series, "ts": ts, "values": values})))
        made.ticks.append(Tick(series, us, {name: None if v is None else float(v) for name, v in values.items()}))
    return made


def influx(draw: Draw, count: int, _: str) -> Written:
    """One measurement a line, tags and fields of any characters, nanoseconds."""
    point = needs("influxdb_client").Point
    made = Written("temp flow", {"preset": "influx", "series": "tags.host"})
    while len(made.ticks) < count:
        lines = []
        for _ in range(draw.rng.randrange(1, 4)):
            us, host = draw.us(), draw.name([name for name in NAMES if not name.endswith("\\")])
            temp, flow = draw.number(), draw.rng.choice([None, draw.number(), draw.whole()])
            row = point(draw.rng.choice(["cpu", "a b,c=d"])).tag("host", host).field("temp", temp).time(us * 1000, "ns")
            if flow is not None:
                row = row.field("flow", flow).field("note", 'a "quoted", text')
            lines.append(row.to_line_protocol())
            made.ticks.append(Tick(host, us, {"temp": temp, "flow": None if flow is None else float(flow)}))
        made.records.append(Plain("\n".join(lines).encode()))
    return made


def otlp(draw: Draw, count: int, as_json: bool) -> Written:
    made = Written("temp flow", {"preset": "otlp-json" if as_json else "otlp-proto"})
    while len(made.ticks) < count:
        message, host = MetricsData(), draw.name(PLAIN_NAMES)
        resource = message.resource_metrics.add()
        resource.resource.attributes.add(key="host.name").value.string_value = host
        metrics = resource.scope_metrics.add().metrics
        for channel in ("temp", "flow"):
            metric = metrics.add(name=channel)
            points = (metric.gauge if channel == "temp" else metric.sum).data_points
            for _ in range(draw.rng.randrange(3) if channel == "temp" else draw.rng.randrange(1, 3)):
                us, value = draw.us(), draw.rng.choice([draw.number(), draw.whole()])
                point = points.add(time_unix_nano=us * 1000 + draw.rng.randrange(1000))
                if isinstance(value, int):
                    point.as_int = value
                else:
                    point.as_double = value
                made.ticks.append(Tick(host, us, {channel: float(value)}))
        made.records.append(
            Plain(json_format.MessageToJson(message).encode() if as_json else message.SerializeToString())
        )
    # All gauges of a record come before its sums.
    return made


def sparkplug(draw: Draw, count: int, _: str) -> Written:
    """A birth names the aliases; data have them alone. A float of 32 bits is the shortest decimal that it is."""
    module = needs("pysparkplug")
    kinds = {"temp": module.DataType.DOUBLE, "flow": module.DataType.FLOAT, "neg": module.DataType.INT32}
    zero = {"temp": 0.0, "flow": 0.0, "neg": 0}
    made = Written("temp flow neg", {"preset": "sparkplug"})

    def metric(name: str, us: int, value: Any, names: bool) -> Any:
        alias = list(kinds).index(name) + 1
        return module.Metric(
            timestamp=us // 1000, name=name if names else None, datatype=kinds[name], value=value, alias=alias,
            is_null=value is None,
        )  # fmt: skip

    us = draw.us(1000)
    births = tuple(metric(name, us, zero[name], True) for name in kinds)
    made.records.append(
        Plain(module.NBirth(timestamp=us // 1000, seq=0, metrics=births).encode(), b"spBv1.0/plant/NBIRTH/E1")
    )
    made.ticks += [Tick("plant/E1", us, {name: float(value)}) for name, value in zero.items()]
    while len(made.ticks) < count:
        us, values = draw.us(1000), {}
        if draw.rng.random() < 0.9:
            values["temp"] = draw.number()
        if draw.rng.random() < 0.5:
            values["flow"] = float(f"{draw.rng.gauss(0, 100):.6g}")
        if draw.rng.random() < 0.5 or not values:
            values["neg"] = draw.whole(32)
        metrics = tuple(metric(name, us, value, False) for name, value in values.items())
        made.records.append(
            Plain(module.NData(timestamp=us // 1000, seq=1, metrics=metrics).encode(), b"spBv1.0/plant/NDATA/E1")
        )
        made.ticks += [Tick("plant/E1", us, {name: float(value)}) for name, value in values.items()]
    return made


def senml(draw: Draw, count: int, _: str) -> Written:
    """Packs with base name and base time, by kpn-senml."""
    module = needs("kpn_senml")
    made = Written("temp flow", {"preset": "senml"})
    while len(made.ticks) < count:
        series, base = f"urn:dev:{draw.rng.randrange(9)}:", draw.us(1_000_000)
        pack = module.SenmlPack(series)
        pack.base_time = base // 1_000_000
        for _ in range(draw.rng.randrange(1, 4)):
            offset, channel, value = draw.rng.randrange(1000), draw.rng.choice(["temp", "flow"]), draw.number()
            pack.add(module.SenmlRecord(channel, value=value, time=base // 1_000_000 + offset))
            made.ticks.append(Tick(series, base + offset * 1_000_000, {channel: value}))
        made.records.append(Plain(pack.to_json().encode()))
    return made


def graphite(draw: Draw, count: int, _: str) -> Written:
    """Lines as graphyte sends them to a socket."""
    graphyte = needs("graphyte")
    sent: list[bytes] = []

    class Sender(graphyte.Sender):  # type: ignore[misc,name-defined]
        def send_socket(self, message: bytes) -> None:
            sent.append(message)

    made = Written("temp", {"preset": "graphite"})
    sender = Sender("nowhere", prefix="plant")
    while len(made.ticks) < count:
        us, value = draw.us(1_000_000), draw.number()
        host = draw.rng.choice(["a", "b-1", "ä"])
        sender.send(f"{host}.temp", value, timestamp=us // 1_000_000, tags={"rack": "r 1".replace(" ", "_")})
        made.records.append(Plain(sent.pop()))
        made.ticks.append(Tick(f"plant.{host}/r_1", us, {"temp": value}))
    return made


def collectd_commands(draw: Draw, count: int, _: str) -> Written:
    """Lines of `PUTVAL` as collectd-unixsock(5) has them, milliseconds; this writer is ours and knows nothing of the reader."""
    made = Written("shortterm midterm longterm", {"preset": "collectd-command"})
    while len(made.ticks) < count:
        lines = []
        for _ in range(draw.rng.randrange(1, 4)):
            us, host = draw.us(1000), draw.name(PLAIN_NAMES)
            values = [draw.rng.choice([None, draw.number()]) for _ in range(3)]
            said = ":".join("U" if value is None else repr(value) for value in values)
            lines.append(f"PUTVAL {host}/load/load interval=10.000 {us // 1_000_000}.{us // 1000 % 1000:03}:{said}")
            made.ticks.append(Tick(f"{host}/load", us, dict(zip(made.channels.split(), values, strict=True))))
        made.records.append(Plain("\n".join(lines).encode()))
    return made


def separated(draw: Draw, count: int, _: str) -> Written:
    """By Python's csv module, quotes and all, several lines a record."""
    made = Written("temp flow", {"format": "csv", "columns": ["series", "ts", "temp", "flow"], "separator": ";"})
    while len(made.ticks) < count:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=";")
        for _ in range(draw.rng.randrange(1, 4)):
            us, series = draw.us(1000), draw.name([name for name in NAMES if name == name.strip()])
            temp, flow = draw.number(), draw.rng.choice([None, draw.number()])
            writer.writerow([series, us // 1000, temp, flow])
            made.ticks.append(Tick(series, us, {"temp": temp, "flow": flow}))
        made.records.append(Plain(out.getvalue().encode()))
    return made


Writer = Callable[[Draw, int, str], Written]
WRITERS: dict[str, Writer] = {
    "json": json_and_orjson,
    "json, seconds": seconds_in_json,
    "json, texts": texts_in_json,
    "json-schema": json_schema,
    "avro": avro_wide,
    "avro, arrays and unions": avro_arrays,
    "protobuf": protobuf,
    "msgpack": messagepack,
    "influx": influx,
    "otlp-proto": lambda draw, count, _: otlp(draw, count, False),
    "otlp-json": lambda draw, count, _: otlp(draw, count, True),
    "sparkplug": sparkplug,
    "senml": senml,
    "graphite": graphite,
    "collectd-command": collectd_commands,
    "csv": separated,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as registered:
        yield registered.url


def bits(value: float) -> bytes:
    """Missing values are alike, whatever their bits."""
    return b"missing" if math.isnan(value) else struct.pack("<d", value)


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.kafka_long)])
@pytest.mark.parametrize("name", WRITERS)
def test_what_official_libraries_write_is_what_is_read(name: str, count: int, url: str) -> None:
    made = WRITERS[name](Draw(count), count, url)
    chosen = configured(url, made.channels, made.decode)
    decoder = Decoder(chosen.stream_spec(), chosen.decode_spec())
    made.records = [replace(record, offset=i) for i, record in enumerate(made.records)]
    fetch(chosen, decoder, made.records)
    batch, rejected, skipped = decoder.read(made.records)
    assert (rejected, skipped) == ([], [])
    assert len(batch) == len(made.ticks) >= count
    channels = made.channels.split()
    for i, wanted in enumerate(made.ticks):
        assert (batch.series[i], int(batch.ts_us[i])) == (wanted.series, wanted.us), (i, wanted)
        row = dict(zip(channels, batch.values[i].tolist(), strict=True))
        for channel in channels:
            value = wanted.values.get(channel)
            assert bits(row[channel]) == bits(math.nan if value is None else value), (i, channel, wanted, row)
    if count == LONG:
        print(f"{name}: {len(made.ticks)} ticks of {len(made.records)} records, all equal")
