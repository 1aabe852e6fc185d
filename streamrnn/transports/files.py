"""Files as streams: CSV (also gzipped), Parquet where pyarrow is installed, JSON lines in the wire format."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from streamrnn.records import F64, I64

LINE_BYTES_MAX = 1024 * 1024
TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y %H.%M.%S")


class InputError(Exception):
    """A file cannot be used; the message names the file, the place and what to do."""


@dataclass(frozen=True, slots=True)
class Table:
    """One series as a table: `ts_ms` [row], `values` [row, channel] with NaN for missing."""

    channels: tuple[str, ...]
    ts_ms: I64
    values: F64


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A line of a file as a record; its offset is its line number, from 0."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def read_table(path: Path, time_column: str, channels: Sequence[str] = ()) -> Table:
    """A CSV or Parquet file with one row a step. No channels named: every column that holds numbers. Raises InputError."""
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return _parquet(path, time_column, channels)
    try:
        raw = path.read_bytes()
        # Spreadsheets begin a file with a byte-order mark; it is no part of the first column's name.
        text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    head = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ",")
    rows: list[tuple[int, list[str]]] = []  # with the line each ends on
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path}: holds no rows")
    header = [column.strip() for column in rows[0][1]]
    if time_column not in header:
        raise InputError(f"{path}: no column {time_column!r}; there are {', '.join(header)} (choose with --time)")
    body = rows[1:]
    chosen = list(channels) or _numeric(header, body[0][1], time_column)
    if not chosen:
        raise InputError(f"{path}: no column but the time holds a number in the first row; choose with --channels")
    for channel in chosen:
        if channel not in header:
            raise InputError(f"{path}: no column {channel!r}; there are {', '.join(header)}")
    columns = [(channel, header.index(channel)) for channel in chosen]
    when = header.index(time_column)
    values: F64 = np.empty((len(body), len(chosen)))
    ts: I64 = np.empty(len(body), dtype=np.int64)
    for i, (line, row) in enumerate(body):
        if len(row) <= max(when, *(at for _, at in columns)):
            raise InputError(f"{path}, line {line}: too few cells, {len(row)} of {len(header)}")
        column = time_column
        try:
            ts[i] = parse_time(row[when])
            for k, (column, at) in enumerate(columns):  # noqa: B007 - the message names it
                values[i, k] = _number(row[at])
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}, line {line}, column {column!r}: {error}") from error
    return Table(tuple(chosen), ts, values)


def _numeric(header: Sequence[str], row: Sequence[str], time_column: str) -> list[str]:
    found = []
    for column, cell in zip(header, row, strict=False):
        try:
            _number(cell)
        except ValueError:
            continue
        if column and column != time_column:
            found.append(column)
    return found


def _number(text: str) -> float:
    """Empty and the usual words for "not there" are NaN."""
    text = text.strip()
    if text.lower() in ("", "nan", "na", "null", "none"):
        return float("nan")
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def parse_time(text: str) -> int:
    """Epoch (seconds or milliseconds), RFC 3339, or one of the usual ways to write a date; as UTC milliseconds."""
    text = text.strip()
    if len(text) == 8 and text.isdigit() and text[:2] in ("19", "20"):
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"  # a compact date, not seconds of 1970
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if not np.isfinite(number):
            raise ValueError(f"{text!r} is not a time")
        # Seconds, milliseconds, microseconds or nanoseconds, by their size: each unit of the years 1973 to 5138.
        if abs(number) < 1e11:
            return round(number * 1000)
        for unit in (1, 1000, 1_000_000):
            if abs(number) < 1e14 * unit:
                return int(text) // unit if text.lstrip("-").isdigit() else round(number / unit)
        raise ValueError(f"{text!r} is not a time")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        for form in TIME_FORMATS:
            try:
                moment = datetime.strptime(text, form).replace(tzinfo=UTC)
                break
            except ValueError:
                continue
        else:
            raise ValueError(f"{text!r} is not a time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _parquet(path: Path, time_column: str, channels: Sequence[str]) -> Table:
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
    chosen = tuple(channels) or tuple(n for n in names if n != time_column and _is_number(table.schema.field(n).type))
    if not chosen:
        raise InputError(f"{path}: no column but the time holds numbers; choose with --channels")
    missing = [channel for channel in chosen if channel not in names]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; there are {', '.join(names)}")
    column = time_column
    try:
        when = np.asarray(table.column(time_column).to_numpy(zero_copy_only=False))
        if when.dtype.kind == "M":
            if np.isnat(when).any():
                raise ValueError("a time is missing")
            ts = when.astype("datetime64[ms]").astype(np.int64)
        else:
            ts = np.array([parse_time(str(value)) for value in when], dtype=np.int64)
        values: F64 = np.empty((len(ts), len(chosen)))
        for k, column in enumerate(chosen):
            values[:, k] = table.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
            if np.isinf(values[:, k]).any():
                raise ValueError("a value is not finite")
    except (ValueError, TypeError, OverflowError, ArrowInvalid) as error:
        raise InputError(f"{path}, column {column!r}: {error}") from error
    return Table(chosen, ts, values)


def _is_number(kind: object) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def read_lines(path: Path, topic: str = "file") -> Iterator[FileRecord]:
    """JSON lines (also gzipped) as records, one at a time. Raises InputError for a file that cannot be opened."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX + 1):
                whole = line
                while not whole.endswith(b"\n") and (whole := file.readline(LINE_BYTES_MAX + 1)):
                    pass  # the rest of a line beyond the limit: what was kept is too large already, and says so
                if line.strip():
                    yield FileRecord(topic, 0, number, -1, None, line.rstrip(b"\r\n"))
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
