"""An event loop whose time jumps to the next timer: minutes of a service's life in milliseconds, always the same way."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Coroutine
from typing import Any

# Whose work a task is; tasks inherit it from the one that made them.
CLIENT: contextvars.ContextVar[str] = contextvars.ContextVar("client", default="")


class _Jump(selectors.SelectSelector):
    """Waits for nothing: where the loop would sleep, its clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again: every task waits for another")
        if timeout > 0:
            # A little further than asked, or rounding would make the loop wait again for nothing.
            self.now_s += timeout + 1e-9
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its tasks are known by client, so that a client can die with all that it was doing."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.tasks: dict[str, dict[asyncio.Task[Any], None]] = {}  # in the order they were made
        self.set_task_factory(self._made)

    def time(self) -> float:
        return self._jump.now_s

    def _made(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        context = options.get("context")
        client = context.get(CLIENT, "") if context is not None else CLIENT.get()
        task = asyncio.Task(coro, loop=loop, **options)
        mine = self.tasks.setdefault(client, {})
        mine[task] = None
        task.add_done_callback(lambda done: mine.pop(done, None))
        return task

    def end_tasks_of(self, client: str) -> None:
        for task in list(self.tasks.get(client, ())):
            task.cancel()


def run(coro: Coroutine[Any, Any, Any]) -> Any:
    """Runs to the end on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coro)
