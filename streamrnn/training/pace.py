"""When a round of training is due, in the trainer and in `OnlineForecaster` alike."""

from __future__ import annotations

from typing import Protocol

from streamrnn.transports.base import LONG_AGO_S

# Until a first network serves there is nothing to lose by trying again soon with what has come since.
FIRST_AGAIN_S = 1.0


class Learns(Protocol):
    """What is asked of a `stream.learner.Learner`."""

    ticks: int
    rounds: int
    drifted: bool

    @property
    def incumbent(self) -> object | None: ...

    @property
    def rests(self) -> bool: ...


class Pace:
    """Rounds are `interval_s` apart where ticks come, or as many ticks as `ticks` says, whichever is sooner; one is due at once
    after a drift, and none while the learner rests. Times are of `clock_s`."""

    def __init__(self, interval_s: float, ticks: int) -> None:
        self._interval_s, self._ticks = interval_s, ticks
        self._ticks_at_round = 0
        self._next_s = LONG_AGO_S

    def due(self, learner: Learns, now_s: float) -> bool:
        """Of a learner that has enough for a round."""
        if learner.rounds == 0 or learner.drifted:
            return True
        if learner.rests:
            return False
        news = learner.ticks - self._ticks_at_round
        return news > 0 and (now_s >= self._next_s or news >= self._ticks)

    def begun(self, learner: Learns) -> None:
        self._ticks_at_round = learner.ticks

    def ended(self, learner: Learns, now_s: float) -> None:
        self._next_s = now_s + (FIRST_AGAIN_S if learner.incumbent is None else self._interval_s)
