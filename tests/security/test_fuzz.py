"""Whatever the bytes, each reader of outside data takes them or refuses them by name; see `targets.py`.

FAULTS rows 16 to 19, 25 and 26. `make fuzz` looks further, guided by coverage.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import asdict

import pytest
import targets
from hypothesis import given, settings
from hypothesis import strategies as st
from making import network
from targets import CHECKPOINT_RECORD, CONFIGS, TARGETS, WEIGHTS_HEAD, blob, models_records, signed

from streamrnn.cli import models as cli_models
from streamrnn.model.weights import build
from streamrnn.stores.models import Manifest
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import HEADER_BYTES, Restored, Snapshots

FRAGMENTS = [
    b"", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"\x00", b"\xff", b"\n", b"=", b"/", b"-",
    b"null", b"true", b"NaN", b"1e999", b"-1", b"1.5", b"9" * 30, b"9" * 5000, b"18446744073709551616", b"&a ", b"*a",
    b"!!int x", b"!!python/object:os.system x", b"2026-13-45", b"[" * 1200, b'{"a":' * 1200, b'"a":1,"a":2', b"<<: ",
    b'"x":[[[]]],', b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x80\x04", "\u2028é".encode(),
]  # fmt: skip
Edit = tuple[str, int, int, bytes]
edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "splice", "double", "put", "number"]),
        st.integers(0, 1 << 16),
        st.integers(0, 64),
        st.sampled_from(FRAGMENTS) | st.binary(max_size=8),
    ),
    max_size=5,
)


def edited(data: bytes, other: bytes, changes: list[Edit]) -> bytes:
    """A document as it comes out of a broken disk, or of somebody's hands."""
    for kind, where, size, piece in changes:
        at = where % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << size % 8)]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "splice":
            data = data[:at] + other[where % (len(other) + 1) :]
        elif kind == "double":
            data = data[:at] + data[at : at + size] * 2 + data[at + size :]
        elif kind == "number":  # a whole field of a binary format, or of a text
            data = data[:at] + (where * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "little") + data[at + 8 :]
        else:
            data = data[:at] + piece + data[at + size % 8 :]
    return data


# A weights' blob is built into a network, a state into an engine: they have fewer examples in the same time.
EXAMPLES = {
    "codec": 300,
    "elements": 120,
    "formats": 100,
    "schema": 60,
    "state": 40,
    "held": 80,
    "layout": 60,
    "weights": 80,
    "config": 40,
}


def _weights(document: object, tensors: bytes) -> bytes:
    head = json.dumps(document).encode() if not isinstance(document, bytes) else document
    return len(head).to_bytes(4, "big") + head + tensors


def _tensors(kind: str, size: int) -> bytes:
    head = json.dumps({"out.bias": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}).encode()
    return len(head).to_bytes(8, "little") + head + b"\x00" * size


_SPEC = asdict(network(targets._SMALL, trunk=2, hidden=2).spec)
_GAIN = b'"gain":[0.1,0.0]'


def changed(document: bytes, before: bytes, after: bytes) -> bytes:
    """A valid document in which one thing is another, of the same length where a length stands before it."""
    assert before in document, f"{before!r} is not in the document: nothing would be tried"
    return document.replace(before, after)


DEEP = b"[" * 100_000
CONFIG = CONFIGS[0]
# What has left a reader once, or come through it.
FOUND: dict[str, list[bytes]] = {
    "checkpoint": [
        b'{"x":' + DEEP,
        b'{"input":"\xff"}',
        changed(CHECKPOINT_RECORD, b'"offset":100', b'"offset":' + b"9" * 30),
        changed(CHECKPOINT_RECORD, b'"life":3', b'"life":-1'),
        b"s/\xff\nvalue",
    ],
    "note": [b'{"x":' + DEEP, b"\xff", b'{"replay_from":1,"weights":[[-1,"a"]]}'],
    "models": [
        b'manifest/a={"x":' + DEEP,
        b"current=" + DEEP,
        changed(models_records(), b"manifest/abc", b"manifest/b"),
        b"weights/a/01=x\nweights/a/1=y",
        "weights/a/\u0661=x".encode(),
    ],
    "layout": [
        b'[["applied","<i8",[]],["x","|O",[]]]',
        b'[["applied","<i8",[]],["x","<f4",[-1]]]',
        b'[["applied","<i8",[]],["x","<f4",[1000000000000]]]',
        b'[["applied","<f8",[]]]',
        b'[["applied","<i8",[]],["state","<f4",[100000000]]]',
        DEEP,
        b'[["\xff"]]',
    ],
    "held": [b"", b"\x91\x92\x01\x91\x93\x01\x00\xc4\x01x", b"\x91\x92\x01\x90", b"\xff" * 20],
    "weights": [
        _weights(b'{"x":' + DEEP, b""),
        _weights({"spec": _SPEC, "meta": {}}, _tensors("F8_E8M0", 1)),
        _weights({"spec": _SPEC, "meta": {}}, _tensors("F8_E4M3", 1)),
        _weights({"spec": _SPEC, "meta": {}}, _tensors("C64", 8)),
        changed(blob()[WEIGHTS_HEAD:], _GAIN, b'"gain":[1.00000]'),
        changed(blob()[WEIGHTS_HEAD:], _GAIN, b'"gain":[1e39,10]'),
    ],
    "config": [
        CONFIG + b"x: 2026-13-45\n",
        CONFIG + b"x: !!timestamp foo\n",
        CONFIG + b"horizon: " + b"9" * 5000 + b"\n",
        CONFIG + b"1: 2\n",
        CONFIG + b"x: " + b"[" * 600,
        CONFIG + b"decode: {values: {b: x}}\n",
        CONFIG + b'kafka: {client_id: "\\ud800"}\n',
        b"kafka: &k {x: *k}\n",
        b"input: &a ["
        + b", ".join([b"x"] * 50)
        + b"]\nchannels: &b [*a"
        + b", *a" * 50
        + b"]\nx: [*b"
        + b", *b" * 50
        + b"]\n",
        b"2026-13-45",
        b"[" * 600,
    ],
}


