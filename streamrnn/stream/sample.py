"""Which series a trainer learns from where there are more than it may keep: those whose names hash smallest.

Keeping the series that spoke last fails under the most ordinary stream of all, every series in its turn: each one is
evicted before its next tick, and none ever has a history. A bottom-k sample (Broder, "On the resemblance and containment
of documents", 1997; Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007) depends on the names alone: it
is the same in every trainer and in every order of arrival, and while N series come forward one after the other only about
k ln(N / k) are ever replaced.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import xxhash

HASHES = 1 << 64

# (partition, series): the same name in two partitions is two series, of which both or none are small.
Name = tuple[int, str]


class SeriesSample:
    """At most `size` series; `held` are the members, for looking up only."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: dict[Name, int] = {}  # member → its hash
        self.turned_away = 0  # offers of series that were too many, since the start
        self._largest: list[tuple[int, int, str]] = []  # a heap by falling hash; may hold entries of former members

    def __len__(self) -> int:
        return len(self.held)

    @property
    def population(self) -> int:
        """How many series there are, members or not: exact up to `size`, beyond it an estimate with a relative standard
        error of 1 / sqrt(size − 2), from how small the largest of the smallest hashes is."""
        if not self.turned_away or len(self.held) < self.size:
            return len(self.held)
        self._tidy()
        return max(self.size, round((self.size - 1) * HASHES / (1 - self._largest[0][0])))

    def offer(self, names: Iterable[Name]) -> list[Name]:
        """Takes those of these series, none of them a member, that belong into the sample; returns the former members
        that had to leave for them. The outcome does not depend on the order."""
        before: list[Name] = []
        fresh: set[Name] = set()
        for name in names:
            digest = xxhash.xxh3_64_intdigest(name[1].encode("utf-8", "surrogatepass"))
            if len(self.held) >= self.size:
                self._tidy()
                # Ties by partition and name, as the heap has them.
                if self._largest[0] <= (-digest, -name[0], name[1]):
                    leaves = self._pop()
                    self.turned_away += 1
                    if leaves in fresh:
                        fresh.remove(leaves)
                    else:
                        before.append(leaves)
                else:
                    self.turned_away += 1
                    continue
            self.held[name] = digest
            fresh.add(name)
            heapq.heappush(self._largest, (-digest, -name[0], name[1]))
        return before

    def forget(self, name: Name) -> None:
        """Gives a member's place to whoever comes next."""
        self.held.pop(name, None)
        if len(self._largest) > 2 * self.size:
            self._largest = [(-digest, -partition, series) for (partition, series), digest in self.held.items()]
            heapq.heapify(self._largest)

    def _tidy(self) -> None:
        """Has a member on top of the heap."""
        while self._largest and (-self._largest[0][1], self._largest[0][2]) not in self.held:
            heapq.heappop(self._largest)

    def _pop(self) -> Name:
        self._tidy()
        _, partition, series = heapq.heappop(self._largest)
        name = (-partition, series)
        del self.held[name]
        return name
