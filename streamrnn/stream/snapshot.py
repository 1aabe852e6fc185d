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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import xxhash

from streamrnn.kernels.grid import NEVER
from streamrnn.kernels.rows import put, sound
from streamrnn.packed import Packed
from streamrnn.records import I32, I64, U8, Record
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
DIGEST_BYTES = 8
# What a column of a layout may be: plain numbers of a fixed size, never Python's objects.
COLUMN, KIND = re.compile(r"[a-z][a-z0-9_]{0,63}"), re.compile(r"[<|][iuf][1248]")
# Far more than any configuration needs, and less than a description of a few bytes may claim.
ROW_BYTES_MAX = 1 << 26
STATE_MAX = 1 << 14
# A digest says whose row it is, not who wrote it. These must be numbers, for one that is not would spread to all that
# the series says; in the others a missing value is written as one.
NUMBERS = ("last", "level", "level_spread2", "scale2", "since", "dt_mean", "spread2", "theta", "loss", "state")
COUNTS = ("applied", "steps", "seen")


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
    lives: dict[str, int] = field(default_factory=dict)
    _stands: I64 | None = None

    def stands(self, rows_max: int) -> I64:
        """By row of the table, the offset in the changelog of the record that it was restored from."""
        if self._stands is None:
            self._stands = np.full(rows_max, -1, dtype=np.int64)
        return self._stands

    def refuse(self, reason: str, count: int = 1) -> None:
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count

    def strays(self, life: int | None) -> list[str]:
        """Series whose records are of another life than this one (None: all of them)."""
        return [name for name, lived in self.lives.items() if lived != life]


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
            self.columns = [_column(*row) for row in rows]
            self.dtype: np.dtype[Any] = np.dtype([*HEADER, *self.columns])
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise SnapshotError(f"the description of a state layout cannot be read: {error}") from error
        self.id = xxhash.xxh3_64_intdigest(text)
        self.size = self.dtype.itemsize
        fields: Mapping[str, Any] = self.dtype.fields or {}
        if ("applied", "<i8", ()) not in self.columns:
            raise SnapshotError("a state layout names no input offset that the state has come to")
        self.places = [(name, int(fields[name][1])) for name, _, _ in self.columns]
        self.place = dict(self.places)
        self.kinds = {name: (np.dtype(kind), math.prod(shape)) for name, kind, shape in self.columns}


class _OwnLayout(_Layout):
    """The table's own: also where its columns lie, and where in a record the bytes are that say whether it can be."""

    def __init__(self, text: bytes, table: SeriesTable) -> None:
        super().__init__(text)
        columns = [table.columns[name] for name, _ in self.places]
        self.starts: I64 = np.array([place for _, place in self.places], dtype=np.int64)
        self.widths: I64 = np.array([column[:1].nbytes for column in columns], dtype=np.int64)
        self.addresses: I64 = np.array([column.ctypes.data for column in columns], dtype=np.int64)
        self.singles, self.doubles = self._last_bytes(NUMBERS, "f4"), self._last_bytes(NUMBERS, "f8")
        self.signs: I64 = np.concatenate([self._last_bytes(COUNTS, kind) for kind in ("i4", "i8")])
        self.order = self.place["real_step"], self.place["last_step"]

    def _last_bytes(self, names: Sequence[str], kind: str) -> I64:
        """Of each number in those of these columns that are of a kind."""
        found: list[int] = []
        for name in names:
            known, count = self.kinds.get(name, (np.dtype("u1"), 0))
            if known.str[1:] == kind:
                first = self.place[name] + known.itemsize - 1
                found += range(first, first + known.itemsize * count, known.itemsize)
        return np.array(found, dtype=np.int64)


def _column(name: str, kind: str, shape: Sequence[int]) -> tuple[str, str, tuple[int, ...]]:
    if not COLUMN.fullmatch(name) or not KIND.fullmatch(kind):
        raise ValueError(f"a column {name[:40]!a} of type {kind[:40]!a}")
    if len(shape) > 8 or min(shape, default=1) < 0 or math.prod(shape) * int(kind[-1]) > ROW_BYTES_MAX:
        raise ValueError(f"a column {name} of a shape that no row has")
    return name, kind, tuple(shape)


