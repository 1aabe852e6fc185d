"""The service's forecaster as a Python object: the same engine, learner, settings and defaults, and the same numbers.

A settings' name, its values and its default are those of the configuration file (`deploy/GUIDE.md`); what has no meaning
without Kafka cannot be given. Every tick is a record of one partition whose time is the tick's own, as in the back-test.

Not for several threads at once. Training takes torch's global seed for as long as a round lasts, and gives it back.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack

import numpy as np
import torch
from river.time_series.base import Forecaster
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from streamrnn import __version__
from streamrnn.config.settings import ConfigError, Settings, load
from streamrnn.dataframes import (
    SOLE,
    Fill,
    Fills,
    Forecast,
    Forecasts,
    Times,
    column_of,
    listed,
    moment,
    names_of,
    number_of,
    numbers_of,
    plain,
    shown,
)
from streamrnn.model import device as devices
from streamrnn.model.weights import Fitted, WeightsError, WeightsMeta, fitted, pack
from streamrnn.records import (
    F64,
    I64,
    KIND_TICK,
    ForecastBatch,
    ImputationBatch,
    Outputs,
    PlainRecord,
    Reason,
    TickBatch,
)
from streamrnn.stream.engine import NO_MODEL, Engine
from streamrnn.stream.learner import Learner, Round
from streamrnn.stream.snapshot import Restored, SnapshotError, Snapshots
from streamrnn.training.pace import Pace
from streamrnn.transports.base import clock_s
from streamrnn.wire.mapping import DecodeSpec
from streamrnn.wire.packed import packed

# Ticks of a frame that are processed at once, as the service takes records.
PIECE = 2000
MAGIC, VERSION, DIGEST_BYTES = b"SRNNF", 1, 32
LIFE = 1  # of the states that are saved


class StreamSettings(TypedDict, total=False):
    """The settings of the configuration that say how a stream is read, forecast and learnt; each as it is written there."""

    quantiles: Sequence[float]
    within: Literal["one", "last", "mean", "sum"]
    complete: Literal["record", "channels"]
    duplicates: Literal["keep", "refuse"]
    align: Literal["floor", "nearest"]
    timezone: str
    lateness: str
    idle_after: str
    gap_max: int
    future_max: str
    past_max: str
    calendar: Sequence[str]
    season: str | Sequence[str] | Mapping[str, Any]
    experts: str | Sequence[str]
    experts_memory_max: str
    imputed: Literal["gaps", "all"]
    model: Mapping[str, Any]
    learn: Mapping[str, Any]
    warm_up: int
    series_max: int
    pending_max: int


class TickRefused(ValueError):
    """A tick that the stream does not take: it comes late, twice, from another year. Nothing has changed.

    `reason`: a word of `streamrnn.Reason`, as in the dead letters of the service; `detail`: why, and which setting helps.
    """

    def __init__(self, where: str, reason: Reason, detail: str) -> None:
        super().__init__(f"{where}: {reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Fit:
    """What a round of training came to. `gain` by step ahead: the share of the squared error, of what is forecast without a
    network, that it removed on steps that it was not trained on."""

    accepted: bool
    reason: str
    updates: int
    gain: dict[int, float]


@dataclass(frozen=True, slots=True)
class Learnt:
    """What became of the rows of a frame. `refused`: (row, reason, detail) of those that were not taken."""

    rows: int
    refused: list[tuple[int, Reason, str]]


class OnlineForecaster(Forecaster):
    """Forecasts every step of one series or many, fills what is missing, and keeps learning.

    Parameters
    ----------
    channels
        The names of a tick's values.
    step
        The grid: `1s`, `15m`, `1h`, `1d`, `1mo`, or `irregular` (every tick is a step).
    horizon
        How many steps ahead.
    time
        With river: the feature that holds a tick's time. Without it a tick that names no time is the next step.
    train
        `fit`: a network is trained when `fit` is called. `background`: whenever there is something to learn from, by a thread;
        when its weights come into use depends on the machine. `off`: without a network, with half of the memory.
    settings
        Those of the configuration: `StreamSettings`.

    Examples
    --------

    >>> import math
    >>> from streamrnn import OnlineForecaster
    >>> f = OnlineForecaster(channels=["temp", "flow"], step="1h", horizon=3)
    >>> for hour in range(100):
    ...     f.learn_one({"temp": 20 + math.sin(hour), "flow": None if hour == 99 else 3.0}, ts=hour * 3_600_000)
    >>> forecast = f.forecast()
    >>> forecast.mean.shape, list(forecast.quantiles)
    ((2, 3), [0.05, 0.5, 0.95])
    >>> forecast.times[0].isoformat()
    '1970-01-05T04:00:00+00:00'
    >>> f.impute()[0].values["flow"]
    3.0

    Many series, and what cannot be taken:

    >>> f = OnlineForecaster(step="1d", horizon=7)
    >>> f.learn_one(112.0, ts="2026-11-23T00:00:00Z", series="london")
    >>> f.learn_one(118.0, ts="2026-11-22T00:00:00Z", series="london")
    Traceback (most recent call last):
    streamrnn.forecaster.TickRefused: series 'london', ts '2026-11-22T00:00:00Z': late: ts 1795305600000 is late: ...
    >>> f.forecast(series="paris")
    Traceback (most recent call last):
    ValueError: series 'paris' has no forecast: there is london
    """

    def __init__(
        self,
        channels: Sequence[str] = ("y",),
        *,
        step: str,
        horizon: int,
        time: str | None = None,
        train: Literal["fit", "background", "off"] = "fit",
        **settings: Unpack[StreamSettings],
    ) -> None:
        """Raises ValueError where a setting cannot be used; the message lists each with what to write."""
        self.channels = channels if isinstance(channels, str) else tuple(channels)
        self.step, self.horizon, self.time, self.train, self.settings = step, horizon, time, train, settings
        if train not in ("fit", "background", "off"):
            raise ValueError(f"train: {shown(train)} is not known; write fit, background or off")
        self._settings = _settings(self.channels, step, horizon, settings)
        self._spec = self._settings.stream_spec()
        self._largest = DecodeSpec().value_abs_max
        self._name_bytes = DecodeSpec().series_bytes_max
        self._engine = Engine(self._spec)
        self._meaning = self._settings.meaning()
        self._times = Times(self._spec.timezone)
        self._ticks = 0
        self._forecasts: dict[str, tuple[I64, F64, F64, bool, str, bool]] = {}
        self._filled: list[ImputationBatch] = []
        self._local = True
        self._weights = b""
        self.rejected: Counter[Reason] = Counter()
        self.evicted = 0
        self._training = None if train == "off" else _Training(self._settings, background=train == "background")

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        """For river's checks."""
        yield {"step": "1h", "horizon": 3}

    @property
    def series(self) -> tuple[str, ...]:
        """The series that have a state, by name."""
        return tuple(sorted(self._engine.table.series(0)))

    @property
    def model(self) -> str:
        """The id of the weights in use; `persistence` before there are any."""
        return self._engine.model

    @property
    def weights(self) -> bytes:
        """The weights in use, as they stand in the service's models topic; empty before there are any."""
        return self._weights

    def use_weights(self, weights: bytes) -> None:
        """Serves with these weights from the next tick on, and trains on from them. Raises ValueError where they do not fit."""
        self._stop_training()
        try:
            found = self._fitted(weights)
        except WeightsError as error:
            raise ValueError(f"the weights cannot be used: {error}") from None
        self._engine.load(found.network, found.meta.id)
        self._weights = weights
        if self._training is not None:
            own = found.network.spec == self._training.learner.model_spec
            self._training.learner.adopt(found.network if own else None)

    def _fitted(self, weights: bytes) -> Fitted:
        with torch.random.fork_rng(devices=[]):  # a network is drawn before its weights are put into it
            return fitted(weights, self._meaning, self._engine.inputs)

    # ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────

    def learn_one(
        self,
        y: float | Mapping[str, float | None] | None,
        x: Mapping[str, Any] | None = None,
        *,
        ts: Any = None,
        series: str | None = None,
        arrived: Any = None,
    ) -> None:
        """Takes one tick: scores what was forecast of it, fills what it lacks, moves the state, forecasts anew.

        `y`: the value, or values by channel; None or NaN: missing. `ts`: its time, a datetime (a naive one is of
        `timezone`), milliseconds since 1970 or RFC 3339; without it, the next step of its series. `x`: river's features, of
        which the one that is called `time` counts, and no other. `arrived`: when the tick came, where that is not its own
        time: what is too far ahead of it is refused, and what shows which series are silent.

        Raises ValueError or TypeError for what is no tick of this stream, TickRefused for one that the grid does not take.
        Either way nothing has changed.
        """
        name = self._named(series)
        values = self._values(y)
        local = self._local
        if ts is None and self.time is not None:
            if x is None or self.time not in x:
                raise ValueError(f"x has no {self.time!r} (the parameter time); it has {listed(list(x or ()))}")
            ts = x[self.time]
        ts_us = self._next_us(name) if ts is None else self._times.us(ts, "ts")
        if ts is not None:
            local = self._times.local
        record_us = ts_us if arrived is None else self._times.us(arrived, "arrived")
        outputs = self._process([name], np.array([ts_us]), values[None], np.array([record_us // 1000]), local)
        for _, reason, detail in outputs.rejected:
            at = f", ts {shown(ts)}" if ts is not None else ""
            raise TickRefused(f"series {name!r}{at}", reason, detail)

    def learn_many(
        self,
        frame: Any,
        *,
        ts: str = "ds",
        series: str = "unique_id",
        refused: Literal["raise", "keep"] = "raise",
    ) -> Learnt:
        """Takes the rows of a data frame in the order of their times: a tick each.

        `frame`: of pandas or polars, or a dict of lists, with a column for each channel, one called `ts`, and one called
        `series` where there are several. `refused`: rows that the grid does not take raise a TickRefused after the
        others were taken, or are only listed in what is returned.

        Raises ValueError or TypeError, before anything is taken, for what cannot be read: row and column are named.
        """
        ts_us = self._times.column(column_of(frame, ts), ts)
        local = self._times.local
        has_series = series in names_of(frame)
        if not has_series and series != "unique_id":
            column_of(frame, series)
        names = [self._named(name) for name in plain(column_of(frame, series))] if has_series else [SOLE] * len(ts_us)
        columns = [numbers_of(column_of(frame, name), name, self._largest) for name in self._spec.channels]
        checked: list[tuple[str, Any]] = [*zip(self._spec.channels, columns, strict=True), (series, names)]
        for name, column in checked:
            if len(column) != len(ts_us):
                raise ValueError(f"column {name!r} has {len(column)} rows, and {ts!r} has {len(ts_us)}")
        values = np.stack(columns, axis=1) if columns else np.empty((len(ts_us), 0))
        order = np.argsort(ts_us, kind="stable")
        parts: list[ImputationBatch] = []
        rejected: list[tuple[int, Reason, str]] = []
        for begin in range(0, len(order), PIECE):
            rows = order[begin : begin + PIECE]
            at = ts_us[rows]
            outputs = self._process([names[row] for row in rows.tolist()], at, values[rows], at // 1000, local)
            parts.append(outputs.imputations)
            rejected += [(int(rows[tick]), reason, detail) for tick, reason, detail in outputs.rejected]
        self._filled = parts
        rejected.sort()
        if rejected and refused == "raise":
            row, reason, detail = rejected[0]
            raise TickRefused(
                f"{len(rejected)} of {len(order)} rows were refused, the others learnt (refused='keep' lists them); the first "
                f"is row {row}, series {names[row]!r}", reason, detail,
            )  # fmt: skip
        return Learnt(len(order), rejected)

    def _process(self, names: list[str], ts_us: I64, values: F64, record_ms: I64, local: bool) -> Outputs:
        """Ticks through the engine and to the learner, in this order, as in the service."""
        count = len(names)
        batch = TickBatch(
            records=[],
            partition=np.zeros(count, dtype=np.int32),
            offset=np.arange(self._ticks, self._ticks + count, dtype=np.int64),
            record_ts_ms=record_ms.astype(np.int64),
            series=names,
            ts_us=ts_us.astype(np.int64),
            values=values,
            channel=np.full(count, -1, dtype=np.int16),
        )
        if self._training is not None:
            self._use(self._training.done())
        outputs = self._engine.process(batch)
        self._ticks += count
        self._local = local
        self._note(outputs.forecasts)
        self._filled = [outputs.imputations]
        self.evicted += outputs.evicted
        self.rejected.update(reason for _, reason, _ in outputs.rejected)
        if self._training is not None:
            self._training.feed(batch)
        return outputs

    def _note(self, made: ForecastBatch) -> None:
        """Keeps the newest forecast of each series, and none of series that were evicted."""
        newest = {name: i for i, name in enumerate(made.series)}
        for name, i in newest.items():
            at = np.array([made.ts_us[i], made.step_us[i]])
            said = (at, made.mean[i].copy(), made.quantiles[i].copy(), bool(made.warm[i]), made.model, self._local)
            self._forecasts[name] = said
        if len(self._forecasts) > self._engine.table.rows_max:
            there = self._engine.table.series(0)
            self._forecasts = {name: said for name, said in self._forecasts.items() if name in there}

    def fit(self) -> Fit:
        """One round of training on what was learnt so far; the weights serve from the next tick on if they are better.

        They are better if they remove more of the error of what is forecast without them than the weights in use, on the
        newest steps, which neither was trained on. Raises ValueError with `train="off"`.
        """
        if self._training is None:
            raise ValueError('train is "off": there is nothing to train; make the forecaster with train="fit"')
        self._use(self._training.wait())
        lack = self._training.learner.lacks()
        if lack is not None:
            where = "in a series" if lack.each else "in all"
            return Fit(False, f"too little yet: {lack.have} of {lack.need} steps {where}", 0, {})
        return self._use(self._training.round()) or Fit(False, "diverged", 0, {})

    def _use(self, done: Round | None) -> Fit | None:
        """Serves with the weights of a round, if they were accepted."""
        if done is None or self._training is None:
            return None
        gain = done.candidate.gain if done.candidate is not None else ()
        if done.network is not None:
            meta = WeightsMeta(
                base_id="" if self.model == NO_MODEL else self.model,
                ticks=self._training.learner.ticks,
                round=done.number,
                loss=done.loss,
                gain=list(gain),
                device=self._training.device,
            )
            self._weights = pack(done.network, meta, self._meaning)
            found = self._fitted(self._weights)
            self._engine.load(found.network, found.meta.id)
        rungs = self._training.learner.model_spec.rungs
        return Fit(done.network is not None, done.verdict.reason, done.updates, dict(zip(rungs, gain, strict=False)))

    def _stop_training(self) -> None:
        if self._training is not None:
            self._use(self._training.wait())

    # ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────

    def forecast(  # type: ignore[override]  # a sequence where river has a list
        self, horizon: int | None = None, xs: Any = None, *, series: str | None = None
    ) -> Forecast:
        """The newest forecast of a series: what the service sent when its last step closed.

        `horizon`: so many steps of it (as river asks). `xs` has no effect: no features are known ahead.
        Raises ValueError where a series has none, or where there are several and none is named.
        """
        name = self._asked(series)
        forecast = self._forecast(name, self._forecasts[name])
        if horizon is None:
            return forecast
        if not 1 <= horizon <= len(forecast):
            raise ValueError(f"horizon: {horizon} steps are asked for, and the forecaster was made for {self.horizon}")
        return forecast.first(horizon)

    def forecast_many(self) -> Forecasts:
        """The newest forecast of every series."""
        return Forecasts(self._forecast(name, said) for name, said in self._forecasts.items())

    def impute(self, series: str | None = None) -> Fills:
        """The steps that the last `learn_one` or `learn_many` filled in: channels that a tick lacked, and ticks that never came.

        With `imputed="all"` the steps of which nothing was missing, too. Filled from the past only.
        """
        made = Fills()
        for part in self._filled:
            for i in range(len(part)):
                if series is None or part.series[i] == series:
                    made.append(self._fill(part, i))
        return made

    def _fill(self, part: ImputationBatch, i: int) -> Fill:
        channels = self._spec.channels
        values = [None if value != value else value for value in part.values[i].tolist()]
        intervals = zip(channels, part.filled[i], part.lower[i].tolist(), part.upper[i].tolist(), strict=True)
        return Fill(
            part.series[i],
            moment(int(part.ts_us[i]), self._spec.timezone, self._local),
            dict(zip(channels, values, strict=True)),
            {channel: (lower, upper) for channel, filled, lower, upper in intervals if filled},
            "missing-channel" if part.kind[i] == KIND_TICK else "missing-tick",
        )

    def _forecast(self, name: str, said: tuple[I64, F64, F64, bool, str, bool]) -> Forecast:
        (ts_us, step_us), mean, quantiles, warm, model, local = said[0].tolist(), *said[1:]
        spec, zone = self._spec, self._spec.timezone
        if spec.calendar_step is None:
            ahead = [ts_us + k * step_us for k in range(1, spec.horizon + 1)]
        else:
            grid = self._engine.front.steps
            ahead = [grid.start_us(grid.index(ts_us) + k) for k in range(1, spec.horizon + 1)]
        levels = {level: quantiles[:, q] for q, level in enumerate(spec.quantiles)}
        times = tuple(moment(us, zone, local) for us in ahead)
        return Forecast(name, spec.channels, moment(ts_us, zone, local), times, mean, levels, warm, model)

    def _asked(self, series: str | None) -> str:
        known = self._forecasts
        if series is None and len(known) == 1:
            return next(iter(known))
        name = SOLE if series is None else series
        if name in known:
            return name
        if series is None and known:
            raise ValueError(f"say which series: there are {listed(sorted(known))}")
        if not known:
            raise ValueError("nothing is forecast yet: no step was closed (learn_one, learn_many)")
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there is {listed(sorted(known))}"
        raise ValueError(f"series {shown(name)} has no forecast: {meant}")

    # ── reading ticks ────────────────────────────────────────────────────────────────────────────────────────────

    def _named(self, series: Any) -> str:
        if series is None:
            return SOLE
        name = series if isinstance(series, str) else str(series) if isinstance(series, (int, np.integer)) else ""
        if not name or not name.isprintable() or len(name.encode("utf-8", "replace")) > self._name_bytes:
            raise ValueError(
                f"series: {shown(series)} is no name: write a text of 1 to {self._name_bytes} bytes without control characters"
            )
        return name

    def _values(self, y: Any) -> F64:
        channels = self._spec.channels
        if not isinstance(y, Mapping):
            if len(channels) != 1:
                raise TypeError(f"y: {shown(y)} is one value, and there are channels {listed(channels)}: write a dict")
            return np.array([number_of(y, f"channel {channels[0]!r}", self._largest)])
        unknown = [name for name in y if name not in channels]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), channels, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"channel {shown(unknown[0])} is not one of channels {listed(channels)}{meant}")
        if not y:
            raise ValueError(f"y: no channel of {listed(channels)} is in the tick")
        return np.array([number_of(y.get(name), f"channel {name!r}", self._largest) for name in channels])

    def _next_us(self, name: str) -> int:
        """Where the step begins that follows the newest of a series; 1970 for the first."""
        if self._spec.irregular:
            raise ValueError("ts: is needed with step irregular, where no step is the next one")
        table, grid = self._engine.table, self._engine.front.steps
        row = table.find(0, name)
        if row is None:
            return grid.start_us(grid.index(0))
        return grid.start_us(grid.index(int(table.columns["last_us"][row])) + 1)

    # ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, path: str | Path) -> None:
        """Writes states, weights and the newest forecasts into a file; who loads it goes on bit for bit.

        What a network would be trained on is not in it: `fit` waits for new steps, and goes on from the weights in use.
        """
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        partial.write_bytes(self.to_bytes())
        partial.replace(target)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote. Raises ValueError where the file is no such thing, or damaged; OSError where it cannot be read."""
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        self._stop_training()
        engine = self._engine
        snapshots = Snapshots(engine, self._meaning)
        rows = engine.table.longest_silent_first(0)
        keys, records = snapshots.pack(0, rows, self._ticks, LIFE)
        head = {
            "version": __version__,
            "parameters": {**self._get_params(), "channels": list(self._spec.channels)},
            "ticks": self._ticks,
            "rejected": dict(self.rejected),
            "evicted": self.evicted,
            "local": self._local,
            "forecasts": [[name, said[3], said[4], said[5]] for name, said in self._forecasts.items()],
        }
        parts = {
            "head": json.dumps(head, default=str).encode(),
            "layout": snapshots.layout()[1],
            "meaning": snapshots.meaning.encode(),
            "clock": engine.front.clock(0),
            "weights": self._weights,
            "keys": b"".join(keys),
            "records": b"".join(records),
        }
        arrays: dict[str, Any] = {name: np.frombuffer(part, dtype=np.uint8) for name, part in parts.items()}
        arrays["key_sizes"] = np.array([len(key) for key in keys], dtype=np.int64)
        arrays["record_sizes"] = np.array([len(record) for record in records], dtype=np.int64)
        for k, name in enumerate(("times", "mean", "quantiles")):
            made = [said[k] for said in self._forecasts.values()]
            arrays[name] = np.stack(made) if made else np.zeros(0)
        body = save_arrays(arrays)
        return MAGIC + bytes([VERSION]) + hashlib.sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, saved: bytes) -> Self:
        """What `to_bytes` gave. Raises ValueError."""
        arrays = _unpacked(saved)

        def part(name: str) -> bytes:
            return bytes(arrays[name].tobytes())

        head = json.loads(part("head"))
        made = cls(**head["parameters"])
        engine = made._engine
        if weights := part("weights"):
            made.use_weights(weights)
        snapshots, found = Snapshots(engine, made._meaning), Restored()
        names = _split(part("keys"), arrays["key_sizes"])
        records = _split(part("records"), arrays["record_sizes"])
        try:
            snapshots.learn_meaning(snapshots.meaning.id, part("meaning"))
            snapshots.learn(part("layout"))
            states = [
                PlainRecord("", 0, at, -1, name, record)
                for at, (name, record) in enumerate(zip(names, records, strict=True))
            ]
            snapshots.restore(0, packed(0, states), found)
        except SnapshotError as error:
            raise ValueError(str(error)) from None
        if found.rows != len(names):
            why = ", ".join(f"{count} {reason}" for reason, count in found.refused.items())
            raise ValueError(f"{len(names) - found.rows} of {len(names)} states cannot be taken up ({why})")
        engine.front.restore_clock(0, part("clock"))
        made._ticks, made.evicted, made._local = head["ticks"], head["evicted"], head["local"]
        made.rejected = Counter(head["rejected"])
        for i, (name, warm, model, local) in enumerate(head["forecasts"]):
            said = (arrays["times"][i], arrays["mean"][i], arrays["quantiles"][i], warm, model, local)
            made._forecasts[name] = said
        return made

    def __reduce__(self) -> tuple[Callable[[bytes], Self], tuple[bytes]]:
        """For `copy` and for processes: the table's columns are views of one array, which a copy of each would part."""
        return type(self).from_bytes, (self.to_bytes(),)


def _split(whole: bytes, sizes: I64) -> list[bytes]:
    ends = np.cumsum(sizes).tolist()
    return [whole[end - size : end] for size, end in zip(sizes.tolist(), ends, strict=True)]


def _unpacked(saved: bytes) -> dict[str, Any]:
    begin = len(MAGIC) + 1 + DIGEST_BYTES
    if not saved.startswith(MAGIC) or len(saved) < begin:
        raise ValueError("not a saved forecaster")
    if saved[len(MAGIC)] > VERSION:
        raise ValueError(
            f"saved by a newer streamrnn (format {saved[len(MAGIC)]}; this one reads up to {VERSION}): upgrade it"
        )
    body = saved[begin:]
    if hashlib.sha256(body).digest() != saved[len(MAGIC) + 1 : begin]:
        raise ValueError("damaged or cut short: the digest does not match")
    try:
        return dict(load_arrays(body))
    except SafetensorError as error:
        raise ValueError(f"cannot be read: {error}") from None


def _settings(channels: Any, step: str, horizon: int, more: StreamSettings) -> Settings:
    """The whole configuration of such a stream. Raises ValueError."""
    faults = []
    for name in more:
        if name not in StreamSettings.__annotations__:
            near = difflib.get_close_matches(name, StreamSettings.__annotations__, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            known = name in Settings.model_fields
            faults.append(f"  {name}: " + ("is a setting of the service alone" if known else f"unknown setting{meant}"))
    if faults:
        raise ValueError("\n".join(["the settings cannot be used:", *faults]))
    given = {"input": "ticks", "channels": channels, "step": step, "horizon": horizon, **more}
    try:
        return load([], given, {})
    except ConfigError as error:
        raise ValueError(str(error).replace("the configuration", "the settings", 1)) from None


class _Training:
    """The service's learner, fed with every tick; its rounds run when they are asked for, or in a thread.

    While a round runs, ticks wait: it reads what a tick would change. So many wait as `learn.ticks` says, then the next one
    waits for the round.
    """

    def __init__(self, settings: Settings, background: bool) -> None:
        self._spec = settings.learn
        device = devices.choose() if settings.learn.device == "auto" else torch.device(settings.learn.device)
        self.device = devices.describe(device)
        self._random: torch.Tensor | None = None
        with self._own_random():
            self.learner = Learner(settings.stream_spec(), settings.model_spec(), settings.learn.spec(), device)
        self._thread = ThreadPoolExecutor(1, "streamrnn-training") if background else None
        self._running: Future[Round] | None = None
        self._waiting: list[TickBatch] = []
        self._pace = Pace(settings.learn.interval / 1000, settings.learn.ticks)

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """What torch draws in here goes on from where it stood, and nothing outside sees it."""
        with torch.random.fork_rng(devices=[]):
            if self._random is not None:
                torch.set_rng_state(self._random)
            yield
            self._random = torch.get_rng_state()

    def feed(self, batch: TickBatch) -> None:
        """Takes ticks; in the background, starts a round where one is due."""
        if self._running is not None:
            self._waiting.append(batch)
            return
        self.learner.feed(batch)
        if self._thread is not None and self.learner.ready() and self._pace.due(self.learner, clock_s()):
            self._running = self._thread.submit(self._timed_round)

    def done(self) -> Round | None:
        """The round that has ended since it was last asked for. Waits where too many ticks wait for it."""
        if self._running is None:
            return None
        if not self._running.done() and sum(map(len, self._waiting)) < self._spec.ticks:
            return None
        return self.wait()

    def wait(self) -> Round | None:
        """The round that runs, when it has ended; None where none does, or it failed."""
        running, self._running = self._running, None
        if running is None:
            return None
        try:
            return running.result()
        except (RuntimeError, MemoryError) as error:
            warnings.warn(
                f"a round of training failed; the weights in use serve on: {error}", RuntimeWarning, stacklevel=4
            )
            return None
        finally:
            self._pace.ended(self.learner, clock_s())
            waiting, self._waiting = self._waiting, []
            for batch in waiting:
                self.learner.feed(batch)

    def _timed_round(self) -> Round:
        until = clock_s() + self._spec.budget / 1000
        return self._round(lambda: clock_s() > until)

    def round(self) -> Round:
        """A round here and now."""
        return self._round(lambda: False)

    def _round(self, enough: Callable[[], bool]) -> Round:
        self._pace.begun(self.learner)
        with self._own_random():
            return self.learner.round(enough)
