"""No record of one series, whatever its clock, costs another series a tick or invents one; silence is filled all the same."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import START, batch, cut, feed, laid, own, spec, states, world

from streamrnn.kernels.silence import fresh_clocks, hear, silent_for_ms
from streamrnn.records import KIND_IDLE, Outputs, TickBatch
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Restored, Snapshots

IDLE_S = 9  # of making.spec


def of(ticks: TickBatch, name: str) -> TickBatch:
    rows = [i for i, series in enumerate(ticks.series) if series == name]
    part = batch([name] * len(rows), ticks.ts_us[rows] // 1000, ticks.values[rows], record_ts=ticks.record_ts_ms[rows])
    part.offset = ticks.offset[rows]
    return part


def results(outputs: Outputs, ticks: TickBatch, name: str) -> dict[str, Any]:
    """What was refused and sent of a series; `ahead`: what other series' records caused to be filled of it."""
    forecasts, fills = outputs.forecasts, outputs.imputations
    mine = [i for i in range(len(forecasts)) if forecasts.series[i] == name]
    return {
        "refused": [
            (int(ticks.offset[t]), why, detail) for t, why, detail in outputs.rejected if ticks.series[t] == name
        ],
        "forecasts": {
            (forecasts.ts_us[i], forecasts.mean[i].tobytes(), forecasts.quantiles[i].tobytes()) for i in mine
        },
        "fills": {
            (int(fills.ts_us[i]), fills.values[i].tobytes(), fills.lower[i].tobytes())
            for i in range(len(fills))
            if fills.series[i] == name
        },
        "ahead": [
            (int(ticks.offset[fills.tick[i]]), int(fills.ts_us[i]))
            for i in range(len(fills))
            if fills.series[i] == name and fills.kind[i] == KIND_IDLE
        ],
    }


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([("one", 0), ("mean", 3000)]))
def test_a_series_gets_what_it_would_get_alone(seed: int, rules: tuple[Any, int]) -> None:
    stream = spec(within=rules[0], lateness_ms=rules[1], future_max_ms=10_000_000, gap_max=20)
    ticks = world(seed)
    together = Engine(stream)
    outputs = together.process(ticks)
    for name in set(ticks.series):
        mine = of(ticks, name)
        alone = Engine(stream)
        expected, got = results(alone.process(mine), mine, name), results(outputs, ticks, name)
        assert got["refused"] == expected["refused"]
        assert own(states(together)[0, name]) == own(states(alone)[0, name])
        # What is sent ahead, of steps that got another tick later or never closed, comes on top.
        assert expected["forecasts"] <= got["forecasts"]
        assert expected["fills"] <= got["fills"]
        if not got["ahead"]:
            assert rules[1] or (expected["forecasts"], expected["fills"]) == (got["forecasts"], got["fills"])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_a_series_is_silent_only_when_two_others_have_spoken_since(seed: int) -> None:
    ticks = world(seed)
    outputs = Engine(spec(future_max_ms=10_000_000)).process(ticks)
    for name in set(ticks.series):
        for offset, _ in results(outputs, ticks, name)["ahead"]:
            spoken: dict[str, int] = defaultdict(int)
            for row in range(offset, -1, -1):
                if ticks.series[row] == name:
                    break
                spoken[ticks.series[row]] += 1
            assert len(spoken) >= 2
            assert sum(spoken.values()) >= 3, "no single record of each of two series makes a third one silent"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 380), max_size=8), st.sampled_from(["one", "mean"]))
def test_silence_does_not_depend_on_how_the_ticks_are_cut(seed: int, edges: list[int], within: Any) -> None:
    stream = spec(within=within, lateness_ms=2000 if within == "mean" else 0, future_max_ms=10_000_000)
    ticks = world(seed)
    one, many = Engine(stream), Engine(stream)
    assert feed(one, ticks, [e for e in edges if e < len(ticks)]) == feed(many, ticks)
    assert states(one) == states(many)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 250), st.lists(st.integers(0, 120), min_size=6, max_size=6))
