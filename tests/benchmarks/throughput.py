"""Throughput of one worker beside a bare aiokafka loop, on the same broker, the same records, in one run.

The bare loop consumes the input and sends, for every record, constant bytes of the size the worker's forecasts have,
one `send` per record, with aiokafka's own settings: what a service that computes nothing costs. A second bare loop has
the worker's batch size (aiokafka's default of 16 KiB holds eight such records), which is the harder opponent. The
worker decodes, steps a GRU, mixes, calibrates and encodes. Each side is a process on one core, the broker has the other.

`--against PATH` compares the worker with that of another checkout instead: by turns, on the same broker and records.

    KAFKA_HOME=… python tests/benchmarks/throughput.py [--records N] [--repeat K] [--case default|one|many|small]
        [--experts auto|full|light|off] [--season 1d] [--against PATH]

With `--against`, `--experts` and `--season` are those of this side; the other one runs with its own defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import shapes
from against import HERE, by_turns, called, checkout, ratio

CASES: dict[str, dict[str, Any]] = {
    "default": {"series": 500, "horizon": 12, "title": "500 series, horizon 12"},
    "one": {"series": 1, "horizon": 12, "title": "one series alone, horizon 12"},
    "many": {"series": 10_000, "horizon": 12, "title": "10,000 series, horizon 12"},
    "small": {"series": 500, "horizon": 1, "title": "500 series, horizon 1, one quantile"},
}
PARTITIONS = 4
CHANNELS = ("temp", "flow", "pressure", "vibration")


# ── the two sides, each a process of its own ─────────────────────────────────────────────────────────────────────


def quantiles(case: dict[str, Any]) -> tuple[float, ...]:
    return (0.5,) if case["horizon"] == 1 else (0.05, 0.5, 0.95)


async def bare(servers: str, topic: str, out: str, group: str, total: int, size: int, batch: int) -> dict[str, float]:
    """Consume, send one constant value per record, await them all, commit."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
        max_partition_fetch_bytes=2 * 1024 * 1024,
    )  # fmt: skip
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, max_batch_size=batch)
    await consumer.start()
    await producer.start()
    value = b"x" * size
    done = 0
    wall = cpu = 0.0
    while done < total:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=2000)
        if not done and fetched:
            wall, cpu = time.perf_counter(), time.process_time()
        futures = []
        for tp, records in fetched.items():
            futures += [await producer.send(out, value, key=record.key, partition=tp.partition) for record in records]
            done += len(records)
        for future in futures:
            await future
        if fetched:
            await consumer.commit()
    figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "records": done}
    await consumer.stop()
    await producer.stop()
    return figures


async def worker(servers: str, topic: str, app: str, total: int, case: dict[str, Any]) -> dict[str, float]:
    """The service's own worker, weights loaded, until everything is processed and delivered."""
    from streamrnn.config.settings import load
    from streamrnn.monitor.observer import WorkerObserver
    from streamrnn.serving.worker import Worker, prepare_process
    from streamrnn.transports.kafka.transport import KafkaTransport

    prepare_process()
    settings = load([], configuration(servers, topic, app, case), {})
    observer = WorkerObserver(settings.stream_spec())
    running = Worker(settings, KafkaTransport(settings.kafka_settings()), observer)
    begin: list[float] = []
    figures: dict[str, float] = {}
    seen = 0
    inner = observer.batch

    def batch(outputs: Any, ticks: Any, unread: Any, sent: Any, timing: Any) -> None:
        nonlocal seen
        if not begin:
            begin.extend((time.perf_counter(), time.process_time()))
        else:
            seen += timing.records
        inner(outputs, ticks, unread, sent, timing)
        if seen + first >= total and not figures:
            running.stop()
        if not seen:
            first_of.append(timing.records)

    first_of: list[int] = []
    first = 0
    observer.batch = batch  # type: ignore[method-assign]

    async def watch() -> None:
        nonlocal first
        while not first_of:
            await asyncio.sleep(0.001)
        first = first_of[0]

    watching = asyncio.create_task(watch())
    await running.run()
    await watching
    figures = {"wall_s": time.perf_counter() - begin[0], "cpu_s": time.process_time() - begin[1], "records": seen}
    assert observer.model != "persistence", "the worker ran without weights"
    return figures


