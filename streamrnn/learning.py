"""How the network is trained, and when the result may serve: the one set of defaults, for service, back-test and notebook.

Plain frozen values that every floor may read; the configuration's `learn` section takes its defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How to train. An update's `batch_steps` are drawn one by one, for the trunk; at every `recurrent_every`-th update
    `batch_series` stretches of `length` steps side by side, for the recurrent layers, `chunk_len` steps between two updates.
    `burn_in` steps move the state before what the gate looks at."""

    chunk_len: int = 24
    burn_in: int = 32
    length: int = 24
    batch_steps: int = 64
    batch_series: int = 4
    recurrent_every: int = 2
    lr: float = 1e-3
    weight_decay: float = 0.3
    clip_norm: float = 5.0
    ema_decay: float = 0.99  # of the weights that become the candidate; 0 switches averaging off
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GateSpec:
    """What a candidate must show before it serves (`model.gate`)."""

    first_margin: float = 0.0  # it must remove more than this share of the mixture's squared error
    chances: float = 1.0  # and may be worse than the incumbent by no more than so many standard errors


UPDATES = 160


def usual_updates(horizon: int) -> int:
    """Gradient steps of a round: 160, and 160 / `horizon` more. Labels of forecasts that overlap say much the same, so a far
    horizon is over-fitted by what a near one still learns from."""
    return UPDATES + UPDATES // horizon


@dataclass(frozen=True, slots=True)
class LearnSpec:
    """How much is kept and how much one round may take."""

    train: TrainSpec = field(default_factory=TrainSpec)
    gate: GateSpec = field(default_factory=GateSpec)
    window: int = 4096  # steps kept per series at most, and fewer where all together would be more than `bytes_max`
    bytes_max: int = 512 << 20
    holdout: int = 64  # newest steps of a series never trained on, for the gate
    series_max: int = 2000
    updates: int | None = None  # gradient steps of one round at most; None: by the horizon (`usual_updates`)
    min_steps: int = 700  # steps over all series before the first network is trained
    drift: bool = True
