"""FAULTS rows 15 to 22: whatever the bytes, a record ends in exactly one place and its neighbours do not notice."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poison import GOOD, HARMLESS, POISON, Plain, wide

from streamrnn.records import REASONS, Reason
from streamrnn.spec import StreamSpec
from streamrnn.wire.codec import DETAIL_CHARS_MAX, Decoder, DecodeSpec, dead_letter

DECODER = Decoder(StreamSpec(channels=("temp", "flow"), step_ms=1000, horizon=4))


@pytest.mark.parametrize(("value", "reason"), [case[1:] for case in POISON], ids=[case[0] for case in POISON])
def test_every_poison_is_refused_with_its_reason(value: bytes | None, reason: Reason) -> None:
    batch, rejected = DECODER.decode([Plain(value)])
    assert len(batch) == 0
    assert [r.reason for r in rejected] == [reason]
    assert 0 < len(rejected[0].detail) <= DETAIL_CHARS_MAX
    assert rejected[0].detail.isprintable()
    assert rejected[0].reason in REASONS


SECONDS = Decoder(DECODER.spec, DecodeSpec(ts_unit="s"))
OF_TIME = [case[1:] for case in POISON if case[0].startswith("ts ")]


@pytest.mark.parametrize(("value", "reason"), OF_TIME, ids=[case[0] for case in POISON if case[0].startswith("ts ")])
def test_poisoned_times_are_refused_where_they_are_seconds_too(value: bytes, reason: Reason) -> None:
    _, (refused,) = SECONDS.decode([Plain(value)])
    assert refused.reason == reason
    assert refused.detail.isprintable() and len(refused.detail) <= DETAIL_CHARS_MAX


@pytest.mark.parametrize("value", [case[1] for case in HARMLESS], ids=[case[0] for case in HARMLESS])
def test_odd_but_readable_records_are_read(value: bytes) -> None:
    batch, rejected = DECODER.decode([Plain(value)])
    assert (len(batch), rejected) == (1, [])


@pytest.mark.parametrize(
    ("key", "reason"),
    [(None, "no-series"), (b"", "range"), (b"\xff\xfe", "range"), (b"a\x00b", "range"), (b"k" * 4096, "range")],
)
def test_hostile_keys_are_refused_only_where_they_name_the_series(key: bytes | None, reason: Reason) -> None:
    nameless = Plain(b'{"ts":1,"values":{"temp":1}}', key=key)
    named = Plain(GOOD, key=key)
    batch, rejected = DECODER.decode([nameless, named])
    assert [r.reason for r in rejected] == [reason]
    assert batch.series == ["p"]


def test_neighbours_of_poison_are_bit_equal_to_a_batch_without_it() -> None:
    good = [
        Plain(wide(b"%d.25" % i, ts=b"%d" % (1_764_000_000_000 + i), series=b'"s-%d"' % (i % 5)), offset=1000 + i)
        for i in range(len(POISON))
    ]
    bad = [Plain(value, offset=i) for i, (_, value, _) in enumerate(POISON)]
    clean, none = DECODER.decode(good)
    mixed, rejected = DECODER.decode([record for pair in zip(bad, good, strict=True) for record in pair])
    assert none == []
    assert [r.record for r in rejected] == bad
    assert mixed.records == clean.records
    assert mixed.series == clean.series
    for name in ("partition", "offset", "record_ts_ms", "ts_us", "values", "channel"):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(clean, name))


def test_poison_is_cheap() -> None:
    """The worst (1 MiB of ignored array) takes about 2 ms of processor time."""
    for name, value in [case[:2] for case in POISON] + HARMLESS:
        best_s = 1.0
        for _ in range(3):
            started_s = time.thread_time()
            DECODER.decode([Plain(value)])
            best_s = min(best_s, time.thread_time() - started_s)
        assert best_s < 0.02, name


def test_every_poison_can_be_dead_lettered_unchanged() -> None:
    for _, value, reason in POISON:
        _, (refusal,) = DECODER.decode([Plain(value, headers=(("trace", b"\xff"),))])
        key, letter, headers = dead_letter(refusal)
        assert (key, letter) == (b"key-1", value)
        assert headers[0] == ("trace", b"\xff")
        assert dict(headers)["streamrnn-reason"].decode() == reason
        assert sum(len(content) for _, content in headers) < 4 * DETAIL_CHARS_MAX + 300


def _accounted(values: list[bytes]) -> None:
    records = [Plain(value, offset=i) for i, value in enumerate(values)]
    batch, rejected = DECODER.decode(records)
    assert sorted([*batch.offset.tolist(), *(r.record.offset for r in rejected)]) == list(range(len(records)))
    assert len(batch.series) == len(batch.records) == batch.values.shape[0] == batch.ts_us.shape[0]
    assert not np.isinf(batch.values).any()
    assert (np.abs(batch.values[~np.isnan(batch.values)]) <= 1e30).all()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_random_bytes_are_all_accounted_for(values: list[bytes]) -> None:
    _accounted(values)


SEEDS = [
    GOOD,
    b'{"series":"p","ts":"2026-11-23T15:00:00.250Z","channel":"temp","value":21.4}',
    b'{"ts":null,"values":{"temp":null,"flow":-1.5e3},"x":[{"y":"\\u00e9"}]}',
]
FRAGMENTS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"\\",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"null",
    b",",
    b":",
    b"\x00",
    b"\xff",
    b"-",
    b"9" * 30,
]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(SEEDS),
            st.lists(
                st.tuples(st.integers(0, 90), st.integers(0, 6), st.sampled_from(FRAGMENTS) | st.binary(max_size=3)),
                max_size=4,
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_mutated_records_are_all_accounted_for(cases: list[tuple[bytes, list[tuple[int, int, bytes]]]]) -> None:
    values = []
    for value, edits in cases:
        for at, cut, put in edits:
            value = value[:at] + put + value[at + cut :]
        values.append(value)
    _accounted(values)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ce_specversion", "ce_subject", "ce_time", "content-type", "x", ""]), st.binary())
    ),
    st.none() | st.binary(),
    st.sampled_from([b'{"values":{"temp":1}}', b'{"data":{"values":{"temp":1}}}', b"", b"{}"]),
)
def test_any_headers_and_key_are_accounted_for(
    headers: list[tuple[str, bytes]], key: bytes | None, value: bytes
) -> None:
    batch, rejected = DECODER.decode([Plain(value, key=key, headers=tuple(headers))])
    assert len(batch) + len(rejected) == 1
