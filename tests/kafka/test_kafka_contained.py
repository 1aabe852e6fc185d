"""The service under the conditions of `deploy/compose.yaml`: a read-only root, an unknown user, no home, a /tmp of a few MB that
runs nothing, and no network but the broker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from broker import Broker
from service import configure, drained

pytestmark = pytest.mark.kafka

CONTAINED = Path(__file__).parents[1] / "deploy" / "contained.py"
ROOT = Path(__file__).parents[2]

# Imported by Python itself at its start: says where a process connects to.
WATCHES = """
import socket, sys
def saw(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        print("CONNECT", arguments[1][0], arguments[1][1], file=sys.stderr, flush=True)
sys.addaudithook(saw)
"""

# Short commands in one process: each of its own would load torch for seconds.
ONE_AFTER_ANOTHER = """
import json, sys
from streamrnn.cli import app
for words in json.loads(sys.argv[1]):
    code = app(words, standalone_mode=False)
    if code:
        sys.exit(f"{words}: {code}")
    print("DONE", words[0])
"""


class Contained:
    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        """Python with these arguments."""
        (folder / "sitecustomize.py").write_text(WATCHES)
        self.log = folder / f"{name}.log"
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as file:
            self.child = subprocess.Popen(
                [sys.executable, str(CONTAINED), "--tmp-kb", "4096", "--",
                 sys.executable, *map(str, arguments)],
                stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            )  # fmt: skip

    def ends(self) -> str:
        code = self.child.wait(120.0)
        if code == 125:
            pytest.skip(f"this kernel permits no namespaces: {self.said()}")
        assert code == 0, self.said()
        return self.said()

    def said(self) -> str:
        return self.log.read_text()

    def waits_for(self, pattern: str) -> re.Match[str]:
        begin = time.monotonic()
        while (found := re.search(pattern, self.said())) is None:
            assert self.child.poll() is None, self.said()
            assert time.monotonic() - begin < 120.0, self.said()
            time.sleep(0.05)
        return found


async def test_every_command_runs_in_a_read_only_container(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("contained")
    config = ["-c", str(configure(tmp_path, broker, app, learn={"min_steps": 100}).rename(tmp_path / "streamrnn.yaml"))]
    short = [
        ["topics", "--create", "--partitions", "2", *config],
        ["validate", *config],
        ["simulate", "sensors", "--series", "4", "--rate", "0", "--count", "400", *config],
        ["models", "list", *config],
    ]
    logs = [Contained(tmp_path, "short", "-c", ONE_AFTER_ANOTHER, json.dumps(short)).ends()]
    assert re.findall("DONE (.+)", logs[0]) == [words[0] for words in short]
    running, training = (Contained(tmp_path, name, "-m", "streamrnn", name, *config) for name in ("run", "train"))
    try:  # they are ended whatever happens
        url = running.waits_for(r'"url": "(http://[^"]+)"')[1]
        await drained(broker, app)
        with urlopen(f"{url}readyz", timeout=10) as answer:  # noqa: S310 - http, as the worker logged it
            assert answer.status == 200, answer.read()
        training.waits_for("CONNECT")
        running.waits_for("CONNECT")
    finally:
        for process in (running, training):
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGTERM)
    logs += [running.ends(), training.ends()]
    _, port = broker.servers.rsplit(":", 1)
    for log in logs:
        assert "Traceback" not in log
        assert {found[1] for found in re.findall(r"CONNECT (\S+) (\d+)", log)} <= {port}
    lines = [json.loads(line) for line in logs[-2].splitlines() if line.startswith("{")]
    assert not [line for line in lines if line["level"] in ("error", "critical")]
