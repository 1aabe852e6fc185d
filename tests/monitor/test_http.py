"""Health, metrics and the HTTP server: what they say, and to whom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import START, settings

from streamrnn.monitor.health import DELIVERY_S, LAG_MAX, SILENCE_S, STALL_S, Health
from streamrnn.monitor.http import ExposedError, HttpServer
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.monitor.reported import Timing
from streamrnn.records import TickBatch
from streamrnn.serving.worker import collect_garbage
from streamrnn.stream.engine import Engine

HOSTILE = '<img src=x onerror="document.title=1">/../\u2603'


def fed(names: list[str], steps: int = 80) -> WorkerObserver:
    """An observer that has seen real outputs of a real engine."""
    spec = settings(quantiles=[0.05, 0.5, 0.95]).stream_spec()
    observer, engine = WorkerObserver(spec, settings().effective()), Engine(spec)
    rng = np.random.default_rng(0)
    series = [name for _ in range(steps) for name in names]
    count = len(series)
    values = rng.normal(5, 1, (count, 2))
    values[rng.random(values.shape) < 0.1] = np.nan
    ts = START + 1000 * (np.arange(count) // len(names))
    batch = TickBatch(
        [],
        np.zeros(count, np.int32),
        np.arange(count),
        ts,
        series,
        1000 * ts,
        values,
        np.full(count, -1, dtype=np.int16),
    )
    observer.assigned(0, 0, 0)
    outputs = engine.process(batch)
    observer.batch(outputs, batch, [], (len(outputs.forecasts), len(outputs.imputations), 0), Timing(count))
    observer.progress(0, count, 0)
    observer.serving()
    observer.held(len(engine.table))
    return observer


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    made = HttpServer(fed(["pump", HOSTILE]), "127.0.0.1", 0)
    await made.start()
    yield made
    await made.stop()


async def get(server: HttpServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}{path}"
        async with session.request(method, url, headers=headers) as answer:
            return answer.status, await answer.text(), dict(answer.headers)


async def test_the_faces_answer(server: HttpServer) -> None:
    for path in ("/livez", "/readyz", "/", "/app.js", "/style.css", "/api/status", "/api/config", "/api/series"):
        assert (await get(server, path))[0] == 200, path
    status, text, _ = await get(server, "/api/series/pump")
    assert status == 200
    assert '"channels":["temp","flow"]' in text
    assert (await get(server, "/api/series/nobody"))[0] == 404
    assert (await get(server, "/etc/passwd"))[0] == 404


async def test_metrics_parse_and_name_no_series(server: HttpServer) -> None:
    _, text, _ = await get(server, "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["streamrnn_ticks"].samples[0].value == 160
    assert families["streamrnn_series"].samples[0].value == 2
    labels = {value for family in families.values() for sample in family.samples for value in sample.labels.values()}
    assert not any("pump" in value or "img" in value for value in labels)
    assert all(name.startswith(("streamrnn_", "process_")) for name in families)  # more in test_metrics


async def test_only_reading_and_only_by_loopback_names(server: HttpServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await get(server, "/api/status", method))[0] == 405
    assert (await get(server, "/api/status", Host="evil.example"))[0] == 403
    assert (await get(server, "/api/status", Host=f"localhost:{server.port}"))[0] == 200


async def test_security_headers_are_on_every_answer(server: HttpServer) -> None:
    for path in ("/", "/api/status", "/metrics"):
        _, _, headers = await get(server, path)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


async def test_beyond_loopback_a_token_is_needed() -> None:
    with pytest.raises(ExposedError, match="token_file"):
        HttpServer(fed(["x"]), "0.0.0.0", 0)
    made = HttpServer(fed(["x"]), "127.0.0.1", 0, token="secret")
    await made.start()
    try:
        assert (await get(made, "/api/status"))[0] == 401
        assert (await get(made, "/api/status", Authorization="Bearer wrong"))[0] == 401
        assert (await get(made, "/api/status", Authorization="Bearer secret"))[0] == 200
        assert (await get(made, "/livez"))[0] == 200
    finally:
        await made.stop()


def test_health_says_what_is_wrong() -> None:
    health = Health()
    assert health.ready(0.0) == (False, "starting")
    health.serving, health.trouble = True, ""
    health.assigned(3, 100, 200, 0.0)
    assert not health.ready(0.0)[0]
    assert "replaying" in health.ready(0.0)[1]
    health.progress(3, 250, 10, 1.0)
    assert health.ready(1.0) == (True, "ok")
    assert health.live(1.0 + STALL_S)[0]
    stalled, why = health.live(2.0 + STALL_S)
    assert (stalled, "partition 3" in why) == (False, True)
    health.progress(3, 250, 0, 3.0 + STALL_S)  # at its end: nothing to do is not a stall
    assert health.live(500.0)[0]
    health.progress(3, 251, LAG_MAX + 1, 500.0)
    assert "behind" in health.ready(500.0)[1]
    health.revoked(3)
    assert health.ready(500.0)[0]


def test_outputs_that_are_not_acknowledged_make_it_unready() -> None:
    health = Health(serving=True, trouble="")
    health.assigned(0, 100, 100, 0.0)
    health.progress(0, 150, 0, 0.0)
    health.waiting(DELIVERY_S / 2, 0.0)
    assert health.ready(0.0)[0]
    health.waiting(DELIVERY_S + 1, 0.0)
    assert "acknowledge" in health.ready(0.0)[1]
    health.committed()
    assert health.ready(0.0)[0]
    health.rebuilding("gone")
    health.trouble = ""
    assert "gone" in health.ready(0.0)[1]
    health.revoked(0)
    health.assigned(0, 100, 100, 0.0)
    health.progress(0, 100, 0, 0.0)  # nothing is owed
    assert health.ready(0.0)[0]
    assert not health.ready(SILENCE_S + 1)[0]


def test_the_summary_forgets_what_is_old_and_compares_like_with_like() -> None:
    observer = fed(["x"])
    summary = observer.summary
    now = summary._bins[-1].at_s
    view = summary.view(now + 1, 20)
    assert view["matured"] > 0
    assert 0.5 < view["forecast_ratio"] < 1.1
    assert view["network_gain"] is None
    assert 0.7 < view["coverage"] <= 1.0
    assert summary.view(now + 100, 20)["matured"] == 0


def test_history_is_bounded_and_follows_whoever_is_asked_for() -> None:
    observer = fed([f"s{i}" for i in range(100)], steps=5)
    assert len(observer.history.names()) == 24
    assert observer.history.one("s99") is None
    assert "s99" in observer.history.names()
    assert len(observer.history.names()) == 24


async def test_closed_connections_do_not_stay(server: HttpServer) -> None:
    """A transport of asyncio's is a cycle: without the collector each scrape would leave one behind."""

    def connections() -> int:
        return sum(type(held).__name__ == "_SelectorSocketTransport" for held in gc.get_objects())

    gc.collect()
    gc.disable()  # what it does by itself with the service's thresholds, until there is a great deal of garbage
    collecting = None
    try:
        before = connections()
        for _ in range(20):
            await get(server, "/livez")
        assert connections() > before + 15
        collecting = asyncio.create_task(collect_garbage(every_s=0.01))
        async with asyncio.timeout(10):
            while connections() > before + 1:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
        if collecting is not None:
            collecting.cancel()
