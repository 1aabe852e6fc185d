"""What Apache Kafka refuses for what a record holds: times, sizes, missing keys. It costs that record and nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, RequestTimedOutError
from broker import Broker
from conftest import settings_for
from service import read_all

from streamrnn.transports.base import (
    Committed,
    Deadline,
    DeliveryFailed,
    Outgoing,
    RecordRefused,
    Refused,
    Sink,
    TopicNeed,
)
from streamrnn.transports.kafka import mending as kafka_mending
from streamrnn.transports.kafka.sink import KafkaTransactionalSink
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka

HOUR_MS = 3_600_000


def now_ms() -> int:
    return int(time.time() * 1000)


async def make(broker: Broker, topic: str, **config: str) -> None:
    admin = KafkaTransport(settings_for(broker)).admin()
    await admin.start()
    await admin.create([TopicNeed(topic, 1, {name.replace("__", "."): value for name, value in config.items()})])
    await admin.stop()


class Sends:
    """Deliveries of one sink of either kind, some of their records refused."""

    def __init__(self, sink: Sink, topic: str, instead: str = "") -> None:
        self.sink, self.topic, self.letters = sink, topic, instead
        self.refused: list[Refused] = []

    def instead(self, refused: Sequence[Refused]) -> list[Outgoing]:
        self.refused += refused
        if not self.letters:
            return []
        return [Outgoing(self.letters, 0, r.record.key or b"k", r.record.value[:20], now_ms()) for r in refused]

    async def seal(self, instead: Any = None) -> Any:
        chosen = instead if instead is not None else self.instead
        if isinstance(self.sink, KafkaTransactionalSink):
            return await self.sink.commit(self.topic, {0: Committed(1)}, self.topic, chosen)
        return await self.sink.seal(chosen)


def made(broker: Broker, kind: str, unique: Callable[[str], str], **changes: Any) -> Sink:
    transport = KafkaTransport(settings_for(broker, **changes))
    return transport.sink() if kind == "at-least-once" else transport.transactional(unique("id"))


both = pytest.mark.parametrize("kind", ["at-least-once", "exactly-once"])


@both
@pytest.mark.parametrize("codec", [None, "lz4"], ids=["plain", "lz4"])
async def test_refused_records_cost_no_other_and_the_producer_goes_on(
    broker: Broker, unique: Callable[[str], str], kind: str, codec: str | None
) -> None:
    """Of many small batches, all on their way at once, some hold a record that is two hours ahead."""
    topic, letters = unique("ahead"), unique("letters")
    await make(broker, topic)
    await make(broker, letters)
    rng, sink = random.Random(0), made(broker, kind, unique, batch_bytes_max=2_000, compression_type=codec)
    await sink.start()
    sends, bad, good, deliveries = Sends(sink, topic, letters), [], [], []
    for _ in range(6):
        for _ in range(rng.randint(1, 4)):
            values = [b"%08d %s" % (rng.randrange(10**8), b"x" * 40) for _ in range(rng.randint(1, 40))]
            share = rng.choice([0.0, 0.0, 0.1, 0.9, 1.0])
            ahead = [rng.random() < share for _ in values]
            times = [now_ms() + (2 * HOUR_MS if a else 0) for a in ahead]
            await sink.append_many(topic, 0, [b"k"] * len(values), values, times, [[("h", b"1")]] * len(values))
            bad += [value for value, a in zip(values, ahead, strict=True) if a]
            good += [value for value, a in zip(values, ahead, strict=True) if not a]
        deliveries.append(await sends.seal())
    for delivery in deliveries:
        await delivery.wait(Deadline(10.0))
        await delivery.wait(Deadline(10.0))  # and nothing is sent twice
    assert sink.in_flight_bytes == 0
    await sink.stop(Deadline(5.0))
    assert bad
    assert [r.record.value for r in sends.refused] == bad
    assert {r.error for r in sends.refused} == {"INVALID_TIMESTAMP"}
    assert all("out of range" in r.detail and r.record.headers == (("h", b"1"),) for r in sends.refused)
    found = await read_all(broker, topic)
    assert [r.value for r in found] == good  # in their order, once each
    assert [r.value for r in await read_all(broker, letters)] == [value[:20] for value in bad]


@both
@pytest.mark.parametrize(
    ("config", "record", "error"),
    [
        ({"max__message__bytes": "20000"}, (b"k", b"x" * 50_000, 0), "MESSAGE_TOO_LARGE"),
        ({"cleanup__policy": "compact"}, (None, b"no key", 0), "INVALID_RECORD"),
        (
            {"message__timestamp__before__max__ms": str(HOUR_MS)},
            (b"k", b"old", -60 * 24 * HOUR_MS),
            "INVALID_TIMESTAMP",
        ),
    ],
    ids=["size", "key", "age"],
)
async def test_whatever_it_is_about_a_record_that_is_refused(
    broker: Broker,
    unique: Callable[[str], str],
    kind: str,
    config: dict[str, str],
    record: tuple[bytes | None, bytes, int],
    error: str,
) -> None:
    topic = unique("unfit")
    await make(broker, topic, **config)
    sink = made(broker, kind, unique)
    await sink.start()
    sends, now = Sends(sink, topic), now_ms()
    key, value, age = record
    for round_ in range(3):
        keys: list[bytes | None] = [b"a%d" % round_, b"b%d" % round_, key, b"c%d" % round_, b"d%d" % round_]
        values = [b"1", b"2", value, b"3", b"4"]
        await sink.append_many(topic, 0, keys, values, [now, now, now + age, now, now])
        await (await sends.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    assert [(r.record.value, r.error) for r in sends.refused] == [(value, error)] * 3
    assert [r.value for r in await read_all(broker, topic)] == [b"1", b"2", b"3", b"4"] * 3


@pytest.mark.parametrize("codec", [None, "gzip"], ids=["plain", "gzip"])
async def test_many_that_are_too_large_are_asked_for_few_times(
    broker: Broker, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, codec: str | None
) -> None:
    """Compressed each has to be asked for; all others are taken either way, in their order."""
    topic, rng, asked = unique("many"), random.Random(2), 0
    await make(broker, topic, max__message__bytes="3000")
    sink = made(broker, "at-least-once", unique, compression_type=codec)
    await sink.start()
    send = kafka_mending._Mending._send

    async def counted(self: Any, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await send(self, *arguments)

    monkeypatch.setattr(kafka_mending._Mending, "_send", counted)
    sizes = [rng.randint(4_000, 6_000) if rng.random() < 0.8 else rng.randint(1, 500) for _ in range(200)]
    values = [rng.randbytes(size) for size in sizes]
    sends = Sends(sink, topic)
    await sink.append_many(topic, 0, [b"k"] * 200, values, [now_ms()] * 200)
    delivery = await sends.seal()
    await delivery.wait(Deadline(10.0))
    taken = [offset for first, count in delivery.written(topic)[0] for offset in range(first, first + count)]
    assert taken == list(range(sum(size <= 3000 for size in sizes)))
    await sink.append_many(topic, 0, [b"k"], [b"last"], [now_ms()])
    await (await sends.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    assert [r.record.value for r in sends.refused] == [value for value in values if len(value) > 3000]
    assert [r.value for r in await read_all(broker, topic)] == [*(v for v in values if len(v) <= 3000), b"last"]
    assert asked < 60 or codec


@both
async def test_a_record_that_no_request_can_hold_is_refused_without_asking(
    broker: Broker, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The broker would end the connection without a word, again and again."""
    topic = unique("huge")
    await make(broker, topic)
    sink = made(broker, kind, unique)
    await sink.start()
    monkeypatch.setattr(kafka_mending, "REQUEST_BYTES_MAX", 50_000)
    sends, values = Sends(sink, topic), [b"a" * 30_000, b"b" * 30_000, b"x" * 60_000, b"c" * 30_000]
    for _ in range(2):
        await sink.append_many(topic, 0, [b"k"] * 4, values, [now_ms()] * 4)
        await (await sends.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    assert [(r.record.value, r.error) for r in sends.refused] == [(values[2], "MESSAGE_TOO_LARGE")] * 2
    assert [r.value for r in await read_all(broker, topic)] == [values[0], values[1], values[3]] * 2


@both
async def test_answers_lost_while_a_batch_is_mended_take_nothing_twice(
    broker: Broker, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What was taken is known to the broker by its sequence number when it is sent again."""
    topic, lost = unique("lost"), 0
    await make(broker, topic)
    sink = made(broker, kind, unique)
    await sink.start()
    client = sink._producer.client
    send = client.send

    async def losing(node: int, request: Any, **options: Any) -> Any:
        nonlocal lost
        answer = await send(node, request, **options)
        if isinstance(request, kafka_mending._NamingRequest) and lost < 3:
            lost += 1
            raise RequestTimedOutError
        return answer

    monkeypatch.setattr(client, "send", losing)
    sends = Sends(sink, topic)
    for first in (b"a", b"b"):
        times = [now_ms(), now_ms() + 2 * HOUR_MS, now_ms()]
        await sink.append_many(topic, 0, [b"k"] * 3, [first + b"1", first + b"2", first + b"3"], times)
        await (await sends.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    assert lost == 3
    assert [r.record.value for r in sends.refused] == [b"a2", b"b2"]
    assert [r.value for r in await read_all(broker, topic)] == [b"a1", b"a3", b"b1", b"b3"]


@both
async def test_a_record_that_nobody_replaces_fails_its_delivery_alone(
    broker: Broker, unique: Callable[[str], str], kind: str
) -> None:
    topic = unique("alone")
    await make(broker, topic, max__message__bytes="20000")
    sink = made(broker, kind, unique)
    await sink.start()
    await sink.append_many(topic, 0, [b"k"], [b"x" * 50_000], [now_ms()])
    delivery = await (sink.commit(topic, {}, topic) if isinstance(sink, KafkaTransactionalSink) else sink.seal())
    with pytest.raises(RecordRefused, match=rf"{topic}/0 refuses a record for what it holds: MESSAGE_TOO_LARGE"):
        await delivery.wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))


async def test_replacements_that_are_refused_for_ever_come_to_an_end(
    broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("loop")
    await make(broker, topic, max__message__bytes="20000")
    sink = made(broker, "at-least-once", unique)
    await sink.start()
    await sink.append_many(topic, 0, [b"k"], [b"x" * 50_000], [now_ms()])
    delivery = await sink.seal(lambda refused: [r.record for r in refused])
    with pytest.raises(DeliveryFailed, match="MESSAGE_TOO_LARGE"):
        await delivery.wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))


async def test_aiokafka_alone_is_lost_after_a_refusal(broker: Broker, unique: Callable[[str], str]) -> None:
    """Why `kafka_mending` is there; when this fails, a newer aiokafka may do without."""
    topic = unique("bare")
    await make(broker, topic)
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers, enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"1", partition=0)
        with pytest.raises(KafkaError, match="InvalidTimestamp"):
            await producer.send_and_wait(topic, b"2", partition=0, timestamp_ms=now_ms() + 2 * HOUR_MS)
        for _ in range(2):
            with pytest.raises(KafkaError, match="OutOfOrderSequenceNumber"):
                await producer.send_and_wait(topic, b"3", partition=0)
    finally:
        await producer.stop()
