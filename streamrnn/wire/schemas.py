"""Records that name the schema they were written with: the frame around them, and what reads each schema.

Source: Confluent's wire format. A zero and the schema's number in four bytes stand before the datum, or a one and the 16 bytes
of its GUID; newer serializers write the same into a header (`__value_schema_id`, `__key_schema_id`) and leave the datum bare.
In Protobuf the place of the message's type in its file follows the id.

Nothing here asks anybody: who decodes asks `missing` first, has the registry asked and hands over what it said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from streamrnn.records import Record
from streamrnn.wire import avro, otlp, protobuf, sparkplug
from streamrnn.wire.instants import UNREADABLE, Refused, short
from streamrnn.wire.mapping import Format
from streamrnn.wire.paths import ABSENT

# A number, or the 16 bytes of a GUID.
SchemaId = int | bytes
Kind = Literal["AVRO", "JSON", "PROTOBUF"]
KIND_OF: Mapping[Format, Kind] = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}
VALUE_HEADER, KEY_HEADER = "__value_schema_id", "__key_schema_id"
# Schemas that are kept; a topic has some tens, and ids that somebody made up must not fill the memory.
KEPT_MAX = 4096

FRAME_BYTES, _GUID_FRAME = 5, 17
_FRAMES = (b"\x00", b"\x01")
_object = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Definition:
    """What a registry says of an id. `references`: the texts of others that it uses, by the names that it uses for them, each
    after those that it uses itself. Protobuf's texts are base64 of their descriptors."""

    kind: str
    text: str
    references: Sequence[tuple[str, str]] = ()


def name_of(id: SchemaId) -> str:
    return str(id) if isinstance(id, int) else id.hex()


def available(format: Format) -> str:
    """What has to be installed first; "" where all is there."""
    if format == "avro" and not avro.available():
        return "pip install 'streamrnn[avro]'"
    needed = {"protobuf": protobuf.available, "otlp-proto": otlp.available, "sparkplug": sparkplug.available}
    return "pip install 'streamrnn[protobuf]'" if format in needed and not needed[format]() else ""


def taken_apart(
    payload: bytes, headers: Sequence[tuple[str, bytes]], header: str
) -> tuple[SchemaId | None, bytes, bytes]:
    """(id or None, the datum, what stands in the header after the id). Without an id the datum is all of it."""
    for name, content in headers:
        if name == header and isinstance(content, bytes):
            found, rest = _id(content)
            if found is not None:
                return found, payload, rest
    found, rest = _id(payload)
    return found, (rest if found is not None else payload), b""


def framed(id: int) -> bytes:
    """What stands before a datum that was written by the schema of this number."""
    return b"\x00" + id.to_bytes(FRAME_BYTES - 1, "big")


def unframed(payload: bytes) -> bytes:
    """The datum of a payload with a frame or without one, of a format that never begins as a frame does."""
    return _id(payload)[1] if payload[:1] in _FRAMES else payload


def _id(content: bytes) -> tuple[SchemaId | None, bytes]:
    if content[:1] == b"\x00" and len(content) >= FRAME_BYTES:
        return int.from_bytes(content[1:FRAME_BYTES], "big"), content[FRAME_BYTES:]
    if content[:1] == b"\x01" and len(content) >= _GUID_FRAME:
        return content[1:_GUID_FRAME], content[_GUID_FRAME:]
    return None, content


# Of (datum, what stands in the header after the id).
_Read = Callable[[bytes, bytes], Any]


