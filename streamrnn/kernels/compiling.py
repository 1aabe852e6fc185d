"""What makes numba compile faster, and changes nothing of what it compiles.

While it does, its garbage is collected seldom: the collector walks again and again through what a compiler holds in any case.
None at all would cost 100 MB of memory.

Where a function is pasted into another (`inline="always"`), numba copies each of its blocks twice, and with each block anew
all variables that the function has. They need not be copied: the function was read for this one place. Of `_expect`, into
which a dozen are pasted, that was a third of the time.
"""

from __future__ import annotations

import contextlib
import gc
from typing import Any

from numba import types
from numba.core import event

_types: Any = types  # numba says nothing of their types

SELDOM = 50_000  # objects made since the last collection


class _SeldomCollected(event.Listener):
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


def _share_scopes() -> None:
    """Has numba's inliner share a pasted function's scope between the copies of its blocks, in place of one for each."""
    from numba.core.inline_closurecall import InlineWorker

    worker: Any = InlineWorker
    usual = worker.run_untyped_passes

    def shared(self: Any, func: Any, enable_ssa: bool = False) -> Any:
        found = usual(self, func, enable_ssa)
        for scope in {id(block.scope): block.scope for block in found.blocks.values()}.values():
            scope.__deepcopy__ = lambda memo, scope=scope: scope
        return found

    worker.run_untyped_passes = shared


def without_constants(dispatcher: Any) -> None:
    """Has a kernel compiled once for calls by kernels with a constant and with a variable: numba makes code of its own for each
    constant, and for what looks like one while it works out the types of a loop. All of it is the same code."""
    usual, unliteral = dispatcher.get_call_template, _types.unliteral

    def get_call_template(args: Any, kws: Any) -> Any:
        return usual(tuple(map(unliteral, args)), {name: unliteral(kind) for name, kind in kws.items()})

    dispatcher.get_call_template = get_call_template


def hasten() -> None:
    """Spares work while anything is compiled in this process."""
    register: Any = event.register
    register("numba:compile", _SeldomCollected())
    with contextlib.suppress(ImportError, AttributeError):  # another version of numba, which is as fast as it is
        _share_scopes()
