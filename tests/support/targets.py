"""What is fuzzed, as functions of bytes: each feeds them to one reader and asserts what must hold whatever they are.

`test_fuzz.py` drives them with hypothesis, `fuzz.py` with coverage guidance. An exception that leaves a target is a
finding: a documented refusal is caught here, by its type.

Formats with a digest are taken twice: as they came, and with the digest made right, for whoever may write to a topic
can do that as well.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash

sys.path.insert(0, str(Path(__file__).parents[0]))

from making import START, batch, cut, feed, network, spec, walk
from poison import Plain

from streamrnn.config.settings import ConfigError, load
from streamrnn.model.weights import MAGIC, WeightsError, WeightsMeta, build, pack
from streamrnn.model.weights import VERSION as WEIGHTS_VERSION
from streamrnn.records import REASONS, Rejected, TickBatch
from streamrnn.serving.commit_note import committed_with, history_of, starting_points
from streamrnn.spec import StreamSpec
from streamrnn.stores.changelog import CHECKPOINT, ChangelogReader, Checkpoint, encode_checkpoint, weights_at
from streamrnn.stores.models import BYTES_MAX, ID, PIECES_MAX, VERSIONS_MAX, Manifest, ModelsFollower, Pointer
from streamrnn.stream import snapshot
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import (
    DIGEST_BYTES,
    HEADER,
    HEADER_BYTES,
    VERSION,
    Restored,
    SnapshotError,
    Snapshots,
)
from streamrnn.transports.base import Committed, TopicUnfit
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport
from streamrnn.wire.codec import DETAIL_CHARS_MAX, Decoder, DecodeSpec, dead_letter
from streamrnn.wire.instants import Refused
from streamrnn.wire.packed import Packed, PackedRecord, packed
from streamrnn.wire.schemas import Definition, Schemas

# A record of a few kilobytes takes some ten microseconds; the bound has room for a machine with better things to do.
RECORD_S_MAX = 0.05
PARTITION = 0


# ── the decoder ──────────────────────────────────────────────────────────────────────────────────────────────────────

_WIDE = StreamSpec(channels=("temp", "flow"), step_ms=1000, horizon=4)
_BASE = {"input": "t", "channels": ["temp", "flow"], "step": "1s", "horizon": 4}
DECODERS = (
    Decoder(_WIDE),
    Decoder(
        _WIDE,
        DecodeSpec(
            series="device.id", ts="time", ts_unit="s", values={"temp": "r.t", "flow": "r.f"}, channel=None, value=None
        ),
    ),
    Decoder(_WIDE, DecodeSpec(ts="time.at", ts_unit="ns", value_abs_max=1e300)),
)
RECORDS = [
    b'{"series":"pump-7","ts":1764000000000,"values":{"temp":21.4,"flow":null}}',
    b'{"series":"p","ts":"2026-11-23T15:00:00.250Z","channel":"temp","value":21.4,"meta":{"a":[1,2]}}',
    b'{"device":{"id":"d"},"time":1764000000.25,"r":{"t":1e3,"f":-0.5}}',
    b'{"subject":"s","time":"2026-11-23T15:00:00Z","data":{"values":{"temp":1}}}',
    b'{"time":{"at":1.764000000000000001E18},"values":{"temp":1e299,"flow":9007199254740993}}',
    rb'{"series":"\ud83d\ude00","ts":null,"values":{"temp":1,"temp":2,"flow":1e999}}',
]
_CE = (
    (),
    (("content-type", b"application/cloudevents+json"),),
    (("ce_specversion", b"1.0"), ("ce_time", b"2026-11-23T15:00:00Z"), ("ce_subject", b"s")),
)


@functools.cache
def _neighbours() -> tuple[Plain, Plain, tuple[bytes, ...]]:
    before, after = Plain(RECORDS[0], 10), Plain(RECORDS[1], 12)
    return before, after, tuple(_bytes_of(decoder, [before, after], (10, 12)) for decoder in DECODERS)


def _bytes_of(decoder: Decoder, records: list[Plain], offsets: tuple[int, ...]) -> bytes:
    """Everything that the decoder made of these offsets."""
    ticks, rejected = decoder.decode(records)
    rows = [i for i, offset in enumerate(ticks.offset.tolist()) if offset in offsets]
    parts = [column[rows].tobytes() for column in (ticks.offset, ticks.ts_us, ticks.values, ticks.channel)]
    names = repr([ticks.series[row] for row in rows])
    return b"|".join(parts) + names.encode() + repr([r.reason for r in rejected if r.record.offset in offsets]).encode()


def codec(data: bytes) -> None:
    """The first byte chooses headers, key and timestamp; the rest is the record's value."""
    choice, value = (data[0], data[1:]) if data else (0, b"")
    record = Plain(
        value,
        11,
        (b"key-1", None, value[:300], b"\xff")[choice % 4],
        _CE[choice // 4 % 3],
        timestamp=-(choice // 12 % 2),
    )
    before, after, clean = _neighbours()
    for decoder, alone in zip(DECODERS, clean, strict=True):
        ticks, rejected = decoder.decode([before, record, after])
        assert len(ticks) + len(rejected) == 3
        assert _bytes_of(decoder, [before, record, after], (10, 12)) == alone
        _check(decoder, record, ticks, rejected)


def _check(decoder: Decoder, record: Plain, ticks: TickBatch, rejected: Sequence[Rejected]) -> None:
    """What holds of anything that was read: refusals have their reason, ticks a name and values within bounds, soon."""
    for refusal in rejected:
        assert refusal.reason in REASONS
        assert 0 < len(refusal.detail) <= DETAIL_CHARS_MAX
        assert refusal.detail.isprintable()
        assert dead_letter(refusal)[1] == refusal.record.value
    for name, values in zip(ticks.series, ticks.values, strict=True):
        assert name and len(name.encode()) <= 256 and "\n" not in name and "\x00" not in name
        assert (np.abs(values[~np.isnan(values)]) <= decoder.decode_spec.value_abs_max).all()
    assert _seconds(decoder, record) < RECORD_S_MAX


_MANY = (
    Decoder(_WIDE, DecodeSpec(each="[*]")),
    Decoder(
        _WIDE,
        DecodeSpec(each=("m[*].r[*]", "r[*]", "."), series=("^.id?", ("a", "b?"), "tags.*"), values="*", numbers="text"),
    ),
    *(
        Decoder(_WIDE, load([], {**_BASE, "decode": {"preset": name, "series": series}}, {}).decode_spec())
        for name, series in (
            ("collectd", "host"), ("telegraf", ["tags.host?", "tags.*"]), ("debezium", "after.id"), ("quix", "@key"),
            ("otlp-json", "^.name"),
            ("sparkplug-json", "@key"), ("binance", "series"), ("ksqldb", "@window.key"),
        )
    ),
    Decoder(_WIDE, load([], {**_BASE, "decode": {"preset": "senml"}}, {}).decode_spec()),
    Decoder(_WIDE, load([], {**_BASE, "decode": {"preset": "ditto"}}, {}).decode_spec()),
)  # fmt: skip
MANY = [
    b'[{"series":"p","ts":1764000000000,"values":{"temp":1}},{"values":{"flow":null}},7]',
    b'{"m":[{"id":"a","r":[{"a":1,"b":null,"ts":"1764000000000","temp":"NaN","tags":{"x":"y"}}]}]}',
    b'[{"values":[1,2],"dsnames":["temp","flow"],"time":1764000000.25,"host":"a","plugin":"p","type":"t"}]',
    b'{"metrics":[{"name":"temp","intValue":4294967291,"fields":{"temp":1},"tags":{"host":"a"},"timestamp":1764000000}]}',
    b'{"schema":{},"payload":{"after":{"id":1,"temp":"Bdw=","flow":{"scale":1,"value":"GQ=="}},"op":"c","ts_ms":1764000000000}}',
    b'{"V":{"Timestamps":[1764000000000000000],"NumericValues":{"temp":[21.4]}}}',
    b'[{"bn":"p/","bt":1764000000,"bv":1e3,"n":"temp","v":21.5},{"n":"flow","v":1,"t":-1}]',
    b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"temp","gauge":{"dataPoints":[{"timeUnixNano":"1764000000000000000","asInt":"5"}]}}]}]}]}',
    b'{"topic":"a/b/things","path":"/features/temp/properties/value","value":1}',
    b'{"e":"trade","s":"X","p":"1","T":1764000000000}',
]


