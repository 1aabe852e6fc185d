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
_QUOTED = re.compile(r'(?<!\\)(?:\\\\)*"')
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
    for number, line in enumerate(_lines(payload.decode()), 1):
        if number > most + 1:
            break
        try:
            found.append(_metric(line))
        except ValueError as error:
            found.append(Mistyped(f"line {number} is no line protocol: {error}", "malformed"))
    return {"metrics": found}


def _lines(text: str) -> list[str]:
    """Without comments and empty lines; a newline within a quoted text ends none."""
    lines: list[str] = []
    open_: list[str] = []
    for line in text.split("\n"):
        open_.append(line)
        if '"' in line and len(_QUOTED.findall(line)) % 2 != (len(open_) > 1):
            continue
        if len(open_) > 1 and '"' not in line:
            continue
        whole = "\n".join(open_).strip("\r ")
        open_ = []
        if whole and not whole.startswith("#"):
            lines.append(whole)
    return lines + (["\n".join(open_)] if open_ else [])


def _metric(line: str) -> dict[str, Any]:
    """Raises ValueError."""
    name, at = _taken(_MEASUREMENT, line, 0, "a measurement")
    tags: dict[str, str] = {}
    while line[at : at + 1] == ",":
        key, at = _taken(_KEY, line, at + 1, "a tag")
        if line[at : at + 1] != "=":
            raise ValueError("a tag without a value")
        tags[key], at = _taken(_KEY, line, at + 1, "a tag's value")
    if line[at : at + 1] != " ":
        raise ValueError("no fields")
    at = _past_blanks(line, at)
    fields: dict[str, Any] = {}
    while True:
        key, at = _taken(_KEY, line, at, "a field")
        match = _VALUE.match(line, at + 1) if line[at : at + 1] == "=" else None
        if match is None:
            raise ValueError("a field without a value")
        fields[key] = _value(match)
        at = match.end()
        if line[at : at + 1] != ",":
            break
        at += 1
    made: dict[str, Any] = {"name": name, "tags": tags, "fields": fields}
    rest = line[at:].strip()
    if rest:
        if line[at] != " " or not _TIMESTAMP.fullmatch(rest):
            raise ValueError("what follows the fields is no timestamp")
        made["ts"] = made["timestamp"] = int(rest)
    return made


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
