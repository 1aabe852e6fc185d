"""Soak: millions of ticks, half of them of series that come once and never again, through `streamrnn run` on a real broker;
does the process grow?

    KAFKA_HOME=… python tests/benchmarks/soak.py [--ticks 10000000] [--rate 25000]

The process's resident size is sampled as it goes. The slope is that of the means of ten equal stretches behind a warm-up of
a quarter, with the standard error of the regression: neighbouring samples are no independent witnesses, stretches nearly are.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from broker import Broker, free_port
from service import Process, command, configure, drained

STEADY = 200  # series that go on
SERIES_MAX = 2000
PARTITIONS = 4
START = 1_700_000_000_000
STRETCHES = 10
T95 = 2.31  # Student's t for eight degrees of freedom


async def feed(servers: str, topic: str, ticks: int, rate: float) -> None:
    from streamrnn.transports.base import Deadline
    from streamrnn.transports.kafka.settings import KafkaSettings
    from streamrnn.transports.kafka.transport import KafkaTransport

    sink = KafkaTransport(KafkaSettings(bootstrap_servers=servers)).sink()
    await sink.start()
    rng = np.random.default_rng(0)
    begin, batch = time.monotonic(), 2000
    for first in range(0, ticks, batch):
        noise = rng.normal(0, 1, batch).round(3).tolist()
        now = int(time.time() * 1000)
        for partition in range(PARTITIONS):
            keys: list[bytes | None] = []
            values: list[bytes | None] = []
            for i in range(first + partition, min(first + batch, ticks), PARTITIONS):
                # Half of the ticks come from series that were never seen and never come back.
                name = f"new-{i}" if (i // PARTITIONS) % 2 else f"s{i % (2 * STEADY)}"
                ts, x = START + 1000 * (i // (2 * STEADY)), noise[i - first]
                keys.append(name.encode())
                numbers = f'"temp":{x},"flow":{x + 1:.3f},"pressure":2,"vibration":3'
                values.append(f'{{"series":"{name}","ts":{ts},"values":{{{numbers}}}}}'.encode())
            await sink.append_many(topic, partition, keys, values, [now] * len(keys))
        await (await sink.seal()).wait(Deadline(60.0))
        await asyncio.sleep(max(0.0, begin + (first + batch) / rate - time.monotonic()))
    await sink.stop(Deadline(10.0))


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def soak(broker: Broker, folder: Path, ticks: int, rate: float) -> None:
    port = free_port()
    config = configure(
        folder, broker, "soak", series_max=SERIES_MAX, http={"port": port}, checkpoint={"interval": "5s"},
        kafka={"bootstrap_servers": broker.servers},
    )  # fmt: skip
    small = {"retention__bytes": "100000000", "segment__bytes": "20000000", "retention__ms": "-1"}
    for kind in ("ticks", "forecasts", "imputed", "dlq"):
        broker.create(f"soak.{kind}", PARTITIONS, **small)
    broker.create("soak.state", PARTITIONS, cleanup__policy="compact", segment__bytes="20000000")
    command("topics", "-c", config, "--create")
    for log in ("first.log", "run.log"):
        worker = Process(folder / log, "run", "-c", config)
        worker.waits_for("partition assigned")
        if log == "first.log":  # compiles; the memory that this leaves unused would hide what comes afterwards
            worker.stop()
    process = psutil.Process(worker.child.pid)
    feeder = subprocess.Popen(
        [sys.executable, __file__, "--feed", broker.servers, "--ticks", str(ticks), "--rate", str(rate)]
    )
    sizes: list[tuple[float, float]] = []
    begin = time.monotonic()
    while feeder.poll() is None:
        time.sleep(1.0)
        found = metrics(port)
        sizes.append((found["streamrnn_ticks_total"] / 1e6, process.memory_info().rss / 2**20))
    asyncio.run(drained(broker, "soak", 120))
    seconds = time.monotonic() - begin
    found = metrics(port)
    spent = process.cpu_times().user + process.cpu_times().system
    code = worker.stop()
    if feeder.returncode or code:
        raise RuntimeError(
            f"feeder ended with {feeder.returncode}, worker with {code}: {worker.log.read_text()[-2000:]}"
        )
    report(np.array(sizes), found, seconds, spent)


def report(sizes: np.ndarray, found: dict[str, float], seconds: float, spent: float) -> None:  # type: ignore[type-arg]
    settled = sizes[sizes[:, 0] >= sizes[-1, 0] / 4]
    means = np.array([stretch.mean(axis=0) for stretch in np.array_split(settled, STRETCHES)])  # [stretch, (ticks, MB)]
    (slope, _), covariance = np.polyfit(means[:, 0], means[:, 1], 1, cov=True)
    error = T95 * float(np.sqrt(covariance[0, 0]))
    verdict = "not distinguishable from zero" if abs(slope) <= error else "DISTINGUISHABLE from zero"
    lost = 1e6 * sizes[-1, 0] - found["streamrnn_ticks_total"]
    print(f"{found['streamrnn_ticks_total']:.0f} ticks in {seconds:.0f} s ({spent:.0f} s of processor), ", end="")
    print(f"{found['streamrnn_series_evicted_total']:.0f} series evicted, {max(lost, 0):.0f} ticks lost")
    print(f"  {sizes[0, 1]:.0f} MB at first, {settled[0, 1]:.0f} MB after a quarter, {sizes[-1, 1]:.0f} MB at the end")
    print(f"  slope behind the first quarter {slope:+.3f} ± {error:.3f} MB a million ticks (95 %): {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=10_000_000)
    parser.add_argument("--rate", type=float, default=25_000)
    parser.add_argument("--feed")
    options = parser.parse_args()
    if options.feed:
        asyncio.run(feed(options.feed, "soak.ticks", options.ticks, options.rate))
        return
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "kafka", log__retention__check__interval__ms="5000").start()
        try:
            soak(broker, Path(folder), options.ticks, options.rate)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
