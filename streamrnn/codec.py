"""Bytes in, a columnar batch of ticks out; what cannot be read comes back as a value with its reason.

Nothing here raises, whatever the bytes: a record ends in the batch or in the list of refusals, once, and its
neighbours are not touched by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from streamrnn.mapping import ABSENT, DecodeSpec, Shape, TsUnit, shape_of
from streamrnn.records import Reason, Record, Rejected, TickBatch
from streamrnn.spec import StreamSpec

__all__ = ["DETAIL_CHARS_MAX", "DecodeSpec", "Decoder", "dead_letter"]

# A refusal's detail goes into a header and into logs: it names the fault, it does not repeat the payload.
DETAIL_CHARS_MAX = 200

# Beyond this an event time in microseconds could overflow 64 bits once a horizon is added. Anything below is a number that
# the engine can compare with the record's own time.
TS_MS_MAX = (1 << 62) // 1000

HEADER_REASON, HEADER_DETAIL, HEADER_SOURCE = "streamrnn-reason", "streamrnn-detail", "streamrnn-source"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_MULTIPLY: dict[TsUnit, int] = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}

# What a JSON decoder can raise on hostile bytes: syntax and type errors, bad UTF-8, an ignored field nested too deep.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Characters a series name may not have: controls, line separators, and the marks that reorder text in a log.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_NOT_A_NUMBER = re.compile(rb"(?<![\w\"])(?:nan|inf)", re.IGNORECASE)
_BYTE_AT = re.compile(r"\(byte (\d+)\)")
# msgspec calls a lone surrogate that ends the text a truncation or a short escape, so both are looked at again.
_SURROGATE_TROUBLE = re.compile("surrogate|hex escape|truncated")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL)


class _Refused(Exception):
    """Carries a refusal from where it is found to the loop that collects it; never leaves this file."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


# A decoded row, then the series name and the event time (RFC 3339) that its envelope offers where the row has none.
_Text = str | bytes | None
_Row = tuple[Any, _Text, _Text]
_Strategy = Callable[[bytes, Sequence[tuple[str, bytes]]], _Row]


def _strategy(shape: Shape) -> _Strategy:
    """How the bytes of one record become a row of `shape`. The one place that knows the format of the topic.

    JSON, bare or in a CloudEvent. Another format (Avro behind a schema registry) is another function of the same type.
    """
    plain = msgspec.json.Decoder(shape.root)
    envelope = msgspec.json.Decoder(_envelope(shape))

    def row(value: bytes, headers: Sequence[tuple[str, bytes]]) -> _Row:
        if not headers:
            return plain.decode(value), None, None
        structured, subject, time = _cloud_event(headers)
        if not structured:
            return plain.decode(value), subject, time
        event: Any = envelope.decode(value)
        payload = event.data if event.data_base64 is None else plain.decode(event.data_base64)
        if payload is None:
            raise _Refused("no-values", "the CloudEvent has no data")
        return payload, event.subject or event.partitionkey, event.time

    return row


def _envelope(shape: Shape) -> type[msgspec.Struct]:
    """A structured CloudEvent (JSON event format 1.0.2) around a row."""
    text = str | None
    return msgspec.defstruct(
        "CloudEvent",
        [
            ("subject", text, None),
            ("partitionkey", text, None),
            ("time", text, None),
            ("data", shape.root | None, None),
            ("data_base64", bytes | None, None),
        ],
        frozen=True,
        gc=False,
    )


def _cloud_event(headers: Sequence[tuple[str, bytes]]) -> tuple[bool, bytes | None, bytes | None]:
    """(structured?, series, time) as far as the headers say it (CloudEvents Kafka protocol binding 1.0.2).

    Headers of other systems are left alone: without `ce_specversion` no `ce_` header means anything.
    """
    found: dict[object, bytes] = {}
    for name, content in headers:
        if isinstance(content, bytes) and isinstance(name, str):
            found[name.lower()] = content
    kind = found.get("content-type", b"").split(b";", 1)[0].strip().lower()
    if kind == b"application/cloudevents+json":
        return True, None, None
    if "ce_specversion" not in found:
        return False, None, None
    return False, found.get("ce_subject") or found.get("ce_partitionkey"), found.get("ce_time")