class Schemas:
    """What reads each schema that is known, by its id. One topic's; `keys`: the records' keys are read, too."""

    def __init__(self, format: Format, keys: bool) -> None:
        self.kind = KIND_OF[format]
        self.asks = self.kind != "JSON"  # JSON needs no schema to be read
        self._keys = keys
        self._readers: dict[SchemaId, tuple[str, _Read]] = {}
        self._definitions: dict[SchemaId, Definition] = {}

    def missing(self, records: Sequence[Record]) -> set[SchemaId]:
        """Ids that these records name, and of which nothing is known."""
        found: set[SchemaId] = set()
        if not self.asks:
            return found
        known = self._readers
        for record in records:
            value, key = record.value, record.key
            if value is not None:
                if not record.headers and value[:1] == b"\x00" and len(value) >= FRAME_BYTES:
                    id: SchemaId | None = int.from_bytes(value[1:FRAME_BYTES], "big")
                else:
                    id = taken_apart(value, record.headers, VALUE_HEADER)[0]
                if id is not None and id not in known:
                    found.add(id)
            if self._keys and key.__class__ is bytes:
                id = taken_apart(key, record.headers, KEY_HEADER)[0]
                if id is not None and id not in known:
                    found.add(id)
        return found

    def settle(self) -> Format | None:
        """The format that most of the known schemas are of, which is read from now on; None where there is none."""
        kinds = [kind for kind, _ in self._readers.values() if kind in KIND_OF.values()]
        if not kinds:
            return None
        self.kind = max(KIND_OF.values(), key=kinds.count)
        return next(format for format, kind in KIND_OF.items() if kind == self.kind)

    def share(self, other: Schemas) -> None:
        """What the other knows is known here, too."""
        self._definitions = other._definitions
        self._readers = other._readers

    def put(self, id: SchemaId, definition: Definition) -> None:
        """What reads records of this id from now on; a definition that cannot be used refuses them."""
        if len(self._readers) >= KEPT_MAX:
            self._readers.clear()
            self._definitions.clear()
        self._definitions.pop(id, None)
        try:
            self._readers[id] = definition.kind, _reader(definition)
            self._definitions[id] = definition
        except ValueError as error:
            detail = f"the schema {name_of(id)} of the registry: {error}"
            self._readers[id] = definition.kind, _refusing(detail)

    def refuse(self, id: SchemaId, why: str) -> None:
        """Records of this id are refused until it is forgotten."""
        if len(self._readers) >= KEPT_MAX:
            self._readers.clear()
            self._definitions.clear()
        self._definitions.pop(id, None)
        self._readers[id] = self.kind, _refusing(why)

    def forget(self, id: SchemaId) -> None:
        self._readers.pop(id, None)
        self._definitions.pop(id, None)

    def definition(self, id: SchemaId) -> Definition | None:
        """Of an Avro schema that is known."""
        found = self._definitions.get(id)
        return found if found is not None and found.kind == "AVRO" else None

    def document(self, payload: bytes, record: Record) -> Any:
        """A record's value as plain objects. Raises Refused."""
        id, datum, more = taken_apart(payload, record.headers, VALUE_HEADER)
        if id is None:
            raise Refused(
                "malformed", f"no schema id: neither a zero and four bytes before the datum nor a header {VALUE_HEADER}"
            )
        kind, read = self._known(id)
        if kind != self.kind:
            raise Refused("schema", f"the schema {name_of(id)} is {short(kind)}, and decode.format says {self.kind}")
        return read(datum, more)

    def key(self, record: Record) -> Any:
        """What a key with a frame holds, of whatever kind; ABSENT where it has none. Raises Refused."""
        content = record.key
        if content.__class__ is not bytes:
            return ABSENT
        id, datum, more = taken_apart(content, record.headers, KEY_HEADER)
        if id is None:
            return ABSENT
        if self.kind == "JSON":
            return _json(datum, more)
        return self._known(id)[1](datum, more)

    def _known(self, id: SchemaId) -> tuple[str, _Read]:
        found = self._readers.get(id)
        if found is None:
            raise Refused("schema", f"the schema {name_of(id)} is not known (registry)")
        return found


def _refusing(detail: str) -> _Read:
    def read(datum: bytes, more: bytes) -> Any:
        raise Refused("schema", detail)

    return read


def _json(datum: bytes, more: bytes) -> Any:
    try:
        return _object.decode(datum)
    except UNREADABLE as error:
        raise Refused("malformed", str(error)) from None


def _reader(definition: Definition) -> _Read:
    """Raises ValueError."""
    if definition.kind == "AVRO":
        read = avro.reader_of(definition.text, [text for _, text in definition.references])
        return lambda datum, more: read(datum)
    if definition.kind == "PROTOBUF":
        return protobuf.reader_of(definition.text, definition.references)
    if definition.kind == "JSON":
        return _json
    raise ValueError(f"it is of the kind {short(definition.kind)}, which is not read")
