"""What the broker is asked from time to time, between two batches, because no client says it: whether the client has stopped
reading, whether the input is still the same topic, and whether it still has what a restart would replay."""

from __future__ import annotations

import asyncio

import structlog

from streamrnn.serving.checkpoint import Checkpointer
from streamrnn.serving.intake import Takes
from streamrnn.serving.parts import PumpSettings
from streamrnn.transports.base import TopicMissing, TransportError, clock_s

log = structlog.get_logger(__name__)

# How often the broker is asked which topic the input is.
INPUT_ID_CHECK_S = 10.0
# How long an answer is waited for: nothing else goes on until it is there.
ANSWER_S = 1.0
# How often it is asked where the input's partitions begin.
RETENTION_S = 10.0


class Stalled(TransportError):
    """The client gives no records where there are some."""


class InputReplaced(TransportError):
    """The input is another topic than it was, of the same name."""


class Watch:
    """Belongs to the pump. `look` raises what makes clients be built anew, or an operator needed."""

    def __init__(self, parts: Takes, settings: PumpSettings, checkpointer: Checkpointer | None) -> None:
        """`checkpointer`: None where there are no states to be replayed to."""
        self._source, self._checkpointer, self._observer = parts.source, checkpointer, parts.observer
        self._settings, self._partitions = settings, parts.partitions
        self._stalls_s = self._input_s = self._retention_s = clock_s()  # when each was looked at
        self._missing = 0  # how often in a row there was no such topic
        self._overtaken: set[int] = set()  # partitions whose checkpoint lies before the input's begin, as was reported

    async def look(self) -> None:
        """Raises Stalled, InputReplaced, TopicMissing."""
        self._report_lag()
        await self._look_for_stalls()
        await self._look_at_input()
        await self._look_at_retention()

    def _report_lag(self) -> None:
        lag = self._source.lag()
        for number, partition in self._partitions.owned.items():
            self._observer.progress(number, partition.position, lag.get(number))

    async def _look_for_stalls(self) -> None:
        """Clients are known to stop reading without a word (aiokafka #983, #1037, #1154): the broker is asked.

        Raises Stalled where a partition has records to read and gives none.
        """
        now, stall_s, limits = clock_s(), self._settings.stall_s, self._partitions.limits
        if now - self._stalls_s < stall_s / 3:
            return
        self._stalls_s = now
        still = [
            number
            for number, partition in self._partitions.owned.items()
            if now - partition.moved_s > stall_s and partition.position < limits.get(number, partition.position + 1)
        ]
        if not still:
            return
        lags, owned = await self._source.behind(still), self._partitions.owned
        for number in still:
            if number in owned and not lags.get(number):
                owned[number].moved_s = now
        stalled = {number: lag for number, lag in lags.items() if lag > 0 and number in owned}
        if stalled:
            label = self._partitions.numbering.label
            which = ", ".join(f"partition {label(number)} ({lag} records)" for number, lag in sorted(stalled.items()))
            raise Stalled(f"{which} gave nothing for {stall_s:.0f} s")

    async def _look_at_input(self) -> None:
        """Whether the input's topics are still those that they were: one deleted and made anew may have grown beyond where we
        are.

        Raises InputReplaced, and TopicMissing where the only topic is deleted and stays away; of several, one may go.
        """
        if clock_s() - self._input_s < INPUT_ID_CHECK_S:
            return
        self._input_s = clock_s()
        try:
            async with asyncio.timeout(ANSWER_S):
                ids = await self._source.topic_ids()
        except (TransportError, TimeoutError):
            return  # another broker than those we need may be away; it is asked again
        one = self._partitions.numbering.one
        self._missing = self._missing + 1 if one and ids.get(one) is None else 0
        if self._missing > 1:  # brokers that have just started may not know their topics yet
            raise TopicMissing(f"the input topic {one!r} does not exist any more: it was deleted under this worker")
        for topic, found in ids.items():
            known = self._partitions.input_ids.get(topic)
            if found and known and found != known:
                raise InputReplaced(f"the input topic {topic!r} was made anew: it was topic {known}, and is {found}")

    async def _look_at_retention(self) -> None:
        """Whether the input still has what a restart would replay. Where that begins in the older half of what is kept, the
        next checkpoint does not wait for its budget; where retention has overtaken it, that is reported, once."""
        owned, checkpointer = self._partitions.owned, self._checkpointer
        if checkpointer is None or clock_s() - self._retention_s < RETENTION_S or not owned:
            return
        self._retention_s = clock_s()
        try:
            async with asyncio.timeout(ANSWER_S):
                begins = await self._source.begin_offsets(sorted(owned))
        except (TransportError, TimeoutError):
            return  # as above
        for number, begin in begins.items():
            partition = self._partitions.owned.get(number)
            if partition is None or partition.replaying or begin <= 0:
                continue
            since = checkpointer.replays_from(partition)
            if 2 * (partition.position - since) > partition.position - begin:
                checkpointer.hurry(partition)
            if since >= begin:
                self._overtaken.discard(number)
            elif since >= 0 and number not in self._overtaken:
                self._overtaken.add(number)
                log.warning(
                    "the input no longer has what a restart would replay: were this worker killed now, the partition would "
                    "start without its state. Keep the input longer (retention.ms, retention.bytes), or set "
                    "checkpoint.interval_max lower",
                    partition=self._partitions.numbering.label(number), begin=begin, replay_from=since,
                )  # fmt: skip
