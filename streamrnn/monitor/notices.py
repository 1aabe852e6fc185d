"""What is wrong with what comes in, said in the log: once a minute at most, with a count, an example and what to set.

A stream that is refused as a whole, series that come by several partitions, keys that are JSON: none of it stops the
service, and each record's fate is in the metrics and the dead letters. But nobody looks there who does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from streamrnn.inputs import Numbering
from streamrnn.records import Outputs, Rejected, SkipReason, TickBatch
from streamrnn.stream.frontend import FrontEnd
from streamrnn.stream.places import Places
from streamrnn.wire.codec import KeysSeen

log = structlog.get_logger(__name__)

# Of an input that is one topic: a partition's number is its own.
PLAIN = Numbering(one="?")

PERIOD_S = 60.0
# Where nothing at all could be used so far, the first line does not wait for the end of a minute.
EARLY_S = 5.0
HANDFUL = 5  # fewer refusals are not worth a line, whatever their share
SHARE = 0.5
BIN_S = 5.0
# Of the series that are held, so many are not warm yet: then those that come back are not just the rare ones.
COLD_SHARE = 0.2
# Without a network for so long, a line; and then now and again.
NEVER_S, NEVER_EVERY_S = 600.0, 3600.0


@dataclass(slots=True)
class Pace:
    """Lets news pass once in `PERIOD_S`; `news` is what has been counted since it last passed."""

    passed: int = 0
    last_s: float | None = None

    def due(self, now_s: float, count: int) -> bool:
        """Whether there is something new, and it is time to say it."""
        return count > self.passed and (self.last_s is None or now_s - self.last_s >= PERIOD_S)

    def news(self, now_s: float, count: int) -> int:
        """How much is new, where it is time to say it; else 0."""
        if not self.due(now_s, count):
            return 0
        new, self.passed, self.last_s = count - self.passed, count, now_s
        return new


@dataclass(slots=True)
class Fate:
    """What became of the records of one partition, or of all. Made for every batch, so without anything that costs."""

    records: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def mostly_refused(self) -> bool:
        return self.refused >= HANDFUL and self.refused > SHARE * self.records

    def refuse(self, reason: str, count: int = 1) -> None:
        self.refused += count
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def add(self, other: Fate) -> None:
        self.records += other.records
        if other.refused:
            for reason, count in other.reasons.items():
                self.refuse(reason, count)

    def ranked(self) -> dict[str, int]:
        """The reasons, the most frequent first."""
        return dict(sorted(self.reasons.items(), key=lambda each: -each[1]))


@dataclass(slots=True)
class Refusals:
    """The records of the current minute, by partition: how many were refused, why, and the first example of each reason."""

    began_s: float | None = None
    last_s: float | None = None  # when a line was last written
    some_used: bool = False  # since the start
    partitions: dict[int, Fate] = field(default_factory=dict)
    examples: dict[tuple[int, str], tuple[str, str]] = field(
        default_factory=dict
    )  # (partition, reason) → (detail, source)

    def add(self, now_s: float, found: Mapping[int, Fate], outputs: Outputs, batch: TickBatch,
            undecodable: Sequence[Rejected], numbering: Numbering = PLAIN) -> None:  # fmt: skip
        """Takes what became of the records of one poll; `found` is their count by partition."""
        if self.began_s is None and found:
            self.began_s = now_s
        self.some_used = self.some_used or len(batch) > len(outputs.rejected)
        for partition, part in found.items():
            self.partitions.setdefault(partition, Fate()).add(part)
        for item in undecodable:
            record = item.record
            number = numbering.of(record)
            if (number, item.reason) not in self.examples:
                source = f"{record.topic}/{record.partition}/{record.offset}"
                self.examples[number, item.reason] = (item.detail, source)
        for row, reason, detail in outputs.rejected:
            partition = int(batch.partition[row])
            if (partition, reason) not in self.examples:
                source = f"/{partition}/{batch.offset[row]}"
                if row < len(batch.records):
                    source = f"{batch.records[row].topic}/{batch.records[row].partition}/{batch.offset[row]}"
                self.examples[partition, reason] = (detail, source)

    def look(self, now_s: float) -> dict[str, Any] | None:
        """What to say of the minute that has ended, if most of it, or of a partition, was refused; a new one begins."""
        if self.began_s is None:
            return None
        over_s = PERIOD_S if self.some_used else EARLY_S
        if now_s - self.began_s < over_s or (self.last_s is not None and now_s - self.last_s < PERIOD_S):
            return None
        everything = Fate()
        for part in self.partitions.values():
            everything.add(part)
        worst = sorted(partition for partition, part in self.partitions.items() if part.mostly_refused)
        if not worst and everything.mostly_refused:  # a few in each of many partitions
            worst = sorted(partition for partition, part in self.partitions.items() if part.refused)
        said = None
        if worst:
            of = Fate()
            for partition in worst:
                of.add(self.partitions[partition])
            reason, *_ = of.ranked()
            detail, source = next(
                self.examples[partition, reason] for partition in worst if (partition, reason) in self.examples
            )
            said = {
                "partitions": worst,
                "share": round(of.refused / of.records, 3),
                "records": of.records,
                "refused": of.ranked(),
                "reason": reason,
                "detail": detail,
                "source": source,
            }
            self.last_s = now_s
        elif now_s - self.began_s < PERIOD_S:
            return None  # too few for a line so far
        self.began_s, self.partitions, self.examples = None, {}, {}
        return said


@dataclass(slots=True)
class LastMinute:
    """The records of each partition in the last minute, in bins of BIN_S seconds: what readiness looks at."""

    some_used: set[int] = field(default_factory=set)
    began_s: dict[int, float] = field(default_factory=dict)
    _bins: dict[int, deque[tuple[float, Fate]]] = field(default_factory=dict)

    def add(self, now_s: float, found: Mapping[int, Fate]) -> None:
        for partition, part in found.items():
            self.began_s.setdefault(partition, now_s)
            bins = self._bins.setdefault(partition, deque())
            if not bins or now_s - bins[-1][0] >= BIN_S:
                bins.append((now_s, Fate()))
            bins[-1][1].add(part)
            if part.records > part.refused:
                self.some_used.add(partition)

    def forget(self, partition: int) -> None:
        """It is another worker's from now on."""
        self.some_used.discard(partition)
        self.began_s.pop(partition, None)
        self._bins.pop(partition, None)

    def shares(self, now_s: float) -> dict[int, tuple[float, int, str]]:
        """By partition: (share that was refused, records, most frequent reason). Partitions without records in the last
        minute are left out, and so are those that have been here for less than a minute, unless nothing could be used."""
        found = {}
        for partition, bins in self._bins.items():
            while bins and now_s - bins[0][0] > PERIOD_S:
                bins.popleft()
            minute = Fate()
            for _, part in bins:
                minute.add(part)
            over_s = PERIOD_S if partition in self.some_used else EARLY_S
            if minute.records and now_s - self.began_s[partition] >= over_s:
                reason = next(iter(minute.ranked()), "")
                found[partition] = (minute.refused / minute.records, minute.records, reason)
        return found


