"""What this user may do with topics, asked of the broker: a version of the metadata request that aiokafka does not have.

Without it a permission that is missing shows only when it is needed: for dead letters with the first bad record, for the
state topic after the next restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

# Bits of Kafka's AclOperation.
OPERATIONS = {"Read": 3, "Write": 4, "Describe": 8}
# The broker says so where it was not asked, or does not know.
UNKNOWN = -(2**31)


class _Answer(Response):  # type: ignore[misc] # aiokafka has no types
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class TopicPermissions(Request[_Question]):  # type: ignore[misc]
    """For topics by name; none is created. Brokers before Kafka 2.3 do not answer it (NotImplementedError)."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_Question]) -> _Question:
        return request_struct_class(self._topics, False, False, True)


def forbidden(answer: _Answer, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """By topic, the operations among those wanted that the broker would refuse."""
    denied: dict[str, list[str]] = {}
    for topic in answer.to_object()["topics"]:
        permitted = topic["authorized_operations"]
        if topic["error_code"] or permitted == UNKNOWN:
            continue
        missing = [name for name in wanted.get(topic["topic"], ()) if not permitted & 1 << OPERATIONS[name]]
        if missing:
            denied[topic["topic"]] = missing
    return denied
