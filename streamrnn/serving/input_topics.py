"""The input's topics as a worker reads them: one that is named, or several that come and go.

Several: the topics that exist and that `input` takes, their partitions numbered by the directory (`stores.directory`), the
service's own topics with a partition for each number. A topic joins once its states have a place; one that is deleted
leaves, and its numbers wait for it. `TopicsWatch` looks for both, every `kafka.metadata_max_age_ms`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import structlog

from streamrnn.inputs import InputTopics, Numbering, Place
from streamrnn.serving.publish import wall_ms
from streamrnn.stores.directory import Directory
from streamrnn.transports.base import (
    Admin,
    Inputs,
    NumberedAsTheyCome,
    OneTopic,
    Source,
    TopicMissing,
    TopicUnfit,
    Transport,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamrnn.config.settings import Settings

log = structlog.get_logger(__name__)

# A change of the topics that has to wait, for a rebalance runs, is tried again after so long.
AGAIN_S = 1.0


class SeveralTopics:
    """See transports.base.Inputs. `look` before the first use."""

    def __init__(self, transport: Transport, settings: Settings, now_ms: Callable[[], int] = wall_ms) -> None:
        self._transport, self._settings = transport, settings
        self._directory = Directory(transport, settings.topics.inputs, settings.topics.state, now_ms)
        self.numbering = self._directory.numbering
        self.topics: Sequence[str] = ()
        self.missing: tuple[str, ...] = ()  # named, and not there
        self._without_room: frozenset[str] = frozenset()  # topics whose states have no place, as was reported

    @property
    def waiting(self) -> int:
        """Topics that cannot be read yet: named and not there, or without a place for their states."""
        return len(self.missing) + len(self._without_room)

    async def look(self) -> list[str]:
        """The topics that can be read now, numbered and with a place for their states. Raises TopicMissing where there is
        none, TopicUnfit, NotPermitted, TransportError."""
        settings, admin = self._settings, self._transport.admin()
        await admin.start()
        try:
            found = settings.inputs.among(await admin.topics(), settings.own_topics())
            counts = {name: count for name, count in (await admin.describe(found)).items() if count}
            self._report_missing([name for name in settings.inputs.names if name not in counts])
            if not counts:
                raise TopicMissing(f"none of the input's topics is there: {settings.inputs}")
            places = [(name, p) for name, count in counts.items() for p in range(count)]
            await self._directory.admit(places, later=bool(self.topics))
            try:
                await self._make_room(admin)
            except TransportError as error:
                return await self._with_room(admin, counts, error)
            self._without_room = frozenset()
            return list(counts)
        finally:
            await admin.stop()

    async def admit(self, places: Collection[Place]) -> None:
        """Partitions that were given to us: their topics may have more than at the last look."""
        known = self.numbering.known()
        if all(place in known for place in places):
            return
        await self._directory.admit(places, later=True)
        admin = self._transport.admin()
        await admin.start()
        try:
            await self._make_room(admin)
        finally:
            await admin.stop()

    async def _make_room(self, admin: Admin) -> None:
        """A partition of the service's own topics for each number."""
        needs = self._settings.topic_needs(self.numbering.room)
        found = await admin.describe([need.name for need in needs])
        grown = await admin.create([need for need in needs if (found[need.name] or need.partitions) < need.partitions])
        if grown:
            log.info("partitions were added for the input's topics", topics=grown, partitions=self.numbering.room)

    async def _with_room(self, admin: Admin, counts: dict[str, int], error: TransportError) -> list[str]:
        """Those topics whose states have a place all the same. Raises the error where there is none."""
        state = self._settings.topics.state
        have, number = (await admin.describe([state]))[state] or 0, self.numbering.number
        room = [name for name, count in counts.items() if all(number(name, p) < have for p in range(count))]
        without = frozenset(counts.keys() - room)
        if not room:
            what = f"{state} has {have} partitions and {self.numbering.room} are needed"
            raise TopicUnfit(f"{what} (`streamrnn topics --create` adds them): {error}") from error
        if without - self._without_room:
            log.error(
                "input topics are not read: there is no partition for their states, and none could be added. "
                "`streamrnn topics --create` adds them",
                topics=sorted(without), state=state, have=have, needed=self.numbering.room, error=str(error),
            )  # fmt: skip
        self._without_room = without
        return room

    def _report_missing(self, missing: Sequence[str]) -> None:
        if missing and tuple(missing) != self.missing:
            log.warning("topics of the input are not there; they are read as soon as they are", topics=list(missing))
        self.missing = tuple(missing)


