"""Markers of objects; a network learns them so that touching objects can be separated."""

from __future__ import annotations

from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.labels.border_weights import dense_ids

DEPTH_PX = 4.0
"""Depth beyond which pixels of an object are its marker (px).

The markers of two touching objects are eight pixels apart.
"""


def find_markers(labels_hw: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the pixels that lie deeper than DEPTH_PX in their object.

    If an object is nowhere deeper than twice DEPTH_PX, its marker is the pixels deeper than half
    of its largest depth. So every object has a marker.

    Args:
        labels_hw: Integer ids of objects, HW, 0 for background; an object may have several parts
            and may touch others.

    Returns:
        HW, True where a pixel belongs to a marker.

    Example:
        Ids 1 1 1 1 1 1 2 2 2 2 2 2 in many equal rows have depths 6 5 4 3 2 1 1 2 3 4 5 6 and
        markers 1 1 1 0 0 0 0 0 0 1 1 1.
    """
    ids = dense_ids(labels_hw)
    depth = find_depths(ids)
    deepest = np.zeros(int(ids.max(initial=0)) + 1, depth.dtype)
    np.maximum.at(deepest, ids.ravel(), depth.ravel())
    return (ids != 0) & (depth > np.minimum(DEPTH_PX, deepest[ids] / 2))


def find_depths(labels_hw: NDArray[Any]) -> NDArray[np.float32]:
    """Return the depth of each pixel in its object (px), 0 outside of objects.

    It is the distance between pixel centres to the nearest pixel that does not belong to the
    object: 1 beside another object or the background. The image's edge does not count, because the
    object continues there; an object that fills the image is infinitely deep.
    """
    depths: NDArray[np.float32] = edt.edt(labels_hw, black_border=False)
    return depths
