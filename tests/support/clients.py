"""Settings of clients of a test broker."""

from __future__ import annotations

from broker import Broker

from streamrnn.transports.kafka.settings import KafkaSettings


def settings_for(broker: Broker, **changes: object) -> KafkaSettings:
    values: dict[str, object] = {
        "bootstrap_servers": broker.servers,
        # Tests that wait for these to pass set shorter ones: the others hold on a machine that stands still for seconds.
        "session_timeout_ms": 3000,
        "heartbeat_interval_ms": 300,
        "request_timeout_ms": 30_000,
        "delivery_timeout_ms": 30_000,
    }
    return KafkaSettings(**{**values, **changes})  # type: ignore[arg-type]