class Decoder:
    """Decodes records of one stream. Holds no state between calls, so a replay decodes the same."""

    def __init__(self, spec: StreamSpec, decode: DecodeSpec | None = None) -> None:
        self.spec = spec
        self.decode_spec = decode or DecodeSpec()
        self._shape = shape_of(spec, self.decode_spec)
        self._row = _strategy(self._shape)
        self._channel_index = {name: index for index, name in enumerate(spec.channels)}
        self._blank = (ABSENT,) * len(spec.channels)

    def decode(self, records: Sequence[Record]) -> tuple[TickBatch, list[Rejected]]:
        """The readable records as a batch, the others with their reasons; both in the order of `records`."""
        accepted: list[Record] = []
        series: list[str] = []
        ts_ms: list[int] = []
        finer: list[tuple[int, int]] = []  # (row, microseconds) of event times with a fraction of a millisecond
        rows: list[tuple[float | None, ...]] = []
        long: list[tuple[int, int, float | None]] = []  # (row, channel, value) of the long records
        rejected: list[Rejected] = []

        bytes_max = self.decode_spec.record_bytes_max
        name_max = self.decode_spec.series_bytes_max
        ts_min = self.decode_spec.ts_min_ms
        whole_ms = self.decode_spec.ts_unit == "ms"
        row_of, head, body, blank = self._row, self._shape.head, self._shape.body, self._blank

        for record in records:
            try:
                payload = record.value
                if payload is None:
                    raise _Refused("tombstone", "the record has no value")
                if len(payload) > bytes_max:
                    raise _Refused("too-large", f"{len(payload)} bytes, at most {bytes_max} are read")
                row, fallback_name, fallback_ts = row_of(payload, record.headers)
                try:
                    name, ts, channel, value = head(row)
                    values = body(row)
                except AttributeError:  # an object on the way to a field is null
                    name, ts, channel, value = self._shape.head_sparse(row)
                    values = self._shape.body_sparse(row)

                if name is None:
                    name = _name_outside(fallback_name or record.key)
                if not (name.isascii() and name.isprintable() and 0 < len(name) <= name_max):
                    _check_name(name, name_max)

                ts_us = 0
                if not (whole_ms and ts.__class__ is int):
                    ts_us = self._instant_us(ts, fallback_ts, record)
                    ts = ts_us // 1000
                if not ts_min <= ts <= TS_MS_MAX:
                    raise _Refused("timestamp", f"{_short(ts)} ms is before {ts_min} or beyond 64 bits")

                # blank's items are the schema's own defaults: equal only by identity, so only if no field was there.
                if values == blank:
                    if channel is None:
                        raise _Refused("no-values", "no configured channel in the record")
                    long.append((len(rows), self._long_channel(channel, value), value))
            except _Refused as refusal:
                rejected.append(Rejected(record, refusal.reason, refusal.detail[:DETAIL_CHARS_MAX]))
            except _UNREADABLE as error:
                reason, detail = self._classify(record, error)
                rejected.append(Rejected(record, reason, detail[:DETAIL_CHARS_MAX]))
            else:
                if ts_us % 1000:
                    finer.append((len(rows), ts_us))
                accepted.append(record)
                series.append(name)
                ts_ms.append(ts)
                rows.append(values)

        count, width = len(rows), len(blank)
        matrix = np.fromiter(chain.from_iterable(rows), np.float64, count * width).reshape(count, width)
        channels = np.full(count, -1, np.int16)
        for index, channel_index, value in long:
            channels[index] = channel_index
            matrix[index, channel_index] = np.nan if value is None else value
        ts_us_of = np.array(ts_ms, np.int64) * 1000
        for index, exact_us in finer:
            ts_us_of[index] = exact_us
        batch = TickBatch(
            records=accepted,
            partition=np.array([record.partition for record in accepted], np.int32),
            offset=np.array([record.offset for record in accepted], np.int64),
            record_ts_ms=np.array([record.timestamp for record in accepted], np.int64),
            series=series,
            ts_us=ts_us_of,
            values=matrix,
            channel=channels,
        )
        return batch, rejected

    def _long_channel(self, name: str, value: float | None) -> int:
        index = self._channel_index.get(name)
        if index is None:
            raise _Refused("unknown-channel", f"{_short(name)} is not one of the configured channels")
        if value is ABSENT:
            raise _Refused("no-values", f"a long record without the field {self.decode_spec.value!r}")
        return index

    def _instant_us(self, ts: object, fallback: _Text, record: Record) -> int:
        """Event time in microseconds where `ts` is not plainly an int of milliseconds. Finer units are rounded down."""
        if ts is None and fallback:
            try:
                text = fallback if isinstance(fallback, str) else fallback.decode()
                ts = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
            except (msgspec.ValidationError, UnicodeDecodeError):
                raise _Refused("timestamp", "the CloudEvent's time is not RFC 3339") from None
        if ts is None:
            if record.timestamp < 0:
                raise _Refused("timestamp", "neither the record nor its value has a timestamp")
            return record.timestamp * 1000
        if isinstance(ts, datetime):
            return (ts - _EPOCH) // _US
        if isinstance(ts, float):
            # Seconds as a double are exact to a quarter of a microsecond in this century.
            return round(ts * 1e6)
        unit = self.decode_spec.ts_unit
        us = int(ts) * _MULTIPLY[unit]  # type: ignore[call-overload]
        return us // 1000 if unit == "ns" else us  # type: ignore[no-any-return]

    def _classify(self, record: Record, error: Exception) -> tuple[Reason, str]:
        """Reason and detail for what the JSON decoder raised. Only refused records pay for the care taken here."""
        if isinstance(error, RecursionError):
            return "malformed", "nested too deep"
        if isinstance(error, UnicodeDecodeError):
            return "malformed", "a text that is not UTF-8"
        message = str(error)
        what, _, path = message.partition(" - at `$")
        if isinstance(error, msgspec.ValidationError):
            if path.rstrip("`") in (f".{self._shape.ts_path}", f".data.{self._shape.ts_path}"):
                return "timestamp", message
            if "out of range" in what or "` <= " in what or "` >= " in what:
                return "range", message
            return ("type" if what.startswith("Expected ") else "malformed"), message
        # Python's json module writes NaN, and JavaScript can cut a character in two: these are worth a word of help.
        payload = record.value or b""
        at = _BYTE_AT.search(message)
        # The place that is named lies up to four bytes behind the literal's beginning (`nan` is taken for a `null`).
        if at is not None and _NOT_A_NUMBER.search(payload, max(0, int(at[1]) - 4), int(at[1]) + 3):
            return "range", f"{message}: NaN and Infinity are not JSON, send null"
        if _SURROGATE_TROUBLE.search(message) and _LONE_SURROGATE.search(payload):
            return "range", f"{message}: a lone surrogate is not a character"
        return "malformed", message


