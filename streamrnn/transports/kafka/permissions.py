"""What this user may do with topics and groups, asked of the broker: versions of requests that aiokafka does not have, or
reads wrongly.

Without it a permission that is missing shows only when it is needed: for dead letters with the first bad record, for the
state topic after the next restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

# Bits of Kafka's AclOperation.
OPERATIONS = {"Read": 3, "Write": 4, "Describe": 8}
# The broker says so where it was not asked, or does not know.
UNKNOWN = -(2**31)
GROUP_AUTHORIZATION_FAILED = 30


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


class _GroupsAnswer(Response):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class _GroupsQuestion(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _GroupsAnswer
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class GroupPermissions(Request[_GroupsQuestion]):  # type: ignore[misc]
    """For groups by name, whether there are such or not, asked of their coordinator. Brokers before Kafka 2.3 do not answer
    it (NotImplementedError)."""

    API_KEY = 15

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: type[_GroupsQuestion]) -> _GroupsQuestion:
        return request_struct_class(self._groups, True)


def may_read(answer: _GroupsAnswer) -> bool:
    """Whether the user may be a member of the one group that was asked about; yes where the broker does not say."""
    [group] = answer.to_object()["groups"]
    if group["error_code"] == GROUP_AUTHORIZATION_FAILED:
        return False
    permitted: int = group["authorized_operations"]
    return bool(group["error_code"]) or permitted == UNKNOWN or bool(permitted & 1 << OPERATIONS["Read"])
