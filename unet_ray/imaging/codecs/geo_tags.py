"""Position of an image on Earth, as the GeoTIFF tags of a file say it (OGC 19-008r4)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, BinaryIO

import numpy as np
import tifffile

from unet_ray.imaging.codecs.range_file import RangeFile
from unet_ray.imaging.codecs.tifffile_log import QuietTifffile

_SCALE, _TIEPOINT, _TRANSFORMATION = 33550, 33922, 34264
_KEYS = 34735
_PROJECTED, _GEOGRAPHIC, _RASTER_TYPE = 3072, 2048, 1025
_PIXEL_IS_POINT = 2
_USER_DEFINED = 32767


@dataclass(frozen=True)
class GeoTags:
    """A code of a coordinate system and the transformation to it."""

    epsg: int
    """EPSG code as the file has it; some programs write codes of others."""
    affine: tuple[float, float, float, float, float, float]
    """Coefficients (a, b, c, d, e, f) of x' = a·x + b·y + c, y' = d·x + e·y + f; x and y in
    pixels, 0 at the first pixel's outer edge."""

    @staticmethod
    def from_json(found: Any) -> GeoTags:
        """Make tags from the JSON of another process.

        Raises:
            ValueError: It does not hold six finite numbers and a code.
        """
        epsg, affine = int(found["epsg"]), tuple(map(float, found["affine"]))
        if len(affine) != 6 or not all(map(isfinite, affine)):
            raise ValueError(found)
        return GeoTags(epsg, affine)


@QuietTifffile()
def read_geo_tags(file: BinaryIO | RangeFile, page: int | None = None) -> GeoTags | None:
    """Read the position of an image from the tags of a TIFF file.

    Args:
        file: File that is open for reading and seeking.
        page: Page of a stack, from 1; None: the first page.

    Returns:
        Code and transformation; None if the file has none, or no code.
    """
    try:
        with tifffile.TiffFile(file) as tiff:
            tags = tiff.pages[(page or 1) - 1].tags
            found = {
                code: tags[code].value
                for code in (_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS)
                if code in tags
            }
    except (tifffile.TiffFileError, IndexError, ValueError, OSError):
        return None
    keys = (
        np.reshape(found.get(_KEYS, ())[4:], (-1, 4))
        if len(found.get(_KEYS, ())) % 4 == 0
        else np.zeros((0, 4))
    )
    values = {int(key): int(value) for key, place, _, value in keys if place == 0}
    epsg = values.get(_PROJECTED, values.get(_GEOGRAPHIC, 0))
    affine = _read_affine(found)
    if affine is None or epsg in (0, _USER_DEFINED):
        return None
    if values.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # the tie point is the centre of its pixel
        a, b, c, d, e, f = affine
        affine = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return GeoTags(epsg, affine)


def _read_affine(found: dict[int, Any]) -> tuple[float, float, float, float, float, float] | None:
    if _TRANSFORMATION in found:
        a, b, _, c, d, e, _, f = found[_TRANSFORMATION][:8]
        return a, b, c, d, e, f
    if _SCALE in found and len(found.get(_TIEPOINT, ())) == 6:
        (x_scale, y_scale), (column, row, _, x, y) = found[_SCALE][:2], found[_TIEPOINT][:5]
        return x_scale, 0.0, x - column * x_scale, 0.0, -y_scale, y + row * y_scale
    return None
