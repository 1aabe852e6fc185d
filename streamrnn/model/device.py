"""Where to train: CUDA, else Apple's MPS, else the processor."""

from __future__ import annotations

import torch


def choose() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def full_precision() -> None:
    """cuDNN computes recurrent layers as float32 does; its default rounds what goes into a product to ten bits (TF32).

    The gate judges on the trainer's device what the processor will serve. Some 2,000 series side by side pay a fifth of a
    training step for it, 32 pay nothing.
    """
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]


def describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
