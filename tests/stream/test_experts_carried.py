"""Another season, other experts: what follows them begins anew, and everything else of a state goes on, bit for bit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from making import feed
from test_carrying import moved, serving, stream, ticks, weights

from streamrnn.meaning import Change, Meaning, decode_meaning, meaning_of
from streamrnn.model.weights import fitted
from streamrnn.season import season_of, season_setting
from streamrnn.spec import EXPERTS, StreamSpec
from streamrnn.stream.forecasting import inputs_of

DAY, WEEK, ALL = ("1d",), ("1d", "7d"), "season-ago, profile, moves, deviations, stack"
# Of a state, what neither seasons nor experts have to do with; `sigma` and `level_theta` are the calibration.
REST = (
    "last", "level", "level_spread", "move_scale", "fresh", "run", "still", "seen", "since", "anchor", "unit", "born",
    "seen_range", "sigma", "level_theta", "covariance", "one_step", "move_size", "energy", "slope", "state", "generation",
    "steps", "last_step", "last_us",
)  # fmt: skip


def hours(season: tuple[str, ...] = (), experts: tuple[str, ...] = EXPERTS, timezone: str = "UTC") -> StreamSpec:
    seasons = season_of(season_setting(list(season) if season else "off"), 3_600_000, None, 4)
    return stream(step_ms=3_600_000, idle_after_ms=3_600_000_000, seasons=seasons, experts=experts, timezone=timezone)


def change(before: StreamSpec, now: StreamSpec) -> Change:
    return Change(meaning_of(before), meaning_of(now))


def words(before: StreamSpec, now: StreamSpec) -> str:
    return "; ".join(change(before, now).words)


def test_a_season_and_experts_are_part_of_what_a_state_means() -> None:
    meaning = meaning_of(hours(WEEK, ("profile",), "Europe/London"))
    assert meaning.season == ("1d of Europe/London", "7d of Europe/London")
    assert meaning.experts == ("profile",)
    assert decode_meaning(meaning.encode()) == meaning
    assert meaning.id != meaning_of(hours(DAY, ("profile",), "Europe/London")).id
    assert meaning.id != meaning_of(hours(WEEK, (), "Europe/London")).id
    # Dates that are added to the list of holidays every year change nothing of it.
    before, after = (
        season_of(season_setting({"key": "day_type", "holidays": days}), 3_600_000, None, 4)
        for days in (["2026-12-25"], ["2026-12-25", "2027-12-25"])
    )
    assert before != after
    assert meaning_of(stream(step_ms=3_600_000, seasons=before)) == meaning_of(stream(step_ms=3_600_000, seasons=after))


@pytest.mark.parametrize(
    ("before", "now", "seasons", "experts", "said"),
    [
        (hours(DAY), hours(DAY), (0,), (0, 1, 2, 3, 4), ""),
        (
            hours(DAY), hours(WEEK), (0, -1), (0, 1, 2, 3, 4),
            "`season` was 1d, and is 1d, 7d: 7d starts cold, the rest is carried",
        ),
        (hours(WEEK), hours(DAY), (0,), (0, 1, 2, 3, 4), "`season` was 1d, 7d, and is 1d: the rest is carried"),
        (
            hours(DAY), hours(("8h",)), (-1,), (-1, -1, 2, -1, -1),
            "`season` was 1d, and is 8h: season-ago, profile, deviations, stack start cold, the rest is carried",
        ),
        (
            hours(DAY), hours(("8h", "1d")), (-1, -1), (-1, -1, 2, -1, -1),
            "`season` was 1d, and is 8h, 1d: season-ago, profile, deviations, stack, 1d start cold, the rest is carried",
        ),
        (
            hours(DAY), hours(DAY, timezone="Europe/London"), (-1,), (-1, -1, 2, -1, -1),
            "`season` was 1d, and is 1d of Europe/London: season-ago, profile, deviations, stack start cold, the rest is carried",
        ),
        (
            hours(DAY), hours(DAY, ("season-ago", "profile")), (0,), (0, 1),
            f"`experts` was {ALL}, and is season-ago, profile: the rest is carried",
        ),
        (
            hours(DAY, ("season-ago", "profile")), hours(DAY), (0,), (0, 1, -1, -1, -1),
            f"`experts` was season-ago, profile, and is {ALL}: moves, deviations, stack start cold, the rest is carried",
        ),
        (
            hours(DAY), hours(DAY, ("moves", "stack")), (0,), (2, -1),
            f"`experts` was {ALL}, and is moves, stack: stack starts cold, the rest is carried",
        ),
        (
            hours((), ("moves",)), hours(DAY), (-1,), (-1, -1, 0, -1, -1),
            f"`season` was none, and is 1d: the rest is carried; `experts` was moves, and is {ALL}: "
            "season-ago, profile, deviations, stack start cold, the rest is carried",
        ),
        (hours(DAY), hours(DAY, ()), (0,), (), f"`experts` was {ALL}, and is none: the rest is carried"),
    ],
)  # fmt: skip
def test_what_begins_anew_is_said_in_the_words_of_the_configuration(
    before: StreamSpec, now: StreamSpec, seasons: tuple[int, ...], experts: tuple[int, ...], said: str
) -> None:
    found = change(before, now)
    assert (found.seasons, found.experts) == (seasons, experts)
    assert "; ".join(found.words) == said
    assert not found.cold and found.same_inputs


SPECS = [hours(), hours(DAY), hours(WEEK), hours(("8h",)), hours(DAY, ("season-ago", "profile")), hours(DAY, ())]


@pytest.mark.parametrize("now", range(len(SPECS)))
@pytest.mark.parametrize("before", range(len(SPECS)))
def test_the_rest_of_a_state_goes_on_bit_for_bit(before: int, now: int) -> None:
    """Scales, the network's state, what intervals have learnt."""
    source, target = (serving(spec, weights(spec)) for spec in (SPECS[before], SPECS[now]))
    begun = ticks(SPECS[before], 0, 60)
    begun.ts_us[:] = (begun.ts_us - begun.ts_us[0]) * 3600 + begun.ts_us[0] // 3_600_000_000 * 3_600_000_000
    begun.record_ts_ms[:] = begun.ts_us // 1000
    feed(source, begun)
    found = moved(source, target, len(begun))
    assert (found.rows, found.left, found.refused) == (2, {}, {})
    assert [plan.cold for plan in found.plans] == [""] * len(found.plans)
    assert [plan.news for plan in found.plans] == [True] * (before != now)
    for series, row in target.table.series(0).items():
        there = source.table.series(0)[series]
        for name in REST:
            mine, theirs = target.table.columns[name][row], source.table.columns[name][there]
            assert np.array_equal(mine, theirs, equal_nan=True), name
        assert (target.table.columns["steps"][row]) == 60


