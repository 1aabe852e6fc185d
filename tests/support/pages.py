"""What a running worker says of itself by HTTP."""

from __future__ import annotations

import re

import aiohttp
from service import Process


def address(worker: Process) -> str:
    """Its port is any free one; the log says which."""
    worker.waits_for("serving HTTP")
    found = re.search(r'"url": "(http://[^"]+)/"', worker.said())
    assert found is not None, worker.said()
    return found[1]


async def page(url: str) -> tuple[int, str]:
    """(status, text)."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()
