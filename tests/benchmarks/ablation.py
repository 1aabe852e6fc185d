"""What each part of the network is for: the back-test of two rows of ETTh1's train and validation data with one thing changed.

    python tests/benchmarks/ablation.py --data DIR [--variants NAMES] [--seeds N] [--json OUT]

ETTh1 rows 0:10452 scale, 2000:6000 are scored, horizons 1 and 24, seven channels, the service's defaults but for what a variant
says. Mean squared error (z-scored), its change against the experts alone (`none`), processor time of the whole back-test, bytes
of the weights and of a series' recurrent state. Inputs are taken away by holding their weights at zero.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import accuracy
import accuracy_rows

import streamrnn.backtest.run as backtest
from streamrnn.learning import LearnSpec
from streamrnn.model.network import Network
from streamrnn.spec import ModelSpec

HORIZONS = (1, 24)
TRAIN, SCORED, ROWS = (0, 10_452), (2000, 6000), 10_452


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing changed: of the network's shape, of how it learns (`learn` of the round, `train` of an update), of what it is
    shown (`blind`: the first words of the inputs that are taken away), or of the engine's experts."""

    train: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    learn: dict[str, Any] = field(default_factory=dict)
    update: dict[str, Any] = field(default_factory=dict)
    blind: tuple[str, ...] = ()
    experts: tuple[str, ...] | None = None


def _of_model(name: str, *values: Any) -> dict[str, Variant]:
    return {f"{name} {value}": Variant(model={name: value}) for value in values}


def _of_update(name: str, *values: Any) -> dict[str, Variant]:
    return {f"{name} {value}": Variant(update={name: value}) for value in values}


VARIANTS = {
    "none": Variant(train=False),
    "default": Variant(),
    "trunk alone": Variant(update={"recurrent_every": 1_000_000_000}),
    "without moves": Variant(blind=("move lag", "distance")),
    "without deviations": Variant(blind=("deviation lag", "deviation mean")),
    "without the profile ahead": Variant(blind=("profile", "season-ago")),
    "without errors": Variant(blind=("error",)),
    "without mixture and experts": Variant(blind=("mixture", "moves", "deviations", "stack")),
    "without the calendar": Variant(blind=("wave", "sine", "cosine")),
    "without the other channels": Variant(blind=("move of", "is ", "deviation of")),
    "base: persistence": Variant(experts=()),
    **_of_model("hidden", 64, 128),
    **_of_model("trunk", 64, 256),
    **_of_model("layers", 2),
    **_of_model("dropout", 0.0),
    **_of_model("cell", "lstm", "rnn", "gru-d", "wavenet"),
    **_of_model("conv", 4),
    **_of_model("head", "vector", "iterated", "encoder-decoder"),
    "length 12": Variant(update={"length": 12, "chunk_len": 12}),
    "length 96, chunks of 24": Variant(update={"length": 96, "batch_series": 1}),
    "length 96 in one chunk": Variant(update={"length": 96, "chunk_len": 96, "batch_series": 1}),
    **_of_update("burn_in", 0, 128),
    **_of_update("ema_decay", 0.0),
    **_of_update("weight_decay", 0.01),
    "updates 40": Variant(learn={"updates": 40}),
    "updates 480": Variant(learn={"updates": 480}),
}


def blinded(names: tuple[str, ...]) -> Callable[[Network, ModelSpec], None]:
    """A network whose first layer has weights of zero, and gradients of zero, for the inputs whose names begin so."""
    build = Network.__init__

    def made(self: Network, spec: ModelSpec) -> None:
        build(self, spec)
        seen = torch.tensor([float(not name.startswith(names)) for name in spec.inputs])
        with torch.no_grad():
            self.first.weight *= seen
        self.first.weight.register_hook(lambda gradient: gradient * seen)

    return made


def measured(variant: Variant, horizon: int, seed: int, data: Path) -> dict[str, float]:
    bench = next(
        each
        for each in accuracy_rows.benches()
        if each.kind == "forecast" and each.file.startswith("ETTh1") and each.horizon == horizon
    )
    bench = replace(bench, train=TRAIN, scored=SCORED, more={"rows_max": ROWS})
    plain_build, plain_spec = Network.__init__, backtest.learn_spec
    learners: list[Any] = []

    def learn_spec(options: backtest.Options, _: int, series: int) -> LearnSpec:
        made = replace(plain_spec(options, seed, series), **variant.learn)
        return replace(made, train=replace(made.train, **variant.update))

    class Shaped(backtest.Learner):
        def __init__(self, stream: Any, model: ModelSpec, *rest: Any) -> None:
            super().__init__(stream, replace(model, **variant.model), *rest)
            learners.append(self)

    plain_learner = backtest.Learner
    if variant.blind:
        Network.__init__ = blinded(variant.blind)  # type: ignore[method-assign]
    backtest.learn_spec, backtest.Learner = learn_spec, Shaped  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as folder:
            given = {
                "seeds": 1,
                "baselines": (),
                "train": variant.train,
                "changes": {},
                "spec": {} if variant.experts is None else {"experts": variant.experts},
            }
            path = accuracy_rows.prepared(bench, data, Path(folder))
            options = replace(accuracy.options_of(bench, path, given), train_every=240)
            begin = time.process_time()
            found = accuracy.means(backtest.measure(options).rows())["streamrnn"]
            seconds = time.process_time() - begin
    finally:
        Network.__init__ = plain_build  # type: ignore[method-assign]
        backtest.learn_spec, backtest.Learner = plain_spec, plain_learner  # type: ignore[misc]
    network = learners[0]._network if learners else None
    channels = len(learners[0].engine.spec.channels) if learners else 0
    return {
        "mse": float(found["mse"] or np.nan),
        "processor_s": seconds,
        "weights_bytes": 0 if network is None else 4 * sum(each.numel() for each in network.parameters()),
        "state_bytes": 0 if network is None else 4 * network.state_size * channels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with ETTh1")
    parser.add_argument(
        "--variants", default=",".join(VARIANTS).replace(", ", "; "), help="by name, `;` for a comma of a name"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    names = [name.replace("; ", ", ") for name in asked.variants.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"--variants: there is no {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found: dict[str, dict[str, Any]] = {}
    print(f"{'variant':<28} {'H 1':>8} {'':>7} {'H 24':>8} {'':>7} {'cpu s':>6} {'weights':>8} {'state':>6}")
    for name in names:
        variant = VARIANTS[name]
        cells, line = {}, f"{name:<28}"
        for horizon in HORIZONS:
            runs = [measured(variant, horizon, seed, asked.data) for seed in range(asked.seeds if variant.train else 1)]
            cells[horizon] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            base = found["none"][str(horizon)]["mse"] if "none" in found else cells[horizon]["mse"]
            line += f" {cells[horizon]['mse']:>8.4f} {100 * (cells[horizon]['mse'] / base - 1):>+6.1f}%"
        found[name] = {str(horizon): each for horizon, each in cells.items()}
        last = cells[HORIZONS[-1]]
        seconds = sum(each["processor_s"] for each in cells.values())
        print(f"{line} {seconds:>6.1f} {last['weights_bytes']:>8.0f} {last['state_bytes']:>6.0f}", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
