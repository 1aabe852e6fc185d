"""Influx line protocol as the objects that Telegraf's JSON has: `{"metrics": [{"name", "tags", "fields", "ts"}]}`.

    measurement[,tag=value…] field=value[,field=value…] [timestamp]

Source: InfluxDB's reference of the line protocol. A line that cannot be read is refused alone.
"""

from __future__ import annotations

import re
from typing import Any

from streamrnn.wire.paths import Mistyped

_MEASUREMENT = re.compile(r"(?:\\.|[^,\s\\])+", re.DOTALL)
_KEY = re.compile(r"(?:\\.|[^=,\s\\])+", re.DOTALL)
_VALUE = re.compile(r'"((?:\\.|[^"\\])*)"|([^\s,"]+)', re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}[iu]", re.ASCII)
_TIMESTAMP = re.compile(r"-?[0-9]{1,30}", re.ASCII)
_ESCAPED = re.compile(r'\\([,= \\"])')
_TRUTHS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}


def metrics_of(payload: bytes, most: int) -> dict[str, list[Any]]:
    """The lines of a record, no more than one beyond `most`. Raises UnicodeDecodeError."""
    found: list[Any] = []
    text, at, number = payload.decode(), 0, 0
    while at < len(text) and len(found) <= most:
        number += 1
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        begin = _past_blanks(text, at)
        if begin >= end or text[begin] == "#" or not text[begin:end].strip("\r "):
            at = end + 1
            continue
        try:
            made, end = _metric(text, begin)
            found.append(made)
        except ValueError as error:
            found.append(Mistyped(f"line {number} is no line protocol: {error}", "malformed"))
        number += text.count("\n", at, end)
        at = end + 1
    return {"metrics": found}


def _metric(text: str, at: int) -> tuple[dict[str, Any], int]:
    """(the line that begins here, where it ends). A quote begins a text in a field's value alone, and there a newline is one of
    its characters; elsewhere both are what they are. Raises ValueError."""
    name, at = _taken(_MEASUREMENT, text, at, "a measurement")
    tags: dict[str, str] = {}
    while text[at : at + 1] == ",":
        key, at = _taken(_KEY, text, at + 1, "a tag")
        if text[at : at + 1] != "=":
            raise ValueError("a tag without a value")
        tags[key], at = _taken(_KEY, text, at + 1, "a tag's value")
    if text[at : at + 1] != " ":
        raise ValueError("no fields")
    at = _past_blanks(text, at)
    fields: dict[str, Any] = {}
    while True:
        key, at = _taken(_KEY, text, at, "a field")
        match = _VALUE.match(text, at + 1) if text[at : at + 1] == "=" else None
        if match is None:
            raise ValueError("a field without a value")
        fields[key] = _value(match)
        at = match.end()
        if text[at : at + 1] != ",":
            break
        at += 1
    made: dict[str, Any] = {"name": name, "tags": tags, "fields": fields}
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    rest = text[at:end].strip()
    if rest:
        if text[at] != " " or not _TIMESTAMP.fullmatch(rest):
            raise ValueError("what follows the fields is no timestamp")
        made["ts"] = made["timestamp"] = int(rest)
    return made, end


def _past_blanks(line: str, at: int) -> int:
    while line[at : at + 1] == " ":
        at += 1
    return at


def _taken(pattern: re.Pattern[str], line: str, at: int, what: str) -> tuple[str, int]:
    match = pattern.match(line, at)
    if match is None:
        raise ValueError(f"{what} is missing")
    text = match[0]
    return (_ESCAPED.sub(r"\1", text) if "\\" in text else text), match.end()


def _value(match: re.Match[str]) -> Any:
    if match[1] is not None:
        return _ESCAPED.sub(r"\1", match[1])
    text = match[2]
    if _NUMBER.fullmatch(text):
        return float(text)
    if _WHOLE.fullmatch(text):
        return int(text[:-1])
    if text in _TRUTHS:
        return _TRUTHS[text]
    raise ValueError("a field's value is no number, no text in quotes and no truth")
