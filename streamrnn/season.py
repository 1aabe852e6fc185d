"""Seasons: what repeats by the day, the week, the year or the kind of day. Where in it a step stands: `stream.phases`.

A season is a profile of cells that the experts keep a running value for. A step stands at a position in it, counted in
cells from the season's begin in the local time of `timezone`; so an hour that clocks skip is skipped, and one that they show
twice is met twice. Where a season is a whole number of steps, few enough to have a cell each, positions are whole numbers.
Else the cells are longer, or a little shorter, than a step, and positions lie between two of them: interpolate.

`Season.lag` counts steps, not local time: over a change of clocks "a season ago" is an hour off for one day.

Days and shorter seasons begin at local midnight, weeks on Monday, months and years on their first day. A season with a key
(`day_type`) has one profile of the day for each value of the key, one after the other. Its key is known of every day to come,
but it is not the next in turn: `stream.phases.Phases.ahead` looks it up.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from streamrnn.calendar import UNIT_US, CalendarStep
from streamrnn.durations import format_ms, parse_ms

AUTO, OFF = "auto", "off"
DAY_TYPE = "day_type"
# The values of the key `day_type`: Monday to Friday, Saturday, Sunday and holidays.
DAY_TYPES: Final = 3
# "A season ago" is kept as values, one a step: no more of them than this (five minutes over a week are 2,016).
LAG_MAX: Final = 2048
SEASONS_MAX: Final = 2
# A profile has a cell for each step up to so many (a day of five minutes, a week of half hours), else so many of equal length
# (15 minutes of a day, half hours of a week, weeks of a year).
DAY_CELLS_MAX, DAY_CELLS = 288, 96
WEEK_CELLS_MAX, WEEK_CELLS = 336, 336
YEAR_CELLS_MAX, YEAR_CELLS = 52, 52
DAY_MS, MINUTE_MS = 86_400_000, 60_000
# What `auto` takes: a day for steps from 5 minutes to 6 hours, and for shorter ones where the forecast reaches 15 minutes ahead;
# the week on top from half an hour on.
AUTO_DAY_MS = (5 * MINUTE_MS, 360 * MINUTE_MS)
AUTO_REACH_MS = 15 * MINUTE_MS
AUTO_WEEK_MS = 30 * MINUTE_MS
_MONTHS = re.compile(r"([1-9][0-9]{0,3})(mo|y)")


@dataclass(frozen=True, slots=True)
class Season:
    """One season of a stream.

    `name`: as in the configuration (`1d`, `7d`, `1y`, `day_type`). `bins`: cells of the profile, of all its keys together.
    `per_step`: cells that one step moves on, 1.0 where each step of the season has its own; with a key, within a day. `lag`:
    steps in one season where that is a whole number not above LAG_MAX, else 0: then there is no "a season ago"; with a key it
    is a week. `holidays`: days since 1970 that count as Sundays.
    """

    name: str
    bins: int
    per_step: float
    lag: int
    holidays: tuple[int, ...] = ()

    @property
    def keyed(self) -> bool:
        return self.name == DAY_TYPE

    @property
    def cells(self) -> int:
        """Of one profile: interpolation stays within it, and goes from its last cell to its first."""
        return self.bins // DAY_TYPES if self.keyed else self.bins


@dataclass(frozen=True, slots=True)
class SeasonSetting:
    """`season` as it is configured. `names` of the periods, shortest first; `auto`: as the step suggests; neither: off."""

    auto: bool = True
    names: tuple[str, ...] = ()
    key: str = ""
    holidays: tuple[date, ...] = ()

    def plain(self) -> str | list[str] | dict[str, Any]:
        """As it is written in a file; `season_setting` reads it back."""
        if self.auto or not (self.key or self.names):
            return AUTO if self.auto else OFF
        if not self.key:
            return self.names[0] if len(self.names) == 1 else list(self.names)
        return {"key": self.key, "holidays": [day.isoformat() for day in self.holidays]}


# ── reading the setting ──────────────────────────────────────────────────────────────────────────────────────────────────


def season_setting(value: Any) -> SeasonSetting:
    """`auto`, `off`, a duration, a list of two, or a section with `key` and `holidays`. Raises ValueError."""
    if isinstance(value, SeasonSetting):
        return value
    if isinstance(value, bool):  # YAML reads a bare `off` as false
        return SeasonSetting(auto=value)
    if isinstance(value, Mapping):
        return _keyed_setting(value)
    if isinstance(value, str):
        word = value.strip()
        return SeasonSetting(auto=word == AUTO) if word in (AUTO, OFF) else SeasonSetting(False, (_name(word),))
    if isinstance(value, (list, tuple)) and value:
        names = tuple(_name(each) for each in value)
        if len(names) > SEASONS_MAX:
            raise ValueError(f"{len(names)} seasons: write {SEASONS_MAX} at most, such as [1d, 7d]")
        lengths = [_mean_ms(name) for name in names]
        if lengths != sorted(set(lengths)):
            raise ValueError("write the shorter season first, each once, such as [1d, 7d]")
        return SeasonSetting(False, names)
    raise ValueError("write auto, off, a duration such as 1d, a list such as [1d, 7d], or {key: day_type}")


def _name(value: Any) -> str:
    """The one way that a period is written: `1w` and `168h` are `7d`, `12mo` is `1y`."""
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError("write durations such as 1d or [1d, 7d]; steps are not counted (24 steps of 1h are 1d)")
    text = value.strip()
    found = _MONTHS.fullmatch(text)
    if found is not None:
        months = int(found[1]) * (12 if found[2] == "y" else 1)
        if months > 1200:
            raise ValueError(f"{text!r} is longer than a century")
        return f"{months // 12}y" if months % 12 == 0 else f"{months}mo"
    if text == DAY_TYPE:
        raise ValueError(f"{DAY_TYPE} is a key: write {{key: {DAY_TYPE}}}")
    try:
        ms = parse_ms(text)
    except ValueError as error:
        near = difflib.get_close_matches(text.lower(), WORDS, n=1, cutoff=0.5)
        meant = f"did you mean {WORDS[near[0]]}?" if near else "write auto, off, 1d, 7d, 1y or another duration"
        raise ValueError(f"{error}; {meant}") from None
    if ms < 1:
        raise ValueError("a season has a length; write off for none")
    return format_ms(ms)


# What people write for what the setting calls otherwise.
WORDS: Final[Mapping[str, str]] = {
    AUTO: AUTO, "automatic": AUTO, OFF: OFF, "none": OFF, "no": OFF, "day": "1d", "daily": "1d", "hour": "1h", "hourly": "1h",
    "week": "7d", "weekly": "7d", "month": "1mo", "monthly": "1mo", "year": "1y", "yearly": "1y", "annual": "1y",
    "day_type": "{key: day_type}", "daytype": "{key: day_type}",
}  # fmt: skip


def _keyed_setting(section: Mapping[Any, Any]) -> SeasonSetting:
    for key in section:
        if key not in ("key", "holidays"):
            near = difflib.get_close_matches(str(key), ("key", "holidays"), n=1)
            raise ValueError(
                f"{str(key)[:40]!r}: unknown key; "
                + (f"did you mean {near[0]}?" if near else "it has key and holidays")
            )
    if section.get("key") != DAY_TYPE:
        said = f"key: {str(section['key'])[:40]!r} is not known; " if "key" in section else ""
        raise ValueError(f"{said}write {{key: {DAY_TYPE}}}, with holidays where there are any")
    given = section.get("holidays") or ()
    if not isinstance(given, (list, tuple)):
        raise ValueError("holidays: write a list of dates such as [2026-12-25, 2027-01-01]")
    return SeasonSetting(False, key=DAY_TYPE, holidays=tuple(sorted({_date(each) for each in given})))


def _date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        shown = str(value)[:40]
        raise ValueError(f"holidays: {shown!r} is not a date: write it like 2026-12-25") from None


# ── of a stream ──────────────────────────────────────────────────────────────────────────────────────────────────────


def season_of(
    setting: SeasonSetting,
    step_ms: int,
    calendar_step: CalendarStep | None,
    horizon: int,
) -> tuple[Season, ...]:
    """The seasons of a stream of such steps, the shortest first; () for none.

    `step_ms` 0 is irregular. Raises ValueError where the steps cannot have this season.
    """
    if setting.auto:
        return tuple(_season(name, step_ms, calendar_step) for name in _usual(step_ms, calendar_step, horizon))
    if not (setting.names or setting.key):
        return ()
    if step_ms == 0:
        raise ValueError("with step: irregular no step is known to be a season ahead: write auto or off")
    if setting.key:
        return (_day_types(step_ms, calendar_step, setting.holidays),)
    return tuple(_season(name, step_ms, calendar_step) for name in setting.names)


def _usual(step_ms: int, calendar_step: CalendarStep | None, horizon: int) -> tuple[str, ...]:
    """What `auto` stands for."""
    if calendar_step is not None and (calendar_step.unit, calendar_step.count) == ("mo", 1):
        return ("1y",)
    if _days(step_ms, calendar_step) == 1:
        return ("7d",)
    if calendar_step is not None or step_ms == 0:
        return ()
    shortest, longest = AUTO_DAY_MS
    if shortest <= step_ms <= longest:
        return ("1d", "7d") if step_ms >= AUTO_WEEK_MS else ("1d",)
    return ("1d",) if step_ms < shortest and horizon * step_ms >= AUTO_REACH_MS else ()


def _days(step_ms: int, calendar_step: CalendarStep | None) -> int:
    """Days in a step that is made of whole ones, of a fixed length or of a zone; else 0."""
    if calendar_step is None:
        return step_ms // DAY_MS if step_ms % DAY_MS == 0 else 0
    return calendar_step.count * {"d": 1, "w": 7}.get(calendar_step.unit, 0)


def step_months_of(step: CalendarStep | None) -> int:
    """Months in a step of the calendar; 0 in others."""
    return step.count * {"mo": 1, "y": 12}.get(step.unit, 0) if step is not None else 0


def months_of(name: str) -> int:
    """Months in the season of this name; 0 in one of a fixed length."""
    found = _MONTHS.fullmatch(name)
    return 0 if found is None else int(found[1]) * (12 if found[2] == "y" else 1)


def _mean_ms(name: str) -> int:
    months = months_of(name)
    return months * UNIT_US["mo"] // 1000 if months else parse_ms(name)


def _season(name: str, step_ms: int, calendar_step: CalendarStep | None) -> Season:
    months, step_months = months_of(name), step_months_of(calendar_step)
    if step_months and not months:
        raise ValueError(f"{name}: months and years have no such season: write 1y")
    # In steps, as a fraction: of months by their count, of everything else by its length.
    season, step = (months, step_months) if step_months else (_mean_ms(name), step_ms)
    if season < 2 * step:
        raise ValueError(f"{name}: a season has two steps at least, and `step` is {format_ms(step_ms)}")
    whole = season % step == 0 and bool(months) == bool(step_months)
    most, cells = (
        (YEAR_CELLS_MAX, YEAR_CELLS)
        if months
        else (DAY_CELLS_MAX, DAY_CELLS)
        if season <= DAY_MS
        else (WEEK_CELLS_MAX, WEEK_CELLS)
    )
    count = -(-season // step)
    bins = count if count <= most else cells
    own = whole and bins == count
    return Season(name, bins, 1.0 if own else bins * step / season, count if whole and count <= LAG_MAX else 0)


def _day_types(step_ms: int, calendar_step: CalendarStep | None, holidays: Sequence[date]) -> Season:
    days = _days(step_ms, calendar_step)
    if days > 1 or step_months_of(calendar_step) or step_ms > DAY_MS:
        raise ValueError(f"key: {DAY_TYPE}: a step is a day or shorter, and `step` is {format_ms(step_ms)}")
    if days == 1:
        cells, per_step, lag = 1, 1.0, 7
    elif 2 * step_ms > DAY_MS:
        raise ValueError(
            f"key: {DAY_TYPE}: a step is a day, or half a day and shorter, and `step` is {format_ms(step_ms)}"
        )
    else:
        day = _season("1d", step_ms, calendar_step)
        week = 7 * DAY_MS
        cells, per_step = day.bins, day.per_step
        lag = week // step_ms if week % step_ms == 0 and week // step_ms <= LAG_MAX else 0
    numbers = sorted({day.toordinal() - date(1970, 1, 1).toordinal() for day in holidays})
    return Season(DAY_TYPE, DAY_TYPES * cells, per_step, lag, tuple(numbers))
