"""What goes wrong, where and when: all of it from one seed.

Two steps, as in FoundationDB's simulation: each kind of fault is switched on or off for a whole run, then fires by
chance at single requests. So runs differ in kind, not only in luck.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from clock import VirtualLoop

from streamrnn.transports.base import TransportError, Unreadable
from streamrnn.transports.memory.transport import Flaws, MemoryBroker

# At single requests. Each with its weight against the run's rate.
REQUESTS = {
    "delay": 6.0,  # it takes its time, so that others come first
    "refuse": 1.0,
    "lose-answer": 1.0,  # done, and answered with an error
    "late": 0.5,  # answered with an error, and done later all the same
    "hang": 0.3,  # done or not, and no answer until the client's own time-out
    "corrupt": 0.5,  # what a fetch brings is damaged on its way
    "crash": 0.5,
    "freeze": 0.3,
    "partition": 0.3,  # nothing of this client gets through for a while, not its heartbeats either
    "stall": 0.1,  # its consumer gives nothing any more, and no error either, until it is built anew
}
# By themselves, whatever the clients do.
BACKGROUND = ("fuse", "rebalance", "compact", "terminate")
KINDS = (*REQUESTS, *BACKGROUND)
ACTIVE = 0.4

SESSION_S = 1.0
POLL_INTERVAL_S = 8.0
REQUEST_TIMEOUT_S = 6.0
FUSE_STEPS = 3000


class Faults:
    """The broker's hook for clients' requests. `kill` and `terminate` are the world's ways to end one.

    Quiet once `stop` was called.
    """

    def __init__(
        self,
        seed: int,
        broker: MemoryBroker,
        kill: Callable[[str], None],
        terminate: Callable[[random.Random], None],
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self.random = random.Random(f"faults-{seed}")
        self.active = {kind for kind in kinds if self.random.random() < ACTIVE}
        self.rate = 10 ** self.random.uniform(-2.7, -1.2)
        # Most runs with all of the client's flaws, for they are real; some with a client that has only some of them.
        self.flaws = Flaws(*(self.random.random() < 0.8 for _ in range(3)))
        self.fired: Counter[str] = Counter()
        self.quiet = False
        self._broker, self._kill, self._terminate = broker, kill, terminate
        self._frozen: dict[str, asyncio.Task[None]] = {}
        self._cut: dict[str, float] = {}
        self._stalled: set[str] = set()
        self._background: list[asyncio.Task[None]] = []

    async def request(self, what: str, client: str, effect: Callable[[], Any]) -> Any:
        if self.quiet:
            return self._done(what, client, effect)
        loop, fires = _loop(), self._fires
        if fires("delay"):
            await asyncio.sleep(self.random.expovariate(1 / 0.02))
        if fires("partition"):
            self._cut[client] = loop.time() + self.random.uniform(0.1, 4.0)
        if (until := self._cut.get(client, 0.0)) > loop.time():
            await asyncio.sleep(min(until - loop.time(), REQUEST_TIMEOUT_S))
            raise TransportError(f"simulated: no connection at {what}")
        if fires("stall") and what == "poll":
            self._stalled.add(client)
        if fires("refuse"):
            raise TransportError(f"simulated: refused at {what}")
        if fires("late"):
            # The network's, not the client's: it comes even when the client is dead by then.
            loop.call_later(
                self.random.uniform(0.0, 3.0), self._afterwards, what, client, effect, context=contextvars.Context()
            )
            raise TransportError(f"simulated: no answer at {what}")
        if fires("hang"):
            if self.random.random() < 0.5:
                self._afterwards(what, client, effect)
            await asyncio.sleep(REQUEST_TIMEOUT_S)
            raise TransportError(f"simulated: never answered at {what}")
        if self.random.random() < 0.5:  # before its effect, or behind it
            await self._die_or_freeze(client)
        answer = self._done(what, client, effect)
        if fires("corrupt") and what in ("poll", "read"):
            raise Unreadable(f"simulated: damaged on its way at {what}")
        if fires("lose-answer"):
            raise TransportError(f"simulated: the answer was lost at {what}")
        await self._die_or_freeze(client)
        return answer

    def _done(self, what: str, client: str, effect: Callable[[], Any]) -> Any:
        if what == "join":
            self._stalled.discard(client)
        if what == "poll" and client in self._stalled:
            return None
        return effect()

    def _afterwards(self, what: str, client: str, effect: Callable[[], Any]) -> None:
        with contextlib.suppress(TransportError):
            self._done(what, client, effect)

    def _fires(self, kind: str) -> bool:
        if kind not in self.active or self.random.random() >= self.rate * REQUESTS[kind]:
            return False
        self.fired[kind] += 1
        return True

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _die_or_freeze(self, client: str) -> None:
        if self._fires("crash"):
            self._kill(client)
            await asyncio.sleep(0)
        if self._fires("freeze"):
            self._freeze(client)
            await asyncio.sleep(0)

    def _freeze(self, client: str) -> None:
        """SIGSTOP: the group goes on without it after its session; later it wakes up and knows of nothing."""
        _loop().stop_process(client)
        self._frozen[client] = _apart(self._wake(client, self.random.uniform(0.0, 4.0 * SESSION_S)))

    async def _wake(self, client: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._frozen.pop(client, None)
        _loop().wake_process(client)

    def born(self, client: str) -> None:
        """A process begins; some carry their end in themselves, at whatever step that comes."""
        if "fuse" in self.active and not self.quiet and self.random.random() < 0.5:
            end = self._kill if self.random.random() < 0.6 else self._freeze
            _loop().burn(client, self.random.randint(1, FUSE_STEPS), lambda: self._burnt(end, client))

    def _burnt(self, end: Callable[[str], None], client: str) -> None:
        self.fired["fuse"] += 1
        end(client)

    def died(self, client: str) -> None:
        waking = self._frozen.pop(client, None)
        if waking is not None:
            waking.cancel()

    # ── by themselves ────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Starts what happens by itself: members come and go, the cleaner runs, operators restart."""
        for kind, work, most_s in (
            ("rebalance", self._rebalance, 3.0),
            ("compact", self._compact, 2.0),
            ("terminate", self._stop_one, 6.0),
        ):
            if kind in self.active:
                self._background.append(_apart(self._again_and_again(kind, work, most_s)))

    async def _again_and_again(self, kind: str, work: Callable[[], None], most_s: float) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.05, most_s))
            self.fired[kind] += 1
            work()

    def _rebalance(self) -> None:
        for group in self._broker.groups.values():
            if group.members:
                group.rebalance()

    def _compact(self) -> None:
        for topic in ("app.state", "app.models"):
            for partition in range(len(self._broker.topics[topic])):
                self._broker.compact(topic, partition)

    def _stop_one(self) -> None:
        self._terminate(self.random)

    def stop(self) -> None:
        """From here on nothing fails any more. What is frozen wakes up; what has stalled has to be noticed."""
        self.quiet = True
        self._cut.clear()
        _loop().put_out_fuses()
        for task in self._background:
            task.cancel()


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def _apart(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return _loop().create_task(work, context=contextvars.Context())