def test_a_restored_partition_fills_the_same_silence(seed: int, begin: int, further: list[int]) -> None:
    """The rows are from different offsets, the log's clock from where the replay begins."""
    stream = spec(future_max_ms=10_000_000)
    ticks = world(seed)
    begin = min(begin, len(ticks))
    whole, source, restored, found = Engine(stream), Engine(stream), Engine(stream), Restored()
    wanted = feed(whole, ticks)
    feed(source, cut(ticks, 0, begin))
    clock, position = source.front.clock(0), begin
    for name, more in sorted(zip(sorted(set(ticks.series)), further, strict=False), key=lambda pair: pair[1]):
        end = max(position, min(begin + more, len(ticks)))
        feed(source, cut(ticks, position, end))
        position = end
        row = source.table.find(0, name)
        if row is not None:
            Snapshots(restored).restore(0, laid(*Snapshots(source).pack(0, np.array([row]), position, 1)), found)
    restored.front.restore_clock(0, clock)
    replayed = feed(restored, cut(ticks, begin, len(ticks)))
    assert [row for row in replayed if row[0] >= position] == [row for row in wanted if row[0] >= position]
    mine, theirs = states(restored), states(whole)
    for columns in (*mine.values(), *theirs.values()):
        del columns["applied"]
    assert mine == theirs


def test_a_backlog_beside_a_live_device_costs_it_nothing() -> None:
    """A gateway uploads an hour's backlog in order, two minutes of it for each tick of the live device."""
    live = [("live", START + 3_600_000 + 1000 * k) for k in range(30)]
    back = [("back", START + 1000 * k) for k in range(3600)]
    rows = [row for k in range(30) for row in (live[k], *back[120 * k : 120 * k + 120])]
    ticks = batch([name for name, _ in rows], [ts for _, ts in rows], np.ones((len(rows), 3)))
    outputs = Engine(spec(idle_after_ms=60_000)).process(ticks)
    assert outputs.rejected == []
    assert len(outputs.forecasts) == len(rows)
    assert len(outputs.imputations) == 0


@pytest.mark.parametrize("whose", ["event time", "event time and record time"])
def test_one_fast_clock_affects_its_own_sensor_alone(whose: str) -> None:
    rows = [(f"s{k}", START + 1000 * t) for t in range(200) for k in range(10)]
    ts = np.array([at for _, at in rows])
    ts[505] += 50 * 60_000
    record = ts if whose == "event time and record time" else np.array([at for _, at in rows])
    ticks = batch([name for name, _ in rows], ts, np.ones((len(rows), 3)), record_ts=record)
    outputs = Engine(spec(idle_after_ms=60_000, gap_max=64)).process(ticks)
    assert {ticks.series[tick] for tick, _, _ in outputs.rejected} <= {"s5"}
    assert set(outputs.imputations.series) <= {"s5"}


