"""Runs a network over ragged frames: some series have one frame in a batch, one hot series may have thousands.

The series are sorted by how many frames they have; between two distinct counts the same rows are alive, and that
block [time, row] is one call of the network's sequence entrance. A batch of many series is a few wide blocks, a hot
series one long block: never a Python loop of single steps.

Rows of a block are padded to a multiple of 16. Matrix kernels pick their order of summation by the number of rows;
with multiples of 16 a row's bits did not depend on the rows beside it in any configuration tried (`self_test` asks the
build at hand, since torch promises nothing here).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from streamrnn.kernels import gru
from streamrnn.model.network import Network
from streamrnn.records import F32, I64

ROWS = 16


class Runner(Protocol):
    """A network at work: `run` moves the states of the runs' rows in `state` [row, S] and returns what it says."""

    network: Network

    def run(self, inputs: F32, runs: I64, state: F32) -> F32:
        """`inputs` [frame, F], `runs` [run, (slot, start, stop)]; returns [frame, channel, horizon, 1 + level]."""
        ...

    def rebuild(self, inputs: F32, runs: I64, state: F32) -> None:
        """As `run`, from zero states, for the states alone."""
        ...


class TorchRunner:
    """The runner for every kind of cell."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()

    def run(self, inputs: F32, runs: I64, state: F32) -> F32:
        return _head(self.network, self._hidden(inputs, runs, state), len(inputs))

    def rebuild(self, inputs: F32, runs: I64, state: F32) -> None:
        state[runs[:, 0]] = self.network.zero_state(1).numpy()
        self._hidden(inputs, runs, state)

    def _hidden(self, inputs: F32, runs: I64, state: F32) -> torch.Tensor:
        """Hidden vectors of all frames, in the frames' order: [frames padded to 16, D]."""
        lengths = runs[:, 2] - runs[:, 1]
        order = np.argsort(-lengths, kind="stable")
        slots, starts, lengths = runs[order, 0], runs[order, 1], lengths[order]
        hidden: torch.Tensor | None = None
        live = torch.from_numpy(_gather(state, slots))  # [rows padded, S]
        done = 0
        alive = len(order)
        with torch.inference_mode():
            while alive:
                until = int(lengths[alive - 1])  # the shortest of those still alive
                if until > done:
                    steps = until - done
                    rows = _padded(alive)
                    index = starts[None, :alive] + np.arange(done, until)[:, None]  # [T, B]
                    xs: F32 = np.zeros((steps, rows, inputs.shape[1]), dtype=np.float32)
                    xs[:, :alive] = inputs[index]
                    block, moved = self.network.hidden(torch.from_numpy(xs), live[:rows].contiguous())
                    live[:rows] = moved
                    if hidden is None:
                        hidden = torch.zeros((_padded(len(inputs)), block.shape[-1]))
                    hidden[torch.from_numpy(index.ravel())] = block[:, :alive].reshape(steps * alive, -1)
                    done = until
                while alive and lengths[alive - 1] == done:
                    alive -= 1
                    state[slots[alive]] = live[alive].numpy()
        if hidden is None:
            raise ValueError("no frames to run")
        return hidden


class GruRunner:
    """The runner for plain GRUs, the default: layers compiled (`kernels.gru`), the head one matrix product by torch."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()
        weights = {name: tensor.detach().numpy() for name, tensor in network.stack.state_dict().items()}

        def stacked(name: str, begin: int) -> F32:
            layers = range(begin, network.spec.layers)
            return np.ascontiguousarray(np.stack([weights[f"cells.{layer}.core.{name}_l0"].T for layer in layers]))

        hidden = network.spec.hidden
        self._first = np.ascontiguousarray(weights["cells.0.core.weight_ih_l0"].T)
        self._above: F32 = np.zeros((network.spec.layers, hidden, 3 * hidden), dtype=np.float32)
        if network.spec.layers > 1:
            self._above[1:] = stacked("weight_ih", 1)
        self._hidden = stacked("weight_hh", 0)
        self._bias_in = stacked("bias_ih", 0)
        self._bias_hidden = stacked("bias_hh", 0)

    def run(self, inputs: F32, runs: I64, state: F32) -> F32:
        return _head(self.network, torch.from_numpy(self._layers(inputs, runs, state)), len(inputs))

    def rebuild(self, inputs: F32, runs: I64, state: F32) -> None:
        state[runs[:, 0]] = 0.0
        self._layers(inputs, runs, state)

    def _layers(self, inputs: F32, runs: I64, state: F32) -> F32:
        """[frames padded to 16, D]: hidden states and what the cells saw."""
        network = self.network
        count = len(inputs)
        seen: F32 = np.empty((count, network.width), dtype=np.float32)
        gru.see(inputs, runs, state, network.spec.channels, seen)
        if len(runs) > gru.LANES:  # runs of like length side by side
            runs = runs[np.argsort(runs[:, 1] - runs[:, 2], kind="stable")]
        out: F32 = np.zeros((_padded(count), network.spec.hidden + network.width), dtype=np.float32)
        last: F32 = np.empty((count, network.spec.hidden), dtype=np.float32)
        gru.run_gru(
            seen, runs, state, self._above, self._first, self._hidden, self._bias_in, self._bias_hidden, last
        )  # fmt: skip
        out[:count, : network.spec.hidden] = last
        out[:count, network.spec.hidden :] = seen
        return out


def make_runner(network: Network) -> Runner:
    return GruRunner(network) if network.plain_gru else TorchRunner(network)


def _head(network: Network, hidden: torch.Tensor, count: int) -> F32:
    with torch.inference_mode():
        out: F32 = network.head(hidden).numpy()  # [padded, C, H, 1 + Q]
    return out[:count]


def _padded(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def _gather(state: F32, slots: I64) -> F32:
    gathered: F32 = np.zeros((_padded(len(slots)), state.shape[1]), dtype=np.float32)
    gathered[: len(slots)] = state[slots]
    return gathered


def self_test(runner: Runner, width: int) -> bool:
    """Whether on this machine and build a row's bits are the same alone and in company, in one go and step by step."""
    rng = np.random.default_rng(7)
    size = runner.network.state_size
    inputs = rng.standard_normal((64, width)).astype(np.float32)
    alone: F32 = np.zeros((1, size), dtype=np.float32)
    first = [runner.run(inputs[i : i + 1], np.array([[0, 0, 1]]), alone) for i in range(4)]
    company: F32 = np.zeros((16, size), dtype=np.float32)
    runs = np.array([[i, 4 * i, 4 * i + 4] for i in range(16)])
    together = runner.run(inputs, runs, company)
    return all(np.array_equal(first[i][0], together[i]) for i in range(4)) and np.array_equal(alone[0], company[0])
