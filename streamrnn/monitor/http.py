"""Health, metrics, the live page and the same as JSON. Read-only, loopback by default.

A bind beyond loopback needs a token for everything but health and metrics. On loopback the Host header must name the
loopback, or a page in the user's browser could be made to read it (DNS rebinding). Who may connect, for how long and
with how much: `connections`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http import HttpProcessingError

from streamrnn.monitor.connections import ConnectionLimit
from streamrnn.monitor.observer import WorkerObserver

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("index.html", "text/html"),
    "app.js": ("app.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
}
# A client that does not take its answer must not hold up the end.
SHUTDOWN_S = 1.0
# The page's own files are nobody's secret, and a browser asks for them without the token that opened the page.
OPEN_PATHS = ("/livez", "/readyz", "/metrics", "/app.js", "/style.css")
# Of the request line and of each header; a series' name takes three times its 256 bytes.
LINE_BYTES_MAX = 4096
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# What a client sends is no error of ours: with its bytes in them, those lines are not written. Handlers' errors are.
LOGGER = logging.getLogger("streamrnn.monitor.http.server")
LOGGER.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ExposedError(Exception):
    """The server was asked to listen beyond loopback without a token."""


class HttpServer:
    """Serves one WorkerObserver. `port` 0 takes a free one; see `port` after `start`."""

    def __init__(self, observer: WorkerObserver, host: str, port: int, token: str | None = None) -> None:
        if host not in LOOPBACK and not token:
            raise ExposedError(
                f"http.host {host} can be reached from other machines: set http.token_file, or bind 127.0.0.1"
            )
        self.observer = observer
        self.host, self.port = host, port
        self._token = token
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._connections: ConnectionLimit | None = None

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        app = web.Application(middlewares=[self._guard])
        for name in FILES:
            app.router.add_get(f"/{name}", self._file)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/status", self._status)
        app.router.add_get("/api/config", self._config)
        app.router.add_get("/api/series", self._series)
        app.router.add_get("/api/series/{name:.+}", self._one)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S,
            logger=LOGGER, max_line_size=LINE_BYTES_MAX, max_field_size=LINE_BYTES_MAX,
        )  # fmt: skip
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101
        self._connections = ConnectionLimit(self._runner.server)
        self._server = await asyncio.get_running_loop().create_server(self._connections, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._connections is not None and request.protocol is not None:
            self._connections.served(request.protocol)
        try:
            self._admit(request)
            response = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(SECURITY_HEADERS)
            raise
        response.headers.update(SECURITY_HEADERS)
        return response

    def _admit(self, request: web.Request) -> None:
        """Raises HTTPException where the request is not to be answered."""
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        if request.can_read_body:
            raise web.HTTPRequestEntityTooLarge(max_size=0, actual_size=request.content_length or 1)
        asked = request.headers.getall("Host", [])  # browsers always send it; a probe may speak HTTP/1.0
        if self.host in LOOPBACK and not all(map(_is_loopback, asked)):
            raise web.HTTPForbidden(text="this server answers to loopback names only")
        if self._token and request.path not in OPEN_PATHS:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query.get("token", "")
            if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode()):
                raise web.HTTPUnauthorized(text="a token is needed: Authorization: Bearer …")

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = FILES[request.path.removeprefix("/")]
        return web.Response(body=(PAGE / name).read_bytes(), content_type=kind, charset="utf-8")

    async def _livez(self, request: web.Request) -> web.Response:
        return _verdict(*self.observer.health.live(time.monotonic()))

    async def _readyz(self, request: web.Request) -> web.Response:
        return _verdict(*self.observer.health.ready(time.monotonic()))

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self.observer.metrics_text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _status(self, request: web.Request) -> web.Response:
        ready, why = self.observer.health.ready(time.monotonic())
        return _json({"ready": ready, "reason": why, **self.observer.status()})

    async def _config(self, request: web.Request) -> web.Response:
        return _json(self.observer.effective)

    async def _series(self, request: web.Request) -> web.Response:
        return _json({"series": self.observer.history.names()})

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            name.encode()
        except UnicodeEncodeError:
            raise web.HTTPNotFound(text="no series has a name that is not UTF-8") from None
        found = self.observer.history.one(name)
        return _json({"error": "not watched yet; ask again"}, 404) if found is None else _json(found)


def _is_loopback(asked: str) -> bool:
    match = HOST.fullmatch(asked)
    return match is not None and match[1].strip("[]").lower() in LOOPBACK


def _verdict(good: bool, why: str) -> web.Response:
    return web.Response(text=why + "\n", status=200 if good else 503)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")
