"""The Kafka transport against Apache Kafka: the contract, compression, broker restarts and freezes, TLS and SASL."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import Broker
from clients import settings_for
from contract import Follow, TransportContract, collect, send
from service import committed, read_all

from streamrnn.transports.base import Committed, Deadline, DeliveryFailed, TopicNeed, TransportError
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka


# aiokafka leaves the connections of an attempt that failed, or of a producer that was abandoned, to the collector.
leaves_connections = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


class TestKafka(TransportContract):
    async def test_topics_that_are_not_there_are_told(self, broker: Broker, topic: str) -> None:  # type: ignore[override]
        """The client looks for them until a request may take no longer."""
        impatient = KafkaTransport(settings_for(broker, request_timeout_ms=2000))
        await super().test_topics_that_are_not_there_are_told(impatient, topic)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "snappy", "gzip"])
async def test_compressed_topics_are_written_and_read(broker: Broker, unique: Callable[[str], str], codec: str) -> None:
    topic = unique(codec)
    broker.create(topic, 1)
    transport = KafkaTransport(settings_for(broker, compression_type=codec))
    sink, source = transport.sink(), transport.source(topic, topic)
    await sink.start()
    values = [b'{"series":"pump","n":%d}' % i for i in range(3000)]
    await send(sink, topic, 0, values)
    await source.start(Follow(source))
    assert [r.value for r in await collect(source, 3000)] == values
    assert await read_in_bulk(transport, topic) == {0: [(b"k", value) for value in values]}
    await source.stop(Deadline(5.0))
    await sink.stop(Deadline(5.0))


async def read_in_bulk(transport: KafkaTransport, topic: str) -> dict[int, list[tuple[bytes | None, bytes | None]]]:
    """(key, value) of all records to the end, by partition."""
    reader, found = transport.reader(bulk=True), defaultdict(list)
    await reader.start(topic, None)
    ends = await reader.end_offsets()
    async with asyncio.timeout(60):
        while any(reader.position(partition) < end for partition, end in ends.items()):
            for partition, records in await reader.poll(100, 1000):
                found[partition] += [(record.key, record.value) for record in records]
    await reader.stop(Deadline(5.0))
    return dict(found)


async def test_a_bulk_reader_gets_every_byte_of_every_partition(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic, luck = unique("bulk"), random.Random(3)
    broker.create(topic, 3)
    sink, sent = transport.sink(), defaultdict(list)
    await sink.start()
    for turn in range(30):  # answers of all sizes: smaller and larger than what the reader keeps at hand
        partition = turn % 3
        size = luck.choice([20, 3000, 60_000])
        values = [luck.randbytes(size) for _ in range(luck.choice([1, 9]))]
        keys = [b"%d.%d" % (turn, i) for i in range(len(values))]
        await sink.append_many(topic, partition, keys, values, [0] * len(values))
        await (await sink.seal()).wait(Deadline(20.0))
        sent[partition] += zip(keys, values, strict=True)
    await sink.stop(Deadline(5.0))
    assert await read_in_bulk(transport, topic) == sent


async def test_more_than_a_batch_holds_arrives_in_order(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("large")
    broker.create(topic, 1)
    sink, source = transport.sink(), transport.source(topic, topic)
    await sink.start()
    values = [b"%06d" % i + b"x" * 3000 for i in range(1500)]
    await send(sink, topic, 0, values)
    await source.start(Follow(source))
    assert [(r.value or b"")[:6] for r in await collect(source, 1500)] == [v[:6] for v in values]
    await source.stop(Deadline(5.0))
    await sink.stop(Deadline(5.0))


async def test_transactions_follow_each_other_without_being_waited_for(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("queued")
    broker.create(topic, 1)
    sink = transport.transactional(topic)
    await sink.start()
    deliveries = []
    for n in range(5):
        await sink.append_many(topic, 0, [None, None], [b"%d a" % n, b"%d b" % n], [0, 0])
        deliveries.append(await sink.commit(topic, {0: Committed(2 * n)}, topic))
    for delivery in reversed(deliveries):
        await delivery.wait(Deadline(20.0))
    await sink.stop(Deadline(5.0))
    assert sink.in_flight_bytes == 0
    assert [r.value for r in await read_all(broker, topic)] == [b"%d %c" % (n, c) for n in range(5) for c in b"ab"]
    assert (await committed(broker, topic))[0][-1] == 8


@leaves_connections
async def test_nothing_follows_a_transaction_that_failed(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    topic = unique("fenced")
    broker.create(topic, 1)
    old, new = transport.transactional(topic), transport.transactional(topic)
    await old.start()
    await old.append_many(topic, 0, [None], [b"before"], [0])
    await (await old.commit(topic, {}, topic)).wait(Deadline(20.0))
    await new.start()
    deliveries = []
    for n in range(3):
        await old.append_many(topic, 0, [None], [b"zombie %d" % n], [0])
        deliveries.append(await old.commit(topic, {0: Committed(n)}, topic))
    for delivery in deliveries:
        with pytest.raises(TransportError):
            await delivery.wait(Deadline(20.0))
    await new.append_many(topic, 0, [None], [b"after"], [0])
    await (await new.commit(topic, {0: Committed(100)}, topic)).wait(Deadline(20.0))
    await old.stop(Deadline(2.0))
    await new.stop(Deadline(5.0))
    assert [r.value for r in await read_all(broker, topic)] == [b"before", b"after"]
    assert (await committed(broker, topic))[0] == [100]


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.006, 0.02])
async def test_a_producer_closed_while_it_starts_leaves_nothing_behind(
    transport: KafkaTransport, unique: Callable[[str], str], after_s: float
) -> None:
    """Clients are closed while the group deals out partitions, which opens producers."""
    before = asyncio.all_tasks()
    sink = transport.transactional(unique("closed"))
    starting = asyncio.create_task(sink.start())
    await asyncio.sleep(after_s)
    producer = sink._producer  # type: ignore[attr-defined]
    started = starting.done()
    await sink.stop(Deadline(5.0))
    if not started:
        with pytest.raises(TransportError, match="closed"):
            await starting
    async with asyncio.timeout(60):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)
    assert producer is not None
    assert not any(connection.connected() for connection in producer.client._conns.values())
    with pytest.raises(DeliveryFailed, match="is closed"):
        await sink.append_many("t", 0, [None], [b"1"], [0])


@leaves_connections
async def test_a_restarted_broker_is_found_again(own_broker: Broker, unique: Callable[[str], str]) -> None:
    topic = unique("restarted")
    own_broker.create(topic, 1)
    transport = KafkaTransport(settings_for(own_broker))
    sink, source = transport.sink(), transport.source(topic, topic)
    await sink.start()
    await source.start(Follow(source))
    await send(sink, topic, 0, [b"before"])
    assert len(await collect(source, 1)) == 1
    await source.commit({0: Committed(1)}, Deadline(5.0))  # the broker's clock may send us through a rebalance
    own_broker.kill()
    await asyncio.to_thread(own_broker.start)
    await send(sink, topic, 0, [b"after"])
    assert (await collect(source, 1))[0].value == b"after"
    await source.stop(Deadline(5.0))
    await sink.stop(Deadline(5.0))


@leaves_connections
async def test_a_frozen_broker_meets_a_deadline_not_a_hang(own_broker: Broker, unique: Callable[[str], str]) -> None:
    topic = unique("deadline")
    own_broker.create(topic, 1)
    sink = KafkaTransport(settings_for(own_broker, request_timeout_ms=120_000, delivery_timeout_ms=120_000)).sink()
    await sink.start()
    await send(sink, topic, 0, [b"before"])
    own_broker.freeze()
    begin = time.monotonic()
    await sink.append_many(topic, 0, [b"k"], [b"lost?"], [1])
    delivery = await sink.seal()
    with pytest.raises(DeliveryFailed, match="not acknowledged"):
        await delivery.wait(Deadline(1.0))
    await sink.stop(Deadline(1.0))
    assert time.monotonic() - begin < 60  # half of what a request may take
    own_broker.go_on()


@leaves_connections
async def test_a_broker_that_is_not_there_is_told_clearly() -> None:
    from streamrnn.transports.kafka.settings import KafkaSettings

    admin = KafkaTransport(KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_ms=2000)).admin()
    with pytest.raises(TransportError, match="no connection"):
        await admin.start()


# ── TLS and SASL ─────────────────────────────────────────────────────────────────────────────────────────────────

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority of the test's own, and a broker certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=broker"
    )
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "san", "-out", "broker.pem")  # fmt: skip
    (folder / "keystore.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
    return folder


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> object:
    scram = "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config"
    running = Broker(
        tmp_path_factory.mktemp("secure"),
        inter__broker__listener__name="SASL_SSL",
        listener__security__protocol__map="SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        sasl__enabled__mechanisms="SCRAM-SHA-512",
        sasl__mechanism__inter__broker__protocol="SCRAM-SHA-512",
        ssl__keystore__type="PEM",
        ssl__keystore__location=str(authority / "keystore.pem"),
        ssl__truststore__type="PEM",
        ssl__truststore__location=str(authority / "ca.pem"),
    )
    text = running.properties.read_text().replace(f"PLAINTEXT://{running.servers}", f"SASL_SSL://{running.servers}")
    text += (
        f"{scram}=org.apache.kafka.common.security.scram.ScramLoginModule required "
        f'username="app" password="{PASSWORD}";\n'
    )
    running.properties.write_text(text)
    running.format_options = ["--add-scram", f"SCRAM-SHA-512=[name=app,password={PASSWORD}]"]
    running.start()
    yield running
    running.stop()


@leaves_connections
async def test_tls_and_scram_let_the_right_password_in_and_no_other(secure: Broker, authority: Path) -> None:
    good = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "app",
        "sasl_plain_password": PASSWORD,
        "ssl_cafile": str(authority / "ca.pem"),
        "request_timeout_ms": 5000,
    }
    admin = KafkaTransport(settings_for(secure, **good)).admin()
    await admin.start()
    assert await admin.describe(["nothing"]) == {"nothing": None}
    await admin.create([TopicNeed("bulk", 1, {})])
    await admin.stop()
    sink, values = KafkaTransport(settings_for(secure, **good)).sink(), [b"%07d" % i * 300 for i in range(2000)]
    await sink.start()
    await send(sink, "bulk", 0, values)
    await sink.stop(Deadline(5.0))
    assert await read_in_bulk(KafkaTransport(settings_for(secure, **good)), "bulk") == {0: [(b"k", v) for v in values]}
    for change, words in (
        ({"sasl_plain_password": "battery staple"}, "password|connection"),
        ({"ssl_cafile": str(authority / "other.pem")}, "ssl_cafile|connection"),
        ({"security_protocol": "PLAINTEXT"}, "connection"),
    ):
        begin = time.monotonic()
        with pytest.raises(TransportError, match=words) as raised:
            await KafkaTransport(settings_for(secure, **{**good, **change})).admin().start()
        assert "battery staple" not in str(raised.value)
        assert PASSWORD not in str(raised.value)
        assert time.monotonic() - begin < 20


def test_secrets_are_in_no_representation_and_credentials_not_in_the_open(broker: Broker) -> None:
    kafka = settings_for(broker, security_protocol="SASL_SSL", sasl_plain_username="app", sasl_plain_password=PASSWORD)
    assert PASSWORD not in repr(kafka)
    open_air = settings_for(
        broker, bootstrap_servers="kafka.example:9092", security_protocol="SASL_PLAINTEXT", sasl_plain_username="app"
    )
    with pytest.raises(TransportError, match="SASL_SSL"):
        open_air.client()
