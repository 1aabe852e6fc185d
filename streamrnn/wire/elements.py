"""Records of any JSON shape as rows of plain values: what `decode:` maps beyond one tick at fixed keys.

`Layout` turns a configuration into columns, each with the level it stands on: 0 is the document, k an element of the k-th
array of `each`. One pass over a document gives one tuple a tick, in the order of the columns. Where the columns are keys
alone the document is decoded into structs that hold nothing else, generated once; where it is not, or a record has
another shape than they, into plain objects. Both ways give the same rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from streamrnn.records import Record
from streamrnn.spec import StreamSpec
from streamrnn.wire import lines
from streamrnn.wire.influx import metrics_of
from streamrnn.wire.instants import UNREADABLE, Refused, short
from streamrnn.wire.mapping import SERIES, TS, DecodeSpec, Scalar
from streamrnn.wire.otlp import OtlpReader
from streamrnn.wire.paths import (
    ABSENT,
    Beside,
    Find,
    Key,
    Mistyped,
    Path,
    Place,
    Star,
    Walk,
    filled_in,
    has_star,
    keys_only,
    named,
    parse_path,
    walker,
)
from streamrnn.wire.quirks import QUIRKS
from streamrnn.wire.schemas import KIND_OF, Schemas
from streamrnn.wire.sparkplug import SparkplugReader

Row = tuple[Any, ...]
# Of an element that cannot be read at all.
Found = Row | Mistyped

_AMQP_SHORT, _AMQP_LONG = 0xA1, 0xB1


class Number(float):
    """A double that remembers how it was written."""

    __slots__ = ("text",)
    text: str


def number_of(text: str) -> Number:
    found = Number(text)
    found.text = text
    return found


_objects = msgspec.json.Decoder()
_packed = msgspec.msgpack.Decoder()
_exact = msgspec.json.Decoder(float_hook=number_of)
_BARE_WORD = re.compile(rb"(?<![\w\"])-?(?:NaN|Infinity)(?![\w\"])")


@dataclass(frozen=True, slots=True)
class SeriesPart:
    """One part of a series' name: the columns it is of, which of them may be absent, and those that are all of an object."""

    columns: tuple[int, ...]
    optional: tuple[bool, ...]
    rest: tuple[frozenset[str] | None, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    path: Path
    level: int  # −1: of the record


class Layout:
    """Columns of a configuration, and how a document becomes rows of them. Raises ValueError where paths make no sense."""

    def __init__(self, spec: StreamSpec, decode: DecodeSpec) -> None:
        self.decode = decode
        self.wanted: list[Path] = []
        self.parts: list[SeriesPart] = []
        self._quirk = QUIRKS[decode.quirk] if decode.quirk else None
        self.schemas = Schemas(decode.format, keys=keyed_by_schema(decode)) if decode.format in KIND_OF else None
        self._lines = _lines_of(decode)
        self.sparkplug = SparkplugReader() if decode.format == "sparkplug" else None
        self._otlp = OtlpReader() if decode.format == "otlp-proto" else None
        self._series(decode)
        ts = decode.ts if decode.ts is not None else TS
        self.ts = [self._add(parse_path(each)) for each in ((ts,) if isinstance(ts, str) else ts)]
        self.values = self._values(spec, decode)
        self.channel, self.value = -1, tuple[int, ...]()
        if decode.channel is not None and decode.value is not None:
            self.channel = self._add(parse_path(decode.channel))
            value = (decode.value,) if isinstance(decode.value, str) else decode.value
            self.value = tuple(self._add(parse_path(each)) for each in value)
        self.where = [(self._add(parse_path(path)), _wanted(path, want)) for path, want in (decode.where or {}).items()]
        each = (decode.each,) if isinstance(decode.each, str) else decode.each or (".",)
        self.arrays = tuple(_Array(text, self.wanted, self.schemas) for text in each)
        if len(set(each)) < len(each) or ("." in each[:-1]):
            raise ValueError("decode: each: an array is named twice, or `.` (the record itself) stands before others")
        self._array_text = ", ".join(short(text) for text in each)
        self._direct = self._typed()

    # ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, path: Path) -> int:
        if path in self.wanted:
            return self.wanted.index(path)
        self.wanted.append(path)
        return len(self.wanted) - 1

    def _series(self, decode: DecodeSpec) -> None:
        mapped = decode.series if decode.series is not None else SERIES
        parts = (mapped,) if isinstance(mapped, str) else mapped
        if not parts:
            raise ValueError("decode: series is an empty list")
        named_keys: dict[tuple[Any, ...], set[str]] = {}
        parsed = []
        for part in parts:
            texts = (part,) if isinstance(part, str) else part
            paths = [parse_path(text[:-1] if _may_be_absent(text) else text) for text in texts]
            parsed.append((texts, paths))
            for path in paths:
                if path.steps and isinstance(path.steps[-1], Key):
                    before = (path.root, path.outs, path.steps[:-1])
                    named_keys.setdefault(before, set()).add(path.steps[-1].name)
                for at, step in enumerate(path.steps):
                    if isinstance(step, Find):
                        named_keys.setdefault((path.root, path.outs, path.steps[:at]), set()).add(step.text)
        for texts, paths in parsed:
            columns: list[int] = []
            rest: list[frozenset[str] | None] = []
            for path in paths:
                last = path.steps[-1] if path.steps else None
                if isinstance(last, Star):
                    before = (path.root, path.outs, path.steps[:-1])
                    columns.append(self._add(replace(path, steps=path.steps[:-1], own_key=False)))
                    rest.append(frozenset(named_keys.get(before, ())))
                else:
                    columns.append(self._add(path))
                    rest.append(None)
            optional = tuple(_may_be_absent(text) for text in texts)
            self.parts.append(SeriesPart(tuple(columns), optional, tuple(rest), texts))

    def _values(self, spec: StreamSpec, decode: DecodeSpec) -> list[tuple[int, ...]]:
        """By channel the columns of which the first that is there counts."""
        if len(set(spec.channels)) < len(spec.channels):
            raise ValueError("a channel is named twice")
        mapped = decode.values if decode.values is not None else "values.*"
        if isinstance(mapped, str):
            templates = (mapped,)
            if not has_star(parse_path(mapped)):
                raise ValueError(f"decode: values: {mapped!r} has no * for the channel")
            return [self._of(channel, templates) for channel in spec.channels]
        unknown = sorted(set(mapped) - set(spec.channels) - {"*"})
        if unknown:
            raise ValueError(f"decode: values maps {unknown[0]!r}, which is not one of the channels")
        found = []
        for channel in spec.channels:
            texts = mapped.get(channel, mapped.get("*"))
            if texts is None:
                raise ValueError(f"decode: values maps no path to the channel {channel!r}")
            found.append(self._of(channel, (texts,) if isinstance(texts, str) else texts))
        own = [columns for channel, columns in zip(spec.channels, found, strict=True) if channel in mapped]
        if len(set(own)) < len(own):
            raise ValueError("decode: values maps two channels to the same path")
        return found

    def _of(self, channel: str, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(self._add(filled_in(parse_path(text), channel)) for text in texts)

    # ── documents ────────────────────────────────────────────────────────────────────────────────────────────────

    def rows(self, payload: bytes, record: Record) -> list[Found]:
        """One row an element. Raises Refused for the record as a whole, and what a JSON decoder raises."""
        direct = self._direct
        if direct is not None:
            try:
                return direct(payload, record)
            except (msgspec.MsgspecError, AttributeError, Mistyped):
                pass  # another shape than the structs have: an object that is null, a text where an array should be
        return self.rows_of(self.document(payload, record), record)

    def document(self, payload: bytes, record: Record, exact: bool = False) -> Any:
        """The record's value as plain objects; `exact`: of JSON, numbers with a fraction are `Number`."""
        if self.schemas is not None and self.schemas.asks:
            return self.schemas.document(payload, record)
        if self.decode.format == "msgpack":
            return _packed.decode(payload)
        if self.decode.format == "influx":
            return metrics_of(payload, self.decode.elements_max)
        if self._lines is not None:
            return self._lines(payload, self.decode.elements_max)
        if self.sparkplug is not None:
            return self.sparkplug.document(payload, record, self.decode.elements_max)
        if self._otlp is not None:
            return self._otlp.document(payload, self.decode.elements_max)
        decoder = _exact if exact or self._quirk is not None else _objects
        try:
            return decoder.decode(payload)
        except UNREADABLE as error:
            if "out of range" in str(error):  # a number that no double holds costs its element, and not the others
                return _exact.decode(payload)
            if self.decode.numbers == "strict" or not _BARE_WORD.search(payload):
                raise
        try:  # Python's json module writes NaN and Infinity as bare words, and reads them
            return json.loads(payload, parse_constant=lambda _: None, parse_float=number_of)
        except (ValueError, RecursionError):
            _objects.decode(payload)
            raise

    def rows_of(self, document: Any, record: Record) -> list[Found]:
        """The same of a document of plain objects."""
        decode = self.decode
        if decode.unwrap is not None and document.__class__ is dict:
            document = document.get(decode.unwrap, document)
            if document.__class__ is str and document[:1] in _OPENING:
                document = _inner(document, decode)
            elif document is None and decode.tombstones == "skip":
                return []
        if self._quirk is not None:
            document = self._quirk(document, record)
        found: list[Found] = []
        there = False
        for array in self.arrays:
            if array.itself and there:
                break
            try:
                there = array.rows(document, record, found, decode.elements_max) or there
            except Mistyped as error:
                raise Refused("type", str(error)) from None
        if not there:
            raise NoArray("no-values", f"there is no array at {self._array_text} (decode.each)")
        return found

    # ── structs ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _typed(self) -> Callable[[bytes, Record], list[Found]] | None:
        """The same by generated structs; None where the shape has none."""
        if (
            self._quirk is not None
            or self.decode.unwrap is not None
            or len(self.arrays) > 1
            or self.decode.format not in _STRUCTS
        ):
            return None
        if self.decode.format == "msgpack":  # its numbers are doubles, and no text
            return self.arrays[0].typed(frozenset(), self.decode.elements_max, msgspec.msgpack.Decoder)
        raws = frozenset(self.ts) - {column for part in self.parts for column in part.columns}
        raws -= {column for columns in self.values for column in columns} | {column for column, _ in self.where}
        return self.arrays[0].typed(raws - {self.channel, *self.value}, self.decode.elements_max)


def _lines_of(decode: DecodeSpec) -> Callable[[bytes, int], lines.Lines] | None:
    """What reads records of lines; None of other formats."""
    if decode.format == "csv":
        return partial(lines.separated, columns=decode.columns or (), separator=decode.separator)
    return {"graphite": lines.graphite, "collectd": lines.collectd}.get(decode.format)


# Formats that generated structs read.
_STRUCTS = frozenset({"json", "json-schema", "msgpack"})
# How a text begins that is a document of its own, perhaps.
_OPENING = frozenset({"{", "[", " ", "\n", "\t", "\r"})


def _inner(text: str, decode: DecodeSpec) -> Any:
    """The JSON that stands as a text within JSON, as logs and MongoDB's change streams have it."""
    try:
        return _exact.decode(text)
    except UNREADABLE as error:
        raise Refused("malformed", f"the text at {short(decode.unwrap)} is no JSON: {error} (decode.unwrap)") from None


def _wanted(path: str, want: Scalar | tuple[Scalar, ...]) -> frozenset[Any]:
    """What `where` takes: texts, numbers, booleans, null (also where there is nothing), "*" for anything that is there."""
    return frozenset((type(each) is bool, each) for each in (want if isinstance(want, tuple) else (want,)))


class _Array:
    """One way of `each`: the arrays that lead to the elements, and the columns by level."""

    def __init__(self, text: str, wanted: Sequence[Path], schemas: Schemas | None = None) -> None:
        self.text, self.itself = text, text == "."
        self.lists, self.keyed = _segments(text)
        depth = len(self.lists)
        columns = [_Column(path, -1 if path.root else depth - path.outs) for path in wanted]
        self._columns = columns
        self._depth = depth
        self._fetch: list[list[tuple[int, Walk | None]]] = [[] for _ in range(depth + 1)]
        self._record: list[tuple[int, Callable[[Record], Any]]] = []
        self._keys: list[tuple[int, int]] = []  # (column, level) of elements' own keys
        # (column, level, walk) of what stands further out, at the place of the element.
        self._placed: list[tuple[int, int, Walk]] = []
        # Elements may be bare numbers, or arrays: fields that the contract would have in an object are not there.
        loose = any(
            column.level == depth
            and not column.path.own_key
            and not (column.path.steps and isinstance(column.path.steps[0], Key))
            for column in columns
        )
        for i, (path, level) in enumerate((column.path, column.level) for column in columns):
            if path.root:
                self._record.append((i, of_record(path, schemas)))
            elif level >= 0:
                if path.own_key:
                    self._keys.append((i, level))
                if level < depth and any(isinstance(step, Place) for step in path.steps):
                    self._placed.append((i, level, walker(path)))
                    continue
                walk = walker(path) if path.steps else _itself
                if level == depth and path.steps and isinstance(path.steps[0], Key) and loose:
                    walk = _if_object(walk)
                self._fetch[level].append((i, None if path.own_key else walk))
        self._width = len(columns)
        self._walks = [walker(each) if each.steps else _itself for each in self.lists]
        # (column, key) where an element's columns are keys of it, one each, and nothing is counted by its place.
        paths = [(i, column.path) for i, column in enumerate(columns) if column.level == depth]
        single = all(len(p.steps) == 1 and isinstance(p.steps[0], Key) and not p.own_key for _, p in paths)
        self._leaf = [(i, p.steps[0].name) for i, p in paths] if single and depth and not self._placed else None  # type: ignore[union-attr]

    def rows(self, document: Any, record: Record, out: list[Found], most: int) -> bool:
        """Appends the rows of a document; whether its outermost array is there. Raises Mistyped, Refused."""
        row: list[Any] = [ABSENT] * (self._width + self._depth + 1)  # after the columns the objects of each level
        for i, of in self._record:
            row[i] = of(record)
        return self._descend(document, 0, 0, 1, None, row, out, most)

    def _descend(
        self, at: Any, level: int, place: int, count: int, key: Any, row: list[Any], out: list[Found], most: int
    ) -> bool:
        if at.__class__ is Mistyped:
            raise at
        for i, fetch in self._fetch[level]:
            row[i] = key if fetch is None else fetch(at, place, count)
        row[self._width + level] = at
        if level == self._depth:
            for i, outer, walk in self._placed:
                row[i] = walk(row[self._width + outer], place, count)
            out.append(tuple(row[: self._width]))
            if len(out) > most:
                raise Refused("too-large", f"more than {most} elements in a record (decode.elements_max)")
            return True
        if level == 0 and at.__class__ is not dict and isinstance(next(iter(self.lists[0].steps), None), Key):
            raise Mistyped(f"Expected an object that holds `{self.text}`, got {named(at)} (decode.each)")
        items = self._walks[level](at, place, count)
        if items is ABSENT or items is None:
            return False
        if items.__class__ is dict and self.keyed[level]:
            inside = list(items.items())
        elif items.__class__ is list and not self.keyed[level]:
            inside = list(enumerate(items))
        else:
            kind = "an object" if self.keyed[level] else "an array"
            raise Mistyped(f"Expected {kind} at `{self.text}`, got {named(items)} (decode.each)")
        if len(inside) > most:
            raise Refused("too-large", f"more than {most} elements in a record (decode.elements_max)")
        if self._leaf is not None and level + 1 == self._depth:
            self._leaves(inside, level, row, out, most)
            return True
        for number, (own, item) in enumerate(inside):
            try:
                self._descend(item, level + 1, number, len(inside), own, row, out, most)
            except Mistyped as error:
                out.append(error)
        return True

    def _leaves(
        self, inside: Sequence[tuple[Any, Any]], level: int, row: list[Any], out: list[Found], most: int
    ) -> None:
        """What `_descend` does to elements whose columns are keys of theirs, in one place."""
        leaf, width = self._leaf or [], self._width
        for number, (own, item) in enumerate(inside):
            if item.__class__ is dict:
                get = item.get
                for i, name in leaf:
                    row[i] = get(name, ABSENT)
                out.append(tuple(row[:width]))
                if len(out) > most:
                    raise Refused("too-large", f"more than {most} elements in a record (decode.elements_max)")
                continue
            try:
                self._descend(item, level + 1, number, len(inside), own, row, out, most)
            except Mistyped as error:
                out.append(error)

    # ── structs ──────────────────────────────────────────────────────────────────────────────────────────────────

    def typed(
        self, raws: frozenset[int], most: int, decoder: Callable[[Any], Any] = msgspec.json.Decoder
    ) -> Callable[[bytes, Record], list[Found]] | None:
        """See `Layout._typed`; the columns `raws` come as the JSON that is written."""
        if any(self.keyed) or self._keys or self._placed or not all(keys_only(path.steps) for path in self.lists):
            return None
        levels: list[_Level] = []
        for level in range(self._depth + 1):
            columns = [
                (i, column.path)
                for i, column in enumerate(self._columns)
                if column.level == level and not column.path.root
            ]
            made = _Level(columns, raws)
            if not made.possible or (not made.leaves and level == self._depth):
                return None
            levels.append(made)
        try:
            below: Any = None
            for level in range(self._depth, -1, -1):
                tree = levels[level].tree
                if below is not None:
                    keys = tuple(step.name for step in self.lists[level].steps if isinstance(step, Key))
                    if not keys:
                        if tree:
                            return None
                        below = list[below]
                        if level:
                            return None
                        continue
                    put(tree, keys, list[below] | None, "the array")
                below = levels[level].struct(f"Level{level}", (below is not None and self.lists[level].steps) or ())
        except (ValueError, TypeError):
            return None
        return self._reader(decoder(below), levels, most)

    def _reader(self, decoder: Any, levels: Sequence[_Level], most: int) -> Callable[[bytes, Record], list[Found]]:
        depth, of_records, text = self._depth, [of for _, of in self._record], short(self.text)
        mine = [i for i, _ in self._record]
        below = [i for level in levels for i in level.order]
        # Columns that stand on no level of this way are absent.
        nowhere = [i for i in range(self._width) if i not in mine and i not in below]
        order = [*mine, *nowhere, *below]
        places = [order.index(i) for i in range(self._width)]
        straight, blank = places == list(range(self._width)), (ABSENT,) * len(nowhere)
        bare = depth > 0 and not self.lists[0].steps

        def read(payload: bytes, record: Record) -> list[Found]:
            at = decoder.decode(payload)
            first = tuple([of(record) for of in of_records]) + blank
            items, level = (at, 1) if bare else ([at], 0)
            rows: list[Any] = [first] * len(items)
            while True:
                if len(items) > most:
                    raise Refused("too-large", f"more than {most} elements in a record (decode.elements_max)")
                get = levels[level].row
                rows = [outer + get(item) for outer, item in zip(rows, items, strict=True)]
                if level == depth:
                    break
                array, grown, inside = levels[level].array, [], []
                for outer, item in zip(rows, items, strict=True):
                    found = array(item)
                    if found is not None:
                        inside += found
                        grown += [outer] * len(found)
                    elif level == 0:
                        raise NoArray("no-values", f"there is no array at {text} (decode.each)")
                rows, items, level = grown, inside, level + 1
            return rows if straight else [tuple([row[i] for i in places]) for row in rows]

        return read


def _if_object(walk: Walk) -> Walk:
    return lambda at, place, count: walk(at, place, count) if at.__class__ is dict else ABSENT


def _may_be_absent(text: str) -> bool:
    r"""Of a part of a series' name; `\?` is a question mark in the key."""
    return text.endswith("?") and not text.endswith("\\?")


def _itself(at: Any, place: int, count: int) -> Any:
    return at


_Tree = dict[str, Any]


def put(tree: _Tree, keys: Sequence[str], kind: Any, what: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ValueError(what)
    if tree.setdefault(keys[-1], kind) is not kind:
        raise ValueError(what)


def _names(keys: Sequence[Key]) -> list[str]:
    return [key.name for key in keys]


class NoArray(Refused):
    """The array that holds the elements is not there."""


class _Level:
    """The columns of one level as attributes of a generated struct, and what is made of them."""

    def __init__(self, columns: Sequence[tuple[int, Path]], raws: frozenset[int]) -> None:
        self.possible = True
        self.order = [i for i, _ in columns]
        self.tree: _Tree = {}
        self.leaves: list[tuple[str, ...]] = []
        self._plans: list[
            tuple[int, int, Walk | None, int]
        ] = []  # (leaf, leaf of names, walk of what is below it, kind)
        self.array: Callable[[Any], Any] = lambda at: None
        self.row: Callable[[Any], Row] = lambda at: ()
        for i, path in columns:
            keys = []
            rest = list(path.steps)
            while rest and isinstance(head := rest[0], Key):
                keys.append(head.name)
                del rest[0]
            if not keys or (rest and isinstance(rest[0], Beside) and len(rest) > 1):
                self.possible = False
                return
            kind: Any = msgspec.Raw if i in raws and not rest else Any
            try:
                leaf = self._leaf(tuple(keys), kind)
                if rest and isinstance(rest[0], Beside):
                    names = self._leaf((*keys[:-1], *_names(rest[0].field)), Any)
                    self._plans.append((leaf, names, _beside(rest[0].text, path.text), 1))
                else:
                    walk = walker(Path(path.text, steps=tuple(rest))) if rest else None
                    if rest and any(isinstance(step, Place) for step in rest):
                        self.possible = False  # its own place is known to the other way alone
                        return
                    self._plans.append((leaf, -1, walk, 0))
            except ValueError:
                self.possible = False
                return

    def _leaf(self, keys: tuple[str, ...], kind: Any) -> int:
        if keys in self.leaves:
            return self.leaves.index(keys)
        put(self.tree, keys, kind, "a leaf")
        self.leaves.append(keys)
        return len(self.leaves) - 1

    def struct(self, name: str, array: Sequence[Any]) -> Any:
        """The struct; `array`: where its array of the next level stands."""
        attributes: dict[tuple[str, ...], str] = {}
        made = struct_of(name, self.tree, (), "", attributes)
        if array:
            self.array = attrgetter(attributes[tuple(step.name for step in array if isinstance(step, Key))])
        paths = [attributes[keys] for keys in self.leaves]
        if not paths:
            return made
        getter = attrgetter(*paths)
        plans = self._plans
        if all(walk is None for _, _, walk, _ in plans) and [leaf for leaf, *_ in plans] == list(range(len(paths))):
            self.row = getter if len(paths) > 1 else lambda at: (getter(at),)
            return made
        single = len(paths) == 1

        def row(at: Any) -> Row:
            leaves = (getter(at),) if single else getter(at)
            return tuple(
                [
                    leaves[leaf]
                    if walk is None
                    else walk(leaves[leaf], leaves[names], 0)
                    if kind
                    else walk(leaves[leaf], 0, 1)
                    for leaf, names, walk, kind in plans
                ]
            )

        self.row = row
        return made


def _beside(text: str, shown: str) -> Walk:
    def walk(values: Any, names: Any, _: int) -> Any:
        if values is None or values is ABSENT:
            return ABSENT
        if values.__class__ is not list or (names.__class__ is list and len(values) != len(names)):
            raise AttributeError(shown)  # the other way says what is wrong
        if names.__class__ is not list:
            return ABSENT
        try:
            return values[names.index(text)]
        except ValueError:
            return ABSENT

    return walk


def struct_of(name: str, tree: _Tree, at: tuple[str, ...], prefix: str, attributes: dict[tuple[str, ...], str]) -> Any:
    """One struct per object, of fields that may each be absent; see `mapping.shape_of`."""
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for index, (key, below) in enumerate(tree.items()):
        attribute = f"f{index}"
        rename[attribute] = key
        if isinstance(below, dict):
            inner = struct_of(f"{name}_{index}", below, (*at, key), f"{prefix}{attribute}.", attributes)
            fields.append((attribute, inner | None, inner()))
        else:
            default: Any = None if below not in (Any, msgspec.Raw) else _NO_RAW if below is msgspec.Raw else ABSENT
            fields.append((attribute, below, default))
            attributes[(*at, key)] = prefix + attribute
    return msgspec.defstruct(name, fields, rename=rename, frozen=True, gc=False)


_NO_RAW = msgspec.Raw()


def _segments(text: str) -> tuple[list[Path], list[bool]]:
    """The arrays on the way to the elements: paths, each from an element of the one before, and whether it is an object."""
    if text == ".":
        return [], []
    parsed = parse_path(text)
    if parsed.root or parsed.outs or parsed.own_key:
        raise ValueError(f"decode: each: {text!r} must begin in the record")
    lists, keyed = [], []
    steps: list[Any] = []
    for step in parsed.steps:
        if isinstance(step, Star):
            lists.append(Path(text, steps=tuple(steps)))
            keyed.append(not step.array)
            steps = []
        else:
            steps.append(step)
    if steps or not lists:
        raise ValueError(f"decode: each: {text!r} must end with [*], or with .* for the entries of an object")
    return lists, keyed


# ── of the record ────────────────────────────────────────────────────────────────────────────────────────────────────


def keyed_by_schema(decode: DecodeSpec) -> bool:
    """Whether the records' keys may be asked for."""
    return decode.series is None or "@key" in repr(
        (decode.series, decode.ts, decode.values, decode.channel, decode.value, decode.where)
    )


def of_record(path: Path, schemas: Schemas | None = None) -> Callable[[Record], Any]:
    """What stands in a record beside its value; ABSENT where there is nothing."""
    if path.root == "topic":
        return lambda record: record.topic
    if path.root in ("partition", "offset", "time"):
        name = "timestamp" if path.root == "time" else path.root
        return lambda record: getattr(record, name)
    if path.root == "window":
        start = bool(path.steps) and path.steps[0] == Key("start")
        return lambda record: _window(record.key)[start]
    if path.root == "header":
        wanted = path.steps[0].name if isinstance(path.steps[0], Key) else ""
        return lambda record: _header(record, wanted)
    walk = walker(path) if path.steps else _itself

    def of_key(record: Record) -> Any:
        if schemas is not None:
            key = schemas.key(record)
            if key is not ABSENT:
                return walk(key, 0, 1)
        if not path.steps:
            return _text(record.key, path.text)
        return walk(_json_key(record.key, path.text), 0, 1)

    return of_key


def _header(record: Record, wanted: str) -> Any:
    for name, content in reversed(record.headers):
        if name == wanted:
            return _text(_amqp(content), "@header." + wanted)
    return ABSENT


# Milliseconds that a window may begin at: 1973 to 2286.
_WINDOW_MS = (10**11, 10**13)


def _window(key: Any) -> tuple[Any, Any]:
    """(text, milliseconds of the window's begin or ABSENT) of a key that Kafka Streams has put windows after, or has not."""
    start: Any = ABSENT
    if isinstance(key, bytes):
        for _ in range(2):  # of a session both ends, the begin last
            at = int.from_bytes(key[-8:], "big")
            if len(key) <= 8 or not _WINDOW_MS[0] <= at < _WINDOW_MS[1]:
                break
            start = at if start is ABSENT else start
            key = key[:-8]
    text = _text(key, "@window.key")
    if isinstance(text, str) and text[:1] == text[-1:] == '"' and len(text) > 1:
        try:
            text = msgspec.json.decode(text)
        except UNREADABLE:
            return text, start
    return text, start


def _amqp(content: Any) -> Any:
    """Azure hands properties on as AMQP writes them: a text with its length before it."""
    if isinstance(content, bytes):
        if len(content) >= 2 and content[0] == _AMQP_SHORT and content[1] == len(content) - 2:
            return content[2:]
        if len(content) >= 5 and content[0] == _AMQP_LONG and int.from_bytes(content[1:5], "big") == len(content) - 5:
            return content[5:]
    return content


def _text(content: Any, what: str) -> Any:
    if content is None:
        return ABSENT
    if isinstance(content, str):
        return content
    try:
        return bytes(content).decode()
    except (UnicodeDecodeError, TypeError, ValueError):
        raise Refused("range", f"{what} is not UTF-8") from None


def _json_key(key: Any, what: str) -> Any:
    """A record's key as JSON; one with the schema of Kafka Connect is unwrapped only where the path says so."""
    if key is None:
        return ABSENT
    try:
        return _objects.decode(key)
    except (*UNREADABLE, TypeError):
        raise Refused("no-series", f"the record key is not JSON, and {short(what)} is mapped (decode)") from None


def matches(wanted: frozenset[Any], value: Any) -> bool:
    """Whether an element's value is one that `where` takes."""
    if value.__class__ is msgspec.Raw:
        value = msgspec.json.decode(value) if len(value) else ABSENT
    if value is ABSENT:
        return (False, None) in wanted
    try:
        return (type(value) is bool, value) in wanted or ((False, "*") in wanted and value is not None)
    except TypeError:  # an array or an object
        return (False, "*") in wanted


def mapping_text(decode: DecodeSpec, channels: Sequence[str]) -> Mapping[str, str]:
    """By channel the field that its values are read from, as text; for `meaning`."""
    mapped = decode.values if decode.values is not None else "values.*"
    texts: dict[str, str] = {}
    for channel in channels:
        of = mapped if isinstance(mapped, str) else mapped.get(channel, mapped.get("*", ""))
        each = (of,) if isinstance(of, str) else of
        texts[channel] = " or ".join(filled_in(parse_path(text), channel).text if text else "" for text in each)
    return texts
