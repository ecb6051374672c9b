"""Augmentation of a batch on its device; masks follow their images exactly."""

from __future__ import annotations

import torch
from torch import Tensor


def flip_and_turn(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn a batch of squares by one of the eight symmetries of the square, drawn once for the batch.

    Args:
        images, targets — N, C, S, S and N, K, T, T.
        generator — of the CPU.
    """
    draw = int(torch.randint(8, (1,), generator=generator))
    if draw & 4:
        images, targets = images.flip(-1), targets.flip(-1)
    return images.rot90(draw & 3, (-2, -1)), targets.rot90(draw & 3, (-2, -1))
