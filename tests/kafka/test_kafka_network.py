"""A worker whose network to a real broker is spoiled by a proxy: it recovers by itself, nothing is lost, and it says so."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from inside import make_topics, prepared, produce, serving
from pages import address, page
from running import until
from service import Forked, command, configure, drained, lag, sources
from wire import END_TXN, FETCH, OFFSET_COMMIT, At, ProxiedBroker

from simulators.faultproxy import (
    Bandwidth,
    Connection,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    Timeout,
    Toxic,
)
from streamrnn.config.settings import Settings, load
from streamrnn.serving.worker import Worker

pytestmark = [
    pytest.mark.kafka,
    # aiokafka leaves the connections of an attempt that failed, or of a producer that was abandoned, to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]
long = pytest.mark.kafka_long
DELIVERIES = ["at-least-once", "exactly-once"]
BATCH = 100


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedBroker]:
    running = ProxiedBroker(tmp_path_factory.mktemp("proxied"))
    yield running.start()  # type: ignore[misc]
    running.stop()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """While such warnings are still looked away from."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrnn.serving.worker.BACKOFF_S", (0.05, 0.2))
    # The faults last longer than the patience that they are given here.
    monkeypatch.setattr("streamrnn.serving.worker.GIVE_UP_S", 3600.0)


def through(proxied: ProxiedBroker, **changes: Any) -> dict[str, Any]:
    """Settings of a service behind the proxy that gives up waiting after a second or two."""
    kafka = {"bootstrap_servers": proxied.via, "request_timeout_ms": 1500, "session_timeout_ms": 3000}
    return {
        "kafka": {**kafka, "heartbeat_interval_ms": 500, **changes.pop("kafka", {})},
        "delivery_timeout": "2s",
        "stall_after": "2s",
        "batch_records_max": BATCH,
        "checkpoint": {"interval": "500ms"},
        **changes,
    }


class Load:
    """Ticks that come all the time, past the proxy; `count` by partition."""

    def __init__(self, broker: ProxiedBroker, topic: str) -> None:
        self._broker, self._topic = broker, topic
        self.count = [0, 0]
        self._enough = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._enough.is_set():
            for partition in range(2):
                await produce(self._broker, self._topic, partition, self.count[partition], 20)
                self.count[partition] += 20
            await asyncio.sleep(0.05)

    async def stop(self) -> set[tuple[int, int]]:
        """Returns the coordinates of what was sent."""
        self._enough.set()
        await self._task
        return {(partition, offset) for partition in range(2) for offset in range(self.count[partition])}


@asynccontextmanager
async def under_load(proxied: ProxiedBroker, chosen: Settings) -> AsyncIterator[tuple[FaultProxy, Worker]]:
    """A worker with a proxy in between; at the end the network is well, and everything has to have come through."""
    async with proxied.proxy() as proxy, serving(chosen) as worker:
        await until(lambda: worker.pump and len(worker.pump.positions()) == 2)
        load_ = Load(proxied, chosen.input)
        try:
            yield proxy, worker
        finally:
            proxy.off()
            proxy.watcher = None
            sent = await load_.stop()
        await drained(proxied, chosen.app)
        await until(lambda: worker.observer.health.ready(time.monotonic())[0])
        rebuilds = int(worker.observer.metrics.rebuilds._value.get())
    seen = await sources(proxied, chosen.app)
    assert set(seen) >= sent
    doubled = sum(1 for times in seen.values() if times > 1)
    print(f"{chosen.delivery}: {len(seen)} records, {rebuilds} rebuilds, {doubled} said more than once")
    if chosen.delivery == "exactly-once":
        assert doubled == 0
    else:
        # What was on its way whenever the clients were given up: two batches, and one whose commit was.
        assert doubled <= 3 * BATCH * (rebuilds + 1)


