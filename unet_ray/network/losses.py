"""Losses as tensor functions: sums and counts, so that they add up over workers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unet_ray.imaging.labels.targets import IGNORED

_SMOOTH_PX = 1.0
"""Added above and below in Dice, so that a class that is absent and not found scores 1."""


def cross_entropy_sum(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-pixel binary cross entropy over all classes, summed (Ronneberger et al. 2015, one sigmoid per class).

    Args:
        logits — N, K, H, W, float.
        targets — N, K, H, W, uint8: 0, 1, or IGNORED.
        class_weights — K, float: what a pixel of the class weighs against one that is not of it; None: 1.
        weights — N, K, H, W, float: weight of each pixel (the border weight map); None: 1.

    Returns: the sum over counted pixels and classes (float32), and their number (float32); both scalars.
    """
    counted = targets != IGNORED
    per_pixel = counted.float() if weights is None else weights * counted
    total = binary_cross_entropy_with_logits(
        logits.float(),
        (targets == 1).float(),
        weight=per_pixel,
        pos_weight=None if class_weights is None else class_weights.view(-1, 1, 1),
        reduction="sum",
    )
    return total, counted.sum(dtype=torch.float32)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 − soft Dice of each image and class, averaged over both (Milletari et al. 2016, with sums, not squares).

    Each image counts alike, so the mean over workers of equal batches is the mean over all images.

    Args:
        logits, targets — as `cross_entropy_sum`.
    """
    counted = targets != IGNORED
    probability = logits.float().sigmoid() * counted
    wanted = (targets == 1).float()
    both = (probability * wanted).sum((2, 3))
    return (
        1 - (2 * both + _SMOOTH_PX) / (probability.sum((2, 3)) + wanted.sum((2, 3)) + _SMOOTH_PX)
    ).mean()
