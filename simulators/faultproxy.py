"""A TCP proxy between a client and a server that spoils the network on purpose, as long as it is asked to.

The faults (after Toxiproxy's names) are values, switched on and off while connections pass; `up` is the way from the
client to the server, `down` the way back. At most one fault of a kind acts on a way; those of different kinds add up.
A connection holds at most CHUNK_BYTES x QUEUE_CHUNKS per way, besides what the sockets hold: a slow way slows its sender.

Faults act on all connections, or on one: a `watcher` sees what is about to pass and may spoil that connection only, so
that a test can lose the answer to one request among many.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

CHUNK_BYTES = 16 * 1024
QUEUE_CHUNKS = 64
# A slowed way looks this often whether it is still to be slow.
PIECE_S = 0.05

Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")


@dataclass(frozen=True, slots=True)
class Latency:
    """Bytes arrive `ms` milliseconds late, give or take up to `jitter_ms`, in their order."""

    ms: float
    jitter_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """At most `kb_per_s` kilobytes (1000 bytes) per second and connection."""

    kb_per_s: float


@dataclass(frozen=True, slots=True)
class Slicer:
    """Bytes leave in pieces of `bytes`, `delay_us` microseconds between two of them."""

    bytes: int
    delay_us: float = 0.0


@dataclass(frozen=True, slots=True)
class ResetPeer:
    """Whoever receives on this way gets a TCP reset: at once, and each new connection when it is made."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """A black hole: connections are accepted, bytes and closes go in and nothing comes out.

    TCP delivers no stream with a hole: a connection that lost something is reset when more is to pass after the end.
    """


@dataclass(frozen=True, slots=True)
class LimitData:
    """Passes `bytes` more per connection, then closes it."""

    bytes: int


Toxic = Latency | Bandwidth | Slicer | ResetPeer | Timeout | LimitData


# Called with every chunk before it passes: the connection, its way, the bytes.
Watcher = Callable[["Connection", Way, bytes], None]


class _Ended(Exception):
    """The connection is to end now."""


class FaultProxy:
    """Listens on (`host`, `port`; 0: any free one) and passes on to `target`. Jitter is drawn from `seed`.

    To be used in one event loop. `accepted` counts connections since the start, `passed` the bytes that came through.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1", port: int = 0, seed: int = 0) -> None:
        self.target, self.host, self.port = target, host, port
        self.accepted = 0
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self.random = random.Random(seed)
        self.watcher: Watcher | None = None
        self._toxics: dict[Way, dict[type[Toxic], Toxic]] = {"up": {}, "down": {}}
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> FaultProxy:
        """Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> list[Connection]:
        """Those that pass through now."""
        return list(self._connections)

    @property
    def open(self) -> int:
        return len(self._connections)

    def on(self, toxic: Toxic, *ways: Way) -> None:
        """Switches a fault on, for both ways unless some are named; one of its kind that acts already is replaced."""
        for way in ways or WAYS:
            self._toxics[way][type(toxic)] = toxic
        if isinstance(toxic, ResetPeer):
            for connection in list(self._connections):
                connection.reset(ways or WAYS)
                self._connections[connection].cancel()

    def off(self, *kinds: type[Toxic]) -> None:
        """Ends the faults of these kinds on both ways; all of them when none is named. Bytes held back by Latency wait on."""
        for toxics in self._toxics.values():
            for kind in kinds or list(toxics):
                toxics.pop(kind, None)

    def acting(self, way: Way) -> dict[type[Toxic], Toxic]:
        return self._toxics[way]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = Connection(self, reader, writer)
        task = asyncio.ensure_future(connection.run())
        self._connections[connection] = task
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
        del self._connections[connection]


class Connection:
    """One client's way through the proxy. `notes` is the watcher's own to write in."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.notes: dict[str, Any] = {}
        self._proxy = proxy
        self._own: dict[Way, dict[type[Toxic], Toxic]] = {"up": {}, "down": {}}
        self._client = (reader, writer)
        self._writers: dict[Way, asyncio.StreamWriter] = {"down": writer}  # by the way that ends there

    def on(self, toxic: Toxic, *ways: Way) -> None:
        """Spoils this connection for good, from the next chunk on: to be called by the watcher, or at any time."""
        for way in ways or WAYS:
            self._own[way][type(toxic)] = toxic
        if isinstance(toxic, ResetPeer):
            self.reset(ways or WAYS)

    async def run(self) -> None:
        try:
            server = await asyncio.open_connection(*self._proxy.target, limit=CHUNK_BYTES)
            self._writers["up"] = server[1]
            resets = [way for way in WAYS if ResetPeer in self._proxy.acting(way)]
            if resets:
                return self.reset(resets)
            async with asyncio.TaskGroup() as both:
                for way, source in (("up", self._client[0]), ("down", server[0])):
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)
                    both.create_task(self._read(source, queue))
                    both.create_task(self._write(way, queue))  # type: ignore[arg-type]
        except* (OSError, _Ended):
            pass
        finally:
            for writer in self._writers.values():
                writer.close()

    def reset(self, ways: tuple[Way, ...] | list[Way]) -> None:
        """Those who receive on these ways see a reset, not an end: linger 0 makes the kernel send one."""
        for way in ways:
            writer = self._writers.get(way)
            if writer is not None:
                with suppress(OSError):
                    held: socket.socket = writer.get_extra_info("socket")
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def _read(self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            chunk = await source.read(CHUNK_BYTES)
            await queue.put((time.monotonic(), chunk))
            if not chunk:
                return

    async def _write(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        toxics, writer = ChainMap(self._own[way], self._proxy.acting(way)), self._writers[way]
        counted: LimitData | None = None
        left, swallowed = 0, False
        while True:
            came_s, chunk = await queue.get()
            if self._proxy.watcher is not None and chunk:
                self._proxy.watcher(self, way, chunk)
            latency = toxics.get(Latency)
            if isinstance(latency, Latency):
                late_ms = latency.ms + self._proxy.random.uniform(-latency.jitter_ms, latency.jitter_ms)
                await asyncio.sleep(max(0.0, came_s + late_ms / 1000 - time.monotonic()))
            if Timeout in toxics:
                swallowed = True
                if not chunk:
                    return
                continue
            if swallowed:
                self.reset(WAYS)
                raise _Ended
            if not chunk:
                writer.write_eof()
                return
            for piece, pause_s in _pieces(chunk, toxics):
                limit = toxics.get(LimitData)
                if isinstance(limit, LimitData):
                    if limit is not counted:
                        counted, left = limit, limit.bytes
                    piece, left = piece[:left], left - len(piece)
                writer.write(piece)
                await writer.drain()
                self._proxy.passed[way] += len(piece)
                if limit is not None and left <= 0:
                    raise _Ended
                if pause_s:
                    await asyncio.sleep(pause_s)


def _pieces(chunk: bytes, toxics: Mapping[type[Toxic], Toxic]) -> Iterator[tuple[bytes, float]]:
    """(piece, how long to wait after it); what acts is looked up again for every piece."""
    at = 0
    while at < len(chunk):
        size, pause_s = len(chunk) - at, 0.0
        slicer, bandwidth = toxics.get(Slicer), toxics.get(Bandwidth)
        if isinstance(slicer, Slicer):
            size, pause_s = min(size, slicer.bytes), slicer.delay_us / 1e6
        if isinstance(bandwidth, Bandwidth):
            per_s = bandwidth.kb_per_s * 1000
            size = min(size, max(1, int(per_s * PIECE_S)))
            pause_s += size / per_s
        yield chunk[at : at + size], pause_s
        at += size
