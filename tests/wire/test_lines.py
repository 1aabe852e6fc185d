"""Graphite's plaintext, collectd's commands and CSV lines: as they were recorded, their traps, and bytes from outside."""

from __future__ import annotations

import csv
import io
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_producers import KAFKA_MS, T0, Plain, decoder, read, right, ticks, why

from streamrnn.config.settings import ConfigError

GRAPHITE = (
    "host-a.load.load.shortterm 2.97802734375 1795784706\r\n"
    "host-a.load.load.midterm 1.5 1795784706\r\n"
    "host-a.load.load.longterm nan 1795784706\r\n"
)
COMMAND = "PUTVAL host-a/cpu-1/cpu-system interval=2.000 1795784640.773:5168"
CSV = {"format": "csv", "columns": ["series", "ts", "temp", "flow"]}


def test_graphite_lines_as_collectd_writes_them() -> None:
    for decode in ({"preset": "graphite"}, {"format": "graphite"}):
        right(
            GRAPHITE, "shortterm midterm longterm", decode,
            ("host-a.load.load", 1795784706000, {"shortterm": 2.97802734375}),
            ("host-a.load.load", 1795784706000, {"midterm": 1.5}), ("host-a.load.load", 1795784706000, {}),
        )  # fmt: skip
    tagged = "disk.used;datacenter=dc1;rack=a1 42 1764000000.5\n# a comment\n\nother 1 1764000000\n"
    right(tagged, "used", {"preset": "graphite"}, ("disk/dc1/a1", T0 + 500, {"used": 42.0}))
    right("temp 21.4 -1", "temp", {"preset": "graphite", "series": "@key"}, ("k", KAFKA_MS, {"temp": 21.4}), key=b"k")
    assert why("cpu.load 1 1764000000", "temp", {"preset": "graphite"}) == ["skipped other"]


def test_collectd_s_commands() -> None:
    right(
        COMMAND, "value", {"preset": "collectd-command"}, ("host-a/cpu-1/cpu-system", 1795784640773, {"value": 5168.0})
    )
    load = 'PUTVAL "host a/load/load" interval=10 1795784640:1.5:U:0.25 1795784650:2:3:4\nputval host-a/df-root/df_complex-free N:5'
    names = "shortterm midterm longterm"
    right(
        load, names, {"format": "collectd"}, ("host a/load", 1795784640000, {"shortterm": 1.5, "longterm": 0.25}),
        ("host a/load", 1795784650000, {"shortterm": 2.0, "midterm": 3.0, "longterm": 4.0}),
    )  # fmt: skip
    right(load, "value", {"format": "collectd"}, ("host-a/df-root/df_complex-free", KAFKA_MS, {"value": 5.0}))
    octets = "PUTVAL h/interface-eth0/if_octets 1795784640:10:20"
    right(
        octets, "rx tx", {"format": "collectd"}, ("h/interface-eth0/if_octets", 1795784640000, {"rx": 10.0, "tx": 20.0})
    )


def test_csv_lines() -> None:
    lines = f'series,ts,temp,flow\r\np,{T0},21.4,\r\n"q, r",{T0 + 1},NaN,3e2\r\n'
    right(lines, "temp flow", CSV, ("p", T0, {"temp": 21.4}), ("q, r", T0 + 1, {"flow": 300.0}))
    right(f"\ufeffp;{T0};1;2", "temp flow", {**CSV, "separator": ";"}, ("p", T0, {"temp": 1, "flow": 2}))
    local = {**CSV, "ts_format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"}
    right("p,24.11.2025 17:00,1,2", "temp", local, ("p", T0, {"temp": 1}))
    long = {
        "format": "csv",
        "columns": ["at", "name", "what", "number"],
        "series": "name",
        "ts": "at",
        "channel": "what",
        "value": "number",
    }
    right(f"{T0},p,temp,5", "temp", long, ("p", T0, {"temp": 5}))
    right(f"k,{T0},5,6", "temp", {**CSV, "columns": ["_", "ts", "temp", "flow"]}, ("key", T0, {"temp": 5}), key=b"key")


