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

Rows are packed and unpacked many at a time, block by block of the table; only the digest is per record.

A layout says what its numbers mean, too: a column of no size is named by the id of the meaning (`streamrnn.meaning`), which is
written down beside it. Versions that know nothing of that read the other columns as they always did. A record of another
layout is read by the names of its columns: what is missing is made of others (`conversions`) or starts fresh, what is unknown
is left out; one of another meaning is carried by the names of channels, levels and so on (`carrying`). A record of which nothing
can be carried is left where it is and reported; nothing depends on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash

from streamrnn.calendar import StepGrid
from streamrnn.kernels.grid import NEVER
from streamrnn.kernels.rows import DAMAGED, ELSEWHERE, IMPOSSIBLE, LIFE, TAKEN, admit, lifted
from streamrnn.meaning import Change, Meaning, MeaningError, decode_meaning, meaning_of
from streamrnn.records import I64, U8, Bool, Record
from streamrnn.stream import carrying
from streamrnn.stream.conversions import as_now, converted
from streamrnn.stream.engine import Engine
from streamrnn.stream.table import Block, Field, SeriesTable
from streamrnn.wire.packed import Packed, names_of, text_of

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
# The column of no size that names the meaning.
MEANING = re.compile(r"meaning_([0-9a-f]{16})")
# A digest says whose row it is, not who wrote it. What is infinite or no number would spread to all that the series says, and
# so would what is so large that its square is: in the first of these columns neither can be, in the next a missing value is
# written as no number, and counts are not negative.
NUMBERS = ("last", "level", "level_spread", "move_scale", "since", "dt_mean", "state", "pend_offsets")
NUMBERS_OR_NONE = ("anchor", "seen_range", "pend_mean", "pend_moves", "pend_said")
COUNTS = ("applied", "steps", "seen")
# In the unit of their channel (`kernels.experts.history.X_MAX` is 2²⁸), or factors.
WITHIN: Mapping[str, float] = {
    **dict.fromkeys(
        ("x", "deviation", "phases", "profile", "means", "deviation_means", "next_move", "pend_raw", "pend_added"),
        2.0**32,
    ),
    **dict.fromkeys(("level_theta", "covariance", "error_last", "error_means"), 2.0**32),
    **dict.fromkeys(("moves_gram", "moves_right", "deviations_gram", "deviations_right", "week"), 1e30),
    **dict.fromkeys(("slope", "stack_gram", "stack_right", "network_worth"), 1e30),
    **dict.fromkeys(("moves_weights", "deviations_weights", "stack_weight"), 1e12),
    "fill_widths": 8.0,
}
# Sums and means of squares, and what is a share of something.
NOT_NEGATIVE = (
    "unit", "sizes", "moves_seen", "deviations_seen", "losses", "weight", "move_size", "energy", "sigma",
    "standing", "quick", "one_step", "swing", "doubt", "error_size",
)  # fmt: skip
# Sums of these have to fit 64 bits.
TIMES = ("last_step", "last_us", "heard_at", "heard_ms", "previewed", "prev_step")
# How that looks in a word of each kind: (mask, value behind it that cannot be, 1: nor a larger one). `u2` is the upper half of
# an `f4`.
_NO_NUMBER = {
    "f2": (0x7C00, 0x7C00, 0),
    "u2": (0x7F80, 0x7F80, 0),
    "f4": (0x7F800000, 0x7F800000, 0),
    "f8": (0x7FF0000000000000, 0x7FF0000000000000, 0),
}
_INFINITE = {
    "f2": (0x7FFF, 0x7C00, 0),
    "u2": (0x7FFF, 0x7F80, 0),
    "f4": (0x7FFFFFFF, 0x7F800000, 0),
    "f8": (0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000, 0),
}
_TOO_LARGE = {"i8": (-0x4000000000000000, 0x4000000000000000, 0)}
OTHER_STEP = "it counts steps of another length"
_NEGATIVE = {"i4": (0x80000000, 0x80000000, 0), "i8": (-0x8000000000000000, -0x8000000000000000, 0)}
_BELOW_ZERO = {"f4": (0xFFFFFFFF, 0x7F7FFFFF, 1)}  # a sign is the largest bit


