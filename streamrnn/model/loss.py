"""What training minimises: pinball loss over all levels plus a Huber loss on the mean, over the targets that have come.

Targets are in the units of the outputs (scale · √h around the last seen value) and NaN where they are missing or have
not arrived; those count for nothing. Every horizon and channel weighs the same, however many of its targets came.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Targets beyond this many units are shown as this: one spike must not own a batch.
TARGET_CLIP = 12.0
# Below it the mean's loss is squared, beyond linear.
HUBER = 4.0


def forecast_loss(out: Tensor, targets: Tensor, levels: Tensor) -> Tensor:
    """out [..., C, H, 1 + Q], targets [..., C, H] with NaN, levels [Q] → a scalar; 0 where no target came."""
    came = ~torch.isnan(targets)
    y = torch.nan_to_num(targets, nan=0.0).clamp(-TARGET_CLIP, TARGET_CLIP)
    error = y.unsqueeze(-1) - out[..., 1:]
    pinball = torch.maximum(levels * error, (levels - 1.0) * error).mean(-1)
    center = torch.nn.functional.huber_loss(out[..., 0], y, reduction="none", delta=HUBER)
    each = torch.where(came, pinball + 0.5 * center, torch.zeros_like(y))
    dims = tuple(range(each.ndim - 2))
    counts = came.sum(dims)  # [C, H]
    per_target = each.sum(dims) / counts.clamp(min=1)
    return per_target.sum() / (counts > 0).sum().clamp(min=1)
