"""Structured logs: JSON lines, or readable ones on a terminal; repeated warnings are thinned."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

# The same event at warning level or above passes so often per window; the next one that passes says how many did not.
BURST = 20
WINDOW_S = 10.0


class Thin:
    """Drops repetitions of one event beyond BURST in WINDOW_S, and counts what it dropped."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event.get("event"))[:80]
        now = time.monotonic()
        begin, count = self._seen.get(name, (now, 0))
        if now - begin > WINDOW_S:
            if count > BURST:
                event["suppressed"] = count - BURST
            begin, count = now, 0
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[name] = (begin, count + 1)
        if count >= BURST:
            raise structlog.DropEvent
        return event


def configure(level: str = "info", form: str = "auto") -> None:
    """Logs go to standard error. `form`: json, console, or auto (console on a terminal)."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            Thin(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[Thin(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # aiokafka writes keys and values at DEBUG, and a line per retry at INFO: the service tells what matters itself.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
