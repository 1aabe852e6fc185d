"""The outbox of exactly-once: whose producers they are, and until when."""

from __future__ import annotations

import pytest

from streamrnn.serving.outbox import ExactlyOnce
from streamrnn.transports.base import Deadline, TransportError
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport


async def test_partitions_that_come_when_it_is_closed_open_no_producers() -> None:
    """They would fence those of the owner to come, and stay."""
    broker = MemoryBroker()
    outbox = ExactlyOnce(MemoryTransport(broker), "app", "ticks")
    await outbox.start()
    await outbox.open([0])
    await outbox.stop(Deadline(1.0))
    with pytest.raises(TransportError, match="closed"):
        await outbox.open([0, 1])
    with pytest.raises(TransportError, match="no open producer"):
        outbox.sink(1)
    assert broker.init_producer("app-ticks-0") == 2
    assert broker.init_producer("app-ticks-1") == 1


async def test_what_is_appended_without_an_offset_is_committed_and_who_has_nothing_begins_nothing() -> None:
    """States that are written while nothing comes: there is no offset to go with them."""
    broker = MemoryBroker()
    for topic in ("ticks", "state"):
        broker.create(topic, 2)
    outbox = ExactlyOnce(MemoryTransport(broker), "app", "ticks")
    await outbox.start()
    await outbox.open([0, 1])
    await outbox.sink(0).append_many("state", 0, [b"key"], [b"value"], [1])
    await (await outbox.seal({})).wait(Deadline(1.0))
    records, _ = broker.read("state", 0, 0, 10)
    assert [record.value for record in records] == [b"value"]
    end = broker.end("state", 0)
    await (await outbox.seal({})).wait(Deadline(1.0))
    assert (broker.end("state", 0), broker.end("state", 1)) == (end, 0)
    await outbox.stop(Deadline(1.0))
