"""Where the fields of a record are, and the types generated from that: the decoder's schema is its validator.

People's topics have their own shapes. `DecodeSpec` names a path for each field of the contract; `shape_of` builds one
msgspec struct per JSON object on those paths, so that parsing, typing and bounds are one pass in C and fields that the
contract does not name cost only their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streamrnn.spec import StreamSpec
from streamrnn.wire.paths import ABSENT, Key, parse_path

TsUnit = Literal["s", "ms", "us", "ns"]

Path = tuple[str, ...]

# The contract's own fields.
SERIES, TS = "series", "ts"


Numbers = Literal["strict", "text", "decimal"]
Decimal = Literal[".", ","]
Policy = Literal["refuse", "skip"]
# `influx` is read as the objects that Telegraf's JSON has (`streamrnn.wire.influx`).
Format = Literal[
    "json",
    "json-schema",
    "avro",
    "protobuf",
    "msgpack",
    "influx",
    "otlp-proto",
    "sparkplug",
    "graphite",
    "collectd",
    "csv",
]
Scalar = str | int | float | bool | None
# A part of a series' name: a path, or several that are joined by `-`.
Part = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    r"""Where the fields are, and bounds. A path is JSON keys joined by dots (`device.id`); `streamrnn.wire.paths` has all forms.

    `series` and `ts` None: the contract's fields of these names, and where one is absent or null the record's key, or its
    timestamp (in a CloudEvent what the envelope says). A path that is set has no fallback: a record without it is refused.
    `series` may be several paths, joined by `/`; one that ends with `?` is left out where it is absent or empty. `ts` and
    `value` may be several, of which the first that is there counts. `ts_unit` says what a number `ts` counts, also where it
    is written as a text (RFC 3339 text is read always); `ts_format` how other texts are written, `timezone` what texts without a
    zone mean (None: they are refused). `values` maps every channel to its path, or to several; None means
    `values.<channel>`, and one text with `*` for the channel, such as `fields.*`, maps all of them. `channel` and `value` are
    the long form; both None: long records are not read.

    `format`: `avro`, `protobuf` and `json-schema` name their schema in Confluent's frame before the datum or in a header, and
    a registry has it (JSON needs none to be read, and has a frame or not); MessagePack has the same objects as JSON; Influx
    line protocol is read as those that Telegraf writes as JSON, OTLP and Sparkplug B Protobuf as those of their JSON; the lines
    of Graphite, of collectd's commands and of CSV as `{"lines": […]}` (see `lines`), CSV by the names in `columns`, with
    `separator` between them.
    `each`: arrays (or objects, `devices.*`) whose elements are the ticks of a record. `where`: by path the value that an
    element must have, or a tuple of such; others are skipped. `numbers`: `text` reads numbers written as text, `decimal`
    also Connect's base64 of unscaled bytes, with `scale` decimal places (one for all, or by channel); in both the words NaN
    and Infinity are missing values. `decimal`: what stands before the decimals of numbers in texts; with a comma, points, blanks
    and ' may stand between thousands. `unwrap`: a document that is an object with this key is what stands there.
    `others`: what becomes of elements without a channel that is known. `tombstones`: of records without a value, or null.

    `leading`: `skip` reads from the first `{` on, what a logger wrote before it. `elements_max` of a record are read.

    `value_abs_max` bounds the values. A number is read as the nearest double: whole numbers beyond 2^53 lose digits.
    `quirk` names what a preset needs beyond paths (`streamrnn.wire.quirks`).
    """

    series: str | tuple[Part, ...] | None = None
    ts: str | tuple[str, ...] | None = None
    ts_unit: TsUnit = "ms"
    values: str | Mapping[str, str | tuple[str, ...]] | None = None
    channel: str | None = "channel"
    value: str | tuple[str, ...] | None = "value"
    record_bytes_max: int = 1 << 20
    series_bytes_max: int = 256
    # Octet counters (2^64) and wei (1e20) fit; what is beyond is a fault far more often than a value.
    value_abs_max: float = 1e30
    format: Format = "json"
    each: str | tuple[str, ...] | None = None
    where: Mapping[str, Scalar | tuple[Scalar, ...]] | None = None
    ts_format: str | None = None
    timezone: str | None = None
    numbers: Numbers = "strict"
    decimal: Decimal = "."
    scale: int | Mapping[str, int] | None = None
    unwrap: str | None = None
    others: Policy = "refuse"
    tombstones: Policy = "refuse"
    leading: Policy = "refuse"
    elements_max: int = 10_000
    quirk: str | None = None
    columns: tuple[str, ...] | None = None
    separator: str = ","

    @property
    def series_path(self) -> str:
        return self.series if isinstance(self.series, str) else SERIES

    @property
    def ts_path(self) -> str:
        return self.ts if isinstance(self.ts, str) else TS

    @property
    def plain(self) -> bool:
        """One tick a record, each field at keys of its own: what `shape_of` has a schema for."""
        paths = [self.series, self.ts, self.channel, self.value]
        if isinstance(self.values, str):
            return False
        paths += (self.values or {}).values()
        if not all(path is None or (isinstance(path, str) and _keys_alone(path)) for path in paths):
            return False
        default = DecodeSpec()
        return all(
            getattr(self, name) == getattr(default, name)
            for name in (
                "format", "each", "where", "ts_format", "timezone", "numbers", "unwrap", "others", "tombstones", "leading",
                "quirk",
            )
        )  # fmt: skip


def _keys_alone(path: str) -> bool:
    """Raises ValueError."""
    return not path.endswith("?") and parse_path(path).plain


Head = tuple[int | str | None, int | float | str | msgspec.Raw | None, int | str | None, float | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """A generated schema and how to read one decoded row.

    `head(row)` is (series, ts, channel, value), `body(row)` the channel values in the stream's order, ABSENT where
    there is no field. Both raise AttributeError where an object on the way is `null`; `head_sparse` and `body_sparse`
    do not, and are slower. `ts_path` is the path as msgspec writes it in its messages. `ts_root` is a schema with the event
    time alone, of which `ts_text(row)` gives the very text; for rows whose event time is there.
    """

    root: type[msgspec.Struct]
    head: Callable[[Any], Head]
    body: Callable[[Any], tuple[float | None, ...]]
    head_sparse: Callable[[Any], Head]
    body_sparse: Callable[[Any], tuple[float | None, ...]]
    ts_path: str
    ts_root: type[msgspec.Struct]
    ts_text: Callable[[Any], msgspec.Raw]


@dataclass(frozen=True, slots=True)
class _Leaf:
    kind: Any
    default: object


_Tree = dict[str, "_Leaf | _Tree"]


def split_path(path: str) -> Path:
    r"""Keys of a dotted path; `\.` is a dot within a key. Raises ValueError on an empty key, or where it is no such path."""
    keys = tuple(step.name for step in parse_path(path).steps if isinstance(step, Key))
    if not parse_path(path).plain:
        raise ValueError(f"decode: the field path {path!r} is more than keys")
    return keys


def shape_of(spec: StreamSpec, decode: DecodeSpec) -> Shape:
    """The structs for these paths. Raises ValueError where paths collide or cannot be mapped; it says which."""
    check_bounds(decode)
    number = Annotated[float, Meta(ge=-decode.value_abs_max, le=decode.value_abs_max)]

    tree: _Tree = {}
    ts_path = split_path(decode.ts_path)
    head_paths = [split_path(decode.series_path), ts_path]
    # A text stays one: msgspec would round the digits of an instant beyond the sixth, and they are cut off. Seconds mostly
    # have a fraction, and of that the digits are wanted too.
    ts_kind: Any = msgspec.Raw if decode.ts_unit == "s" else int | float | str | None
    # A series may be named by a number.
    head_leaves = [_Leaf(int | str | None, None), _Leaf(ts_kind, None)]
    if decode.channel is not None and isinstance(decode.value, str):
        head_paths += [split_path(decode.channel), split_path(decode.value)]
        head_leaves += [_Leaf(int | str | None, None), _Leaf(number | None, ABSENT)]
    for path, leaf in zip(head_paths, head_leaves, strict=True):
        _plant(tree, path, leaf)
    value_paths = _value_paths(spec, decode)
    for path in value_paths:
        _plant(tree, path, _Leaf(number | None, ABSENT))

    attributes: dict[Path, str] = {}
    root = _struct("Row", tree, (), "", attributes)
    names_head = [attributes[path] for path in head_paths]
    names_head += ["unmapped"] * (4 - len(names_head))
    names_body = [attributes[path] for path in value_paths]

    ts_tree: _Tree = {}
    _plant(ts_tree, ts_path, _Leaf(msgspec.Raw, msgspec.Raw()))
    ts_attributes: dict[Path, str] = {}
    ts_root = _struct("Time", ts_tree, (), "", ts_attributes)
    return Shape(
        root=root,
        head=_getter(names_head),
        body=_getter(names_body),
        head_sparse=_sparse_getter(names_head, (None, None, None, ABSENT)),
        body_sparse=_sparse_getter(names_body, (ABSENT,) * len(names_body)),
        ts_path=".".join(ts_path),
        ts_root=ts_root,
        ts_text=attrgetter(ts_attributes[ts_path]),
    )


def check_bounds(decode: DecodeSpec) -> None:
    if (decode.channel is None) != (decode.value is None):
        raise ValueError("decode: the long form needs both `channel` and `value`, or neither")
    if not 0.0 < decode.value_abs_max < math.inf:
        raise ValueError("decode: value_abs_max must be positive and finite")
    if (decode.format == "csv") != (decode.columns is not None):
        raise ValueError(
            "decode: format: csv needs `columns`, the names of its cells in their order; other formats have none"
        )
    if decode.decimal != "." and decode.numbers != "text":
        raise ValueError("decode: decimal: is of numbers in texts, and needs numbers: text")
    if decode.columns is not None and len(set(decode.columns)) < len(decode.columns):
        raise ValueError("decode: columns: a name is there twice")
    if len(decode.separator) != 1 or decode.separator in '"\r\n ':
        raise ValueError("decode: separator must be one character, no quote, blank or newline")
    if decode.record_bytes_max < 1 or decode.series_bytes_max < 1:
        raise ValueError("decode: record_bytes_max and series_bytes_max must be positive")


def _value_paths(spec: StreamSpec, decode: DecodeSpec) -> list[Path]:
    if len(set(spec.channels)) < len(spec.channels):
        raise ValueError("a channel is named twice")
    if not isinstance(decode.values, Mapping):
        return [("values", channel) for channel in spec.channels]
    unknown = sorted(set(decode.values) - set(spec.channels))
    without = [channel for channel in spec.channels if channel not in decode.values]
    if unknown:
        raise ValueError(f"decode: values maps {unknown[0]!r}, which is not one of the channels")
    if without:
        raise ValueError(f"decode: values maps no path to the channel {without[0]!r}")
    paths = [split_path(str(decode.values[channel])) for channel in spec.channels]
    if len(set(paths)) < len(paths):
        raise ValueError("decode: values maps two channels to the same path")
    return paths


def _plant(tree: _Tree, path: Path, leaf: _Leaf) -> None:
    """Puts a leaf at its path. Two fields of one kind may share a path (`series: sensor, channel: sensor`)."""
    hint = "; set decode.channel and decode.value to null if the topic has no long records"
    node = tree
    for key in path[:-1]:
        below = node.setdefault(key, {})
        if isinstance(below, _Leaf):
            raise ValueError(f"decode: {'.'.join(path)!r} goes through {key!r}, which is mapped itself{hint}")
        node = below
    if node.setdefault(path[-1], leaf) != leaf:
        raise ValueError(f"decode: two fields are mapped to {'.'.join(path)!r}, or one goes through it{hint}")


def _struct(name: str, tree: _Tree, at: Path, prefix: str, attributes: dict[Path, str]) -> type[msgspec.Struct]:
    """One struct per JSON object; `attributes` is filled with the dotted attribute of each leaf.

    Attributes are numbered: JSON keys need not be identifiers.
    """
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for index, (key, below) in enumerate(tree.items()):
        attribute = f"f{index}"
        rename[attribute] = key
        if isinstance(below, _Leaf):
            fields.append((attribute, below.kind, below.default))
            attributes[(*at, key)] = prefix + attribute
        else:
            inner = _struct(f"{name}_{index}", below, (*at, key), f"{prefix}{attribute}.", attributes)
            # An absent object is one with nothing in it; frozen, so every row may share this one.
            fields.append((attribute, inner | None, inner()))
    try:
        # gc=False: rows are trees of scalars, so the cycle collector need not walk a batch of them.
        return msgspec.defstruct(name, fields, rename=rename, frozen=True, gc=False, namespace={"unmapped": None})
    except ValueError as error:
        raise ValueError(f"decode: the keys {sorted(tree)} cannot be mapped: {error}") from None


def _getter(names: Sequence[str]) -> Callable[[Any], Any]:
    getter = attrgetter(*names)
    return getter if len(names) > 1 else lambda row: (getter(row),)  # one name: attrgetter gives no tuple


def _sparse_getter(names: Sequence[str], absent: tuple[object, ...]) -> Callable[[Any], Any]:
    steps = [name.split(".") for name in names]

    def walk(row: Any, path: Sequence[str], default: object) -> object:
        for attribute in path[:-1]:
            row = getattr(row, attribute)
            if row is None:
                return default
        return getattr(row, path[-1])

    return lambda row: tuple(walk(row, path, default) for path, default in zip(steps, absent, strict=True))
