"""Everything on one machine: a broker, a simulator, a worker with its trainer, the live page, and a summary at the end.

The parts are the real ones, each a process of its own, started by the very commands a user would type. Only the broker
may be a stand-in: librdkafka's built-in one, in this process, which keeps nothing on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from simulators.registry import default_channels

APP = "streamrnn-demo"
TICKS = f"{APP}.ticks"
START_TIMEOUT_S = 90.0


class DemoFailed(Exception):
    """A part of the demo ended or did not start; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float | None
    bootstrap_servers: str | None
    kind: str
    series: int
    rate: float
    horizon: int
    http_port: int
    seed: int
    as_json: bool


def run(options: Options) -> None:
    """Runs until `seconds` are over or Ctrl-C; prints the summary."""
    console = Console(stderr=options.as_json)
    with tempfile.TemporaryDirectory(prefix="streamrnn-demo-") as folder, contextlib.ExitStack() as stack:
        servers = options.bootstrap_servers or stack.enter_context(_embedded_broker())
        config = Path(folder) / "demo.yaml"
        config.write_text(yaml.safe_dump(_configuration(options, servers)), encoding="utf-8")
        base = [sys.executable, "-m", "streamrnn"]
        _say(console, f"broker {servers}" + ("" if options.bootstrap_servers else " (built in, in memory)"))
        _once([*base, "topics", "-c", str(config), "--create", "--partitions", "4"])
        log = stack.enter_context((Path(folder) / "worker.log").open("w+b"))
        worker = stack.enter_context(_process([*base, "run", "-c", str(config)], log))
        url = _address(worker, log)
        _say(console, f"live page {url}")
        simulator = stack.enter_context(
            _process(
                [*base, "simulate", options.kind, "-c", str(config), *_simulation(options)],
                subprocess.DEVNULL,
            )
        )
        summary = _watch(console, options, url, worker, simulator, log)
    if options.as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        _print(console, summary)


def _configuration(options: Options, servers: str) -> dict[str, Any]:
    return {
        "app": APP,
        "kafka": {"bootstrap_servers": servers},
        "input": TICKS,
        "channels": list(default_channels(options.kind)),
        "step": "1s",
        "horizon": options.horizon,
        # A group that never committed begins with what is sent from now on, also on a broker that saw a demo before.
        "start": "latest",
        # Broker, worker and simulator leave an idle trainer little of two cores, and a minute is short to learn in.
        "learn": {"interval": "10s", "history": 0, "idle": False},
        "http": {"port": options.http_port},
        "log": {"format": "json"},
    }


def _simulation(options: Options) -> list[str]:
    chosen: dict[str, Any] = {"series": options.series, "rate": options.rate, "seed": options.seed}
    if not options.bootstrap_servers:
        # The built-in broker answers a fetch with one batch a partition: of small ones the worker gets little a turn.
        chosen["slice-ms"] = 50
    faults = {"missing-channels": 0.02, "missing-ticks": 0.01, "duplicates": 0.002, "poison": 0.001}
    return [part for name, value in {**chosen, **faults}.items() for part in (f"--{name}", str(value))]


@contextlib.contextmanager
def _embedded_broker() -> Iterator[str]:
    try:
        from confluent_kafka import Producer
    except ImportError as error:
        raise DemoFailed("the built-in broker needs the extra: pip install 'streamrnn[demo]'") from error
    broker = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    [node] = broker.list_topics(timeout=10).brokers.values()
    yield f"{node.host}:{node.port}"
    del broker


@contextlib.contextmanager
def _process(command: list[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)  # noqa: S603
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _once(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)  # noqa: S603
    if done.returncode != 0:
        raise DemoFailed((done.stderr + done.stdout).decode(errors="replace").strip())


def _address(worker: subprocess.Popen[bytes], log: Any) -> str:
    """The worker's own word on where it listens."""
    begin = time.monotonic()
    while time.monotonic() - begin < START_TIMEOUT_S:
        log.seek(0)
        for line in log.read().decode(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError, TypeError):
                url = json.loads(line).get("url")
                if url:
                    return str(url)
        if worker.poll() is not None:
            raise DemoFailed("the worker ended:\n" + _last_words(log))
        time.sleep(0.1)
    raise DemoFailed("the worker did not start in time:\n" + _last_words(log))


def _watch(
    console: Console,
    options: Options,
    url: str,
    worker: subprocess.Popen[bytes],
    simulator: subprocess.Popen[bytes],
    log: Any,
) -> dict[str, Any]:
    begin = time.monotonic()
    said = 0.0
    status: dict[str, Any] = {}
    swaps = 0
    try:
        while options.seconds is None or time.monotonic() - begin < options.seconds:
            time.sleep(0.5)
            if worker.poll() is not None:
                raise DemoFailed("the worker ended:\n" + _last_words(log))
            if simulator.poll() is not None:
                raise DemoFailed("the simulator ended")
            with contextlib.suppress(urllib.error.URLError, TimeoutError):
                status = _get(url + "api/status")
            elapsed = time.monotonic() - begin
            if status and (status["swaps"] > swaps or elapsed - said >= 10.0):
                said, swaps = elapsed, max(swaps, status["swaps"])
                _say(console, f"{elapsed:5.0f} s  " + _line(status))
    except KeyboardInterrupt:
        pass
    with contextlib.suppress(urllib.error.URLError, TimeoutError):
        status = _get(url + "api/status")
    return status


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the demo's own worker on loopback
        found: dict[str, Any] = json.load(answer)
        return found


def _line(status: dict[str, Any]) -> str:
    summary = status["summary"]
    return (
        f"{summary['ticks_per_s']:.0f} ticks/s, lag {status['lag']}, weights {status['model']} ({status['swaps']} swaps), "
        f"taken away by the network {_figure(summary['network_gain'])}, coverage {_figure(summary['coverage'])}"
    )


def _print(console: Console, status: dict[str, Any]) -> None:
    if not status:
        console.print("the worker gave no figures")
        return
    summary = status["summary"]
    table = Table(title="The last 20 seconds", title_justify="left", show_header=False)
    table.add_row("error with the network (mean absolute, in usual moves)", _figure(summary["network_mae"]))
    table.add_row("without it, of the same forecasts", _figure(summary["without_network_mae"]))
    table.add_row("share taken away by the network", _figure(summary["network_gain"]))
    table.add_row("emitted forecast / persistence", _figure(summary["forecast_ratio"]))
    table.add_row(f"coverage of the {summary['coverage_nominal']:.0%} interval", _figure(summary["coverage"]))
    table.add_row("ticks per second", f"{summary['ticks_per_s']:.0f}")
    table.add_row("weights swapped in", str(status["swaps"]))
    table.add_row(
        "forecasts, imputations, dead letters in all",
        f"{summary['forecasts']}, {summary['imputations']}, {summary['dead_letters']}",
    )
    table.add_row("refused", ", ".join(f"{k} {v}" for k, v in sorted(status["rejected"].items())) or "none")
    console.print(table)


def _figure(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.3f}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _last_words(log: Any) -> str:
    log.seek(0)
    return "\n".join(log.read().decode(errors="replace").splitlines()[-15:])
