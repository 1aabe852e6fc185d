"""While numba compiles, its garbage is collected seldom: the collector walks again and again through what a compiler holds in
any case. None at all would cost 100 MB of memory."""

from __future__ import annotations

import gc
from typing import Any

from numba.core import event

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


def hasten() -> None:
    """Spares collections while anything is compiled in this process."""
    register: Any = event.register
    register("numba:compile", _SeldomCollected())
