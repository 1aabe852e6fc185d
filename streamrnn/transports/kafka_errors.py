"""Kafka's errors in words that say what to do."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)

from streamrnn.transports.base import TopicMissing, TransportError, Unreadable

if TYPE_CHECKING:
    from streamrnn.transports.kafka import KafkaSettings


def explained(error: BaseException, settings: KafkaSettings, doing: str) -> TransportError:
    """The TransportError for what went wrong while `doing` something; never holds a secret."""
    where = f"{doing} at {settings.bootstrap_servers} ({settings.security_protocol})"
    if isinstance(error, TransportError):
        return error
    if isinstance(error, (SaslAuthenticationFailed, UnsupportedSaslMechanismError)):
        return TransportError(
            f"{where}: the broker refused user {settings.sasl_plain_username!r} by {settings.sasl_mechanism}: "
            "check kafka.sasl_plain_username, the password and kafka.sasl_mechanism"
        )
    if isinstance(error, (TopicAuthorizationFailedError, GroupAuthorizationFailedError)):
        return TransportError(f"{where}: not permitted ({error}); deploy/README.md lists the ACLs that are needed")
    if isinstance(error, UnknownTopicOrPartitionError):
        return TopicMissing(f"{where}: no such topic ({error}); `streamrnn topics --create` makes what is missing")
    if isinstance(error, KafkaConnectionError):
        hint = "is the broker up, and kafka.bootstrap_servers right?"
        if settings.security_protocol in ("SSL", "SASL_SSL"):
            hint = "is that port a TLS port, and the broker's certificate valid for this host and signed by ssl_cafile?"
        if settings.security_protocol.startswith("SASL"):
            hint += " A wrong user or password also ends the connection."
        return TransportError(f"{where}: no connection ({error}); {hint}")
    if isinstance(error, TimeoutError):
        return TransportError(f"{where}: no answer in time")
    kind = type(error).__name__
    return TransportError(f"{where}: {kind}: {error}" if isinstance(error, KafkaError) else f"{where}: {kind} {error}")


def reading_failed(error: Exception, settings: KafkaSettings, topic: str) -> TransportError:
    """What a poll raised. A damaged batch comes out of the client as whatever its decoder stumbled over: SystemError,
    EOFError, UnicodeDecodeError, zlib.error, cramjam's DecompressionError and others were seen."""
    doing = f"reading {topic}"
    damaged = (CorruptRecordException, UnsupportedCodecError, gzip.BadGzipFile)
    if isinstance(error, (KafkaError, OSError, TransportError)) and not isinstance(error, damaged):
        return explained(error, settings, doing)
    kind = type(error).__name__
    return Unreadable(f"{doing} at {settings.bootstrap_servers}: records that cannot be read: {kind}: {error}")
