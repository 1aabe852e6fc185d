"""Files as streams: what is read, and that whatever cannot be is reported with its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrnn.transports.files import LINE_BYTES_MAX, InputError, Reading, read_lines, read_table

DAY_MS = 86_400_000
NEW_YEAR_MS = 1_704_067_200_000  # 2024-01-01T00:00Z


def write(path: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_table_has_its_numbers_its_gaps_and_utc_milliseconds(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "when,temp,name,flow\n2024-01-01,1.5,a,NA\n2024-01-02 00:00:00,,b,-2e3\n\n")
    table = read_table(path, "when")
    assert table.channels == ("temp", "flow")
    assert table.ts_us.tolist() == [1000 * NEW_YEAR_MS, 1000 * (NEW_YEAR_MS + DAY_MS)]
    np.testing.assert_array_equal(table.values, [[1.5, np.nan], [np.nan, -2000.0]])


def test_channels_come_in_the_order_they_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "when;a;b\n2024-01-01;1;2\n")
    table = read_table(path, "when", ("b", "a"))
    assert table.channels == ("b", "a")
    assert table.values.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize(
    ("content", "channels", "words"),
    [
        ("when,a\n", (), "no rows"),
        ("time,a\n2024-01-01,1\n", (), "'when'.*time, a.*--time"),
        ("when,a\n2024-01-01,1\n", ("b",), "'b'.*when, a"),
        ("when,a\n2024-01-01,1\n2024-01-02,warm\n", (), "line 3.*'warm'"),
        ("when,a\nyesterday,1\n", (), "line 2.*'yesterday' is not a time"),
        ("when,a\n2024-01-01,1\n2024-01-02,inf\n", (), "line 3.*finite"),
        (b"when,a\n2024-01-01,\xff\n", (), "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(
    tmp_path: Path, content: str | bytes, channels: tuple[str, ...], words: str
) -> None:
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(InputError, match=words) as raised:
        read_table(path, "when", channels)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_or_cut_short_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv", "when")
    whole = gzip.compress(b"when,a\n" + b"2024-01-01,1\n" * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "cut.csv.gz", "when")


def wrong(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, reason=reason)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("when,a\ninf,1\n", "line 2"),
        pytest.param("when,a\n\n\n", "no rows"),
        pytest.param("when,a\n2024-01-01,1," + "x" * 200_000 + "\n", "line 2"),
        pytest.param("when,a\n2024-01-01,1\n\n\n2024-01-04,warm\n", "line 5"),
        pytest.param('when,a,n\n2024-01-01,1,"x\ny"\n2024-01-04,warm,z\n', "line 4"),
        pytest.param("when,a,b\n2024-01-01,1,2\n2024-01-02,1\n", "2 of 3|too few|column 'b'"),
        pytest.param("when,a\n2024-01-01,1\n2024-01-02,warm\n", "'a'"),
        pytest.param("when,a\n2024-01-01,warm\n", "no column.*number"),
    ],
)
def test_what_cannot_be_used_is_told_and_not_guessed(tmp_path: Path, content: str, words: str) -> None:
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(InputError, match=words):
        read_table(path, "when")


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", b"\xef\xbb\xbfwhen,a\n2024-01-01,1\n")
    assert read_table(path, "when").channels == ("a",)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def values(tmp_path: Path, content: str, reading: Reading | None = None) -> list[list[float]]:
    return read_table(write(tmp_path / "t.csv", content), "when", (), reading).values.tolist()


def test_decimal_commas_are_read_where_the_column_proves_them(tmp_path: Path) -> None:
    rows = "when;a;b\n2024-01-01;6,3;1.234,5\n2024-01-02;1,250;12\n"
    assert values(tmp_path, rows) == [[6.3, 1234.5], [1.25, 12.0]]
    tabs = "when\ta\n2024-01-01\t-0,125\n2024-01-02\t1e3\n"
    assert values(tmp_path, tabs) == [[-0.125], [1000.0]]


def test_thousands_marks_are_read_where_the_column_proves_them(tmp_path: Path) -> None:
    rows = 'when,a,b\n2024-01-01,"1,234.5","1,234,567"\n2024-01-02,"2,000",1\n'
    assert values(tmp_path, rows) == [[1234.5, 1234567.0], [2000.0, 1.0]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("when;a\n2024-01-01;1,234\n", r"1\.234 \(--decimal ,\).*1234 \(--decimal \.\)"),
        ("when;a\n2024-01-01;1,25\n2024-01-02;1.25\n", "decimal comma.*decimal point"),
        ("when;a;b\n2024-01-01;1,25;1.234\n", "1234 if points mark thousands.*--decimal"),
        ("when,a\n2024-01-01,1,25\n", "3 cells under 2 columns"),
        ("when,a\n2024-01-01,1_000\n2024-01-02,1\n", "'1_000'"),
        ("when,a\n2024-01-01,1\n2024-01-02,?\n2024-01-03,2\n2024-01-04,?\n", r"stands in 2 cells.*--missing '\?'"),
        ("when,a,a\n2024-01-01,1,2\n", "no column|named 'a'"),
    ],
)
def test_a_number_with_two_readings_is_refused_by_name(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_table(write(tmp_path / "t.csv", content), "when")


def test_what_settles_a_number_is_an_option(tmp_path: Path) -> None:
    rows = "when;a\n2024-01-01;1,234\n2024-01-02;?\n"
    nan = float("nan")
    comma = values(tmp_path, rows, Reading(decimal=",", missing=("?",)))
    point = values(tmp_path, rows, Reading(decimal=".", missing=("?",)))
    np.testing.assert_array_equal(comma, [[1.234], [nan]])
    np.testing.assert_array_equal(point, [[1234.0], [nan]])


@given(
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=8),
    st.integers(0, 5),
    st.sampled_from([".", ","]),
    st.booleans(),
)
def test_a_written_number_is_read_right_or_refused(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], places: int, mark: str, grouped: bool
) -> None:
    """Whatever the decimal mark, the thousands mark and the digits: the number itself, or a message."""
    wanted = [number / 10**places for number in numbers]
    texts = [f"{number:{',' if grouped else ''}.{places}f}" for number in wanted]
    if mark == ",":
        texts = [text.translate(str.maketrans(",.", ".,")) for text in texts]
    rows = "".join(f"2024-01-{day:02d};{text}\n" for day, text in enumerate(texts, 1))
    path = write(tmp_path_factory.mktemp("numbers") / "t.csv", f"when;a\n{rows}")
    read = read_table(path, "when", (), Reading(decimal=mark))
    np.testing.assert_allclose(read.values[:, 0], wanted, rtol=1e-12)
    try:
        found = read_table(path, "when").values[:, 0].tolist()
    except InputError as error:
        assert "--decimal" in str(error)
        return
    if not (mark == "," and grouped and places == 0):  # `1.234` without any other mark is a fraction to everybody
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_text_column_that_is_blank_at_first_is_no_channel(tmp_path: Path) -> None:
    rows = "when,a,note,empty\n2024-01-01,1,,\n2024-01-02,2,broken,\n"
    assert read_table(write(tmp_path / "t.csv", rows), "when").channels == ("a",)


def test_a_column_that_never_moves_is_left_out_with_a_note_unless_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "when,station,a\n2024-01-01,3612,1\n2024-01-02,3612,2\n")
    table = read_table(path, "when")
    assert table.channels == ("a",)
    assert "station" in table.notes[0]
    assert read_table(path, "when", ("station", "a")).channels == ("station", "a")


def test_a_number_beyond_the_bound_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "when,a\n2024-01-01,1\n2024-01-02,28524228757025110097920\n")
    with pytest.raises(InputError, match=r"line 3, column 'a'.*1e\+15.*value_abs_max"):
        read_table(path, "when", (), Reading(value_abs_max=1e15))
    table = read_table(path, "when", (), Reading(value_abs_max=1e15, allow_refused=True))
    assert (len(table), table.total, table.refused) == (1, 2, {"range": 1})


def test_rows_that_cannot_be_read_are_counted_when_that_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "when,a\n2024-01-01,1\nsoon,2\n2024-01-03,warm\n2024-01-04,4\n")
    table = read_table(path, "when", ("a",), Reading(allow_refused=True))
    assert table.values[:, 0].tolist() == [1.0, 4.0]
    assert table.line.tolist() == [2, 5]
    assert (table.total, table.refused) == (4, {"timestamp": 1, "unreadable": 1})
    assert "line 3" in table.notes[-1]


# ── series ───────────────────────────────────────────────────────────────────────────────────────────────────────

PANEL = "unique_id,when,y\nnorth,2024-01-01,1\nnorth,2024-01-02,2\nsouth,2024-01-01,3\nsouth,2024-01-02,4\n"


def test_a_stacked_panel_is_refused_by_the_column_that_names_its_series(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", PANEL)
    with pytest.raises(InputError, match=r"times repeat 2 x; column unique_id looks like series: --series unique_id"):
        read_table(path, "when")
    table = read_table(path, "when", (), Reading(series=("unique_id",)))
    assert (table.series, table.channels) == (["north", "north", "south", "south"], ("y",))


@pytest.mark.parametrize(
    "content",
    [
        # names that are numbers; series that do not overlap in time
        "id,when,y\n7,2024-01-01,1\n7,2024-01-02,2\n8,2024-01-01,3\n8,2024-01-02,4\n",
        "pump,when,y\na,2024-01-03,1\na,2024-01-04,2\nb,2024-01-01,3\nb,2024-01-02,4\n",
    ],
)
def test_series_are_found_under_other_names_too(tmp_path: Path, content: str) -> None:
    column = content.split(",", 1)[0]
    with pytest.raises(InputError, match=f"column {column} looks like series"):
        read_table(write(tmp_path / "t.csv", content), "when")


def test_series_one_after_the_other_are_named_in_a_note(tmp_path: Path) -> None:
    """Nothing repeats and nothing falls back: it may be one series, with a column of words beside it."""
    rows = [f"2024-01-{day:02d},{'north' if day < 10 else 'south'},n{day},{day}" for day in range(1, 21)]
    path = write(tmp_path / "t.csv", "when,zone,note,y\n" + "\n".join(rows))
    table = read_table(path, "when")
    assert len(table.notes) == 1
    assert "column zone is left out, and all rows are one series" in table.notes[0]
    assert "2 words (north, south)" in table.notes[0]
    assert "--series zone" in table.notes[0]
    assert read_table(path, "when", (), Reading(series=("zone",))).notes == []


def test_two_columns_name_a_series_together(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "host,cpu,when,y\nn1,0,2024-01-01,1\nn1,1,2024-01-01,2\n")
    table = read_table(path, "when", ("y",), Reading(series=("host", "cpu")))
    assert table.series == ["n1/0", "n1/1"]


def test_date_and_time_of_day_in_two_columns(tmp_path: Path) -> None:
    rows = "".join(f"{day}/03/2004;{hour}.00.00;{hour},5;;\n" for day in (12, 13) for hour in range(24))
    path = write(tmp_path / "t.csv", f"Date;Time;CO(GT);;\n{rows}")
    with pytest.raises(InputError, match=r"column Time looks like the time of day: --time Date,Time"):
        read_table(path, "Date")
    table = read_table(path, "Date,Time")
    assert table.channels == ("CO(GT)",)
    assert np.diff(table.ts_us).tolist() == [3_600_000_000] * 47
    assert table.values[1, 0] == 1.5


def test_repeated_bars_are_not_taken_for_series(tmp_path: Path) -> None:
    rows = "".join(
        f"2024-01-01 00:{minute:02d},{minute + part},{minute % 7 + part}\n" for minute in range(30) for part in (1, 2)
    )
    path = write(tmp_path / "t.csv", f"when,close,volume\n{rows[: rows.rindex('2024')]}")
    assert len(read_table(path, "when")) == 59


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────────────────────


def parquet(path: Path, **columns: object) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    return path


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    days = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[us]")
    table = read_table(parquet(tmp_path / "t.parquet", when=days, a=[1, 2], b=[0.5, None]), "when")
    assert table.channels == ("a", "b")
    assert table.ts_us.tolist() == [1000 * NEW_YEAR_MS, 1000 * (NEW_YEAR_MS + DAY_MS)]
    np.testing.assert_array_equal(table.values, [[1.0, 0.5], [2.0, np.nan]])


def test_parquet_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "bad.parquet", "when")
    good = parquet(tmp_path / "t.parquet", when=[1704067200], a=[1.0])
    with pytest.raises(InputError, match=r"'time'.*when, a"):
        read_table(good, "time")
    with pytest.raises(InputError, match=r"'b'.*when, a"):
        read_table(good, "when", ("b",))


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"when": [1704067200], "a": [1.0], "n": ["x"]}),
        pytest.param({"when": ["soon"], "a": [1.0]}),
        pytest.param({"when": [1704067200]}),
        pytest.param({"when": [1704067200], "a": [np.inf]}),
        pytest.param({"when": np.array(["NaT"], dtype="datetime64[ms]"), "a": [1.0]}),
    ],
)
def test_parquet_is_read_or_told_never_a_traceback_or_a_guess(tmp_path: Path, columns: dict[str, object]) -> None:
    path = parquet(tmp_path / "t.parquet", **columns)
    try:
        table = read_table(path, "when")
    except InputError:
        return
    assert table.channels == ("a",)
    assert not np.isinf(table.values).any()
    assert (table.ts_us > 0).all()


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_lines_are_records_and_their_numbers_offsets(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b'{"a":1}\r\n\n  \n{"b":2}')
    records = list(read_lines(path, "ticks"))
    assert [(r.topic, r.partition, r.offset, r.key, r.value) for r in records] == [
        ("ticks", 0, 0, None, b'{"a":1}'),
        ("ticks", 0, 3, None, b'{"b":2}'),
    ]


def test_lines_are_read_one_at_a_time(tmp_path: Path) -> None:
    """The first comes before the file is read to where it is broken."""
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"a":1}\n' * 200_000, compresslevel=1)[:-8])
    assert next(iter(read_lines(tmp_path / "t.jsonl.gz"))).value == b'{"a":1}'


def test_a_file_of_lines_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_lines(tmp_path / "none.jsonl"))


def test_lines_cut_short_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"a":1}\n' * 2000)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_lines(tmp_path / "t.jsonl.gz"))


def test_a_line_beyond_the_limit_is_one_record(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", b"x" * (2 * LINE_BYTES_MAX) + b'\n{"b":2}\n')
    assert [record.offset for record in read_lines(path)] == [0, 1]
