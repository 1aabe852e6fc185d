"""Records of any JSON shape as a batch of ticks: `decode.each`, `where`, composite series, texts that are numbers.

The columns come from `elements.Layout`; here they become names, times and numbers, element by element. An element that
cannot be read is refused alone, with its place in the record.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from streamrnn.calendar import zone_of
from streamrnn.records import Record, Rejected, Skipped, SkipReason
from streamrnn.spec import StreamSpec
from streamrnn.wire import numerals
from streamrnn.wire.elements import Layout, NoArray, Number, SeriesPart, matches, put, struct_of
from streamrnn.wire.instants import EPOCH, NS, UNREADABLE, Refused, TextTimes, number_us, short
from streamrnn.wire.mapping import DecodeSpec, shape_of
from streamrnn.wire.paths import ABSENT, Key, Labels, LocalMicros, Micros, Mistyped, Star, filled_in, named, parse_path
from streamrnn.wire.schemas import unframed

Values = tuple[float | None, ...]
# What a record gives, element by element: (name, microseconds, values, channel of a long one or −1, place in the record)
Tick = tuple[str, int, Values, int, int]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_NUMBER_CHARS_MAX = 400
NAMES_MAX = 16_384
_MISSING = frozenset({"", "nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "null"})
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)
_SCALE_MAX = 400
# How change data capture says that a row was deleted.
_DELETES = frozenset({("op", "d"), ("__op", "d"), ("__deleted", "true")})


class Skip(Exception):
    """Carries why an element, or a record, is none of this stream's; never leaves the decoder."""

    def __init__(self, reason: SkipReason) -> None:
        super().__init__(reason)
        self.reason = reason


