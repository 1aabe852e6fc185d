"""Record batches by their bytes: what the client's own builder writes is found again; damage is refused, never followed."""

from __future__ import annotations

import random

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamrnn.transports.kafka.record_batches import unpack

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
RECORDS = [(b"k%d" % i if i % 3 else None, b"v" * (7 * i) if i % 5 else None) for i in range(40)]


def batch(codec: int, base: int = 0, transactional: bool = False, producer: int = -1) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0, 0, 1 << 20)
    for i, (key, value) in enumerate(RECORDS):
        assert builder.append(i, 1000 + i, key, value, [("header", b"x")] if i % 2 else [])
    built = bytearray(builder.build())
    built[:8] = base.to_bytes(8, "big")  # as the broker does
    return bytes(built)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_the_clients_builder_wrote_is_found_again(codec: int) -> None:
    data = batch(codec, 100) + batch(0, 200) + batch(codec, 300)[:-1]  # the last is cut off, as in a full answer
    found, position = unpack("t", 3, 110, data)
    assert [record.offset for record in found] == [*range(110, 140), *range(200, 240)]
    assert [(record.key, record.value) for record in found] == RECORDS[10:] + RECORDS
    assert [record.timestamp for record in found] == [*range(1010, 1040), *range(1000, 1040)]
    assert position == 240


def test_aborted_transactions_are_not_seen() -> None:
    data = batch(0, 0, True, producer=7) + batch(0, 40, True, producer=8) + batch(0, 80)
    found, position = unpack("t", 0, 0, data, [(7, 0)])
    assert [record.offset for record in found] == list(range(40, 120))
    assert position == 120


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_damage_is_refused_or_stays_within_the_bytes(codec: int) -> None:
    luck, data, refused = random.Random(5), batch(codec), 0
    for _ in range(2000):
        spoiled = bytearray(data)
        for _ in range(luck.choice([1, 1, 4])):
            spoiled[luck.randrange(len(spoiled))] = luck.randrange(256)
        try:
            for record in unpack("t", 0, 0, bytes(spoiled))[0]:
                assert len(record.key or b"") + len(record.value or b"") <= 1 << 20
        except CorruptRecordException:
            refused += 1
    assert refused > 50
