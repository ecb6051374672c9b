"""Classes, images and outlines of an export, shared by all formats."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.imaging.regions.outline_wkb import parse_outlines
from unet_ray.output.reader import Tables
from unet_ray.prefetch import ahead
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import Storage

_NAME_ERRORS = (
    errno.EISDIR,  # an image has the name of a folder of others
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EINVAL,  # a character that the file system does not know
    errno.EILSEQ,
)
_UNWRITTEN_BYTES = 2**26
"""Size of the files written at the same time; a larger file is written alone (bytes)."""


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
    """Number of things left out or changed, by reason."""

    def count(self, images: int = 0, regions: int = 0, files: int = 0) -> None:
        """Add to the counts."""
        self.images += images
        self.regions += regions
        self.files += files


@dataclass(frozen=True)
class ImageFile:
    """The exported file of one image, not yet written."""

    path: str
    """Path below the output."""
    data: bytes
    """Its content."""
    regions: int = 0
    """Number of regions in it."""
    note: str = ""
    """Note that counts the images of its kind; empty: no note."""


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
    check_region_count(row, len(regions), notes)
    sides = row["height"], row["width"]
    sound, outlines = find_outlines(regions["geometry"].to_pylist(), *sides, notes)
    if len(sound) < len(regions):
        regions = regions.take(sound)
    return regions, outlines


def check_region_count(row: Mapping[str, Any], num_regions: int, notes: Counter[str]) -> None:
    """Note an image whose number of regions differs from that in its row."""
    if row["region_count"] != num_regions:
        notes["images whose number of regions is wrong, see unet-ray verify"] += 1


def find_outlines(
    codes: Sequence[bytes | None],
    height: int | NDArray[np.int64],
    width: int | NDArray[np.int64],
    notes: Counter[str],
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Find the regions that have outlines.

    Args:
        codes: WKB of each region.
        height: Height of the image, or one height per region (px).
        width: Width of the image, or one width per region (px).
        notes: Receives the number of regions that are left out.

    Returns:
        Indices of the regions that have outlines, and these outlines as shapely geometries.
    """
    outlines = parse_outlines(codes, height, width)
    sound = np.flatnonzero(~shapely.is_missing(outlines))
    if len(sound) < len(outlines):
        notes["regions left out: damaged outlines"] += len(outlines) - len(sound)
    return sound, outlines[sound]


def write_files(output: Storage, files: Iterable[ImageFile], result: ExportResult) -> None:
    """Write the files of images in parallel, in bounded memory, while further files are made.

    Files whose name the store rejects are left out. On a disk one file is written at a time, so if
    an image and a folder have the same name, the same one is left out every time.

    Args:
        output: Folder to write to.
        files: Files, which are made by this thread as they are needed.
        result: Receives the counts of what is written, and the number of images left out.

    Raises:
        OSError: A file cannot be written for any other reason.
    """
    threads = 1 if output.is_local else CONNECTIONS
    with ThreadPoolExecutor(threads) as pool:
        for file, is_written in ahead(
            pool,
            partial(_write_file, output),
            files,
            threads,
            size=lambda file: len(file.data),
            most_size=_UNWRITTEN_BYTES,
        ):
            if not is_written:
                result.notes["images left out: the output cannot hold a file of that name"] += 1
                continue
            result.count(images=1, files=1, regions=file.regions)
            if file.note:
                result.notes[file.note] += 1


def _write_file(output: Storage, file: ImageFile) -> tuple[ImageFile, bool]:
    """Write a file; return it, and whether the store accepts its name."""
    try:
        output.write(file.path, file.data)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        return file, False
    return file, True


def add_classes(classes: dict[int, str], shard: Tables) -> None:
    """Add the classes of a shard to those of the shards before it.

    Args:
        classes: Class names by id, extended in place.
        shard: Tables of the shard.

    Raises:
        InputError: A class id has several names, or a name several ids.
    """
    numbers = {name: number for number, name in classes.items()}
    class_ids = shard.masks["class_id"].to_pylist()
    class_names = shard.masks["class_name"].to_pylist()
    for number, name in set(zip(class_ids, class_names, strict=True)):
        is_new = name not in numbers and number not in classes
        if not is_new and (numbers.get(name), classes.get(number)) != (number, name):
            raise InputError(
                f"class {number} is {name} in some rows and not in others: the rows come from "
                "several models; give a --date with rows of one model, or first segment all images "
                "with the newer model"
            )
        classes[number] = name
        numbers[name] = number