@pytest.mark.parametrize(
    ("name", "data"),
    [(name, data) for name, found in FOUND.items() for data in found],
    ids=lambda thing: str(thing)[:60],
)
def test_what_was_found_is_not_found_again(name: str, data: bytes) -> None:
    TARGETS[name][0](data)


@pytest.mark.parametrize(
    "meta",
    [{}, {"loss": "x"}, {"gain": 3}, {"gain": []}, {"gain": ["x"]}, {"round": None}, {"id": "b", "bytes": -1}],
)
def test_a_foreign_manifest_is_listed_all_the_same(meta: dict[str, object]) -> None:
    row = cli_models._row(Manifest("a", 1, 1, "0" * 64, meta), "a", (), ())
    assert (row["id"], row["bytes"], row["current"]) == ("a", 1, True)
    shown = f"{row['loss']:.4f} {row['gain']:.3f} {row['round']:<4}"  # as the table has them
    assert re.fullmatch(r"(?:\d+\.\d{4}|nan) (?:-?\d+\.\d{3}|nan) \d+ *", shown)
    assert json.loads(json.dumps(row))["id"] == "a"


def test_a_state_whose_numbers_cannot_be_is_refused() -> None:
    """By one who knows how to make the digest right: it would say NaN from then on, or fill gaps without end."""
    stream = targets._PLAIN
    layout, key, good = targets._state(stream)
    at, last = {}, {}
    place = HEADER_BYTES
    for name, kind, shape in json.loads(layout):
        at[name] = place
        place += int(kind[-1]) * math.prod(shape)
        last[name] = place - int(kind[-1])
    for name, value in (
        ("last_us", (1 << 62).to_bytes(8, "little")),
        ("last_step", (1 << 62).to_bytes(8, "little")),
        ("steps", b"\xff" * 8),
        ("seen", b"\xff" * 4),
        ("applied", b"\xff" * 8),
        ("last", struct.pack("<d", math.inf)),
        ("move_scale", struct.pack("<f", math.nan)),
        ("state", struct.pack("<f", math.nan)),
        ("covariance", struct.pack("<f", math.nan)),
        ("anchor", struct.pack("<d", -math.inf)),
        ("pend_mean", struct.pack("<f", math.inf)),
        ("pend_raw", struct.pack("<f", math.inf)[2:]),
        ("pend_offsets", struct.pack("<f", math.nan)[2:]),
        ("x", struct.pack("<f", 1e20)),
        ("moves_weights", struct.pack("<f", -1e20)),
        ("sizes", struct.pack("<f", -1.0)),
        ("error_size", struct.pack("<f", -1.0)),
    ):
        for place in (at[name], last[name]):
            forged = signed(key, good[:place] + value + good[place + len(value) :])
            engine, found = Engine(stream), Restored()
            engine.load(network(stream), "weights")
            snapshots = Snapshots(engine)
            snapshots.restore(0, targets._laid((key, forged)), found)
            assert (name, found.rows, found.refused) == (name, 0, {"impossible": 1})
            assert len(engine.table) == 0


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_leaves_a_reader_but_its_refusals(name: str) -> None:
    target, seeds = TARGETS[name]
    valid = seeds()
    for document in valid:
        target(document)
    if name == "weights":  # a reader that refuses these refuses everything, and nothing behind its first check is tried
        assert [build(each)[1].gain for each in (valid[0], targets.headed(valid[1]))] == [[0.1, 0.0]] * 2

    @settings(max_examples=EXAMPLES.get(name, 200))
    @given(st.sampled_from(valid), st.sampled_from(valid), edits)
    def mutated(document: bytes, other: bytes, changes: list[Edit]) -> None:
        target(edited(document, other, changes))

    @settings(max_examples=EXAMPLES.get(name, 200) // 4)
    @given(st.binary(max_size=300))
    def random(data: bytes) -> None:
        target(data)

    mutated()
    random()
