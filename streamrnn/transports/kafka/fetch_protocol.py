"""A fetch's answers as they come from the socket, in memory that is used again for those that follow.

aiokafka's connection reads an answer piece by piece into a buffer that grows, cuts it out, and copies every batch out of
that: four times the bytes, and most of it in memory that the process has to be given anew each time. Here the client
makes and keeps the connection (addresses, TLS, login), and what comes through it afterwards is received where it stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from aiokafka.conn import CloseReason
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest

_SIZE = struct.Struct(">i")
# What an answer needs at first; one that is larger gets more.
_FIRST_BYTES = 1 << 20
_ANSWER_MAX = 1 << 30
# So much of an answer has to have come, where it has not come whole, before the event loop is woken: every time costs it
# some 30 µs.
_WORTH_BYTES = 1 << 20
_SHORT, _INT, _LONG_PAIR = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">qq")


class Fetched(NamedTuple):
    """One partition's part of an answer."""

    partition: int
    code: int  # of an error; 0: none
    aborted: Sequence[tuple[int, int]]  # (producer, first offset) of transactions that are not to be seen
    batches: memoryview  # lent until the answer after the next one


class Answers(asyncio.BufferedProtocol):
    """Reads for one connection of aiokafka, which has nothing but fetches to answer, one at a time."""

    def __init__(self, connection: Any, before: asyncio.Protocol) -> None:
        self._connection, self._before = connection, before
        # While one answer is looked through, the next is received.
        self._buffers = [memoryview(bytearray(_FIRST_BYTES)) for _ in range(2)]
        self._head = memoryview(bytearray(_SIZE.size))
        self._turn, self._filled, self._size = 0, 0, -1
        self._waited = 1  # bytes that the system waits for, before it reports any
        # Behind TLS there may have come more than the socket says.
        transport = connection._writer.transport  # noqa: SLF001
        self._socket = transport.get_extra_info("socket") if transport.get_extra_info("sslcontext") is None else None

    @classmethod
    def of(cls, connection: Any) -> Answers:
        """Takes the connection over, once: right after it was made, when nothing is on its way."""
        transport = connection._writer.transport  # noqa: SLF001
        known = transport.get_protocol()
        if not isinstance(known, cls):
            known = cls(connection, known)
            transport.set_protocol(known)
        return known

    async def fetch(self, request: FetchRequest) -> list[Fetched]:
        """Raises KafkaConnectionError, RequestTimedOutError, CorruptRecordException."""
        try:
            version, answer = await self._connection.send(request)
        except TimeoutError as error:
            self._connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError from error
        try:
            return fetched(version, answer)
        except (struct.error, UnicodeDecodeError) as error:
            raise CorruptRecordException(f"an answer to a fetch that cannot be read: {error}") from error

    # ── called by the transport ──────────────────────────────────────────────────────────────────────────────────

    def get_buffer(self, sizehint: int) -> memoryview:
        part = self._head if self._size < 0 else self._buffers[self._turn][: self._size]
        return part[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._size < 0:
            if self._filled == _SIZE.size:
                self._begin(_SIZE.unpack(self._head)[0])
        elif self._filled == self._size:
            self._end(self._buffers[self._turn][: self._size])
        self._wait_for(1 if self._size < 0 else min(self._size - self._filled, _WORTH_BYTES))

    def _wait_for(self, count: int) -> None:
        """Never more than is to come; the system itself sees to it that it is no more than it has room for."""
        if self._socket is not None and count != self._waited:
            self._waited = count
            with contextlib.suppress(OSError):  # closed, or a system that does not know of it
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _begin(self, size: int) -> None:
        if not _SIZE.size <= size <= _ANSWER_MAX:
            self._out_of_sync(f"an answer of {size} bytes")
            return
        self._size, self._filled = size, 0
        if size > len(self._buffers[self._turn]):
            self._buffers[self._turn] = memoryview(bytearray(size))

    def _end(self, answer: memoryview) -> None:
        self._size, self._filled = -1, 0
        connection = self._connection
        (correlation,) = _INT.unpack_from(answer)
        if not connection._requests or connection._requests[0][0] != correlation:  # noqa: SLF001
            self._out_of_sync(f"an answer numbered {correlation} that nobody waits for")
            return
        _, request, future = connection._requests.popleft()  # noqa: SLF001
        connection._last_action = time.monotonic()  # noqa: SLF001
        if not future.done():
            self._turn ^= 1
            future.set_result((request.API_VERSION, answer[_INT.size :]))

    def _out_of_sync(self, what: str) -> None:
        self._connection.close(reason=CloseReason.OUT_OF_SYNC, exc=KafkaConnectionError(what))

    # What is not about bytes is the business of whoever read here before: it fails the requests, and closes.

    def eof_received(self) -> bool | None:
        return self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()


def fetched(version: int, answer: memoryview) -> list[Fetched]:
    """The answer to a fetch of version 4 to 11. Raises struct.error where it ends too early."""
    reader = _Reader(answer, _INT.size)  # behind the time that the broker held it back
    if version >= 7:
        reader.skip(_SHORT.size + _INT.size)  # errors of sessions, which nobody uses
    found = []
    for _ in range(reader.count()):
        reader.skip(reader.short())  # the topic
        for _ in range(reader.count()):
            partition, code = reader.number(), reader.short()
            reader.skip(24 if version >= 5 else 16)  # where the log ends, is stable, and begins
            aborted = [reader.pair() for _ in range(reader.count())]
            reader.skip(_INT.size if version >= 11 else 0)  # a replica to be preferred
            found.append(Fetched(partition, code, aborted, reader.part(reader.number())))
    return found


class _Reader:
    """Goes through an answer's bytes."""

    def __init__(self, answer: memoryview, at: int) -> None:
        self._answer, self._at = answer, at

    def skip(self, count: int) -> None:
        self._at += max(count, 0)

    def _next(self, kind: struct.Struct) -> tuple[int, ...]:
        found = kind.unpack_from(self._answer, self._at)
        self._at += kind.size
        return found

    def short(self) -> int:
        return self._next(_SHORT)[0]

    def number(self) -> int:
        return self._next(_INT)[0]

    def pair(self) -> tuple[int, int]:
        return cast("tuple[int, int]", self._next(_LONG_PAIR))

    def count(self) -> int:
        """Of what follows; null is none."""
        return max(self.number(), 0)

    def part(self, size: int) -> memoryview:
        begin = self._at
        self.skip(size)
        if self._at > len(self._answer):
            raise struct.error(f"{size} bytes of records at {begin}, {len(self._answer)} in all")
        return self._answer[begin : self._at]
