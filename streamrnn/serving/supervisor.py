"""The worker's side of the trainer: starts it, listens to it, ends and restarts it. A dead trainer is a metric, no more.

1. The child is `streamrnn train --supervised` with the same configuration; its standard input is a pipe that is never
   written to: when the worker dies it closes, and the child ends.
2. It says how it is once a second, in a line of JSON. What is no such line is thrown away and is no sign of life;
   lines are read no faster than LINE_PAUSE_S, so that a child that floods waits for us and not the other way round.
3. Silence beyond `silence_max` means that it hangs: it is killed.
4. However it ends, it is started again, later and later up to a limit. After several crashes in a row it is started
   without a GPU, for as long as this worker lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta

from streamrnn.transports.base import Deadline

log = structlog.get_logger(__name__)

LINE_BYTES_MAX = 64 * 1024
LINE_PAUSE_S = 0.02
BACKOFF_S = (1.0, 60.0)
# An end so soon after the start counts as a crash in a row; a longer life clears the count.
SHORT_LIFE_S = 60.0
CRASHES_MAX = 3
# Ends whose reason the child has reported, and which no other device would change: configuration, broker, topic, memory.
REPORTED_CODES = (2, 3, 4, 70)
END_S = 5.0

Word = Annotated[str, Meta(max_length=80)]
Count = Annotated[int, Meta(ge=0, lt=1 << 62)]


class Heartbeat(msgspec.Struct, omit_defaults=True):
    """What a trainer may say of itself; anything else is left out."""

    state: Word = ""
    device: Word = ""
    last: Word = ""
    waits: Word = ""
    round: Count = 0
    accepted: Count = 0
    refused: Count = 0
    drifts: Count = 0
    shared: Count = 0
    series: Count = 0
    series_met: Count = 0
    ticks: Count = 0
    rss_bytes: Count = 0
    loss: float | None = None
    steps_s: float | None = None
    waits_s: float | None = None


class Supervisor:
    """Keeps one child alive. `report(up, restarts, said)` is called at every change and every heartbeat; up is a child from
    its first heartbeat on."""

    def __init__(
        self,
        command: Sequence[str],
        report: Callable[[bool, int, Mapping[str, Any]], None],
        silence_max_s: float,
        backoff_s: tuple[float, float] = BACKOFF_S,
        environment: Mapping[str, str] | None = None,
        without_gpu: Sequence[str] = (),
    ) -> None:
        self.command = list(command)
        self._without_gpu = list(without_gpu)  # arguments that are added when a GPU is suspected
        self.restarts = 0
        self.said: dict[str, Any] = {}
        self._device = ""  # the last one that was named: a child may fail before it comes to say so
        self._report, self._silence_max_s, self._backoff_s = report, silence_max_s, backoff_s
        self._environment = dict(os.environ if environment is None else environment)
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_alive())

    async def ended(self) -> None:
        """Returns behind `stop`; raises what keeps the child from being started again."""
        assert self._task is not None  # noqa: S101
        await asyncio.shield(self._task)

    async def stop(self, deadline: Deadline) -> None:
        """Asks the child to end, then makes it."""
        self._stopping.set()
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

    async def _keep_alive(self) -> None:
        in_a_row = crashes = 0
        while not self._stopping.is_set():
            begin = time.monotonic()
            code = await self._live()
            in_a_row = in_a_row + 1 if time.monotonic() - begin < SHORT_LIFE_S else 1
            crashes = 0 if code in REPORTED_CODES else min(crashes + 1, in_a_row)
            if self._stopping.is_set():
                return
            self.restarts += 1
            self._report(False, self.restarts, self.said)
            if crashes == CRASHES_MAX and self._device != "cpu":
                log.warning("the trainer keeps failing; it goes on on the processor", device=self._device or "unknown")
                self._environment["CUDA_VISIBLE_DEVICES"] = ""
                self.command += self._without_gpu
            least, most = self._backoff_s
            wait_s = min(most, least * 2 ** (in_a_row - 1)) * random.uniform(0.7, 1.0)  # noqa: S311
            log.warning("the trainer ended; it is started again", exit_code=code, wait_s=round(wait_s, 3))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

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
        # It is up when it says so: one that fails at each start never is.
        self._report(False, self.restarts, {"state": "starting"})
        try:
            if self._stopping.is_set():
                child.kill()
            if await self._listen(child):
                # It closed its output, so it is ending: no signal to a process that may have ended already.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), END_S)
        finally:
            self._kill()
        with contextlib.suppress(TimeoutError):  # something that it started may hold its output open
            await asyncio.wait_for(self._drain(child), END_S)
        return await child.wait()

    async def _drain(self, child: asyncio.subprocess.Process) -> None:
        """What is left in the pipe would keep its transport open."""
        while child.stdout is not None and await child.stdout.read(LINE_BYTES_MAX):
            pass

    async def _listen(self, child: asyncio.subprocess.Process) -> bool:
        """Until the child closes its output (True) or has to be killed (False)."""
        assert child.stdout is not None  # noqa: S101
        silence = Deadline(self._silence_max_s)
        while not self._stopping.is_set():
            try:
                line = await asyncio.wait_for(child.stdout.readline(), silence.remaining_s())
            except TimeoutError:
                log.error("the trainer has been silent for too long and is killed", silence_s=self._silence_max_s)
                return False
            except ValueError:
                log.error("the trainer wrote a line without end and is killed")
                return False
            if not line:
                return True
            said = heard(line)
            if said is not None:
                silence = Deadline(self._silence_max_s)
                self.said = said
                self._device = said.get("device", self._device)
                self._report(True, self.restarts, said)
            await asyncio.sleep(LINE_PAUSE_S)
        return True

    def _kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()


def heard(line: bytes) -> dict[str, Any] | None:
    """A heartbeat as plain values, or None: nothing that a child prints is trusted to be one."""
    try:
        said: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(line, type=Heartbeat))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return said


# On a GPU that fails, these make the same command train on the processor.
WITHOUT_GPU = ("--set", "learn.device=cpu")


def train_command(config_arguments: Sequence[str]) -> list[str]:
    """The trainer as this very Python would start it; `config_arguments` are the worker's own -c and --set."""
    return [sys.executable, "-m", "streamrnn", "train", "--supervised", *config_arguments]
