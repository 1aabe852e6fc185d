"""Records: in the wire format, faults at their rates, and a truth that says exactly what was done."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.faults import FaultPlan
from simulators.poison import poisons
from simulators.registry import make
from simulators.sensors import DEFAULT_CHANNELS, Sensors
from simulators.stream import SimRecord, Ticks, Truth
from streamrnn.records import REASONS
from streamrnn.spec import StreamSpec
from streamrnn.stream.frontend import FrontEnd
from streamrnn.wire.codec import Decoder

START_MS, STEP_MS = 1_764_000_000_000, 1000
EVERYTHING = FaultPlan(
    missing_channels=0.1, missing_ticks=0.05, duplicates=0.05, disorder=0.1, late=0.03, spikes=0.01, poison=0.03,
    future=0.02, seed=4,
)  # fmt: skip


def ticks(plan: FaultPlan, steps: int = 300, series: int = 5, long: bool = False, **more: object) -> Ticks:
    return Ticks(Sensors(series), plan, START_MS, STEP_MS, long, keep_truth=True, steps=steps, **more)  # type: ignore[arg-type]


def good(records: list[SimRecord]) -> list[dict[str, object]]:
    return [json.loads(r.value) for r in records if not r.expect and r.value is not None]


@dataclass
class Got:
    """A record as Kafka would hand it over."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    offset: int
    topic: str = "ticks"
    partition: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_clean_wide_ticks_are_the_signal_in_order() -> None:
    stream = ticks(FaultPlan(), steps=150, series=3)
    documents = good(list(stream))
    block = Sensors(3).block(0, 150)
    assert len(documents) == 450
    for i, document in enumerate(documents):
        k, s = divmod(i, 3)
        assert document["series"] == f"sensor-{s}"
        assert document["ts"] == START_MS + k * STEP_MS
        np.testing.assert_allclose(list(document["values"].values()), block[s, k], rtol=1e-4)  # type: ignore[attr-defined]
        assert tuple(document["values"]) == DEFAULT_CHANNELS  # type: ignore[arg-type]


def test_clean_long_ticks_say_the_same() -> None:
    wide, long = (good(list(ticks(FaultPlan(), 70, 2, layout))) for layout in (False, True))
    spread = [(d["series"], d["ts"], c, v) for d in wide for c, v in d["values"].items()]  # type: ignore[attr-defined]
    assert [(d["series"], d["ts"], d["channel"], d["value"]) for d in long] == spread


def test_numbers_have_sensible_digits() -> None:
    text = b"".join(r.value or b"" for r in ticks(FaultPlan(), 100))
    assert max(len(repr(v)) for d in good(list(ticks(FaultPlan(), 100))) for v in d["values"].values()) <= 8  # type: ignore[attr-defined]
    assert b"e" not in text.replace(b"series", b"").replace(b"values", b"").replace(b"temp", b"").replace(
        b"pressure", b""
    ).replace(b"sensor", b"")


@pytest.mark.parametrize("long", [False, True])
def test_odd_channel_names_survive(long: bool) -> None:
    names = ("100%", 'quo"te', "grün", "a b")
    stream = Ticks(Sensors(1, names), FaultPlan(), START_MS, STEP_MS, long, steps=1)
    found = {d["channel"] for d in good(list(stream))} if long else set(good(list(stream))[0]["values"])  # type: ignore[call-overload]
    assert found == set(names)


# ── decided by the seed alone ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("long", [False, True])
def test_the_stream_repeats_and_truth_changes_nothing(long: bool) -> None:
    with_truth = ticks(EVERYTHING, long=long)
    first = list(with_truth)
    kept = list(with_truth.truth)
    assert list(with_truth) == first
    assert with_truth.truth == kept
    assert list(replace(with_truth, keep_truth=False)) == first
    assert list(ticks(replace(EVERYTHING, seed=5), long=long)) != first


def test_an_endless_stream_begins_like_a_bounded_one() -> None:
    bounded = list(ticks(EVERYTHING))
    endless = list(islice(Ticks(Sensors(5), EVERYTHING, START_MS, STEP_MS), 1200))
    assert endless == bounded[:1200]


