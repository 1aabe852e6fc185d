"""Which of several trainers publishes: Kafka's group protocol gives one of them the models topic's single partition."""

from __future__ import annotations

import asyncio

from streamrnn.transports.base import Deadline, Listener, Transport


class Leadership(Listener):
    """Leads while partition 0 of the models topic is ours in the trainers' group."""

    def __init__(self, transport: Transport, topic: str, group: str) -> None:
        self.leads = False
        self._source = transport.source(topic, group)

    async def start(self) -> None:
        await self._source.start(self)

    async def keep(self) -> None:
        """Polls, paused: the client leaves a group whose member does not poll."""
        while True:
            await self._source.poll(0, 1)
            await asyncio.sleep(1.0)

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.leads = False

    async def assigned(self, partitions: frozenset[int]) -> None:
        for partition, end in (await self._source.end_offsets(sorted(partitions))).items():
            self._source.seek(partition, end)
        self._source.pause(sorted(partitions))
        self.leads = 0 in partitions

    async def stop(self, deadline: Deadline) -> None:
        self.leads = False
        await self._source.stop(deadline)
