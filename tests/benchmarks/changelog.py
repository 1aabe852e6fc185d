"""What states cost in the changelog: bytes a second before compression, how far apart checkpoints are, what codecs save,
and what a replay costs that the interval makes longer.

The service's own worker on the memory transport and a virtual clock, every series speaking once a second, a network in
use: what is counted is what a broker would be sent, keys and values. For the replay the worker is killed without a
checkpoint, and the next one brings all states up from the input: processor time of both, decoding to sending.

    python tests/benchmarks/changelog.py [--series 500] [--channels 4] [--horizon 12] [--experts ...] [--seconds 300]
        [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "simulation"))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import shapes
import structlog
import torch
import yaml
from aiokafka import codec
from clock import run

from simulators.faults import FaultPlan
from simulators.sensors import Sensors
from simulators.stream import Ticks
from streamrnn.config.settings import Checkpoint, Settings, load
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack, weights_id
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.serving.worker import Worker
from streamrnn.stores.changelog import CHECKPOINT, SERIES
from streamrnn.stores.models import ModelsWriter
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport

PARTITIONS = 4
START = 1_700_000_000_000
SESSION_S = 6.0
# Records of one produce batch, about: `kafka.batch_bytes_max`.
BATCH_BYTES = 900_000
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": codec.gzip_encode,
    "snappy": codec.snappy_encode,
    "lz4": codec.lz4_encode,
    "zstd": codec.zstd_encode,
}
Written = tuple[float, int, bytes, bytes]  # when, partition, key, value


class Service:
    """A worker on a broker in memory, its input, and weights that are not trivial."""

    def __init__(self, chosen: Settings, series: int) -> None:
        self.chosen, self.broker, self.series = chosen, MemoryBroker(SESSION_S, 300.0), series
        for name in [chosen.input, *chosen.topics.names()]:
            self.broker.create(name, 1 if name == chosen.topics.models else PARTITIONS)
        self._ticks, self._lives, self.second = (
            iter(Ticks(Sensors(series, chosen.channels), FaultPlan(), START, 1000)),
            0,
            0,
        )

    async def publish(self) -> None:
        torch.manual_seed(0)
        network = Network(self.chosen.model_spec())
        torch.nn.init.normal_(network.out.weight, 0.0, 0.01)
        sink = MemoryTransport(self.broker).sink()
        await sink.start()
        blob = pack(network, WeightsMeta(), self.chosen.meaning())
        await ModelsWriter(sink, self.chosen.topics.models).publish(weights_id(network), blob, {}, 0)

    def send(self) -> None:
        """A second of it."""
        for _ in range(self.series):
            tick = next(self._ticks)
            partition = zlib.crc32(tick.key or b"") % PARTITIONS
            self.broker.append(self.chosen.input, partition, tick.key, tick.value, START + 1000 * self.second)
        self.second += 1
        self.broker.announce()

    def start(self) -> asyncio.Task[None]:
        self._lives += 1
        self.client = f"w{self._lives}"
        transport, observer = MemoryTransport(self.broker, self.client), WorkerObserver(self.chosen.stream_spec())
        self.worker = Worker(self.chosen, transport, observer, lambda: START)
        loop: Any = asyncio.get_running_loop()
        running: asyncio.Task[None] = loop.spawn(self.client, self.worker.run())
        return running

    def kill(self) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.stop_process(self.client)

    def at_end(self) -> bool:
        """All is processed and committed."""
        known, input_ = self.broker.groups.get(self.chosen.app), self.chosen.input
        pump, ends = self.worker.pump, {p: self.broker.end(input_, p) for p in range(PARTITIONS)}
        return (
            known is not None
            and {p: c.offset for (_, p), c in known.committed.items()} == ends
            and pump is not None
            and {p: owned.position for p, owned in pump.owned.items()} == ends
        )

    async def spent(self) -> float:
        """Processor seconds in batches until all is processed."""
        while not self.at_end():
            await asyncio.sleep(0.01)
        return float(self.worker.observer.metrics.processor._value.get())


async def lived(service: Service, seconds: int) -> list[Written]:
    """What is appended to the state topic, oldest first."""
    await service.publish()
    loop, found = asyncio.get_running_loop(), list[Written]()
    running, seen = service.start(), dict.fromkeys(range(PARTITIONS), 0)
    for _ in range(seconds):
        service.send()
        await asyncio.sleep(1.0)
        for partition, log in enumerate(service.broker.topics[service.chosen.topics.state]):
            found += [(loop.time(), partition, r.key or b"", r.value or b"") for r in log[seen[partition] :]]
            seen[partition] = len(log)
    service.worker.stop()
    await running
    return found


async def replayed(service: Service, seconds: int) -> tuple[float, float]:
    """Records a second of processor time: served, and replayed after a kill."""
    await service.publish()
    for _ in range(seconds):
        service.send()
    figures: list[float] = []
    for _ in range(3):
        service.start()
        figures.append(service.series * seconds / await service.spent())
        service.kill()
    return figures[0], max(figures[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=500)
    shapes.add_arguments(parser)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    torch.set_num_threads(1)
    changes: dict[str, Any] = {key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in options.set)}
    chosen = load(
        [],
        {"input": "ticks", "train": "off", **shapes.settings_of(options), **changes},
        {},
    )
    written = run(lived(Service(chosen, options.series), options.seconds))
    # From the first checkpoint on, in whole rounds.
    at = [when for when, partition, key, _ in written if key == CHECKPOINT and partition == 0][1:]
    within = [len(key) + len(value) for when, _, key, value in written if at[0] < when <= at[-1]]
    states = [value for _, _, key, value in written if key.startswith(SERIES)]
    print(
        f"{options.series} series, {shapes.title(options)}: a state of {len(states[-1])} bytes; "
        f"{sum(within) / (at[-1] - at[0]):.0f} bytes a second over {at[-1] - at[0]:.0f} s,\n"
        f"  a checkpoint of a partition every {(at[-1] - at[0]) / (len(at) - 1):.1f} s"
    )
    rare = chosen.model_copy(update={"checkpoint": Checkpoint(interval="1d", records=10**9)})
    served, again = run(replayed(Service(rare, options.series), max(1, 60_000 // options.series)))
    print(
        f"  served {served:.0f} records a second of processor time, replayed silently {again:.0f}: {again / served:.2f} times"
    )
    newest = {key: value for _, _, key, value in written if key.startswith(SERIES)}
    batch = b"".join(newest.values())[:BATCH_BYTES]
    for name, encode in CODECS.items():
        encode(batch)
        begin = time.process_time()
        size = len(encode(batch))
        spent = time.process_time() - begin
        print(f"  {name:<7}{size / len(batch):6.2f} of the bytes, {1e9 * spent / len(batch):6.1f} ms a MB")


if __name__ == "__main__":
    main()
