"""Losses as tensor functions.

Cross entropy comes as a sum and a count, which add up over workers; Dice is a mean over images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unet_ray.imaging.labels.targets import IGNORED

_SMOOTH_PX = 1.0
"""Constant in numerator and denominator of Dice (px); with it, a class that is absent and not found
scores 1."""


def cross_entropy_sum(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum the binary cross entropy over pixels and classes.

    Each class has its own sigmoid; the pixel weights are those of Ronneberger et al. 2015.

    Args:
        logits: Output of the network; (N, K, H, W) float.
        targets: Target values 0, 1 or IGNORED; (N, K, H, W) uint8.
        class_weights: Weight of a pixel of the class relative to one outside it; (K,) float.
            None: 1.
        weights: Weight of each pixel (the border weight map); (N, K, H, W) float. None: 1.

    Returns:
        The sum over counted pixels and classes, and the number of its terms; both float32 scalars.
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
    """Return 1 − soft Dice, averaged over images and classes.

    Soft Dice is that of Milletari et al. 2016, with sums instead of squares. All images weigh the
    same, so the mean over workers with equal batches is the mean over all images.

    Args:
        logits: Output of the network; (N, K, H, W) float.
        targets: Target values 0, 1 or IGNORED; (N, K, H, W) uint8.

    Returns:
        A scalar, float32.
    """
    counted = targets != IGNORED
    probability = logits.float().sigmoid() * counted
    wanted = (targets == 1).float()
    both = (probability * wanted).sum((2, 3))
    either = probability.sum((2, 3)) + wanted.sum((2, 3))
    dice = (2 * both + _SMOOTH_PX) / (either + _SMOOTH_PX)
    return (1 - dice).mean()
