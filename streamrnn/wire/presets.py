"""What named producers write, as `decode:` settings: data, each key of which a configuration may override.

`values` of a preset is one template, or a mapping of the channels it knows (others by `"*"`): only the configured channels
of it count. Where a preset has no `series`, the field `series` names it, or the record's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Text numbers and the words NaN and Infinity; heartbeats, acknowledgements and other measurements are skipped.
_FEED: dict[str, Any] = {"numbers": "text", "others": "skip", "tombstones": "skip", "channel": None, "value": None}
_CONNECT: dict[str, Any] = {
    "unwrap": "payload",
    "numbers": "decimal",
    "tombstones": "skip",
    "channel": None,
    "value": None,
}

_OTLP = "resourceMetrics[*].scopeMetrics[*].metrics[*]"
_RESOURCE = "^.^.^.resource.attributes[key={}].value.stringValue?"

PRESETS: dict[str, dict[str, Any]] = {
    # write_kafka, Format JSON: parallel arrays; the name is collectd's own, but for a type that repeats its plugin.
    "collectd": {
        "each": "[*]",
        "series": ["host", ["plugin", "plugin_instance?"], ["type", "type_instance?"]],
        "ts": "time",
        "ts_unit": "s",
        "values": "values[^.dsnames=*]",
        "channel": None,
        "value": None,
        "others": "skip",
    },
    # Serializer json, one metric or a batch; each combination of tags is a series.
    "telegraf": {
        "each": ["metrics[*]", "."],
        "series": ["tags.host?", "tags.*"],
        "ts": "timestamp",
        "ts_unit": "s",
        "values": "fields.*",
        "channel": None,
        "value": None,
        "others": "skip",
    },
    # Influx line protocol, Telegraf's default: nanoseconds; a line without a time has the record's.
    "influx": {
        "format": "influx",
        "each": "metrics[*]",
        "series": ["tags.host?", "tags.*"],
        "ts_unit": "ns",
        "values": "fields.*",
        "channel": None,
        "value": None,
        "others": "skip",
    },
    # Kafka Connect's JsonConverter, with and without schemas. The column that names the series is the user's to say:
    # the key is the primary key.
    "debezium": {
        **_CONNECT,
        "series": None,
        "ts": "ts_ms",
        "values": "after.*",
        "where": {"op": ["r", "c", "u"]},
    },
    # The same flattened by ExtractNewRecordState.
    "debezium-flat": {**_CONNECT, "values": "*", "where": {"__deleted": ["false", None]}},
    # QuixTimeseriesSerializer: columns of arrays.
    "quix": {
        "unwrap": "V",
        "each": "Timestamps[*]",
        "series": "@key",
        "ts": ".",
        "ts_unit": "ns",
        "values": "^.NumericValues.*[#]",
        "numbers": "text",
        "channel": None,
        "value": None,
        "others": "skip",
    },
    # Trades, tickers and candles; the key is the kind of data, and a symbol is one of an exchange.
    "cryptofeed": {
        **_FEED, "series": ["exchange", "symbol"], "ts": ["timestamp", "receipt_timestamp"], "ts_unit": "s", "values": "*",
    },
    # RFC 8428: one reading a record of the pack.
    "senml": {"quirk": "senml", "each": "[*]", "ts": "ts", "ts_unit": "s", "others": "skip"},
    # OpenTelemetry metrics as OTLP/JSON: gauges and sums; a data point's attributes are part of its series.
    "otlp-json": {
        "each": [f"{_OTLP}.gauge.dataPoints[*]", f"{_OTLP}.sum.dataPoints[*]"],
        "series": [
            _RESOURCE.format("host.name"),
            _RESOURCE.format("service.name"),
            _RESOURCE.format("service.instance.id"),
            "attributes[*]",
        ],
        "ts": "timeUnixNano",
        "ts_unit": "ns",
        "numbers": "text",
        "channel": "^.name",
        "value": ["asDouble", "asInt"],
        "others": "skip",
    },
    # Sparkplug B payloads as JSON. The edge node and device stand in the topic, which bridges hand on as the key.
    "sparkplug-json": {
        "quirk": "sparkplug",
        "each": "metrics[*]",
        "series": "@key",
        "ts": ["timestamp", "^.timestamp"],
        "ts_unit": "ms",
        "numbers": "text",
        "channel": "name",
        "value": ["floatValue", "doubleValue", "intValue", "longValue"],
        "others": "skip",
    },
    # Flat objects; times are local ones (timezone) or end with Z.
    "flink": {"values": "*", "numbers": "text", "channel": None, "value": None},
    "spark": {"values": "*", "numbers": "text", "channel": None, "value": None},
    # impstats: the object with or without what a template writes before it; no time in it.
    "rsyslog": {**_FEED, "tombstones": "refuse", "leading": "skip", "series": "name", "values": "*"},
    # prometheus-kafka-adapter: one sample a record, of every metric there is.
    "prometheus-adapter": {
        "series": ["labels.instance?", "labels.job?", "labels.*"],
        "ts": "timestamp",
        "numbers": "text",
        "channel": "name",
        "value": "value",
        "others": "skip",
    },
    # Prometheus' remote write as JSON: samples of every metric, with the labels around them.
    "prometheus-remote-write": {
        "each": "timeseries[*].samples[*]",
        "series": [
            "^.labels[name=instance].value?",
            "^.labels[name=job].value?",
            "^.labels[*]",
        ],
        "ts": "timestamp",
        "numbers": "text",
        "channel": "^.labels[name=__name__].value",
        "value": "value",
        "others": "skip",
    },
    # Lines of kcat -J: the file's reader takes the envelope off.
    "kcat": {},
    # Rule chain's Kafka node with metadata as headers.
    "thingsboard": {
        "series": "@header.tb_msg_md_deviceName",
        "ts": "@header.tb_msg_md_ts",
        "values": "*",
        "numbers": "text",
        "channel": None,
        "value": None,
        "others": "skip",
    },
    # Gateway's telemetry: {"Device A": [{"ts": …, "values": {…}}], …}
    "thingsboard-gateway": {**_FEED, "each": "*[*]", "series": "^.#"},
    # Ditto protocol: single properties, features or whole things.
    "ditto": {"quirk": "ditto", "series": "thing", "channel": None, "value": None, "others": "skip"},
    # Device shadows: reported states of `documents` and `update` topics.
    "aws-iot": {
        **_FEED, "series": "@key", "ts": "timestamp", "ts_unit": "s",
        "values": {"*": ["current.state.reported.*", "state.reported.*"]},
    },
    # The device stands in a header alone.
    "azure-iot-hub": {
        "series": "@header.iothub-connection-device-id",
        "values": "*",
        "numbers": "text",
        "channel": None,
        "value": None,
        "others": "skip",
    },
    # Tables of windows: the key is the text with the window's begin behind it.
    "ksqldb": {**_FEED, "series": "@window.key", "ts": ["@window.start", "@time"], "values": "*"},
    # Market streams, raw or combined.
    "binance": {
        **_FEED, "quirk": "binance", "unwrap": "data", "each": "ticks[*]", "series": "series", "ts": ["ts", "@time"],
        "values": "*",
    },
    # Exchange feed (one message a record) and Advanced Trade (events of tickers and trades).
    "coinbase": {
        **_FEED,
        "each": ["events[*].tickers[*]", "events[*].trades[*]", "."],
        "series": "product_id",
        "where": {"type": ["match", "last_match", "ticker", None]},
        "ts": ["time", "^.^.timestamp"],
        "values": {"price": "price", "size": ["size", "last_size"], "*": "*"},
    },
    # DBN records as JSON: prices in billionths or pretty, times in nanoseconds or pretty.
    "databento": {**_FEED, "quirk": "databento", "series": "series", "ts": ["ts", "@time"], "ts_unit": "ns", "values": "*"},
    # WebSocket v2.
    "kraken": {**_FEED, "each": "data[*]", "series": "symbol", "ts": ["timestamp", "@time"], "values": "*"},
}  # fmt: skip
# The same as Protobuf, which is the exporters' default.
PRESETS["otlp-proto"] = {**PRESETS["otlp-json"], "format": "otlp-proto", "numbers": "strict"}

# Sparkplug B as it comes over MQTT: the series is GROUP/EDGE or GROUP/EDGE/DEVICE of the topic in the key.
PRESETS["sparkplug"] = {
    "format": "sparkplug",
    "each": "metrics[*]",
    "series": "^.series",
    "ts": ["timestamp", "^.timestamp"],
    "channel": "name",
    "value": ["floatValue", "doubleValue", "intValue", "longValue"],
    "others": "skip",
}
# Lines `path value time`: the last word of the path is the channel, what stands before it and the tags name the series.
PRESETS["graphite"] = {
    "format": "graphite",
    "each": "lines[*]",
    "series": ["prefix?", "tags.*"],
    "ts": ["ts", "@time"],
    "ts_unit": "s",
    "numbers": "text",
    "channel": "leaf",
    "value": "value",
    "others": "skip",
}
# write_kafka, Format Command: PUTVAL lines, as the JSON of the same.
PRESETS["collectd-command"] = {
    **PRESETS["collectd"],
    "format": "collectd",
    "each": "lines[*]",
    "ts": ["time", "@time"],
    "numbers": "text",
}
PRESETS["csv"] = {"format": "csv", "each": "lines[*]", "values": "*", "numbers": "text", "channel": None, "value": None}

# Formats that have objects of one shape only, by the preset that each is where none is named.
_BY_FORMAT = {
    "influx": "influx",
    "otlp-proto": "otlp-proto",
    "sparkplug": "sparkplug",
    "graphite": "graphite",
    "collectd": "collectd-command",
    "csv": "csv",
}


def with_preset(settings: Mapping[str, Any], channels: tuple[str, ...]) -> dict[str, Any]:
    """The keys of `decode:` as they are in force; `settings` holds those that are written down. Raises ValueError."""
    found = dict(settings)
    name = found.pop("preset", None)
    if name is None:
        name = _BY_FORMAT.get(found.get("format", ""))
    if name is None:
        return found
    base = dict(PRESETS[name])
    known = base.get("values")
    if isinstance(known, Mapping):
        base["values"] = {key: path for key, path in known.items() if key in channels or key == "*"}
    if name == "debezium" and not found.get("series"):
        raise ValueError(
            "preset: debezium: the key is the primary key, so say which column names the series, such as series: after.sensor"
        )
    return {**base, **found}