@pytest.mark.parametrize("delivery", DELIVERIES)
async def test_one_fault_after_another_loses_nothing(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    chosen = await prepared(proxied, tmp_path, unique("faults"), **through(proxied, delivery=delivery))
    async with under_load(proxied, chosen) as (proxy, worker):
        faults: list[Toxic] = [Latency(80, 40), Slicer(700, 100), LimitData(30_000), ResetPeer()]
        for toxic in faults:
            # A fault does nothing where no connection is, and nothing to one that is idle.
            await until(lambda: proxy.open > 0)
            passed, accepted = sum(proxy.passed.values()), proxy.accepted
            proxy.on(toxic)
            await asyncio.sleep(0.7)
            if isinstance(toxic, LimitData | ResetPeer):
                await until(lambda: proxy.accepted > accepted)  # noqa: B023 - connections ended and were made anew
            else:
                await until(lambda: sum(proxy.passed.values()) > passed)  # noqa: B023 - late or in pieces, it came
            proxy.off()
            await asyncio.sleep(0.3)
        await until(lambda: proxy.open > 0)
        proxy.on(Timeout())
        await until(lambda: not worker.observer.health.ready(time.monotonic())[0])
        assert worker.observer.health.live(time.monotonic())[0]


async def test_half_open_connections_are_replaced(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """As when a router in between forgets them: what is there is dead and does not know, what is new works."""
    chosen = await prepared(proxied, tmp_path, unique("half-open"), **through(proxied))
    async with under_load(proxied, chosen) as (proxy, worker):
        await until(lambda: worker.pump and worker.pump.positions()[0][0] > 50)
        dead, accepted = proxy.connections, proxy.accepted
        assert dead
        for connection in dead:
            connection.on(Timeout())
        await until(lambda: proxy.accepted > accepted)


LOST: dict[str, Callable[[Connection], None]] = {
    "request-lost": lambda connection: connection.on(Timeout(), "up"),
    "answer-lost": lambda connection: connection.on(Timeout(), "down"),
    "cut-behind": lambda connection: connection.on(LimitData(0), "down"),
    "reset": lambda connection: connection.on(ResetPeer(), "down"),
}


each_loss = pytest.mark.parametrize(
    "how", [pytest.param(how, marks=() if how == "answer-lost" else long) for how in LOST]
)


@each_loss
async def test_a_transaction_whose_end_is_not_known_is_neither_lost_nor_repeated(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str], how: str
) -> None:
    chosen = await prepared(proxied, tmp_path, unique("end-txn"), **through(proxied, delivery="exactly-once"))
    async with under_load(proxied, chosen) as (proxy, _):
        proxy.watcher = fault = At(END_TXN, LOST[how], number=5)
        await until(lambda: fault.struck)
        await asyncio.sleep(0.5)


@each_loss
async def test_a_commit_whose_end_is_not_known_loses_nothing(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str], how: str
) -> None:
    chosen = await prepared(proxied, tmp_path, unique("commit"), **through(proxied))
    async with under_load(proxied, chosen) as (proxy, _):
        proxy.watcher = fault = At(OFFSET_COMMIT, LOST[how], number=5)
        await until(lambda: fault.struck)
        await asyncio.sleep(0.5)


