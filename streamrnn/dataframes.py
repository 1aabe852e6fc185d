"""Data frames in and out, of pandas, polars or anything that has columns by name; neither is needed.

In: numbers with missing ones as None, NaN or NA, and event times as aware or local moments, milliseconds since 1970 or RFC 3339.
What cannot be read is an error that names the row and the column; nothing is guessed.

Out: columns as lists, under the names that forecasting packages know: `unique_id`, `ds`, `y` or `yhat`. `unique_id` is
`series/channel`; where there is one channel the series, and where nobody named a series the channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal

import numpy as np

from streamrnn.calendar import is_utc, zone_of
from streamrnn.records import F64, I64
from streamrnn.wire.instants import EPOCH, NS, Refused, TextTimes, number_us, text_us

# The series of whoever names none.
SOLE = "series"
_US = timedelta(microseconds=1)
# 400 years either side of 1970. Whole numbers beyond are microseconds that were taken for milliseconds.
_FURTHEST_US = 400 * 31_556_952_000_000
_NAMES_SHOWN = 8

Columns = dict[str, list[Any]]


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def column_of(frame: Any, name: str) -> Any:
    """One column of a frame. Raises ValueError where it is none, or has no such column."""
    names = names_of(frame)
    if name not in names:
        raise ValueError(f"the frame has no column {name!r}; it has {listed(names)}")
    return frame[name]


def names_of(frame: Any) -> list[str]:
    """The columns of a frame. Raises ValueError where it is none."""
    if isinstance(frame, Mapping):
        return [str(name) for name in frame]
    names = getattr(frame, "column_names", None) or getattr(frame, "columns", None)
    if names is None or not hasattr(frame, "__getitem__"):
        raise ValueError(
            f"{type(frame).__name__} has no columns by name: give a pandas or polars frame, or a dict of lists"
        )
    return [str(name) for name in names]


def listed(names: Sequence[str]) -> str:
    """A few names of many."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more if names else "none"


def plain(column: Any) -> list[Any]:
    """A column as a list of Python's own values."""
    for name in ("to_list", "tolist", "to_pylist"):
        if hasattr(column, name):
            values: list[Any] = getattr(column, name)()
            return values
    return list(column)


def is_missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # NA has no truth
        return type(value).__name__ == "NAType"


def number_of(value: Any, where: str, largest: float) -> float:
    """A value as a float, NaN where it is missing. Raises TypeError and ValueError that begin with `where`."""
    if is_missing(value):
        return math.nan
    if isinstance(value, (bool, np.bool_, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{where}: {shown(value)} is not a number; write None or NaN for a missing value")
    number = float(value)
    if not abs(number) <= largest:
        raise ValueError(
            f"{where}: {number:g} is not finite, or beyond {largest:g}; write None or NaN for a missing value"
        )
    return number


def numbers_of(column: Any, name: str, largest: float) -> F64:
    """A column as floats, NaN where a value is missing. Raises TypeError and ValueError with the first row at fault."""
    array = _array(column)
    if array.dtype.kind in "iuf":
        values: F64 = np.array(array, dtype=np.float64)
        odd = np.flatnonzero(np.abs(values) > largest)
        if len(odd):
            number_of(float(values[odd[0]]), f"row {odd[0]}, column {name!r}", largest)
        return values
    found = [number_of(value, f"row {row}, column {name!r}", largest) for row, value in enumerate(plain(column))]
    return np.array(found, dtype=np.float64)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _array(column: Any) -> Any:
    return column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)


class Times:
    """Reads event times; those without a zone are local times of `zone`. `local`: whether the last one was."""

    def __init__(self, zone: str) -> None:
        """Raises ValueError where there is no such zone."""
        self.zone = zone
        self.local = True
        self._texts = TextTimes("ms", None, zone_of(zone))

    def us(self, value: Any, where: str) -> int:
        """Microseconds since 1970. Raises TypeError and ValueError that begin with `where`."""
        try:
            us = self._us(value)
        except Refused as error:
            raise ValueError(f"{where}: {error.detail.partition(' (decode')[0]}") from None
        if us is None:
            raise TypeError(
                f"{where}: {shown(value)} is not a time: write a datetime, milliseconds since 1970 or RFC 3339"
            )
        if abs(us) > _FURTHEST_US:
            raise ValueError(f"{where}: {shown(value)} is centuries away; whole numbers are milliseconds since 1970")
        return us

    def _us(self, value: Any) -> int | None:
        self.local = False
        if is_missing(value) or isinstance(value, (bool, np.bool_)):
            return None
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]").item()
        if isinstance(value, datetime):
            if value.tzinfo is not None:
                return (value - EPOCH) // _US
            self.local = True
            return self._texts.us(value.replace(microsecond=0, fold=0).isoformat(" ")[:19]) + value.microsecond
        if isinstance(value, date):
            self.local = True
            return self._texts.us(f"{value.isoformat()} 00:00:00")
        if isinstance(value, (int, np.integer)):
            return int(value) * 1000
        if isinstance(value, (float, np.floating)):
            return number_us(repr(float(value)).encode(), NS["ms"])
        if isinstance(value, str):
            try:
                return text_us(value)
            except Refused:
                self.local = True
                return self._texts.us(value)
        return None

    def column(self, column: Any, name: str) -> I64:
        """A column of times. Raises TypeError and ValueError with the first row at fault."""
        in_utc = getattr(getattr(column, "dtype", None), "time_zone", None)  # polars keeps UTC beside the zone's name
        array = _array(column)
        if array.dtype.kind == "M" and (in_utc or is_utc(self.zone)) and not np.isnat(array).any():
            self.local = not in_utc
            us: I64 = array.astype("datetime64[us]").astype(np.int64)
            if len(us) and int(np.abs(us).max()) > _FURTHEST_US:
                raise ValueError(f"column {name!r}: a time is centuries away")
            return us
        found = [self.us(value, f"row {row}, column {name!r}") for row, value in enumerate(plain(column))]
        return np.array(found, dtype=np.int64)


