"""Another checkout beside this one: each runs its own code in processes of its own, by turns, on the same machine."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]

_PROGRAM = """
import asyncio, importlib, inspect, json, sys
from pathlib import Path
import streamrnn
assert Path(streamrnn.__file__).is_relative_to(sys.argv[1]), f"{streamrnn.__file__} is not of {sys.argv[1]}"
done = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])(**json.loads(sys.argv[4]))
print(json.dumps(asyncio.run(done) if inspect.iscoroutine(done) else done))
"""


def checkout(text: str) -> Path:
    """The root of a source tree of streamrnn. Raises ValueError."""
    path = Path(text).resolve()
    if not (path / "streamrnn" / "__init__.py").is_file():
        raise ValueError(f"{path} holds no streamrnn")
    return path


def called(tree: Path, module: str, function: str, given: dict[str, Any], cpu: str = "") -> Any:
    """What a function of a tree's own benchmark returns, called in a new process with that tree's code, on one core.

    The result is what JSON makes of it. Raises RuntimeError with the last words of a process that failed.
    """
    paths = [
        tree,
        tree / "tests" / "benchmarks",
        tree / "tests" / "kafka",
        tree / "tests" / "support",
        Path(__file__).parent,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", _PROGRAM, str(tree), module, function, json.dumps(given)]
    if cpu:
        command = ["taskset", "-c", cpu, *command]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tree, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode()[-3000:])
    return json.loads(done.stdout.decode().splitlines()[-1])


def by_turns(round_: int, trees: Sequence[Path]) -> list[Path]:
    """Every other round begins with the other one: what warms up or tires favours neither."""
    return list(trees) if round_ % 2 == 0 else list(reversed(trees))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median of the rounds' own ratios, with the smallest and the largest."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})"


def a_series() -> dict[str, float]:
    """Bytes that one more series takes: of `state` in the arrays, of the whole `process` from 10,000 to 20,000 series.

    By the engine and the batches of the tree's own `memory.py`, so that they fit each other.
    """
    import numpy as np
    import torch

    memory = importlib.import_module("memory")
    torch.set_num_threads(1)
    rng, before = np.random.default_rng(0), 0.0
    held = memory.engine(20_000)
    for begin in range(0, 20_000, memory.BATCH):
        if begin == 10_000:  # compiled code and working buffers are there by now
            before = memory.resident()
        held.process(memory.batch([f"s{i}" for i in range(begin, begin + memory.BATCH)], begin, rng))
    return {"state": held.table.row_bytes(), "process": (memory.resident() - before) * 2**20 / 10_000}
