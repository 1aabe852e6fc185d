"""Fleets whose best forecast is known: what a network learns of many series together, and what a new one has of it.

Three worlds, each with series of their own constants: `coupled` (two channels that push each other through a tanh), `regimes` (an
autoregression with another coefficient below its threshold than above: Tong & Lim 1980) and `cycle` (van der Pol's oscillator
with noise in its velocity, of which the place alone is seen). In all of them the mean of the next value, given what was seen, is
known; *regret* is the mean squared error of the forecasts one step ahead beyond that of these means, in shares of it.

1. Learning: 20 series of 1,000 ticks each. The regret of the last 4,000 of the 20,000 ticks, with a network and without.
2. A new series: 100 series that begin when the network has learnt from the others. The mean squared error over all horizons of
   their first 100 steps (the first 10 left out), with the network of the fleet and without one.
`unequal`: the worlds' `coupled` again, in 3,000 series of which the r-th speaks in proportion to 1 / (r + 20), 120,000
ticks; each has its own clock (so `gap_max` is 1).

    python tests/benchmarks/fleets.py [--worlds coupled,regimes,cycle,unequal] [--seeds N] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from streamrnn.kernels.columns import rungs_of
from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.records import TickBatch
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.stream.learner import Learner

HORIZON = 4
SERIES, STEPS, NEW, FIRST, LEFT_OUT = 20, 1000, 100, 100, 10
EVERY = 1000  # ticks between two rounds of the trainer
UNEQUAL, UNEQUAL_TICKS = 3000, 120_000
NAMES = ("coupled", "regimes", "cycle", "unequal")

Array = np.ndarray[Any, np.dtype[np.float64]]


def coupled(rng: np.random.Generator, series: int, steps: int) -> tuple[Array, Array]:
    """(values, mean of the value that comes next), [series, step, channel] each."""
    own = rng.uniform(0.3, 0.7, (series, 2))
    push = rng.uniform(1.0, 2.0, (series, 2)) * np.array([1.0, -1.0])
    x, values, means = rng.normal(size=(series, 2)), [], []
    for _ in range(steps):
        means.append(own * x + push * np.tanh(2.0 * x[:, ::-1]))
        values.append(x)
        x = means[-1] + 0.3 * rng.normal(size=x.shape)
    return np.stack(values, axis=1), np.stack(means, axis=1)


def regimes(rng: np.random.Generator, series: int, steps: int) -> tuple[Array, Array]:
    below, above = rng.uniform(-0.9, -0.5, (series, 1)), rng.uniform(0.6, 0.9, (series, 1))
    x, values, means = rng.normal(size=(series, 1)), [], []
    for _ in range(steps):
        means.append(np.where(x < 0.0, below * x - 0.5, above * x - 0.3))
        values.append(x)
        x = means[-1] + 0.5 * rng.normal(size=x.shape)
    return np.stack(values, axis=1), np.stack(means, axis=1)


def cycle(rng: np.random.Generator, series: int, steps: int) -> tuple[Array, Array]:
    """x moves by the velocity of the step before, which two places tell; so the mean of the place after next is known."""
    stiff, dt = rng.uniform(1.0, 3.0, (series, 1)), 0.15
    x, v = rng.normal(size=(series, 1)), rng.normal(size=(series, 1))
    values, means = [], []
    for k in range(steps + 50):
        speed = v + dt * (stiff * (1.0 - x * x) * v - x)
        # Semi-implicit, so that a large step stays on the cycle.
        speed = np.clip(speed, -8.0, 8.0)
        if k >= 50:
            values.append(x)
            means.append(x + dt * speed)
        v = speed + 0.6 * rng.normal(size=v.shape)
        x = x + dt * v
    return np.stack(values, axis=1), np.stack(means, axis=1)


WORLDS = {"coupled": coupled, "regimes": regimes, "cycle": cycle, "unequal": coupled}


def ticks(values: Array, which: np.ndarray[Any, Any], step: np.ndarray[Any, Any]) -> TickBatch:
    """`values` [series, step, channel] of series `which` at its `step`, [tick] each."""
    count = len(which)
    ts_ms = 1_700_000_000_000 + 1000 * step.astype(np.int64)
    return TickBatch(
        records=[],
        partition=np.zeros(count, dtype=np.int32),
        offset=np.arange(count, dtype=np.int64),
        series=[f"s{k}" for k in which],
        record_ts_ms=ts_ms,
        ts_us=ts_ms * 1000,
        values=np.ascontiguousarray(values[which, step]),
        channel=np.full(count, -1, dtype=np.int16),
    )


def _of_ticks(engine: Engine, batch: TickBatch) -> Array:
    """The forecast made at each tick, [tick, channel, horizon]; those of steps that were filled are left out."""
    made = engine.process(batch).forecasts
    own = batch.ts_us[made.tick] == made.ts_us
    own &= [batch.series[tick] == name for tick, name in zip(made.tick.tolist(), made.series, strict=True)]
    assert np.array_equal(made.tick[own], np.arange(len(batch)))
    return made.mean[own]


class Fleet:
    """An engine with experts alone, another with the fleet's network on top, and the learner of the network."""

    def __init__(self, channels: int, series_max: int, seed: int, **more: Any) -> None:
        names = tuple(f"c{k}" for k in range(channels))
        stream = StreamSpec(channels=names, step_ms=1000, horizon=HORIZON, series_max=series_max, **more)
        self.alone, self.engine = Engine(stream), Engine(stream)
        model = ModelSpec(tuple(self.engine.inputs), rungs_of(HORIZON))
        self.learner = Learner(stream, model, LearnSpec(train=TrainSpec(seed=seed)))
        self.accepted = 0

    def feed(self, batch: TickBatch, learn: bool = True) -> tuple[Array, Array]:
        """Forecasts [tick, channel, horizon] with a network and without, each made before its targets were shown."""
        said = _of_ticks(self.engine, batch), _of_ticks(self.alone, batch)
        if learn:
            self.learner.feed(batch)
            if self.learner.ready():
                network = self.learner.round().network
                if network is not None:
                    self.accepted += 1
                    self.engine.load(network, f"round {self.learner.rounds}")
        return said


