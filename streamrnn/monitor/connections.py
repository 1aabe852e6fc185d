"""The HTTP server's connections: so many at most, and each must bring whole requests, small ones, in time.

A client that sends half a request and falls silent, or a byte now and then, would hold its connection for ever, and a
few hundred of them all that the process may open. So each has a moment by which its next request must be whole, and a
bound of bytes until then. When all places are taken, the one that has been served longest ago makes room: however many
hold their places with half requests, the next one that asks is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# More than a few pages, a scraper and probes need.
CONNECTIONS_MAX = 64
# From the last request, or from the beginning, to the next one's end. Scrapers come every 15 s and keep theirs.
REQUEST_S = 20.0
# All bytes of it; names of series have a few hundred.
REQUEST_BYTES_MAX = 32 * 1024


class ConnectionLimit:
    """Makes the protocols of a listening socket: those of `make`, within the bounds."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        most: int = CONNECTIONS_MAX,
        request_s: float = REQUEST_S,
        request_bytes_max: int = REQUEST_BYTES_MAX,
    ) -> None:
        self._make = make
        self.most, self.request_s, self.request_bytes_max = most, request_s, request_bytes_max
        # In the order in which they were last served.
        self._present: dict[asyncio.BaseProtocol, _Guest] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Guest(self, self._make())

    def __len__(self) -> int:
        return len(self._present)

    def served(self, protocol: asyncio.BaseProtocol) -> None:
        """A whole request came through this protocol of `make`."""
        guest = self._present.pop(protocol, None)
        if guest is not None:
            self._present[protocol] = guest
            guest.wait_for_request()

    def came(self, protocol: asyncio.BaseProtocol, guest: _Guest) -> None:
        while len(self._present) >= self.most:
            self._present.pop(next(iter(self._present))).show_out()
        self._present[protocol] = guest

    def left(self, protocol: asyncio.BaseProtocol) -> None:
        self._present.pop(protocol, None)


class _Guest(asyncio.Protocol):
    """One connection, on its way to the protocol that serves it."""

    def __init__(self, connections: ConnectionLimit, inner: asyncio.Protocol) -> None:
        self._connections, self._inner = connections, inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._bytes = 0

    def wait_for_request(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._bytes = 0
        self._timer = asyncio.get_running_loop().call_later(self._connections.request_s, self.show_out)

    def show_out(self) -> None:
        """At once: an end in good order would wait for the other side."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._inner.connection_made(transport)
        self._connections.came(self._inner, self)
        self.wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._connections.left(self._inner)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._connections.request_bytes_max:
            self.show_out()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
