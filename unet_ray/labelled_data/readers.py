"""Readers of labelled images: from files, decoded each time, or decoded from Ray's object store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.flags import MaskFrame
from unet_ray.imaging.channels import ChannelSelection, take_channels
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.labelled_data.alignment import LabelledArrays, LabelledPixels
from unet_ray.labelled_data.labelled_set import LabelAccess, LabelledImage
from unet_ray.tables.binary_columns import view_samples

_STORE_SHARE = 0.3
"""Largest share of the smallest node's object store that decoded images may fill.

Each node may end up holding all of them.
"""
_SAMPLED_IMAGES = 8
_HELD_BLOCKS = 256
"""Number of blocks that a process holds."""


class Reader(Protocol):
    """Reader of labelled images by their index in a set."""

    def read(self, index: int) -> LabelledPixels:
        """Return an image and its masks.

        Raises:
            ImageError: The image or a mask cannot be read.
        """


@dataclass(frozen=True)
class FileReader:
    """Reader that reads and decodes files each time."""

    access: LabelAccess
    items: tuple[LabelledImage, ...]
    frame: MaskFrame = "shown"
    """Frame in which the masks of images with an EXIF orientation were drawn."""

    def with_channels(self, channels: ChannelSelection) -> FileReader:
        """Return the reader with some of the channels of each image."""
        return replace(self, access=replace(self.access, channels=channels))

    def read(self, index: int) -> LabelledPixels:
        """Return an image (HWC) and its masks (HW each), decoded from their files."""
        item = self.items[index]
        return item.decode(item.read_encoded(self.access), self.access).align(self.frame)


@dataclass(frozen=True)
class StoreReader:
    """Reader of decoded images in the object store; blocks on the same node are not copied.

    Blocks are outputs of tasks, so Ray recomputes a block that is lost with its node.
    """

    blocks: tuple[ray.ObjectRef, ...]
    """References to Arrow tables with the columns of `decoded_schema`."""
    places: tuple[tuple[int, int], ...]
    """Place of each image, (block, row); (-1, -1) for an image that cannot be read."""
    frame: MaskFrame = "shown"
    """Frame in which the masks of images with an EXIF orientation were drawn."""
    channels: ChannelSelection | None = None
    """Order of the stored channels in which all images agree; None: as stored."""

    def with_channels(self, channels: ChannelSelection) -> StoreReader:
        """Return the reader with some of the channels of each image."""
        return replace(self, channels=channels)

    def read(self, index: int) -> LabelledPixels:
        """Return an image (HWC) and its masks (HW each) as read-only arrays."""
        block, row = self.places[index]
        if block < 0:
            raise ImageError("unreadable", "the image could not be decoded")
        return self.read_row(get_block(self.blocks[block]), row)

    def read_row(self, table: pa.Table, row: int) -> LabelledPixels:
        """Return the image and the masks of a row of a block."""
        names_of_shapes = [name for name in table.column_names if name.endswith("_shape")]
        num_masks = sum(name.startswith("mask") for name in names_of_shapes)
        masks = [_get_array(table, f"mask{index}", row) for index in range(num_masks)]
        orientation = table.column("orientation")[row].as_py()
        names = tuple(table.column("channels")[row].as_py())
        samples = _get_array(table, "image", row)
        valid = find_array(table, "valid", row)
        image = take_channels(DecodedImage(samples, valid, names), None, self.channels)
        decoded = LabelledArrays(image.samples, masks, orientation, valid=image.valid)
        return decoded.align(self.frame)


@lru_cache(maxsize=_HELD_BLOCKS)
def get_block(reference: ray.ObjectRef) -> pa.Table:
    """Return a block of the object store; this process holds the most recently used ones.

    Looking up a block takes longer than cutting a crop out of it. All blocks of a set fit into the
    store of each node, so holding some of them there is harmless.
    """
    return ray.get(reference)


def decoded_schema(num_masks: int) -> pa.Schema:
    """Return the schema of decoded images with `num_masks` masks each.

    Values are null for images that could not be read.
    """
    names = ["image", "valid", *(f"mask{index}" for index in range(num_masks))]
    more = [("orientation", pa.int8()), ("channels", pa.list_(pa.string()))]
    return pa.schema([*more, *array_fields(names)])


def array_fields(names: Sequence[str]) -> list[pa.Field]:
    """Return the columns that hold arrays of these names: bytes, shape and type of each."""
    fields = []
    for name in names:
        fields += [
            pa.field(name, pa.large_binary()),
            pa.field(f"{name}_shape", pa.list_(pa.int64())),
            pa.field(f"{name}_dtype", pa.string()),
        ]
    return fields


def array_values(name: str, array: NDArray[Any] | None) -> dict[str, Any]:
    """Return the values of the columns of one array; an empty dict, which means nulls, for None."""
    if array is None:
        return {}
    return {
        name: array.tobytes(),
        f"{name}_shape": list(array.shape),
        f"{name}_dtype": str(array.dtype),
    }


def find_array(table: pa.Table, name: str, row: int) -> NDArray[Any] | None:
    """Return an array of a table as a read-only view of its bytes; None for a null."""
    (flat,) = view_samples(table.column(name).slice(row, 1))
    if flat is None:
        return None
    dtype = table.column(f"{name}_dtype")[row].as_py()
    shape = table.column(f"{name}_shape")[row].as_py()
    return flat.view(dtype).reshape(shape)


def decoded_row(decoded: LabelledArrays) -> dict[str, Any]:
    """Return a row of `decoded_schema`: bytes, shape and type of an image and of each mask.

    They are stored as decoded. Frame and order of channels are known only after the whole set was
    read, so they are applied at each read.
    """
    row: dict[str, Any] = {"orientation": decoded.orientation, "channels": decoded.channels}
    row |= array_values("image", decoded.image) | array_values("valid", decoded.valid)
    for index, mask in enumerate(decoded.masks):
        row |= array_values(f"mask{index}", mask)
    return row


def _get_array(table: pa.Table, name: str, row: int) -> NDArray[Any]:
    array = find_array(table, name, row)
    assert array is not None
    return array


def fits_in_store(reader: FileReader, more_per_px: float = 0.0) -> bool:
    """Estimate from a few images whether a decoded set fits into the object store of each node.

    Args:
        reader: Reader of the set.
        more_per_px: Bytes stored for each pixel in addition to the image and its masks.
    """
    num_images = len(reader.items)
    sample = range(0, num_images, max(1, num_images // _SAMPLED_IMAGES))
    with ThreadPoolExecutor(2) as pool:
        measured = pool.map(partial(_measure_decoded_bytes, reader, more_per_px), sample)
        sizes = [size for size in measured if size]
    if not sizes:
        return False
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    smallest = min(resources.get("object_store_memory", 0) for resources in nodes)
    return float(np.mean(sizes)) * num_images <= _STORE_SHARE * smallest


def _measure_decoded_bytes(reader: FileReader, more_per_px: float, index: int) -> float:
    """Return the size of an image and its masks in the store; 0 if it cannot be read."""
    item = reader.items[index]
    try:
        decoded = item.decode(item.read_encoded(reader.access), reader.access)
    except ImageError:
        return 0
    height, width = decoded.image.shape[:2]
    masks_bytes = sum(mask.nbytes for mask in decoded.masks)
    return decoded.image.nbytes + masks_bytes + height * width * more_per_px


def store_reader(decoded: ray.data.Dataset, num_images: int) -> StoreReader:
    """Return a reader of decoded images.

    Args:
        decoded: Materialised dataset with the column `id` and the columns of `decoded_schema`.
        num_images: Number of images in the set, including those that cannot be read.
    """
    blocks = []
    for bundle in decoded.iter_internal_ref_bundles():
        blocks += [entry.ref for entry in bundle.blocks]
    places = [(-1, -1)] * num_images
    readable = ray.get([_list_readable_ids.remote(block) for block in blocks])
    for block, ids in enumerate(readable):
        for row, index in ids:
            places[index] = block, row
    return StoreReader(tuple(blocks), tuple(places))


@ray.remote(num_cpus=0.1)  # type: ignore[untyped-decorator]
def _list_readable_ids(table: pa.Table) -> Sequence[tuple[int, int]]:
    """Return (row, id) for each image of a block that was decoded."""
    ids = table.column("id").to_pylist()
    shapes = table.column("image_shape").to_pylist()
    return [(row, index) for row, index in enumerate(ids) if shapes[row] is not None]
