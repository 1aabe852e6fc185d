"""The schemas of what the service writes: for Avro and JSON Schema in a registry, and for who reads it.

They depend on nothing that a configuration says but on its step: channels and quantiles are keys of maps. So a changed
configuration needs no other schema, and what a later version adds has a default. Event times are `timestamp-millis`, and
`timestamp-micros` where steps are irregular; those records have another name, so that a registry takes no change of the
unit for compatible. JSON Schema's documents are closed, which is what lets a field be added to them (Confluent, "JSON Schema
compatibility rules").
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from streamrnn.spec import OutputSpec, StreamSpec
from streamrnn.wire import avro
from streamrnn.wire.codec import HEADER_INDEX, HEADER_SOURCE
from streamrnn.wire.instants import Refused
from streamrnn.wire.schemas import Definition, unframed

What = Literal["forecasts", "imputed"]
WHATS: tuple[What, ...] = ("forecasts", "imputed")
Headers = Sequence[tuple[str, bytes]]
NAMESPACE = "streamrnn"
_DRAFT = "http://json-schema.org/draft-07/schema#"


def subject_of(topic: str) -> str:
    """Where a registry keeps the schema of a topic's values (Confluent's TopicNameStrategy)."""
    return f"{topic}-value"


def definition(spec: StreamSpec, output: OutputSpec, what: What) -> Definition:
    """The schema by which this output is written; `output.format` is not `json`."""
    flat = what == "forecasts" and output.layout == "flat"
    if output.format == "avro":
        schema = _avro_flat(spec) if flat else _avro_forecast(spec) if what == "forecasts" else _avro_imputation(spec)
        return Definition("AVRO", json.dumps(schema, separators=(",", ":")))
    schema = _json_flat(spec) if flat else _json_forecast(spec) if what == "forecasts" else _json_imputation(spec)
    return Definition("JSON", json.dumps(schema, separators=(",", ":")))


Source = tuple[str, int, int, int]


class _Of(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    index: int = -1


class _Output(msgspec.Struct):
    """What outputs of every kind say of themselves."""

    source: _Of


_document = msgspec.json.Decoder(_Output)


def source_in(spec: StreamSpec, output: OutputSpec) -> Callable[[What, bytes, Headers], Source | None]:
    """What reads the (topic, partition, offset, place in a record of several or -1) of the tick that led to an output, from its
    value and headers; None where they do not say."""
    read: dict[What, Callable[[bytes], Any]] = {}
    if output.format == "avro":
        nested = [what for what in WHATS if what == "imputed" or output.layout == "nested"]
        read = {what: avro.reader_of(definition(spec, output, what).text) for what in nested}

    def source(what: What, value: bytes, headers: Headers) -> Source | None:
        said, datum = dict(headers), unframed(value)
        with contextlib.suppress(ValueError, UnicodeDecodeError, msgspec.MsgspecError, Refused):
            if HEADER_SOURCE in said:
                topic, partition, offset = said[HEADER_SOURCE].rsplit(b"/", 2)
                return topic.decode(), int(partition), int(offset), int(said.get(HEADER_INDEX, b"-1"))
            if what in read:
                found = read[what](datum)["source"]
                index = found["index"]
                return found["topic"], found["partition"], found["offset"], -1 if index is None else index
            of = _document.decode(datum).source
            return of.topic, of.partition, of.offset, of.index
        return None

    return source


# ── Avro ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _record(name: str, doc: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": NAMESPACE, "doc": doc, "fields": list(fields)}


def _field(name: str, type: Any, doc: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **({"doc": doc} if doc else {}), **more}


def _named(spec: StreamSpec, name: str) -> str:
    return f"{name}AtMicroseconds" if spec.irregular else name


def _time(spec: StreamSpec) -> dict[str, str]:
    return {"type": "long", "logicalType": "timestamp-micros" if spec.irregular else "timestamp-millis"}


_NUMBERS = {"type": "array", "items": "double"}
_SOURCE = _field(
    "source",
    {
        "type": "record",
        "name": "Source",
        "fields": [
            _field("topic", "string"),
            _field("partition", "int"),
            _field("offset", "long"),
            _field("index", ["null", "int"], "which of the record's ticks, where it has several", default=None),
        ],
    },
    "the record of the input that led to it",
)


def _avro_forecast(spec: StreamSpec) -> dict[str, Any]:
    channel = {
        "type": "record",
        "name": "ChannelForecast",
        "fields": [
            _field("mean", _NUMBERS, "one number a step ahead; NaN is none"),
            _field("quantiles", {"type": "map", "values": _NUMBERS}, "by level"),
        ],
    }
    return _record(
        _named(spec, "Forecast"),
        "The next steps of a series: element k is for ts + (k + 1) steps, or for ts + horizons[k] steps",
        _field("series", "string"),
        _field("ts", _time(spec), "the last step seen"),
        _field("step_ms", "double"),
        _field("horizons", ["null", {"type": "array", "items": "int"}], "where not all steps are there", default=None),
        _field("channels", {"type": "map", "values": channel}),
        _field("model", "string", "the weights in use"),
        _field("warm", "boolean", "false: the state has not seen enough to be trusted"),
        _SOURCE,
    )


def _avro_flat(spec: StreamSpec) -> dict[str, Any]:
    return _record(
        _named(spec, "FlatForecast"),
        "One step ahead of one channel of a series",
        _field("unique_id", "string", "series/channel"),
        _field("ds", _time(spec), "the step that is forecast"),
        _field("cutoff", _time(spec), "the last step seen"),
        _field("h", "int", "steps from cutoff to ds"),
        _field("yhat", "double", "the mean; NaN is none"),
        _field("yhat_lower", "double", "the lowest quantile"),
        _field("yhat_upper", "double", "the highest quantile"),
        _field("level", "double", "percent that lie between the two"),
    )


def _avro_imputation(spec: StreamSpec) -> dict[str, Any]:
    interval = {
        "type": "record",
        "name": "Interval",
        "fields": [_field("lower", "double"), _field("upper", "double")],
    }
    return _record(
        _named(spec, "Imputation"),
        "A step of a series of which something was filled in",
        _field("series", "string"),
        _field("ts", _time(spec)),
        _field("values", {"type": "map", "values": ["null", "double"]}, "what came and what was filled in; null: none"),
        _field("imputed", {"type": "map", "values": interval}, "the intervals of what was filled in"),
        _field("kind", "string", "missing-channel or missing-tick"),
        _SOURCE,
    )


# ── JSON Schema ──────────────────────────────────────────────────────────────────────────────────────────────────


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _titled(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": _DRAFT, "title": f"{NAMESPACE}.{name}", **schema}


_TEXT, _WHOLE, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_OR_NULL = {"type": ["number", "null"]}
_JSON_NUMBERS = {"type": "array", "items": _OR_NULL}
_JSON_SOURCE = _object({"topic": _TEXT, "partition": _WHOLE, "offset": _WHOLE}, {"index": _WHOLE})


def _map(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of}


def _ms(spec: StreamSpec) -> dict[str, Any]:
    """Milliseconds since 1970, with a fraction where steps are irregular."""
    return _NUMBER if spec.irregular else _WHOLE


def _json_forecast(spec: StreamSpec) -> dict[str, Any]:
    channel = _object({"mean": _JSON_NUMBERS, "quantiles": _map(_JSON_NUMBERS)})
    fields = {
        "series": _TEXT, "ts": _ms(spec), "step_ms": _NUMBER, "channels": _map(channel), "model": _TEXT,
        "warm": {"type": "boolean"}, "source": _JSON_SOURCE,
    }  # fmt: skip
    horizons = {"type": "array", "items": _WHOLE}
    return _titled(_named(spec, "Forecast"), _object(fields, {"horizons": horizons}))


def _json_flat(spec: StreamSpec) -> dict[str, Any]:
    fields = {
        "unique_id": _TEXT, "ds": _ms(spec), "cutoff": _ms(spec), "h": _WHOLE, "yhat": _OR_NULL, "yhat_lower": _OR_NULL,
        "yhat_upper": _OR_NULL, "level": _NUMBER,
    }  # fmt: skip
    return _titled(_named(spec, "FlatForecast"), _object(fields))


def _json_imputation(spec: StreamSpec) -> dict[str, Any]:
    interval = _object({"lower": _OR_NULL, "upper": _OR_NULL})
    fields = {
        "series": _TEXT, "ts": _ms(spec), "values": _map(_OR_NULL), "imputed": _map(interval),
        "kind": _TEXT, "source": _JSON_SOURCE,
    }  # fmt: skip
    return _titled(_named(spec, "Imputation"), _object(fields))