def _beyond(limit: float) -> dict[str, tuple[int, int, int]]:
    bits = int(np.float32(limit).view(np.uint32))
    return {"f4": (0x7FFFFFFF, bits, 1), "u2": (0x7FFF, bits >> 16, 1)}


_CANNOT_BE: Mapping[str, Mapping[str, tuple[int, int, int]]] = (
    dict.fromkeys(NUMBERS, _NO_NUMBER)
    | dict.fromkeys(NUMBERS_OR_NONE, _INFINITE)
    | {name: _beyond(limit) for name, limit in WITHIN.items()}
    | dict.fromkeys(NOT_NEGATIVE, _BELOW_ZERO)
    | dict.fromkeys(COUNTS, _NEGATIVE)
    | dict.fromkeys(TIMES, _TOO_LARGE)
)


class SnapshotError(Exception):
    """State that cannot be used; the message says why and what follows from it."""


class NewerVersion(SnapshotError):
    """Written by a newer version of this program: this one must not guess."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How records of another layout become own ones; `cold`: why nothing can be carried of them."""

    change: Change | None = None
    cold: str = ""
    described: bool = True  # False: of a version that kept no meaning

    @property
    def news(self) -> bool:
        """Whether their meaning is not written down as that of now."""
        return not self.described or (self.change is not None and not self.change.none)


@dataclass(slots=True)
class Restored:
    """What became of some records: rows taken, and how many were refused by reason."""

    rows: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    life: int = 0  # the newest of them
    # By row of the table, 1 more than the life and the place in the changelog of the record that is in it; 0: nothing.
    # Zeros that nobody looks at take no memory.
    lived: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    stood: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    # By row of the table, 1 more than the place in `plans` of what its record went through; 0: it is of the own layout.
    through: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    plans: list[Plan] = field(default_factory=list)
    # Series of which a record was found that nothing can be carried of: of the newest such, the life, the input offset that
    # it has come to, and why.
    left: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)  # layouts that were not described when their records came

    def for_rows(self, rows: int) -> None:
        """Makes `lived`, `stood` and `through` so long at least."""
        if have := max(0, rows - len(self.lived)):
            more: I64 = np.zeros(max(have, len(self.lived), 1024), dtype=np.int64)
            self.lived, self.stood = np.concatenate([self.lived, more]), np.concatenate([self.stood, more])
            self.through = np.concatenate([self.through, more])

    def leave(self, rows: Iterable[tuple[str, int, int]], why: str) -> None:
        """Records of these (series, life, input offset that it has come to) cannot be used."""
        for name, life, applied in rows:
            known = self.left.get(name)
            if known is None or (life, applied) >= known[:2]:
                self.left[name] = life, applied, why
            self.life = max(self.life, life)

    def number(self, plan: Plan) -> int:
        """What rows have in `through` that went through this."""
        if plan not in self.plans:
            self.plans.append(plan)
        return 1 + self.plans.index(plan)

    def refuse(self, reason: str, count: int = 1) -> None:
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count

    def orphans(self, series: Mapping[str, int], life: int) -> list[str]:
        """Those of a partition's series (with their rows) whose records are of another life than this one."""
        rows = np.fromiter(series.values(), dtype=np.int64, count=len(series))
        odd = self.lived[rows] != life + 1
        return list(compress(series, odd.tolist())) if odd.any() else []

    def outdated(self, series: Mapping[str, int], applied: I64) -> list[str]:
        """Those of a partition's series (with their rows) of which a newer record cannot be used: this one is not the state
        that they had last. `applied`: the table's column."""
        found = [
            (name, series[name], life + 1, reached) for name, (life, reached, _) in self.left.items() if name in series
        ]
        return [name for name, row, *rank in found if rank > [int(self.lived[row]), int(applied[row])]]


