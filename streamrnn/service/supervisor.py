"""The worker's side of the trainer: starts it, listens to it, ends and restarts it. A dead trainer is a metric, no more.

1. The child is `streamrnn train --supervised` with the same configuration; its standard input is a pipe that is never
   written to: when the worker dies it closes, and the child ends.
2. It says how it is once a second. Silence beyond `silence_max` means it hangs: it is killed.
3. However it ends, it is started again, later and later up to a limit. After several quick ends on a GPU it is started
   without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog

from streamrnn.transports.base import Deadline

log = structlog.get_logger(__name__)

LINE_BYTES_MAX = 64 * 1024
BACKOFF_S = (1.0, 60.0)
# An end so soon after the start counts as a crash in a row; a longer life clears the count.
SHORT_LIFE_S = 60.0
GPU_CRASHES_MAX = 3
END_S = 5.0


class Supervisor:
    """Keeps one child alive. `tell(up, restarts, said)` is called at every change and every heartbeat."""

    def __init__(
        self,
        command: Sequence[str],
        tell: Callable[[bool, int, Mapping[str, Any]], None],
        silence_max_s: float,
        backoff_s: tuple[float, float] = BACKOFF_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self.restarts = 0
        self.said: dict[str, Any] = {}
        self._tell, self._silence_max_s, self._backoff_s = tell, silence_max_s, backoff_s
        self._environment = dict(os.environ if environment is None else environment)
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.stopping = False
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_alive())

    async def stop(self, deadline: Deadline) -> None:
        """Asks the child to end, then makes it."""
        self.stopping = True
        self._wake.set()
        child = self._child
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), deadline.remaining_s())
            self._kill()
        if self._task is not None:
            # It ends by itself, and reaps a child that was just being started; cancelling it there would leave one behind.
            await asyncio.wait({self._task}, timeout=deadline.remaining_s() + END_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def is_stopping(self) -> bool:
        return self.stopping

    async def _keep_alive(self) -> None:
        in_a_row = 0
        while not self.stopping:
            begin = time.monotonic()
            code = await self._live()
            in_a_row = in_a_row + 1 if time.monotonic() - begin < SHORT_LIFE_S else 1
            if self.is_stopping():
                return
            self.restarts += 1
            self._tell(False, self.restarts, self.said)
            if in_a_row == GPU_CRASHES_MAX and self.said.get("device") not in (None, "cpu"):
                log.warning("the trainer keeps failing on its device; it goes on on the processor")
                self._environment["CUDA_VISIBLE_DEVICES"] = ""
            least, most = self._backoff_s
            wait_s = min(most, least * 2 ** (in_a_row - 1)) * random.uniform(0.7, 1.0)  # noqa: S311
            log.warning("the trainer ended; it is started again", exit_code=code, wait_s=round(wait_s, 1))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)

    async def _live(self) -> int | None:
        """One life of the child; returns its exit code."""
        self.said = {}
        try:
            self._child = child = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                limit=LINE_BYTES_MAX,
            )
        except OSError as error:
            log.error("the trainer cannot be started", error=str(error))
            return None
        self._tell(True, self.restarts, self.said)
        try:
            if self.is_stopping():
                child.kill()
            if await self._listen(child):
                # It closed its output, so it is ending: no signal to a process that may be gone already.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), END_S)
        finally:
            self._kill()
        if child.stdout is not None:
            await child.stdout.read()  # what is left in the pipe would keep its transport open
        return await child.wait()

    async def _listen(self, child: asyncio.subprocess.Process) -> bool:
        """Until the child closes its output (True) or has to be killed (False)."""
        assert child.stdout is not None  # noqa: S101
        while True:
            try:
                line = await asyncio.wait_for(child.stdout.readline(), self._silence_max_s)
            except TimeoutError:
                log.error("the trainer has been silent for too long and is killed", silence_s=self._silence_max_s)
                return False
            except ValueError:
                log.error("the trainer wrote a line without end and is killed")
                return False
            if not line:
                return True
            try:
                said = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # something else printed; not a sign of life
            if isinstance(said, dict):
                self.said = said
                self._tell(True, self.restarts, said)

    def _kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()


def train_command(config_arguments: Sequence[str]) -> list[str]:
    """The trainer as this very Python would start it; `config_arguments` are the worker's own -c and --set."""
    return [sys.executable, "-m", "streamrnn", "train", "--supervised", *config_arguments]
