"""Records that the broker refuses for what they hold: which ones, is settled by their content and the seed alone.

So it is known beforehand what must come of each: an output that is refused is missing, and its source is dead-lettered once; a
dead letter is taken when it was changed so often, or given up. This fault never heals, for no content does.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence

import msgspec
from oracle import Place, element
from stream import FORECASTS, IMPUTED, LETTERS

from streamrnn.inputs import Place as InputPlace
from streamrnn.serving.refused import HEADER_REFUSED, LETTER_BYTES_LEFT
from streamrnn.transports.memory.broker import Appended
from streamrnn.wire.codec import HEADER_INDEX

ACTIVE = 0.4
# What the last part of a dead letter's place says where its source's outputs were refused.
REFUSED = "refused"


class _Source(msgspec.Struct):
    offset: int
    index: int = -1


class _Output(msgspec.Struct):
    series: str
    ts: int
    source: _Source


class Content:
    """Drawn apart from all other faults, so that a seed is without it as it was before."""

    def __init__(self, seed: int, places: Sequence[InputPlace]) -> None:
        """`places`: the input's partitions by their numbers."""
        self.number = {place: number for number, place in enumerate(places)}
        rng = random.Random(f"content-{seed}")
        self._seed = seed
        self.rate = 10 ** rng.uniform(-2.3, -0.7) if rng.random() < ACTIVE else 0.0
        self.refused: set[Place] = set()  # so far

    def refuses(self, topic: str, partition: int, record: Appended) -> str:
        """See streamrnn.transports.memory.broker.Refuses."""
        _, value, _, headers = record
        if topic in (FORECASTS, IMPUTED):
            output = msgspec.json.decode(value or b"", type=_Output)
            source = output.source
            place = topic, partition, source.offset, output.ts, element(output.series, source.index)
            if not self.of(place):
                return ""
            self.refused.add(place)
            return "INVALID_TIMESTAMP" if self._chance(f"why/{place}") < 0.5 else "MESSAGE_TOO_LARGE"
        if topic == LETTERS:
            place = self.letter_place(headers)
            if sum(name == HEADER_REFUSED for name, _ in headers) < self._times(place):
                return "INVALID_RECORD" if self._chance(f"why/{place}") < 0.5 else "MESSAGE_TOO_LARGE"
        return ""

    def of(self, place: Place) -> bool:
        """Whether an output is refused."""
        return self._chance(str(place)) < self.rate

    def _times(self, place: Place) -> int:
        """How often a dead letter is refused before it is taken; more than it is tried: never."""
        chance = self._chance(f"times/{place}")
        return 0 if chance >= self.rate else 1 + int(chance / self.rate * (len(LETTER_BYTES_LEFT) + 1))

    def _chance(self, of: str) -> float:
        return zlib.crc32(f"{self._seed}/{of}".encode()) / 2**32

    def left(self, places: Iterable[Place]) -> set[Place]:
        """What must be said, where without this fault these must."""
        found: set[Place] = set()
        for place in places:
            if place[0] != LETTERS and self.of(place):
                place = LETTERS, place[1], place[2], 0, REFUSED + "".join(place[4].partition("#")[1:])
            if place[0] != LETTERS or self._times(place) <= len(LETTER_BYTES_LEFT):
                found.add(place)
        return found

    def letter_place(self, headers: Iterable[tuple[str, bytes]]) -> Place:
        """Where a dead letter belongs. A record may have two: it was refused itself, and so was what it revealed of others."""
        known = dict(headers)
        topic, partition, offset = known["streamrnn-source"].decode().split("/")
        of_output = known["streamrnn-reason"] == REFUSED.encode()
        index = int(known.get(HEADER_INDEX, b"-1"))
        number = self.number[topic, int(partition)]
        return LETTERS, number, int(offset), 0, element(REFUSED if of_output else "", index)
