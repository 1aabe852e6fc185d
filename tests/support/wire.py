"""A broker behind a proxy, and faults that strike at one kind of request."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from broker import Broker, free_port

from simulators.faultproxy import Connection, FaultProxy, Watcher, Way

HOST = "127.0.0.1"
# Kafka's API keys.
PRODUCE, FETCH, OFFSET_COMMIT, HEARTBEAT, END_TXN = 0, 1, 8, 12, 26
HEAD = struct.Struct(">ih")  # a request begins with its size and its API key


class ProxiedBroker(Broker):
    """Has a second listener that is advertised at a proxy's address: `via`, where a proxy has to be started."""

    def __init__(self, folder: Path) -> None:
        self._behind, self._front = free_port(), free_port()
        controller = f"CONTROLLER://{HOST}:{free_port()}"
        self.via = f"{HOST}:{self._front}"
        super().__init__(
            folder,
            listeners=f"PLAINTEXT://{HOST}:@PORT@,VIA://{HOST}:{self._behind},{controller}",
            advertised__listeners=f"PLAINTEXT://{HOST}:@PORT@,VIA://{self.via}",
            controller__quorum__bootstrap__servers=controller.removeprefix("CONTROLLER://"),
            inter__broker__listener__name="PLAINTEXT",
            listener__security__protocol__map="PLAINTEXT:PLAINTEXT,VIA:PLAINTEXT,CONTROLLER:PLAINTEXT",
        )

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[FaultProxy]:
        proxy = await FaultProxy((HOST, self._behind), HOST, self._front).start()
        try:
            yield proxy
        finally:
            await proxy.stop()


class Requests:
    """Follows one connection's stream of requests."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # bytes of the request that passes now

    def begun(self, chunk: bytes) -> list[int]:
        """The API keys of the requests whose head comes to its end in this chunk."""
        keys: list[int] = []
        at = 0
        while at < len(chunk):
            if self._left:
                passed = min(self._left, len(chunk) - at)
                self._left, at = self._left - passed, at + passed
                continue
            wanted = HEAD.size - len(self._head)
            self._head, at = self._head + chunk[at : at + wanted], at + min(wanted, len(chunk) - at)
            if len(self._head) == HEAD.size:
                size, key = HEAD.unpack(self._head)
                self._head, self._left = b"", size - 2
                keys.append(key)
        return keys


class At:
    """A watcher: spoils the connection at the `number`th request of one kind, `times` times; counts what it `struck`."""

    def __init__(self, key: int, spoil: Callable[[Connection], None], number: int = 1, times: int = 1) -> None:
        self._key, self._spoil, self._number, self._times = key, spoil, number, times
        self.struck = 0
        self._seen = 0

    def __call__(self, connection: Connection, way: Way, chunk: bytes) -> None:
        if way == "down":
            return
        requests = connection.notes.setdefault("requests", Requests())
        for key in requests.begun(chunk):
            if key != self._key:
                continue
            self._seen += 1
            if self._seen >= self._number and self.struck < self._times:
                self.struck += 1
                self._spoil(connection)


__all__ = ["END_TXN", "FETCH", "HEARTBEAT", "OFFSET_COMMIT", "PRODUCE", "At", "ProxiedBroker", "Requests", "Watcher"]
