"""A picture of the live page, as the README shows it: `python tests/browser/screenshot.py [--out FILE] [--seconds 90]`.

Runs the demo (built-in broker, simulator, worker, trainer), waits, and has a headless Chromium from PATH draw the page.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OUT = Path(__file__).parents[2] / "deploy" / "page.png"
START_S = 180.0


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"needs one of {', '.join(BROWSERS)} on PATH")
    return found


@contextlib.contextmanager
def demo(port: int) -> Iterator[str]:
    """The live page's address, when the worker serves."""
    command = [sys.executable, "-m", "streamrnn", "demo", "--http-port", str(port), "--rate", "200"]
    child = subprocess.Popen(command)
    try:
        end = time.monotonic() + START_S
        while time.monotonic() < end and child.poll() is None:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                    yield f"http://127.0.0.1:{port}/"
                    return
            time.sleep(0.5)
        sys.exit("the demo did not start")
    finally:
        child.send_signal(2)
        child.wait(60)


def draw(url: str, out: Path, size: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                f"--user-data-dir={profile}", f"--window-size={size}", "--virtual-time-budget=4000", f"--screenshot={out}", url,
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--seconds", type=float, default=90.0, help="how long the demo runs before the picture is taken"
    )
    parser.add_argument("--size", default="1100,585")
    chosen = parser.parse_args()
    browser()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with demo(port) as url:
        time.sleep(chosen.seconds)
        draw(url, chosen.out.absolute(), chosen.size)
    print(f"{chosen.out}: {chosen.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