def test_the_network_serves_on_and_nothing_is_said_of_it() -> None:
    for now in SPECS:
        found = fitted(weights(hours(DAY)), meaning_of(now), inputs_of(now))
        assert all("numbers" in word for word in found.words) and (now != hours(DAY) or not found.words)
    longer = stream(step_ms=3_600_000, horizon=6, seasons=hours(WEEK).seasons)
    assert "season" not in "; ".join(fitted(weights(hours(DAY)), meaning_of(longer), inputs_of(longer)).words)


def test_states_of_a_version_that_kept_neither_are_read() -> None:
    """Their description names no season and no experts: both begin, and the rest is carried."""
    own = meaning_of(hours(WEEK))
    document: dict[str, Any] = json.loads(own.encode())
    del document["season"], document["experts"]
    older = decode_meaning(json.dumps(document).encode())
    assert (older.season, older.experts) == ((), ())
    found = Change(older, own)
    assert not found.cold and found.same_inputs
    assert found.seasons == (-1, -1) and found.experts == (-1,) * 5
    assert "`experts` was none" in "; ".join(found.words)
    assert Change(older, meaning_of(hours((), ()))).none


def test_a_version_that_knows_neither_reads_these() -> None:
    """As it did before there were seasons: fields that it does not know are left."""
    text = msgspec.json.encode({**json.loads(meaning_of(hours(WEEK)).encode()), "further": ["x"]})
    assert isinstance(decode_meaning(text), Meaning)
