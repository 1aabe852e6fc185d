"""A batch that nobody sees, before a worker or a trainer joins its group.

The first batch loads the compiled inner loops, and compiles them at the very first start on a machine: a quarter of a minute
in which the process sends no heartbeat. A member of a group would lose its partitions for it, and the next one after it.

`python -m streamrnn.app.warm_up` does it when an image is built, so that its containers need not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys

import numpy as np
import structlog

from streamrnn.config.settings import Settings, load
from streamrnn.kernels import caching, forecast, text
from streamrnn.kernels.grid import frame_list
from streamrnn.model.network import Network
from streamrnn.records import ForecastBatch, PlainRecord, TickBatch
from streamrnn.runtime.limits import processors
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import NO_MODEL, Engine
from streamrnn.stream.snapshot import Restored, Snapshots
from streamrnn.wire import avro_columns
from streamrnn.wire.encode import Encoder
from streamrnn.wire.packed import packed

log = structlog.get_logger(__name__)

# Two series with a gap in each, so that forecasts are scored and steps are filled.
SERIES, STEPS = 2, (0, 1, 3)


def warm_up_kernels(settings: Settings) -> None:
    """Steps and encodes a few ticks with an engine of its own, whose states are put away and taken back."""
    spec = dataclasses.replace(settings.stream_spec(), series_max=SERIES)
    beside = _beside(spec)
    engine, ticks, network = Engine(spec), _ticks(spec), Network(settings.model_spec())
    engine.load(network, "rehearsal")
    if beside:
        _other_parts(spec, network)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(beside, 0)
    if settings.decode_spec().format == "avro":
        avro_columns.warm_up_kernels()
    outputs = engine.process(ticks)
    encoder = Encoder(spec, "ticks")
    encoder.forecasts(outputs.forecasts, ticks)
    encoder.imputations(outputs.imputations, ticks)
    _put_away(engine, len(ticks))
    if why := caching.note():
        log.warning("compiled kernels are not kept as they should be", why=why)


def _ticks(spec: StreamSpec) -> TickBatch:
    count = SERIES * len(STEPS)
    ts_ms = np.repeat(np.array(STEPS, dtype=np.int64), SERIES) * max(spec.step_ms, 1)
    return TickBatch(
        records=[],
        partition=np.zeros(count, dtype=np.int32),
        offset=np.arange(count, dtype=np.int64),
        record_ts_ms=ts_ms,
        series=[str(i % SERIES) for i in range(count)],
        ts_us=ts_ms * 1000,
        values=np.ones((count, len(spec.channels))),
        channel=np.full(count, -1, dtype=np.int16),
    )


def _put_away(engine: Engine, offset: int) -> None:
    snapshots = Snapshots(engine)
    names, states = snapshots.pack(0, np.arange(SERIES), offset, 0)
    records = [PlainRecord("", 0, i, 0, names[i], states[i]) for i in range(SERIES)]
    snapshots.restore(0, packed(0, records), Restored())


def _beside(spec: StreamSpec) -> int:
    """Where nothing is compiled yet and there is a second processor: a process that compiles what the engine needs, and leaves it
    where kernels are kept. Returns its id, 0: none. Without it all is the same, later."""
    kept = caching.WRITTEN is None or all(map(caching.is_kept, (forecast.advance, text.write_forecasts)))
    if kept or sys.platform != "linux" or processors() < 2:
        return 0
    child = os.fork()
    if child:
        return child
    try:
        # Without a network: torch may have threads, which a fork does not have.
        Engine(spec).process(_ticks(spec))
    finally:
        os._exit(0)


def _other_parts(spec: StreamSpec, network: Network) -> None:
    """The other parts of `warm_up_kernels`, with frames and outputs that no engine made, of the types that it makes."""
    ticks, channels, levels = _ticks(spec), len(spec.channels), len(spec.quantiles)
    count = len(ticks)
    # No frames at all, first: the other process comes to it when this one is through, and both have as much to do.
    engine = Engine(spec)
    engine.compile_ahead(engine.front._scaled(frame_list(0), np.empty((0, channels)), None, 0, [], [], 0, []))  # noqa: SLF001
    outputs = ForecastBatch(
        tick=np.arange(count, dtype=np.int64),
        series=ticks.series,
        ts_us=ticks.ts_us,
        step_us=np.ones(count, dtype=np.int64),
        mean=np.ones((count, channels, spec.horizon)),
        quantiles=np.ones((count, channels, levels, spec.horizon)),
        scale=np.ones((count, channels), dtype=np.float32),
        warm=np.ones(count, dtype=np.bool_),
        model=NO_MODEL,
    )
    Encoder(spec, "ticks").forecasts(outputs, ticks)
    engine = Engine(spec)
    engine.load(network, "rehearsal")
    engine.table.assign(ticks.partition, ticks.series, 0)
    _put_away(engine, count)


if __name__ == "__main__":
    warm_up_kernels(load([], {"input": "ticks", "channels": ["a"], "step": "1s", "horizon": 1}, {}))
