"""Health, metrics, the live page and the same as JSON. Read-only, loopback by default.

A bind beyond loopback needs a token for everything but health and metrics. On loopback the Host header must name the
loopback, or a page in the user's browser could be made to read it (DNS rebinding).
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from streamrnn.service.observe import WorkerObserver

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("index.html", "text/html"),
    "app.js": ("app.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
}
# A client that does not take its answer must not hold up the end.
SHUTDOWN_S = 1.0
OPEN_PATHS = ("/livez", "/readyz", "/metrics")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
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

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        app = web.Application(middlewares=[self._guard], client_max_size=4096)
        for name in FILES:
            app.router.add_get(f"/{name}", self._file)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/status", self._status)
        app.router.add_get("/api/config", self._config)
        app.router.add_get("/api/series", self._series)
        app.router.add_get("/api/series/{name:.+}", self._one)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        if self.host in LOOPBACK:
            host = (request.headers.get("Host") or "").rsplit(":", 1)[0].strip("[]") or request.host
            if host not in LOOPBACK:
                raise web.HTTPForbidden(text="this server answers to loopback names only")
        if self._token and request.path not in OPEN_PATHS:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query.get("token", "")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise web.HTTPUnauthorized(text="a token is needed: Authorization: Bearer …")
        response = await handler(request)
        response.headers.update(SECURITY_HEADERS)
        return response

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
        found = self.observer.history.one(request.match_info["name"])
        return _json({"error": "not watched yet; ask again"}, 404) if found is None else _json(found)


def _verdict(good: bool, why: str) -> web.Response:
    return web.Response(text=why + "\n", status=200 if good else 503)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")
