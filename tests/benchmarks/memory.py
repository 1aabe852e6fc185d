"""Memory: what a series takes, and that a stream of ever new series leaves the process at its size.

    python tests/benchmarks/memory.py [--ticks 1000000] [--against PATH [--repeat K]]

`--against PATH`: what a series takes here and in another checkout, each in processes of its own, by turns.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from against import HERE, a_series, by_turns, called, checkout, ratio

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
    parser.add_argument("--against", type=checkout, help="another checkout of streamrnn")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if options.against:
        compare(options.against, options.repeat)
        return
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    found = a_series()
    print(
        f"GRU 64 x 2, 4 channels, horizon 12, 3 quantiles: {found['state']} bytes of state a series in the arrays,\n"
        f"  {found['process']:.0f} bytes of process a series, its name and index entry counted in "
        "(from 10,000 to 20,000 series)"
    )

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


def compare(other: Path, repeat: int) -> None:
    trees = (HERE, other)
    found: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for k in range(repeat + 1):
        for tree in by_turns(k, trees):
            figures = called(tree, "against", "a_series", {})
            if k:  # the first round compiles, which takes memory of its own
                found[tree].append(figures)
    print(f"bytes a series, medians of {repeat} rounds")
    for tree in trees:
        state, process = (statistics.median(f[of] for f in found[tree]) for of in ("state", "process"))
        print(f"  {tree!s:<35}{state:9.0f} in the arrays {process:9.0f} of process")
    by_state, by_process = (ratio(*([f[of] for f in found[tree]] for tree in trees)) for of in ("state", "process"))
    print(f"  ratio in the arrays {by_state}, of process {by_process}")


if __name__ == "__main__":
    main()