def test_one_fault_does_not_move_another() -> None:
    def missing(plan: FaultPlan) -> list[list[str]]:
        stream = ticks(plan)
        list(stream)
        return [t.missing for t in stream.truth]

    assert missing(replace(EVERYTHING, poison=0.0, late=0.2)) == missing(EVERYTHING)


# ── truth ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_truth_has_every_step_once_and_is_the_clean_signal() -> None:
    stream = ticks(EVERYTHING)
    list(stream)
    assert [(t.step, t.series) for t in stream.truth] == [(k, f"sensor-{s}") for k in range(300) for s in range(5)]
    assert [t.ts for t in stream.truth] == [START_MS + t.step * STEP_MS for t in stream.truth]
    block = Sensors(5).block(0, 300)
    values = np.array([list(t.values.values()) for t in stream.truth]).reshape(300, 5, 4).transpose(1, 0, 2)
    np.testing.assert_allclose(values, block, rtol=1e-4)  # spikes are no truth


@pytest.mark.parametrize("long", [False, True])
def test_truth_agrees_with_what_was_sent(long: bool) -> None:
    stream = ticks(EVERYTHING, long=long)
    records = list(stream)
    sent: dict[tuple[object, object], dict[str, object]] = {}
    for d in good(records):
        row = sent.setdefault((d["series"], d["ts"]), {})
        found = {d["channel"]: d["value"]} if long else d["values"]
        assert not row.keys() & found.keys()  # type: ignore[attr-defined]
        row.update(found)  # type: ignore[call-overload]
    for t in stream.truth:
        row = sent.pop((t.series, t.ts), {})
        if t.fate in ("missing-tick", "late"):
            assert not row
            continue
        shown = {**t.values, **t.spikes, **dict.fromkeys(t.missing)}
        assert row == {c: v for c, v in shown.items() if not long or v is not None}
        assert all(v != t.values[c] for c, v in t.spikes.items())
        assert not t.spikes.keys() & set(t.missing)
    assert not sent
    assert Counter(r.expect for r in records if r.expect) == Counter(e for t in stream.truth for e in t.expect)


@pytest.mark.parametrize("long", [False, True])
def test_the_service_refuses_what_the_truth_expects(long: bool) -> None:
    """The real decoder and grid, with lateness between disorder and late: every refusal is the one foretold."""
    stream = ticks(EVERYTHING, 600, long=long)
    records = list(stream)
    lateness_ms = EVERYTHING.disorder_steps * STEP_MS
    spec = StreamSpec(DEFAULT_CHANNELS, STEP_MS, 1, lateness_ms=lateness_ms)
    batch, rejected = Decoder(spec).decode([Got(r.key, r.value, r.ts_ms, i) for i, r in enumerate(records)])
    reasons: dict[int, str] = {r.record.offset: r.reason for r in rejected}
    frames = FrontEnd(spec, fills_ahead=False).process(batch)
    assert frames.consumed == len(batch)
    reasons.update({int(batch.offset[row]): reason for row, reason, _ in frames.rejected})
    assert [reasons.get(i, "") for i in range(len(records))] == [r.expect for r in records]


def test_without_lateness_duplicates_and_late_ticks_are_told_apart() -> None:
    plan = FaultPlan(duplicates=0.1, late=0.1, seed=1)
    records = list(ticks(plan, 200))
    spec = StreamSpec(DEFAULT_CHANNELS, STEP_MS, 1)
    batch, _ = Decoder(spec).decode([Got(r.key, r.value, r.ts_ms, i) for i, r in enumerate(records)])
    found = {row: reason for row, reason, _ in FrontEnd(spec, fills_ahead=False).process(batch).rejected}
    assert [found.get(i, "") for i in range(len(records))] == [r.expect for r in records]


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_faults_come_at_their_rates() -> None:
    plan = FaultPlan(0.1, 0.05, 0.04, 0.08, late=0.02, spikes=0.01, poison=0.03, future=0.02)
    stream = ticks(plan, 2000, 10)
    records = list(stream)
    n = 20_000
    fates = Counter(t.fate for t in stream.truth)
    expected = {"missing-tick": 0.05, "duplicate": 0.04, "disorder": 0.08, "late": 0.02}
    for fate, rate in expected.items():
        assert fates[fate] / n == pytest.approx(rate, abs=5 * (rate / n) ** 0.5)
    refused = Counter(r.expect for r in records)
    assert refused["duplicate"] == fates["duplicate"]
    assert refused["late"] == fates["late"]
    assert refused["future"] / n == pytest.approx(0.02, abs=0.005)
    poisoned = sum(refused[r] for r in refused if r not in ("", "duplicate", "late", "future"))
    assert poisoned / n == pytest.approx(0.03, abs=0.006)
    assert sum(len(t.missing) for t in stream.truth) / (4 * n) == pytest.approx(0.1, abs=0.006)
    seen = sum(4 - len(t.missing) for t in stream.truth if t.fate != "missing-tick")
    assert sum(len(t.spikes) for t in stream.truth) / seen == pytest.approx(0.01, abs=0.003)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 200), most=st.integers(1, 8), seed=st.integers(0, 99))
