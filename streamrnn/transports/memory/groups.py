"""Consumer groups of the memory broker: the eager protocol, generations, sessions.

1. Whoever joins, leaves, or is not heard of for a session begins a rebalance; several that wait become one.
2. Every member is asked to give up everything, and works that off in its own time, up to REBALANCE_TIMEOUT_S. One that
   is late is evicted. What it commits until then still counts.
3. The generation rises; partitions are dealt out in turn; every member gets its share.

The broker's side of it belongs to nobody's process: it goes on when the client that began it has ended. A member's side
(`hand_in`, `hand_out`) runs in the member's process, and stands still with it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from streamrnn.transports.base import Committed, OwnershipLost, clock_s

# How long a member may take to give its partitions up before the group goes on without it.
REBALANCE_TIMEOUT_S = 60.0


class Member(Protocol):
    """A client as its group sees it."""

    topic: str
    client: str

    def hand_in(self) -> asyncio.Task[None]: ...
    def hand_out(self, partitions: frozenset[int], generation: int) -> asyncio.Task[None]: ...


class Group:
    """Members, generation and committed offsets. Calls are a client's requests, but `rebalance`."""

    def __init__(
        self, name: str, session_s: float | None, partitions: Callable[[str], int], changed: Callable[[], None]
    ) -> None:
        self.name = name
        self.members: dict[Member, float] = {}  # in order of joining; when each was last heard of
        self.generation = 0
        self.committed: dict[tuple[str, int], Committed] = {}
        self._session_s, self._partitions, self._changed = session_s, partitions, changed
        self._asked = self._dealt = 0  # rebalances asked for, and those of them that the last one served
        self._running: dict[int, asyncio.Task[None]] = {}  # the loop itself holds tasks only weakly
        self._lock = asyncio.Lock()
        self._member_left: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    def join(self, member: Member) -> asyncio.Task[None]:
        """Returns the rebalance that gives the member its share."""
        self.members[member] = clock_s()
        if self._session_s is not None and (self._watch is None or self._watch.done()):
            self._watch = _apart(self._put_out_the_silent(self._session_s))
        return self.rebalance()

    def leave(self, member: Member) -> asyncio.Task[None]:
        self.evict(member)
        return self.rebalance()

    def heard(self, member: Member) -> bool:
        """A heartbeat; False: the member was evicted."""
        if member not in self.members:
            return False
        self.members[member] = clock_s()
        return True

    def commit(self, member: Member, generation: int, topic: str, offsets: Mapping[int, Committed]) -> None:
        if member not in self.members or generation != self.generation:
            raise OwnershipLost(f"group {self.name} has moved on to generation {self.generation}")
        for partition, committed in offsets.items():
            self.committed[topic, partition] = committed

    def evict(self, member: Member) -> None:
        """The member is not asked to give anything up; it finds out when it asks for something."""
        if self.members.pop(member, None) is not None and self._member_left is not None:
            self._member_left.set_result(None)
            self._member_left = None

    async def _put_out_the_silent(self, session_s: float) -> None:
        while True:
            await asyncio.sleep(session_s / 4)
            silent = [member for member, heard_s in self.members.items() if clock_s() - heard_s > session_s]
            for member in silent:
                self.evict(member)
            if silent:
                self.rebalance()

    # ── rebalances ───────────────────────────────────────────────────────────────────────────────────────────────

    def rebalance(self) -> asyncio.Task[None]:
        self._asked += 1
        running = self._running[self._asked] = _apart(self._rebalance(self._asked))
        return running

    async def _rebalance(self, ticket: int) -> None:
        async with self._lock:
            self._running.pop(ticket, None)
            if self._dealt >= ticket:
                return
            await self._all({member: member.hand_in() for member in self.members})
            self._dealt = self._asked
            self.generation += 1
            shares: dict[Member, list[int]] = {member: [] for member in self.members}
            for topic in sorted({member.topic for member in shares}):
                takers = [member for member in shares if member.topic == topic]
                for partition in range(self._partitions(topic)):
                    shares[takers[partition % len(takers)]].append(partition)
            generation = self.generation
            await self._all({m: m.hand_out(frozenset(share), generation) for m, share in shares.items()})
        self._changed()

    async def _all(self, asked: Mapping[Member, asyncio.Task[None]]) -> None:
        """Until every member has worked off what it was asked for, or is none any more."""
        until = clock_s() + REBALANCE_TIMEOUT_S
        while waiting := {m: task for m, task in asked.items() if not task.done() and m in self.members}:
            left = self._member_left = asyncio.get_running_loop().create_future()
            await asyncio.wait(
                [*waiting.values(), left], timeout=until - clock_s(), return_when=asyncio.FIRST_COMPLETED
            )
            self._member_left = None
            if clock_s() >= until:
                for member in waiting:
                    self.evict(member)


def _apart(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Of nobody's process: in an empty context."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
