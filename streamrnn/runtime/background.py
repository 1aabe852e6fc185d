"""Work that goes on beside the main one, and does not fail unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Self

import structlog

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """Runs coroutines for as long as a block takes: `async with BackgroundTasks(stop, a(), b()): ...`.

    A task that is looked at when all is over may have died long before: one that fails asks the block to end, by
    `stop`, and its error is raised behind it. An error of the block itself goes first.
    """

    def __init__(self, stop: Callable[[], None], *works: Coroutine[Any, Any, None]) -> None:
        self._stop, self._works = stop, works
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for work in self._works:
            task = asyncio.create_task(work, name=getattr(work, "__qualname__", repr(work)))
            task.add_done_callback(self._look)
            self._tasks.append(task)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and kind is None:
                raise error

    def _look(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work in the background failed; ending", work=task.get_name(), error=repr(error))
            self._stop()