def elements(data: bytes) -> None:
    """Records of many ticks: the first byte chooses the key, the rest is the record's value."""
    choice, value = (data[0], data[1:]) if data else (0, b"")
    record = Plain(value, 11, (b"key-1", None, value[-20:], b"\xff")[choice % 4], _CE[choice // 4 % 3])
    before, after = Plain(b"[]", 10), Plain(b"{}", 12)
    for decoder in _MANY:
        ticks, rejected, skipped = decoder.read([before, record, after])
        without = {each.record.offset for each in (*rejected, *skipped)}
        assert without | set(ticks.offset.tolist()) == {10, 11, 12}
        assert len(ticks) + len(rejected) <= 2 + decoder.decode_spec.elements_max
        _check(decoder, record, ticks, rejected)


_AVRO = {
    "type": "record", "name": "R", "fields": [
        {"name": "series", "type": ["null", "string", {"type": "enum", "name": "E", "symbols": ["a", "b"]}]},
        {"name": "ts", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}, "double", {"type": "int", "logicalType": "date"}]},
        {"name": "temp", "type": ["null", "float", {"type": "bytes", "logicalType": "decimal", "precision": 99, "scale": 3}]},
        {"name": "next", "type": ["null", "R"]}, {"name": "flow", "type": {"type": "map", "values": {"type": "array", "items": "R"}}},
    ],
}  # fmt: skip


