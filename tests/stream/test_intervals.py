"""Intervals come back: every level's coverage, at every horizon, from any state and on every kind of series."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import xxhash
from making import START, batch, feed, spec, states
from regimes import ABOVE, CONTINUOUS, LEVELS, REGIMES, hits, noise, run, stream

from streamrnn.kernels.columns import rungs_of, strides_of
from streamrnn.records import PlainRecord
from streamrnn.stream.engine import Engine
from streamrnn.stream.frontend import frontend_fields, grid_fields
from streamrnn.stream.snapshot import DIGEST_BYTES, HEADER, HEADER_BYTES, Restored, Snapshots
from streamrnn.wire.packed import packed as packed_records

BACK = 500  # steps in which coverage is found again


@pytest.mark.parametrize("horizon", [1, 12])
@pytest.mark.parametrize("levels", [3, 7])
def test_a_channel_that_stood_still_has_the_interval_of_one_that_never_did(levels: int, horizon: int) -> None:
    rng = np.random.default_rng(1)
    moving = 7.0 + noise(rng, 5000, 16)
    stood = np.where(np.arange(5000)[:, None] < 2000, 7.0, moving)
    _, wanted, width = hits(moving, run(Engine(stream(horizon, levels, 16)), moving), horizon)
    _, inside, wide = hits(stood, run(Engine(stream(horizon, levels, 16)), stood), horizon)
    since = slice(2000 + BACK, None)
    assert abs(wanted[since].mean() - 0.9) < 0.01 and abs(inside[since].mean() - 0.9) < 0.01
    assert wide[since].mean() < 1.05 * width[since].mean()


@pytest.mark.parametrize("horizon", [1, 12])
def test_an_interval_holds_a_channel_that_stands_still_where_it_was_foreseen_to_move(horizon: int) -> None:
    """Values that come back to their mean, then a sensor that hangs: the mean goes on to foresee that it comes back."""
    rng = np.random.default_rng(8)
    series, moving, hung, after = 16, 2000, 400, 500
    shocks = noise(rng, moving + after, series)
    values = np.zeros((moving + after, series))
    for t in range(1, len(values)):
        values[t] = 0.8 * values[t - 1] + shocks[t]
    values[moving - 1] += np.sign(values[moving - 1])
    values = np.concatenate([values[:moving], np.repeat(values[moving - 1 : moving], hung, axis=0), values[moving:]])
    sent = run(Engine(stream(horizon, 3, series)), values)
    _, inside, width = hits(values, sent, horizon)
    assert inside[moving + horizon : moving + hung].mean() > 0.88
    assert width[moving + 200 : moving + hung].mean() < width[moving - 500 : moving].mean()
    assert 0.85 < inside[moving + hung + horizon :].mean() < 0.95


@pytest.mark.parametrize("name", REGIMES)
@pytest.mark.parametrize(("levels", "horizon"), [(3, 12), (7, 12), (7, 1)])
def test_every_level_is_covered_on_every_kind_of_series(name: str, levels: int, horizon: int) -> None:
    rows, series = 4000, 10
    values = REGIMES[name](np.random.default_rng(2), rows, series)
    sent = run(Engine(stream(horizon, levels, series)), values)
    assert (np.diff(sent, axis=2) >= 0).all()
    since = slice(rows // 2 + BACK, None)
    for ahead in {1, horizon}:
        hit, inside, width = hits(values, sent, ahead)
        # Overlapping stretches count as one: what is left to chance.
        chance = 0.012 if ahead == 1 else 0.025
        above = ABOVE.get(name, 0.0)
        assert 0.9 - chance < inside[since].mean() < 0.9 + chance + above
        for level, share in zip(LEVELS[levels], hit[since].mean((0, 1)), strict=True):
            # Inner levels of discrete values lie at the one that comes most often, and share what its hits are.
            if name not in ABOVE or not 0.05 < level < 0.95:
                assert abs(share - level) < chance + above / 2, level
        if name in CONTINUOUS:
            smooth = CONTINUOUS[name](np.random.default_rng(2), rows, series)
            _, _, wanted = hits(smooth, run(Engine(stream(horizon, levels, series)), smooth), ahead)
            assert width[since].mean() < 1.6 * wanted[since].mean()


@pytest.mark.parametrize("name", ["noise", "walk", "price unchanged"])
@pytest.mark.parametrize("start", ["high", "low", "wide", "crossed", "random"])
def test_coverage_is_found_again_from_any_state(name: str, start: str) -> None:
    rows, series, horizon = 2500, 30, 12
    rng = np.random.default_rng(3)
    values = REGIMES[name](rng, rows, series)
    engine = Engine(stream(horizon, 7, series))
    before = run(engine, values[:1000])
    theta, spread, loss = (engine.table.columns[key][:series] for key in ("level_theta", "sigma", "losses"))
    side = np.array([-1, -1, -1, 0, 1, 1, 1])
    theta[:] = {"high": 8.0, "low": -8.0, "wide": 8.0 * side, "crossed": -8.0 * side, "random": 0.0}[start]
    if start == "random":
        theta[:] = rng.uniform(-8, 8, theta.shape) * 10.0 ** rng.integers(0, 30, theta.shape)
        spread *= 10.0 ** rng.uniform(-30, 30, spread.shape)
        loss[:] = 10.0 ** rng.uniform(-30, 30, loss.shape)
    sent = np.concatenate([before, run(engine, values[1000:], begin=1000)])
    for ahead in (1, horizon):
        hit, inside, _ = hits(values, sent, ahead)
        for begin, end, chance in ((1000 + BACK, 1000 + BACK + 500, 0.035), (1000 + BACK, rows, 0.025)):
            above = ABOVE.get(name, 0.0)
            assert 0.9 - chance < inside[begin:end].mean() < 0.9 + chance + above
            for level, share in zip(LEVELS[7], hit[begin:end].mean((0, 1)), strict=True):
                if name not in ABOVE or not 0.05 < level < 0.95:
                    assert abs(share - level) < chance + above, (level, ahead)


def test_intervals_of_one_step_follow_a_scale_that_comes_and_goes() -> None:
    rng = np.random.default_rng(9)
    rows, series = 3000, 16
    loud = (np.arange(rows) // 25) % 2 == 1
    values = np.cumsum(np.where(loud, 3.0, 1.0)[:, None] * noise(rng, rows, series), axis=0)
    _, inside, width = hits(values, run(Engine(stream(1, 3, series)), values), 1)
    late = (np.arange(rows) % 25 > 12) & (np.arange(rows) > BACK)
    assert width[late & loud].mean() > 1.5 * width[late & ~loud].mean()
    assert abs(inside[BACK:].mean() - 0.9) < 0.01


@pytest.mark.parametrize("lags", [(), (7,), (24, 168), (96, 672), (60,), (1440,), (12,)])
def test_forecasts_of_a_rung_are_kept_at_all_hours_and_often(lags: tuple[int, ...]) -> None:
    """A stride that shares a divisor with a season sees some hours only; a long one finds its quantiles late."""
    for horizon in (24, 48, 96, 1024):
        for h, stride in zip(rungs_of(horizon), strides_of(horizon, lags), strict=True):
            assert stride == 1 or all(math.gcd(stride, lag) == 1 for lag in lags)
            assert stride <= max(7, 0.2 * h)
            assert stride == 1 if h <= 12 else -(-h // stride) <= 2 * h // 3


def test_the_result_does_not_depend_on_how_ticks_are_cut() -> None:
    """Also through standstills, first moves, jumps of the scale and gaps."""
    stated = spec(channels=("a", "b", "c"), horizon=5)
    rng = np.random.default_rng(4)
    values = np.cumsum(rng.standard_normal((600, 3)), axis=0)
    values[100:260, 0] = 40.0
    values[:200, 1] = 0.0
    values[400:, 2] *= 1e4
    values[rng.random(values.shape) < 0.1] = np.nan
    ticks = batch(["x"] * 600, START + 1000 * np.arange(600), values)
    whole, parts = Engine(stated), Engine(stated)
    edges = sorted(rng.choice(600, 90, replace=False).tolist())
    assert feed(whole, ticks) == feed(parts, ticks, edges)
    assert states(whole) == states(parts)


# ── states of an older version ───────────────────────────────────────────────────────────────────────────────────────

OLDER = {"level_spread": "level_spread2", "move_scale": "scale2"}
UNKNOWN = ("fresh", "run", "still")


def older_records(engine: Engine, theta: Sequence[float] = ()) -> tuple[bytes, list[bytes], list[bytes]]:
    """(description, keys, records) of partition 0 as the version wrote it that kept mean squares, those of errors and the levels'
    offsets (or `theta`) by horizon."""
    stated = engine.spec
    channels, horizon, levels = len(stated.channels), stated.horizon, len(stated.quantiles)
    known = {field.name for field in (*grid_fields(), *frontend_fields(stated))} - set(UNKNOWN)
    known |= {"anchor", "covariance", "generation", "state"}
    snapshots = Snapshots(engine)
    rows = np.array(sorted(engine.table.series(0).values()), dtype=np.int64)
    keys, records = snapshots.pack(0, rows, 10_000, 1)
    columns = [(name, kind, tuple(shape)) for name, kind, shape in json.loads(snapshots.layout()[1])]
    now = np.frombuffer(b"".join(records), dtype=np.dtype([*HEADER, *columns]))
    kept = [(OLDER.get(name, name), kind, shape) for name, kind, shape in columns if name in known]
    kept += [("spread2", "<f4", (horizon, channels)), ("theta", "<f4", (horizon, channels, levels))]
    text = json.dumps([(name, kind, list(shape)) for name, kind, shape in kept]).encode()
    then = np.zeros(len(now), dtype=np.dtype([*HEADER, *kept]))
    names = {new: old for old, new in OLDER.items()}
    rungs = np.searchsorted(rungs_of(horizon), np.arange(1, horizon + 1))
    for name in then.dtype.names or ():
        if name == "spread2":
            then[name] = np.moveaxis(now["sigma"].astype(np.float64) ** 2, 2, 1)[:, rungs]
        elif name == "theta":
            then[name] = np.moveaxis(now["level_theta"], 2, 1)[:, rungs] if not len(theta) else theta
        else:
            then[name] = now[names[name]].astype(np.float64) ** 2 if name in names else now[name]
    then["_layout"] = xxhash.xxh3_64_intdigest(text)
    made = []
    for key, row in zip(keys, then, strict=True):
        body = row.tobytes()[DIGEST_BYTES:]
        made.append(xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(key)).to_bytes(8, "little") + body)
    return text, keys, made


def restored(engine: Engine, text: bytes, keys: list[bytes], records: list[bytes]) -> Restored:
    snapshots, found = Snapshots(engine), Restored()
    snapshots.learn(text)
    pairs = enumerate(zip(keys, records, strict=True))
    packed = packed_records(0, [PlainRecord("state", 0, i, 0, key, record) for i, (key, record) in pairs])
    snapshots.restore(0, packed, found)
    return found


@pytest.mark.parametrize("name", ["noise", "walk"])
def test_states_that_the_older_version_locked_come_free(name: str) -> None:
    rows, series, horizon = 2500, 30, 12
    values = REGIMES[name](np.random.default_rng(5), rows, series)
    source = Engine(stream(horizon, 7, series))
    run(source, values[:1000])
    locked = 8.0 * np.array([-1, -1, -1, 0, 1, 1, 1])
    target = Engine(stream(horizon, 7, series))
    found = restored(target, *older_records(source, locked))
    assert (found.rows, found.refused) == (series, {})
    for column in ("sigma", "level_spread", "move_scale"):
        there, here = source.table.columns[column], target.table.columns[column]
        for i in range(series):
            at, to = source.table.find(0, f"s{i}"), target.table.find(0, f"s{i}")
            assert here[to] == pytest.approx(there[at], rel=1e-6), column
    target.table.columns["applied"][:series] = 0  # what comes next is not a replay of what they have seen
    sent = np.concatenate([np.zeros((1000, series, 7, horizon)), run(target, values[1000:], begin=1000)])
    for ahead in (1, horizon):
        hit, inside, _ = hits(values, sent, ahead)
        assert abs(inside[1000 + BACK :].mean() - 0.9) < 0.02
        for level, share in zip(LEVELS[7], hit[1000 + BACK :].mean((0, 1)), strict=True):
            assert abs(share - level) < 0.02


def test_an_older_state_that_cannot_be_is_refused() -> None:
    source = Engine(stream(2, 3, 2))
    run(source, noise(np.random.default_rng(6), 50, 1))
    text, keys, records = older_records(source)
    at, place = {}, HEADER_BYTES
    for name, kind, shape in json.loads(text):
        at[name] = place
        place += int(kind[-1]) * math.prod(shape)
    for name in ("spread2", "scale2", "level_spread2", "theta"):
        body = bytearray(records[0])
        body[at[name] : at[name] + 4] = np.float32(np.nan).tobytes()
        digest = xxhash.xxh3_64_intdigest(bytes(body[8:]), xxhash.xxh3_64_intdigest(keys[0]))
        found = restored(Engine(stream(2, 3, 2)), text, keys, [digest.to_bytes(8, "little") + bytes(body[8:])])
        assert (name, found.rows, found.refused) == (name, 0, {"impossible": 1})


def test_an_older_state_of_another_horizon_is_carried() -> None:
    """It says nothing of its channels, and is taken for these."""
    source, target = Engine(stream(2, 3, 2)), Engine(stream(3, 3, 2))
    run(source, noise(np.random.default_rng(7), 50, 1))
    found = restored(target, *older_records(source))
    assert (found.rows, found.refused, found.left) == (1, {}, {})
    theta, before = target.table.columns["level_theta"][0], source.table.columns["level_theta"][0]
    assert np.array_equal(theta[:, :2], before)
