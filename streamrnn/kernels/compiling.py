"""What numba does at leisure while it compiles, done once: half of a cold start is its own bookkeeping in Python.

None of it is in the compiled code. Numba's inner functions are replaced only where they read as they did when this was written
(`KNOWN`); in any other release they stay as they are, and a cold start takes longer.

- Flags are compared and hashed each time a call's types are looked up, all options one by one. Here equal settings are
  found equal at once. (Numba's own hash is of the options' names: the same for all flags of a kind, as it is here.)
- A function that is pasted into another is copied twice before, the whole of its scope with each block. One copy is to keep the
  original, which is read anew from the function each time, the other is given back to a caller that drops it.
- The collector of garbage walks again and again through what a compiler holds in any case.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from numba.core import event, inline_closurecall, targetconfig, untyped_passes

SELDOM = 50_000  # objects made since the last collection

KNOWN = {
    "flags": "457ee7a29a405eb3",
    "pasting": "ee94e20d17f10a78",
}


def _digest(*functions: Callable[..., Any]) -> str:
    try:
        sources = "".join(map(inspect.getsource, functions))
    except (OSError, TypeError):  # an installation without sources
        return ""
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


_config: Any = targetconfig.TargetConfig
_worker: Any = inline_closurecall.InlineWorker
# As numba has them.
FOUND = {
    "flags": _digest(_config.__eq__, _config.__hash__, _config.values),
    # The last one is who asks for it: it drops the original.
    "pasting": _digest(
        _worker.inline_function,
        _worker.inline_ir,
        _worker.run_untyped_passes,
        untyped_passes.InlineInlinables._do_work,  # noqa: SLF001
    ),
}


def _compare_flags_at_once() -> None:
    config = _config
    if FOUND["flags"] != KNOWN["flags"]:
        return
    slowly = config.__eq__

    def same(self: Any, other: Any) -> Any:
        if self is other or (type(self) is type(other) and self._values == other._values):  # noqa: SLF001
            return True
        return slowly(self, other)

    def values(self: Any) -> dict[str, Any]:
        return {name: self._values.get(name, option.default) for name, option in self.options.items()}

    config.__eq__ = same
    config.__hash__ = lambda self: hash(type(self).__name__)
    config.values = values


def _paste_without_copies() -> None:
    worker: Any = _worker
    module: Any = inline_closurecall
    if FOUND["pasting"] != KNOWN["pasting"]:
        return
    copying, read, paste = module.copy, worker.run_untyped_passes, worker.inline_function
    as_it_is = SimpleNamespace(deepcopy=lambda blocks: blocks)

    # Numba compiles one function at a time, behind a lock.
    def inline_function(*arguments: Any, **named: Any) -> Any:
        module.copy = as_it_is
        try:
            return paste(*arguments, **named)
        finally:
            module.copy = copying

    def run_untyped_passes(*arguments: Any, **named: Any) -> Any:
        before, module.copy = module.copy, copying
        try:
            return read(*arguments, **named)
        finally:
            module.copy = before

    worker.inline_function, worker.run_untyped_passes = inline_function, run_untyped_passes


class _SeldomCollected(event.Listener):
    """Fewer collections of garbage while anything is compiled. None at all would cost 100 MB of memory."""

    def __init__(self) -> None:
        self._depth = 0
        self._usual = gc.get_threshold()

    def on_start(self, event: Any) -> None:
        if self._depth == 0:
            self._usual = gc.get_threshold()
            if self._usual[0] > 0:
                gc.set_threshold(SELDOM, *self._usual[1:])
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            gc.set_threshold(*self._usual)


def hasten() -> None:
    """Makes numba compile faster in this process, other packages' functions too."""
    _compare_flags_at_once()
    _paste_without_copies()
    register: Any = event.register
    register("numba:compile", _SeldomCollected())
