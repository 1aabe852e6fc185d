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
        hidden = self._hidden(inputs, runs, state)
        count = len(inputs)
        padded = _padded(count)
        xs: F32 = np.zeros((padded, inputs.shape[1]), dtype=np.float32)
        xs[:count] = inputs
        with torch.inference_mode():
            out = self.network.head(hidden, torch.from_numpy(xs))  # [padded, C, H, 1 + Q]
        result: F32 = out.numpy()[:count]
        return result

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


def make_runner(network: Network) -> Runner:
    return TorchRunner(network)


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
