"""Times: whole columns are read right, or refused with both readings and the option that settles it. Never a guess."""

# ruff: noqa: DTZ001 - naive moments get their zone where they are used

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamrnn.transports.times import AmbiguousTimes, read_times, zone_of

NEW_YEAR_MS = 1_704_067_200_000  # 2024-01-01T00:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def one(text: str, form: str | None = None, zone: str | None = None) -> int:
    times = read_times([text], form, zone_of(zone) if zone else None)
    assert not times.bad, times.bad
    return int(times.ts_us[0])


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1704067200", NEW_YEAR_MS),
        ("1704067200.25", NEW_YEAR_MS + 250),
        ("1.7040672E9", NEW_YEAR_MS),
        ("1704067200000", NEW_YEAR_MS),
        ("1704067200000000", NEW_YEAR_MS),
        ("1704067200000000000", NEW_YEAR_MS),
        ("20240101", NEW_YEAR_MS),
        ("20240101000000", NEW_YEAR_MS),
        ("2024-01-01T00:00:00Z", NEW_YEAR_MS),
        ("2024-01-01T01:00:00+01:00", NEW_YEAR_MS),
        ("2024-01-01T01:00:00+0100", NEW_YEAR_MS),
        (" 2024-01-01 00:00 ", NEW_YEAR_MS),
        ("2024/1/1", NEW_YEAR_MS),
        ("2024-01", NEW_YEAR_MS),
        ("01/01/2024", NEW_YEAR_MS),
        ("01/01/2024 00.00.00", NEW_YEAR_MS),
        ("1/1/2024 12:00:00 AM", NEW_YEAR_MS),
        ("1/1/2024 12:30 p.m.", NEW_YEAR_MS + 45_000_000),
        ("1 Jan 2024", NEW_YEAR_MS),
        ("Jan 1, 2024", NEW_YEAR_MS),
        ("Mon, 01 Jan 2024 00:00:00 +0000", NEW_YEAR_MS),
        ("31.12.2023 23:00 -01:00", NEW_YEAR_MS),
    ],
)
def test_times_are_read_as_people_write_them(text: str, ms: int) -> None:
    assert one(text) == 1000 * ms


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        # hours of a weather service, or seconds of 2034
        (["2024010100", "2024010101"], r"1 January 2024 .*20 February 2034 .*--time-format '%Y%m%d%H'.*'s'"),
        # months, or days of January
        (["01/01/2010", "01/02/2010"], r"1 February 2010.*2 January 2010.*%d/%m/%Y.*%m/%d/%Y"),
        (["01.02.2010 10:30"], r"%d\.%m\.%Y %H:%M'"),
        (["02-01-10"], "--time-format"),
        (["202401010000"], r"1 January 2024.*1976"),
        # a spreadsheet's serial days
        (["45292.04166667", "45292.08333333"], r"1 January 2024 01:00:00.*1970.*'excel'.*'s'"),
        (["0", "1", "2"], "--time-format 's'"),
        (["1", "2", "3"], "--time-format"),
        (["2020", "2021"], r"'%Y'"),
        (["202001", "202002"], r"'%Y%m'"),
        (["1704067200", "1704067200000"], "seconds.*milliseconds"),
        (["13/01/2024", "01/13/2024"], "two orders"),
    ],
)
def test_what_has_two_readings_is_refused_with_both_and_the_option(texts: list[str], words: str) -> None:
    with pytest.raises(AmbiguousTimes, match=words):
        read_times(texts)


def test_one_date_that_proves_its_order_proves_it_for_the_column() -> None:
    texts = ["01/02/2010", "02/02/2010", "13/02/2010"]
    days = [(EPOCH + timedelta(microseconds=int(us))).day for us in read_times(texts).ts_us]
    assert days == [1, 2, 13]


