"""Random crops for training: as many from every image as cover its area once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.metrics import IGNORED
from unet_ray.imaging.tiling import Box, read_box


def count_crops(height: int, width: int, side: int) -> int:
    """Return how many crops of `side` × `side` px cover an image's area once, at least 1."""
    return max(1, round(height * width / side**2))


def random_crop(
    image_hwc: NDArray[Any], targets_khw: NDArray[np.uint8], side: int, margin: int, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Cut one random square out of an image and its targets.

    Args:
        image_hwc, targets_khw — of one height and width.
        side — of the labelled square (px).
        margin — read around it for networks with unpadded convolutions (px).

    Returns: the image crop (side + 2·margin)², mirrored beyond the image, and the targets side², IGNORED beyond it.
    """
    height, width = image_hwc.shape[:2]
    top = int(rng.integers(0, max(0, height - side) + 1))
    left = int(rng.integers(0, max(0, width - side) + 1))
    box = Box(top - margin, left - margin, top + side + margin, left + side + margin)
    targets = targets_khw[:, top : top + side, left : left + side]
    missing = side - targets.shape[1], side - targets.shape[2]
    if any(missing):
        targets = np.pad(targets, ((0, 0), (0, missing[0]), (0, missing[1])), constant_values=IGNORED)
    return read_box(image_hwc, box, mirror=True), targets
