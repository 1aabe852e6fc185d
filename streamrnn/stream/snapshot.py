"""A series' whole state as one record, and back: what the state changelog keeps.

A record is the row of every column of the series table, packed in a fixed order behind a header:

    digest    u64   XXH3 of all that follows, seeded by the series' name: a record under another key is not believed
    magic     2 B   "SR"
    version   u8    of this envelope
    flags     u8    0
    partition i32   of the input
    life      u32   which life of the partition's state it belongs to (a cold start begins a new one)
    held      u32   bytes behind the row: ticks of steps that are not closed yet
    layout    u64   which columns in which order (`layout_text`), XXH3 of that text
    row             the columns; among them `applied`, the input offset this state has come to

Rows are packed and unpacked many at a time, column by column; only the digest is per record. A record of another layout
(another version of this program, another configuration) is read by the names of its columns: what is missing starts
fresh, what is unknown is left out, and a column of another shape makes the record useless (`LayoutMismatch`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import xxhash

from streamrnn.records import I64
from streamrnn.stream.engine import Engine
from streamrnn.stream.table import Field, SeriesTable

VERSION = 1
MAGIC = int.from_bytes(b"SR", "little")
HEADER = [
    ("_digest", "<u8"),
    ("_magic", "<u2"),
    ("_version", "u1"),
    ("_flags", "u1"),
    ("_partition", "<i4"),
    ("_life", "<u4"),
    ("_held", "<u4"),
    ("_layout", "<u8"),
]
HEADER_BYTES = np.dtype(HEADER).itemsize
DIGEST_BYTES, VERSION_AT = 8, 10


class SnapshotError(Exception):
    """State that cannot be used; the message says why and what follows from it."""


class NewerVersion(SnapshotError):
    """Written by a newer version of this program: this one must not guess."""


class LayoutMismatch(SnapshotError):
    """The columns have other shapes: the configuration (channels, horizon, quantiles, burn_in, model) was changed."""


@dataclass(slots=True)
class Restored:
    """What became of some records: rows taken, and how many were refused by reason."""

    rows: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    # The life of the partition's state that each series' record belongs to.
    lives: dict[bytes, int] = field(default_factory=dict)

    def refuse(self, reason: str, count: int = 1) -> None:
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count

    def strays(self, life: int | None) -> list[str]:
        """Series whose records are of another life than this one (None: all of them)."""
        return [key.decode() for key, lived in self.lives.items() if lived != life]


def layout_text(fields: Mapping[str, Field]) -> bytes:
    """Names, types and shapes of the columns, in order: what a reader of another version goes by."""
    rows = [(f.name, np.dtype(f.dtype).newbyteorder("<").str, list(f.shape)) for f in _packed_fields(fields)]
    return msgspec.json.encode(rows)


def _packed_fields(fields: Mapping[str, Field]) -> list[Field]:
    return [f for f in fields.values() if math.prod(f.shape)]


class _Layout:
    """One layout: the packed record's numpy type."""

    def __init__(self, text: bytes) -> None:
        try:
            rows = msgspec.json.decode(text, type=list[tuple[str, str, list[int]]])
            self.columns = [(name, kind, tuple(shape)) for name, kind, shape in rows]
            self.dtype: np.dtype[Any] = np.dtype([*HEADER, *self.columns])
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise SnapshotError(f"the description of a state layout cannot be read: {error}") from error
        self.id = xxhash.xxh3_64_intdigest(text)
        self.size = self.dtype.itemsize
        fields: Mapping[str, Any] = self.dtype.fields or {}
        if "applied" not in fields:
            raise SnapshotError("a state layout names no input offset that the state has come to")
        self.applied_at = int(fields["applied"][1])