@pytest.mark.parametrize(
    ("text", "form", "wanted"),
    [
        ("2024010101", "%Y%m%d%H", datetime(2024, 1, 1, 1, tzinfo=UTC)),
        ("01/02/2010", "%d/%m/%Y", datetime(2010, 2, 1, tzinfo=UTC)),
        ("45292.04166667", "excel", datetime(2024, 1, 1, 1, tzinfo=UTC)),
        ("45292.041666666664", "excel", datetime(2024, 1, 1, 1, tzinfo=UTC)),
        ("45292", "excel", datetime(2024, 1, 1, tzinfo=UTC)),
        ("12", "s", datetime(1970, 1, 1, 0, 0, 12, tzinfo=UTC)),
        ("-1.5", "ms", datetime(1969, 12, 31, 23, 59, 59, 998_500, tzinfo=UTC)),
        ("1999", "ns", datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_a_format_that_is_given_is_the_one(text: str, form: str, wanted: datetime) -> None:
    assert one(text, form) == us_of(wanted)


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="--time-format day: write s, ms"):
        read_times(["2024-01-01"], "day")
    with pytest.raises(ValueError, match="--timezone Mars/Olympus"):
        zone_of("Mars/Olympus")


def test_a_text_that_is_no_time_is_bad_by_itself() -> None:
    times = read_times(["2024-01-01", "soon", "", "2024-02-30", "inf"])
    assert set(times.bad) == {1, 2, 3, 4}
    assert "'soon' is not a time" in times.bad[1]


FORMS = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y %H:%M", "%m-%d-%Y %H:%M:%S", "%d/%m/%y", "%y%m%d", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M",
    "%Y%m%d%H%M%S", "%d%m%Y", "%m%d%Y", "%Y-%m-%d %H:%M:%S", "%Y/%m/%d %I:%M %p", "%d %b %Y %H:%M", "%B %d, %Y", "%Y",
    "%d-%b-%Y", "%m/%d/%Y %I:%M:%S %p", "s", "ms", "us", "ns", "excel",
)  # fmt: skip
GRAINS = {"%S": 1, "%f": 1, "%M": 60, "%H": 3600, "%I": 3600}


def written(moment: datetime, form: str) -> str:
    if form == "excel":
        return str((moment - datetime(1899, 12, 30, tzinfo=UTC)) / timedelta(days=1))
    units = {"s": 10**6, "ms": 1000, "us": 1}
    if form == "ns":
        return str(us_of(moment) * 1000)
    return str(us_of(moment) // units[form]) if form in units else moment.strftime(form)


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2060, 1, 1)),
    st.sampled_from((60, 3600, 86_400, 7 * 86_400, 31 * 86_400)),
    st.integers(1, 20),
    st.sampled_from(FORMS),
)
@example(datetime(2024, 1, 1), 3600, 20, "%Y%m%d%H")
@example(datetime(2010, 1, 1), 31 * 86_400, 12, "%d/%m/%Y")
def test_a_written_column_is_read_right_or_refused(begin: datetime, step: int, count: int, form: str) -> None:
    moments = [begin.replace(second=0, microsecond=0, tzinfo=UTC) + i * timedelta(seconds=step) for i in range(count)]
    texts = [written(moment, form) for moment in moments]
    wanted = [us_of(m) for m in moments]
    if "%" in form:  # what the text itself says: without hours, the day's beginning
        wanted = [us_of(datetime.strptime(text, form).replace(tzinfo=UTC)) for text in texts]
    read = read_times(texts, form)
    assert not read.bad
    assert read.ts_us.tolist() == wanted
    try:
        times = read_times(texts)
    except AmbiguousTimes as error:
        assert "--time-format" in str(error)
        return
    assert times.bad or times.ts_us.tolist() == wanted


# ── digits alone ─────────────────────────────────────────────────────────────────────────────────────────────────────

COMPACT = [
    *("%Y%m%d%H", "%d%m%Y%H", "%m%d%Y%H", "%y%m%d%H%M", "%d%m%y%H%M", "%m%d%y%H%M", "%Y%j%H"),
    *(
        "%Y%m%d%H%M",
        "%d%m%Y%H%M",
        "%m%d%Y%H%M",
        "%y%m%d%H%M%S",
        "%d%m%y%H%M%S",
        "%m%d%y%H%M%S",
        "%Y%j%H%M",
        "%Y%j%H%M%S",
    ),
    *("%Y%m%d%H%M%S", "%d%m%Y%H%M%S", "%m%d%Y%H%M%S"),
    *("%Y%m%d%H%M%S%f", "%d%m%Y%H%M%S%f", "%m%d%Y%H%M%S%f", "%y%m%d%H%M%S%f", "%d%m%y%H%M%S%f"),
]


