"""How many bytes a second the checkpoints of a worker's partitions write, on average.

A checkpoint is owed from when it begins, and its partition's next one may begin when it is paid. What a second pays is
shared among the partitions that owe, in proportion to the sizes of their checkpoints (generalised processor sharing:
Parekh and Gallager, 1993). So all of them are stretched alike, however much one of them has to write and however seldom
another one comes by, and a partition that is silent keeps nothing from the others.
"""

from __future__ import annotations

# What has come to be paid is not looked at more often: it is asked with every batch.
LOOK_S = 0.02


class WriteBudget:
    """Debts by partition, in bytes. Between any two instants t seconds apart no more than `bytes_s` · t bytes and one
    checkpoint of each partition are charged while nobody charges what is not paid; a clock that jumps pays for the time
    that it jumped over, and one that goes back for nothing."""

    def __init__(self, bytes_s: float, debt_max_s: float, now_s: float) -> None:
        """`bytes_s`: 0 is no budget. `debt_max_s`: what a partition owes is forgotten beyond so many seconds' bytes."""
        self.bytes_s = bytes_s
        self._debt_max = bytes_s * debt_max_s
        self._now_s = now_s
        self._owed: dict[int, float] = {}
        self._shares: dict[int, float] = {}  # what is owed was when it was charged
        self._sizes: dict[int, float] = {}  # of the newest checkpoint of each partition

    def charge(self, partition: int, size: float, now_s: float) -> None:
        """A checkpoint of about `size` bytes begins."""
        self._sizes[partition] = size
        if self.bytes_s > 0:
            self._pay(now_s)
            self._owe(partition, self._owed.get(partition, 0.0) + size)

    def correct(self, partition: int, size: float) -> None:
        """So many bytes more (or fewer) than charged are written."""
        self._sizes[partition] = max(0.0, self._sizes.get(partition, 0.0) + size)
        if self.bytes_s > 0 and size:
            self._owe(partition, self._owed.get(partition, 0.0) + size)

    def paid(self, partition: int, now_s: float) -> bool:
        """Whether the partition's next checkpoint may begin."""
        if partition in self._owed and now_s - self._now_s >= LOOK_S:
            self._pay(now_s)
        return partition not in self._owed

    def round_s(self) -> float:
        """How long it takes to pay for the newest checkpoint of every partition; 0 without a budget."""
        return sum(self._sizes.values()) / self.bytes_s if self.bytes_s > 0 else 0.0

    def forget(self, partition: int) -> None:
        """The partition belongs to another worker; what it owes here is paid all the same."""
        self._sizes.pop(partition, None)

    def _owe(self, partition: int, owed: float) -> None:
        if owed > 0:
            self._owed[partition] = min(owed, self._debt_max)
            self._shares[partition] = max(self._shares.get(partition, 0.0), self._owed[partition])
        else:
            self._owed.pop(partition, None)
            self._shares.pop(partition, None)

    def _pay(self, now_s: float) -> None:
        paid, self._now_s = self.bytes_s * max(0.0, now_s - self._now_s), max(now_s, self._now_s)
        total = sum(self._shares.values())
        for partition, share in list(self._shares.items()):
            self._owe(partition, self._owed[partition] - paid * share / total)
