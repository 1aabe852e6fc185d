"""Partitions in a state of their lives, for what is tested without a pump."""

from __future__ import annotations

from collections.abc import Iterable

from streamrnn.serving.changelog_state import ChangelogState
from streamrnn.serving.commit_note import ReplayPoints
from streamrnn.serving.partition import Partition, Partitions
from streamrnn.spec import StreamSpec


def restoring(partitions: Partitions, stream: StreamSpec, numbers: Iterable[int]) -> None:
    """Assigned, with nothing of them read."""
    for number in numbers:
        partition = Partition(number, ReplayPoints(stream))
        partition.assigned(None, 0, 0)
        partitions.put(partition)


def owned(partitions: Partitions, stream: StreamSpec, number: int, changelog: ChangelogState) -> Partition:
    """Served from offset 0 on."""
    restoring(partitions, stream, [number])
    partition = partitions.get(number)
    assert partition is not None
    partition.restored(0, 0, -1, "w", changelog)
    partitions.put(partition)
    return partition


class Unreported:
    """The checkpointer's observer."""

    def checkpointed(self, partition: int, offset: int, interval_s: float) -> None: ...
    def written_by_another(self, partition: int) -> None: ...
    def states_appended(self, rows: int, size: int) -> None: ...
