"""The nouns that travel between the floors: records as Kafka knows them, ticks, outputs, refusals.

Batches are columnar: one array per field, row i is the i-th tick in arrival order. A row object per tick would cost
more than the whole recurrent step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
I8 = NDArray[np.int8]
U64 = NDArray[np.uint64]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

# The closed set of words in the `streamrnn-reason` header. Each has one meaning; tests enumerate them.
Reason = Literal[
    "tombstone",  # the record has no value
    "too-large",  # more bytes than record_bytes_max; not decoded at all
    "malformed",  # not JSON (or not the configured format): syntax, bad UTF-8, truncated, nested too deep
    "type",  # JSON, but a field has the wrong type (a string for a number, an array for an object, ...)
    "range",  # a number that is not finite or beyond value_abs_max; a series name too long, empty or with control characters
    "no-series",  # neither the field nor the record key names a series; where the field is mapped, it alone counts
    "no-values",  # no known channel in the record
    "unknown-channel",  # a long record names a channel that is not configured
    "timestamp",  # `ts` is no number and not RFC 3339, is mapped and null, beyond 64 bits, or nowhere near the record's own time
    "late",  # its step is closed
    "duplicate",  # same series, channel and ts (or, within: one, a second record in a step)
    "future",  # ahead of its own Kafka timestamp by more than future_max
    "pending-full",  # the series holds back pending_max ticks already
    "schema",  # the registry does not know the schema that the record names, or that cannot be used
    "refused",  # the tick was taken, and the broker refuses its output for what that holds
]
REASONS: tuple[Reason, ...] = (
    "tombstone",
    "too-large",
    "malformed",
    "type",
    "range",
    "no-series",
    "no-values",
    "unknown-channel",
    "timestamp",
    "late",
    "duplicate",
    "future",
    "pending-full",
    "schema",
    "refused",
)


class Record(Protocol):
    """One record as the transports deliver it. aiokafka's ConsumerRecord has this shape already."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A record of our own making: from a file, from the broker in memory, from a buffer, or with another record's place."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that was refused: counted, dead-lettered, and without any effect on a number."""

    record: Record
    reason: Reason
    detail: str
    index: int = -1  # of the element, where the record has more than one


# Why a record, or an element of one, is none of this stream's: counted, and not dead-lettered.
SkipReason = Literal[
    "tombstone",  # no value, or null, where decode.tombstones says so
    "delete",  # a row that was deleted (change data capture)
    "where",  # not what decode.where takes
    "other",  # no channel that is configured, where decode.others says so: another measurement, a heartbeat
    "empty",  # an array without elements
    "repeated",  # sent again by a first stage that died (repartition); the first of the two counts
]
SKIP_REASONS: tuple[SkipReason, ...] = ("tombstone", "delete", "where", "other", "empty", "repeated")


@dataclass(frozen=True, slots=True)
class Skipped:
    """So many elements of a record (1 where it is one itself) that are none of this stream's."""

    record: Record
    reason: SkipReason
    elements: int = 1


def _no_index() -> I32:
    return np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class TickBatch:
    """Decoded ticks in arrival order; they may come from several partitions.

    `ts_us` is event time in microseconds, `record_ts_ms` the record's own Kafka timestamp (-1: it has none). `values` is
    [tick, channel] with NaN for a missing value. `channel[i]` is −1 for a wide tick (the record is the whole step) and the
    channel's index for a long one. `index[i]` is the place of the tick's element in a record of several, −1 in others; empty
    where no record has several.
    """

    records: Sequence[Record]
    partition: I32
    offset: I64
    record_ts_ms: I64
    series: list[str]
    ts_us: I64
    values: F64
    channel: I16
    index: I32 = field(default_factory=_no_index)

    def __len__(self) -> int:
        return len(self.series)


def take(batch: TickBatch, rows: I64 | slice) -> TickBatch:
    """Some ticks of a batch; every field is one value a tick."""
    parts: dict[str, Any] = {}
    for each in fields(TickBatch):
        value = getattr(batch, each.name)
        if isinstance(value, np.ndarray) and len(value) < len(batch):  # of no tick at all
            parts[each.name] = value
        elif isinstance(value, np.ndarray) or isinstance(rows, slice):
            parts[each.name] = value[rows]
        else:
            parts[each.name] = [value[row] for row in rows.tolist()] if len(value) else value
    return TickBatch(**parts)


# How a frame came to be; also the `kind` of an imputation. Idle: filled ahead, while its series is silent.
KIND_TICK, KIND_GAP, KIND_IDLE = 0, 1, 2


@dataclass(slots=True)
class ForecastBatch:
    """Forecasts in the order of their source ticks.

    `tick[i]` is the row of the TickBatch that caused it, `mean` is [n, channel, horizon], `quantiles`
    [n, channel, level, horizon] (never crossing), `scale` [n, channel] the running scale of one-step differences
    (it decides how many digits are worth sending). `ts_us` and `step_us` are microseconds; a calendar step's `step_us` is
    the length of the first step ahead.
    """

    tick: I64
    series: list[str]
    ts_us: I64
    step_us: I64
    mean: F64
    quantiles: F64
    scale: F32
    warm: Bool
    model: str

    def __len__(self) -> int:
        return len(self.series)


@dataclass(slots=True)
class ImputationBatch:
    """Filled steps in the order of the ticks that revealed them; `values`, `lower`, `upper`, `filled` are [n, channel].

    A channel that has never been seen cannot be filled: its value is NaN and `filled` is False.
    `kind` is KIND_TICK for a missing channel of a tick that came, else KIND_GAP or KIND_IDLE (missing tick).
    """

    tick: I64
    series: list[str]
    ts_us: I64
    values: F64
    filled: Bool
    lower: F64
    upper: F64
    scale: F32
    kind: U8

    def __len__(self) -> int:
        return len(self.series)


@dataclass(slots=True)
class Scores:
    """Sums over the forecasts that matured in one batch; all of them were fixed before their targets came.

    Arrays are [channel, horizon] unless said. Errors are in units of the running scale at scoring time, so that
    channels can be added up; divide by `count`.
    """

    count: I64
    abs_error: F64  # of the mean that was emitted
    abs_persistence: F64  # of the last value
    abs_network: F64  # of what was sent, over the matured forecasts in which the network spoke
    count_network: I64
    abs_base_network: F64  # of the mixture without the network, over the same forecasts as abs_network
    below: I64  # [channel, horizon, level]: targets at or below the level's quantile
    inside: I64  # targets between the lowest and the highest level


@dataclass(slots=True)
class Outputs:
    """What one batch of ticks gave. Every tick is in exactly one of: an accepted step, `rejected`."""

    forecasts: ForecastBatch
    imputations: ImputationBatch
    rejected: list[tuple[int, Reason, str]]  # (row of the TickBatch, reason, detail)
    scores: Scores
    frames: int  # steps taken, gaps included
    skipped: int  # gap steps beyond gap_max that were not filled
    evicted: int  # series, because series_max was reached
