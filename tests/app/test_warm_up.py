"""What a rehearsal is for: behind it the first batch finds all compiled code loaded."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own, for here everything may have been loaded by other tests.
PROGRAM = """
import json, pkgutil, importlib
import streamrnn.kernels as kernels
from streamrnn.wire.codec import Decoder
from streamrnn.wire.encode import Encoder
from streamrnn.model.network import Network
from streamrnn.config.settings import load
from streamrnn.app.warm_up import warm_up_kernels
from streamrnn.stream.engine import Engine
from streamrnn.transports.memory.transport import MemoryRecord

modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(kernels.__path__, "streamrnn.kernels.")]

def loaded():
    found = [v for m in modules for v in vars(m).values() if hasattr(v, "nopython_signatures")]
    return sum(len(v.nopython_signatures) for v in found)

chosen = load([], {"app": "app", "input": "ticks", "channels": ["a", "b"], "step": "1s", "horizon": 2}, {})
before = loaded()
warm_up_kernels(chosen)
rehearsed = loaded()
spec = chosen.stream_spec()
engine, decoder, encoder = Engine(spec), Decoder(spec, chosen.decode_spec()), Encoder(spec, "ticks")
engine.load(Network(chosen.model_spec()), "x")
values = json.dumps({"values": {"a": 1.5}}).encode()
for first in (0, 60):
    times = [1000 * (first + step) for step in range(40) if step % 7]
    batch, _ = decoder.decode([MemoryRecord("ticks", t % 3, t, t, b"s%d" % (t % 3), values) for t in times])
    outputs = engine.process(batch)
    assert encoder.forecasts(outputs.forecasts, batch) and encoder.imputations(outputs.imputations, batch)
print(before, rehearsed, loaded())
"""


def test_a_rehearsal_loads_all_that_batches_need() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    before, rehearsed, after = map(int, done.stdout.split())
    assert before < rehearsed == after


AHEAD = """
import contextlib
from streamrnn.kernels import forecast
from streamrnn.config.settings import load
from streamrnn.app.warm_up import warm_up_kernels
from streamrnn.app import warm_up as rehearsal

chosen = load([], {"app": "app", "input": "ticks", "channels": ["a"], "step": "1s", "horizon": 1}, {})
warm_up_kernels(chosen)
rehearsal._other_parts(chosen.stream_spec(), rehearsal.Network(chosen.model_spec()))
for part in (forecast._expect, forecast._say, forecast._learn):
    kept = set()
    for file in part._cache._read:
        with contextlib.suppress(Exception):
            kept |= {key[0] for key in file._load_index()}
    assert len(kept) == 1, kept
    assert kept == set(part.signatures)
"""


def test_what_is_compiled_ahead_is_what_the_engine_asks_for() -> None:
    """Otherwise all is compiled twice, and a cold start takes twice as long."""
    done = subprocess.run([sys.executable, "-c", AHEAD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