def layout_text(table: SeriesTable, meaning: str) -> bytes:
    """Names, types and shapes of the columns, in order, and the meaning's id: what a reader of another version goes by."""
    columns = [field for block in _packed_blocks(table) for field in block.fields if field.size]
    rows = [(f.name, np.dtype(f.dtype).newbyteorder("<").str, list(f.shape)) for f in columns]
    return msgspec.json.encode([*rows, (f"meaning_{meaning}", "|u1", [0])])


def _packed_blocks(table: SeriesTable) -> list[Block]:
    """The widest numbers first, so that each lies where a machine wants it, counted from the record's begin."""
    return sorted((block for block in table.blocks if block.size), key=lambda block: -block.align)


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
        # "": written by a version that kept no meaning
        self.meaning = next((found[1] for name, _, _ in self.columns if (found := MEANING.fullmatch(name))), "")
        self.places = [(name, int(fields[name][1])) for name, _, _ in self.columns]
        self.place = dict(self.places)
        self.kinds = {name: (np.dtype(kind), math.prod(shape)) for name, kind, shape in self.columns}
        self.shapes = {name: shape for name, _, shape in self.columns}


class _OwnLayout(_Layout):
    """The table's own: also where its columns lie, and which words of a record say that it cannot be (`rows.admit`)."""

    def __init__(self, text: bytes, table: SeriesTable) -> None:
        super().__init__(text)
        blocks = _packed_blocks(table)
        self.widths: I64 = np.array([block.size for block in blocks], dtype=np.int64)
        self.starts: I64 = HEADER_BYTES + np.cumsum(self.widths) - self.widths
        self.addresses: I64 = np.array([block.rows.ctypes.data for block in blocks], dtype=np.int64)
        self.blocks = [
            (block.rows, slice(at, at + block.size)) for block, at in zip(blocks, self.starts.tolist(), strict=True)
        ]
        self.checks = self._checks()
        self.applied = self.place["applied"] // 8

    def _checks(self) -> I64:
        """[n, 6]: (width in bytes, first word, the word after the last, mask, value that cannot be, 1: nor larger ones)."""
        checks: list[list[int]] = []
        for name, place in self.places:
            kind, count = self.kinds[name]
            what = _CANNOT_BE.get(name, {}).get(kind.str[1:])
            first = place // kind.itemsize
            if what is None or not count:
                continue
            if checks and checks[-1][0] == kind.itemsize and checks[-1][2:] == [first, *what]:
                checks[-1][2] = first + count
            else:
                checks.append([kind.itemsize, first, first + count, *what])
        return np.array(checks, dtype=np.int64)


def _column(name: str, kind: str, shape: Sequence[int]) -> tuple[str, str, tuple[int, ...]]:
    if not COLUMN.fullmatch(name) or not KIND.fullmatch(kind):
        raise ValueError(f"a column {name[:40]!a} of type {kind[:40]!a}")
    if len(shape) > 8 or min(shape, default=1) < 0 or math.prod(shape) * int(kind[-1]) > ROW_BYTES_MAX:
        raise ValueError(f"a column {name} of a shape that no row has")
    return name, kind, tuple(shape)


class _Rows(NamedTuple):
    """Records of the own layout: they begin at `begin` in `raw`, stand at `stand` in the log, and are `whole` where their
    digests were right."""

    names: Sequence[str]
    raw: U8
    begin: I64
    stand: I64
    whole: Bool

    def take(self, chosen: I64) -> _Rows:
        names = [self.names[i] for i in chosen.tolist()]
        return _Rows(names, self.raw, self.begin[chosen], self.stand[chosen], self.whole[chosen])


