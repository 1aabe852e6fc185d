"""Steps of a back-test: how far apart a file's rows are, as a step's text, and every count of rows that follows from it.

The one place that does arithmetic on steps. Fixed steps have a length in milliseconds; calendar steps (months, years,
days and weeks of a place with summer time) have none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import gcd
from zoneinfo import ZoneInfo, available_timezones

import numpy as np

from streamrnn.calendar import CalendarStep, parse_step
from streamrnn.durations import UNITS_MS, format_ms, parse_ms
from streamrnn.records import I64
from streamrnn.transports.files import InputError
from streamrnn.transports.times import EPOCH, zone_of

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
_CALENDAR = re.compile(r"([0-9]{1,3})(mo|y)")
# Lengths that a clock's jitter is rounded to, the longest that lies near enough.
_ROUND_US = tuple(1000 * ms for ms in (UNITS_MS["d"], UNITS_MS["h"], 60_000, 1000, 100, 10, 1))
_NEAR = 0.01
# Where several zones fit the rows equally well, the scores are the same; these names say most to most people.
_KNOWN = (
    "Europe/London",
    "Europe/Berlin",
    "America/New_York",
    "America/Chicago",
    "America/Los_Angeles",
    "Australia/Sydney",
)


@dataclass(frozen=True, slots=True)
class Step:
    """`text` as on the command line (`1h`, `1mo`); `zone` of a calendar step, None for a fixed one.

    `ms` is a fixed step's length, 0 for irregular; of a calendar step it is the mean length.
    """

    text: str
    ms: int
    zone: str | None = None

    @property
    def calendar(self) -> bool:
        return self.zone is not None

    def of_the_calendar(self) -> CalendarStep | None:
        """What the engine's grid is given beside `ms`."""
        return parse_step(self.text, self.zone or "UTC")[1]


def step_of(text: str, zone: str | None = None) -> Step:
    """A step that was named; `zone` makes `1d` and `1w` days and weeks there. Raises InputError."""
    compact = text.strip()
    match = _CALENDAR.fullmatch(compact)
    if match is not None:
        count = int(match[1])
        months = count * (12 if match[2] == "y" else 1)
        if count < 1 or months > 1200:
            raise InputError(f"--step {text}: write between 1mo and 100y")
        return Step(compact, months * 2_629_746_000, zone or "UTC")
    if compact == "irregular":
        return Step(compact, 0)
    try:
        ms = parse_ms(compact)
    except ValueError as error:
        raise InputError(f"--step {error}, or a calendar step such as 1mo or 1y") from error
    if ms < 1:
        raise InputError(f"--step {text}: must be at least 1ms")
    if zone not in (None, "UTC") and compact in ("1d", "1w", "7d"):
        return Step("1d" if compact == "1d" else "1w", ms, zone)
    return Step(compact, ms)


def usual_step(series: Sequence[I64], zone: str | None = None) -> Step:
    """The step of rows at these times (`[series][row]` in UTC microseconds, rising). Raises InputError.

    Months and years are found where every row stands at the same day and time of its month, days and weeks of a place
    with summer time where the rows keep its local time; otherwise the usual distance of two rows, without its jitter.
    """
    between = [np.diff(ts) for ts in series if len(ts) > 1]
    gaps: I64 = np.concatenate(between) if between else np.zeros(0, dtype=np.int64)
    gaps = gaps[gaps > 0]
    if len(gaps) == 0:
        raise InputError("no series of the file holds two rows at different times; give --step")
    named = ["UTC", *([zone] if zone and zone != "UTC" else [])]
    for name in named:
        months = _months(series, name) if int(gaps.min()) >= 27 * DAY_US else 0
        if months:
            return step_of(f"{months // 12}y" if months % 12 == 0 else f"{months}mo", name)
    usual = Counter(gaps.tolist()).most_common(1)[0][0]
    if not (gaps % usual).any():
        plain = _fixed(usual)
        return step_of(plain.text, zone) if plain.text in ("1d", "1w", "7d") and zone else plain
    for days, text in ((1, "1d"), (7, "1w")):
        if abs(usual - days * DAY_US) <= HOUR_US:
            place = _zone_of_days(series, days, zone)
            if place:
                return step_of(text, place)
    for name in named[1:]:
        months = _months(series, name)
        if months:
            return step_of(f"{months}mo", name)
    return _fixed(_without_jitter(int(np.median(gaps))))


