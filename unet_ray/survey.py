"""What a labelled set holds, from all of its files: sizes, channels, mask values, constants of preprocessing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from unet_ray.cluster import TASK_CPUS
from unet_ray.errors import ImageError, InputError
from unet_ray.imaging.images import is_grey
from unet_ray.imaging.labels import MaskValues
from unet_ray.inputs import LabelAccess, LabelledImage, LabelledSet, mask_values
from unet_ray.network.preprocessing import Preprocessing

_SAMPLED_ROWS = 256
"""Rows of an image that the constants are computed from: enough for a mean, and cheap on large photographs."""
_IMAGES_PER_TASK = 16


@dataclass(frozen=True)
class Survey:
    """A labelled set in numbers."""

    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each image, in order (px)."""
    values: MaskValues
    preprocessing: Preprocessing

    def check_fits(self, constants: Preprocessing, where: str) -> None:
        """Raise InputError where the images are not of the type that a model was trained on."""
        mine, wanted = self.preprocessing, constants
        if mine.dtype != wanted.dtype or len(mine.mean) not in (1, len(wanted.mean)):
            raise InputError(
                f"{where}: {mine.dtype} images of {len(mine.mean)} channels, the model was trained on {wanted.dtype} "
                f"and {len(wanted.mean)}; convert them"
            )


def survey_set(labelled: LabelledSet) -> Survey:
    """Read all labelled images once, in Ray Data tasks.

    Raises: InputError — images that cannot be read or do not fit together.
    """
    items, access = ray.put(labelled.items), labelled.access

    def survey(batch: dict[str, Any]) -> dict[str, Any]:
        mine = ray.get(items)
        return {"id": batch["id"], "row": [json.dumps(survey_image(access, mine[i])) for i in batch["id"]]}

    ids = ray.data.range(len(labelled.items), override_num_blocks=max(1, len(labelled.items) // _IMAGES_PER_TASK))
    rows = ids.map_batches(survey, batch_size=None, num_cpus=TASK_CPUS).take_all()
    return combine_survey(json.loads(row["row"]) for row in sorted(rows, key=lambda row: int(row["id"])))


def survey_image(access: LabelAccess, item: LabelledImage) -> dict[str, Any]:
    """Return one labelled image in numbers, or why it cannot be used, as a plain row."""
    try:
        image, masks = item.read(access)
    except ImageError as error:
        return {"uri": item.image.uri, "error": str(error)}
    grey = is_grey(image)
    sample = image[:: max(1, image.shape[0] // _SAMPLED_ROWS), :, : 1 if grey else None].astype(np.float64)
    values = [list(mask_values(mask).items()) for mask in masks]
    return {
        "uri": item.image.uri,
        "error": None,
        "size": image.shape[:2],
        "dtype": str(image.dtype),
        "moments": [sample.mean((0, 1)).tolist(), (sample**2).mean((0, 1)).tolist()],
        "values": [value for some in values for value in some],
        "most_distinct": max(map(len, values)),
    }


def combine_survey(rows: Iterable[dict[str, Any]]) -> Survey:
    """Add up the rows of all images.

    Raises: InputError — images that cannot be read or do not fit together.
    """
    rows = list(rows)
    broken = [f"{row['uri']}: {row['error']}" for row in rows if row["error"]]
    if broken:
        raise InputError(
            f"{len(broken)} of {len(rows)} labelled images cannot be used, the first: {broken[0]}; mend or remove them"
        )
    dtypes = Counter(row["dtype"] for row in rows)
    if len(dtypes) > 1:
        found = ", ".join(f"{n} of {dtype}" for dtype, n in dtypes.most_common())
        raise InputError(f"the images have samples of several types ({found}); convert them to one")
    pixels: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    for row in rows:
        for value, count in row["values"]:
            pixels[value] += count
        masks.update(value for value, _ in row["values"])
    sizes = tuple((int(row["size"][0]), int(row["size"][1])) for row in rows)
    return Survey(
        sizes,
        MaskValues(dict(pixels), dict(masks), max(row["most_distinct"] for row in rows)),
        _preprocessing(rows, dtypes.most_common(1)[0][0]),
    )


def _preprocessing(rows: list[dict[str, Any]], dtype: str) -> Preprocessing:
    widths = Counter(len(row["moments"][0]) for row in rows)
    channels = max(widths)
    odd = [n for n in widths if n not in (1, channels)]
    if odd:
        raise InputError(f"the images have {', '.join(map(str, sorted(widths)))} channels; convert them to one number")
    moments = np.array([np.broadcast_to(row["moments"], (2, channels)) for row in rows]).mean(axis=0)
    deviation = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))
    deviation[deviation < 1e-6] = 1.0  # a channel that is constant in the whole set
    return Preprocessing(dtype, tuple(moments[0].tolist()), tuple(deviation.tolist()))
