"""Are the topics there, made as they must be, and permitted? Asked by `validate`, `topics` and every start of a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from streamrnn.config.sizes import Sizes, limit_for, needs_with_limits, shrinking, sizes_of
from streamrnn.durations import DURATION_MS_MAX, format_ms
from streamrnn.inputs import Numbering
from streamrnn.serving.input_topics import existing, numbering_of, topics_there
from streamrnn.serving.members import ANOTHER_APP, other_inputs
from streamrnn.serving.outbox import transactional_id
from streamrnn.stream.snapshot import ROW_BYTES_MAX
from streamrnn.transports.base import (
    Admin,
    NotPermitted,
    OperatorNeeded,
    TopicMissing,
    TopicNeed,
    TopicUnfit,
    Transport,
)

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


async def examine_access(admin: Admin, settings: Settings, inputs: Sequence[str] = ()) -> list[Access]:
    """The groups and, with exactly-once, transactional ids of the service: whether they may be used, and whether the group is
    this service's own. `inputs`: the topics that are read, where there may be several."""
    found: list[Access] = []
    for group in settings.groups():
        fault = None if await admin.may_join(group) else _not_permitted("Read")
        if fault is None and group == settings.app and (others := await other_inputs(admin, settings)):
            fault = Fault(others, ANOTHER_APP, TopicUnfit)
        found.append(Access("group", group, fault))
    if settings.delivery == "exactly-once":
        # One for all: the permission is given by prefix.
        name = transactional_id(settings.app, next(iter(inputs), settings.inputs.one), 0)
        found.append(
            Access("transactional id", name, None if await admin.may_transact(name) else _not_permitted("Write"))
        )
    return found


def _not_permitted(operations: str) -> Fault:
    return Fault(f"{operations} not permitted", "deploy/README.md lists the ACLs that are needed", NotPermitted)


@dataclass(frozen=True, slots=True)
class InputState:
    """The input as it is there: partitions by topic, the names of topics that are not there, and what there is of the
    directory of several."""

    counts: Mapping[str, int]
    missing: tuple[str, ...]
    found: Mapping[str, int | None]  # partitions of all topics that were asked for, the service's own, too
    numbering: Numbering | None = None  # None: there is no directory
    # With `repartition: on`, partitions of what producers write, by topic; None where it is not there.
    written: Mapping[str, int | None] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [*self.counts, *self.missing]

    def needed(self) -> int:
        """Partitions of the service's own topics."""
        places = [(topic, p) for topic, count in self.counts.items() for p in range(count)]
        if self.numbering is None:
            return len(places)
        return self.numbering.room + sum(place not in self.numbering.known() for place in places)


async def input_state(admin: Admin, settings: Settings, transport: Transport) -> InputState:
    """Raises TransportError."""
    topics, directory = await topics_there(admin, settings), settings.topics.inputs
    found = await admin.describe([*topics, *settings.topics.names(), directory])
    counts = {topic: found[topic] or 0 for topic in topics if found[topic]}
    missing = [name for name in settings.inputs.names if name not in counts]
    if not counts and not missing:
        missing = [str(settings.inputs)]
    numbering = await numbering_of(transport, settings) if found[directory] is not None else None
    written: dict[str, int | None] = {}
    if settings.repartition == "on":
        there = await existing(admin, settings.written_inputs, settings.own_topics())
        written = dict.fromkeys([*settings.written_inputs.names, *there]) | await admin.describe(there)
        written = written or {str(settings.written_inputs): None}
    return InputState(counts, tuple(missing), found, numbering, written)


