"""What ten million ticks leave in a series' float32 state: the error after them beside that of an engine that began late.

One series of three channels with a day, seasons of noise, spikes of up to 10⁹ σ, standstills, jumps, changes of scale and
gaps. Each stretch of 100,000 ticks ends with 40,000 that are quiet. Over the last 20,000 of them the squared error of the
engine that has seen all is divided by that of one that has seen those 40,000 alone, and its coverage is looked at.

    python tests/benchmarks/long_stream.py [--ticks 10000000] [--horizon 6] [--json OUT]

Fails where the old engine is more than 3 % worse than the young one, or covers otherwise than 90 ± 2 %.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from streamrnn.records import F64, TickBatch
from streamrnn.season import season_of, season_setting
from streamrnn.spec import EXPERTS, StreamSpec
from streamrnn.stream.engine import Engine

STRETCH, QUIET, JUDGED = 100_000, 40_000, 20_000
STEP_MS, START_MS = 3_600_000, 1_700_006_400_000
CHANNELS, CUT = 3, 2000


def settings(horizon: int) -> StreamSpec:
    made = StreamSpec(
        channels=tuple(f"c{k}" for k in range(CHANNELS)), step_ms=STEP_MS, horizon=horizon, idle_after_ms=10**15,
        experts=EXPERTS,
    )  # fmt: skip
    return replace(made, seasons=season_of(season_setting("1d"), STEP_MS, None, horizon))


def stretch(number: int) -> F64:
    """Rows [tick, channel] of a stretch; the same for a number, whoever asks."""
    rng = np.random.default_rng(number)
    hours = (number * STRETCH + np.arange(STRETCH)) % 24
    noise = np.zeros((STRETCH, CHANNELS))
    shocks = 0.3 * rng.standard_normal((STRETCH, CHANNELS)) + 0.2 * rng.standard_normal((STRETCH, 1))
    for t in range(1, STRETCH):
        noise[t] = 0.8 * noise[t - 1] + shocks[t]
    rows = 2.0 * np.sin(2 * np.pi * hours / 24)[:, None] * np.array([1.0, 0.5, 0.0]) + noise
    wild = STRETCH - QUIET
    for _ in range(12):
        c, at = rng.integers(CHANNELS), int(rng.integers(wild - 5000))
        kind, length = rng.integers(5), int(rng.integers(50, 4000))
        if kind == 0:
            rows[at, c] += rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(1, 9)
        elif kind == 1:
            rows[at : at + length, c] = rows[at, c]
        elif kind == 2:
            rows[at : at + length, c] *= 10.0 ** rng.uniform(-3, 3)
        elif kind == 3:
            rows[at : at + length, c] += rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(0, 4)
        else:
            rows[at : at + length // 20, c] = np.nan
    return rows


class Served:
    """An engine and where its stream is."""

    def __init__(self, spec: StreamSpec, begin: int) -> None:
        self.spec, self.engine, self.at = spec, Engine(spec), begin

    def take(self, rows: F64) -> tuple[F64, F64]:
        """(means [row, channel, horizon], quantiles [row, channel, level, horizon])."""
        means, quantiles = [], []
        for begin in range(0, len(rows), CUT):
            part = rows[begin : begin + CUT]
            at = np.arange(self.at, self.at + len(part))
            ts = START_MS + STEP_MS * at
            one = np.full(len(part), -1, np.int16)
            out = self.engine.process(
                TickBatch([], np.zeros(len(part), np.int32), at, ts, ["s"] * len(part), ts * 1000, part.copy(), one)
            ).forecasts
            means.append(out.mean)
            quantiles.append(out.quantiles)
            self.at += len(part)
        return np.concatenate(means), np.concatenate(quantiles)


def judged(rows: F64, means: F64, quantiles: F64) -> tuple[float, float]:
    """(squared error, coverage) of the last origins."""
    horizon = means.shape[2]
    at = np.arange(len(rows) - JUDGED, len(rows) - horizon)
    came = np.stack([rows[at + h] for h in range(1, horizon + 1)], axis=-1)  # [origin, channel, horizon]
    inside = (quantiles[at, :, 0] <= came) & (came <= quantiles[at, :, -1])
    return float(((means[at] - came) ** 2).mean()), float(inside.mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=10_000_000)
    parser.add_argument("--horizon", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    spec = settings(options.horizon)
    old, lines, failed = Served(spec, 0), [], False
    stretches = max(options.ticks // STRETCH, 1)
    looked = {n for n in (0, 1, 4, 9, 29, stretches - 1) if n < stretches}
    for number in range(stretches):
        rows = stretch(number)
        begin, wall, used = old.at, time.perf_counter(), time.process_time()
        means, quantiles = old.take(rows)
        wall, used = time.perf_counter() - wall, time.process_time() - used
        if number not in looked:
            continue
        young = Served(spec, begin + STRETCH - QUIET)
        quiet = rows[-QUIET:]
        error, coverage = judged(rows, means, quantiles)
        fresh, _ = judged(quiet, *young.take(quiet))
        good = bool(error <= 1.03 * fresh and abs(coverage - 0.9) <= 0.02)
        failed |= not good
        lines.append({
            "ticks": (number + 1) * STRETCH, "error": error, "young": fresh, "ratio": error / fresh,
            "coverage": coverage, "us_a_tick": wall / STRETCH * 1e6, "processor_us_a_tick": used / STRETCH * 1e6,
        })  # fmt: skip
        print(
            f"{(number + 1) * STRETCH:>10,} ticks  error / that of a young engine {error / fresh:.4f}  coverage {coverage:.4f}"
            f"  {wall / STRETCH * 1e6:.1f} us a tick{'' if good else '  FAILED'}",
            flush=True,
        )
    print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
