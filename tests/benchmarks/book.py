"""The table that this project grew from: "Processing sequences using RNNs and CNNs", chapter 15 of A. Géron, "Hands-on machine
learning" (2nd edition): ten thousand noisy sums of two sines, one and ten steps ahead, every architecture by its name and in
the book's size, made of the pieces of `streamrnn.model`; then this service's own defaults on the same series.

Rows 0..7000 train, 7000..9000 are scored (mean squared error of the forecasts from step 50 on); batches of 32, Adam, 20 epochs.
The rate falls evenly from twice a row's (the book's; larger for `linear`, `simple-rnn`, `layer-norm`, which that leaves
under-trained) to nothing.

    python tests/benchmarks/book.py [--rows naive,linear,...] [--json OUT] [--seconds-max N]

A row that `--seconds-max` cuts short says so by fewer epochs. tests/benchmarks/README.md says what each architecture buys.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))

from streamrnn.kernels.columns import rungs_of
from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.model.cells import Cell, FusedCell
from streamrnn.model.conv import CausalConv, WaveNet
from streamrnn.model.heads import Head, Iterated, make_head
from streamrnn.model.stack import Stack, make_cell
from streamrnn.records import TickBatch, take
from streamrnn.spec import Head as Name
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.stream.learner import Learner

SEEN = 50  # steps
TRAIN, SCORED, SERIES = 7000, 9000, 10_000
BATCH, EPOCHS, UNITS = 32, 20, 20


Array = np.ndarray[Any, np.dtype[np.float32]]


def series(steps: int) -> Array:
    """The book's generator, from its seed: [series, step]."""
    rng = np.random.RandomState(42)
    f1, f2, o1, o2 = rng.rand(4, SERIES, 1)
    t = np.linspace(0, 1, steps)
    x = 0.5 * np.sin((t - o1) * (f1 * 10 + 10)) + 0.2 * np.sin((t - o2) * (f2 * 20 + 20))
    x += 0.1 * (rng.rand(SERIES, steps) - 0.5)
    found: Array = x.astype(np.float32)
    return found


class Net(nn.Module):
    """Layers and a head on what is seen: [T, B, 1] → [T, B, rung]. Without a head the last layer's one unit is the forecast."""

    def __init__(self, cells: list[Cell], head: Head | None, rungs: int) -> None:
        super().__init__()
        self.layers, self.head = Stack(cells), head
        self.bias = nn.Parameter(torch.zeros(rungs if head is not None else 0))

    def forward(self, xs: Tensor) -> Tensor:
        state = xs.new_zeros(xs.shape[1], self.layers.state_size)
        if self.head is None:
            out: Tensor = self.layers(xs, state)[0]
            return out
        said: Tensor = self.head(self.layers, xs, state, self.bias.expand(*xs.shape[:2], -1))[0]
        return said


class Linear(nn.Module):
    """One linear map of all that was seen."""

    def __init__(self, rungs: int) -> None:
        super().__init__()
        self.map = nn.Linear(SEEN, rungs)

    def forward(self, xs: Tensor) -> Tensor:
        out: Tensor = self.map(xs[..., 0].T).unsqueeze(0)
        return out


class Strided(nn.Module):
    """A convolution that says every second step what the four before it were, and a network on that."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.conv, self.net = CausalConv(1, UNITS, width=4), net

    def forward(self, xs: Tensor) -> Tensor:
        out, _ = self.conv(xs, xs.new_zeros(xs.shape[1], self.conv.state_size))
        said: Tensor = self.net(out[3::2])
        return said


def keras_like(net: nn.Module) -> nn.Module:
    """Weights as the book's library draws them, gate by gate: Glorot's uniform ones, orthogonal recurrent ones, no bias but that
    of an LSTM's forget gate, which is 1."""
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2:
            if "norm" not in name and not name.endswith("share"):
                nn.init.zeros_(parameter)
        elif "weight_hh" in name or "from_hidden" in name:
            for gate in torch.split(parameter, parameter.shape[1]):
                nn.init.orthogonal_(gate)
        else:
            gated = "weight_ih" in name or "from_input" in name
            rows = parameter.shape[0]
            for gate in torch.split(parameter, UNITS if gated and rows % UNITS == 0 else rows):
                nn.init.xavier_uniform_(gate)
    for cell in net.modules():
        if isinstance(cell, FusedCell) and cell.kind == "lstm":
            nn.init.ones_(cell.core.bias_ih_l0[UNITS : 2 * UNITS])  # type: ignore[index]
    return net


def recurrent(kind: str, head: Name, rungs: int, layer_norm: bool = False, inputs: int = 1) -> Net:
    """Two recurrent layers and a head."""
    cells = [make_cell(kind, width, UNITS, layer_norm=layer_norm) for width in (inputs, UNITS)]
    return Net(cells, make_head(head, UNITS, rungs), rungs)


