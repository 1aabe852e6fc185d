"""Bytes in, a columnar batch of ticks out; what cannot be read comes back as a value with its reason.

Nothing here raises, whatever the bytes: a record ends in the batch or in the list of refusals, once, and its
neighbours are not touched by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from streamrnn.mapping import ABSENT, DecodeSpec, TsUnit, shape_of
from streamrnn.records import Reason, Record, Rejected, TickBatch
from streamrnn.spec import StreamSpec

__all__ = ["DETAIL_CHARS_MAX", "DecodeSpec", "Decoder", "dead_letter"]

# A refusal's detail goes into a header and into logs: it names the fault, it does not repeat the payload.
DETAIL_CHARS_MAX = 200

# Beyond this an event time in microseconds could overflow 64 bits once a horizon is added. Which times are plausible is the
# grid's to say.
TS_MS_MAX = (1 << 62) // 1000 - 1

HEADER_REASON, HEADER_DETAIL, HEADER_SOURCE = "streamrnn-reason", "streamrnn-detail", "streamrnn-source"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS: dict[TsUnit, int] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
_PLACES = {1_000_000_000: 6, 1_000_000: 3}  # decimal places of a microsecond
_INSTANT = msgspec.json.Decoder(Annotated[datetime, Meta(tz=True)])
# "2026-11-27T12:00:05.123456Z": only a longer text can have more than microseconds, or an offset instead of the Z.
_INSTANT_CHARS = 27
_BELOW_MICROSECONDS = re.compile(r"(?<=\.[0-9]{6})[0-9]+")
# "1764000000.123456": seconds of this century with microseconds at most (with an exponent there is room for fewer digits).
# A double has them to a quarter of a microsecond.
_SECONDS_CHARS, _SECONDS_MAX = 17, 4e9
# What is written longer, or with a larger exponent, is no time that anybody measured.
_NUMBER_CHARS_MAX, _EXPONENT_MAX = 64, 64

# What a JSON decoder can raise on hostile bytes: syntax and type errors, bad UTF-8, an ignored field nested too deep.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Characters a series name may not have: controls, line separators, and the marks that reorder text in a log.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_NOT_A_NUMBER = re.compile(rb"(?<![\w\"])(?:nan|inf)", re.IGNORECASE)
# How a text ends that may be JSON, but for plain numbers and words.
_JSON_ENDS = b'"}]'
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


def _strategy(root: type[msgspec.Struct]) -> _Strategy:
    """How the bytes of one record become a row of this type. The one place that knows the format of the topic.

    JSON, bare or in a CloudEvent. Another format (Avro behind a schema registry) is another function of the same type.
    """
    plain = msgspec.json.Decoder(root)
    envelope = msgspec.json.Decoder(_envelope(root))

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


def _envelope(root: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """A structured CloudEvent (JSON event format 1.0.2) around a row."""
    text = str | None
    return msgspec.defstruct(
        "CloudEvent",
        [
            ("subject", text, None),
            ("partitionkey", text, None),
            ("time", text, None),
            ("data", root | None, None),
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


@dataclass(slots=True)
class KeysSeen:
    """Record keys that named a series and are JSON text themselves: how many so far, and the newest of them."""

    count: int = 0
    example: str = ""


class Decoder:
    """Decodes records of one stream. Holds no state between calls but what it counts, so a replay decodes the same."""

    def __init__(self, spec: StreamSpec, decode: DecodeSpec | None = None) -> None:
        self.spec = spec
        self.decode_spec = decode or DecodeSpec()
        self._shape = shape_of(spec, self.decode_spec)
        self._row = _strategy(self._shape.root)
        self._ts_row = _strategy(self._shape.ts_root)
        self.json_keys = KeysSeen()
        self._channel_index = {name: index for index, name in enumerate(spec.channels)}
        self._blank = (ABSENT,) * len(spec.channels)
        paths = self.decode_spec.values or {name: f"values.{name}" for name in spec.channels}
        shown = ", ".join(_short(paths[name]) for name in spec.channels[:3]) + (", …" if len(spec.channels) > 3 else "")
        self._no_values = f"none of the fields {shown} is there (channels, decode.values)"

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
        ms_max, ms_min = TS_MS_MAX, -TS_MS_MAX
        whole_ms, seconds = self.decode_spec.ts_unit == "ms", self.decode_spec.ts_unit == "s"
        kafka_time = self.decode_spec.ts is None
        row_of, head, body, blank = self._row, self._shape.head, self._shape.body, self._blank

        for record in records:
            try:
                payload = record.value
                if payload is None:
                    raise _Refused("tombstone", "the record has no value")
                if len(payload) > bytes_max:
                    raise _Refused(
                        "too-large", f"{len(payload)} bytes, at most {bytes_max} are read (decode.record_bytes_max)"
                    )
                row, fallback_name, fallback_ts = row_of(payload, record.headers)
                try:
                    name, ts, channel, value = head(row)
                    values = body(row)
                except AttributeError:  # an object on the way to a field is null
                    name, ts, channel, value = self._shape.head_sparse(row)
                    values = self._shape.body_sparse(row)

                if name is None:
                    name = self._name_outside(fallback_name, record)
                if not (name.isascii() and name.isprintable() and 0 < len(name) <= name_max):
                    self._check_name(name)

                ts_us = 0
                if whole_ms and ts.__class__ is int:
                    pass
                elif seconds:
                    ts_us = self._seconds_us(ts, fallback_ts, record)
                    ts = ts_us // 1000
                elif ts.__class__ is str:
                    ts_us = _text_us(ts)
                    ts = ts_us // 1000
                elif ts is None and kafka_time and not fallback_ts and record.timestamp >= 0:
                    ts = record.timestamp
                else:
                    ts_us = self._instant_us(ts, fallback_ts, record)  # type: ignore[arg-type]
                    ts = ts_us // 1000
                if not ms_min <= ts <= ms_max:
                    raise _Refused(
                        "timestamp", f"{_short(ts)} ms does not fit 64 bits of microseconds (decode.ts_unit)"
                    )

                # blank's items are the schema's own defaults: equal only by identity, so only if no field was there.
                if values == blank:
                    if channel is None:
                        raise _Refused("no-values", self._no_values)
                    long.append((len(rows), self._long_channel(channel, value), value))
            except _Refused as refusal:
                rejected.append(Rejected(record, refusal.reason, refusal.detail[:DETAIL_CHARS_MAX]))
            except _UNREADABLE as error:
                reason, detail = self._classify(record, error)
                rejected.append(Rejected(record, reason, detail[:DETAIL_CHARS_MAX]))
            else:
                if ts_us and ts_us % 1000:
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
            raise _Refused("unknown-channel", f"{_short(name)} is not one of the configured `channels`")
        if value is ABSENT:
            raise _Refused("no-values", f"a long record without the field {self.decode_spec.value!r} (decode.value)")
        return index

    def _name_outside(self, fallback: _Text, record: Record) -> str:
        """A series name from the envelope or the record's key, where no field is mapped to it."""
        field = self.decode_spec.series
        key: Any = fallback or record.key
        if field is not None:
            raise _Refused(
                "no-series", f"the field {_short(field)} is null or absent (decode.series; unset it to go by the key)"
            )
        try:
            if key.__class__ is bytes:
                if not fallback and key[-1:] in _JSON_ENDS and _is_json(key):
                    self.json_keys.count += 1
                    self.json_keys.example = key[:DETAIL_CHARS_MAX].decode("utf-8", "replace")
                return str(key, "utf-8")
            if isinstance(key, str):
                return key
            if isinstance(key, bytearray | memoryview):
                return bytes(key).decode()
        except UnicodeDecodeError:
            raise _Refused("range", "no field `series`, and the record key is not UTF-8 (decode.series)") from None
        if key is None:
            raise _Refused("no-series", "neither the field `series` nor the record key is there (decode.series)")
        raise _Refused("no-series", "no field `series`, and the record key is not bytes (decode.series)")

    def _check_name(self, name: str) -> None:
        if not name:
            if self.decode_spec.series is not None:
                raise _Refused(
                    "no-series", f"the field {_short(self.decode_spec.series)} is an empty text (decode.series)"
                )
            raise _Refused("range", "the series name is empty")
        if _UNFIT.search(name):
            raise _Refused("range", f"control characters in the series name {_short(name)}")
        size, most = len(name.encode()), self.decode_spec.series_bytes_max
        if size > most:
            raise _Refused("range", f"a series name of {size} bytes, at most {most} are read (decode.series_bytes_max)")

    def _instant_us(self, ts: int | float | None, fallback: _Text, record: Record) -> int:
        """Event time in microseconds where `ts` is no text, and not an int of milliseconds. What is finer is cut off."""
        ns = _NS[self.decode_spec.ts_unit]
        if isinstance(ts, int):
            return ts * ns // 1000
        if ts is None:
            return self._instant_outside(fallback, record)
        row, _, _ = self._ts_row(record.value or b"", record.headers)
        return _number_us(bytes(self._shape.ts_text(row)), ns)

    def _seconds_us(self, ts: Any, fallback: _Text, record: Record) -> int:
        """The same where numbers are seconds, and `ts` is the JSON that is written."""
        if ts is None:
            return self._instant_outside(fallback, record)
        try:
            seconds = float(ts)
        except ValueError:
            text = bytes(ts)
            if text == b"null":
                return self._instant_outside(fallback, record)
            if text[:1] != b'"':
                raise _Refused(
                    "timestamp", f"{_short(text.decode())} is neither a number nor a text (decode.ts)"
                ) from None
            return _text_us(msgspec.json.decode(text))
        if 1e9 <= seconds < _SECONDS_MAX:
            us = round(seconds * 1e6)
            if len(ts) <= _SECONDS_CHARS:
                return us
            # Doubles lie closer than microseconds, so what is written is on the same side of one as its double.
            nearest = us / 1e6
            if seconds != nearest:
                return us if seconds > nearest else us - 1
        return _number_us(bytes(ts), _NS["s"])

    def _instant_outside(self, fallback: _Text, record: Record) -> int:
        """Event time from the envelope or the record's own timestamp, where no field is mapped to it."""
        if self.decode_spec.ts is not None:
            field = _short(self.decode_spec.ts)
            raise _Refused(
                "timestamp", f"the field {field} is null or absent (decode.ts; unset it to go by the record's time)"
            )
        if fallback:
            try:
                return _text_us(fallback if isinstance(fallback, str) else fallback.decode())
            except (_Refused, UnicodeDecodeError):
                raise _Refused("timestamp", "the CloudEvent's time is not RFC 3339") from None
        if record.timestamp < 0:
            raise _Refused("timestamp", "neither the record nor its value has a timestamp (decode.ts)")
        return record.timestamp * 1000

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
                return "timestamp", f"{message} (decode.ts)"
            if "` <= " in what or "` >= " in what:
                return "range", f"{message} (decode.value_abs_max)"
            if "out of range" in what:
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