def _name_outside(name: object) -> str:
    """A series name from the record's key or from its envelope."""
    if name is None:
        raise _Refused("no-series", "neither the series field nor the record key is there")
    if isinstance(name, str):
        return name
    if not isinstance(name, bytes | bytearray | memoryview):
        raise _Refused("no-series", "no series field, and the record key is not bytes")
    try:
        return bytes(name).decode()
    except UnicodeDecodeError:
        raise _Refused("range", "no series field, and the record key is not UTF-8") from None


def _check_name(name: str, bytes_max: int) -> None:
    if not name:
        raise _Refused("range", "the series name is empty")
    if _UNFIT.search(name):
        raise _Refused("range", f"control characters in the series name {_short(name)}")
    size = len(name.encode())
    if size > bytes_max:
        raise _Refused("range", f"a series name of {size} bytes, at most {bytes_max} are allowed")


def _short(thing: object) -> str:
    """A bounded, printable ASCII picture of something that came from outside."""
    if isinstance(thing, int):
        return str(thing) if abs(thing) < 10**30 else "a number of more than 30 digits"
    text = str(thing)
    return ascii(text if len(text) <= 40 else text[:40] + "…")


def dead_letter(rejected: Rejected) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """(key, value, headers) of the record for the dead-letter topic: as it came, plus why and from where.

    A record that went through here before keeps the newest reason only.
    """
    record = rejected.record
    source = f"{record.topic}/{record.partition}/{record.offset}"
    ours = (HEADER_REASON, HEADER_DETAIL, HEADER_SOURCE)
    headers = [header for header in record.headers if header[0] not in ours]
    headers += [
        (HEADER_REASON, rejected.reason.encode()),
        (HEADER_DETAIL, rejected.detail[:DETAIL_CHARS_MAX].encode("utf-8", "backslashreplace")),
        (HEADER_SOURCE, source.encode()),
    ]
    return record.key, record.value, headers
