"""Records of several partitions in the order of their times.

A first stage that catches up reads its partitions one after the other: written like that, the ticks of one series would arrive
hours out of order, and be refused as late. So records wait until every partition that has more to read shows its next one, and
the oldest goes first (Kafka Streams does the same, KIP-353, KIP-695). The order within a partition stays. A partition that has
more and does not show it holds the others up for IDLE_S, and not again before it has spoken.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from streamrnn.records import Record

IDLE_S = 1.0


class Merge:
    """Owns the records that wait."""

    def __init__(self, most: int) -> None:
        """`most`: a partition that has so many waiting is `full`."""
        self._most = most
        self._waiting: dict[int, deque[Record]] = {}
        self._time: dict[int, int] = {}  # the newest of each partition so far: its clock does not go back
        self._missed_s: dict[int, float] = {}  # since when a partition is waited for

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, number: int, records: Sequence[Record]) -> None:
        self._waiting.setdefault(number, deque()).extend(records)
        self._missed_s.pop(number, None)

    def next_offset(self, number: int, position: int) -> int:
        """The next offset to be read of a partition that is processed up to `position`."""
        waiting = self._waiting.get(number)
        return waiting[-1].offset + 1 if waiting else position

    def put_back(self, records: Sequence[tuple[int, Record]]) -> None:
        """The last that were taken, in the order in which they were."""
        for number, record in reversed(records):
            self._waiting.setdefault(number, deque()).appendleft(record)
            self._time.pop(number, None)  # it was that of these

    def drop(self, numbers: Collection[int]) -> None:
        """These partitions were given up."""
        for number in numbers:
            for known in (self._waiting, self._time, self._missed_s):
                known.pop(number, None)

    def full(self) -> set[int]:
        return {number for number, records in self._waiting.items() if len(records) >= self._most}

    def take(self, most: int, lag: Mapping[int, int | None], now_s: float) -> list[tuple[int, list[Record]]]:
        """Up to `most` records, oldest first, in runs of one partition. `lag`: what each partition has left to be read, None
        where that is not known."""
        held_up = False
        for number, left in lag.items():
            if not self._waiting.get(number) and left != 0:
                held_up |= now_s - self._missed_s.setdefault(number, now_s) < IDLE_S
        if held_up:
            return []
        heap = [(self._next(number), number) for number, records in self._waiting.items() if records]
        heapq.heapify(heap)
        taken: list[tuple[int, list[Record]]] = []
        while heap and most > 0:
            time, number = heapq.heappop(heap)
            records = self._waiting[number]
            if not taken or taken[-1][0] != number:
                taken.append((number, []))
            taken[-1][1].append(records.popleft())
            self._time[number] = time
            most -= 1
            if records:
                heapq.heappush(heap, (self._next(number), number))
            elif lag.get(number) != 0:
                break  # its next one may be older than those of the others
        return taken

    def _next(self, number: int) -> int:
        return max(self._time.get(number, -1), self._waiting[number][0].timestamp)
