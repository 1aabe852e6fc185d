"""Units and bounds as producers have them, from the bytes of the records to the bytes of the outputs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from running import all_committed, documents, made, sources, until, worker

from streamrnn.transports.memory.transport import MemoryBroker

T0_MS = 1_795_777_205_000


async def served(values: list[bytes], record_ms: list[int], **changes: Any) -> MemoryBroker:
    """What a worker makes of these records, each as all of its record's value."""
    chosen, broker = made(1, **changes)
    for value, at_ms in zip(values, record_ms, strict=True):
        broker.append("ticks", 0, b"key", value, at_ms)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    assert sorted({offset for _, offset in sources(broker)}) == list(range(len(values)))
    return broker


def refusals(broker: MemoryBroker) -> list[tuple[str, str]]:
    """(reason, detail) of the dead letters."""
    return [
        (dict(record.headers)["streamrnn-reason"].decode(), dict(record.headers)["streamrnn-detail"].decode())
        for record in broker.topics["app.dlq"][0]
    ]


async def test_every_nanosecond_stamp_a_third_of_a_millisecond_apart_is_a_step() -> None:
    count = 120
    values = [
        b'{"series": "ES", "ts": %d, "values": {"temp": %.2f}}' % (T0_MS * 10**6 + i * 300_000, 5000 + i % 4 * 0.25)
        for i in range(count)
    ]
    times = [T0_MS + i * 3 // 10 for i in range(count)]
    broker = await served(values, times, step="irregular", decode={"ts_unit": "ns"})
    assert refusals(broker) == []
    # As text: a fraction of a millisecond where there is one, and none where there is none.
    texts = [record.value or b"" for record in broker.topics["app.forecasts"][0]]
    for i, text in enumerate(texts):
        tenths = T0_MS * 10 + i * 3
        expected = f"{tenths // 10}" + (f".{tenths % 10}" if tenths % 10 else "")
        assert f'"ts":{expected},"step_ms":{0.3 if i else 1},'.encode() in text
    assert len(texts) == count


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("ms", "{ms}.0"),
        ("ms", '"2026-11-27T11:00:{s:02d}.000999999Z"'),
        ("s", "{seconds}.0009999999"),
        ("us", "{ms}000"),
        ("ns", "{ms}000999"),
    ],
)
async def test_one_instant_has_one_time_in_the_outputs(unit: str, written: str) -> None:
    """What is finer than a microsecond is cut off, never rounded up into the next step."""
    begin_ms = 1_795_777_200_000  # 2026-11-27T11:00:00Z
    values = [
        b'{"series":"p","ts":%s,"values":{"temp":1.5}}'
        % written.format(ms=begin_ms + 1000 * i, seconds=begin_ms // 1000 + i, s=i).encode()
        for i in range(10)
    ]
    broker = await served(values, [begin_ms + 1000 * i for i in range(10)], decode={"ts_unit": unit})
    assert [d["ts"] for d in documents(broker, "app.forecasts")] == [begin_ms + 1000 * i for i in range(10)]


async def test_octets_beyond_2_53_are_values_and_the_bound_is_a_setting() -> None:
    def octets(i: int) -> bytes:
        return b'{"series":"if1","ts":%d,"values":{"temp":%d}}' % (T0_MS + 1000 * i, 9007199254740993 + 1000 * i)

    values, times = [octets(i) for i in range(20)], [T0_MS + 1000 * i for i in range(20)]
    broker = await served(values, times, imputed="all")
    assert refusals(broker) == []
    shown = [json.dumps(d["values"]["temp"]) for d in documents(broker, "app.imputed")]
    # The nearest double of each; as it came it cannot be repeated.
    assert [float(text) for text in shown] == [float(9007199254740993 + 1000 * i) for i in range(20)]

    broker = await served(values, times, decode={"value_abs_max": 1e15})
    assert {reason for reason, _ in refusals(broker)} == {"range"}
    assert all("decode.value_abs_max" in detail for _, detail in refusals(broker))


async def test_a_history_from_before_1970_is_served() -> None:
    begin_ms = -2_000_000_000_000
    values = [b'{"series":"p","ts":%d,"values":{"temp":%d}}' % (begin_ms + 1000 * i, i) for i in range(10)]
    broker = await served(values, [-1] * 10)
    assert refusals(broker) == []
    assert [d["ts"] for d in documents(broker, "app.forecasts")] == [begin_ms + 1000 * i for i in range(10)]


async def test_a_null_in_a_mapped_field_makes_no_series_of_the_key() -> None:
    values = [b'{"device":{"id":%s},"at":%s,"values":{"temp":1}}' % pair for pair in (
        (b'"p"', b"%d" % T0_MS), (b"null", b"%d" % T0_MS), (b'""', b"%d" % T0_MS), (b'"p"', b"null"),
    )]  # fmt: skip
    broker = await served(values, [T0_MS] * 4, decode={"series": "device.id", "ts": "at"})
    assert {d["series"] for d in documents(broker, "app.forecasts")} == {"p"}
    assert [reason for reason, _ in refusals(broker)] == ["no-series", "no-series", "timestamp"]
    assert "decode.series" in refusals(broker)[0][1] and "decode.ts" in refusals(broker)[2][1]
