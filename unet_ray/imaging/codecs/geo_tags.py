"""Position of an image on Earth, as the GeoTIFF tags of a file state it (OGC 19-008r4)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from unet_ray.imaging.codecs.range_file import PlaneFile, RangeFile
from unet_ray.imaging.codecs.tifffile_log import QuietTifffile

_SCALE, _TIEPOINT, _TRANSFORMATION = 33550, 33922, 34264
_KEYS = 34735
_PROJECTED, _GEOGRAPHIC, _RASTER_TYPE = 3072, 2048, 1025
_PIXEL_IS_POINT = 2
_MODEL_TYPE, _METHOD, _LINEAR_UNITS = 1024, 3075, 3076
_MODEL_PROJECTED = 1
_STRETCHED_METHODS = (7, 17, 28)
"""Methods of projection whose lengths on the map are not those on the ground: Mercator,
equirectangular, and equal-area cylinders."""
_UNITS_M = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937, 9036: 1000.0}
"""EPSG code of a linear unit → length (m): metre, foot, US survey foot, kilometre."""
_CODES = (_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS)
_USER_DEFINED = 32767
MAX_KEY = 2**16 - 1
"""Largest number in a GeoKeyDirectory."""
_MAX_VALUES = 2**16
"""Largest number of values of a tag that are read."""
_MAX_COORDINATE = 1e12
"""Largest coefficient; the Earth is 4e7 m round, and products with pixels must stay finite."""
Affine = tuple[float, float, float, float, float, float]
"""Coefficients (a, b, c, d, e, f) of x' = a·x + b·y + c, y' = d·x + e·y + f."""
_NONE: NDArray[np.float64] = np.zeros(0)


@dataclass(frozen=True)
class GeoTags:
    """A code of a coordinate system and the transformation to it."""

    epsg: int
    """EPSG code as the file states it; some programs write codes that EPSG does not have."""
    affine: Affine
    """Coefficients; x and y in pixels, 0 at the first pixel's outer edge."""
    width: int
    """Width of the image (px)."""
    height: int
    """Height of the image (px)."""

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> GeoTags:
        """Make tags from the JSON of another process.

        Raises:
            ValueError: It does not hold six finite numbers, a code and a size.
        """
        epsg = int(found["epsg"])
        affine = tuple(map(float, found["affine"]))
        width = int(found["width"])
        height = int(found["height"])
        if len(affine) != 6 or not all(map(isfinite, affine)) or width < 1 or height < 1:
            raise ValueError(found)
        return GeoTags(epsg, affine, width, height)


@QuietTifffile()
def read_geo_tags(file: BinaryIO | RangeFile) -> GeoTags | None:
    """Read the position of an image from the tags of a TIFF file.

    Args:
        file: File that is open for reading and seeking; in a `PlaneFile`, the tags of its image.

    Returns:
        Code and transformation; None if the file has none, its tags are malformed, or they hold no
        code.
    """
    source, index = file, 0
    if isinstance(file, PlaneFile):
        source = file.page(file.place.pages[0])
        index = source.index
    with tifffile.TiffFile(source) as tiff:
        image = tiff.pages[index]
        width = int(image.imagewidth)
        height = int(image.imagelength)
        found = _read_tags(image)
    keys = _read_keys(found.get(_KEYS, _NONE))
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC, 0))
    affine = _read_affine(found)
    if affine is None or epsg in (0, _USER_DEFINED) or min(width, height) < 1:
        return None
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # the tie point is the centre of its pixel
        a, b, c, d, e, f = affine
        affine = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return GeoTags(epsg, affine, width, height)


@dataclass(frozen=True)
class MapTags:
    """Transformation to a map, and what the file itself says about the map's unit."""

    affine: Affine
    """Coefficients, as those of `GeoTags`; a pixel's centre may be its tie point."""
    unit_m: float | None
    """Length of the unit (m). None: the file does not say, or the map has none."""
    projected_epsg: int
    """EPSG code of the projected coordinate system. 0: there is none, or it has no code."""


def read_map_tags(page: tifffile.TiffPage) -> MapTags | None:
    """Read the transformation of a page to a map; None if it has none."""
    found = _read_tags(page)
    keys = _read_keys(found.get(_KEYS, _NONE))
    affine = _read_affine(found)
    if affine is None:
        return None
    is_projected = keys.get(_MODEL_TYPE, _MODEL_PROJECTED) == _MODEL_PROJECTED
    if not is_projected or keys.get(_METHOD) in _STRETCHED_METHODS:
        return MapTags(affine, None, 0)
    epsg = keys.get(_PROJECTED, 0)
    unit_m = _UNITS_M.get(keys.get(_LINEAR_UNITS, 0))
    return MapTags(affine, unit_m, 0 if epsg == _USER_DEFINED else epsg)


def _read_tags(page: tifffile.TiffPage) -> dict[int, NDArray[np.float64]]:
    """Return the values of the tags; empty if a tag has too many, or if they are not numbers."""
    found: dict[int, NDArray[np.float64]] = {}
    for code in _CODES:
        tag = page.tags.get(code)
        if tag is None:
            continue
        found[code] = _NONE
        if tag.count <= _MAX_VALUES:
            with suppress(TypeError, ValueError, OverflowError):
                found[code] = np.atleast_1d(np.asarray(tag.value, np.float64)).ravel()
    return found


def _read_keys(directory: NDArray[np.float64]) -> dict[int, int]:
    """Return the GeoKeys whose values stand in the directory itself: rows of four after a header.

    A directory that is not such a table has none.
    """
    if len(directory) % 4 or not ((directory >= 0) & (directory <= MAX_KEY)).all():
        return {}
    rows = directory.reshape(-1, 4)[1:].astype(np.int64).tolist()
    return {key: value for key, place, _, value in rows if place == 0}


def _read_affine(found: dict[int, NDArray[np.float64]]) -> Affine | None:
    """Return the transformation of the tags; None if there is none that can be inverted."""
    scale = found.get(_SCALE, _NONE)
    tie = found.get(_TIEPOINT, _NONE)
    matrix = found.get(_TRANSFORMATION, _NONE)
    if len(matrix) == 16:
        a, b, _, c, d, e, _, f = matrix[:8].tolist()
    elif len(scale) >= 2 and len(tie) == 6:
        x_scale, y_scale = scale[:2].tolist()
        column, row, _, x, y = tie[:5].tolist()
        a = x_scale
        b = 0.0
        c = x - column * x_scale
        d = 0.0
        e = -y_scale
        f = y + row * y_scale
    else:
        return None
    if not all(abs(value) <= _MAX_COORDINATE for value in (a, b, c, d, e, f)):  # or NaN
        return None
    return (a, b, c, d, e, f) if a * e != b * d else None