async def examine(
    admin: Admin,
    settings: Settings,
    inputs: InputState,
    partitions: int | None = None,
    sizes: Sizes | None = None,
    settled: bool = False,
) -> list[TopicState]:
    """All topics of the service, the input's first. `partitions`: of the input, where it does not exist; `sizes` are computed
    where they are not given. `settled`: of several topics, what has a number by now is enough: a worker makes room for the
    others itself, or does without them."""
    sizes = sizes_of(settings) if sizes is None else sizes
    room = inputs.numbering.room if inputs.numbering is not None else 0
    by_directory = settings.several_inputs or inputs.numbering is not None
    needed = max(room, 1) if settled and by_directory else inputs.needed() or partitions or 1
    needs = [TopicNeed(name, inputs.counts.get(name) or partitions or 1, {}) for name in inputs.names()]
    needs += [need for need in settings.topic_needs(needed) if need.name not in inputs.names()]
    configs = await admin.configs([need.name for need in needs])
    taken = max((configs.get(name, {}) for name in inputs.counts), key=_keeps, default={})
    forbidden = await admin.forbidden(settings.topic_operations([*inputs.names(), *inputs.written]))
    states = [
        TopicState(TopicNeed(name, have or 1, {}), have, _fault_of_written(name, inputs, forbidden))
        for name, have in inputs.written.items()
    ]
    for need in needs:
        have, config = inputs.found.get(need.name), configs.get(need.name, {})
        waits = need.name in inputs.missing and bool(inputs.counts)
        fault = None if waits else _fault(need, have, config, forbidden, inputs, settings, sizes)
        hints = ["is not there; it is read as soon as it is"] if waits else []
        hints += _hints(need.name, config, taken, inputs, settings, sizes)
        states.append(TopicState(need, have, fault, tuple(hints)))
    return states


def _fault_of_written(name: str, inputs: InputState, forbidden: Mapping[str, Sequence[str]]) -> Fault | None:
    """Of a topic that the first stage reads."""
    if not any(inputs.written.values()):
        return Fault("no such topic", "make one, or correct `input`; or this user may not see it", TopicMissing)
    return _not_permitted(" and ".join(forbidden[name])) if name in forbidden and inputs.written[name] else None


def _keeps(config: Mapping[str, str]) -> float:
    """For how long a topic keeps its records, in ms."""
    kept = _number(config, "retention.ms")
    return -1.0 if kept is None else math.inf if kept < 0 else kept


def _fault(
    need: TopicNeed,
    have: int | None,
    config: Mapping[str, str],
    forbidden: Mapping[str, Sequence[str]],
    inputs: InputState,
    settings: Settings,
    sizes: Sizes,
) -> Fault | None:
    name, of_input = need.name, need.name in inputs.names()
    wanted, largest = need.config.get("cleanup.policy", ""), settings.kafka.batch_bytes_max
    policy, takes = config.get("cleanup.policy", wanted), config.get("max.message.bytes", "")
    if have is None:
        if of_input and settings.several_inputs:
            return Fault("no such topic", "make one, or correct `input`; or this user may not see it", TopicMissing)
        options = " --partitions N" if of_input and settings.repartition == "off" else ""
        return Fault(
            "missing", f"`streamrnn topics --create{options}` makes it; or this user may not see it", TopicMissing
        )
    # The outputs of several topics share the partitions that there are.
    numbered = settings.several_inputs or inputs.numbering is not None
    shares = numbered and name in (
        settings.topics.forecasts,
        settings.topics.imputed,
        settings.topics.dlq,
    )
    if have < need.partitions and not shares:
        one = settings.inputs.one
        goes = (
            "each partition of the input has one"
            if numbered
            else f"what comes of partition p of {one} goes to partition p"
        )
        return Fault(
            f"{have} partitions are too few: {goes}",
            f"`streamrnn topics --create`, or kafka-topics.sh --alter --topic {name} --partitions {need.partitions}",
            TopicUnfit,
        )
    if wanted == "compact" and ("compact" not in policy or "delete" in policy):
        return Fault(
            f"cleanup.policy={policy} would delete states or weights by their age",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact",
            TopicUnfit,
        )
    if not of_input and takes.isdecimal() and int(takes) < largest:
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
    name: str,
    config: Mapping[str, str],
    taken: Mapping[str, str],
    inputs: InputState,
    settings: Settings,
    sizes: Sizes,
) -> Iterator[str]:
    """What a topic with this `config` loses or refuses, an output of an input that is kept and timed as `taken` says."""
    topics = settings.topics
    if name in inputs.names():
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