def _fixed(us: int) -> Step:
    if us < 1000:
        raise InputError(f"rows are {us} microseconds apart; a step is at least 1ms: give --step")
    return Step(format_ms(us // 1000), us // 1000)


def _without_jitter(us: int) -> int:
    for unit in _ROUND_US:
        near = max(1, round(us / unit)) * unit
        if abs(near - us) <= _NEAR * us:
            return near
    return us


def _months(series: Sequence[I64], zone: str) -> int:
    """Months between two rows, where all rows stand at one day and time of theirs; 0 where they do not."""
    place = zone_of(zone)
    span, days, last = 0, set(), True
    clock = None
    for ts in series:
        before = None
        for us in ts.tolist():
            moment = (EPOCH + timedelta(microseconds=us)).astimezone(place).replace(tzinfo=None)
            if clock is None:
                clock = moment.time()
            if moment.time() != clock:
                return 0
            days.add(moment.day)
            last = last and (moment + timedelta(days=1)).month != moment.month
            if len(days) > 1 and not last:
                return 0
            number = moment.year * 12 + moment.month
            if before is not None:
                span = gcd(span, number - before)
            before = number
    return span


def _zone_of_days(series: Sequence[I64], days: int, zone: str | None) -> str | None:
    """A zone in which all rows stand at one time of day, whole days apart: the given one, or one that is found."""
    rows = np.concatenate([ts for ts in series if len(ts)])
    odd = [ts[1:][np.diff(ts) % DAY_US != 0] for ts in series if len(ts) > 1]
    near = np.concatenate([np.concatenate([each, each - 1]) for each in odd])  # at the changes and just before
    known = set(rows.tolist())
    probes = [int(rows[0]), *(us for us in near.tolist() if us in known)]
    if zone:
        return zone if _keep_time(rows.tolist(), zone_of(zone)) else None
    for name in (*_KNOWN, *sorted(available_timezones() - set(_KNOWN))):
        if "/" not in name or name.startswith(("Etc/", "posix", "right")):
            continue
        place = ZoneInfo(name)
        if _keep_time(probes, place) and _keep_time(rows.tolist(), place):
            return name
    return None


def _keep_time(rows: Sequence[int], place: ZoneInfo) -> bool:
    clocks = {_local(us, place).time() for us in rows[:2]}
    return len(clocks) == 1 and all(_local(us, place).time() in clocks for us in rows)


def _local(us: int, place: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=us)).astimezone(place)


def usual_season(step: Step) -> str:
    """A day; of days a week, of weeks and months a year."""
    if step.ms >= UNITS_MS["w"]:
        return "1y"
    return "1w" if step.ms >= UNITS_MS["d"] else "1d"


def rows_of(duration: str, step: Step) -> int:
    """How many steps a duration such as `1d`, `1w`, `12mo` or `1y` is, at least 1. Raises InputError."""
    match = _CALENDAR.fullmatch(duration.strip())
    if match is not None:
        whole = int(match[1]) * (12 if match[2] == "y" else 1) * 2_629_746_000
    else:
        try:
            whole = parse_ms(duration)
        except ValueError as error:
            raise InputError(f"--season {error}") from error
    return max(1, round(whole / step.ms)) if step.ms else 1


def numbers(ts_us: I64, step: Step, nearest: bool = False) -> I64:
    """Each time's step on a grid of fixed steps."""
    us = step.ms * 1000
    return (ts_us + us // 2) // us if nearest else ts_us // us
