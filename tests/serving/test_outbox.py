"""The outbox of exactly-once: whose producers they are, and until when."""

from __future__ import annotations

import pytest

from streamrnn.inputs import Numbering
from streamrnn.serving.outbox import ExactlyOnce
from streamrnn.transports.base import Deadline, TransportError
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport


async def test_partitions_that_come_when_it_is_closed_open_no_producers() -> None:
    """They would fence those of the owner to come, and stay."""
    broker = MemoryBroker()
    outbox = ExactlyOnce(MemoryTransport(broker), "app", Numbering(one="ticks"))
    await outbox.start()
    await outbox.open([0])
    await outbox.stop(Deadline(1.0))
    with pytest.raises(TransportError, match="closed"):
        await outbox.open([0, 1])
    with pytest.raises(TransportError, match="no open producer"):
        outbox.sink(1)
    assert broker.init_producer("app-ticks-0") == 2
    assert broker.init_producer("app-ticks-1") == 1