def fates(
    outputs: Outputs, batch: TickBatch, undecodable: Sequence[Rejected], numbering: Numbering = PLAIN
) -> dict[int, Fate]:
    """What became of the records of one poll, by partition."""
    found: dict[int, Fate] = {}
    if len(batch):
        first = int(batch.partition[0])
        if first == batch.partition[-1] and (batch.partition == first).all():  # as the worker's batches are
            found[first] = Fate(len(batch))
        else:
            counts = np.bincount(batch.partition).tolist()
            found = {partition: Fate(count) for partition, count in enumerate(counts) if count}
    for item in undecodable:
        part = found.setdefault(numbering.of(item.record), Fate())
        part.records += 1
        part.refuse(item.reason)
    for row, reason, _ in outputs.rejected:
        found[int(batch.partition[row])].refuse(reason)
    return found


class NothingUsed:
    """Says that all of the input is skipped: `decode` takes none of it, by a typing error more often than on purpose."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._last_s: float | None = None
        self._counts: dict[str, int] = {}

    def add(self, counts: Mapping[SkipReason, int]) -> None:
        for reason, count in counts.items():
            self._counts[reason] = self._counts.get(reason, 0) + count

    def look(self, now_s: float, some_used: bool) -> None:
        skipped = sum(count for reason, count in self._counts.items() if reason != "tombstone")
        if some_used or skipped < HANDFUL:
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s < EARLY_S or (self._last_s is not None and now_s - self._last_s < PERIOD_S):
            return
        self._last_s = now_s
        log.warning(
            "all of the input is skipped: nothing in it is a configured channel, or decode.where takes none of it. "
            "`streamrnn decode` shows what records become",
            skipped=dict(self._counts),
        )  # fmt: skip


class SharedSeries:
    """Says that series come by several partitions; a worker for those that it owns, a trainer for all."""

    def __init__(self) -> None:
        self._pace = Pace()

    def look(self, now_s: float, places: Places, names: Sequence[str | None], numbering: Numbering = PLAIN) -> None:
        """`names` are the series by row, as the table has them."""
        times = self._pace.news(now_s, places.count)
        if times:
            log.warning(
                "series come by more than one partition: each partition keeps a state of its own and sees gaps that are none; "
                "records of one series need one key, or set repartition: on",
                times=times,
                example=names[places.row] or "" if places.row < len(names) else "",
                partitions=[numbering.label(number) for number in places.partitions],
            )


class EvictedSeries:
    """Says that series are evicted before they are warm, and come back: more of them than `series_max`."""

    def __init__(self) -> None:
        self._pace = Pace()

    def look(self, now_s: float, front: FrontEnd) -> None:
        places = front.places
        if not self._pace.due(now_s, places.returned):
            return
        share = cold_share(front)
        # What is not said is looked at again, so nothing of it has passed.
        if share is not None and share >= COLD_SHARE:
            times = self._pace.news(now_s, places.returned)
            log.warning(
                "more series than series_max: they are evicted before they are warm, and begin anew at each return. "
                "Set series_max to more than there are, or have more workers share the partitions",
                series_met=places.met(), series_max=front.spec.series_max, times=times, cold_share=round(share, 3),
                bytes_each=front.table.row_bytes(),
            )  # fmt: skip


def cold_share(front: FrontEnd) -> float | None:
    """Of the series that are held, the share that has taken fewer than `warm_up` steps; None without any."""
    table = front.table
    steps = table.columns["steps"][: table.used][table.identity[: table.used] != 0]
    return float((steps < front.spec.warm_up).mean()) if len(steps) else None


@dataclass(frozen=True, slots=True)
class Learning:
    """What a worker knows of where its weights should come from."""

    served: bool  # whether a network is in use
    trainer: Mapping[str, Any]  # its last heartbeat; empty where there is none of this worker's
    ticks: int  # taken since the start


class NeverLearnt:
    """Says that no network is in use long after the start, and why: forecasts then come from the simple experts alone."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._last_s: float | None = None

    def look(self, now_s: float, now: Learning) -> None:
        if now.served or not now.ticks:
            self._since_s = None
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s < NEVER_S or (self._last_s is not None and now_s - self._last_s < NEVER_EVERY_S):
            return
        self._last_s = now_s
        cause, remedy = _why_never(now.trainer)
        log.warning("no network is in use: forecasts come from the simple experts alone", cause=cause, remedy=remedy)


