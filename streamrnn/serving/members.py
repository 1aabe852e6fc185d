"""Who else is in this service's group: nobody who reads another input may be.

`app` names the group and the topics. Two services with one `app` and different inputs would write their states over each
other's, partition by partition, and each would begin without state whenever it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamrnn.inputs import Numbering
from streamrnn.stores.changelog import Checkpoint
from streamrnn.transports.base import Admin, Deadline, GroupAlive, GroupMember, TopicUnfit

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

# What members read is not known while a rebalance runs.
KNOWN_S, AGAIN_S = 3.0, 0.1
SHOWN_MAX = 5
ANOTHER_APP = (
    "one `app` is one service with one input: set another `app`, which has topics and a group of its own, or stop these "
    "first"
)  # fmt: skip


def groups_of(settings: Settings) -> tuple[str, str]:
    """The workers' group and the trainers'."""
    return settings.app, f"{settings.app}.trainer"


async def other_inputs(admin: Admin, settings: Settings) -> str:
    """What the group's members read, where some do not read our input; else "". Raises NotPermitted, TransportError."""
    deadline = Deadline(KNOWN_S)
    while True:
        members = await admin.members(settings.app)
        others = [m for m in members if m.topics is not None and not any(map(settings.inputs.takes, m.topics))]
        if others:
            read = sorted({topic for member in others for topic in member.topics or ()})
            return f"has members that read {', '.join(read)} and not {settings.inputs} ({_shown(others)})"
        if all(member.topics is not None for member in members) or deadline.passed:
            return ""
        await asyncio.sleep(AGAIN_S)


async def refuse_other_inputs(admin: Admin, settings: Settings) -> None:
    """Raises TopicUnfit where the group has members that do not read our input; NotPermitted, TransportError."""
    if others := await other_inputs(admin, settings):
        raise TopicUnfit(f"group {settings.app}: {others} ({ANOTHER_APP})")


async def refuse_while_alive(admin: Admin, settings: Settings) -> None:
    """Raises GroupAlive where workers or trainers run."""
    for group in groups_of(settings):
        if members := await admin.members(group):
            raise GroupAlive(
                f"group {group} has {len(members)} live members ({_shown(members)}): stop the workers and trainers first. One "
                "that was killed counts until its session ends (kafka.session_timeout_ms)"
            )


def refuse_another_input(topic: str, numbering: Numbering, number: int, checkpoint: Checkpoint) -> None:
    """Raises TopicUnfit where a partition of the state topic holds the states of another partition of the input."""
    ours, partition = numbering.place(number)
    theirs, of_theirs = checkpoint.input, checkpoint.partition if checkpoint.partition >= 0 else number
    if theirs == ours and of_theirs == partition:
        return
    shown = (theirs, ours) if theirs != ours else (f"{theirs}/{of_theirs}", f"{ours}/{partition}")
    raise TopicUnfit(
        f"partition {number} of {topic} holds the states of input {shown[0]!r}, and `input` is {shown[1]!r}: two services "
        "with one `app`, or an input that was renamed. Set another `app` (or `topics.state`); or, to begin without these "
        "states, `streamrnn reset --state`"
    )


def _shown(members: Sequence[GroupMember]) -> str:
    shown = [f"{member.client}@{member.host}" if member.host else member.client for member in members[:SHOWN_MAX]]
    return ", ".join(shown) + (", …" if len(members) > SHOWN_MAX else "")
