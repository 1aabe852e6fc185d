"""A trainer learns in any fleet: with more series than it may keep it keeps a steady sample of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import START, batch, bends, shaped, spec

from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.records import F32, TickBatch
from streamrnn.stream.learner import Learner
from streamrnn.stream.sample import Name, SeriesSample

DEFAULT = LearnSpec()


def names(count: int, partitions: int = 1) -> list[Name]:
    return [(i % partitions, f"pump-{i}") for i in range(count)]


def taken(sample: SeriesSample, offered: Iterable[Name], at_once: int) -> set[Name]:
    waiting = list(offered)
    for begin in range(0, len(waiting), at_once):
        sample.offer(set(waiting[begin : begin + at_once]) - sample.held.keys())
    return set(sample.held)


# ── the sample ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 60), st.integers(0, 200), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_it_is_the_same_whatever_the_order_and_however_it_is_cut(size: int, count: int, cut: int, seed: int) -> None:
    offered = names(count, partitions=3)
    shuffled = [offered[i] for i in np.random.default_rng(seed).permutation(count)]
    mine, other = SeriesSample(size), SeriesSample(size)
    assert taken(mine, offered, 1) == taken(other, [*shuffled, *shuffled], cut)
    assert len(mine) == min(size, count)


@given(st.integers(1, 30), st.lists(st.lists(st.integers(0, 99), max_size=20), max_size=12))
def test_who_leaves_was_a_member_and_who_stays_is_one(size: int, calls: list[list[int]]) -> None:
    sample, members = SeriesSample(size), set[Name]()
    for call in calls:
        new = {(0, f"s{i}") for i in call} - members
        left = sample.offer(new)
        assert len(left) == len(set(left)) and set(left) <= members
        members = set(sample.held)
        assert not members & set(left) and len(members) <= size
        for name in list(members)[:1]:
            sample.forget(name)
            members.remove(name)


def test_a_series_in_its_turn_pushes_nobody_out() -> None:
    """Twenty rounds of 1,000 series, of which 100 may be kept: after the first round nothing moves any more."""
    sample = SeriesSample(100)
    members = taken(sample, names(1000), 1)
    for _ in range(20):
        for name in names(1000):
            if name not in sample.held:
                assert sample.offer([name]) == []
    assert set(sample.held) == members


@pytest.mark.parametrize("count", [50, 2000, 3000, 100_000])
def test_it_knows_how_many_series_there_are(count: int) -> None:
    sample = SeriesSample(2000)
    taken(sample, names(count), 5000)
    assert sample.population == pytest.approx(count, rel=0 if count <= 2000 else 0.1)


def test_places_that_are_given_up_again_and_again_cost_no_memory() -> None:
    sample = SeriesSample(10)
    for i in range(2000):
        sample.offer([(0, f"s{i}")])
        sample.forget(next(iter(sample.held)))
    assert len(sample._largest) <= 21


# ── the learner ──────────────────────────────────────────────────────────────────────────────────────────────────────


def learner(series_max: int, window: int = 400, channels: tuple[str, ...] = ("a",)) -> Learner:
    """Small in everything but how many series it may keep."""
    stream = spec(channels=channels, horizon=2, series_max=16)
    train = TrainSpec(chunk_len=16, burn_in=8, length=16, batch_series=8, lr=1e-2, weight_decay=1e-2)
    learn = LearnSpec(train=train, window=window, holdout=24, series_max=series_max, updates=60, min_steps=400)
    return Learner(stream, shaped(stream), learn)


MAPS = bends(400, 100)


def turn(step: int, series: list[int]) -> TickBatch:
    """One tick of every series, one after the other: a cyclic scan."""
    which = np.array(series)
    x = MAPS[step, which % 100] * (1.0 + which // 100)
    return batch([f"pump-{i}" for i in series], np.full(len(which), START + 1000 * step), x[:, None])


@pytest.mark.parametrize("count", [10, 60, 2000])
def test_ten_and_more_series_than_it_may_keep_come_to_an_accepted_network(count: int) -> None:
    """The fleets of 10, 3,000 and 100,000 series at the default of 2,000, to the scale of one fiftieth."""
    made, accepted = learner(series_max=40), False
    for step in range(400):
        made.feed(turn(step, list(range(count))))
        if step % 60 == 59 and made.ready():
            accepted = made.round().network is not None
            if accepted:
                break
    assert accepted, made.lacks()
    assert len(made.front.table) == len(made.sample) == min(count, 40)


@pytest.mark.parametrize(("count", "held"), [(10, 10), (3000, 2000), (100_000, 2000)])
def test_every_series_that_is_kept_keeps_its_whole_history(count: int, held: int) -> None:
    """At the defaults' 2,000 places; of 100,000 series only four steps each, since it is the places that count."""
    made, steps = learner(DEFAULT.series_max, window=128), 4 if count > 10_000 else 60
    for step in range(steps):
        for begin in range(0, count, 5000):
            made.feed(turn(step, list(range(begin, min(begin + 5000, count)))))
    assert len(made.sample) == held
    longest = made.buffer.count[made.buffer.count > 0]
    assert len(longest) == held and (longest >= steps - 1).all()
    assert made.sample.population == pytest.approx(count, rel=0.1)


def test_a_trainer_waits_for_half_of_the_series_and_says_how_far_they_are() -> None:
    made = learner(series_max=40)
    made.feed(turn(0, [0, 1]))
    assert (lack := made.lacks()) is not None
    assert (lack.have, lack.need, lack.each) == (2, 400, False)
    for step in range(1, 40):
        made.feed(turn(step, list(range(10))))
    for step in range(200):
        made.feed(turn(step, [10]))
    lack = made.lacks()
    assert lack is not None and lack.each
    assert (lack.have, lack.need) == (40, 24 + 1 + 16)
    for step in range(40, 50):
        made.feed(turn(step, list(range(10))))
    assert made.lacks() is None and made.ready()


def test_short_lived_series_do_not_keep_the_others_from_being_learnt() -> None:
    """Ten machines and, all the time, others that send twenty ticks and are never heard of again."""
    made = learner(series_max=200)
    for step in range(300):
        passing = [1000 + step // 20 * 10 + i for i in range(10)]
        made.feed(turn(step, [*range(10), *passing]))
    assert made.ready()
    assert any(made.round().network is not None for _ in range(6))


def test_members_that_are_silent_for_good_make_room_for_others() -> None:
    made = learner(series_max=20, window=100)
    for step in range(30):
        made.feed(turn(step, list(range(40))))
    before = set(made.sample.held)
    for step in range(30, 200):
        made.feed(turn(step, list(range(100, 140))))
    assert len(made.sample) == len(made.front.table) == 20
    assert not set(made.sample.held) & before
    assert (made.buffer.count > 0).sum() == 20


def test_a_sample_of_series_is_learnt_like_a_fleet_of_just_these() -> None:
    """What is kept of a series does not depend on those that are not kept."""
    many, few = learner(series_max=12), learner(series_max=12)
    for step in range(80):
        many.feed(turn(step, list(range(300))))
    kept = sorted(int(series.removeprefix("pump-")) for _, series in many.sample.held)
    for step in range(80):
        few.feed(turn(step, kept))
    for series in kept:
        assert np.array_equal(*(shown(made, f"pump-{series}") for made in (many, few)))


def shown(made: Learner, series: str) -> F32:
    """What the network would be shown of a series' last forty steps."""
    row = made.front.table.find(0, series)
    assert row is not None
    end, none = made.buffer.count[[row]], np.zeros(1, dtype=np.int64)
    return made.buffer._sequences(np.array([row]), end, 40, none, end).inputs.numpy()
