"""A digest says whose row it is, not who wrote it: whatever a row holds, it stays within itself and does not stay for ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xxhash
from making import KINDS, START, batch, feed, laid, network, said, spec

from streamrnn.records import TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import Engine, engine_fields
from streamrnn.stream.snapshot import DIGEST_BYTES, NOT_NEGATIVE, WITHIN, Restored, Snapshots, _Layout

# Of the front end, and the network's own: other tests have them.
OTHERS = ("generation",)
HALVES = ("pend_raw", "pend_moves", "pend_offsets", "pend_said", "pend_added")  # of floats
BEGUN, FURTHER = 160, 2400


def ticks(begin: int, end: int, names: tuple[str, ...]) -> TickBatch:
    rows = [(name, step) for step in range(begin, end) for name in names]
    values = np.array(
        [
            10.0 + np.sin(step * np.pi / 4) + 0.3 * np.random.default_rng([ord(name), step]).standard_normal(3)
            for name, step in rows
        ]
    )
    values[np.random.default_rng(begin).random(values.shape) < 0.05] = np.nan
    steps = np.array([step for _, step in rows])
    values[(steps >= 240) & (steps < 330), 2] = 10.0  # it stands still for a while
    values[(steps >= 297) & (steps < 300), 0] = np.nan  # and another one is missing when the state is written
    made = batch([name for name, _ in rows], [START + 1000 * step for _, step in rows], values)
    made.offset[:] = np.arange(begin * len(names), end * len(names))
    return made


def served(stream: StreamSpec, weights: bool) -> Engine:
    engine = Engine(stream)
    if weights:
        engine.load(network(stream), "w")
    return engine


def spoilt(snapshots: Snapshots, record: bytes, key: bytes, change: Any) -> bytes:
    dtype = _Layout(snapshots.layout()[1]).dtype
    row = np.frombuffer(record, dtype=dtype).copy()
    change(row[0])
    body = row.tobytes()[DIGEST_BYTES:]
    return xxhash.xxh3_64_intdigest(body, xxhash.xxh3_64_intdigest(key)).to_bytes(8, "little") + body


def columns(stream: StreamSpec) -> list[str]:
    return [field.name for field in engine_fields(stream) if field.size and field.name not in OTHERS]


def odd_numbers(rng: np.random.Generator, row: Any, name: str) -> None:
    """Any numbers that a row may hold in this column: very large, very small, of the other sign, all the same."""
    column = row[name]
    shape, kind = np.shape(column), column.dtype
    halves = name in HALVES
    missing = [np.nan] if name in ("anchor", "seen_range", "pend_mean", "pend_moves", "pend_said") else []
    if kind.kind in "iu" and not halves:
        limits = np.iinfo(kind)
        few = np.array([limits.min, limits.max, 0, 1, limits.max // 2], dtype=kind)
        row[name] = rng.choice(few, shape) if rng.random() < 0.5 else rng.integers(limits.min, limits.max, shape, kind)
        return
    limit = min(WITHIN.get(name, 3.3e38), 3.3e38)
    few = np.array([limit, -limit, limit / 3, 1.0, -1.0, 0.0, 1e-38, *missing])
    made: Any = rng.choice(few, shape) if rng.random() < 0.7 else np.full(shape, rng.choice(few))
    if name in NOT_NEGATIVE:
        made = np.abs(made)
    row[name] = (made.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) if halves else made


def wrong_numbers(rng: np.random.Generator, row: Any, name: str) -> None:
    """Numbers that could be another series'."""
    column = row[name]
    if column.dtype.kind == "f":
        factor = np.exp(3.0 * rng.standard_normal(np.shape(column)))
        sign = 1 if name in (*NOT_NEGATIVE, "phases") else rng.choice([-1, 1], np.shape(column))
        limit = WITHIN.get(name, 1e38)
        row[name] = np.clip(column * factor * sign, -limit, limit)
    else:
        row[name] = rng.permutation(np.atleast_1d(column).reshape(-1)).reshape(np.shape(column))