@long
async def test_a_fetch_that_is_never_answered_is_asked_anew(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(proxied, tmp_path, unique("fetch"), **through(proxied))
    async with under_load(proxied, chosen) as (proxy, _):
        proxy.watcher = fault = At(FETCH, LOST["answer-lost"], number=5, times=3)
        await until(lambda: fault.struck == 3)


async def test_outputs_that_do_not_get_away_hold_up_the_input_and_nothing_else(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """The lag grows; what is held does not; and the member goes on polling, or the group would put it out."""
    kafka = {"request_timeout_ms": 60_000, "session_timeout_ms": 6000, "max_poll_interval_ms": 2500}
    settings = through(proxied, kafka=kafka, delivery_timeout="60s", stall_after="60s")
    chosen = await prepared(proxied, tmp_path, unique("slow"), **settings)
    async with under_load(proxied, chosen) as (proxy, worker):
        pump = worker.pump
        assert pump is not None
        await until(lambda: sum(position for position, _ in pump.positions().values()) > 200)
        proxy.on(Bandwidth(4), "up")
        held, behind = [], [await lag(proxied, chosen.app)]
        began = time.monotonic()
        async with asyncio.timeout(60):  # and for longer than a member may go without a poll
            while behind[-1] < behind[0] + 200 or time.monotonic() - began < 5.0:
                await asyncio.sleep(0.5)
                held.append(pump.buffers())
                behind.append(await lag(proxied, chosen.app))
        assert all(used <= bound for buffers in held for used, bound in buffers.values())
        assert worker.pump is pump  # nobody put it out, and it did not begin anew
        assert worker.observer.metrics.rebuilds._value.get() == 0


async def test_a_worker_cut_off_says_that_it_is_not_ready_but_alive(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    config = configure(tmp_path, proxied, unique("cut-off"), **through(proxied))
    chosen = load([config], {}, {})
    await make_topics(proxied, chosen)
    async with proxied.proxy() as proxy:
        worker = Forked(tmp_path / "log", "run", "-c", config)
        try:
            await until(lambda: worker.said().count("partition assigned") == 2)
            where = address(worker)

            async def becomes(status: int) -> str:
                async with asyncio.timeout(60):
                    while (answer := await page(f"{where}/readyz"))[0] != status:
                        assert (await page(f"{where}/livez"))[0] == 200
                        await asyncio.sleep(0.1)
                return answer[1]

            await becomes(200)
            proxy.on(Timeout())
            await produce(proxied, chosen.input, 0, 0, 50)
            reason = await becomes(503)
            assert proxied.via in reason
            proxy.off()
            await becomes(200)
            await drained(proxied, chosen.app)
            assert worker.stop() == 0
        finally:
            worker.kill()
    assert set(await sources(proxied, chosen.app)) == {(0, offset) for offset in range(50)}
    assert "Traceback" not in worker.said()


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

GRACE_S = 4.0


def overhead_s() -> float:
    """What a process takes to do nothing and end, on this machine and now, twice: none ends faster than that."""
    began = time.monotonic()
    command("version")
    return 2 * (time.monotonic() - began)


ENDS = ["idle", "busy", "frozen", "frozen-busy", "broker-away", "twice"]
QUICK = {
    ("idle", "exactly-once"),
    ("busy", "at-least-once"),
    ("frozen-busy", "at-least-once"),
    ("broker-away", "exactly-once"),
}


@pytest.mark.parametrize(
    ("when", "delivery"),
    [
        pytest.param(when, delivery, marks=() if (when, delivery) in QUICK else long)
        for when in ENDS
        for delivery in DELIVERIES
    ],
)
async def test_a_worker_that_is_stopped_ends_within_its_grace(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str], delivery: str, when: str
) -> None:
    app = unique("ends")
    # The usual, long times to wait; and a session that outlasts the stop below on any machine.
    kafka = {"bootstrap_servers": proxied.via, "session_timeout_ms": 120_000}
    # With a broker that answers, the grace is never needed: then all that was delivered is committed, whatever the machine.
    grace_s = 60.0 if when == "busy" else GRACE_S
    grace = f"{grace_s:.0f}s"
    config = configure(
        tmp_path, proxied, app, kafka=kafka, shutdown_grace=grace, delivery=delivery, batch_records_max=BATCH
    )
    chosen = load([config], {}, {})
    await make_topics(proxied, chosen)
    await produce(proxied, chosen.input, 0, 0, 20)
    async with proxied.proxy() as proxy:
        worker = Forked(tmp_path / "log", "run", "-c", config)
        try:
            await drained(proxied, app)
            if when in ("busy", "frozen-busy"):
                worker.signal(signal.SIGSTOP)  # or it might keep up with what is sent, and have nothing to do
                await produce(proxied, chosen.input, 0, 20, 20_000)
                worker.signal(signal.SIGCONT)
                await asyncio.sleep(0.1)
            if when.startswith("frozen") or when == "twice":
                proxied.freeze()
            if when == "broker-away":
                proxy.on(ResetPeer())
            began = time.monotonic()
            worker.signal(signal.SIGTERM)
            if when == "twice":
                await until(lambda: '"stopping"' in worker.said())
                worker.signal(signal.SIGTERM)
            await until(lambda: worker.exit_code() is not None, 120)
            took_s = time.monotonic() - began
        finally:
            proxied.go_on()
            worker.kill()
    assert worker.exit_code() == (143 if when == "twice" else 0)
    assert took_s < (grace_s if when not in ("idle", "twice") else grace_s / 2) + overhead_s()
    assert "Traceback" not in worker.said()
    if when == "busy":  # what was delivered was committed
        assert await lag(proxied, app) > 0
        async with proxied.proxy(), serving(chosen):
            await drained(proxied, app)
        assert set((await sources(proxied, app)).values()) == {1}


@long
async def test_a_minute_without_a_way_out_does_not_make_the_process_grow(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    kafka = {"bootstrap_servers": proxied.via}
    config = configure(tmp_path, proxied, unique("narrow"), kafka=kafka, delivery_timeout="2m")
    chosen = load([config], {}, {})
    await make_topics(proxied, chosen)
    async with proxied.proxy() as proxy:
        worker = Forked(tmp_path / "log", "run", "-c", config)
        try:
            sent = await produced(proxied, chosen.input, 2000)
            await drained(proxied, chosen.app)
            proxy.on(Bandwidth(60), "up")
            held: list[tuple[int, int]] = []
            began = time.monotonic()
            while time.monotonic() - began < 60:
                sent = await produced(proxied, chosen.input, 2000, sent)
                held.append((psutil.Process(worker.pid).memory_info().rss >> 20, await lag(proxied, chosen.app)))
            print(f"\n(MB, records behind): {held[:: len(held) // 6]}")
            proxy.off()
            await drained(proxied, chosen.app, 120)
            assert worker.stop() == 0
        finally:
            worker.kill()
    assert held[-1][1] > 20_000
    settled = held[len(held) // 4][0]  # by then the first batches are on their way
    assert held[-1][0] < settled + 20
    assert "rebuilt" not in worker.said()
    seen = await sources(proxied, chosen.app)
    assert seen == dict.fromkeys([(0, offset) for offset in range(sent)], 1)


async def produced(proxied: ProxiedBroker, topic: str, count: int, first: int = 0) -> int:
    await produce(proxied, topic, 0, first, count)
    return first + count


# ── long ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@long
@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("seed", range(3))
async def test_two_minutes_of_a_bad_network(
    proxied: ProxiedBroker, tmp_path: Path, unique: Callable[[str], str], delivery: str, seed: int
) -> None:
    chosen = await prepared(proxied, tmp_path, unique("bad"), **through(proxied, delivery=delivery))
    luck = random.Random(seed)
    kinds: list[Callable[[], Toxic]] = [
        lambda: Latency(luck.uniform(10, 400), 10),
        lambda: Slicer(luck.randint(10, 2000), luck.uniform(0, 200)),
        lambda: Bandwidth(luck.uniform(50, 500)),
        lambda: LimitData(luck.randint(1_000, 100_000)),
        ResetPeer,
        Timeout,
    ]
    async with under_load(proxied, chosen) as (proxy, _):
        began = time.monotonic()
        while time.monotonic() - began < 120:
            ways: list[tuple[Any, ...]] = [(), ("up",), ("down",)]
            proxy.on(luck.choice(kinds)(), *luck.choice(ways))
            await asyncio.sleep(luck.uniform(0.1, 3.0))
            if luck.random() < 0.6:
                proxy.off()
                await asyncio.sleep(luck.uniform(0.0, 2.0))