class Snapshots:
    """Packs rows of an engine's table and puts them back. Holds no state of the stream, only layouts."""

    def __init__(self, engine: Engine, meaning: Meaning | None = None) -> None:
        """`meaning`: of the stream as it is read, where `decode` is not as it comes."""
        self._engine = engine
        self._table: SeriesTable = engine.table
        self.meaning = meaning if meaning is not None else meaning_of(engine.spec)
        self._layouts: dict[int, _Layout] = {}
        self._meanings: dict[str, Meaning] = {self.meaning.id: self.meaning}
        self._plans: dict[tuple[int, int], Plan] = {}
        self._text, self._known = b"", -1
        self._own = self._current()

    def _current(self) -> _OwnLayout:
        """The table's own layout; it changes when weights of another kind bring another state column."""
        if self._table.layouts != self._known:
            self._known, self._text = self._table.layouts, layout_text(self._table, self.meaning.id)
            self._own = _OwnLayout(self._text, self._table)
            self._layouts[self._own.id] = self._own
        return self._own

    def layout(self) -> tuple[int, bytes]:
        """(id, description) of the records that `pack` makes now; a reader needs the description before them."""
        return self._current().id, self._text

    def record_bytes(self) -> int:
        """Of a record that `pack` makes now, without ticks held back."""
        return self._current().size

    def learn(self, text: bytes) -> int:
        """Takes the description of a layout that records to come may have; returns its id. Raises SnapshotError."""
        made = _Layout(text)
        if made.id != self._own.id:
            self._layouts[made.id] = made
        return made.id

    def learn_meaning(self, meaning: str, text: bytes) -> None:
        """Takes the meaning of this id, which layouts may name. Raises SnapshotError."""
        try:
            self._meanings[meaning] = decode_meaning(text)
        except MeaningError as error:
            raise SnapshotError(str(error)) from error

    def knows(self, layout: int) -> bool:
        """Whether a layout is described by now, and the meaning that it names."""
        known = self._layouts.get(layout)
        return known is not None and (not known.meaning or known.meaning in self._meanings)

    # ── to bytes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def pack(self, partition: int, rows: I64, position: int, life: int) -> tuple[list[bytes], list[bytes]]:
        """(series names, records) of these rows, whose state has come to input offset `position`."""
        layout = self._current()
        column = self._table.columns
        # A row restored ahead of the replay keeps the offset it has come to.
        here = rows[column["applied"][rows] <= position]
        column["applied"][here] = position
        heads = np.zeros(len(rows), dtype=HEADER)
        heads["_magic"], heads["_version"] = MAGIC, VERSION
        heads["_partition"], heads["_life"], heads["_layout"] = partition, life, layout.id
        names = self._table.names
        keys = [(names[row] or "").encode() for row in rows.tolist()]
        held = [self._engine.front.held_bytes(row) for row in rows.tolist()] if self._engine.front.holds else None
        if held is not None:
            heads["_held"] = [len(part) for part in held]
        raw: U8 = np.empty((len(rows), layout.size), dtype=np.uint8)
        raw[:, :HEADER_BYTES] = heads.view(np.uint8).reshape(len(rows), HEADER_BYTES)
        for block, part in layout.blocks:
            raw[:, part] = block.take(rows, axis=0)
        size, plain, records = layout.size, raw.reshape(-1).data, []
        for i, key in enumerate(keys):
            body: bytes | memoryview = plain[i * size + DIGEST_BYTES : (i + 1) * size]
            if held is not None and held[i]:
                body = b"".join((body, held[i]))
            records.append(b"".join((_digest(key, body).to_bytes(DIGEST_BYTES, "little"), body)))
        return keys, records

    # ── and back ─────────────────────────────────────────────────────────────────────────────────────────────────

    def restore(self, partition: int, states: Packed, out: Restored) -> None:
        """Takes records, oldest first, into the table and says in `out` what became of them; keys are series' names.

        Of two records of one series that of the newer life, or else the one that has come further, is kept; of two that
        have come as far, the later one in the log, for compaction keeps no other. Records that mean something else are
        carried as far as they can be, and are left alone where nothing can be. Raises NewerVersion.
        """
        self._current()
        raw = np.frombuffer(states.buffer, dtype=np.uint8)
        begin, size = states.span[:, 2], states.span[:, 3] - states.span[:, 2]
        odd: Bool = np.ones(len(states), dtype=np.bool_)
        for layout in [layout for layout in self._layouts.values() if self.knows(layout.id)]:
            some = odd & (size == layout.size)
            heads = _gathered(raw, begin[some], np.dtype(HEADER))
            fits = heads["_layout"] == layout.id
            some[some] = fits
            if some.any():
                odd &= ~some
                self._restore_plain(partition, layout, raw, heads[fits], states.take(some), out)
        for record in states.take(odd):
            self._restore_odd(partition, record, out)

    def _restore_plain(
        self, partition: int, layout: _Layout, raw: U8, heads: Any, states: Packed, out: Restored
    ) -> None:
        """Records of one layout, none of which holds ticks back."""
        if (heads["_version"] > VERSION).any():
            raise _newer(partition, int(heads["_version"].max()))  # the digest may be another one, too
        begin, bodies, keys = states.span[:, 2], memoryview(states.buffer), states.keys()
        digest_of = xxhash.xxh3_64_intdigest  # `_digest`, without a call for each
        digests = [
            digest_of(bodies[at:stop], digest_of(key))
            for key, at, stop in zip(keys, (begin + DIGEST_BYTES).tolist(), states.span[:, 3].tolist(), strict=True)
        ]
        whole = heads["_digest"] == np.array(digests, dtype=np.uint64)
        rows, plan = _Rows(names_of(keys), raw, begin, states.offset, whole), None
        self._make_room(layout)
        if layout.id != self._current().id:
            plan = self._plan(layout)
            if plan.cold:
                out.refuse("digest", int((~whole).sum()))
                self._leave(rows.take(np.flatnonzero(whole)), layout.place["applied"], plan.cold, out)
                return
            raw, odd = self._in_own(layout, plan, b"".join(bodies[at:stop] for _, _, at, stop in states.span.tolist()))
            rows = rows._replace(raw=raw, begin=np.arange(len(states), dtype=np.int64) * self._own.size)
            if odd.any():
                self._leave(rows.take(np.flatnonzero(odd & whole)), self._own.place["applied"], OTHER_STEP, out)
                rows = rows.take(np.flatnonzero(~odd))
        self._take(partition, rows, out, plan)

    def _restore_odd(self, partition: int, record: Record, out: Restored) -> None:
        """One record that has ticks held back behind its row, or is damaged."""
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
        held, name = int(header["_held"]), text_of(key)
        if layout is None or not self.knows(layout.id):
            out.unknown.add(int(header["_layout"]))
            return out.refuse("layout-unknown")
        if len(value) != layout.size + held:
            return out.refuse("layout-unknown")
        self._make_room(layout)
        row, ticks, unit_us = value[: layout.size], value[layout.size :], 1000 if "last_ts" in layout.place else 1
        raw, plan = np.frombuffer(row, np.uint8), None
        if layout.id != self._current().id:
            plan = self._plan(layout)
            why, odd = plan.cold, None
            if not why:
                raw, odd = self._in_own(layout, plan, row)
            if why or (odd is not None and odd.any()):
                applied = int(np.frombuffer(row, dtype=layout.dtype)["applied"][0])
                return out.leave([(name, int(header["_life"]), applied)], why or OTHER_STEP)
        try:
            if ticks and plan is not None and plan.change is not None and not plan.change.none:
                closed = int(raw.view(self._own.dtype)["last_step"][0])
                steps = self._engine.front.steps
                ticks, lost = carrying.carried_ticks(ticks, plan.change, unit_us, steps.index, closed)
                out.refuse("held", lost)
                unit_us = 1
            open_steps = self._engine.front.held_of(ticks, unit_us) if ticks else None
        except ValueError:
            return out.refuse("held")
        at = np.zeros(1, dtype=np.int64)
        rows = _Rows([name], raw, at, at + record.offset, np.ones(1, dtype=np.bool_))
        taken = self._take(partition, rows, out, plan)
        slot = self._table.find(partition, name) if taken and open_steps else None
        if slot is not None and open_steps:
            self._engine.front.take_held(slot, open_steps)
        return None

    def _leave(self, rows: _Rows, place: int, why: str, out: Restored) -> None:
        """`place`: where in a record the offset lies that it has come to."""
        lives = _gathered(rows.raw, rows.begin + 4 * LIFE, np.dtype("<u4")).tolist()
        applied = _gathered(rows.raw, rows.begin + place, np.dtype("<i8")).tolist()
        out.leave(zip(rows.names, lives, applied, strict=True), why)

    def _make_room(self, layout: _Layout) -> None:
        """Before there are weights, the table has no room for the network's state. One that is restored all the same
        (the weights are on their way) is kept, or it would come back as that of its last frames alone."""
        shape = next((shape for name, kind, shape in layout.columns if (name, kind) == ("state", "<f4")), None)
        change = self._plan(layout).change if layout.id != self._own.id else None
        if change is not None and not change.same_inputs:
            return
        if shape is None or len(shape) != 1 or not 0 < shape[0] <= STATE_MAX:
            return
        if self._table.fields["state"].shape == (0,):
            self._table.replace(Field("state", shape, np.float32))

    def _plan(self, theirs: _Layout) -> Plan:
        known = self._plans.get((theirs.id, self._own.id))
        if known is None:
            known = self._plans[theirs.id, self._own.id] = self._planned(theirs)
        return known

    def _planned(self, theirs: _Layout) -> Plan:
        described = bool(theirs.meaning)
        shapes = {name: shape for name, _, shape in theirs.columns}
        meaning = self._meanings.get(theirs.meaning) if described else carrying.inferred(shapes, self.meaning)
        if meaning is None:
            return Plan(None, "it has another number of `channels`, and is of a version that kept no names", described)
        change = Change(meaning, self.meaning)
        kinds = {name: kind for name, kind, _ in theirs.columns}
        # Columns that have the same name and cannot be the same: other numbers, or many where there is one.
        other = [
            name
            for name, kind, shape in self._own.columns
            if kinds.get(name, kind) != kind or (not shape and shapes.get(name, ()))
        ]
        cold = change.cold or (f"its column {other[0]} is another one" if other else "")
        return Plan(change, cold, described)

    def _in_own(self, theirs: _Layout, plan: Plan, rows: bytes) -> tuple[U8, Bool]:
        """(rows of another layout in the own one, end to end; which of them cannot be used: they count other steps)."""
        assert plan.change is not None  # noqa: S101
        spec, steps, block = self._engine.spec, self._engine.front.steps, np.frombuffer(rows, dtype=theirs.dtype)
        with np.errstate(all="ignore"):  # what is no number is looked for when it is taken
            made = _renamed(block, theirs, self._own, self._table, steps, carrying.Carrying(plan.change, spec))
            odd: Bool = np.zeros(len(made), dtype=np.bool_)
            if not plan.described:
                odd = _of_other_steps(made, steps, spec.gap_max + 2, spec.lateness_ms)
        return np.frombuffer(made.tobytes(), np.uint8), odd

    def _take(self, partition: int, rows: _Rows, out: Restored, plan: Plan | None = None) -> bool:
        """Puts rows of the own layout into the table; returns whether it took any. `plan`: what they went through."""
        table = self._table
        out.for_rows(table.used)
        if "" in rows.names:  # no series has such a name
            fits: Bool = np.array([name != "" for name in rows.names])
            out.refuse("impossible", int((rows.whole & ~fits).sum()))
            out.refuse("digest", int((~rows.whole & ~fits).sum()))
            rows = rows.take(np.flatnonzero(fits))
        # The least recently moved first, so that the table evicts the right ones when it is full.
        applied = self._applied(rows)
        if (applied[1:] < applied[:-1]).any():
            rows = rows.take(np.argsort(applied, kind="stable"))
        if table.room(len(rows.names)) < len(rows.names):
            rows = self._for_full_table(partition, rows, out)
        to, given, evicted = table.adopt(partition, rows.names)
        out.for_rows(table.used)
        out.lived[given] = 0
        verdict = self._admit(partition, rows, to.astype(np.int64), out)
        taken = to[verdict == TAKEN]
        self._engine.front.forget_held(chain(evicted, given.tolist(), taken.tolist()))
        for row in given[out.lived[given] == 0].tolist():  # for records that were refused
            self._engine.forget(partition, table.names[row] or "")
        if len(taken):
            out.through[taken] = 0 if plan is None else out.number(plan)
            out.rows += len(taken)
            out.life = max(out.life, int(out.lived[taken].max()) - 1)
        return len(taken) > 0

    def _for_full_table(self, partition: int, rows: _Rows, out: Restored) -> _Rows:
        """Those of the rows that are worth that others are evicted for them: one of each series, in the same order."""
        table = self._table
        verdict = self._admit(partition, rows, np.full(len(rows.names), -1, dtype=np.int64), out)
        rows = rows.take(np.flatnonzero(verdict == TAKEN))
        life = _gathered(rows.raw, rows.begin + 4 * LIFE, np.dtype("<u4")).tolist()
        best: dict[str, tuple[tuple[int, int, int], int]] = {}
        ranks = zip(life, self._applied(rows).tolist(), rows.stand.tolist(), strict=True)
        for i, (name, (lived, applied, stood)) in enumerate(zip(rows.names, ranks, strict=True)):
            rank = lived + 1, applied, stood + 1
            row = table.find(partition, name)
            known = best[name][0] if name in best else (0, 0, 0)
            if row is not None:
                known = max(known, (int(out.lived[row]), int(table.columns["applied"][row]), int(out.stood[row])))
            if rank >= known:
                best[name] = rank, i
        # No more at once than there are rows: what would be pushed out by its own neighbours is not taken at all.
        out.refuse("series_max", max(0, len(best) - table.rows_max))
        chosen: I64 = np.array(sorted(i for _, i in best.values()), dtype=np.int64)
        return rows.take(chosen[-table.rows_max :])

    def _applied(self, rows: _Rows) -> I64:
        """The input offsets that they have come to."""
        applied: I64 = _gathered(rows.raw, rows.begin + self._own.place["applied"], np.dtype("<i8"))
        return applied

    def _admit(self, partition: int, rows: _Rows, to: I64, out: Restored) -> U8:
        """See kernels.rows.admit; what is refused is counted."""
        # Asked for anew: making room may have moved the table's arrays.
        own, begin, size = self._current(), rows.begin, len(rows.raw)
        used = self._table.used
        if len(begin) and (begin.min() < 0 or begin.max() + own.size > size or to.min() < -1 or to.max() >= used):
            raise IndexError(f"rows {to.min()}..{to.max()} at {begin.min()}..{begin.max()} of {size} bytes")
        verdict: U8 = np.empty(len(begin), dtype=np.uint8)
        admit(
            rows.raw, begin, rows.stand, to, rows.whole, partition, own.size, own.checks, own.applied, own.starts, own.widths,
            own.addresses, out.lived, out.stood, self._table.columns["applied"], verdict,
        )  # fmt: skip
        for reason, why in ((DAMAGED, "digest"), (ELSEWHERE, "partition"), (IMPOSSIBLE, "impossible")):
            out.refuse(why, int((verdict == reason).sum()))
        return verdict


