"""The trainer's process: how it steps back for others, how it ends with its worker, and what it does without its GPU."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson
import psutil
import structlog
import torch

from streamrnn import __version__
from streamrnn.runtime.background import BackgroundTasks
from streamrnn.runtime.limits import processors
from streamrnn.serving.supervisor import WITHOUT_GPU
from streamrnn.training.trainer import DeviceFailed, Trainer, choose_device

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

log = structlog.get_logger(__name__)

HEARTBEAT_S = 1.0
EXIT_STUCK = 71


def bound_memory(device: torch.device, most_mb: int) -> None:
    """A backstop for an allocation too large to be noticed before it is made. CUDA maps far more than it uses."""
    if device.type == "cpu" and sys.platform == "linux":
        limit = psutil.Process().memory_info().data + (most_mb << 20)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


async def exit_when_stuck(trainer: Trainer, most_s: float) -> None:
    """Ends the process when a turn does not end: a thread that hangs can be ended no other way."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        if trainer.turn_s() > most_s:
            log.error("the trainer hangs and ends itself", state=trainer.state, seconds=round(trainer.turn_s()))
            os._exit(EXIT_STUCK)


async def heartbeats(trainer: Trainer) -> None:
    """A line a second on standard output, as long as somebody reads it."""
    while True:
        line = orjson.dumps(trainer.said()) + b"\n"
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            trainer.stop()
            return
        await asyncio.sleep(HEARTBEAT_S)


async def end_with_parent(trainer: Trainer) -> None:
    """Ends when standard input closes: the supervisor holds its other end and never writes."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    await stream.read()
    trainer.stop()
    await asyncio.sleep(30.0)
    os._exit(1)  # a round that does not end must not outlive its worker


def step_back(nice: int, idle: bool) -> None:
    """Lets everybody else go first.

    By `nice` alone, whoever wakes up waits until the trainer's slice is over (EEVDF, Linux 6.6 on): a tick that passes
    through four processes waits four times. A process that is idle by policy is put off its processor at once.
    """
    os.nice(nice)
    if idle and hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:  # a container may forbid it
            log.info("the trainer is not idle by policy", error=str(error), nice=nice)


def start_again_without_gpu() -> None:
    """Becomes the same command on the processor: same process, same pipes, so that no supervisor is needed for it."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    # Its niceness, which is added to what a process has, stays with it.
    os.execve(sys.executable, [*sys.orig_argv, *WITHOUT_GPU, "--set", "learn.nice=0"], environment)  # noqa: S606


def _threads() -> int:
    """Leaves one processor to the worker; a second thread of one core gains nothing."""
    return max(1, min(psutil.cpu_count(logical=False) or processors(), processors()) - 1)


def run(settings: Settings, supervised: bool = False) -> None:
    """The whole process. Raises TransportError, OutOfMemoryBound. A GPU that fails is left for the processor."""
    from streamrnn.app.warm_up import warm_up_kernels
    from streamrnn.runtime.signals import stop_on_signals
    from streamrnn.transports.kafka.transport import KafkaTransport

    learn = settings.learn
    step_back(learn.nice, learn.idle)
    bound_memory(choose_device(learn.device), learn.memory_max_mb)
    torch.set_num_threads(learn.threads or _threads())
    torch.set_flush_denormal(True)
    warm_up_kernels(settings)

    async def main() -> None:
        trainer = Trainer(settings, KafkaTransport(settings.kafka_settings()))
        stop_on_signals(trainer.stop)
        log.info(
            "training", version=__version__, app=settings.app, input=settings.input, device=trainer.device_name,
            series_max=trainer.learner.spec.series_max, learn=asdict(trainer.learner.spec.train),
        )  # fmt: skip
        beside = [exit_when_stuck(trainer, (learn.budget + learn.silence_max) / 1000)]
        if supervised:
            beside += [heartbeats(trainer), end_with_parent(trainer)]
        async with BackgroundTasks(trainer.stop, *beside):
            await trainer.run()

    try:
        asyncio.run(main())
    except DeviceFailed as error:
        log.error("the device failed; training begins again on the processor", error=str(error))
        start_again_without_gpu()