def in_digits(moment: datetime, form: str, places: int) -> str:
    return moment.strftime(form.removesuffix("%f")) + (f"{moment:%f}"[:places] if form.endswith("%f") else "")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["2401010000", "2401010100"], r"1 January 2024 \(%y%m%d%H%M\).*2046.*'%y%m%d%H%M'.*'s'"),
        (["0101240000", "0101240100"], r"1 January 2024 \(%d%m%y%H%M\).*1973.*'s'"),
        (["101240000", "3112240000"], r"1 January 2024 \(%d%m%y%H%M\).*1973.*'s'"),  # a spreadsheet ate the zero
        (["101240000", "201240000"], r"2 January 2024 \(%d%m%y%H%M\).*1976.*'s'"),
        (
            ["1012024", "13012024"],
            r"1 January 2024 \(%d%m%Y\).*1970.*'s'",
        ),  # no zero before the 1: read only where it is said
        (["240101000000"], r"1 January 2024 \(%y%m%d%H%M%S\).*1977.*'ms'"),
        (["2024010100000000"], r"1 January 2024 \(%Y%m%d%H%M%S%f\).*2034.*'us'"),
        (["2024001000000"], r"1 January 2024 \(%Y%j%H%M%S\).*2034.*'ms'"),
        (["2024010100.0", "2024010101.0"], r"%Y%m%d%H.*2034"),
        (["2.0240101E9", "2.024010101E9"], r"%Y%m%d%H.*2034"),
        (["240101000000.5", "240101000001.25"], r"%y%m%d%H%M%S\.%f.*1977"),
        (["2024010122", "2024010123", "2024010124"], r"%Y%m%d%H.*2034"),  # hours 1 to 24
    ],
)
def test_dates_in_digits_that_are_counts_too_are_refused_with_all_readings(texts: list[str], words: str) -> None:
    with pytest.raises(AmbiguousTimes, match=words):
        read_times(texts)


@pytest.mark.parametrize("form", COMPACT)
def test_a_column_of_dates_in_digits_is_never_read_as_a_count(form: str) -> None:
    """Whatever the begin, the step, the length, and a text or two of them spoiled."""
    rng = random.Random(form)
    for _ in range(30):
        begin = datetime(
            rng.randrange(1975, 2060), rng.randrange(1, 13), rng.randrange(1, 29), rng.randrange(24), tzinfo=UTC
        )
        grain = 1 if "%S" in form else 60 if "%M" in form else 3600
        step = grain * rng.choice([1, 2, 5, 15, 24, 60, 168])
        places = rng.choice([3, 6] if "%y" in form else [1, 2, 3, 4, 5, 6])
        moments = [
            begin + i * timedelta(seconds=step, microseconds=250) for i in range(rng.choice([1, 2, 24, 60, 300]))
        ]
        texts = [in_digits(moment, form, places) for moment in moments]
        wanted = [us_of(datetime.strptime(text, form).replace(tzinfo=UTC)) for text in texts]
        assert read_times(texts, form).ts_us.tolist() == wanted
        if len(texts) >= 60 and not form.endswith("%f"):
            texts[rng.randrange(len(texts))] = texts[0][:-2] + "99"
        try:
            times = read_times(texts)
        except AmbiguousTimes:
            continue
        good = [row for row in range(len(texts)) if row not in times.bad]
        assert times.ts_us[good].tolist() == [wanted[row] for row in good]
        assert len(good) >= len(texts) - 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("step", [1, 60, 900, 3600, 86_400])
