"""What becomes of an output that the broker refuses for what it holds: its source record is dead-lettered with the reason.

The tick itself was taken: it moved its series' state, and only what it led to cannot be sent. A dead letter that is
refused in turn is made smaller, or given a key, and at last given up; all of it is counted and reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from streamrnn.config.sizes import ENVELOPE_BYTES, limit_for
from streamrnn.inputs import Numbering
from streamrnn.records import PlainRecord, Record, Rejected
from streamrnn.transports.base import Instead, Outgoing, Refused, TopicUnfit, clock_s
from streamrnn.wire.codec import HEADER_DETAIL, HEADER_INDEX, HEADER_REASON, HEADER_SOURCE, dead_letter
from streamrnn.wire.origins import Located, located
from streamrnn.wire.output_schemas import What

log = structlog.get_logger(__name__)

# A value that is cut has this header, which says how many bytes it had.
HEADER_TRUNCATED = "streamrnn-truncated"
# A dead letter that the broker refused has one of these for each time, with the reason.
HEADER_REFUSED = "streamrnn-refused"
OURS = frozenset({HEADER_REASON, HEADER_DETAIL, HEADER_SOURCE, HEADER_INDEX, HEADER_TRUNCATED, HEADER_REFUSED})
# What is left of a dead letter's value that is refused for its size, once and twice.
LETTER_BYTES_LEFT = (16_384, 256)
TOO_LARGE = ("MESSAGE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")
REPORT_EVERY_S = 60.0
# Of one record that is refused element by element.
LETTERS_MIN, LETTERS_BYTES_MAX = 16, 64_000_000

Headers = list[tuple[str, bytes]]
# (topic, partition, offset, place in a record of several or −1) of a tick
_At = tuple[str, int, int, int]


class Observer(Protocol):
    def refused(self, kind: str, error: str, count: int) -> None: ...
    def dead_lettered(self, count: int) -> None: ...
    def dead_letters_lost(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class OutputTopics:
    """Where outputs go. `letters_for` maps a partition of the input, by its number, to one of the dead letters' topic; `source`
    reads which tick led to an output (`wire.output_schemas.source_in`)."""

    inputs: Numbering
    forecasts: str
    imputed: str
    dead_letters: str
    letters_for: Callable[[int], int]
    source: Callable[[What, bytes, Sequence[tuple[str, bytes]]], _At | None]
    ticks: str = ""  # of a first stage
    passed: bool = False  # the records are ticks that say where they are from

    def kind(self, topic: str) -> str:
        """The kind of output that a topic takes; "" for topics of other things."""
        if self.ticks:
            kinds = {self.ticks: "tick", self.dead_letters: "dead-letter"}
        else:
            kinds = {self.forecasts: "forecast", self.imputed: "imputation", self.dead_letters: "dead-letter"}
        return kinds.get(topic, "")


class RefusedOutputs:
    """Writes dead letters for refused outputs; one for the whole life of a worker, so that reports are kept apart."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._unreported, self._example, self._reported_s = 0, "", float("-inf")

    def instead(self, topics: OutputTopics, sources: Sequence[Sequence[Record]], now_ms: Callable[[], int]) -> Instead:
        """What is to be sent instead of refused outputs of these records."""
        return lambda refused: self._letters(topics, sources, refused, now_ms())

    def _letters(
        self, topics: OutputTopics, sources: Sequence[Sequence[Record]], refused: Sequence[Refused], now_ms: int
    ) -> list[Outgoing]:
        """One letter for a source tick, however many of its outputs are refused. Raises TopicUnfit."""
        again: list[Outgoing] = []
        outputs: dict[_At, list[Refused]] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for each in refused:
            kind = topics.kind(each.record.topic)
            if not kind:
                raise TopicUnfit(_of_our_own(each))
            counts[kind, each.error] += 1
            if kind == "dead-letter":
                letter = self._smaller(each, now_ms)
                again += [letter] if letter is not None else []
            else:
                outputs.setdefault(_source_of(topics, each.record), []).append(each)
        width = 4 if topics.passed else 3
        records = _records(sources, {at[:width] for at in outputs}, topics.passed)
        rejected = [
            self._rejected(topics, records.get(at[:width]), at, which, now_ms) for at, which in sorted(outputs.items())
        ]
        letters = [self._letter(topics, each, now_ms) for each in bounded(rejected)]
        for (kind, error), count in counts.items():
            self._observer.refused(kind, error, count)
        if letters:
            self._observer.dead_lettered(len(rejected))
        self._note(len(refused), f"{refused[0].record.topic}/{refused[0].record.partition}: {_reason(refused[0])}")
        return [*letters, *again]

    @staticmethod
    def _rejected(
        topics: OutputTopics, record: Record | None, at: _At, refused: Sequence[Refused], now_ms: int
    ) -> Rejected:
        kinds = {topics.forecasts: "forecasts", topics.imputed: "imputed", topics.ticks: "ticks"}
        said = Counter(f"{kinds[each.record.topic]}: {_reason(each)}" for each in refused)
        detail = "; ".join(what + (f" ({count} records)" if count > 1 else "") for what, count in said.items())
        if record is None:  # an output that names no source of this delivery: it is its own
            output = refused[0].record
            record = PlainRecord(*at[:3], now_ms, output.key, output.value)
        return Rejected(record, "refused", detail, at[3])

    @staticmethod
    def _letter(topics: OutputTopics, rejected: Rejected, now_ms: int) -> Outgoing:
        key, value, headers = cut(*dead_letter(rejected))
        record, inputs = rejected.record, topics.inputs
        known = (record.topic, record.partition) in inputs
        partition = topics.letters_for(inputs.of(record) if known else record.partition)
        return Outgoing(topics.dead_letters, partition, key, value, now_ms, headers)

    def _smaller(self, refused: Refused, now_ms: int) -> Outgoing | None:
        """A dead letter that was refused, changed so that it may be taken; None where there is nothing left to try."""
        topic, partition, key, value, _, sent = refused.record
        times = sum(name == HEADER_REFUSED for name, _ in sent)
        source = dict(sent).get(HEADER_SOURCE, b"")
        if refused.error == "INVALID_TIMESTAMP":
            raise TopicUnfit(
                f"{topic} refuses the present time as this machine has it ({_reason(refused)}): set the clock right, or "
                f"the topic's message.timestamp.before.max.ms and message.timestamp.after.max.ms"
            )
        if times >= len(LETTER_BYTES_LEFT):
            self._observer.dead_letters_lost(1)
            log.error("a dead letter is given up: its topic refuses it", source=source.decode(), why=_reason(refused))
            return None
        headers = list(sent)
        if key is None or times:
            key = source
        if times:
            headers = [(name, text[: LETTER_BYTES_LEFT[times]]) for name, text in sent if name in OURS]
        if value is not None and (times or refused.error in TOO_LARGE):
            key, value, headers = cut(key, value, headers, LETTER_BYTES_LEFT[times])
        headers.append((HEADER_REFUSED, _reason(refused)[:200].encode("utf-8", "backslashreplace")))
        return Outgoing(topic, partition, key, value, now_ms, headers)

    def _note(self, count: int, example: str) -> None:
        self._unreported, self._example = self._unreported + count, example
        self.report()

    def report(self) -> None:
        """Reports what was refused since the last report, at most once a minute."""
        if self._unreported and clock_s() - self._reported_s >= REPORT_EVERY_S:
            log.warning(
                "the broker refuses outputs for what they hold; their sources are dead-lettered, all else goes on",
                refused=self._unreported, example=self._example,
            )  # fmt: skip
            self._unreported, self._reported_s = 0, clock_s()


