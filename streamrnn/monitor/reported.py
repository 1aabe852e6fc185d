"""What a worker reports to its observer in a shape of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timing:
    """Where a batch's time went; wall seconds, and processor seconds for the whole."""

    records: int = 0
    decode_s: float = 0.0
    engine_s: float = 0.0
    publish_s: float = 0.0
    processor_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a partition's log; `offset` is the first that cannot be read."""

    offset: int
    why: str