@pytest.mark.parametrize(
    ("decode", "good", "line"),
    [
        ({"preset": "graphite"}, "a.v 1 1764000000", line) for line in ("a.v", "a.v 1 1 1", "a. 1 1764000000", "a.v;t 1 1764000000", "a.v one 1764000000", "a.v 1 noon")
    ] + [
        ({"format": "collectd", "values": {"v": "values[^.dsnames=value]"}}, "PUTVAL a/b/c 1764000000:1", line)
        for line in ("GETVAL a/b/c", "PUTVAL a/b 1764000000:1", "PUTVAL a/b/c interval=1", "PUTVAL a/b/c 1764000000", "PUTVAL", "PUTVAL a/b/c noon:1")
    ] + [
        ({"format": "csv", "columns": ["series", "ts", "v"]}, f"a,{T0},1", line)
        for line in (f"a,{T0}", f"a,{T0},1,2", f"a,{T0},one", "a,noon,1", f'"a"b,{T0},1')
    ],
)  # fmt: skip
def test_a_bad_line_costs_its_neighbours_nothing(decode: dict[str, Any], good: str, line: str) -> None:
    found = decoder("v", **decode).read([Plain(f"{good}\n{line}\n{good}".encode())])
    assert found.batch.values.tolist() == [[1.0], [1.0]]
    assert [r.index for r in found.rejected] == [1]


def test_thousands_of_generated_lines_are_read_bit_for_bit() -> None:
    rng = random.Random(2)
    rows = []
    for _ in range(5000):
        name = rng.choice(["pump-7", 'a "b", c', "ü ж", "x y"])
        rows.append(
            (name, rng.randrange(10**12, 2 * 10**12), rng.gauss(0, 1e9), rng.choice([None, rng.random(), 10**15 + 1]))
        )
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    found = decoder("temp flow", **CSV).read([Plain(out.getvalue().encode())])
    assert ticks(found, "temp flow") == [
        (name, ts, {"temp": temp, **({} if flow is None else {"flow": float(flow)})}) for name, ts, temp, flow in rows
    ]
    text = "".join(f"{i % 9}.v {value!r} {ts // 1000}\n" for i, (_, ts, value, _) in enumerate(rows))
    found = decoder("v", preset="graphite").read([Plain(text.encode())])
    assert ticks(found, "v") == [
        (str(i % 9), ts // 1000 * 1000, {"v": value}) for i, (_, ts, value, _) in enumerate(rows)
    ]


WAYS: list[dict[str, Any]] = [{"preset": "graphite"}, {"format": "collectd"}, {**CSV, "values": {"v": "temp"}}]


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80) | st.text('PUTVAL a/b:1.5;=, "\n\r\t-', max_size=80).map(str.encode))
def test_nothing_but_a_refusal_leaves_the_lines(payload: bytes) -> None:
    for way in WAYS:
        batch, refused, skipped = read(payload, "v", way)
        assert len(batch) + len(refused) + len(skipped) > 0
        assert all(r.detail.isprintable() for r in refused)


@pytest.mark.parametrize(
    "payload",
    [
        b"a.v 1 1764000000\n" * 60_000, b"\n" * 1_000_000, b"a;" * 500_000, b"a " * 500_000, b'"' * 1_000_000, b"," * 1_000_000,
        b"PUTVAL a/b/c" + b" 1:1" * 250_000, b"PUTVAL " + b"\\" * 1_000_000, b"PUTVAL a/b/c 1" + b":1" * 500_000, b'PUTVAL "' + b"\\a" * 490_000,
        b"a.v 1 " + b"9" * 900_000, b"1,1," + b"9" * 900_000 + b",1", b"PUTVAL  " + b" " * 900_000, b"x" * 1_000_000, b"\r" * 1_000_000,
    ],
    ids=range(15),
)  # fmt: skip
def test_lines_of_a_megabyte_are_read_in_bounded_time(payload: bytes) -> None:
    for way in WAYS:
        reading = decoder("v", **way)
        begin = time.process_time()
        reading.read([Plain(payload)])
        assert time.process_time() - begin < 3.0


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        ({"format": "csv"}, "needs `columns`"), ({"columns": ["a"]}, "other formats have none"),
        ({"format": "csv", "columns": ["a", "a"]}, "twice"), ({**CSV, "separator": ", "}, "one character"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_meant_are_said_at_the_start(decode: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decoder("temp", **decode)


def test_decimal_commas_where_the_configuration_says_so() -> None:
    cells = {**CSV, "separator": ";", "decimal": ","}
    right(f"p;{T0};21,40;1.234,5", "temp flow", cells, ("p", T0, {"temp": 21.4, "flow": 1234.5}))
    right(f"p;{T0};-,5;1 234", "temp flow", cells, ("p", T0, {"temp": -0.5, "flow": 1234}))
    assert why(f"p;{T0};21.40;1", "temp", cells) == ["refused type"]
    found = decoder("temp", **{**cells, "decimal": "."}).read([Plain(f"p;{T0};21,40;1".encode())])
    assert 'decode.decimal: ","' in found.rejected[0].detail
    text = {"numbers": "text", "decimal": ","}
    right(f'{{"series":"p","ts":{T0},"values":{{"temp":"3,25"}}}}', "temp", text, ("p", T0, {"temp": 3.25}))
    with pytest.raises(ConfigError, match="needs numbers: text"):
        decoder("temp", decimal=",")
