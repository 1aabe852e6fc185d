"""Has the world changed? ADWIN (Bifet & Gavaldà 2007) on matured errors of the network in use."""

from __future__ import annotations

from river.drift import ADWIN

# One false alarm costs one early round of training: a cautious level.
DELTA = 0.002
# Alarms only for errors that grew: getting better is no reason to hurry.


class DriftWatch:
    """Fed one mean error per step; says when the errors have risen."""

    def __init__(self) -> None:
        self._adwin = ADWIN(delta=DELTA)
        self.events = 0

    def update(self, error: float) -> bool:
        """`error` is a mean absolute error in units of the running scale."""
        before = self._adwin.estimation
        self._adwin.update(error)
        if self._adwin.drift_detected and self._adwin.estimation > before:
            self.events += 1
            return True
        return False

    def forget(self) -> None:
        """Starts anew: other weights have other errors."""
        self._adwin = ADWIN(delta=DELTA)
