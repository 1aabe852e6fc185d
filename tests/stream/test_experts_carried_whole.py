"""Any change of channels, horizon, levels, season and experts at once: each column goes on by its names, what begins anew is
not believed before it has shown something."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from making import feed
from test_carrying import NAMES, SERIES, moved, serving, stream, ticks, weights

from streamrnn.kernels.columns import DEVIATIONS, MOVES, PERSISTENCE, PROFILE, SEASON_AGO, rungs_of
from streamrnn.kernels.experts import deviations, mixing, moves
from streamrnn.meaning import Change, meaning_of
from streamrnn.records import I64
from streamrnn.season import Season
from streamrnn.spec import EXPERTS, StreamSpec
from streamrnn.stream.carrying import Carrying
from streamrnn.stream.engine import Engine
from streamrnn.stream.forecasting import ring_of, used_experts

SEASONS = [
    (),
    (Season("8s", 8, 1.0, 8),),
    (Season("8s", 8, 1.0, 8), Season("20s", 20, 1.0, 20)),
    (Season("6s", 6, 1.0, 6),),
    (Season("20s", 12, 0.6, 20),),
]
specs = st.builds(
    stream,
    channels=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple),
    horizon=st.sampled_from([1, 2, 5, 9, 20, 31]),
    quantiles=st.sampled_from([(0.05, 0.5, 0.95), (0.1, 0.5, 0.95), (0.05, 0.25, 0.5, 0.75, 0.95), (0.5,)]),
    seasons=st.sampled_from(SEASONS),
    experts=st.lists(st.sampled_from(EXPERTS), unique=True).map(lambda names: tuple(n for n in EXPERTS if n in names)),
)
at = st.sampled_from([1, 7, 30, 90])


def triangle(packed: Any, size: int) -> Any:
    """[feature, feature] of a packed upper triangle."""
    whole = np.zeros((size, size))
    whole[np.triu_indices(size)] = packed
    return whole + np.triu(whole, 1).T


@settings(deadline=None, max_examples=60)
@given(specs, specs, at, st.booleans())
def test_what_goes_on_is_found_under_its_names(before: StreamSpec, now: StreamSpec, steps: int, served: bool) -> None:
    source, target = serving(before, weights(before) if served else None), Engine(now)
    feed(source, ticks(before, 0, steps))
    found = moved(source, target, 2 * steps)
    both = [c for c in now.channels if c in before.channels]
    if not both:
        return
    assert (found.rows, found.refused, found.left) == (2, {}, {})
    carry = Carrying(Change(meaning_of(before), meaning_of(now)), now)
    used, was_used = used_experts(now), used_experts(before)
    goes_on = [e for e in used if e in was_used and e not in carry.begun]
    assert {PERSISTENCE} <= set(goes_on)
    rungs = [
        (r, rungs_of(before.horizon).index(h))
        for r, h in enumerate(rungs_of(now.horizon))
        if h in rungs_of(before.horizon)
    ]
    for name in SERIES:
        mine = {k: v[target.table.find(0, name)] for k, v in target.table.columns.items()}
        theirs = {k: v[source.table.find(0, name)] for k, v in source.table.columns.items()}
        for channel in both:
            c, k = now.channels.index(channel), before.channels.index(channel)
            for r, was in rungs:
                for e in used:
                    lost = mine["losses"][c, r, used.index(e)]
                    if e in goes_on:
                        assert lost == theirs["losses"][k, was, was_used.index(e)]
                    else:
                        persistence = mine["losses"][c, r, used.index(PERSISTENCE)]
                        assert lost == np.float32(mixing.ASLEEP * persistence)
                total = mine["weight"][c, r, :-1].sum()
                assert abs(total - 1.0) < 1e-5 or (total == 0.0 and theirs["weight"][k, was].sum() == 0.0)
            for expert, of, prefix in ((MOVES, moves, "moves"), (DEVIATIONS, deviations, "deviations")):
                if expert not in used:
                    continue
                names = [of.feature_names(channel, spec.channels, True) for spec in (before, now)]
                grams = [mine[f"{prefix}_gram"][c], theirs[f"{prefix}_gram"][k]]
                if expert not in goes_on:
                    assert not grams[0].any() and not mine[f"{prefix}_weights"][c].any()
                    continue
                ours, gram = triangle(grams[0], len(names[1])), triangle(grams[1], len(names[0]))
                for i, one in enumerate(names[1]):
                    was_one = names[0].index(one) if one in names[0] else -1
                    for j, other in enumerate(names[1]):
                        known = was_one >= 0 and other in names[0]
                        assert ours[i, j] == (gram[was_one, names[0].index(other)] if known else 0.0), (one, other)
                    for r, was in rungs if was_one >= 0 else []:
                        assert mine[f"{prefix}_right"][c, r, i] == theirs[f"{prefix}_right"][k, was, was_one]
                        assert mine[f"{prefix}_weights"][c, i, r] == theirs[f"{prefix}_weights"][k, was_one, was]
            if PROFILE in used:
                same = sum(s.bins for s, place in zip(now.seasons, carry.change.seasons, strict=True) if place >= 0)
                same = same if PROFILE in goes_on else 0
                for column in ("profile", "visits"):
                    assert np.array_equal(mine[column][c, :same], theirs[column][k, :same])
                    assert not mine[column][c, same:].any()
        # Nothing is learnt from frames of which nothing is known any more.
        oldest = max(int(theirs["unbroken"]), steps - ring_of(before) if ring_of(now) > ring_of(before) else 0)
        assert int(mine["unbroken"]) >= oldest


@settings(deadline=None, max_examples=40)
@given(specs, specs, at)
def test_what_follows_is_a_forecast_of_its_channel(before: StreamSpec, now: StreamSpec, steps: int) -> None:
    blob = weights(before)
    source, target = serving(before, blob), serving(now, blob if set(before.channels) & set(now.channels) else None)
    feed(source, ticks(before, 0, steps))
    moved(source, target, 2 * steps)
    outputs = target.process(ticks(now, steps, steps + 60))
    for c, channel in enumerate(now.channels):
        mean, quantiles = outputs.forecasts.mean[:, c], outputs.forecasts.quantiles[:, c]
        known = ~np.isnan(mean)
        middle = {"a": 5.0, "b": 100.0, "c": -40.0, "d": 1e6}[channel]
        assert (np.abs(mean[known] - middle) < max(40.0, 0.4 * abs(middle))).all()
        assert (
            np.diff(quantiles, axis=1)[np.broadcast_to(known[:, None], np.diff(quantiles, axis=1).shape)] >= 0
        ).all()


def test_an_expert_that_begins_is_believed_when_it_has_shown_something() -> None:
    """A season that everything follows: with the profile it is forecast soon after, and no worse until then."""
    before = stream(channels=("a",), experts=("moves",), seasons=SEASONS[3], quantiles=(0.05, 0.5, 0.95))
    now = dataclasses.replace(before, experts=("season-ago", "profile"))
    source, target = Engine(before), Engine(now)
    feed(source, sawtooth(before, 0, 400))
    moved(source, target, 800)
    first = target.process(sawtooth(now, 400, 412)).scores
    feed(target, sawtooth(now, 412, 1600))
    later = target.process(sawtooth(now, 1600, 1700)).scores
    assert first.abs_error.sum() <= 1.01 * first.abs_persistence.sum()
    assert later.abs_error.sum() < 0.2 * later.abs_persistence.sum()


def sawtooth(spec: StreamSpec, begin: int, end: int) -> Any:
    made = ticks(spec, begin, end, missing=0.0)
    made.values[:, 0] = 5.0 + np.array([0.0, 3.0, -2.0, 4.0, -1.0, 1.0])[(made.ts_us // 1_000_000) % 6]
    return made


def test_means_of_a_horizon_ago_are_those_of_the_horizon_of_now() -> None:
    """Shorter: run on, to the numbers that an engine of that horizon has. Longer: nothing that came after is in them."""
    long, short = (stream(channels=("a",), horizon=h, experts=("moves",)) for h in (20, 5))
    source, target, whole = Engine(long), Engine(short), Engine(short)
    feed(source, ticks(long, 0, 90, missing=0.0))
    feed(whole, ticks(short, 0, 90, missing=0.0))
    moved(source, target, 180)
    mine, wanted = target.table.columns["means"][:2], whole.table.columns["means"][:2]
    assert np.allclose(mine, wanted, atol=1e-3) and np.array_equal(mine[:, :, 0], wanted[:, :, 0])
    back = Engine(long)
    moved(target, back, 180)
    rows: I64 = np.arange(2)
    x, means = back.table.columns["x"][:2, 0], back.table.columns["means"][:2, 0]
    oldest = x[rows, (90 - ring_of(short)) % ring_of(long)]
    assert np.array_equal(means[:, 1], np.repeat(oldest[:, None], means.shape[-1], axis=1))
    assert (back.table.columns["unbroken"][:2] == 90 - ring_of(short)).all()


def test_season_ago_is_not_taken_from_frames_that_were_never_kept() -> None:
    before = stream(channels=("a",), horizon=2, experts=(), seasons=(Season("20s", 20, 1.0, 20),))
    now = dataclasses.replace(before, experts=("season-ago",))
    source, target, fresh = Engine(before), Engine(now), Engine(before)
    for engine in (source, fresh):
        feed(engine, ticks(before, 0, 60, missing=0.0))
    moved(source, target, 120)
    assert SEASON_AGO in used_experts(now)
    # As long as there is none it says "no change", and so does the mixture.
    ours, theirs = (
        engine.process(ticks(before, 60, 60 + 14, missing=0.0)).forecasts.mean for engine in (target, fresh)
    )
    assert np.array_equal(ours, theirs)
