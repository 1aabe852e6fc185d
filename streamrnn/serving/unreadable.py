"""Partitions that cannot be read on: found, served up to where they can be read, and looked at again later.

A damaged batch makes the client's poll raise without saying where. The records of other partitions in that poll are lost with
it, and new clients would meet the same error again, until the worker gives up everything. So:

1. After an error of reading, or a stall, every owned partition is read by a client of its own, a record at a time, from
   where it was processed to. Twice, for a damaged transfer is no damaged log.
2. A partition that fails both times is served up to its last good record and then left alone, with an alarm. Nothing is
   skipped: whether records may be given up is for the operator to say, who moves the log's begin beyond them
   (`kafka-delete-records.sh`).
3. Every `RETRY_S` it is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from streamrnn.monitor.reported import Damage
from streamrnn.transports.base import Deadline, Inputs, PartitionReader, Transport, Unreadable, clock_s, inputs_read

log = structlog.get_logger(__name__)

RETRY_S = 60.0
ATTEMPTS = 2
# How far is looked: a poll gives no more records than this, so its error lies within them.
LOOK_RECORDS = 2000
# A client of its own that gets nothing for so long, where there is something to be had, is as good as an error.
SILENCE_S = 5.0


class UnreadablePartitions:
    """What is known of one worker's partitions. Raises TransportError where the broker itself cannot be asked."""

    def __init__(self, transport: Transport, inputs: str | Inputs, look_records: int = LOOK_RECORDS) -> None:
        self._transport, self._look_records = transport, look_records
        self._place = inputs_read(inputs).numbering.place
        self.found: dict[int, Damage] = {}
        self._tried_s = clock_s()

    @property
    def limits(self) -> dict[int, int]:
        return {partition: damage.offset for partition, damage in self.found.items()}

    async def examine(self, positions: Mapping[int, int]) -> None:
        """Looks at partitions from the offsets that would be read next."""
        for partition, offset in positions.items():
            damage: Damage | None = None
            for _ in range(ATTEMPTS):
                damage = await self._look(partition, offset)
                if damage is None:
                    break
            if damage is None:
                self.found.pop(partition, None)
                continue
            known, self.found[partition] = self.found.get(partition), damage
            if known is not None and known.offset == damage.offset:
                continue
            log.error(
                "partition cannot be read on; the others are served. Restore the broker's log, or give the records up: "
                "kafka-delete-records.sh with an offset behind them",
                topic=self._place(partition)[0], partition=self._place(partition)[1], offset=damage.offset, why=damage.why,
            )  # fmt: skip
        self._tried_s = clock_s()

    async def retry(self) -> bool:
        """Looks again when it is time; True where a partition can be read again."""
        if not self.found or clock_s() - self._tried_s < RETRY_S:
            return False
        before = set(self.found)
        await self.examine(self.limits)
        mended = sorted(before - self.found.keys())
        if mended:
            log.info("partitions can be read again", partitions=["/".join(map(str, self._place(p))) for p in mended])
        return bool(mended)

    async def _look(self, partition: int, offset: int) -> Damage | None:
        reader = self._transport.reader()
        try:
            topic, own = self._place(partition)
            await reader.start(topic, {own: offset})
            end = (await reader.end_offsets())[own]
            return await self._read(reader, own, min(end, offset + self._look_records))
        except Unreadable as error:
            return Damage(reader.position(own), str(error))
        finally:
            await reader.stop(Deadline(2.0))

    async def _read(self, reader: PartitionReader, partition: int, until: int) -> Damage | None:
        moved_s = clock_s()
        while (position := reader.position(partition)) < until:
            await reader.poll(500, 1)
            if reader.position(partition) > position:
                moved_s = clock_s()
            elif clock_s() - moved_s > SILENCE_S:
                return Damage(position, f"nothing came from offset {position} for {SILENCE_S:.0f} s")
        return None
