r"""Paths into a record: where a field of the contract stands in people's own JSON.

device.id                   keys, joined by dots (`\.` is a dot within a key, `\[` a bracket)
.                           the element itself
#                           the element's own key, where it is an entry of an object
data[0]                     an entry of an array by its number
attributes[key=host.name]   the entry of an array of objects whose field `key` is this text
values[^.dsnames=midterm]   the entry of an array at the place where an array beside it has this text
temp[#]                     the entry of an array at the element's own place in its array
^.time                      one level out: the object that holds the array which the element is of
tags.*                      in `series`: all values of an object, by the order of their keys; in `values`: the channel
@key @key.id @header.NAME @topic @partition @offset @time   of the record
    @timestamp \@key            other words after @ are keys, and one of these after a backslash
    @window.key @window.start   of a key with the window that Kafka Streams and ksqlDB write after it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from streamrnn.records import Reason

# Stands for "the field is not there". `null` arrives as None and a number as another object, and JSON has no NaN, so identity
# distinguishes the three (tuples compare by identity first).
ABSENT: Any = float("nan")


class Micros(int):
    """An instant that a format's own types say: microseconds since 1970."""

    __slots__ = ()


class LocalMicros(int):
    """A time without a zone that a format's own types say: microseconds since 1970 on the clock of the place."""

    __slots__ = ()


class Labels(list[Any]):
    """Keys and values of which each combination is one object, so that what is made of it is found again by it."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


Root = Literal["", "key", "header", "topic", "partition", "offset", "time", "window"]
ROOTS: tuple[Root, ...] = ("key", "header", "topic", "partition", "offset", "time", "window")
# Wanted of an element of one of these many.
Walk = Callable[[Any, int, int], Any]


class Mistyped(Exception):
    """Something on a path is no object, or no array, or a piece of a record cannot be read; the message says what and where."""

    def __init__(self, detail: str, reason: Reason = "type") -> None:
        super().__init__(detail)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Key:
    name: str


@dataclass(frozen=True, slots=True)
class At:
    index: int


@dataclass(frozen=True, slots=True)
class Place:
    """The entry at the element's own place."""


