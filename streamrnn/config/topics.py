"""Are the topics there, made as they must be, and permitted? Asked by `validate`, `topics` and every start of a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from streamrnn.config.sizes import Sizes, limit_for, needs_with_limits, shrinking, sizes_of
from streamrnn.durations import DURATION_MS_MAX, format_ms
from streamrnn.serving.members import ANOTHER_APP, other_inputs
from streamrnn.serving.outbox import transactional_id
from streamrnn.stream.snapshot import ROW_BYTES_MAX
from streamrnn.transports.base import Admin, NotPermitted, OperatorNeeded, TopicMissing, TopicNeed, TopicUnfit

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings


# The largest time that a topic's settings can name.
NO_LIMIT = 2**63 - 1


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
    hints: tuple[str, ...] = ()  # what will be lost or refused as the topic is; no reason not to start


@dataclass(frozen=True, slots=True)
class Access:
    """A consumer group or transactional id that the service's user needs."""

    kind: str
    name: str
    fault: Fault | None = None


async def examine_access(admin: Admin, settings: Settings) -> list[Access]:
    """The groups and, with exactly-once, transactional ids of the service: whether they may be used, and whether the group is
    this service's own."""
    found: list[Access] = []
    for group in settings.groups():
        fault = None if await admin.may_join(group) else _not_permitted("Read")
        if fault is None and group == settings.app and (others := await other_inputs(admin, settings)):
            fault = Fault(others, ANOTHER_APP, TopicUnfit)
        found.append(Access("group", group, fault))
    if settings.delivery == "exactly-once":
        # One for all: the permission is given by prefix.
        name = transactional_id(settings.app, settings.input, 0)
        found.append(
            Access("transactional id", name, None if await admin.may_transact(name) else _not_permitted("Write"))
        )
    return found


def _not_permitted(operations: str) -> Fault:
    return Fault(f"{operations} not permitted", "deploy/README.md lists the ACLs that are needed", NotPermitted)


async def examine(
    admin: Admin, settings: Settings, inputs: int | None = None, sizes: Sizes | None = None
) -> list[TopicState]:
    """All topics of the service, the input first. `inputs`: how many partitions it is to have where it does not exist;
    `sizes` are computed where they are not given."""
    sizes = sizes_of(settings) if sizes is None else sizes
    found = await admin.describe([settings.input, *settings.topics.names()])
    inputs = found[settings.input] or inputs or 1
    needs = [TopicNeed(settings.input, inputs, {}), *settings.topic_needs(inputs)]
    configs = await admin.configs([need.name for need in needs])
    taken = configs.get(settings.input, {})
    forbidden = await admin.forbidden(settings.topic_operations())
    return [
        TopicState(
            need,
            found[need.name],
            _fault(need, found[need.name], configs.get(need.name, {}), forbidden, settings, sizes),
            tuple(_hints(need.name, configs.get(need.name, {}), taken, settings, sizes)),
        )
        for need in needs
    ]


