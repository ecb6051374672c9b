"""Export to palette PNG files of class ids."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from unet_ray.errors import InputError
from unet_ray.imaging.drawing.overlay import class_colour
from unet_ray.output.formats.common import ExportResult, ImageNames, add_classes
from unet_ray.output.reader import Tables, image_masks
from unet_ray.storage.storage import Storage

_MAX_CLASS_ID = 255
"""Largest class id that a palette image holds."""
_PNG_PIXELS = 2**28
"""Largest image that is exported (px); it is drawn whole, in half a gigabyte."""


def write_png(shards: Iterator[Tables], names: ImageNames, output: Storage) -> ExportResult:
    """Write images of class ids, 0 where there is none; where classes overlap, the last one shows.

    Args:
        shards: Current rows, shard by shard.
        names: File names of the images.
        output: Folder to write to.

    Returns:
        Counts of what was written.

    Raises:
        InputError: A class id is too large for a palette, or class ids have several names.
    """
    result, classes = ExportResult(), dict[int, str]()
    for shard in shards:
        add_classes(classes, shard)
        if max(classes, default=0) > _MAX_CLASS_ID:
            raise InputError(f"class id {max(classes)}: a palette image holds 1 to {_MAX_CLASS_ID}")
        palette = [0, 0, 0] * 256
        for index, number in enumerate(sorted(classes)):
            palette[3 * number : 3 * number + 3] = class_colour(index)
        numbers = {name: number for number, name in classes.items()}
        for row in shard.images.to_pylist():
            if row["height"] * row["width"] > _PNG_PIXELS:
                result.notes[f"images left out: larger than {_PNG_PIXELS} px"] += 1
                continue
            ids = np.zeros((row["height"], row["width"]), np.uint8)
            for name, mask in image_masks(shard, row["image_uri"]).items():
                result.notes["pixels of several classes: the last is shown"] += int(
                    np.count_nonzero(ids[mask])
                )
                ids[mask] = numbers[name]
            picture = Image.fromarray(ids, "P")
            picture.putpalette(palette)
            png = io.BytesIO()
            picture.save(png, "PNG", optimize=False)
            output.write(names.with_suffix(row["image_uri"], ".png"), png.getvalue())
            result.count(images=1, files=1)
        result.count(regions=len(shard.regions))
    return result
