"""The worker's keeper of the trainer: whatever the child does, it is replaced, and the worker does not notice."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import settings, until
from structlog.testing import capture_logs

from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving import supervisor as supervision
from streamrnn.serving.supervisor import Supervisor, heard, train_command
from streamrnn.transports.base import Deadline

SLOW = (0.01, 0.05)


class Child:
    """A supervisor over a small Python script."""

    def __init__(
        self,
        folder: Path,
        body: str,
        silence_max_s: float = 10.0,
        backoff_s: tuple[float, float] = SLOW,
        report: Callable[[bool, int, Mapping[str, Any]], None] | None = None,
        without_gpu: Sequence[str] = (),
    ) -> None:
        script = folder / "child.py"
        script.write_text("import sys, time, json, os\n" + textwrap.dedent(body))
        self.reports: list[tuple[bool, int, dict[str, Any]]] = []
        self._also = report
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        self.supervisor = Supervisor(
            [sys.executable, "-u", str(script)], self._tell, silence_max_s, backoff_s, environment, without_gpu
        )

    def _tell(self, up: bool, restarts: int, said: Mapping[str, Any]) -> None:
        self.reports.append((up, restarts, dict(said)))
        if self._also is not None:
            self._also(up, restarts, said)

    async def __aenter__(self) -> Child:
        self.supervisor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.supervisor.stop(Deadline(5.0))


async def test_heartbeats_are_heard_between_garbage(tmp_path: Path) -> None:
    body = """
    print("no json"); print('[1,2]'); print('{"state":"training","round":3}'); sys.stdin.read()
    """
    async with Child(tmp_path, body) as child:
        await until(lambda: child.supervisor.said.get("round") == 3)
    assert child.supervisor.restarts == 0


@pytest.mark.parametrize("body", ["sys.exit(3)", "os.kill(os.getpid(), 9)", "raise MemoryError", "print('x' * 10**6)"])
async def test_however_it_ends_it_is_started_again(tmp_path: Path, body: str) -> None:
    async with Child(tmp_path, body) as child:
        await until(lambda: child.supervisor.restarts >= 3)
    assert any(not up for up, _, _ in child.reports)


async def test_a_child_that_fails_at_each_start_never_is_up(tmp_path: Path) -> None:
    """It was, for a moment, at each try: an alert on `trainer_up == 0` for a minute never fired."""
    observer = WorkerObserver(settings().stream_spec())
    seen: set[bytes] = set()

    def report(up: bool, restarts: int, said: Mapping[str, Any]) -> None:
        observer.trainer_state(up, restarts, said)
        seen.update(re.findall(rb"\nstreamrnn_trainer_up (\S+)", observer.metrics_text()))

    async with Child(tmp_path, "raise SystemExit(3)", backoff_s=(0.01, 0.02), report=report) as child:
        await until(lambda: child.supervisor.restarts >= 3)
    assert seen == {b"0.0"}
    assert not any(up for up, _, _ in child.reports)


async def test_a_child_is_up_from_its_first_heartbeat_until_it_ends(tmp_path: Path) -> None:
    body = """
