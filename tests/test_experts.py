"""Which experts a stream has: as named, or as many as memory allows, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamrnn.experts import SETS, experts_setting
from streamrnn.memory import exact_bytes, format_bytes, parse_bytes
from streamrnn.season import Season
from streamrnn.spec import EXPERTS, StreamSpec
from streamrnn.stream.choice import choose, experts_bytes

GIB = 1 << 30
HOURS = StreamSpec(("a", "b", "c", "d"), 3_600_000, 24, seasons=(Season("1d", 24, 1.0, 24),), series_max=1000)


def test_all_of_them_where_they_fit_then_the_light_ones_then_none() -> None:
    full, light = (experts_bytes(replace(HOURS, experts=SETS[kind])) for kind in ("full", "light"))
    assert light < full / 3
    for memory, kind in ((full, "full"), (full - 1, "light"), (light, "light"), (light - 1, "off"), (0, "off")):
        found = choose("auto", HOURS, 1000 * memory)
        assert (found.kind, found.experts) == (kind, SETS[kind])
        assert found.series_bytes == {"full": full, "light": light, "off": 0}[kind]
        assert "full takes" in found.why and "experts_memory_max" in found.why and "1,000 series" in found.why
        assert ("light takes" in found.why) == (kind != "full")
        assert found.why.count("more than experts_memory_max") == {"full": 0, "light": 1, "off": 2}[kind]


def test_memory_grows_with_series_channels_and_about_linearly_with_the_horizon() -> None:
    assert choose("auto", replace(HOURS, series_max=10_000), GIB).kind == "full"
    assert choose("auto", replace(HOURS, series_max=100_000), GIB).kind == "light"
    assert choose("auto", replace(HOURS, series_max=10_000_000), GIB).kind == "off"
    sizes = [experts_bytes(replace(HOURS, horizon=horizon)) for horizon in (12, 24, 48, 96)]
    assert sizes == sorted(sizes) and sizes[-1] < 8 * sizes[0]
    wide = replace(HOURS, channels=tuple("abcdefgh"))
    assert 2 * experts_bytes(HOURS) < experts_bytes(wide) < 3 * experts_bytes(HOURS)


def test_what_needs_a_season_is_left_out_where_there_is_none() -> None:
    none = replace(HOURS, seasons=())
    assert choose("auto", none, GIB).experts == choose("full", none, GIB).experts == ("moves", "stack")
    assert "without season-ago, profile, deviations, for which there is no season" in choose("full", none, GIB).why
    assert choose("light", none, GIB).experts == ()
    assert choose("auto", none, 100).kind == "off"  # light has nothing to say there, and is not what it is called
    no_lag = replace(HOURS, seasons=(Season("1d", 96, 0.01, 0),))
    assert choose("full", no_lag, GIB).experts == ("profile", "moves", "deviations", "stack")


def test_what_is_configured_is_taken_whatever_it_takes() -> None:
    for setting in ("full", "light", "off", ("profile", "moves")):
        found = choose(setting, HOURS, 0)
        assert found.experts == (SETS[setting] if isinstance(setting, str) else setting)
        assert found.why == "as configured"
    assert choose("off", HOURS, GIB).series_bytes == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", "auto"), ("full", "full"), ("light", "light"), ("off", "off"), (False, "off"), (True, "auto"),
        (["stack", "moves"], ("moves", "stack")), ("profile", ("profile",)), (list(EXPERTS), EXPERTS),
    ],
)  # fmt: skip
def test_the_setting(value: Any, expected: str | tuple[str, ...]) -> None:
    assert experts_setting(value) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("lite", "did you mean light"),
        ("ful", "did you mean full"),
        (["profil"], "did you mean profile"),
        (["persistence"], "is not an expert.*there are season-ago, profile, moves"),
        (["moves", "moves"], "named twice"),
        (3, "write auto, full, light, off"),
        ({"a": 1}, "write auto, full, light, off"),
        ([["moves"]], "is not an expert"),
    ],
)
def test_what_is_no_setting_is_refused_with_what_to_write(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        experts_setting(value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1GiB", GIB), ("1 gib", GIB), ("512MB", 512_000_000), ("1.5KiB", 1536), ("0", 0), ("77", 77), ("8B", 8)],
)
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count
    assert parse_bytes(exact_bytes(count)) == count


@pytest.mark.parametrize("text", ["", "GiB", "1 GX", "-1", "1e9", "0.3B", "99999999999TiB", "１"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match=r"memory|whole number"):
        parse_bytes(text)


def test_amounts_as_they_are_shown() -> None:
    assert [format_bytes(n) for n in (0, 999, 1024, 1536, 37_008_000, GIB, 1023 * GIB)] == [
        "0B", "999B", "1KiB", "1.5KiB", "35.3MiB", "1GiB", "1023GiB",
    ]  # fmt: skip
