"""FAULTS rows 42, 43: who reaches the HTTP server, with what, for how long; and what hostile names do there.

Against the real server, by sockets where a client library would be too polite.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from running import until
from test_http import fed, get

from streamrnn.config.settings import ConfigError, load
from streamrnn.monitor import connections, http
from streamrnn.monitor.http import ExposedError, HttpServer

TOKEN = "s3cret-t0ken"
WAIT_S = 30.0  # for what should come at once; reached only where it never comes
NAMES = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</option></select><script>document.title='owned'</script>",
    "../../../../etc/passwd",
    "a\nb: forged",
    "nul\x00byte",
    "\x1b[31mred\x1b]0;owned\x07",
    "right-to-left \u202e and \u2028",
    "javascript:alert(1)",
    "{{7*7}}${7*7}%{7*7}",
    "streamrnn_ticks_total 9\n# HELP owned",
    "\u2603\U0001f600",
    "x" * 4096,
]


@asynccontextmanager
async def serving(names: list[str] | None = None, token: str | None = None) -> AsyncIterator[HttpServer]:
    made = HttpServer(fed(names or ["pump"], 20), "127.0.0.1", 0, token)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with serving() as made:
        yield made


async def said(server: HttpServer, request: bytes, timeout_s: float = 5.0) -> bytes:
    """All that the server answers until it closes, or answers a whole head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = b""
    try:
        async with asyncio.timeout(timeout_s):
            try:
                writer.write(request)
                await writer.drain()
                while b"\r\n\r\n" not in answer:
                    more = await reader.read(65536)
                    if not more:
                        break
                    answer += more
            except ConnectionError:
                pass
    finally:
        writer.transport.abort()
    return answer


