"""Memory: what a series takes, and that a stream of ever new series leaves the process at its size.

python tests/benchmarks/memory.py [--ticks 1000000]
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from streamrnn.encode import Encoder
from streamrnn.model.network import Network
from streamrnn.records import TickBatch
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine

BATCH = 1000
START = 1_700_000_000_000


def batch(names: list[str], begin: int, rng: np.random.Generator) -> TickBatch:
    count = len(names)
    ts = START + 1000 * np.arange(begin, begin + count, dtype=np.int64)
    return TickBatch(
        [], np.zeros(count, np.int32), np.arange(begin, begin + count), ts, names, ts, rng.normal(5, 1, (count, 4)),
        np.full(count, -1, dtype=np.int16),
    )  # fmt: skip


def engine(series_max: int) -> Engine:
    stream = StreamSpec(channels=("a", "b", "c", "d"), step_ms=1000, horizon=12, series_max=series_max)
    made = Engine(stream)
    made.load(Network(ModelSpec(4, 12, stream.quantiles)), "bench")
    return made


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=1_000_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    before = 0.0

    held = engine(20_000)
    for begin in range(0, 20_000, BATCH):
        if begin == 10_000:  # compiled code and working buffers are there by now
            before = resident()
        held.process(batch([f"s{i}" for i in range(begin, begin + BATCH)], begin, rng))
    per_series = (resident() - before) * 2**20 / 10_000
    print(
        f"GRU 64 x 2, 4 channels, horizon 12, 3 quantiles: {held.table.row_bytes()} bytes of state a series in the arrays,"
    )
    print(
        f"  {per_series:.0f} bytes of process a series, its name and index entry counted in (from 10,000 to 20,000 series)"
    )
    del held

    churn = engine(1000)
    encoder = Encoder(churn.spec, "ticks")
    sizes: list[float] = []
    every = max(options.ticks // 20, BATCH)
    evicted = 0
    for begin in range(0, options.ticks, BATCH):
        # Half of the ticks come from series that were never seen and never come back.
        names = [f"new-{begin + i}" if i % 2 else f"s{i % 200}" for i in range(BATCH)]
        ticks = batch(names, begin, rng)
        outputs = churn.process(ticks)
        encoder.forecasts(outputs.forecasts, ticks)
        evicted += outputs.evicted
        if (begin + BATCH) % every == 0:
            sizes.append(resident())
    settled = np.array(sizes[len(sizes) // 4 :])
    slope = np.polyfit(np.arange(len(settled)) * every / 1e6, settled, 1)[0]
    print(
        f"{options.ticks} ticks, {evicted} series let go: {sizes[0]:.0f} MB after {every}, {sizes[-1]:.0f} MB at the end,"
    )
    print(f"  slope over the last three quarters {slope:+.2f} MB a million ticks")


if __name__ == "__main__":
    main()