class General:
    """Reads the records of one configuration. The callables say a name and a time where no field is mapped to them."""

    def __init__(
        self,
        spec: StreamSpec,
        decode: DecodeSpec,
        check_name: Callable[[str], None],
        name_outside: Callable[[Any, Record], str],
        instant_outside: Callable[[Any, Record], int],
        envelope: Callable[[Any], tuple[bool, Any, Any]],
    ) -> None:
        self.spec, self.decode = spec, decode
        self.layout = Layout(spec, decode)
        self._check_name, self._name_outside, self._instant_outside = check_name, name_outside, instant_outside
        self._envelope = envelope
        zone = zone_of(decode.timezone) if decode.timezone is not None else None
        self._texts, self._ns = TextTimes(decode.ts_unit, decode.ts_format, zone), NS[decode.ts_unit]
        self._kafka_times = frozenset(i for i in self.layout.ts if self.layout.wanted[i].root in ("time", "window"))
        self._channels = {name: index for index, name in enumerate(spec.channels)}
        self._blank = (ABSENT,) * len(spec.channels)
        self._skips = decode.others == "skip"
        if isinstance(decode.scale, Mapping):
            unknown = sorted(set(decode.scale) - set(spec.channels))
            if unknown:
                raise ValueError(f"decode: scale names {unknown[0]!r}, which is not one of the channels")
        self._scales = [
            decode.scale.get(name) if isinstance(decode.scale, Mapping) else decode.scale for name in spec.channels
        ]
        single = [columns[0] for columns in self.layout.values if len(columns) == 1]
        # Where each channel is one column and they stand together, their values are one slice of a row.
        self._slice = (
            slice(single[0], single[0] + len(single))
            if len(single) == len(spec.channels) and single == list(range(single[0], single[0] + len(single)))
            else None
        )
        first = self.layout.parts[0]
        plain = (
            len(self.layout.parts) == 1 and len(first.columns) == 1 and first.rest[0] is None and not first.optional[0]
        )
        self._series_column = first.columns[0] if plain else -1
        several = [column for part in self.layout.parts for column in part.columns]
        whole = all(rest is None for part in self.layout.parts for rest in part.rest)
        self._names_of: Callable[[Any], tuple[Any, ...]] | None = (
            itemgetter(*several) if len(several) > 1 and (whole or decode.format in _KEYED) else None
        )
        self._names: dict[tuple[Any, ...], str] = {}
        self._rows = _rows_of(spec, decode)
        texts = [self.layout.wanted[columns[0]].text for columns in self.layout.values[:3]]
        shown = ", ".join(short(text) for text in texts) + (", …" if len(spec.channels) > 3 else "")
        self._no_values = f"none of the fields {shown} is there (channels, decode.values)"

    def read(
        self, payload: bytes, record: Record, out: list[Tick], rejected: list[Rejected], skipped: list[Skipped]
    ) -> None:
        """Appends what a record gives. Raises Refused, Skip and what a JSON decoder raises, for the record as a whole."""
        subject = time = None
        layout = self.layout
        if self.decode.format == "json-schema":
            payload = unframed(payload)
        if record.headers:
            structured, subject, time = self._envelope(record.headers)
            if structured:
                payload, subject, time = _event(payload)
        if not payload and self.decode.tombstones == "skip":  # how a retained message of MQTT is deleted
            raise Skip("tombstone")
        if (
            payload == _NIL.get(self.decode.format)
            or payload[:5].strip() == b"null"
            or (payload[:1].isspace() and payload.strip() == b"null")
        ):
            if self.decode.tombstones == "skip":
                raise Skip("tombstone")
            raise Refused("type", "the record's value is null")
        if self._rows is not None and self._rows.read(payload, out, self._blank):
            return
        try:
            rows = layout.rows(payload, record)
        except NoArray:
            if self._skips:
                raise Skip("other") from None
            raise
        if not rows:
            raise Skip("empty")
        begin = len(out)
        refused: list[tuple[int, Refused]] = []
        skips: dict[SkipReason, int] = {}
        for index in range(len(rows)):
            row = rows[index]
            try:
                if row.__class__ is Mistyped:
                    raise Refused(row.reason, str(row))
                if layout.where:
                    self._look_where(row)
                out.append(self._tick(row, index, subject, time, record))
            except Skip as skip:
                skips[skip.reason] = skips.get(skip.reason, 0) + 1
            except Refused as refusal:
                refused.append((index, refusal))
            except _Inexact:
                # The digits of a time that a double does not have: the document once more, as it is written.
                rows = layout.rows_of(layout.document(payload, record, exact=True), record)
                try:
                    out.append(self._tick(rows[index], index, subject, time, record))
                except Skip as skip:
                    skips[skip.reason] = skips.get(skip.reason, 0) + 1
                except Refused as refusal:
                    refused.append((index, refusal))
        several = len(out) - begin + len(refused) > 1
        if not several and len(out) > begin:
            out[begin] = (*out[begin][:4], -1)
        rejected += [
            Rejected(record, refusal.reason, refusal.args[0][:200], index if several else -1)
            for index, refusal in refused
        ]
        skipped += [Skipped(record, reason, count) for reason, count in skips.items()]

    # ── one element ──────────────────────────────────────────────────────────────────────────────────────────────

    def _look_where(self, row: Any) -> None:
        for column, wanted in self.layout.where:
            value = row[column]
            if not matches(wanted, value):
                deleted = isinstance(value, str) and (self.layout.wanted[column].text, value) in _DELETES
                raise Skip("delete" if deleted else "where")

    def _tick(self, row: Any, index: int, subject: Any, time: Any, record: Record) -> Tick:
        values = self._values(row)
        long = -1
        # blank's items are the very object that stands for "not there": equal only by identity.
        absent = values == self._blank
        if absent and self._skips:  # what is none of ours need not have a name
            values, long = self._long(row)
        column = self._series_column
        name = row[column] if column >= 0 else None
        if self._names_of is not None:
            parts = self._names_of(row)
            try:
                name = self._names.get(parts)
            except TypeError:  # an array or an object, which is refused
                name = None
            if name is None:
                name = self._named(row, subject, record)
                self._keep(parts, name)
        elif name.__class__ is not str:
            name = self._named(row, subject, record)
        elif not (name.isascii() and name.isprintable() and 0 < len(name) <= self.decode.series_bytes_max):
            self._check_name(name)
        us = self._instant(row, time, record)
        if absent and not self._skips:
            values, long = self._long(row)
        return name, us, values, long, index

    def _named(self, row: Any, subject: Any, record: Record) -> str:
        name = self._name(row)
        if name is None:
            name = self._name_outside(subject, record)
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= self.decode.series_bytes_max):
            self._check_name(name)
        return name

    def _keep(self, parts: tuple[Any, ...], name: str) -> None:
        """Composite names are made once, as long as there are no more than NAMES_MAX. Of texts alone: 1 and True are equal."""
        if all(part.__class__ in _KEPT or part is None or part is ABSENT for part in parts):
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            self._names[parts] = name

    def ambiguous(self) -> list[tuple[str, str, str]]:
        """(name, fields, other fields) of names that came of different fields: a/b with c, and a with b/c."""
        first: dict[str, tuple[Any, ...]] = {}
        found: dict[str, tuple[str, str, str]] = {}
        for parts, name in self._names.items():
            before = first.setdefault(name, parts)
            if _shown(before) != _shown(parts):
                found.setdefault(name, (name, _shown(before), _shown(parts)))
        return list(found.values())

    def _name(self, row: Any) -> str | None:
        """None where no field is mapped, and the contract's is not there."""
        parts: list[str] = []
        for part in self.layout.parts:
            texts = self._part(row, part)
            if texts is None:
                return None
            if not texts:
                continue
            joined = "-".join(texts) if len(part.columns) > 1 else "/".join(texts)
            if len(part.columns) == 1 or not parts or joined != parts[-1]:
                parts.append(joined)
        if not parts:
            raise Refused("no-series", "none of the fields that name the series is there (decode.series)")
        return "/".join(parts)

    def _part(self, row: Any, part: SeriesPart) -> list[str] | None:
        found: list[str] = []
        for column, optional, rest, text in zip(part.columns, part.optional, part.rest, part.texts, strict=True):
            value = row[column]
            if rest is not None:
                found += _rest(value, rest)
            elif value.__class__ is str and value:
                found.append(value)
            elif value is None or value is ABSENT or value == "":
                if optional:
                    continue
                if self.decode.series is None:
                    return None
                what = "an empty text" if value == "" else "null or absent"
                keyed = len(self.layout.parts) == 1 and value != "" and not text.startswith("@")
                hint = "; unset it to go by the key" if keyed else ""
                raise Refused("no-series", f"the field {short(text)} is {what} (decode.series{hint})")
            else:
                found.append(_named_by(value, text))
        return found

    def _instant(self, row: Any, time: Any, record: Record) -> int:
        for column in self.layout.ts:
            ts = row[column]
            kind = ts.__class__
            if kind is msgspec.Raw:
                text = bytes(ts)
                first = text[:1]
                if first == b"n" or not text:
                    continue
                if first == b'"':
                    return self._texts.us(msgspec.json.decode(text))
                if first == b"-" or first.isdigit():
                    return self._number_us(text)
                raise Refused("timestamp", f"{short(text.decode())} is neither a number nor a text (decode.ts)")
            if kind is int:
                if column in self._kafka_times:  # milliseconds, whatever the unit of the others; −1: there is none
                    if ts < 0:
                        continue
                    return self._bounded(ts * 1000)
                return self._bounded(ts * self._ns // 1000)
            if kind is str:
                return self._bounded(self._texts.us(ts))
            if ts is None or ts is ABSENT:
                continue
            if kind is Number:
                return self._number_us(ts.text.encode())
            if kind is float:
                if self.decode.format not in _TEXTS:
                    return self._double_us(ts)
                raise _Inexact
            if kind is Micros:
                return self._bounded(int(ts))
            if kind is LocalMicros:
                return self._bounded(self._texts.local_us(ts))
            if kind is datetime and ts.tzinfo is not None:
                return self._bounded((ts - EPOCH) // _US)
            raise Refused("timestamp", f"{named(ts)} is neither a number nor a text (decode.ts)")
        return self._instant_outside(time, record)

    def _number_us(self, text: bytes) -> int:
        if text.isdigit() and len(text) < 20:
            return self._bounded(int(text) * self._ns // 1000)
        return self._bounded(number_us(text, self._ns))

    def _double_us(self, ts: float) -> int:
        """Of a double that is no text: as it would be written, which is what its sender has seen."""
        if not math.isfinite(ts):
            raise Refused("timestamp", "NaN or Infinity is not a time (decode.ts)")
        return self._number_us(repr(ts).encode())

    @staticmethod
    def _bounded(us: int) -> int:
        if not -_US_MAX <= us <= _US_MAX:
            raise Refused("timestamp", f"{short(us // 1000)} ms does not fit 64 bits of microseconds (decode.ts_unit)")
        return us

    # ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _values(self, row: Any) -> Values:
        most = self.decode.value_abs_max
        found: list[float | None] = []
        several = self._slice is None
        for channel, value in enumerate(
            row[self._slice] if not several else [_first(row, columns) for columns in self.layout.values]
        ):
            kind = value.__class__
            if kind is float or kind is int:
                if value is not ABSENT and not -most <= value <= most:
                    if value != value:  # formats that have NaN
                        value = None
                    else:
                        self._out_of_range(value, channel)
                found.append(value)
            elif value is None:
                found.append(None)
            else:
                found.append(self._number(value, channel, self.layout.wanted[self.layout.values[channel][0]].text))
        return tuple(found)

    def _long(self, row: Any) -> tuple[Values, int]:
        layout = self.layout
        name = row[layout.channel] if layout.channel >= 0 else ABSENT
        if name is ABSENT or name is None:
            if self._skips:
                raise Skip("other")
            raise Refused("no-values", self._no_values)
        if name.__class__ is not str:
            name = _named_by(name, str(self.decode.channel))
        index = self._channels.get(name)
        if index is None:
            if self._skips:
                raise Skip("other")
            raise Refused("unknown-channel", f"{short(name)} is not one of the configured `channels`")
        value = _first(row, layout.value)
        if value is ABSENT and len(layout.value) == 1:
            raise Refused("no-values", f"a long record without the field {self.decode.value!r} (decode.value)")
        values: list[float | None] = list(self._blank)
        if value is ABSENT or value is None:
            values[index] = None
        else:
            values[index] = self._number(value, index, layout.wanted[min(layout.value)].text)
        return tuple(values), index

    def _number(self, value: Any, channel: int, text: str) -> float | None:
        """A value as a number; None where it says that there is none."""
        numbers, kind = self.decode.numbers, value.__class__
        found: float | int
        if kind is int or isinstance(value, float):
            found = float(value) if kind is Number else value
        elif kind is str and numbers != "strict":
            words = value.strip().lower()
            if words in _MISSING:
                return None
            if numbers == "decimal":
                found = self._decimal(value, self._scales[channel], text)
            elif len(words) > _NUMBER_CHARS_MAX:
                raise Refused("type", f"{short(value)} at `{text}` is not a number")
            elif self.decode.decimal == ",":
                number = numerals.plain(words, ",")
                if number is None:
                    raise Refused(
                        "type", f"{short(value)} at `{text}` is not a number with a decimal comma (decode.decimal)"
                    )
                found = float(number)
            elif _NUMBER.fullmatch(words):
                found = float(words)
            else:
                comma = "," in words and numerals.plain(words, ",") is not None
                hint = ' (decode.decimal: "," reads decimal commas)' if comma else ""
                raise Refused("type", f"{short(value)} at `{text}` is not a number{hint}")
        elif kind is dict and numbers == "decimal":
            found = self._decimal(value.get("value"), value.get("scale"), text)
        else:
            hint = " (decode.numbers: text reads numbers in texts)" if kind is str else ""
            raise Refused("type", f"Expected a number at `{text}`, got {named(value)}{hint}")
        if not -self.decode.value_abs_max <= found <= self.decode.value_abs_max:
            if found != found:
                return None
            self._out_of_range(found, channel)
        return found

    def _decimal(self, value: Any, scale: Any, text: str) -> float:
        """Kafka Connect's Decimal: base64 of an unscaled two's complement number, the highest byte first."""
        if not isinstance(value, str) or not value or not _BASE64.fullmatch(value):
            raise Refused("type", f"{short(value)} at `{text}` is no base64 of a decimal's bytes (decode.numbers)")
        if not isinstance(scale, int) or isinstance(scale, bool):
            raise Refused("type", f"a decimal at `{text}` whose scale is not known: set decode.scale")
        if abs(scale) > _SCALE_MAX or len(value) > _NUMBER_CHARS_MAX:
            raise Refused("range", f"a decimal at `{text}` of more digits than a number has")
        try:
            unscaled = int.from_bytes(base64.b64decode(value), "big", signed=True)
            return unscaled / 10**scale if scale >= 0 else float(unscaled * int(10**-scale))
        except (binascii.Error, OverflowError):
            raise Refused("range", f"a decimal at `{text}` that no double holds") from None

    def _out_of_range(self, value: float, channel: int) -> None:
        name, most = self.spec.channels[channel], self.decode.value_abs_max
        shown = (
            short(value)
            if isinstance(value, int)
            else f"{value:g}"
            if math.isfinite(value)
            else "a number beyond doubles"
        )
        raise Refused("range", f"{shown} of the channel {short(name)} is beyond {most:g} (decode.value_abs_max)")


class _Rows:
    """Arrays whose elements are wide records at fixed keys, by the schema that single records have: at their cost.

    Takes a record only where all is plain in it: names that are printable ASCII, whole milliseconds, a channel in every
    element. Whatever else there is, the general way reads all of it.
    """

    def __init__(
        self, spec: StreamSpec, element: DecodeSpec, array: Sequence[str], outer: Sequence[str], most: int
    ) -> None:
        shape = shape_of(spec, element)
        tree: dict[str, Any] = {}
        if array:
            put(tree, array, list[shape.root] | None, "the array")  # type: ignore[name-defined]
        if outer:
            put(tree, outer, str | None, "the series")
        attributes: dict[tuple[str, ...], str] = {}
        root: Any = struct_of("Record", tree, (), "", attributes) if array else list[shape.root]  # type: ignore[name-defined]
        self._decode = msgspec.json.Decoder(root).decode
        self._array = attrgetter(attributes[tuple(array)]) if array else None
        self._outer = attrgetter(attributes[tuple(outer)]) if outer else None
        self._head, self._body = shape.head, shape.body
        self._most, self._name_max = most, element.series_bytes_max

    def read(self, payload: bytes, out: list[Tick], blank: Values) -> bool:
        """Appends the ticks of a record; False, and nothing appended, where it is to be read the general way."""
        head, body, name_max, found = self._head, self._body, self._name_max, list[Tick]()
        try:
            at = self._decode(payload)
            rows = self._array(at) if self._array is not None else at
            outer = self._outer(at) if self._outer is not None else None
            if not rows or len(rows) > self._most or (self._outer is not None and outer is None):
                return False
            for index, row in enumerate(rows):
                name, ts, _, _ = head(row)
                values = body(row)
                if outer is not None:
                    name = outer
                if (
                    name.__class__ is not str
                    or ts.__class__ is not int
                    or values == blank
                    or not (name.isascii() and name.isprintable() and 0 < len(name) <= name_max)
                    or not -_MS_MAX <= ts <= _MS_MAX
                ):
                    return False
                found.append((name, ts * 1000, values, -1, index))
        except (msgspec.ValidationError, AttributeError):
            return False
        if len(found) == 1:
            found = [(*found[0][:4], -1)]
        out += found
        return True


def _rows_of(spec: StreamSpec, decode: DecodeSpec) -> _Rows | None:
    """None where the elements have another shape."""
    if not isinstance(decode.each, str) or decode.ts_unit != "ms" or decode.format not in ("json", "json-schema"):
        return None
    path = parse_path(decode.each)
    array = [step.name for step in path.steps[:-1] if isinstance(step, Key)]
    if path.steps[-1:] != (Star(True),) or len(array) != len(path.steps) - 1:
        return None
    element, outer = replace(decode, each=None, format="json"), list[str]()
    if isinstance(decode.series, str) and decode.series.startswith("^.") and array:
        inner = parse_path(decode.series[2:])
        if not inner.plain:
            return None
        outer = [step.name for step in inner.steps if isinstance(step, Key)]
        element = replace(element, series="no such\\.field")  # it stands outside of the elements
    if isinstance(decode.values, str):
        # A template, written out.
        element = replace(
            element,
            values={channel: filled_in(parse_path(decode.values), channel).written() for channel in spec.channels},
        )
    try:
        return _Rows(spec, element, array, outer, decode.elements_max) if element.plain else None
    except (ValueError, TypeError):
        return None


_MS_MAX = (1 << 62) // 1000 - 1
_US_MAX = _MS_MAX * 1000 + 999
_KEPT = (str, Labels)
# Formats whose keys and values can be looked up by, or are not there.
_KEYED = frozenset({"otlp-proto", "graphite"})
# Formats whose numbers are texts, of which the digits are had.
_TEXTS = frozenset({"json", "json-schema"})


_US = timedelta(microseconds=1)
# What stands for null in a record that holds nothing else.
_NIL: dict[str, bytes | None] = {"json": b"null", "json-schema": b"null", "msgpack": b"\xc0"}


class _Inexact(Exception):
    """A time came as a double, and its digits are wanted."""


def _first(row: Any, columns: Sequence[int]) -> Any:
    """Of several fields the first that is there: null where one is null and none is there."""
    found = ABSENT
    for column in columns:
        value = row[column]
        if value is None:
            found = None
        elif value is not ABSENT:
            return value
    return found


def _named_by(value: Any, text: str) -> str:
    """A number or a truth as a name."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else _too_long(text)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
    raise Refused("type", f"Expected a text or a number at `{text}`, got {named(value)} (decode.series)")


def _too_long(text: str) -> str:
    raise Refused("range", f"a number of more than 30 digits at `{text}` (decode.series)")


def _shown(parts: Sequence[Any]) -> str:
    return " with ".join("nothing" if part is ABSENT or not part else ascii(part) for part in parts)


def _rest(value: Any, known: frozenset[str]) -> list[str]:
    """All values of an object, or of an array of keys and values, by the order of their keys; those that are named beside,
    and keys with two underscores before them, are left out."""
    if value is None or value is ABSENT:
        return []
    if isinstance(value, list):
        value = {
            key: entry.get("value")
            for entry in value
            if isinstance(entry, dict) and isinstance(key := entry.get("key", entry.get("name")), str)
        }
    if not isinstance(value, dict):
        raise Refused("type", f"Expected an object for the series' name, got {named(value)} (decode.series)")
    found = []
    for key in sorted(value):
        if key in known or key.startswith("__"):
            continue
        each = value[key]
        if isinstance(each, dict) and len(each) == 1:
            (each,) = each.values()
        if isinstance(each, str | int | float) and each != "":
            found.append(each if isinstance(each, str) else _named_by(each, key))
    return found


def _event(payload: bytes) -> tuple[bytes, Any, Any]:
    """(data, series, time) of a structured CloudEvent (JSON event format 1.0.2)."""
    event = msgspec.json.decode(payload, type=_Event)
    data: bytes = bytes(event.data) if event.data_base64 is None else event.data_base64
    if not data or data == b"null":
        raise Refused("no-values", "the CloudEvent has no data")
    return data, event.subject or event.partitionkey, event.time


class _Event(msgspec.Struct):
    subject: str | None = None
    partitionkey: str | None = None
    time: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: bytes | None = None


__all__ = ["UNREADABLE", "General", "Skip"]
