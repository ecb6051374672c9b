"""Names, classes and images of an export, shared by all formats."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.image_sources.names import split_page
from unet_ray.output.reader import Tables


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


class ImageNames:
    """Paths of images relative to the deepest folder that holds them all.

    Args:
        keys: Arrow table with the column `image_uri` of all images.
    """

    def __init__(self, keys: Any) -> None:
        ends = pc.min_max(keys["image_uri"]).as_py()
        prefix = os.path.commonprefix(list(ends.values()))  # noqa: RUF071 (URIs, cut at the last /)
        self.root = prefix.rpartition("/")[0]

    def of(self, uri: str) -> str:
        """Return the relative path of an image."""
        return uri.removeprefix(f"{self.root}/")

    def with_suffix(self, uri: str, suffix: str) -> str:
        """Return the relative path of an image's own output file; each page of a stack has one."""
        path, page = split_page(self.of(uri))
        return f"{path}{'' if page is None else f'.page{page}'}{suffix}"


def iterate_images(shard: Tables) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the row of each image and its regions, in the order of region ids."""
    regions = shard.regions.sort_by([("image_uri", "ascending"), ("region_id", "ascending")])
    uris = regions["image_uri"].to_numpy(zero_copy_only=False)
    for row in shard.images.sort_by("image_uri").to_pylist():
        first = np.searchsorted(uris, row["image_uri"], "left")
        last = np.searchsorted(uris, row["image_uri"], "right")
        yield row, regions.slice(first, last - first)


def parse_outlines(regions: Any) -> NDArray[Any]:
    """Return the outlines of regions as an array of shapely geometries."""
    return shapely.from_wkb(regions["geometry"].to_numpy(zero_copy_only=False))


def add_classes(classes: dict[int, str], shard: Tables) -> None:
    """Add the classes of a shard to those of the shards before it.

    Args:
        classes: Class names by id, extended in place.
        shard: Tables of the shard.

    Raises:
        InputError: A class id has several names, or a name several ids.
    """
    for number, name in set(
        zip(*(shard.masks[c].to_pylist() for c in ("class_id", "class_name")), strict=True)
    ):
        if classes.setdefault(number, name) != name or list(classes.values()).count(name) > 1:
            raise InputError(
                f"class {number} is {name} in some rows and not in others: they are of several "
                "models; give --date of a run with one model, or let the newer model do all images "
                "first"
            )
