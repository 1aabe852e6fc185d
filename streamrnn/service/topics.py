"""Are the topics there, made as they must be, and permitted? Asked by `validate`, `topics` and every start of a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from streamrnn.transports.base import Admin, NotPermitted, OperatorNeeded, TopicMissing, TopicNeed, TopicUnfit

if TYPE_CHECKING:
    from streamrnn.service.config import Settings


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a topic, what would mend it, and what a start is refused with."""

    what: str
    remedy: str
    kind: type[OperatorNeeded]


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic: how many partitions are needed, how many are there."""

    need: TopicNeed
    have: int | None
    fault: Fault | None = None


async def examine(admin: Admin, settings: Settings, inputs: int | None = None) -> list[TopicState]:
    """All topics of the service, the input first. `inputs`: how many partitions it is to have where it does not exist."""
    found = await admin.describe([settings.input, *settings.topics.names()])
    inputs = found[settings.input] or inputs or 1
    needs = [TopicNeed(settings.input, inputs, {}), *settings.topic_needs(inputs)]
    configs = await admin.configs([need.name for need in needs if need.name != settings.input])
    forbidden = await admin.forbidden(settings.topic_operations())
    return [
        TopicState(
            need, found[need.name], _fault(need, found[need.name], configs.get(need.name, {}), forbidden, settings)
        )
        for need in needs
    ]


def _fault(
    need: TopicNeed,
    have: int | None,
    config: Mapping[str, str],
    forbidden: Mapping[str, Sequence[str]],
    settings: Settings,
) -> Fault | None:
    name, input_topic = need.name, settings.input
    wanted, largest = need.config.get("cleanup.policy", ""), settings.kafka.batch_bytes_max
    policy, takes = config.get("cleanup.policy", wanted), config.get("max.message.bytes", "")
    if have is None:
        options = " --partitions N" if name == input_topic else ""
        return Fault(
            "missing", f"`streamrnn topics --create{options}` makes it; or this user may not see it", TopicMissing
        )
    if have < need.partitions:
        return Fault(
            f"{have} partitions are too few: what comes of partition p of {input_topic} goes to partition p",
            f"`streamrnn topics --create`, or kafka-topics.sh --alter --topic {name} --partitions {need.partitions}",
            TopicUnfit,
        )
    if wanted == "compact" and ("compact" not in policy or "delete" in policy):
        return Fault(
            f"cleanup.policy={policy} would delete states or weights by their age",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact",
            TopicUnfit,
        )
    if takes.isdecimal() and int(takes) < largest:
        return Fault(
            f"max.message.bytes={takes} takes no batch of kafka.batch_bytes_max={largest}",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config max.message.bytes=1048588, "
            f"or set kafka.batch_bytes_max to {takes} or less",
            TopicUnfit,
        )
    if name in forbidden:
        operations = " and ".join(forbidden[name])
        return Fault(f"{operations} not permitted", "deploy/README.md lists the ACLs that are needed", NotPermitted)
    return None


def refuse(states: Sequence[TopicState]) -> None:
    """Raises what the first topic that is wrong deserves, naming all that are."""
    wrong = [(state.fault, state.need.name) for state in states if state.fault is not None]
    if wrong:
        told = [
            f"{', '.join(name for _, name in topics)}: {fault.what} ({fault.remedy})"
            for fault, topics in groupby(wrong, key=lambda each: each[0])
        ]
        raise wrong[0][0].kind("; ".join(told))
