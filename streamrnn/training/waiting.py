"""What a trainer waits for before its first round, and how long that takes at the rate of the last minute."""

from __future__ import annotations

from collections import deque
from typing import Any

import structlog

from streamrnn.stream.learner import Lack

log = structlog.get_logger(__name__)

# The rate is that of the last RATE_S seconds, once there are RATE_LEAST_S of them.
RATE_S, RATE_LEAST_S = 60.0, 5.0
LOOK_S = 1.0
# Between two lines: each time twice as long. The wait may take days (a step of one hour).
LINE_S, LINE_S_MAX = 60.0, 3600.0
NEVER_S = float("inf")


class Wait:
    """Fed with what is missing; time is passed in."""

    def __init__(self) -> None:
        self.lack: Lack | None = None
        self._have: deque[tuple[float, int]] = deque()
        self._line_s: float | None = None  # when the next line is due
        self._every_s = LINE_S

    def look(self, now_s: float, lack: Lack | None, series: int, met: int) -> None:
        """`lack` is what is missing now, None where nothing is. A line is written where one is due; `series` are kept,
        of `met` that there are."""
        if lack is None or self.lack is None or lack.each != self.lack.each:
            self._have.clear()
        self.lack = lack
        if lack is None:
            self._line_s, self._every_s = None, LINE_S
            return
        if not self._have or now_s - self._have[-1][0] >= LOOK_S:
            self._have.append((now_s, lack.have))
            while now_s - self._have[0][0] > RATE_S:
                self._have.popleft()
        if self._line_s is None:
            self._line_s = now_s + RATE_LEAST_S + LOOK_S
        elif now_s >= self._line_s:
            self._line_s, self._every_s = now_s + self._every_s, min(2 * self._every_s, LINE_S_MAX)
            self._write(lack, series, met)

    def left_s(self) -> float | None:
        """Seconds, infinite where nothing moves; None while it is not known or nothing is waited for."""
        if self.lack is None or len(self._have) < 2:
            return None
        (began_s, had), (now_s, has) = self._have[0], self._have[-1]
        if now_s - began_s < RATE_LEAST_S:
            return None
        return (self.lack.need - has) * (now_s - began_s) / (has - had) if has > had else NEVER_S

    def words(self) -> str:
        """ "" where nothing is waited for."""
        if self.lack is None:
            return ""
        whose = "of a series" if self.lack.each else "of all series together"
        return f"{self.lack.have} of {self.lack.need} steps {whose}"

    def said(self) -> dict[str, Any]:
        """For a heartbeat; JSON has no infinity, so what never ends is -1."""
        left_s = self.left_s()
        return {
            "waits": self.words(),
            "waits_s": None if left_s is None else -1.0 if left_s == NEVER_S else round(left_s, 1),
        }

    def _write(self, lack: Lack, series: int, met: int) -> None:
        left_s = self.left_s()
        if left_s == NEVER_S:
            log.warning(
                "learning cannot begin: no series gets longer. Either no ticks come, or series end before they have "
                "learn.holdout + learn.length + 1 steps: set these two lower",
                waits_for=self.words(), series=series, series_met=met,
            )  # fmt: skip
            return
        log.info(
            "learning has not begun yet: steps are collected",
            waits_for=self.words(), series=series, series_met=met,
            ready_in="unknown" if left_s is None else roughly(left_s),
            # What the next start would have to read, where the topic has it.
            learn_history_needed=lack.need * (met if lack.each else 1),
        )  # fmt: skip


def roughly(seconds: float) -> str:
    """A duration in one or two units, as `parse_ms` reads it."""
    for unit, size, below, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= 2 * size:
            parts = round(seconds / part)
            whole, rest = divmod(parts, size // part)
            return f"{whole}{unit}{rest}{below}" if rest else f"{whole}{unit}"
    return f"{max(1, round(seconds))}s"
