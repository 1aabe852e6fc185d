"""Files as streams: what is read, and that whatever cannot be is told with its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamrnn.transports.files import LINE_BYTES_MAX, InputError, parse_time, read_lines, read_table

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
    assert table.ts_ms.tolist() == [NEW_YEAR_MS, NEW_YEAR_MS + DAY_MS]
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


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1704067200", NEW_YEAR_MS),
        ("1704067200.25", NEW_YEAR_MS + 250),
        ("1704067200000", NEW_YEAR_MS),
        ("2024-01-01T00:00:00Z", NEW_YEAR_MS),
        ("2024-01-01T01:00:00+01:00", NEW_YEAR_MS),
        (" 2024-01-01 00:00 ", NEW_YEAR_MS),
        ("01/01/2024", NEW_YEAR_MS),
        ("01/01/2024 00.00.00", NEW_YEAR_MS),
    ],
)
def test_times_are_read_as_people_write_them(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@given(st.integers(10**11 + 1, 4 * 10**12))
def test_milliseconds_are_taken_as_they_are(ms: int) -> None:
    assert parse_time(str(ms)) == ms


@given(st.integers(10**11 + 1, 4 * 10**12))
@example(137_438_953_471)
def test_seconds_with_a_fraction_are_rounded_to_the_millisecond(ms: int) -> None:
    assert parse_time(f"{ms // 1000}.{ms % 1000:03d}") == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        pytest.param("1704067200000000", NEW_YEAR_MS),
        pytest.param("1704067200000000000", NEW_YEAR_MS),
        pytest.param("20240101", NEW_YEAR_MS),
    ],
)
def test_a_time_is_understood_or_refused_but_not_guessed(text: str, ms: int) -> None:
    try:
        understood = parse_time(text)
    except ValueError:
        return
    assert understood == ms


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────────────────────


def parquet(path: Path, **columns: object) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    return path


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    days = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[us]")
    table = read_table(parquet(tmp_path / "t.parquet", when=days, a=[1, 2], b=[0.5, None]), "when")
    assert table.channels == ("a", "b")
    assert table.ts_ms.tolist() == [NEW_YEAR_MS, NEW_YEAR_MS + DAY_MS]
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
    assert (table.ts_ms > 0).all()


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
