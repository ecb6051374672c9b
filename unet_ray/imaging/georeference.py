"""Position of an image on Earth: map coordinates of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from unet_ray.imaging.codecs.geo_tags import GeoTags


@dataclass(frozen=True)
class Georeference:
    """A coordinate system and the transformation to it: x' = a·x + b·y + c, y' = d·x + e·y + f."""

    epsg: int
    """EPSG code of the coordinate system."""
    affine: tuple[float, float, float, float, float, float]
    """Coefficients (a, b, c, d, e, f); x and y in pixels, 0 at the first pixel's outer edge."""

    @staticmethod
    def from_tags(tags: GeoTags | None) -> Georeference | None:
        """Return the georeference of a file's tags; None if they name no system by an EPSG code."""
        if tags is None or not _is_known(tags.epsg):
            return None
        return Georeference(tags.epsg, tags.affine)

    def to_map(self, outlines: NDArray[Any]) -> NDArray[Any]:
        """Return outlines in map coordinates; shapely geometries."""
        a, b, c, d, e, f = self.affine
        matrix = np.array([[a, b], [d, e]])
        offset = np.array([c, f])
        return shapely.transform(outlines, lambda points: points @ matrix.T + offset)


@cache
def _is_known(epsg: int) -> bool:
    """Tell whether a code is an EPSG code: some programs write others, such as those of ESRI."""
    try:
        CRS.from_epsg(epsg)
    except CRSError:
        return False
    return True