class Snapshots:
    """Packs rows of an engine's table and puts them back. Holds no state of the stream, only layouts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._table: SeriesTable = engine.table
        self._layouts: dict[int, _Layout] = {}
        self._text, self._known = b"", -1
        self._own = self._current()

    def _current(self) -> _OwnLayout:
        """The table's own layout; it changes when weights of another kind bring another state column."""
        if self._table.layouts != self._known:
            self._known, self._text = self._table.layouts, layout_text(self._table.fields)
            self._own = _OwnLayout(self._text, self._table)
            self._layouts[self._own.id] = self._own
        return self._own

    def layout(self) -> tuple[int, bytes]:
        """(id, description) of the records that `pack` makes now; a reader needs the description before them."""
        return self._current().id, self._text

    def learn(self, text: bytes) -> None:
        """Takes the description of a layout that records to come may have. Raises SnapshotError."""
        made = _Layout(text)
        self._layouts[made.id] = made

    # ── to bytes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def pack(self, partition: int, rows: I64, position: int, life: int) -> tuple[list[bytes], list[bytes]]:
        """(series names, records) of these rows, whose state has come to input offset `position`."""
        layout = self._current()
        column = self._table.columns
        # A row restored ahead of the replay keeps the offset it has come to.
        here = rows[column["applied"][rows] <= position]
        event_time_ms = self._engine.front.event_time_ms(partition)
        column["applied"][here] = position
        column["applied_ms"][here] = NEVER if event_time_ms is None else event_time_ms
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

    def restore(self, partition: int, states: Packed, out: Restored) -> None:
        """Takes records, oldest first, into the table and says in `out` what became of them; keys are series' names.

        Of two records of one series that of the newer life, or else the one that has come further, is kept; of two that
        have come as far, the later one in the log, for compaction keeps no other.
        Raises NewerVersion, LayoutMismatch.
        """
        own = self._current()
        begin = states.span[:, 2]
        plain = states.span[:, 3] - begin == own.size
        raw = np.frombuffer(states.buffer, dtype=np.uint8)
        heads = _gathered(raw, begin[plain], np.dtype(HEADER))
        fits = heads["_layout"] == own.id
        plain[plain] = fits
        if not plain.all():
            for record in states.take(~plain):
                self._restore_odd(partition, record, out)
            heads, states = heads[fits], states.take(plain)
            if self._current() is not own:  # room was made for a network's state: these are of another layout now
                self.restore(partition, states, out)
                return
        if (heads["_version"] > VERSION).any():
            raise _newer(partition, int(heads["_version"].max()))  # the digest may be another one, too
        keys, begin = states.keys(), states.span[:, 2]
        bodies, digest_of = memoryview(states.buffer), xxhash.xxh3_64_intdigest  # `_digest`, without a call for each
        digests = [
            digest_of(bodies[at:stop], digest_of(key))
            for key, at, stop in zip(keys, (begin + DIGEST_BYTES).tolist(), (begin + own.size).tolist(), strict=True)
        ]
        whole = heads["_digest"] == np.array(digests, dtype=np.uint64)
        if not whole.all():
            out.refuse("digest", int((~whole).sum()))
            heads, states = heads[whole], states.take(whole)
            keys, begin = states.keys(), states.span[:, 2]
        self._take(partition, keys, raw, heads, begin, states.offset, out)

    def _restore_odd(self, partition: int, record: Record, out: Restored) -> None:
        """One record that has ticks held back behind its row, or another layout, or is damaged."""
        key, value = record.key or b"", record.value or b""
        if len(value) < HEADER_BYTES:
            return out.refuse("short")
        header = np.frombuffer(value, dtype=np.dtype(HEADER), count=1)[0]
        if int(header["_magic"]) != MAGIC:
            return out.refuse("not-a-state")
        if int(header["_version"]) > VERSION:
            raise _newer(partition, int(header["_version"]))
        if int(header["_digest"]) != _digest(key, value[DIGEST_BYTES:]):
            return out.refuse("digest")
        layout = self._layouts.get(int(header["_layout"]))
        held = int(header["_held"])
        if layout is None or len(value) != layout.size + held:
            return out.refuse("layout-unknown")
        try:
            open_steps = self._engine.front.held_of(value[len(value) - held :]) if held else None
        except ValueError:
            return out.refuse("held")
        block = np.frombuffer(value, dtype=layout.dtype, count=1)
        self._make_room(layout)
        own = self._current()
        if layout.id != own.id:
            block = _renamed(block, layout, own, self._table)
        row: I64 = np.array([0, record.offset], dtype=np.int64)
        raw = np.frombuffer(block.tobytes(), np.uint8)
        heads = _gathered(raw, row[:1], np.dtype(HEADER))
        taken = self._take(partition, [key], raw, heads, row[:1], row[1:], out)
        slot = self._table.find(partition, key.decode()) if taken and open_steps else None
        if slot is not None and open_steps:
            self._engine.front.take_held(slot, open_steps)
        return None

    def _make_room(self, layout: _Layout) -> None:
        """Before there are weights, the table has no room for the network's state. One that is restored all the same
        (the weights are on their way) is kept, or it would come back as that of its last frames alone."""
        shape = next((shape for name, kind, shape in layout.columns if (name, kind) == ("state", "<f4")), None)
        if shape is None or len(shape) != 1 or not 0 < shape[0] <= STATE_MAX:
            return
        if self._table.fields["state"].shape == (0,):
            self._table.replace(Field("state", shape, np.float32))

    def _take(
        self, partition: int, keys: Sequence[bytes], raw: U8, heads: Any, begin: I64, stands: I64, out: Restored
    ) -> bool:
        """Puts records of the own layout, which begin at `begin` in `raw` and stand at `stands` in the log, into rows."""
        own, table = self._current(), self._table
        applied = _gathered(raw, begin + own.place["applied"], np.dtype("<i8"))
        lives = heads["_life"]
        fits = heads["_partition"] == partition
        out.refuse("partition", int((~fits).sum()))
        possible = np.ones(len(begin), dtype=np.bool_)
        sound(raw, begin, own.singles, own.doubles, own.signs, *own.order, possible)
        names = [key.decode(errors="replace") for key in keys]
        if b"" in keys or not b"".join(keys).isascii():  # no series has such a name
            possible &= [name.encode() == key != b"" for name, key in zip(names, keys, strict=True)]
        out.refuse("impossible", int((fits & ~possible).sum()))
        fits &= possible
        if not out.lives.keys().isdisjoint(names):
            for i, name in enumerate(names):
                row = table.find(partition, name)
                if name in out.lives and row is not None:
                    there = out.lives[name], table.columns["applied"][row], out.stands(table.rows_max)[row]
                    fits[i] &= (lives[i], applied[i], stands[i]) >= there
        chosen = np.flatnonzero(fits)
        # The newest of each series, and the least recently moved first, so that the table lets go of the right ones
        # when it is full.
        ranked = chosen[np.lexsort((applied[chosen], lives[chosen]))]
        newest = {names[i]: i for i in ranked.tolist()}
        chosen = np.fromiter(newest.values(), dtype=np.int64, count=len(newest))
        chosen = chosen[np.argsort(applied[chosen], kind="stable")]
        # No more at once than there are rows: what would be pushed out by its own neighbours is not taken at all.
        out.refuse("series_max", max(0, len(chosen) - table.rows_max))
        chosen = chosen[-table.rows_max :]
        if len(chosen) == 0:
            return False
        named = [names[i] for i in chosen.tolist()]
        taken, evicted = table.adopt(partition, named)
        self._engine.front.forget_held(chain(evicted, taken.tolist()))
        self._put(own, raw, begin[chosen], taken)
        out.stands(table.rows_max)[taken] = stands[chosen]
        out.lives.update(zip(named, lives[chosen].tolist(), strict=True))
        out.rows += len(chosen)
        return True

    def _put(self, own: _OwnLayout, raw: U8, begin: I64, to: I32) -> None:
        if begin.min() < 0 or begin.max() + own.size > len(raw) or to.min() < 0 or to.max() >= self._table.rows_max:
            raise IndexError(f"rows {to.min()}..{to.max()} at {begin.min()}..{begin.max()} of {len(raw)} bytes")
        put(raw, begin, own.starts, own.widths, own.addresses, to.astype(np.int64))


