"""Avro's binary encoding: a schema becomes the text of a Python function that reads one datum, compiled once.

`fastavro` parses and checks the schema, with its names and references; what reads the bytes is made here, because they come
from outside: of bytes that make it recurse a million times fastavro takes the process down, of a schema with fields of no
size it makes as many objects as a length says, and it costs twice as much. Times come as `Micros`, decimals as doubles,
enums as texts, bytes as bytes.

Source: Apache Avro 1.12 specification, "Binary encoding" and "Logical types".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamrnn.wire.instants import Refused
from streamrnn.wire.paths import LocalMicros, Micros

Reader = Callable[[bytes], Any]

# Elements of arrays and maps in one datum, over all of them: what a length says costs its bytes, or nothing at all.
ELEMENTS_MAX = 250_000
# Types within each other, and lines of the text that reads them: beyond, nobody has written the schema.
DEPTH_MAX, LINES_MAX = 60, 50_000
# Blocks within each other that are written in place; Python compiles no more than 20 loops.
_BLOCKS_MAX = 6
_SCALE_MAX = 400
_US_PER_DAY = 86_400_000_000
_LOGICAL = {
    ("long", "timestamp-millis"): "Micros({} * 1000)",
    ("long", "timestamp-micros"): "Micros({})",
    ("long", "timestamp-nanos"): "Micros({} // 1000)",
    ("long", "local-timestamp-millis"): "LocalMicros({} * 1000)",
    ("long", "local-timestamp-micros"): "LocalMicros({})",
    ("long", "local-timestamp-nanos"): "LocalMicros({} // 1000)",
    ("int", "date"): f"LocalMicros({{}} * {_US_PER_DAY})",
}  # fmt: skip


class _Bad(Exception):
    """The bytes are no datum of the schema; the message says why."""


def available() -> bool:
    """Whether what parses schemas is installed."""
    try:
        import fastavro  # noqa: F401
    except ImportError:
        return False
    return True


def parsed(text: str, references: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """(a schema of JSON text as fastavro has it, its named types), with those that it refers to, each after what it refers to
    itself. Raises ValueError."""
    from fastavro.schema import SchemaParseException, UnknownType, parse_schema

    names: dict[str, Any] = {}
    try:
        for reference in references:
            parse_schema(json.loads(reference), names)
        return parse_schema(json.loads(text), names), names
    except UnknownType as error:
        raise ValueError(f"it uses the type {error.name!r}, which nothing defines") from None
    except (SchemaParseException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it cannot be used: {error}") from None
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deep") from None


def reader_of(text: str, references: Sequence[str] = ()) -> Reader:
    """Of a schema as JSON text, with those that it refers to, each after what it refers to itself. Raises ValueError.

    What is returned raises Refused.
    """
    schema, names = parsed(text, references)
    try:
        read = _Text(names).compiled(schema)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it cannot be used: {error}") from None
    except (RecursionError, MemoryError, SyntaxError):
        raise ValueError("it is nested too deep") from None

    def whole(payload: bytes) -> Any:
        try:
            found, end = read(payload)
        except (IndexError, struct.error):
            raise Refused("malformed", "the Avro datum ends before its schema does") from None
        except _Bad as error:
            raise Refused("malformed", str(error)) from None
        except UnicodeDecodeError:
            raise Refused("malformed", "a text in the Avro datum is not UTF-8") from None
        except RecursionError:
            raise Refused("malformed", "the Avro datum is nested too deep") from None
        except OverflowError:
            raise Refused("range", "a decimal in the Avro datum that no double holds") from None
        if end != len(payload):
            raise Refused("malformed", f"{len(payload) - end} bytes follow the Avro datum")
        return found

    return whole


def _more(b: bytes, i: int, x: int) -> tuple[int, int]:
    """The rest of a number of several bytes, the first of which is x: (what is written, where it ends)."""
    x &= 127
    shift = 7
    while True:
        byte = b[i]
        i += 1
        x |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise _Bad("a number in the Avro datum has more than 64 bits")
    if x >> 64:
        raise _Bad("a number in the Avro datum has more than 64 bits")
    return x, i


def _bad(what: str) -> None:
    raise _Bad(what)


def _decimal(content: bytes, divisor: int) -> float:
    return int.from_bytes(content, "big", signed=True) / divisor


class _Text:
    """Writes the function. Names of the schema stand in it as Python's own text of a string, and nowhere else."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._functions: dict[str, str] = {}  # named type → its function
        self._written: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self._size = 0
        self._uses: dict[str, int] = {}

    def compiled(self, schema: Any) -> Callable[[bytes], tuple[Any, int]]:
        self._count_uses(schema, 0)
        body = self._function("read", schema)
        source = "\n".join([*self._written, body])
        scope: dict[str, Any] = {
            "more": _more, "bad": _bad, "decimal": _decimal, "Micros": Micros, "LocalMicros": LocalMicros,
            "f4": struct.Struct("<f").unpack_from, "f8": struct.Struct("<d").unpack_from, "MOST": ELEMENTS_MAX,
        }  # fmt: skip
        exec(compile(source, "<avro schema>", "exec"), scope)  # noqa: S102 - of types, and of names by their repr
        read = scope["read"]

        def begun(payload: bytes) -> tuple[Any, int]:
            found: tuple[Any, int] = read(payload, 0, [0])
            return found

        return begun

    def _count_uses(self, schema: Any, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise ValueError("it is nested too deep")
        if isinstance(schema, list):
            for each in schema:
                self._count_uses(each, depth + 1)
            return
        if isinstance(schema, str):
            if schema in self._names:
                self._uses[schema] = self._uses.get(schema, 0) + 1
                if self._uses[schema] == 1:
                    self._count_uses(self._names[schema], depth + 1)
            return
        kind = schema["type"]
        if kind in ("record", "error"):
            name = schema["name"]
            self._uses[name] = self._uses.get(name, 0) + 1
            if self._uses[name] < 2 or depth == 0:
                for each in schema["fields"]:
                    self._count_uses(each["type"], depth + 1)
        elif kind == "array":
            self._count_uses(schema["items"], depth + 1)
        elif kind == "map":
            self._count_uses(schema["values"], depth + 1)
        elif isinstance(kind, dict | list):
            self._count_uses(kind, depth + 1)

    # ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _function(self, name: str, schema: Any) -> str:
        lines, self._lines = self._lines, []
        self._line(0, f"def {name}(b, i, c):")
        self._line(1, "n = len(b)")
        if name != "read":  # what has no bytes is counted, too
            self._line(1, "c[0] += 1")
            self._line(1, "if c[0] > MOST: bad(f'more than {MOST} elements in an Avro datum')")
        self._emit(schema, 1, "v")
        self._line(1, "return v, i")
        text = "\n".join(self._lines)
        self._lines = lines
        return text

    def _line(self, indent: int, text: str) -> None:
        self._size += 1
        if self._size > LINES_MAX:
            raise ValueError("it has too many fields")
        self._lines.append("    " * indent + text)

    def _fresh(self) -> str:
        self._count += 1
        return f"x{self._count}"

    def _call(self, schema: Any, indent: int, to: str, name: str | None) -> None:
        function = self._functions.get(name) if name is not None else None
        if function is None:
            function = f"read_{len(self._functions)}_{self._count}"
            self._functions[name if name is not None else function] = function
            self._written.append(self._function(function, schema))
        self._line(indent, f"{to}, i = {function}(b, i, c)")

    def _emit(self, schema: Any, indent: int, to: str) -> None:
        if isinstance(schema, list):
            self._union(schema, indent, to)
        elif isinstance(schema, str):
            if schema in self._names:
                self._named(self._names[schema], indent, to)
            else:
                self._primitive(schema, indent, to)
        else:
            kind = schema["type"]
            if kind in ("record", "error", "enum", "fixed"):
                self._named(schema, indent, to)
            elif kind == "array":
                self._blocks(schema["items"], indent, to, keyed=False)
            elif kind == "map":
                self._blocks(schema["values"], indent, to, keyed=True)
            elif isinstance(kind, dict | list):
                self._emit(kind, indent, to)
            else:
                self._primitive(kind, indent, to)
                self._logical(schema, kind, indent, to)

    def _logical(self, schema: Any, kind: str, indent: int, to: str) -> None:
        logical = schema.get("logicalType")
        made = _LOGICAL.get((kind, logical)) if isinstance(logical, str) else None
        if made is not None:
            self._line(indent, f"{to} = {made.format(to)}")
        elif logical == "decimal" and kind in ("bytes", "fixed"):
            scale = schema.get("scale", 0)
            if not isinstance(scale, int) or not 0 <= scale <= _SCALE_MAX:
                raise ValueError(f"a decimal of scale {str(scale)[:20]}")
            self._line(indent, f"{to} = decimal({to}, {10**scale})")

    def _named(self, schema: Any, indent: int, to: str) -> None:
        kind, name = schema["type"], schema["name"]
        if kind == "enum":
            symbols = tuple(str(each) for each in schema["symbols"])
            self._long(indent, to)
            self._line(
                indent, f"if not 0 <= {to} < {len(symbols)}: bad('an enum of the Avro datum has no such symbol')"
            )
            self._line(indent, f"{to} = {symbols!r}[{to}]")
        elif kind == "fixed":
            size = schema["size"]
            if not isinstance(size, int) or size < 0:
                raise ValueError("a fixed type without a size")
            self._slice(indent, to, str(size))
            self._logical(schema, "fixed", indent, to)
        elif self._uses.get(name, 0) > 1 or indent > _BLOCKS_MAX:
            function = self._functions.get(name)
            if function is None:  # known before it is written: it may call itself
                function = self._functions[name] = f"read_{len(self._functions)}_{self._count}"
                lines, self._lines = self._lines, []
                self._lines = []
                self._record(schema, 1, "v")
                inner, self._lines = self._lines, lines
                self._written.append(
                    "\n".join(
                        [
                            f"def {function}(b, i, c):", "    n = len(b)", "    c[0] += 1",
                            "    if c[0] > MOST: bad(f'more than {MOST} elements in an Avro datum')",
                            *inner, "    return v, i",
                        ]
                    )
                )  # fmt: skip
            self._line(indent, f"{to}, i = {function}(b, i, c)")
        else:
            self._record(schema, indent, to)

    def _record(self, schema: Any, indent: int, to: str) -> None:
        items = []
        for each in schema["fields"]:
            at = self._fresh()
            self._emit(each["type"], indent, at)
            items.append(f"{str(each['name'])!r}: {at}")
        self._line(indent, f"{to} = {{{', '.join(items)}}}")

    def _primitive(self, kind: str, indent: int, to: str) -> None:
        if kind == "null":
            self._line(indent, f"{to} = None")
        elif kind == "boolean":
            self._line(indent, f"{to} = b[i] == 1")
            self._line(indent, "i += 1")
        elif kind in ("int", "long"):
            self._long(indent, to)
        elif kind in ("float", "double"):
            size = 4 if kind == "float" else 8
            self._line(indent, f"({to},) = f{size}(b, i)")
            self._line(indent, f"i += {size}")
        elif kind in ("bytes", "string"):
            length = self._fresh()
            self._long(indent, length)
            self._slice(indent, to, length)
            if kind == "string":
                self._line(indent, f"{to} = {to}.decode()")
        else:
            raise ValueError(f"it uses the type {str(kind)[:40]!r}, which nothing defines")

    def _long(self, indent: int, to: str) -> None:
        self._line(indent, f"{to} = b[i]")
        self._line(indent, "i += 1")
        self._line(indent, f"if {to} > 127: {to}, i = more(b, i, {to})")
        self._line(indent, f"{to} = ({to} >> 1) ^ -({to} & 1)")

    def _slice(self, indent: int, to: str, length: str) -> None:
        self._line(indent, f"if not 0 <= {length} <= n - i: bad('a length in the Avro datum is beyond its end')")
        self._line(indent, f"{to} = b[i : i + {length}]")
        self._line(indent, f"i += {length}")

    def _blocks(self, items: Any, indent: int, to: str, keyed: bool) -> None:
        if indent > _BLOCKS_MAX:
            self._call(
                {"type": "map", "values": items} if keyed else {"type": "array", "items": items}, indent, to, None
            )
            return
        count, at = self._fresh(), self._fresh()
        self._line(indent, f"{to} = {'{}' if keyed else '[]'}")
        self._line(indent, "while True:")
        inner = indent + 1
        self._long(inner, count)
        self._line(inner, f"if not {count}: break")
        self._line(inner, f"if {count} < 0:")
        size = self._fresh()
        self._long(inner + 1, size)
        self._line(inner + 1, f"{count} = -{count}")
        self._line(inner, f"c[0] += {count}")
        self._line(inner, "if c[0] > MOST: bad(f'more than {MOST} elements in an Avro datum')")
        self._line(inner, f"for _ in range({count}):")
        if keyed:
            key = self._fresh()
            self._primitive("string", inner + 1, key)
            self._emit(items, inner + 1, at)
            self._line(inner + 1, f"{to}[{key}] = {at}")
        else:
            self._emit(items, inner + 1, at)
            self._line(inner + 1, f"{to}.append({at})")

    def _union(self, branches: Sequence[Any], indent: int, to: str) -> None:
        if indent > _BLOCKS_MAX:
            self._call(branches, indent, to, None)
            return
        which = self._fresh()
        self._line(indent, f"{which} = b[i]")
        self._line(indent, "i += 1")
        for number, branch in enumerate(branches):
            if number > 63:
                raise ValueError("a union of more than 64 types")
            self._line(indent, f"{'el' if number else ''}if {which} == {2 * number}:")
            self._emit(branch, indent + 1, to)
        self._line(indent, "else: bad('a union of the Avro datum has no such type')")