def test_a_column_of_counts_needs_no_format(unit: str, step: int) -> None:
    """Years 2005 to 2035, every second count among them that looks like a date at first: whole columns decide."""
    rng = random.Random(step)
    per_s = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}[unit]
    begins = [rng.randrange(1_104_537_600, 2_051_222_400) for _ in range(150)]
    begins += [1_701_011_200, 1_112_131_400, 2_012_312_200, 2_024_010_100, 1_801_010_000, 1_231_200_000, 1_101_200_500]
    rows = 70 if step == 1 else 50  # an hour's sixty seconds may all be minutes
    for begin in begins:
        counts = [(begin + i * step) * per_s for i in range(rows)]
        times = read_times([str(count) for count in counts])
        assert not times.bad
        assert times.ts_us.tolist() == [(begin + i * step) * 10**6 for i in range(rows)]


def test_a_format_of_digits_has_its_parts_in_full_width() -> None:
    assert one("101240000", "%d%m%y%H%M") == 1000 * NEW_YEAR_MS
    assert one("1012024", "%d%m%Y") == 1000 * NEW_YEAR_MS
    assert one("2024010100.0", "%Y%m%d%H") == 1000 * NEW_YEAR_MS
    assert one("1724", "%Y") == us_of(datetime(1724, 1, 1, tzinfo=UTC))
    assert read_times(["20241301000000000"], "%Y%m%d%H%M%S%f").bad
    assert read_times(["1e999999999"] * 3 + ["20240101"], "%Y%m%d").bad.keys() == {0, 1, 2}


# ── places with summer time ──────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.sampled_from(("Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo")),
    st.sampled_from((5, 10, 15, 30, 60, 90, 120, 180)),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from(
        (datetime(2022, 10, 29, 12), datetime(2022, 4, 2, 9), datetime(2022, 11, 5, 18), datetime(2015, 2, 21, 20))
    ),
)
def test_local_times_in_order_come_back_to_their_instants(
    name: str, minutes: int, shift: int, newest_first: bool, begin: datetime
) -> None:
    """A file in local time that runs through the night the clocks are set back, forwards or backwards."""
    zone = ZoneInfo(name)
    count = 36 * 60 // minutes
    moments = [begin.replace(tzinfo=UTC) + timedelta(minutes=5 * shift + minutes * i) for i in range(count)]
    texts = [f"{m.astimezone(zone):%Y-%m-%d %H:%M}" for m in moments]
    if newest_first:
        moments, texts = moments[::-1], texts[::-1]
    times = read_times(texts, None, zone)
    assert not times.bad
    assert times.ts_us.tolist() == [us_of(m) for m in moments]


def test_a_local_time_the_clocks_never_show_is_bad_and_an_offset_is_obeyed() -> None:
    times = read_times(["2022-03-27 01:30", "2022-03-27T01:30:00Z"], None, zone_of("Europe/London"))
    assert "does not exist in Europe/London" in times.bad[0]
    assert times.ts_us[1] == us_of(datetime(2022, 3, 27, 1, 30, tzinfo=UTC))


def test_a_file_that_begins_in_the_hour_that_comes_twice_is_refused_unless_it_goes_on_through_it() -> None:
    zone = zone_of("Europe/London")
    with pytest.raises(AmbiguousTimes, match=r"happens twice in Europe/London.*\+01:00"):
        read_times(["2022-10-30 01:30", "2022-10-30 02:00"], None, zone)
    through = read_times(["2022-10-30 01:30", "2022-10-30 01:00", "2022-10-30 01:30"], None, zone)
    first = us_of(datetime(2022, 10, 30, 0, 30, tzinfo=UTC))
    assert through.ts_us.tolist() == [first, first + 1_800_000_000, first + 3_600_000_000]
    assert "happen twice" in through.notes[0]


def test_each_series_of_a_panel_goes_through_the_hour_by_itself() -> None:
    texts = ["2022-10-30 00:00", "2022-10-30 01:00", "2022-10-30 01:00"]
    groups = ["a"] * 3 + ["b"] * 3
    times = read_times(texts * 2, None, zone_of("Europe/London"), groups)
    assert times.ts_us.tolist()[:3] == times.ts_us.tolist()[3:]