def _gathered(raw: U8, begin: I64, kind: np.dtype[Any]) -> Any:
    """What lies at these places, as an array of `kind`."""
    return raw[begin[:, None] + np.arange(kind.itemsize)].view(kind).reshape(len(begin))


def _newer(partition: int, version: int) -> NewerVersion:
    return NewerVersion(
        f"the state of partition {partition} was written by a newer version of streamrnn (format {version}; this one "
        f"reads up to {VERSION}): upgrade this worker, or set another `topics.state` to begin without state"
    )


def _digest(key: bytes, body: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(key))


def _renamed(block: Any, theirs: _Layout, own: _Layout, table: SeriesTable) -> Any:
    """A record of another layout in this one's, column by column by name."""
    made = np.zeros(len(block), dtype=own.dtype)
    for name, _ in HEADER:
        made[name] = block[name]
    known = {name: (kind, shape) for name, kind, shape in theirs.columns}
    for name, kind, shape in own.columns:
        if name not in known:
            made[name] = table.fields[name].fill
        elif known[name] == (kind, shape):
            made[name] = block[name]
        else:
            their_kind, their_shape = known[name]
            of = (f" of {their_kind}", f" of {kind}") if their_kind != kind else ("", "")
            raise LayoutMismatch(
                f"the kept state has {name} {list(their_shape)}{of[0]}, this configuration needs {list(shape)}{of[1]}"
            )
    return made