def test_a_silent_series_among_many_is_filled_and_again_after_a_fast_clock() -> None:
    rows = [(f"s{k}", t) for t in range(300) for k in range(10) if not (k == 3 and (60 <= t < 100 or t >= 200))]
    ts = np.array([START + 1000 * t for _, t in rows])
    ts[rows.index(("s7", 30))] += 50 * 60_000
    ticks = batch([name for name, _ in rows], ts, np.ones((len(rows), 3)))
    outputs = Engine(spec(gap_max=100)).process(ticks)
    ahead = [ts // 1_000_000 - START // 1000 for _, ts in results(outputs, ticks, "s3")["ahead"]]
    # Twice, each time once the log's time has gone on by 9 s (and the second or so that two witnesses take to say so).
    assert ahead[0] == 60 and 67 <= max(a for a in ahead if a < 100) <= 70
    assert next(a for a in ahead if a >= 200) == 200 and 207 <= ahead[-1] <= 210


@pytest.mark.parametrize("others", [1, 3, 5])
@pytest.mark.parametrize(("step_ms", "fast"), [(1000, 100), (60_000, 60)])
def test_a_gateway_uploads_the_backlog_of_several_sensors_beside_live_ones(
    others: int, step_ms: int, fast: int
) -> None:
    """With the event time as Kafka time, too: their times run a hundred times as fast, up to the present."""
    live, back = [f"live{k}" for k in range(others)], ["a", "b", "c"]
    total, rows = 40, []
    for t in range(total):
        rows += [(name, START + step_ms * t) for name in live]
        begin = START + step_ms * total - step_ms * fast * (total - t)
        rows += [
            (name, begin + step_ms * k)
            for k in range(fast)
            for name in back
            if begin + step_ms * k <= START + step_ms * t
        ]
    ticks = batch([name for name, _ in rows], [ts for _, ts in rows], np.ones((len(rows), 3)))
    outputs = Engine(spec(step_ms=step_ms, idle_after_ms=max(60_000, 3 * step_ms), gap_max=64)).process(ticks)
    assert outputs.rejected == []
    assert len(outputs.imputations) == 0
    assert len(outputs.forecasts) == len(rows)


def spoken(series: int, rounds: int, begin: int = 0, clock: Any = None) -> Any:
    """A clock that has heard each of the series once a second."""
    clock = fresh_clocks(1)[0] if clock is None else clock
    for t in range(begin, begin + rounds):
        for k in range(series):
            hear(clock, k + 1, 1000 * t, IDLE_MS)
    return clock


IDLE_MS = 60_000


@pytest.mark.parametrize("series", [2, 7, 40, 1000, 10_000])
def test_silence_is_seen_however_many_series_there_are(series: int) -> None:
    """Each of them speaks once a second, and one that did falls silent."""
    rounds = max(200, min(2_000_000, 100 * series) // series)
    clock = spoken(series, rounds)
    last, at_ms = int(clock[0]), 1000 * (rounds - 1)
    hear(clock, 10**9, at_ms, IDLE_MS)
    found = []
    for t in range(rounds, rounds + 80):
        spoken(series, 1, t, clock)
        found.append(silent_for_ms(clock, 10**9, last + 1, at_ms, IDLE_MS))
    first = next(i for i, ms in enumerate(found) if ms >= 0)
    assert 59 <= first <= 63
    assert 60_000 <= found[first] <= 63_000 and found[-1] >= 75_000


def test_silence_is_seen_when_the_witnesses_have_ended() -> None:
    clock = spoken(8, 100)
    for t in range(100, 30_000):
        for k in range(20, 40):
            hear(clock, k, 1000 * t, IDLE_MS)
    last = int(clock[0])
    for t in range(30_000, 30_100):
        for k in range(20, 39):
            hear(clock, k, 1000 * t, IDLE_MS)
    assert silent_for_ms(clock, 39, last, 29_999_000, IDLE_MS) >= 60_000


def test_churn_leaves_places_for_those_that_stay() -> None:
    clock = fresh_clocks(1)[0]
    for k in range(200_000):
        hear(clock, k + 1, k, IDLE_MS)
    for t in range(60_000):
        for k in range(20):
            hear(clock, 10**9 + k, 200_000 + 1000 * t, IDLE_MS)
    last, at_ms = int(clock[0]), 200_000 + 59_999_000
    for t in range(60_000, 60_100):
        for k in range(19):
            hear(clock, 10**9 + k, 200_000 + 1000 * t, IDLE_MS)
    assert silent_for_ms(clock, 10**9 + 19, last, at_ms, IDLE_MS) >= 60_000


def test_jumps_of_clocks_and_one_witness_alone_show_no_silence() -> None:
    clock = spoken(6, 100)
    last = int(clock[0])
    for k in range(5):
        hear(clock, k + 1, 50 * 60_000, IDLE_MS)  # a record each that is hours ahead
    assert silent_for_ms(clock, 6, last, 99_000, IDLE_MS) == -1
    clock = spoken(6, 100)
    last = int(clock[0])
    for t in range(100, 300):
        hear(clock, 1, 1000 * t, IDLE_MS)
    assert silent_for_ms(clock, 6, last, 99_000, IDLE_MS) == -1


def test_clocks_that_never_agreed_with_the_series_show_no_silence() -> None:
    """Two that replay a file hours ahead, at a hundred times the speed."""
    clock = spoken(1, 1)
    for t in range(100):
        for k in range(2):
            hear(clock, k + 1, 7_200_000 + 100_000 * t, IDLE_MS)
        hear(clock, 3, 1000 * t, IDLE_MS)
    last = int(clock[0])
    for t in range(100, 105):
        for k in range(2):
            hear(clock, k + 1, 7_200_000 + 100_000 * t, IDLE_MS)
    assert silent_for_ms(clock, 3, last, 99_000, IDLE_MS) == -1


def test_a_clock_that_is_put_back_is_a_witness_again() -> None:
    clock = fresh_clocks(1)[0]
    for t in range(100):
        for k in range(3):
            hear(clock, k + 1, 1000 * t + 7_200_000, IDLE_MS)
    for t in range(100, 400):
        for k in range(3):
            hear(clock, k + 1, 1000 * t, IDLE_MS)
    last = int(clock[0])
    for t in range(400, 480):
        for k in range(2):
            hear(clock, k + 1, 1000 * t, IDLE_MS)
    assert silent_for_ms(clock, 3, last, 399_000, IDLE_MS) >= 60_000


def test_edges_of_the_world_are_worth_looking_at() -> None:
    """The generator makes what the properties are about."""
    silent = refused = 0
    for seed in range(40):
        ticks = world(seed)
        outputs = Engine(spec(future_max_ms=10_000_000)).process(ticks)
        refused += len(outputs.rejected) > 0
        silent += bool((outputs.imputations.kind == KIND_IDLE).any())
    assert refused > 10 and silent > 4
