"""Latency of one worker at 1,000 ticks a second: append time of the tick to append time of its forecast, by the broker's
own clock (message.timestamp.type=LogAppendTime); and the same while the trainer runs flat out beside it, or (`--swaps`) while new
weights come every second.

    KAFKA_HOME=… python tests/benchmarks/latency.py [--rate 1000] [--seconds 40] [--rounds 2] [--swaps]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from broker import Broker
from service import Output, Process, command, configure, read_all

from streamrnn.config.settings import load
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack
from streamrnn.stores.models import ModelsWriter
from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.transport import KafkaTransport

Seen = TypeVar("Seen")
SKIPPED_S = 10  # the worker and the trainer settle


def serve(
    folder: Path, config: Path, app: str, rate: float, wait: Callable[[], Seen], *, series: int = 50,
    training: bool = False,
) -> Seen:  # fmt: skip
    """One worker serves simulated ticks at this rate while `wait` waits; returns what that saw."""
    log = folder / f"{app}.log"
    log.touch()
    worker = Process(log, "run", "-c", config)
    trainer = Process(folder / f"{app}.train.log", "train", "-c", config) if training else None
    worker.waits_for("partition assigned")
    simulator = Process(
        folder / f"{app}.sim.log", "simulate", "sensors", "-c", config, "--rate", rate, "--series", series
    )
    seen = wait()
    simulator.stop()
    time.sleep(1.0)
    worker.stop()
    if trainer is not None:
        trainer.stop(60)
    return seen


def topics_by_broker_time(broker: Broker, app: str, config: Path) -> None:
    for topic in ("ticks", "forecasts"):
        broker.create(f"{app}.{topic}", 4, message__timestamp__type="LogAppendTime")
    command("topics", "-c", config, "--create")


def tick_times(broker: Broker, app: str) -> dict[tuple[int, int], int]:
    """When each tick was appended, by (partition, offset)."""
    return {(r.partition, r.offset): r.timestamp for r in asyncio.run(read_all(broker, f"{app}.ticks"))}


async def swap(config: Path, seconds: float) -> None:
    """New weights every second, each of them others, as a trainer would send them."""
    settings = load([], yaml.safe_load(config.read_text()), {})
    sink = KafkaTransport(settings.kafka_settings()).sink()
    await sink.start()
    writer = ModelsWriter(sink, settings.topics.models)
    for turn in range(int(seconds)):
        torch.manual_seed(turn)
        network, meta = Network(settings.model_spec()), WeightsMeta()
        torch.nn.init.normal_(network.out.weight, 0.0, 0.01)
        blob = pack(network, meta)
        await writer.publish(meta.id, blob, {}, int(time.time() * 1000))
        await asyncio.sleep(1.0)
    await sink.stop(Deadline(10.0))


def measure(broker: Broker, folder: Path, app: str, rate: float, seconds: float, beside: str) -> np.ndarray:  # type: ignore[type-arg]
    """Milliseconds of each tick, with nothing, `training` or `swaps` beside it."""
    learn = {"interval": "1ms", "ticks": 1, "budget": "20s", "updates": 100_000, "min_steps": 2000, "swap_min": "1ms"}
    config = configure(folder, broker, app, horizon=12, learn=learn)
    topics_by_broker_time(broker, app, config)

    def wait() -> None:
        if beside == "swaps":
            asyncio.run(swap(config, seconds))
        else:
            time.sleep(seconds)

    serve(folder, config, app, rate, wait, training=beside == "training")
    ticks = tick_times(broker, app)
    begin = min(ticks.values()) + SKIPPED_S * 1000
    waits = []
    for record in asyncio.run(read_all(broker, f"{app}.forecasts")):
        source = msgspec.json.decode(record.value, type=Output).source
        appended = ticks[source.partition, source.offset]
        if appended >= begin:
            waits.append(record.timestamp - appended)
    return np.array(waits)


def report(title: str, waits: np.ndarray, rate: float) -> None:  # type: ignore[type-arg]
    p50, p99, p999 = np.percentile(waits, [50, 99, 99.9])
    count = f"{len(waits)} ticks at {rate:.0f}/s"
    print(f"{title:<18} {count}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, p99.9 {p999:.0f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--swaps", action="store_true", help="new weights every second beside it, not a trainer")
    options = parser.parse_args()
    other = "swaps" if options.swaps else "training"
    titles = {"": "serving alone", "training": "trainer flat out", "swaps": "a swap a second"}
    with tempfile.TemporaryDirectory() as name:
        broker = Broker(Path(name) / "kafka").start()
        try:
            # A broker compiles its own code for its first minute and more; whoever came first would look the worse.
            measure(broker, Path(name), "first", options.rate, options.seconds * 1.5, "")
            found: dict[str, list[np.ndarray]] = {"": [], other: []}  # type: ignore[type-arg]
            for turn in range(options.rounds):
                for beside in ("", other) if turn % 2 == 0 else (other, ""):
                    app = f"{beside or 'quiet'}{turn}"
                    waits = measure(broker, Path(name), app, options.rate, options.seconds, beside)
                    found[beside].append(waits)
                    report(titles[beside], waits, options.rate)
            print("all rounds:")
            both = [np.concatenate(found[beside]) for beside in ("", other)]
            for beside, waits in zip(("", other), both, strict=True):
                report(titles[beside], waits, options.rate)
            for percent in (99.0, 99.9):
                alone, beside_it = (float(np.percentile(waits, percent)) for waits in both)
                print(f"p{percent:g}: {beside_it / max(alone, 1.0):.2f} of that alone, {beside_it - alone:+.0f} ms")
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