def _descriptor() -> str:
    """Of a message of a name, a time, numbers, messages of its own kind and a map."""
    from google.protobuf import descriptor_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="r.proto", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    message = file.message_type.add(name="R")
    for number, (name, kind, of) in enumerate(
        (
            ("series", kinds.TYPE_STRING, ""), ("ts", kinds.TYPE_MESSAGE, ".google.protobuf.Timestamp"), ("temp", kinds.TYPE_DOUBLE, ""),
            ("flow", kinds.TYPE_SINT64, ""), ("rest", kinds.TYPE_MESSAGE, ".R"),
        ),
        1,
    ):  # fmt: skip
        label = kinds.LABEL_REPEATED if name == "rest" else kinds.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, type_name=of or None, label=label)
    return base64.b64encode(file.SerializeToString()).decode()


@functools.cache
def _formats() -> tuple[Decoder, ...]:
    made = []
    for decode in (
        {"format": "avro", "series": ["series?", "@key"], "timezone": "UTC", "values": {"temp": "temp", "flow": "flow.a[0].temp"}},
        {"format": "protobuf", "each": "rest[*]", "series": "^.series", "values": "*"},
        {"format": "json-schema"}, {"preset": "otlp-proto", "series": "^.name"}, {"preset": "sparkplug"}, {"preset": "graphite"},
        {"preset": "collectd-command", "values": {"temp": "values[^.dsnames=value0]", "flow": "values[^.dsnames=value1]"}},
        {"format": "msgpack"}, {"preset": "influx"}, {"format": "csv", "columns": ["series", "ts", "temp", "flow"]},
    ):  # fmt: skip
        decoder = Decoder(
            _WIDE, load([], {**_BASE, "registry": {"url": "http://r"}, "decode": decode}, {}).decode_spec()
        )
        if decoder.schemas is not None:
            decoder.schemas.put(1, Definition("AVRO", json.dumps(_AVRO)))
            decoder.schemas.put(2, Definition("PROTOBUF", _descriptor()))
            decoder.schemas.put(3, Definition("JSON", "{}"))
            decoder.schemas.put(4, Definition("AVRO", '"string"'))
        made.append(decoder)
    return tuple(made)


FORMATS = [
    b"\x00\x00\x00\x00\x01\x02\x02p\x02\x80\x80\xa8\xb0\xd9\xb9\xa2\x06\x02\x00\x00\x80\x3f\x00\x00",
    b"\x00\x00\x00\x00\x01\x04\x02\x06\x04\x04\x02\x7f\x02\x00\x00\x00\x00\x00\x02\x02a\x02\x00\x00\x00\x00\x00\x00\x00",
    b"\x00\x00\x00\x00\x02\x00\x0a\x01p\x2a\x13\x12\x06\x08\x80\x80\x94\xc9\x06\x19\x00\x00\x00\x00\x00\x00\xf0?\x20\x05",
    b'\x00\x00\x00\x00\x03{"series":"p","ts":1764000000000,"values":{"temp":1}}',
    b"\x0a\x25\x12\x23\x12\x21\x0a\x04temp\x2a\x19\x0a\x17\x19\x00\x00\xc8\x4e\x67\x6d\xc1\x18\x21\x00\x00\x00\x00\x00\x00\xf0?\x3a\x03\x0a\x01k",
    b"\x08\x80\xd0\xdf\xb4\xab3\x12\x13\x0a\x04temp\x10\x01\x20\x0ai\x00\x00\x00\x00\x00\x00\xf0?\x12\x04\x10\x01\x38\x01\x12\x04\x10\x07\x50\x05\x18\x00",
    b"a.b.temp;x=y 1.5 1764000000\r\na.b.flow nan 1764000000",
    b'PUTVAL "h/p-1/temp-x" interval=2 1764000000.5:1:U N:2',
    b'p,1764000000000,1,"2"\r\n"q ""x""",1764000000001,NaN,',
    b"cpu,host=a temp=1,flow=2i 1764000000000000000",
]


