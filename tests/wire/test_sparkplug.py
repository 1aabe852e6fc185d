"""Sparkplug B as Protobuf: births, aliases, numbers without a type; and what a restart has to know of births."""

from __future__ import annotations

import math
import random
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import START, all_committed, documents, made, until, worker
from test_producers import KAFKA_MS, T0, Plain, decoder, ticks

from streamrnn.wire import sparkplug
from streamrnn.wire.sparkplug import payload_class

PAYLOAD = payload_class()
SPARKPLUG = {"preset": "sparkplug"}
INT8, INT32, FLOAT, DOUBLE, BOOLEAN, TEXT = 1, 3, 9, 10, 11, 12


def payload(*metrics: dict[str, Any], seq: int = 1, at: int | None = T0) -> bytes:
    message = PAYLOAD(seq=seq)
    if at is not None:
        message.timestamp = at
    for metric in metrics:
        message.metrics.add(**metric)
    return bytes(message.SerializeToString())


def birth(**more: Any) -> bytes:
    return payload(
        {"name": "temp", "alias": 1, "datatype": FLOAT, "float_value": 20.0, "timestamp": T0 - 5},
        {"name": "neg", "alias": 2, "datatype": INT8, "int_value": 251},
        {"name": "on", "alias": 3, "datatype": BOOLEAN, "boolean_value": True},
        {"name": "text", "alias": 4, "datatype": TEXT, "string_value": "x"}, seq=0, **more,
    )  # fmt: skip


def topic(kind: str, edge: str = "E1", device: str = "") -> bytes:
    return f"spBv1.0/plant/{kind}/{edge}{'/' + device if device else ''}".encode()


def records(*pairs: tuple[bytes, bytes], first: int = 0) -> list[Plain]:
    return [Plain(value, key, offset=first + i) for i, (key, value) in enumerate(pairs)]


CHANNELS = "temp neg on"


def test_data_are_read_by_the_names_and_types_of_the_birth() -> None:
    data = payload(
        {"alias": 1, "float_value": 21.4}, {"alias": 2, "int_value": 250}, {"alias": 3, "boolean_value": False},
        {"alias": 4, "string_value": "y"}, {"name": "temp", "double_value": math.nan}, {"alias": 2, "is_null": True},
    )  # fmt: skip
    for decode in (SPARKPLUG, {"format": "sparkplug"}):
        found = decoder(CHANNELS, **decode).read(records((topic("NBIRTH"), birth()), (topic("NDATA"), data)))
        assert ticks(found, CHANNELS) == [
            ("plant/E1", T0 - 5, {"temp": 20.0}), ("plant/E1", T0, {"neg": -5}), ("plant/E1", T0, {"on": 1}),
            ("plant/E1", T0, {"temp": 21.4}), ("plant/E1", T0, {"neg": -6}), ("plant/E1", T0, {"on": 0}), ("plant/E1", T0, {}), ("plant/E1", T0, {}),
        ]  # fmt: skip
        assert [s.elements for s in found.skipped] == [1, 1]


def test_devices_births_add_to_their_edge_node_s_and_a_new_one_replaces_them() -> None:
    device = payload({"name": "flow", "alias": 9, "datatype": INT32, "int_value": 4294967291})
    again = payload({"name": "flow", "alias": 1, "datatype": DOUBLE, "double_value": 0.5}, seq=0)
    found = decoder("temp flow", **SPARKPLUG).read(
        records(
            (topic("NBIRTH"), birth()), (topic("DBIRTH", device="D"), device), (topic("DDATA", device="D"), payload({"alias": 9, "int_value": 7})),
            (topic("NDATA"), payload({"alias": 1, "float_value": 1.5})), (topic("NBIRTH"), again), (topic("NDATA"), payload({"alias": 1, "double_value": 2.5})),
            (topic("NDATA"), payload({"alias": 9, "int_value": 1}, {"alias": 1, "double_value": 3.5})), (topic("NDATA", "E2"), payload({"alias": 1, "double_value": 1})),
        )
    )  # fmt: skip
    assert [(name, values) for name, _, values in ticks(found, "temp flow")] == [
        ("plant/E1", {"temp": 20.0}), ("plant/E1/D", {"flow": -5.0}), ("plant/E1/D", {"flow": 7.0}), ("plant/E1", {"temp": 1.5}),
        ("plant/E1", {"flow": 0.5}), ("plant/E1", {"flow": 2.5}), ("plant/E1", {"flow": 3.5}),
    ]  # fmt: skip
    assert [(r.reason, r.record.offset, r.index) for r in found.rejected] == [("schema", 6, 0), ("schema", 7, -1)]
    assert found.rejected[1].detail == "the alias 1 of 'plant/E2', whose birth certificate has not been read"


def test_names_without_aliases_and_other_keys() -> None:
    value = payload({"name": "temp", "float_value": 21.4}, at=None)
    for key, series in ((b"pump-7", "pump-7"), (topic("DDATA", device="D"), "plant/E1/D")):
        found = decoder("temp", **SPARKPLUG, **{"ts": ["timestamp", "@time"]}).read(records((key, value)))
        assert ticks(found, "temp") == [(series, KAFKA_MS, {"temp": 21.4})]
    (refused,) = decoder("temp", **SPARKPLUG).read([Plain(value)]).rejected
    assert refused.reason == "no-series"


