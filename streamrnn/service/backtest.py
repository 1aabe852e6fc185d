"""The back-test: a file run through the very engine and learner of the service, prequentially, beside baselines.

Rows go through in order. Between two rounds of training the rows may pass in one call, for the engine's result does not
depend on how they are cut; a round sees the rows before it and no others; its weights serve from the next row on.
So a forecast for the next H rows is fixed before the first of them is shown, and everything repeats by its seed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import structlog
import torch
from rich.console import Console
from rich.progress import Progress

from streamrnn.baselines import registry
from streamrnn.codec import Decoder
from streamrnn.durations import parse_ms
from streamrnn.encode import Encoder
from streamrnn.model.tbptt import TrainSpec
from streamrnn.records import F64, I64, Bool, TickBatch
from streamrnn.service import backtest_report as report
from streamrnn.service.backtest_score import Forecasts, Row, imputation_rows, score
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.engine import Engine
from streamrnn.stream.learner import Learner, LearnSpec
from streamrnn.transports.files import FileRecord, InputError, Table, parse_time, read_lines, read_table

log = structlog.get_logger(__name__)

SERIES = "backtest"
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Options:
    """As on the command line (DESIGN 9)."""

    file: Path
    time: str = "time"
    channels: tuple[str, ...] = ()
    horizon: int = 24
    step: str | None = None
    train_rows: tuple[int, int] | None = None
    score_rows: tuple[int, int] | None = None
    seeds: int = 1
    baselines: tuple[str, ...] = ("persistence", "seasonal", "rls", "ewa")
    season: str = "1d"
    calendar: tuple[str, ...] = ()
    train: bool = True
    train_every: int = 240
    json_out: Path | None = None
    forecasts_out: Path | None = None
    plots: Path | None = None
    hide: Path | None = None


@dataclass(slots=True)
class Result:
    """What one pass of the service over the file gave."""

    forecasts: Forecasts
    swaps: list[int]  # rows after which new weights served
    fills: dict[tuple[int, int], float]  # (row, channel) → the value put in
    documents: list[bytes]


def run(options: Options) -> None:
    """Reads, runs, scores, prints, writes. Raises InputError."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    table = read(options)
    hidden = read_hidden(options.hide, table) if options.hide else None
    shown = table.values.copy()
    if hidden is not None:
        shown[hidden] = np.nan
    step_ms = parse_ms(options.step) if options.step else usual_step(table.ts_ms)
    train_rows, score_rows = ranges(options, len(table.ts_ms))
    season = max(1, parse_ms(options.season) // step_ms)
    spec = stream_spec(table, step_ms, options)
    console = Console(stderr=True)
    rows: list[Row] = []
    results: list[Result] = []
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        for seed in range(options.seeds):
            task = progress.add_task(f"streamrnn, seed {seed}", total=len(shown))
            result = serve(spec, table.ts_ms, shown, options, seed, lambda n, t=task: progress.update(t, completed=n))
            results.append(result)
            rows += score("streamrnn", result.forecasts, table, spec, train_rows, score_rows, season, seed)
            if hidden is not None:
                rows += imputation_rows("streamrnn", result.fills, table, hidden, train_rows, seed)
        for name in options.baselines:
            task = progress.add_task(name, total=len(shown))
            made = baseline(name, shown, spec, season, lambda n, t=task: progress.update(t, completed=n))
            rows += score(name, made, table, spec, train_rows, score_rows, season, 0)
    document = {
        "protocol": {
            "file": options.file.name,
            "rows": len(shown),
            "step_ms": step_ms,
            "channels": list(table.channels),
            "horizon": options.horizon,
            "train_rows": list(train_rows),
            "score_rows": list(score_rows),
            "seeds": options.seeds,
            "train_every": options.train_every if options.train else None,
            "season_rows": season,
            "scale": "z-scored by the train rows",
        },
        "rows": [asdict(row) for row in rows],
        "swaps": [result.swaps for result in results],
        "wall_s": round(time.perf_counter() - begin, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if options.json_out:
        options.json_out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.forecasts_out:
        options.forecasts_out.write_bytes(b"".join(line + b"\n" for line in results[0].documents))
    if options.plots:
        report.plots(options.plots, rows, results[0], table, spec, score_rows)
    report.table(Console(), rows, document)


def read(options: Options) -> Table:
    name = options.file.name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return _from_lines(options)
    return read_table(options.file, options.time, options.channels)


def _from_lines(options: Options) -> Table:
    """JSON lines in the wire format; they must be one series."""
    channels = options.channels
    if not channels:
        first = next(read_lines(options.file), None)
        try:
            channels = tuple(orjson.loads(first.value or b"")["values"]) if first else ()
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{options.file}: the first line is not a tick ({error})") from error
    if not channels:
        raise InputError(f"{options.file}: holds no ticks")
    decoder = Decoder(StreamSpec(channels=channels, step_ms=1, horizon=1))
    batch, unread = decoder.decode(list(read_lines(options.file)))
    if unread:
        worst: FileRecord = unread[0].record  # type: ignore[assignment]
        raise InputError(f"{options.file}, line {worst.offset + 1}: {unread[0].reason}: {unread[0].detail}")
    if len(set(batch.series)) != 1:
        raise InputError(f"{options.file}: holds {len(set(batch.series))} series; back-test one at a time")
    return Table(channels, batch.ts_us // 1000, batch.values)


def read_hidden(path: Path, table: Table) -> Bool:
    """Cells to hide, one `row,channel` a line; the channel by name or number. [row, channel]"""
    hidden: Bool = np.zeros(table.values.shape, dtype=np.bool_)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row, _, channel = line.partition(",")
        channel = channel.strip()
        if not line.strip() or (number == 1 and not row.strip().isdigit()):
            continue
        try:
            at = table.channels.index(channel) if channel in table.channels else int(channel)
            hidden[int(row), at] = True
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}, line {number}: write row,channel ({error})") from error
    return hidden


def usual_step(ts_ms: I64) -> int:
    if len(ts_ms) < 2:
        raise InputError("the file holds fewer than two rows")
    step = int(np.median(np.diff(ts_ms)))
    if step <= 0:
        raise InputError("the times do not rise; give --step")
    return step


def ranges(options: Options, rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    train = options.train_rows or (0, max(2, int(0.2 * rows)))
    scored = options.score_rows or (train[1], rows)
    if scored[1] > rows or scored[1] - scored[0] < options.horizon:
        raise InputError(f"--score-rows {scored[0]}:{scored[1]} does not fit {rows} rows and horizon {options.horizon}")
    return train, scored


def stream_spec(table: Table, step_ms: int, options: Options) -> StreamSpec:
    return StreamSpec(
        channels=table.channels,
        step_ms=step_ms,
        horizon=options.horizon,
        quantiles=QUANTILES,
        gap_max=max(64, options.horizon),
        calendar_ms=tuple(parse_ms(text) for text in options.calendar if parse_ms(text) > step_ms),
        future_max_ms=2**60,
        idle_after_ms=2**60,
        series_max=2,
    )


def learn_spec(seed: int) -> LearnSpec:
    """One series is little to learn from: longer memory, every stretch used again and again."""
    train = TrainSpec(batch_series=16, length=256, chunk_len=64, burn_in=64, seed=seed)
    return LearnSpec(train=train, window=20_000, holdout=192, updates=160, min_steps=700, drift=False)


def serve(spec: StreamSpec, ts_ms: I64, values: F64, options: Options, seed: int, tell: Any) -> Result:
    """One pass of engine and learner over the rows."""
    engine = Engine(spec)
    shape = ModelSpec(len(spec.channels), spec.horizon, spec.quantiles, len(spec.calendar_ms))
    learner = Learner(replace(spec), shape, learn_spec(seed))
    count = len(ts_ms)
    # Rows of one grid step keep the first; a file is one series, so row and step go together unless it has gaps.
    result = Result(Forecasts.empty(count, spec), [], {}, [])
    encoder = Encoder(spec, options.file.name)
    for begin, end in _stretches(count, options.train_every):
        batch = ticks(ts_ms, values, begin, end)
        outputs = engine.process(batch)
        result.forecasts.take(outputs.forecasts, begin)
        fills = outputs.imputations
        for i in range(len(fills)):
            row = begin + int(fills.tick[i])
            if fills.ts_us[i] // 1000 // spec.step_ms == ts_ms[row] // spec.step_ms:
                for c in np.flatnonzero(fills.filled[i]):
                    result.fills[row, int(c)] = float(fills.values[i, c])
        if options.forecasts_out:
            result.documents += encoder.forecasts(outputs.forecasts, batch)
        if options.train:
            learner.feed(batch)
            if learner.ready():
                done = learner.round()
                if done.network is not None and done.candidate is not None:
                    skill = np.array(done.candidate.skill(), dtype=np.float32)
                    engine.load(done.network, f"round-{done.number}", skill)
                    result.swaps.append(end)
        tell(end)
    return result


def _stretches(count: int, every: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, count, every):
        yield begin, min(begin + every, count)


def ticks(ts_ms: I64, values: F64, begin: int, end: int) -> TickBatch:
    count = end - begin
    return TickBatch(
        records=[],
        partition=np.zeros(count, dtype=np.int32),
        offset=np.arange(begin, end, dtype=np.int64),
        record_ts_ms=ts_ms[begin:end],
        series=[SERIES] * count,
        ts_us=ts_ms[begin:end] * 1000,
        values=values[begin:end],
        channel=np.full(count, -1, dtype=np.int16),
    )


def baseline(name: str, values: F64, spec: StreamSpec, season: int, tell: Any) -> Forecasts:
    """A baseline over the same rows, one at a time."""
    try:
        model = registry.make(name, len(spec.channels), spec.horizon, season)
    except ValueError as error:
        raise InputError(str(error)) from error
    made = Forecasts.empty(len(values), spec)
    for row in range(len(values)):
        model.observe(values[row])
        made.mean[row] = model.forecast()
        if row % 200 == 0:
            tell(row)
    return made


__all__ = ["Options", "Result", "parse_time", "run", "serve"]
