"""What states cost in the changelog: bytes a second before compression, how far apart checkpoints are, what codecs save.

The service's own worker on the memory transport and a virtual clock, every series speaking once a second, a network in
use: what is counted is what a broker would be sent, keys and values.

    python tests/benchmarks/changelog.py [--series 500] [--channels 4] [--horizon 12] [--seconds 300] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "simulation"))
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

import structlog
import torch
import yaml
from aiokafka import codec
from clock import run

from simulators.faults import FaultPlan
from simulators.sensors import Sensors
from simulators.stream import Ticks
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack, weights_id
from streamrnn.service.config import Settings, load
from streamrnn.service.observe import WorkerObserver
from streamrnn.service.worker import Worker
from streamrnn.transports.changelog import CHECKPOINT, SERIES
from streamrnn.transports.memory import MemoryBroker, MemoryTransport
from streamrnn.transports.models import ModelsWriter

PARTITIONS = 4
START = 1_700_000_000_000
# Records of one produce batch, about: `kafka.batch_bytes_max`.
BATCH_BYTES = 900_000
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": codec.gzip_encode,
    "snappy": codec.snappy_encode,
    "lz4": codec.lz4_encode,
    "zstd": codec.zstd_encode,
}
Written = tuple[float, int, bytes, bytes]  # when, partition, key, value


async def lived(chosen: Settings, series: int, seconds: int) -> list[Written]:
    """What is appended to the state topic, oldest first."""
    broker = MemoryBroker()
    for name in [chosen.input, *chosen.topics.names()]:
        broker.create(name, 1 if name == chosen.topics.models else PARTITIONS)
    torch.manual_seed(0)
    network = Network(chosen.model_spec())
    torch.nn.init.normal_(network.out.weight, 0.0, 0.01)
    sink = MemoryTransport(broker).sink()
    await sink.start()
    blob = pack(network, WeightsMeta(skill=[0.9] * chosen.horizon), chosen.meaning())
    await ModelsWriter(sink, chosen.topics.models).publish(weights_id(network), blob, {}, 0)
    loop, found = asyncio.get_running_loop(), list[Written]()
    worker = Worker(chosen, MemoryTransport(broker), WorkerObserver(chosen.stream_spec()), lambda: START)
    running = asyncio.create_task(worker.run())
    ticks, seen = iter(Ticks(Sensors(series), FaultPlan(), START, 1000)), dict.fromkeys(range(PARTITIONS), 0)
    for second in range(seconds):
        for _ in range(series):
            tick = next(ticks)
            partition = zlib.crc32(tick.key or b"") % PARTITIONS
            broker.append(chosen.input, partition, tick.key, tick.value, START + 1000 * second)
        broker.announce()
        await asyncio.sleep(1.0)
        for partition, log in enumerate(broker.topics[chosen.topics.state]):
            found += [(loop.time(), partition, r.key or b"", r.value or b"") for r in log[seen[partition] :]]
            seen[partition] = len(log)
    worker.stop()
    await running
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=500)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    torch.set_num_threads(1)
    changes: dict[str, Any] = {key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in options.set)}
    names = [f"c{i}" for i in range(options.channels)] if options.channels != 4 else ["temp", "flow", "pressure", "vibration"]
    chosen = load(
        [],
        {"input": "ticks", "channels": names, "step": "1s", "horizon": options.horizon, "train": "off", **changes},
        {},
    )
    written = run(lived(chosen, options.series, options.seconds))
    # From the first checkpoint on, in whole rounds.
    at = [when for when, partition, key, _ in written if key == CHECKPOINT and partition == 0][1:]
    within = [len(key) + len(value) for when, _, key, value in written if at[0] < when <= at[-1]]
    states = [value for _, _, key, value in written if key.startswith(SERIES)]
    print(
        f"{options.series} series, {options.channels} channels, horizon {options.horizon}: a state of {len(states[-1])} bytes; "
        f"{sum(within) / (at[-1] - at[0]):.0f} bytes a second over {at[-1] - at[0]:.0f} s,\n"
        f"  a checkpoint of a partition every {(at[-1] - at[0]) / (len(at) - 1):.1f} s"
    )
    newest = {key: value for _, _, key, value in written if key.startswith(SERIES)}
    batch = b"".join(newest.values())[:BATCH_BYTES]
    for name, encode in CODECS.items():
        begin = time.process_time()
        size = len(encode(batch))
        spent = time.process_time() - begin
        print(f"  {name:<7}{size / len(batch):6.2f} of the bytes, {1e9 * spent / len(batch):6.1f} ms a MB")


if __name__ == "__main__":
    main()
