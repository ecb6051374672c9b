"""Border weights (Ronneberger et al. 2015, arXiv 1505.04597, eq. 2): what lies between two objects counts more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

_REACH_SIGMAS = 4
"""Where d1 + d2 is more than this many σ the weight is 1; eq. 2 has strength / 2981 more there."""
_SEAM_PX = 2
"""An object pixel nearer than this to another object touches it, by a side (1 px) or a corner (√2 px)."""


def border_weights(
    labels_hw: NDArray[Any], strength: float = 10.0, sigma_px: float = 5.0
) -> NDArray[np.float32]:
    """Return the weight of each pixel, 1 + strength · exp(−(d1 + d2)² / 2σ²).

    d1 and d2 are the distances (px, between pixel centres) to the nearest object and to the nearest other one; d1 is
    0 within an object. As in the usual implementations the term counts on background, so that objects stay at 1 and a
    narrow gap stands out from what it divides. Where objects touch there is no gap: there the seam is, the pixels of
    each that touch the other, and the term counts on them too.

    Args:
        labels_hw — integer ids of objects, 0 the background; an object may have several parts.
        strength — w0 of the paper.
        sigma_px — σ of the paper (px), more than 0.

    Returns: HW weights from 1 to 1 + strength.

    Example: ids 1 0 2, σ 5, strength 10 → 1, 1 + 10·exp(−2²/50) = 10.2, 1; ids 1 1 2 2 → 1, 10.8, 10.8, 1.
    """
    assert sigma_px > 0, sigma_px
    nearest, second = _two_distances(dense_ids(labels_hw), context_px(sigma_px))
    reach = nearest + second
    counted = (reach <= _REACH_SIGMAS * sigma_px) & ((labels_hw == 0) | (second < _SEAM_PX))
    weights = np.ones(labels_hw.shape, np.float32)
    weights[counted] += strength * np.exp(-(reach[counted] ** 2) / (2 * sigma_px**2))
    return weights


def context_px(sigma_px: float) -> int:
    """Return how far beyond a window objects matter for the weights within it (px).

    Cut the ids of the whole image with this much around the window: labelling such a piece anew could make two objects
    of the ends of one.
    """
    return math.ceil(_REACH_SIGMAS * sigma_px)


def dense_ids(labels_hw: NDArray[Any]) -> NDArray[Any]:
    """Renumber ids that are too large to list every number up to them."""
    if labels_hw.max(initial=0) <= labels_hw.size:
        return labels_hw
    found, index = np.unique(labels_hw, return_inverse=True)
    return index.reshape(labels_hw.shape) + int(found[0] != 0)


def _two_distances(
    labels_hw: NDArray[Any], radius: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances to the nearest and the second nearest object, infinite beyond the radius (px)."""
    nearest, second = np.full((2, *labels_hw.shape), np.inf)
    for number, box in enumerate(find_objects(labels_hw), 1):
        if box is None:  # a number that no object has
            continue
        around = tuple(slice(max(0, side.start - radius), side.stop + radius) for side in box)
        distance = distance_transform_edt(labels_hw[around] != number)
        best, next_best = nearest[around], second[around]
        np.minimum(next_best, np.maximum(best, distance), out=next_best)
        np.minimum(best, distance, out=best)
    return nearest, second