def test_disorder_is_bounded_and_loses_nothing(steps: int, most: int, seed: int) -> None:
    stream = ticks(FaultPlan(disorder=0.5, disorder_steps=most, seed=seed), steps, 3)
    newest: dict[object, int] = {}
    seen = []
    for d in good(list(stream)):
        step = (int(str(d["ts"])) - START_MS) // STEP_MS
        assert newest.get(d["series"], 0) - step <= most
        newest[d["series"]] = max(newest.get(d["series"], 0), step)
        seen.append((step, d["series"]))
    assert sorted(seen) == [(k, f"sensor-{s}") for k in range(steps) for s in range(3)]


def test_disorder_happens() -> None:
    steps = [d["ts"] for d in good(list(ticks(FaultPlan(disorder=0.3), 200, 1)))]
    assert steps != sorted(steps)  # type: ignore[type-var]


def test_spikes_are_wild() -> None:
    stream = ticks(FaultPlan(spikes=0.01), 1000)
    list(stream)
    spread = Sensors(5).block(0, 1000).std(axis=1)
    sizes = [
        abs(v - t.values[c]) / spread[int(t.series[7:]), DEFAULT_CHANNELS.index(c)]
        for t in stream.truth
        for c, v in t.spikes.items()
    ]
    assert min(sizes) > 3


def test_all_ticks_missing_is_silence_and_all_values_missing_too_in_long() -> None:
    assert not list(ticks(FaultPlan(missing_ticks=1.0), 70))
    stream = ticks(FaultPlan(missing_channels=1.0), 70, long=True)
    assert not list(stream)
    assert {t.fate for t in stream.truth} == {"missing-tick"}


@pytest.mark.parametrize(
    "bad",
    [{"late": 1.5}, {"poison": -0.1}, {"missing_ticks": 0.6, "late": 0.6}, {"disorder_steps": 0}, {"late_steps": 3}],
)
def test_impossible_plans_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|exclude|disorder_steps"):
        FaultPlan(**bad)  # type: ignore[arg-type]


# ── poison ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["sensors", "prices", "book"])
def test_every_poison_meets_its_reason(kind: str) -> None:
    channels = make(kind, 1).channels
    spec = StreamSpec(channels, STEP_MS, 1)
    decoder = Decoder(spec)
    for poison in poisons(channels):
        assert poison.reason in REASONS
        batch, rejected = decoder.decode([Got(b"k" if poison.keyed else None, poison.value, START_MS, 0)])
        reasons: list[str] = [r.reason for r in rejected]
        if len(batch):  # a time that is one, but nowhere near its record's, is for the grid to refuse
            reasons += [reason for _, reason, _ in FrontEnd(spec, fills_ahead=False).process(batch).rejected]
        assert (poison.name, reasons) == (poison.name, [poison.reason])


def test_every_poison_is_sent_sooner_or_later() -> None:
    sent = {r.value for r in ticks(FaultPlan(poison=0.5), 200) if r.expect}
    assert sent == {p.value for p in poisons(DEFAULT_CHANNELS)}


def test_truth_goes_where_it_is_wanted_without_being_kept() -> None:
    seen: list[Truth] = []
    stream = Ticks(Sensors(2), EVERYTHING, START_MS, STEP_MS, steps=100, on_truth=seen.append)
    list(stream)
    assert len(seen) == 200
    assert not stream.truth
