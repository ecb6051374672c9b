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

    Blocks are outputs of tasks, so Ray recomputes a block that is lost with its node.
    """

    blocks: tuple[ray.ObjectRef, ...]
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
    """Compute the planes of some images, on the nodes where their blocks lie.

    Args:
        reader: Reader of the images.
        indices: Indices of the images in the reader; all of them can be read.
        labelling: Meaning of the masks.
        config: Settings of the crops.
    """
    rows_of: dict[int, list[int]] = {}  # block of images → rows of the images in it
    number_of: dict[int, int] = {}  # block of images → number of its block of planes
    places = {}
    for index in indices:
        block, row = reader.places[index]
        rows = rows_of.setdefault(block, [])
        number = number_of.setdefault(block, len(number_of))
        places[index] = number, len(rows)
        rows.append(row)
    settings = ray.put(_Settings(reader, labelling, config))
    blocks = [
        _compute_block.remote(reader.blocks[block], rows, settings)
        for block, rows in rows_of.items()
    ]
    ray.wait(blocks, num_returns=len(blocks), fetch_local=False)
    return StoredPlanes(tuple(blocks), places)


@dataclass(frozen=True)
class _Settings:
    """The arguments of `store_planes` that all tasks share through the object store."""

    reader: StoreReader
    labelling: Labelling
    config: CropConfig


@ray.remote(num_cpus=TASK_CPUS)  # type: ignore[untyped-decorator]
def _compute_block(table: pa.Table, rows: Sequence[int], settings: _Settings) -> pa.Table:
    """Return the planes of some rows of a block of images."""
    found = []
    for row in rows:
        pixels = settings.reader.read_row(table, row)
        planes = compute_planes(pixels.masks, settings.labelling, settings.config, pixels.valid)
        values: dict[str, Any] = {}
        for name in _NAMES:
            values |= array_values(name, getattr(planes, name))
        found.append(values)
    return pa.Table.from_pylist(found, schema=pa.schema(array_fields(_NAMES)))
