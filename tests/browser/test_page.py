"""The live page in a real browser: it shows the figures, and a hostile series name stays a name."""

from __future__ import annotations

import asyncio
import html
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from test_http import HOSTILE, fed

from streamrnn.service.http import HttpServer

pytestmark = pytest.mark.browser
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000",
]  # fmt: skip


async def test_the_page_shows_what_the_worker_does(tmp_path: Path) -> None:
    server = HttpServer(fed([HOSTILE, "pump"]), "127.0.0.1", 0)
    await server.start()
    try:
        command = [*CHROMIUM, f"--user-data-dir={tmp_path}", "--dump-dom", f"http://127.0.0.1:{server.port}/"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=True)
    finally:
        await server.stop()
    page = done.stdout.decode()
    assert "ready" in page
    assert "ticks per second" in page
    assert page.count("<canvas") == 2  # a panel per channel
    assert "<img" not in page
    assert html.escape(HOSTILE, quote=False).split("/")[0] in page or "&lt;img" in page
    assert "<title>streamrnn</title>" in page
