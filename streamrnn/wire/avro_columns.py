"""Avro records of one tick each, many at once: a schema becomes a program that compiled code runs over all of them.

For what is written most: a record of fields, and of records of fields, in which a name, a time and numbers stand at keys of their
own. Whatever else there is in a schema or in a record, `General` reads that record, and says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrnn.kernels import avro as compiled
from streamrnn.records import Record, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.wire import avro
from streamrnn.wire.instants import NS
from streamrnn.wire.mapping import SERIES, TS, DecodeSpec
from streamrnn.wire.paths import Key, filled_in, parse_path
from streamrnn.wire.schemas import VALUE_HEADER, SchemaId, Schemas

NAMES_MAX = 16_384
_OPS_MAX, _DEPTH_MAX = 5000, 30
_FRAME_BYTES = 5
# (multiplier, divisor) to microseconds of Avro's own times; local ones are for the other reader.
_TIMES = {"timestamp-millis": (1000, 1), "timestamp-micros": (1, 1), "timestamp-nanos": (1, 1000)}

_Path = tuple[str, ...]


def _is_beside_the_point(header: Any) -> bool:
    """No schema's id, and nothing of a CloudEvent."""
    return isinstance(header, str) and header != VALUE_HEADER and header[:3].lower() not in ("ce_", "con")


class _NotPlain(Exception):
    """A schema, or a configuration, that is for the other reader."""


