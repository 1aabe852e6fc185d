"""How a batch's outputs, states and offsets leave together: at least once, or exactly once.

At least once: one producer for all partitions. Outputs are acknowledged, then offsets are committed by the group's
consumer; a crash between the two repeats the outputs.

Exactly once: one transactional producer per input partition, `<app>-<topic>-<partition>`. aiokafka speaks a version of
`TxnOffsetCommit` that knows nothing of group generations, so a producer per worker could not be fenced by a rebalance
(KIP-447); with one per partition the new owner's start fences the old owner's and aborts what it left open. Outputs,
states and the offset are one transaction. After any time-out or unclear answer the producer is thrown away, never asked
to abort: a delayed abort can hit the next transaction (Jepsen, Bufstream 0.1.0, 2024).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from streamrnn.inputs import Numbering
from streamrnn.transports.base import (
    Committed,
    Deadline,
    Delivery,
    Instead,
    Sink,
    TransactionalSink,
    Transport,
    TransportError,
)


class Outbox(Protocol):
    """Where the pump puts what is to leave. All calls but `stop` come from one task at a time."""

    exactly_once: bool

    async def open(self, partitions: Sequence[int]) -> None:
        """Before the committed offsets of newly assigned partitions are read."""
        ...

    async def close(self, partitions: Sequence[int]) -> None: ...
    def sink(self, partition: int) -> Sink:
        """Where what belongs to an input partition is appended."""
        ...

    async def seal(self, offsets: Mapping[int, Committed], instead: Instead | None = None) -> Delivery:
        """Everything appended since the last seal; exactly-once: with these offsets, as transactions.

        `instead`: what is sent in the same delivery for records that the broker refuses for what they hold.
        """
        ...

    def in_flight_bytes(self) -> tuple[int, int]:
        """(bytes handed to the client and not acknowledged, their bound)"""
        ...

    async def stop(self, deadline: Deadline) -> None: ...


def transactional_id(app: str, topic: str, partition: int) -> str:
    """Who writes the outputs of a partition of the input: the same for every worker, so that a newer one fences an older."""
    return f"{app}-{topic}-{partition}"


class AtLeastOnce:
    """See Outbox. `offsets` are left to the pump, which commits them after the delivery."""

    exactly_once = False

    def __init__(self, transport: Transport) -> None:
        self._sink = transport.sink()

    async def start(self) -> Sink:
        await self._sink.start()
        return self._sink

    async def open(self, partitions: Sequence[int]) -> None:
        return

    async def close(self, partitions: Sequence[int]) -> None:
        return

    def sink(self, partition: int) -> Sink:
        return self._sink

    async def seal(self, offsets: Mapping[int, Committed], instead: Instead | None = None) -> Delivery:
        return await self._sink.seal(instead)

    def in_flight_bytes(self) -> tuple[int, int]:
        return self._sink.in_flight_bytes, self._sink.in_flight_bytes_max

    async def stop(self, deadline: Deadline) -> None:
        await self._sink.stop(deadline)


class _Together:
    """Several partitions' transactions as one delivery."""

    def __init__(self, parts: Sequence[Delivery]) -> None:
        self._parts = parts

    async def wait(self, deadline: Deadline) -> None:
        for part in self._parts:
            await part.wait(deadline)

    def written(self, topic: str) -> Mapping[int, Sequence[tuple[int, int]]]:
        return {}


class ExactlyOnce:
    """See Outbox."""

    exactly_once = True

    def __init__(self, transport: Transport, app: str, numbering: Numbering) -> None:
        self._transport, self._app, self._place = transport, app, numbering.place
        self._plain = transport.sink()  # knows the topics; nothing is sent through it
        self._sinks: dict[int, TransactionalSink] = {}
        self._stopped = False

    async def start(self) -> Sink:
        await self._plain.start()
        return self._plain

    async def open(self, partitions: Sequence[int]) -> None:
        """Fences former owners' producers: what they left open is aborted before anything is read.

        A group may still deal out partitions while its clients are closed; nobody would close what was opened then.
        """
        if self._stopped:
            raise TransportError("partitions came while the producers were closed")
        made = {p: self._transport.transactional(transactional_id(self._app, *self._place(p))) for p in partitions}
        self._sinks |= made
        await asyncio.gather(*(sink.start() for sink in made.values()))

    async def close(self, partitions: Sequence[int]) -> None:
        leaving = [self._sinks.pop(p) for p in partitions if p in self._sinks]
        await asyncio.gather(*(sink.stop(Deadline(2.0)) for sink in leaving), return_exceptions=True)

    def sink(self, partition: int) -> Sink:
        try:
            return self._sinks[partition]
        except KeyError:
            raise TransportError(f"partition {partition} has no open producer") from None

    async def seal(self, offsets: Mapping[int, Committed], instead: Instead | None = None) -> Delivery:
        sealed = []
        for number, sink in self._sinks.items():
            if number in offsets or sink.appended:
                topic, partition = self._place(number)
                done = {partition: offsets[number]} if number in offsets else {}
                sealed.append(await sink.commit(topic, done, self._app, instead))
        return _Together(sealed)

    def in_flight_bytes(self) -> tuple[int, int]:
        sinks = self._sinks.values()
        return sum(sink.in_flight_bytes for sink in sinks), sum(sink.in_flight_bytes_max for sink in sinks)

    async def stop(self, deadline: Deadline) -> None:
        self._stopped = True
        sinks = [self._plain, *self._sinks.values()]
        self._sinks = {}
        await asyncio.gather(*(sink.stop(deadline) for sink in sinks), return_exceptions=True)