import pathlib
print('{"round":1}')
while not pathlib.Path(sys.argv[0]).with_name("end").exists(): time.sleep(0.01)
"""
    async with Child(tmp_path, body) as child:
        await until(lambda: child.reports and child.reports[-1][0])
        assert [up for up, _, _ in child.reports] == [False, True]
        (tmp_path / "end").touch()
        await until(lambda: child.supervisor.restarts >= 1)
    assert child.reports[0][2] == {"state": "starting"}
    assert not child.reports[2][0]


async def test_crashes_in_a_row_are_answered_later_and_later(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with Child(tmp_path, "os.abort()", backoff_s=(0.05, 0.5)) as child:
            await until(lambda: child.supervisor.restarts >= 6)
    waits = [entry["wait_s"] for entry in logs if "wait_s" in entry]
    # Doubled each time, less up to 30 % by chance: never shorter than the one before, until the limit.
    assert waits[0] <= 0.05 and all(later > earlier for earlier, later in pairwise(waits[:4]))
    assert max(waits) <= 0.5 and min(waits[4:]) >= 0.7 * 0.5


async def test_a_silent_child_is_killed_and_replaced(tmp_path: Path) -> None:
    async with Child(tmp_path, "time.sleep(60)", silence_max_s=0.3) as child:
        await until(lambda: child.supervisor.restarts >= 2)


async def test_garbage_is_no_sign_of_life(tmp_path: Path) -> None:
    body = r"""
    while True:
        sys.stdout.buffer.write(b'\x80\x04pickled\n"training"\n{"round":"many"}\n'); sys.stdout.flush(); time.sleep(0.02)
    """
    async with Child(tmp_path, body, silence_max_s=0.5) as child:
        await until(lambda: child.supervisor.restarts >= 1)
    assert child.supervisor.said == {}


@pytest.mark.parametrize("line", ["x" * 1000, '{"round":1}'], ids=["of garbage", "of heartbeats"])
async def test_a_flood_costs_the_worker_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    naps: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        naps.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(supervision.asyncio, "sleep", counted)
    read = 0
    readline = asyncio.StreamReader.readline

    async def reading(self: asyncio.StreamReader) -> bytes:
        nonlocal read
        read += 1
        return await readline(self)

    monkeypatch.setattr(asyncio.StreamReader, "readline", reading)
    async with Child(tmp_path, f"while True: print({line!r})", silence_max_s=30.0) as child:
        async with asyncio.timeout(30):
            while read < 20:
                await sleep(0.005)
        # Between two lines the worker does other things, and what it has not read waits in a pipe that is full by then.
        paused = [seconds for seconds in naps if seconds == supervision.LINE_PAUSE_S]
        assert read - 1 <= len(paused) <= read
        assert supervision.LINE_PAUSE_S >= 0.01
        assert len(child.reports) <= read + 1
        stream = child.supervisor._child.stdout  # type: ignore[union-attr]
        assert len(stream._buffer) <= 3 * supervision.LINE_BYTES_MAX  # type: ignore[union-attr]


# ── what is heard ────────────────────────────────────────────────────────────────────────────────────────────────


HOSTILE = [
    b"",
    b"\xff\xfe",
    b"null",
    b'"training"',
    b"[" * 100_000,
    b'{"round":"3"}',
    b'{"round":-1}',
    b'{"drifts":null}',
    b'{"drifts":{"a":1}}',
    b'{"ticks":1e300}',
    b'{"ticks":99999999999999999999}',
    b'{"loss":NaN}',
    b'{"loss":"nan"}',
    b'{"device":["cuda"]}',
    b'{"state":"%s"}' % (b"x" * 81),
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_heartbeat_is_not_heard(line: bytes) -> None:
    assert heard(line) is None


def test_what_nobody_asked_for_is_left_out() -> None:
    said = heard(b'{"round":3,"up":false,"restarts":"many","__class__":"x","state":"<img src=x onerror=alert(1)>"}')
    assert said == {"round": 3, "state": "<img src=x onerror=alert(1)>"}


async def test_a_child_that_says_hostile_things_leaves_metrics_and_keeper_whole(tmp_path: Path) -> None:
    observer = WorkerObserver(settings().stream_spec())
    (tmp_path / "lines").write_bytes(b"\n".join([*HOSTILE, b'{"up":0,"restarts":"x","drifts":2}', b'{"round":7}\n']))
    body = (
        f"sys.stdout.buffer.write(open({str(tmp_path / 'lines')!r}, 'rb').read()); sys.stdout.flush(); sys.stdin.read()"
    )
    async with Child(tmp_path, body, report=observer.trainer_state) as child:
        await until(lambda: child.supervisor.said.get("round") == 7 or child.supervisor.restarts > 0)
    # The line without end among them got the child killed, or everything was read: either way the keeper lives.
    assert b"streamrnn_trainer_up" in observer.metrics_text()
    assert observer.trainer["restarts"] == child.supervisor.restarts


# ── a GPU that fails ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("first", ["", 'print(\'{"device":"NVIDIA H100"}\'); time.sleep(0.1)'], ids=["mute", "named"])
async def test_a_gpu_that_kills_the_child_is_left_alone(tmp_path: Path, first: str) -> None:
    """Also when the child dies before it can say which device it is on."""
    body = f"""
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "" or "learn.device=cpu" not in sys.argv:
        {first or "pass"}
        os.kill(os.getpid(), 11)
    print('{{"device":"cpu"}}'); sys.stdin.read()
    """
    async with Child(tmp_path, body, without_gpu=["--set", "learn.device=cpu"]) as child:
        await until(lambda: child.supervisor.said.get("device") == "cpu")
    assert child.supervisor.restarts == supervision.CRASHES_MAX


@pytest.mark.parametrize("code", [3, 70])
async def test_a_broker_that_is_away_costs_no_gpu(tmp_path: Path, code: int) -> None:
    async with Child(tmp_path, f"sys.exit({code})", without_gpu=["--set", "learn.device=cpu"]) as child:
        await until(lambda: child.supervisor.restarts >= supervision.CRASHES_MAX + 2)
        assert "CUDA_VISIBLE_DEVICES" not in child.supervisor._environment
        assert "learn.device=cpu" not in child.supervisor.command


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_stopping_ends_a_child_that_does_not_listen(tmp_path: Path) -> None:
    body = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('{}')
    time.sleep(60)
    """
    child = Child(tmp_path, body)
    child.supervisor.start()
    await until(lambda: len(child.reports) >= 2)
    await asyncio.wait_for(child.supervisor.stop(Deadline(0.3)), 60)
    assert child.supervisor.restarts == 0


async def test_a_grandchild_that_holds_the_output_open_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "END_S", 0.2)
    first, grandchild = tmp_path / "first", tmp_path / "grandchild"
    body = f"""
    import subprocess
    if not os.path.exists({str(first)!r}):
        open({str(first)!r}, "w").close()
        made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(grandchild)!r}, "w").write(str(made.pid))
    os.abort()
    """
    async with Child(tmp_path, body, silence_max_s=0.3) as child:
        await until(lambda: child.supervisor.restarts >= 1)
        holding = psutil.Process(int(grandchild.read_text()))
        assert holding.is_running()
        holding.kill()
        # Its pipes are closed within this test.
        await until(lambda: not holding.is_running() or holding.status() == psutil.STATUS_ZOMBIE)
        await until(lambda: child.supervisor.restarts >= 2)


def test_the_child_is_this_very_python() -> None:
    assert train_command(["-c", "x.yaml"]) == [
        sys.executable,
        "-m",
        "streamrnn",
        "train",
        "--supervised",
        "-c",
        "x.yaml",
    ]
