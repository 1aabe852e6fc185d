"""FAULTS row 46: secrets that are marked appear in nothing that the service writes, says or shows, whatever goes wrong.

Without Kafka; `tests/kafka/test_kafka_security.py` does the same to a worker that serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from running import all_committed, made, send, until, worker
from service import ended

from streamrnn.config.settings import ConfigError, Settings, load
from streamrnn.monitor.http import HttpServer
from streamrnn.runtime import logs
from streamrnn.transports.kafka.transport import KafkaTransport

PASSWORD, KEY_PASSWORD, TOKEN = "canary-9f3a-password", "canary-9f3a-key", "canary-9f3a-token"
CANARY = "canary-9f3a"


def clean(*texts: Any) -> None:
    for text in texts:
        shown = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        assert CANARY not in shown, shown[:2000]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "token").write_text(TOKEN)
    return tmp_path


def configured(folder: Path, port: int = 9, **changes: Any) -> Path:
    path = folder / "config.yaml"
    document: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": f"127.0.0.1:{port}",
            "security_protocol": "SASL_SSL",
            "sasl_plain_username": "app",
            "sasl_plain_password_file": str(folder / "password"),
            "request_timeout_ms": 6000,
        },
        "input": "ticks",
        "channels": ["temp", "flow"],
        "step": "1s",
        "horizon": 2,
        "http": {"port": 0, "token_file": str(folder / "token")},
        "log": {"level": "debug"},
        "shutdown_grace": "2s",
        **changes,
    }
    path.write_text(json.dumps(document))
    return path


# In the environment as well: it is inherited by the trainer, and shown nowhere.
SECRET = {"STREAMRNN__KAFKA__SSL_PASSWORD": KEY_PASSWORD}
ENVIRONMENT = {**os.environ, **SECRET, "PYTHONASYNCIODEBUG": "0"}


def streamrnn(*arguments: object) -> subprocess.CompletedProcess[str]:
    return ended(*arguments, **SECRET)


@pytest.fixture
def silent() -> Iterator[int]:
    """A broker that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


# ── on the command line ──────────────────────────────────────────────────────────────────────────────────────────────


