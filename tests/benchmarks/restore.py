"""How fast a partition's states come back from the changelog: one core for the client, the broker beside it.

Writes the states of many series to the state topic of a real broker, as a worker does, and brings them back with the
worker's own Restorer in a process of its own: GRU 64 x 2, 3 quantiles, and the shape that is asked for. Client and broker
share the machine, so the processor time per series is shown beside the wall clock, and what of it is unpacking.

    KAFKA_HOME=… python tests/benchmarks/restore.py [--series 100000] [--channels 4] [--horizon 12] [--step 1s]
        [--experts full|light|off] [--season 1d] [--repeat 3] [--cold] [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import mmap
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import shapes
from throughput import PARTITIONS, side

TOPIC = "restore.ticks"
STEPS, BATCH = 3, 2000


def settings(servers: str, series: int, shape: dict[str, Any]) -> Any:
    from streamrnn.config.settings import load

    return load(
        [],
        {
            "app": "restore",
            "kafka.bootstrap_servers": servers,
            "input": TOPIC,
            "series_max": series,
            **shape,
        },
        {},
    )


def engine(chosen: Any) -> Any:
    import torch

    from streamrnn.model.network import Network
    from streamrnn.stream.engine import Engine

    torch.manual_seed(0)
    made = Engine(chosen.stream_spec())
    made.load(Network(chosen.model_spec()), "bench")
    return made


# ── the states ───────────────────────────────────────────────────────────────────────────────────────────────────


async def write(servers: str, series: int, shape: dict[str, Any]) -> int:
    """States that have seen a few steps, and their checkpoints; returns the bytes of one."""
    import numpy as np

    from streamrnn.records import TickBatch
    from streamrnn.stores.changelog import CHECKPOINT, Checkpoint, encode_checkpoint, layout_key, series_key
    from streamrnn.stream.snapshot import Snapshots
    from streamrnn.transports.base import Deadline, TopicNeed
    from streamrnn.transports.kafka.transport import KafkaTransport

    chosen = settings(servers, series, shape)
    transport = KafkaTransport(chosen.kafka_settings())
    admin = transport.admin()
    await admin.start()
    await admin.create([TopicNeed(TOPIC, PARTITIONS, {}), *chosen.topic_needs(PARTITIONS)])
    await admin.stop()
    made = engine(chosen)
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        for begin in range(0, series, BATCH):
            count = min(BATCH, series - begin)
            ids = np.arange(begin, begin + count)
            ts = np.full(count, 1_700_000_000_000 + made.spec.step_ms * step, dtype=np.int64)
            made.process(
                TickBatch(
                    [], (ids % PARTITIONS).astype(np.int32), ids + step * series, ts, [f"sensor-{i:06d}" for i in ids],
                    ts, rng.normal(5, 1, (count, len(chosen.channels))), np.full(count, -1, dtype=np.int16),
                )
            )  # fmt: skip
    snapshots, sink = Snapshots(made), transport.sink()
    await sink.start()
    layout, text = snapshots.layout()
    size, end = 0, STEPS * series
    for partition in range(PARTITIONS):
        await sink.append_many(chosen.topics.state, partition, [layout_key(layout)], [text], [0])
        rows = np.array(sorted(made.table.series(partition).values()))
        for begin in range(0, len(rows), BATCH):
            names, records = snapshots.pack(partition, rows[begin : begin + BATCH], end, 1)
            size = len(records[0])
            keys = [series_key(name) for name in names]
            await sink.append_many(chosen.topics.state, partition, keys, records, [0] * len(keys))
            await (await sink.seal()).wait(Deadline(60.0))
        done = encode_checkpoint(Checkpoint(TOPIC, end, "bench", 1_700_000_000_000 + 1000 * STEPS, 1))
        await sink.append_many(chosen.topics.state, partition, [CHECKPOINT], [done], [0])
        await (await sink.seal()).wait(Deadline(60.0))
    await sink.stop(Deadline(10.0))
    return size


# ── one side, a process of its own ───────────────────────────────────────────────────────────────────────────────


def have(count: int) -> None:
    """Has the machine hold so much memory that nobody uses: where its host lends it memory page by page, that takes ten
    times as long as a process waits for memory that is there."""
    import numpy as np

    np.empty(count, dtype=np.uint8)[:: mmap.PAGESIZE] = 1  # in pages as large as those of the table's arrays


async def restore(servers: str, series: int, shape: dict[str, Any], cold: bool) -> dict[str, float]:
    """Twice: into memory that the process has yet to be given, then into the rows that were freed again."""
    chosen = settings(servers, series, shape)
    made = engine(chosen)
    if not cold:
        have(2 * series * made.table.row_bytes())
    figures: dict[str, float] = {}
    for memory in ("fresh", "used"):
        figures |= {f"{memory}_{name}": value for name, value in (await restored(chosen, made)).items()}
        assert len(made.table) == series, f"{len(made.table)} of {series} came back"
        for partition in range(PARTITIONS):
            made.drop(partition)
    return figures


async def restored(chosen: Any, made: Any) -> dict[str, float]:
    from streamrnn.inputs import of_topic
    from streamrnn.serving.commit_note import ReplayPoints
    from streamrnn.serving.partition import Partition, Partitions
    from streamrnn.serving.restore import Restorer
    from streamrnn.stream.snapshot import Snapshots
    from streamrnn.transports.base import Deadline
    from streamrnn.transports.kafka.transport import KafkaTransport

    partitions = Partitions(of_topic(chosen.input))
    for number in range(PARTITIONS):
        partition = Partition(number, ReplayPoints(made.spec))
        partition.assigned(None, 0, 0)
        partitions.put(partition)
    restorer = Restorer(KafkaTransport(chosen.kafka_settings()), chosen.topics.state, partitions, made, Snapshots(made))
    wall, cpu, applying = time.perf_counter(), time.process_time(), 0.0
    while restorer.active:
        await restorer.read()
        begin = time.process_time()
        restorer.apply()
        applying += time.process_time() - begin
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "apply": applying}
    await restorer.stop(Deadline(5.0))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    shapes.add_arguments(parser)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="fresh memory is to come from the machine's host, too")
    parser.add_argument("--profile", action="store_true", help="where the client's time goes, by function")
    parser.add_argument("--side")
    options = parser.parse_args()
    if options.side:
        from streamrnn.app.warm_up import warm_up_kernels
        from streamrnn.serving.worker import prepare_process

        prepare_process()
        shape = shapes.settings_of(options)
        warm_up_kernels(settings(options.side, 2, shape))
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        print(json.dumps(asyncio.run(restore(options.side, options.series, shape, options.cold))), flush=True)
        if options.profile:
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(35)
        return
    from broker import Broker

    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder), cpu="1").start()
        try:
            size = asyncio.run(write(broker.servers, options.series, shapes.settings_of(options)))
            arguments = ["--side", broker.servers, "--series", str(options.series), *shapes.arguments_of(options)]
            arguments += ["--cold"] if options.cold else []
            runs = [side(arguments, "0", __file__) for _ in range(options.repeat + 1)][1:]  # the first warms the broker
            if options.profile:
                side([*arguments, "--profile"], "0", __file__, loud=True)
        finally:
            broker.stop()
    of = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(
        f"{shapes.title(options)}: {options.series} series of {size} bytes in {PARTITIONS} partitions; "
        f"medians of {len(runs)} runs, µs a series"
    )
    print(
        "  rows in             clock  client's processor  of it unpacking    series/s by the clock, a core of the client"
    )
    for memory, title in (("fresh", "fresh memory"), ("used", "memory at hand")):
        wall, cpu, apply = (of[f"{memory}_{name}"] / options.series * 1e6 for name in ("wall", "cpu", "apply"))
        print(f"  {title:<15}{wall:10.2f}{cpu:20.2f}{apply:17.2f}{1e6 / wall:25.0f}{1e6 / cpu:24.0f}")


if __name__ == "__main__":
    main()
