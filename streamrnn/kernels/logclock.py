"""How much time has passed in a partition's log, by the records' own timestamps, whoever's clock is wrong.

A series is silent when the log shows no record of it while the log's time goes on. That time must not be any single
producer's: a clock may be hours ahead, jump once, run at ten times the speed (a backlog that is uploaded), or stand still.
So some series are *witnesses*. Each has a time of its own that moves by how far its record timestamps move, so that a
constant error of its clock does not matter. The log's time is what two witnesses have both reached: the second largest of
their times. When a witness speaks, what it was ahead of the log's time is forgotten, and one record moves it by less than
`idle_after`: no single series and no single record can make another one look silent.

The log's time depends on the records alone, and on nothing that is kept per series: a replay from any offset at which the
clock was written down repeats it exactly. So witnesses are few. Any series becomes one where a place is free. A witness that
does not speak within its patience (counted in records of the partition) leaves its place to the next newcomer. Patience
differs by powers of two from place to place, so that series that speak every few records and series that speak every hundred
thousand both find one that waits long enough; who has come back once is waited for eight times as long as it took.

A clock is one row of `CLOCK` words: time, records, newcomers, then for each witness its series (`identity`), record timestamp,
time, the record it last spoke at, patience. Times are milliseconds. A fresh row is all zeros.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled
from streamrnn.records import I64

WITNESSES = 12
WORDS = 5
CLOCK = 3 + WORDS * WITNESSES
PATIENCE, PATIENCES = 1024, 10  # the least, and how many powers of two there are
COMES_BACK = 8


@compiled
def hear(clock: I64, identity: int, record_ms: int, idle_after_ms: int) -> int:
    """Takes one record of a series with a timestamp (not below 0); returns the log's time. `identity` is never 0."""
    clock[1] += 1
    count = clock[1]
    if count == 1:
        clock[0] = record_ms
    now = clock[0]
    place, free, waited = -1, -1, 0
    for w in range(WITNESSES):
        at = 3 + WORDS * w
        if clock[at] == identity:
            place = at
            break
        if clock[at] == 0:
            if waited < 1 << 60:
                free, waited = at, 1 << 60
        elif count - clock[at + 3] - clock[at + 4] > waited:
            free, waited = at, count - clock[at + 3] - clock[at + 4]
    if place >= 0:
        moved = record_ms - clock[place + 1]
        if moved > 0:
            clock[place + 1] = record_ms
            clock[place + 2] = min(clock[place + 2], now) + min(moved, idle_after_ms - 1)
        elif moved < -idle_after_ms:
            clock[place + 1] = record_ms  # its clock was put back
        clock[place + 4] = max(clock[place + 4], COMES_BACK * (count - clock[place + 3]))
        clock[place + 3] = count
    elif free >= 0:
        clock[free], clock[free + 1], clock[free + 2], clock[free + 3] = identity, record_ms, now, count
        clock[free + 4] = PATIENCE << (clock[2] % PATIENCES)
        clock[2] += 1
        return int(now)
    else:
        return int(now)
    first, second = now, now
    for w in range(WITNESSES):
        at = 3 + WORDS * w
        if clock[at] != 0:
            reached = clock[at + 2]
            if reached > first:
                second = first
                first = reached
            elif reached > second:
                second = reached
    clock[0] = second
    return int(second)


def fresh_clocks(partitions: int) -> I64:
    """[partition, CLOCK]"""
    return np.zeros((partitions, CLOCK), dtype=np.int64)
