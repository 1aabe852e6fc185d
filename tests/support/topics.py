"""Topics whose settings a test gives, and what is found wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamrnn.serving.topics import TopicState, examine, input_state
from streamrnn.transports.memory.transport import MemoryAdmin, MemoryBroker, MemoryTransport

DAY_MS = 86_400_000
KAFKAS_OWN = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048588",
    "retention.ms": str(7 * DAY_MS),
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.after.max.ms": "3600000",
}


class Given(MemoryAdmin):
    """Answers with settings of topics by the last part of their names; all else is Kafka's default."""

    given: Mapping[str, Mapping[str, str]]

    async def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        compact = ("state", "models")
        return {
            name: {**KAFKAS_OWN, **({"cleanup.policy": "compact"} if name.endswith(compact) else {})}
            | dict(self.given.get(name.removeprefix("app."), {}))
            for name in names
        }


async def examined(given: Mapping[str, Mapping[str, str]], chosen: Any) -> list[TopicState]:
    broker = MemoryBroker()
    broker.create(chosen.input, 2)
    for need in chosen.topic_needs(2):
        broker.create(need.name, need.partitions)
    admin = Given(broker)
    admin.given = given
    return await examine(admin, chosen, await input_state(admin, chosen, MemoryTransport(broker)))
