from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.durations import DURATION_MS_MAX, format_ms, parse_ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("1s", 1_000),
        ("15m", 900_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("2w", 1_209_600_000),
        ("0s", 0),
        ("0", 0),
        ("1.5s", 1_500),
        ("0.3s", 300),
        ("1h30m", 5_400_000),
        (" 1s ", 1_000),
    ],
)
def test_reads_what_people_write(text: str, ms: int) -> None:
    assert parse_ms(text) == ms


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write it like"),
        ("5", "write it like"),
        ("-1s", "write it like"),
        ("1 s", "write it like"),
        ("1S", "write it like"),
        ("1e3s", "write it like"),
        ("1m 30", "write it like"),
        ("one second", "write it like"),
        ("١s", "write it like"),
        ("30m1h", "long to short"),
        ("1s1s", "long to short"),
        ("0.5ms", "whole number"),
        ("36526d", "century"),
        ("9" * 400 + "s", "write it like"),
    ],
)
def test_refuses_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as caught:
        parse_ms(text)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(("ms", "text"), [(250, "250ms"), (90_000, "90s"), (604_800_000, "7d"), (0, "0s")])
def test_writes_the_shortest_form(ms: int, text: str) -> None:
    assert format_ms(ms) == text


def test_a_negative_duration_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="negative"):
        format_ms(-1)


@settings(deadline=None)
@given(st.integers(0, DURATION_MS_MAX))
def test_round_trip(ms: int) -> None:
    assert parse_ms(format_ms(ms)) == ms