def formats(data: bytes) -> None:
    """Formats that are no JSON: the first byte chooses key and headers, the rest is the record's value."""
    choice, value = (data[0], data[1:]) if data else (0, b"")
    headers = ((), (("__value_schema_id", b"\x00\x00\x00\x00\x01"),), (("__key_schema_id", value[:17]),))[
        choice // 4 % 3
    ]
    key = (b"\x00\x00\x00\x00\x04\x02k", None, value[-20:], b"k")[choice % 4]
    record = Plain(value, 11, key, headers)
    before, after = Plain(b"", 10), Plain(b"\x00", 12)
    for decoder in _formats():
        if decoder.schemas is not None:
            decoder.schemas.missing([before, record, after])
        ticks, rejected, skipped = decoder.read([before, record, after])
        without = {each.record.offset for each in (*rejected, *skipped)}
        assert without | set(ticks.offset.tolist()) == {10, 11, 12}
        assert len(ticks) + len(rejected) <= 2 + decoder.decode_spec.elements_max
        _check(decoder, record, ticks, rejected)


def schema(data: bytes) -> None:
    """What a registry might say: a schema, then a newline and a record of it."""
    text, _, value = data.partition(b"\n")
    for kind in ("AVRO", "PROTOBUF"):
        schemas = Schemas("avro" if kind == "AVRO" else "protobuf", keys=True)
        schemas.put(1, Definition(kind, text.decode("utf-8", "replace")))
        with contextlib.suppress(Refused):
            schemas.document(b"\x00\x00\x00\x00\x01" + value, Plain(value, 0))


def _seconds(decoder: Decoder, record: Plain) -> float:
    """The best of some tries, if the first was too slow."""
    best_s = RECORD_S_MAX
    for _ in range(5):
        began_s = time.perf_counter()
        decoder.decode([record])
        best_s = min(best_s, time.perf_counter() - began_s)
        if best_s < RECORD_S_MAX:
            break
    return best_s


# ── a series' state ──────────────────────────────────────────────────────────────────────────────────────────────────

_PLAIN = spec(series_max=4)
_HOLDING = spec(series_max=4, within="mean", lateness_ms=3000)


@functools.cache
def _state(stream: StreamSpec) -> tuple[bytes, bytes, bytes]:
    """(layout, key, record) of a series that has lived a while."""
    engine = Engine(stream)
    engine.load(network(stream), "weights")
    feed(engine, walk(90, ["x"]))
    snapshots = Snapshots(engine)
    keys, records = snapshots.pack(PARTITION, np.array([engine.table.find(PARTITION, "x")]), 90, 1)
    return snapshots.layout()[1], keys[0], records[0]


def _laid(*pairs: tuple[bytes, bytes | None]) -> Packed:
    return packed(
        PARTITION, [PackedRecord("state", PARTITION, i, 0, key, value) for i, (key, value) in enumerate(pairs)]
    )


def signed(key: bytes, record: bytes) -> bytes:
    """With the digest that belongs to it."""
    body = record[DIGEST_BYTES:]
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(key)).to_bytes(DIGEST_BYTES, "little") + body


_engines: dict[tuple[StreamSpec, bool], Engine] = {}


def _engine(stream: StreamSpec, served: bool) -> Engine:
    """An engine without series; one is kept, for making it takes longer than all the rest."""
    found = _engines.get((stream, served))
    if found is None or (not served and found.table.fields["state"].shape != (0,)):
        found = _engines[stream, served] = Engine(stream)
        if served:
            found.load(network(stream), "weights")
    found.drop(PARTITION)
    return found