def learnt(world: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, NAMES.index(world)])
    begin = time.process_time()
    count = UNEQUAL if world == "unequal" else SERIES
    if world == "unequal":
        share = 1.0 / (np.arange(count) + 20.0)
        which = rng.choice(count, size=UNEQUAL_TICKS, p=share / share.sum())
        order = np.argsort(which, kind="stable")
        step = np.empty(len(which), dtype=np.int64)
        spoken = np.bincount(which, minlength=count)
        step[order] = np.arange(len(which)) - np.repeat(np.cumsum(spoken) - spoken, spoken)
        steps = int(step.max()) + 1
    else:
        which, step, steps = np.tile(np.arange(count), STEPS), np.repeat(np.arange(STEPS), count), STEPS
    values, means = WORLDS[world](rng, count + NEW, max(steps, FIRST + HORIZON))
    fleet = Fleet(values.shape[2], count + NEW, seed, **({"gap_max": 1} if world == "unequal" else {}))
    on, off = [], []
    for at in range(0, len(which), EVERY):
        part = slice(at, at + EVERY)
        with_network, without = fleet.feed(ticks(values, which[part], step[part]))
        on.append(with_network[..., 0])
        off.append(without[..., 0])
    last = slice(len(which) * 4 // 5, None)
    best = means[which[last], step[last]]
    come = step[last] + 1 < values.shape[1]
    truth = values[which[last], np.minimum(step[last] + 1, values.shape[1] - 1)][come]
    floor = np.square(best[come] - truth).mean()
    regret = [float(np.square(np.concatenate(each)[last][come] - truth).mean() / floor - 1.0) for each in (on, off)]
    # Series that the network has never seen.
    new, at = np.tile(count + np.arange(NEW), FIRST), np.repeat(np.arange(FIRST), NEW)
    said = fleet.feed(ticks(values, new, at), learn=False)
    late = at >= LEFT_OUT
    truth = np.stack([values[new, at + h] for h in range(1, HORIZON + 1)], axis=-1)
    cold = [float(np.square(each - truth)[late].mean()) for each in said]
    return {
        "world": world,
        "seed": seed,
        "regret": regret[0],
        "regret_without": regret[1],
        "ratio": regret[0] / regret[1],
        "new_ratio": cold[0] / cold[1],
        "accepted": fleet.accepted,
        "processor_s": time.process_time() - begin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", default=",".join(NAMES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = []
    print(f"{'world':<10} {'seed':>4} {'regret':>8} {'without':>8} {'ratio':>6} {'new':>6} {'networks':>8} {'s':>6}")
    for world in asked.worlds.split(","):
        for seed in range(asked.seeds):
            row = learnt(world, seed)
            found.append(row)
            print(
                f"{world:<10} {seed:>4} {row['regret']:>8.4f} {row['regret_without']:>8.4f} {row['ratio']:>6.3f} "
                f"{row['new_ratio']:>6.3f} {row['accepted']:>8} {row['processor_s']:>6.1f}",
                flush=True,
            )
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
