"""Read an output: its tables, the rows that hold now, masks as arrays, pictures with overlays; no Ray."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.imaging.drawing.overlay import contact_sheet, overlay
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.rasterize import fill_outlines
from unet_ray.imaging.regions.run_lengths import decode_rle
from unet_ray.storage.storage import Storage
from unet_ray.tables.ledger import open_dataset, tables_at
from unet_ray.tables.schemas import SCHEMAS

__all__ = [
    "Box",
    "Tables",
    "contact_sheet",
    "current_keys",
    "image_masks",
    "image_objects",
    "iterate_shards",
    "overlay",
    "read_tables",
]

_KEY = ["image_uri", "run_id"]


@dataclass(frozen=True)
class Tables:
    """The three tables of an output, with their partition column `date`."""

    images: Any
    masks: Any
    regions: Any


def read_tables(uri: str, current: bool = True) -> Tables:
    """Read an output's tables as Arrow tables.

    Args:
        uri — the output of segmentation.
        current — only the latest successful row of each image, and the masks and regions that belong to it;
            else the whole history.

    Raises: InputError — no tables there.
    """
    output = tables_at(uri)
    tables = {
        name: open_dataset(output, name, schema).to_table() for name, schema in SCHEMAS.items()
    }
    if current:
        tables["images"] = _latest(tables["images"])
        keys = tables["images"].select(_KEY)
        for name in ("masks", "regions"):
            tables[name] = _rows_of(tables[name], keys)
    return Tables(**tables)


def current_keys(uri: str, date: str | None = None) -> Any:
    """Return (image_uri, run_id, shard) of the latest successful row of each image, as an Arrow table.

    Args:
        uri — the output of segmentation.
        date — of this partition alone.

    Raises: InputError — no tables there, or nothing in them.
    """
    output = tables_at(uri)
    rows = open_dataset(output, "images", SCHEMAS["images"]).filter(
        pc.field("error_type").is_null()
    )
    rows = rows if date is None else rows.filter(pc.field("date") == date)
    keys = _latest(
        rows.to_table(columns=[*_KEY, "segmented_at", "error_type", "__filename"])
    ).select([*_KEY, "__filename"])
    if not len(keys):
        raise InputError(
            f"{uri}: no successful image{'' if date is None else f' of --date {date}'} in these tables"
        )
    return keys.rename_columns([*_KEY, "shard"])


def iterate_shards(uri: str, keys: Any) -> Iterator[Tables]:
    """Yield the rows of some images shard by shard: the memory is that of one shard, whatever the archive.

    Args:
        uri — the output of segmentation.
        keys — of the images, as `current_keys` returns them.
    """
    output, shards = Storage.of(uri), pc.dictionary_encode(keys["shard"]).combine_chunks()
    order = np.argsort(shards.indices, kind="stable")
    starts = np.searchsorted(
        shards.indices.to_numpy()[order], np.arange(len(shards.dictionary) + 1)
    )
    keys, paths = (
        keys.select(_KEY).take(order),
        ["/".join(p.split("/")[-2:]) for p in shards.dictionary.to_pylist()],
    )
    for path, first, last in sorted(
        zip(paths, starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ):
        ours = keys.slice(first, last - first)
        yield Tables(
            *(_rows_of(_read(output, name, path), ours) for name in ("images", "masks", "regions"))
        )


def _read(output: Storage, table: str, path: str) -> Any:
    return pq.read_table(io.BytesIO(output.read(f"{table}/{path}")), schema=SCHEMAS[table])


def _latest(images: Any) -> Any:
    """Return the latest successful row of each image."""
    good = images.filter(pc.field("error_type").is_null()).sort_by("segmented_at")
    last = (
        good.append_column("row", pa.array(np.arange(len(good))))
        .group_by("image_uri")
        .aggregate([("row", "max")])
    )
    return good.take(last["row_max"].sort())


def _rows_of(table: Any, keys: Any) -> Any:
    """Return the rows of a table whose key is among `keys`."""
    numbered = table.select(_KEY).append_column("row", pa.array(np.arange(len(table))))
    kept = numbered.join(keys, _KEY, join_type="left semi")
    return table.take(kept["row"].sort())


def image_masks(
    tables: Tables, image_uri: str, window: Box | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of an image, class name → (H, W), or those of a window of it.

    Args:
        tables — with the current rows.
        image_uri — as in the tables.
        window — the part that is wanted (px); None: all of the image, which for a large one may be more than fits.

    Raises: InputError — an image that is not in the tables, a window that leaves it.
    """
    rows, wanted = _masks_rows(tables, image_uri, window)
    masks = {
        name: np.zeros((wanted.height, wanted.width), bool)
        for name in pc.unique(rows["class_name"]).to_pylist()
    }
    below, right = pc.add(rows["top"], rows["height"]), pc.add(rows["left"], rows["width"])
    meets = [
        pc.less(rows["top"], wanted.bottom), pc.greater(below, wanted.top),
        pc.less(rows["left"], wanted.right), pc.greater(right, wanted.left),
    ]  # fmt: skip
    for row in rows.filter(reduce(pc.and_, meets)).to_pylist():
        piece = decode_rle(row["counts"], row["height"], row["width"])
        top, left = row["top"] - wanted.top, row["left"] - wanted.left
        inside = piece[max(0, -top) : wanted.height - top, max(0, -left) : wanted.width - left]
        top, left = max(0, top), max(0, left)
        masks[row["class_name"]][top : top + inside.shape[0], left : left + inside.shape[1]] = (
            inside
        )
    return masks


