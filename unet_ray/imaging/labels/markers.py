"""Cores of objects, which a network learns so that touching objects can be separated (`separation`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from unet_ray.imaging.labels.border_weights import dense_ids

DEPTH_PX = 4.0
"""How far inside its object a core lies: the markers of two objects that touch are eight pixels apart."""
CONTEXT_PX = 32
"""How far beyond a window objects matter for the markers within it."""


def find_markers(labels_hw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels that lie deeper than DEPTH_PX in their object; every object has some.

    Of an object that is nowhere twice as deep, the core is what is deeper than half of its depth.

    Args:
        labels_hw — integer ids of objects, 0 the background; an object may have several parts, and touch others.

    Example: ids 1 1 1 1 1 1 2 2 2 2 2 2 in many equal rows, at depths 6 5 4 3 2 1 1 2 3 4 5 6 → markers 1 1 1 0 0 0 0 0 0
    1 1 1.
    """
    ids = dense_ids(labels_hw)
    depth = find_depths(ids)
    deepest = np.zeros(int(ids.max(initial=0)) + 1, depth.dtype)
    np.maximum.at(deepest, ids.ravel(), depth.ravel())
    return (ids != 0) & (depth > np.minimum(DEPTH_PX, deepest[ids] / 2))


def find_depths(labels_hw: NDArray[Any]) -> NDArray[np.float32]:
    """Return how deep each pixel lies in its object (px): 1 at the object's rim, 0 outside.

    A pixel at the rim has a neighbour (by a side) that is not of its object; others lie deeper by their distance to the
    nearest of those. The image's edge is no rim: the object goes on there.
    """
    is_object = labels_hw != 0
    rim = np.zeros(labels_hw.shape, bool)
    for one, other in (
        ((slice(1, None),), (slice(-1),)),
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
    ):
        differs = labels_hw[one] != labels_hw[other]
        rim[one] |= differs
        rim[other] |= differs
    if not rim.any():  # one object, or none
        return np.where(is_object, np.float32(np.inf), np.float32(0))
    return np.where(is_object, distance_transform_edt(~rim) + 1, 0).astype(np.float32)
