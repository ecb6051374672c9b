"""Read an output without Ray: its tables, current rows, masks as arrays, overlay pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.imaging.drawing.overlay import contact_sheet, overlay
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.outline_wkb import parse_wkb
from unet_ray.imaging.regions.rasterize import fill_outlines
from unet_ray.imaging.regions.run_lengths import decode_rle
from unet_ray.output.namings import find_superseded
from unet_ray.output.sound_rows import SOUND_ROWS
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import read_table, tables_at
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import read_shard

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
"""Columns that join the three tables."""


@dataclass(frozen=True)
class Tables:
    """The three tables of an output as Arrow tables, with their partition column `date`."""

    images: Any
    masks: Any
    regions: Any


def read_tables(uri: str | Storage, current: bool = True) -> Tables:
    """Read an output's tables as Arrow tables.

    Args:
        uri: Output of segmentation.
        current: Whether to keep only the latest successful row of each image, with its masks and
            regions, instead of the whole history. Of a file that was read in two ways, as pages
            and as planes, only the rows of one are current (see `output.namings`).

    Returns:
        The three tables.

    Raises:
        InputError: There are no tables at the URI, or a shard is damaged.
    """
    output = tables_at(uri)
    tables = {name: read_table(output, name, schema) for name, schema in SCHEMAS.items()}
    if current:
        tables["images"] = _select_current(tables["images"])
        keys = tables["images"].select(_KEY)
        for name in ("masks", "regions"):
            tables[name] = _select_rows(tables[name], keys)
    return Tables(**tables)


def current_keys(uri: str | Storage, date: str | None = None) -> tuple[pa.Table, int]:
    """Find the latest successful row of each image.

    Args:
        uri: Output of segmentation.
        date: Partition to search, YYYY-MM-DD; None searches all.

    Returns:
        Arrow table with the columns image_uri, run_id and shard; and the number of successful rows
        that make no sense and are left out.

    Raises:
        InputError: There are no tables, one is damaged, or they hold no successful image.
    """
    output = tables_at(uri)
    names = [*_KEY, "pages", "segmented_at", "error_type", "height", "width"]
    columns = pa.schema([SCHEMAS["images"].field(name) for name in names])
    rows = read_table(output, "images", columns, date, with_shard=True)
    found = rows.filter(pc.field("error_type").is_null())
    sound = found.filter(SOUND_ROWS["images"])
    keys = _select_current(sound).select([*_KEY, "shard"])
    if not len(keys):
        of_date = "" if date is None else f" of --date {date}"
        named = output.uri if isinstance(uri, Storage) else uri
        raise InputError(f"{named}: no successful image{of_date} in these tables")
    return keys, len(found) - len(sound)


def iterate_shards(uri: str | Storage, keys: pa.Table, unsound: Counter[str]) -> Iterator[Tables]:
    """Read the rows of some images shard by shard.

    The memory is that of one shard, whatever the size of the archive.

    Args:
        uri: Output of segmentation.
        keys: Keys of the images, as `current_keys` returns them.
        unsound: Receives the numbers of rows that make no sense and are left out, by table; those
            of images without a key among them.

    Yields:
        The three tables of one shard, with the rows of these images only, each image once.

    Raises:
        InputError: A shard is damaged, or cannot be read.
    """
    output = tables_at(uri)
    shards = pc.dictionary_encode(keys["shard"]).combine_chunks()
    order = np.argsort(shards.indices, kind="stable")
    starts = np.searchsorted(
        shards.indices.to_numpy()[order], np.arange(len(shards.dictionary) + 1)
    )
    ordered_keys = keys.select(_KEY).take(order)
    for path, first, last in sorted(
        zip(shards.dictionary.to_pylist(), starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ):
        shard_keys = ordered_keys.slice(first, last - first)
        tables = {}
        for name, schema in SCHEMAS.items():
            rows = read_shard(output.join(f"{name}/{path}"), schema, schema)
            sound = rows.filter(SOUND_ROWS[name])
            tables[name] = _select_rows(sound, shard_keys)
            unsound[name] += len(rows) - len(sound)
        tables["images"] = _select_latest(tables["images"])
        yield Tables(**tables)


def _select_current(images: Any) -> Any:
    """Return the latest successful row of each image, of one naming per file."""
    good = images.filter(pc.field("error_type").is_null())
    if pc.any(pc.greater(good["pages"], 1)).as_py():
        with open_workspace() as database:
            numbered = good.append_column("row", pa.array(np.arange(len(good))))
            database.read("good", numbered, ("row", *_KEY, "pages", "segmented_at"))
            if find_superseded(database, "good"):
                query = "SELECT row FROM good ANTI JOIN superseded USING (image_uri, run_id)"
                good = good.take(database.table(f"{query} ORDER BY row")["row"])
    return _select_latest(good)


def _select_latest(images: Any) -> Any:
    """Return the latest successful row of each image."""
    good = images.filter(pc.field("error_type").is_null()).sort_by("segmented_at")
    last = (
        good.append_column("row", pa.array(np.arange(len(good))))
        .group_by("image_uri")
        .aggregate([("row", "max")])
    )
    return good.take(last["row_max"].sort())


def _select_rows(table: Any, keys: Any) -> Any:
    """Return the rows of a table whose key is among `keys`, in the order of the table."""
    numbered = table.select(_KEY).append_column("row", pa.array(np.arange(len(table))))
    kept = numbered.join(keys, _KEY, join_type="left semi")
    return table.take(kept["row"].sort())


def image_masks(
    tables: Tables, image_uri: str, window: Box | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of an image, or of a window of it.

    Args:
        tables: Tables with the current rows.
        image_uri: URI of the image as it stands in the tables.
        window: Part of the image to return (px); None returns the whole image, which may not fit in
            memory if it is large.

    Returns:
        Mask of each class by class name; (H, W), bool.

    Raises:
        InputError: The image is not in the tables, the window leaves it, or a mask is damaged.
    """
    rows, wanted = _select_masks(tables, image_uri, window)
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
        try:
            piece = decode_rle(row["counts"], row["height"], row["width"])
        except ValueError as error:
            raise InputError(
                f"{image_uri}: the mask of {row['class_name']} is damaged: {error}; "
                "verify names all damaged files"
            ) from None
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
    """Return the regions of an image, or of a window of it, as label images.

    The label images are drawn from the regions' outlines, which are pixel-exact, so that touching
    regions stay apart. Regions smaller than the run's `--min-area` appear in the masks only.

    Args:
        tables: Tables with the current rows.
        image_uri: URI of the image as it stands in the tables.
        window: Part of the image to return (px); None returns the whole image.

    Returns:
        Label image of each class by class name; (H, W), int64, region_id or 0 where there is none.

    Raises:
        InputError: The image is not in the tables, the window leaves it, or an outline is damaged.
    """
    rows, wanted = _select_masks(tables, image_uri, window)
    regions = tables.regions.filter(pc.field("image_uri") == image_uri)
    box = {
        side: pc.struct_field(regions["bbox"], side) for side in ("xmin", "ymin", "xmax", "ymax")
    }
    meets = [
        pc.less(box["ymin"], wanted.bottom), pc.greater(box["ymax"], wanted.top),
        pc.less(box["xmin"], wanted.right), pc.greater(box["xmax"], wanted.left),
    ]  # fmt: skip
    regions = regions.filter(reduce(pc.and_, meets))
    labels = {}
    for name in pc.unique(rows["class_name"]).to_pylist():
        of_class = regions.filter(pc.field("class_name") == name)
        outlines = parse_wkb(of_class["geometry"].to_pylist())
        if shapely.is_missing(outlines).any():
            raise InputError(f"{image_uri}: a damaged outline of {name}; run unet-ray verify")
        labels[name] = fill_outlines(outlines, of_class["region_id"].to_numpy(), wanted)
    return labels


def _select_masks(tables: Tables, image_uri: str, window: Box | None) -> tuple[Any, Box]:
    """Return the masks rows of an image and the window to read, by default the whole image."""
    rows = tables.masks.filter(pc.field("image_uri") == image_uri)
    if not len(rows):
        raise InputError(f"{image_uri}: no masks of this image in the tables; check the URI")
    height, width = (
        pc.max(pc.add(rows[start].cast(pa.int64()), rows[size])).as_py()
        for start, size in (("top", "height"), ("left", "width"))
    )
    wanted = window or Box(0, 0, height, width)
    if not (0 <= wanted.top < wanted.bottom <= height and 0 <= wanted.left < wanted.right <= width):
        raise InputError(
            f"{image_uri}: the window {wanted} leaves the image of {width}×{height} px"
        )
    return rows, wanted
