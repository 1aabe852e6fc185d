"""From records that nobody has described to a configuration: the preset or the paths, the unit of time, channels, step.

It looks at a sample. What it takes for granted stands as a note beside the proposal; what it cannot know (a time zone, the
scale of a decimal) is left open and said.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamrnn.durations import format_ms
from streamrnn.records import Record
from streamrnn.spec import StreamSpec
from streamrnn.wire import lines, numerals
from streamrnn.wire.codec import cloud_event
from streamrnn.wire.elements import Layout
from streamrnn.wire.influx import metrics_of
from streamrnn.wire.instants import UNREADABLE, Refused, TextTimes, text_us
from streamrnn.wire.mapping import DecodeSpec, Format
from streamrnn.wire.otlp import OtlpReader
from streamrnn.wire.paths import ABSENT, ROOTS, Key, Mistyped, parse_path
from streamrnn.wire.presets import with_preset
from streamrnn.wire.schemas import Schemas, available
from streamrnn.wire.sparkplug import SparkplugReader

CHANNELS_MAX = 24
DEPTH_MAX = 5
HORIZON = 12
UNIT_US = {"s": 10**6, "ms": 1000, "us": 1, "ns": 0.001}
# Event times that are believed where a record has no time of its own: 1990 to 2100.
BELIEVED_US = (631_152_000_000_000, 4_102_444_800_000_000)
NEAR_US = 400 * 86_400 * 10**6

_TIMES = re.compile(
    r"(^|[._@$])(ts|time|timestamp|datetime|date|dt|at|when|instant|event_?time|t)($|_|\d)|_(at|ts|time|timestamp)($|_)|time$|Time|"
    r"timestamp$|Timestamp|^clock$|time_?in_?|TimeIn|^epoch|^(zeit|zeitstempel|uhrzeit|fecha|horodatage|tijd|datum|day|month|jour|giorno|mess_?datum)$|(^|_)date(_|$)|[a-z]Date$|(^|_)(created|updated|measured|recorded|sampled|observed|sent|last_seen|last_changed)($|_)",
    re.ASCII,
)
_NOT_VALUES = re.compile(
    r"(^|[._])(id|ids|uuid|start|stop|begin|end|interval|seq|sequence|offset|partition|version|rev|revision|ts|time|timestamp|datetime|date|dt|lat|lon|latitude|"
    r"longitude|trade_id|code|status)$|_(id|at|ts|time|timestamp|seq|ms|us|ns|naive)$|(Id|Time|Timestamp)$|"
    # Numbers of protocols and kinds, in any case, and what was before.
    r"(?i:(^|[._])(ns|clock|qos|type|period|specversion|[$]oid|[a-z]*nanos?|timezone|cod|xid|f_?cnt|f_?port|dr|adr|dev_?addr|dev_?eui)$|"
    r"(item|host|device|sensor|event|object|node|trade|order|unit|slave|instrument|publisher|template|writer|message)_?ids?$|"
    r"seq(uence)?_?(number|no|nr|num|id)$|(major|minor|meta|schema)_?version$|status_?code$|(^|[._])(status|quality(_?code)?)$|checksum$|crc(16|32)?$|"
    r"(^|[._])(network|ieee|mac|ip|port|slave|unit|node|register)_?addr(ess)?$|(^|[._])(slave|address|register|rtype|mmsi|imei)$|"
    r"(^|[._])(year|month|week|weekday|day|hour|minute)$|"
    r"(^|[._])(old|prev|previous|before)(_[^.]*)?[.])"
)
_SERIES = re.compile(
    r"(device|sensor|host|hostname|machine|asset|series|unit|station|meter|symbol|ticker|product_?id|instrument|tag|node|name|"
    r"entity|equipment|thing|client|location|site|room|pump|publisher|id|uid|key|sym|sn|s|src|source|subject|topic|channel|stream|"
    r"dev|vehicle|vin|mmsi|imei|serial|plc|well|turbine|inverter|robot|valve|motor|boiler|(tag|node|browse)_?path)(_?(id|name|no|number|uid))?$",
    re.IGNORECASE,
)
# Fields that name a message, and not what it is of.
_OF_MESSAGE = re.compile(
    r"(^|_)(msg|message|correlation|trace|span|request|event|batch|deduplication|transaction)_?u?id$|^_id$|^(type|kind|source)_?id$",
    re.IGNORECASE,
)
# Names that say where a message came by: better than none.
_LAST = re.compile(r"^(src|source|topic|channel|stream)$", re.IGNORECASE)
# What stands beside a value and says of what kind it is, not which.
_KINDS = frozenset(
    {
        "gauge",
        "counter",
        "absolute",
        "incremental",
        "timing",
        "timer",
        "histogram",
        "distribution",
        "summary",
        "set",
        "sum",
    }
    | {
        "insert",
        "update",
        "delete",
        "snapshot",
        "struct",
        "record",
        "object",
        "array",
        "boolean",
        "float4",
        "float8",
        "float32",
    }
    | {
        "float64",
        "int1",
        "int2",
        "int4",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint16",
        "uint32",
        "uint64",
        "decimal",
        "numeric",
    }
    | {
        "untyped",
        "property",
        "relationship",
        "rate",
        "derive",
        "number",
        "float",
        "int",
        "integer",
        "double",
        "string",
        "bool",
        "datetime",
        "text",
    }
)
_RANK = (
    "series",
    "device",
    "sensor",
    "subject",
    "machine",
    "asset",
    "host",
    "instrument",
    "symbol",
    "ticker",
    "product",
    "meter",
    "station",
    "unit",
    "thing",
    "entity",
    "equipment",
    "node",
    "client",
)
_LONG_NAMES = (
    "channel",
    "metric",
    "metric_name",
    "measurement",
    "parameter",
    "param",
    "variable",
    "signal",
    "quantity",
    "field",
    "property",
    "tagname",
    "tag",
    "resource",
    "target",
    "attribute",
    "point",
    "register",
    "item",
    "measure",
    "type",
    "kind",
    "name",
    "key",
)
_LONG_VALUES = ("value", "val", "v", "reading", "metric_value", "measurement", "data")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
# Digits that begin with a zero number something: 0101 is no measured value.
_CODE = re.compile(r"0[0-9]+$")
_WORDS = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "-infinity", "+infinity"})
_LOCAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?", re.ASCII)


class NoProposal(Exception):
    """Nothing in the sample can be read; the message says what it looks like, and what to do."""


@dataclass(slots=True)
class Proposal:
    """`settings`: the configuration, as keys of a YAML file; `notes`: what was found, and what is left open."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


Documents = list[tuple[Any, Record]]


class _Unframed:
    """A record without the five bytes that a schema registry's serializer puts before its value."""

    def __init__(self, record: Record) -> None:
        self.topic, self.partition, self.offset = record.topic, record.partition, record.offset
        self.timestamp, self.key, self.headers = record.timestamp, record.key, record.headers
        self.value = (record.value or b"")[5:]


def propose(records: Sequence[Record], topic: str, known: tuple[Format, Schemas] | None = None) -> Proposal:
    """A configuration for such records; `known`: their format and schemas, by a registry. Raises NoProposal."""
    framed = [
        record
        for record in records
        if (record.value or b"")[:1] == b"\x00" and (record.value or b"")[5:6] in (b"{", b"[")
    ]
    documents, leading, bare = _documents(
        [_Unframed(record) for record in framed] if 2 * len(framed) > len(records) else records
    )
    form = "json"
    if known is not None and known[0] != "json-schema":
        form, leading, bare = known[0], False, False
        documents = _by_schema(records, known[1])
    else:
        for form in ("json", *_OTHERS):
            if form != "json":
                documents = _other_documents(records, form)
            if documents:
                break
    if not documents and (table := _lines_of_cells(records)) is not None:
        return _of_cells(table, records, topic)
    if not documents and (simple := _bare_values(records, topic)) is not None:
        return simple
    if not documents:
        raise NoProposal(_not_json(records))
    decode: dict[str, Any] = {}
    notes: list[str] = []
    inner = _inner_texts(documents)
    if inner:
        documents = inner[1]
        notes.append(f"the records hold JSON as a text, at {inner[0]} (decode.unwrap)")
    events = _cloud_events(documents) if form == "json" else None
    if events is not None:
        documents = events.data
        notes.append("the records are CloudEvents: what the fields of `data` do not say, the event does")
    preset = _PRESET_OF[form] if form in _PRESET_OF else _preset_of(documents)
    connect = preset is None and sum(_is_connect(document) for document, _ in documents) > len(documents) / 2
    if connect:
        documents = [(_unwrapped(document, "payload"), record) for document, record in documents]
        documents = [(document, record) for document, record in documents if isinstance(document, dict)]
        notes.append("the records stand beside their schema, as Kafka Connect writes them (decode.unwrap)")
    if preset == "":
        channels = _contract_channels(documents)
    elif preset is not None:
        decode = {"preset": preset}
        notes.append(f"the records look like those of {preset} (streamrnn knows them by that name)")
        channels = _settle_preset(decode, documents, notes)
    else:
        decode, channels = _inferred(documents, notes)
        _without_deletes(decode, documents, notes)
    if events is not None:
        events.settle(decode, notes)
    if inner:
        decode = {"unwrap": inner[0], **decode, "tombstones": "skip"}
    if connect:
        decode = {"unwrap": "payload", **decode, "tombstones": "skip"}
    if 2 * len(framed) > len(records):
        decode["format"] = "json-schema"
        notes.append("the records are JSON after the id of a schema (Confluent's frame)")
    if form == "msgpack":
        decode["format"] = form
        notes.append("the records are MessagePack")
    elif known is not None and known[0] == form:
        decode["format"] = form
        notes.append(f"the records are {form}, by the schemas of the registry")
        if with_preset(decode, ()).get("numbers") == "decimal":  # they come as numbers
            decode.pop("scale", None)
    if leading and preset is None:
        decode["leading"] = "skip"
    if bare and with_preset(decode, ()).get("numbers", "strict") == "strict":
        decode["numbers"] = "text"
        notes.append("NaN or Infinity stand as bare words: read as missing")
    channels = [channel for channel in channels if channel]
    if not channels:
        if preset in ("otlp-json", "otlp-proto") and (kinds := _not_gauges(documents)):
            raise NoProposal(
                f"of OTLP gauges and sums are read, and these records hold {kinds} alone: have the collector make gauges of them"
            )
        raise NoProposal("no numbers were found that could be channels; map them with decode.values")
    if preset in ("otlp-json", "otlp-proto") and (kinds := _not_gauges(documents)):
        notes.append(f"of OTLP gauges and sums are read; there are {kinds}, too")
    if len(channels) > CHANNELS_MAX:
        notes.append(f"{len(channels)} numbers were found; these are the {CHANNELS_MAX} most frequent")
        channels = channels[:CHANNELS_MAX]
    settings: dict[str, Any] = {"input": topic, "channels": channels, "step": "1s", "horizon": HORIZON}
    if decode:
        settings["decode"] = decode
    return _checked(settings, records, notes, known)


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _documents(records: Sequence[Record]) -> tuple[Documents, bool, bool]:
    """(documents, whether something stands before them, whether NaN stands in them as a bare word)"""
    found: Documents = []
    leading = bare = False
    for record in records:
        payload = record.value
        if payload is None:
            continue
        if (
            payload[:1] not in (b"{", b"[")
            and (at := payload.find(b"{")) > 0
            and payload[:1].isascii()
            and payload[0] >= 32
        ):
            payload, leading = payload[at:], True
        try:
            document = msgspec.json.decode(payload)
        except UNREADABLE:
            try:
                document = json.loads(payload, parse_constant=lambda _: None)
                bare = True
            except (ValueError, RecursionError):
                continue
        if isinstance(document, dict | list) and document:
            found.append((document, record))
    return found, leading, bare


