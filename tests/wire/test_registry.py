"""Records of a schema registry: the official client and serializers write, we read; values equal bit for bit, times equal."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2, wrappers_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import Registered, serving
from test_elements import documents
from test_producers import T0, Plain, decoder, ticks
from typer.testing import CliRunner

from streamrnn.cli import app
from streamrnn.config.settings import ConfigError, Settings, load
from streamrnn.runtime.exit_codes import ExitCode, exit_code_of
from streamrnn.serving.schemas import fetch
from streamrnn.transports.registry import RegistryAway, RegistryRefuses
from streamrnn.wire import avro, protobuf
from streamrnn.wire.codec import Decoded, Decoder
from streamrnn.wire.instants import Refused


@pytest.fixture
def registered() -> Iterator[Registered]:
    with serving() as found:
        yield found


def configured(registered: Registered | str, channels: str, decode: dict[str, Any], **more: Any) -> Settings:
    url = registered if isinstance(registered, str) else registered.url
    base = {"input": "t", "channels": channels.split(), "step": "1s", "horizon": 3, "registry": {"url": url, **more}}
    return load([], {**base, "decode": decode}, {})


def read(registered: Registered, channels: str, decode: dict[str, Any], *records: Plain) -> Decoded:
    chosen = configured(registered, channels, decode)
    decoder = Decoder(chosen.stream_spec(), chosen.decode_spec())
    fetch(chosen, decoder, records)
    return decoder.read(records)


def client(registered: Registered) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": registered.url})


def written(
    registered: Registered, schema: Any, document: Any, key: Any = None, in_header: bool = False, **configuration: Any
) -> Plain:
    """A record as the official Avro serializer writes it."""
    headers: list[tuple[str, bytes]] = []
    if in_header:
        configuration["schema.id.serializer"] = header_schema_id_serializer
    text = schema if isinstance(schema, Schema) else json.dumps(schema)
    serializer = AvroSerializer(client(registered), text, conf=configuration or None)
    value = serializer(document, SerializationContext("t", MessageField.VALUE, headers))
    return Plain(value, key, tuple(headers))


def record_of(*fields: tuple[str, Any], name: str = "Reading") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields]}


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
OPTIONAL = ["null", "double"]
VALUES = record_of(("temp", OPTIONAL), ("flow", OPTIONAL), name="Values")
WIDE = record_of(("series", "string"), ("ts", MILLIS), ("values", VALUES))
AVRO = {"format": "avro"}
AT = datetime(2025, 11, 24, 16, tzinfo=UTC)

# ── Avro ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def document(temp: float | None = 21.4, flow: float | None = None, at: datetime = AT, series: str = "pump-7") -> Any:
    return {"series": series, "ts": at, "values": {"temp": temp, "flow": flow}}


@pytest.mark.parametrize("in_header", [False, True])
def test_avro_as_confluent_s_serializer_writes_it(registered: Registered, in_header: bool) -> None:
    record = written(registered, WIDE, document(), in_header=in_header)
    found = read(registered, "temp flow", AVRO, record)
    assert ticks(found, "temp flow") == [("pump-7", T0, {"temp": 21.4})]
    assert bool(record.headers) == in_header
    assert found.rejected == []


def test_ten_thousand_generated_records_are_read_bit_for_bit(registered: Registered) -> None:
    rng = random.Random(5)
    kinds: list[tuple[str, Any, Callable[[int], Any]]] = [
        ("long", MILLIS, lambda us: datetime.fromtimestamp(us // 1000 / 1000, UTC)),
        (
            "micros",
            {"type": "long", "logicalType": "timestamp-micros"},
            lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us),
        ),
        ("text", "string", lambda us: (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()),
    ]
    chosen = configured(registered, "a b c d", {**AVRO, "values": "*", "channel": None, "value": None})
    decoder = Decoder(chosen.stream_spec(), chosen.decode_spec())
    for name, kind, moment in kinds:
        schema = record_of(
            ("series", ["null", "string", "int"]), ("noise", {"type": "array", "items": {"type": "map", "values": "long"}}), ("a", "double"),
            ("b", ["null", "float"]), ("c", "long"), ("ts", kind), ("d", ["int", "null", "double"]), name=f"Of_{name}",
        )  # fmt: skip
        serializer = AvroSerializer(client(registered), json.dumps(schema))
        context = SerializationContext("t", MessageField.VALUE)
        records, expected = [], []
        for _ in range(3400):
            us = 1_700_000_000_000_000 + rng.randrange(10**14)
            a = struct.unpack("<d", rng.randbytes(8))[0] if rng.random() < 0.5 else rng.gauss(0, 1e6)
            a = a if abs(a) < 1e30 else math.nan
            b = rng.choice([None, math.nan, struct.unpack("<f", struct.pack("<f", rng.gauss(0, 10)))[0]])
            c, d = rng.randrange(-(2**63), 2**63), rng.choice([None, rng.randrange(-5, 5), rng.random()])
            noise = [{f"k{i}": rng.randrange(10**9) for i in range(rng.randrange(3))} for _ in range(rng.randrange(3))]
            series = rng.choice(["pump-7", "ü/ж", 42])
            records.append(
                Plain(
                    serializer(
                        {"series": series, "noise": noise, "a": a, "b": b, "c": c, "ts": moment(us), "d": d}, context
                    )
                )
            )
            expected.append((str(series), us // 1000 * 1000 if name == "long" else us, [a, b, c, d]))
        fetch(chosen, decoder, records)
        batch, rejected, skipped = decoder.read(records)
        assert (rejected, skipped) == ([], [])
        assert batch.series == [series for series, _, _ in expected]
        assert batch.ts_us.tolist() == [us for _, us, _ in expected]
        for row, (_, _, values) in zip(batch.values.tolist(), expected, strict=True):
            for value, right in zip(row, values, strict=True):
                right = math.nan if right is None else float(right)
                assert struct.pack("<d", value) == struct.pack("<d", right) or (math.isnan(value) and math.isnan(right))


def test_each_record_is_read_by_the_schema_it_was_written_with(registered: Registered) -> None:
    before = record_of(("series", "string"), ("ts", MILLIS), ("temp", "int"))
    after = record_of(
        ("ts", MILLIS), ("extra", {"type": "array", "items": "string"}), ("temp", "double"), ("series", "string")
    )
    old = written(registered, before, {"series": "p", "ts": AT, "temp": 20})
    new = written(registered, after, {"series": "p", "ts": AT + timedelta(seconds=1), "temp": 20.5, "extra": ["x"]})
    found = read(registered, "temp", {**AVRO, "values": "*"}, old, new, old)
    assert ticks(found, "temp") == [
        ("p", T0, {"temp": 20.0}),
        ("p", T0 + 1000, {"temp": 20.5}),
        ("p", T0, {"temp": 20.0}),
    ]
    assert sum(path.startswith("/schemas/ids/") for path in registered.asked) == 2


def test_logical_types(registered: Registered) -> None:
    fields = [
        ("id", {"type": "string", "logicalType": "uuid"}), ("local", {"type": "long", "logicalType": "local-timestamp-micros"}),
        ("day", {"type": "int", "logicalType": "date"}), ("n", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}),
        ("f", {"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 8, "scale": 2}),
        ("e", {"type": "enum", "name": "E", "symbols": ["ok", "bad"]}), ("ns", {"type": "long", "logicalType": "timestamp-nanos"}),
    ]  # fmt: skip
    row = {
        "id": UUID(int=7), "local": datetime(2026, 7, 2, 3, 4, 5, 600_000), "day": date(2026, 1, 2), "n": Decimal("-12345.678"),
        "f": Decimal("0.10"), "e": "bad", "ns": 1764000005_999_999_999,
    }  # fmt: skip
    record = written(registered, record_of(*fields), row)
    decode = {
        **AVRO,
        "series": ["id", "e"],
        "ts": "local",
        "timezone": "Europe/Berlin",
        "values": "*",
        "channel": None,
        "value": None,
    }
    summer = 1782954245600.0
    found = read(registered, "n f", decode, record)
    assert ticks(found, "n f") == [(f"{UUID(int=7)}/bad", summer, {"n": -12345.678, "f": 0.1})]
    assert ticks(read(registered, "n", {**decode, "ts": "ns"}, record), "n")[0][1] == 1764000005999.999
    day = ticks(read(registered, "n", {**decode, "ts": "day"}, record), "n")[0][1]
    assert day == datetime(2026, 1, 1, 23, tzinfo=UTC).timestamp() * 1000
    (refused,) = read(registered, "n", {**decode, "timezone": None}, record).rejected
    assert refused.reason == "timestamp"
    assert "decode.timezone" in refused.detail
    (refused,) = read(registered, "ns", {**decode, "ts": "ns", "values": {"ns": "local"}}, record).rejected
    assert (refused.reason, refused.detail) == ("type", "Expected a number at `local`, got a time")


def test_types_of_other_subjects_are_read(registered: Registered) -> None:
    own = client(registered)
    own.register_schema("values", Schema(json.dumps(VALUES), "AVRO"))
    device = record_of(("id", "string"), ("last", "Values"), name="Device")
    own.register_schema("device", Schema(json.dumps(device), "AVRO", [SchemaReference("Values", "values", 1)]))
    schema = Schema(
        json.dumps(record_of(("device", "Device"), ("ts", MILLIS), ("values", "Values"))), "AVRO",
        [SchemaReference("Device", "device", 1), SchemaReference("Values", "values", 1)],
    )  # fmt: skip
    values = {"temp": 1.5, "flow": 2.5}
    record = written(registered, schema, {"device": {"id": "p", "last": values}, "ts": AT, "values": values})
    assert ticks(read(registered, "temp flow", {**AVRO, "series": "device.id"}, record), "temp flow") == [
        ("p", T0, values)
    ]


def test_debezium_s_envelope_and_its_key_as_avro(registered: Registered) -> None:
    row = record_of(("sensor", ["null", "string"]), ("at", {"type": "long", "logicalType": "timestamp-micros", "connect.version": 1}), ("v", ["null", "double"]),
                    ("n", ["null", {"type": "bytes", "scale": 3, "precision": 10, "connect.name": "org.apache.kafka.connect.data.Decimal", "logicalType": "decimal"}]), name="Value")  # fmt: skip
    envelope = {
        "type": "record", "name": "Envelope", "namespace": "pg.public.ticks", "fields": [
            {"name": "before", "type": ["null", row], "default": None}, {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "op", "type": "string"}, {"name": "ts_ms", "type": ["null", "long"]},
        ],
    }  # fmt: skip
    after = {"sensor": "pump-7", "at": AT, "v": math.nan, "n": Decimal("1.500")}
    decode = {**AVRO, "preset": "debezium", "series": "after.sensor", "ts": "after.at"}
    made = written(registered, envelope, {"before": None, "after": after, "op": "c", "ts_ms": 5})
    deleted = written(registered, envelope, {"before": after, "after": None, "op": "d", "ts_ms": 5})
    found = read(registered, "v n", decode, made, deleted, Plain(None))
    assert ticks(found, "v n") == [("pump-7", T0, {"n": 1.5})]
    assert [s.reason for s in found.skipped] == ["delete", "tombstone"]
    key = AvroSerializer(client(registered), json.dumps(record_of(("id", "int"), name="Key")))
    keyed = Plain(made.value, key({"id": 7}, SerializationContext("t", MessageField.KEY)))
    assert ticks(read(registered, "n", {**decode, "series": "@key.id"}, keyed), "n") == [("7", T0, {"n": 1.5})]
    text = AvroSerializer(client(registered), '"string"')
    named = Plain(
        written(registered, record_of(("ts", MILLIS), ("temp", "double")), {"ts": AT, "temp": 1.0}).value,
        text("pump-7", SerializationContext("t", MessageField.KEY)),
    )
    for series in (None, "@key"):
        assert ticks(read(registered, "temp", {**AVRO, "series": series, "values": "*"}, named), "temp") == [
            ("pump-7", T0, {"temp": 1.0})
        ]


def test_what_is_no_record_of_a_known_schema_is_refused_alone(registered: Registered) -> None:
    good = written(registered, WIDE, document())
    assert good.value is not None
    bad = {
        "not framed": (good.value[5:], "malformed"), "cut": (good.value[:-1], "malformed"), "longer": (good.value + b"\0", "malformed"),
        "unknown id": (b"\0\0\0\x01\0" + good.value[5:], "schema"), "json": (b'{"series":"p"}', "malformed"), "empty": (b"", "malformed"),
    }  # fmt: skip
    for name, (value, reason) in bad.items():
        found = read(registered, "temp flow", AVRO, Plain(value), good)
        assert [r.reason for r in found.rejected] == [reason], name
        assert len(found.batch) == 1
    found = read(registered, "temp flow", {**AVRO, "tombstones": "skip"}, Plain(None), Plain(b""))
    assert [s.reason for s in found.skipped] == ["tombstone", "tombstone"]


def test_a_schema_of_another_kind_is_said(registered: Registered) -> None:
    client(registered).register_schema("t-value", Schema('{"type": "object"}', "JSON"))
    (refused,) = read(registered, "temp", AVRO, Plain(b"\0\0\0\0\x01{}")).rejected
    assert (refused.reason, refused.detail) == ("schema", "the schema 1 is 'JSON', and decode.format says AVRO")


@pytest.mark.parametrize("in_header", [False, True])
def test_json_schema_as_confluent_s_serializer_writes_it(registered: Registered, in_header: bool) -> None:
    schema = json.dumps({"title": "Reading", "type": "object", "properties": {"series": {"type": "string"}}})
    configuration = {"schema.id.serializer": header_schema_id_serializer} if in_header else None
    serializer = JSONSerializer(schema, client(registered), conf=configuration)
    headers: list[tuple[str, bytes]] = []
    row = {"series": "pump-7", "ts": T0, "values": {"temp": 21.4, "flow": None}}
    value = serializer(row, SerializationContext("t", MessageField.VALUE, headers))
    key = serializer({"id": "k"}, SerializationContext("t", MessageField.KEY, headers))
    record = Plain(value, key, tuple(headers))
    registered.away = True  # it is not asked
    found = read(registered, "temp flow", {"format": "json-schema"}, record)
    assert ticks(found, "temp flow") == [("pump-7", T0, {"temp": 21.4})]
    found = read(registered, "temp flow", {"format": "json-schema", "series": "@key.id"}, record)
    assert ticks(found, "temp flow") == [("k", T0, {"temp": 21.4})]


FRAMES = [b"", b"\0\0\0\0\x01", b"\x01" + bytes(range(16))]


@settings(deadline=None, max_examples=100)
@given(documents | st.binary(max_size=30), st.sampled_from(FRAMES))
def test_json_with_a_frame_is_read_as_json_without_one(document: Any, frame: bytes) -> None:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    if payload[:1] in (b"\0", b"\x01"):
        return
    for more in ({}, {"ts_unit": "s", "values": "*"}, {"each": "m[*]"}, {"numbers": "text"}):
        for headers in ((), (("ce_specversion", b"1.0"), ("ce_subject", b"s"))):
            found = picture(DECODERS[repr(more)][1], Plain(frame + payload, b"k", headers))
            assert found == picture(DECODERS[repr(more)][0], Plain(payload, b"k", headers))


def picture(decoder: Decoder, record: Plain) -> Any:
    found = decoder.read([record])
    values = found.batch.values.tolist()
    refused = [(r.reason, r.detail, r.index) for r in found.rejected]
    return found.batch.series, found.batch.ts_us.tolist(), repr(values), refused, [s.reason for s in found.skipped]


DECODERS = {
    repr(more): tuple(decoder("temp flow", format=format, **more) for format in ("json", "json-schema"))
    for more in ({}, {"ts_unit": "s", "values": "*"}, {"each": "m[*]"}, {"numbers": "text"})
}


# ── Protobuf ─────────────────────────────────────────────────────────────────────────────────────────────────────────

F = descriptor_pb2.FieldDescriptorProto
PROTOBUF = {"format": "protobuf", "channel": None, "value": None}


def _field(
    name: str, number: int, kind: int | str, repeated: bool = False, optional: bool = False, oneof: int | None = None
) -> Any:
    made = F(name=name, number=number, label=F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL)
    if isinstance(kind, str):
        made.type, made.type_name = (F.TYPE_ENUM if kind.endswith("Quality") else F.TYPE_MESSAGE), kind
    else:
        made.type = kind  # type: ignore[assignment]
    if optional or oneof is not None:
        made.proto3_optional, made.oneof_index = optional, oneof or 0
    return made


def _messages(pool: Any) -> tuple[Any, Any]:
    """(class of a reading, class of a message within another type) of two files, the one importing the other."""
    file = descriptor_pb2.FileDescriptorProto(name="shared.proto", package="shared", syntax="proto3")
    file.enum_type.add(name="Quality").value.extend(
        [
            descriptor_pb2.EnumValueDescriptorProto(name="GOOD", number=0),
            descriptor_pb2.EnumValueDescriptorProto(name="BAD", number=1),
        ]
    )
    point = file.message_type.add(name="Point")
    point.field.extend([_field("name", 1, F.TYPE_STRING), _field("value", 2, F.TYPE_DOUBLE, optional=True)])
    point.oneof_decl.add(name="_value")
    pool.Add(file)
    for each in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(each.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name="reading.proto", package="plant", syntax="proto3")
    file.dependency.extend(["shared.proto", "google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
    file.message_type.add(name="Other").field.extend([_field("x", 1, F.TYPE_INT64)])
    reading = file.message_type.add(name="Reading")
    reading.oneof_decl.add(name="_flow")
    reading.field.extend([
        _field("series", 1, F.TYPE_STRING), _field("ts", 2, ".google.protobuf.Timestamp"), _field("temp", 3, F.TYPE_DOUBLE),
        _field("flow", 4, F.TYPE_FLOAT, optional=True), _field("count", 5, F.TYPE_SINT64), _field("quality", 6, ".shared.Quality"),
        _field("points", 7, ".shared.Point", repeated=True), _field("wrapped", 8, ".google.protobuf.DoubleValue"),
        _field("big", 9, F.TYPE_UINT64), _field("raw", 10, F.TYPE_BYTES), _field("labels", 11, ".plant.Reading.LabelsEntry", repeated=True),
    ])  # fmt: skip
    inner = reading.nested_type.add(name="Inner")
    inner.field.extend(
        [_field("series", 1, F.TYPE_STRING), _field("temp", 2, F.TYPE_DOUBLE), _field("ts", 3, F.TYPE_INT64)]
    )
    entry = reading.nested_type.add(name="LabelsEntry")
    entry.options.map_entry = True
    entry.field.extend([_field("key", 1, F.TYPE_STRING), _field("value", 2, F.TYPE_STRING)])
    pool.Add(file)
    found = pool.FindMessageTypeByName("plant.Reading")
    return message_factory.GetMessageClass(found), message_factory.GetMessageClass(found.nested_types_by_name["Inner"])


READING, INNER = _messages(descriptor_pool.DescriptorPool())


def protobuf_written(registered: Registered, message: Any, in_header: bool = False) -> Plain:
    configuration: dict[str, Any] = {"use.deprecated.format": False}
    if in_header:
        configuration["schema.id.serializer"] = header_schema_id_serializer
    headers: list[tuple[str, bytes]] = []
    serializer = ProtobufSerializer(type(message), client(registered), conf=configuration)
    return Plain(serializer(message, SerializationContext("t", MessageField.VALUE, headers)), None, tuple(headers))


def reading(**more: Any) -> Any:
    message = READING(series="pump-7", temp=21.4, **more)
    message.ts.FromMicroseconds(T0 * 1000 + 250_001)
    return message


@pytest.mark.parametrize("in_header", [False, True])
def test_protobuf_as_confluent_s_serializer_writes_it(registered: Registered, in_header: bool) -> None:
    message = reading(count=-7, big=2**63, quality=1, labels={"site": "a"})
    message.points.add(name="p")
    record = protobuf_written(registered, message, in_header)
    channels = "temp flow count big"
    found = read(
        registered, channels, {**PROTOBUF, "series": ["labels.site", "series", "quality"], "values": "*"}, record
    )
    assert ticks(found, channels) == [("a/pump-7/BAD", T0 + 250.001, {"temp": 21.4, "count": -7, "big": float(2**63)})]
    inner = protobuf_written(registered, INNER(series="p", temp=1.5, ts=T0), in_header)
    assert ticks(read(registered, "temp", {**PROTOBUF, "values": "*"}, inner), "temp") == [("p", T0, {"temp": 1.5})]


def test_protobuf_points_of_a_message_are_ticks_and_what_is_not_there_is_missing(registered: Registered) -> None:
    message = reading(flow=2.5)
    message.wrapped.value = 3.0
    for name, value in (("a", 1.0), ("b", None), ("c", 0.0)):
        message.points.add(name=name, **({} if value is None else {"value": value}))
    record = protobuf_written(registered, message)
    decode = {
        **PROTOBUF,
        "each": "points[*]",
        "series": "^.series",
        "ts": "^.ts",
        "channel": "name",
        "value": "value",
        "others": "skip",
    }
    found = read(registered, "a c", decode, record)
    assert [tick[2] for tick in ticks(found, "a c")] == [{"a": 1.0}, {"c": 0.0}]
    assert ticks(read(registered, "flow wrapped", {**PROTOBUF, "values": "*"}, record), "flow wrapped")[0][2] == {
        "flow": 2.5,
        "wrapped": 3.0,
    }


def test_thousands_of_protobuf_records_are_read_bit_for_bit(registered: Registered) -> None:
    rng = random.Random(7)
    serializer = ProtobufSerializer(READING, client(registered), conf={"use.deprecated.format": False})
    records, expected = [], []
    for _ in range(3000):
        message = READING(
            series=rng.choice(["a", "ü", "long" * 30]), temp=rng.gauss(0, 1e9), count=rng.randrange(-(2**63), 2**63)
        )
        us = rng.randrange(2**50)
        message.ts.FromMicroseconds(us)
        if rng.random() < 0.5:
            message.flow = rng.choice([math.nan, 0.0, rng.gauss(0, 1)])
        records.append(Plain(serializer(message, SerializationContext("t", MessageField.VALUE))))
        flow = message.flow if message.HasField("flow") else math.nan
        expected.append((message.series, us, [message.temp, float(message.count), flow]))
    found = read(registered, "temp count flow", {**PROTOBUF, "values": "*"}, *records)
    assert found.rejected == []
    batch = found.batch
    assert [*zip(batch.series, batch.ts_us.tolist(), strict=True)] == [(series, us) for series, us, _ in expected]
    assert repr(batch.values.tolist()) == repr([values for _, _, values in expected])


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=120))
def test_nothing_but_a_refusal_leaves_a_reader_of_protobuf(payload: bytes) -> None:
    text = base64.b64encode(READING.DESCRIPTOR.file.serialized_pb).decode()
    shared = base64.b64encode(READING.DESCRIPTOR.file.dependencies[0].serialized_pb).decode()
    read = _protobuf_reader(text, shared)
    for datum, more in ((payload, b""), (payload, payload), (b"\x02\x02" + payload, b"")):
        try:
            read(datum, more)
        except Refused:
            pass


@functools.cache
def _protobuf_reader(text: str, shared: str) -> Any:
    return protobuf.reader_of(text, [("shared.proto", shared)])


@pytest.mark.parametrize("text", ["", "no base64!", "syntax = 'proto3';", base64.b64encode(b"\xff" * 30).decode()])
def test_a_protobuf_schema_that_cannot_be_used_refuses_its_records(registered: Registered, text: str) -> None:
    registered.register("t-value", {"schema": text, "schemaType": "PROTOBUF"})
    (refused,) = read(registered, "temp", {**PROTOBUF, "values": "*"}, Plain(b"\0\0\0\0\x01\0abc")).rejected
    assert refused.reason in ("schema", "malformed")


# ── schemas and bytes from outside ───────────────────────────────────────────────────────────────────────────────────

LEAVES = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])


def schemas(names: Iterator[int]) -> st.SearchStrategy[Any]:
    return st.recursive(
        LEAVES | st.builds(lambda n: {"type": "fixed", "name": f"F{next(names)}", "size": n}, st.integers(0, 9)),
        lambda inner: (
            inner.map(lambda s: {"type": "array", "items": s})
            | inner.map(lambda s: {"type": "map", "values": s})
            | st.lists(inner, min_size=1, max_size=4).map(
                lambda kinds: record_of(*[(f"f{i}", kind) for i, kind in enumerate(kinds)], name=f"R{next(names)}")
            )
            | inner.map(lambda s: ["null", s] if s != "null" else s)
        ),
        max_leaves=12,
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_fastavro_writes_we_read_alike(data: st.DataObject) -> None:
    schema = data.draw(schemas(iter(range(10**6))))
    parsed = fastavro.parse_schema(json.loads(json.dumps(schema)))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    read = avro.reader_of(json.dumps(schema))
    for _ in range(3):
        datum = generated(schema, rng)
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, datum)
        payload = out.getvalue()
        assert repr(read(payload)) == repr(fastavro.schemaless_reader(io.BytesIO(payload), parsed, None))
        for cut in range(0, len(payload), max(1, len(payload) // 5)):
            try:
                read(payload[:cut])
            except Refused:
                continue


def generated(schema: Any, rng: random.Random) -> Any:
    if isinstance(schema, list):
        return generated(rng.choice(schema), rng)
    kind = schema if isinstance(schema, str) else schema["type"]
    made: dict[str, Callable[[], Any]] = {
        "null": lambda: None, "boolean": lambda: rng.random() < 0.5, "int": lambda: rng.randrange(-(2**31), 2**31),
        "long": lambda: rng.randrange(-(2**63), 2**63) >> rng.randrange(60), "float": lambda: struct.unpack("<f", rng.randbytes(4))[0],
        "double": lambda: struct.unpack("<d", rng.randbytes(8))[0], "bytes": lambda: rng.randbytes(rng.randrange(200)),
        "string": lambda: "".join(rng.choice("aü€𝄞") for _ in range(rng.randrange(200))),
        "fixed": lambda: rng.randbytes(schema["size"]), "array": lambda: [generated(schema["items"], rng) for _ in range(rng.randrange(4))],
        "map": lambda: {f"k{i}": generated(schema["values"], rng) for i in range(rng.randrange(4))},
        "enum": lambda: rng.choice(schema["symbols"]),
        "record": lambda: {f["name"]: generated(f["type"], rng) for f in schema["fields"]},
    }  # fmt: skip
    return made[kind]()


@settings(deadline=None, max_examples=150)
@given(st.data(), st.binary(max_size=200))
def test_nothing_but_a_refusal_leaves_a_reader_of_avro(data: st.DataObject, payload: bytes) -> None:
    read = avro.reader_of(json.dumps(data.draw(schemas(iter(range(10**6))))))
    try:
        read(payload)
    except Refused:
        pass


LIST = record_of(("next", ["null", "List"]), name="List")
DOUBLING = record_of(*[("leaf", "null")], name="T0")
for level in range(1, 40):
    DOUBLING = record_of(("a", DOUBLING), ("b", f"T{level - 1}"), name=f"T{level}")


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        (LIST, b"\x02" * 1_000_000),
        ({"type": "array", "items": LIST}, b"\x02" * 1_000_000),
        ({"type": "array", "items": "null"}, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ({"type": "array", "items": record_of(("a", {"type": "fixed", "name": "Z", "size": 0}))}, b"\xfe\xff\xff\xff\xff\x0f" * 100),
        ({"type": "array", "items": "boolean"}, b"\x80\x89\x7a" + b"\x01" * 1_000_000),
        ({"type": "map", "values": "null"}, b"\xfe\xff\xff\xff\xff\x0f\x00"),
        ("string", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01abc"), ("bytes", b"\x01abc"), ("long", b"\xff" * 1_000_000),
        ({"type": "bytes", "logicalType": "decimal", "precision": 400, "scale": 0}, b"\x80\x89\x7a" + b"\x7f" * 1_000_000),
        (DOUBLING, b""), (["null", "string"], b"\x01\x02a"), ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x01"),
    ],
    ids=lambda each: None if isinstance(each, bytes) else str(each)[:30],
)  # fmt: skip
def test_bombs_of_avro_are_refused_in_bounded_time_and_memory(schema: Any, payload: bytes) -> None:
    read = avro.reader_of(json.dumps(schema))
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(Refused):
        read(payload)
    assert time.process_time() - begin < 3.0
    assert tracemalloc.get_traced_memory()[1] < 64_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '"strin"', '{"type": "record"}', '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "Missing"}]}',
        '{"type": "bytes", "logicalType": "decimal", "precision": 4000000000, "scale": 1000000000}', "[" * 100_000,
        json.dumps({"type": "array", "items": None}), '{"type": "fixed", "name": "F", "size": -1}', "7", "null", '{"type": ["null", 3]}',
        '{"type": {"type": {"type": {"type": "what"}}}}', '{"type": "enum", "name": "E", "symbols": 5}', '{"type":"fixed","name":"F","size":"9"}',
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_refuses_its_records(registered: Registered, text: str) -> None:
    with pytest.raises(ValueError):
        avro.reader_of(text)
    registered.register("t-value", {"schema": text})
    (refused,) = read(registered, "temp", AVRO, Plain(b"\0\0\0\0\x01abc")).rejected
    assert refused.reason == "schema"


# ── the registry itself ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registry_that_does_not_let_us_in_is_said(registered: Registered) -> None:
    record = written(registered, WIDE, document())
    registered.password = "right"
    chosen = configured(registered, "temp flow", AVRO, username="user", password="wrong")
    decoder = Decoder(chosen.stream_spec(), chosen.decode_spec())
    with pytest.raises(RegistryRefuses, match=r"does not let us in.*registry\.password_file") as raised:
        fetch(chosen, decoder, [record])
    assert "wrong" not in str(raised.value)
    fetch(configured(registered, "temp flow", AVRO, username="user", password="right"), decoder, [record])
    assert len(decoder.read([record]).batch) == 1
    assert "right" not in repr(configured(registered, "temp", AVRO, username="user", password="right").effective())


def test_a_registry_that_is_away_is_no_refusal(registered: Registered) -> None:
    record = written(registered, WIDE, document())
    chosen = configured(registered, "temp flow", AVRO)
    decoder = Decoder(chosen.stream_spec(), chosen.decode_spec())
    registered.away = True
    with pytest.raises(RegistryAway, match="does not answer"):
        fetch(chosen, decoder, [record])
    nowhere = configured("http://127.0.0.1:9", "temp flow", AVRO)
    with pytest.raises(RegistryAway, match="cannot be reached"):
        fetch(nowhere, decoder, [record])


def test_validate_asks_the_registry_and_no_password_stands_on_a_command_line(
    registered: Registered, tmp_path: Path
) -> None:
    registered.password = "right"
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    sets = {"input": "t", "channels": "[a]", "step": "1s", "horizon": "3", "decode.format": "avro", "registry.url": registered.url,
            "registry.username": "user", "registry.password_file": str(secret)}  # fmt: skip
    arguments = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    found = CliRunner().invoke(app, ["validate", *arguments])
    assert isinstance(found.exception, RegistryRefuses)
    assert exit_code_of(found.exception) == ExitCode.BROKER
    assert CliRunner().invoke(app, ["validate", "--offline", *arguments]).exit_code == 0
    found_out = CliRunner().invoke(app, ["validate", "--offline", *arguments, "--set", "registry.password=hunter2"])
    assert "never from the command line" in f"{found_out.exception} {found_out.output}"


@pytest.mark.parametrize(
    ("registry", "said"),
    [
        ({}, "registry.url: is needed for decode.format: avro"),
        ({"url": "localhost:8081"}, "write it as http://host:8081"),
        ({"url": "http://me:secret@host:8081"}, "no name and password in it"),
        ({"url": "http://host", "username": "me"}, "give password_file"),
        ({"username": "me", "password": "x"}, "url is needed"),
        ({"url": "http://host", "password": "x"}, "username is needed"),
    ],
)
def test_a_registry_that_cannot_be_meant_is_said_at_the_start(registry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        load(
            [], {"input": "t", "channels": ["a"], "step": "1s", "horizon": 3, "decode": AVRO, "registry": registry}, {}
        )
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("decode", "package", "said"),
    [
        (AVRO, "fastavro", r"streamrnn\[avro\]"), (PROTOBUF, "google.protobuf", r"streamrnn\[protobuf\]"),
        ({"format": "otlp-proto"}, "opentelemetry.proto.metrics.v1", r"streamrnn\[protobuf\]"), ({"format": "sparkplug"}, "google.protobuf", r"streamrnn\[protobuf\]"),
    ],
)  # fmt: skip
def test_what_has_to_be_installed_first_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, decode: dict[str, Any], package: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=said):
        configured("http://host", "temp", decode)


def test_the_registry_s_client_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    chosen = configured("http://host", "temp", AVRO)
    with pytest.raises(RegistryRefuses, match=r"streamrnn\[avro\]"):
        fetch(chosen, Decoder(chosen.stream_spec(), chosen.decode_spec()), [])
