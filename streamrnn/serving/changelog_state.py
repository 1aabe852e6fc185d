"""What is held of one partition's changelog: a Reading while it is read, a ChangelogState while its states are here.

The Partition has both, and nobody else keeps anything of the kind by partition. What stands in a Reading is the restorer's
work (`restore`), what stands in a ChangelogState the checkpointer's (`checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamrnn.records import I64
from streamrnn.stores.changelog import Checkpoint, History
from streamrnn.stream.snapshot import Restored


@dataclass(slots=True)
class Reading:
    """How far a restoring partition has come."""

    began_s: float
    found: Restored = field(default_factory=Restored)
    layouts: set[int] = field(default_factory=set)
    again: bool = False  # it is read for the second time
    failures: int = 0
    damaged: str = ""  # it cannot be read to its end


@dataclass(slots=True)
class Cycle:
    """A checkpoint being written: where it began, and the rows still to be taken."""

    checkpoint: Checkpoint
    rows: I64
    at: int = 0


@dataclass(slots=True)
class ChangelogState:
    """What the changelog of an owned or parked partition holds, and what of it is on its way."""

    written: Checkpoint
    began_s: float
    history: History  # of the weights, since `written.offset` or longer
    layouts: set[int] = field(default_factory=set)  # described in the partition by now
    to_delete: list[str] = field(default_factory=list)  # series, from the changelog
    cycle: Cycle | None = None
    waiting: Checkpoint | None = None  # its rows are acknowledged; it waits for its offset to be committed
    end: int = -1  # of the changelog, as far as it is acknowledged; -1: not known
    unacknowledged: int = 0  # records appended after it
    zombie_writes: int = 0
    due: bool = False  # states wait to be written though nothing has come: they were carried from another meaning

    def given_up(self) -> None:
        """Rows that were taken are on their way; the next checkpoint is whole."""
        self.cycle = self.waiting = None
