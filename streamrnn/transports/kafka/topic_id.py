"""Which topic it is that has a name: the id that the broker gave it when it was made (KIP-516).

A version of the metadata request that aiokafka does not have. A topic that was deleted and made anew has the old name, and
once enough has been sent to it, offsets that look like the old ones; nothing else distinguishes them.
"""

from __future__ import annotations

import uuid
from io import BytesIO

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

_UNKNOWN_TOPIC = 3


class Uuid(AbstractType):  # type: ignore[misc] # aiokafka has no types
    """A topic's id on the wire."""

    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


_NONE = uuid.UUID(int=0)
_TEXT = CompactString("utf-8")


class _Answer(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), ("tags", TaggedFields)),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(("id", Uuid), ("topic", _TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicId(Request[_Question]):  # type: ignore[misc]
    """For one topic; it is not created. Brokers before Kafka 2.8 do not answer it (NotImplementedError)."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_Question]) -> _Question:
        return request_struct_class([(_NONE, self._topic, {})], False, False, False, {})


def id_in(answer: _Answer) -> str | None:
    """None where there is no such topic, "" where the broker gives no ids, or not now."""
    [topic] = answer.to_object()["topics"]
    if topic["error_code"] == _UNKNOWN_TOPIC:
        return None
    return "" if topic["error_code"] or topic["id"] == _NONE else str(topic["id"])
