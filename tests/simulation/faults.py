"""What goes wrong, where and when: all of it from one seed.

Two steps, as in FoundationDB's simulation: each kind of fault is switched on or off for a whole run, then fires by
chance at single requests. So runs differ in kind, not only in luck.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable

from clock import VirtualLoop

from streamrnn.transports.base import TransportError
from streamrnn.transports.memory import MemoryBroker

KINDS = ("delay", "refuse", "lose-answer", "crash", "freeze", "rebalance", "partition", "compact")
ACTIVE = 0.4
SESSION_S = 1.0

# Requests before their effect, and the moments behind it, when only the answer can be lost.
BEFORE = {"join", "poll", "commit", "produce", "connect", "fetch-offsets", "read", "init-producer", "end-transaction"}
BEHIND = {"polled", "committed", "produced", "ended-transaction"}


class Faults:
    """The broker's hook. `crash(client)` is the world's way to end a client; quiet once `stop` was called."""

    def __init__(self, seed: int, broker: MemoryBroker, crash: Callable[[str], None], kinds: tuple[str, ...] = KINDS):
        self.random = random.Random(f"faults-{seed}")
        self.active = {kind for kind in kinds if self.random.random() < ACTIVE}
        self.rate = 10 ** self.random.uniform(-2.7, -1.2)
        self.fired: dict[str, int] = {}
        self.dead: set[str] = set()
        self.frozen: dict[str, asyncio.Event] = {}
        self.cut: dict[str, float] = {}
        self.quiet = False
        self.background: list[asyncio.Task[None]] = []
        self._broker, self._crash = broker, crash
        broker.hook = self.at

    async def at(self, what: str, client: str) -> None:
        self._check(what, client)
        if client in self.frozen:
            await self.frozen[client].wait()
            self._check(what, client)
        if self.quiet or not client.startswith("w"):
            return
        loop = asyncio.get_running_loop()
        if self._fires("delay", 6.0):
            await asyncio.sleep(self.random.expovariate(1 / 0.02))
            self._check(what, client)
        if self.cut.get(client, 0.0) > loop.time():
            await asyncio.sleep(min(self.cut[client] - loop.time(), 5.0))
            self._check(what, client)
            raise TransportError(f"simulated: no connection at {what}")
        if self._fires("partition", 0.3):
            self.cut[client] = loop.time() + self.random.uniform(0.1, 3.0)
        if self._fires("crash", 0.5):
            self._crash(client)
            self._check(what, client)
        if self._fires("freeze", 0.3):
            self._freeze(client)
            await self.frozen[client].wait()
            self._check(what, client)
        if what in BEFORE and self._fires("refuse"):
            raise TransportError(f"simulated: refused at {what}")
        if what in BEHIND and self._fires("lose-answer"):
            raise TransportError(f"simulated: the answer was lost at {what}")

    def _check(self, what: str, client: str) -> None:
        if client in self.dead:
            raise TransportError(f"simulated: {client} is dead at {what}")

    def _fires(self, kind: str, times: float = 1.0) -> bool:
        if kind not in self.active or self.random.random() >= self.rate * times:
            return False
        self.fired[kind] = self.fired.get(kind, 0) + 1
        return True

    def _freeze(self, client: str) -> None:
        """SIGSTOP: the group goes on without it after its session; later it wakes up and knows of nothing."""
        event = self.frozen[client] = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def pass_by() -> None:
            await asyncio.sleep(SESSION_S)
            await put_out(self._broker, client)
            await asyncio.sleep(self.random.uniform(0.0, 4.0))
            self.frozen.pop(client, None)
            event.set()

        assert isinstance(loop, VirtualLoop)
        self.background.append(loop.create_task(pass_by(), context=contextvars.Context()))

    def begin(self) -> None:
        """Starts what happens by itself: members come and go, the cleaner runs."""
        if "rebalance" in self.active:
            self.background.append(asyncio.ensure_future(self._rebalances()))
        if "compact" in self.active:
            self.background.append(asyncio.ensure_future(self._compactions()))

    async def _rebalances(self) -> None:
        while not self.quiet:
            await asyncio.sleep(self.random.uniform(0.05, 3.0))
            if self._broker.groups.get("app") and self._broker.groups["app"].members and not self.quiet:
                self.fired["rebalance"] = self.fired.get("rebalance", 0) + 1
                await self._broker.rebalance("app")

    async def _compactions(self) -> None:
        while not self.quiet:
            await asyncio.sleep(self.random.uniform(0.2, 2.0))
            for partition in range(len(self._broker.topics["app.state"])):
                self._broker.compact("app.state", partition)
            self.fired["compact"] = self.fired.get("compact", 0) + 1

    def stop(self) -> None:
        """From here on nothing fails any more."""
        self.quiet = True
        self.cut.clear()


async def put_out(broker: MemoryBroker, client: str) -> None:
    """The group has not heard of a client for a session: its partitions go to the others."""
    for name, group in broker.groups.items():
        gone = [member for member in group.members if member.client == client]
        for member in gone:
            broker.evict(member, name)
        if gone and group.members:
            await broker.rebalance(name)
