"""Who is in a consumer group, and where the group is.

A group of the newer protocol (KIP-848) is unknown to the older request, which calls it "Dead" and reports no error: a live
group looks like none. So both are asked; the broker knows a group by one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields
from aiokafka.structs import OffsetAndMetadata

from streamrnn.transports.base import Committed, Deadline, GroupMember, TopicMissing
from streamrnn.transports.kafka.closing import close_consumer
from streamrnn.transports.kafka.errors import explained
from streamrnn.transports.kafka.starting import start_client
from streamrnn.transports.kafka.topic_id import Uuid

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings

# How long a coordinator may take to come up, and how often it is asked: the first group of a cluster has to wait for it.
COORDINATOR_S, AGAIN_S = 10.0, 0.1
_PASSING = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
_NO_SUCH_GROUP = 69
_TEXT, _TAGS = CompactString("utf-8"), ("tags", TaggedFields)
_ASSIGNMENT = Schema(
    (
        "topics",
        CompactArray(("id", Uuid), ("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS),
    ),
    _TAGS,
)


class _Answer(Response):  # type: ignore[misc] # aiokafka has no types
    API_KEY = 69
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            CompactArray(
                ("error_code", Int16),
                ("error_message", _TEXT),
                ("group", _TEXT),
                ("state", _TEXT),
                ("group_epoch", Int32),
                ("assignment_epoch", Int32),
                ("assignor", _TEXT),
                (
                    "members",
                    CompactArray(
                        ("member_id", _TEXT),
                        ("instance_id", _TEXT),
                        ("rack", _TEXT),
                        ("member_epoch", Int32),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("topics", CompactArray(_TEXT)),
                        ("topic_regex", _TEXT),
                        ("assignment", _ASSIGNMENT),
                        ("target_assignment", _ASSIGNMENT),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _Question(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 69
    API_VERSION = 0
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(("groups", CompactArray(_TEXT)), ("include_authorized_operations", Boolean), _TAGS)


class DescribeNewer(Request[_Question]):  # type: ignore[misc]
    """A group of the newer protocol. Brokers that do not have it (before Kafka 3.7) do not answer."""

    API_KEY = 69

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_Question]) -> _Question:
        return request_struct_class([self._group], False, {})


async def members_of(client: Any, settings: KafkaSettings, group: str) -> list[GroupMember]:
    """Of either protocol, by an AIOKafkaAdminClient that was started. Raises NotPermitted, TransportError."""
    deadline = Deadline(COORDINATOR_S)
    while True:
        try:
            return [*await _older(client, group), *await _newer(client, group)]
        except _PASSING as error:
            if deadline.passed:
                raise explained(error, settings, f"asking for the members of group {group}") from error
            await asyncio.sleep(AGAIN_S)
        except (KafkaError, OSError) as error:
            raise explained(error, settings, f"asking for the members of group {group}") from error


async def _older(client: Any, group: str) -> list[GroupMember]:
    found: list[GroupMember] = []
    try:
        [answer] = await client.describe_consumer_groups([group])
    except (NotImplementedError, IncompatibleBrokerVersion):
        return found
    for code, _, _, _, _, members, *_ in answer.groups:
        if code and code != _NO_SUCH_GROUP:
            raise for_code(code)()
        for member, name, host, metadata, _ in members:
            # While a rebalance runs, the broker does not say what its members subscribe to.
            topics = tuple(ConsumerProtocolMemberMetadata.decode(metadata).subscription) if metadata else None
            found.append(GroupMember(member, name, host.lstrip("/"), topics))
    return found


async def _newer(client: Any, group: str) -> list[GroupMember]:
    node = await client.find_coordinator(group)
    try:
        answer = await client._send_request(DescribeNewer(group), node)  # noqa: SLF001
    except (NotImplementedError, IncompatibleBrokerVersion):
        return []
    found: list[GroupMember] = []
    for described in answer.to_object()["groups"]:
        if described["error_code"] == _NO_SUCH_GROUP:
            continue
        if described["error_code"]:
            raise for_code(described["error_code"])(described["error_message"] or "")
        for member in described["members"]:
            topics = None if member["topic_regex"] else tuple(member["topics"])
            host = member["client_host"].lstrip("/")
            found.append(GroupMember(member["member_id"], member["client_id"], host, topics))
    return found


class KafkaGroupOffsets:
    """See transports.base.GroupOffsets. A consumer that is no member, as Kafka's own tools have one."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str) -> None:
        self._settings, self._topic, self._group = settings, topic, group
        self._consumer: Any = None
        self._all: list[TopicPartition] = []

    async def start(self) -> None:
        settings = self._settings
        self._consumer = AIOKafkaConsumer(
            group_id=self._group, enable_auto_commit=False, auto_offset_reset="none", **settings.client()
        )
        await start_client(self._consumer, settings, f"looking at group {self._group}")
        # Of all topics: a consumer that asks for one by name could create it.
        known = await self._asked(self._consumer._client.fetch_all_metadata())  # noqa: SLF001
        partitions = known.partitions_for_topic(self._topic)
        if not partitions:
            raise TopicMissing(f"no topic {self._topic!r}")
        self._all = [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
        self._consumer.assign(self._all)

    async def committed(self) -> dict[int, Committed | None]:
        known = await self._asked(self._consumer._coordinator.fetch_committed_offsets(self._all))  # noqa: SLF001
        entries = {tp.partition: known.get(tp) for tp in self._all}
        return {p: Committed(e.offset, e.metadata or "") if e and e.offset >= 0 else None for p, e in entries.items()}

    async def begin(self) -> dict[int, int]:
        return {tp.partition: at for tp, at in (await self._asked(self._consumer.beginning_offsets(self._all))).items()}

    async def end(self) -> dict[int, int]:
        return {tp.partition: at for tp, at in (await self._asked(self._consumer.end_offsets(self._all))).items()}

    async def at_time(self, time_ms: int) -> dict[int, int | None]:
        found = await self._asked(self._consumer.offsets_for_times(dict.fromkeys(self._all, time_ms)))
        return {tp.partition: entry.offset if entry is not None else None for tp, entry in found.items()}

    async def set(self, offsets: Mapping[int, Committed]) -> None:
        wanted = {
            TopicPartition(self._topic, p): OffsetAndMetadata(entry.offset, entry.metadata)
            for p, entry in offsets.items()
        }
        await self._asked(self._consumer.commit(wanted))

    async def _asked(self, asking: Any) -> Any:
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                return await asking
        except (KafkaError, OSError, TimeoutError) as error:
            raise explained(error, self._settings, f"offsets of group {self._group} in {self._topic}") from error

    async def stop(self, deadline: Deadline) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_consumer(consumer, deadline)
