"""What is wrong with what comes in, said in the log: once a minute at most, with a count, an example and what to set.

A stream that is refused as a whole, series that come by several partitions, keys that are JSON: none of it stops the
service, and each record's fate is in the metrics and the dead letters. But nobody looks there who does not know.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from streamrnn.codec import KeysSeen
from streamrnn.records import Outputs, Rejected, TickBatch
from streamrnn.stream.places import Places

log = structlog.get_logger(__name__)

PERIOD_S = 60.0
# Where nothing at all could be used so far, the first line does not wait for the end of a minute.
EARLY_S = 5.0
HANDFUL = 5  # fewer refusals are not worth a line, whatever their share
SHARE = 0.5


@dataclass(slots=True)
class Pace:
    """Lets news pass once in `PERIOD_S`; `news` is what has been counted since it last passed."""

    passed: int = 0
    last_s: float | None = None

    def news(self, now_s: float, count: int) -> int:
        """How much is new, where it is time to say it; else 0."""
        if count <= self.passed or (self.last_s is not None and now_s - self.last_s < PERIOD_S):
            return 0
        new, self.passed, self.last_s = count - self.passed, count, now_s
        return new


@dataclass(slots=True)
class Refusals:
    """The records of the current minute: how many were refused, why, and the first example of each reason."""

    began_s: float | None = None
    last_s: float | None = None  # when a line was last written
    some_used: bool = False  # since the start
    records: int = 0
    reasons: Tally[str] = field(default_factory=Tally)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)  # reason → (detail, source)

    def add(self, now_s: float, outputs: Outputs, batch: TickBatch, undecodable: Sequence[Rejected]) -> None:
        """Takes what became of the records of one poll."""
        self.records += len(batch) + len(undecodable)
        if self.began_s is None and self.records:
            self.began_s = now_s
        self.some_used = self.some_used or len(batch) > len(outputs.rejected)
        for item in undecodable:
            self.reasons[item.reason] += 1
            if item.reason not in self.examples:
                record = item.record
                self.examples[item.reason] = (item.detail, f"{record.topic}/{record.partition}/{record.offset}")
        for row, reason, detail in outputs.rejected:
            self.reasons[reason] += 1
            if reason not in self.examples:
                topic = batch.records[row].topic if row < len(batch.records) else ""
                self.examples[reason] = (detail, f"{topic}/{batch.partition[row]}/{batch.offset[row]}")

    def look(self, now_s: float) -> dict[str, Any] | None:
        """What to say of the minute that has ended, if most of it was refused; a new one begins."""
        if self.began_s is None:
            return None
        refused = self.reasons.total()
        over_s = PERIOD_S if self.some_used else EARLY_S
        if now_s - self.began_s < over_s or (self.last_s is not None and now_s - self.last_s < PERIOD_S):
            return None
        said = None
        if refused >= HANDFUL and refused > SHARE * self.records:
            (reason, _), *_ = self.reasons.most_common(1)
            detail, source = self.examples[reason]
            said = {
                "share": round(refused / self.records, 3),
                "records": self.records,
                "refused": dict(self.reasons.most_common()),
                "reason": reason,
                "detail": detail,
                "source": source,
            }
            self.last_s = now_s
        elif now_s - self.began_s < PERIOD_S:
            return None  # too few for a line so far
        self.began_s, self.records = None, 0
        self.reasons, self.examples = Tally(), {}
        return said


class SharedSeries:
    """Says that series come by several partitions; a worker for those that it owns, a trainer for all."""

    def __init__(self) -> None:
        self._pace = Pace()

    def look(self, now_s: float, places: Places, names: Sequence[str | None]) -> None:
        """`names` are the series by row, as the table has them."""
        times = self._pace.news(now_s, places.count)
        if times:
            log.warning(
                "series come by more than one partition: each partition keeps a state of its own and sees gaps that are none; "
                "records of one series need one key",
                times=times,
                example=names[places.row] or "" if places.row < len(names) else "",
                partitions=list(places.partitions),
            )


class Notices:
    """The worker's: fed with every batch, looked at a few times a second."""

    def __init__(self) -> None:
        self._refusals = Refusals()
        self._keys = Pace()
        self._shared = SharedSeries()

    def batch(self, now_s: float, outputs: Outputs, batch: TickBatch, undecodable: Sequence[Rejected]) -> None:
        self._refusals.add(now_s, outputs, batch, undecodable)

    def look(self, now_s: float, keys: KeysSeen, places: Places | None, names: Sequence[str | None]) -> None:
        """Writes the lines that are due."""
        said = self._refusals.look(now_s)
        if said is not None:
            log.warning("most of the input is refused and dead-lettered", **said)
        new = self._keys.news(now_s, keys.count)
        if new:
            log.warning(
                "series are named by record keys that are JSON text; set decode.series to the field that names the series, "
                "or have the keys written as plain text",
                records=new,
                example=keys.example,
            )
        if places is not None:
            self._shared.look(now_s, places, names)