def bounded(refused: Sequence[Rejected]) -> Sequence[Rejected]:
    """Each dead letter has the whole record: of a large one with very many elements that are refused, so many letters that
    they have LETTERS_BYTES_MAX together. The last one says how many more elements there are."""
    if all(item.index < 0 for item in refused):
        return refused
    counts = Counter(_stands(item.record) for item in refused)
    left: dict[tuple[str, int, int], int] = {}
    kept: list[Rejected] = []
    for item in refused:
        at = _stands(item.record)
        most = max(LETTERS_MIN, LETTERS_BYTES_MAX // max(1, len(item.record.value or b"")))
        left[at] = left.get(at, min(most, counts[at])) - 1
        if left[at] > 0 or counts[at] <= most:
            kept.append(item)
        elif left[at] == 0:
            kept.append(
                replace(item, detail=f"{counts[at] - most} more elements of this record are refused; {item.detail}")
            )
    return kept


def cut(
    key: bytes | None, value: bytes | None, headers: Headers, bytes_max: int = 800_000
) -> tuple[bytes | None, bytes | None, Headers]:
    """A dead letter is larger than what it buries, by the headers that say why: one whose value is near the broker's limit
    is cut to `bytes_max`, and a header says how many there were. What cannot be buried would stop the service for ever."""
    if value is None or len(value) <= bytes_max:
        return key, value, headers
    if not any(name == HEADER_TRUNCATED for name, _ in headers):
        headers = [*headers, (HEADER_TRUNCATED, str(len(value)).encode())]
    return key, value[:bytes_max], headers


def _reason(refused: Refused) -> str:
    return f"{refused.error}: {refused.detail}" if refused.detail else refused.error


def _of_our_own(refused: Refused) -> str:
    """Why no other attempt would help, and what would."""
    topic, record = refused.record.topic, refused.record
    size = len(record.key or b"") + len(record.value or b"")
    if refused.error not in TOO_LARGE:
        remedy = "its settings are to be those of `streamrnn topics --create`"
    else:
        remedy = (
            f"`streamrnn topics --create` with this configuration, or kafka-configs.sh --alter --entity-type topics "
            f"--entity-name {topic} --add-config max.message.bytes={limit_for(size + ENVELOPE_BYTES)}; or smaller states "
            "(channels, horizon, quantiles, model.hidden, pending_max): `streamrnn validate` says how large they are"
        )
    return (
        f"{topic} refuses a record of the service's own of {size} bytes for what it holds: {_reason(refused)}; {remedy}"
    )


def _source_of(topics: OutputTopics, record: Outgoing) -> _At:
    """Where the tick stands that led to an output; (its own partition, -1, -1) where it does not say."""
    what: What = "imputed" if record.topic == topics.imputed else "forecasts"
    return topics.source(what, record.value or b"", record.headers) or ("?", record.partition, -1, -1)


def _stands(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _records(
    sources: Sequence[Sequence[Record]], wanted: Container[tuple[str | int, ...]], passed: bool
) -> dict[tuple[str | int, ...], Record]:
    """The wanted records by (topic, partition, offset), those of ticks that were `passed` on by their origin and its index."""
    found: dict[tuple[str | int, ...], Record] = {}
    for records in sources:
        for read in records:
            record = located(read) if passed else read
            at: tuple[str | int, ...] = _stands(record)
            if isinstance(record, Located):
                at = *at, record.index
            if at in wanted:
                found[at] = record
    return found