# Keys under which programs put what they were given, as a text.
_WRAPS = ("after", "payload", "message", "data", "value", "body", "log", "msg", "event", "record")


def _inner_texts(documents: Documents) -> tuple[str, Documents] | None:
    """(key, documents) where most documents hold another, as a text."""
    for key in _WRAPS:
        found: Documents = []
        for document, record in documents:
            text = document.get(key) if isinstance(document, dict) else None
            if not isinstance(text, str) or text.lstrip()[:1] not in ("{", "["):
                continue
            try:
                inner = msgspec.json.decode(text)
            except UNREADABLE:
                continue
            if isinstance(inner, dict | list) and inner:
                found.append((inner, record))
        if 2 * len(found) > len(documents):
            return key, found
    return None


def _is_connect(document: Any) -> bool:
    """Whether it is a schema of Kafka Connect and what is by it (JsonConverter with schemas.enable)."""
    return (
        isinstance(document, dict) and set(document) == {"schema", "payload"} and isinstance(document["schema"], dict)
    )


@dataclass(slots=True)
class _Events:
    """CloudEvents by their headers, whose names and times the decoder takes where no field is mapped."""

    data: Documents
    named: bool
    timed: bool

    def settle(self, decode: dict[str, Any], notes: list[str]) -> None:
        if self.named and str(decode.get("series")).startswith("@"):
            del decode["series"]
            notes[:] = [note for note in notes if not note.startswith("series: ")]
            notes.append("series: the event's subject names it (or its partition key)")
        if self.timed and ("ts" not in decode or decode["ts"] == "@time"):
            decode.pop("ts", None)
            notes[:] = [note for note in notes if not note.startswith("no field is a time")]


def _cloud_events(documents: Documents) -> _Events | None:
    found: Documents = []
    named = timed = 0
    for document, record in documents:
        structured, subject, time = cloud_event(record.headers)
        if structured and isinstance(document, dict):
            subject = document.get("subject") or document.get("partitionkey")
            time, document = document.get("time"), document.get("data")
        elif not any(name.lower() == "ce_specversion" for name, _ in record.headers):
            continue
        if isinstance(document, dict | list) and document:
            found.append((document, record))
            named += bool(subject)
            timed += bool(time)
    most = len(documents) / 2
    return _Events(found, named > most, timed > most) if len(found) > most else None


# Fields that say what was done to a row, by the words of those after which it is there.
_DONE = re.compile(r"(^|[._])(type|op|operation|action|change_?type|event_?type|kind|__op)$", re.IGNORECASE)
_THERE = ("insert", "update", "modify", "snapshot", "read", "create", "c", "r", "u", "i")
_AWAY = ("delete", "remove", "d")
_SURELY = frozenset({"insert", "modify", "delete", "remove", "c", "r", "d", "i"})
_TABLES = re.compile(r"(^|[._])(table|database|db|schema|eventsourcearn)(_?name)?$", re.IGNORECASE)


def _without_deletes(decode: dict[str, Any], documents: Documents, notes: list[str]) -> None:
    """Rows of a table that were deleted are no readings, though their last values stand in the record."""
    leaves = _leaves(documents)
    of_a_table = any(_TABLES.search(path) for path in leaves)
    for path, leaf in leaves.items():
        said = {text.lower() for text in leaf.texts}
        if not _DONE.search(path) or not said or said - {*_THERE, *_AWAY} or not (said & _SURELY or of_a_table):
            continue
        if path in (decode.get("channel"), decode.get("series")) or len(leaf.texts) < len(leaf.values):
            continue
        write = str.upper if leaf.texts[0].isupper() else str.capitalize if leaf.texts[0].istitle() else str.lower
        outs = "^." * len(re.findall(r"\[\*\]", decode.get("each", "")))
        long = len(leaf.texts[0]) > 1
        wanted = [write(word) for word in _THERE if (len(word) > 1) == long]
        decode["where"] = {outs + path: wanted}
        notes.append(f"{outs}{path} says what was done to a row: deleted ones are skipped (decode.where)")
        return


def _bare_values(records: Sequence[Record], topic: str) -> Proposal | None:
    """Of records that are a number each, as a sensor's topic of MQTT has them."""
    count = 0
    texts = False
    for record in records:
        try:
            value = msgspec.json.decode(record.value or b"")
        except UNREADABLE:
            continue
        count += _is_number(value, "text")
        texts = texts or isinstance(value, str)
    if 2 * count <= len(records):
        return None
    keyed = sum(record.key is not None for record in records) == len(records)
    decode = {
        "series": "@key" if keyed else "@topic",
        "ts": "@time",
        "values": {"value": "."},
        "channel": None,
        "value": None,
    }
    notes = [
        "the records are a number each: the series is named by "
        + ("the key" if keyed else "the topic, for they have no key")
        + ", and the record's own time counts"
    ]
    if texts:
        decode["numbers"] = "text"
    settings = {"input": topic, "channels": ["value"], "step": "1s", "horizon": HORIZON, "decode": decode}
    return _checked(settings, records, notes)


# ── lines of cells ───────────────────────────────────────────────────────────────────────────────────────────────────

_SEPARATORS = (";", "\t", "|", ",")


@dataclass(frozen=True, slots=True)
class _Cells:
    """Records of CSV lines: `names` of the columns, whether a line says them, and each record's rows without that line."""

    separator: str
    names: list[str]
    header: bool
    rows: list[tuple[list[list[str]], Record]]


def _lines_of_cells(records: Sequence[Record]) -> _Cells | None:
    """None where most lines do not have as many cells, or nothing says that they are a table: no names above, no time."""
    texts: list[tuple[str, Record]] = []
    for record in records:
        try:
            texts.append(((record.value or b"").decode("utf-8-sig"), record))
        except UnicodeDecodeError:
            return None
    for separator in _SEPARATORS:
        parsed = []
        for text, record in texts:
            try:
                parsed.append(([row for row in csv.reader(text.splitlines(), delimiter=separator) if row], record))
            except csv.Error:
                continue
        counts = Counter(len(row) for rows, _ in parsed for row in rows)
        width, often = max(counts.items(), key=lambda each: each[1], default=(0, 0))
        if 2 <= width <= 256 and often >= 0.9 * counts.total():
            found = _table_of(
                separator, [([row for row in rows if len(row) == width], record) for rows, record in parsed]
            )
            if found is not None:
                return found
    return None


def _table_of(separator: str, parsed: list[tuple[list[list[str]], Record]]) -> _Cells | None:
    rows = [[cell.strip() for cell in row] for rows, _ in parsed for row in rows]
    heads = Counter(
        tuple(row) for row in rows if all(row) and len(set(row)) == len(row) and not any(map(_is_cell, row))
    )
    first = tuple(rows[0])
    head = first if first in heads else next((row for row, count in heads.most_common(1) if count > 1), None)
    body = [row for row in rows if tuple(row) != head]
    if not body:
        return None
    record_ms = statistics.median([record.timestamp for _, record in parsed])
    names, columns = list(head or ()), [[cell or None for cell in column] for column in zip(*body, strict=True)]
    timed = [
        any(column) and _time_settings([cell for cell in column if cell], record_ms)[0] is not None
        for column in columns
    ]
    measured = [any(column) and all(cell is None or _is_cell(cell) for cell in column) for column in columns]
    if not any(measured) or not (head or any(timed)):
        return None
    if head is None:
        at = timed.index(True)
        named = next((i for i, column in enumerate(columns) if i != at and not measured[i] and any(column)), -1)
        names = ["ts" if i == at else "series" if i == named else f"c{i + 1}" for i in range(len(columns))]
    kept = [([row for row in rows if tuple(cell.strip() for cell in row) != head], record) for rows, record in parsed]
    return _Cells(separator, names, head is not None, kept)


def _is_cell(text: str) -> bool:
    return _is_number(text, "text") or _is_number(text, "comma")


def _of_cells(table: _Cells, records: Sequence[Record], topic: str) -> Proposal:
    """Raises NoProposal."""
    notes = [
        "the records are lines of cells (CSV)"
        + (", and a line that repeats the names is left out" if table.header else "")
    ]
    if not table.header:
        notes.append("the cells have no names: those in decode.columns are by their place, give them names of your own")
    documents: Documents = [
        (
            {"lines": [{n: cell.strip() or None for n, cell in zip(table.names, row, strict=True)} for row in rows]},
            record,
        )
        for rows, record in table.rows
        if rows
    ]
    decode, channels = _inferred(documents, notes)
    if decode.pop("each", None) is None or not channels:
        raise NoProposal("no numbers were found in the cells that could be channels; map them with decode.values")
    if decode.get("series") == "@topic" and (column := _column_of_names(table, decode)) is not None:
        decode["series"] = column
        notes[:] = [note for note in notes if not note.startswith("series: nothing names it")]
        notes.append(f"series: {column}, the one column of a few words that come again and again (decode.series)")
    for key, said in (("numbers", "text"), ("values", "*"), ("channel", None), ("value", None)):
        if key in decode and decode[key] == said:  # as preset csv has it
            del decode[key]
    more = {"separator": table.separator} if table.separator != "," else {}
    decode = {"format": "csv", "columns": table.names, **more, **decode}
    settings = {"input": topic, "channels": channels[:CHANNELS_MAX], "step": "1s", "horizon": HORIZON, "decode": decode}
    return _checked(settings, records, notes)


