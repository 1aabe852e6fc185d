"""The one owner of mutable per-series state: a row per series in contiguous arrays, a column per field.

Fields that are added together lie side by side in one block, so that a series' state is few pieces of memory, whether it is
stepped, written down or brought back. What is looked at for all series at once is added alone: that is a dense array.

A batch of series is then one gather, one step, one scatter, and a series' whole state is row i of every column. Rules:

1. A row belongs to one (partition, series); state moves with its partition, so one name in two partitions is two
   rows.
2. At most `rows_max` rows. When they are used up, the series that has been silent longest is evicted.
3. Rows are reused only after they were reset to the fields' fill values, or written over whole (`adopt`).
4. Memory is that of the rows that were given out, whatever `rows_max` is (`stream.reserved`). Where the system reserves
   no more addresses than it has memory, the arrays grow by copying when rows are given out, and never else: between two
   calls of `assign` and `adopt` they stay where they are.
5. `changed` marks rows that moved since somebody last wrote them down (the changelog clears it); with `keep_evicted` the
   names of the series that were evicted are kept until somebody has taken note of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, repeat
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamrnn.records import I32, I64, U8, Bool
from streamrnn.stream.reserved import reserve

# How many of the longest silent rows are looked up at once when rows run out: one partial sort then serves many
# newcomers. Larger finds more per search, smaller forgets less when churn stops.
VICTIMS = 256
# Rows behind those of the series, for what is computed on copies.
SCRATCH = 256
# Rows that a table which grows by copying begins with; it doubles from there.
ROWS_FIRST = 1024
_NONE: I64 = np.zeros(0, dtype=np.int64)
# Bytes; the widest numbers there are, and what rows of several columns are filled up to a multiple of.
ROUND = 8


@dataclass(frozen=True)
class Field:
    """One column of the table: `shape` is the shape of a row, `fill` the value of a fresh one."""

    name: str
    shape: tuple[int, ...]
    dtype: DTypeLike
    fill: float = 0

    @cached_property
    def width(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize

    @cached_property
    def size(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * self.width


class Block:
    """Columns that lie side by side. `rows` [capacity + SCRATCH, bytes of a row], `fresh` the bytes of an unused row.

    The widest numbers come first, and a row of several columns is filled up to a multiple of 8 bytes, so that every number
    lies where a machine wants it.
    """

    def __init__(self, fields: Iterable[Field], capacity: int, number: int) -> None:
        """Raises MemoryError."""
        self.fields = sorted(fields, key=lambda field: -field.width)
        if len(self.fields) > 1 and (spare := -sum(field.size for field in self.fields) % ROUND):
            # Named by its size: other fields beside it, in another version, need another one.
            self.fields.append(Field(f"spare{number}_{spare}", (spare,), np.uint8))
        ends = list(accumulate(field.size for field in self.fields))
        self._places = {field.name: end - field.size for field, end in zip(self.fields, ends, strict=True)}
        self.size = ends[-1]
        self.align = ROUND if len(self.fields) > 1 else self.fields[0].width
        self.rows = reserve(capacity + SCRATCH, self.size)
        self.fresh: U8 = np.empty(self.size, dtype=np.uint8)
        self.columns = self._columns(self.rows)
        for field, column in zip(self.fields, self._columns(self.fresh[None]).values(), strict=True):
            column[:] = field.fill

    def _columns(self, rows: U8) -> dict[str, NDArray[Any]]:
        return {field.name: _column(rows, field, self._places[field.name]) for field in self.fields}

    def place(self, name: str) -> int:
        """Where in a row a field begins, in bytes. Raises KeyError."""
        return self._places[name]

    def move_to(self, rows: U8) -> None:
        """Goes on in another array, into which the rows were copied."""
        self.rows, self.columns = rows, self._columns(rows)


def _column(rows: U8, field: Field, at: int) -> NDArray[Any]:
    """The numbers of a field, which begin `at` so many bytes behind a row's begin: [row, *shape], in the same memory."""
    part = rows[:, at : at + field.size]
    if not field.size:
        return np.empty((len(rows), *field.shape), dtype=field.dtype)
    return part.view(field.dtype).reshape(len(rows), *field.shape)


