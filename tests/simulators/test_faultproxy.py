"""Each fault of the proxy, seen from a client of a plain echo server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from simulators.faultproxy import (
    CHUNK_BYTES,
    QUEUE_CHUNKS,
    Bandwidth,
    Connection,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    Timeout,
    Way,
)

SILENCE_S = 0.15
WAIT_S = 30.0  # reached only where something never comes


class Echo:
    """Answers every byte with itself; remembers in what sizes they came and how each connection ended."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.ends: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 20):
                self.sizes.append(len(data))
                writer.write(data)
                await writer.drain()
            self.ends.append("end")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes, timeout_s: float = WAIT_S) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), timeout_s)

    async def took_s(self, data: bytes) -> float:
        begin = time.monotonic()
        assert await self.ask(data) == data
        return time.monotonic() - begin

    async def answers_within(self, most_s: float, data: bytes = b"x", least_s: float = 0.0) -> None:
        """Never sooner than `least_s`, and some time within `most_s`: a busy machine makes answers late, none early."""
        async with asyncio.timeout(WAIT_S):
            while (took_s := await self.took_s(data)) >= most_s:
                assert took_s >= least_s
        assert took_s >= least_s

    async def silent(self) -> bool:
        try:
            return not await asyncio.wait_for(self.reader.read(1), SILENCE_S)
        except TimeoutError:
            return True


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    running = Echo()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    running = await FaultProxy(("127.0.0.1", echo.port)).start()
    yield running
    await running.stop()


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect(proxy: FaultProxy) -> AsyncIterator[Connect]:
    made: list[Client] = []

    async def one() -> Client:
        made.append(Client(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return made[-1]

    yield one
    for client in made:
        client.writer.transport.abort()
    await asyncio.sleep(0.01)


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect()


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_without_faults_it_is_not_there(proxy: FaultProxy, client: Client, echo: Echo) -> None:
    data = bytes(range(256)) * 4000
    assert await client.ask(data) == data
    assert proxy.passed == {"up": len(data), "down": len(data)}
    assert (proxy.accepted, proxy.open) == (1, 1)
    client.writer.write_eof()
    assert await client.reader.read() == b""
    await until(lambda: proxy.open == 0)
    assert echo.ends == ["end"]


async def test_a_server_that_is_away_ends_the_connection(echo: Echo, proxy: FaultProxy, connect: Connect) -> None:
    proxy.target = ("127.0.0.1", 1)
    assert await asyncio.wait_for((await connect()).reader.read(), WAIT_S) == b""


async def test_latency_delays_each_way_by_its_time_and_ends(proxy: FaultProxy, client: Client) -> None:
    await client.ask(b"warm")
    await client.answers_within(0.08)
    proxy.on(Latency(100), "up")
    await client.answers_within(0.19, least_s=0.1)
    proxy.on(Latency(100))
    await client.answers_within(0.4, least_s=0.2)
    proxy.off(Latency)
    await client.answers_within(0.08)


async def test_latency_delays_bytes_and_not_the_stream(proxy: FaultProxy, client: Client) -> None:
    """Forty chunks on their way at once arrive a latency later, not forty latencies."""
    proxy.on(Latency(100), "up")
    await client.answers_within(1.0, b"x" * 40 * CHUNK_BYTES, least_s=0.1)


async def test_jitter_spreads_the_latency(proxy: FaultProxy, client: Client) -> None:
    proxy.on(Latency(40, jitter_ms=35), "up")
    times: list[float] = []
    async with asyncio.timeout(WAIT_S):
        while len(times) < 5 or not (min(times) < 0.03 and max(times) > 0.05):
            times.append(await client.took_s(b"x"))
    assert min(times) >= 0.005


async def test_bandwidth_is_held_and_given_free_in_the_middle(proxy: FaultProxy, client: Client) -> None:
    proxy.on(Bandwidth(kb_per_s=100), "down")
    await client.answers_within(0.7, b"x" * 30_000, least_s=0.25)
    proxy.on(Bandwidth(kb_per_s=0.1))
    answering = asyncio.ensure_future(client.took_s(b"x" * 30_000))
    passed = proxy.passed["up"]
    await until(lambda: proxy.passed["up"] > passed)
    proxy.off()
    assert await answering < WAIT_S  # not five minutes


async def test_slicer_cuts_into_small_pieces(proxy: FaultProxy, client: Client, echo: Echo) -> None:
    proxy.on(Slicer(bytes=7, delay_us=2000), "up")
    assert await client.ask(b"x" * 70) == b"x" * 70
    assert len(echo.sizes) >= 5  # two pieces may meet in the server's buffer, not all of them
    assert max(echo.sizes) < 70
    echo.sizes.clear()
    proxy.off(Slicer)
    await client.ask(b"x" * 70)
    assert echo.sizes == [70]


async def test_reset_peer_resets_those_that_are_there_and_those_that_come(
    proxy: FaultProxy, client: Client, echo: Echo, connect: Connect
) -> None:
    await client.ask(b"x")
    proxy.on(ResetPeer())
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(client.reader.read(), WAIT_S)
    await until(lambda: echo.ends == ["reset"])
    late = await connect()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(late.reader.read(), WAIT_S)
    proxy.off(ResetPeer)
    assert await (await connect()).ask(b"again") == b"again"


async def test_reset_peer_up_is_seen_by_the_server_only(proxy: FaultProxy, client: Client, echo: Echo) -> None:
    await client.ask(b"x")
    proxy.on(ResetPeer(), "up")
    assert await asyncio.wait_for(client.reader.read(), WAIT_S) == b""
    await until(lambda: echo.ends == ["reset"])


async def test_timeout_swallows_and_a_stream_with_a_hole_is_never_continued(
    proxy: FaultProxy, client: Client, echo: Echo, connect: Connect
) -> None:
    whole = await connect()
    await whole.ask(b"x")
    proxy.on(Timeout())
    client.writer.write(b"lost")
    fresh = await connect()  # accepted all the same
    fresh.writer.write(b"lost too")
    assert await client.silent()
    assert await fresh.silent()
    assert echo.sizes == [1]
    proxy.off(Timeout)
    assert await whole.ask(b"nothing was lost here") == b"nothing was lost here"
    client.writer.write(b"with a hole before")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(client.reader.read(), WAIT_S)
    assert b"with a hole before" not in [b"x" * size for size in echo.sizes]
    assert sum(echo.sizes) == 1 + len(b"nothing was lost here")


async def test_timeout_swallows_the_end_of_a_connection_too(proxy: FaultProxy, client: Client, echo: Echo) -> None:
    await client.ask(b"x")
    proxy.on(Timeout(), "up")
    client.writer.write_eof()
    assert await client.silent()
    assert echo.ends == []


async def test_limit_data_passes_so_much_and_closes(
    proxy: FaultProxy, client: Client, echo: Echo, connect: Connect
) -> None:
    await client.ask(b"before")
    proxy.on(LimitData(bytes=10), "down")
    client.writer.write(b"0123456")
    assert await client.reader.readexactly(7) == b"0123456"
    client.writer.write(b"789abc")
    assert await asyncio.wait_for(client.reader.read(), WAIT_S) == b"789"
    other = await connect()  # each connection has its own count
    assert await other.ask(b"0123456789") == b"0123456789"
    proxy.off(LimitData)
    third = await connect()
    assert await third.ask(b"x" * 100) == b"x" * 100


async def test_a_slow_way_slows_its_sender_instead_of_being_remembered(proxy: FaultProxy, client: Client) -> None:
    """Bounded memory: with a way that lets next to nothing pass, only so much is taken in."""
    proxy.on(Bandwidth(kb_per_s=0.1), "up")
    taken = 0
    piece = b"x" * 100_000
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            while True:
                client.writer.write(piece)
                await client.writer.drain()
                taken += len(piece)
    sockets = 16 << 20  # what two kernel buffers and asyncio's may take besides
    assert taken < CHUNK_BYTES * QUEUE_CHUNKS + sockets


async def test_a_watcher_spoils_one_connection_and_no_other(
    proxy: FaultProxy, client: Client, connect: Connect, echo: Echo
) -> None:
    """The answer to one request is lost after the server has got it."""
    other = await connect()

    def watch(connection: Connection, way: Way, chunk: bytes) -> None:
        if way == "up" and b"fatal" in chunk:
            connection.on(LimitData(0), "down")

    proxy.watcher = watch
    for each in (client, other):
        assert await each.ask(b"fine") == b"fine"
    client.writer.write(b"fatal")
    assert await asyncio.wait_for(client.reader.read(), WAIT_S) == b""
    assert echo.sizes == [4, 4, 5]
    assert await other.ask(b"fine") == b"fine"
