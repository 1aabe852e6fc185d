"""An event loop for many processes: time jumps to the next timer, and a process can be stopped, woken or killed anywhere.

Whatever runs in a context that names a client belongs to that client's process: its tasks, timers and callbacks. A
stopped process takes no step, whatever it was waiting for (SIGSTOP); a killed one never again (kill -9), neither its
`except` nor its `finally`. A fuse does that after so many steps, and so at any await of the service's whole code.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# Whose process something runs in; inherited by all that is begun there. Empty: the world's.
CLIENT: contextvars.ContextVar[str] = contextvars.ContextVar("client", default="")


# Where the clock begins: as on a machine that has just been started, whose monotonic clock counts from there.
BEGIN_S = 3.0

# So many rounds of the loop may pass at one moment: more is work that goes round in circles.
ROUNDS_MAX = 50_000


class Stuck(RuntimeError):
    """Time stands still: every task waits for another, or some go round in circles."""


class _Jump(selectors.SelectSelector):
    """Waits for nothing: where the loop would sleep, its clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = BEGIN_S
        self.rounds, self.rounds_most = 0, 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("I10 liveness: nothing will ever happen again, every task waits for another")
        self.rounds += 1
        self.rounds_most = max(self.rounds, self.rounds_most)
        if timeout > 0:
            # A little further than asked, or rounding would make the loop wait again for nothing.
            self.now_s += timeout + 1e-9
            self.rounds = 0
        elif self.rounds > ROUNDS_MAX:
            self.rounds = 0
            raise Stuck("I10 liveness: work goes round in circles, and no time passes")
        return []


@dataclass(slots=True)
class _Process:
    stopped: bool = False
    held: list[asyncio.Handle] = field(default_factory=list)  # what it would have done since
    fuse: int = 0  # steps until `burnt`; 0: none
    burnt: Callable[[], None] = lambda: None


class _Step(asyncio.Handle):
    """Something that a process is to do next."""

    __slots__ = ()

    def _run(self) -> None:
        if self._loop.may_run(self):  # type: ignore[attr-defined]
            super()._run()


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        if self._loop.may_run(self):  # type: ignore[attr-defined]
            super()._run()


class VirtualLoop(asyncio.SelectorEventLoop):
    """`thread_s` is how long something takes in a thread; what it does, it does in one go halfway."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._processes: dict[str, _Process] = {}
        self._closing = False
        self.thread_s: Callable[[], float] = lambda: 0.5

    def time(self) -> float:
        return self._jump.now_s

    def stand_still(self, seconds: float) -> None:
        """So long the whole process does nothing: what a step that blocks the loop is to it."""
        self._jump.now_s += seconds

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        handle = _Step(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                done: tuple[Callable[[Any], None], Any] = future.set_result, func(*args)
            except Exception as error:  # noqa: BLE001 - handed to who waits for the thread
                done = future.set_exception, error
            self.call_later(self.thread_s() / 2, lambda: future.done() or done[0](done[1]))

        self.call_later(self.thread_s() / 2, work)
        return future

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    def spawn(self, client: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A new process."""
        context = contextvars.Context()
        context.run(CLIENT.set, client)
        self._processes[client] = _Process()
        return self.create_task(work, context=context)

    def may_run(self, handle: asyncio.Handle) -> bool:
        process = self._processes.get(handle._context.get(CLIENT, ""))  # type: ignore[attr-defined]
        if process is None or self._closing:
            return True
        if process.fuse and not process.stopped:
            process.fuse -= 1
            if not process.fuse:
                process.burnt()
        if process.stopped:
            process.held.append(handle)
        return not process.stopped

    def stop_process(self, client: str) -> None:
        self._processes[client].stopped = True

    def wake_process(self, client: str) -> None:
        process = self._processes[client]
        process.stopped = False
        self._wake(process)

    def burn(self, client: str, steps: int, then: Callable[[], None]) -> None:
        """`then` comes when the process has taken so many steps; it may stop it there."""
        self._processes[client].fuse, self._processes[client].burnt = steps, then

    def put_out_fuses(self) -> None:
        for process in self._processes.values():
            process.fuse = 0

    def _wake(self, process: _Process) -> None:
        held, process.held = process.held, []
        self._ready.extend(held)  # type: ignore[attr-defined]

    async def bury(self) -> None:
        """Ends everything that was begun and never ended, killed processes' tasks too, so that nothing is left over."""
        self._closing = True
        for _ in range(20):
            left = [task for task in asyncio.all_tasks(self) if task is not asyncio.current_task()]
            if not left:
                return
            for task in left:
                task.cancel()
            for process in self._processes.values():
                self._wake(process)
            await asyncio.wait(left, timeout=1.0)
        raise RuntimeError(f"these tasks do not end: {left}")


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Runs to the end on a virtual clock."""
    loop = VirtualLoop()
    try:
        try:
            return loop.run_until_complete(coro)
        finally:
            loop.run_until_complete(loop.bury())
    finally:
        loop.close()