class SeriesTable:
    """Rows of state by (partition, series); `columns[name]` is [capacity + SCRATCH, *shape], of which `used` rows hold
    something.

    `capacity` is `rows_max`, unless the system reserves no more memory than there is: then it grows with `used`, and
    `rows_max` becomes what there was memory for (`short_of_memory`).
    """

    def __init__(self, fields: Iterable[Field], rows_max: int) -> None:
        self.rows_max = self.capacity = rows_max
        self.short_of_memory = False
        self.fields: dict[str, Field] = {}
        self.layouts = 0  # counts the changes of `fields`, and the moves of their arrays
        self.blocks: list[Block] = []
        self.columns: dict[str, NDArray[Any]] = {}
        self.used = 0  # rows ever handed out: all live rows are below it
        self.names: list[str | None] = []
        self.partition: I32 = np.empty(0, dtype=np.int32)
        self.changed: Bool = np.empty(0, dtype=np.bool_)
        # What the logs' clocks know a row's series by; 0: it has not spoken since it has the row.
        self.identity: I64 = np.empty(0, dtype=np.int64)
        self._seen: I64 = np.empty(0, dtype=np.int64)
        try:
            self._own(self._reserved_own(rows_max))
        except MemoryError:
            self.capacity = min(rows_max, ROWS_FIRST)
            self._own(self._reserved_own(self.capacity))
        self.keep_evicted = False
        self.evicted: list[tuple[int, str]] = []  # (partition, series), since it was last emptied
        self.evictions = 0
        self._arrivals = 1  # ticks given a row so far; a row's entry in _seen is the last of them that was its own
        self._index: dict[int, dict[str, int]] = {}
        self._free: list[int] = []
        self._victims: list[tuple[int, int]] = []
        self.add(fields)

    def add(self, fields: Iterable[Field]) -> None:
        """Adds columns, side by side. Raises ValueError where one of the name is there."""
        fields = list(fields)
        if known := [field.name for field in fields if field.name in self.fields]:
            raise ValueError(f"field {known[0]!r} is in the table already")
        if not fields:
            return
        try:
            block = Block(fields, self.capacity, len(self.blocks))
        except MemoryError:
            block = self._block_in_less(fields)
        block.rows[: self.used] = block.fresh
        self.blocks.append(block)
        self.fields |= {field.name: field for field in block.fields}
        self.columns |= block.columns
        self.layouts += 1

    def replace(self, field: Field) -> None:
        """Puts a field of another shape in the place of one that was added alone, all rows fresh (a new kind of network
        came). Raises ValueError where that lies beside others."""
        block = next((block for block in self.blocks if field.name in block.columns), None)
        if block is not None:
            if len(block.fields) > 1:
                raise ValueError(f"field {field.name!r} lies beside {len(block.fields) - 1} others")
            self.blocks.remove(block)
            del self.fields[field.name], self.columns[field.name]
        self.add([field])

    # ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _reserved_own(self, capacity: int) -> list[NDArray[Any]]:
        """Room for the four columns of the table itself."""
        kinds = (self.partition, self.changed, self.identity, self._seen)
        return [reserve(capacity, kind.itemsize).view(kind.dtype).reshape(capacity) for kind in kinds]

    def _own(self, columns: Sequence[NDArray[Any]]) -> None:
        self.partition, self.changed, self.identity, self._seen = columns

    def _move(self, capacity: int) -> None:
        """Puts all rows into arrays of another capacity. Raises MemoryError; then nothing has changed."""
        own = self._reserved_own(capacity)
        moved = [reserve(capacity + SCRATCH, block.size) for block in self.blocks]
        used = self.used
        before: tuple[NDArray[Any], ...] = (self.partition, self.changed, self.identity, self._seen)
        for column, former in zip(own, before, strict=True):
            column[:used] = former[:used]
        self._own(own)
        for block, rows in zip(self.blocks, moved, strict=True):
            rows[:used] = block.rows[:used]
            block.move_to(rows)
            self.columns |= block.columns
        self.capacity = capacity
        self.layouts += 1

    def _block_in_less(self, fields: Iterable[Field]) -> Block:
        """A block of these fields beside rows that are moved where there is room for both. Raises MemoryError."""
        fields, capacity = list(fields), min(self.capacity, max(ROWS_FIRST, 2 * self.used))
        while True:
            try:
                self._move(capacity)
                return Block(fields, capacity, len(self.blocks))
            except MemoryError:
                if capacity <= max(1, self.used):
                    raise
                capacity = max(1, self.used, capacity // 4)

    def _make_room(self, rows: int) -> None:
        """Room for so many rows, or for as many as there is memory for; `rows_max` is that number then."""
        while self.capacity < min(rows, self.rows_max):
            try:
                self._move(min(self.rows_max, max(ROWS_FIRST, 2 * self.capacity)))
            except MemoryError:
                self.rows_max, self.short_of_memory = self.capacity, True

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._index.values())

    def row_bytes(self) -> int:
        """Bytes of state one series takes in the arrays (its name and index entry come on top)."""
        own = self.partition.itemsize + self._seen.itemsize + self.identity.itemsize
        return sum(block.size for block in self.blocks) + own

    def longest_silent_first(self, partition: int) -> I64:
        """The rows of a partition in the order in which they would be evicted."""
        rows: I64 = np.fromiter(self.series(partition).values(), dtype=np.int64)
        return rows[np.argsort(self._seen[rows], kind="stable")]

    def series(self, partition: int) -> dict[str, int]:
        """Row by series name of one partition; not to be changed by the caller."""
        return self._index.get(partition, {})

    def find(self, partition: int, series: str) -> int | None:
        return self._index.get(partition, {}).get(series)

    # ── rows for a batch ─────────────────────────────────────────────────────────────────────────────────────────

    def assign(self, partition: I32, series: Sequence[str], begin: int) -> tuple[I32, list[int]]:
        """Rows for ticks `begin..`, newcomers included, and the rows that were reset for them.

        Stops short where a newcomer would need the row of a series that spoke earlier in the same call: the caller
        processes what it got and calls again, so that the outcome is the same as tick by tick.
        """
        rows: list[int] = []
        evicted: list[int] = []
        total = len(series)
        at = begin
        while at < total:
            p = int(partition[at])
            stop = at + 1
            while stop < total and partition[stop] == p:
                stop += 1
            index = self._index.setdefault(p, {})
            get = index.get
            chunk = [get(name, -1) for name in series[at:stop]]
            if -1 in chunk and not self._admit(p, series, at, stop, chunk, index, evicted):
                rows += chunk[: chunk.index(-2)]
                break  # the row needed is one of this very call
            rows += chunk
            self._seen[chunk] = self._arrivals  # spoken in this call: no victims of the next partition's newcomers
            at = stop
        out = np.array(rows, dtype=np.int32)
        if out.size:
            # With repeated rows numpy keeps the last value written, which is the newest arrival.
            self._seen[out] = np.arange(self._arrivals, self._arrivals + out.size)
            self._arrivals += out.size
        return out, evicted

    def _admit(
        self,
        partition: int,
        series: Sequence[str],
        at: int,
        stop: int,
        chunk: list[int],
        index: dict[str, int],
        evicted: list[int],
    ) -> bool:
        """Gives the chunk's newcomers (−1) rows in order; False, with −2 in the chunk, where it has to end."""
        arrived = self._arrivals  # everything seen before this call is older
        for i in range(len(chunk)):
            name = series[at + i]
            row = index.get(name, -1)  # looked up anew: a newcomer may have spoken before, or taken a row of this chunk
            if row < 0:
                row = self._allocate(arrived, evicted)
                if row < 0:
                    chunk[i] = -2
                    return False
                index[name] = row
                self.names[row] = name
                self.partition[row] = partition
            chunk[i] = row
            self._seen[row] = arrived
        return True

    def adopt(self, partition: int, series: Sequence[str]) -> tuple[I32, I64, list[int]]:
        """Rows for restored series, which the caller writes over whole: (a row for each, those of them that were given
        out for it, rows that were emptied for that).

        In order of age: the last is the last to be evicted. One that has its row already keeps it. Where there is not
        room for all (`room`), each is named once.
        """
        index = self._index.setdefault(partition, {})
        evicted: list[int] = []
        seen = np.arange(self._arrivals, self._arrivals + len(series))
        rows: I32 = np.fromiter(map(index.get, series, repeat(-1)), dtype=np.int32, count=len(series))
        new = rows < 0
        self._seen[rows[~new]] = seen[~new]  # before others are evicted
        newcomers = np.flatnonzero(new).tolist()
        if not newcomers:
            fresh: I64 = _NONE
        elif self.room(len(newcomers)) >= len(newcomers):
            names = series if len(newcomers) == len(series) else [series[i] for i in newcomers]
            rows[new], fresh = self._settled(index, names)
        else:
            for i in newcomers:
                row = self._allocate(int(seen[i]), evicted, reset=False)
                self.names[row], self.partition[row], self._seen[row] = series[i], partition, seen[i]
                index[series[i]] = rows[i] = row
            fresh = rows[new].astype(np.int64)
        self.partition[fresh] = partition
        self.identity[fresh] = 0
        self._seen[rows] = seen
        self._arrivals += len(series)
        self.changed[rows] = False
        return rows, fresh, evicted

    def _settled(self, index: dict[str, int], series: Sequence[str]) -> tuple[I32, I64]:
        """(rows of series that have none, those given out): one that is named again leaves what it is offered."""
        offered = self._unused(len(series))
        rows: I32 = np.fromiter(map(index.setdefault, series, offered), dtype=np.int32, count=len(series))
        for name, row in zip(series, offered, strict=True):
            self.names[row] = name
        given: I64 = np.array(offered, dtype=np.int64)
        taken = rows == given
        if not taken.all():
            left, given = given[~taken], given[taken]
            self._reset(left)
            for row in left.tolist():
                self.names[row] = None
                self._free.append(row)
        return rows, given

    def room(self, wanted: int) -> int:
        """Rows that can be given out without evicting a series, where so many are wanted."""
        self._make_room(self.used + wanted - len(self._free))
        return len(self._free) + self.rows_max - self.used

    def _unused(self, count: int) -> list[int]:
        """So many rows that hold nothing, those first that were freed last; they are not reset."""
        again = self._free[len(self._free) - min(count, len(self._free)) :][::-1]
        del self._free[len(self._free) - len(again) :]
        begin = self.used
        self.used += count - len(again)
        self.names += [None] * (self.used - begin)
        return [*again, *range(begin, self.used)]

    def _allocate(self, arrived: int, evicted: list[int], reset: bool = True) -> int:
        if self._free:
            return self._free.pop()
        if self.used == self.capacity < self.rows_max:
            self._make_room(self.used + 1)
        if self.used < self.rows_max:
            self.used += 1
            self.names.append(None)
            if reset:
                self._reset(self.used - 1)
            return self.used - 1
        while True:
            if not self._victims:
                self._find_victims(arrived)
                if not self._victims:
                    return -1
            row, seen = self._victims.pop()
            if self._seen[row] == seen:  # it has not spoken since it was looked up
                break
        if self.keep_evicted:
            self.evicted.append((int(self.partition[row]), self.names[row] or ""))
        self._forget(row)
        self.evictions += 1
        evicted.append(row)
        return row

    def _find_victims(self, arrived: int) -> None:
        count = min(VICTIMS, self.used)
        seen = self._seen[: self.used]
        oldest = np.argpartition(seen, count - 1)[:count] if count < self.used else np.arange(self.used)
        oldest = oldest[seen[oldest] < arrived]
        ordered = oldest[np.argsort(seen[oldest], kind="stable")][::-1]  # popped from the end: the oldest first
        self._victims = [(int(row), int(seen[row])) for row in ordered]

    def copy_rows(self, rows: I64) -> I32:
        """Copies of these rows' columns, `SCRATCH` of them at most, in rows that no series has; returns where they are."""
        scratch: I32 = np.arange(self.capacity, self.capacity + len(rows), dtype=np.int32)
        for block in self.blocks:
            block.rows[scratch] = block.rows[rows]
        return scratch

    # ── evicting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _forget(self, row: int) -> None:
        name = self.names[row]
        if name is not None:
            del self._index[int(self.partition[row])][name]
        self.names[row] = None
        self._reset(row)

    def _reset(self, row: int | I64) -> None:
        self.partition[row] = -1
        self.identity[row] = 0
        self.changed[row] = False
        self._seen[row] = 0
        for block in self.blocks:
            block.rows[row] = block.fresh

    def forget(self, partition: int, series: str) -> None:
        """Lets one series go, if it is held."""
        row = self.find(partition, series)
        if row is not None:
            self._forget(row)
            self._free.append(row)
            self._victims = []

    def changed_rows(self, partition: int) -> I64:
        """Rows of a partition that moved since they were last written down."""
        used = self.used
        return np.flatnonzero(self.changed[:used] & (self.partition[:used] == partition))

    def drop(self, partition: int) -> int:
        """Lets a whole partition go (it was revoked); returns how many series that were."""
        rows = list(self._index.pop(partition, {}).values())
        for row in rows:
            self.names[row] = None
        self._reset(np.array(rows, dtype=np.int64))
        self._free += rows
        self._victims = []
        return len(rows)
