"""May a candidate serve? Only if it is finite, and what it adds to the mixture on data that it was not trained on is real.

What is sent is the mixture's move and a share of what the network says, as much as that has been worth (`kernels.remainder`).
So that is what is judged: with f what the network says, y the remaining error, β = Σ f y / Σ f², the gain is the share of Σ y²
that β f removes; a network that is right in the half of what it says is worth as much as one that says half. Where the errors
of two networks are no further apart than chance makes them, the newer one is taken: it has seen more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from streamrnn.kernels.remainder import DOUBTED, JUDGED_MAX, STANDARD
from streamrnn.learning import GateSpec
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences
from streamrnn.records import F64, I64

SLOPE_MAX = 1.2
CREDIT_MOST = 20.0  # Σ f², in forecasts that do not overlap


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network adds on one stretch, by rung: the share of the mixture's squared error that it removes (`gain`) at
    the `slope` that suits it best. `errors` [block, rung]: squared errors that are left, by series and time; `squares`: those
    of the mixture."""

    finite: bool
    gain: tuple[float, ...]
    slope: tuple[float, ...]
    errors: F64
    squares: F64
    targets: int
    sums: F64  # [rung, (Σ f y, Σ f²)] in shares of Σ y²
    # [rung, (Σ f y, Σ f²)]: what a series may believe of the network before it has seen any of it
    credit: F64 = field(default_factory=lambda: np.zeros((0, 2)))

    def gain_at(self, slope: tuple[float, ...]) -> float:
        """Mean over the rungs of what is removed at a slope that was settled before: the best one flatters itself."""
        beta: F64 = np.array(slope)
        return float((beta * (2.0 * self.sums[:, 0] - beta * self.sums[:, 1])).mean()) if self.targets else 0.0

    @property
    def score(self) -> float:
        """Mean over the rungs of what is left of the squared error: below 1 the network adds."""
        return 1.0 - sum(self.gain) / len(self.gain) if self.gain else float("inf")


@dataclass(frozen=True, slots=True)
class Verdict:
    accepted: bool
    reason: str


@torch.inference_mode()
def evaluate(network: Network, batch: Sequences, block: int) -> Evaluation:
    """Runs the stretches from a zero state; steps without targets only warm it. `block`: steps that count as one observation,
    since errors of overlapping forecasts go together."""
    network.eval()
    out, _ = network(batch.inputs, network.zero_state(batch.inputs.shape[1]))
    finite = bool(torch.isfinite(out).all())
    said = out.clamp(-5.0, 5.0).cpu().numpy().astype(np.float64)
    targets, weighs = (each.cpu().numpy().astype(np.float64) for each in (batch.targets, batch.weighs))
    came = ~np.isnan(targets)
    y, w = np.where(came, targets, 0.0), np.where(came, weighs, 0.0)
    if not finite or not came.any():
        empty = np.zeros((0, y.shape[2]))
        return Evaluation(finite, (), (), empty, empty, int(came.sum()), empty)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Each series has the same weight, however large its errors: one full of garbage decides nothing.
        mine = (w * y * y).sum(0).reshape(-1, batch.channels, y.shape[2]).sum(1)  # [series, rung]
        w = w * np.nan_to_num(1.0 / mine, posinf=0.0).repeat(batch.channels, axis=0)
        cross, power, total = ((w * each).sum((0, 1)) for each in (said * y, said * said, y * y))
        slope = np.nan_to_num(np.clip(cross / power, 0.0, SLOPE_MAX))
        sums = np.nan_to_num(np.stack([cross, power], axis=1) / total[:, None])
        squares, left = w * y * y, w * (y - slope * said) ** 2
        gain = np.nan_to_num(1.0 - left.sum((0, 1)) / squares.sum((0, 1)))
    return Evaluation(
        finite=True,
        gain=tuple(gain.tolist()),
        slope=tuple(slope.tolist()),
        errors=_blocks(left, block, batch.channels),
        squares=_blocks(squares, block, batch.channels),
        targets=int(came.sum()),
        sums=sums,
        credit=_credit(np.where(came, said, 0.0), np.clip(y, -JUDGED_MAX, JUDGED_MAX), np.array(network.spec.rungs)),
    )


def _credit(said: F64, y: F64, rungs: I64) -> F64:
    """[rung, (Σ f y, Σ f²)] of at most `CREDIT_MOST`, and by the share that is sure: as `kernels.remainder.believed` judges.
    `said`, `y`: [T, B, rung]; forecasts of rung h overlap h steps long."""
    came, moved = ((said * each).sum((0, 1)) / rungs for each in (y, said))
    slope = np.maximum(came / (moved + DOUBTED), 0.0)
    sure = np.clip(slope * np.sqrt(moved / 2.0) - STANDARD, 0.0, 1.0) * np.minimum(moved, CREDIT_MOST)
    credit: F64 = np.stack([np.minimum(slope, 1.0) * sure, sure], axis=1)
    return credit


def _blocks(values: F64, block: int, channels: int) -> F64:
    """[T, B, rung] → [block, rung]: sums over `block` steps and the channels of a series."""
    steps, rows, rungs = values.shape
    values = np.concatenate([np.zeros((-steps % block, rows, rungs)), values])
    sums: F64 = values.reshape(-1, block, rows // channels, channels, rungs).sum((1, 3)).reshape(-1, rungs)
    return sums


def judge(candidate: Evaluation, incumbent: Evaluation | None, spec: GateSpec) -> Verdict:
    """`incumbent` None: the first network, which has the mixture alone to beat."""
    if not candidate.finite:
        return Verdict(False, "not-finite")
    if not candidate.targets:
        return Verdict(False, "no-data")
    if not candidate.score < 1.0 - spec.first_margin:
        return Verdict(False, "adds-nothing")
    if incumbent is not None and incumbent.targets:
        # In shares of each rung's error, so that no rung decides alone.
        total = candidate.squares.sum(0)
        worse = ((candidate.errors - incumbent.errors) / np.where(total > 0.0, total, np.inf)).mean(1)  # [block]
        chance = float(np.sqrt((worse**2).sum()))
        if float(worse.sum()) > spec.chances * chance:
            return Verdict(False, "not-better")
    return Verdict(True, "accepted")
