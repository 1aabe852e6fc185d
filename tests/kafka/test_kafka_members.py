"""What a group's member may do while it takes partitions over, and once it has been evicted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from broker import Broker
from clients import settings_for
from contract import Follow

from streamrnn.transports.base import Committed, Deadline, OwnershipLost
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka


async def test_polls_go_on_while_partitions_are_taken_over(
    transport: KafkaTransport, broker: Broker, unique: Callable[[str], str]
) -> None:
    """A partition whose state is being looked for has no position; of nothing committed the client would complain."""
    topic = unique("slow")
    broker.create(topic, 4)

    class Slow(Follow):
        async def assigned(self, partitions: frozenset[int]) -> None:
            await asyncio.sleep(0.5)
            await super().assigned(partitions)

    staying, guest = transport.source(topic, topic), transport.source(topic, topic)
    listener = Slow(staying)
    await staying.start(listener)
    joining = asyncio.create_task(guest.start(Follow(guest)))
    async with asyncio.timeout(60):
        while not joining.done() or len(listener.owned) != 2:
            await staying.poll(50, 10)
    await guest.stop(Deadline(5.0))
    await staying.stop(Deadline(5.0))


async def test_a_member_that_was_put_out_commits_nothing_even_when_it_was_the_last(
    broker: Broker, unique: Callable[[str], str]
) -> None:
    """A commit without a generation is what tools send, and counts in a group without members."""
    topic = unique("last")
    broker.create(topic, 1)
    source = KafkaTransport(settings_for(broker, max_poll_interval_ms=1000)).source(topic, topic)
    await source.start(Follow(source))
    await source.commit({0: Committed(5)}, Deadline(5.0))
    async with asyncio.timeout(60):  # and from here on it does not poll
        while source._consumer._coordinator.generation >= 0:
            await asyncio.sleep(0.05)
    with pytest.raises(OwnershipLost):
        await source.commit({0: Committed(3)}, Deadline(5.0))
    assert await source.committed([0]) == {0: Committed(5)}
    await source.stop(Deadline(5.0))