@settings(deadline=None, max_examples=100)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_is_the_shortest_decimal_that_it_can_be(value: float) -> None:
    found = decoder("temp", **SPARKPLUG, value_abs_max=1e300).read(
        records((b"k", payload({"name": "temp", "float_value": value})))
    )
    read = found.batch.values[0, 0]
    assert struct.pack("<f", read) == struct.pack("<f", value)
    assert read == float(str(np.float32(value)))


def stream(rng: random.Random, count: int) -> list[Plain]:
    """Births that give other aliases each time, and data by them."""
    aliases: dict[str, list[str]] = {}
    found = []
    for offset in range(count):
        edge = rng.choice(["E1", "E2", "E3"])
        if edge not in aliases or rng.random() < 0.2:
            names = rng.sample(["temp", "flow", "other"], 3)
            aliases[edge] = names
            value = payload(
                *(
                    {"name": name, "alias": i, "datatype": DOUBLE, "double_value": offset}
                    for i, name in enumerate(names)
                ),
                seq=0,
            )
            key = topic("NBIRTH", edge)
        else:
            value = payload(*({"alias": rng.randrange(4), "double_value": offset + i / 8} for i in range(2)))
            key = topic("NDATA", edge)
        found.append(Plain(value, key, offset=offset, partition=0))
    return found


def picture(found: Any) -> Any:
    batch = found.batch
    return (
        [*zip(batch.offset.tolist(), batch.series, batch.ts_us.tolist(), batch.channel.tolist(), strict=True)], batch.index.tolist(),
        repr(batch.values.tolist()), [(r.record.offset, r.reason, r.detail, r.index) for r in found.rejected],
        [(s.record.offset, s.reason, s.elements) for s in found.skipped],
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 60))
def test_a_replay_reads_what_was_read_whatever_came_since(seed: int, one: int, other: int) -> None:
    oldest, position = sorted((one, other))
    sent = stream(random.Random(seed), 60)
    first = decoder("temp flow", **SPARKPLUG)
    first.read(sent[:position])
    carried = first.carried(0, oldest)
    second = decoder("temp flow", **SPARKPLUG)
    second.carry(0, carried)
    whole = decoder("temp flow", **SPARKPLUG)
    whole.read(sent[:oldest])
    right = picture(whole.read(sent[oldest:]))
    assert picture(second.read(sent[oldest:])) == right
    assert picture(second.read(sent[oldest:])) == right  # read twice
    third = decoder("temp flow", **SPARKPLUG)  # each restart carries what the one before did
    third.carry(0, second.carried(0, oldest))
    assert picture(third.read(sent[oldest:])) == right


async def test_a_restarted_worker_reads_data_by_a_birth_that_it_has_not_seen() -> None:
    chosen, broker = made(
        1, channels=["temp"], decode=SPARKPLUG, train="off", checkpoint={"interval": "10ms"}, complete="channels"
    )

    def send(key: bytes, metric: dict[str, Any], step: int) -> None:
        value = payload(metric, seq=0 if b"BIRTH" in key else 1, at=START + 1000 * step)
        broker.append("ticks", 0, key, value, START + 1000 * step)

    send(topic("NBIRTH"), {"name": "temp", "alias": 7, "datatype": DOUBLE, "double_value": 0.0}, 0)
    for begin in (1, 41, 81):
        for step in range(begin, begin + 40):
            send(topic("NDATA"), {"alias": 7, "double_value": float(step)}, step)
        async with worker(chosen, broker):
            await until(lambda: all_committed(broker))
    forecasts = documents(broker, "app.forecasts")
    assert [f["source"]["offset"] for f in forecasts] == [*range(121)]
    assert {f["series"] for f in forecasts} == {"plant/E1"}
    assert [record for log in broker.topics["app.dlq"] for record in log] == []


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=100), st.integers(0, 100))
def test_nothing_but_a_refusal_leaves_a_reader_of_sparkplug(content: bytes, at: int) -> None:
    reading = decoder(CHANNELS, **SPARKPLUG)
    reading.carry(0, content)
    whole = birth()
    for value in (content, whole[:at], whole[:at] + content + whole[at:]):
        batch, refused, skipped = reading.read(records((content[:20], value), (topic("NDATA"), value)))
        assert len(batch) + len(refused) + len(skipped) >= 2
    reading.carry(0, reading.carried(0, 0)[:at])


def test_what_is_held_of_births_has_a_bound_and_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkplug, "ALIASES_MAX", 20_000)
    monkeypatch.setattr(sparkplug, "CARRIED_MAX", 50_000)
    reading = decoder(CHANNELS, **SPARKPLUG)
    begin = time.process_time()
    many = payload(*({"name": f"m{k}", "alias": k, "datatype": DOUBLE} for k in range(9000)))
    reading.read(records(*((topic("DBIRTH", f"E{i}"), many) for i in range(4))))
    data = [(topic("NDATA", f"E{i}"), payload({"alias": 8999, "double_value": 1.0})) for i in range(4)]
    found = reading.read(records(*data, first=10))
    assert [r.reason for r in found.rejected] == ["schema"] * 2  # the two that were born first
    assert [s.reason for s in found.skipped] == ["other"] * 2
    assert len(reading.carried(0, 0)) <= 50_000
    assert [r.reason for r in reading.read(records((b"k", b"\x12\x00" * 400_000))).rejected] == ["too-large"]
    assert [r.reason for r in reading.read(records((b"k", b"\x12\xff\xff\xff\xff\x07"))).rejected] == ["malformed"]
    assert time.process_time() - begin < 10.0
