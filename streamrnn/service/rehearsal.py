"""A batch that nobody sees, before a worker or a trainer joins its group.

The first batch loads the compiled inner loops, and compiles them at the very first start on a machine: half a minute in
which the process sends no heartbeat. A member of a group would be put out for it, and the next one after it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamrnn.encode import Encoder
from streamrnn.model.network import Network
from streamrnn.packed import PackedRecord, packed
from streamrnn.records import TickBatch
from streamrnn.service.config import Settings
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Restored, Snapshots

# Two series with a gap in each, so that forecasts are scored and steps are filled.
SERIES, STEPS = 2, (0, 1, 3)


def rehearse(settings: Settings) -> None:
    """Steps and encodes a few ticks with an engine of its own, whose states are put away and taken back."""
    spec = dataclasses.replace(settings.stream_spec(), series_max=SERIES)
    engine, encoder = Engine(spec), Encoder(spec, settings.input)
    engine.load(Network(settings.model_spec()), "rehearsal")
    count = SERIES * len(STEPS)
    ts_ms = np.repeat(np.array(STEPS, dtype=np.int64), SERIES) * max(spec.step_ms, 1)
    ticks = TickBatch(
        records=[],
        partition=np.zeros(count, dtype=np.int32),
        offset=np.arange(count, dtype=np.int64),
        record_ts_ms=ts_ms,
        series=[str(i % SERIES) for i in range(count)],
        ts_us=ts_ms * 1000,
        values=np.ones((count, len(spec.channels))),
        channel=np.full(count, -1, dtype=np.int16),
    )
    outputs = engine.process(ticks)
    encoder.forecasts(outputs.forecasts, ticks)
    encoder.imputations(outputs.imputations, ticks)
    snapshots = Snapshots(engine)
    names, states = snapshots.pack(0, np.arange(SERIES), count, 0)
    records = [PackedRecord("", 0, i, 0, names[i], states[i]) for i in range(SERIES)]
    snapshots.restore(0, packed(0, records), Restored())
