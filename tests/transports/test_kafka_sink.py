"""The transactional sink over a producer that fails as aiokafka's does."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from aiokafka.errors import ProducerFenced

from streamrnn.transports.base import Committed, Deadline, DeliveryFailed
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.sink import Handed, KafkaTransactionalSink


class Fenced:
    """Its records fail at once, what it still owes when its sender ends."""

    def __init__(self) -> None:
        self.owed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False
        self._message_accumulator = self
        self._batches: dict[Any, Any] = {}
        self._pending_batches: set[Any] = set()
        self._txn_manager = None
        self._sender = self.client = self

    async def begin_transaction(self) -> None:
        return

    async def send_offsets_to_transaction(self, offsets: Any, group: str) -> None:
        await asyncio.shield(self.owed)

    async def close(self) -> None:
        if not self.owed.done():
            self.owed.set_exception(ProducerFenced())

    def fail_all(self, error: BaseException) -> None:
        return


async def test_the_offsets_of_a_transaction_that_failed_make_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    producer: Any = Fenced()
    sink = KafkaTransactionalSink(KafkaSettings(), "id")
    sink._producer = producer

    async def given(where: tuple[str, int], builder: Any) -> tuple[asyncio.Future[Any], Handed]:
        await asyncio.sleep(0)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ProducerFenced())
        return failed, Handed(*where, 1)

    monkeypatch.setattr(sink, "_give", given)
    sink._closed_batches = [(("t", 0), None)]
    delivery = await sink.commit("t", {0: Committed(1)}, "g")
    with pytest.raises(DeliveryFailed):
        await delivery.wait(Deadline(5.0))
    await sink.stop(Deadline(1.0))
    await asyncio.sleep(0)
    assert producer.owed.done()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    del producer, sink, delivery
    gc.collect()
    await asyncio.sleep(0)
    assert not noise