def status(answer: bytes) -> int:
    """0: closed without a word."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def asked(path: str = "/api/status", method: str = "GET", **headers: str) -> bytes:
    shown = {"Host": "127.0.0.1", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return (
        f"{method} {path} HTTP/1.1\r\n".encode()
        + b"".join(f"{k}: {v}\r\n".encode() for k, v in shown.items())
        + b"\r\n"
    )


async def well(server: HttpServer) -> None:
    """It answers somebody else."""
    async with asyncio.timeout(WAIT_S):
        assert (await get(server, "/livez"))[0] == 200


# ── who may ask ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "127.0.0.1.example.org", "fe80::1"])
def test_what_others_can_reach_needs_a_token(host: str) -> None:
    for token in (None, ""):
        with pytest.raises(ExposedError, match="token_file"):
            HttpServer(fed(["x"], 2), host, 0, token)


def test_a_token_that_is_none_is_told(tmp_path: Path) -> None:
    base = {"input": "t", "channels": ["a"], "step": "1s", "horizon": 1}
    path = tmp_path / "token"
    chosen = load([], {**base, "http.token_file": str(path)}, {})
    with pytest.raises(ConfigError, match=r"http\.token_file: cannot be read"):
        chosen.http_token()
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        chosen.http_token()
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        chosen.http_token()
    path.write_text(TOKEN + "\n")
    assert chosen.http_token() == TOKEN
    assert load([], base, {}).http_token() is None


async def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Spying:
        compare_digest = staticmethod(spy)

    monkeypatch.setattr(http, "hmac", Spying)
    async with serving(token=TOKEN) as server:
        for given in ("", "x", TOKEN[:-1], TOKEN + "x"):
            assert (await get(server, "/api/status", Authorization=f"Bearer {given}"))[0] == 401
        assert (await get(server, "/api/status", Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert (await get(server, f"/?token={TOKEN}"))[0] == 200
        assert (await get(server, "/"))[0] == 401
    assert len(compared) == 7 and all(other == TOKEN.encode() for _, other in compared)


async def test_a_token_of_odd_bytes_is_only_wrong(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(token=TOKEN) as server:
        request = asked().replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer \xff\xe9\r\n\r\n")
        assert status(await said(server, request)) in (400, 401)
        assert status(await said(server, asked("/api/status?token=%ff%00"))) in (400, 401)
        await well(server)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_only_reading(server: HttpServer) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        answer = await said(server, asked(method=method))
        assert status(answer) == 405, method
        assert b"Allow: GET,HEAD" in answer
    assert status(await said(server, asked("127.0.0.1:80", "CONNECT"))) in (400, 403, 404, 405)
    for path in ("/", "/api/status", "/metrics", "/livez"):
        answer = await said(server, asked(path, "HEAD"))
        assert status(answer) == 200
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1234", 200),
        ("LocalHost", 200),
        ("[::1]", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:127.0.0.1", 403),
        ("localhost:evil.example", 403),
        ("localhost, evil.example", 403),
        ("0.0.0.0", 403),
        ("", 403),
        ("[::1", 403),
        ("::1", 403),
    ],
)
async def test_only_by_its_own_names(server: HttpServer, host: str, code: int) -> None:
    for path in ("/", "/api/status", "/metrics", "/livez"):
        assert status(await said(server, asked(path, Host=host))) == code


async def test_two_hosts_are_one_too_many(server: HttpServer) -> None:
    request = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert status(await said(server, request)) in (400, 403)


async def test_other_origins_are_told_nothing_and_every_answer_is_fenced() -> None:
    async with serving(token=TOKEN) as server:
        for path, method, host, code in (
            ("/livez", "GET", "127.0.0.1", 200),
            ("/metrics", "GET", "127.0.0.1", 200),
            (f"/?token={TOKEN}", "GET", "127.0.0.1", 200),
            (f"/api/series/nobody?token={TOKEN}", "GET", "127.0.0.1", 404),
            (f"/nowhere?token={TOKEN}", "GET", "127.0.0.1", 404),
            ("/api/status", "GET", "127.0.0.1", 401),
            ("/api/status", "GET", "evil.example", 403),
            ("/api/status", "OPTIONS", "127.0.0.1", 405),
        ):
            request = asked(path, method, host=host, Origin="http://evil.example", Access_Control_Request_Method="GET")
            answer = (await said(server, request.replace(b"Host: 127.0.0.1\r\n", b"", 1))).lower()
            assert status(answer) == code, path
            assert b"access-control" not in answer
            assert b"content-security-policy: default-src 'none';" in answer
            assert b"frame-ancestors 'none'" in answer
            assert b"x-content-type-options: nosniff" in answer
            assert b"unsafe" not in answer


# ── with how much ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_requests_have_a_size(server: HttpServer) -> None:
    for request in (
        asked("/api/series/" + "x" * 5000),
        asked(Cookie="x" * 5000),
        asked(**{f"X_{i}": "y" * 1000 for i in range(100)}),
        asked(**{f"X_{i}": "y" for i in range(5000)}),
        b"GET " * 50_000,
        b"\r\n" * 50_000,
    ):
        assert status(await said(server, request)) in (0, 400, 414, 431)
        await well(server)


async def test_bodies_are_not_taken(server: HttpServer) -> None:
    for headers, body in (
        ({"Content_Length": "10"}, b"x" * 10),
        ({"Content_Length": str(10**12)}, b"x" * 1000),
        ({"Transfer_Encoding": "chunked"}, b"5\r\nhello\r\n"),
    ):
        assert status(await said(server, asked(**headers) + body)) == 413
    assert status(await said(server, asked(Content_Length="-1"))) == 400
    assert status(await said(server, asked(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\n")) in (
        400,
        413,
    )


async def test_a_body_without_end_is_cut(server: HttpServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(asked(Transfer_Encoding="chunked"))
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(10):
            while True:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
    writer.transport.abort()


# ── for how long, and how many ───────────────────────────────────────────────────────────────────────────────────────


async def closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


async def test_many_half_requests_keep_nobody_out(server: HttpServer) -> None:
    """Slowloris: three hundred clients send a byte of a request's head now and then."""
    assert server._connections is not None
    server._connections.request_s = 3600.0  # nobody's time is over: who is answered was made room for
    clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def come(count: int) -> None:
        for i in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write((b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"GET", b"")[i % 3])
            clients.append((reader, writer))

    for _ in range(3):
        await come(100)
        await well(server)
        assert connections.CONNECTIONS_MAX - 1 <= len(server._connections) <= connections.CONNECTIONS_MAX
    server._connections.request_s = 0.5
    await come(connections.CONNECTIONS_MAX)

    async def drip() -> None:
        while True:
            for _, writer in clients:
                if not writer.transport.is_closing():
                    writer.write(b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(WAIT_S):  # however long they drip
            await asyncio.gather(*(closed(reader) for reader, _ in clients))
        await until(lambda: len(server._connections) == 0)
        await well(server)
    finally:
        dripping.cancel()
        for _, writer in clients:
            writer.transport.abort()


async def test_who_was_served_last_keeps_its_place(server: HttpServer) -> None:
    assert server._connections is not None
    server._connections.most = 8
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    others = []
    for _ in range(20):
        for _ in range(4):  # they come and stay
            others.append((await asyncio.open_connection("127.0.0.1", server.port))[1])
            others[-1].write(b"GET /")
        writer.write(asked("/livez"))
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        assert len(server._connections) <= 8
    for each in (writer, *others):
        each.transport.abort()


async def test_who_does_not_take_the_answers_is_shown_out(server: HttpServer) -> None:
    """Requests without end, and nobody reads: what waits is bounded, and so is the time."""
    assert server._connections is not None
    server._connections.request_s = 1.0
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    with pytest.raises((ConnectionError, TimeoutError)):
        async with asyncio.timeout(3):  # a write that waits for a peer that has closed
            while True:
                writer.write(asked("/metrics"))
                await writer.drain()
                await asyncio.sleep(0.001)
    await well(server)
    await until(lambda: len(server._connections) == 0)
    writer.transport.abort()


# ── hostile names ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_hostile_names_are_only_names_in_json_and_nothing_in_metrics() -> None:
    async with serving(NAMES) as server:
        code, text, headers = await get(server, "/api/series")
        assert code == 200 and headers["Content-Type"] == "application/json"
        assert sorted(json.loads(text)["series"]) == sorted(NAMES)
        for name in NAMES:
            answer = await said(server, asked("/api/series/" + urllib.parse.quote(name, safe="")))
            if len(name) > 1000 or "\n" in name:
                assert status(answer) in (400, 404)
                continue
            body = answer.partition(b"\r\n\r\n")[2]
            assert json.loads(body)["series"] == name
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"forged" not in answer.partition(b"\r\n\r\n")[0]
        _, text, _ = await get(server, "/metrics")
        assert not any(
            word in text
            for word in (
                "document.title",
                "HELP owned",
                "passwd",
                "forged",
                "<script",
                "alert",
                "xxxx",
                "\u2603",
                "\x1b",
            )
        )
        assert "streamrnn_ticks_total 240.0" in text


async def test_names_that_are_no_text_change_nothing(server: HttpServer, caplog: pytest.LogCaptureFixture) -> None:
    """One that was remembered would spoil every later answer that lists it."""
    for path in (
        b"/api/series/\xff\xfe",
        b"/api/series/%ff%fe",
        b"/api/series/%ed%a0%80",
        b"/api/series/" + b"y" * 300,
    ):
        request = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path
        assert status(await said(server, request)) in (400, 404)
    for path in ("/api/series", "/api/status"):
        assert (await get(server, path))[0] == 200
    assert not caplog.records  # nor does it fill the log
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/series/../../etc/passwd",
        "/app.js/../../config.py",
    ):
        answer = await said(server, asked(path))
        assert status(answer) in (400, 404)
        assert b"root:" not in answer and b"import" not in answer


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
async def test_an_answer_to_nonsense_does_not_repeat_it_as_markup(server: HttpServer, accept: str) -> None:
    for request in (
        b"<script>alert(1)</script>\r\nAccept: %s\r\n\r\n",
        b"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\n<script>alert(1)</script>\r\n\r\n",
        b"GET / HTTP/9<script>alert(1)</script>\r\nAccept: %s\r\n\r\n",
    ):
        answer = await said(server, request % accept.encode())
        assert status(answer) in (400, 404)
        assert b"<script>" not in answer or b"Content-Type: text/plain" in answer
