"""Times as files write them. A whole column is looked at before one time is read, and what has two readings has none.

`01/02/2010` is a day in January or in February, `2024010100` an hour of 2024 or a second of 2034, `45292.04` a day of a
spreadsheet or a minute of 1970. A column that proves one reading (some first number above 12) is read; any other is an
`AmbiguousTimes` whose message names both readings and the option that settles it.
"""

# ruff: noqa: DTZ001, DTZ007 - what a file writes without a zone is a clock's reading, and naive until a zone is put to it

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np

from streamrnn.records import I64, Bool

Order = Literal["dmy", "mdy", "ymd"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAIVE_EPOCH = datetime(1970, 1, 1)
US = timedelta(microseconds=1)
DAY_US = 86_400_000_000
# Microseconds of one unit, as a ratio: nanoseconds are floored.
UNITS: dict[str, Decimal] = {"s": Decimal(10**6), "ms": Decimal(1000), "us": Decimal(1), "ns": Decimal("0.001")}
WORDS = {"s": "seconds since 1970", "ms": "milliseconds since 1970", "us": "microseconds since 1970"} | {
    "ns": "nanoseconds since 1970"
}
# A count since 1970 is taken for one only where it means the years 1973 to 2150: the four units do not overlap there.
EPOCH_US = (10**14, 5_680_000_000_000_000)
YEARS = range(1850, 2151)
EXCEL_DAY_0 = datetime(1899, 12, 30)
EXCEL_DAYS = (1, 109_205)  # 1900 to 2199

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{1,4})([/.\-])(\d{1,2})\2(\d{1,4})(?:(?:[Tt]|,? +)(.+))?", re.ASCII)
_CLOCK = re.compile(
    r"(\d{1,2})(?:[:.](\d{2})(?:[:.](\d{2})(?:[.,](\d{1,12}))?)?)?(?: ?([AaPp])\.?[Mm]\.?)?"
    r"(?: ?(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?",
    re.ASCII,
)
_MONTH = re.compile(r"(\d{4})[-/](\d{1,2})", re.ASCII)
# Dates written as digits alone. A fraction of a second stands after the seconds, with a point or without.
_WIDTHS = {"Y": 4, "y": 2, "m": 2, "d": 2, "j": 3, "H": 2, "M": 2, "S": 2}
_FOUR, _TWO = ("%Y%m%d", "%d%m%Y", "%m%d%Y"), ("%y%m%d", "%d%m%y", "%m%d%y")
# As [digits] → strptime formats. Fractions of any length after years of four digits, of milli- and microseconds after two.
_COMPACT: dict[int, tuple[str, ...]] = {
    8: _FOUR,
    9: ("%Y%j%H",),
    10: tuple(f"{date}%H" for date in _FOUR) + tuple(f"{date}%H%M" for date in _TWO),
    11: ("%Y%j%H%M",),
    12: tuple(f"{date}%H%M" for date in _FOUR) + tuple(f"{date}%H%M%S" for date in _TWO),
    13: ("%Y%j%H%M%S",),
    14: tuple(f"{date}%H%M%S" for date in _FOUR),
    15: tuple(f"{date}%H%M%S%f" for date in _FOUR + _TWO),
    16: tuple(f"{date}%H%M%S%f" for date in _FOUR),
    17: tuple(f"{date}%H%M%S%f" for date in _FOUR),
    18: tuple(f"{date}%H%M%S%f" for date in _FOUR + _TWO),
    19: tuple(f"{date}%H%M%S%f" for date in _FOUR),
    20: tuple(f"{date}%H%M%S%f" for date in _FOUR),
}
# A column of dates stays one with a tenth of its texts spoiled. A minute, an hour or a day of seconds since 1970 has more
# texts that are no date: two digits of them run to 99.
_SPOILED = 10
_NAMED_DATES = ("%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%d-%B-%Y", "%b %d %Y", "%B %d %Y", "%b %d, %Y", "%B %d, %Y")
_NAMED = (
    *(date + clock for date in _NAMED_DATES for clock in ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")),
    "%b %Y", "%B %Y", "%b-%Y", "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip


class AmbiguousTimes(ValueError):
    """A column can be read in two ways; the message names both and what to write."""


@dataclass(slots=True)
class Times:
    """`ts_us` [row] are UTC microseconds; `bad` says by row why a time was not read (its `ts_us` means nothing)."""

    ts_us: I64
    bad: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


# A reading of one text: (microseconds, whether the text itself named its zone). Raises ValueError.
_Read = Callable[[str], tuple[int, bool]]
# A form and what the texts mean by it, None for those that are no time in it.
_Fit = tuple[str, Sequence[int | None]]


def read_times(
    texts: Sequence[str],
    form: str | None = None,
    zone: ZoneInfo | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Times:
    """A column of times as UTC microseconds.

    `form` is a strptime format or one of s, ms, us, ns, excel; None finds the one reading that the column allows.
    `zone` is where texts without an offset were written (None: UTC). A local time that the clocks show twice is read by
    the rows' order within its group (`groups` [row], a series each): the first pass through the hour, then the second.
    One that the clocks never show is bad. Raises AmbiguousTimes, and ValueError for a `form` that is none.
    """
    stripped = [text.strip() for text in texts]
    read = _by_form(form, stripped) if form is not None else _found(stripped)
    times = Times(np.zeros(len(texts), dtype=np.int64))
    local: Bool = np.zeros(len(texts), dtype=np.bool_)
    for row, text in enumerate(stripped):
        try:
            us, aware = read(text)
            if abs(us) >= 1 << 62:
                raise ValueError
            times.ts_us[row] = us
            local[row] = not aware
        except (ValueError, OverflowError, ArithmeticError):
            suffix = f" by --time-format {form}" if form is not None else ""
            times.bad[row] = "no time" if not text else f"{text[:40]!r} is not a time{suffix}"
    if zone is not None and local.any():
        localise(times, local, zone, groups)
    return times


# ── one reading, given ───────────────────────────────────────────────────────────────────────────────────────────────


def _by_form(form: str, texts: Sequence[str]) -> _Read:
    if form in UNITS:
        return lambda text: (_count(text, form), True)
    if form == "excel":
        places = max((len(text.partition(".")[2]) for text in texts if _NUMBER.fullmatch(text)), default=0)
        return lambda text: (_excel(text, places), False)
    if "%" not in form:
        raise ValueError(f"--time-format {form}: write s, ms, us, ns, excel, or a strptime format such as %d/%m/%Y")
    if re.fullmatch(r"(?:%[YymdjHMS])+(?:\.?%f)?", form):
        return lambda text: _compact_or_marked(text, form)
    return lambda text: _stamped(datetime.strptime(text, form))


def _count(text: str, unit: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int((Decimal(text) * UNITS[unit]).to_integral_value(ROUND_FLOOR))


def _excel(text: str, places: int) -> int:
    """Days since 1899-12-30. `places` decimals cannot say more than some fraction of a second: rounded to what they can."""
    if not _NUMBER.fullmatch(text):
        raise ValueError
    grain = 1000 if places >= 8 else 1_000_000 if places >= 5 else 60_000_000 if places >= 3 else 1
    us = (Decimal(text) * DAY_US / grain).to_integral_value(ROUND_HALF_EVEN) * grain
    return int(us) + (EXCEL_DAY_0 - NAIVE_EPOCH) // US


def _stamped(moment: datetime) -> tuple[int, bool]:
    if moment.tzinfo is None:
        return (moment - NAIVE_EPOCH) // US, False
    return (moment - EPOCH) // US, True


# ── the one reading that a column allows ─────────────────────────────────────────────────────────────────────────────


def _found(texts: Sequence[str]) -> _Read:
    kinds = Counter(_kind(text) for text in texts if text)
    kind = kinds.most_common(1)[0][0] if kinds else "words"
    some = list(dict.fromkeys(text for text in texts if text and _kind(text) == kind))
    if kind == "number":
        return _numbers(some)
    if kind == "date":
        return _dates(some)
    return _worded


def _kind(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return "number"
    return "date" if _DATE.fullmatch(text) else "words"


def _numbers(texts: Sequence[str]) -> _Read:
    """Counts since 1970 by their size, dates written as digits; raises AmbiguousTimes where both fit, or neither is sure."""
    fits = _compact_forms(texts)
    padded = bool(fits) and any(len(_whole(text)) < _width(fits[0][0], texts) for text in texts)
    values = [Decimal(text) for text in texts]
    for unit, size in UNITS.items():
        low, high = (bound / size for bound in EPOCH_US)
        if all(low <= value <= high for value in values):
            fits.append((unit, [_count(text, unit) for text in texts]))
    _one_of(fits, texts)
    # Dates that lack their first zero are read only where the user says that they are dates.
    if fits and not (padded and fits[0][0] not in UNITS):
        form = fits[0][0]
        # A row that is no part of this reading is bad, not something else.
        if form in UNITS:
            return lambda text: (_count(text, form), True)
        return lambda text: (_compact(text, form), False)
    sizes = [unit for unit, size in UNITS.items() if any(EPOCH_US[0] <= v * size <= EPOCH_US[1] for v in values)]
    if len(sizes) > 1:
        raise AmbiguousTimes(
            f"some times look like {WORDS[sizes[0]]} and some like {WORDS[sizes[1]]}; "
            f"say which with --time-format {sizes[0]} or --time-format {sizes[1]}"
        )
    small = fits[:1]
    if all(EXCEL_DAYS[0] <= value <= EXCEL_DAYS[1] for value in values):
        small.append(("excel", [_excel(text, 8) for text in texts]))
    if all(text.isdigit() and len(text) == 4 and int(text) in YEARS for text in texts):
        small.insert(0, ("%Y", [_stamped(datetime(int(text), 1, 1))[0] for text in texts]))
    if all(text.isdigit() and len(text) == 6 for text in texts):
        small += [(form, us) for form in ("%Y%m", *_TWO) if None not in (us := _compacts(texts, form))]
    small += [(unit, [_count(text, unit) for text in texts]) for unit in ("s", "ms")]
    _one_of(small[:2], texts)
    raise AmbiguousTimes(
        f"numbers such as {texts[0]!r} say no time by themselves: write --time-format s (or ms, us, ns, excel, or a "
        "strptime format such as %Y%m%d%H)"
    )


def _compact_forms(texts: Sequence[str]) -> list[_Fit]:
    """The forms of dates in digits alone that all texts have, or, where no form has them all, nearly all."""
    lengths = {len(_whole(text)) for text in texts}
    most = max(lengths)
    # What a spreadsheet takes for numbers has lost the zero before its first digit.
    length = most if most in _COMPACT and most - min(lengths) <= 1 else 0
    lengths_of = (length, most + 1) if most == min(lengths) else (length,)
    whole: list[_Fit] = []
    part: list[_Fit] = []
    pointed = any(text.partition(".")[2].strip("0") and "e" not in text.lower() for text in texts)
    for width in lengths_of:
        for form in _COMPACT.get(width, ()):
            if (width > most or len(lengths) > 1) and (form.startswith("%Y") or form.endswith("%f")):
                continue
            if pointed:
                if not form.endswith("%S"):
                    continue
                form += ".%f"
            us = _compacts(texts, form, width)
            failed = us.count(None)
            if not failed:
                whole.append((form, us))
            elif failed * _SPOILED <= len(texts):
                part.append((form, us))
    return whole or part


def _compacts(texts: Sequence[str], form: str, width: int = 0) -> list[int | None]:
    """By text the instant, None where it is none. All None once more than a few are."""
    found: list[int | None] = []
    failed, most = 0, len(texts) // _SPOILED
    for text in texts:
        try:
            us = _compact(text, form, width, found=True)
        except ValueError:
            failed += 1
            if failed > most:
                return [None] * len(texts)
            found.append(None)
        else:
            found.append(us)
    return found


def _whole(text: str) -> str:
    """The digits before a number's point, also of 2.024010100E9."""
    if text.isdigit():
        return text
    whole, _, part = text.partition(".")
    if whole.isdigit() and (not part or part.isdigit()):
        return whole
    value = Decimal(text)
    return str(int(value)) if 0 <= value < 10**24 and value == value.to_integral_value() else ""


def _width(form: str, texts: Sequence[str]) -> int:
    """Digits of a text in this form: of one with a fraction without a point, as many as the texts have."""
    width = sum(_WIDTHS.get(letter, 0) for letter in form[1::2] if letter != ".")
    return max(len(_whole(text)) for text in texts) if form.endswith("S%f") else width


def _compact(text: str, form: str, width: int = 0, found: bool = False) -> int:
    """A date of digits alone by its form, every part of its full width, as microseconds; a first zero may be lost.

    `found`, where nobody named the form: hour 24 looks like a date's too, and years are those of `YEARS`. Raises ValueError.
    """
    digits, part = _whole(text), text.partition(".")[2]
    dated = form.removesuffix(".%f").removesuffix("%f")
    short = sum(_WIDTHS[letter] for letter in dated[1::2])
    if not digits.isdigit() or not digits.isascii():
        raise ValueError
    if len(digits) == max(width, short) - 1 and not form.startswith("%Y"):
        digits = "0" + digits
    fraction = digits[short:]
    if form.endswith(".%f"):
        if not part.isdigit() or len(part) > 12 or fraction:
            raise ValueError
        fraction = part
    elif part.strip("0") and "e" not in text.lower():
        raise ValueError
    elif form.endswith("%f") != bool(fraction) or len(fraction) > 6:
        raise ValueError
    if len(digits) < short:
        raise ValueError
    at, parts = 0, dict.fromkeys("HMS", 0)
    for letter in dated[1::2]:
        parts[letter] = int(digits[at : at + _WIDTHS[letter]])
        at += _WIDTHS[letter]
    year = parts["Y"] if "Y" in parts else parts["y"] + (1900 if parts["y"] >= 69 else 2000)
    if (found and year not in YEARS) or parts["H"] > 23 + found or parts["M"] > 59 or parts["S"] > 59:
        raise ValueError
    day = datetime(year, parts.get("m", 1), parts.get("d", 1))
    if "j" in parts:
        day += timedelta(days=parts["j"] - 1)
        if day.year != year:
            raise ValueError
    clock = (parts["H"] * 60 + parts["M"]) * 60 + parts["S"]
    if clock > 86_400:
        raise ValueError
    return (day - NAIVE_EPOCH) // US + clock * 1_000_000 + int(fraction[:6].ljust(6, "0"))


def _compact_or_marked(text: str, form: str) -> tuple[int, bool]:
    """strptime, but digits alone have their parts' full width: 101240000 is 01 01 24 00 00, and no 10 12 40."""
    dated = set(form[1::2])
    if _NUMBER.fullmatch(text) and ("Y" in dated or "y" in dated):
        return _compact(text, form), False
    return _stamped(datetime.strptime(text, form))


def _one_of(fits: list[_Fit], texts: Sequence[str]) -> None:
    """Raises AmbiguousTimes, naming every reading, unless all come to the same instants."""
    others: list[_Fit] = []
    for form, us in fits:
        if not any(us == known for _, known in others):
            others.append((form, us))
    if len(others) < 2:
        return
    rows = range(len(texts))
    apart = (i for i in rows if len({us[i] for _, us in others} - {None}) == len(others))
    at = next(apart, next(i for i in rows if len({us[i] for _, us in others}) > 1))
    shown = [f"as {_shown(us[at])} ({_meaning(form)})" for form, us in others]
    options = [f"--time-format '{form}'" for form, _ in others]
    raise AmbiguousTimes(f"{texts[at]!r} can be read {_or(shown)}: say which with {_or(options)}")


def _or(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} or {parts[-1]}"


def _meaning(form: str) -> str:
    return WORDS.get(form, "a spreadsheet's serial day" if form == "excel" else form)


def _shown(us: int | None) -> str:
    if us is None:
        return "no time"
    moment = EPOCH + timedelta(microseconds=us)
    return f"{moment:%d %B %Y %H:%M:%S}".lstrip("0").removesuffix(" 00:00:00")


def _dates(texts: Sequence[str]) -> _Read:
    """Dates of numbers with marks between them, with or without a time of day."""
    fits: list[_Fit] = []
    failed: Counter[Order] = Counter()
    orders: tuple[Order, ...] = ("ymd", "dmy", "mdy")
    for order in orders:
        us: list[int | None] = []
        for text in texts:
            try:
                us.append(_marked(text, order)[0])
            except ValueError:
                failed[order] += 1
        if not failed[order]:
            fits.append((_form(texts[0], order), us))
    _one_of(fits, texts)
    # Where no order fits every row, the rows that do not fit the best one are bad; but not if another order fits those.
    best = min(orders, key=lambda order: failed[order])
    for other in orders:
        odd = next((text for text in texts if not _fits(text, best) and _fits(text, other)), None)
        if odd is not None:
            even = next(text for text in texts if _fits(text, best) and not _fits(text, other))
            raise AmbiguousTimes(
                f"dates in two orders: {even!r} can only be {_form(even, best)}, {odd!r} only {_form(odd, other)}; "
                "give --time-format for the one that counts"
            )
    return lambda text: _marked(text, best)


def _fits(text: str, order: Order) -> bool:
    try:
        _marked(text, order)
    except ValueError:
        return False
    return True


def _form(text: str, order: Order) -> str:
    """The strptime format for a date like this one, as far as --time-format needs it."""
    match = _DATE.fullmatch(text)
    if match is None:
        return order
    first, mark, _, third, clock = match.groups()
    year = "%Y" if max(len(first), len(third)) == 4 else "%y"
    date = mark.join({"d": "%d", "m": "%m", "y": year}[letter] for letter in order)
    if not clock:
        return date
    parts = _CLOCK.fullmatch(clock)
    if parts is None:
        return date
    hour, minute, second, fraction, half, offset = parts.groups()
    between = ":" if ":" in clock else "."
    written = "%I" if half else "%H"
    written += f"{between}%M" if minute else ""
    written += f"{between}%S" if second else ""
    written += ".%f" if fraction else ""
    written += (" %p" if " " in clock.strip() else "%p") if half else ""
    return f"{date} {written}{'%z' if offset else ''}" if hour else date


def _marked(text: str, order: Order) -> tuple[int, bool]:
    match = _DATE.fullmatch(text)
    if match is None:
        return _worded(text)
    parts = dict(zip(order, (match[1], match[3], match[4]), strict=True))
    if len(parts["y"]) not in (2, 4) or any(len(parts[p]) > 2 for p in "dm"):
        raise ValueError
    year = int(parts["y"])
    if len(parts["y"]) == 2:
        year += 1900 if year >= 69 else 2000
    day = datetime(year, int(parts["m"]), int(parts["d"]))
    us, offset = _clock(match[5]) if match[5] else (0, None)
    us += (day - NAIVE_EPOCH) // US
    return (us, False) if offset is None else (us - offset, True)


def _clock(text: str) -> tuple[int, int | None]:
    """(microseconds since midnight, offset from UTC in microseconds or None). Raises ValueError."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None or (match[2] is None and match[5] is None):
        raise ValueError
    hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if match[5]:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + (12 if match[5] in "pP" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError
    us = ((hour * 60 + minute) * 60 + second) * 1_000_000 + int((match[4] or "").ljust(6, "0")[:6])
    zone = match[6]
    if zone is None:
        return us, None
    if zone in ("Z", "z", "UTC", "GMT"):
        return us, 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    if minutes > 24 * 60:
        raise ValueError
    return us, (-minutes if zone[0] == "-" else minutes) * 60_000_000


def _worded(text: str) -> tuple[int, bool]:
    """Months by name, a month alone, and ISO 8601 in its rarer forms. Raises ValueError."""
    if not text or _NUMBER.fullmatch(text):
        raise ValueError
    month = _MONTH.fullmatch(text)
    if month is not None:
        return _stamped(datetime(int(month[1]), int(month[2]), 1))
    try:
        return _stamped(datetime.fromisoformat(text))
    except ValueError:
        for form in _NAMED:
            try:
                return _stamped(datetime.strptime(text, form))
            except ValueError:
                continue
    raise ValueError


# ── places with summer time ──────────────────────────────────────────────────────────────────────────────────────────


def zone_of(name: str) -> ZoneInfo:
    """Raises ValueError with what to write."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"--timezone {name}: no such zone; write one such as Europe/London") from None


def localise(times: Times, local: Bool, zone: ZoneInfo, groups: Sequence[Hashable] | None) -> None:
    """Moves the `local` rows, read as if UTC, to the instants that the zone's clocks showed them."""
    by_group: dict[Hashable, list[int]] = {}
    for row in range(len(times.ts_us)):
        if row not in times.bad:
            by_group.setdefault(groups[row] if groups is not None else None, []).append(row)
    twice = 0
    for rows in by_group.values():
        wall = times.ts_us[rows]
        if int((np.diff(wall) < 0).sum()) > int((np.diff(wall) > 0).sum()):  # the newest row first
            rows = rows[::-1]
        twice += _localise_one(times, rows, local, zone)
    if twice:
        times.notes.append(
            f"{twice} local times happen twice in {zone.key} (clocks set back): read in the order of the rows, the "
            "earlier pass first unless only the later one keeps their distance"
        )


def _localise_one(times: Times, rows: list[int], local: Bool, zone: ZoneInfo) -> int:
    """One series in rising order; returns how many of its times the clocks showed twice. Raises AmbiguousTimes."""
    before: int | None = None
    twice = 0
    wall = times.ts_us.copy()
    usual = float(np.median(np.diff(wall[rows]))) if len(rows) > 1 else 0.0
    for i, row in enumerate(rows):
        if not local[row]:
            before = int(times.ts_us[row])
            continue
        moment = NAIVE_EPOCH + timedelta(microseconds=int(wall[row]))
        early, late = (_instant(moment, zone, fold) for fold in (0, 1))
        if early is None or late is None:
            times.bad[row] = f"{moment} does not exist in {zone.key} (clocks set forward)"
            continue
        us = early
        if early != late:
            twice += 1
            if before is None and not _comes_back(wall, rows[i:]):
                raise AmbiguousTimes(
                    f"the local time {moment} happens twice in {zone.key} and no row before it says which is meant: "
                    "write times with their offset, such as +01:00"
                )
            # The later pass, once the earlier one would stand at or before the row above, or where it alone is as far
            # from that row as rows are.
            if before is not None and (early <= before < late or late - before == usual != early - before):
                us = late
        times.ts_us[row] = us
        before = us
    return twice


def _instant(moment: datetime, zone: ZoneInfo, fold: int) -> int | None:
    """UTC microseconds at which the zone's clocks show `moment`; None where they never do."""
    us = (moment.replace(tzinfo=zone, fold=fold) - EPOCH) // US
    back = (EPOCH + timedelta(microseconds=us)).astimezone(zone).replace(tzinfo=None)
    return us if back == moment else None


def _comes_back(wall: I64, rows: list[int]) -> bool:
    """Whether the local times fall again within the two hours that follow: the rows run through the hour twice."""
    first = int(wall[rows[0]])
    for before, after in pairwise(rows):
        if wall[after] - first > 7_200_000_000:
            return False
        if wall[after] <= wall[before]:
            return True
    return False
