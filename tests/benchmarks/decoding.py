"""Decoding alone: µs of processor time a tick, by shape; beside another checkout for the shapes that both read.

python tests/benchmarks/decoding.py [--against PATH] [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from against import HERE, by_turns, called, checkout, ratio

CHANNELS = ["temp", "flow", "pressure", "vibration"]
VALUES = {"temp": 21.4, "flow": 3.25, "pressure": 1.5, "vibration": None}
T0 = 1_764_000_000_000
RECORDS = 2000

LOAD = {
    "values": [1.3837890625, 0.8369140625, 0.4609375], "dstypes": ["gauge", "gauge", "gauge"],
    "dsnames": ["shortterm", "midterm", "longterm"], "time": 1795784638.782, "interval": 2.000, "host": "host-a",
    "plugin": "load", "plugin_instance": "", "type": "load", "type_instance": "",
}  # fmt: skip
CPU = {"fields": {"usage_idle": 91.2}, "name": "cpu", "tags": {"cpu": "cpu0", "host": "n1"}, "timestamp": 1764255600}
POINT = {"timeUnixNano": "1764000000000000000", "asDouble": 21.4}
OTLP = {
    "resourceMetrics": [{
        "resource": {"attributes": [{"key": "host.name", "value": {"stringValue": "host-a"}}]},
        "scopeMetrics": [{"metrics": [{"name": "temp", "unit": "Cel", "gauge": {"dataPoints": [POINT] * 10}}]}],
    }]
}  # fmt: skip
WIDE = {"series": "pump-7", "ts": T0, "values": VALUES}
# name → (a record, channels, decode)
SHAPES: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "wide": (WIDE, CHANNELS, {}),
    "long": ({"series": "pump-7", "ts": T0, "channel": "temp", "value": 3.25}, CHANNELS, {}),
    "mapped, seconds with a fraction": (
        {"device": {"id": "pump-7"}, "time": 1764000000.5, "m": VALUES}, CHANNELS,
        {"series": "device.id", "ts": "time", "ts_unit": "s", "values": {name: f"m.{name}" for name in CHANNELS}},
    ),
    "10 wide in an array": ([WIDE] * 10, CHANNELS, {"each": "[*]"}),
    "10 readings of a device": (
        {"device": "pump-7", "readings": [{"ts": T0, **VALUES}] * 10}, CHANNELS,
        {"each": "readings[*]", "series": "^.device", "ts": "ts", "values": "*"},
    ),
    "collectd, 1 in an array": ([LOAD], LOAD["dsnames"], {"preset": "collectd"}),
    "collectd, 10 in an array": ([LOAD] * 10, LOAD["dsnames"], {"preset": "collectd"}),
    "telegraf, 10 in a batch": ({"metrics": [CPU] * 10}, ["usage_idle"], {"preset": "telegraf"}),
    "otlp-json, 10 points": (OTLP, ["temp"], {"preset": "otlp-json"}),
}  # fmt: skip
AVRO: dict[str, Any] = {
    "type": "record", "name": "Reading", "fields": [
        {"name": "series", "type": "string"}, {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "values", "type": {
            "type": "record", "name": "Values", "fields": [{"name": name, "type": ["null", "double"]} for name in CHANNELS],
        }},
    ],
}  # fmt: skip
FRAME = b"\x00\x00\x00\x00\x01"


def avro() -> bytes:
    import io

    import fastavro

    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(AVRO))), WIDE)
    return FRAME + out.getvalue()


ARRAY = {
    "type": "record", "name": "Device", "fields": [
        {"name": "device", "type": "string"},
        {"name": "readings", "type": {"type": "array", "items": {
            "type": "record", "name": "One", "fields": [AVRO["fields"][1], *AVRO["fields"][2]["type"]["fields"]],
        }}},
    ],
}  # fmt: skip


def avro_array() -> bytes:
    import io

    import fastavro

    out = io.BytesIO()
    row = {"device": "pump-7", "readings": [{"ts": T0, **VALUES}] * 10}
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(ARRAY))), row)
    return FRAME + out.getvalue()


def otlp(attributes: int) -> bytes:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData

    message = MetricsData()
    resource = message.resource_metrics.add()
    resource.resource.attributes.add(key="host.name").value.string_value = "host-a"
    points = resource.scope_metrics.add().metrics.add(name="temp").gauge.data_points
    for i in range(10):
        point = points.add(time_unix_nano=(T0 + i) * 1_000_000, as_double=21.4)
        for k in range(attributes):
            point.attributes.add(key=f"key{k}").value.string_value = f"value{i}"
    return bytes(message.SerializeToString())


# The same of other formats: name → what makes a record, channels, decode.
FORMATS: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "wide, json-schema": (lambda: FRAME + json.dumps(WIDE, separators=(",", ":")).encode(), CHANNELS, {"format": "json-schema"}),
    "wide, avro": (avro, CHANNELS, {"format": "avro"}),
    "avro, 10 readings of a device": (
        avro_array, CHANNELS, {"format": "avro", "each": "readings[*]", "series": "^.device", "ts": "ts", "values": "*"},
    ),
    "wide, avro, one by one": (avro, CHANNELS, {"format": "avro", "where": {"series": "*"}}),
    "otlp-proto, 10 points": (lambda: otlp(0), ["temp"], {"preset": "otlp-proto"}),
    "otlp-proto, 10 points of 2 attributes": (lambda: otlp(2), ["temp"], {"preset": "otlp-proto"}),
    "graphite, 10 lines": (lambda: b"host-a.load.temp 21.4 1764000000\n" * 10, ["temp"], {"preset": "graphite"}),
    "csv, 10 lines": (
        lambda: f"pump-7,{T0},21.4,3.25,1.5,\n".encode() * 10, CHANNELS,
        {"format": "csv", "columns": ["series", "ts", *CHANNELS]},
    ),
}  # fmt: skip
OLD = ("wide", "long", "mapped, seconds with a fraction")


class Record:
    """See streamrnn.records.Record."""

    topic, partition, key, headers = "ticks", 0, b"pump-7", ()

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.timestamp, self.value = offset, T0 + offset, value


def cost(name: str, tries: int = 30) -> dict[str, float]:
    """µs a tick, ticks a record and bytes a tick of a shape."""
    from streamrnn.config.settings import load
    from streamrnn.wire.codec import Decoder

    value, channels, decode = (SHAPES | FORMATS)[name]
    registry = {"registry": {"url": "http://registry"}} if decode.get("format") == "avro" else {}
    settings = load(
        [], {"input": "t", "channels": channels, "step": "1s", "horizon": 2, "decode": decode, **registry}, {}
    )
    decoder = Decoder(settings.stream_spec(), settings.decode_spec())
    if registry:
        from streamrnn.wire.schemas import Definition

        decoder.schemas.put(1, Definition("AVRO", json.dumps(ARRAY if "10" in name else AVRO)))
    text = value() if callable(value) else json.dumps(value, separators=(",", ":")).encode()
    count = RECORDS // (10 if "10" in name else 1)
    records = [Record(i, text) for i in range(count)]
    best = float("inf")
    for _ in range(tries):
        begin = time.process_time()
        ticks, refused = decoder.decode(records)  # type: ignore[arg-type]
        best = min(best, time.process_time() - begin)
    assert not refused
    return {"us": best / len(ticks) * 1e6, "ticks": len(ticks) / count, "bytes": len(text) * count / len(ticks)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=checkout)
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.against is not None:
        for name in OLD:
            found: dict[Path, list[float]] = {HERE: [], chosen.against: []}
            for round_ in range(chosen.repeat):
                for tree in by_turns(round_, [HERE, chosen.against]):
                    found[tree].append(called(tree, "decoding", "cost", {"name": name}, cpu="1")["us"])
            ours, theirs = found[HERE], found[chosen.against]
            print(
                f"{name}: {statistics.median(ours):.2f} and {statistics.median(theirs):.2f} µs, ratio {ratio(ours, theirs)}"
            )
        return 0
    print("| records | µs a tick | ticks/s and core | bytes a tick |\n|---|---|---|---|")
    for name in [*SHAPES, *FORMATS]:
        each = [called(HERE, "decoding", "cost", {"name": name}, cpu="1") for _ in range(chosen.repeat)]
        us = statistics.median([one["us"] for one in each])
        print(f"| {name} | {us:.2f} | {1e6 / us:,.0f} | {each[0]['bytes']:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