@dataclass(frozen=True)
class Row:
    """`every`: all steps that are said are learnt from, or the last alone. `first`: the step of the first thing said, and
    `stride` steps from one to the next. `published`: the book's figure."""

    name: str
    rungs: int
    published: float
    net: Callable[[], nn.Module] | None = None
    rate: float = 1e-3
    every: bool = False
    first: int = 0
    stride: int = 1
    iterated: bool = False


ROWS = [
    Row("naive", 1, 0.0202),
    Row("linear", 1, 0.0042, lambda: Linear(1), rate=1e-2),
    Row("simple-rnn", 1, 0.0109, lambda: Net([make_cell("rnn", 1, 1)], None, 1), rate=1e-2),
    Row(
        "deep-rnn",
        1,
        0.0029,
        lambda: Net([make_cell("rnn", 1, UNITS), make_cell("rnn", UNITS, UNITS), make_cell("rnn", UNITS, 1)], None, 1),
    ),
    Row("deep-rnn-dense", 1, 0.00262, lambda: recurrent("rnn", "vector", 1)),
    Row("naive-10", 10, 0.2570),
    Row("linear-10", 10, 0.0187, lambda: Linear(10), rate=1e-2),
    Row("iterated", 10, 0.0275, lambda: recurrent("rnn", "iterated", 1), iterated=True),
    Row("sequence-to-vector", 10, 0.0085, lambda: recurrent("rnn", "vector", 10)),
    Row("sequence-to-sequence", 10, 0.0058, lambda: recurrent("rnn", "sequence", 10), rate=1e-2, every=True),
    Row("layer-norm", 10, 0.0121, lambda: recurrent("rnn", "sequence", 10, layer_norm=True), rate=6e-3, every=True),
    Row("lstm", 10, 0.0086, lambda: recurrent("lstm", "sequence", 10), every=True),
    Row("gru", 10, 0.0103, lambda: recurrent("gru", "sequence", 10), every=True),
    Row(
        "conv-gru",
        10,
        0.0080,
        lambda: Strided(recurrent("gru", "sequence", 10, inputs=UNITS)),
        every=True,
        first=3,
        stride=2,
    ),
    Row(
        "wavenet",
        10,
        0.0072,
        lambda: Net([WaveNet(1, UNITS), WaveNet(UNITS, UNITS)], make_head("sequence", UNITS, 10), 10),
        every=True,
    ),
]


def labels(x: Tensor, row: Row) -> Tensor:
    """What came after each step that something is said of: [series, said, rung]."""
    rungs = 1 if row.iterated else row.rungs
    at = torch.arange(row.first, SEEN, row.stride) if row.every else torch.tensor([SEEN - 1])
    return x[:, at[:, None] + 1 + torch.arange(rungs)]


