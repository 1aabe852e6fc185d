"""Records that were polled and are not processed yet: about one batch of ticks at a time, whatever a record holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from streamrnn.records import Record, TickBatch, take
from streamrnn.service.partition import Partitions
from streamrnn.service.parts import Parts, PumpSettings

# Records of several ticks: how many they are taken for before any was read, and the ticks that the engine is given at once,
# for each record of a batch.
MANY_AT_FIRST, TICKS_MAX_PER_RECORD = 20.0, 2

Polled = list[tuple[int, Sequence[Record]]]  # by partition, in the order in which they came


class Intake:
    """Owns what is kept back (the stash)."""

    def __init__(self, parts: Parts, settings: PumpSettings, partitions: Partitions) -> None:
        self._source, self._settings, self._partitions = parts.source, settings, partitions
        self._many = parts.decoder.many
        self._stash: Polled = []
        self._ticks_per_record = MANY_AT_FIRST if self._many else 1.0

    @property
    def count(self) -> int:
        """Records kept back."""
        return sum(len(records) for _, records in self._stash)

    async def poll(self, wait: bool) -> Polled:
        """What is processed next; `wait`: for `poll_timeout_ms` where there is nothing. Raises TransportError."""
        polled, self._stash = self._stash, []
        if not polled:
            timeout_ms = self._settings.poll_timeout_ms if wait else 0
            polled = list(await self._source.poll(timeout_ms, self._wanted()))
        return self._fitting(polled) if self._many else polled

    async def take(self, most: int) -> None:
        """Takes up to `most` records in without processing them."""
        # Not `+= await`: that would bring back what a rebalance during the wait has taken out.
        polled = await self._source.poll(0, most)
        self._stash += polled

    def resume(self, numbers: Collection[int]) -> None:
        """Those of these partitions that are still owned give records again."""
        owned = self._partitions.owned
        self._source.resume([number for number in numbers if number in owned])

    def drop(self, numbers: frozenset[int]) -> None:
        """These partitions were given up."""
        self._stash = [(number, records) for number, records in self._stash if number not in numbers]

    def learn(self, ticks: int, records: int) -> None:
        """So many ticks were in so many records: at once to more, and slowly to fewer."""
        self._ticks_per_record = max(ticks / records, 0.9 * self._ticks_per_record)

    def pieces(self, batch: TickBatch) -> Sequence[TickBatch]:
        """A batch as the engine is given it: records of many ticks make more of them than a batch has. The offset moves,
        and states leave, when all of them are through."""
        most = TICKS_MAX_PER_RECORD * self._settings.records_max
        if len(batch) <= most:
            return [batch]
        return [take(batch, slice(at, at + most)) for at in range(0, len(batch), most)]

    def _wanted(self) -> int:
        """Records that make about one batch of ticks, by what records had lately."""
        return max(1, int(self._settings.records_max / max(1.0, self._ticks_per_record)))

    def _fitting(self, polled: Polled) -> Polled:
        """As many of these records as make about one batch of ticks; the rest waits in the stash, so that no turn takes as
        long as hundreds of batches."""
        most = self._wanted()
        if sum(len(records) for _, records in polled) <= most:
            return polled
        now: Polled = []
        for number, records in polled:
            if most > 0:
                now.append((number, records[:most]))
            if len(records) > most:
                self._stash.append((number, records[max(0, most) :]))
            most -= min(len(records), most)
        return now
