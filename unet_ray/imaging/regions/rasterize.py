"""Outlines become pixels again: the exact label image of any window."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.runs import ranges


def fill_outlines(outlines: NDArray[Any], values: NDArray[Any], window: Box) -> NDArray[np.int64]:
    """Sum, for each pixel of a window, the values of the outlines that contain it.

    Outlines of regions do not overlap, so the values 1, 2, 3 … give their label image, and ones
    give a mask. Along a row, each vertical side adds its outline's value where the inside begins
    and subtracts it where the inside ends (a summed difference image). All sides are handled at
    once, without a loop over outlines.

    Args:
        outlines: Polygons or multipolygons whose sides lie between pixels, y down; shapely
            geometries.
        values: Value of each outline; (outlines,), integer.
        window: Part of the image that is returned (px).

    Returns:
        Sums of values in the window, HW int64.
    """
    parts, outline = shapely.get_parts(outlines, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    start = points[:-1].astype(np.int64)
    end = points[1:].astype(np.int64)
    is_side = ring[1:] == ring[:-1]
    is_vertical = start[:, 1] != end[:, 1]
    chosen = np.flatnonzero(is_side & is_vertical)
    ring = ring[chosen]
    start = start[chosen]
    end = end[chosen]
    # The first ring of a polygon is its outer one.
    is_hole = np.concatenate([[False], part[1:] == part[:-1]])
    # On a ring that is counter-clockwise by its numbers, however y is drawn, a side along which y
    # grows has the inside at lower x.
    opens = (end[:, 1] > start[:, 1]) ^ shapely.is_ccw(rings)[ring] ^ is_hole[ring]
    value = np.asarray(values, np.int64)[outline[part[ring]]]
    amount = np.where(opens, value, -value)
    low = np.minimum(start[:, 1], end[:, 1])
    high = np.maximum(start[:, 1], end[:, 1])
    top = np.clip(low, window.top, window.bottom) - window.top
    bottom = np.clip(high, window.top, window.bottom) - window.top
    column = np.clip(start[:, 0], window.left, window.right) - window.left
    num_rows = bottom - top
    rows = ranges(top, num_rows)
    changes = np.zeros((window.height, window.width + 1), np.int64)
    np.add.at(changes, (rows, np.repeat(column, num_rows)), np.repeat(amount, num_rows))
    return np.cumsum(changes[:, :-1], axis=1)
