"""A state of one meaning as one of another: what means the same is kept bit for bit, and nothing comes from elsewhere."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from making import START, batch, feed, laid, shaped

from streamrnn.kernels.columns import ladder_of, rungs_of
from streamrnn.meaning import Change, Meaning, decode_meaning, meaning_of
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, fitted, pack
from streamrnn.records import TickBatch
from streamrnn.season import Season
from streamrnn.spec import StreamSpec
from streamrnn.stream.carrying import AXES, GENERATION, RECURRENT
from streamrnn.stream.engine import Engine
from streamrnn.stream.forecasting import ring_of
from streamrnn.stream.snapshot import DIGEST_BYTES, HEADER, Restored, Snapshots

NAMES = ("a", "b", "c", "d")
LEVELS = {"a": 5.0, "b": 100.0, "c": -40.0, "d": 1e6}
SERIES = ("x", "y")
OWN = ("last", "level", "level_spread", "move_scale", "fresh", "run", "still", "seen", "since", "anchor", "unit", "born",
       "seen_range")  # fmt: skip
AT_RUNGS = ("move_size", "energy", "slope", "stack_gram", "stack_right", "stack_weight", "sigma")


def stream(**changes: Any) -> StreamSpec:
    given: dict[str, Any] = {
        "channels": ("a", "b"), "step_ms": 1000, "horizon": 4, "quantiles": (0.05, 0.5, 0.95),
        "warm_up": 4, "series_max": 8, "idle_after_ms": 600_000,
    }  # fmt: skip
    return StreamSpec(**{**given, **changes})


def ticks(spec: StreamSpec, begin: int, end: int, missing: float = 0.1, silent: tuple[str, ...] = ()) -> TickBatch:
    """Of each series and step one; channels are what they are called, whatever stands beside them."""
    rows = [(name, step) for step in range(begin, end) for name in SERIES]
    values = np.full((len(rows), len(spec.channels)), np.nan)
    for i, (name, step) in enumerate(rows):
        for c, channel in enumerate(spec.channels):
            rng = np.random.default_rng([SERIES.index(name), NAMES.index(channel), step])
            if channel not in silent and rng.random() >= missing:
                values[i, c] = LEVELS[channel] + np.sin(step / 3) + rng.standard_normal()
    made = batch([name for name, _ in rows], [START + 1000 * step for _, step in rows], values)
    return dataclasses.replace(made, offset=np.arange(begin * len(SERIES), end * len(SERIES), dtype=np.int64))


def weights(spec: StreamSpec, seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    network = Network(shaped(spec))
    torch.nn.init.normal_(network.out.weight, 0.0, 0.2)
    return pack(network, WeightsMeta(), meaning_of(spec))


def serving(spec: StreamSpec, blob: bytes | None = None) -> Engine:
    engine = Engine(spec)
    if blob is not None:
        engine.load(fitted(blob, meaning_of(spec), engine.inputs).network, "w")
    return engine


def moved(source: Engine, target: Engine, position: int) -> Restored:
    """All states of one engine into another of another configuration, as the changelog brings them."""
    theirs, mine, found = Snapshots(source), Snapshots(target), Restored()
    mine.learn_meaning(theirs.meaning.id, theirs.meaning.encode())
    mine.learn(theirs.layout()[1])
    rows = np.array(sorted(source.table.series(0).values()), dtype=np.int64)
    mine.restore(0, laid(*theirs.pack(0, rows, position, 1)), found)
    target.front.restore_clock(0, source.front.clock(0))
    return found


def test_every_column_with_axes_has_names_for_them() -> None:
    """Whoever adds one says what lies along it, or its channels would be carried by place."""
    table = serving(stream(calendar_ms=(60_000,)), weights(stream(calendar_ms=(60_000,)))).table
    odd = [
        name
        for name, field in table.fields.items()
        if field.shape and not name.startswith("spare") and name not in AXES
    ]
    assert odd == [RECURRENT]
    for name, axes in AXES.items():
        assert len(axes) == len(table.fields[name].shape), name


specs = st.builds(
    stream,
    channels=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple),
    horizon=st.integers(1, 9),
    quantiles=st.lists(
        st.sampled_from((0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.95)), min_size=1, max_size=5, unique=True
    ).map(lambda levels: tuple(sorted(levels))),
    calendar_ms=st.sampled_from([(), (60_000,), (3_600_000, 60_000)]),
)


@settings(deadline=None, max_examples=60)
@given(specs, specs, st.integers(1, 25), st.booleans())
def test_what_both_have_is_kept_bit_for_bit_and_the_rest_is_fresh(
    before: StreamSpec, now: StreamSpec, at: int, served: bool
) -> None:
    source = serving(before, weights(before) if served else None)
    target, alone = Engine(now), {c: Engine(dataclasses.replace(before, channels=(c,))) for c in before.channels}
    feed(source, ticks(before, 0, at))
    for engine in alone.values():
        feed(engine, ticks(engine.spec, 0, at))
    found = moved(source, target, 2 * at)
    both = [c for c in now.channels if c in before.channels]
    if not both:
        assert (found.rows, set(found.left)) == (0, set(SERIES))
        return
    assert (found.rows, found.refused, found.left) == (2, {}, {})
    levels = [(now.quantiles.index(q), before.quantiles.index(q)) for q in now.quantiles if q in before.quantiles]
    rungs, were = rungs_of(now.horizon), rungs_of(before.horizon)
    ladder, was_ladder = (ladder_of(spec.horizon, [], 1.0, 1.0) for spec in (now, before))
    same = [(r, were.index(h)) for r, h in enumerate(rungs) if h in were]
    beyond = [r for r, h in enumerate(rungs) if h > before.horizon]
    for name in SERIES:
        here, there = target.table.find(0, name), source.table.find(0, name)
        mine, theirs = target.table.columns, source.table.columns
        for c, channel in enumerate(now.channels):
            if channel not in both:
                assert mine["seen"][here, c] == 0 and np.isnan(mine["anchor"][here, c]) and mine["born"][here, c] == -1
                for column in ("pend_mean", "sigma", "losses", "x", "known", "moves_gram"):
                    fresh = target.table.fields[column].fill
                    assert np.array_equal(
                        mine[column][here, c], np.full_like(mine[column][here, c], fresh), equal_nan=True
                    )
                continue
            k, apart = before.channels.index(channel), alone[channel].table
            for column in OWN:
                wanted = apart.columns[column][apart.find(0, name), 0]
                assert np.array_equal(mine[column][here, c], wanted, equal_nan=True), column
            for r, was in same:
                for column in AT_RUNGS:
                    assert np.array_equal(mine[column][here, c, r], theirs[column][there, k, was]), column
                kept, waited = ((ladder.begin[r], ladder.cells[r]) for ladder, r in ((ladder, r), (was_ladder, was)))
                for column in ("pend_mean", "pend_raw", "pend_moves"):
                    ours = mine[column][here, c, kept[0] : sum(kept)]
                    assert np.array_equal(ours, theirs[column][there, k, waited[0] : sum(waited)], equal_nan=True)
                for q, was_q in levels:
                    assert mine["level_theta"][here, c, r, q] == theirs["level_theta"][there, k, was, was_q]
            assert not mine["level_theta"][here, c, beyond].any() and not mine["sigma"][here, c, beyond].any()
            waiting = [
                slice(ladder.begin[r], ladder.begin[r] + ladder.cells[r]) for r, h in enumerate(rungs) if h not in were
            ]
            assert all(np.isnan(mine["pend_mean"][here, c, cells]).all() for cells in waiting)
            for back in range(1, 1 + min(at, ring_of(before), ring_of(now))):
                ours, was = (at - back) % ring_of(now), (at - back) % ring_of(before)
                assert mine["x"][here, c, ours] == theirs["x"][there, k, was]
                assert _bit(mine["known"][here, c], ours) == _bit(theirs["known"][there, k], was)


def _bit(known: Any, place: int) -> int:
    return int(known[place // 8] >> (place % 8) & 1)


@settings(deadline=None, max_examples=30)
@given(specs, specs, st.integers(1, 25), st.integers(1, 15))
def test_what_follows_is_finite_ordered_and_of_its_own_channel(
    before: StreamSpec, now: StreamSpec, at: int, further: int
) -> None:
    blob = weights(before)
    source = serving(before, blob)
    feed(source, ticks(before, 0, at))
    if not set(before.channels) & set(now.channels):
        return
    target = serving(now, blob)
    moved(source, target, 2 * at)
    outputs = target.process(ticks(now, at, at + further))
    assert outputs.rejected == [] and len(outputs.forecasts) == 2 * further
    quantiles = outputs.forecasts.quantiles  # [row, channel, level, horizon]
    known = ~np.isnan(outputs.forecasts.mean)
    assert np.isfinite(quantiles[np.broadcast_to(known[:, :, None], quantiles.shape)]).all()
    assert (np.diff(quantiles, axis=2)[np.broadcast_to(known[:, :, None], np.diff(quantiles, axis=2).shape)] >= 0).all()
    for c, channel in enumerate(now.channels):
        mean = outputs.forecasts.mean[:, c]
        assert (np.abs(mean[~np.isnan(mean)] - LEVELS[channel]) < max(40.0, 0.4 * abs(LEVELS[channel]))).all()


def test_a_channels_forecast_is_what_it_would_have_been_without_the_change() -> None:
    """Bit for bit, with no network and no linear experts between: the channels beside it, the horizon and the levels change
    nothing of it. The linear ones look at the other channels."""
    season = {"seasons": (Season("8s", 8, 1.0, 8),), "experts": ("season-ago", "profile")}
    before, now = stream(**season), stream(channels=("c", "b", "a"), horizon=9, quantiles=(0.05, 0.25, 0.95), **season)
    source, target, whole = serving(before), serving(now), serving(stream(quantiles=(0.05, 0.95), **season))
    feed(source, ticks(before, 0, 60, missing=0.0))
    feed(whole, ticks(whole.spec, 0, 60, missing=0.0))
    moved(source, target, 120)
    got = target.process(ticks(now, 60, 90, missing=0.0)).forecasts
    wanted = whole.process(ticks(before, 60, 90, missing=0.0)).forecasts
    for channel in ("a", "b"):
        c, k = now.channels.index(channel), before.channels.index(channel)
        assert np.array_equal(got.mean[:, c, :4], wanted.mean[:, k])
        assert np.array_equal(got.quantiles[:, c][:, [0, 2]][..., :4], wanted.quantiles[:, k])


@pytest.mark.parametrize("change", [{"horizon": 7}, {"horizon": 2}, {"quantiles": (0.1, 0.5, 0.9)}], ids=str)
def test_other_horizons_and_levels_leave_the_recurrent_state_as_it_is(change: dict[str, Any]) -> None:
    blob = weights(stream())
    source, target = serving(stream(), blob), serving(stream(**change), blob)
    feed(source, ticks(stream(), 0, 40))
    moved(source, target, 80)
    for column in (RECURRENT, GENERATION):
        here, there = (engine.table.columns[column][:2].tobytes() for engine in (target, source))
        assert here == there
    feed(source, ticks(stream(), 40, 60))
    feed(target, ticks(stream(), 40, 60))
    if "horizon" not in change:  # of another one it is shown other numbers from then on
        assert target.table.columns[RECURRENT][:2].tobytes() == source.table.columns[RECURRENT][:2].tobytes()


@pytest.mark.parametrize("channels", [("a", "b", "c"), ("b", "a"), ("c", "a", "b", "d")], ids=str)
def test_with_other_channels_the_recurrent_state_begins_at_zero(channels: tuple[str, ...]) -> None:
    now, blob = stream(channels=channels), weights(stream())
    source, target, again = serving(stream(), blob), serving(now, blob), serving(now, blob)
    feed(source, ticks(stream(), 0, 40))
    for engine in (target, again):
        moved(source, engine, 80)
    again.table.columns[RECURRENT][:2] = 7.0  # whatever stood there
    for engine in (target, again):
        feed(engine, ticks(now, 40, 43, silent=("c", "d")))
    assert np.array_equal(target.table.columns[RECURRENT][:2], again.table.columns[RECURRENT][:2])
    assert target.table.columns[RECURRENT][:2].any()


def test_there_and_back_again_keeps_what_never_went() -> None:
    alone: dict[str, Any] = {"experts": ()}  # the linear ones look at the other channels, as fills do
    first, other = stream(**alone), stream(channels=("b",), horizon=2, quantiles=(0.5,), **alone)
    source, between, back, whole = serving(first), serving(other), serving(first), serving(first)
    feed(source, ticks(first, 0, 30, missing=0.0))
    moved(source, between, 60)
    feed(between, ticks(other, 30, 50, missing=0.0))
    moved(between, back, 100)
    feed(whole, ticks(first, 0, 50, missing=0.0))
    for column in OWN:
        assert np.array_equal(back.table.columns[column][:2, 1], whole.table.columns[column][:2, 1], equal_nan=True)
    assert np.array_equal(
        back.table.columns["level_theta"][:2, 1, :2, 1], whole.table.columns["level_theta"][:2, 1, :2, 1]
    )
    assert not back.table.columns["seen"][
        :2, 0
    ].any()  # `a` was not watched for a while: what it was then is not what it is


def test_the_newest_record_decides_even_where_nothing_of_it_can_be_carried() -> None:
    """Not an older one that compaction has happened to leave."""
    first, middle, last = stream(channels=("a",)), stream(channels=("a", "b")), stream(channels=("b",))
    old, new, target = serving(middle), serving(last), serving(first)
    feed(old, ticks(middle, 0, 20))
    feed(new, ticks(last, 0, 40))
    moved(old, target, 40)
    mine, found = Snapshots(target), Restored()
    for source, position in ((old, 40), (new, 80)):
        theirs = Snapshots(source)
        mine.learn_meaning(theirs.meaning.id, theirs.meaning.encode())
        mine.learn(theirs.layout()[1])
        rows = np.array(sorted(source.table.series(0).values()), dtype=np.int64)
        mine.restore(0, laid(*theirs.pack(0, rows, position, 1)), found)
    there = target.table.series(0)
    assert sorted(found.outdated(there, target.table.columns["applied"])) == sorted(SERIES)


def test_ticks_held_back_go_on_under_the_names_of_their_channels() -> None:
    first = stream(within="mean", lateness_ms=3000)
    now = stream(within="mean", lateness_ms=3000, channels=("c", "b", "a"), align="nearest")
    source, target = serving(first), serving(now)
    feed(source, ticks(first, 0, 30, missing=0.0))
    held = source.front.ticks_held
    found = moved(source, target, 60)
    assert held and target.front.ticks_held + found.refused.get("held", 0) == held
    for row in target.table.series(0).values():
        for kept in target.front.held_of(target.front.held_bytes(row)).values():
            for _, _, values in kept:
                assert np.isnan(values[0]) and abs(values[1] - LEVELS["b"]) < 20 and abs(values[2] - LEVELS["a"]) < 20


def test_a_series_that_holds_back_more_than_it_now_may_keeps_its_state_and_its_ticks() -> None:
    first = stream(within="mean", lateness_ms=9000)
    source, target = serving(first), serving(dataclasses.replace(first, pending_max=3))
    feed(source, ticks(first, 0, 30, missing=0.0))
    found = moved(source, target, 60)
    assert (found.rows, found.refused) == (2, {})
    assert target.front.ticks_held == source.front.ticks_held > 2 * 3


def test_a_meaning_says_what_it_says_and_nothing_else() -> None:
    meaning = meaning_of(stream(calendar_ms=(60_000,)), "s", {"a": "values.a", "b": "x.y"})
    assert decode_meaning(meaning.encode()) == meaning
    assert (meaning.step, meaning.calendar, meaning.fields, meaning.ts_unit) == ("1s", ("1m",), ("", "x.y"), "s")
    assert meaning_of(stream()) == meaning_of(stream(gap_max=3, lateness_ms=5, series_max=9, timezone="Europe/Rome"))
    for text in (b"{", b"[]", b'{"channels":["a","a"],"step":"1s","horizon":1,"quantiles":[]}', b"\xff", b"null"):
        with pytest.raises(ValueError, match="cannot be read"):
            decode_meaning(text)


def test_the_words_are_those_of_the_configuration() -> None:
    def words(**changes: Any) -> str:
        return "; ".join(Change(meaning_of(stream()), meaning_of(stream(**changes))).words)

    assert words() == ""
    assert words(horizon=6).startswith(
        "`horizon` was 4, and is 6: the steps of both are carried, the steps after 4 start cold"
    )
    assert "channel c starts cold: it is new" in words(channels=("a", "c"))
    assert "`channels` no longer names b" in words(channels=("a", "c"))
    assert "`channels` has another order" in words(channels=("b", "a"))
    assert "the offsets of 0.1, 0.9 start cold" in words(quantiles=(0.1, 0.5, 0.9))
    assert words(step_ms=5000) == "`step` was 1s, and is 5s: everything starts cold"
    newer = msgspec.structs.replace(meaning_of(stream()), version=99)
    assert "newer version" in Change(newer, meaning_of(stream())).cold
    assert Change(meaning_of(stream()), Meaning(("z",), "1s", 4, ())).cold.startswith("none of its `channels` is left")


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_whatever_a_record_of_another_meaning_claims_it_is_taken_or_left_and_nothing_else(data: st.DataObject) -> None:
    """Layouts with columns that are missing, of other shapes and types; rows of zeros, of ones, of anything."""
    rng = data.draw(st.randoms(use_true_random=False))
    before = data.draw(specs)
    engine = Engine(stream(series_max=4))
    mine, found, meaning = Snapshots(engine), Restored(), meaning_of(before)
    made = []
    for name, kind, shape in json.loads(Snapshots(Engine(before)).layout()[1]):
        if name.startswith("meaning_"):
            continue
        if name != "applied":
            if rng.random() < 0.03:
                continue
            if rng.random() < 0.1:
                shape = [max(0, size + rng.randint(-2, 3)) for size in shape]
            if rng.random() < 0.02:
                shape = [*shape, 2]
            if rng.random() < 0.01:
                kind = rng.choice(["<f4", "<i8", "|u1"])
        made.append((name, kind, tuple(shape)))
    if rng.random() < 0.8:
        made.append((f"meaning_{meaning.id}", "|u1", (0,)))
    text = json.dumps(made).encode()
    dtype = np.dtype([*HEADER, *made])
    raw = np.frombuffer(rng.randbytes(dtype.itemsize), dtype=dtype).copy() if rng.random() < 0.5 else np.zeros(1, dtype)
    if rng.random() < 0.5:
        for name, kind, _ in made:
            if kind in ("<f4", "<f8", "<f2"):
                raw[name] = 1.0
            elif name in ("steps", "last_step", "last_us", "seen", "applied"):
                raw[name] = rng.randint(0, 100)
    held = rng.randbytes(rng.randint(0, 30))
    raw["_magic"], raw["_version"], raw["_partition"], raw["_life"] = int.from_bytes(b"SR", "little"), 1, 0, 1
    raw["_held"], raw["_layout"] = len(held), xxhash.xxh3_64_intdigest(text)
    body = raw.tobytes()[DIGEST_BYTES:] + held
    record = xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(b"x")).to_bytes(8, "little") + body
    mine.learn_meaning(meaning.id, meaning.encode())
    mine.learn(text)
    mine.restore(0, laid([b"x"], [record]), found)
    assert found.rows + len(found.left) + sum(found.refused.values()) >= 1
    assert len(engine.table) == found.rows <= 1
    if found.rows:
        feed(engine, ticks(engine.spec, 100, 104))
