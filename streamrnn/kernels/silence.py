"""Whether a series is silent: what a partition's log shows of time, by the records' own timestamps, whoever's clock is wrong.

A series is silent when records of others show that time went on by `idle_after` since its last one. No single producer may decide
that: a clock may be hours ahead, jump once, run at a hundred times the speed (a backlog that is uploaded), or stand still. So
some series are *witnesses*, and two of them have to agree. A witness counts for a series only if

- when the series last spoke, the witness' record time was near the series' own (their clocks agree; hours apart is another
  clock, or a backlog), and
- since then it has moved by `idle_after`, and is by `idle_after` ahead of the series' last record time. A backlog that catches
  up never is: its times end at the present, where the series still speaks.

A witness' time is what its two newest records have both reached: one record that is hours ahead moves nothing.

All of it depends on the records alone, and on nothing that is kept per series: a replay from any offset at which the clock
was written down repeats it exactly. So witnesses are few. Any series becomes one where a place is free. A witness that
does not speak within its patience (counted in records of the partition) leaves its place to the next newcomer. Patience
differs by powers of two from place to place, so that series that speak every few records and series that speak every hundred
thousand both find one that waits long enough; who has come back once is waited for eight times as long as it took.

A clock is one row of `CLOCK` words: records so far, newcomers so far, then of all witnesses the series (`identity`, 0: a free
place), the newest record time, the time that two records have reached, the record it last spoke at, the patience, and for each
witness SAMPLES pairs of (record, time), newest first: where in the log it had come to which time. Times are milliseconds. A
fresh row is all zeros.
"""

from __future__ import annotations

import numpy as np

from streamrnn.kernels import compiled, inlined
from streamrnn.records import I64

WITNESSES = 8
# Samples lie a quarter of `idle_after` apart, so they reach back as far as is asked for.
SAMPLES, SPACING = 8, 4
FIRST = 2
SERIES, NEWEST, REACHED, SPOKE, PATIENCE = range(FIRST, FIRST + 5 * WITNESSES, WITNESSES)
SAMPLE = FIRST + 5 * WITNESSES
WORDS = 2 * SAMPLES
CLOCK = SAMPLE + WORDS * WITNESSES
# A newcomer is looked at for a place so often, in records, once all places were taken.
LOOKS = 16
PATIENCE_LEAST, PATIENCES = 1024, 10  # in records, and how many powers of two there are
COMES_BACK = 8
# How far the clocks of a series and its witness may be apart, in `idle_after`: a witness that speaks seldom is late.
LATE, EARLY = 3, 1


@inlined
def place_of(clock: I64, identity: int) -> int:
    """Counts one record of a partition; the place of its series among the witnesses, or -1."""
    clock[0] += 1
    place = -1
    for w in range(WITNESSES):
        if clock[SERIES + w] == identity:
            place = w
    return place


@inlined
def counts(clock: I64, place: int) -> bool:
    """Whether `attend` has anything to do with the record that was counted last."""
    return place >= 0 or clock[1] < WITNESSES or clock[0] % LOOKS == 0


@compiled
def hear(clock: I64, identity: int, record_ms: int, idle_after_ms: int) -> bool:
    """Takes one record of a series with a timestamp (not below 0); `identity` is never 0. Returns whether a witness has
    moved so far that silent series are to be looked for."""
    place = place_of(clock, identity)
    if not counts(clock, place):
        return False
    return attend(clock, place, identity, record_ms, idle_after_ms)


@compiled
def attend(clock: I64, place: int, identity: int, record_ms: int, idle_after_ms: int) -> bool:
    """The rest of `hear`, for the few records that are a witness' or a newcomer's."""
    count = clock[0]
    if place < 0:
        _take_place(clock, identity, record_ms)
        return False
    newest, reached = clock[NEWEST + place], clock[REACHED + place]
    both, highest = min(newest, record_ms), max(newest, record_ms)
    clock[NEWEST + place] = record_ms
    clock[PATIENCE + place] = max(clock[PATIENCE + place], COMES_BACK * (count - clock[SPOKE + place]))
    clock[SPOKE + place] = count
    at = SAMPLE + WORDS * place
    if highest < reached - idle_after_ms:  # its clock was put back: what it has shown counts no more
        clock[at : at + WORDS] = 0
        clock[REACHED + place] = both
    elif both > reached:
        clock[REACHED + place] = both
    else:
        return False
    if both - clock[at + 1] < idle_after_ms // SPACING and clock[at] > 0:
        return False
    for k in range(at + WORDS - 1, at + 1, -1):
        clock[k] = clock[k - 2]
    clock[at], clock[at + 1] = count, both
    return True


@compiled
def _take_place(clock: I64, identity: int, record_ms: int) -> None:
    """Makes a series a witness where a place is free, or where one has been waited for in vain the longest."""
    count = clock[0]
    place, waited = -1, 0
    for w in range(WITNESSES):
        if clock[SERIES + w] == 0:
            place = w
            break
        late = count - clock[SPOKE + w] - clock[PATIENCE + w]
        if late > waited:
            place, waited = w, late
    if place < 0:
        return
    at = SAMPLE + WORDS * place
    clock[at : at + WORDS] = 0
    clock[at], clock[at + 1] = count, record_ms
    clock[SERIES + place], clock[NEWEST + place], clock[REACHED + place] = identity, record_ms, record_ms
    clock[SPOKE + place], clock[PATIENCE + place] = count, PATIENCE_LEAST << (clock[1] % PATIENCES)
    clock[1] += 1


@compiled
def silent_for_ms(clock: I64, identity: int, spoke: int, record_ms: int, idle_after_ms: int) -> int:
    """How long a series has been silent by the word of two witnesses, or -1. Its last record was number `spoke` of the
    partition (`clock[0]` then) and had the time `record_ms`."""
    first, second = -1, -1
    for w in range(WITNESSES):
        if clock[SERIES + w] == 0 or clock[SERIES + w] == identity:
            continue
        now, at = clock[REACHED + w], SAMPLE + WORDS * w
        if now - record_ms < idle_after_ms:
            continue
        # Where the witness was when the series last spoke: its newest sample before that.
        before, after = 0, 0
        for k in range(at, at + WORDS, 2):
            if clock[k] == 0:
                break
            if clock[k] <= spoke:
                before = k
                break
            after = k
        if before == 0 and clock[at + WORDS - 2] == 0:
            before = after  # it came later than the series' last record: its first sample
        if before == 0:
            continue  # it has come so far since that nothing is known of then
        if not record_ms - LATE * idle_after_ms <= clock[before + 1] <= record_ms + EARLY * idle_after_ms:
            continue
        moved = now - clock[before + 1]
        if moved < idle_after_ms:
            continue
        passed = min(moved, now - record_ms)
        if passed > first:
            first, second = passed, first
        elif passed > second:
            second = passed
    return int(second)


@compiled
def time_ms(clock: I64) -> int:
    """The time that two witnesses have reached, for people and for rough measures; -1 while there are not two."""
    first, second = -1, -1
    for w in range(WITNESSES):
        if clock[SERIES + w] != 0:
            reached = clock[REACHED + w]
            if reached > first:
                first, second = reached, first
            elif reached > second:
                second = reached
    return int(second)


def fresh_clocks(partitions: int) -> I64:
    """[partition, CLOCK]"""
    return np.zeros((partitions, CLOCK), dtype=np.int64)
