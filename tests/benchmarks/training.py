"""What a GPU is worth to the trainer: whole rounds (draw a batch, take it to the device, truncated back-propagation through
its chunks, evaluation and gate) on every device of this machine, by how many series train side by side.

Same ticks, same network (GRU 64 × 2, 4 channels, horizon 12), same `TrainSpec`; the devices take turns within a round and
medians over the rounds are given. An update is one step of the optimiser on one chunk; a series-step is one step of one
series that gradients went through.

    python tests/benchmarks/training.py [--series 32 256 2048] [--updates 80] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from streamrnn.kernels.columns import rungs_of
from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.model.device import choose, describe, full_precision
from streamrnn.records import TickBatch
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.forecasting import inputs_of
from streamrnn.stream.learner import Learner

STREAM = StreamSpec(channels=("a", "b", "c", "d"), step_ms=1000, horizon=12)
START_MS = 1_700_000_000_000
STEPS = 320  # of every series: more than a stretch and the held-out steps take


def ticks(series: int) -> TickBatch:
    """Noisy sines of every series, step by step."""
    rng = np.random.default_rng(0)
    count = STEPS * series
    step, which = np.divmod(np.arange(count), series)
    phase = rng.uniform(0, 6, (series, len(STREAM.channels)))
    values = np.sin(step[:, None] * 0.3 + phase[which]) + 0.05 * rng.standard_normal((count, len(STREAM.channels)))
    names = [f"s{k}" for k in range(series)]
    ts = START_MS + step * STREAM.step_ms
    return TickBatch(
        records=[],
        partition=np.zeros(count, dtype=np.int32),
        offset=np.arange(count, dtype=np.int64),
        series=names * STEPS,
        record_ts_ms=ts,
        ts_us=ts * 1000,
        values=values,
        channel=np.full(count, -1, dtype=np.int16),
    )


def learner(device: torch.device, batch_series: int, updates: int, like: Learner | None, batch: TickBatch) -> Learner:
    """Fed with the batch, or with what `like` was fed with."""
    train = TrainSpec(batch_steps=16 * batch_series, batch_series=batch_series)
    spec = LearnSpec(train=train, updates=updates, series_max=4096)
    model = ModelSpec(tuple(inputs_of(STREAM)), rungs_of(STREAM.horizon))
    made = Learner(replace(STREAM, series_max=4096), model, spec, device)
    if like is None:
        made.feed(batch)
    else:
        made.buffer = like.buffer
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, nargs="+", default=[32, 256, 2048])
    parser.add_argument("--updates", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0: as torch chooses")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    torch.set_flush_denormal(True)
    full_precision()
    devices = [torch.device("cpu")] + ([choose()] if choose().type != "cpu" else [])
    names = [f"processor, {torch.get_num_threads()} threads", *(describe(d) for d in devices[1:])]
    print(f"torch {torch.__version__}; trunk 128, GRU 32, 4 channels, horizon 12, stretches of 24 steps")
    print(f"{'series side by side':>20} {'device':>28} {'updates/s':>10} {'series-steps/s':>15} {'ratio':>7}")
    for series in asked.series:
        batch = ticks(series)
        learners: list[Learner] = []
        for device in devices:
            learners.append(learner(device, series, asked.updates, learners[0] if learners else None, batch))
        rates: list[list[float]] = [[] for _ in devices]
        for lap in range(asked.rounds + 1):
            for k, own in enumerate(learners):
                begin = time.perf_counter()
                done = own.round()
                seconds = time.perf_counter() - begin
                if lap:  # the first warms the device
                    rates[k].append(done.updates / seconds)
        medians = [statistics.median(r) for r in rates]
        chunk = learners[0].spec.train.chunk_len
        for name, rate in zip(names, medians, strict=True):
            print(f"{series:>20,} {name:>28} {rate:>10.1f} {rate * series * chunk:>15,.0f} {rate / medians[0]:>7.2f}")


if __name__ == "__main__":
    main()
