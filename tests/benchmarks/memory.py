"""Memory: what a series takes and what of it is for what, and that a stream of ever new series leaves the process at its
size.

    python tests/benchmarks/memory.py [--ticks 1000000] [--against PATH [--repeat K]]
    python tests/benchmarks/memory.py --channels 7 --horizon 96 [--step 15m] [--experts full|light|off] [--season 1d]

The second prints bytes a series by group of columns, those of its record in the changelog, and how long one takes to be
packed and unpacked (`restore.py` measures it through a broker). `--columns`: every column.

`--against PATH`: what a series takes here and in another checkout, each in processes of its own, by turns.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import shapes
from against import HERE, a_series, by_turns, called, checkout, ratio

from streamrnn.config.settings import Settings, load
from streamrnn.kernels.columns import rungs_of
from streamrnn.model.network import Network
from streamrnn.records import TickBatch
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine, engine_fields
from streamrnn.stream.snapshot import Restored, Snapshots
from streamrnn.transports.memory.broker import MemoryRecord
from streamrnn.wire.encode import Encoder
from streamrnn.wire.packed import packed

BATCH = 1000
START = 1_700_000_000_000
# What the columns are for, by their names or the beginnings of these. What the front end keeps is the grid's and the
# scale's; what stands nowhere is "other".
GROUPS: dict[str, tuple[str, ...]] = {
    "network": ("state", "generation", "net_ready"),
    "pending": ("pend_", "anchor", "unit", "born"),
    "calibration": ("spread", "theta", "sigma", "level_theta"),
    "experts": (
        "x", "known", "deviation", "phases", "profile", "visits", "means", "week", "moves_", "stack_", "sizes",
        "unbroken", "frame_step",
    ),
    "mixing": ("loss", "losses", "weight", "move_size", "energy", "slope", "error_", "network_worth"),
    "fills": ("covariance", "carried", "fill_width", "seen_range", "ends", "one_step", "next_move", "missed"),
}  # fmt: skip
GRID, SPARE, OTHER = "grid and scale", "spare", "other"
# Series that are packed and unpacked, and bytes of them.
RESTORED, RESTORED_BYTES = 2000, 100_000_000


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
    made.load(Network(ModelSpec(tuple(made.inputs), rungs_of(12))), "bench")
    return made


def group_of(column: str, own: set[str]) -> str:
    """`own`: columns of the engine; all others are the front end's."""
    if column.startswith("spare"):
        return SPARE
    if column not in own:
        return GRID
    exact = [group for group, names in GROUPS.items() if column in names]
    begun = [group for group, names in GROUPS.items() if column.startswith(tuple(n for n in names if len(n) > 3))]
    return (exact or begun or [OTHER])[0]


def report(chosen: Settings, title: str, columns: bool) -> None:
    """Prints what a series of this configuration takes, and what its record takes."""
    spec = chosen.stream_spec()
    rows = min(RESTORED, max(1, RESTORED_BYTES // sum(field.size for field in engine_fields(spec))))
    made = Engine(replace(spec, series_max=rows))
    made.load(Network(chosen.model_spec()), "bench")
    table, own = made.table, {"state", *(field.name for field in engine_fields(spec))}
    sizes = {name: field.size for name, field in table.fields.items()}
    groups: dict[str, int] = dict.fromkeys([*GROUPS, GRID], 0)
    for name, size in sizes.items():
        group = group_of(name, own)
        groups[group] = groups.get(group, 0) + size
    assert sum(groups.values()) <= table.row_bytes()
    print(f"{title}: {table.row_bytes()} bytes of state a series ({table.row_bytes() / 1024:.1f} KiB)")
    for group, size in groups.items():
        print(f"  {group:<16}{size:9d} {100 * size / table.row_bytes():5.1f} %")
    print(f"  {'alignment':<16}{table.row_bytes() - sum(groups.values()):9d}")
    if columns:
        for name in sorted(sizes, key=lambda n: -sizes[n]):
            field = table.fields[name]
            print(
                f"    {name:<22}{sizes[name]:9d}  {group_of(name, own):<16}{np.dtype(field.dtype).name} {field.shape}"
            )
    took = times(made, chosen, rows)
    print(
        f"  record in the changelog {Snapshots(made).record_bytes()} bytes\n"
        f"  {took[0]:.2f} µs of processor time a series to pack it, {took[1]:.2f} to unpack it"
    )


def times(made: Engine, chosen: Settings, rows: int) -> tuple[float, float]:
    """Microseconds of processor time to pack a series that has seen a few ticks, and to restore it; the best of five."""
    spec, rng = chosen.stream_spec(), np.random.default_rng(0)
    names = [f"s{i}" for i in range(rows)]
    for step in range(3):
        ts = np.full(rows, START + step * max(1, spec.step_ms), dtype=np.int64)
        values = rng.normal(5, 1, (rows, len(spec.channels)))
        offsets = np.arange(step * rows, (step + 1) * rows)
        made.process(
            TickBatch([], np.zeros(rows, np.int32), offsets, ts, names, ts, values, np.full(rows, -1, dtype=np.int16))
        )
    out, back = [], []
    writer, there = Snapshots(made), made.table.series(0)
    for _ in range(5):
        begin = time.process_time()
        keys, records = writer.pack(0, np.array([there[name] for name in names]), 3 * rows, 1)
        out.append(time.process_time() - begin)
        fresh = Engine(replace(spec, series_max=rows))
        fresh.load(Network(chosen.model_spec()), "bench")
        reader = Snapshots(fresh)
        states = packed(
            0,
            [
                MemoryRecord("state", 0, i, START, key, value, (), None, False)
                for i, (key, value) in enumerate(zip(keys, records, strict=True))
            ],
        )
        begin = time.process_time()
        found = Restored()
        reader.restore(0, states, found)
        back.append(time.process_time() - begin)
        assert len(fresh.table) == rows, found.refused
    return 1e6 * min(out) / rows, 1e6 * min(back) / rows


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--columns", action="store_true")
    shapes.add_arguments(parser)
    parser.add_argument("--against", type=checkout, help="another checkout of streamrnn")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if options.against:
        if shapes.arguments_of(options) != shapes.arguments_of(parser.parse_args([])):
            parser.error("--against compares the default shape")
        compare(options.against, options.repeat)
        return
    torch.set_num_threads(1)
    chosen = load([], {"input": "ticks", **shapes.settings_of(options)}, {})
    report(chosen, f"GRU 64 x 2, {shapes.title(options)}, 3 quantiles", options.columns)
    if shapes.arguments_of(options) != shapes.arguments_of(parser.parse_args([])):
        return
    rng = np.random.default_rng(0)
    found = a_series()
    print(
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
        f"{options.ticks} ticks, {evicted} series evicted: {sizes[0]:.0f} MB after {every}, {sizes[-1]:.0f} MB at the end,"
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
