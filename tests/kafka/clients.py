"""Clients of a test broker that give up soon."""

from __future__ import annotations

from broker import Broker

from streamrnn.transports.kafka import KafkaSettings


def settings_for(broker: Broker, **changes: object) -> KafkaSettings:
    values: dict[str, object] = {
        "bootstrap_servers": broker.servers,
        "session_timeout_ms": 1000,
        "heartbeat_interval_ms": 300,
        "request_timeout_ms": 10_000,
        "delivery_timeout_ms": 10_000,
    }
    return KafkaSettings(**{**values, **changes})  # type: ignore[arg-type]
