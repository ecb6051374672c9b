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
_USER_DEFINED = 32767


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
        The georeference; None if the file has none, or does not name its system by an EPSG code.
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
    if affine is None or epsg in (0, _USER_DEFINED) or not _is_known(epsg):
        return None
    if values.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # the tie point is the centre of its pixel
        a, b, c, d, e, f = affine
        affine = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return Georeference(epsg, affine)


@cache
def _is_known(epsg: int) -> bool:
    """Tell whether a code is an EPSG code: some programs write others, such as those of ESRI."""
    try:
        CRS.from_epsg(epsg)
    except CRSError:
        return False
    return True


def _read_affine(found: dict[int, Any]) -> tuple[float, float, float, float, float, float] | None:
    if _TRANSFORMATION in found:
        a, b, _, c, d, e, _, f = found[_TRANSFORMATION][:8]
        return a, b, c, d, e, f
    if _SCALE in found and len(found.get(_TIEPOINT, ())) == 6:
        (x_scale, y_scale), (column, row, _, x, y) = found[_SCALE][:2], found[_TIEPOINT][:5]
        return x_scale, 0.0, x - column * x_scale, 0.0, -y_scale, y + row * y_scale
    return None