async def inputs_for(
    transport: Transport, settings: Settings, directory: bool, now_ms: Callable[[], int] = wall_ms
) -> Inputs:
    """The input of this configuration, ready to be read. One topic of a service that had several goes by their `directory`,
    which is there then.

    Raises TopicMissing, TopicUnfit, NotPermitted, TransportError.
    """
    one = settings.inputs.one
    if one and not directory:
        return OneTopic(one)
    several = SeveralTopics(transport, settings, now_ms)
    several.topics = await several.look()
    return several


def waiting_of(inputs: Inputs) -> int:
    """How many topics cannot be read yet."""
    return inputs.waiting if isinstance(inputs, SeveralTopics) else 0


async def topics_there(admin: Admin, settings: Settings) -> list[str]:
    """The input's topics: the only one, whether it is there or not; of several, those that are. Raises TransportError."""
    return await existing(admin, settings.inputs, settings.own_topics())


async def existing(admin: Admin, inputs: InputTopics, own: Sequence[str]) -> list[str]:
    """The same of other topics."""
    return [inputs.one] if inputs.one else inputs.among(await admin.topics(), own)


async def to_be_read(transport: Transport, settings: Settings, written: bool = False) -> str | NumberedAsTheyCome:
    """The input for a reader that keeps nothing by partition beyond its own life; `written`: as producers write it.

    Raises TopicMissing, TransportError.
    """
    inputs = settings.written_inputs if written else settings.inputs
    if inputs.one:
        return inputs.one
    admin = transport.admin()
    await admin.start()
    try:
        topics = await existing(admin, inputs, settings.own_topics())
    finally:
        await admin.stop()
    if not topics:
        raise TopicMissing(f"none of the input's topics is there: {inputs}")
    return NumberedAsTheyCome(topics)


async def numbering_of(transport: Transport, settings: Settings) -> Numbering:
    """The numbers that the input's partitions have by now; nothing is written. Raises TransportError."""
    admin, name = transport.admin(), settings.topics.inputs
    await admin.start()
    try:
        if (await admin.describe([name]))[name] is None:
            return Numbering(one=settings.inputs.one)  # of several: none
    finally:
        await admin.stop()
    directory = Directory(transport, settings.topics.inputs, settings.topics.state, wall_ms)
    await directory.read()
    return directory.numbering


class WrittenTopics(NumberedAsTheyCome):
    """The input as producers write it, for a first stage, which keeps nothing by partition. `look` before the first use."""

    def __init__(self, transport: Transport, settings: Settings) -> None:
        super().__init__(())
        self._transport, self._settings = transport, settings
        self._begun = False

    async def look(self) -> list[str]:
        """The topics that can be read now. Raises TopicMissing where there is none, TransportError."""
        inputs, admin = self._settings.written_inputs, self._transport.admin()
        await admin.start()
        try:
            found = await existing(admin, inputs, self._settings.own_topics())
            found = [topic for topic, count in (await admin.describe(found)).items() if count]
        finally:
            await admin.stop()
        if not found:
            raise TopicMissing(f"none of the input's topics is there: {inputs}")
        return found

    async def admit(self, places: Collection[Place]) -> None:
        known = set(self.numbering.known())
        await super().admit(places)
        if self._begun:
            self.numbering.later |= set(places) - known
        self._begun = True


class TopicsWatch:
    """Sees topics come and go, beside the pump."""

    def __init__(self, inputs: Inputs, every_s: float) -> None:
        self._inputs, self._every_s = inputs, every_s

    async def run(self, source: Callable[[], Source | None]) -> None:
        """`source`: the one of the present clients, if there are any. Never ends."""
        inputs = self._inputs
        while isinstance(inputs, (SeveralTopics, WrittenTopics)):
            await asyncio.sleep(self._every_s)
            try:
                wanted = await inputs.look()
                while set(wanted) != set(inputs.topics):
                    reading = source()
                    if reading is not None and await reading.follow(wanted):
                        log.info(
                            "the input's topics have changed", come=sorted(set(wanted) - set(inputs.topics)),
                            left=sorted(set(inputs.topics) - set(wanted)), topics=len(wanted),
                        )  # fmt: skip
                        inputs.topics = wanted
                        break
                    await asyncio.sleep(AGAIN_S)
            except TopicMissing as error:
                log.warning("nothing is read: all of the input's topics were deleted", error=str(error))
            except TransportError as error:
                log.info("the input's topics could not be looked at; that is tried again", error=str(error))
