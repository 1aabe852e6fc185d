"""Batches on their way to the broker: sealed, acknowledged, committed; and the states that may leave with the next.

One batch is processed while the one before it is on its way. `settle` waits for acknowledgements, with the partitions paused.
`prefetch` waits for them with the partitions open, and keeps what arrives: a producer has one transaction at a time, so a batch
that was processed during one would wait for two. All that arrives during a transaction is one batch of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from streamrnn.serving.checkpoint import Slice
from streamrnn.serving.intake import Intake
from streamrnn.serving.parts import Parts, PumpSettings
from streamrnn.transports.base import (
    LONG_AGO_S,
    Committed,
    Deadline,
    Delivery,
    OwnershipLost,
    TransportError,
    clock_s,
)

log = structlog.get_logger(__name__)

# How long one wait for a delivery lasts before the paused partitions are polled again: the client's idle clock, and a rejoin
# after an eviction, go on only while it is polled (aiokafka #1187).
KEEP_ALIVE_S = 1.0
# How often records are looked for while transactions are waited for.
PREFETCH_POLL_S = 0.005


@dataclass(slots=True)
class _InFlight:
    delivery: Delivery
    offsets: dict[int, Committed]
    epoch: int
    sent_s: float
    taken: Sequence[Slice]  # states that saw this batch: they may leave when it is acknowledged
    states: list[Slice]  # states that are part of this delivery


class Deliveries:
    """`send` and `drain` are called under the pump's lock; `settle` and `prefetch` are not: a rebalance may come between."""

    def __init__(self, parts: Parts, settings: PumpSettings, intake: Intake) -> None:
        self.ready: list[Slice] = []  # states whose outputs were acknowledged; they leave with the next delivery
        self.has_committed = False
        self._source, self._outbox, self._publisher = parts.source, parts.outbox, parts.publisher
        self._checkpointer, self._observer = parts.checkpointer, parts.observer
        self._settings, self._partitions, self._intake = settings, parts.partitions, intake
        self._epoch = 0  # of ownership: commits of an older one are dropped
        self._in_flight: deque[_InFlight] = deque()
        self._to_commit: dict[int, Committed] = {}
        self._committing: asyncio.Task[None] | None = None
        self._committed_s = LONG_AGO_S
        self._hurry = asyncio.Event()  # somebody waits for the commit

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def states_waiting(self) -> int:
        """Rows that were copied for the changelog and have not left."""
        return sum(
            piece.rows for piece in (*self.ready, *(piece for batch in self._in_flight for piece in batch.taken))
        )

    async def send(self, offsets: Mapping[int, Committed], first: Iterable[Slice], taken: Sequence[Slice]) -> None:
        """Appends the states that may leave, seals, and puts the delivery in flight."""
        checkpointer, owned = self._checkpointer, self._partitions.owned
        # Append swap records last: a queued checkpoint record may predate them.
        leaving, self.ready = [*self.ready, *first], []
        if self._outbox.exactly_once:
            # Outputs, states, checkpoint and offset are one transaction: nothing has to wait for anything.
            leaving += taken
            for piece in taken:
                checkpointer.arrived(piece)
            taken = ()
            reached = {number: p.position for number, p in owned.items() if not p.replaying}
        else:
            reached = {number: p.committed for number, p in owned.items()}
        now_ms = self._publisher.now_ms()  # a record's own time might be one that the broker does not take
        for piece in leaving:
            await checkpointer.append(piece, self._outbox.sink(piece.partition), now_ms)
        for number, offset in reached.items():
            done = checkpointer.complete(owned[number], offset)
            if done is not None:
                leaving.append(done)
                await checkpointer.append(done, self._outbox.sink(number), now_ms)
        delivery = await self._outbox.seal(offsets, self._publisher.sealed())
        self._in_flight.append(_InFlight(delivery, dict(offsets), self._epoch, clock_s(), taken, leaving))

    # ── acknowledged ─────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, leave: int) -> None:
        """Awaits deliveries until only `leave` are on their way; a slow broker finds us paused, not evicted."""
        while len(self._in_flight) > leave:
            head = self._in_flight[0]
            waiting = self._begin_to_wait(head)
            held: list[int] = []
            held_s = head.sent_s
            try:
                while not (await asyncio.wait({waiting}, timeout=KEEP_ALIVE_S))[0]:
                    if not held:
                        held, held_s = list(self._partitions.owned), clock_s()
                        self._source.pause(held)
                    self._observer.waiting(clock_s() - head.sent_s)
                    # A partition assigned during the wait is not paused yet: what it gives is kept, not lost.
                    await self._intake.take(1)
            finally:
                waiting.cancel()
                if held:
                    self._intake.resume(held)
                    self._excuse(held, clock_s() - held_s)
            await waiting
            self._delivered(head)

    async def prefetch(self, most: int) -> None:
        """Awaits all deliveries, and takes up to `most` records in; when they are there the wait is over."""
        while self._in_flight and self._intake.count < most:
            head = self._in_flight[0]
            waiting = self._begin_to_wait(head)
            read: list[int] = []
            since_s = head.sent_s
            try:
                while not (await asyncio.wait({waiting}, timeout=PREFETCH_POLL_S))[0]:
                    room = most - self._intake.count
                    if room <= 0:
                        return
                    if not read:
                        read, since_s = list(self._partitions.owned), clock_s()
                    self._observer.waiting(clock_s() - head.sent_s)
                    await self._intake.take(room)
            finally:
                waiting.cancel()
                if read and clock_s() - since_s > KEEP_ALIVE_S:
                    self._excuse(read, clock_s() - since_s)
            await waiting
            self._delivered(head)

    def _begin_to_wait(self, head: _InFlight) -> asyncio.Future[None]:
        deadline = Deadline(self._settings.delivery_timeout_s - (clock_s() - head.sent_s))
        return asyncio.ensure_future(head.delivery.wait(deadline))

    def _excuse(self, held: Sequence[int], waited_s: float) -> None:
        """That they did not move was our own wish."""
        owned = self._partitions.owned
        for number in held:
            if number in owned:
                owned[number].moved_s += waited_s

    def _delivered(self, done: _InFlight) -> None:
        """The oldest in flight was acknowledged; a rebalance during the wait may have settled or dropped it already."""
        if not self._in_flight or self._in_flight[0] is not done:
            return
        self._in_flight.popleft()
        if done.epoch != self._epoch:
            return
        self.ready += done.taken
        self._checkpointer.written(done.delivery.written(self._checkpointer.topic))
        for piece in done.states:
            self._checkpointer.arrived(piece)
        owned = self._partitions.owned
        for number, committed in done.offsets.items():
            if number not in owned or committed.offset <= owned[number].committed:
                continue
            if self._outbox.exactly_once:
                self._is_committed(number, committed.offset, clock_s() - done.sent_s)
            else:
                self._to_commit[number] = committed
        self._commit_soon()

    # ── committed ────────────────────────────────────────────────────────────────────────────────────────────────

    def _commit_soon(self) -> None:
        task = self._committing
        if task is not None and (not task.done() or (not task.cancelled() and task.exception() is not None)):
            # Nothing after a failed commit: it may still arrive, and would put the group back.
            return
        if self._to_commit:
            self._committing = asyncio.ensure_future(self._commit())

    async def _commit(self) -> None:
        while self._to_commit:
            await self._commit_is_due()
            offsets, self._to_commit = self._to_commit, {}
            if not offsets:  # the partitions were given up by now
                return
            epoch, begin = self._epoch, clock_s()
            self._committed_s = begin
            try:
                await self._source.commit(offsets, Deadline(self._settings.commit_timeout_s))
            except OwnershipLost as lost:
                # The new owner starts from what was committed; our state goes when `revoked` is called.
                log.warning("commit refused: the partitions belong to another member", error=str(lost))
                return
            if epoch != self._epoch:
                return
            seconds = clock_s() - begin
            for number, committed in offsets.items():
                self._is_committed(number, committed.offset, seconds)

    def _is_committed(self, number: int, offset: int, seconds: float) -> None:
        partition = self._partitions.owned.get(number)
        if partition is None:
            return
        partition.committed = offset
        self.has_committed = True
        honoured = self._checkpointer.honoured(partition, offset)
        if honoured is not None:
            self.ready.append(honoured)
        self._observer.committed(number, offset, seconds)

    async def _commit_is_due(self) -> None:
        """Waits its turn, or until somebody waits for the commit."""
        wait_s = self._committed_s + self._settings.commit_interval_s - clock_s()
        if wait_s > 0 and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()

    def raise_commit_error(self) -> None:
        """Raises what the last commit has failed with, once; begins the next one where it has not."""
        task = self._committing
        if task is not None and task.done() and not task.cancelled():
            self._committing = None
            error = task.exception()
            if error is not None:
                raise error
            self._commit_soon()

    async def drain(self, deadline: Deadline) -> None:
        """Everything in flight is delivered and committed, or TransportError is raised at the deadline.

        What has failed stays in flight: whoever drains once more, as a client does that leaves its group after a failed
        `run`, has to fail, too, or would go on to a checkpoint of states that were never written.
        """
        self._hurry.set()
        try:
            await self._drained(deadline)
        finally:
            self._hurry.clear()

    async def _drained(self, deadline: Deadline) -> None:
        while self._in_flight:
            head = self._in_flight[0]
            await head.delivery.wait(deadline)
            self._delivered(head)
        while (task := self._committing) is not None:
            await asyncio.wait({task}, timeout=deadline.remaining_s())
            if not task.done():
                task.cancel()
                raise TransportError("the last offsets could not be committed in time; they will be processed again")
            if self._committing is task:
                self.raise_commit_error()
                if self._committing is task:  # it was cancelled
                    self._committing = None
            elif not task.cancelled() and (error := task.exception()) is not None:
                raise error  # the turn that runs has seen it first: it fails, and so must who waits here

    # ── given up ─────────────────────────────────────────────────────────────────────────────────────────────────

    def drop(self, numbers: frozenset[int]) -> None:
        """Ownership changes: what is in flight is no longer waited for, and nothing of these partitions leaves."""
        self._epoch += 1
        self._in_flight.clear()
        for piece in self.ready:
            if piece.partition in numbers:
                self._checkpointer.not_sent(piece)
        self.ready = [piece for piece in self.ready if piece.partition not in numbers]
        for number in numbers:
            self._to_commit.pop(number, None)

    def abandon(self) -> None:
        """The clients are broken: nothing is committed any more."""
        if self._committing is not None:
            self._committing.cancel()
            self._committing = None
        self._to_commit.clear()
