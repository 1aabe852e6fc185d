"""How a Kafka client is made: the connection, its secrets, and the limits of what is read and sent."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiokafka.helpers import create_ssl_context

from streamrnn.transports.base import TransportError


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Connection and limits, under Kafka's own names. Times in ms, sizes in bytes. Secrets never appear in `repr`."""

    bootstrap_servers: str = "localhost:9092"
    client_id: str = "streamrnn"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_plain_username: str | None = None
    sasl_plain_password: str | None = field(default=None, repr=False)
    # Read again for every client, as the certificates are: one that is made after a change logs in with what is there then.
    sasl_plain_password_file: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: str | None = field(default=None, repr=False)
    # SASL without TLS sends a password that can be read (PLAIN) or attacked off-line (SCRAM); loopback is exempt.
    allow_sasl_plaintext: bool = False
    request_timeout_ms: int = 20_000
    # How late it is seen at most that a topic has more partitions, or is there again; the clients' own default is 5 minutes.
    metadata_max_age_ms: int = 30_000
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 3_000
    # aiokafka's default is the session time-out: far too short to deliver, commit and give up inside a revoke.
    rebalance_timeout_ms: int = 60_000
    max_poll_interval_ms: int = 300_000
    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_committed"
    group_instance_id: str | None = None
    fetch_max_wait_ms: int = 500
    fetch_max_bytes: int = 16 * 1024 * 1024
    max_partition_fetch_bytes: int = 2 * 1024 * 1024
    compression_type: Literal["gzip", "snappy", "lz4", "zstd"] | None = None
    # One request per partition and batch; must stay below the broker's message.max.bytes (1 MiB by default).
    batch_bytes_max: int = 900_000
    in_flight_bytes_max: int = 64 * 1024 * 1024
    delivery_timeout_ms: int = 30_000
    # Longer than a batch and its delivery, shorter than the broker's transaction.max.timeout.ms (15 minutes by default).
    transaction_timeout_ms: int = 60_000

    def client(self) -> dict[str, Any]:
        """Keyword arguments for any aiokafka client. Raises TransportError when the settings cannot be honoured."""
        for server in self.bootstrap_servers.split(","):
            port = _host_and_port(server)[1]
            if port and not port.isdigit():
                raise TransportError(f"kafka.bootstrap_servers: {server.strip()!r} is not host:port")
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": self.request_timeout_ms,
            "metadata_max_age_ms": self.metadata_max_age_ms,
        }
        if self.security_protocol in ("SSL", "SASL_SSL"):
            options["ssl_context"] = self._ssl_context()
        if self.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
            if self.security_protocol == "SASL_PLAINTEXT" and not self._sasl_plaintext_allowed():
                raise TransportError(
                    "SASL_PLAINTEXT would send credentials over an unencrypted network: use SASL_SSL, or set "
                    "kafka.allow_sasl_plaintext: true if this network is trusted"
                )
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_plain_username
            options["sasl_plain_password"] = self._password()
        return options

    def _password(self) -> str | None:
        if self.sasl_plain_password_file is None:
            return self.sasl_plain_password
        try:
            return Path(self.sasl_plain_password_file).read_text().strip()
        except OSError as error:
            raise TransportError(f"kafka.sasl_plain_password_file cannot be read ({error.strerror})") from error

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context: ssl.SSLContext = create_ssl_context(
                cafile=self.ssl_cafile,
                certfile=self.ssl_certfile,
                keyfile=self.ssl_keyfile,
                # Without one OpenSSL would ask for it on the terminal.
                password=self.ssl_password or (lambda: ""),
            )
        except OSError as error:  # ssl.SSLError is one
            raise TransportError(
                f"the TLS files cannot be used (ssl_cafile, ssl_certfile, ssl_keyfile and its ssl_password): {error}"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _sasl_plaintext_allowed(self) -> bool:
        return self.allow_sasl_plaintext or all(_is_loopback(server) for server in self.bootstrap_servers.split(","))


def _host_and_port(server: str) -> tuple[str, str]:
    """The port may be left out; an IPv6 host stands in brackets."""
    server = server.strip()
    if ":" not in server or server.endswith("]"):
        return server, ""
    host, _, port = server.rpartition(":")
    return host, port


def _is_loopback(server: str) -> bool:
    """By the whole host, not by how it begins: anybody may own localhost.example.com."""
    host = _host_and_port(server)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
