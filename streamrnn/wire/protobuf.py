"""Protobuf messages as plain objects, by a descriptor that comes from outside.

Google's own `protobuf` parses the bytes (bounded in depth, and a length never reaches beyond them); what turns its messages
into dicts is made once for each type. Fields are named as in the .proto file. A field that says whether it is there is left
out where it is not; one of proto3 that cannot say so has its default. `Timestamp` is an instant, wrappers are what they wrap,
`Decimal` is a double, enums are their names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

from streamrnn.wire.instants import Refused
from streamrnn.wire.paths import Micros

# Elements of repeated fields in one message, over all of them; types in one schema.
ELEMENTS_MAX, TYPES_MAX = 250_000, 2000
_INDEXES_MAX = 64
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


def available() -> bool:
    """Whether Google's package is installed."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        return False
    return True


def reader_of(text: str, references: Sequence[tuple[str, str]] = ()) -> Callable[[bytes, bytes], Any]:
    """Of base64 of a FileDescriptorProto, with those of the files that it imports, by their names. Raises ValueError.

    What is returned reads (datum with the message's place before it, or the place alone in a header) and raises Refused.
    """
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.message import DecodeError

    pool = descriptor_pool.DescriptorPool()
    _add_known(pool)
    try:
        for name, each in references:
            _add(pool, each, name)
        file = _add(pool, text, "streamrnn.record.proto")
    except (TypeError, ValueError, KeyError, DecodeError, RecursionError) as error:
        raise ValueError(f"its descriptor cannot be used: {str(error)[:120]}") from None
    roots = list(file.message_types_by_name.values())
    made: dict[tuple[int, ...], tuple[Any, Callable[[Any], Any]]] = {}
    converters = Converters()

    def parts(indexes: tuple[int, ...]) -> tuple[Any, Callable[[Any], Any]]:
        found = made.get(indexes)
        if found is None:
            within, at = roots, None
            for index in indexes:
                if not 0 <= index < len(within):
                    raise Refused("malformed", "the schema has no message at the place that the record names")
                at = within[index]
                within = list(at.nested_types)
            if at is None:
                raise Refused("malformed", "the record names no message of its schema")
            found = made[indexes] = message_factory.GetMessageClass(at), converters.of(at)
        return found

    def read(datum: bytes, more: bytes) -> Any:
        if more:
            indexes, _ = _indexes(more)
        else:
            indexes, at = _indexes(datum)
            datum = datum[at:]
        kind, converted = parts(indexes)
        return message_of(kind, converted, converters, datum)

    return read


def message_of(kind: Any, converted: Callable[[Any], Any], converters: Converters, datum: bytes) -> Any:
    """A message of a generated class as plain objects. Raises Refused."""
    from google.protobuf.message import DecodeError

    try:
        message = kind.FromString(datum)
    except (DecodeError, UnicodeDecodeError) as error:
        raise Refused("malformed", f"no Protobuf message of the schema: {str(error)[:120]}") from None
    converters.left = ELEMENTS_MAX
    try:
        return converted(message)
    except RecursionError:
        raise Refused("malformed", "the Protobuf message is nested too deep") from None


def _indexes(content: bytes) -> tuple[tuple[int, ...], int]:
    """(places of the message's type in its file, each within the one before, and where they end). Zigzag, as Confluent has it."""
    try:
        count, at = _zigzag(content, 0)
        if count == 0:
            return (0,), at
        if not 0 < count <= _INDEXES_MAX:
            raise Refused("malformed", "the place of a Protobuf message in its file that is none")
        found = []
        for _ in range(count):
            index, at = _zigzag(content, at)
            found.append(index)
        return tuple(found), at
    except IndexError:
        raise Refused("malformed", "the record ends within the place of its Protobuf message") from None


