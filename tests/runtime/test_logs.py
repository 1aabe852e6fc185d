"""Logs under a flood: what is said again and again is thinned, ours and other libraries' alike."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from streamrnn.runtime import logs


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


SAY = pytest.mark.parametrize(
    ("say", "burst", "window_s"),
    [(ours, logs.BURST, logs.WINDOW_S), (a_librarys, logs.LIBRARY_BURST, logs.LIBRARY_WINDOW_S)],
)


@SAY
def test_repetitions_are_dropped_and_counted(
    say: Callable[[str], None],
    burst: int,
    window_s: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs.configure("info", "json")
    now = [100.0]
    monkeypatch.setattr("streamrnn.runtime.logs.time.monotonic", lambda: now[0])
    for _ in range(burst + 7):
        say("no connection")
    say("another thing")
    now[0] += window_s + 1
    say("no connection")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]  # no traceback among them
    assert [line["event"].split(" (")[0] for line in lines] == ["no connection"] * burst + [
        "another thing",
        "no connection",
    ]
    assert "7" in json.dumps({k: v for k, v in lines[-1].items() if k in ("event", "suppressed")})


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Group Coordinator Request failed: [Error 15] GroupCoordinatorNotAvailableError", "info"),
        ("FindCoordinator Request failed: [Error 14] GroupLoadInProgressError", "info"),
        ("Group Coordinator Request failed: [Error 30] GroupAuthorizationFailedError", "warning"),
        ("Topic app.state not found in cluster metadata", "warning"),
        ("Heartbeat session expired - marking coordinator dead", "warning"),
    ],
)
def test_what_clients_see_to_by_themselves_is_no_error(
    text: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "json")
    logging.getLogger("aiokafka.cluster").error("%s", text)
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == level
    logs.configure("error", "json")
    logging.getLogger("aiokafka.cluster").error("%s", text)
    assert capsys.readouterr().err == ""


def test_a_defect_of_a_library_stays_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("aiokafka.producer.sender").exception("Unexpected error in sender routine")
    logging.getLogger("another.library").error("broken")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["error", "error"]
    assert "KeyError" in lines[0]["exception"]


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


def test_every_partition_has_its_line_however_many_the_others_have(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    log = structlog.get_logger("streamrnn.test")
    for _ in range(5):
        for partition in range(100):
            log.error("partition starts without its state", partition=partition)
    for _ in range(50):
        log.error("partition starts without its state", partition=7)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["partition"] for line in lines} == set(range(100))
    assert len(lines) == 100  # each once: the burst was theirs


def test_another_event_of_the_same_partition_is_another_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    for _ in range(100):
        for event in ("partition assigned", "partition revoked"):
            structlog.get_logger("streamrnn.test").info(event, partition=0)
    assert len(capsys.readouterr().err.splitlines()) == 2 * logs.BURST


KEEPS_A_LOG = """
import logging, sys
from streamrnn.runtime import logs
logs.configure("info", "json")
before = {name: logging.getLogger(name).level for name in ("aiokafka", "numba", "asyncio", "root")}
import streamrnn.training.trainer, streamrnn.serving.worker, streamrnn.backtest.run, streamrnn.app.demo
import streamrnn.transports.kafka.transport, streamrnn.transports.kafka.bulk_reader, streamrnn.cli.models
after = {name: logging.getLogger(name).level for name in before}
assert before == after, (before, after)
for name in ("aiokafka", "aiokafka.consumer.group_coordinator", "aiokafka.conn"):
    logging.getLogger(name).info("a line per retry")
    logging.getLogger(name).debug("a key and a value")
"""


def test_no_import_changes_what_is_logged() -> None:
    """In a process of its own: the modules are imported already in this one."""
    done = subprocess.run([sys.executable, "-c", KEEPS_A_LOG], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_keeps_no_log_shows_no_keys_and_values() -> None:
    code = "import logging, streamrnn.transports.kafka.transport; assert logging.getLogger('aiokafka').level == logging.INFO"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