class AvroColumns:
    """Reads the records of one configuration; None of them where it is not for this."""

    def __init__(self, spec: StreamSpec, decode: DecodeSpec, schemas: Schemas) -> None:
        """Raises ValueError where the configuration is not for this."""
        self._spec, self._decode, self._schemas = spec, decode, schemas
        try:
            self._wanted = _wanted(spec, decode)
        except _NotPlain as error:
            raise ValueError(str(error)) from None
        unit = NS[decode.ts_unit]
        self._unit = (unit // 1000, 1) if unit >= 1000 else (1, 1000 // unit)
        self._programs: dict[SchemaId, tuple[int, Any, Any] | None] = {}
        self._names: dict[bytes, str] = {}

    def read(self, records: Sequence[Record]) -> TickBatch | None:
        """All of these as ticks; None where one of them is for the other reader."""
        count, most = len(records), self._decode.record_bytes_max
        payloads: list[bytes] = []
        by_schema: dict[bytes, list[int]] = {}
        for row, record in enumerate(records):
            payload = record.value
            if payload is None or payload[:1] != b"\x00" or not _FRAME_BYTES < len(payload) <= most:
                return None
            if record.headers and not all(_is_beside_the_point(name) for name, _ in record.headers):
                return None
            payloads.append(payload)
            head = payload[1:_FRAME_BYTES]
            of = by_schema.get(head)
            if of is None:
                of = by_schema[head] = []
            of.append(row)
        if not count:
            return None
        joined = b"".join(payloads)
        buffer = np.frombuffer(joined, np.uint8)
        ends = np.cumsum(np.fromiter(map(len, payloads), np.int64, count))
        begins = np.empty(count, np.int64)
        begins[0], begins[1:] = 0, ends[:-1]
        begins += _FRAME_BYTES
        values = np.full((count, len(self._spec.channels)), np.nan)
        times, places, fine = np.zeros(count, np.int64), np.zeros((count, 2), np.int64), np.zeros(count, np.bool_)
        for head, of in by_schema.items():
            program = self._program(int.from_bytes(head, "big"))
            if program is None:
                return None
            rows = np.array(of, np.int64)
            compiled.read_avro(
                buffer,
                begins[rows],
                ends[rows],
                rows,
                *program,
                self._decode.value_abs_max,
                values,
                times,
                places,
                fine,
            )
        if not fine.all():
            return None
        series, known = [], self._names
        for begin, end in places.tolist():
            raw = joined[begin:end]
            name = known.get(raw)
            if name is None:
                name = self._name(raw)
                if name is None:
                    return None
            series.append(name)
        return TickBatch(
            records=records,
            partition=np.empty(0, np.int32),  # whoever asks says it
            offset=np.array([record.offset for record in records], np.int64),
            record_ts_ms=np.array([record.timestamp for record in records], np.int64),
            series=series,
            ts_us=times,
            values=values,
            channel=np.full(count, -1, np.int16),
        )

    def _name(self, raw: bytes) -> str | None:
        if not (raw.isascii() and 0 < len(raw) <= self._decode.series_bytes_max):
            return None
        name = raw.decode()
        if not name.isprintable():
            return None
        if len(self._names) >= NAMES_MAX:
            self._names.clear()
        self._names[raw] = name
        return name

    def _program(self, id: SchemaId) -> tuple[Any, Any] | None:
        definition = self._schemas.definition(id)
        if definition is None:
            return None
        found = self._programs.get(id)
        if found is None or found[0] != hash(definition.text):
            try:
                made = _Program(self._wanted, self._unit).of(
                    definition.text, [text for _, text in definition.references]
                )
            except (_NotPlain, ValueError):
                made = (None, None)
            found = self._programs[id] = (hash(definition.text), *made)
        return (found[1], found[2]) if found[1] is not None else None


def warm_up_kernels() -> None:
    """Loads the compiled code, or compiles it at the very first start."""
    ops, jumps = np.zeros((1, 4), np.int64), np.zeros(1, np.int64)
    one, places = np.zeros(1, np.int64), np.zeros((1, 2), np.int64)
    compiled.read_avro(
        np.frombuffer(b"\x00", np.uint8), one, one, one, ops, jumps, 1.0, np.zeros((1, 1)), one.copy(), places,
        np.zeros(1, np.bool_),
    )  # fmt: skip


def _wanted(spec: StreamSpec, decode: DecodeSpec) -> dict[_Path, int]:
    """Where to, by path. Raises _NotPlain."""
    if (
        decode.format != "avro" or decode.each is not None or decode.where is not None or decode.unwrap is not None
        or decode.quirk is not None or decode.leading != "refuse"
    ):  # fmt: skip
        raise _NotPlain("more than one tick at keys of its own")
    found: dict[_Path, int] = {}

    def put(text: Any, to: int) -> None:
        if not isinstance(text, str) or text.endswith("?") or not parse_path(text).plain:
            raise _NotPlain("a path that is more than keys")
        path = tuple(step.name for step in parse_path(text).steps if isinstance(step, Key))
        if found.setdefault(path, to) != to:
            raise _NotPlain("two fields at one path")

    put(decode.series if decode.series is not None else SERIES, compiled.NAME)
    put(decode.ts if decode.ts is not None else TS, compiled.TIME)
    values = decode.values if decode.values is not None else "values.*"
    for channel, name in enumerate(spec.channels):
        if isinstance(values, str):
            put(filled_in(parse_path(values), name).written(), compiled.CHANNEL + channel)
        else:
            text = values.get(name)
            put(text if text is not None else None, compiled.CHANNEL + channel)
    return found


class _Program:
    def __init__(self, wanted: Mapping[_Path, int], unit: tuple[int, int]) -> None:
        self._wanted, self._unit = wanted, unit
        self._ancestors = {path[:at] for path in wanted for at in range(len(path))}
        self._ops: list[list[int]] = []
        self._jumps: list[int] = []
        self._names: dict[str, Any] = {}

    def of(self, text: str, references: Sequence[str]) -> tuple[Any, Any]:
        """(operations, jumps). Raises _NotPlain, ValueError."""
        schema, self._names = avro.parsed(text, references)
        self._emit(schema, (), True, 0)
        self._op(compiled.END)
        return np.array(self._ops, np.int64), np.array(self._jumps or [0], np.int64)

    def _op(self, code: int, to: int = compiled.NOWHERE, one: int = 0, two: int = 0) -> int:
        if len(self._ops) >= _OPS_MAX:
            raise _NotPlain("a schema of many fields")
        self._ops.append([code, to, one, two])
        return len(self._ops) - 1

    def _emit(self, schema: Any, path: _Path, way: bool, depth: int) -> None:
        """`way`: the path may lead to something that is wanted."""
        if depth > _DEPTH_MAX:
            raise _NotPlain("a schema that is nested deep, or refers to itself")
        if isinstance(schema, str):
            if schema in self._names:
                self._emit(self._names[schema], path, way, depth + 1)
                return
            schema = {"type": schema}
        if isinstance(schema, list):
            self._union(schema, path, way, depth)
            return
        kind = schema["type"]
        to = self._wanted.get(path, compiled.NOWHERE) if way else compiled.NOWHERE
        if kind == "record":
            if to != compiled.NOWHERE:
                raise _NotPlain("a record where a value is wanted")
            for each in schema["fields"]:
                self._emit(each["type"], (*path, each["name"]), way, depth + 1)
        elif isinstance(kind, dict | list):
            self._emit(kind, path, way, depth + 1)
        else:
            self._leaf(schema, kind, path, to, way)

    def _leaf(self, schema: Any, kind: str, path: _Path, to: int, way: bool) -> None:
        logical = schema.get("logicalType")
        if way and path in self._ancestors and kind != "null":
            raise _NotPlain("no record on the way to what is wanted")
        if kind in ("int", "long"):
            one = two = 0
            if to == compiled.TIME:
                if logical in _TIMES and kind == "long":
                    one, two = _TIMES[logical]
                elif logical is None:
                    one, two = self._unit
                else:
                    raise _NotPlain("a local time")
            elif to != compiled.NOWHERE and (to == compiled.NAME or logical is not None):
                raise _NotPlain("a name that is a number, or a time where a number is wanted")
            self._op(compiled.LONG, to, one, two)
        elif kind in ("float", "double"):
            if to in (compiled.NAME, compiled.TIME):
                raise _NotPlain("a name or a time that is a double")
            self._op(compiled.FLOAT if kind == "float" else compiled.DOUBLE, to)
        elif kind == "string":
            if to not in (compiled.NAME, compiled.NOWHERE):
                raise _NotPlain("a text where a number is wanted")
            self._op(compiled.BYTES, to)
        elif kind == "null":
            self._op(compiled.NULL, to)
        elif to != compiled.NOWHERE:
            raise _NotPlain("another type than a name, a time or a number")
        elif kind == "boolean":
            self._op(compiled.BOOLEAN)
        elif kind == "bytes":
            self._op(compiled.BYTES)
        elif kind == "enum":
            self._op(compiled.LONG)
        elif kind == "fixed":
            self._op(compiled.FIXED, compiled.NOWHERE, int(schema["size"]))
        else:
            raise _NotPlain("arrays and maps")

    def _union(self, branches: Sequence[Any], path: _Path, way: bool, depth: int) -> None:
        if len(branches) > 60:
            raise _NotPlain("a union of many types")
        self._op(compiled.UNION, len(branches), len(self._jumps))
        table = len(self._jumps)
        self._jumps += [0] * len(branches)
        ends = []
        for number, branch in enumerate(branches):
            self._jumps[table + number] = len(self._ops)
            self._emit(branch, path, way, depth + 1)
            ends.append(self._op(compiled.GO))
        for end in ends:
            self._ops[end][1] = len(self._ops)