@dataclass(frozen=True, slots=True)
class Find:
    """The entry of an array of objects in which `field` is `text`."""

    field: tuple[Key, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Beside:
    """The entry of an array where the array at `field`, from the object that holds both, has `text`."""

    field: tuple[Key, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Star:
    """All entries of an object (`.*`) or an array (`[*]`)."""

    array: bool


Step = Key | At | Place | Find | Beside | Star


@dataclass(frozen=True, slots=True)
class Path:
    """`text` is the path as written. `outs` levels out, or in the record (`root`), then `steps`; `own_key`: the key itself."""

    text: str
    root: Root = ""
    outs: int = 0
    steps: tuple[Step, ...] = ()
    own_key: bool = False

    @property
    def plain(self) -> bool:
        """Keys alone, within the element."""
        return not self.root and not self.outs and not self.own_key and bool(self.steps) and keys_only(self.steps)

    def written(self) -> str:
        """The path as text, of keys alone with their dots and brackets escaped."""
        if not self.plain:
            return self.text
        return ".".join(_SPECIAL.sub(r"\\\g<0>", step.name) for step in self.steps if isinstance(step, Key))


_SPECIAL = re.compile(r"[.\[\]\\*]")


def keys_only(steps: Sequence[Step]) -> bool:
    return all(step.__class__ is Key for step in steps)


_TOKEN = re.compile(r"((?:\\.|[^.\[\]\\])+)|(\[(?:\\.|[^\]\\])*\])|(\.)", re.DOTALL)
_ESCAPED = re.compile(r"\\([.\[\]\\*^@#?=])")


def parse_path(text: str) -> Path:
    """Raises ValueError, which says what is wrong with which path."""
    if not isinstance(text, str) or not text:
        raise ValueError("decode: a field path is an empty key")
    rest, outs = text, 0
    if rest.startswith("@") and rest[1:].partition(".")[0] in ROOTS:
        return _in_record(text)
    while rest.startswith("^."):
        rest, outs = rest[2:], outs + 1
    if rest == "#":
        return Path(text, outs=outs, own_key=True)
    if rest in (".", "") and (outs or rest):
        return Path(text, outs=outs)
    return Path(text, outs=outs, steps=_steps(text, rest))


def _in_record(text: str) -> Path:
    name, _, rest = text[1:].partition(".")
    root = next(each for each in ROOTS if each == name)
    if root == "header":
        if not rest:
            raise ValueError(f"decode: {text!r}: write @header.NAME")
        return Path(text, root, steps=(Key(rest),))
    if root == "window" and rest not in ("key", "start"):
        raise ValueError(f"decode: {text!r}: write @window.key or @window.start")
    if rest and root not in ("key", "window"):
        raise ValueError(f"decode: {text!r}: nothing stands below @{root}")
    return Path(text, root, steps=_steps(text, rest) if rest else ())


def _steps(text: str, rest: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    at, wants_key = 0, True
    while at < len(rest):
        match = _TOKEN.match(rest, at)
        if match is None:
            raise ValueError(f"decode: the field path {text!r} cannot be read from {rest[at : at + 20]!r} on")
        key, bracket, dot = match.groups()
        if dot:
            if wants_key:
                raise ValueError(f"decode: the field path {text!r} has an empty key")
            wants_key = True
        elif bracket:
            if wants_key and steps:
                raise ValueError(f"decode: the field path {text!r} has an empty key")
            steps.append(_bracket(text, bracket[1:-1]))
            wants_key = False
        else:
            if not wants_key:
                raise ValueError(f"decode: the field path {text!r} needs a dot before {key!r}")
            steps.append(Star(False) if key == "*" else Key(_ESCAPED.sub(r"\1", key)))
            wants_key = False
        at = match.end()
    if wants_key:
        raise ValueError(f"decode: the field path {text!r} has an empty key")
    return tuple(steps)


def _bracket(text: str, inner: str) -> Step:
    if inner == "*":
        return Star(True)
    if inner == "#":
        return Place()
    if inner.isdigit() and len(inner) < 7:
        return At(int(inner))
    field, sign, value = inner.partition("=")
    beside = field.startswith("^.")
    if not sign or not field:
        raise ValueError(f"decode: {text!r}: [{inner}] is no number, no *, no # and no [field=text]")
    steps = _steps(text, field[2:] if beside else field)
    keys = tuple(step for step in steps if isinstance(step, Key))
    if len(keys) < len(steps):
        raise ValueError(f"decode: {text!r}: [{inner}] compares a field named by keys alone")
    return (Beside if beside else Find)(keys, _ESCAPED.sub(r"\1", value))


def filled_in(template: Path, channel: str) -> Path:
    """A template of `values` for one channel: its name stands for each `*`."""
    steps = tuple(
        Key(channel)
        if isinstance(step, Star) and not step.array
        else replace(step, text=channel)
        if isinstance(step, Find | Beside) and step.text == "*"
        else step
        for step in template.steps
    )
    return replace(template, steps=steps, text=template.text.replace("*", channel))


def has_star(path: Path) -> bool:
    return any(
        (isinstance(step, Star) and not step.array) or (isinstance(step, Find | Beside) and step.text == "*")
        for step in path.steps
    )


# ── walking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def walker(path: Path) -> Walk:
    """What stands at a path below an object: None for null, ABSENT where the way ends. Raises Mistyped when called."""
    steps, text = path.steps, path.text
    if len(steps) == 1 and isinstance(steps[0], Key):
        name = steps[0].name

        def one(at: Any, place: int, count: int) -> Any:
            if at.__class__ is dict:
                return at.get(name, ABSENT)
            return _not_there(at, text)

        return one

    if all(isinstance(step, Key) for step in steps):
        return _by_keys([step.name for step in steps if isinstance(step, Key)], text)

    def walk(at: Any, place: int, count: int) -> Any:
        owner = at
        for step in steps:
            if isinstance(step, Key):
                if at.__class__ is not dict:
                    return _not_there(at, text)
                owner, at = at, at.get(step.name, ABSENT)
            elif at is None or at is ABSENT:
                return ABSENT
            else:
                at = _entry(step, owner, at, place, count, text)
        return at

    return walk


def _by_keys(names: Sequence[str], text: str) -> Walk:
    """The same of a path of keys alone, which most are."""
    first, last, between = names[0], names[-1], names[1:-1]

    def walk(at: Any, place: int, count: int) -> Any:
        if at.__class__ is not dict:
            return _not_there(at, text)
        at = at.get(first, ABSENT)
        for name in between:
            if at.__class__ is not dict:
                return _not_there(at, text)
            at = at.get(name, ABSENT)
        return at.get(last, ABSENT) if at.__class__ is dict else _not_there(at, text)

    return walk


def _not_there(at: Any, text: str) -> Any:
    if at is None or at is ABSENT:
        return ABSENT
    raise Mistyped(f"Expected an object on the way to `{text}`, got {named(at)}")


def named(thing: Any) -> str:
    """The JSON type of a value."""
    if thing is None:
        return "null"
    for kind, name in (
        (bool, "a boolean"),
        (str, "a text"),
        (bytes, "bytes"),
        (Micros | LocalMicros, "a time"),
        (int | float, "a number"),
        (list, "an array"),
        (dict, "an object"),
    ):
        if isinstance(thing, kind):
            return name
    return "something else"


def _entry(step: Step, owner: Any, at: Any, place: int, count: int, text: str) -> Any:
    if at.__class__ is not list and at.__class__ is not Labels:
        raise Mistyped(f"Expected an array on the way to `{text}`, got {named(at)}")
    if isinstance(step, At):
        return at[step.index] if step.index < len(at) else ABSENT
    if isinstance(step, Place):
        if len(at) != count:
            raise Mistyped(f"`{text}` has {len(at)} entries, and the array it goes with {count}")
        return at[place]
    if isinstance(step, Find):
        for entry in at:
            if entry.__class__ is dict and _below(entry, step.field) == step.text:
                return entry
        return ABSENT
    if isinstance(step, Beside):
        names = _below(owner, step.field)
        if names.__class__ is not list:
            return ABSENT
        if len(names) != len(at):
            raise Mistyped(f"`{text}` has {len(at)} entries, and the array of their names {len(names)}")
        try:
            return at[names.index(step.text)]
        except ValueError:
            return ABSENT
    return at


def _below(at: Any, keys: Sequence[Key]) -> Any:
    for key in keys:
        if at.__class__ is not dict:
            return ABSENT
        at = at.get(key.name, ABSENT)
    return at