def _why_never(trainer: Mapping[str, Any]) -> tuple[str, str]:
    """(cause, remedy)"""
    if not trainer:
        return (
            "train is off, and nobody has published weights in topics.models",
            "run `streamrnn train` with the same configuration, or set train: auto",
        )
    if not trainer.get("up"):
        return f"the trainer does not run ({trainer.get('restarts', 0)} restarts)", "its own log lines say why it ends"
    if trainer.get("waits"):
        left_s = trainer.get("waits_s")
        how = "never at the present rate" if left_s is not None and left_s < 0 else f"{left_s} s at the present rate"
        return (
            f"the trainer has {trainer['waits']}",
            f"wait ({how if left_s is not None else 'the rate is not known yet'})",
        )
    if trainer.get("refused") and not trainer.get("accepted"):
        return (
            f"none of {trainer['refused']} candidates was better than no change ({trainer.get('last', '')})",
            "none, where the series cannot be forecast better; else a longer history (learn.history), or another step",
        )
    return (
        f"the trainer is {trainer.get('state') or 'starting'}",
        "wait; `streamrnn models list` shows what is published",
    )


class Notices:
    """The worker's: fed with every batch, looked at a few times a second."""

    def __init__(self) -> None:
        self.last_minute = LastMinute()
        self._refusals = Refusals()
        self._keys = Pace()
        self._shared = SharedSeries()
        self._evicted = EvictedSeries()
        self._never = NeverLearnt()
        self.nothing_used = NothingUsed()
        self._numbering = PLAIN

    def number_by(self, numbering: Numbering) -> None:
        """The numbers of the input's partitions."""
        self._numbering = numbering

    def batch(self, now_s: float, outputs: Outputs, batch: TickBatch, undecodable: Sequence[Rejected]) -> None:
        found = fates(outputs, batch, undecodable, self._numbering)
        self.last_minute.add(now_s, found)
        self._refusals.add(now_s, found, outputs, batch, undecodable, self._numbering)

    def look(self, now_s: float, keys: KeysSeen, front: FrontEnd | None, learning: Learning) -> None:
        """Writes the lines that are due."""
        said = self._refusals.look(now_s)
        if said is not None:
            said["partitions"] = [self._numbering.label(number) for number in said["partitions"]]
            log.warning("most of the input is refused and dead-lettered", **said)
        new = self._keys.news(now_s, keys.count)
        if new:
            log.warning(
                "series are named by record keys that are JSON text; set decode.series to the field that names the series, "
                "or have the keys written as plain text",
                records=new,
                example=keys.example,
            )
        if front is not None:
            self._shared.look(now_s, front.places, front.table.names, self._numbering)
            self._evicted.look(now_s, front)
        self._never.look(now_s, learning)
        self.nothing_used.look(now_s, self._refusals.some_used)
