"""May a candidate serve? Only if it is finite and better than the incumbent on data that neither was trained on.

Errors are medians over series of each series' mean: a single series full of garbage decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamrnn.learning import GateSpec
from streamrnn.model.loss import TARGET_CLIP
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Errors of a network on one stretch. `error` and `persistence` are per horizon, in the units of the targets."""

    finite: bool
    score: float  # mean over horizons of error / persistence: below 1 beats persistence
    error: tuple[float, ...]
    persistence: tuple[float, ...]
    targets: int

    def skill(self) -> list[float]:
        """Squared error over persistence's, per horizon."""
        return [e / p if p > 0.0 else 1.0 for e, p in zip(self.error, self.persistence, strict=True)]


@dataclass(frozen=True, slots=True)
class Verdict:
    accepted: bool
    reason: str


@torch.inference_mode()
def evaluate(network: Network, batch: Sequences) -> Evaluation:
    """Runs the stretches from a zero state; steps without targets only warm it."""
    network.eval()
    out, _ = network(batch.inputs, network.zero_state(batch.inputs.shape[1]))
    mean = out[..., 0]  # [T, B, C, H]
    targets = batch.targets.clamp(-TARGET_CLIP, TARGET_CLIP)
    came = ~torch.isnan(targets)
    y = torch.nan_to_num(targets)
    count = came.sum((0, 2)).clamp(min=1)  # [B, H]
    error = torch.where(came, (y - mean) ** 2, torch.zeros_like(y)).sum((0, 2)) / count
    naive = torch.where(came, y**2, torch.zeros_like(y)).sum((0, 2)) / count
    some = came.any(dim=0).any(dim=1).any(dim=1)  # series with any target
    if not bool(some.any()):
        return Evaluation(bool(torch.isfinite(out).all()), float("inf"), (), (), 0)
    ratio = (error / naive.clamp(min=1e-12))[some]
    middle = ratio.median(dim=0).values
    naive_middle = naive[some].median(dim=0).values
    return Evaluation(
        finite=bool(torch.isfinite(out).all()),
        score=float(middle.mean()),
        error=tuple((middle * naive_middle).tolist()),
        persistence=tuple(naive_middle.tolist()),
        targets=int(came.sum()),
    )


def judge(
    candidate: Evaluation,
    incumbent: Evaluation | None,
    candidate_anchor: Evaluation | None,
    incumbent_anchor: Evaluation | None,
    spec: GateSpec,
) -> Verdict:
    """`incumbent` None: the first network, which has persistence to beat."""
    if not candidate.finite or not candidate.score < float("inf"):
        return Verdict(False, "not-finite" if candidate.targets else "no-data")
    bar = (1.0 - spec.first_margin) if incumbent is None else incumbent.score * (1.0 - spec.margin)
    if not candidate.score < bar:
        return Verdict(False, "not-better")
    if candidate_anchor is not None and candidate_anchor.targets:
        known = incumbent_anchor.score if incumbent_anchor is not None else 1.0
        if not candidate_anchor.score <= known * (1.0 + spec.anchor_tolerance):
            return Verdict(False, "worse-on-anchor")
    return Verdict(True, "accepted")