def _restored(stream: StreamSpec, served: bool, layouts: list[bytes], key: bytes, record: bytes) -> None:
    engine = _engine(stream, served)
    snapshots, found = Snapshots(engine), Restored()
    try:
        for text in layouts:
            snapshots.learn(text)
        snapshots.restore(PARTITION, _laid((key, record)), found)
    except SnapshotError as error:
        assert str(error)
        assert len(engine.table) == 0 and not engine.front.ticks_held
        return
    assert found.rows + sum(found.refused.values()) == 1
    assert len(engine.table) == found.rows
    if not found.rows:
        assert not engine.front.ticks_held
        return
    # What was taken must serve: more of the series, and of its neighbours.
    name = key.decode()
    ticks = batch([name, "y"] * 8, START + 1000 * (100 + np.arange(16) // 2), np.ones((16, 3)))
    ticks.offset += 200
    for _, text in feed(engine, ticks):
        if text.startswith(b"{"):
            json.loads(text)
    rows = np.array(sorted(engine.table.series(PARTITION).values()), dtype=np.int64)
    Snapshots(engine).pack(PARTITION, rows, 216, 1)


def state(data: bytes) -> None:
    """A record of the state topic: as it is, with the digest made right, and with a header made right."""
    for stream in (_PLAIN, _HOLDING):
        layout, key, good = _state(stream)
        own = np.frombuffer(good[:HEADER_BYTES], dtype=np.dtype(HEADER))[0]
        head = struct.pack("<QHBBiIIQ", 0, snapshot.MAGIC, VERSION, 0, PARTITION, 1, 0, int(own["_layout"]))
        for served in (True, False):
            _restored(stream, served, [layout], key, data)
            _restored(stream, served, [layout], key, signed(key, data))
        _restored(
            stream,
            True,
            [layout],
            key,
            signed(key, (head + data[HEADER_BYTES:]).ljust(len(good), b"\x00")[: len(good)]),
        )
        name = data[:40]
        _restored(stream, True, [layout], name, signed(name, good))


def held(data: bytes) -> None:
    """What lies behind a row: ticks of steps that are not closed."""
    layout, key, good = _state(_HOLDING)
    size = len(good) - int(np.frombuffer(good[:HEADER_BYTES], dtype=np.dtype(HEADER))[0]["_held"])
    record = bytearray(good[:size] + data)
    record[20:24] = len(data).to_bytes(4, "little")
    _restored(_HOLDING, True, [layout], key, signed(key, bytes(record)))


def layout(data: bytes) -> None:
    """The description of a layout, and a record that claims to have it."""
    own, key, good = _state(_PLAIN)
    stamp = xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")
    record = good[:24] + stamp + good[HEADER_BYTES:]
    for served in (True, False):
        for value in (record, record[: HEADER_BYTES + len(data) % 64]):
            _restored(_PLAIN, served, [own, data], key, signed(key, value))


# ── what a partition's changelog and commit say ──────────────────────────────────────────────────────────────────────

CHECKPOINT_RECORD = encode_checkpoint(Checkpoint("ticks", 100, "abc", START, 3, ((120, "def"),), 50))


def _reader() -> ChangelogReader:
    return ChangelogReader(MemoryTransport(MemoryBroker()), "state", [PARTITION])


def checkpoint(data: bytes) -> None:
    """A checkpoint, and the same bytes as the key and the value of any record."""
    reader = _reader()
    with contextlib.suppress(TopicUnfit):
        reader._sorted(_laid((CHECKPOINT, data)))
        assert (PARTITION in reader.checkpoints) != (PARTITION in reader.unusable)
        for found in reader.checkpoints.values():
            at = np.array([found.offset, found.life, found.at, found.log_time_ms or 0], dtype=np.int64)
            assert at[0] >= 0
            assert weights_at(found.history(), 1 << 61) == found.history()[-1][1] or len(found.history()) > 1
            assert history_of(None, found) == found.history()
            encode_checkpoint(found)
    key, _, value = data.partition(b"\n")
    for pair in ((key, value), (key, None), (b"s/" + key, value), (b"s/" + key, None), (b"layout/" + key, value)):
        if key != CHECKPOINT:
            piece = _reader()._sorted(_laid(pair))
            found_in = (piece.states, piece.deleted, piece.layouts, piece.meanings)
            assert sum(map(len, found_in)) + piece.ignored == 1


NOTES = [committed_with(100, 40, ((0, "abc"), (60, "def"))).metadata.encode(), b'{"replay_from":3}', b""]


def note(data: bytes) -> None:
    """The small string beside a committed offset."""
    known = Committed(100, data.decode(errors="surrogateescape"))
    replay, emit = starting_points(known, 20, 200, 20)
    assert 20 <= replay <= emit == 100
    history = history_of(known, Checkpoint("ticks", 90, "abc", None, 1))
    assert history
    assert all(isinstance(weights, str) and 0 <= offset < 1 << 62 for offset, weights in history)
    weights_at(history, 100)
    committed_with(120, replay, history)


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_SMALL = spec(channels=("a",), horizon=2, warm_up=2, series_max=4)


@functools.cache
def blob() -> bytes:
    return pack(network(_SMALL, trunk=2, hidden=2), WeightsMeta(gain=[0.1, 0.0]))


WEIGHTS_HEAD = len(MAGIC) + 1 + 32


def headed(body: bytes) -> bytes:
    """A body of weights behind a head of today with the right digest."""
    return MAGIC + bytes([WEIGHTS_VERSION]) + hashlib.sha256(body).digest() + body


def weights(data: bytes) -> None:
    """Weights as bytes: as they came, and behind a head with the right digest."""
    for candidate in (data, headed(data)):
        _built(candidate)


def _built(candidate: bytes) -> None:
    try:
        net, _ = build(candidate)
    except WeightsError as error:
        assert str(error)
        return
    engine = _engine(_SMALL, False)
    before = engine.model
    try:
        engine.load(net, "fuzzed")
    except ValueError:
        assert engine.model == before
        return
    feed(engine, cut(walk(12, ["x"], channels=1), 0, 12))
    engine.use(before)


# ── the models topic ─────────────────────────────────────────────────────────────────────────────────────────────────


def models_records(body: bytes = b"weights", model: str = "abc") -> bytes:
    """A publication in the form that `models` reads."""
    half = len(body) // 2
    manifest = Manifest(model, 2, len(body), hashlib.sha256(body).hexdigest(), {"loss": 1.0})
    records = [
        (f"weights/{model}/0".encode(), body[:half]),
        (f"weights/{model}/1".encode(), body[half:]),
        (
            f"manifest/{model}".encode(),
            json.dumps({f: getattr(manifest, f) for f in manifest.__struct_fields__}).encode(),
        ),
        (b"current", json.dumps({"id": model, "by": "gate", "at_ms": 1, "base": "", "refused": ["old"]}).encode()),
    ]
    return b"\n".join(key + b"=" + value for key, value in records)


@functools.cache
def _follower_transport() -> MemoryTransport:
    return MemoryTransport(MemoryBroker())


def models(data: bytes) -> None:
    """Records of the models topic, one a line, `key=value`; a line without `=` is a tombstone. Then a good one."""
    follower = ModelsFollower(_follower_transport(), "models")
    lines = data.split(b"\n")[:200]
    for offset, line in enumerate(lines):
        key, sign, value = line.partition(b"=")
        record = PackedRecord("models", 0, offset, 0, key, value if sign else None)
        told = follower.pointer
        ignored = sum(follower.ignored.values())
        follower._take([(0, [record])])
        if sum(follower.ignored.values()) > ignored:
            assert follower.pointer == told
        _consistent(follower)
    for model, found in follower._news():
        assert hashlib.sha256(found).hexdigest() == follower.manifests[model].sha256
    for offset, line in enumerate(models_records(b"the truth", "true-1").split(b"\n")):
        key, _, value = line.partition(b"=")
        follower._take([(0, [PackedRecord("models", 0, 1000 + offset, 0, key, value)])])
    assert follower.blob("true-1") == b"the truth"
    stands, told = follower.pointer, follower._told
    assert stands is not None
    if stands.id == "true-1":  # unless an operator's word stands
        assert follower._news() == ([("true-1", b"the truth")] if told != "true-1" else [])


def _consistent(follower: ModelsFollower) -> None:
    assert follower._held_bytes == sum(len(piece) for pieces in follower._pieces.values() for piece in pieces.values())
    assert follower._held_bytes <= BYTES_MAX
    assert len(follower._pieces) <= VERSIONS_MAX and len(follower.manifests) <= VERSIONS_MAX
    for model, manifest in follower.manifests.items():
        assert manifest.id == model and ID.fullmatch(model) and 0 <= manifest.pieces <= PIECES_MAX
        found = follower.blob(model)
        assert found is None or hashlib.sha256(found).hexdigest() == manifest.sha256
    pointer: Pointer | None = follower.pointer
    assert pointer is None or ID.fullmatch(pointer.id)


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────

CONFIGS = [
    b"kafka: {bootstrap_servers: localhost:9092}\ninput: ticks\nchannels: [temp, flow]\nstep: 1s\nhorizon: 12\n",
    b"input: t\nchannels: [a]\nstep: irregular\nhorizon: 2\nquantiles: [0.1, 0.9]\ncalendar: [1d]\ntrain: off\n"
    b"decode: {series: device.id, ts: time, ts_unit: s, values: {a: readings.a}, channel: null, value: null}\n"
    b"http: {port: 0}\nlog: {level: debug}\nkafka:\n  security_protocol: SASL_SSL\n  sasl_plain_username: u\n"
    b"  sasl_plain_password_file: /nowhere\nmodel: {cell: lstm, hidden: 8}\nlearn: {budget: 1s}\n",
    b"input: t\nchannels: [a]\nstep: 1h\nhorizon: 24\nexperts: [moves, stack]\nexperts_memory_max: 1GiB\n"
    b"season: {key: day_type, holidays: [2026-12-25, '2027-01-01']}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nchannels: *b\n? [c]\n: !!binary eA==\nd: 2026-11-23\ne: 0x1F\nf: 1_0\n<<: {g: .nan}\n",
]
_SMALLEST = CONFIGS[0]


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="streamrnn-fuzz-"))


