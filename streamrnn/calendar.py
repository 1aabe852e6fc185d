"""The steps of event time: fixed lengths, or days, weeks, months and years of a time zone.

A step has a number and a begin. For fixed lengths both are arithmetic. Calendar steps are looked up in a table of begins
that is made once: local midnights of the zone as UTC instants, so that a day may have 23 or 25 hours and a month 28 to
31 days. Where a zone skips midnight (clocks go forward at 0:00), the day begins at the first instant there is; where it
has two, at the first of them (PEP 495, `fold=0`).

Numbers count from 1970: days, weeks that begin on Monday, months, years, each divided by the count of units in a step
(`3mo` is a quarter).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np

from streamrnn.durations import parse_ms
from streamrnn.kernels import steps
from streamrnn.records import I64

Unit = Literal["d", "w", "mo", "y"]
Align = Literal["floor", "nearest"]

DAY_US = 86_400_000_000
# Mean lengths, for durations that only need to be about right (how far back a replay goes, seasons in steps).
UNIT_US: dict[Unit, int] = {"d": DAY_US, "w": 7 * DAY_US, "mo": 2_629_746_000_000, "y": 31_556_952_000_000}
# Event times that calendar steps are made for. Days are many, so their table is shorter.
YEARS: dict[Unit, tuple[int, int]] = {"d": (1850, 2150), "w": (1600, 2400), "mo": (1600, 2400), "y": (1600, 2400)}
_CALENDAR_STEP = re.compile(r"([1-9][0-9]{0,3})(mo|d|w|y)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_MONDAY = date(1970, 1, 5).toordinal()


@dataclass(frozen=True, slots=True)
class CalendarStep:
    """`count` units of the calendar of a time zone, such as one day of Europe/London."""

    count: int
    unit: Unit
    timezone: str = "UTC"


def parse_step(text: str, timezone: str = "UTC") -> tuple[int, CalendarStep | None]:
    """(milliseconds, calendar step) of `250ms`, `1h`, `1d`, `1w`, `1mo`, `1y` or `irregular` (0 ms).

    Days of UTC are a fixed length. The milliseconds of a calendar step are its mean length. Raises ValueError.
    """
    compact = text.strip()
    if compact == "irregular":
        return 0, None
    zone_of(timezone)
    found = _CALENDAR_STEP.fullmatch(compact)
    if found is None or (found[2] == "d" and is_utc(timezone)):
        return parse_ms(compact), None
    step = CalendarStep(int(found[1]), found[2], timezone)  # type: ignore[arg-type]
    if step.count * UNIT_US[step.unit] > 100 * UNIT_US["y"]:
        raise ValueError(f"{compact!r} is longer than a century")
    return step.count * UNIT_US[step.unit] // 1000, step


def milliseconds(us: int) -> int | float:
    """Microseconds as people and the wire write them: whole milliseconds, with a fraction where there is one."""
    return us // 1000 if us % 1000 == 0 else us / 1000


def is_utc(timezone: str) -> bool:
    return timezone in ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z")


def zone_of(name: str) -> ZoneInfo:
    """The IANA zone of this name. Raises ValueError where there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name[:60]!r} is not a time zone: write its IANA name, such as Europe/London") from None


@dataclass(frozen=True, slots=True, eq=False)
class StepGrid:
    """Numbers and begins of steps, in microseconds.

    `step_us` is 0 for irregular. `edges` and `starts` are empty for fixed lengths, else sorted tables: a time in
    `edges[i] .. edges[i + 1]` belongs to step `first + i`, which begins at `starts[i]`. `shift_us` is added to a time
    before a fixed length divides it (`align: nearest`).
    """

    step_us: int
    shift_us: int
    first: int
    edges: I64
    starts: I64

    def index(self, ts_us: int) -> int:
        """The number of the step that a time belongs to."""
        return int(steps.index_of(ts_us, self.step_us, self.shift_us, self.first, self.edges))

    def start_us(self, step: int) -> int:
        """Where a step begins: the time that is written for it."""
        return int(steps.start_of(step, self.step_us, self.first, self.starts))

    def end_us(self, step: int) -> int:
        """From where on times belong to later steps."""
        return int(steps.end_of(step, self.step_us, self.shift_us, self.first, self.edges))


_NONE: I64 = np.empty(0, dtype=np.int64)


def step_grid(step_ms: int, calendar: CalendarStep | None = None, align: Align = "floor") -> StepGrid:
    """The grid of a stream's steps; `step_ms` 0 is irregular, where a step's number is its time."""
    if calendar is None:
        step_us = step_ms * 1000
        return StepGrid(step_us, step_us // 2 if align == "nearest" else 0, 0, _NONE, _NONE)
    first, starts = _table(calendar)
    # nearest: what lies in the second half of a step belongs to the next one
    edges = starts if align == "floor" else np.concatenate([starts[:1], starts[:-1] + (np.diff(starts) + 1) // 2])
    return StepGrid(calendar.count * UNIT_US[calendar.unit], 0, first, edges, starts)


@lru_cache(maxsize=8)
def _table(step: CalendarStep) -> tuple[int, I64]:
    """(number of the first step, begins of all steps in microseconds)."""
    begin, end = YEARS[step.unit]
    if step.unit in ("d", "w"):
        days = step.count * (7 if step.unit == "w" else 1)
        origin = _MONDAY if step.unit == "w" else date(1970, 1, 1).toordinal()
        first = -(-(date(begin, 1, 1).toordinal() - origin) // days)
        last = (date(end, 1, 1).toordinal() - origin) // days
        dates = [date.fromordinal(origin + k * days) for k in range(first, last + 1)]
    else:
        months = step.count * (12 if step.unit == "y" else 1)
        first, last = -(-(begin - 1970) * 12 // months), (end - 1970) * 12 // months
        dates = [date(1970 + k * months // 12, k * months % 12 + 1, 1) for k in range(first, last + 1)]
    zone = zone_of(step.timezone)
    # A day that a zone left out (it moved across the date line) has no length: it is no step, and gets no number.
    return first, np.unique(np.array([_instant_us(day, zone) for day in dates], dtype=np.int64))


def _instant_us(day: date, zone: ZoneInfo) -> int:
    """The first instant of a local day."""
    return (datetime(day.year, day.month, day.day, tzinfo=zone) - _EPOCH) // _US


def zone_offsets(timezone: str) -> tuple[I64, I64]:
    """(instants, offsets) in microseconds: from `instants[i]` on, local time is UTC plus `offsets[i]`. The first instant is
    before all times. Empty for UTC."""
    return (_NONE, _NONE) if is_utc(timezone) else _offsets(timezone)


@lru_cache(maxsize=8)
def _offsets(timezone: str) -> tuple[I64, I64]:
    zone = zone_of(timezone)
    begin, end = (datetime(year, 1, 1, tzinfo=UTC) for year in YEARS["d"])

    def offset(at: datetime) -> int:
        shift = at.astimezone(zone).utcoffset()
        return shift // _US if shift is not None else 0

    found = [(-(1 << 62), offset(begin))]
    at, ahead = begin, timedelta(days=7)
    while at < end:
        low, high = at, at + ahead
        # Bisection of the weeks in which the offset changes. (Two changes in a week are found as far as they differ.)
        if offset(high) != found[-1][1]:
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                low, high = (low, middle) if offset(middle) != found[-1][1] else (middle, high)
            high = high.replace(microsecond=0)
            found.append(((high - _EPOCH) // _US, offset(high)))
            at = high
        else:
            at = high
    return np.array([at for at, _ in found], dtype=np.int64), np.array([shift for _, shift in found], dtype=np.int64)
