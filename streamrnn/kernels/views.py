"""NamedTuples of many arrays, each of which is made where a kernel uses it.

A function that makes a NamedTuple of fifty arrays has fifty typed, lowered and optimised, whichever it uses; that was half of
what compiling cost. `Views` looks like such a NamedTuple to a kernel, but its value is only what its arrays are found by:
where they begin, and lengths. `views.name` is the code that makes this one.

What they are found by must not change while a kernel runs: it is read once and for all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model
from numba.np import arrayobj
from numba.np.numpy_support import from_dtype

# Numba says nothing of their types.
_make: Any = arrayobj.make_array
_populate: Any = arrayobj.populate_array
_builders: Any = cgutils
_named_tuple: Any = types.NamedTuple
_Template: Any = AttributeTemplate
_Struct: Any = models.StructModel
_register_attributes: Any = infer_getattr
_register_model: Any = register_model
_register_getter: Any = lower_getattr_generic


class Part(NamedTuple):
    """The `fields` of a NamedTuple (`of`). (kind, length, ...): the next array in the list of addresses, where a length is a
    number, the name of one among the lengths, or two of these to be added up. A name: that number. A part: fields in turn.

    A part that is `whole` is made with all of its arrays: a kernel can choose between several of its kind.
    """

    of: type[Any]
    whole: bool
    fields: dict[str, Any]


def part(of: type[Any], /, *, whole: bool = False, **fields: Any) -> Part:
    if tuple(fields) != of._fields:
        raise TypeError(f"{of.__name__} has the fields {of._fields}, in this order, not {tuple(fields)}")
    return Part(of, whole, fields)


class _Array(NamedTuple):
    at: int  # in the list of addresses
    kind: Any
    lengths: tuple[Any, ...]


_PARTS: dict[str, Part] = {}  # by name, which is all that a type that is read from a cache knows of them

_END: dict[str, int] = {}  # by name: the place after the last array


def _file(name: str, filed: Part, at: int) -> int:
    """Files a part, and those in it, under a name; returns the place of the array after its last one."""
    fields: dict[str, Any] = {}
    for key, field in filed.fields.items():
        if isinstance(field, Part):
            at = _file(f"{name}.{key}", field, at)
        elif isinstance(field, tuple):
            field = _Array(at, types.Array(from_dtype(np.dtype(field[0])), len(field) - 1, "C"), field[1:])
            at += 1
        fields[key] = field
    _PARTS[name] = filed._replace(fields=fields)
    return at


class Views(types.Type):
    """Arrays by name: the part of that name, found by values of the types `by`. The first of them is an address to which those
    in the list `at` of the second are relative, or has the list itself (`where`)."""

    def __init__(self, part: str, by: tuple[Any, ...]) -> None:
        self.part, self.by = part, by
        super().__init__(f"Views({part}, {by})")

    def typed(self, name: str) -> Any:
        """The type of a field, None where there is none of this name."""
        field = _PARTS[self.part].fields.get(name)
        if isinstance(field, Part):
            inner = Views(f"{self.part}.{name}", self.by)
            return _named_tuple([inner.typed(key) for key in field.of._fields], field.of) if field.whole else inner
        if isinstance(field, str):
            return self._number(field)[1]
        return field.kind if field else None

    def _number(self, name: str) -> tuple[list[int], Any]:
        """Where among the values a number lies, and its type."""
        for k, by in enumerate(self.by):
            if isinstance(by, types.NamedTuple) and name in by.fields:
                return [k, by.fields.index(name)], by[by.fields.index(name)]
        raise TypeError(f"{self}: {name} is none of what it is found by")

    def value(self, context: Any, builder: Any, value: Any, name: str) -> Any:
        """The code that makes a field."""
        field = _PARTS[self.part].fields[name]
        if isinstance(field, Part):
            if not field.whole:
                return value
            inner = Views(f"{self.part}.{name}", self.by)
            made = [inner.value(context, builder, value, key) for key in field.of._fields]
            return context.make_tuple(builder, self.typed(name), made)
        if isinstance(field, str):
            return builder.extract_value(value, self._number(field)[0])
        return self._array(context, builder, value, field)

    def _array(self, context: Any, builder: Any, value: Any, field: _Array) -> Any:
        def length(of: Any) -> Any:
            if isinstance(of, tuple):
                first, second = map(length, of)
                return builder.add(first, second)
            return (
                context.get_constant(types.intp, of)
                if isinstance(of, int)
                else builder.extract_value(value, self._number(of)[0])
            )

        relative = isinstance(self.by[0], types.Integer)
        path, kind = self._number("at" if relative else "where")
        listed = _make(kind)(context, builder, builder.extract_value(value, path))
        address = builder.load(_builders.gep_inbounds(builder, listed.data, field.at))
        address.set_metadata("invariant.load", builder.module.add_metadata([]))
        if relative:
            address = builder.add(builder.extract_value(value, [0]), address)
        number = context.get_data_type(field.kind.dtype)
        width = context.get_constant(types.intp, context.get_abi_sizeof(number))
        lengths = [length(of) for of in field.lengths]
        strides = [width]
        for axis in reversed(lengths[1:]):
            strides.insert(0, builder.mul(strides[0], axis))
        made = _make(field.kind)(context, builder)
        _populate(
            made,
            data=builder.inttoptr(address, number.as_pointer()),
            shape=lengths,
            strides=strides,
            itemsize=width,
            meminfo=None,
        )
        return made._getvalue()  # noqa: SLF001 - there is no other way to a struct's value


@_register_model(Views)
class _Model(_Struct):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Views) -> None:
        super().__init__(manager, kind, [(f"by{k}", by) for k, by in enumerate(kind.by)])


@_register_attributes
class _Attributes(_Template):  # type: ignore[misc]
    key = Views

    def generic_resolve(self, views: Views, name: str) -> Any:
        return views.typed(name)


def _get(context: Any, builder: Any, views: Views, value: Any, name: str) -> Any:
    return views.value(context, builder, value, name)


_register_getter(Views)(_get)


def views(name: str, of: Part, *, after: str | None = None) -> Any:
    """A function for kernels: from what arrays are found by, two values, to what looks like the NamedTuple, with these arrays
    one after the other in the list of addresses, `after` those of another one's. Nobody owns them."""
    _END[name] = _file(name, of, _END[after] if after else 0)

    def found(typingctx: Any, one: Any, other: Any) -> Any:
        by = tuple(types.intp if isinstance(kind, types.Integer) else kind for kind in (one, other))

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = _builders.create_struct_proxy(signature.return_type)(context, builder)
            made.by0, made.by1 = arguments
            return made._getvalue()  # noqa: SLF001

        return Views(name, by)(*by), codegen

    return intrinsic(found)
