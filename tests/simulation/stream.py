"""The input of a run: a configuration, what the series say, weights that others publish."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import torch

from streamrnn.config.settings import Settings, load
from streamrnn.meaning import Meaning
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack, weights_id

START = 1_700_000_000_000
PARTITIONS = 2
FORECASTS, IMPUTED, LETTERS, STATE, MODELS = "app.forecasts", "app.imputed", "app.dlq", "app.state", "app.models"
OUTPUTS = (FORECASTS, IMPUTED, LETTERS)

# A series' clock: seconds ahead, speed, whether its records' own times are right nevertheless.
CLOCKS = [
    (0, 1.0, True),
    (0, 1.0, True),
    (3600, 1.0, False),
    (-3600, 1.0, True),
    (-3600, 20.0, False),
    (0, 1.01, False),
]

# key, value, time
Raw = tuple[bytes | None, bytes | None, int]

LEARN: dict[str, Any] = {
    "interval": "1s",
    "min_steps": 60,
    "updates": 4,
    "window": 64,
    "holdout": 8,
    "chunk_len": 8,
    "burn_in": 4,
    "length": 24,
    "batch_series": 4,
    "lr": 0.03,
    "keep": 3,
    "swap_min": "500ms",
    "rollback_hold": "3s",
}


def gathered(rng: random.Random, logs: list[list[Raw]]) -> list[list[Raw]]:
    """The same ticks in records of none, one or several, some of whose elements cannot be read."""
    found: list[list[Raw]] = []
    most = rng.choice([2, 4, 12])
    for log in logs:
        records: list[Raw] = []
        waiting: list[Any] = []
        for key, value, ts in log:
            if value is None or not value.startswith(b'{"series": '):
                records.append((key, value, ts))  # nothing that can be read, as before
                continue
            waiting.append(json.loads(value))
            if rng.random() < 0.03:
                waiting.insert(
                    rng.randint(0, len(waiting)), rng.choice([None, 7, {"series": "x", "ts": "y"}, {"ts": ts}])
                )
            if len(waiting) >= rng.randint(0, most):
                records.append((key, json.dumps({"r": waiting}).encode(), ts))
                waiting = []
            if rng.random() < 0.05:
                records.append((key, b'{"r":[]}', ts))
        if waiting:
            records.append((None, json.dumps({"r": waiting}).encode(), log[-1][2]))
        found.append(records)
    return found


# What an operator changes between two lives, and back. All of it can be carried, and none of it changes which outputs there are.
CHANGES: list[dict[str, Any]] = [
    {},
    {"channels": ["b", "a"]},
    {"horizon": 4},
    {"horizon": 1},
    {"quantiles": [0.2, 0.5, 0.8]},
    {"quantiles": [0.05, 0.1, 0.5, 0.6, 0.9]},
    {"channels": ["b", "a"], "quantiles": [0.1, 0.9], "horizon": 3, "calendar": ["1h"]},
]


def written(rng: random.Random, delivery: str, crowded: bool = False) -> dict[str, Any]:
    """A configuration as it stands in a file. `crowded`: fewer rows than there are series."""
    within = rng.choice(["one", "one", "one", "last", "mean"])
    return {
        "app": "app",
        "input": "ticks",
        "channels": ["a", "b"],
        "step": "1s",
        "horizon": 2,
        "quantiles": [0.1, 0.5, 0.9],
        "model": {"hidden": 4, "layers": 1},
        "learn": LEARN,
        "warm_up": 4,
        "within": within,
        "lateness": rng.choice(["0s", "2s"]) if within == "one" else "2s",
        "complete": rng.choice(["record", "record", "channels"]),
        "duplicates": rng.choice(["keep", "refuse"]),
        "align": rng.choice(["floor", "floor", "nearest"]),
        "future_max": rng.choice(["60s", "2h"]),
        "idle_after": rng.choice(["4s", "20s", "300s"]),
        "gap_max": rng.choice([0, 3, 20]),
        "imputed": rng.choice(["gaps", "all"]),
        "series_max": 3 if crowded else 64,
        "poll_timeout": "50ms",
        "delivery": delivery,
        "delivery_timeout": "5s",
        "stall_after": "3s",
        "shutdown_grace": "3s",
        "batch_records_max": rng.choice([1, 3, 7, 20, 60]),
        "checkpoint": {
            "interval": rng.choice(["10ms", "200ms", "2s", "30s"]),
            "records": rng.choice([3, 20, 1000]),
        },
        "train": "off",
    }


def settings(rng: random.Random, delivery: str, crowded: bool = False) -> Settings:
    return load([], written(rng, delivery, crowded), {})


@cache
def weights(number: int, meaning: Meaning | None = None) -> tuple[str, bytes]:
    """(id, blob) of some network, which means this. Always the same, and the trainers' random numbers are left alone."""
    chosen = settings(random.Random(0), "at-least-once")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        network = Network(chosen.model_spec())
        torch.nn.init.normal_(network.out.weight, 0.0, 0.3)
    return weights_id(network), pack(network, WeightsMeta(), meaning)


def ticks(rng: random.Random, count: int, series_max: int = 4) -> list[list[Raw]]:
    """Per partition, series that speak in turn, with gaps, repeats, disorder, silence and poison; some by clocks of their own:
    an hour ahead or behind, fast, or with one jump."""
    logs: list[list[Raw]] = []
    for partition in range(PARTITIONS):
        names = [f"s{partition}{i}" for i in range(rng.randint(1, series_max))]
        log: list[Raw] = []
        clocks = {name: rng.choice(CLOCKS) for name in names} if rng.random() < 0.3 else {}
        step = 0
        for i in range(count):
            step += rng.random() < 0.5
            if rng.random() < 0.02:
                step += rng.randint(3, 12)
            name = rng.choice(names) if rng.random() < 0.9 else names[0]
            ts = START + 1000 * (step - (rng.randint(1, 4) if rng.random() < 0.08 else 0))
            record_ts = ts
            if name in clocks:
                shift_s, speed, honest = clocks[name]
                ts = START + int(1000 * (shift_s + speed * step)) + (3_000_000 if rng.random() < 0.01 else 0)
                record_ts = record_ts if honest else ts
            chance = rng.random()
            if chance < 0.03:
                log.append((name.encode(), rng.choice([b"{", None, b"[]", b'{"series":"x","ts":1e999}']), record_ts))
                continue
            values = {c: round(10 + rng.gauss(0, 1) + i / 50, 3) for c in "ab" if rng.random() < 0.9}
            log.append((name.encode(), json.dumps({"series": name, "ts": ts, "values": values}).encode(), record_ts))
        logs.append(log)
    return logs
