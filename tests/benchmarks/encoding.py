"""Writing alone: µs of processor time, records and bytes of a forecast, by form; four channels, 12 steps, three quantiles.

python tests/benchmarks/encoding.py
"""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

COUNT, CHANNELS, HORIZON = 2000, ("temp", "flow", "pressure", "vibration"), 12


def batches() -> tuple[Any, Any, Any]:
    """(stream, forecasts, their ticks)"""
    from streamrnn.records import ForecastBatch, TickBatch
    from streamrnn.spec import StreamSpec

    mean = np.random.default_rng(0).standard_normal((COUNT, len(CHANNELS), HORIZON))
    quantiles = np.stack([mean - 1, mean, mean + 1], axis=2)
    series, at, rows = [f"pump-{i}" for i in range(COUNT)], np.full(COUNT, 1_764_000_000_000_000), np.arange(COUNT)
    scale, warm = np.full((COUNT, len(CHANNELS)), 0.1, np.float32), np.ones(COUNT, np.bool_)
    forecasts = ForecastBatch(rows, series, at, np.full(COUNT, 1_000_000), mean, quantiles, scale, warm, "3f1c")
    place, channel = np.zeros(COUNT, np.int32), np.full(COUNT, -1, np.int16)
    return (
        StreamSpec(CHANNELS, 1000, HORIZON),
        forecasts,
        TickBatch([], place, rows, np.zeros(COUNT, np.int64), series, at, mean[:, :, 0], channel),
    )


def main() -> int:
    from streamrnn.spec import OutputSpec
    from streamrnn.wire.encode import encoder_for

    spec, forecasts, ticks = batches()
    for layout, format in product(("nested", "flat"), ("json", "json-schema", "avro")):
        ids: Any = {} if format == "json" else {"forecasts": 1, "imputed": 2}
        nested, flat = encoder_for(spec, "ticks", OutputSpec(layout, (), format), ids)  # type: ignore[arg-type]
        best, values = float("inf"), list[bytes]()
        for _ in range(10):
            begin = time.process_time()
            values = flat.forecasts(forecasts, ticks).values if flat else nested.forecasts(forecasts, ticks)
            best = min(best, time.process_time() - begin)
        size = sum(map(len, values)) / COUNT
        print(f"| {layout}, {format} | {best / COUNT * 1e6:.1f} | {len(values) // COUNT} | {size:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
