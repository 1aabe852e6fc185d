"""The directory of input partitions: which number (partition of the state topic) each (topic, partition) has, for good.

A topic of one partition, compacted; each record is a claim under a key of its own, so that compaction removes none:

    claim/<uuid>    JSON: partitions `first` … `first + count - 1` of `topic` have the numbers `number` …

Claims count in the order of the log. One that names a partition which has a number already, or a number which is given
already, is void: of two workers that claim at the same time the first is right, and the second reads that it was not, and
claims anew. So every reader comes to the same numbers, and a number is never given twice: a topic that goes away keeps its
numbers, and has them when it comes back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from streamrnn.inputs import Numbering, Place
from streamrnn.stores.changelog import newest_checkpoints
from streamrnn.transports.base import Deadline, TopicUnfit, Transport, TransportError

log = structlog.get_logger(__name__)

VERSION = 1
CLAIM = "claim/"
# How long its log may give nothing before a reader is taken for stuck; how often a claim may be overtaken.
SILENCE_S = 20.0
ATTEMPTS = 20
# Looking for the states of a service that had one topic.
CHECKPOINTS_S = 60.0
RECORDS_MAX = 2000
# Numbers beyond which nobody has made partitions.
_Number = Annotated[int, Meta(ge=0, lt=1 << 20)]


class Claim(msgspec.Struct, forbid_unknown_fields=False):
    topic: str
    first: _Number
    count: Annotated[int, Meta(ge=1, lt=1 << 20)]
    number: _Number
    later: bool = False  # it joined a service that was running: it is read from its begin
    version: int = VERSION

    def places(self) -> dict[Place, int]:
        return {(self.topic, self.first + k): self.number + k for k in range(self.count)}


class _Version(msgspec.Struct):
    version: int = VERSION


class Directory:
    """Reads claims and makes them; each call reads to the end of the log. `numbering` is what is known so far."""

    def __init__(
        self,
        transport: Transport,
        topic: str,
        state: str,
        now_ms: Callable[[], int],
    ) -> None:
        """`state`: the topic of the states, whose partitions are numbered."""
        self.numbering = Numbering()
        self._transport, self._topic, self._state, self._now_ms = transport, topic, state, now_ms
        self._read_to = 0

    async def read(self) -> None:
        """Raises TopicMissing, TopicUnfit where a newer version has written, TransportError."""
        reader = self._transport.reader()
        try:
            await reader.start(self._topic, {0: self._read_to})
            end = (await reader.end_offsets())[0]
            silence = Deadline(SILENCE_S)
            while reader.position(0) < end:
                polled = await reader.poll(200, RECORDS_MAX)
                for _, records in polled:
                    for record in records:
                        if record.value is not None:
                            self._take(record.value)
                if polled:
                    silence = Deadline(SILENCE_S)
                elif silence.passed:
                    raise TransportError(f"{self._topic} gave nothing for {SILENCE_S:.0f} s")
            self._read_to = max(self._read_to, reader.position(0))
        finally:
            await reader.stop(Deadline(2.0))

    def _take(self, value: bytes) -> None:
        try:
            version = msgspec.json.decode(value, type=_Version).version
            if version > VERSION:
                raise TopicUnfit(
                    f"{self._topic} was written by a newer version of streamrnn (format {version}; this one reads up to "
                    f"{VERSION}): upgrade this worker"
                )
            claim = msgspec.json.decode(value, type=Claim)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TopicUnfit(f"{self._topic} holds what is no claim: {error}; it is written by workers alone") from None
        places, taken = claim.places(), set(self.numbering.known().values())
        if places.keys().isdisjoint(self.numbering.known()) and taken.isdisjoint(places.values()):
            self.numbering.add(places)
            if claim.later:
                self.numbering.later |= places.keys()

    async def admit(self, wanted: Collection[Place], later: bool) -> None:
        """Sees to it that each of these has a number; `later`: the service was running when they came. Raises as `read`
        does."""
        known = self.numbering.known()
        if all(place in known for place in wanted):
            return
        await self.read()
        for _ in range(ATTEMPTS):
            missing = [place for place in wanted if place not in known]
            if not missing:
                return
            claims = [] if known else await self._of_states(missing)
            await self._claim(claims or runs_of(missing, self.numbering.room, later))
        raise TransportError(f"{self._topic}: {ATTEMPTS} claims for {missing[:3]} did not count")

    async def _of_states(self, missing: Collection[Place]) -> list[Claim]:
        """What the state topic itself says: it holds the states of a service that had one topic until now, or the directory
        was deleted. A partition of that topic that has no state yet keeps its own number, too."""
        found = await newest_checkpoints(self._transport, self._state, CHECKPOINTS_S)
        claims: list[Claim] = []
        for number, checkpoint in sorted(found.items()):
            partition = number if checkpoint.partition < 0 else checkpoint.partition
            claims.append(Claim(checkpoint.input, partition, 1, number))
        plain = {claim.topic for claim in claims if claim.first == claim.number}
        taken = {claim.number for claim in claims}
        claims += [
            Claim(topic, p, 1, p) for topic, p in missing if len(plain) == 1 and topic in plain and p not in taken
        ]
        if claims:
            log.info("the directory of input partitions begins with the states that are there", partitions=len(claims))
        return claims

    async def _claim(self, claims: Collection[Claim]) -> None:
        if not claims:
            return
        sink = self._transport.sink()
        await sink.start()
        try:
            keys: list[bytes | None] = [f"{CLAIM}{uuid.uuid4()}".encode() for _ in claims]
            values: list[bytes | None] = [msgspec.json.encode(claim) for claim in claims]
            await sink.append_many(self._topic, 0, keys, values, [self._now_ms()] * len(keys))
            await (await sink.seal()).wait(Deadline(SILENCE_S))
        finally:
            await sink.stop(Deadline(2.0))
        await self.read()


def runs_of(missing: Collection[Place], room: int, later: bool = False) -> list[Claim]:
    """Numbers from `room` on for these, in their order of topics: one claim for partitions that follow each other."""
    claims: list[Claim] = []
    by_topic: dict[str, list[int]] = {}
    for topic, partition in missing:
        by_topic.setdefault(topic, []).append(partition)
    for topic, partitions in by_topic.items():
        for partition in sorted(partitions):
            last = claims[-1] if claims else None
            if last is not None and last.topic == topic and last.first + last.count == partition:
                last.count += 1
            else:
                claims.append(Claim(topic, partition, 1, room, later))
            room += 1
    return claims