def config(data: bytes) -> None:
    """A file of its own, a second file over a good one, and a value from the environment and from a flag."""
    first, second = _folder() / "first.yaml", _folder() / "second.yaml"
    first.write_bytes(_SMALLEST)
    second.write_bytes(data)
    text = data.decode(errors="replace").replace("\x00", "")
    for files, overrides, environment in (
        ([second], {}, {}),
        ([first, second], {}, {}),
        ([first], {}, {"STREAMRNN__LATENESS": text, "STREAMRNN__DECODE__VALUES": text}),
        ([first], {"kafka.client_id": text, "channels": text}, {}),
        ([first], {"season": text, "experts": text, "experts_memory_max": text}, {}),
        ([first], {"season": text, "step": "1h"}, {"STREAMRNN__EXPERTS": text}),
        ([first], {}, {"STREAMRNN__" + text[:40].upper(): "1"}),
    ):
        try:
            chosen = load(files, overrides, environment)
        except ConfigError as error:
            str(error).encode()
            continue
        stream = chosen.stream_spec()
        Decoder(stream, chosen.decode_spec())
        chosen.model_spec()
        chosen.topic_needs(1)
        with contextlib.suppress(ConfigError):
            chosen.http_token()
        shown = chosen.effective()
        json.dumps(shown, ensure_ascii=False).encode()
        assert (
            load([], {**shown, "kafka.sasl_plain_password": None, "kafka.ssl_password": None}, {}).stream_spec()
            == stream
        )


