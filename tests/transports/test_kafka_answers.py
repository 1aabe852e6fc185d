"""Answers to fetches: whatever pieces they come in, they are read as aiokafka's own decoder reads them; damage is reported."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, RequestTimedOutError
from aiokafka.protocol import fetch

from streamrnn.transports.kafka.fetch_protocol import Answers, fetched

VERSIONS = range(4, 12)
BATCHES = [b"", b"some batches", bytes(range(256)) * 9000, None]


def answer(version: int, batches: list[bytes | None] = BATCHES, codes: bool = True) -> bytes:
    """As a broker of the protocol's version sends it, behind the request's number."""
    aborted = [[(7, 40), (8, 1 << 40)], [], None, [(1, 2)]]
    parts = []
    for i, data in enumerate(batches):
        part: list[Any] = [i, 3 * i if codes else 0, 100, 90, aborted[i % 4], data]
        if version >= 5:
            part.insert(4, 0)  # where the log begins
        if version >= 11:
            part.insert(6, -1)  # a replica to be preferred
        parts.append(tuple(part))
    head = (0, 0, 0) if version >= 7 else (0,)
    made = getattr(fetch, f"FetchResponse_v{version}")(*head, [("topic", parts)])
    return bytes(made.encode())


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_clients_protocol_wrote_is_read(version: int) -> None:
    found = fetched(version, memoryview(answer(version)))
    assert [(f.partition, f.code, bytes(f.batches)) for f in found] == [
        (i, 3 * i, data or b"") for i, data in enumerate(BATCHES)
    ]
    assert [list(f.aborted) for f in found] == [[(7, 40), (8, 1 << 40)], [], [], [(1, 2)]]


@pytest.mark.parametrize("version", [4, 11])
def test_an_answer_that_ends_too_early_is_not_followed(version: int) -> None:
    whole = answer(version, [b"batch", b"another"])
    for stop in range(len(whole)):
        with pytest.raises(struct.error):
            fetched(version, memoryview(whole)[:stop])


class Transport:
    """One that is its own socket; it knows how much is to come before it is woken."""

    def __init__(self, tls: bool = False) -> None:
        self.protocol: Any = None
        self.tls, self.waited, self.woken = tls, 1, 0

    def get_extra_info(self, name: str) -> Any:
        return {"socket": self, "sslcontext": object() if self.tls else None}[name]

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.waited = value
        self.woken += 1

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Request:
    API_VERSION = 11


class Connection:
    """What of aiokafka's connection is used."""

    def __init__(self, tls: bool = False, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s
        self._writer = self
        self.transport = Transport(tls)
        self._requests: deque[tuple[int, Any, asyncio.Future[Any]]] = deque()
        self._last_action = 0.0
        self.closed: list[Any] = []
        self.number = 0

    async def send(self, request: Any) -> Any:
        self.number += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.append((self.number, Request, future))
        return await asyncio.wait_for(future, self.timeout_s)

    def close(self, reason: Any = None, exc: Exception | None = None) -> None:
        self.closed.append(exc)
        for _, _, future in self._requests:
            if not future.done():
                future.set_exception(exc or KafkaConnectionError("closed"))


def receive(answers: Answers, data: bytes, luck: random.Random) -> None:
    """As a socket gives it: never more than there is room for, and often less."""
    at = 0
    while at < len(data):
        room = answers.get_buffer(-1)
        assert len(room)
        count = min(len(room), len(data) - at, luck.choice([1, 3, 50, 70_000, 1 << 22]))
        room[:count] = data[at : at + count]
        answers.buffer_updated(count)
        at += count


def framed(number: int, body: bytes) -> bytes:
    message = struct.pack(">i", number) + body
    return struct.pack(">i", len(message)) + message


async def asked(answers: Answers) -> asyncio.Task[Any]:
    task = asyncio.create_task(answers.fetch(Request()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def test_answers_come_in_pieces_and_one_stays_while_the_next_is_received() -> None:
    connection, luck = Connection(), random.Random(4)
    answers = Answers.of(connection)
    assert Answers.of(connection) is answers
    before: tuple[memoryview, bytes] | None = None
    for number in range(1, 30):
        sizes = [luck.choice([0, 10, 3000, 400_000, 3_000_000]) for _ in range(3)]
        batches: list[bytes | None] = [luck.randbytes(size) for size in sizes]
        task = await asked(answers)
        receive(answers, framed(number, answer(11, batches, codes=False)), luck)
        found = await task
        assert [bytes(f.batches) for f in found] == batches
        if before is not None:
            assert bytes(before[0]) == before[1]
        before = found[1].batches, batches[1] or b""
    assert not connection.closed
    assert connection._last_action > 0


@pytest.mark.parametrize("tls", [False, True])
async def test_the_system_waits_for_much_and_never_for_more_than_is_to_come(tls: bool) -> None:
    """Or the last bytes of an answer would never be reported. What TLS holds back, the socket does not know."""
    connection = Connection(tls)
    transport, answers = connection.transport, Answers.of(connection)
    most = 0
    for number, size in enumerate([10, 5_000_000, 0, 1_500_000], 1):
        task = await asked(answers)
        data = framed(number, answer(11, [bytes(size)], codes=False))
        at = 0
        while at < len(data):
            assert transport.waited <= (len(data) - at if at >= 4 else 1)
            most = max(most, transport.waited)
            count = min(len(answers.get_buffer(-1)), max(transport.waited, 70_000), len(data) - at)
            answers.get_buffer(-1)[:count] = data[at : at + count]
            answers.buffer_updated(count)
            at += count
        await task
    assert transport.waited == 1
    assert (most, transport.woken > 0) == ((1, False) if tls else (1 << 20, True))


@pytest.mark.parametrize(
    "wrong", [framed(2, b"\0" * 20), struct.pack(">i", 3), struct.pack(">i", -5), struct.pack(">i", (1 << 30) + 1)],
    ids=["number", "short", "negative", "huge"],
)  # fmt: skip
async def test_what_is_no_answer_ends_the_connection(wrong: bytes) -> None:
    connection = Connection()
    answers = Answers.of(connection)
    task = await asked(answers)
    receive(answers, wrong, random.Random(0))
    with pytest.raises(KafkaConnectionError):
        await task
    assert len(connection.closed) == 1


async def test_an_answer_that_cannot_be_read_is_told() -> None:
    connection = Connection()
    answers = Answers.of(connection)
    task = await asked(answers)
    receive(answers, framed(1, answer(11)[:30]), random.Random(0))
    with pytest.raises(CorruptRecordException):
        await task


async def test_an_answer_that_does_not_come_ends_the_connection() -> None:
    connection = Connection(timeout_s=0.05)
    with pytest.raises(RequestTimedOutError):
        await (await asked(Answers.of(connection)))
    assert len(connection.closed) == 1
