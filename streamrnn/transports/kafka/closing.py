"""Ending aiokafka's clients for certain.

`stop()` of a producer flushes, and with a dead broker flushes for ever (aiokafka #1101); `stop()` of a consumer leaves its
group, and can hang on a dead coordinator (#659, #773). Past the deadline the call is given up, and the parts that it
had not come to are closed one by one: a cancelled `stop()` alone leaves tasks that fetch on and sockets that stay open.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiokafka.errors import KafkaError, ProducerClosed

from streamrnn.transports.base import Deadline

LEAST_S = 0.1
PART_S = 0.5
_PRODUCER_PARTS = ("_sender", "client")


async def close_producer(producer: Any, deadline: Deadline) -> BaseException | None:
    """Returns the error that a finished `stop()` raised, None where there was none or the deadline came first."""
    error = await _close(producer, _PRODUCER_PARTS, deadline)
    _end_flush(producer)
    return error


async def drop_producer(producer: Any) -> None:
    """Without a flush: what is open stays open until the broker, or the next user of the same id, ends it."""
    producer._closed = True  # noqa: SLF001
    await _close_parts(producer, _PRODUCER_PARTS)
    _end_flush(producer)


def _end_flush(producer: Any) -> None:
    """What was not acknowledged by now never will be; a flush that `stop()` left behind waits for it."""
    accumulator, transactions = producer._message_accumulator, producer._txn_manager  # noqa: SLF001
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001
    # Their own callbacks take them out of this set, and do not look whether a retry has done so before.
    accumulator._pending_batches.update(waiting)  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    futures = [batch._drain_waiter for batch in waiting]  # noqa: SLF001
    futures.append(getattr(transactions, "_transaction_waiter", None))
    for future in futures:
        if future is not None and future.done() and not future.cancelled():
            future.exception()  # looked at, so that it makes no noise


async def close_consumer(consumer: Any, deadline: Deadline) -> BaseException | None:
    """As `close_producer`."""
    return await _close(consumer, ("_coordinator", "_fetcher", "_client"), deadline)


async def _close(client: Any, parts: tuple[str, ...], deadline: Deadline) -> BaseException | None:
    stopping = asyncio.ensure_future(client.stop())
    done, _ = await asyncio.wait({stopping}, timeout=max(deadline.remaining_s(), LEAST_S))
    if done:
        return None if stopping.cancelled() else stopping.exception()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError, KafkaError, OSError):
        await asyncio.wait({stopping}, timeout=LEAST_S)
    await _close_parts(client, parts)
    return None


async def _close_parts(client: Any, parts: tuple[str, ...]) -> None:
    for name in parts:
        part = getattr(client, name, None)
        if part is None or not hasattr(part, "close"):
            continue
        closing = asyncio.ensure_future(part.close())
        done, _ = await asyncio.wait({closing}, timeout=PART_S)
        if not done:
            closing.cancel()
        elif not closing.cancelled():
            closing.exception()  # looked at, so that it makes no noise