def moment(us: int, zone: str, local: bool) -> datetime:
    """A time as the ticks' were given: a local one of `zone`, or an aware one in UTC."""
    at = EPOCH + us * _US
    return at.astimezone(zone_of(zone)).replace(tzinfo=None) if local else at


# ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _ToFrames:
    """The same columns as a frame of a package that is installed."""

    def columns(self) -> Columns:
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """As a pandas data frame. Raises ImportError where pandas is not installed."""
        import pandas

        return pandas.DataFrame(self.columns())

    def to_polars(self) -> Any:
        """As a polars data frame. Raises ImportError where polars is not installed."""
        import polars

        return polars.DataFrame(self.columns())


def unique_id(series: str, channel: str, channels: Sequence[str]) -> str:
    if series == SOLE:
        return channel
    return series if len(channels) == 1 else f"{series}/{channel}"


@dataclass(frozen=True, slots=True, eq=False)
class Forecast(_ToFrames, Sequence[Any]):
    """The next steps of one series, as the service would send them.

    `mean` [channel, horizon]; `quantiles` by level, each [channel, horizon], never crossing. `ts`: the last step that was
    seen; `times` [horizon]: the steps ahead. `warm`: the state has seen `warm_up` steps. `model`: the weights' id.

    As a sequence it has one item a step: the mean as a number, of several channels a dictionary by name.
    """

    series: str
    channels: tuple[str, ...]
    ts: datetime
    times: tuple[datetime, ...]
    mean: F64
    quantiles: dict[float, F64]
    warm: bool
    model: str

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, step: Any) -> Any:
        if isinstance(step, slice):
            return list(self)[step]
        at = self.mean[:, range(len(self))[step]].tolist()
        return at[0] if len(self.channels) == 1 else dict(zip(self.channels, at, strict=True))

    def __iter__(self) -> Iterator[Any]:
        return (self[step] for step in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Bit for bit."""
        if not isinstance(other, Forecast):
            return NotImplemented
        plain_fields = ("series", "channels", "ts", "times", "warm", "model")
        return (
            all(getattr(self, name) == getattr(other, name) for name in plain_fields)
            and self.mean.tobytes() == other.mean.tobytes()
            and list(self.quantiles) == list(other.quantiles)
            and all(self.quantiles[q].tobytes() == other.quantiles[q].tobytes() for q in self.quantiles)
        )

    def first(self, horizon: int) -> Forecast:
        """Its first steps."""
        return replace(
            self,
            times=self.times[:horizon],
            mean=self.mean[:, :horizon],
            quantiles={level: each[:, :horizon] for level, each in self.quantiles.items()},
        )

    def columns(self) -> Columns:
        """A row for each channel and step: `unique_id`, `ds`, `cutoff` (the last step seen), `h`, `yhat`; where there are two
        quantiles or more `yhat_lower`, `yhat_upper` (the outer ones) and their `level` in percent."""
        levels = list(self.quantiles)
        made: Columns = {name: [] for name in ("unique_id", "ds", "cutoff", "h", "yhat")}
        if len(levels) > 1:
            made |= {name: [] for name in ("yhat_lower", "yhat_upper", "level")}
        for c, channel in enumerate(self.channels):
            made["unique_id"] += [unique_id(self.series, channel, self.channels)] * len(self)
            made["ds"] += self.times
            made["cutoff"] += [self.ts] * len(self)
            made["h"] += range(1, len(self) + 1)
            made["yhat"] += self.mean[c].tolist()
            if len(levels) > 1:
                made["yhat_lower"] += self.quantiles[levels[0]][c].tolist()
                made["yhat_upper"] += self.quantiles[levels[-1]][c].tolist()
                made["level"] += [round(100 * (levels[-1] - levels[0]), 6)] * len(self)
        return made


@dataclass(frozen=True, slots=True)
class Fill:
    """One step of which something was filled in. `values` by channel, None where it was never seen; `imputed`: the outer
    interval of each channel that was filled; `kind` as on the wire."""

    series: str
    ts: datetime
    values: dict[str, float | None]
    imputed: dict[str, tuple[float, float]]
    kind: Literal["missing-channel", "missing-tick"]


class Forecasts(_ToFrames, list[Forecast]):
    """Forecasts of several series, in one frame."""

    def columns(self) -> Columns:
        made: Columns = {}
        for each in self:
            for name, column in each.columns().items():
                made.setdefault(name, []).extend(column)
        return made


class Fills(_ToFrames, list[Fill]):
    """Filled steps, in the order in which they were found."""

    def columns(self) -> Columns:
        """A row for each channel of each step: `unique_id`, `ds`, `y`, `y_lower`, `y_upper` (None where it came), `kind`."""
        made: Columns = {name: [] for name in ("unique_id", "ds", "y", "y_lower", "y_upper", "kind")}
        for fill in self:
            for channel, value in fill.values.items():
                lower, upper = fill.imputed.get(channel, (None, None))
                row = (unique_id(fill.series, channel, tuple(fill.values)), fill.ts, value, lower, upper, fill.kind)
                for name, each in zip(made, row, strict=True):
                    made[name].append(each)
        return made
