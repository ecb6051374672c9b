"""Names, classes and images of an export, whatever its format."""

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
    """What was written."""

    images: int = 0
    regions: int = 0
    files: int = 0
    root: str = ""
    """Folder that the names in a COCO file are relative to (URI)."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was left out or changed, counted."""

    def count(self, images: int = 0, regions: int = 0, files: int = 0) -> None:
        """Add to what was written."""
        self.images, self.regions, self.files = (
            self.images + images,
            self.regions + regions,
            self.files + files,
        )


class ImageNames:
    """Paths of images relative to the deepest folder that holds them all."""

    def __init__(self, keys: Any) -> None:
        ends = pc.min_max(keys["image_uri"]).as_py()
        self.root = os.path.commonprefix(list(ends.values())).rpartition("/")[0]  # noqa: RUF071 (of URIs, to the last /)

    def of(self, uri: str) -> str:
        """Return the path of an image."""
        return uri.removeprefix(f"{self.root}/")

    def with_suffix(self, uri: str, suffix: str) -> str:
        """Return the path of an image's own file; pages of stacks have one each."""
        path, page = split_page(self.of(uri))
        return f"{path}{'' if page is None else f'.page{page}'}{suffix}"


def iterate_images(shard: Tables) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each image's row and its regions."""
    regions = shard.regions.sort_by([("image_uri", "ascending"), ("region_id", "ascending")])
    uris = regions["image_uri"].to_numpy(zero_copy_only=False)
    for row in shard.images.sort_by("image_uri").to_pylist():
        first, last = (
            np.searchsorted(uris, row["image_uri"], "left"),
            np.searchsorted(uris, row["image_uri"], "right"),
        )
        yield row, regions.slice(first, last - first)


def parse_outlines(regions: Any) -> NDArray[Any]:
    return shapely.from_wkb(regions["geometry"].to_numpy(zero_copy_only=False))


def add_classes(classes: dict[int, str], shard: Tables) -> None:
    """Add a shard's classes, id → name; raise InputError where they are not those of the shards before."""
    for number, name in set(
        zip(*(shard.masks[c].to_pylist() for c in ("class_id", "class_name")), strict=True)
    ):
        if classes.setdefault(number, name) != name or list(classes.values()).count(name) > 1:
            raise InputError(
                f"class {number} is {name} in some rows and not in others: they are of several models; "
                "give --date of a night with one, or let the newer model do all images first"
            )
