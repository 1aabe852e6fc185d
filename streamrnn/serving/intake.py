"""Records that were polled and are not processed yet: about one batch of ticks at a time, whatever a record holds, and
those whose schemas are not known yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from streamrnn.records import Record, TickBatch, take
from streamrnn.serving.partition import Partitions
from streamrnn.serving.parts import Fetcher, PumpSettings, TakenIn
from streamrnn.transports.base import Source, clock_s
from streamrnn.wire.codec import Decoder

# Records of several ticks: how many they are taken for before any was read, and the ticks that the engine is given at once,
# for each record of a batch.
MANY_AT_FIRST, TICKS_MAX_PER_RECORD = 20.0, 2


class Takes(Protocol):
    """What records are taken in by."""

    @property
    def source(self) -> Source: ...
    @property
    def decoder(self) -> Decoder: ...
    @property
    def fetcher(self) -> Fetcher | None: ...
    @property
    def observer(self) -> TakenIn: ...
    @property
    def partitions(self) -> Partitions: ...


Polled = list[tuple[int, Sequence[Record]]]  # by partition, in the order in which they came


class Intake:
    """Owns what is kept back: the stash, and what waits for schemas."""

    def __init__(self, parts: Takes, settings: PumpSettings) -> None:
        self._source, self._settings, self._partitions = parts.source, settings, parts.partitions
        self._many = parts.decoder.many
        self._stash: Polled = []
        # Records whose schemas are not there yet, with all that came after them; their partitions are paused.
        self._without_schema: dict[int, list[Record]] = {}
        self._decoder, self._fetcher, self._observer = parts.decoder, parts.fetcher, parts.observer
        self._waited_for_schemas = False
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
        if self._fetcher is not None:
            polled = self._with_schemas(self._fetcher, polled)
        return self._fitting(polled) if self._many else polled

    async def take(self, most: int) -> None:
        """Takes up to `most` records in without processing them."""
        # Not `+= await`: that would bring back what a rebalance during the wait has taken out.
        polled = await self._source.poll(0, most)
        self._stash += polled

    def resume(self, numbers: Collection[int]) -> None:
        """Those of these partitions that are still owned, and wait for no schema, give records again."""
        owned = self._partitions.owned
        self._source.resume([number for number in numbers if number in owned and number not in self._without_schema])

    def drop(self, numbers: frozenset[int]) -> None:
        """These partitions were given up."""
        self._stash = [(number, records) for number, records in self._stash if number not in numbers]
        for number in numbers:
            self._without_schema.pop(number, None)

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

    def _with_schemas(self, fetcher: Fetcher, polled: Polled) -> Polled:
        """Those of these records, and of those that wait, whose schemas are known; the rest waits, in its order."""
        schemas, owned = self._decoder.schemas, self._partitions.owned
        assert schemas is not None  # noqa: S101
        fetcher.look()
        was = dict(self._without_schema)
        found: Polled = []
        for number, records in [*((p, ()) for p in was), *polled]:
            waiting = self._without_schema.pop(number, None)
            together = [*waiting, *records] if waiting else records
            missing = schemas.missing(together)
            if missing:
                fetcher.want(missing)
                first = next(i for i, record in enumerate(together) if schemas.missing([record]))
                self._without_schema[number] = list(together[first:])
                if number not in was and number in owned:
                    self._source.pause([number])
                together = together[:first]
            elif waiting and number in owned:
                self._source.resume([number])
            if together:
                found.append((number, together))
        if self._without_schema or self._waited_for_schemas:
            self._waited_for_schemas = bool(self._without_schema)
            why = fetcher.trouble or "the registry is asked"
            self._observer.without_schema(dict.fromkeys(self._without_schema, why))
            for number in self._without_schema:
                if number in owned:  # that it does not move is no fault of the client
                    owned[number].moved_s = clock_s()
        return found

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
