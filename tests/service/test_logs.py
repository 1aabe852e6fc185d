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


HOSTILE = "pump\n2026-01-01 [info] all is well \x1b[31m\x1b]0;owned\x07\x00\u202e\u2028\x9b"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("say", [ours, a_librarys])
def test_other_peoples_words_begin_no_line_and_move_no_terminal(
    say: Callable[[str], None], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", form)
    say(HOSTILE)
    structlog.get_logger("streamrnn.test").warning("refused", series=HOSTILE, short="\x1b[2J")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.get_logger("streamrnn.test").exception("failed")
    written = capsys.readouterr().err
    lines = written.splitlines()  # also at separators that only some programs know
    assert all(line.isprintable() for line in lines)
    events = [line for line in lines if not line.startswith("  ")]
    assert len(events) == 3
    assert not any(line.startswith("2026-01-01") for line in lines)
    if form == "json":
        assert HOSTILE in json.loads(lines[0])["event"]


@pytest.mark.parametrize("say", [ours, a_librarys])
def test_ten_thousand_bad_records_fill_no_disk(say: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json")
    for i in range(10_000):
        say(
            f"a record of partition 3 was refused, as were many before it and as many will be; this is the story of {i}"
        )
    assert len(capsys.readouterr().err) < 100 * logs.BURST * 10
