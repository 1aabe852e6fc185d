"""OpenTelemetry metrics as OTLP Protobuf, as the objects that its JSON has.

Source: opentelemetry-proto, `metrics.proto` and the JSON encoding of the OTLP specification. Times and whole numbers are
numbers, and what is at its default is left out; `{"resourceMetrics": [{"resource", "scopeMetrics": [{"metrics": […]}]}]}`.
"""

from __future__ import annotations

from typing import Any

from streamrnn.wire.instants import Refused
from streamrnn.wire.paths import Labels

# Attributes of one message, over all of its points; combinations of them that are kept as one object.
ATTRIBUTES_MAX, KEPT_MAX = 250_000, 16_384


def available() -> bool:
    """Whether OpenTelemetry's own messages are installed."""
    try:
        from opentelemetry.proto.metrics.v1 import metrics_pb2  # noqa: F401
    except ImportError:
        return False
    return True


class OtlpReader:
    """Reads messages of one topic."""

    def __init__(self) -> None:
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.metrics.v1 import metrics_pb2

        # An exporter's request has the same one field.
        self._parse, self._error = metrics_pb2.MetricsData.FromString, DecodeError
        self._kept: dict[tuple[Any, ...], Labels] = {}
        self._left = 0

    def document(self, payload: bytes, most: int) -> dict[str, Any]:
        """Of no more than `most` points. Raises Refused."""
        try:
            message = self._parse(payload)
        except (self._error, UnicodeDecodeError) as error:
            raise Refused("malformed", f"no OTLP metrics: {str(error)[:120]}") from None
        self._left = ATTRIBUTES_MAX
        points, parts, found = 0, len(message.resource_metrics), []
        if parts > 3 * most:
            raise Refused("too-large", f"more than {3 * most} resources in a record (decode.elements_max)")
        for resource in message.resource_metrics:
            scopes = []
            parts += len(resource.scope_metrics)
            for scope in resource.scope_metrics:
                metrics = []
                parts += len(scope.metrics)
                if parts > 3 * most:  # each point may have a metric, a scope and a resource of its own
                    raise Refused(
                        "too-large", f"more than {3 * most} resources, scopes and metrics (decode.elements_max)"
                    )
                for metric in scope.metrics:
                    made: dict[str, Any] = {"name": metric.name}
                    if metric.unit:
                        made["unit"] = metric.unit
                    kind = metric.WhichOneof("data")
                    if kind is not None:
                        inner = getattr(metric, kind)
                        points += len(inner.data_points)
                        if points > most:
                            raise Refused("too-large", f"more than {most} elements in a record (decode.elements_max)")
                        of = self._number if kind in ("gauge", "sum") else self._distribution
                        made[_KINDS[kind]] = {"dataPoints": [of(point) for point in inner.data_points]}
                    metrics.append(made)
                scopes.append({"scope": {"name": scope.scope.name}, "metrics": metrics})
            attributes = self._attributes(resource.resource.attributes)
            found.append({"resource": {"attributes": attributes}, "scopeMetrics": scopes})
        return {"resourceMetrics": found}

    def _number(self, point: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        at = point.time_unix_nano
        if at:
            found["timeUnixNano"] = at
        value = point.as_double
        if value:
            found["asDouble"] = value
        elif (which := point.WhichOneof("value")) == "as_double":
            found["asDouble"] = value
        elif which is not None:
            found["asInt"] = point.as_int
        if point.flags:
            found["flags"] = point.flags
        if attributes := point.attributes:
            found["attributes"] = self._attributes(attributes)
        return found

    def _distribution(self, point: Any) -> dict[str, Any]:
        """Of histograms, exponential ones and summaries: what all of them have."""
        found: dict[str, Any] = {"count": point.count}
        if point.time_unix_nano:
            found["timeUnixNano"] = point.time_unix_nano
        for name in ("sum", "min", "max"):
            if hasattr(point, name) and (name == "sum" or point.HasField(name)):
                found[name] = getattr(point, name)
        if attributes := point.attributes:
            found["attributes"] = self._attributes(attributes)
        return found

    def _attributes(self, attributes: Any) -> Labels:
        """One object for each combination: what is made of it, such as a series' name, is found again by it."""
        self._left -= len(attributes)
        if self._left < 0:
            raise Refused("too-large", f"more than {ATTRIBUTES_MAX} attributes in an OTLP message")
        pairs = []
        for attribute in attributes:
            value = attribute.value
            text = value.string_value
            if text:
                pairs.append((attribute.key, "string_value", text))
                continue
            which = value.WhichOneof("value")
            pairs.append((attribute.key, which, getattr(value, which) if which in _SCALARS else None))
        key = tuple(pairs)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            found = self._kept[key] = Labels(
                {"key": name, "value": {_SCALARS[which]: value} if which in _SCALARS else {}}
                for name, which, value in pairs
            )
        return found


_KINDS = {
    "gauge": "gauge", "sum": "sum", "histogram": "histogram", "exponential_histogram": "exponentialHistogram",
    "summary": "summary",
}  # fmt: skip
_SCALARS: dict[Any, str] = {
    "string_value": "stringValue", "bool_value": "boolValue", "int_value": "intValue", "double_value": "doubleValue",
}  # fmt: skip
