"""The back-test: a file run through the very engine and learner of the service, prequentially, beside baselines.

Rows go through in the order of time. Between two rounds of training the rows may pass in one call, for the engine's result
does not depend on how they are cut; a round sees the rows before it and no others; its weights serve from the next row on.
So a forecast for the next H rows is fixed before the first of them is shown, and everything repeats by its seed.

The file is laid on the service's own grid first: targets, seasons and gaps are steps of it, and what it refuses is counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from streamrnn.backtest import report as report
from streamrnn.backtest import steps as backtest_steps
from streamrnn.backtest.baselines import registry
from streamrnn.backtest.baselines.base import WholeBaseline
from streamrnn.backtest.rows import Options, Stream, read, settled
from streamrnn.backtest.score import (
    Fills,
    Forecasts,
    Row,
    Scale,
    Steps,
    imputation_rows,
    normal_sigma,
    origins_of,
    plain_fills,
    score,
    steps_of,
)
from streamrnn.kernels.columns import rungs_of
from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.meaning import meaning_of
from streamrnn.model import weights
from streamrnn.model.network import Network
from streamrnn.records import F64, Bool, ForecastBatch, ImputationBatch, TickBatch, take
from streamrnn.spec import ModelSpec
from streamrnn.stream.engine import Engine
from streamrnn.stream.forecasting import inputs_of
from streamrnn.stream.frontend import FrontEnd
from streamrnn.stream.learner import Learner
from streamrnn.transports.files import InputError
from streamrnn.wire.encode import Encoder

Reached = Callable[[int], None]

KEPT, SUFFIX = "path:", ".weights"


@dataclass(slots=True)
class Result:
    """What one pass of the service over the file gave."""

    forecasts: Forecasts
    fills: Fills
    swaps: list[int] = field(default_factory=list)  # rows after which new weights served
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)  # tick → reason and detail
    open_rows: int = 0  # ticks of steps that were still open when the file ended
    documents: list[bytes] = field(default_factory=list)
    weights: tuple[Network, weights.WeightsMeta] | None = None  # the last that served


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where every row of the file went. `unasked`: rows that were refused, and not by the user's own choice."""

    total: int
    used: int
    refused: dict[str, int]
    unasked: int
    open: int
    notes: list[str]
    hints: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """A file, served and forecast, before it is scored: what every score is made of."""

    options: Options
    stream: Stream
    steps: Steps
    scale: Scale
    train_rows: tuple[int, int]
    score_rows: tuple[int, int]
    season: int
    shown: F64
    hidden: Bool | None
    results: list[Result]  # by seed
    models: list[tuple[str, int, Forecasts]]  # name, seed

    def rows(self, score_rows: tuple[int, int] | None = None) -> list[Row]:
        """Scores over `score_rows` (by default those of the options). Raises InputError where there is no cell."""
        spec, scored = self.stream.spec, score_rows or self.score_rows
        rows = score(self.models, self.steps, spec, self.scale, scored)
        if self.hidden is not None:
            filled = [("streamrnn", seed, result.fills) for seed, result in enumerate(self.results)]
            filled += [(name, 0, fills) for name, fills in plain_fills(self.steps, self.shown).items()]
            rows += imputation_rows(filled, self.steps, spec.channels, self.hidden, self.scale, scored)
        return rows