class Snapshots:
    """Packs rows of an engine's table and puts them back. Holds no state of the stream, only layouts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._table: SeriesTable = engine.table
        self._layouts: dict[int, _Layout] = {}
        self._text = b""
        self._own = self._current()

    def _current(self) -> _Layout:
        """The table's own layout; it changes when weights of another kind bring another state column."""
        text = layout_text(self._table.fields)
        if text != self._text:
            self._text = text
            self._own = _Layout(text)
            self._layouts[self._own.id] = self._own
        return self._own

    def layout(self) -> tuple[int, bytes]:
        """(id, description) of the records that `pack` makes now; a reader needs the description before them."""
        return self._current().id, self._text

    def learn(self, text: bytes) -> None:
        """Takes the description of a layout that records to come may have. Raises SnapshotError."""
        made = _Layout(text)
        self._layouts[made.id] = made

    def applied(self, record: bytes) -> int | None:
        """The input offset that a record's state has come to; None where its layout is not this table's own."""
        own = self._current()
        if len(record) < own.size or record[HEADER_BYTES - 8 : HEADER_BYTES] != own.id.to_bytes(8, "little"):
            return None
        return _rank(own, record)[1]

    # ── to bytes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def pack(self, partition: int, rows: I64, position: int, life: int) -> tuple[list[bytes], list[bytes]]:
        """(series names, records) of these rows, whose state has come to input offset `position`."""
        layout = self._current()
        column = self._table.columns
        # A row restored ahead of the replay keeps the offset it has come to.
        column["applied"][rows] = np.maximum(column["applied"][rows], position)
        block = np.zeros(len(rows), dtype=layout.dtype)
        block["_magic"], block["_version"] = MAGIC, VERSION
        block["_partition"], block["_life"], block["_layout"] = partition, life, layout.id
        for name, _, _ in layout.columns:
            block[name] = column[name][rows]
        names = self._table.names
        keys = [(names[row] or "").encode() for row in rows.tolist()]
        held = [self._engine.front.held_bytes(row) for row in rows.tolist()] if self._engine.front.holds else None
        if held is not None:
            block["_held"] = [len(part) for part in held]
        raw, size = block.tobytes(), layout.size
        records = []
        for i, key in enumerate(keys):
            body = raw[i * size + DIGEST_BYTES : (i + 1) * size]
            if held is not None and held[i]:
                body += held[i]
            records.append(_digest(key, body).to_bytes(DIGEST_BYTES, "little") + body)
        return keys, records

    # ── and back ─────────────────────────────────────────────────────────────────────────────────────────────────

    def restore(self, partition: int, keys: Sequence[bytes], records: Sequence[bytes], out: Restored) -> None:
        """Takes records, oldest first, into the table and says in `out` what became of them.

        Of two records of one series that of the newer life, or else the one that has come further, is kept.
        Raises NewerVersion, LayoutMismatch.
        """
        own = self._current()
        plain: dict[bytes, int] = {}  # the newest place of each series among those that fit the fast way
        for i, record in enumerate(records):
            if len(record) == own.size and record[DIGEST_BYTES + 12 + 4 : HEADER_BYTES] == own.id.to_bytes(8, "little"):
                earlier = plain.get(keys[i])
                if earlier is None or _rank(own, records[earlier]) <= _rank(own, record):
                    plain.pop(keys[i], None)
                    plain[keys[i]] = i
            else:
                self._restore_odd(partition, keys[i], record, out)
        good = []
        for key, i in plain.items():
            record = records[i]
            if record[VERSION_AT] > VERSION:
                raise _newer(partition, record[VERSION_AT])  # its digest may be another one, too
            if int.from_bytes(record[:DIGEST_BYTES], "little") == _digest(key, record[DIGEST_BYTES:]):
                good.append(i)
            else:
                out.refuse("digest")
        if good:
            block = np.frombuffer(b"".join([records[i] for i in good]), dtype=own.dtype)
            self._take(partition, [keys[i] for i in good], block, out)

    def _restore_odd(self, partition: int, key: bytes, record: bytes, out: Restored) -> None:
        """One record that has ticks held back behind its row, or another layout, or is damaged."""
        if len(record) < HEADER_BYTES:
            return out.refuse("short")
        header = np.frombuffer(record, dtype=np.dtype(HEADER), count=1)[0]
        if int(header["_magic"]) != MAGIC:
            return out.refuse("not-a-state")
        if int(header["_version"]) > VERSION:
            raise _newer(partition, int(header["_version"]))
        if int(header["_digest"]) != _digest(key, record[DIGEST_BYTES:]):
            return out.refuse("digest")
        layout = self._layouts.get(int(header["_layout"]))
        held = int(header["_held"])
        if layout is None or len(record) != layout.size + held:
            return out.refuse("layout-unknown")
        block = np.frombuffer(record, dtype=layout.dtype, count=1)
        self._make_room(layout)
        own = self._current()
        if layout.id != own.id:
            block = _renamed(block, layout, own, self._table)
        if self._take(partition, [key], block, out) and held:
            row = self._table.find(partition, key.decode())
            if row is not None:
                self._engine.front.take_held(row, record[len(record) - held :])
        return None

    def _make_room(self, layout: _Layout) -> None:
        """Before there are weights, the table has no room for the network's state. One that is restored all the same
        (the weights are on their way) is kept, or it would come back as that of its last frames alone."""
        shape = next((shape for name, _, shape in layout.columns if name == "state"), None)
        if shape is not None and self._table.fields["state"].shape == (0,):
            self._table.replace(Field("state", shape, np.float32))

    def _take(self, partition: int, keys: Sequence[bytes], block: Any, out: Restored) -> bool:
        names = [key.decode() for key in keys]
        fits = block["_partition"] == partition
        if not fits.all():
            out.refuse("partition", int((~fits).sum()))
        column, lives = self._table.columns, block["_life"].tolist()
        if not out.lives.keys().isdisjoint(keys):
            for i, key in enumerate(keys):
                row = self._table.find(partition, names[i])
                if key in out.lives and row is not None:
                    fits[i] &= (lives[i], block["applied"][i]) >= (out.lives[key], column["applied"][row])
        chosen = np.flatnonzero(fits)
        if len(chosen) == 0:
            return False
        # The least recently moved first, so that the table lets go of the right ones when it is full.
        chosen = chosen[np.argsort(block["applied"][chosen], kind="stable")]
        # No more at once than there are rows: what would be pushed out by its own neighbours is not taken at all.
        out.refuse("series_max", max(0, len(chosen) - self._table.rows_max))
        chosen = chosen[-self._table.rows_max :]
        rows, evicted = self._table.adopt(partition, [names[i] for i in chosen])
        self._engine.front.forget_held([*evicted, *rows.tolist()])
        for name in column:
            source = block[name][chosen] if name in (block.dtype.names or ()) else self._table.fields[name].fill
            column[name][rows] = source
        out.lives.update((keys[i], lives[i]) for i in chosen.tolist())
        out.rows += len(chosen)
        return True


def _newer(partition: int, version: int) -> NewerVersion:
    return NewerVersion(
        f"the state of partition {partition} was written by a newer version of streamrnn (format {version}; this one "
        f"reads up to {VERSION}): upgrade this worker, or set another `topics.state` to begin without state"
    )


def _digest(key: bytes, body: bytes) -> int:
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(key))


def _rank(layout: _Layout, record: bytes) -> tuple[int, int]:
    """(life, offset it has come to)"""
    at = layout.applied_at
    return int.from_bytes(record[16:20], "little"), int.from_bytes(record[at : at + 8], "little", signed=True)


def _renamed(block: Any, theirs: _Layout, own: _Layout, table: SeriesTable) -> Any:
    """A record of another layout in this one's, column by column by name."""
    made = np.zeros(len(block), dtype=own.dtype)
    for name, _ in HEADER:
        made[name] = block[name]
    shapes = {name: shape for name, _, shape in theirs.columns}
    for name, _, shape in own.columns:
        if name not in shapes:
            made[name] = table.fields[name].fill
        elif shapes[name] == shape:
            made[name] = block[name]
        else:
            raise LayoutMismatch(
                f"the kept state has {name} {list(shapes[name])}, this configuration needs {list(shape)}"
            )
    return made