def configuration(servers: str, topic: str, app: str, case: dict[str, Any]) -> dict[str, Any]:
    return {
        "app": app,
        "kafka.bootstrap_servers": servers,
        "input": topic,
        "channels": list(CHANNELS),
        "step": "1s",
        "horizon": case["horizon"],
        "quantiles": list(quantiles(case)),
        "series_max": 20_000,
        "train": "off",
        **case.get("settings", {}),
    }


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def prepare(servers: str, topic: str, app: str, case: dict[str, Any], total: int) -> None:
    """The input, and weights that are not trivial, in the models topic."""
    import torch

    from simulators.drive import produce
    from simulators.faults import FaultPlan
    from simulators.sensors import Sensors
    from simulators.stream import Ticks
    from streamrnn.config.settings import load
    from streamrnn.model.network import Network
    from streamrnn.model.weights import WeightsMeta, pack
    from streamrnn.stores.models import ModelsWriter
    from streamrnn.transports.base import Deadline, TopicNeed
    from streamrnn.transports.kafka.transport import KafkaTransport

    settings = load([], configuration(servers, topic, app, case), {})
    transport = KafkaTransport(settings.kafka_settings())
    admin = transport.admin()
    await admin.start()
    await admin.create([TopicNeed(topic, PARTITIONS, {}), *settings.topic_needs(PARTITIONS)])
    await admin.stop()
    sink = transport.sink()
    await sink.start()
    ticks = Ticks(Sensors(case["series"]), FaultPlan(), 1_700_000_000_000, 1000)
    await produce(sink, topic, islice(iter(ticks), total), now_ms=lambda: int(time.time() * 1000))
    torch.manual_seed(0)
    network = Network(settings.model_spec())
    torch.nn.init.normal_(network.out.weight, 0.0, 0.01)
    meta = WeightsMeta()
    blob = pack(network, meta)
    await ModelsWriter(sink, settings.topics.models).publish(meta.id, blob, {}, 0)
    await sink.stop(Deadline(10.0))


def side(arguments: list[str], cpu: str, script: str = __file__, loud: bool = False) -> dict[str, float]:
    """Runs one side on one core; its last line are its figures."""
    command = ["taskset", "-c", cpu, sys.executable, script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode()[-3000:])
    if loud:
        print(done.stderr.decode())
    found: dict[str, float] = json.loads(done.stdout.decode().splitlines()[-1])
    return found


