"""What training minimises: a Huber loss on the remaining error of the mixture, over the targets that have come.

Targets are in units of that error's running root mean square, bounded (one spike must not own a batch), NaN where they are
missing or have not arrived; those count for nothing. The others weigh as their channel's errors do among the channels
(`stream.replay`): squared, that is the error of the forecasts themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below it the loss is squared, beyond linear.
HUBER = 1.5


def forecast_loss(out: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """out, targets (with NaN) and weights [T, B, rung] → a scalar; 0 where no target came."""
    came = ~torch.isnan(targets)
    y = torch.nan_to_num(targets, nan=0.0)
    each = torch.nn.functional.huber_loss(out, y, reduction="none", delta=HUBER)
    weights = weights * came
    return (each * weights).sum() / weights.sum().clamp(min=1e-6)
