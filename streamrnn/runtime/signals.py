"""SIGTERM and SIGINT ask for a clean end; a second one ends the process at once.

SIGHUP means "read your configuration again" to many a supervisor, and its default would end the process in the middle of a
batch. The configuration is read at the start only, so it is ignored, with a line; on a terminal, which was closed then, it
asks for a clean end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Installs the handlers on the running loop."""
    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: int) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        log.info("stopping", signal=signal.Signals(number).name)
        stop()

    def hang_up() -> None:
        if terminal:
            handle(signal.SIGHUP)
        else:
            log.info("SIGHUP is ignored: the configuration is read at the start; for a new one, start anew")

    terminal = sys.stderr.isatty()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