def _column_of_names(table: _Cells, decode: Mapping[str, Any]) -> str | None:
    """The only column of words, each of which stands in many rows."""
    rows = [row for rows, _ in table.rows for row in rows]
    found = []
    for name, column in zip(table.names, zip(*rows, strict=True), strict=True):
        words = {cell.strip() for cell in column}
        if (
            name != decode.get("ts")
            and not any(map(_is_cell, words))
            and "" not in words
            and 3 * len(words) <= len(rows)
        ):
            found.append(name)
    return found[0] if len(found) == 1 else None


# Formats that are looked for where there is no JSON, and those whose objects have one shape, by the preset of it.
_OTHERS = ("sparkplug", "influx", "graphite", "collectd", "msgpack", "otlp-proto")
_PRESET_OF = {
    "influx": "influx",
    "graphite": "graphite",
    "collectd": "collectd-command",
    "otlp-proto": "otlp-proto",
    "sparkplug": "sparkplug",
}
_LINES: dict[str, Callable[[bytes, int], dict[str, list[Any]]]] = {
    "influx": metrics_of,
    "graphite": lines.graphite,
    "collectd": lines.collectd,
}


def _by_schema(records: Sequence[Record], schemas: Schemas) -> Documents:
    found: Documents = []
    for record in records:
        with contextlib.suppress(Refused):
            document = schemas.document(record.value or b"", record)
            if isinstance(document, dict | list):
                found.append((document, record))
    return found


def _other_documents(records: Sequence[Record], form: str) -> Documents:
    """Of records in another format, where most of them are."""
    edges = SparkplugReader() if form == "sparkplug" and not available("sparkplug") else None
    otlp = OtlpReader() if form == "otlp-proto" and not available("otlp-proto") else None
    found: Documents = []
    for record in records:
        document: Any = None
        try:
            if form in _LINES:
                if form == "graphite" and _EXPOSED.search((record.value or b"")[:1000]):
                    continue
                document = _LINES[form](record.value or b"", CHANNELS_MAX**2)
                (found_lines,) = document.values()
                if not found_lines or any(isinstance(each, Mistyped) for each in found_lines):
                    continue
                if form == "graphite" and not _are_points(found_lines):
                    continue
            elif form == "sparkplug":
                if edges is not None and (record.key or b"").startswith(b"spBv1.0/"):
                    document = edges.document(record.value or b"", record, CHANNELS_MAX**2)
            elif form == "otlp-proto":
                document = otlp.document(record.value or b"", CHANNELS_MAX**2) if otlp is not None else None
                if document is not None and not any(
                    metric["name"] and len(metric) > 1
                    for resource in document["resourceMetrics"]
                    for scope in resource["scopeMetrics"]
                    for metric in scope["metrics"]
                ):
                    continue
            elif (record.value or b"{")[0] >= 0x80:  # an object, an array, or what holds one
                document = msgspec.msgpack.decode(record.value or b"")
        except (*UNREADABLE, Refused):
            continue
        if isinstance(document, dict | list) and document:
            found.append((document, record))
    return found if 2 * len(found) > len(records) else []


def _are_points(found: Sequence[Any]) -> bool:
    values = [each["value"] for each in found]
    return any(map(_NUMBER.fullmatch, values)) and all(
        _NUMBER.fullmatch(value) or value.lower() in _WORDS for value in values
    )


# Lines of Prometheus' text format, which are what a target shows, and no records.
_EXPOSED = re.compile(rb"# (HELP|TYPE) |^[a-zA-Z_:][a-zA-Z0-9_:]*\{[^}]*\} \S+", re.MULTILINE)


def _not_json(records: Sequence[Record]) -> str:
    values = [record.value for record in records if record.value]
    if not values:
        return "the records have no values" if records else "there are no records to look at"
    first = values[0]
    if first[:1] == b"\x00" and len(first) > 5:
        return (
            f"the records begin with a schema's id ({int.from_bytes(first[1:5], 'big')}), as those of a schema registry do: say "
            "where it is, with --set registry.url=http://HOST:8081"
        )
    if _EXPOSED.search(first[:1000]):
        return (
            "the records are texts of Prometheus' exposition format, which is not read: have them sent as JSON "
            "(prometheus-kafka-adapter), as Influx lines (Telegraf) or as OTLP"
        )
    return "the records are in none of the formats that are known by their looks"


# ── presets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _has(document: Any, *keys: str) -> bool:
    return isinstance(document, dict) and all(key in document for key in keys)


def _unwrapped(document: Any, key: str) -> Any:
    return document.get(key, document) if isinstance(document, dict) else document


def _first(document: Any) -> Any:
    return document[0] if isinstance(document, list) and document else None


def _header(record: Record, name: str) -> bool:
    return any(header == name for header, _ in record.headers)


def _is_window(record: Record) -> bool:
    key = record.key
    return isinstance(key, bytes) and len(key) > 8 and 10**11 <= int.from_bytes(key[-8:], "big") < 10**13


def _is_gateway(document: Any) -> bool:
    return isinstance(document, dict) and all(
        isinstance(each, list) and each and _has(each[0], "ts", "values") for each in document.values()
    )


def _is_binance(document: Any) -> bool:
    event = _unwrapped(document, "data")
    return _has(event, "e", "E", "s") or _has(event, "u", "s", "b", "B", "a", "A")


_MARKS: dict[str, Callable[[Any, Record], bool]] = {
    "azure-iot-hub": lambda d, r: _header(r, "iothub-connection-device-id"),
    "thingsboard": lambda d, r: _header(r, "tb_msg_md_deviceName"),
    "collectd": lambda d, r: _has(_first(d), "values", "dsnames", "dstypes", "host", "plugin"),
    "otlp-json": lambda d, r: _has(d, "resourceMetrics"),
    "debezium": lambda d, r: _has(_unwrapped(d, "payload"), "after", "op"),
    "debezium-flat": lambda d, r: _has(_unwrapped(d, "payload"), "__deleted") or _has(_unwrapped(d, "payload"), "__op"),
    "quix": lambda d, r: _has(_unwrapped(d, "V"), "Timestamps", "NumericValues"),
    "telegraf": lambda d, r: any(
        _has(each, "fields", "tags", "name", "timestamp")
        for each in (d, _first(d.get("metrics") if isinstance(d, dict) else None))
    ),
    "senml": lambda d, r: (
        isinstance(d, list)
        and isinstance(_first(d), dict)
        and bool({"bn", "bt", "n", "bu"} & set(d[0]))
        and any(isinstance(each, dict) and {"v", "s", "vs", "vb"} & set(each) for each in d)
    ),
    "sparkplug-json": lambda d, r: (
        _has(d, "metrics", "timestamp")
        and isinstance(_first(d["metrics"]), dict)
        and bool(
            {"intValue", "longValue", "floatValue", "doubleValue", "booleanValue", "stringValue"} & set(d["metrics"][0])
        )
    ),
    "cryptofeed": lambda d, r: _has(d, "exchange", "symbol", "timestamp"),
    "prometheus-adapter": lambda d, r: _has(d, "timestamp", "value", "name", "labels"),
    "prometheus-remote-write": lambda d, r: (
        _has(d, "timeseries") and _has(_first(d["timeseries"]), "labels", "samples")
    ),
    "ditto": lambda d, r: (
        _has(d, "topic", "path", "value") and isinstance(d["topic"], str) and "/things/" in d["topic"]
    ),
    "aws-iot": lambda d, r: any(
        _has(each, "state") and isinstance(each["state"], dict) and "reported" in each["state"]
        for each in (d, _unwrapped(d, "current"))
    ),
    "rsyslog": lambda d, r: _has(d, "name", "origin") and isinstance(d["origin"], str),
    "binance": lambda d, r: _is_binance(d),
    "databento": lambda d, r: _has(d, "hd") and _has(d["hd"], "ts_event", "rtype"),
    "coinbase": lambda d, r: _has(d, "type", "product_id") or _has(d, "channel", "events"),
    "kraken": lambda d, r: _has(d, "channel", "data") and _has(_first(d["data"]), "symbol"),
    "thingsboard-gateway": lambda d, r: _is_gateway(d),
    "ksqldb": lambda d, r: _is_window(r),
}


def _preset_of(documents: Documents) -> str | None:
    """The preset that most documents look like; "" for the contract's own format; None for neither."""
    own = sum(_is_own(document, record) for document, record in documents)
    if 2 * own > len(documents):
        return ""
    best, most = None, len(documents) / 3
    for name, mark in _MARKS.items():
        count = sum(bool(mark(document, record)) for document, record in documents)
        if count > most:
            best, most = name, count
    return best


def _is_own(document: Any, record: Record) -> bool:
    """Whether it is a tick as this program's own format has it, with a name, and no time by another name."""
    wide = _has(document, "values") and isinstance(document["values"], dict)
    if not wide and not (_has(document, "channel", "value") and isinstance(document["channel"], str)):
        return False
    named = "series" in document or record.key is not None
    return named and ("ts" in document or not any(_TIMES.search(key) for key in document))


def _not_gauges(documents: Documents) -> str:
    """Kinds of OTLP metrics in these documents that are not read, with an example of each."""
    found: dict[str, str] = {}
    for document, _ in documents:
        for metric in _nested(document, "resourceMetrics", "scopeMetrics", "metrics"):
            for kind in ("histogram", "exponentialHistogram", "summary"):
                if isinstance(metric, dict) and kind in metric:
                    found.setdefault(kind, str(metric.get("name")))
    return ", ".join(f"{kind} ({name})" for kind, name in found.items())


def _nested(at: Any, *keys: str) -> Iterator[Any]:
    """What stands in arrays within arrays, each under its key."""
    if not keys:
        yield at
        return
    inside = at.get(keys[0]) if isinstance(at, dict) else None
    for each in inside if isinstance(inside, list) else ():
        yield from _nested(each, *keys[1:])


def _contract_channels(documents: Documents) -> list[str]:
    count: Counter[str] = Counter()
    for document, _ in documents:
        wide = document.get("values") if isinstance(document, dict) else None
        if isinstance(wide, dict):
            count.update(key for key, value in wide.items() if value is None or _is_number(value, "text"))
        elif _has(document, "channel", "value"):
            count[str(document["channel"])] += 1
    return [name for name, _ in count.most_common()]


