"""Reading partitions from end to end with as little work a byte as it takes.

Answers are received into memory that is used again, compiled code looks through the record batches, and no object is
made for a record. Of aiokafka this uses the connections and the metadata; its own fetcher, which unpacks record by
record, is given nothing to fetch. While what one answer brought is processed, the next is on its way.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    ReplicaNotAvailableError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest

from streamrnn.records import Record
from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.admin import KafkaReader
from streamrnn.transports.kafka.errors import reading_failed
from streamrnn.transports.kafka.fetch_protocol import Answers, Fetched
from streamrnn.transports.kafka.record_batches import unpack
from streamrnn.wire.packed import Packed

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings

# Of one partition and of all in one answer: enough that a request's cost does not count, nor that of looking at many
# columns of it, and little enough that the event loop is not held up for more than some ten milliseconds. A batch that is
# larger comes all the same. Twice as much memory is in use while a reader lives.
PARTITION_BYTES, ANSWER_BYTES = 12 << 20, 12 << 20
RETRY_S = 0.1
ELSEWHERE = (
    LeaderNotAvailableError,
    NotLeaderForPartitionError,
    ReplicaNotAvailableError,
    UnknownTopicOrPartitionError,
)


class KafkaBulkReader(KafkaReader):
    """See transports.base.PartitionReader; the records of a poll come as `Packed`."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        self._asked: asyncio.Task[list[Fetched]] | None = None
        self._turn = 0

    async def poll(self, timeout_ms: int, records_max: int) -> Sequence[tuple[int, Sequence[Record]]]:
        """What one answer brings; that is little, whatever `records_max`."""
        if self._asked is None:
            self._asked = asyncio.create_task(self._ask())
        if not (await asyncio.wait({self._asked}, timeout=timeout_ms / 1000))[0]:
            return []
        asked, self._asked = self._asked, None
        try:
            polled = [(part.partition, self._unpacked(part)) for part in asked.result()]
        except Exception as error:
            raise reading_failed(error, self._settings, self._topic) from error
        self._asked = asyncio.create_task(self._ask())
        await asyncio.sleep(0)  # it leaves before this is processed
        return [(partition, records) for partition, records in polled if len(records)]

    async def stop(self, deadline: Deadline) -> None:
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.wait({self._asked})
            self._asked = None
        await super().stop(deadline)

    def _follow(self) -> None:
        """The client itself follows nothing."""

    def _unpacked(self, part: Fetched) -> Packed:
        position = self._positions[part.partition]
        found, self._positions[part.partition] = unpack(
            self._topic, part.partition, position, part.batches, part.aborted
        )
        return found

    async def _ask(self) -> list[Fetched]:
        """One fetch from every broker that leads some of the partitions."""
        client = self._consumer._client  # noqa: SLF001
        by_node: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for partition, position in self._positions.items():
            node = client.cluster.leader_for_partition(self._tp(partition))
            if node is not None and node >= 0:
                by_node[node].append((partition, position, PARTITION_BYTES))
        self._turn += 1
        answers = await asyncio.gather(*(self._fetch(node, wanted) for node, wanted in by_node.items()))
        if sum(map(len, answers)) < len(self._positions):
            # Some have no leader at this moment, or another one by now, or the connection was lost.
            client.force_metadata_update()
            await asyncio.sleep(RETRY_S)
        return [entry for answer in answers for entry in answer]

    async def _fetch(self, node: int, wanted: list[tuple[int, int, int]]) -> list[Fetched]:
        settings = self._settings
        # The broker fills its answer in the order asked for: each is the first in its turn.
        turn = self._turn % len(wanted)
        topics = [(self._topic, wanted[turn:] + wanted[:turn])]
        committed = int(settings.isolation_level == "read_committed")
        request = FetchRequest(settings.fetch_max_wait_ms, 1, ANSWER_BYTES, committed, topics)
        # A connection that nothing else uses: the client's own business goes by another.
        connection = await self._consumer._client._get_conn(node, group=ConnectionGroup.COORDINATION)  # noqa: SLF001
        if connection is None:
            return []
        try:
            answered = await Answers.of(connection).fetch(request)
        except KafkaError as error:
            if error.retriable:
                return []
            raise
        return [part for part in answered if await self._good(part.partition, part.code)]

    async def _good(self, partition: int, code: int) -> bool:
        error = for_code(code)
        if error is OffsetOutOfRangeError:
            begin = (await self.begin_offsets())[partition]
            if self._positions[partition] < begin:  # deleted since
                self._positions[partition] = begin
                return False
        if error is NoError or issubclass(error, ELSEWHERE):
            return error is NoError
        raise error(self._tp(partition))