def brought(stream: StreamSpec, weights: bool, change: Any) -> tuple[Engine, Restored]:
    """An engine that has restored `x` changed and `y` as it was."""
    source, target, found = served(stream, weights), served(stream, weights), Restored()
    feed(source, ticks(0, BEGUN, ("x", "y")))
    theirs = Snapshots(source)
    rows = np.array([source.table.find(0, name) for name in ("x", "y")])
    keys, records = theirs.pack(0, rows, 2 * BEGUN, 1)
    if change is not None:
        records[0] = spoilt(theirs, records[0], keys[0], change)
    Snapshots(target).restore(0, laid(keys, records), found)
    target.front.restore_clock(0, source.front.clock(0))
    return target, found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_a_foreign_row_costs_no_other_series_a_bit_and_says_numbers(seed: int, kind: str) -> None:
    stream, rng = spec(horizon=6, series_max=4, **KINDS[kind]), np.random.default_rng([seed, len(kind)])
    weights = seed % 2 == 1
    whole, _ = brought(stream, weights, None)

    def change(row: Any) -> None:
        for name in columns(stream):
            if rng.random() < (0.3, 1.0)[seed]:
                odd_numbers(rng, row, name)

    target, found = brought(stream, weights, change)
    assert (found.rows, found.refused) == (2, {})
    for begin in (BEGUN, BEGUN + 20, BEGUN + 300):
        further = ticks(begin, begin + (20 if begin == BEGUN else 280), ("x", "y"))
        wanted, outputs = feed(whole, further), target.process(further)
        got = sorted(said(stream, outputs, further))
        ours, theirs = ([text for _, text in rows if b'"series":"y"' in text] for rows in (got, wanted))
        assert ours == theirs and len(ours) >= 20
        assert np.isfinite(outputs.forecasts.quantiles).all() and np.isfinite(outputs.forecasts.mean).all()
        assert np.isfinite(outputs.imputations.lower).all() and np.isfinite(outputs.imputations.upper).all()
        assert np.isfinite(outputs.scores.abs_error).all()
        assert_numbers(target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_wrong_numbers_is_no_worse_than_persistence_after_a_while(kind: str) -> None:
    stream, rng = spec(horizon=6, series_max=4, **KINDS[kind]), np.random.default_rng(len(kind))
    target, found = brought(stream, True, lambda row: [wrong_numbers(rng, row, name) for name in columns(stream)])
    assert (found.rows, found.refused) == (2, {})
    target.process(ticks(BEGUN, BEGUN + FURTHER, ("x",)))
    assert_numbers(target)
    scores = target.process(ticks(BEGUN + FURTHER, BEGUN + FURTHER + 400, ("x",))).scores
    assert scores.abs_error.sum() < 1.03 * scores.abs_persistence.sum()
    covered = scores.inside.sum() / scores.count.sum()
    assert 0.8 < covered < 0.98


def assert_numbers(engine: Engine) -> None:
    row = engine.table.find(0, "x")
    for name in columns(engine.spec):
        column = engine.table.columns[name][row]
        if column.dtype.kind == "f" and name not in ("pend_mean", "seen_range"):
            assert np.isfinite(column).all(), name


@pytest.mark.parametrize("kind", ["two seasons", "a key", "no experts"])
def test_what_is_no_number_is_refused_in_every_column_of_numbers(kind: str) -> None:
    stream = spec(horizon=6, series_max=4, **KINDS[kind])
    for name in columns(stream):
        if engine_fields(stream)[0] and np.dtype(_kind(stream, name)).kind != "f":
            continue
        for odd in (np.inf, -np.inf, np.nan):
            missing = name in ("anchor", "pend_mean", "seen_range") and np.isnan(odd)

            def change(row: Any, name: str = name, odd: float = odd) -> None:
                np.asarray(row[name]).reshape(-1)[-1:] = odd

            _, found = brought_once(stream, change)
            assert (found.rows, found.refused) == ((1, {}) if missing else (0, {"impossible": 1})), (name, odd)


def _kind(stream: StreamSpec, name: str) -> Any:
    return next(field.dtype for field in engine_fields(stream) if field.name == name)


_KEPT: dict[str, tuple[Engine, list[bytes], list[bytes]]] = {}


def brought_once(stream: StreamSpec, change: Any, begun: int = BEGUN) -> tuple[Engine, Restored]:
    """As `brought`, of `x` alone with a network, which is computed once."""
    known = f"{begun} {stream}"
    if known not in _KEPT:
        source = served(stream, True)
        feed(source, ticks(0, begun, ("x",)))
        _KEPT[known] = source, *Snapshots(source).pack(0, np.array([source.table.find(0, "x")]), begun, 1)
    source, keys, records = _KEPT[known]
    target, found = served(stream, True), Restored()
    record = records[0] if change is None else spoilt(Snapshots(source), records[0], keys[0], change)
    Snapshots(target).restore(0, laid(keys, [record]), found)
    target.front.restore_clock(0, source.front.clock(0))
    return target, found


def other_numbers(rng: np.random.Generator, column: Any, name: str, begun: int) -> list[Any]:
    """A column as it could be as well, in some ways."""
    if name in HALVES:
        return [column ^ 0x8000, np.full_like(column, 0x3F80)]  # of the other sign; 1
    if name == "known":
        return [255 - column]
    if name in ("born", "unbroken", "missed"):
        return [np.full_like(column, begun - 2), np.full_like(column, -1)]
    if column.dtype.kind in "iu":
        return [np.full_like(column, 0), np.full_like(column, 3)]
    if name == "network_worth":
        return [np.full_like(column, 1000.0)]
    factors = np.exp(2.0 * rng.standard_normal(column.shape))
    return [(np.where(column == 0.0, 0.5, column) * factors).astype(column.dtype), np.zeros_like(column)]


# A series keeps steps of a kind of day for a day before its profile says anything: others show the same columns sooner.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a key"])
def test_every_column_matters(kind: str) -> None:
    """What nothing follows from is not kept: something else is otherwise afterwards. (The range of what was seen bounds only
    fills that go far: `test_fills`.)"""
    # Not a frame at which all rungs are weighed anew.
    stream, begun, rng = spec(horizon=6, series_max=4, **KINDS[kind]), 301, np.random.default_rng(len(kind))
    both = [ticks(begun, begun + 60, ("x",)) for _ in range(2)]
    both[1].values[:3, 0] = np.nan  # what was missing comes back, or later
    for further in both:
        further.values[20:23, 0] = np.nan
        further.values[40:42] = np.nan
        further.values[50, 1:] = np.nan
    wanted, unchanged = [], []
    for further in both:
        engine, _ = brought_once(stream, None, begun)
        wanted.append(feed(engine, further))
        unchanged.append({name: kept(engine, name) for name in columns(stream)})

    def matters(name: str) -> bool:
        column = np.asarray(engine_row(stream, begun)[name])
        for other in other_numbers(rng, column, name, begun):

            def change(row: Any, other: Any = other) -> None:
                row[name] = other

            for k, further in enumerate(both):
                target, found = brought_once(stream, change, begun)
                assert found.rows == 1, (name, found.refused)
                if feed(target, further) != wanted[k] or kept(target, name) != unchanged[k][name]:
                    return True
        return False

    known = {"seen_range", "ends"} | (
        set() if stream.experts else {"losses", "weight", "energy", "pend_raw", "slope"}
    )  # nothing is weighed
    idle = [name for name in columns(stream) if name not in known and not matters(name)]
    assert idle == [], idle


def kept(engine: Engine, name: str) -> bytes:
    """All of a series' columns but this one."""
    row = engine.table.find(0, "x")
    return b"".join(engine.table.columns[other][row].tobytes() for other in columns(engine.spec) if other != name)


def engine_row(stream: StreamSpec, begun: int) -> dict[str, Any]:
    source = _KEPT[f"{begun} {stream}"][0]
    return {name: column[source.table.find(0, "x")] for name, column in source.table.columns.items()}
