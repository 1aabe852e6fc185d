"""What the Kafka transport does before any broker is reached: which settings it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from streamrnn.transports.base import Deadline, TransportError
from streamrnn.transports.kafka.errors import explained
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.transport import KafkaTransport


def in_the_open(servers: str, **changes: object) -> KafkaSettings:
    values: dict[str, object] = {
        "bootstrap_servers": servers,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "app",
        "sasl_plain_password": "correct horse",
    }
    return KafkaSettings(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("servers", ["localhost:9092", "127.0.0.1:9092", "127.8.8.8:1", "[::1]:9092", "localhost"])
def test_a_password_may_cross_the_loopback_unencrypted(servers: str) -> None:
    assert in_the_open(servers).client()["sasl_plain_username"] == "app"


@pytest.mark.parametrize("servers", ["kafka.example:9092", "10.0.0.1:9092", "localhost:9092, kafka.example:9092"])
def test_a_password_crosses_no_network_unencrypted_unless_told_to(servers: str) -> None:
    with pytest.raises(TransportError, match="SASL_SSL") as raised:
        in_the_open(servers).client()
    assert "correct horse" not in str(raised.value)
    assert in_the_open(servers, allow_sasl_plaintext=True).client()["sasl_plain_username"] == "app"


@pytest.mark.parametrize("servers", ["localhost.example.com:9092", "127.example.com:9092", "localhosts:9092"])
def test_a_name_that_begins_like_loopback_is_not_loopback(servers: str) -> None:
    with pytest.raises(TransportError, match="SASL_SSL"):
        in_the_open(servers).client()


def test_secrets_are_in_no_representation() -> None:
    settings = in_the_open("localhost:9092", ssl_password="battery staple")
    assert "correct horse" not in repr(settings)
    assert "battery staple" not in repr(settings)
    assert "correct horse" not in str(explained(OSError("reset"), settings, "connecting"))


def test_the_client_writes_no_record_into_the_log() -> None:
    """At DEBUG aiokafka logs every key and value."""
    assert not logging.getLogger("aiokafka.producer.producer").isEnabledFor(logging.DEBUG)


def test_tls_files_that_are_not_there_are_told() -> None:
    with pytest.raises(TransportError, match="ssl_cafile"):
        KafkaSettings(security_protocol="SSL", ssl_cafile="/nowhere/ca.pem").client()


async def test_a_port_that_is_no_number_is_told() -> None:
    with pytest.raises(TransportError, match="bootstrap_servers"):
        await KafkaTransport(KafkaSettings(bootstrap_servers="localhost:kafka")).admin().start()


async def test_a_consumer_whose_own_stop_was_cancelled_does_not_cancel_us() -> None:
    source = KafkaTransport(KafkaSettings()).source("t", "g")

    class Cancelled:
        async def stop(self) -> None:
            raise asyncio.CancelledError

    source._consumer = Cancelled()
    await source.stop(Deadline(1.0))