def image_objects(
    tables: Tables, image_uri: str, window: Box | None = None
) -> dict[str, NDArray[np.int64]]:
    """Return the regions of an image as label images, class name → (H, W) of region_id, 0 where there is none.

    They are made of the regions' outlines, which are exact: each pixel of a region has its id, neighbours theirs.
    Regions smaller than the run's `--min-area` are in the masks, and not here.

    Args:
        tables, image_uri, window — as for `image_masks`.

    Raises: InputError — as `image_masks`.
    """
    rows, wanted = _masks_rows(tables, image_uri, window)
    regions = tables.regions.filter(pc.field("image_uri") == image_uri)
    box = {
        side: pc.struct_field(regions["bbox"], side) for side in ("xmin", "ymin", "xmax", "ymax")
    }
    meets = [
        pc.less(box["ymin"], wanted.bottom), pc.greater(box["ymax"], wanted.top),
        pc.less(box["xmin"], wanted.right), pc.greater(box["xmax"], wanted.left),
    ]  # fmt: skip
    regions = regions.filter(reduce(pc.and_, meets))
    found = {}
    for name in pc.unique(rows["class_name"]).to_pylist():
        of_class = regions.filter(pc.field("class_name") == name)
        outlines = shapely.from_wkb(of_class["geometry"].to_numpy(zero_copy_only=False))
        found[name] = fill_outlines(outlines, of_class["region_id"].to_numpy(), wanted)
    return found


def _masks_rows(tables: Tables, image_uri: str, window: Box | None) -> tuple[Any, Box]:
    """Return the masks rows of an image, and the window that is wanted: the image, where none is given."""
    rows = tables.masks.filter(pc.field("image_uri") == image_uri)
    if not len(rows):
        raise InputError(f"{image_uri}: no masks of this image in the tables; check the URI")
    height, width = (
        pc.max(pc.add(rows[start], rows[size])).as_py()
        for start, size in (("top", "height"), ("left", "width"))
    )
    wanted = window or Box(0, 0, height, width)
    if not (0 <= wanted.top < wanted.bottom <= height and 0 <= wanted.left < wanted.right <= width):
        raise InputError(
            f"{image_uri}: the window {wanted} leaves the image of {width}×{height} px"
        )
    return rows, wanted
