"""Structured logs: JSON lines, or readable ones on a terminal; repeated warnings are thinned."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog

# The same event passes so often per window; the next one that passes says how many did not. The first in the window of each
# partition always does: one partition's trouble must not hide another's.
BURST = 20
WINDOW_S = 10.0
# Other libraries repeat themselves, up to a thousand times a second: of these as many, in as long.
LIBRARY_BURST = 2
LIBRARY_WINDOW_S = 30.0
# Events that are remembered at a time, and partitions of each.
EVENTS_MAX, PARTITIONS_MAX = 1000, 4096

# What a terminal obeys, or what begins another line: other people's words may hold it. JSON escapes it by itself.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What clients are answered while the coordinator of a group or of transactions is being made, or loads.
BEING_MADE = re.compile(r"oordinator Request failed: .*(CoordinatorNotAvailable|LoadInProgress|CoordinatorLoad)")
LINES = ("exception", "stack")


@dataclass(slots=True)
class _Window:
    """The repetitions of one event."""

    began_s: float
    count: int = 0  # that came
    passed: int = 0
    partitions: set[object] = field(default_factory=set)  # that had a line


class Thin(logging.Filter):
    """Drops repetitions of one event beyond BURST in WINDOW_S, and counts what it dropped.

    For our own events a processor, which may drop them; for those of other libraries, which come through the standard
    library's loggers, a filter: an event that is dropped while its record is formatted becomes a traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, _Window] = {}

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        passes, suppressed = self._passes(str(event.get("event")), event.get("partition"))
        if not passes:
            raise structlog.DropEvent
        if suppressed:
            event["suppressed"] = suppressed
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):
            return True  # our own: it came through the processor
        message = record.getMessage()
        passes, suppressed = self._passes(message, burst=LIBRARY_BURST, window_s=LIBRARY_WINDOW_S)
        if suppressed:
            record.msg, record.args = f"{message} ({suppressed} more like it were suppressed)", ()
        return passes

    def _passes(
        self, event: str, partition: object = None, burst: int = BURST, window_s: float = WINDOW_S
    ) -> tuple[bool, int]:
        """(whether it may pass, how many like it did not since the last that did)"""
        name, now, suppressed = event[:80], time.monotonic(), 0
        window = self._seen.get(name)
        if window is None or now - window.began_s > window_s:
            suppressed = window.count - window.passed if window is not None else 0
            if len(self._seen) >= EVENTS_MAX:
                self._seen.clear()
            window = self._seen[name] = _Window(now)
        window.count += 1
        new = partition is not None and partition not in window.partitions and len(window.partitions) < PARTITIONS_MAX
        if new:
            window.partitions.add(partition)
        if not new and window.passed >= burst:
            return False, 0
        window.passed += 1
        return True, suppressed


class Calm(logging.Filter):
    """Lowers what aiokafka writes at level error about what it, or the service, then sees to by itself.

    A broker that has never had a group makes the group's topic first, which every first start meets: info. For other answers
    of the broker, and connections that end, the clients try again, and what that does not heal the service reports: warning.
    A defect comes with a traceback and stays what it is.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.ERROR and record.name.startswith("aiokafka") and not record.exc_info:
            level = logging.INFO if BEING_MADE.search(record.getMessage()) else logging.WARNING
            record.levelno, record.levelname = level, logging.getLevelName(level)
        return record.levelno >= logging.getLogger().level


def _plain(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Controls are shown, not sent. Tracebacks keep their lines, which are indented as no event's are."""
    for key, value in event.items():
        if isinstance(value, str) and key in LINES:
            event[key] = textwrap.indent("\n".join(map(_shown, value.split("\n"))), "  ")
        elif isinstance(value, str):
            event[key] = _shown(value)
    return event


def _shown(text: str) -> str:
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


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
    renderers: list[Any] = (
        [structlog.processors.JSONRenderer()]
        if as_json
        else [_plain, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    handler.addFilter(Calm())
    handler.addFilter(Thin())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # aiokafka writes keys and values at DEBUG, and a line per retry at INFO: the service logs what matters itself.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    for name in ("numba", "httpx2", "httpx"):  # a line for each question to a schema registry
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
