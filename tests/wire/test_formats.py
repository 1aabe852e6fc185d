"""MessagePack and Influx line protocol: the readings and refusals that JSON has."""

from __future__ import annotations

import json
import math
import struct
import time
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_elements import documents, picture
from test_producers import KAFKA_MS, T0, Plain, decoder, right, why

CHANNELS = "temp flow"

# ── MessagePack ──────────────────────────────────────────────────────────────────────────────────────────────────────

WAYS: list[dict[str, Any]] = [
    {"values": "values.*"},
    {"each": "m[*]", "series": "^.id", "ts": "ts", "values": {"temp": "t", "flow": "u.f"}, "numbers": "text"},
    {"each": "[*]", "where": {"on": True}},
    {"each": ["metrics[*]", "."], "series": ["tags.host?", "tags.*"], "values": "fields.*", "others": "skip"},
]
PAIRS = [(decoder(CHANNELS, format="msgpack", **way), decoder(CHANNELS, **way)) for way in WAYS]


@settings(deadline=None, max_examples=120)
@given(documents)
def test_a_document_is_read_alike_in_both(document: Any) -> None:
    text = json.dumps(document).encode()
    try:
        value = msgspec.msgpack.encode(msgspec.json.decode(text))
    except OverflowError:
        return  # no such whole number in MessagePack
    for packed, plain in PAIRS:
        assert picture(packed, value) == picture(plain, text)


def test_messagepack_s_own_types() -> None:
    def packed(ts: Any, temp: Any = 21.4) -> bytes:
        return msgspec.msgpack.encode({"series": "p", "ts": ts, "values": {"temp": temp}})

    decode = {"format": "msgpack"}
    right(packed(T0), CHANNELS, decode, ("p", T0, {"temp": 21.4}))
    right(packed(datetime.fromtimestamp(T0 / 1000, UTC)), CHANNELS, decode, ("p", T0, {"temp": 21.4}))
    right(packed(1764000000.25), CHANNELS, {**decode, "ts_unit": "s"}, ("p", T0 + 250, {"temp": 21.4}))
    single = b"\xca" + struct.pack(">f", 21.4)
    value = packed(T0).replace(b"\xcb" + struct.pack(">d", 21.4), single)
    right(value, CHANNELS, decode, ("p", T0, {"temp": struct.unpack(">f", single[1:])[0]}))
    assert why(packed(math.nan), CHANNELS, decode) == ["refused timestamp"]
    assert why(packed(T0, math.inf), CHANNELS, decode) == ["refused range"]
    assert why(packed(T0, b"21.4"), CHANNELS, decode) == ["refused type"]
    assert why(b"\xc0", CHANNELS, {**decode, "tombstones": "skip"}) == ["skipped tombstone"]


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 200_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffabc", b"\xc6\xff\xff\xff\xff",
        b"\xdc\xff\xff" * 100_000, b"\xc1", b"", b"\x81\xa1a", b"\xc7\xff\x05abc", b"\xdd\x7f\xff\xff\xff" + b"\xc0" * 100_000, b"\xa1\xff",
    ],
)  # fmt: skip
def test_messagepack_that_claims_gigabytes_is_refused_in_bounded_time_and_memory(bomb: bytes) -> None:
    for packed, _ in PAIRS:
        tracemalloc.start()
        begin = time.process_time()
        batch, refused, skipped = packed.read([Plain(bomb)])
        assert time.process_time() - begin < 1.0
        assert tracemalloc.get_traced_memory()[1] < 64_000_000
        tracemalloc.stop()
        assert len(batch) == 0
        assert refused or skipped


# ── Influx line protocol ─────────────────────────────────────────────────────────────────────────────────────────────

LINE = 'cpu,host=n1,cpu=cpu0 usage_idle=91.2,count=5i,up=t,note="a, b=\\"c\\" d" 1764255600000000000'


def test_influx_lines_are_ticks() -> None:
    for decode in ({"preset": "influx"}, {"format": "influx"}):
        right(LINE, "usage_idle count", decode, ("n1/cpu0", 1764255600000, {"usage_idle": 91.2, "count": 5}))
    two = f"# a comment\n{LINE}\r\n\n{LINE.replace('cpu0', 'cpu1').replace('91.2', '-1e1')}\n"
    right(
        two,
        "usage_idle",
        {"preset": "influx"},
        ("n1/cpu0", 1764255600000, {"usage_idle": 91.2}),
        ("n1/cpu1", 1764255600000, {"usage_idle": -10}),
    )
    right("m,host=a v=1", "v", {"preset": "influx"}, ("a", KAFKA_MS, {"v": 1}))
    escaped = r"my\ m\,x,host=a\ b\,c,k\=y=1 f\ 1=2,g=3u 1764255600000000001"
    right(escaped, "f\\ 1 g".replace("\\ ", "_"), {"preset": "influx", "values": {"f_1": "fields.f 1", "g": "fields.g"}},
          ("a b,c/1", 1764255600000, {"f_1": 2, "g": 3}))  # fmt: skip
    newline = 'log,host=a msg="two\nlines",v=1 1764255600000000000\nlog,host=a v=2 1764255601000000000'
    right(newline, "v", {"preset": "influx"}, ("a", 1764255600000, {"v": 1}), ("a", 1764255601000, {"v": 2}))
    # In a tag a quote is a letter as any other.
    quoted = 'log,host=5" v=1 1764255600000000000\nlog,host=b v=2 1764255601000000000'
    right(quoted, "v", {"preset": "influx"}, ('5"', 1764255600000, {"v": 1}), ("b", 1764255601000, {"v": 2}))
    assert why("mem,host=a used=5", "v", {"preset": "influx"}) == ["skipped other"]
    assert why("", "v", {"preset": "influx"}) == ["skipped empty"]


@pytest.mark.parametrize(
    "line",
    [
        "cpu",
        "cpu,host v=1",
        "cpu,host= v=1",
        "cpu v",
        "cpu v=",
        "cpu v=1,",
        "cpu v=abc",
        "cpu v=1 noon",
        "cpu v=1 1 2",
        'cpu v="open',
        ",a=b v=1",
        "cpu v=1i5",
    ],
)
def test_a_bad_line_costs_its_neighbours_nothing(line: str) -> None:
    found = decoder("v", preset="influx").read([Plain(f"m,host=a v=1 {T0}000000\n{line}".encode())])
    assert found.batch.values.tolist() == [[1.0]]
    assert [(r.reason, r.index) for r in found.rejected] == [("malformed", 1)]


@settings(deadline=None, max_examples=120)
@given(st.binary(max_size=80) | st.text('cpu,=\\ "\n1ti.5e#', max_size=60).map(str.encode))
def test_nothing_but_a_refusal_leaves_the_lines(payload: bytes) -> None:
    batch, refused, skipped = decoder("v", preset="influx").read([Plain(payload)])
    assert len(batch) + len(refused) + len(skipped) > 0
    assert all(r.detail.isprintable() for r in refused)


def test_lines_of_a_megabyte_are_read_in_bounded_time() -> None:
    for payload in (
        b"m," + b"a=b," * 250_000 + b" v=1",
        b"m v=" + b"9" * 1_000_000,
        b'"' * 1_000_000,
        b"\\" * 1_000_000,
        b"m v=1\n" * 170_000,
        b'm v="' + b"\n" * 900_000,
    ):
        begin = time.process_time()
        decoder("v", preset="influx").read([Plain(payload)])
        assert time.process_time() - begin < 3.0
