"""Exactly-once beside at-least-once in one run: throughput as a ratio, and the latency that a transaction adds.

Throughput: the worker of throughput.py on one core, the broker on the other, both deliveries in turn. Latency, at 1,000
ticks a second: from the append time of a tick to the moment at which a `read_committed` consumer has its forecast, for
both deliveries alike (so the way to the reader counts, too). 500 series, 4 channels, horizon 12, 3 quantiles, GRU 64 x 2.

    KAFKA_HOME=… python tests/benchmarks/delivery.py [--records N] [--repeat K] [--rate 1000] [--seconds 20] [--rounds 2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from broker import Broker
from latency import serve, tick_times, topics_by_broker_time
from reference import publish, weights
from service import Output, configure
from throughput import CASES, prepare, quantiles, side

DELIVERIES = ("at-least-once", "exactly-once")
CASE = CASES["default"]
TOPIC = "bench.ticks"
SETTINGS: dict[str, Any] = {"horizon": CASE["horizon"], "quantiles": list(quantiles(CASE))}
SKIPPED_S = 5  # the worker settles

Figures = dict[str, dict[str, float]]


# ── throughput ───────────────────────────────────────────────────────────────────────────────────────────────────


def throughput(servers: str, total: int, repeat: int) -> Figures:
    asyncio.run(prepare(servers, TOPIC, "bench", CASE, total))
    rounds = [
        {delivery: one(servers, f"{delivery}.{k}", delivery, total) for delivery in DELIVERIES}
        for k in range(repeat + 1)
    ][1:]  # the first warms caches and the broker
    found = {
        delivery: {
            "records_s": statistics.median(row[delivery]["records"] / row[delivery]["wall_s"] for row in rounds),
            "cpu_us": statistics.median(row[delivery]["cpu_s"] / row[delivery]["records"] * 1e6 for row in rounds),
        }
        for delivery in DELIVERIES
    }
    least, exact = DELIVERIES
    found["ratio"] = {
        "records_s": statistics.median(row[least]["wall_s"] / row[exact]["wall_s"] for row in rounds),
        "cpu_us": statistics.median(row[exact]["cpu_s"] / row[least]["cpu_s"] for row in rounds),
    }
    return found


def one(servers: str, app: str, delivery: str, total: int) -> dict[str, float]:
    case: dict[str, Any] = {**CASE, "settings": {"delivery": delivery}}
    asyncio.run(prepare(servers, f"none.{app}", app, case, 1))
    given = {"servers": servers, "topic": TOPIC, "app": app, "total": total, "case": case}
    return side(["--side", "worker", "--arguments", json.dumps(given)], "0")


# ── latency ──────────────────────────────────────────────────────────────────────────────────────────────────────


def latency(broker: Broker, folder: Path, rate: float, seconds: float, rounds: int) -> Figures:
    waits: dict[str, list[Any]] = {delivery: [] for delivery in DELIVERIES}
    for k in range(rounds):
        for delivery in DELIVERIES:
            waits[delivery].append(waited(broker, folder, f"latency.{delivery}.{k}", delivery, rate, seconds))
    found: Figures = {}
    for delivery in DELIVERIES:
        each = [np.percentile(wait, [50, 99]) for wait in waits[delivery]]
        found[delivery] = {
            "p50_ms": statistics.median(float(pair[0]) for pair in each),
            "p99_ms": statistics.median(float(pair[1]) for pair in each),
            "ticks": sum(len(wait) for wait in waits[delivery]),
        }
    least, exact = (found[delivery] for delivery in DELIVERIES)
    found["added"] = {name: exact[name] - least[name] for name in ("p50_ms", "p99_ms")}
    return found


def waited(broker: Broker, folder: Path, app: str, delivery: str, rate: float, seconds: float) -> Any:
    """Milliseconds from each tick's append to its forecast at the reader."""
    from streamrnn.config.settings import load

    config = configure(folder, broker, app, delivery=delivery, **SETTINGS)
    topics_by_broker_time(broker, app, config)
    settings = load([config], {}, {})
    asyncio.run(publish(settings, *weights(settings, 0)))
    reading = received(broker.servers, f"{app}.forecasts", seconds)
    seen = serve(folder, config, app, rate, lambda: asyncio.run(reading), series=CASE["series"])
    ticks = tick_times(broker, app)
    begin, end = min(ticks.values()) + SKIPPED_S * 1000, max(ticks.values()) - 2000  # the reader stops with the load
    decoder = msgspec.json.Decoder(Output)
    waits = []
    for now_ms, value in seen:
        source = decoder.decode(value).source
        appended = ticks[source.partition, source.offset]
        if begin <= appended < end:
            waits.append(now_ms - appended)
    return np.array(waits)


async def received(servers: str, topic: str, seconds: float) -> list[tuple[float, bytes]]:
    """What a reader of committed records gets, and when: (epoch milliseconds, value)."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    seen: list[tuple[float, bytes]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        fetched = await consumer.getmany(timeout_ms=100)
        now_ms = time.time() * 1000
        seen += [(now_ms, record.value) for records in fetched.values() for record in records]
    await consumer.stop()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=80_000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds of throughput; 0: none")
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2, help="rounds of latency; 0: none")
    options = parser.parse_args()
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name:
        if options.repeat:
            broker = Broker(Path(name) / "throughput", cpu="1").start()
            try:
                figures["throughput"] = throughput(broker.servers, options.records, options.repeat)
            finally:
                broker.stop()
            print(f"{CASE['title']}; medians of {options.repeat} rounds of {options.records} records, in turn")
            for delivery in DELIVERIES:
                of = figures["throughput"][delivery]
                print(f"  {delivery:<15}{of['records_s']:9.0f} records/s {of['cpu_us']:7.1f} µs processor a record")
            of = figures["throughput"]["ratio"]
            print(
                f"  exactly/at least {of['records_s']:.2f} in records/s, {of['cpu_us']:.2f} in processor time",
                flush=True,
            )
        if options.rounds:
            broker = Broker(Path(name) / "latency").start()
            try:
                figures["latency"] = latency(broker, Path(name), options.rate, options.seconds, options.rounds)
            finally:
                broker.stop()
            print(f"{options.rate:.0f} ticks/s, append of the tick to its forecast at a read_committed reader")
            for delivery in (*DELIVERIES, "added"):
                of = figures["latency"][delivery]
                print(f"  {delivery:<15} p50 {of['p50_ms']:6.1f} ms, p99 {of['p99_ms']:6.1f} ms")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
