"""Kafka's errors in words that say what to do."""

from __future__ import annotations

import gzip
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from aiokafka.errors import (
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    ProducerFenced,
    SaslAuthenticationFailed,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)

from streamrnn.transports.base import NotPermitted, TransportError, Unreadable

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings

# What an error of the broker is about, by its code. Only `content` is the record's own fault: whatever is not in this
# table counts as the connection's, for which clients are built anew.
ErrorKind = Literal["content", "permission", "fenced", "connection"]
CONTENT: Mapping[int, str] = {
    2: "CORRUPT_MESSAGE",  # a record without a key for a compacted topic, before Kafka 2.4; or damage on the way
    10: "MESSAGE_TOO_LARGE",  # max.message.bytes
    18: "RECORD_LIST_TOO_LARGE",  # segment.bytes
    32: "INVALID_TIMESTAMP",  # message.timestamp.before.max.ms, message.timestamp.after.max.ms
    43: "UNSUPPORTED_FOR_MESSAGE_FORMAT",  # headers, where the log's format has none
    44: "POLICY_VIOLATION",
    87: "INVALID_RECORD",  # a record without a key for a compacted topic; one that a schema check of the broker refuses
}
_PERMISSION = frozenset({29, 30, 31, 53})
_FENCED = frozenset({22, 25, 27, 45, 47, 48, 49, 59, 82, 90})


def kind_of(code: int) -> ErrorKind:
    """What an error code of the broker is about."""
    if code in CONTENT:
        return "content"
    if code in _PERMISSION:
        return "permission"
    return "fenced" if code in _FENCED else "connection"


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
    kind = kind_of(getattr(error, "errno", None) or 0)
    if isinstance(error, KafkaError) and kind == "permission":
        return NotPermitted(f"{where}: not permitted ({error}); deploy/README.md lists the ACLs that are needed")
    if isinstance(error, UnknownTopicOrPartitionError):
        # The client says so, too, when it could not ask: whether it is missing is for KafkaAdmin.describe to say.
        return TransportError(f"{where}: the client knows no such topic; it was deleted, or the broker is away")
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return TransportError(
            f"{where}: the broker's certificate is not accepted: {why}. kafka.ssl_cafile must hold the authority that "
            "signed it, kafka.bootstrap_servers the name it was made for"
        )
    if isinstance(error, (KafkaConnectionError, ConnectionError, ssl.SSLError, socket.gaierror)):
        return TransportError(f"{where}: no connection ({_named(error)}); {_hint(error, settings)}")
    if isinstance(error, TimeoutError):
        return TransportError(f"{where}: no answer in time")
    if isinstance(error, ProducerFenced) or (isinstance(error, KafkaError) and kind == "fenced"):
        return TransportError(
            f"{where}: {_named(error)}: another has taken this client's place, or the broker has lost it"
        )
    return TransportError(f"{where}: {_named(error)}")


def _named(error: BaseException) -> str:
    kind, text = type(error).__name__, str(error)
    return text if text.startswith(kind) else f"{kind}: {text}".removesuffix(": ")


def _hint(error: BaseException, settings: KafkaSettings) -> str:
    """What to look at when a server does not take the connection, or ends it without a word."""
    if isinstance(error, (ConnectionRefusedError, socket.gaierror)):
        return "is the broker up, and kafka.bootstrap_servers right?"
    if settings.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        return "is the broker up, and does that port speak TLS? See kafka.bootstrap_servers and kafka.security_protocol"
    wants = "a client certificate (kafka.ssl_certfile)" if settings.ssl_certfile is None else "that client certificate"
    return f"is that port a TLS port, and does it want SASL or {wants}? See kafka.security_protocol"


def reading_failed(error: Exception, settings: KafkaSettings, topic: str) -> TransportError:
    """What a poll raised. A damaged batch comes out of the client as whatever its decoder stumbled over: SystemError,
    EOFError, UnicodeDecodeError, zlib.error, cramjam's DecompressionError and others were seen."""
    doing = f"reading {topic}"
    damaged = (CorruptRecordException, UnsupportedCodecError, gzip.BadGzipFile)
    if isinstance(error, (KafkaError, OSError, TransportError)) and not isinstance(error, damaged):
        return explained(error, settings, doing)
    kind = type(error).__name__
    return Unreadable(f"{doing} at {settings.bootstrap_servers}: records that cannot be read: {kind}: {error}")
