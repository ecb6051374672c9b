"""Classes, images and outlines of an export, shared by all formats."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.imaging.regions.outline_wkb import parse_outlines
from unet_ray.output.reader import Tables
from unet_ray.storage.storage import Storage

_NAME_ERRORS = (
    errno.EISDIR,  # an image is called like the folder of others
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EINVAL,  # a character that the file system does not know
    errno.EILSEQ,
)


@dataclass
class ExportResult:
    """Counts of what was written."""

    images: int = 0
    """Number of images."""
    regions: int = 0
    """Number of regions."""
    files: int = 0
    """Number of files."""
    root: str = ""
    """Folder that the names in a COCO file are relative to (URI)."""
    notes: Counter[str] = field(default_factory=Counter)
    """Number of times that something was left out or changed, by the reason."""

    def count(self, images: int = 0, regions: int = 0, files: int = 0) -> None:
        """Add to the counts."""
        self.images += images
        self.regions += regions
        self.files += files


def iterate_images(shard: Tables) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the row of each image and its regions, in the order of region ids."""
    regions = shard.regions.sort_by([("image_uri", "ascending"), ("region_id", "ascending")])
    uris = regions["image_uri"].to_numpy(zero_copy_only=False)
    for row in shard.images.sort_by("image_uri").to_pylist():
        first = np.searchsorted(uris, row["image_uri"], "left")
        last = np.searchsorted(uris, row["image_uri"], "right")
        yield row, regions.slice(first, last - first)


def take_outlines(
    row: Mapping[str, Any], regions: pa.Table, notes: Counter[str]
) -> tuple[pa.Table, NDArray[Any]]:
    """Return the regions of an image that have outlines, and these outlines.

    Args:
        row: Row of the image.
        regions: Its regions.
        notes: Receives the number of regions that are left out or missing.

    Returns:
        Regions rows, and the outline of each as a shapely geometry.
    """
    if row["region_count"] != len(regions):
        notes["images with other regions than they should have, see unet-ray verify"] += 1
    outlines = parse_outlines(regions["geometry"].to_pylist(), row["height"], row["width"])
    sound = np.flatnonzero(~shapely.is_missing(outlines))
    if len(sound) < len(outlines):
        notes["regions left out: damaged outlines"] += len(outlines) - len(sound)
        regions = regions.take(sound)
    return regions, outlines[sound]


def write_file(output: Storage, path: str, data: bytes, notes: Counter[str]) -> bool:
    """Write the file of an image, unless the store does not take its name.

    Args:
        output: Folder to write to.
        path: Path of the file.
        data: Its content.
        notes: Receives the number of images that are left out.

    Returns:
        Whether it is written.

    Raises:
        OSError: Any other reason for which it cannot be written.
    """
    try:
        output.write(path, data)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        notes["images left out: a file of such a name cannot be written here"] += 1
        return False
    return True


def add_classes(classes: dict[int, str], shard: Tables) -> None:
    """Add the classes of a shard to those of the shards before it.

    Args:
        classes: Class names by id, extended in place.
        shard: Tables of the shard.

    Raises:
        InputError: A class id has several names, or a name several ids.
    """
    numbers = {name: number for number, name in classes.items()}
    for number, name in set(
        zip(*(shard.masks[c].to_pylist() for c in ("class_id", "class_name")), strict=True)
    ):
        is_new = name not in numbers and number not in classes
        if not is_new and (numbers.get(name), classes.get(number)) != (number, name):
            raise InputError(
                f"class {number} is {name} in some rows and not in others: they are of several "
                "models; give --date of a run with one model, or let the newer model do all images "
                "first"
            )
        classes[number], numbers[name] = name, number
