"""The Kafka transport under faults, on Apache Kafka itself: corrupt batches, holes, zombies, churn, limits, freezes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from broker import Broker
from clients import settings_for
from contract import Follow, collect

from streamrnn.transports.base import Committed, Deadline, DeliveryFailed, OwnershipLost, Sink, TransportError
from streamrnn.transports.kafka import sink as kafka_sink
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka


async def send(sink: Sink, topic: str, partition: int, values: Sequence[bytes | None]) -> None:
    """With the time of day: the broker's first look at retention, after 30 s, deletes what claims to be from 1970."""
    now = int(time.time() * 1000)
    await sink.append_many(topic, partition, [None] * len(values), values, [now] * len(values))
    await (await sink.seal()).wait(Deadline(60.0))


async def dismantle(producer: Any, consumer: Any) -> None:
    """What stop() leaves of clients that it gave up on."""
    await producer._sender.close()
    await producer.client.close()
    await consumer._fetcher.close()
    await consumer._client.close()


@pytest.mark.parametrize("bulk", [False, True])
async def test_transactions_leave_holes_that_are_passed_and_aborted_records_are_not_read(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str], bulk: bool
) -> None:
    topic = unique("holes")
    broker.create(topic, 1)
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers, transactional_id=topic)
    await producer.start()
    for word, commits in ((b"kept", True), (b"aborted", False)):
        await producer.begin_transaction()
        for i in range(5):
            await producer.send(topic, word + b"%d" % i, partition=0)
        await (producer.commit_transaction() if commits else producer.abort_transaction())
    await producer.stop()
    reader, source = transport.reader(bulk), transport.source(topic, topic)
    await reader.start(topic, None)
    assert await reader.end_offsets() == {0: 12}  # two markers
    read: list[bytes | None] = []
    async with asyncio.timeout(60):
        while reader.position(0) < 12:
            for _, records in await reader.poll(100, 3):
                read += [record.value for record in records]
    await reader.stop(Deadline(5.0))
    await source.start(Follow(source))
    followed = [record.value for record in await collect(source, 5)]
    assert list(await source.poll(500, 10)) == []
    await source.stop(Deadline(5.0))
    assert read == followed == [b"kept%d" % i for i in range(5)]


