"""How the network is trained, and when the result may serve: the one set of defaults, for service, back-test and notebook.

Plain frozen values that every floor may read; the configuration's `learn` section takes its defaults from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How to train. `chunk_len` and `burn_in` in steps; `batch_series` sequences are trained side by side."""

    chunk_len: int = 32
    burn_in: int = 32
    length: int = 160  # steps of one sequence, burn-in counted in
    batch_series: int = 32
    lr: float = 2e-3
    weight_decay: float = 1e-2
    # Regularisation: a few thousand steps are little for a network. Noise on the scaled inputs, and hidden units the
    # head must do without.
    input_noise: float = 0.2
    head_dropout: float = 0.2
    clip_norm: float = 1.0
    ema_decay: float = 0.98  # of the weights that become the candidate; 0 switches averaging off
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GateSpec:
    """What a candidate must show before it serves (`model.gate`)."""

    margin: float = 0.002  # the candidate must be better on the newest stretch by this share
    anchor_tolerance: float = 0.05  # and may be worse on the anchor stretch by no more than this share
    first_margin: float = 0.01  # the first network must beat persistence by this share


@dataclass(frozen=True, slots=True)
class LearnSpec:
    """How much is kept and how much one round may take."""

    train: TrainSpec = field(default_factory=TrainSpec)
    gate: GateSpec = field(default_factory=GateSpec)
    # Steps kept per series; bytes: series_max · window · (2 F + 12 C), 541 MB at 2,000 series of 4 channels.
    window: int = 4096
    holdout: int = 64  # newest steps of a series never trained on, for the gate
    series_max: int = 2000
    updates: int = 160  # gradient steps of one round at most
    min_steps: int = 700  # steps over all series before the first network is trained
    drift: bool = True
