"""Border weights: pixels between two objects count more in the loss.

The weights are those of Ronneberger et al. 2015, arXiv 1505.04597, eq. 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

_REACH_SIGMAS = 4
"""Largest d1 + d2 that counts (σ). The weight is 1 beyond it, where eq. 2 adds strength / 2981."""
_SEAM_PX = 2
"""Distance at which objects touch (px).

An object pixel nearer than this to another object touches it by a side (1 px) or a corner (√2 px).
"""


def border_weights(
    labels_hw: NDArray[Any], strength: float = 10.0, sigma_px: float = 5.0
) -> NDArray[np.float32]:
    """Return the weight of each pixel, 1 + strength · exp(−(d1 + d2)² / 2σ²).

    d1 and d2 are the distances (px, between pixel centres) to the nearest and the second nearest
    object; d1 is 0 within an object. As in the usual implementations, the exponential term applies
    to the background, so that objects keep weight 1 and a narrow gap stands out from the objects
    that it divides. Touching objects have no gap: there the term also applies to the seam, which
    is the pixels of each object that touch the other.

    Args:
        labels_hw: Integer ids of objects, HW, 0 for background; an object may have several parts.
        strength: w0 of the paper.
        sigma_px: σ of the paper (px), more than 0.

    Returns:
        HW weights from 1 to 1 + strength.

    Example:
        Ids 1 0 2 with σ 5 and strength 10 give 1, 1 + 10·exp(−2²/50) = 10.2, 1; ids 1 1 2 2 give
        1, 10.8, 10.8, 1.
    """
    assert sigma_px > 0, sigma_px
    nearest, second = _measure_two_distances(dense_ids(labels_hw), context_px(sigma_px))
    reach = nearest + second
    in_gap_or_seam = (labels_hw == 0) | (second < _SEAM_PX)
    counted = in_gap_or_seam & (reach <= _REACH_SIGMAS * sigma_px)
    weights = np.ones(labels_hw.shape, np.float32)
    weights[counted] += strength * np.exp(-(reach[counted] ** 2) / (2 * sigma_px**2))
    return weights


def context_px(sigma_px: float) -> int:
    """Return how far outside a window objects affect the weights within it (px).

    Cut the window with this context from the ids of the whole image. Labelling the piece anew
    could split one object whose ends lie in the piece into two.
    """
    return math.ceil(_REACH_SIGMAS * sigma_px)


def dense_ids(labels_hw: NDArray[Any]) -> NDArray[Any]:
    """Renumber ids that are too large for arrays with an entry for every number up to them."""
    if labels_hw.max(initial=0) <= labels_hw.size:
        return labels_hw
    found, index = np.unique(labels_hw, return_inverse=True)
    return index.reshape(labels_hw.shape) + int(found[0] != 0)


def _measure_two_distances(
    labels_hw: NDArray[Any], radius: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances to the nearest and the second nearest object (px).

    Distances beyond the radius (px) are infinite.
    """
    nearest, second = np.full((2, *labels_hw.shape), np.inf)
    for number, box in enumerate(find_objects(labels_hw), 1):
        if box is None:  # no object has this number
            continue
        window = tuple(slice(max(0, side.start - radius), side.stop + radius) for side in box)
        distance = distance_transform_edt(labels_hw[window] != number)
        best, next_best = nearest[window], second[window]
        np.minimum(next_best, np.maximum(best, distance), out=next_best)
        np.minimum(best, distance, out=best)
    return nearest, second
