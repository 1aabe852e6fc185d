"""Reading whole partitions without a group, and looking after topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidConfigurationError,
    KafkaError,
    TopicAlreadyExistsError,
    TransactionalIdAuthorizationFailed,
    for_code,
)

from streamrnn.records import Record
from streamrnn.transports.base import (
    CONFIGS_READ,
    Deadline,
    GroupMember,
    Inputs,
    OneTopic,
    TopicMissing,
    TopicNeed,
    TopicUnfit,
    TransportError,
    inputs_read,
)
from streamrnn.transports.kafka.closing import close_consumer
from streamrnn.transports.kafka.errors import explained, reading_failed
from streamrnn.transports.kafka.groups import members_of
from streamrnn.transports.kafka.permissions import GroupPermissions, TopicPermissions, forbidden, may_read
from streamrnn.transports.kafka.starting import start_client
from streamrnn.transports.kafka.topic_configs import AlterTopic

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings


VISIBLE_S = 10.0
COORDINATOR_S = 30.0
GROUPS, TRANSACTIONS = 0, 1  # kinds of coordinators
# Settings of topics that older brokers do not know.
NEWER_CONFIGS = "message.timestamp."


class KafkaReader:
    """See transports.base.PartitionReader."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._consumer: Any = None
        self._inputs: Inputs = OneTopic("")
        self._topic = ""  # or several, for messages
        self._positions: dict[int, int] = {}

    async def start(self, topic: str | Inputs, start: Mapping[int, int] | None) -> None:
        settings = self._settings
        inputs = self._inputs = inputs_read(topic)
        topic = self._topic = ", ".join(inputs.topics)
        # Asked of the admin, which lists all topics: a consumer that asks for one by name could create it.
        admin = KafkaAdmin(settings)
        await admin.start()
        try:
            found = await admin.describe(inputs.topics)
        finally:
            await admin.stop()
        if not any(found.values()):
            raise TopicMissing(f"no topic {topic!r}: `streamrnn topics --create` makes those of this service")
        there = [(name, p) for name, partitions in found.items() for p in range(partitions or 0)]
        await inputs.admit(there)
        known = [inputs.numbering.number(*place) for place in there]
        wanted = sorted(start if start is not None else known)
        if missing := sorted(set(wanted) - set(known)):
            raise TopicUnfit(
                f"{topic} has {len(known)} partitions and partition {missing[-1]} is needed: `streamrnn topics --create`, "
                f"or kafka-topics.sh --alter --topic {topic} --partitions {missing[-1] + 1}"
            )
        self._consumer = AIOKafkaConsumer(
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=settings.isolation_level,
            fetch_max_bytes=settings.fetch_max_bytes,
            max_partition_fetch_bytes=settings.max_partition_fetch_bytes,
            **settings.client(),
        )
        try:
            await start_client(self._consumer, settings, f"reading {topic}")
            begin = await self._consumer.beginning_offsets([self._tp(partition) for partition in wanted])
        except (KafkaError, OSError, TimeoutError) as error:
            raise explained(error, settings, f"reading {topic}") from error
        for partition in wanted:
            low = begin[self._tp(partition)]
            self._positions[partition] = low if start is None else max(start[partition], low)
        self._follow()

    def _follow(self) -> None:
        self._consumer.assign([self._tp(partition) for partition in self._positions])
        for partition, position in self._positions.items():
            self._consumer.seek(self._tp(partition), position)

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        try:
            fetched = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=records_max)
            for partition in self._positions:
                # The client's own position goes beyond holes that compaction or transaction markers left.
                self._positions[partition] = await self._consumer.position(self._tp(partition))
        except Exception as error:
            raise reading_failed(error, self._settings, self._topic) from error
        number = self._inputs.numbering.number
        return [(number(tp.topic, tp.partition), records) for tp, records in fetched.items() if records]

    async def begin_offsets(self) -> dict[int, int]:
        return await self._offsets(self._consumer.beginning_offsets)

    async def end_offsets(self) -> dict[int, int]:
        return await self._offsets(self._consumer.end_offsets)

    async def _offsets(self, ask: Any) -> dict[int, int]:
        try:
            answer = await ask([self._tp(partition) for partition in self._positions])
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, f"asking for the offsets of {self._topic}") from error
        return {self._inputs.numbering.number(tp.topic, tp.partition): offset for tp, offset in answer.items()}

    def position(self, partition: int) -> int:
        return self._positions[partition]

    async def stop(self, deadline: Deadline) -> None:
        if self._consumer is None:
            return
        consumer, self._consumer = self._consumer, None
        await close_consumer(consumer, deadline)

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(*self._inputs.numbering.place(partition))


