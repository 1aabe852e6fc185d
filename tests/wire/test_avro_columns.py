"""Avro records read many at once: the same ticks as one by one, whatever the schema and the bytes."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_producers import T0, Plain
from test_registry import AVRO, MILLIS, OPTIONAL, WIDE, generated, record_of

from streamrnn.config.settings import load
from streamrnn.wire.codec import Decoded, Decoder
from streamrnn.wire.schemas import Definition

FLAT = {**AVRO, "values": "*"}


def decoders(channels: str, decode: dict[str, Any], **schemas: Any) -> tuple[Decoder, Decoder]:
    """(as it is, one that reads one by one); schemas by their ids, as `_1`."""
    base = {"input": "t", "channels": channels.split(), "step": "1s", "horizon": 3, "registry": {"url": "http://r"}}
    chosen = load([], {**base, "decode": decode}, {})
    both = Decoder(chosen.stream_spec(), chosen.decode_spec()), Decoder(chosen.stream_spec(), chosen.decode_spec())
    for each in both:
        for name, schema in schemas.items():
            assert each.schemas is not None
            each.schemas.put(int(name[1:]), Definition("AVRO", json.dumps(schema)))
    both[1]._columns = None
    return both


def datum(schema: Any, value: Any, id: int = 1) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), value)
    return b"\0" + id.to_bytes(4, "big") + out.getvalue()


def picture(found: Decoded) -> Any:
    batch = found.batch
    return (
        batch.partition.tolist(), batch.offset.tolist(), batch.record_ts_ms.tolist(), batch.series, batch.ts_us.tolist(),
        repr(batch.values.tolist()), batch.channel.tolist(), batch.index.tolist(), [record.offset for record in batch.records],
        [(r.record.offset, r.reason, r.detail) for r in found.rejected], [(s.record.offset, s.reason) for s in found.skipped],
    )  # fmt: skip


def is_read_at_once(decoder: Decoder, records: list[Plain]) -> bool:
    return decoder._columns is not None and decoder._columns.read(records) is not None


TIMES = [
    MILLIS, {"type": "long", "logicalType": "timestamp-micros"}, {"type": "long", "logicalType": "timestamp-nanos"}, "long", ["null", MILLIS],
    {"type": "long", "logicalType": "local-timestamp-millis"}, "double", ["string", "long"],
]  # fmt: skip
NUMBERS = [
    "double",
    "float",
    "long",
    "int",
    OPTIONAL,
    ["float", "null", "long"],
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
]
OTHERS = [
    "boolean", "bytes", {"type": "fixed", "name": "Fixed", "size": 3}, {"type": "enum", "name": "Enum", "symbols": ["a", "b"]},
    ["null", record_of(("x", "string"), ("y", OPTIONAL), name="Inner")], {"type": "array", "items": "int"}, {"type": "map", "values": "string"}, "null",
]  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_what_is_read_at_once_is_what_is_read_one_by_one(data: st.DataObject) -> None:
    pick = st.sampled_from
    fields = [
        ("series", data.draw(pick(["string", "string", ["null", "string"], "int"]))),
        ("ts", data.draw(pick(TIMES))),
    ]
    fields += [(name, data.draw(pick(NUMBERS))) for name in data.draw(pick([["temp"], ["temp", "flow"], ["other"]]))]
    fields += [(f"o{i}", kind) for i, kind in enumerate(data.draw(st.lists(pick(OTHERS), max_size=3, unique_by=repr)))]
    order = data.draw(st.permutations(fields))
    schema = record_of(*order)
    decode = data.draw(
        pick(
            [
                FLAT,
                {**FLAT, "ts_unit": "us"},
                {**FLAT, "value_abs_max": 1e3},
                {**FLAT, "channel": "o0", "value": "temp"},
            ]
        )
    )
    both = decoders("temp flow", decode, _1=schema, _2=WIDE)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    records = []
    for i in range(8):
        row = generated(schema, rng)
        if isinstance(row["series"], str):
            row["series"] = rng.choice(["pump-7", "ü", "", "a\nb", "p"])
        if isinstance(row["ts"], int):
            row["ts"] = rng.choice([T0, T0 * 1000, row["ts"]])
        payload = bytearray(datum(schema, row))
        for _ in range(data.draw(pick([0, 0, 0, 1, 2]))):
            at = rng.randrange(5, len(payload))
            payload[at] ^= 1 << rng.randrange(8)
        if data.draw(pick([0, 0, 0, 1])):
            payload = payload[: rng.randrange(5, len(payload))]
        records.append(Plain(bytes(payload), b"k", offset=i, partition=i % 2, timestamp=T0 + i))
    for some in (records, *([record] for record in records)):
        assert picture(both[0].read(some)) == picture(both[1].read(some))


def test_the_usual_records_are_read_at_once_and_others_are_not() -> None:
    flat = record_of(
        ("ts", MILLIS),
        ("id", {"type": "string", "logicalType": "uuid"}),
        ("temp", "float"),
        ("series", ["null", "string"]),
        ("on", "boolean"),
    )
    envelope = record_of(("before", ["null", flat]), ("after", ["null", "Reading"]), ("op", "string"), name="Envelope")
    row = {"ts": T0, "id": "7e9e0b0a-0000-0000-0000-000000000000", "temp": 1.5, "series": "p", "on": True}
    wide = {"series": "p", "ts": T0, "values": {"temp": 1.0, "flow": None}}
    inner = {**AVRO, "series": "after.series", "ts": "after.ts", "values": {"temp": "after.temp"}}
    plain = Plain(datum(flat, row))
    for decode, schema, value, at_once in (
        (FLAT, flat, row, True), (AVRO, WIDE, wide, True), (inner, envelope, {"before": None, "after": row, "op": "c"}, True),
        (inner, envelope, {"before": row, "after": None, "op": "d"}, False), ({**FLAT, "where": {"on": True}}, flat, row, False),
        ({**FLAT, "series": ["series", "id"]}, flat, row, False), (FLAT, flat, {**row, "series": None}, False), (FLAT, flat, {**row, "series": "ü"}, False),
        (FLAT, record_of(("series", "string"), ("ts", "double"), ("temp", "double")), {**row, "ts": 1.5}, False),
    ):  # fmt: skip
        both = decoders("temp", decode, _1=schema)
        record = Plain(datum(schema, value))
        assert is_read_at_once(both[0], [record]) == at_once, (decode, value)
        assert picture(both[0].read([record])) == picture(both[1].read([record]))
    both = decoders("temp", FLAT, _1=flat, _2=record_of(("series", "string"), ("temp", "double"), ("ts", MILLIS)))
    other = Plain(datum(record_of(("series", "string"), ("temp", "double"), ("ts", MILLIS)), row, id=2), offset=1)
    traced = Plain(plain.value, headers=(("traceparent", b"00-1-2-00"),))
    assert is_read_at_once(both[0], [plain, other, plain, traced])
    assert picture(both[0].read([plain, other, plain])) == picture(both[1].read([plain, other, plain]))
    odd = {
        "no value": Plain(None), "of a schema that is not known": Plain(b"\0\0\0\0\x09abc"), "id in a header": Plain(plain.value, headers=(("__value_schema_id", b"\0\0\0\0\x01"),)),
        "cloud event": Plain(plain.value, headers=(("ce_specversion", b"1.0"), ("ce_subject", b"s"))), "no frame": Plain(b"abc"), "cut": Plain((plain.value or b"")[:-1]),
    }  # fmt: skip
    for name, record in odd.items():
        assert not is_read_at_once(both[0], [plain, record]), name
        assert picture(both[0].read([plain, record, other])) == picture(both[1].read([plain, record, other])), name


def test_a_schema_that_says_something_else_is_read_anew() -> None:
    both = decoders("temp", FLAT, _1=record_of(("series", "string"), ("ts", MILLIS), ("temp", "double")))
    assert both[0].schemas is not None
    row = {"series": "p", "ts": T0, "temp": 1.5}
    first = Plain(datum(record_of(("series", "string"), ("ts", MILLIS), ("temp", "double")), row))
    assert is_read_at_once(both[0], [first])
    both[0].schemas.refuse(1, "no longer known")
    assert [r.reason for r in both[0].read([first]).rejected] == ["schema"]
    turned = record_of(("temp", "double"), ("ts", MILLIS), ("series", "string"))
    both[0].schemas.put(1, Definition("AVRO", json.dumps(turned)))
    assert both[0].read([Plain(datum(turned, row))]).batch.values.tolist() == [[1.5]]


@pytest.mark.parametrize(
    "payload", [b"\xff" * 100, b"\x80" * 20 + b"\x01", b"", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_nothing_is_read_beyond_a_record_s_end(payload: bytes) -> None:
    schema = record_of(("series", "string"), ("ts", MILLIS), ("temp", "double"))
    good = datum(schema, {"series": "p", "ts": T0, "temp": 1.5})
    both = decoders("temp", FLAT, _1=schema)
    records = [Plain(good), Plain(good[:5] + payload, offset=1), Plain(good, offset=2)]
    assert picture(both[0].read(records)) == picture(both[1].read(records))
    assert np.array_equal(both[0].read(records).batch.offset, [0, 2])
