"""Ticks, networks and comparisons for the engine's tests."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch

from streamrnn.kernels.columns import rungs_of
from streamrnn.model.gate import Evaluation
from streamrnn.model.network import Network
from streamrnn.records import F64, I32, I64, Outputs, TickBatch
from streamrnn.season import Season, season_of, season_setting
from streamrnn.spec import Cell, ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.stream.forecasting import inputs_of
from streamrnn.stream.resting import Worth
from streamrnn.wire.encode import Encoder
from streamrnn.wire.packed import Packed, PackedRecord
from streamrnn.wire.packed import packed as packed_records

START = 1_700_000_000_000

# Experts and seasons of steps of a second, as they differ in what a series keeps.
KINDS: dict[str, dict[str, Any]] = {
    "no experts": {"experts": ()},
    "no season": {},
    "a season": {"seasons": (Season("8s", 8, 1.0, 8),)},
    "two seasons": {"seasons": (Season("8s", 8, 1.0, 8), Season("1m", 60, 1.0, 60))},
    "between bins": {"seasons": (Season("1m", 24, 0.4, 60),)},
    "a key": {"seasons": season_of(season_setting({"key": "day_type"}), 1000, None, 4)},
    "light": {"seasons": (Season("8s", 8, 1.0, 8),), "experts": ("season-ago", "profile")},
    "a season ago alone": {"seasons": (Season("8s", 8, 1.0, 8),), "experts": ("season-ago",)},
    "deviations alone": {"seasons": (Season("8s", 8, 1.0, 8),), "experts": ("deviations",)},
}


def spec(**changes: Any) -> StreamSpec:
    base: dict[str, Any] = {
        "channels": ("a", "b", "c"),
        "step_ms": 1000,
        "horizon": 4,
        "warm_up": 8,
        "gap_max": 6,
        "idle_after_ms": 9000,
        "series_max": 64,
    }
    return StreamSpec(**{**base, **changes})


# Networks of every kind, by what `network` is given.
NETWORKS: list[dict[str, Any]] = [
    *({"cell": cell} for cell in get_args(Cell)),
    {"conv": 4},
    {"cell": "gru-d", "conv": 3, "layers": 2},
    {"cell": "wavenet", "layer_norm": True, "conv": 2},
    {"head": "vector"},
    {"head": "iterated", "cell": "lstm"},
    {"head": "iterated", "cell": "wavenet", "conv": 2},
    {"head": "encoder-decoder"},
    {"head": "encoder-decoder", "cell": "gru-d", "conv": 2},
]


def network(stream: StreamSpec, cell: Any = "gru", seed: int = 0, **shape: Any) -> Network:
    """Weights that say something: a fresh network says nothing."""
    torch.manual_seed(seed)
    made = Network(
        ModelSpec(
            inputs=tuple(inputs_of(stream)),
            rungs=rungs_of(stream.horizon),
            cell=cell,
            **{"trunk": 10, "hidden": 6, **shape},
        )
    )
    torch.nn.init.normal_(made.out.weight, 0.0, 0.2)
    torch.nn.init.normal_(getattr(made.beside, "decoder", made.beside).weight, 0.0, 0.2)
    return made.eval()


def batch(series: list[str], ts: Any, values: Any, partition: Any = 0, record_ts: Any = None) -> TickBatch:
    count = len(series)
    times: I64 = np.asarray(ts, dtype=np.int64)
    parts: I32 = (
        np.full(count, partition, dtype=np.int32) if np.isscalar(partition) else np.asarray(partition, np.int32)
    )
    return TickBatch(
        records=[],
        partition=parts,
        offset=np.arange(count, dtype=np.int64),
        record_ts_ms=times if record_ts is None else np.asarray(record_ts, dtype=np.int64),
        series=series,
        ts_us=times * 1000,
        values=np.asarray(values, dtype=np.float64),
        channel=np.full(count, -1, dtype=np.int16),
    )


def walk(
    count: int, names: list[str], channels: int = 3, seed: int = 0, missing: float = 0.1, skip: float = 0.1
) -> TickBatch:
    """`count` ticks of several series in turn, some channels missing, some ticks left out, some repeated."""
    rng = np.random.default_rng(seed)
    step = np.arange(count) // len(names)
    which = np.arange(count) % len(names)
    t = step[:, None]
    values: F64 = (
        10.0 + np.sin(0.2 * t + which[:, None] + np.arange(channels)) + 0.1 * rng.standard_normal((count, channels))
    )
    values[rng.random(values.shape) < missing] = np.nan
    keep = rng.random(count) >= skip
    ts = START + step * 1000
    ts[rng.random(count) < 0.03] -= 5000  # late or double
    chosen = np.flatnonzero(keep)
    return batch([names[which[i]] for i in chosen], ts[chosen], values[chosen], which[chosen] % 2)


def world(seed: int, records: int = 400) -> TickBatch:
    """Series with clocks of their own in one partition: hours off, drifting, a backlog at many times the speed, one that
    jumps once, one that falls silent for a while. Record times are the producers' or the broker's."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 7))
    names = [f"s{k}" for k in range(count)]
    offset_s = rng.choice([0, 0, 0, -3600, 3600, -120, 50_000], count)
    speed = rng.choice([1.0, 1.0, 1.0, 1.01, 10.0, 120.0], count)
    chance = rng.dirichlet(np.ones(count))
    producers_clock = rng.random() < 0.5
    at_s, now_s = np.zeros(count), 0.0
    silent, begin = int(rng.integers(0, count)), rng.random() * 0.5
    series, ts, record_ts, values = [], [], [], []
    for i in range(records):
        k = int(rng.choice(count, p=chance))
        now_s += 1.0 / count
        if k == silent and begin < i / records < begin + 0.3:
            continue
        at_s[k] = max(at_s[k] + speed[k] * (1 if rng.random() < 0.9 else 3), speed[k] * now_s)
        jump_s = 3000 if rng.random() < 0.01 else -4 if rng.random() < 0.03 else 0
        event_ms = START + int(1000 * (offset_s[k] + at_s[k] + jump_s))
        series.append(names[k])
        ts.append(event_ms)
        record_ts.append(event_ms if producers_clock else START + int(1000 * now_s))
        values.append(10 + rng.standard_normal(3))
    return batch(series, ts, values, record_ts=record_ts)


