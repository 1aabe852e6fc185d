"""What the pump and its parts are made of: limits, the parts that they share, and who listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from streamrnn.monitor.reported import Timing
from streamrnn.records import Outputs, Rejected, SkipReason, TickBatch
from streamrnn.serving.checkpoint import Checkpointer
from streamrnn.serving.outbox import Outbox
from streamrnn.serving.partition import Partitions
from streamrnn.serving.publish import Publisher
from streamrnn.serving.restore import Restorer
from streamrnn.serving.served_weights import ServedWeights
from streamrnn.stream.engine import Engine
from streamrnn.transports.base import Source
from streamrnn.wire.codec import Decoder
from streamrnn.wire.schemas import SchemaId

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings


@dataclass(frozen=True, slots=True)
class PumpSettings:
    """Limits of the pump; durations in seconds or milliseconds as named."""

    # A partition that has records and gives none for so long: the client is stuck, and is built anew.
    stall_s: float = 30.0

    records_max: int = 2000
    poll_timeout_ms: int = 100
    delivery_timeout_s: float = 30.0
    commit_timeout_s: float = 10.0
    # Least time between two commits, where nobody waits for them: a commit costs the broker as much as a batch.
    commit_interval_s: float = 0.1
    # Batches on their way to the broker while another is being processed.
    in_flight_max: int = 2
    # Where a partition begins that the group never committed.
    start: Literal["earliest", "latest"] = "earliest"


def pump_settings(settings: Settings, records_most: int) -> PumpSettings:
    """As the configuration has them, with no more than so many records at a time."""
    return PumpSettings(
        records_max=min(settings.batch_records_max, records_most),
        poll_timeout_ms=settings.poll_timeout_ms,
        delivery_timeout_s=settings.delivery_timeout_s,
        commit_interval_s=settings.commit_interval / 1000,
        start=settings.start,
        stall_s=settings.stall_after / 1000,
    )


class TakenIn(Protocol):
    """What is reported of the input before anything is made of it."""

    def progress(self, partition: int, position: int, lag: int | None) -> None: ...
    def without_schema(self, waiting: Mapping[int, str]) -> None: ...


class Observer(TakenIn, Protocol):
    """What the pump reports of its work; metrics, health and the live page listen."""

    def batch(
        self, outputs: Outputs, batch: TickBatch, unread: Sequence[Rejected], sent: tuple[int, int, int], timing: Timing
    ) -> None: ...
    def skipped(self, counts: Mapping[SkipReason, int]) -> None: ...
    def committed(self, partition: int, offset: int, seconds: float) -> None: ...
    def waiting(self, seconds: float) -> None: ...
    def restoring(self, partition: int) -> None: ...
    def restored(
        self, partition: int, rows: int, refused: Mapping[str, int], seconds: float, why_cold: str
    ) -> None: ...
    def carried(self, partition: int, carried: int, cold: int) -> None: ...
    def offsets_set(self, direction: str, records: int) -> None: ...
    def assigned(self, partition: int, position: int, emit_from: int) -> None: ...
    def revoked(self, partition: int) -> None: ...


class Fetcher(Protocol):
    """Gets schemas beside the pump; see `transports.registry`."""

    trouble: str

    def want(self, ids: set[SchemaId]) -> None: ...
    def look(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Decoder, engine, weights, fetcher and observer live as long as the worker; the others as long as the clients."""

    source: Source
    outbox: Outbox
    decoder: Decoder
    engine: Engine
    publisher: Publisher
    observer: Observer
    partitions: Partitions
    restorer: Restorer
    checkpointer: Checkpointer
    weights: ServedWeights
    fetcher: Fetcher | None = None  # of schemas, where a registry is asked
