"""Export to palette PNG files of class ids."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unet_ray.errors import InputError
from unet_ray.imaging.drawing.overlay import class_colour
from unet_ray.output.formats.common import ExportResult, ImageFile, add_classes, write_files
from unet_ray.output.formats.names import ImageNames
from unet_ray.output.reader import Tables, image_masks
from unet_ray.storage.storage import Storage

_MAX_CLASS_ID = 255
"""Largest class id that a palette image holds."""
_PNG_PIXELS = 2**28
"""Largest image that is exported (px); it is drawn whole, in half a gigabyte."""


def write_png(shards: Iterator[Tables], names: ImageNames, output: Storage) -> ExportResult:
    """Write images of class ids, 0 for background; where classes overlap, the last one shows.

    Args:
        shards: Current rows, shard by shard.
        names: File names of the images.
        output: Folder to write to.

    Returns:
        Counts of what was written.

    Raises:
        InputError: A class id is too large for a palette, or class ids have several names.
    """
    result = ExportResult()
    write_files(output, _draw_files(shards, names, result), result)
    return result


def _draw_files(
    shards: Iterator[Tables], names: ImageNames, result: ExportResult
) -> Iterator[ImageFile]:
    """Yield the file of each image; `result` receives the regions, and what is left out."""
    classes = dict[int, str]()
    for shard in shards:
        add_classes(classes, shard)
        if max(classes, default=0) > _MAX_CLASS_ID:
            raise InputError(
                f"class id {max(classes)} is too large: a palette image holds 1 to {_MAX_CLASS_ID}"
            )
        palette = [0, 0, 0] * 256
        for index, number in enumerate(sorted(classes)):
            palette[3 * number : 3 * number + 3] = class_colour(index)
        numbers = {name: number for number, name in classes.items()}
        for row in shard.images.to_pylist():
            if row["height"] * row["width"] > _PNG_PIXELS:
                result.notes[f"images left out: larger than {_PNG_PIXELS} px"] += 1
                continue
            ids = _draw_ids(shard, row, numbers, result.notes)
            if ids is None:
                result.notes["images left out: masks that do not fit or do not decode"] += 1
                continue
            picture = Image.fromarray(ids, "P")
            picture.putpalette(palette)
            text = PngInfo()
            text.add_itxt("image_uri", row["image_uri"])
            png = io.BytesIO()
            picture.save(png, "PNG", optimize=False, pnginfo=text)
            path = names.with_suffix(row["image_uri"], ".png")
            yield ImageFile(path, png.getvalue())
        result.count(regions=len(shard.regions))


def _draw_ids(
    shard: Tables, row: Mapping[str, Any], numbers: Mapping[str, int], notes: Counter[str]
) -> NDArray[np.uint8] | None:
    """Return the class id of each pixel of an image, or None where its masks are damaged.

    Args:
        shard: Tables of the shard.
        row: Row of the image.
        numbers: Class ids by name.
        notes: Receives the number of pixels that several classes claim.
    """
    ids = np.zeros((row["height"], row["width"]), np.uint8)
    of_image = shard.masks.filter(pc.field("image_uri") == row["image_uri"])
    sides = [of_image[name].to_numpy() for name in ("height", "width")]
    if any((found > side).any() for found, side in zip(sides, ids.shape, strict=True)):
        return None  # before an array of that size is allocated
    try:
        masks = image_masks(shard, row["image_uri"])
    except (InputError, ValueError, TypeError, MemoryError):
        return None
    if any(mask.shape != ids.shape for mask in masks.values()):
        return None
    for name, mask in masks.items():
        notes["pixels of several classes: the last is shown"] += int(np.count_nonzero(ids[mask]))
        ids[mask] = numbers[name]
    return ids