def _settle_preset(decode: dict[str, Any], documents: Documents, notes: list[str]) -> list[str]:
    """The channels that records of this preset have; what it leaves to the user is chosen and added to `decode`."""
    name = decode["preset"]
    if name in ("debezium", "debezium-flat"):
        return _settle_rows(decode, documents, notes)
    base = with_preset(decode, ())
    if base.get("series") == "@key" and all(record.key is None for _, record in documents):
        decode["series"] = base["series"] = "@topic"
        notes.append(
            "the records have no key, which names the series of this producer: all is one series, named by the topic"
        )
    if name in ("telegraf", "influx"):
        documents = [(document, record) for document, record in documents if isinstance(document, dict)]
        kinds = Counter(each.get("name") for document, _ in documents for each in document.get("metrics", [document]))
        if len(kinds) > 1:
            decode["where"] = {"name": kinds.most_common(1)[0][0]}
            notes.append(
                f"several measurements: {_listed([str(kind) for kind in kinds])}; the most frequent is read (decode.where)"
            )
            documents = [
                ({"metrics": [each]}, record)
                for document, record in documents
                for each in document.get("metrics", [document])
                if each.get("name") == decode["where"]["name"]
            ]
    count: Counter[str] = Counter()
    for parent, row in _probed(base, documents):
        for key, value in parent.items():
            if _is_number(value, base.get("numbers", "strict")):
                count[key] += 1
        if row:
            count[row] += 1
    flat = base.get("values") == "*" or isinstance(base.get("values"), Mapping)
    known = [key for key, _ in count.most_common() if not (flat and _NOT_VALUES.search(key))]
    if name in ("collectd",) and len(known) > 1:
        # The names of one plugin go together: those of the most frequent set.
        sets = Counter(tuple(parent) for parent, _ in _probed(base, documents) if parent)
        known = list(sets.most_common(1)[0][0])
    return known


def _probed(base: Mapping[str, Any], documents: Documents) -> Iterator[tuple[dict[str, Any], str]]:
    """For each element (what its channels may be, with their values; the channel that a long one names)."""
    template = base.get("values", "values.*")
    if isinstance(template, Mapping):
        template = template.get("*", "*")
    templates = (template,) if isinstance(template, str) else tuple(template)
    parents: dict[str, str] = {}
    for at, each in enumerate(templates):
        beside = re.fullmatch(r"(.*?)([^.\[\]]+)\[\^\.([^=\]]+)=\*\]", each)
        if beside:
            parents[f"names{at}"], parents[f"list{at}"] = beside[1] + beside[3], beside[1] + beside[2]
        else:
            parents[f"at{at}"] = re.sub(r"\.?\*(\[#\])?$", "", each) or "."
    made = {**{key: _tupled(value) for key, value in base.items()}, "values": parents}
    if made.get("series") is None:
        made["series"] = "@offset"
    layout = Layout(StreamSpec(tuple(parents), 1, 1), DecodeSpec(**made))
    columns = dict(zip(parents, layout.values, strict=True))
    for document, record in documents:
        try:
            rows = layout.rows_of(document, record)
        except (Refused, Mistyped):
            continue
        for row in rows:
            if isinstance(row, Mistyped):
                continue
            found: dict[str, Any] = {}
            for name, (column, *_) in columns.items():
                value = row[column]
                if name.startswith("at") and isinstance(value, dict):
                    found |= {
                        key: (each[0] if isinstance(each, list) and each else each) for key, each in value.items()
                    }
                elif name.startswith("names") and isinstance(value, list):
                    values = row[columns["list" + name[5:]][0]]
                    found |= dict(zip(value, values, strict=False)) if isinstance(values, list) else {}
            long = row[layout.channel] if layout.channel >= 0 else ""
            numbers = [row[column] for column in layout.value if row[column] is not ABSENT]
            taken = isinstance(long, str) and any(_is_number(each, base.get("numbers", "strict")) for each in numbers)
            yield {key: value for key, value in found.items() if isinstance(key, str)}, long if taken else ""


def _tupled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tupled(each) for key, each in value.items()}
    return tuple(_tupled(each) for each in value) if isinstance(value, list | tuple) else value


def _settle_rows(decode: dict[str, Any], documents: Documents, notes: list[str]) -> list[str]:
    """Rows of a table: which columns name the series, the time and the values."""
    flat = decode["preset"] == "debezium-flat"
    rows: Documents = []
    scales: dict[str, int] = {}
    for document, record in documents:
        scales |= _scales(document)
        inner = _unwrapped(document, "payload")
        row = inner if flat else inner.get("after") if isinstance(inner, dict) else None
        if isinstance(row, dict):
            rows.append((row, record))
    leaves = _leaves(rows)
    prefix = "" if flat else "after."
    time = _time_of(leaves, rows, notes)
    series = _series_of(leaves, rows, time.path if time else "", notes)
    if series:
        decode["series"] = prefix + series
    if time:
        decode["ts"] = prefix + time.path
        decode |= {key: value for key, value in time.settings.items() if value != "ms" or key != "ts_unit"}
    channels = [
        path
        for path, leaf in leaves.items()
        if "." not in path
        and leaf.numeric("text")
        and path not in (series, time.path if time else "")
        and not _NOT_VALUES.search(path)
        and not path.startswith("__")
    ]
    channels += [
        path
        for path in dict.fromkeys(leaf.split(".")[0] for leaf in leaves if leaf.endswith(".scale"))
        if path not in channels
    ]
    unknown = []
    for path, leaf in leaves.items():
        if "." in path or path in channels or not leaf.texts or path in (series, time.path if time else ""):
            continue
        if path in scales and all(re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text) for text in leaf.texts):
            channels.append(path)
            decode.setdefault("scale", {})[path] = scales[path]
        elif all(text.endswith("=") and _is_base64(text) for text in leaf.texts):
            unknown.append(path)
    if unknown:
        notes.append(
            f"{_listed(unknown)}: decimals whose scale is not in the records: add them to channels with decode.scale, such as "
            f"scale: {{{unknown[0]}: 2}}"
        )
    return channels


def _scales(document: Any) -> dict[str, int]:
    """The scales of decimals that a schema of Kafka Connect says, by column."""
    found: dict[str, int] = {}
    waiting = [document.get("schema")] if isinstance(document, dict) else []
    while waiting:
        at = waiting.pop()
        if not isinstance(at, dict):
            continue
        inner = at.get("fields")
        waiting += inner if isinstance(inner, list) else []
        scale = at["parameters"].get("scale") if isinstance(at.get("parameters"), dict) else None
        if str(at.get("name", "")).endswith(".Decimal") and isinstance(at.get("field"), str) and str(scale).isdigit():
            found[at["field"]] = int(str(scale))
    return found


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False


# ── paths of one's own ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Leaf:
    """All that was seen at a path."""

    values: list[Any] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [value for value in self.values if isinstance(value, str)]

    @property
    def others(self) -> list[str] | None:
        """A few words, such as unavailable or N/A, in a field that holds numbers as texts; None where it is no such field."""
        words = dict.fromkeys(text for text in self.texts if not _is_number(text, "text"))
        numbers = [text for text in self.texts if _is_number(text, "text")]
        few = words and len(words) <= 4 and len(numbers) >= 3 and 2 * len(numbers) >= len(self.texts)
        if not few or len(self.texts) < sum(value is not None for value in self.values):
            return None
        return None if any(letter.isdigit() for word in words for letter in word) else list(words)

    def numeric(self, numbers: str = "strict") -> bool:
        """Whether there are numbers here, and nothing else but null."""
        there = [value for value in self.values if value is not None]
        return (
            bool(there)
            and all(_is_number(value, numbers) for value in there)
            and any(not isinstance(value, str) or value.strip().lower() not in _WORDS for value in there)
        )


def _is_number(value: Any, numbers: str = "strict") -> bool:
    """`numbers`: as `decode` has it, or `comma`: texts with decimal commas, too."""
    if isinstance(value, bool):
        return False
    if numbers == "comma" and isinstance(value, str):
        text = value.strip()
        return text.lower() in _WORDS or (numerals.plain(text, ",") is not None and not _CODE.match(text))
    if isinstance(value, int | float):
        return True
    if numbers == "decimal" and isinstance(value, dict):
        return "scale" in value
    return (
        numbers != "strict"
        and isinstance(value, str)
        and (value.strip().lower() in _WORDS or bool(_NUMBER.fullmatch(value.strip())))
        and not _CODE.match(value)
    )


