"""What some formats need beyond paths: each turns a decoded document into one that paths can read.

A quirk takes any JSON whatever and raises nothing but `Refused`: what is not of its format goes through as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from streamrnn.records import Record
from streamrnn.wire.instants import Refused

Quirk = Callable[[Any, Record], Any]

# Times below are relative to now (RFC 8428, 4.5.3).
_RELATIVE_S = 2**28
# SenML fields and the base field of each; `bv` is added to `v`, `bn` stands before `n`, `bt` is added to `t`.
_BASES = ("bn", "bt", "bv")


def _decimal(value: Any) -> Decimal:
    """Of a JSON number, as it is written."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(getattr(value, "text", None) or repr(float(value)))
    raise Refused("type", "a SenML base field, time or value that is no number")


def senml(document: Any, record: Record) -> Any:
    """SenML packs (RFC 8428): base fields hold for all records that follow, times relative to now for the record's own."""
    if not isinstance(document, list):
        return document
    name, time, value = "", Decimal(0), Decimal(0)
    resolved: list[Any] = []
    for entry in document:
        if not isinstance(entry, dict):
            resolved.append(entry)
            continue
        if "bn" in entry:
            if not isinstance(entry["bn"], str):
                raise Refused("type", "a SenML base name that is no text")
            name = entry["bn"]
        time = _decimal(entry["bt"]) if "bt" in entry else time
        value = _decimal(entry["bv"]) if "bv" in entry else value
        if not any(key in entry for key in ("n", "v", "s", "vs", "vb", "vd", "t")):
            continue  # base fields alone
        resolved.append(_senml_record(entry, name, time, value, record))
    return resolved


def _senml_record(entry: dict[str, Any], name: str, time: Decimal, value: Decimal, record: Record) -> dict[str, Any]:
    own = entry.get("n", "")
    at = time + (_decimal(entry["t"]) if "t" in entry else 0)
    if at < _RELATIVE_S:
        if record.timestamp < 0:
            raise Refused("timestamp", "a SenML time relative to now, in a record without a time of its own")
        at += Decimal(record.timestamp) / 1000
    made: dict[str, Any] = {"series": name, "channel": own, "ts": f"{at:f}"}
    if not name and isinstance(own, str):
        # The whole name stands in `n`: what comes after the last separator is the channel.
        cut = max(own.rfind(sign) for sign in "/:.")
        made["series"], made["channel"] = own[: cut + 1], own[cut + 1 :]
    if not made["series"]:
        del made["series"]
    if "v" in entry:
        made["value"] = float(_decimal(entry["v"]) + value) if value else entry["v"]
    elif isinstance(entry.get("vb"), bool):
        made["value"] = int(entry["vb"])
    elif "s" in entry and "vs" not in entry and "vd" not in entry:
        made["value"] = entry["s"]
    return made


# Sparkplug B data types (specification 3.0, 6.4.16): bits of those that are signed.
_SIGNED = {1: 8, 2: 16, 3: 32, 4: 64, "Int8": 8, "Int16": 16, "Int32": 32, "Int64": 64}
_UNSIGNED = {5, 6, 7, 8, "UInt8", "UInt16", "UInt32", "UInt64"}


def sparkplug(document: Any, record: Record) -> Any:
    """Sparkplug B payloads as JSON: signed numbers come as the unsigned ones of the same bits."""
    metrics = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(metrics, list):
        return document
    made = []
    for metric in metrics:
        if isinstance(metric, dict):
            metric = dict(metric)
            kind = metric.get("datatype")
            if isinstance(kind, str) and kind.isdigit() and len(kind) < 4:
                kind = int(kind)
            if metric.get("isNull") is True or metric.get("is_null") is True:
                metric["doubleValue"] = None
            for field, bits in (("intValue", 32), ("longValue", 64)):
                number = _whole(metric.get(field))
                if number is None or isinstance(kind, list | dict) or kind in _UNSIGNED:
                    continue
                # Without a data type: an unsigned number of 32 bits comes as a long one, so a large one here is negative.
                # A long one may be either, and nobody measures 2^63 of anything.
                bits = _SIGNED.get(kind, bits) if kind is not None else bits
                if 1 << (bits - 1) <= number < 1 << bits:
                    metric[field] = number - (1 << bits)
        made.append(metric)
    return {**document, "metrics": made}


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 21:
        return int(value)
    return None