def _is_json(key: bytes) -> bool:
    try:
        msgspec.json.decode(key)
    except _UNREADABLE:
        return False
    return True


def _text_us(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 text with an offset; digits beyond the sixth are cut off."""
    cut = _BELOW_MICROSECONDS.sub("", text) if len(text) > _INSTANT_CHARS else text
    try:
        since = _INSTANT.decode(f'"{cut}"') - _EPOCH
    except (*_UNREADABLE, ValueError, OverflowError):
        raise _Refused(
            "timestamp", f"{_short(text)} is not RFC 3339 with an offset, and not a number (decode.ts)"
        ) from None
    us: int = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return us


def _number_us(text: bytes, ns: int) -> int:
    """Microseconds of a JSON number of units of `ns` nanoseconds: exactly what is written, cut off.

    A double would not do: of 1764000005.999999999 it is 1764000006.
    """
    whole, _, fraction = text.partition(b".")
    places = _PLACES.get(ns, 0)
    if places and whole.isdigit() and fraction.isdigit() and len(text) <= _NUMBER_CHARS_MAX:
        return int(whole + fraction[:places].ljust(places, b"0"))
    if len(text) <= _NUMBER_CHARS_MAX:
        sign, digits, exponent = Decimal(text.decode()).as_tuple()
        if isinstance(exponent, int) and abs(exponent) <= _EXPONENT_MAX:
            count = int("".join(map(str, digits))) * ns * (-1 if sign else 1)
            return count * int(10**exponent) // 1000 if exponent >= 0 else count // int(1000 * 10**-exponent)
    number = float(text)
    if not math.isfinite(number):
        raise _Refused("timestamp", f"{_short(text.decode())} is not a time (decode.ts)")
    up, down = number.as_integer_ratio()
    return up * ns // (down * 1000)


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
