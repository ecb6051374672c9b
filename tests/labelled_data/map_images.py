"""Georeferenced images that several test files write."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile

from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.codecs.geo_tags import read_geo_tags
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey
from unet_ray.imaging.georeference import Georeference
from unet_ray.labelled_data.maps.image_places import LocatedImage
from unet_ray.storage.listing import list_files

EPSG, CORNER, PIXEL_M = 32633, (500_000.0, 5_400_000.0), 0.5
WIDTH, HEIGHT = 60, 40


def write_map(path: Path, column: float = 0, row: float = 0, epsg: int = EPSG) -> None:
    """Write a GeoTIFF whose first pixel lies so many pixels right of and below the corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left, top = CORNER[0] + column * PIXEL_M, CORNER[1] - row * PIXEL_M
    tifffile.imwrite(
        path,
        np.zeros((HEIGHT, WIDTH), np.uint8),
        extratags=[
            (33550, "d", 3, (PIXEL_M, PIXEL_M, 0.0), False),
            (33922, "d", 6, (0.0, 0.0, 0.0, left, top, 0.0), False),
            (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, epsg), False),
        ],
    )


def write_maps(folder: Path) -> Path:
    """Write two neighbouring images on a map, and one far away; return the folder."""
    write_map(folder / "left.tif")
    write_map(folder / "right.tif", column=WIDTH)
    write_map(folder / "far.tif", column=100 * WIDTH)
    return folder


def images_of(folder: Path) -> list[LocatedImage]:
    """Return what `locate_images` returns, without processes."""
    found = []
    for entry in list_files(str(folder), IMAGE_SUFFIXES, "--images").entries:
        is_stack = entry.path == "stack.tif"
        keys = [ImageKey(page=page) for page in (1, 2, 3)] if is_stack else [WHOLE]
        tags = None
        if entry.path.endswith("tif"):
            with suppress(tifffile.TiffFileError, IndexError), open(entry.uri, "rb") as file:
                tags = read_geo_tags(file)
        size = (tags.width, tags.height) if tags else (0, 0)
        place = Georeference.from_tags(tags)
        found += [LocatedImage(entry, key, place, *size) for key in keys]
    return found
