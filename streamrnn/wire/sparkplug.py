"""Sparkplug B payloads as Protobuf, as the objects that their JSON has; and the names of their aliases.

Data messages name a metric by the alias that its edge node's birth certificate has given it, and say no data type. What births
have said is kept by partition, edge node and the offset of the birth: a record is read by the newest birth before it, whichever
was read last, so that a replay reads what was read. Who restarts takes that along (`carried`, `carry`).

Source: Eclipse Sparkplug 3.0, 6.4 (payloads) and 4 (topics): spBv1.0/GROUP/TYPE/EDGE[/DEVICE], as bridges hand it on in the key.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import msgspec

from streamrnn.records import Record
from streamrnn.wire.instants import Refused, short
from streamrnn.wire.paths import Mistyped
from streamrnn.wire.quirks import sparkplug as signed

# Births of an edge node that are kept; edge nodes and aliases of a partition; bytes of what a restart takes along.
BIRTHS_MAX, EDGES_MAX, ALIASES_MAX, CARRIED_MAX = 16, 10_000, 500_000, 512 * 1024
_UNPACKED_MAX = 64 * 1024 * 1024
_BOOLEAN = 11
_TOPIC = "spBv1.0"

# (name, data type) by alias.
Names = dict[int, tuple[str, int]]


def available() -> bool:
    """Whether Google's package is installed."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        return False
    return True