def _keyed(at: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The entries that a path can name."""
    return [(key, value) for key, value in at.items() if key]


def _escaped(key: str) -> str:
    if key[:1] == "@" and key[1:].partition(".")[0] in ROOTS:
        key = f"\\{key}"
        return key[:2] + re.sub(r"[.\[\]\\*]", r"\\\g<0>", key[2:])
    return re.sub(r"[.\[\]\\*]|^[#^]|[?]$", r"\\\g<0>", key)


def _leaves(documents: Documents) -> dict[str, _Leaf]:
    """By path the values in these objects, in the order of their first appearance."""
    found: dict[str, _Leaf] = {}

    def walk(at: Any, path: str, depth: int) -> None:
        if isinstance(at, dict) and depth < DEPTH_MAX:
            for key, value in _keyed(at):
                walk(value, f"{path}.{_escaped(key)}" if path else _escaped(key), depth + 1)
        elif isinstance(at, list) and path[:1] in ("", "[") and _is_row(at):
            for place, value in enumerate(at):
                walk(value, f"{path}[{place}]", depth + 1)
        elif not isinstance(at, dict | list):
            found.setdefault(path, _Leaf()).values.append(at)

    for document, _ in documents:
        walk(document, "", 0)
    return found


def _is_row(at: Sequence[Any]) -> bool:
    """Whether an array is a record whose fields go by their place: [time, {…}], [time, open, high, …]."""
    simple = [each for each in at if not isinstance(each, dict | list)]
    return (
        bool(simple)
        and len(at) < CHANNELS_MAX
        and not any(isinstance(inner, dict | list) for each in at if isinstance(each, list) for inner in each)
    )


def _arrays(documents: Documents) -> list[str]:
    """The arrays of objects with numbers that may hold the ticks, the most likely first; none where a document is one."""
    count: Counter[str] = Counter()

    def walk(at: Any, path: str, depth: int) -> None:
        if isinstance(at, list):
            objects = [each for each in at if isinstance(each, dict)]
            if not objects or len(objects) < len(at):
                return
            # An array of keys and values is attributes, and no array of ticks.
            if all(set(each) == {"key", "value"} for each in objects):
                return
            here = path + "[*]"
            deeper = len(count)
            for each in objects:
                walk(each, here, depth + 1)
            if len(count) == deeper and any(
                _is_number(value, "text") or _is_number(value, "comma") or isinstance(value, dict)
                for each in objects
                for value in each.values()
            ):
                count[here] += len(objects)
        elif isinstance(at, dict) and depth < DEPTH_MAX:
            for key, value in _keyed(at):
                walk(value, f"{path}.{_escaped(key)}" if path else _escaped(key), depth + 1)

    for document, _ in documents:
        walk(document, "", 0)
    return [path for path, _ in count.most_common()]


def _elements(documents: Documents, each: str) -> tuple[Documents, list[Documents]]:
    """(the elements, what is one level out of them, two, …)"""
    levels: list[Documents] = [documents]
    for part in re.findall(r"(.*?)\[\*\]\.?", each):
        keys = [step.name for step in parse_path(part).steps if hasattr(step, "name")] if part else []
        inside: Documents = []
        for document, record in levels[-1]:
            at = document
            for key in keys:
                at = at.get(key) if isinstance(at, dict) else None
            inside += [(entry, record) for entry in at if isinstance(entry, dict)] if isinstance(at, list) else []
        levels.append(inside)
    return levels[-1], levels[-2::-1]


@dataclass(frozen=True, slots=True)
class _Time:
    path: str
    settings: dict[str, Any]


def _time_of(leaves: Mapping[str, _Leaf], documents: Documents, notes: list[str]) -> _Time | None:
    """The field that is most likely the event time, and how it is to be read."""
    found: list[tuple[float, int, _Time, str]] = []
    record_ms = statistics.median([record.timestamp for _, record in documents]) if documents else -1
    for place, (path, leaf) in enumerate(leaves.items()):
        there = [value for value in leaf.values if value is not None]
        if not there or 3 * len(there) < len(documents) or any(isinstance(value, bool) for value in there):
            continue
        settings, note = _time_settings(there, record_ms)
        if settings is None:
            continue
        last = path.split(".")[-1]
        likely = bool(_TIMES.search(last) or _TIMES.search(last.lower())) or (
            # By its place alone: nothing but its size can say it.
            last[-1:] == "]" and not any(isinstance(value, str) for value in there) and _are_times(there, record_ms)
        )
        sized = any(not isinstance(value, str) or _NUMBER.fullmatch(value) for value in there)
        if not likely and sized and not _are_times(there, record_ms):
            continue  # numbers that could be times by their size alone
        named = path.split(".")[-1].lower().lstrip("@")
        rank = 0.0 if named in ("ts", "time", "timestamp") else 0.5 if likely else 2.5 if sized else 2.0
        # A time without a zone is the worse choice, and where nothing says which zone it is, it cannot be read yet.
        rank += 1.0 if "timezone" in settings else 3.0 if note else 0.0
        rank += 0.25 * path.count(".") + (
            3.0 if re.search(r"receiv|receipt|ingest|process|insert|update|create", path, re.IGNORECASE) else 0
        )
        found.append((rank, place, _Time(path, settings), note))
    clocks = [path for path, leaf in leaves.items() if leaf.texts and all(map(_CLOCK.fullmatch, leaf.texts))]
    if clocks:
        days = [each[2].path for each in found if each[2].settings.get("ts_format") in _DAYS]
        found = [each for each in found if each[2].path not in days]
        if days and not found:
            notes.append(
                f"the day stands in {days[0]} and the time of day in {clocks[0]}: two fields cannot be joined to an event time, "
                "have the producer write one"
            )
    if not found:
        return None
    _, _, time, note = min(found, key=lambda each: each[:2])
    if note:
        notes.append(note)
    others = [each[2].path for each in found if each[2] is not time]
    if others:
        notes.append(f"event time: {time.path}; {_listed(others)} could be it, too (decode.ts)")
    return time


def _say_no_time(leaves: Mapping[str, _Leaf], notes: list[str]) -> None:
    if any(note.startswith("the day stands") for note in notes):
        notes.append("until then the record's own time counts")
        return
    for path, leaf in leaves.items():
        last = path.split(".")[-1]
        there = [value for value in leaf.values if value is not None]
        if there and (_TIMES.search(last) or _TIMES.search(last.lower()) or _PERIODS.search(last)):
            notes.append(
                f"{path} looks like a time, and how it is written is not known ({there[0]!r}): say it with decode.ts and "
                "ts_format (or ts_unit). Until then the record's own time counts"
            )
            return
    notes.append("no field is a time; the record's own time counts")


_PERIODS = re.compile(r"^(year|quarter|week|month|day|hour|period|jahr|monat|woche)$", re.IGNORECASE)


def _time_settings(values: Sequence[Any], record_ms: float) -> tuple[dict[str, Any] | None, str]:
    """(settings, what is left open) of a field that may be a time; None where it is none."""
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) < len(values):
        return None, ""
    if texts and all(text.isascii() and text.isdigit() for text in texts):
        # Days and hours without signs between them: 20251124, 2025112416.
        form = next((form for form in _DIGITS if len(set(texts)) > 1 and _all_by(texts, form)), None)
        if form is not None:
            return {"ts_format": form}, NO_ZONE
    if texts and not all(_NUMBER.fullmatch(text) for text in texts):
        try:
            for text in texts[:50]:
                text_us(text)
            return {}, ""
        except Refused:
            pass
        if all(_LOCAL.fullmatch(text) for text in texts):
            try:
                us = statistics.median([TextTimes("ms", None, _utc()).us(text) for text in texts])
            except Refused:
                return None, ""
            if record_ms > 0 and abs(us / 1000 - record_ms) < 600_000:
                return {
                    "timezone": "UTC"
                }, "times have no zone; as UTC they are within ten minutes of the records' own time"
            apart = (
                f" As UTC they are {(us / 1000 - record_ms) / 3_600_000:+.1f} h from the records' own time."
                if record_ms > 0
                else ""
            )
            return (
                {},
                f"times have no zone: set decode.timezone, such as Europe/London, or every record is refused.{apart}",
            )
        form, open_ = _slashed(texts)
        if form or open_:
            return ({"ts_format": form} if form else {}), open_
        for form in _FORMS:
            if _all_by(texts, form):
                return {"ts_format": form}, "" if "%z" in form else NO_ZONE
        return None, ""
    numbers = [float(value) for value in values]
    middle = statistics.median(numbers)
    fits = []
    for unit, us in UNIT_US.items():
        at = middle * us
        if BELIEVED_US[0] <= at < BELIEVED_US[1]:
            fits.append((abs(at - record_ms * 1000) if record_ms > 0 else 0.0, unit))
    if not fits:
        return None, ""
    return ({} if min(fits)[1] == "ms" else {"ts_unit": min(fits)[1]}), ""


_FORMS = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y-%m-%d",
    "%Y-%m",
    "%Y-%m-%d %H",
    "%Y-%m-%d %I:%M:%S %p",
    "%d-%b-%Y",
    "%d-%b-%Y %H:%M:%S",
    "%d %b %Y",
    "%d %b %Y %H:%M:%S",
    "%d/%b/%Y:%H:%M:%S %z",
    "%Y%m%dT%H%M%S",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
)
# Those that say the day alone.
_DAYS = frozenset(
    {"%d.%m.%Y", "%Y/%m/%d", "%Y-%m-%d", "%Y-%m", "%d-%b-%Y", "%d %b %Y", "%Y%m%d", "%d/%m/%Y", "%m/%d/%Y"}
)
# By the number of digits, which strptime would not insist on.
_DIGITS = {"%Y%m%d%H%M%S": 14, "%Y%m%d%H%M": 12, "%Y%m%d%H": 10, "%Y%m%d": 8}
_SLASHED = re.compile(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}(?: [0-9]{1,2}:[0-9]{2}(:[0-9]{2})?( ?[AaPp][Mm])?)?", re.ASCII)
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?( ?[AaPp][Mm])?", re.ASCII)
NO_ZONE = "times have no zone: set decode.timezone, such as Europe/London, or every record is refused."


def _all_by(texts: Sequence[str], form: str) -> bool:
    """Whether all are times of 1990 to 2100 by this format."""
    reads = TextTimes("ms", form, _utc())
    try:
        found = [reads.us(text) for text in texts[:50] if len(text) == _DIGITS.get(form, len(text))]
    except Refused:
        return False
    return len(found) == len(texts[:50]) and all(BELIEVED_US[0] <= us < BELIEVED_US[1] for us in found)


def _slashed(texts: Sequence[str]) -> tuple[str, str]:
    """(`ts_format` of dates with slashes, what is left open); empty where these are none. Which of two numbers is the day is
    known where one of them is beyond 12."""
    if not all(_SLASHED.fullmatch(text) for text in texts):
        return "", ""
    pairs = [tuple(map(int, text.split(" ")[0].split("/")[:2])) for text in texts]
    clock = texts[0].partition(" ")[2]
    tail = ""
    if clock:
        tail = " %H:%M" if clock[-1].isdigit() else " %I:%M"
        tail += ":%S" if clock.count(":") == 2 else ""
        tail += "" if clock[-1].isdigit() else " %p" if " " in clock else "%p"
    day_first, month_first = any(a > 12 for a, _ in pairs), any(b > 12 for _, b in pairs)
    if day_first and not month_first:
        return f"%d/%m/%Y{tail}", NO_ZONE
    if month_first and not day_first:
        return f"%m/%d/%Y{tail}", NO_ZONE
    return (
        "",
        f"{texts[0]} can be day/month or month/day: set decode.ts_format, such as '%d/%m/%Y{tail}', and decode.timezone",
    )


def _utc() -> Any:
    from streamrnn.calendar import zone_of

    return zone_of("UTC")


def _series_of(leaves: Mapping[str, _Leaf], documents: Documents, time: str, notes: list[str]) -> str | None:
    """The field that names the series: few names, each many times."""
    found: list[tuple[int, int, int, str]] = []
    for place, (path, leaf) in enumerate(leaves.items()):
        there = [value for value in leaf.values if value is not None and value != ""]
        if path == time or not there or 2 * len(there) < len(documents):
            continue
        if any(isinstance(value, bool | float) for value in there):
            continue
        name = path.split(".")[-1]
        if (
            _OF_MESSAGE.search(name)
            or not _SERIES.search(name)
            or (
                not isinstance(there[0], str)
                and not re.search(r"(id|no|number|device|sensor|mmsi|imei|serial)$", name, re.IGNORECASE)
            )
        ):
            continue
        different = len(set(there))
        if different > 1 and different == len(there) and len(there) > 2:
            continue  # a record's own number
        rank = next((i for i, word in enumerate(_RANK) if word in name.lower()), len(_RANK) + bool(_LAST.search(name)))
        if name.lower() == "id" and "." in path and not isinstance(there[0], str):
            rank += 2  # the number of a part of the thing
        found.append((rank, path.count("."), place, path))
    if not found:
        return None
    found.sort()
    if len(found) > 1:
        notes.append(
            f"series: {found[0][3]}; {_listed([each[3] for each in found[1:]])} could name it, too (decode.series)"
        )
    return found[0][3]


def _telling_apart(leaves: Mapping[str, _Leaf], elements: Documents, time: str) -> str | None:
    """The one text that several ticks of the same time differ by, each of its words many times."""
    times = [_at(document, time) for document, _ in elements]
    if len(set(map(str, times))) == len(times):
        return None
    found = []
    for path, leaf in leaves.items():
        words = Counter(leaf.texts)
        if path == time or len(leaf.texts) < len(elements) or len(words) < 2 or 2 * len(words) > len(elements):
            continue
        rows = {(str(at), str(_at(document, path))) for at, (document, _) in zip(times, elements, strict=True)}
        if len(rows) == len(elements) and not _KINDS.issuperset(word.lower() for word in words):
            found.append(path)
    return found[0] if len(found) == 1 else None


def _inferred(documents: Documents, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(decode, channels) by the names and the values of the fields alone."""
    decode: dict[str, Any] = {}
    arrays = _arrays(documents)
    each = arrays[0] if arrays else None
    if (mapped := _map_of_things(documents)) is not None:
        return _by_things(mapped, documents, notes)
    if each is not None and _is_beside_the_point(documents, each):
        each = None
    elements, outer = (documents, []) if each is None else _elements(documents, each)
    if each is None and (columns := _columns(documents)) is not None:
        return _columnar(*columns, documents, notes)
    if (table := _table(documents)) is not None:
        return _tabular(*table, documents, notes)
    if each is not None:
        decode["each"] = each
        if len(arrays) > 1:
            notes.append(
                f"each: {each}; {_listed(arrays[1:])} hold objects, too, and are not read (decode.each takes a list)"
            )
    leaves = _leaves(elements)
    time, time_at = _time_of(leaves, elements, notes), ""
    for out, level in enumerate(outer):
        if time is None:
            time = _time_of(_leaves(level), level, notes)
            time_at = "^." * (out + 1) if time else ""
    taken = {time.path} if time is not None and not time_at else set()
    record_ms = statistics.median([record.timestamp for _, record in documents])
    numbers = _numbers_of(
        {path: leaf for path, leaf in leaves.items() if path not in taken and not _NOT_VALUES.search(path)},
        record_ms, decode, notes,
    )  # fmt: skip
    long = _long_form(leaves, numbers)
    named = {path: leaf for path, leaf in leaves.items() if long is None or path not in long}
    series, series_at = _series_of(named, elements, time.path if time and not time_at else "", notes), ""
    for out, level in enumerate(outer):
        if series is None:
            series = _series_of(_leaves(level), level, "", notes)
            series_at = "^." * (out + 1) if series else ""
    if series is None and long is not None and _keys(documents) is None:
        # What could be a channel's name is the only one there is: it names the series.
        series, long = _series_of(leaves, elements, "", notes), None
    if series is not None and series.split(".")[-1].lower() == "id" and _keys(documents) is not None and not series_at:
        if set(map(type, leaves[series].values)) == {int} and len(set(leaves[series].values)) == 1:
            series = None  # the number of a part, such as switch 0, and the key says of what
            notes[:] = [note for note in notes if not note.startswith("series: ")]
    if series is None and long is None and _keys(documents) is None and time is not None and not time_at:
        series = _telling_apart(leaves, elements, time.path)
        if series is not None:
            notes.append(f"series: {series}, which is what ticks of the same time differ in (decode.series)")
    numbers = {path: leaf for path, leaf in numbers.items() if series_at or path != series}
    if long is not None:
        decode["channel"], decode["value"] = long
        numbers = {long[1]: numbers[long[1]]}
    if series is not None:
        of = [(series_at, series), *_beside(series_at, series, [elements, *outer], decode.get("channel"), time)]
        if len(of) == 1 and outer and not series_at and not leaves[series].texts:
            # A number names it only within what it stands in.
            around = [("^." * (out + 1), _series_of(_leaves(level), level, "", [])) for out, level in enumerate(outer)]
            of += [(at, path) for at, path in around if path is not None][:1]
        if len(of) > 1:
            decode["series"] = [
                at + path for at, path in sorted(of, key=lambda each: (-len(each[0]), each[1] == series))
            ]
            notes.append(f"series: {_listed(decode['series'])} together, for {series} alone does not tell them apart")
        elif series_at + series != "series":
            decode["series"] = series_at + series
    elif (keys := _keys(documents)) is not None:
        notes.append(f"series: no field names it; the record's key does ({_listed(keys)})")
        if any(key[:1] in '{["' for key in keys):
            key_path = _series_of(_leaves(_json_keys(documents)), documents, "", notes)
            if key_path:
                decode["series"] = f"@key.{key_path}"
    elif len({record.topic for _, record in documents}) >= 1:
        decode["series"] = "@topic"
        notes.append("series: nothing names it, and the records have no key; all is one series, named by the topic")
    if time is not None:
        if time_at + time.path != "ts":
            decode["ts"] = time_at + time.path
        decode |= time.settings
    else:
        _say_no_time(leaves, notes)
        if any(path.split(".")[0] == "ts" for path in leaves):
            decode["ts"] = "@time"
    if any(leaf.texts for leaf in numbers.values()):
        decode["numbers"] = "text"
    else:
        decode.pop("decimal", None)
    if long is not None:
        count = Counter(str(value) for value in leaves[long[0]].values if value is not None)
        return decode, [name for name, _ in count.most_common()]
    if any(path.endswith("]") for path in numbers):
        notes.append("the fields of these records have no names, they go by place: give the channels names of your own")
    ranked = sorted(numbers, key=lambda path: -len(numbers[path].values))
    return decode, _mapped(decode, ranked)


def _numbers_of(
    leaves: Mapping[str, _Leaf], record_ms: float, decode: dict[str, Any], notes: list[str]
) -> dict[str, _Leaf]:
    """The fields that hold numbers; sets `decimal` where texts prove that they have decimal commas."""
    proof, unsure, points = "", "", []
    commas = [
        path for path, leaf in leaves.items() if leaf.numeric("comma") and any("," in text for text in leaf.texts)
    ]
    for path in commas:
        for text in leaves[path].texts:
            if "," in text and numerals.mark_of(text.strip()) == ",":
                proof = proof or f"{path}: {text}"
            elif "," in text:
                unsure = unsure or text
    if proof:
        decode["decimal"] = ","
        notes.append(f"numbers have decimal commas ({proof})")
        points = [path for path, leaf in leaves.items() if leaf.numeric("text") and not leaf.numeric("comma")]
        points = [path for path in points if leaves[path].texts]
        if points:
            notes.append(f"{_listed(points)}: decimal points beside decimal commas elsewhere; they are not read")
    elif unsure:
        notes.append(
            f"{_listed(commas)}: {unsure} is {unsure.replace(',', '.')} or {unsure.replace(',', '')}: with a decimal comma set "
            'decode.decimal: "," and numbers: text, and add them to channels'
        )
    numbers = {
        path: leaf
        for path, leaf in leaves.items()
        if (leaf.numeric("text") or leaf.others is not None or (proof and path in commas))
        and path not in points
        and not _are_times(leaf.values, record_ms)
    }
    for path, leaf in numbers.items():
        if leaf.others:
            notes.append(
                f"{path}: among the numbers stand {_listed([repr(text) for text in leaf.others])}: records with such a text "
                "are refused"
            )
    return numbers


# Objects that hold one thing after another, by the name of each.
_THINGS = re.compile(
    r"(devices?|sensors?|machines?|meters?|stations?|nodes?|hosts?|units?|pumps?|assets?|things|clients?|symbols?|tickers?|instruments|"
    r"motors?|tanks|sites?|rooms?|zones?|points|probes|modules|channels_by_id|entities|equipment|inverters?|batteries|turbines?|by_[a-z]+)",
    re.IGNORECASE,
)
# What is said of one and the same measurement.
_OF_ONE = frozenset(
    "value val v min max avg mean median last first count sum std stddev var variance lower upper unit units ts time timestamp "
    "quality raw p50 p90 p95 p99 low high open close current previous".split()
)


def _map_of_things(documents: Documents) -> str | None:
    """The path of an object whose keys name things, each with the same measurements: {"devices": {"pump-1": {…}, …}}."""
    found: dict[str, tuple[set[str], list[Mapping[str, Any]]]] = {}

    def walk(at: Any, path: str, depth: int) -> None:
        if not isinstance(at, dict) or depth > DEPTH_MAX:
            return
        if at and all(isinstance(inner, dict) and inner for inner in at.values()):
            keys, inside = found.setdefault(path, (set(), []))
            keys.update(at)
            inside.extend(at.values())
        for key, inner in _keyed(at):
            walk(inner, f"{path}.{_escaped(key)}" if path else _escaped(key), depth + 1)

    for document, _ in documents:
        walk(document, "", 0)
    for path, (keys, inside) in found.items():
        measured = [{key for key, value in each.items() if _is_number(value, "text")} for each in inside]
        often = Counter(key for each in measured for key in each)
        common = {key for key, count in often.items() if count >= 0.8 * len(inside)}
        if len(keys) < 2 or not {key for key in common if key.lower() not in _OF_ONE and not _NOT_VALUES.search(key)}:
            continue
        numbered = all(any(letter.isdigit() for letter in key) for key in keys)
        # Where names come and go from record to record, they are no channels either.
        come_and_go = len(keys) > 2 * max(1, len(inside) // max(1, len(documents)))
        if _THINGS.fullmatch(path.rpartition(".")[2]) or ((numbered or come_and_go) and len(keys) > 2):
            return path
    return None


def _by_things(path: str, documents: Documents, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(decode, channels) of documents with such an object."""
    steps = [step.name for step in parse_path(path).steps if isinstance(step, Key)] if path else []
    inside: Documents = []
    for document, record in documents:
        at = document
        for step in steps:
            at = at.get(step) if isinstance(at, dict) else None
        inside += [(each, record) for each in at.values() if isinstance(each, dict)] if isinstance(at, dict) else []
    around = {p: leaf for p, leaf in _leaves(documents).items() if path and p != path and not p.startswith(f"{path}.")}
    each = f"{path}.*" if path else "*"
    decode: dict[str, Any] = {"each": each, "series": "#"}
    notes.append(f"each: the keys of {path or 'the record'} name the series")
    outer = _series_of(around, documents, "", []) if around else None
    if outer is not None and len({str(value) for value in around[outer].values}) > 1:
        decode["series"] = [f"^.{outer}", "#"]
    leaves = _leaves(inside)
    time, out = _time_of(leaves, inside, notes), ""
    if time is None and around:
        time, out = _time_of(around, documents, notes), "^."
    if time is None:
        _say_no_time(leaves, notes)
        decode["ts"] = "@time"
    else:
        decode |= {"ts": out + time.path, **time.settings}
    record_ms = statistics.median([record.timestamp for _, record in documents])
    taken = time.path if time is not None and not out else None
    wanted = {p: leaf for p, leaf in leaves.items() if p != taken and not _NOT_VALUES.search(p)}
    numbers = _numbers_of(wanted, record_ms, decode, notes)
    if any(leaf.texts for leaf in numbers.values()):
        decode["numbers"] = "text"
    return decode, _mapped(decode, sorted(numbers, key=lambda p: -len(numbers[p].values)))


# Nanoseconds of 2100 and some more.
_COUNT_MAX = 10**20


def _are_times(values: Sequence[Any], record_ms: float) -> bool:
    """Whether whole numbers all lie, in one unit, within a year of the records' own time."""
    there = [value for value in values if value is not None and not isinstance(value, bool)]
    try:
        whole = [int(value) for value in there]
    except (ValueError, OverflowError):
        return False
    if any(abs(value) > _COUNT_MAX for value in whole):
        return False
    return record_ms > 0 and any(
        all(abs(value * us - record_ms * 1000) < NEAR_US for value in whole) for us in UNIT_US.values()
    )


def _is_beside_the_point(documents: Documents, each: str) -> bool:
    """Whether an array's elements have no time of their own, and there are numbers outside of it: receivers of a radio
    message, tags of a product."""
    elements, _ = _elements(documents, each)
    outside = {path: leaf for path, leaf in _leaves(documents).items() if leaf.numeric("text")}
    record_ms = statistics.median([record.timestamp for _, record in documents])
    values = [
        path
        for path, leaf in outside.items()
        if not _NOT_VALUES.search(path) and not _are_times(leaf.values, record_ms)
    ]
    return (
        bool(values)
        and _time_of(_leaves(elements), elements, []) is None
        and _time_of(_leaves(documents), documents, []) is not None
    )


_GROUPS = re.compile(
    r"(exchange|venue|market|site|plant|line|gateway|area|region|host|device|machine|station|building)", re.IGNORECASE
)


def _beside(
    series_at: str, series: str, levels: Sequence[Documents], channel: str | None, time: _Time | None
) -> list[tuple[str, str]]:
    """Fields that distinguish what has the same name: (way out, path)."""
    found: list[tuple[str, str]] = []
    own = len(series_at) // 2
    for out in range(own, len(levels)):
        inside, outside = levels[own], levels[out]
        for path, leaf in _leaves(outside).items():
            if (out == own and path == series) or path == channel or (time is not None and path == time.path):
                continue
            if (
                not _GROUPS.search(path.split(".")[-1])
                or len(leaf.texts) < len(leaf.values)
                or len(set(leaf.texts)) < 2
            ):
                continue
            pairs = _pairs(inside, outside, series, path, out == own)
            if len(pairs) > len({name for name, _ in pairs}) and len(set(leaf.texts)) < len(leaf.texts):
                found.append(("^." * out, path))
    return found[:1]


def _pairs(inside: Documents, outside: Documents, series: str, path: str, same: bool) -> set[tuple[str, str]]:
    """Names with what stands beside them; by record where that stands further out."""
    if same:
        rows = [(_at(document, series), _at(document, path)) for document, _ in inside]
    else:
        by_record = {id(record): _at(document, path) for document, record in outside}
        rows = [(_at(document, series), by_record.get(id(record))) for document, record in inside]
    return {(str(name), str(other)) for name, other in rows if name is not None and other is not None}


def _at(document: Any, path: str) -> Any:
    for step in parse_path(path).steps:
        document = document.get(getattr(step, "name", "")) if isinstance(document, dict) else None
    return document


def _columns(documents: Documents) -> tuple[str, list[str]] | None:
    """(array of times, arrays of values of the same lengths) of documents that hold their ticks by columns."""
    found: dict[str, list[list[Any]]] = defaultdict(list)

    def walk(at: Any, path: str, depth: int) -> None:
        if isinstance(at, dict) and depth < DEPTH_MAX:
            for key, value in _keyed(at):
                walk(value, f"{path}.{_escaped(key)}" if path else _escaped(key), depth + 1)
        elif isinstance(at, list) and at and all(value is None or _is_number(value) for value in at):
            found[path].append(at)

    for document, _ in documents:
        walk(document, "", 0)
    record_ms = statistics.median([record.timestamp for _, record in documents])
    for path, lists in found.items():
        flat = [value for each in lists for value in each if value is not None]
        if (
            not _TIMES.search(path.split(".")[-1].removesuffix("s"))
            or not flat
            or _time_settings(flat, record_ms)[0] is None
        ):
            continue
        sizes = [len(each) for each in lists]
        values = [other for other, of in found.items() if other != path and [len(each) for each in of] == sizes]
        if values:
            return path, values
    return None


def _table(documents: Documents) -> tuple[str, list[str]] | None:
    """(`each` of the rows, names of the columns) of documents that hold a table: {"columns": […], "values": [[…], …]}."""
    found: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def walk(at: Any, path: str, depth: int) -> None:
        if isinstance(at, list):
            for each in at[:1]:
                walk(each, path + "[*]", depth + 1)
        elif isinstance(at, dict) and depth < DEPTH_MAX:
            names = [
                each
                for each in at.values()
                if isinstance(each, list) and each and all(isinstance(x, str) for x in each)
            ]
            for key, value in _keyed(at):
                here = f"{path}.{_escaped(key)}" if path else _escaped(key)
                for head in names:
                    if (
                        isinstance(value, list)
                        and value
                        and all(isinstance(row, list) and len(row) == len(head) for row in value)
                    ):
                        found[here + "[*]", tuple(head)] += 1
                walk(value, here, depth + 1)

    for document, _ in documents:
        walk(document, "", 0)
    (best, count), *_ = found.most_common(1) or [((("", ())), 0)]
    if 2 * count > len(documents):
        return best[0], list(best[1])
    return None if found else _nameless_table(documents)


def _nameless_table(documents: Documents) -> tuple[str, list[str]] | None:
    """The same of rows whose fields have no names, such as [[time, value], …]: they are called by their places."""
    sizes: dict[str, set[int]] = defaultdict(set)
    rows: dict[str, list[Any]] = defaultdict(list)

    def walk(at: Any, path: str, depth: int) -> None:
        if isinstance(at, list) and at and all(isinstance(each, list) for each in at):
            for row in at:
                sizes[path + "[*]"].add(len(row) if not any(isinstance(x, list | dict) for x in row) else -1)
                rows[path + "[*]"].append(row)
        elif isinstance(at, list):
            for each in at:
                if isinstance(each, dict):
                    walk(each, path + "[*]", depth + 1)
        elif isinstance(at, dict) and depth < DEPTH_MAX:
            for key, value in _keyed(at):
                walk(value, f"{path}.{_escaped(key)}" if path else _escaped(key), depth + 1)

    for document, _ in documents:
        walk(document, "", 0)
    record_ms = statistics.median([record.timestamp for _, record in documents])
    for path, size in sizes.items():
        width = max(size)
        if len(size) == 1 and 1 < width < CHANNELS_MAX:
            columns = [[row[place] for row in rows[path]] for place in range(width)]
            if any(all(_is_number(each) for each in column) and _are_times(column, record_ms) for column in columns):
                return path, [f"v{place}" for place in range(width)]
    return None


def _tabular(
    each: str, names: Sequence[str], documents: Documents, notes: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """(decode, channels) of documents that hold a table; its columns go by their place."""
    levels: list[list[tuple[Any, Record]]] = [list(documents)]
    for part in re.findall(r"(.*?)\[\*\]\.?", each):
        inside: list[tuple[Any, Record]] = []
        for document, record in levels[-1]:
            at = _at(document, part) if part else document
            inside += [(entry, record) for entry in at] if isinstance(at, list) else []
        levels.append(inside)
    # By their names only for the choice: the paths are places.
    rows: Documents = [
        (dict(zip(names, row, strict=False)), record) for row, record in levels[-1] if isinstance(row, list)
    ]
    leaves = {_escaped(name): _Leaf([row.get(name) for row, _ in rows]) for name in names}
    places = {_escaped(name): f"[{place}]" for place, name in enumerate(names)}
    time = _time_of(leaves, rows, notes)
    series = _series_of(leaves, rows, time.path if time else "", notes)
    decode: dict[str, Any] = {"each": each}
    if series is not None:
        decode["series"] = places[series]
    else:
        for out, level in enumerate(levels[-2::-1]):
            name = _series_of(_leaves([(at, record) for at, record in level]), level, "", [])
            if name is not None:
                decode["series"] = "^." * (out + 1) + name
                break
        else:
            decode["series"] = "@key" if _keys(documents) is not None else "@topic"
            notes.append("series: no field names it; the record's key does, or the topic where there is none")
    if time is not None:
        decode |= {"ts": places[time.path], **time.settings}
    else:
        decode["ts"] = "@time"
    channels = [
        name
        for name in names
        if leaves[_escaped(name)].numeric("text")
        and _escaped(name) not in (series, time.path if time else "")
        and not _NOT_VALUES.search(name)
    ]
    if any(leaves[_escaped(name)].texts for name in channels):
        decode["numbers"] = "text"
    notes.append("the records hold tables; their columns are read by place: the columns' order has to stay")
    if len(channels) == 1 and names[0] == "v0":
        # What the value is of may stand around rows without names.
        for out, level in enumerate(levels[-2::-1]):
            for path, leaf in _leaves([(at, record) for at, record in level]).items():
                field_of = "^." * (out + 1) + path
                if _long_name(path) in _LONG_NAMES and leaf.texts and decode.get("series") != field_of:
                    if _KINDS.issuperset(text.lower() for text in leaf.texts):
                        continue
                    decode |= {"channel": field_of, "value": places[_escaped(channels[0])]}
                    return decode, list(dict.fromkeys(leaf.texts))
    decode["values"] = {name: places[_escaped(name)] for name in channels}
    return {**decode, "channel": None, "value": None}, channels


def _columnar(
    times: str, values: Sequence[str], documents: Documents, notes: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """(decode, channels) of documents that hold their ticks by columns."""
    flat: list[Any] = []
    for document, _ in documents:
        at = _at(document, times)
        flat += [value for value in at if value is not None] if isinstance(at, list) else []
    settings = _time_settings(flat, statistics.median([record.timestamp for _, record in documents]))[0] or {}
    decode: dict[str, Any] = {"each": f"{times}[*]", "ts": ".", **settings}
    channels = _mapped({}, values)
    decode["values"] = {name: f"^.{path}[#]" for name, path in zip(channels, values, strict=True)}
    decode |= {"channel": None, "value": None}
    series = _series_of(_leaves(documents), documents, "", notes)
    if series is not None:
        decode["series"] = f"^.{series}"
    elif (keys := _keys(documents)) is not None:
        decode["series"] = "@key"
        notes.append(f"series: no field names it; the record's key does ({_listed(keys)})")
    else:
        decode["series"] = "@topic"
        notes.append("series: nothing names it, and the records have no key; all is one series, named by the topic")
    return decode, channels


def _mapped(decode: dict[str, Any], paths: Sequence[str]) -> list[str]:
    """Channels for these fields; sets `values` where the contract's own do not do."""
    names: dict[str, str] = {}
    split = {path: [step.name for step in parse_path(path).steps if isinstance(step, Key)] for path in paths}
    often = Counter(keys[-1] for keys in split.values() if keys)
    for path, keys in split.items():
        name = keys[-1] if keys else "v" + "_".join(re.findall("[0-9]+", path))
        if len(keys) > 1 and name.lower() in ("value", "v", "val"):
            name = keys[-2]
        elif len(keys) > 1 and often[name] > 1:
            name = "_".join(keys[-2:])
        while name in names:
            name += "_"
        names[name] = path
    parents = {path.rpartition(".")[0] for path in names.values()}
    last = all(path.rpartition(".")[2] == _escaped(name) for name, path in names.items())
    if len(parents) == 1 and last:
        parent = next(iter(parents))
        if parent != "values":
            decode["values"] = f"{parent}.*" if parent else "*"
    elif names:
        decode["values"] = dict(names)
    if names:
        decode |= {"channel": None, "value": None}
    return list(names)


def _long_form(leaves: Mapping[str, _Leaf], numbers: Mapping[str, _Leaf]) -> tuple[str, str] | None:
    """(field of the channel's name, field of its value) where a record is one channel."""
    values = [path for path in numbers if path.split(".")[-1].lower() in _LONG_VALUES]
    if len(values) != 1 or len(numbers) > 2:
        return None
    found = [
        (len(set(leaf.texts)) < 2, _LONG_NAMES.index(_long_name(path)), path)
        for path, leaf in leaves.items()
        if _long_name(path) in _LONG_NAMES
        and leaf.texts
        and len(leaf.texts) == len(leaf.values)
        and not _KINDS.issuperset(text.lower() for text in leaf.texts)
        and _goes_with(path, values[0])
    ]
    return (min(found)[2], values[0]) if found else None


def _long_name(path: str) -> str:
    """The word of `_LONG_NAMES` that a field is called by: resourceName is resource, tag_id is tag."""
    name = path.split(".")[-1].lower()
    return name if name in _LONG_NAMES else re.sub(r"_?(name|id)$", "", name)


def _goes_with(name: str, value: str) -> bool:
    """Whether the value stands beside the name, or below a key that only says what it is (`gauge.value`)."""
    beside = name.rpartition(".")[0].split(".") if "." in name else []
    around = value.rpartition(".")[0].split(".") if "." in value else []
    own = around[len(beside) :] if around[: len(beside)] == beside else around
    return _AROUND.issuperset(key.lower() for key in own)


# Keys that a value may stand below without being a quantity of their own.
_AROUND = _KINDS | {"value", "data", "payload", "reading", "body", "sample", "measurement", "result", "v", "fields"}


def _keys(documents: Documents) -> list[str] | None:
    """Some of the records' keys, where they can name series."""
    keys = []
    for _, record in documents:
        try:
            keys.append(bytes(record.key).decode() if record.key is not None else "")
        except UnicodeDecodeError:
            return None
    if not all(key and key.isprintable() for key in keys) or (len(set(keys)) == len(keys) and len(keys) > 20):
        return None
    return list(dict.fromkeys(keys))


def _json_keys(documents: Documents) -> Documents:
    found: Documents = []
    for _, record in documents:
        try:
            found.append((msgspec.json.decode(record.key or b""), record))
        except UNREADABLE:
            continue
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# ── step, and what else the ticks say ────────────────────────────────────────────────────────────────────────────────

_STEPS_MS = (
    1, 10, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000,
    1_800_000, 3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000, 86_400_000,
)  # fmt: skip


def _checked(
    settings: dict[str, Any], records: Sequence[Record], notes: list[str], known: tuple[Format, Schemas] | None = None
) -> Proposal:
    """Reads the sample as proposed, and adds what the ticks themselves say."""
    from streamrnn.config.settings import ConfigError
    from streamrnn.discovery.amending import Trial, amended
    from streamrnn.discovery.decode_report import not_as_meant

    schemas = known[1] if known is not None else None
    try:
        found = amended(settings, records, notes, schemas)
    except ConfigError as error:
        raise NoProposal(f"what was found cannot be a configuration: {error}") from error
    settings = dict(found.settings)
    batch, refused, skipped = found.batch, found.refused, found.skipped
    if refused:
        first = f"{refused[0].reason}: {refused[0].detail}"
        notes.append(f"{len(refused)} of the sample are refused ({_listed(list(found.reasons))}); the first: {first}")
    if not len(batch) and refused and "timezone" not in settings.get("decode", {}):
        # Which zone it is changes neither the distances nor the series.
        with contextlib.suppress(ConfigError):
            zoned = {**settings, "decode": {**settings.get("decode", {}), "timezone": "UTC"}}
            batch = Trial(zoned, records, schemas).batch
    notes += not_as_meant(found.decoder, records)
    if skipped:
        kinds = Counter(each.reason for each in skipped)
        notes.append(f"{sum(each.elements for each in skipped)} of the sample are skipped ({_listed(list(kinds))})")
    times: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    places: dict[str, set[int]] = defaultdict(set)
    repeated = 0
    for i, name in enumerate(batch.series):
        at = times[name][int(batch.ts_us[i])]
        channel = int(batch.channel[i])
        repeated += channel in at
        at.add(channel)
        places[name].add(int(batch.partition[i]))
    if times:
        notes.append(f"{len(times)} series in the sample: {_listed(list(times))}")
    shared = [name for name, where in places.items() if len(where) > 1]
    if shared:
        notes.append(
            f"{len(shared)} series lie in several partitions ({_listed(shared)}): each partition keeps a state of its own, and "
            "sees gaps that are none. Key the records by series, or set repartition: on"
        )
    distances = [
        (later - earlier) / 1000
        for of in times.values()
        for earlier, later in zip(sorted(of), sorted(of)[1:], strict=False)
    ]
    if not distances:
        notes.append("step: one tick a series is too few to say; 1s is a guess")
        return Proposal(settings, notes)
    usual = statistics.median(distances)
    even = sum(abs(each - usual) <= 0.2 * usual for each in distances) >= 0.5 * len(distances)
    if (calendar := _calendar_step(distances)) is not None:
        settings["step"] = calendar
        notes.append(
            f"step: {calendar}, by the calendar of `timezone`"
            + ("" if "timezone" in settings else " (UTC unless it is set)")
        )
        return Proposal(settings, notes)
    nearest = min(_STEPS_MS, key=lambda ms: abs(ms - usual) / max(ms, usual))
    exact = abs(nearest - usual) <= 0.1 * usual
    step = nearest if exact or not even else max(1, round(usual))
    settings["step"] = format_ms(step)
    notes.append(f"step: ticks of a series are {_apart(usual)} apart, mostly")
    if repeated or not even:
        if not repeated and not even:
            settings["step"] = format_ms(max(step, 1000))
        settings["within"] = "last"
        notes.append("several ticks of a series fall into one step: the last one counts (within: last, or mean, sum)")
    elif any(each % step for each in distances):
        settings["align"] = "nearest"
        notes.append("times waver around the step's edges: each tick goes to the step it is nearest to (align)")
    return Proposal(settings, notes)


_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000


def _calendar_step(distances: Sequence[float]) -> str | None:
    """1mo or 1y where the distances are those of months or years; 1d where days have 23, 24 and 25 hours."""
    days = [each / _DAY_MS for each in distances]
    for step, least, most in (("1mo", 28, 31), ("1y", 365, 366)):
        # A clock that is set moves a begin by an hour.
        if len(days) > 2 and all(least - 0.05 <= each <= most + 0.05 for each in days) and max(days) - min(days) > 0.5:
            return step
    set_ = [each for each in distances if abs(each - _DAY_MS) == _HOUR_MS]
    if set_ and all(each in (_DAY_MS - _HOUR_MS, _DAY_MS, _DAY_MS + _HOUR_MS) for each in distances):
        return "1d"
    return None


def _apart(ms: float) -> str:
    """A distance in the largest unit that says it to a thousandth: 1d, 10s, 33.3ms."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if (ms >= size and abs(ms / size - round(ms / size)) < 0.001) or (unit == "s" and ms >= size):
            return f"{ms / size:.4g}{unit}"
    return f"{ms:.4g}ms"


__all__ = ["NoProposal", "Proposal", "propose"]
