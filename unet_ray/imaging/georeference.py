"""Position of an image on Earth: the GeoTIFF tags of a file (OGC 19-008r4) give map coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from unet_ray.imaging.codecs.tifffile_log import QuietTifffile

_SCALE, _TIEPOINT, _TRANSFORMATION = 33550, 33922, 34264
_KEYS = 34735
_PROJECTED, _GEOGRAPHIC, _RASTER_TYPE = 3072, 2048, 1025
_PIXEL_IS_POINT = 2
_CODES = (_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS)
_USER_DEFINED = 32767
_MAX_KEY = 2**16 - 1
"""Largest number in a GeoKeyDirectory."""
_MAX_VALUES = 2**16
"""Most values of a tag that are read."""
_MAX_COORDINATE = 1e12
"""Largest coefficient; the Earth is 4e7 m round, and products with pixels must stay finite."""
_NONE: NDArray[np.float64] = np.zeros(0)


@dataclass(frozen=True)
class Georeference:
    """A coordinate system and the transformation to it: x' = a·x + b·y + c, y' = d·x + e·y + f."""

    epsg: int
    """EPSG code of the coordinate system."""
    affine: tuple[float, float, float, float, float, float]
    """Coefficients (a, b, c, d, e, f); x and y in pixels, 0 at the first pixel's outer edge."""

    def to_map(self, outlines: NDArray[Any]) -> NDArray[Any]:
        """Return outlines in map coordinates; shapely geometries."""
        a, b, c, d, e, f = self.affine
        matrix, offset = np.array([[a, b], [d, e]]), np.array([c, f])
        return shapely.transform(outlines, lambda points: points @ matrix.T + offset)


@QuietTifffile()
def find_georeference(file: BinaryIO, page: int | None = None) -> Georeference | None:
    """Read the georeference of a TIFF file.

    Args:
        file: File that is open for reading and seeking.
        page: Page of a stack, from 1; None: the first page.

    Returns:
        The georeference; None if the file has none, its tags are malformed, or it does not name its
        system by an EPSG code.
    """
    try:
        with tifffile.TiffFile(file) as tiff:
            tags = tiff.pages[(page or 1) - 1].tags
            found = {code: _read_numbers(tags[code]) for code in _CODES if code in tags}
    except Exception:  # tifffile raises whatever its parsing stumbles over
        return None
    keys = _read_keys(found.get(_KEYS, _NONE))
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC, 0))
    affine = _read_affine(found)
    if affine is None or epsg in (0, _USER_DEFINED) or not _is_known(epsg):
        return None
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # the tie point is the centre of its pixel
        a, b, c, d, e, f = affine
        affine = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return Georeference(epsg, affine)


def _read_numbers(tag: Any) -> NDArray[np.float64]:
    """Return the values of a tag; none where it has too many, or others than numbers."""
    if tag.count > _MAX_VALUES:
        return _NONE
    try:
        return np.atleast_1d(np.asarray(tag.value, np.float64)).ravel()
    except (TypeError, ValueError, OverflowError):
        return _NONE


def _read_keys(directory: NDArray[np.float64]) -> dict[int, int]:
    """Return the GeoKeys whose values stand in the directory itself: rows of four after a header.

    Of a directory that is no such table, there are none.
    """
    if len(directory) % 4 or not ((directory >= 0) & (directory <= _MAX_KEY)).all():
        return {}
    rows = directory.reshape(-1, 4)[1:].astype(np.int64).tolist()
    return {key: value for key, place, _, value in rows if place == 0}


@cache
def _is_known(epsg: int) -> bool:
    """Tell whether a code is an EPSG code: some programs write others, such as those of ESRI."""
    try:
        CRS.from_epsg(epsg)
    except CRSError:
        return False
    return True


def _read_affine(
    found: dict[int, NDArray[np.float64]],
) -> tuple[float, float, float, float, float, float] | None:
    """Return the transformation of the tags; None where there is none that can be inverted."""
    scale, tie, matrix = (found.get(code, _NONE) for code in (_SCALE, _TIEPOINT, _TRANSFORMATION))
    if len(matrix) == 16:
        a, b, _, c, d, e, _, f = matrix[:8].tolist()
    elif len(scale) >= 2 and len(tie) == 6:
        (x_scale, y_scale), (column, row, _, x, y) = scale[:2].tolist(), tie[:5].tolist()
        a, b, c = x_scale, 0.0, x - column * x_scale
        d, e, f = 0.0, -y_scale, y + row * y_scale
    else:
        return None
    if not all(abs(value) <= _MAX_COORDINATE for value in (a, b, c, d, e, f)):  # no NaN is, either
        return None
    return (a, b, c, d, e, f) if a * e != b * d else None
