"""Logs under a flood: what is said again and again is thinned, ours and other libraries' alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from streamrnn.service import logs


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def ours(event: str) -> None:
    structlog.get_logger("streamrnn.test").warning(event)


def a_librarys(event: str) -> None:
    logging.getLogger("aiokafka.test").error("%s", event)


@pytest.mark.parametrize("say", [ours, a_librarys])
def test_repetitions_are_dropped_and_counted(
    say: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("info", "json")
    now = [100.0]
    monkeypatch.setattr("streamrnn.service.logs.time.monotonic", lambda: now[0])
    for _ in range(logs.BURST + 7):
        say("no connection")
    say("another thing")
    now[0] += logs.WINDOW_S + 1
    say("no connection")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]  # no traceback among them
    assert [line["event"].split(" (")[0] for line in lines] == ["no connection"] * logs.BURST + [
        "another thing",
        "no connection",
    ]
    assert "7" in json.dumps({k: v for k, v in lines[-1].items() if k in ("event", "suppressed")})