def _gathered(raw: U8, begin: I64, kind: np.dtype[Any]) -> Any:
    """What lies at these places, as an array of `kind`."""
    size = kind.itemsize
    if len(begin) and (begin.min() < 0 or begin.max() + size > len(raw)):
        raise IndexError(f"{size} bytes at {begin.min()}..{begin.max()} of {len(raw)}")
    out: U8 = np.empty(len(begin) * size, dtype=np.uint8)
    lifted(raw, begin, size, out)
    return out.view(kind)


def _newer(partition: int, version: int) -> NewerVersion:
    return NewerVersion(
        f"the state of partition {partition} was written by a newer version of streamrnn (format {version}; this one "
        f"reads up to {VERSION}): upgrade this worker, or set another `topics.state` to begin without state"
    )


def _digest(key: bytes, body: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(key))


def _times(block: Any, known: Mapping[str, Any], steps: StepGrid) -> dict[str, Any]:
    """Columns of earlier layouts in today's meaning, by today's names.

    Until event time kept microseconds, a layout had `last_ts` in milliseconds, numbers of irregular steps likewise, and
    weeks that begin on Thursday.
    """
    if "last_ts" not in known:
        return {}
    last_step, last_ts, prev_step = block["last_step"], block["last_ts"], block["prev_step"]
    seen = last_ts > NEVER
    made = {"last_us": np.where(seen, last_ts, 0) * 1000}
    made["last_us"][~seen] = NEVER
    if steps.step_us == 0:
        closed = last_step > NEVER
        made["last_step"] = np.where(closed, np.where(closed, last_step, 0) * 1000, NEVER)
        made["prev_step"], made["dt_mean"] = prev_step * 1000, block["dt_mean"] * np.float32(1000)
    elif len(steps.edges):
        # The newest closed step is the one of the newest tick, and those that were filled behind it.
        first = np.array([steps.index(int(us)) for us in made["last_us"]], dtype=np.int64)
        made["last_step"] = np.where(seen, first + (last_step - block["real_step"]), NEVER)
        made["prev_step"] = np.where(seen, made["last_step"] - (last_step - prev_step), prev_step)
    made["previewed"] = made.get("last_step", last_step)
    return made