# ── all of them, with what they begin from ───────────────────────────────────────────────────────────────────────────


def _held_seeds() -> list[bytes]:
    _, _, good = _state(_HOLDING)
    count = int(np.frombuffer(good[:HEADER_BYTES], dtype=np.dtype(HEADER))[0]["_held"])
    assert count
    return [good[-count:]]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "codec": (codec, lambda: [bytes([i]) + record for i, record in enumerate(RECORDS * 3)]),
    "elements": (elements, lambda: [bytes([i]) + record for i, record in enumerate(MANY)]),
    "formats": (formats, lambda: [bytes([i]) + record for i, record in enumerate(FORMATS * 3)]),
    "schema": (
        schema,
        lambda: [json.dumps(_AVRO).encode() + b"\n" + FORMATS[0][5:], _descriptor().encode() + b"\n" + FORMATS[2][5:]],
    ),
    "state": (state, lambda: [_state(_PLAIN)[2], _state(_HOLDING)[2]]),
    "held": (held, _held_seeds),
    "layout": (layout, lambda: [_state(_PLAIN)[0], b'[["applied","<i8",[]]]']),
    "checkpoint": (checkpoint, lambda: [CHECKPOINT_RECORD, b"s/pump\nvalue"]),
    "note": (note, lambda: NOTES),
    "weights": (weights, lambda: [blob(), blob()[WEIGHTS_HEAD:]]),
    "models": (models, lambda: [models_records(), models_records(b"x", "b") + b"\nmanifest/b\ncurrent"]),
    "config": (config, lambda: CONFIGS),
}
