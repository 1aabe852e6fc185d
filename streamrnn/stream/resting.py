"""When training has nothing to add: what the weights in use remove of the mixture's error, step after step, judged ahead of time.

A candidate's gain on held-out steps is measured at the slope that suits it best there, and so is never below nothing. Whether a
network is of use at all is asked in another way: the slope is that of the look before, the steps are new ones. Where the mean of
such gains, with its standard error on top, is below `LITTLE`, training rests for `REST` times the distance of two rounds; then
it looks again, and at a drift at once. So it does where no weights are in use and `LOOKS` candidates have added nothing.
"""

from __future__ import annotations

import math

from streamrnn.model.gate import Evaluation

LITTLE = 0.005  # of the mixture's squared error
LOOKS = 6  # before anything is said, and new series believe all that the gate found
MEMORY = 32  # looks
REST = 10


class Worth:
    """What the weights in use have added, by looks at steps that none of them was trained on."""

    def __init__(self) -> None:
        self.looks = 0
        self._in_vain = 0  # candidates that added nothing, with no weights in use
        self._slope: tuple[float, ...] = ()
        self._mean = self._square = 0.0

    def look(self, of: Evaluation) -> None:
        """Takes in how the weights in use did on new steps. The first look settles the slope alone."""
        if not of.targets:
            return
        if len(self._slope) == len(of.slope):
            self.looks += 1
            rate, gain = 1.0 / min(self.looks, MEMORY), of.gain_at(self._slope)
            self._mean += rate * (gain - self._mean)
            self._square += rate * (gain * gain - self._square)
        self._slope = of.slope

    def nothing_added(self) -> None:
        """A candidate added nothing, and no weights are in use that could have been looked at."""
        self._in_vain += 1

    @property
    def in_vain(self) -> bool:
        """Whether so many candidates have added nothing that the next will not, either."""
        return self._in_vain >= LOOKS

    @property
    def gain(self) -> float:
        """Mean share of the mixture's squared error that was removed."""
        return self._mean

    @property
    def vouches(self) -> float:
        """0 to 1: how far looks, each ahead of time, vouch for what the gate found once."""
        return min(self.looks / LOOKS, 1.0) if self._mean > 0.0 else 0.0

    @property
    def little(self) -> bool:
        """Whether it is next to nothing, as surely as the looks show."""
        if self.looks < LOOKS:
            return False
        spread = max(self._square - self._mean**2, 0.0)
        return self._mean + math.sqrt(spread / min(self.looks, MEMORY)) < LITTLE