async def test_a_member_that_stops_polling_loses_its_partitions_and_may_not_commit(
    broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("zombie")
    broker.create(topic, 2)
    transport = KafkaTransport(settings_for(broker, max_poll_interval_ms=1500))
    sink, sleeper, heir = transport.sink(), transport.source(topic, topic), transport.source(topic, topic)
    await sink.start()
    listeners = Follow(sleeper), Follow(heir)
    await sleeper.start(listeners[0])
    await send(sink, topic, 0, [b"0"])
    await collect(sleeper, 1)  # and from here on it does not poll
    async with asyncio.timeout(60):
        await heir.start(listeners[1])
        while listeners[1].owned != {0, 1}:
            await heir.poll(50, 10)
    with pytest.raises(OwnershipLost):
        await sleeper.commit({0: Committed(1)}, Deadline(5.0))
    assert (await heir.committed([0]))[0] is None
    await heir.commit({0: Committed(1)}, Deadline(5.0))
    async with asyncio.timeout(60):  # polling again is all it takes to come back
        while not listeners[0].owned:
            await sleeper.poll(50, 10)
            await heir.poll(50, 10)
    assert listeners[0].owned | listeners[1].owned == {0, 1}
    assert not listeners[0].owned & listeners[1].owned
    for part in (sleeper, heir, sink):
        await part.stop(Deadline(5.0))


async def test_members_that_come_and_go_under_load_lose_nothing(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("churn")
    broker.create(topic, 4)
    seen: Counter[tuple[int, int]] = Counter()
    owners: dict[int, set[str]] = {partition: set() for partition in range(4)}
    sent = [0, 0, 0, 0]
    quiet = asyncio.Event()

    async def load() -> None:
        sink = transport.sink()
        await sink.start()
        while not quiet.is_set():
            for partition in range(4):
                await send(sink, topic, partition, [b"x"] * 25)
                sent[partition] += 25
            await asyncio.sleep(0.01)
        await sink.stop(Deadline(5.0))

    async def member(name: str, until: Callable[[], bool]) -> None:
        source = transport.source(topic, topic)
        await source.start(Follow(source))
        while not until():
            for partition, records in await source.poll(50, 200):
                seen.update((partition, record.offset) for record in records)
                owners[partition].add(name)
                try:
                    await source.commit({partition: Committed(records[-1].offset + 1)}, Deadline(5.0))
                except OwnershipLost:
                    break  # comes again, here or elsewhere
        await source.stop(Deadline(5.0))

    def everything() -> bool:
        return quiet.is_set() and len(seen) >= sum(sent)

    async with asyncio.timeout(60):
        loading = asyncio.create_task(load())
        staying = asyncio.create_task(member("staying", everything))
        for guest in ("first", "second"):
            await member(guest, lambda guest=guest: any(guest in names for names in owners.values()))  # type: ignore[misc]
        quiet.set()
        await loading
        await staying
    assert set(seen) == {(partition, offset) for partition in range(4) for offset in range(sent[partition])}
    assert {"staying", "first", "second"} <= set().union(*owners.values())
    # Twice only what was read and not committed when its partition was taken away: a poll's worth each time.
    assert sum(count - 1 for count in seen.values()) <= 4 * 200


async def test_a_listener_that_fails_ends_the_source(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    """aiokafka logs such an exception and goes on as though the partitions were ready."""
    topic = unique("listener")
    broker.create(topic, 1)

    class Broken(Follow):
        async def assigned(self, partitions: frozenset[int]) -> None:
            raise KeyError("no such state")

    source = transport.source(topic, topic)
    with pytest.raises(TransportError, match="no such state"):
        await source.start(Broken(source))
    with pytest.raises(TransportError, match="no such state"):
        await source.poll(0, 1)
    await source.stop(Deadline(5.0))


async def test_an_offset_beyond_the_log_is_told_and_not_reset(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("range")
    broker.create(topic, 1)
    source = transport.source(topic, topic)
    await source.start(Follow(source, begin=77))
    with pytest.raises(TransportError, match=r"OffsetOutOfRange.*77"):
        await collect(source, 1)
    await source.stop(Deadline(5.0))


async def test_a_record_the_broker_will_not_have_fails_its_delivery(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("limit")
    broker.create(topic, 1, max__message__bytes="20000")
    sink = transport.sink()
    await sink.start()
    with pytest.raises(DeliveryFailed, match="MESSAGE_TOO_LARGE"):
        await send(sink, topic, 0, [b"x" * 50_000])
    await sink.stop(Deadline(5.0))
    again = transport.sink()
    await again.start()
    await send(again, topic, 0, [b"small"])
    await again.stop(Deadline(5.0))


async def test_a_failed_delivery_names_the_topic(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("named")
    broker.create(topic, 1, max__message__bytes="20000")
    sink = transport.sink()
    await sink.start()
    try:
        with pytest.raises(DeliveryFailed, match=topic):
            await send(sink, topic, 0, [b"x" * 50_000])
    finally:
        await sink.stop(Deadline(5.0))


async def test_a_worn_producer_is_replaced_and_order_is_kept(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its sequence numbers run out."""
    monkeypatch.setattr(kafka_sink, "RECORDS_MAX", 100)
    topic = unique("worn")
    broker.create(topic, 1)
    sink, source = transport.sink(), transport.source(topic, topic)
    await sink.start()
    first = sink._producer
    values = [b"%04d" % i for i in range(500)]
    for start in range(0, 500, 60):
        await send(sink, topic, 0, values[start : start + 60])
    assert sink._producer is not first
    await source.start(Follow(source))
    assert [record.value for record in await collect(source, 500)] == values
    await source.stop(Deadline(5.0))
    await sink.stop(Deadline(5.0))


async def test_bytes_on_their_way_are_bounded(
    broker: Broker, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight batches are handed over at once; only three fit."""
    topic = unique("bounded")
    broker.create(topic, 8)
    bound = 300_000
    sink = KafkaTransport(settings_for(broker, in_flight_bytes_max=bound)).sink()
    await sink.start()
    send_batch, seen = sink._producer.send_batch, []

    async def watched(*arguments: Any, **options: Any) -> Any:
        future = await send_batch(*arguments, **options)
        asyncio.get_running_loop().call_soon(lambda: seen.append(sink.in_flight_bytes))
        seen.append(sink.in_flight_bytes)
        return future

    monkeypatch.setattr(sink._producer, "send_batch", watched)
    for partition in range(8):
        await sink.append_many(topic, partition, [None] * 90, [b"x" * 1000] * 90, [0] * 90)
    await (await sink.seal()).wait(Deadline(60.0))
    assert 90_000 < max(seen) <= bound
    assert sink.in_flight_bytes == 0
    await sink.stop(Deadline(5.0))


async def test_the_brokers_refusal_of_an_old_generation_is_lost_ownership(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    """As after a stop longer than the session: the client still believes that it owns its partitions."""
    topic = unique("generation")
    broker.create(topic, 1)
    source = transport.source(topic, topic)
    await source.start(Follow(source))
    await source.commit({0: Committed(0, "first")}, Deadline(5.0))
    source._consumer._coordinator.generation -= 1
    with pytest.raises(OwnershipLost):
        await source.commit({0: Committed(1, "second")}, Deadline(5.0))
    assert await source.committed([0]) == {0: Committed(0, "first")}
    await source.stop(Deadline(5.0))


async def test_what_is_in_hand_may_be_committed_while_partitions_are_given_up(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    """The pump settles its last batch inside `revoked`."""
    topic = unique("revoke")
    broker.create(topic, 2)

    class Settles(Follow):
        async def revoked(self, partitions: frozenset[int]) -> None:
            if partitions:  # a first join begins by giving up nothing
                await self.source.commit({partition: Committed(7) for partition in partitions}, Deadline(5.0))
            await super().revoked(partitions)

    leaving, heir = transport.source(topic, topic), transport.source(topic, topic)
    await leaving.start(Settles(leaving))
    joining = asyncio.create_task(heir.start(Follow(heir)))
    async with asyncio.timeout(60):
        while not joining.done():
            await leaving.poll(50, 10)  # raises what the listener raised
    assert await heir.committed([0, 1]) == {0: Committed(7), 1: Committed(7)}
    await leaving.stop(Deadline(5.0))
    await heir.stop(Deadline(5.0))


def briefly(broker: Broker) -> KafkaTransport:
    """Members are missed soon; requests may take very much longer than anything here."""
    return KafkaTransport(settings_for(broker, session_timeout_ms=1000, request_timeout_ms=120_000))


async def given_up_while_frozen(
    broker: Broker, transport: KafkaTransport, topic: str
) -> tuple[set[Any], Any, Any, float]:
    """A sink and a source stopped while the broker answers nothing; what they left, and how long it took."""
    before = asyncio.all_tasks()
    sink, source = transport.sink(), transport.source(topic, topic)
    await sink.start()
    await source.start(Follow(source))
    await send(sink, topic, 0, [b"0"])
    await collect(source, 1)
    producer, consumer = sink._producer, source._consumer
    broker.freeze()
    try:
        await sink.append_many(topic, 0, [None], [b"1"], [int(time.time() * 1000)])
        delivery = await sink.seal()
        begin = time.monotonic()
        with pytest.raises(DeliveryFailed):
            await delivery.wait(Deadline(0.5))
        for part in (source, sink):
            await part.stop(Deadline(0.5))
        return before, producer, consumer, time.monotonic() - begin
    finally:
        broker.go_on()


async def test_clients_given_up_on_a_frozen_broker_end_in_time_and_free_their_partitions(
    own_broker: Broker, unique: Callable[[str], str]
) -> None:
    """An abandoned member that went on heartbeating would keep its partitions from its successor."""
    topic, transport = unique("frozen"), briefly(own_broker)
    own_broker.create(topic, 2)
    _, producer, consumer, took_s = await given_up_while_frozen(own_broker, transport, topic)
    try:
        assert took_s < 60  # half of what a request may take
        heir = transport.source(topic, topic)
        listener = Follow(heir)
        async with asyncio.timeout(60):
            await heir.start(listener)
            while listener.owned != {0, 1}:
                await heir.poll(50, 10)
        await heir.stop(Deadline(5.0))
    finally:
        await dismantle(producer, consumer)


async def test_clients_given_up_leave_no_task_behind(own_broker: Broker, unique: Callable[[str], str]) -> None:
    topic, transport = unique("frozen"), briefly(own_broker)
    own_broker.create(topic, 2)
    before, producer, consumer, _ = await given_up_while_frozen(own_broker, transport, topic)
    try:
        async with asyncio.timeout(60):
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0.05)
    finally:
        await dismantle(producer, consumer)
