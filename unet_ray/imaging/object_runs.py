"""Run lengths of every object of a label image at once, as COCO wants each: column-major over the whole image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from unet_ray.imaging.tiling import Box


def encode_objects(labels_hw: NDArray[Any], window: Box, height: int, width: int) -> dict[int, bytes]:
    """Return label → COCO compressed run lengths of a mask of the whole image, for each label but 0.

    Args:
        labels_hw — labels of a window of the image, which holds the objects whole.
        window — where it lies (px).
        height, width — of the image (px).
    """
    columns = labels_hw.T.ravel()
    is_new = np.ones(len(columns), bool)
    is_new[1:] = columns[1:] != columns[:-1]
    is_new[:: window.height] = True
    first = np.flatnonzero(is_new)
    length = np.diff(first, append=len(columns))
    label = columns[first]
    kept = np.flatnonzero(label)
    kept = kept[np.argsort(label[kept], kind="stable")]
    label, length = label[kept], length[kept]
    column, row = np.divmod(first[kept], window.height)
    start = (window.left + column) * height + window.top + row
    goes_on = np.zeros(len(start), bool)  # from the foot of a column to the head of the next
    goes_on[1:] = (label[1:] == label[:-1]) & (start[1:] == (start + length)[:-1])
    begins = np.flatnonzero(~goes_on)
    ends = np.append(begins[1:], len(start)) - 1 if len(start) else begins
    return _compressed(label[begins], start[begins], (start + length)[ends], height, width)


def _compressed(
    label: NDArray[Any], start: NDArray[np.int64], stop: NDArray[np.int64], height: int, width: int
) -> dict[int, bytes]:
    """Return each label's runs, which lie together and in order, as the gaps and lengths that COCO counts."""
    is_first = np.ones(len(label), bool)
    is_first[1:] = label[1:] != label[:-1]
    gap = start.copy()
    gap[1:] -= np.where(is_first[1:], 0, stop[:-1])
    counts = np.stack([gap, stop - start], axis=1).ravel()
    bounds = np.append(np.flatnonzero(is_first), len(label))
    rest = height * width - stop[bounds[1:] - 1]
    listed = [
        {"size": [height, width], "counts": counts[2 * a : 2 * b].tolist() + [after] * (after > 0)}
        for a, b, after in zip(bounds[:-1], bounds[1:], rest.tolist(), strict=True)
    ]
    codes = coco.frPyObjects(listed, height, width) if listed else []
    return {int(value): code["counts"] for value, code in zip(label[is_first], codes, strict=True)}