async def forecast_size(servers: str, topic: str) -> int:
    from streamrnn.transports.base import Deadline
    from streamrnn.transports.kafka.settings import KafkaSettings
    from streamrnn.transports.kafka.transport import KafkaTransport

    reader = KafkaTransport(KafkaSettings(bootstrap_servers=servers)).reader()
    await reader.start(topic, None)
    sizes: list[int] = []
    while len(sizes) < 2000:
        for _, records in await reader.poll(500, 2000):
            sizes += [len(record.value or b"") for record in records]
    await reader.stop(Deadline(5.0))
    return int(statistics.mean(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=120_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--against", type=checkout, help="another checkout of streamrnn")
    shapes.add_optional(parser)
    parser.add_argument("--side")
    parser.add_argument("--arguments")
    options = parser.parse_args()
    if options.side:
        given = json.loads(options.arguments)
        figures = asyncio.run(bare(**given) if options.side == "bare" else worker(**given))
        print(json.dumps(figures))
        return
    from broker import Broker

    for name in CASES if options.case == "all" else [options.case]:
        case = {**CASES[name], "settings": shapes.optional_of(options)}
        with tempfile.TemporaryDirectory() as folder:
            broker = Broker(Path(folder), cpu="1").start()
            try:
                if options.against:
                    compare(broker.servers, case, options.records, options.repeat, options.against)
                else:
                    measure(broker.servers, case, options.records, options.repeat)
            finally:
                broker.stop()


def measure(servers: str, case: dict[str, Any], total: int, repeat: int) -> None:
    rows = []
    topic = "bench.ticks"
    asyncio.run(prepare(servers, topic, "bench0", case, total))
    size = 0
    for k in range(repeat + 1):
        app = f"bench{k}"
        if k:
            asyncio.run(prepare(servers, f"none{k}", app, case, 1))
        given = {"servers": servers, "topic": topic, "app": app, "total": total, "case": case}
        ours = side(["--side", "worker", "--arguments", json.dumps(given)], "0")
        if not size:
            size = asyncio.run(forecast_size(servers, f"{app}.forecasts"))
        theirs = []
        for batch in (16_384, 900_000):
            given = {"servers": servers, "topic": topic, "out": f"{app}.imputed", "total": total, "size": size}
            given |= {"group": f"bare{k}-{batch}", "batch": batch}
            theirs.append(side(["--side", "bare", "--arguments", json.dumps(given)], "0"))
        if k:  # the first round warms caches and the broker
            rows.append((ours, *theirs))
    print(f"{case['title']}; outputs of {size} bytes; medians of {len(rows)} rounds of {total} records")
    names = ("worker", "bare loop, one send per record", "bare loop, with batches of 900 kB")
    for i, name in enumerate(names):
        rate = statistics.median(row[i]["records"] / row[i]["wall_s"] for row in rows)
        cpu = statistics.median(row[i]["cpu_s"] / row[i]["records"] * 1e6 for row in rows)
        line = f"  {name:<35}{rate:9.0f} records/s {cpu:7.1f} µs processor a record"
        if i:
            ratio = statistics.median(
                row[0]["records"] / row[0]["wall_s"] / (row[i]["records"] / row[i]["wall_s"]) for row in rows
            )
            spent = statistics.median(
                row[i]["cpu_s"] / row[i]["records"] / (row[0]["cpu_s"] / row[0]["records"]) for row in rows
            )
            line += f"   worker/bare {ratio:.2f} in records/s, {spent:.2f} in processor time"
        print(line, flush=True)


def compare(servers: str, case: dict[str, Any], total: int, repeat: int, other: Path) -> None:
    topic, trees = "bench.ticks", (HERE, other)
    asyncio.run(prepare(servers, topic, "bench0", case, total))
    found: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for k in range(repeat + 1):
        for tree in by_turns(k, trees):
            app = f"bench{k + 1}-{trees.index(tree)}"
            # With its own code, too: topics and weights may have come to look otherwise.
            given = {"servers": servers, "app": app, "case": case if tree == HERE else {**case, "settings": {}}}
            called(tree, "throughput", "prepare", {**given, "topic": f"{app}.none", "total": 1})
            figures = called(tree, "throughput", "worker", {**given, "topic": topic, "total": total}, cpu="0")
            if k:  # the first round warms caches and the broker
                found[tree].append(figures)
    print(f"{case['title']}; medians of {repeat} rounds of {total} records")
    rates = {of: [[f["records"] / f[of] for f in found[tree]] for tree in trees] for of in ("wall_s", "cpu_s")}
    for i, tree in enumerate(trees):
        wall, cpu = (statistics.median(rates[of][i]) for of in ("wall_s", "cpu_s"))
        print(f"  {tree!s:<35}{wall:9.0f} records/s {cpu:9.0f} records a second of processor time")
    print(f"  ratio by wall clock {ratio(*rates['wall_s'])}, by processor time {ratio(*rates['cpu_s'])}", flush=True)


if __name__ == "__main__":
    main()
