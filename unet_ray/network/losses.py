"""Losses as tensor functions: sums and counts, so that they add up over workers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unet_ray.imaging.metrics import IGNORED


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Per-pixel binary cross entropy over all classes, summed (Ronneberger et al. 2015, one sigmoid per class).

    Args:
        logits — N, K, H, W, float.
        targets — N, K, H, W, uint8: 0, 1, or IGNORED.

    Returns: the sum over counted pixels and classes (float32), and their number (float32); both scalars.
    """
    counted = targets != IGNORED
    per_pixel = binary_cross_entropy_with_logits(
        logits.float(), (targets == 1).float(), weight=counted.float(), reduction="sum"
    )
    return per_pixel, counted.sum(dtype=torch.float32)
