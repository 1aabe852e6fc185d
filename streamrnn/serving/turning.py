"""What the worker's two pumps have in common: turns until they are stopped, and a clean end under the lock."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod


class Turning(ABC):
    """A loop whose turns and whose rebalances exclude each other by `_lock`."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` after the current batch; what is in flight is delivered and committed first."""
        self._stopping.set()

    async def run(self) -> None:
        """Pumps until `stop`. Raises TransportError when the broker fails beyond what the clients mend themselves."""
        while not self._stopping.is_set():
            await self._turn()
        async with self._lock:
            await self._settled()

    @abstractmethod
    async def _turn(self) -> None:
        """A poll, and what it brought."""

    @abstractmethod
    async def _settled(self) -> None:
        """Nothing is in flight or waits to be committed any more. Called under the lock."""
