"""The live page in a real browser: it shows the figures, and a hostile series name stays a name."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import subprocess
from pathlib import Path

import pytest
from test_http import HOSTILE, fed

from streamrnn.monitor.http import HttpServer

pytestmark = pytest.mark.browser
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000",
]  # fmt: skip


async def shown_by(server: HttpServer, profile: Path) -> str:
    """The page as the browser has it when its scripts have run."""
    await server.start()
    try:
        command = [*CHROMIUM, f"--user-data-dir={profile}", "--dump-dom", f"http://127.0.0.1:{server.port}/"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=300, check=True)
    finally:
        await server.stop()
    return done.stdout.decode()


async def test_the_page_shows_what_the_worker_does(tmp_path: Path) -> None:
    server = HttpServer(fed([HOSTILE, "pump"]), "127.0.0.1", 0)
    page = await shown_by(server, tmp_path)
    assert "ready" in page
    assert "ticks per second" in page
    assert "experts, season none" in page
    assert page.count("<canvas") == 2  # a panel per channel
    assert "<img" not in page
    assert html.escape(HOSTILE, quote=False).split("/")[0] in page or "&lt;img" in page
    assert "<title>streamrnn</title>" in page


async def test_the_page_works_behind_a_token(tmp_path: Path) -> None:
    server = HttpServer(fed(["pump"], 20), "127.0.0.1", 0, "s3cret")
    await server.start()
    try:
        url = f"http://127.0.0.1:{server.port}/?token=s3cret"
        command = [*CHROMIUM, f"--user-data-dir={tmp_path}", "--dump-dom", url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=300, check=True)
    finally:
        await server.stop()
    page = done.stdout.decode()
    assert "ticks per second" in page
    assert "s3cret" not in page


NAMES = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</option></select><script>document.title='owned'</script>",
    "\"'><svg onload=document.title='owned'>",
    "../../etc/passwd",
    "a\nb",
    "nul\x00byte",
    "\x1b[31mred",
    "javascript:document.title='owned'",
    "x" * 4000,
    "pump",
]


async def test_hostile_words_stay_words_wherever_they_come_from(tmp_path: Path) -> None:
    """As a series, a channel, the weights in use, the trainer's state, a mark, an error of the broker."""
    hostile = NAMES[0]
    observer = fed(NAMES, 20)
    observer.spec = dataclasses.replace(observer.spec, channels=(hostile, NAMES[1]))
    observer.history.spec = observer.spec
    observer.model = hostile
    observer.trainer = {"up": True, "state": hostile, "accepted": hostile}
    observer.rejected[hostile] += 1
    observer.history.mark("swap", hostile)
    observer.health.trouble = hostile
    server = HttpServer(observer, "127.0.0.1", 0)
    page = await shown_by(server, tmp_path)
    assert "<title>streamrnn</title>" in page
    shown = html.unescape(page)
    assert shown.count(hostile) >= 6  # it is there, as what it is
    assert NAMES[1] in shown
    assert page.count("<script") == 1
    assert not any(tag in page.lower() for tag in ("<img", "<svg", "<iframe", "onerror=document"))
    assert page.count("<option") == len(NAMES)
    assert page.count("<canvas") == 2