def trained(row: Row, x: Tensor, seconds_max: float, seed: int) -> tuple[nn.Module, int]:
    """The network after the book's epochs, and how many they were."""
    assert row.net is not None
    torch.manual_seed(seed)
    net = keras_like(row.net())
    optimizer = torch.optim.Adam(net.parameters(), lr=row.rate, eps=1e-7, foreach=True)
    shown, wanted = x[:TRAIN, :SEEN], labels(x[:TRAIN], row)
    updates = EPOCHS * -(-TRAIN // BATCH)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 2.0 * (1.0 - k / updates))
    begin = time.monotonic()
    for epoch in range(EPOCHS):
        order = torch.randperm(TRAIN)
        for first in range(0, TRAIN, BATCH):
            chosen = order[first : first + BATCH]
            said = net(shown[chosen].T.unsqueeze(-1).contiguous())
            loss = functional.mse_loss(said[-wanted.shape[1] :].transpose(0, 1), wanted[chosen])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            fall.step()
            if time.monotonic() - begin > seconds_max:
                return net.eval(), epoch
    return net.eval(), EPOCHS


@torch.inference_mode()
def scored(row: Row, net: nn.Module, x: Tensor) -> float:
    """Mean squared error of what is said at the last step."""
    shown, wanted = x[TRAIN:SCORED, :SEEN], x[TRAIN:SCORED, SEEN : SEEN + row.rungs]
    if row.iterated:
        assert isinstance(net, Net) and isinstance(net.head, Iterated)
        longer = make_head("iterated", UNITS, row.rungs).eval()
        longer.load_state_dict({"weight": net.head.weight, "share": net.head.share.expand(row.rungs)})
        net.head, net.bias = longer, nn.Parameter(net.bias.expand(row.rungs))
    said = net(shown.T.unsqueeze(-1).contiguous())[-1]
    return float(functional.mse_loss(said.double(), wanted.double()))


def measured(row: Row, seconds_max: float, seed: int) -> dict[str, Any]:
    begin = time.monotonic()
    x = torch.from_numpy(series(SEEN + row.rungs))
    if row.net is None:
        last, wanted = x[TRAIN:SCORED, SEEN - 1 : SEEN], x[TRAIN:SCORED, SEEN : SEEN + row.rungs]
        return {"row": row.name, "mse": float((last - wanted).double().square().mean()), "epochs": 0, "seconds": 0.0}
    net, epochs = trained(row, x, seconds_max, seed)
    mse = scored(row, net, x)
    return {"row": row.name, "mse": mse, "epochs": epochs, "seconds": round(time.monotonic() - begin, 1)}


# ── the service's own ────────────────────────────────────────────────────────────────────────────────────────────────

SENSORS = 20
SILENCE = 1000  # steps between two recordings of a sensor
ROUNDS = 8  # of the trainer, after each 350 of the series that train
PRODUCT = {"default": (1, 0.0022), "default-10": (10, 0.0050)}


def recordings(x: Array, first: int, last: int) -> TickBatch:
    """The series `first`..`last` as what twenty sensors record one after the other, with silence in between."""
    count, steps = (last - first) // SENSORS, x.shape[1]
    values = x[first:last].reshape(count, SENSORS, steps).transpose(0, 2, 1).reshape(-1, 1)
    step = (first // SENSORS + np.arange(count))[:, None] * (steps + SILENCE) + np.arange(steps)
    ts_ms = np.repeat(1_700_000_000_000 + 1000 * step.ravel(), SENSORS)
    ticks = len(values)
    return TickBatch(
        records=[],
        partition=np.zeros(ticks, dtype=np.int32),
        offset=np.arange(ticks, dtype=np.int64),
        series=[f"s{k}" for k in range(SENSORS)] * (ticks // SENSORS),
        record_ts_ms=ts_ms,
        ts_us=ts_ms * 1000,
        values=values.astype(np.float64),
        channel=np.full(ticks, -1, dtype=np.int16),
    )


def served(name: str, seconds_max: float, seed: int) -> dict[str, Any]:
    """Engine and learner of the service with their defaults (of the settings `gap_max` alone is another: silence is not filled).
    Every forecast is fixed before its targets arrive; the scored series are never learnt from by the network."""
    begin, rungs = time.monotonic(), PRODUCT[name][0]
    x = series(SEEN + rungs)
    steps = SENSORS * x.shape[1]  # ticks of a recording of all sensors
    stream = StreamSpec(channels=("value",), step_ms=1000, horizon=rungs, series_max=SENSORS, gap_max=1)
    engine = Engine(stream)
    learn = LearnSpec(train=TrainSpec(seed=seed), series_max=SENSORS, window=TRAIN // SENSORS * x.shape[1])
    learner = Learner(stream, ModelSpec(tuple(engine.inputs), rungs_of(rungs)), learn)
    updates, train = 0, recordings(x, 0, TRAIN)
    for at in range(0, len(train), len(train) // 20):
        part = take(train, slice(at, at + len(train) // 20))
        engine.process(part)
        learner.feed(part)
        for _ in range(ROUNDS):
            if learner.ready() and time.monotonic() - begin < seconds_max:
                done = learner.round()
                updates += done.updates
                if done.network is not None:
                    engine.load(done.network, f"round {done.number}")
    errors, rest = [], recordings(x, TRAIN, SCORED)
    for k in range((SCORED - TRAIN) // SENSORS):
        of = slice(TRAIN + k * SENSORS, TRAIN + (k + 1) * SENSORS)
        said = engine.process(take(rest, slice(k * steps, k * steps + SENSORS * SEEN))).forecasts
        errors.append(np.square(said.mean[-SENSORS:, 0] - x[of, SEEN:]))
        engine.process(take(rest, slice(k * steps + SENSORS * SEEN, (k + 1) * steps)))
    drawn = updates * (
        learn.train.batch_steps + learn.train.batch_series * learn.train.length / learn.train.recurrent_every
    )
    epochs, seconds = round(drawn / len(train), 1), round(time.monotonic() - begin, 1)
    return {"row": name, "mse": float(np.mean(errors)), "epochs": epochs, "seconds": seconds}


def main() -> None:
    known = {row.name: row for row in ROWS}
    bars = {row.name: row.published for row in ROWS} | {name: bar for name, (_, bar) in PRODUCT.items()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(bars), help="by name; all of them where nothing is said")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds-max", type=float, default=float("inf"), help="of a row's training")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    names = asked.rows.split(",")
    if unknown := [name for name in names if name not in bars]:
        parser.error(f"--rows: no row is called {', '.join(unknown)}; there are {', '.join(bars)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = []
    print(f"{'row':<22} {'mse':>8} {'book':>8} {'epochs':>7} {'seconds':>8}")
    for name in names:
        measure = served if name in PRODUCT else lambda name, *given: measured(known[name], *given)
        figures = measure(name, asked.seconds_max, asked.seed)
        found.append(figures)
        print(
            f"{name:<22} {figures['mse']:>8.5f} {bars[name]:>8.5f} {figures['epochs']:>7} {figures['seconds']:>8.1f}",
            flush=True,
        )
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
