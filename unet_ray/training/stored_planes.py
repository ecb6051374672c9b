"""Planes of labelled images in Ray's object store, beside the decoded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from unet_ray.cluster.ray_data import TASK_CPUS
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.label_planes import LabelPlanes, compute_planes
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.readers import (
    StoreReader,
    array_fields,
    array_values,
    find_array,
    get_block,
)

_NAMES = ("row_ends", "markers", "weights")


@dataclass(frozen=True)
class StoredPlanes:
    """Planes of images in the object store; blocks on the same node are not copied.

    Blocks are outputs of tasks, so Ray computes a block again that is lost with its node.
    """

    blocks: tuple[Any, ...]
    """References to Arrow tables with the arrays of `LabelPlanes`."""
    places: dict[int, tuple[int, int]]
    """Place of each image by its index in the reader, (block, row)."""

    def read(self, index: int) -> LabelPlanes:
        """Return the planes of an image as read-only arrays."""
        block, row = self.places[index]
        table = get_block(self.blocks[block])
        return LabelPlanes(*(find_array(table, name, row) for name in _NAMES))  # type: ignore[arg-type]


def store_planes(
    reader: StoreReader, indices: Sequence[int], labelling: Labelling, config: CropConfig
) -> StoredPlanes:
    """Compute the planes of some images, where each block of images lies.

    Args:
        reader: Reader of the images.
        indices: Indices of the images in the reader; all of them can be read.
        labelling: Meaning of the masks.
        config: Settings of the crops.
    """
    rows: dict[int, list[int]] = {}
    places = {}
    for index in indices:
        block, row = reader.places[index]
        places[index] = block, len(rows.setdefault(block, []))
        rows[block].append(row)
    order = {block: number for number, block in enumerate(rows)}
    shared = ray.put((reader, labelling, config))
    blocks = [_compute_block.remote(reader.blocks[block], rows[block], shared) for block in rows]
    ray.wait(blocks, num_returns=len(blocks), fetch_local=False)
    return StoredPlanes(
        tuple(blocks), {index: (order[block], row) for index, (block, row) in places.items()}
    )


@ray.remote(num_cpus=TASK_CPUS)  # type: ignore[untyped-decorator]
def _compute_block(table: pa.Table, rows: Sequence[int], shared: Any) -> pa.Table:
    """Return the planes of some rows of a block of images."""
    reader, labelling, config = shared
    found = []
    for row in rows:
        pixels = reader.read_row(table, row)
        planes = compute_planes(pixels.masks, labelling, config, pixels.valid)
        values: dict[str, Any] = {}
        for name in _NAMES:
            values |= array_values(name, getattr(planes, name))
        found.append(values)
    return pa.Table.from_pylist(found, schema=pa.schema(array_fields(_NAMES)))
