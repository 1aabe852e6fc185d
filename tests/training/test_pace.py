"""When a round is due: what the trainer and `OnlineForecaster` ask before each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from streamrnn.training.pace import FIRST_AGAIN_S, Pace

INTERVAL_S, TICKS = 60.0, 1000


@dataclass
class Learned:
    """See streamrnn.training.pace.Learns."""

    ticks: int = 500
    rounds: int = 1
    drifted: bool = False
    incumbent: object | None = "weights"
    rests: bool = False


def after_a_round(learner: Learned, now_s: float = 100.0) -> Pace:
    pace = Pace(INTERVAL_S, TICKS)
    pace.begun(learner)
    pace.ended(learner, now_s)
    return pace


@pytest.mark.parametrize(
    ("change", "later_s", "due"),
    [
        ({}, 1000.0, False),  # nothing has come
        ({"ticks": 501}, 59.0, False),
        ({"ticks": 501}, 60.0, True),
        ({"ticks": 1499}, 1.0, False),
        ({"ticks": 1500}, 1.0, True),
        ({"drifted": True}, 1.0, True),
        ({"ticks": 5000, "rests": True}, 1000.0, False),
        ({"drifted": True, "rests": True}, 1.0, True),
    ],
)
def test_a_round_is_due_after_an_interval_or_enough_ticks_and_at_a_drift(
    change: dict[str, object], later_s: float, due: bool
) -> None:
    before = Learned()
    assert after_a_round(before).due(replace(before, **change), 100.0 + later_s) == due  # type: ignore[arg-type]


def test_the_first_round_is_due_at_once_and_the_next_soon_while_nothing_serves() -> None:
    assert Pace(INTERVAL_S, TICKS).due(Learned(rounds=0, incumbent=None), 0.0)
    nothing = Learned(incumbent=None)
    pace = after_a_round(nothing)
    assert not pace.due(replace(nothing, ticks=501), 100.0 + FIRST_AGAIN_S / 2)
    assert pace.due(replace(nothing, ticks=501), 100.0 + FIRST_AGAIN_S)