def _fault(
    need: TopicNeed,
    have: int | None,
    config: Mapping[str, str],
    forbidden: Mapping[str, Sequence[str]],
    settings: Settings,
    sizes: Sizes,
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
    if name != input_topic and takes.isdecimal() and int(takes) < largest:
        return Fault(
            f"max.message.bytes={takes} takes no batch of kafka.batch_bytes_max={largest}",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config max.message.bytes=1048588, "
            f"or set kafka.batch_bytes_max to {takes} or less",
            TopicUnfit,
        )
    limit = int(takes) if takes.isdecimal() else NO_LIMIT
    if (fault := _too_large(name, limit, settings, sizes)) is not None:
        return fault
    if name in forbidden:
        return _not_permitted(" and ".join(forbidden[name]))
    return None


def _too_large(name: str, takes: int, settings: Settings, sizes: Sizes) -> Fault | None:
    """Where a topic takes batches of so many bytes, and records of this configuration are larger."""
    topics = settings.topics
    if name == topics.state and sizes.state_largest > ROW_BYTES_MAX:
        what = f"no topic takes a state record of {sizes.state_largest} bytes: {ROW_BYTES_MAX} at most"
        return Fault(what, f"a configuration with less of {shrinking(settings)}", TopicUnfit)
    if name == topics.state and takes < sizes.state_largest:
        return Fault(
            f"max.message.bytes={takes} takes no state record of this configuration: {sizes.state_usual} bytes, "
            f"{sizes.state_largest} at most",
            f"`streamrnn topics --create`, or {_limited(name, sizes.state_largest)}; or smaller states: less of "
            f"{shrinking(settings)}",
            TopicUnfit,
        )
    if name == topics.forecasts and takes < sizes.forecast_least:
        return Fault(
            f"max.message.bytes={takes} takes no forecast of these channels, quantiles and this horizon: "
            f"{sizes.forecast_least} bytes or more, mostly {sizes.forecast_usual}",
            f"`streamrnn topics --create`, or {_limited(name, sizes.forecast_largest)}; or less of channels "
            f"({len(settings.channels)}), horizon ({settings.horizon}), quantiles ({len(settings.quantiles)}); or "
            "output.horizons, output.layout: flat",
            TopicUnfit,
        )
    return None


def _limited(name: str, largest: int) -> str:
    return _altered(name, f"max.message.bytes={limit_for(largest)}")


async def raise_limits(admin: Admin, settings: Settings, sizes: Sizes) -> list[str]:
    """Raises the limits of the topics that take no record of this configuration; returns their names.

    Raises NotPermitted, TransportError.
    """
    limits = {need.name: need.config for need in needs_with_limits(settings.topic_needs(1), settings, sizes)}
    raised: list[str] = []
    for name, config in (await admin.configs(list(limits))).items():
        wanted, takes = limits[name].get("max.message.bytes"), config.get("max.message.bytes", "")
        if wanted is not None and takes.isdecimal() and int(takes) < int(wanted):
            await admin.alter(name, {"max.message.bytes": wanted})
            raised.append(name)
    return raised


def _hints(
    name: str, config: Mapping[str, str], taken: Mapping[str, str], settings: Settings, sizes: Sizes
) -> Iterator[str]:
    """What a topic with this `config` loses or refuses, an output of an input that is kept and timed as `taken` says."""
    topics = settings.topics
    if name == settings.input:
        kept, oldest = _number(config, "retention.ms"), 2 * settings.checkpoint.interval_max
        if kept is not None and 0 <= kept < oldest and "delete" in config.get("cleanup.policy", "delete"):
            yield (
                f"keeps records for {_time(kept)} (retention.ms), and a restart replays what came since the last checkpoint, "
                f"up to {_time(settings.checkpoint.interval_max)} and the time that one takes: what is deleted by then costs a "
                "partition its state. Set checkpoint.interval_max lower, or " + _altered(name, f"retention.ms={oldest}")
            )
        return
    if name == topics.dlq and "compact" in config.get("cleanup.policy", ""):
        yield (
            "cleanup.policy=compact keeps the newest dead letter of a key only; one without a key gets its source for one: "
            + _altered(name, "cleanup.policy=delete")
        )
    if name == topics.forecasts and (takes := _number(config, "max.message.bytes")) is not None:
        if sizes.forecast_least <= takes < sizes.forecast_largest:
            yield (
                f"max.message.bytes={takes}, and a forecast of these channels, quantiles and this horizon has mostly "
                f"{sizes.forecast_usual} bytes, {sizes.forecast_largest} at most: larger ones would be refused, and their "
                f"ticks dead-lettered: {_limited(name, sizes.forecast_largest)}"
            )
    if name not in (topics.forecasts, topics.imputed) or settings.output.timestamp != "event":
        return
    if config.get("message.timestamp.type") == "LogAppendTime":
        yield "message.timestamp.type=LogAppendTime: its records carry the broker's time, whatever output.timestamp says"
        return
    kept, theirs = _number(config, "retention.ms"), _number(taken, "retention.ms")
    if kept is not None and theirs is not None and "delete" in config.get("cleanup.policy", "delete"):
        if kept >= 0 and (theirs < 0 or theirs > kept):
            yield (
                f"keeps event times for {_time(kept)} (retention.ms), the input for {_time(theirs)}: outputs of older records "
                "are deleted as soon as they are written. Set output.timestamp: now, or "
                + _altered(name, f"retention.ms={theirs}")
            )
    before, age = _number(config, "message.timestamp.before.max.ms"), theirs
    if before is not None and age is not None and before < NO_LIMIT and (age < 0 or age > before):
        yield (
            f"refuses event times more than {_time(before)} ago, and the input is kept for {_time(age)}: "
            + _altered(name, f"message.timestamp.before.max.ms={NO_LIMIT}")
        )
    after, ahead = _number(config, "message.timestamp.after.max.ms"), settings.future_max
    if taken.get("message.timestamp.type", "CreateTime") == "CreateTime":
        ahead += _number(taken, "message.timestamp.after.max.ms") or 0
    if after is not None and after < min(ahead, NO_LIMIT):
        yield (
            f"refuses event times more than {_time(after)} ahead, and the input may have them up to {_time(ahead)}: "
            + _altered(name, f"message.timestamp.after.max.ms={NO_LIMIT}")
        )


def _number(config: Mapping[str, str], name: str) -> int | None:
    value = config.get(name, "")
    return int(value) if value.removeprefix("-").isdecimal() else None


def _time(ms: int) -> str:
    return "ever" if ms < 0 or ms > DURATION_MS_MAX else format_ms(ms)


def _altered(name: str, setting: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}"


def refuse(states: Sequence[TopicState], access: Sequence[Access] = ()) -> None:
    """Raises what the first topic that is wrong deserves, naming all that are; else the same for groups and ids."""
    wrong = [(state.fault, state.need.name) for state in states if state.fault is not None]
    wrong += [(each.fault, f"{each.kind} {each.name}") for each in access if each.fault is not None]
    if wrong:
        faults = [
            f"{', '.join(name for _, name in topics)}: {fault.what} ({fault.remedy})"
            for fault, topics in groupby(wrong, key=lambda each: each[0])
        ]
        raise wrong[0][0].kind("; ".join(faults))