def _renamed(
    block: Any, theirs: _Layout, own: _Layout, table: SeriesTable, steps: StepGrid, carry: carrying.Carrying
) -> Any:
    """Records of another layout in this one's, column by column by name."""
    change = carry.change
    made = np.zeros(len(block), dtype=own.dtype)
    for name, _ in HEADER:
        made[name] = block[name]
    known = {name: (kind, shape) for name, kind, shape in theirs.columns}
    times = _times(block, known, steps)
    count: I64 = (
        np.asarray(block["steps"], dtype=np.int64) if "steps" in known else np.zeros(len(block), dtype=np.int64)
    )
    for name, _, shape in own.columns:
        field = table.fields.get(name)
        if field is None:  # no numbers, but the meaning's name
            continue
        made[name] = field.fill
        values = times.get(name)
        if values is None:
            values = as_now(name, block) if name in known else converted(name, block)
        if values is None:
            continue
        if name == carrying.RECURRENT:
            if change.same_inputs and values.shape[1:] == shape:
                made[name] = values
        elif change.none and values.shape[1:] == shape:
            made[name] = values
        else:
            made[name] = carry.column(name, values, count, field)
    here, there = own.shapes.get(carrying.RECURRENT), theirs.shapes.get(carrying.RECURRENT)
    if here is not None and not (change.same_inputs and here == there):
        made[carrying.GENERATION] = 0  # computed anew when the series is next touched
    if not change.none:
        carry.settle(made, block, count)
    return made


def _of_other_steps(made: Any, steps: StepGrid, filled: int, lateness_ms: int) -> Bool:
    """Which rows count other steps than these: the step closed last must be about that of the newest tick, ahead of it by
    steps that were `filled` at most, and late by `lateness_ms`. For states that do not say how long their steps are."""
    closed, newest = made["last_step"], made["last_us"]
    seen = (closed > NEVER) & (newest > NEVER)
    own: I64 = np.array(
        [steps.index(int(us)) if some else 0 for us, some in zip(newest, seen, strict=True)], dtype=np.int64
    )
    unit = steps.step_us or 1
    most = (filled if steps.step_us else 1_000_000 * 864_000) + lateness_ms * 1000 // unit
    odd: Bool = seen & (np.abs(closed - own) > most)
    return odd