def ditto(document: Any, record: Record) -> Any:
    """Eclipse Ditto protocol messages: the thing's id from `topic`, the features as one object whatever `path` says."""
    if not isinstance(document, dict) or not isinstance(document.get("topic"), str):
        return document
    parts = document["topic"].split("/")
    path = document.get("path")
    if len(parts) < 2 or not isinstance(path, str):
        return document
    value: Any = document.get("value")
    for key in reversed([each for each in path.split("/") if each]):
        value = {key: value}
    features = value.get("features") if isinstance(value, dict) else None
    made: dict[str, Any] = {"thing": ":".join(part for part in parts[:2] if part not in ("", "_")), "values": {}}
    for name, feature in features.items() if isinstance(features, dict) else ():
        properties = feature.get("properties") if isinstance(feature, dict) else None
        for key, inner in properties.items() if isinstance(properties, dict) else ():
            made["values"][name if key == "value" else f"{name}.{key}"] = inner
    if document.get("timestamp") is not None:
        made["ts"] = document["timestamp"]
    return made


_BINANCE: dict[Any, dict[str, str]] = {
    "trade": {"price": "p", "quantity": "q"},
    "aggTrade": {"price": "p", "quantity": "q"},
    "24hrTicker": {
        "price": "c", "open": "o", "high": "h", "low": "l", "volume": "v", "bid": "b", "bid_quantity": "B", "ask": "a",
        "ask_quantity": "A",
    },
    "24hrMiniTicker": {"price": "c", "open": "o", "high": "h", "low": "l", "volume": "v"},
    "kline": {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"},
    "markPriceUpdate": {"mark_price": "p", "index_price": "i", "funding_rate": "r"},
    "bookTicker": {"bid": "b", "bid_quantity": "B", "ask": "a", "ask_quantity": "A"},
}  # fmt: skip


def binance(document: Any, record: Record) -> Any:
    """Binance's market streams, raw or combined: one letter means another thing in each kind of event."""
    if isinstance(document, list):  # all tickers of the market
        return {"ticks": [_binance(each) for each in document]}
    if not isinstance(document, dict):
        return document
    return {"ticks": [_binance(document)]}


def _binance(event: Any) -> Any:
    if not isinstance(event, dict):
        return event
    kind = event.get("e", "bookTicker" if "u" in event else None)
    names = _BINANCE.get(kind) if isinstance(kind, str) else None
    if names is None:
        return {}
    inner = event.get("k") if kind == "kline" else event
    found = {name: inner[key] for name, key in names.items() if key in inner} if isinstance(inner, dict) else {}
    found |= {"series": event.get("s")}
    found |= {"ts": event.get("T" if kind in ("trade", "aggTrade") else "E", event.get("E"))}
    return found


# Of the records of DBN: prices are whole billionths, and the largest number of 64 bits is none.
_FIXED = ("price", "open", "high", "low", "close", "bid_px", "ask_px")
_COUNTED = ("size", "volume", "bid_sz", "ask_sz", "bid_ct", "ask_ct", "quantity")
_NO_PRICE, _NO_TIME, _BILLION = 2**63 - 1, 2**64 - 1, 10**9


def databento(document: Any, record: Record) -> Any:
    """Databento's records as JSON (DBN, pretty or not): what is traded or quoted, and when."""
    head = document.get("hd") if isinstance(document, dict) else None
    if not isinstance(head, dict):
        return document
    symbol = document.get("symbol")
    made: dict[str, Any] = {"series": symbol if symbol not in (None, "") else head.get("instrument_id")}
    made["ts"] = head.get("ts_event")
    if made["ts"] is None or _whole(made["ts"]) == _NO_TIME:
        made["ts"] = document.get("ts_recv")
    levels = document.get("levels")
    best = levels[0] if isinstance(levels, list) and levels and isinstance(levels[0], dict) else {}
    found = {**best, **document}
    for name in _FIXED:
        if name in found:
            made[name] = _billionths(found[name])
    made |= {name: found[name] for name in _COUNTED if name in found}
    return made


def _billionths(value: Any) -> Any:
    """A price as a text of its decimals; texts with a point are such already."""
    text = value.removeprefix("-") if isinstance(value, str) else value
    number = _whole(text)
    if number is None and isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None:
        return value
    if number == _NO_PRICE:
        return None
    sign = "-" if (isinstance(value, str) and text != value) or number < 0 else ""
    whole, part = divmod(abs(number), _BILLION)
    return f"{sign}{whole}.{part:09d}"


QUIRKS: dict[str, Quirk] = {
    "senml": senml, "sparkplug": sparkplug, "ditto": ditto, "binance": binance, "databento": databento,
}  # fmt: skip
