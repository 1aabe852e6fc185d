"""Bytes in, a columnar batch of ticks out; what cannot be read comes back as a value with its reason.

Nothing here raises, whatever the bytes: a record ends in the batch or in the list of refusals, once, and its
neighbours are not touched by it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streamrnn.inputs import Numbering
from streamrnn.records import I32, Reason, Record, Rejected, Skipped, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.wire.avro_columns import AvroColumns
from streamrnn.wire.general import General, Skip, Tick
from streamrnn.wire.instants import NS, UNREADABLE, Refused, TextTimes, number_us, short, text_us
from streamrnn.wire.mapping import DecodeSpec, check_bounds, shape_of
from streamrnn.wire.paths import ABSENT, named
from streamrnn.wire.schemas import FRAME_BYTES, Schemas, available, unframed

__all__ = ["DETAIL_CHARS_MAX", "DecodeSpec", "Decoder", "cloud_event", "dead_letter"]

# A refusal's detail goes into a header and into logs: it names the fault, it does not repeat the payload.
DETAIL_CHARS_MAX = 200

# Beyond this an event time in microseconds could overflow 64 bits once a horizon is added. Which times are plausible is the
# grid's to say.
TS_MS_MAX = (1 << 62) // 1000 - 1

HEADER_REASON, HEADER_DETAIL, HEADER_SOURCE = "streamrnn-reason", "streamrnn-detail", "streamrnn-source"
HEADER_INDEX = "streamrnn-index"  # the place of the element that was refused, in a record of several

# "1764000000.123456": seconds of this century with microseconds at most (with an exponent there is room for fewer digits).
# A double has them to a quarter of a microsecond.
_SECONDS_CHARS, _SECONDS_MAX = 17, 4e9
# Characters a series name may not have: controls, line separators, and the marks that reorder text in a log.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_NOT_A_NUMBER = re.compile(rb"(?<![\w\"])(?:nan|inf)", re.IGNORECASE)
# How a text ends that may be JSON, but for plain numbers and words.
_JSON_ENDS = b'"}]'
_BYTE_AT = re.compile(r"\(byte (\d+)\)")
# msgspec calls a lone surrogate that ends the text a truncation or a short escape, so both are looked at again.
_SURROGATE_TROUBLE = re.compile("surrogate|hex escape|truncated")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL)


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
        structured, subject, time = cloud_event(headers)
        if not structured:
            return plain.decode(value), subject, time
        event: Any = envelope.decode(value)
        payload = event.data if event.data_base64 is None else plain.decode(event.data_base64)
        if payload is None:
            raise Refused("no-values", "the CloudEvent has no data")
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


def cloud_event(headers: Sequence[tuple[str, bytes]]) -> tuple[bool, bytes | None, bytes | None]:
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


class Decoded(NamedTuple):
    """What records became, each in the order of the records."""

    batch: TickBatch
    rejected: list[Rejected]
    skipped: list[Skipped]


class Decoder:
    """Decodes records of one stream. What it holds between calls is counts, and in Sparkplug what births have said by their
    offsets (`carried`), so a replay decodes the same.

    `many`: a record may hold many ticks.
    """

    def __init__(self, spec: StreamSpec, decode: DecodeSpec | None = None) -> None:
        self.spec = spec
        self._numbering: Numbering | None = None  # of several input topics
        self.decode_spec = decode or DecodeSpec()
        self.json_keys = KeysSeen()
        self.many = self.decode_spec.each is not None
        check_bounds(self.decode_spec)
        if wanting := available(self.decode_spec.format):
            raise ValueError(f"decode: format: {self.decode_spec.format} needs more packages: {wanting}")
        # Of a format whose records name theirs; who decodes sees to it that none is missing.
        self.schemas: Schemas | None = None
        self._general: General | None = None
        self._columns: AvroColumns | None = None
        framed = self.decode_spec.format == "json-schema"
        if not (replace(self.decode_spec, format="json") if framed else self.decode_spec).plain:
            self._general = General(
                spec, self.decode_spec, self._check_name, self._name_outside, self._instant_outside, cloud_event
            )
            self.schemas = self._general.layout.schemas
            if self.schemas is not None and self.decode_spec.format == "avro":
                with contextlib.suppress(ValueError):  # the configuration is for the general reader alone
                    self._columns = AvroColumns(spec, self.decode_spec, self.schemas)
            return
        self._shape = shape_of(spec, self.decode_spec)
        self._row = _strategy(self._shape.root)
        self._bare = msgspec.json.Decoder(self._shape.root).decode  # records without headers: one call less
        self._ts_row = _strategy(self._shape.ts_root)
        if framed:
            self.schemas = Schemas("json-schema", keys=False)
            row, bare, ts_row = self._row, msgspec.json.Decoder(self._shape.root).decode, self._ts_row
            self._row = lambda value, headers: row(unframed(value), headers)
            self._ts_row = lambda value, headers: ts_row(unframed(value), headers)
            # The usual frame, without a call more.
            self._bare = lambda value: bare(value[FRAME_BYTES:] if value[:1] == b"\x00" else unframed(value))  # type: ignore[index,arg-type]
        self._texts = TextTimes(self.decode_spec.ts_unit)
        self._channel_index = {name: index for index, name in enumerate(spec.channels)}
        self._blank = (ABSENT,) * len(spec.channels)
        paths: Any = self.decode_spec.values or {name: f"values.{name}" for name in spec.channels}
        shown = ", ".join(short(paths[name]) for name in spec.channels[:3]) + (", …" if len(spec.channels) > 3 else "")
        self._no_values = f"none of the fields {shown} is there (channels, decode.values)"

    def number_by(self, numbering: Numbering) -> None:
        """Partitions of batches, and of `carried` and `carry`, are these numbers; without, a record's own partition."""
        self._numbering = None if numbering.one else numbering
        if self._general is not None and self._general.layout.sparkplug is not None:
            self._general.layout.sparkplug.number = numbering.of

    def decode(self, records: Sequence[Record]) -> tuple[TickBatch, list[Rejected]]:
        """The readable records as a batch, the others with their reasons; both in the order of `records`."""
        if self._general is not None:
            return self._read(self._general, records)[:2]
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
        row_of, bare, head, body, blank = self._row, self._bare, self._shape.head, self._shape.body, self._blank

        for record in records:
            try:
                payload = record.value
                if payload is None:
                    raise Refused("tombstone", "the record has no value")
                if len(payload) > bytes_max:
                    raise Refused(
                        "too-large", f"{len(payload)} bytes, at most {bytes_max} are read (decode.record_bytes_max)"
                    )
                if record.headers:
                    row, fallback_name, fallback_ts = row_of(payload, record.headers)
                else:
                    row, fallback_name, fallback_ts = bare(payload), None, None
                try:
                    name, ts, channel, value = head(row)
                    values = body(row)
                except AttributeError:  # an object on the way to a field is null
                    name, ts, channel, value = self._shape.head_sparse(row)
                    values = self._shape.body_sparse(row)

                if name.__class__ is not str:
                    name = self._name_outside(fallback_name, record) if name is None else str(name)
                if not (name.isascii() and name.isprintable() and 0 < len(name) <= name_max):
                    self._check_name(name)

                ts_us = 0
                if whole_ms and ts.__class__ is int:
                    pass
                elif seconds:
                    ts_us = self._seconds_us(ts, fallback_ts, record)
                    ts = ts_us // 1000
                elif ts.__class__ is str:
                    ts_us = self._texts.us(ts)
                    ts = ts_us // 1000
                elif ts is None and kafka_time and not fallback_ts and record.timestamp >= 0:
                    ts = record.timestamp
                else:
                    ts_us = self._instant_us(ts, fallback_ts, record)  # type: ignore[arg-type]
                    ts = ts_us // 1000
                if not ms_min <= ts <= ms_max:
                    raise Refused("timestamp", f"{short(ts)} ms does not fit 64 bits of microseconds (decode.ts_unit)")

                # blank's items are the schema's own defaults: equal only by identity, so only if no field was there.
                if values == blank:
                    if channel is None:
                        raise Refused("no-values", self._no_values)
                    long.append((len(rows), self._long_channel(channel, value), value))
            except Refused as refusal:
                rejected.append(Rejected(record, refusal.reason, refusal.detail[:DETAIL_CHARS_MAX]))
            except UNREADABLE as error:
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
            partition=self._numbers(accepted),
            offset=np.array([record.offset for record in accepted], np.int64),
            record_ts_ms=np.array([record.timestamp for record in accepted], np.int64),
            series=series,
            ts_us=ts_us_of,
            values=matrix,
            channel=channels,
        )
        return batch, rejected

    def read(self, records: Sequence[Record]) -> Decoded:
        """`decode`, and what is none of this stream's."""
        if self._general is not None:
            return self._read(self._general, records)
        return Decoded(*self.decode(records), [])

    def carried(self, partition: int, oldest: int) -> bytes:
        """What a restart needs to read this partition from any offset from `oldest` on, beside its records; see `carry`."""
        held = self._general.layout.sparkplug if self._general is not None else None
        return held.carried(partition, oldest) if held is not None else b""

    def carry(self, partition: int, content: bytes) -> None:
        """Takes up what was `carried`, in place of what is held of the partition."""
        held = self._general.layout.sparkplug if self._general is not None else None
        if held is not None:
            held.carry(partition, content)

    def ambiguous_names(self) -> list[tuple[str, str, str]]:
        """Of what was read: names that came of different fields, as (name, fields, other fields)."""
        return self._general.ambiguous() if self._general is not None else []

    def _read(self, general: General, records: Sequence[Record]) -> Decoded:
        if self._columns is not None:
            batch = self._columns.read(records)
            if batch is not None:
                batch.partition = self._numbers(records)
                return Decoded(batch, [], [])
        ticks: list[Tick] = []
        counts: list[int] = []
        rejected: list[Rejected] = []
        skipped: list[Skipped] = []
        bytes_max, decode = self.decode_spec.record_bytes_max, self.decode_spec
        for record in records:
            begin = len(ticks)
            try:
                payload = record.value
                if payload is None:
                    if decode.tombstones == "skip":
                        raise Skip("tombstone")
                    raise Refused("tombstone", "the record has no value")
                if len(payload) > bytes_max:
                    raise Refused(
                        "too-large", f"{len(payload)} bytes, at most {bytes_max} are read (decode.record_bytes_max)"
                    )
                if decode.leading == "skip" and payload[:1] != b"{":
                    at = payload.find(b"{")
                    payload = payload[at:] if at > 0 else payload
                general.read(payload, record, ticks, rejected, skipped)
            except Skip as skip:
                skipped.append(Skipped(record, skip.reason))
            except Refused as refusal:
                del ticks[begin:]
                rejected.append(Rejected(record, refusal.reason, refusal.detail[:DETAIL_CHARS_MAX]))
            except UNREADABLE as error:
                del ticks[begin:]
                reason, detail = self._classify(record, error)
                rejected.append(Rejected(record, reason, detail[:DETAIL_CHARS_MAX]))
            counts.append(len(ticks) - begin)
        return Decoded(self._batch_of(records, counts, ticks), rejected, skipped)

    def _numbers(self, records: Sequence[Record]) -> I32:
        if self._numbering is not None:
            return self._numbering.numbers(records)
        return np.array([record.partition for record in records], np.int32)

    def _batch_of(self, records: Sequence[Record], counts: Sequence[int], ticks: Sequence[Tick]) -> TickBatch:
        """The ticks of these records, so many of each."""
        total, width = len(ticks), len(self.spec.channels)
        matrix = np.fromiter(chain.from_iterable([tick[2] for tick in ticks]), np.float64, total * width)
        index = np.array([tick[4] for tick in ticks], np.int32)
        accepted = [record for record, count in zip(records, counts, strict=True) for _ in range(count)]
        return TickBatch(
            records=accepted,
            partition=np.repeat(self._numbers(records), counts),
            offset=np.repeat(np.array([record.offset for record in records], np.int64), counts),
            record_ts_ms=np.repeat(np.array([record.timestamp for record in records], np.int64), counts),
            series=[tick[0] for tick in ticks],
            ts_us=np.array([tick[1] for tick in ticks], np.int64),
            values=matrix.reshape(total, width),
            channel=np.array([tick[3] for tick in ticks], np.int16),
            index=index if (index >= 0).any() else index[:0],
        )

    def _long_channel(self, name: int | str, value: float | None) -> int:
        index = self._channel_index.get(str(name))
        if index is None:
            raise Refused("unknown-channel", f"{short(name)} is not one of the configured `channels`")
        if value is ABSENT:
            raise Refused("no-values", f"a long record without the field {self.decode_spec.value!r} (decode.value)")
        return index

    def _name_outside(self, fallback: _Text, record: Record) -> str:
        """A series name from the envelope or the record's key, where no field is mapped to it."""
        field = self.decode_spec.series
        key: Any = fallback or record.key
        if field is not None:
            raise Refused(
                "no-series", f"the field {short(field)} is null or absent (decode.series; unset it to go by the key)"
            )
        if self.schemas is not None and not fallback:
            found = self.schemas.key(record)
            if found is not ABSENT:
                if isinstance(found, str | int) and not isinstance(found, bool):
                    return str(found)
                raise Refused(
                    "no-series", f"no field `series`, and the record key is {named(found)} (decode.series: @key.FIELD)"
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
            raise Refused("range", "no field `series`, and the record key is not UTF-8 (decode.series)") from None
        if key is None:
            raise Refused("no-series", "neither the field `series` nor the record key is there (decode.series)")
        raise Refused("no-series", "no field `series`, and the record key is not bytes (decode.series)")

    def _check_name(self, name: str) -> None:
        if not name:
            if self.decode_spec.series is not None:
                raise Refused(
                    "no-series", f"the field {short(self.decode_spec.series)} is an empty text (decode.series)"
                )
            raise Refused("range", "the series name is empty")
        if _UNFIT.search(name):
            raise Refused("range", f"control characters in the series name {short(name)}")
        size, most = len(name.encode()), self.decode_spec.series_bytes_max
        if size > most:
            raise Refused("range", f"a series name of {size} bytes, at most {most} are read (decode.series_bytes_max)")

    def _instant_us(self, ts: int | float | None, fallback: _Text, record: Record) -> int:
        """Event time in microseconds where `ts` is no text, and not an int of milliseconds. What is finer is cut off."""
        ns = NS[self.decode_spec.ts_unit]
        if isinstance(ts, int):
            return ts * ns // 1000
        if ts is None:
            return self._instant_outside(fallback, record)
        row, _, _ = self._ts_row(record.value or b"", record.headers)
        return number_us(bytes(self._shape.ts_text(row)), ns)

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
                raise Refused(
                    "timestamp", f"{short(text.decode())} is neither a number nor a text (decode.ts)"
                ) from None
            return self._texts.us(msgspec.json.decode(text))
        if 1e9 <= seconds < _SECONDS_MAX:
            us = round(seconds * 1e6)
            if len(ts) <= _SECONDS_CHARS:
                return us
            # Doubles lie closer than microseconds, so what is written is on the same side of one as its double.
            nearest = us / 1e6
            if seconds != nearest:
                return us if seconds > nearest else us - 1
        return number_us(bytes(ts), NS["s"])

    def _instant_outside(self, fallback: _Text, record: Record) -> int:
        """Event time from the envelope or the record's own timestamp, where no field is mapped to it."""
        if self.decode_spec.ts is not None:
            field = short(self.decode_spec.ts)
            raise Refused(
                "timestamp", f"the field {field} is null or absent (decode.ts; unset it to go by the record's time)"
            )
        if fallback:
            try:
                return text_us(fallback if isinstance(fallback, str) else fallback.decode())
            except (Refused, UnicodeDecodeError):
                raise Refused("timestamp", "the CloudEvent's time is not RFC 3339") from None
        if record.timestamp < 0:
            raise Refused("timestamp", "neither the record nor its value has a timestamp (decode.ts)")
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
            if self._general is None and path.rstrip("`") in (
                f".{self._shape.ts_path}",
                f".data.{self._shape.ts_path}",
            ):
                return "timestamp", f"{message} (decode.ts)"
            if "` <= " in what or "` >= " in what:
                return "range", f"{message} (decode.value_abs_max)"
            if "out of range" in what:
                return "range", message
            return ("type" if what.startswith("Expected ") else "malformed"), message
        # Python's json module writes NaN, and JavaScript can cut a character in two: these are worth a word of help.
        payload = record.value or b""
        if self.decode_spec.format == "json-schema":
            payload = unframed(payload)
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
    except UNREADABLE:
        return False
    return True


def dead_letter(rejected: Rejected) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """(key, value, headers) of the record for the dead-letter topic: as it came, plus why and from where.

    A record that went through here before keeps the newest reason only.
    """
    record = rejected.record
    source = f"{record.topic}/{record.partition}/{record.offset}"
    ours = (HEADER_REASON, HEADER_DETAIL, HEADER_SOURCE, HEADER_INDEX)
    headers = [header for header in record.headers if header[0] not in ours]
    headers += [
        (HEADER_REASON, rejected.reason.encode()),
        (HEADER_DETAIL, rejected.detail[:DETAIL_CHARS_MAX].encode("utf-8", "backslashreplace")),
        (HEADER_SOURCE, source.encode()),
    ]
    if rejected.index >= 0:
        headers.append((HEADER_INDEX, str(rejected.index).encode()))
    return record.key, record.value, headers