def cut(ticks: TickBatch, begin: int, end: int) -> TickBatch:
    part = slice(begin, end)
    return TickBatch(
        ticks.records[part],
        ticks.partition[part],
        ticks.offset[part],
        ticks.record_ts_ms[part],
        ticks.series[part],
        ticks.ts_us[part],
        ticks.values[part],
        ticks.channel[part],
    )


def laid(keys: list[bytes], records: list[bytes]) -> Packed:
    """As they are read from the changelog."""
    pairs = enumerate(zip(keys, records, strict=True))
    return packed_records(0, [PackedRecord("state", 0, i, 0, key, record) for i, (key, record) in pairs])


def said(stream: StreamSpec, outputs: Outputs, ticks: TickBatch) -> list[tuple[int, bytes]]:
    """Everything that would be sent, as (source offset, bytes)."""
    encoder = Encoder(stream, "ticks")
    rows = [*zip(outputs.forecasts.tick, encoder.forecasts(outputs.forecasts, ticks), strict=True)]
    rows += zip(outputs.imputations.tick, encoder.imputations(outputs.imputations, ticks), strict=True)
    rows += [(tick, reason.encode()) for tick, reason, _ in outputs.rejected]
    return [(int(ticks.offset[tick]), text) for tick, text in rows]


def feed(engine: Engine, ticks: TickBatch, edges: list[int] | None = None) -> list[tuple[int, bytes]]:
    """Processes the ticks cut at `edges`; all that was said, in order of source."""
    bounds = [0, *sorted(set(edges or [])), len(ticks)]
    rows: list[tuple[int, bytes]] = []
    for begin, end in pairwise(bounds):
        if end > begin:
            part = cut(ticks, begin, end)
            rows += said(engine.spec, engine.process(part), part)
    return sorted(rows)


def own(state: dict[str, bytes]) -> dict[str, bytes]:
    """A series' state without what it knows of the log around it: when it was last heard, what was filled ahead."""
    return {
        field: held for field, held in state.items() if field not in ("heard_at", "heard_ms", "previewed", "resting")
    }


def states(engine: Engine) -> dict[tuple[int, str], dict[str, bytes]]:
    """Every series' whole state as bytes."""
    rows: dict[tuple[int, str], dict[str, bytes]] = {}
    for partition in (0, 1):
        for name, row in engine.table.series(partition).items():
            rows[partition, name] = {field: column[row].tobytes() for field, column in engine.table.columns.items()}
    return rows


def bends(count: int, series: int, first: int = 0, seed: int = 0) -> F64:
    """[step, series]: logistic maps (May 1976), which no linear expert foresees and a network does, from step `first` on."""
    rng = np.random.default_rng(seed)
    x = np.empty((first + count, series))
    x[0] = rng.uniform(0.2, 0.8, series)
    for t in range(1, first + count):
        x[t] = np.clip(3.7 * x[t - 1] * (1.0 - x[t - 1]) + 0.005 * rng.standard_normal(series), 0.01, 0.99)
    return x[first:]


def shaped(stream: StreamSpec, **changes: Any) -> ModelSpec:
    return ModelSpec(
        tuple(inputs_of(stream)), rungs_of(stream.horizon), **{"trunk": 32, "hidden": 8, "dropout": 0.1, **changes}
    )


def look(worth: Worth, cross: float) -> float:
    """One look at numbers of power 1 that go with what came as `cross` says; returns the gain at the slope that suits it best."""
    slope = max(cross, 0.0)
    gain = slope * (2.0 * cross - slope)
    none = np.zeros((1, 1))
    worth.look(Evaluation(True, (gain,), (slope,), none, none, 100, np.array([[cross, 1.0]])))
    return gain