def payload_class() -> Any:
    """Of the fields that are read; others are passed over."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="sparkplug_b.proto", package="org.eclipse.tahu.protobuf", syntax="proto2"
    )
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for name, number, kind in (
        ("name", 1, kinds.TYPE_STRING), ("alias", 2, kinds.TYPE_UINT64), ("timestamp", 3, kinds.TYPE_UINT64),
        ("datatype", 4, kinds.TYPE_UINT32), ("is_null", 7, kinds.TYPE_BOOL),
        ("int_value", 10, kinds.TYPE_UINT32), ("long_value", 11, kinds.TYPE_UINT64), ("float_value", 12, kinds.TYPE_FLOAT),
        ("double_value", 13, kinds.TYPE_DOUBLE), ("boolean_value", 14, kinds.TYPE_BOOL), ("string_value", 15, kinds.TYPE_STRING),
    ):  # fmt: skip
        field = metric.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
        if number >= 10:
            field.oneof_index = 0
    payload.field.add(name="timestamp", number=1, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL)
    payload.field.add(
        name="metrics", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED,
        type_name=".org.eclipse.tahu.protobuf.Payload.Metric",
    )  # fmt: skip
    payload.field.add(name="seq", number=3, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("org.eclipse.tahu.protobuf.Payload"))


class SparkplugReader:
    """Reads payloads of one topic; holds what the births in them have said."""

    def __init__(self) -> None:
        from google.protobuf.message import DecodeError

        self._parse, self._error = payload_class().FromString, DecodeError
        # By partition and edge node: (offset of the birth, what is known from there on), oldest first.
        self._births: dict[int, dict[str, list[tuple[int, Names]]]] = {}
        self._held: dict[int, int] = {}  # aliases of a partition, over all of its births
        self.number: Callable[[Record], int] = attrgetter("partition")  # of its partition

    def document(self, payload: bytes, record: Record, most: int) -> dict[str, Any]:
        """`{"series", "timestamp", "metrics": [{"name", "timestamp", …Value}]}`; the series is GROUP/EDGE[/DEVICE], or the key
        where that is no topic of Sparkplug's. Raises Refused."""
        edge, kind, series = _place(record)
        try:
            message = self._parse(payload)
        except (self._error, UnicodeDecodeError) as error:
            raise Refused("malformed", f"no Sparkplug B payload: {str(error)[:120]}") from None
        if len(message.metrics) > most:
            raise Refused("too-large", f"more than {most} elements in a record (decode.elements_max)")
        found: dict[str, Any] = {"metrics": []}
        if series is not None:
            found["series"] = series
        if message.HasField("timestamp"):
            found["timestamp"] = message.timestamp
        defined: Names = {}
        known = self._known(record, edge)
        for metric in message.metrics:
            named = metric.HasField("name") and bool(metric.name)
            name, datatype = metric.name, metric.datatype if metric.HasField("datatype") else None
            if named and metric.HasField("alias"):
                defined[metric.alias] = (name, metric.datatype)
            elif not named:
                said = defined.get(metric.alias) or known.get(metric.alias) if metric.HasField("alias") else None
                if said is None:
                    found["metrics"].append(_unknown(metric, edge))
                    continue
                name, datatype = said[0], datatype if datatype is not None else said[1]
            found["metrics"].append(_metric(metric, name, datatype))
        if defined:
            fresh = kind == "NBIRTH" or (not kind and message.HasField("seq") and message.seq == 0)
            self._born(record, edge, defined if fresh else {**known, **defined})
        read: dict[str, Any] = signed(found, record)
        return read

    # ── births ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _known(self, record: Record, edge: str) -> Names:
        for offset, names in reversed(self._births.get(self.number(record), {}).get(edge, ())):
            if offset < record.offset:
                return names
        return {}

    def _born(self, record: Record, edge: str, names: Names) -> None:
        partition = self.number(record)
        edges = self._births.setdefault(partition, {})
        before = edges.pop(edge, [])
        births = [birth for birth in before if birth[0] != record.offset]
        births.append((record.offset, names))
        births.sort(key=lambda birth: birth[0])
        edges[edge] = births[-BIRTHS_MAX:]  # at the end: the first is the one that was born longest ago
        held = self._held.get(partition, 0) + _aliases(edges[edge]) - _aliases(before)
        while len(edges) > EDGES_MAX or (len(edges) > 1 and held > ALIASES_MAX):
            held -= _aliases(edges.pop(next(iter(edges))))
        self._held[partition] = held

    def carried(self, partition: int, oldest: int) -> bytes:
        """What is needed to read this partition from any offset from `oldest` on."""
        found = []
        for edge, births in self._births.get(partition, {}).items():
            before = [birth for birth in births if birth[0] < oldest][-1:]
            births[:] = [*before, *(birth for birth in births if birth[0] >= oldest)]
            found += [(edge, offset, names) for offset, names in births]
        self._held[partition] = sum(len(names) for _, _, names in found)
        while found:
            packed = zlib.compress(msgspec.msgpack.encode(found), 1)
            if len(packed) <= CARRIED_MAX:
                return packed
            found = found[(len(found) + 1) // 2 :]
        return b""

    def carry(self, partition: int, content: bytes) -> None:
        """Takes up what was carried; what is no such thing is nothing."""
        self.forget(partition)
        if not content:
            return
        try:
            defined = _births.decode(zlib.decompressobj().decompress(content, _UNPACKED_MAX))
        except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        edges = self._births.setdefault(partition, {})
        for edge, offset, names in defined:
            edges.setdefault(edge, []).append((offset, names))
        for births in edges.values():
            births.sort(key=lambda birth: birth[0])
        self._held[partition] = sum(len(names) for _, _, names in defined)

    def forget(self, partition: int) -> None:
        self._births.pop(partition, None)
        self._held.pop(partition, None)


_births = msgspec.msgpack.Decoder(list[tuple[str, int, Names]])


def _aliases(births: Iterable[tuple[int, Names]]) -> int:
    return sum(len(names) for _, names in births)


def _place(record: Record) -> tuple[str, str, str | None]:
    """(edge node, kind of message or "", series) by the record's key. Raises Refused."""
    if record.key is None:
        return "", "", None
    try:
        key = bytes(record.key).decode()
    except (UnicodeDecodeError, TypeError, ValueError):
        raise Refused("range", "the record key is not UTF-8") from None
    parts = key.split("/")
    if parts[0] == _TOPIC and len(parts) in (4, 5):
        return f"{parts[1]}/{parts[3]}", parts[2], "/".join([parts[1], *parts[3:]])
    return key, "", key


def _unknown(metric: Any, edge: str) -> Mistyped:
    if not metric.HasField("alias"):
        return Mistyped("a metric without a name and without an alias", "malformed")
    return Mistyped(
        f"the alias {short(metric.alias)} of {short(edge)}, whose birth certificate has not been read", "schema"
    )


def _metric(metric: Any, name: str, datatype: int | None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name}
    if metric.HasField("timestamp"):
        made["timestamp"] = metric.timestamp
    if datatype:
        made["datatype"] = datatype
    if metric.is_null:
        made["isNull"] = True
        return made
    which = metric.WhichOneof("value")
    if which == "float_value":
        made["floatValue"] = _as_written(metric.float_value)
    elif which == "boolean_value":
        made["intValue"], made["datatype"] = int(metric.boolean_value), _BOOLEAN
    elif which is not None:
        made[_FIELDS[which]] = getattr(metric, which)
    return made


_FIELDS = {
    "int_value": "intValue",
    "long_value": "longValue",
    "double_value": "doubleValue",
    "string_value": "stringValue",
}
_F4 = struct.Struct("<f")
_NORMAL = 2.0**-126  # smaller ones have fewer digits


def _as_written(value: float) -> float:
    """The double of the fewest digits that is this float: 21.4, and not 21.399999618530273."""
    if value != value or value in (float("inf"), float("-inf")):
        return value
    packed = _F4.pack(value)
    for digits in (6, 7, 8) if abs(value) > _NORMAL else range(1, 9):
        found = float(f"{value:.{digits}g}")
        try:
            if _F4.pack(found) == packed:
                return found
        except OverflowError:
            continue
    return float(f"{value:.9g}")
