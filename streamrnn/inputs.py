"""Which topics are the input, and the numbers of their partitions.

All that a service keeps by input partition (rows of the table, a partition of the state topic, a transaction) goes by one
number. With one input topic the number is the partition's own. With several, a directory that never changes what it has
said gives each (topic, partition) a number (`stores.directory`): whatever topics come or go, it stays.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from streamrnn.records import I32, Record

# A topic and one of its partitions.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class InputTopics:
    """What `input` says: names, and patterns (they begin with `^`)."""

    names: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()

    @property
    def one(self) -> str:
        """The only topic that the input can ever be; "" where there may be several."""
        return self.names[0] if len(self.names) == 1 and not self.patterns else ""

    def takes(self, topic: str) -> bool:
        return topic in self.names or any(pattern.search(topic) for pattern in self.patterns)

    def among(self, existing: Collection[str], own: Collection[str]) -> list[str]:
        """Those of the existing topics that are read: the named ones in their order, then those of the patterns, sorted. A
        pattern takes neither the service's `own` topics nor Kafka's (`__...`)."""
        named = [name for name in self.names if name in existing]
        found = {
            topic
            for topic in existing
            if not topic.startswith("__") and topic not in own and any(p.search(topic) for p in self.patterns)
        }
        return [*named, *sorted(found - set(named))]

    def __str__(self) -> str:
        return ", ".join([*self.names, *(pattern.pattern for pattern in self.patterns)])


def inputs_of(written: str | Sequence[str]) -> InputTopics:
    """What is written at `input`. Raises ValueError."""
    entries = (written,) if isinstance(written, str) else tuple(written)
    names, patterns = [], []
    for entry in entries:
        if not entry:
            raise ValueError("a topic's name is empty")
        if not entry.startswith("^"):
            if "," in entry:
                raise ValueError(f"{entry!r} is no topic's name: write several as a list, [a, b]")
            names.append(entry)
            continue
        try:
            patterns.append(re.compile(entry))
        except re.error as error:
            raise ValueError(f"the pattern {entry!r} cannot be used: {error}") from None
    if not entries:
        raise ValueError("name a topic, several as a list, or a pattern that begins with ^")
    if len(set(entries)) != len(entries):
        raise ValueError("a topic is named twice")
    return InputTopics(tuple(names), tuple(patterns))


@dataclass(slots=True)
class Numbering:
    """The numbers of the input's partitions. `one`: the only topic, whose partitions have their own numbers."""

    one: str = ""
    later: set[Place] = field(
        default_factory=set
    )  # that joined a service which was running: nothing of them is left out
    _numbers: dict[Place, int] = field(default_factory=dict)
    _places: dict[int, Place] = field(default_factory=dict)
    # By number: which of `_topics`, and which partition of it.
    _topics: list[str] = field(default_factory=list)
    _topic: I32 = field(default_factory=lambda: np.full(0, -1, np.int32))
    _partition: I32 = field(default_factory=lambda: np.full(0, -1, np.int32))

    def __contains__(self, place: Place) -> bool:
        return bool(self.one) or place in self._numbers

    def __len__(self) -> int:
        """How many numbers are known, of several topics."""
        return len(self._numbers)

    @property
    def room(self) -> int:
        """One more than the highest number that is known, of several topics."""
        return max(self._places, default=-1) + 1

    def knows(self, number: int) -> bool:
        return bool(self.one) or number in self._places

    def known(self) -> Mapping[Place, int]:
        return self._numbers

    def add(self, places: Mapping[Place, int]) -> None:
        """Those that are known already keep their numbers, and no number is given twice."""
        for place, number in places.items():
            if place not in self._numbers and number not in self._places:
                self._numbers[place], self._places[number] = number, place
        topics = {topic: at for at, topic in enumerate(dict.fromkeys(topic for topic, _ in self._numbers))}
        self._topics = list(topics)
        self._topic, self._partition = (np.full(self.room, -1, np.int32) for _ in range(2))
        for (topic, partition), number in self._numbers.items():
            self._topic[number], self._partition[number] = topics[topic], partition

    def number(self, topic: str, partition: int) -> int:
        """Raises KeyError where it has none."""
        return partition if self.one else self._numbers[topic, partition]

    def of(self, record: Record) -> int:
        return record.partition if self.one else self._numbers[record.topic, record.partition]

    def numbers(self, records: Sequence[Record]) -> I32:
        """That of each record's partition."""
        if self.one:
            return np.array([record.partition for record in records], np.int32)
        known = self._numbers
        return np.array([known[record.topic, record.partition] for record in records], np.int32)

    def place(self, number: int) -> Place:
        """Raises KeyError where nothing has this number."""
        return (self.one, number) if self.one else self._places[number]

    def label(self, number: int) -> int | str:
        """As logs, metrics and the page name it: the partition, with its topic where there may be several."""
        if self.one:
            return number
        topic, partition = self._places.get(number, ("?", number))
        return f"{topic}/{partition}"

    def partitions(self, numbers: I32) -> I32:
        """The partitions, each of its topic, that have these numbers."""
        return numbers if self.one else self._partition[numbers]

    def runs(self, numbers: I32) -> Iterator[tuple[str, int, int]]:
        """(topic, begin, end) of runs of one topic."""
        if self.one or not len(numbers):
            yield self.one, 0, len(numbers)
            return
        topics = self._topic[numbers]
        edges = [0, *(np.flatnonzero(np.diff(topics)) + 1).tolist(), len(numbers)]
        for begin, end in pairwise(edges):
            yield self._topics[topics[begin]], begin, end


def of_topic(topic: str | Numbering) -> Numbering:
    """The numbering of one topic, or the one that is given."""
    return Numbering(one=topic) if isinstance(topic, str) else topic
