"""Planes of a whole labelled image from which its crops are cut.

They depend on the labels beyond a crop, so they are computed once for an image. A crop then costs
the same whatever the size of its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.labels.border_weights import border_weights
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.markers import find_markers


@dataclass(frozen=True, eq=False)
class LabelPlanes:
    """Index of the pixels of each class, and planes of markers and weights."""

    row_ends: NDArray[np.int64]
    """Number of pixels of each class from the first row to each row, inclusive; (classes, H)."""
    markers: NDArray[np.bool_] | None = None
    """Markers of the objects, (classes, H, W); None: crops have none."""
    weights: NDArray[np.float16] | None = None
    """Border weights, (classes, H, W); None: crops have none."""


def compute_planes(
    masks: Sequence[NDArray[Any]],
    labelling: Labelling,
    config: CropConfig,
    valid_hw: NDArray[np.bool_] | None = None,
) -> LabelPlanes:
    """Compute the planes of a labelled image.

    Args:
        masks: Masks of the whole image, HW each.
        labelling: Meaning of the mask values.
        config: Settings of the crops.
        valid_hw: Valid pixels of the image; None: all are valid.
    """
    classes = range(len(labelling.classes))
    planes = [labelling.class_mask([*masks], index) for index in classes]
    if valid_hw is not None:
        planes = [plane & valid_hw for plane in planes]
    row_ends = np.stack([np.cumsum(plane.sum(axis=1, dtype=np.int64)) for plane in planes])
    if not (config.markers or config.border_weight):
        return LabelPlanes(row_ends)
    objects = [labelling.objects([*masks], index, valid_hw) for index in classes]
    markers = np.stack([find_markers(ids) for ids in objects]) if config.markers else None
    weights = None
    if config.border_weight:
        planes_of_weights = [
            border_weights(ids, config.border_weight, config.border_sigma) for ids in objects
        ]
        weights = np.stack([plane.astype(np.float16) for plane in planes_of_weights])
    return LabelPlanes(row_ends, markers, weights)
