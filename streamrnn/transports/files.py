"""Files as streams: tables (CSV, Parquet) with one row a step, and JSON lines as records.

A table is read by whole columns: which cells are numbers, how decimals are marked and what a time means is decided by
all rows, never by the first. What has two readings is an InputError that names both and the option that settles it.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from streamrnn.records import F64, I64, Bool, PlainRecord
from streamrnn.transports.times import AmbiguousTimes, Times, localise, read_times, zone_of
from streamrnn.wire import numerals

LINE_BYTES_MAX = 1024 * 1024
ENVELOPE_BYTES_MAX = 8 * LINE_BYTES_MAX  # a payload within a text, with its escapes
MISSING = ("", "nan", "na", "n/a", "null", "none")

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_CLOCK = re.compile(r"\d{1,2}[:.]\d{2}(?:[:.]\d{2}(?:\.\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?", re.ASCII)
_SERIES_NAMES = re.compile(
    r"(unique_)?(id|ids|series|name|key|station|sensor|device|host|item|store|symbol|ticker)s?|.*_id"
)


class InputError(Exception):
    """A file cannot be used; the message names the file, the place and what to do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table is to be read where it does not say so itself.

    `time_format`: as `times.read_times`. `timezone`: of times without an offset (None: UTC). `series`: the columns that
    name a row's series. `decimal`: "." or "," (None: found by column). `missing`: further words for "not there".
    `value_abs_max`: larger numbers are refused. `allow_refused`: rows that cannot be read are counted and left out; without
    it the first of them is an InputError.
    """

    time_format: str | None = None
    timezone: str | None = None
    series: tuple[str, ...] = ()
    decimal: str | None = None
    missing: tuple[str, ...] = ()
    value_abs_max: float = float("inf")
    allow_refused: bool = False


@dataclass(slots=True)
class Table:
    """Rows in the file's order: `ts_us` [row] UTC microseconds, `values` [row, channel] with NaN for missing.

    `series` [row] names each row's series (empty where there is one). `line` [row] is the line of the file a row ends on
    (Parquet: its number from 1). `total` rows were found; those that are not here are in `refused` with their reason.
    """

    channels: tuple[str, ...]
    ts_us: I64
    values: F64
    line: I64
    series: list[str] = field(default_factory=list)
    total: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ts_us)


@dataclass(slots=True)
class _Faults:
    """Rows that cannot be used: the first reason of each, with its place."""

    path: Path
    line: I64
    reason: dict[int, str] = field(default_factory=dict)
    first: tuple[int, str] | None = None

    def add(self, row: int, reason: str, column: str, detail: str) -> None:
        if row not in self.reason:
            self.reason[row] = reason
            if self.first is None or row < self.first[0]:
                self.first = (row, f"{self.path}, line {self.line[row]}, column {column!r}: {detail}")


def read_table(path: Path, time_column: str, channels: Sequence[str] = (), reading: Reading | None = None) -> Table:
    """A CSV or Parquet file with one row a step (and series). No channels named: every column that holds numbers.

    `time_column` may be two columns of a CSV, such as `Date,Time`. Raises InputError.
    """
    reading = reading or Reading()
    if path.name.lower().endswith((".parquet", ".pq")):
        return _parquet(path, time_column, channels, reading)
    header, body, line = _cells(path)
    parts = [time_column] if time_column in header else [part.strip() for part in time_column.split(",")]
    if not set(parts) <= set(header):
        raise InputError(f"{path}: no column {time_column!r}; there are {', '.join(header)} (choose with --time)")
    for named in (*channels, *reading.series, *parts):
        if named not in header:
            raise InputError(f"{path}: no column {named!r}; there are {', '.join(header)}")
        if header.count(named) > 1:
            raise InputError(f"{path}: {header.count(named)} columns are named {named!r}")
    columns = {name: [row[at] for row in body] for at, name in enumerate(header) if header.count(name) == 1}
    series = _series([columns[name] for name in reading.series])
    faults = _Faults(path, line)
    texts = [" ".join(cells) for cells in zip(*(columns[part] for part in parts), strict=True)]
    times = _times(path, time_column, texts, reading, series, faults)
    missing = frozenset({*MISSING, *(word.strip().lower() for word in reading.missing)})
    taken = {*parts, *reading.series}
    chosen = list(channels) or [
        name for name, cells in columns.items() if name and name not in taken and _holds_numbers(cells, missing)
    ]
    if not chosen:
        raise InputError(f"{path}: no column but the time holds a number; choose with --channels")
    if not channels:
        chosen = _moving(columns, chosen, times)
    values: F64 = np.empty((len(body), len(chosen)))
    marks = {name: _decimal_of(path, name, columns[name], missing, reading) for name in chosen}
    if "," in marks.values() and reading.decimal is None:
        _one_mark(path, columns, marks)
    for k, name in enumerate(chosen):
        values[:, k] = _numbers(name, columns[name], marks[name] or ".", missing, reading, faults)
    others = {name: cells for name, cells in columns.items() if name not in parts}
    _settle(faults, reading)
    _look_for_series(path, times.ts_us, others, frozenset(chosen), reading, faults, time_column)
    times.notes += _left_out(others, frozenset(chosen), missing, reading)
    return _kept(tuple(chosen), times, values, line, series, faults)


def _cells(path: Path) -> tuple[list[str], list[list[str]], I64]:
    """Header, cells [row][column] and the line each row ends on."""
    try:
        raw = path.read_bytes()
        # Spreadsheets begin a file with a byte-order mark; it is no part of the first column's name.
        text = (gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    head = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max((",", ";", "\t", "|"), key=head.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path}: holds no rows")
    header = [column.strip() for column in rows[0][1]]
    body: list[list[str]] = []
    for line, row in rows[1:]:
        if len(row) < len(header):
            raise InputError(f"{path}, line {line}: too few cells, {len(row)} of {len(header)}")
        if any(cell.strip() for cell in row[len(header) :]):
            raise InputError(
                f"{path}, line {line}: {len(row)} cells under {len(header)} columns (a {delimiter!r} within a cell must "
                "stand in quotes)"
            )
        body.append(row[: len(header)])
    return header, body, np.array([line for line, _ in rows[1:]], dtype=np.int64)


def _series(columns: list[list[str]]) -> list[str]:
    return ["/".join(cell.strip() for cell in cells) for cells in zip(*columns, strict=True)] if columns else []


def _times(path: Path, column: str, texts: list[str], reading: Reading, series: list[str], faults: _Faults) -> Times:
    try:
        zone = zone_of(reading.timezone) if reading.timezone else None
        times = read_times(texts, reading.time_format, zone, series or None)
    except AmbiguousTimes as error:
        raise InputError(f"{path}, column {column!r}: {error}") from error
    except ValueError as error:
        raise InputError(str(error)) from error
    for row, detail in times.bad.items():
        faults.add(row, "timestamp", column, detail)
    return times


def _settle(faults: _Faults, reading: Reading) -> None:
    if faults.first is not None and not reading.allow_refused:
        count = len(faults.reason)
        more = f" (so are {count - 1} rows more)" if count > 1 else ""
        raise InputError(f"{faults.first[1]}{more}")


def _kept(channels: tuple[str, ...], times: Times, values: F64, line: I64, series: list[str], faults: _Faults) -> Table:
    good: Bool = np.ones(len(line), dtype=np.bool_)
    good[list(faults.reason)] = False
    notes = list(times.notes)
    if faults.first is not None:
        notes.append(f"{len(faults.reason)} rows cannot be read, the first: {faults.first[1]}")
    if not good.any():
        raise InputError(faults.first[1] if faults.first is not None else f"{faults.path}: holds no rows")
    return Table(
        channels,
        times.ts_us[good],
        values[good],
        line[good],
        [name for name, kept in zip(series, good, strict=True) if kept] if series else [],
        len(line),
        dict(Counter(faults.reason.values())),
        notes,
    )


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _holds_numbers(cells: list[str], missing: frozenset[str]) -> bool:
    """Whether a column nobody named is a channel: most of what stands in it are numbers."""
    numbers = words = 0
    for cell in cells:
        text = cell.strip()
        if text.lower() in missing:
            continue
        if _NUMBER.fullmatch(text) or (
            numerals.MARKED.fullmatch(text) and any(each.fullmatch(text) for each in numerals.GROUPED.values())
        ):
            numbers += 1
        else:
            words += 1
    return 0 < numbers >= words


def _moving(columns: dict[str, list[str]], chosen: list[str], times: Times) -> list[str]:
    """Columns nobody named that hold one and the same number throughout (a station's id) are no channels, if any moves."""
    still = [name for name in chosen if len(columns[name]) > 1 and len({cell.strip() for cell in columns[name]}) == 1]
    if not still or len(still) == len(chosen):
        return chosen
    times.notes.append(f"left out, for they never move (name them with --channels): {', '.join(still)}")
    return [name for name in chosen if name not in still]


def _decimal_of(path: Path, column: str, cells: list[str], missing: frozenset[str], reading: Reading) -> str | None:
    """The column's decimal mark, "." or ","; None where no cell says (whole numbers alone). Raises InputError."""
    if reading.decimal is not None:
        return reading.decimal
    proof: dict[str, str] = {}
    unsure = ""
    for cell in cells:
        text = cell.strip()
        if "," not in text and "." not in text:
            continue
        if text.lower() in missing or not numerals.MARKED.fullmatch(text):
            continue
        mark = numerals.mark_of(text)
        if mark:
            proof.setdefault(mark, text)
        elif "," in text:
            unsure = unsure or text
    if len(proof) == 2:
        raise InputError(
            f"{path}, column {column!r}: {proof[',']!r} has a decimal comma, {proof['.']!r} a decimal point; "
            "say which with --decimal , or --decimal ."
        )
    if unsure and not proof:
        raise InputError(
            f"{path}, column {column!r}: {unsure!r} can be read as {unsure.replace(',', '.')} (--decimal ,) or as "
            f"{unsure.replace(',', '')} (--decimal .); say which"
        )
    return next(iter(proof), None)


def _one_mark(path: Path, columns: dict[str, list[str]], marks: dict[str, str | None]) -> None:
    """Beside a column with decimal commas, `1.234` in another column is a thousand or a fraction: raises InputError."""
    comma = next(name for name, mark in marks.items() if mark == ",")
    for name, mark in marks.items():
        if mark != ".":
            continue
        pointed = [cell.strip() for cell in columns[name] if "." in cell and "," not in cell]
        if pointed and all(re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", text) for text in pointed):
            raise InputError(
                f"{path}, column {name!r}: {pointed[0]!r} is {pointed[0].replace('.', '')} if points mark thousands, as "
                f"the decimal commas of column {comma!r} let expect, and {pointed[0]} if not; say which with "
                "--decimal , or --decimal ."
            )


def _numbers(
    column: str, cells: list[str], mark: str, missing: frozenset[str], reading: Reading, faults: _Faults
) -> F64:
    values: F64 = np.full(len(cells), np.nan)
    odd: Counter[str] = Counter()
    for row, cell in enumerate(cells):
        text = cell.strip()
        plain = mark == "." and _NUMBER.fullmatch(text) is not None
        if not plain:
            if text.lower() in missing:
                continue
            number = numerals.plain(text, mark)
            if number is None:
                odd[text] += 1
                finite = " finite" if text.lower().lstrip("+-") in ("inf", "infinity") else ""
                faults.add(row, "unreadable", column, f"{text[:40]!r} is not a{finite} number")
                continue
            text = number
        value = float(text)
        if not np.isfinite(value) or abs(value) > reading.value_abs_max:
            detail = (
                f"{text[:40]} is beyond ±{reading.value_abs_max:g}, the largest number taken (decode.value_abs_max)"
            )
            faults.add(row, "range", column, detail if np.isfinite(value) else f"{text[:40]} is not a finite number")
            continue
        values[row] = value
    if len(odd) == 1 and faults.first is not None and repr(next(iter(odd))) in faults.first[1]:
        word, count = next(iter(odd.items()))
        faults.first = (
            faults.first[0],
            f"{faults.first[1]}; it stands in {count} cells: if it means a missing value, write --missing '{word}'",
        )
    return values


# ── series ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _look_for_series(
    path: Path,
    ts_us: I64,
    columns: dict[str, list[str]],
    channels: frozenset[str],
    reading: Reading,
    faults: _Faults,
    time_column: str,
) -> None:
    """A file of several series that was not said to be one: raises InputError naming the column that looks like them."""
    if reading.series:
        return
    rows = [row for row in range(len(ts_us)) if row not in faults.reason]
    stamps = ts_us[rows].tolist()
    most = max(Counter(stamps).values(), default=1)
    if most == 1 and not bool((np.diff(stamps) < 0).any()):
        return
    for column, cells in columns.items():
        names = [cells[row].strip() for row in rows]
        kinds = Counter(names)
        if most > 1 and all(_CLOCK.fullmatch(name) for name in kinds):
            raise InputError(
                f"{path}: times repeat {most} x; column {column} looks like the time of day: --time {time_column},{column}"
            )
        wordy = column not in channels and not all(_NUMBER.fullmatch(name) for name in kinds)
        named = _SERIES_NAMES.fullmatch(column.lower()) is not None
        if not 1 < len(kinds) <= len(rows) // 2 or (most == 1 and not (wordy or named)):
            continue
        if not (wordy or named) and not (len(kinds) == most and min(kinds.values()) > 1):
            continue
        if len(set(zip(names, stamps, strict=True))) < len(stamps):
            continue
        if most == 1 and not _orderly(names, stamps):
            continue
        seen = f"times repeat {most} x" if most > 1 else "times fall back where another name begins"
        raise InputError(f"{path}: {seen}; column {column} looks like series: --series {column}")


def _left_out(
    columns: dict[str, list[str]], channels: frozenset[str], missing: frozenset[str], reading: Reading
) -> list[str]:
    """A note for each column of a few words that stand in many rows: they may name series, one after the other."""
    notes = []
    for column, cells in columns.items():
        if not column or column in channels or reading.series:
            continue
        words = Counter(word for cell in cells if (word := cell.strip()).lower() not in missing)
        if not 2 <= len(words) <= min(20, words.total() // 3) or all(_NUMBER.fullmatch(word) for word in words):
            continue
        some = ", ".join(list(words)[:3]) + (", ..." if len(words) > 3 else "")
        notes.append(
            f"column {column} is left out, and all rows are one series; it holds {len(words)} words ({some}): if they name "
            f"series, write --series {column}"
        )
    return notes


def _orderly(names: list[str], stamps: list[int]) -> bool:
    """Whether each name's rows are in order by themselves."""
    last: dict[str, int] = {}
    for name, stamp in zip(names, stamps, strict=True):
        if stamp <= last.get(name, stamp - 1):
            return False
        last[name] = stamp
    return True


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _parquet(path: Path, time_column: str, channels: Sequence[str], reading: Reading) -> Table:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowInvalid
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pip install 'streamrnn[parquet]'") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    names = table.column_names
    if time_column not in names:
        raise InputError(f"{path}: no column {time_column!r}; there are {', '.join(names)} (choose with --time)")
    taken = {time_column, *reading.series}
    chosen = tuple(channels) or tuple(n for n in names if n not in taken and _is_number(table.schema.field(n).type))
    if not chosen:
        raise InputError(f"{path}: no column but the time holds numbers; choose with --channels")
    for named in (*chosen, *reading.series):
        if named not in names:
            raise InputError(f"{path}: no column {named!r}; there are {', '.join(names)}")
    if table.num_rows == 0:
        raise InputError(f"{path}: holds no rows")
    line: I64 = np.arange(1, table.num_rows + 1)
    faults = _Faults(path, line)
    series = _series([[str(value) for value in table.column(name).to_pylist()] for name in reading.series])
    column = time_column
    try:
        times = _arrow_times(path, time_column, table, reading, series, faults)
        values: F64 = np.empty((len(line), len(chosen)))
        for k, column in enumerate(chosen):
            values[:, k] = table.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
            for at in np.flatnonzero(np.isinf(values[:, k]) | (np.abs(values[:, k]) > reading.value_abs_max)):
                detail = f"{values[at, k]:g} is not finite or beyond ±{reading.value_abs_max:g}"
                faults.add(int(at), "range", column, detail)
    except (ValueError, TypeError, OverflowError, ArrowInvalid) as error:
        raise InputError(f"{path}, column {column!r}: {error}") from error
    _settle(faults, reading)
    texts = {
        name: [str(value) for value in table.column(name).to_pylist()]
        for name in names
        if name != time_column and not reading.series and (_SERIES_NAMES.fullmatch(name) or name not in chosen)
    }
    _look_for_series(path, times.ts_us, texts, frozenset(chosen), reading, faults, time_column)
    times.notes += _left_out(texts, frozenset(chosen), frozenset({*MISSING, *reading.missing}), reading)
    return _kept(chosen, times, values, line, series, faults)


def _arrow_times(path: Path, column: str, table: object, reading: Reading, series: list[str], faults: _Faults) -> Times:
    data = table.column(column)  # type: ignore[attr-defined]
    when = np.asarray(data.to_numpy(zero_copy_only=False))
    if when.dtype.kind != "M" or reading.time_format is not None:
        return _times(path, column, ["" if v is None else str(v) for v in data.to_pylist()], reading, series, faults)
    times = Times(when.astype("datetime64[us]").astype(np.int64))
    for at in np.flatnonzero(np.isnat(when)):
        times.bad[int(at)] = "a time is missing"
    if reading.timezone and getattr(data.type, "tz", None) is None:
        try:
            localise(times, ~np.isnat(when), zone_of(reading.timezone), series or None)
        except AmbiguousTimes as error:
            raise InputError(f"{path}, column {column!r}: {error}") from error
    for row, detail in times.bad.items():
        faults.add(row, "timestamp", column, detail)
    return times


def _is_number(kind: object) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_lines(path: Path, topic: str = "file") -> Iterator[PlainRecord]:
    """JSON lines (also gzipped) as records, one at a time: a record's value a line, or the lines of `kcat -J` (with
    `payload_base64` for what is no text), as the first one says. Their offsets are line numbers, from 0.

    Raises InputError for a file that cannot be opened.
    """
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            number, longest = 0, LINE_BYTES_MAX
            envelopes: bool | None = None
            while line := file.readline(longest + 1):
                whole = line
                while not whole.endswith(b"\n") and (whole := file.readline(longest + 1)):
                    pass  # the rest of a line beyond the limit: what was kept is too large already, and says so
                if line.strip():
                    if envelopes is None:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                        envelopes = _envelope(line, topic, number) is not None
                        longest = ENVELOPE_BYTES_MAX if envelopes else longest
                    plain = PlainRecord(topic, 0, number, -1, None, line.rstrip(b"\r\n"))
                    yield (_envelope(line, topic, number) or plain) if envelopes else plain
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def begins_like_json(path: Path) -> bool:
    """Whether a file's first line is a JSON object, whatever the file's name is."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            return file.readline(64).lstrip(b"\xef\xbb\xbf \t").startswith(b'{"')
    except (OSError, EOFError, zlib.error):
        return False


class _Envelope(msgspec.Struct):
    """A line of kcat -J."""

    topic: str
    partition: int
    offset: int
    ts: int = -1
    headers: list[str | None] | None = None
    key: str | None = None
    key_base64: bytes | None = None
    payload: str | msgspec.UnsetType | None = msgspec.UNSET
    payload_base64: bytes | None = None


_envelopes = msgspec.json.Decoder(_Envelope)


def _envelope(line: bytes, topic: str, number: int) -> PlainRecord | None:
    """The record in a line of kcat -J; None where it is none. Its offset here is the line's number."""
    try:
        found = _envelopes.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if found.payload is msgspec.UNSET and found.payload_base64 is None:
        return None
    value = found.payload_base64
    if value is None and isinstance(found.payload, str):
        value = found.payload.encode()
    key = found.key_base64 if found.key_base64 is not None else None if found.key is None else found.key.encode()
    flat = found.headers or []
    headers = tuple((name or "", (text or "").encode()) for name, text in zip(flat[::2], flat[1::2], strict=False))
    return PlainRecord(found.topic or topic, max(0, found.partition), number, found.ts, key, value, headers)