def test_validate_shows_the_configuration_and_no_secret(folder: Path) -> None:
    config = configured(folder)
    for arguments, code in ((("--offline",), 0), (("--offline", "--json"), 0), ((), 3)):
        done = streamrnn("validate", "-c", config, *arguments)
        assert done.returncode == code, done.stderr
        clean(done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
    by_file = json.loads(config.read_text())
    by_file["kafka"]["sasl_plain_password"] = PASSWORD
    del by_file["kafka"]["sasl_plain_password_file"]
    config.write_text(json.dumps(by_file))
    done = streamrnn("validate", "-c", config, "--offline")
    assert done.returncode == 0 and "sasl_plain_password: '**" in done.stdout
    clean(done.stdout, done.stderr)


@pytest.mark.parametrize(
    "key", ["kafka.sasl_plain_password", "kafka.sasl.plain.password", "kafka.ssl_password", "registry.password"]
)
def test_a_secret_in_an_argument_is_refused_and_not_repeated(folder: Path, key: str) -> None:
    done = streamrnn("validate", "-c", configured(folder), "--set", f"{key}={PASSWORD}")
    assert done.returncode == 2
    clean(done.stdout, done.stderr)


def test_a_worker_without_its_broker_tells_all_but_the_secrets(folder: Path, silent: int) -> None:
    """Debug logs, pages, metrics, arguments of it and its trainer, what it says at its end, and `inspect`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = configured(folder, silent, http={"port": port, "token_file": str(folder / "token")})
    command = [sys.executable, "-m", "streamrnn", "run", "-c", str(config), "--set", "log.format=console"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=ENVIRONMENT)
    shown: list[Any] = []
    arguments: set[str] = set()
    try:
        url = f"http://127.0.0.1:{port}"
        began_s = time.monotonic()
        while "train" not in " ".join(arguments):
            assert process.poll() is None and time.monotonic() - began_s < 300, (folder / "said").read_text()
            with contextlib.suppress(psutil.NoSuchProcess):
                me = psutil.Process(process.pid)
                arguments |= {" ".join(each.cmdline()) for each in (me, *me.children(recursive=True))}
            time.sleep(0.05)
        for path in (
            "/livez",
            "/readyz",
            "/metrics",
            "/",
            "/api/status",
            "/api/config",
            "/api/series",
            "/api/series/x",
        ):
            shown += [page(url + path + given) for given in ("", f"?token={TOKEN}", f"?token={TOKEN}x")]
        shown.append(page(url + "/api/config", {"Authorization": f"Bearer {TOKEN}"}))
        assert b"sasl_plain_password" in shown[-1]
        done = streamrnn("inspect", "-c", config)
        assert done.returncode == 0 and '"series":' in done.stdout, done.stderr
        shown += [done.stdout, done.stderr]
    finally:
        process.terminate()
        process.wait(30)
    shown += [*arguments, (folder / "said").read_bytes()]
    assert len(arguments) >= 2
    clean(*shown)


def page(url: str, headers: dict[str, str] | None = None) -> bytes:
    asked = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310
            return bytes(answer.read()) + str(answer.headers).encode()
    except urllib.error.HTTPError as error:
        return error.read() + str(error.headers).encode()


# ── in errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        f'kafka:\n  sasl_plain_password: "{PASSWORD}\n',
        f"kafka:\n  sasl_plain_password: {PASSWORD}: x\n",
        f"kafka: {{sasl_plain_password: {PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: !{PASSWORD} x\n",
        f"kafka:\n  sasl_plain_password: *{PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: &{PASSWORD}\n x\n",
        f"kafka:\n  sasl_plain_password: %{PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: !!int {PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: !!float {PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: !!timestamp {PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: !!binary {PASSWORD}\n",
        f"kafka:\n  sasl_plain_password: [{PASSWORD}]\n",
        f"kafka:\n  sasl_plain_password: {{{PASSWORD}: 1}}\n",
        f"kafka:\n  ssl_password: {PASSWORD}\n  security_protocol: SASL_SSL\n",
        f"kafka:\n  sasl_plain_password: {PASSWORD}\n  security_protocol: SASL\n  heartbeat_interval_ms: x\n",
        f"kafka: sasl_plain_password={PASSWORD}\n",
        f"kafka:\n  - {PASSWORD}\n",
        f"- {PASSWORD}\n",
        PASSWORD,
    ],
)
def test_a_configuration_that_cannot_be_used_is_not_quoted(folder: Path, text: str) -> None:
    config = folder / "broken.yaml"
    config.write_text(text)
    for environment in ({}, {"STREAMRNN__KAFKA__SSL_PASSWORD": KEY_PASSWORD}):
        with pytest.raises(ConfigError) as raised:
            load([config], {}, environment)
        error: BaseException | None = raised.value
        while error is not None:
            clean(error, repr(error))
            error = error.__cause__  # what a traceback would go on to


def secret_settings(folder: Path) -> Settings:
    return load([configured(folder)], {}, {"STREAMRNN__KAFKA__SSL_PASSWORD": KEY_PASSWORD})


def test_objects_that_hold_secrets_do_not_show_them(folder: Path) -> None:
    chosen = secret_settings(folder)
    kafka = chosen.kafka_settings()
    assert kafka.ssl_password == KEY_PASSWORD
    for each in (
        chosen,
        chosen.kafka,
        kafka,
        KafkaTransport(kafka),
        chosen.effective(),
        chosen.model_dump(mode="json"),
    ):
        clean(each, repr(each))


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_values(folder: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Some formatters print what every variable held."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("debug", form)

    def fails(kafka: Any) -> None:
        options = {"sasl_plain_password": PASSWORD}  # as it is handed to a client
        raise RuntimeError(f"{len(options)} {kafka.client_id}")

    try:
        try:
            fails(secret_settings(folder).kafka_settings())
        except RuntimeError:
            structlog.get_logger("streamrnn.test").exception("failed")
            logging.getLogger("other").exception("failed")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        structlog.reset_defaults()
    written = capsys.readouterr().err
    assert written.count("RuntimeError: 1 streamrnn") == 2
    clean(written)


# ── in what is kept and sent ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_that_serves_keeps_and_sends_no_secret(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    kafka = {
        "security_protocol": "SASL_SSL",
        "sasl_plain_username": "app",
        "sasl_plain_password": PASSWORD,
        "ssl_password": KEY_PASSWORD,
    }
    chosen, broker = made(kafka=kafka, checkpoint={"interval": "20ms"}, http={"token_file": str(folder / "token")})
    send(broker, 60)
    broker.append("ticks", 0, b"bad", b"not a tick", 0)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker) and any(broker.topics["app.state"]))
        running.observer.effective = chosen.effective()
        server = HttpServer(running.observer, "127.0.0.1", 0, chosen.http_token())
        await server.start()
        try:
            for path in ("/metrics", "/readyz", "/", "/api/status", "/api/config"):
                url = f"http://127.0.0.1:{server.port}{path}"
                clean(await asyncio.to_thread(page, url, {"Authorization": f"Bearer {TOKEN}"}))
        finally:
            await server.stop()
    records = [record for topic in broker.topics.values() for log in topic for record in log]
    assert len(records) > 300
    clean(*((record.key, record.value, record.headers) for record in records))
    clean(broker.groups, caplog.text)
