"""Border weights: pixels between two objects count more in the loss.

The weights are those of Ronneberger et al. 2015, arXiv 1505.04597, eq. 2.
"""

from __future__ import annotations

import math
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

_REACH_SIGMAS = 4
"""Largest d1 + d2 that counts (σ). The weight is 1 beyond it, where eq. 2 adds strength / 2981."""
_SEAM_PX = 2
"""Distance at which objects touch (px).

An object pixel nearer than this to another object touches it by a side (1 px) or a corner (√2 px).
"""
_SQUARE_PX = 1024
"""Side of the squares in which distances are measured."""


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
    nearest, second = _measure_two_distances(labels_hw, context_px(sigma_px))
    in_gap_or_seam = (labels_hw == 0) | (second < _SEAM_PX**2)
    counted = in_gap_or_seam & (second <= (_REACH_SIGMAS * sigma_px) ** 2)
    reach = np.sqrt(nearest[counted], dtype=np.float64) + np.sqrt(second[counted], dtype=np.float64)
    added = strength * np.exp(-(reach**2) / (2 * sigma_px**2))
    weights = np.ones(labels_hw.shape, np.float32)
    weights[counted] += np.where(reach <= _REACH_SIGMAS * sigma_px, added, 0)
    return weights


def context_px(sigma_px: float) -> int:
    """Return how far outside a window objects affect the weights within it (px).

    Cut the window with this context from the ids of the whole image. Labelling the piece again
    could split one object, whose ends lie in the piece, into two.
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
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the squared distances to the nearest and the second nearest object (px²).

    They are exact where the two distances sum to the radius (px) or less; elsewhere the second is
    at least as large as it should be. The image is measured in squares, so that the objects of a
    crowded corner do not cost time in the rest of it.
    """
    nearest, second = np.full((2, *labels_hw.shape), np.inf, np.float32)
    height, width = labels_hw.shape
    for top in range(0, height, _SQUARE_PX):
        for left in range(0, width, _SQUARE_PX):
            square = np.s_[top : top + _SQUARE_PX, left : left + _SQUARE_PX]
            first_row = max(0, top - radius)
            first_column = max(0, left - radius)
            around = labels_hw[
                first_row : top + _SQUARE_PX + radius, first_column : left + _SQUARE_PX + radius
            ]
            inner = np.s_[top - first_row :, left - first_column :]
            colours = colour_objects(dense_ids(around), radius)
            for colour in range(1, int(colours.max(initial=0)) + 1):
                squared = edt.edtsq(colours != colour, black_border=False)
                squared = squared[inner][:_SQUARE_PX, :_SQUARE_PX]
                best, next_best = nearest[square], second[square]
                np.minimum(next_best, np.maximum(best, squared), out=next_best)
                np.minimum(best, squared, out=best)
    return nearest, second


def colour_objects(labels_hw: NDArray[Any], radius: int) -> NDArray[np.int32]:
    """Give each object a colour that no object within the radius (px) has.

    One distance transform then measures all objects of a colour: if two distances of a pixel sum
    to the radius or less, the objects are no farther apart than that, and have different colours.

    Args:
        labels_hw: Integer ids of objects, HW, 0 for background, none much above the number of
            pixels.
        radius: Largest distance of objects that need two colours (px).

    Returns:
        HW colours from 1, 0 for background. In the order of their ids, objects take the first free
        colour (Welsh and Powell 1967, without their order by neighbours).
    """
    colours = np.zeros(int(labels_hw.max(initial=0)) + 1, np.int32)
    for number, box in enumerate(find_objects(labels_hw), 1):
        if box is None:  # no object has this number
            continue
        window = tuple(slice(max(0, side.start - radius), side.stop + radius) for side in box)
        taken = np.bincount(colours[labels_hw[window]].ravel(), minlength=2)
        free = np.flatnonzero(taken[1:] == 0)
        colours[number] = free[0] + 1 if len(free) else len(taken)
    return colours[labels_hw]
