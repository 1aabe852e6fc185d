"""Records of lines: Graphite's plaintext protocol, collectd's commands, CSV. Each as `{"lines": [{…}]}`; numbers stay texts.

    host-a.load.load.shortterm 2.978 1795784706            path[;tag=value…] value time
    PUTVAL host-a/cpu-1/cpu-system interval=2.000 1795784640.773:5168
    1764000000,21.4,"3,25"

Sources: Graphite's documentation ("Feeding in your data", "Tag support"), collectd-unixsock(5) and types.db(5), RFC 4180.
A line that cannot be read is refused alone.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from typing import Any

from streamrnn.wire.paths import Mistyped

Lines = dict[str, list[Any]]

_COMMAND = re.compile(r'PUTVAL\s+(?:"((?:[^"\\]|\\.)*)"|(\S+))((?:\s+\S+)+)\s*', re.IGNORECASE)
# Values of a type that has several, by the names that collectd's types.db has for them; those of one are called `value`.
_RX_TX = ("rx", "tx")
_READ_WRITE = ("read", "write")
_DATA_SOURCES: dict[str, tuple[str, ...]] = {
    "load": ("shortterm", "midterm", "longterm"),
    **dict.fromkeys(
        ("if_octets", "if_packets", "if_errors", "if_dropped", "if_multicast", "io_octets", "io_packets"), _RX_TX
    ),
    **dict.fromkeys(("disk_octets", "disk_ops", "disk_merged", "disk_time", "disk_latency"), _READ_WRITE),
    "disk_io_time": ("io_time", "weighted_io_time"),
    "ps_count": ("processes", "threads"),
    "ps_cputime": ("user", "syst"),
    "ps_disk_octets": _READ_WRITE,
    "ps_disk_ops": _READ_WRITE,
    "ps_pagefaults": ("minflt", "majflt"),
    "mysql_octets": _RX_TX,
    "df": ("used", "free"),
    "swap_io": ("in", "out"),
    "vmpage_io": ("in", "out"),
    "vmpage_faults": ("minflt", "majflt"),
    "compression": ("uncompressed", "compressed"),
    "dns_octets": ("queries", "responses"),
    "node_octets": _RX_TX,
    "memcached_octets": _RX_TX,
}


def graphite(payload: bytes, most: int) -> Lines:
    """`{"path", "prefix", "leaf", "tags", "value", "ts"}` of each line; prefix and leaf are the path before and after its last
    dot. Raises UnicodeDecodeError."""
    return _read(payload, most, _graphite)


def _graphite(line: str, most: int) -> list[dict[str, Any]]:
    parts = line.split()
    if len(parts) not in (2, 3):
        raise ValueError("a path, a value and a time with blanks between them")
    path, *tags = parts[0].split(";")
    prefix, _, leaf = path.rpartition(".")
    if not leaf:
        raise ValueError("a path that is empty, or ends with a dot")
    found: dict[str, Any] = {"path": path, "prefix": prefix, "leaf": leaf, "value": parts[1]}
    if tags:
        found["tags"] = {}
    for tag in tags:
        name, sign, value = tag.partition("=")
        if not sign or not name:
            raise ValueError("a tag without a value")
        found["tags"][name] = value
    if len(parts) == 3 and parts[2] not in ("-1", "N"):  # both: when it arrives
        found["ts"] = parts[2]
    return [found]


def collectd(payload: bytes, most: int) -> Lines:
    """What collectd's JSON has of each value list: `{"host", "plugin", "plugin_instance", "type", "type_instance", "time",
    "values", "dsnames"}`. Raises UnicodeDecodeError."""
    return _read(payload, most, _collectd)


def _collectd(line: str, most: int) -> list[dict[str, Any]]:
    match = _COMMAND.fullmatch(line)
    if match is None:
        raise ValueError("no PUTVAL of an identifier and values")
    quoted, bare, rest = match.groups()
    parts = (re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare).split("/")
    if len(parts) != 3 or not all(parts):
        raise ValueError("an identifier that is not host/plugin-instance/type-instance")
    plugin, _, plugin_instance = parts[1].partition("-")
    kind, _, type_instance = parts[2].partition("-")
    found: list[dict[str, Any]] = []
    for each in rest.split():
        if "=" in each:  # an option, such as interval=
            continue
        if len(found) > most:
            break
        time, *values = each.split(":")
        if not values:
            raise ValueError("values without a time")
        names = _DATA_SOURCES.get(kind, ())
        if len(names) != len(values):
            names = ("value",) if len(values) == 1 else tuple(f"value{i}" for i in range(len(values)))
        made: dict[str, Any] = {
            "host": parts[0], "plugin": plugin, "plugin_instance": plugin_instance, "type": kind,
            "type_instance": type_instance, "values": [None if value == "U" else value for value in values],
            "dsnames": list(names),
        }  # fmt: skip
        if time != "N":
            made["time"] = time
        found.append(made)
    if not found:
        raise ValueError("no values")
    return found


def separated(payload: bytes, most: int, columns: Sequence[str], separator: str) -> Lines:
    """The columns of each line by their names; a line that repeats the names is left out, empty cells are null. Raises
    UnicodeDecodeError."""
    names = list(columns)
    found: list[Any] = []
    text = payload.decode("utf-8-sig")
    rows = csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    while len(found) <= most:
        try:
            row = next(rows, None)
        except csv.Error as error:
            found.append(Mistyped(f"line {rows.line_num} is no CSV: {error}", "malformed"))
            continue
        if row is None:
            break
        if not row or row == names:
            continue
        if len(row) != len(names):
            found.append(
                Mistyped(f"line {rows.line_num} has {len(row)} cells, and decode.columns {len(names)}", "malformed")
            )
            continue
        found.append({name: cell.strip() or None for name, cell in zip(names, row, strict=True)})
    return {"lines": found}


def _read(payload: bytes, most: int, one: Callable[[str, int], list[dict[str, Any]]]) -> Lines:
    found: list[Any] = []
    for number, line in enumerate(payload.decode().split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            found += one(line, most)
        except ValueError as error:
            found.append(Mistyped(f"line {number} cannot be read: {error}", "malformed"))
        if len(found) > most:
            break
    return {"lines": found}
