"""Which partitions each series comes by: one that comes by two has two states, and each sees the other's ticks as gaps. And which
series come back after they were evicted: where more than `series_max` come in turn, none ever gets warm.

Nothing here changes a forecast. It is looked at when a row's series speaks for the first time, so a series that is known
costs nothing, and what is remembered has a bound: a table of so many places, in which newer series replace older ones.
"""

from __future__ import annotations

import math

import numpy as np

from streamrnn.records import I32, I64, Bool

PLACES_MIN, PLACES_MAX = 1 << 10, 1 << 16
# Flags by which series are counted ("linear counting", Whang and others, 1990): within a few percent up to millions.
FLAGS = 1 << 20


class Places:
    """The partition that a series last began to speak in; 12 bytes a place, four places for each of `series_max`.

    `count` is how often a series was met in another partition than before, `row` and `partitions` say the newest case.
    `returned` is how often one came back into its partition after it was evicted, as far as the table of places reaches.
    """

    def __init__(self, series_max: int) -> None:
        size = PLACES_MIN
        while size < min(4 * series_max, PLACES_MAX):
            size *= 2
        self.count = 0
        self.returned = 0
        self._met: Bool = np.zeros(FLAGS, dtype=np.bool_)
        self.row = -1
        self.partitions = (-1, -1)
        self._mask = size - 1
        self._identity: I64 = np.zeros(size, dtype=np.int64)
        self._partition: I32 = np.zeros(size, dtype=np.int32)

    def note(self, rows: I64, identity: I64, partition: I32) -> None:
        """Series (`identity`, never 0) begin to speak in rows of these partitions; the three are of one length."""
        at = identity & self._mask
        before = self._partition[at]
        known = self._identity[at] == identity
        moved = known & (before != partition)
        self.returned += int((known & ~moved).sum())
        self._met[identity & (FLAGS - 1)] = True
        self._identity[at], self._partition[at] = identity, partition
        # Two that are new in one call: the last one's partition stands there now.
        now = self._partition[at]
        twice = ~moved & (self._identity[at] == identity) & (now != partition)
        found = np.flatnonzero(moved | twice)
        if len(found):
            last = int(found[-1])
            other = before[last] if moved[last] else now[last]
            self.count += len(found)
            self.row, self.partitions = int(rows[last]), (int(other), int(partition[last]))

    def met(self) -> int:
        """About how many series have spoken since the start."""
        unused = FLAGS - int(np.count_nonzero(self._met))
        return round(-FLAGS * math.log(max(unused, 1) / FLAGS))

    def forget(self, partition: int) -> None:
        """The partition is another's from now on."""
        self._identity[self._partition == partition] = 0