def measure(options: Options) -> Measured:
    """Reads the file and runs the service and the baselines over it. Raises InputError."""
    torch.set_num_threads(1)
    stream = read(options)
    options = settled(stream, options)
    spec, channels = stream.spec, stream.spec.channels
    steps = layout(stream)
    train_rows, score_rows = ranges(options, len(steps.rows), spec.horizon)
    season = backtest_steps.rows_of(options.season or backtest_steps.usual_season(stream.step), stream.step)
    scale = Scale.of(steps, channels, train_rows, season)
    _has_scale(scale, steps, options, train_rows)
    if len(origins_of(steps, score_rows, spec.horizon)) == 0:
        raise InputError(f"no row of --score-rows {score_rows[0]}:{score_rows[1]} has {spec.horizon} steps behind it")
    hidden = read_hidden(options.hide, steps, channels) if options.hide else None
    shown, batch = steps.values.copy(), stream.batch
    if hidden is not None:
        if not stream.table or spec.within != "one":
            raise InputError("--hide needs a file with one row a step, not long records or several rows in a step")
        shown[hidden] = np.nan
        values = stream.batch.values.copy()
        values[steps.tick[steps.real]] = shown[steps.real]
        batch = replace(stream.batch, values=values)

    models: list[tuple[str, int, Forecasts]] = []
    results: list[Result] = []
    console = Console(stderr=True)
    for hint in stream.hints if not options.allow_refused else ():
        console.print(f"streamrnn: {hint}", highlight=False, markup=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        for seed in range(options.seeds):
            task = progress.add_task(f"streamrnn, seed {seed}", total=len(batch))
            results.append(serve(stream, batch, steps, options, seed, partial(_show, progress, task)))
            models.append(("streamrnn", seed, results[-1].forecasts))
        for name in options.baselines:
            task = progress.add_task(name, total=len(steps))
            reached = partial(_show, progress, task)
            if name.startswith(KEPT):
                kept = _kept(Path(name.removeprefix(KEPT)), stream)
                made = serve(stream, batch, steps, options, 0, reached, kept).forecasts
            else:
                made = baseline(name, shown, steps, stream, season, reached)
            models.append((name, 0, made))
    return Measured(options, stream, steps, scale, train_rows, score_rows, season, shown, hidden, results, models)


def run(options: Options) -> Accounts:
    """Reads, runs, scores, prints, writes; returns where the rows went. Raises InputError."""
    began_s = time.perf_counter()
    found = measure(options)
    stream, steps, spec, results = found.stream, found.steps, found.stream.spec, found.results
    rows = found.rows()
    accounts = account(stream, results[0], found.scale)
    document = {
        "protocol": {
            "file": options.file.name,
            "rows": accounts.total,
            "steps": len(steps.rows),
            "series": len(steps.names),
            "seasons": [each.name for each in spec.seasons],
            "experts": list(spec.experts),
            "step": stream.step.text,
            "step_ms": spec.step_ms,
            "channels": list(spec.channels),
            "horizon": spec.horizon,
            "train_rows": list(found.train_rows),
            "score_rows": list(found.score_rows),
            "seeds": options.seeds,
            "train_every": options.train_every if options.train else None,
            "season": options.season or backtest_steps.usual_season(stream.step),
            "season_rows": found.season,
            "scale": "z-scored by the train rows",
            "quantiles": list(spec.quantiles),
            "baseline_intervals": "normal, of an EWMA of a baseline's own squared errors",
        },
        "rows": [asdict(row) for row in rows],
        "rows_used": accounts.used,
        "rows_refused": accounts.refused,
        "rows_open": accounts.open,
        "notes": accounts.notes,
        "unscaled": found.scale.still,
        "swaps": [result.swaps for result in results],
        "wall_s": round(time.perf_counter() - began_s, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if options.json_out:
        options.json_out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.forecasts_out:
        options.forecasts_out.write_bytes(b"".join(line + b"\n" for line in results[0].documents))
    if options.keep:
        keep(options.keep, results[0], stream)
    if options.plots:
        report.plots(options.plots, rows, results[0].forecasts, results[0].swaps, steps, spec, found.score_rows)
    report.table(Console(), rows, document)
    return accounts


def _show(progress: Progress, task: TaskID, done: int) -> None:
    progress.update(task, completed=done)


# ── the file on the grid ─────────────────────────────────────────────────────────────────────────────────────────────


def layout(stream: Stream) -> Steps:
    """The file's ticks as the service's grid takes them, with nothing hidden."""
    front = FrontEnd(stream.spec)
    parts, begin = [], 0
    while begin < len(stream.batch):
        frames = front.process(stream.batch, begin)
        begin += frames.consumed
        if len(frames):
            parts.append(frames)
    if not parts:
        raise InputError("no step of the file is complete: every row is refused, or the last steps stay open")
    slots = {int(slot) for part in parts for slot in np.unique(part.slot)}
    return steps_of(parts, {slot: front.series_name(slot) for slot in slots}, stream.spec.irregular)


def ranges(options: Options, rows: int, horizon: int) -> tuple[tuple[int, int], tuple[int, int]]:
    train = options.train_rows or (0, max(2, int(0.2 * rows)))
    scored = options.score_rows or (train[1], rows)
    if train[0] >= rows:
        raise InputError(f"--train-rows {train[0]}:{train[1]} lie beyond the file's {rows} rows")
    if scored[1] > rows or scored[1] - scored[0] < horizon:
        raise InputError(f"--score-rows {scored[0]}:{scored[1]} do not fit {rows} rows and horizon {horizon}")
    return train, scored


def _has_scale(scale: Scale, steps: Steps, options: Options, train_rows: tuple[int, int]) -> None:
    if not np.isfinite(scale.spread).any():
        names = ", ".join(scale.still[:3])
        raise InputError(
            f"{options.file}: {names} stand still (or are missing) over the train rows {train_rows[0]}:{train_rows[1]}, so "
            "there is no scale to score on; choose rows that move with --train-rows"
        )


def read_hidden(path: Path, steps: Steps, channels: tuple[str, ...]) -> Bool:
    """Cells to hide, one `row,channel` a line, in panels `row,channel,series`; the channel by name or number.

    [frame, channel]; rows are counted as in --train-rows. Raises InputError.
    """
    hidden: Bool = np.zeros(steps.values.shape, dtype=np.bool_)
    frame = {
        (name, row): at
        for at, (name, row) in enumerate(
            zip(steps.series.tolist(), np.searchsorted(steps.rows, steps.step).tolist(), strict=True)
        )
        if steps.real[at]
    }
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        row, _, rest = line.partition(",")
        if not line.strip() or (number == 1 and not row.strip().isdigit()):
            continue
        channel, _, name = rest.partition(",")
        if channel.strip() not in channels and rest.strip() in channels:  # a comma within the channel's own name
            channel, name = rest, ""
        channel, name = channel.strip(), name.strip()
        try:
            at = channels.index(channel) if channel in channels else int(channel)
            if not 0 <= at < len(channels):
                raise ValueError(f"no channel {at}")
            if not name and len(steps.names) > 1:
                raise ValueError("with several series, row,channel,series")
            who = steps.names.index(name) if name else 0
            if (who, int(row)) not in frame:
                raise ValueError(f"no row {row.strip()}")
            hidden[frame[who, int(row)], at] = True
        except ValueError as error:
            raise InputError(f"{path}, line {number}: write row,channel ({error})") from error
    return hidden


# ── the passes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def learn_spec(options: Options, seed: int, series: int) -> LearnSpec:
    """The service's own, of the configuration where there is one."""
    spec = options.settings.learn.spec() if options.settings is not None else LearnSpec(train=TrainSpec())
    return replace(spec, train=replace(spec.train, seed=seed), series_max=max(spec.series_max, series))


def serve(
    stream: Stream,
    batch: TickBatch,
    steps: Steps,
    options: Options,
    seed: int,
    reached: Reached,
    kept: weights.Fitted | None = None,
) -> Result:
    """One pass of engine and learner over the ticks of `batch` (those of the stream, some values hidden).

    With `kept` weights these serve from the first row to the last, and nothing is learnt.
    """
    spec = stream.spec
    engine = Engine(spec)
    if kept is not None:
        engine.load(kept.network, kept.meta.id)
    shape = options.settings.model_spec() if options.settings is not None else ModelSpec((), ())
    shape = replace(shape, inputs=tuple(engine.inputs), rungs=rungs_of(spec.horizon))
    learns = options.train and kept is None
    learner = Learner(spec, shape, learn_spec(options, seed, len(steps.names))) if learns else None
    cells = steps.values.shape
    result = Result(
        Forecasts.empty(len(steps), spec, quantiles=True),
        Fills(np.full(cells, np.nan), np.full(cells, np.nan), np.full(cells, np.nan)),
    )
    frame = {
        (steps.names[s], stamp): at
        for at, (s, stamp) in enumerate(zip(steps.series.tolist(), steps.stamp.tolist(), strict=True))
        if steps.real[at]
    }
    encoder = Encoder(spec, options.file.name)
    rows = np.searchsorted(steps.rows, steps.step)
    row_of_tick = np.zeros(len(batch), dtype=np.int64)
    row_of_tick[steps.tick[steps.real]] = rows[steps.real]
    every_row = options.score_rows is None or options.forecasts_out is not None
    scored_until = len(steps.rows) if every_row or options.score_rows is None else options.score_rows[1]
    for begin, end in _stretches(np.maximum.accumulate(row_of_tick), options.train_every):
        part = take(batch, slice(begin, end))
        outputs = engine.process(part)
        _take_forecasts(result.forecasts, outputs.forecasts, frame)
        _take_fills(result.fills, outputs.imputations, frame)
        for tick, reason, detail in outputs.rejected:
            result.refused[begin + tick] = (reason, detail)
        if options.forecasts_out and seed == 0 and kept is None:
            result.documents += encoder.forecasts(outputs.forecasts, part)
        if learner is not None:
            learner.feed(part)
            # What is learnt from the last rows would serve none; what is learnt behind the scored rows changes no score.
            newest = int(row_of_tick[begin:end].max())
            if end < len(batch) and newest < scored_until and learner.ready() and not learner.rests:
                done = learner.round()
                if done.network is not None and done.candidate is not None:
                    engine.load(done.network, f"round-{done.number}")
                    meta = weights.WeightsMeta(round=done.number, gain=list(done.candidate.gain))
                    result.weights = (done.network, meta)
                    result.swaps.append(newest + 1)
        reached(end)
    result.open_rows = engine.front.ticks_held
    return result


def keep(folder: Path, result: Result, stream: Stream) -> None:
    """Writes the weights that served last as `<id>.weights`. Raises InputError where none were ready."""
    if result.weights is None:
        raise InputError("--keep: no weights were ready before the file ended (or --no-train); nothing is written")
    network, meta = result.weights
    blob = weights.pack(network, meta, meaning_of(stream.spec))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{meta.id}{SUFFIX}").write_bytes(blob)


def _kept(path: Path, stream: Stream) -> weights.Fitted:
    """The weights in this file, or in the newest `.weights` file of this folder. Raises InputError."""
    found = sorted(path.glob(f"*{SUFFIX}"), key=lambda each: each.stat().st_mtime) if path.is_dir() else [path]
    if not found or not found[-1].is_file():
        raise InputError(f"--baselines {KEPT}{path}: no *{SUFFIX} there; `backtest --keep FOLDER` writes one")
    try:
        return weights.fitted(found[-1].read_bytes(), meaning_of(stream.spec), inputs_of(stream.spec))
    except (weights.WeightsError, OSError) as error:
        raise InputError(f"--baselines {KEPT}{path}: {found[-1].name}: {error}") from error


def _take_forecasts(into: Forecasts, made: ForecastBatch, frame: dict[tuple[str, int], int]) -> None:
    # Gap steps have forecasts too, made when they were revealed: they are no origins.
    at = [frame.get(key, -1) for key in zip(made.series, made.ts_us.tolist(), strict=True)]
    good = [i for i, place in enumerate(at) if place >= 0]
    places = [at[i] for i in good]
    into.mean[places] = made.mean[good]
    if into.quantiles is not None:
        into.quantiles[places] = made.quantiles[good]


def _take_fills(into: Fills, made: ImputationBatch, frame: dict[tuple[str, int], int]) -> None:
    for i, key in enumerate(zip(made.series, made.ts_us.tolist(), strict=True)):
        at = frame.get(key)
        if at is None:
            continue
        c = made.filled[i]
        into.value[at, c] = made.values[i, c]
        if into.lower is not None and into.upper is not None:
            into.lower[at, c], into.upper[at, c] = made.lower[i, c], made.upper[i, c]


def _stretches(row: np.ndarray[Any, np.dtype[np.int64]], every: int) -> Iterator[tuple[int, int]]:
    """Ticks of `every` rows each: a row's ticks of all series stay together."""
    if len(row) == 0:
        return
    cuts = np.flatnonzero(np.diff(row // every)) + 1
    edges = [0, *cuts.tolist(), len(row)]
    yield from pairwise(edges)


def baseline(name: str, shown: F64, steps: Steps, stream: Stream, season: int, reached: Reached) -> Forecasts:
    """A baseline over the same steps, one at a time, a model per series; gaps are steps with nothing in them."""
    spec = stream.spec
    made = Forecasts.empty(len(steps), spec, quantiles=False)
    empty = np.full(len(spec.channels), np.nan)
    done = 0
    for s in range(len(steps.names)):
        try:
            model = registry.make(name, len(spec.channels), spec.horizon, season)
        except ValueError as error:
            raise InputError(str(error)) from error
        mine = np.flatnonzero(steps.series == s)
        if isinstance(model, WholeBaseline):
            made.mean[mine] = model.forecasts(shown[mine], steps.stamp[mine])
            done += len(mine)
            reached(done)
            continue
        before: int | None = None
        for at in mine.tolist():
            step = int(steps.step[at])
            if before is not None and not spec.irregular:
                # The grid fills gaps up to a bound; what it skips must not shift the season's phase.
                for _ in range((step - before - 1) % season):
                    model.observe(empty)
            before = step
            model.observe(shown[at])
            made.mean[at] = model.forecast()
            done += 1
            if done % 200 == 0:
                reached(done)
    made.sigma = normal_sigma(made.mean, shown, steps, registry.interval_decay(name))
    return made


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def account(stream: Stream, result: Result, scale: Scale) -> Accounts:
    """Every row of the file: used, or refused with its reason."""
    refused = Counter(stream.refused)
    notes = [*stream.notes, *stream.hints]
    for reason, count in Counter(reason for reason, _ in result.refused.values()).items():
        refused[reason] += count
        tick = min(tick for tick, (why, _) in result.refused.items() if why == reason)
        notes.append(
            f"{count} rows are refused by the grid as {reason}, the first: line {stream.place[tick]}, "
            f"{result.refused[tick][1]}"
        )
    if result.open_rows:
        notes.append(
            f"{result.open_rows} rows stand in steps that are not complete when the file ends: no forecast from them"
        )
    if scale.still:
        few = ", ".join(scale.still[:5]) + (" …" if len(scale.still) > 5 else "")
        notes.append(f"not scored, for they stand still over the train rows (--train-rows): {few}")
    away = sum(refused.values())
    return Accounts(
        stream.total, stream.total - away, dict(refused), away - stream.chosen, result.open_rows, notes, stream.hints
    )


__all__ = ["Accounts", "Measured", "Options", "Result", "measure", "run", "serve"]
