"""Boundaries of masks compared within a tolerance, as counts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def count_boundaries(
    true_hw: NDArray[np.bool_],
    found_hw: NDArray[np.bool_],
    counted_hw: NDArray[np.bool_],
    tolerance_px: int,
) -> dict[str, float]:
    """Count boundary pixels, and those near a boundary pixel of the other mask.

    The counts give the boundary F1 (Csurka et al. 2013).

    Args:
        true_hw: True mask of one class.
        found_hw: Predicted mask of the class.
        counted_hw: Pixels that count.
        tolerance_px: Largest distance between the centres of pixels that match (px, Euclidean).

    Returns:
        `true_boundary` and `found_boundary`, and how many of them are matched:
        `true_boundary_matched` and `found_boundary_matched`.
    """
    true = find_boundary(true_hw, counted_hw)
    found = find_boundary(found_hw, counted_hw)
    return {
        "true_boundary": int(np.count_nonzero(true)),
        "true_boundary_matched": int(np.count_nonzero(true & grow(found, tolerance_px))),
        "found_boundary": int(np.count_nonzero(found)),
        "found_boundary_matched": int(np.count_nonzero(found & grow(true, tolerance_px))),
    }


def find_boundary(mask_hw: NDArray[np.bool_], counted_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that have a 4-neighbour outside it, where both of them count.

    So neither the image's edge nor the edge of an ignored area makes a boundary: what lies beyond
    is not known.
    """
    outside = counted_hw & ~mask_hw
    near = np.zeros_like(mask_hw)
    near[1:] |= outside[:-1]
    near[:-1] |= outside[1:]
    near[:, 1:] |= outside[:, :-1]
    near[:, :-1] |= outside[:, 1:]
    return near & mask_hw & counted_hw


def grow(mask_hw: NDArray[np.bool_], radius_px: int) -> NDArray[np.bool_]:
    """Return the pixels within a Euclidean distance of a mask's pixels.

    The disk is assembled from its rows, shortest first: 4·radius operations on the whole image. On
    2 megapixels and at 2 px this is about forty times as fast as a distance transform.

    Example:
        radius 2: rows ±2 reach 0 px to either side, rows ±1 reach 1 px, row 0 reaches 2 px.
    """
    height, width = mask_hw.shape
    grown = np.zeros_like(mask_hw)
    row = mask_hw.copy()
    reach = 0
    for dy in range(min(radius_px, height - 1), -1, -1):
        half_width = min(math.isqrt(radius_px**2 - dy**2), width - 1)
        while reach < half_width:
            reach += 1
            row[:, reach:] |= mask_hw[:, :-reach]
            row[:, :-reach] |= mask_hw[:, reach:]
        grown[dy:] |= row[: height - dy]
        grown[: height - dy] |= row[dy:]
    return grown
