"""Outlines that are read from WKB of any origin.

GEOS follows nested collections without a limit, and a file of 900 kB overflows its stack. So only
polygons, and multipolygons that hold nothing else, reach it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

_POLYGON = struct.pack("<BI", 1, 3)
"""First bytes of a polygon: little-endian, then the type."""
_MULTIPOLYGON = struct.pack("<BI", 1, 6)
"""First bytes of a multipolygon."""
_COUNT = struct.Struct("<I")
_POINT_BYTES = 16


def parse_wkb(codes: Sequence[bytes | None]) -> NDArray[Any]:
    """Parse polygons and multipolygons.

    Args:
        codes: WKB of each, little-endian.

    Returns:
        Shapely geometries; None for anything else.
    """
    known = np.empty(len(codes), object)
    known[:] = [code if code is not None and _is_flat(code) else None for code in codes]
    parsed: NDArray[Any] = shapely.from_wkb(known, on_invalid="ignore")
    return parsed


def parse_outlines(
    codes: Sequence[bytes | None],
    height: int | NDArray[np.int64],
    width: int | NDArray[np.int64],
) -> NDArray[Any]:
    """Parse the outlines of regions of an image, or of many images.

    Args:
        codes: WKB of each, as in the tables.
        height: Height of the image, or of the image of each region (px).
        width: Width of the image, or of the image of each region (px).

    Returns:
        Polygons or multipolygons; None for an outline that has no area, leaves the image or has
        corners within pixels.
    """
    limits = np.empty((len(codes), 2))
    limits[:, 0] = width
    limits[:, 1] = height
    with np.errstate(invalid="ignore"):  # NaN
        outlines = parse_wkb(codes)
        points, owner = shapely.get_coordinates(outlines, return_index=True)
        is_corner = (points == np.floor(points)) & (points >= 0) & (points <= limits[owner])
        is_sound = shapely.area(outlines) > 0  # the area of None is NaN
    is_sound[owner[~is_corner.all(axis=1)]] = False
    outlines[~is_sound] = None
    return outlines


def _is_flat(code: bytes) -> bool:
    """Tell whether WKB is a polygon, or a multipolygon whose parts are polygons."""
    if code.startswith(_POLYGON):
        return True
    if not code.startswith(_MULTIPOLYGON) or len(code) < len(_MULTIPOLYGON) + _COUNT.size:
        return False
    num_parts, place = _read_count(code, len(_MULTIPOLYGON))
    try:
        for _ in range(num_parts):
            if not code.startswith(_POLYGON, place):
                return False
            num_rings, place = _read_count(code, place + len(_POLYGON))
            for _ in range(num_rings):
                num_points, place = _read_count(code, place)
                place += _POINT_BYTES * num_points
    except struct.error:  # it ends too early
        return False
    return place == len(code)


def _read_count(code: bytes, place: int) -> tuple[int, int]:
    """Return the count at a place, and the place after it."""
    return _COUNT.unpack_from(code, place)[0], place + _COUNT.size
