"""What signals do: a clean end, and nothing for one that means something else to every supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
import structlog

from streamrnn.runtime.signals import stop_on_signals


@pytest.mark.parametrize(
    ("number", "terminal", "ends"),
    [
        (signal.SIGTERM, False, True),
        (signal.SIGINT, True, True),
        (signal.SIGHUP, True, True),  # the terminal was closed
        (signal.SIGHUP, False, False),
    ],
)
async def test_signals_end_cleanly_or_not_at_all(
    number: signal.Signals, terminal: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for each in (signal.SIGTERM, signal.SIGHUP):  # without a handler of the service's nothing ends, and the test fails
        signal.signal(each, lambda *_: None)
    loop, stopped, seen = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    stop_on_signals(stopped.set)
    try:
        with structlog.testing.capture_logs() as lines:
            os.kill(os.getpid(), number)
            loop.call_later(30.0, seen.set)
            while not lines and not seen.is_set():
                await asyncio.sleep(0)
    finally:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)
    assert stopped.is_set() is ends
    [line] = lines
    assert line["event"] == "stopping" if ends else line["event"].startswith("SIGHUP is ignored")