def _zigzag(content: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while shift < 35:
        byte = content[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return (found >> 1) ^ -(found & 1), at
        shift += 7
    raise Refused("malformed", "the place of a Protobuf message in its file that is none")


def _add(pool: Any, text: str, name: str) -> Any:
    from google.protobuf import descriptor_pb2

    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the registry gave no serialized descriptor") from None
    file = descriptor_pb2.FileDescriptorProto()
    file.ParseFromString(content)
    file.name = name
    try:
        return pool.FindFileByName(name)
    except KeyError:
        pass
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(name)


def _add_known(pool: Any) -> None:
    """The files that every schema may import."""
    from google.protobuf import (
        any_pb2,
        api_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        source_context_pb2,
        struct_pb2,
        timestamp_pb2,
        type_pb2,
        wrappers_pb2,
    )

    for each in (
        any_pb2, source_context_pb2, type_pb2, api_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2,
        timestamp_pb2, wrappers_pb2,
    ):  # fmt: skip
        pool.AddSerializedFile(each.DESCRIPTOR.serialized_pb)
    try:
        from confluent_kafka.schema_registry.confluent import meta_pb2
        from confluent_kafka.schema_registry.confluent.type import decimal_pb2
    except ImportError:
        return
    for each in (meta_pb2, decimal_pb2):
        pool.AddSerializedFile(each.DESCRIPTOR.serialized_pb)


class Converters:
    """Turns messages into plain objects, by their types. `left`: elements that one message may still have."""

    def __init__(self) -> None:
        self.left = ELEMENTS_MAX
        self._made: dict[str, Callable[[Any], Any]] = {}

    def of(self, descriptor: Any) -> Callable[[Any], Any]:
        name: str = descriptor.full_name
        if name in self._made:
            return self._made[name]
        if len(self._made) > TYPES_MAX:
            raise Refused("schema", f"a Protobuf schema of more than {TYPES_MAX} types")
        if name == "google.protobuf.Timestamp":
            return lambda at: Micros(at.seconds * 1_000_000 + at.nanos // 1000)
        if name == "google.protobuf.Duration":
            return lambda at: at.seconds + at.nanos / 1e9
        if name in _WRAPPERS:
            return lambda at: at.value
        if name == "confluent.type.Decimal":
            return _decimal
        fields: list[tuple[str, int, Any]] = []
        converted = self._made[name] = lambda at: self._message(at, fields)
        fields += [(field.name, *self._field(field)) for field in descriptor.fields]
        return converted

    def _field(self, field: Any) -> tuple[int, Any]:
        """(kind of field: 0 as it is, 1 only where it is there, 2 repeated, 3 a map; what converts one value, or None)."""
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            return 3, self._value(inner.fields_by_name["value"])
        one = self._value(field)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if repeated:
            return 2, one
        return (1 if field.has_presence else 0), one

    def _value(self, field: Any) -> Callable[[Any], Any] | None:
        if field.message_type is not None:
            return self._later(field.message_type)
        if field.enum_type is not None:
            names = {each.number: each.name for each in field.enum_type.values}
            return lambda number: names.get(number, number)
        return None

    def _later(self, descriptor: Any) -> Callable[[Any], Any]:
        return self.of(descriptor)

    def _message(self, message: Any, fields: Sequence[tuple[str, int, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, kind, one in fields:
            if kind == 1:
                if message.HasField(name):
                    value = getattr(message, name)
                    found[name] = value if one is None else one(value)
                continue
            value = getattr(message, name)
            if kind:
                self.left -= len(value)
                if self.left < 0:
                    raise Refused("too-large", f"more than {ELEMENTS_MAX} elements in a Protobuf message")
                if kind == 2:
                    found[name] = list(value) if one is None else [one(each) for each in value]
                else:
                    found[name] = {
                        key if key.__class__ is str else str(key): value[key] if one is None else one(value[key])
                        for key in value
                    }
            else:
                found[name] = value if one is None else one(value)
        return found


def _decimal(at: Any) -> float:
    if abs(at.scale) > 400:
        raise Refused("range", "a decimal of more digits than a number has")
    unscaled = int.from_bytes(at.value, "big", signed=True)
    try:
        return unscaled / 10**at.scale if at.scale >= 0 else float(unscaled * 10**-at.scale)
    except OverflowError:
        raise Refused("range", "a decimal that no double holds") from None