class KafkaAdmin:
    """See transports.base.Admin."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: Any = None

    async def start(self) -> None:
        settings = self._settings
        self._client = AIOKafkaAdminClient(**settings.client())
        try:
            await start_client(self._client, settings, "connecting")
        except TransportError:
            await self.stop()
            raise

    async def describe(self, names: Sequence[str]) -> dict[str, int | None]:
        try:
            existing = set(await self._client.list_topics())
            known = [name for name in names if name in existing]
            described = await self._client.describe_topics(known) if known else []
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, "asking for topics") from error
        counts = {entry["topic"]: len(entry["partitions"]) for entry in described}
        return {name: counts.get(name) for name in names}

    async def topics(self) -> list[str]:
        try:
            return sorted(await self._client.list_topics())
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, "asking for topics") from error

    async def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        try:
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
            for answer in await self._client.describe_configs(resources):
                for code, _, _, topic, entries in answer.resources:
                    if not code:
                        found[topic] = {entry[0]: entry[1] for entry in entries if entry[0] in CONFIGS_READ}
        except (KafkaError, OSError, AttributeError):
            return found  # no right to ask, or a broker that does not know: then it is not checked
        return found

    async def forbidden(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        try:
            answer = await self._client._send_request(TopicPermissions(list(wanted)))  # noqa: SLF001
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, "asking for permissions") from error
        except NotImplementedError:
            return {}  # an old broker: then it shows when it is tried
        return forbidden(answer, wanted)

    async def may_join(self, group: str) -> bool:
        coordinator = await self._coordinator(group, GROUPS)
        if coordinator is None:
            return False
        try:
            answer = await self._client._send_request_to_node(coordinator, GroupPermissions([group]))  # noqa: SLF001
        except (KafkaError, OSError, TimeoutError, NotImplementedError):
            return True  # an old broker, or one that is busy: then it shows when it is tried
        return may_read(answer)

    async def may_transact(self, transactional_id: str) -> bool:
        return await self._coordinator(transactional_id, TRANSACTIONS) is not None

    async def _coordinator(self, name: str, kind: int) -> int | None:
        """The broker that coordinates a group or transactional id; None where this user may not even know of it."""
        deadline = Deadline(COORDINATOR_S)
        while True:
            try:
                found: int = await self._client.find_coordinator(name, kind)
            except (GroupAuthorizationFailedError, TransactionalIdAuthorizationFailed):
                return None
            except (KafkaError, OSError) as error:
                # The first one who ever asks has the coordinator's topic made.
                if deadline.passed or not getattr(error, "retriable", False):
                    raise explained(error, self._settings, f"asking for the coordinator of {name}") from error
                await asyncio.sleep(0.1)
            else:
                return found

    async def create(self, needs: Sequence[TopicNeed]) -> list[str]:
        found = await self.describe([need.name for need in needs])
        missing = [need for need in needs if found[need.name] is None]
        grown = {need.name: need for need in needs if (found[need.name] or need.partitions) < need.partitions}
        made = [*(await self._make(missing) if missing else []), *(await self._grow(grown) if grown else [])]
        # Metadata follow by a moment; whoever asks next should find what was made.
        deadline = Deadline(VISIBLE_S)
        while not deadline.passed:
            found = await self.describe(made)
            if all((found[need.name] or 0) >= need.partitions for need in needs if need.name in made):
                break
            await asyncio.sleep(0.05)
        return made

    async def _grow(self, needs: Mapping[str, TopicNeed]) -> list[str]:
        try:
            await self._client.create_partitions({name: NewPartitions(need.partitions) for name, need in needs.items()})
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, f"adding partitions to {', '.join(needs)}") from error
        return list(needs)

    async def _make(self, missing: Sequence[TopicNeed]) -> list[str]:
        try:
            # aiokafka cannot say "the broker's default": three copies where there are three brokers.
            copies = min(3, len((await self._client.describe_cluster())["brokers"]))
            topics = [
                NewTopic(
                    need.name,
                    need.partitions,
                    need.replication if need.replication > 0 else copies,
                    topic_configs=dict(need.config),
                )
                for need in missing
            ]
            answer = await self._client.create_topics(topics)
        except AttributeError:
            # librdkafka's built-in broker names no controller, but makes any topic that is asked about.
            await self._client.describe_topics([need.name for need in missing])
            return [need.name for need in missing]
        except (KafkaError, OSError) as error:
            raise explained(error, self._settings, "creating topics") from error
        made: list[str] = []
        plainer: list[TopicNeed] = []
        needs = {need.name: need for need in missing}
        for name, code, *rest in answer.topic_errors:
            config = {k: v for k, v in needs[name].config.items() if not k.startswith(NEWER_CONFIGS)}
            if not code:
                made.append(name)
            elif for_code(code) is InvalidConfigurationError and config != dict(needs[name].config):
                plainer.append(replace(needs[name], config=config))
            elif for_code(code) is not TopicAlreadyExistsError:
                detail = rest[0] if rest and rest[0] else for_code(code).__name__
                raise explained(for_code(code)(str(detail)), self._settings, f"creating topic {name}")
        return [*made, *(await self._make(plainer) if plainer else [])]

    async def members(self, group: str) -> list[GroupMember]:
        return await members_of(self._client, self._settings, group)

    async def alter(self, topic: str, config: Mapping[str, str]) -> None:
        doing = f"setting {', '.join(config)} of {topic}"
        try:
            answer = await self._client._send_to_controller(AlterTopic(topic, config))  # noqa: SLF001
        except (KafkaError, OSError, NotImplementedError) as error:
            raise explained(error, self._settings, doing) from error
        for code, text, _, _ in answer.responses:
            if code:
                raise explained(for_code(code)(text or ""), self._settings, doing)

    async def stop(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()
