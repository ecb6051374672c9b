"""Read an output without Ray: tables, current rows, masks as arrays, and overlay pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
from unet_ray.tables.committed import CommittedShards
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import tables_at
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
"""Columns that join the three tables."""


@dataclass(frozen=True)
class Tables:
    """The three tables of an output, or of some of its images, with their partition column `date`.

    Example:
        >>> import unet_ray
        >>> for shard in unet_ray.read_tables("tables").shards():
        ...     print(len(shard.images), len(shard.regions))
        4 53
    """

    images: pa.Table
    """Rows of `images`."""
    masks: pa.Table
    """Rows of `masks`."""
    regions: pa.Table
    """Rows of `regions`."""

    def shards(self) -> Iterator[Tables]:
        """Yield the tables of some images at a time, each image whole and once.

        Tables in memory are yielded as they are. Those of `read_tables` are read as needed, in
        the memory of a few shards, whatever the size of the archive.

        Raises:
            InputError: A shard is damaged, or cannot be read.
        """
        yield self

    def select(self, table: str, image_uri: str) -> pa.Table:
        """Return the rows of one image.

        Args:
            table: Name of the table.
            image_uri: URI of the image as in the tables.

        Raises:
            InputError: A shard is damaged, or cannot be read.
        """
        return getattr(self, table).filter(pc.field("image_uri") == image_uri)


class StoredTables(Tables):
    """The tables of an output, as they were listed.

    Each table is read when it is first used, and kept. `shards` and `select` read the shards that
    they need, and keep one of them.

    Args:
        shards: Shards of the output.
        current: Whether only the latest successful row of each image counts, with its masks and
            regions.
    """

    _shards: CommittedShards
    _current: bool

    def __init__(self, shards: CommittedShards, current: bool) -> None:
        vars(self).update(_shards=shards, _current=current)  # the fields are read when used

    def __repr__(self) -> str:
        """Return where the tables are, without reading them."""
        return f"<tables at {self._shards.output.uri}>"

    @cached_property
    def images(self) -> pa.Table:
        """Rows of `images`."""
        rows = self._shards.read("images", SCHEMAS["images"].names)
        if self._current:
            rows = _select_current(rows)
        return rows.drop_columns("shard")

    @cached_property
    def masks(self) -> pa.Table:
        """Rows of `masks`."""
        return self._read("masks")

    @cached_property
    def regions(self) -> pa.Table:
        """Rows of `regions`."""
        return self._read("regions")

    def shards(self) -> Iterator[Tables]:
        """Yield the tables of one shard at a time, while the next ones are read."""
        return iterate_shards(self._shards, self._places if self._current else None)

    def select(self, table: str, image_uri: str) -> pa.Table:
        """Return the rows of one image; only the shards that have it are read."""
        if table in vars(self):
            return super().select(table, image_uri)
        of_image = pc.field("image_uri") == image_uri
        paths = pc.unique(self._places.filter(of_image)["shard"]).to_pylist()
        found = [self._read_shard(path).select(table, image_uri) for path in paths]
        return pa.concat_tables([_schema_of(table).empty_table(), *found])

    @cached_property
    def _places(self) -> pa.Table:
        """Columns image_uri, run_id and shard of the images that count."""
        rows = self._shards.read("images", [*_KEY, "pages", "segmented_at", "error_type"])
        if self._current:
            rows = _select_current(rows)
        return rows.select([*_KEY, "shard"])

    def _read_shard(self, path: str) -> Tables:
        """Return the tables of a shard; the last one is kept, because images come in order."""
        last_path, tables = vars(self).get("_last", (None, None))
        if last_path != path:
            keys = self._places.filter(pc.field("shard") == path) if self._current else None
            (tables,) = iterate_shards(self._shards.of_paths((path,)), keys)
            vars(self)["_last"] = path, tables
        return tables

    def _read(self, table: str) -> pa.Table:
        """Return all rows of a table that count."""
        columns = SCHEMAS[table].names
        found = [_schema_of(table).empty_table()]
        if not self._current:
            found += [
                rows.drop_columns("shard") for _, rows in self._shards.iterate(table, columns)
            ]
            return pa.concat_tables(found)
        keys = _split_keys(self._places)
        for path, rows in self._shards.of_paths(keys).iterate(table, columns):
            found.append(_select_rows(rows, keys[path]).drop_columns("shard"))
        return pa.concat_tables(found)


def _schema_of(table: str) -> pa.Schema:
    """Return the schema of a table with its partition column."""
    return SCHEMAS[table].append(pa.field("date", pa.string()))


def read_tables(uri: str | Storage, current: bool = True) -> Tables:
    """Open an output's tables, which are read when they are used.

    Args:
        uri: Output of segmentation; a storage has the options of its store.
        current: Whether to keep only the latest successful row of each image, with its masks and
            regions, instead of the whole history. If a file was read in two ways, as pages and as
            planes, only the rows of one way are current (see `output.namings`).

    Returns:
        The three tables. `images`, `masks` and `regions` read a whole table into memory; `shards()`
        reads a shard at a time. All raise InputError if a shard is damaged.

    Raises:
        InputError: There are no tables at the URI.

    Example:
        >>> import unet_ray
        >>> tables = unet_ray.read_tables("tables")
        >>> len(tables.images)
        4
    """
    return StoredTables(CommittedShards.of(tables_at(uri)), current)


def current_keys(shards: CommittedShards) -> tuple[pa.Table, int]:
    """Find the latest successful row of each image.

    Args:
        shards: Shards to search.

    Returns:
        Table with the columns image_uri, run_id and shard; and the number of successful rows that
        make no sense and are left out.

    Raises:
        InputError: A shard is damaged.
    """
    columns = [*_KEY, "pages", "segmented_at", "error_type", "height", "width"]
    rows = shards.read("images", columns)
    successful = rows.filter(pc.field("error_type").is_null())
    sound = successful.filter(SOUND_ROWS["images"])
    keys = _select_current(sound).select([*_KEY, "shard"])
    return keys, len(successful) - len(sound)


def iterate_shards(
    shards: CommittedShards, keys: pa.Table | None, unsound: Counter[str] | None = None
) -> Iterator[Tables]:
    """Read the rows of some images shard by shard, while the next shards are read.

    The memory is that of a few shards, whatever the size of the archive.

    Args:
        shards: Shards of the output.
        keys: Keys of the images, as `current_keys` returns them; None: all rows.
        unsound: Receives the numbers of rows that make no sense and are left out, by table. They
            include rows of images without a key. None: such rows are kept.

    Yields:
        The three tables of one shard, with only the rows of these images, each image once.

    Raises:
        InputError: A shard is damaged, or cannot be read.
    """
    by_path = None if keys is None else _split_keys(keys)
    wanted = shards if by_path is None else shards.of_paths(by_path)
    for path, tables in wanted.iterate_whole():
        for name, rows in tables.items():
            if unsound is not None:
                sound = rows.filter(SOUND_ROWS[name])
                unsound[name] += len(rows) - len(sound)
                rows = sound
            if by_path is not None:
                rows = _select_rows(rows, by_path[path])
            tables[name] = rows.drop_columns("shard")
        if by_path is not None:
            tables["images"] = _select_latest(tables["images"])
        yield Tables(**tables)


def _split_keys(keys: pa.Table) -> dict[str, pa.Table]:
    """Return the keys (image_uri, run_id) of each shard by its path."""
    shards = pc.dictionary_encode(keys["shard"]).combine_chunks()
    order = np.argsort(shards.indices, kind="stable")
    numbers = np.arange(len(shards.dictionary) + 1)
    starts = np.searchsorted(shards.indices.to_numpy()[order], numbers).tolist()
    ordered = keys.select(_KEY).take(order)
    by_path = {}
    for number, path in enumerate(shards.dictionary.to_pylist()):
        first, last = starts[number], starts[number + 1]
        by_path[path] = ordered.slice(first, last - first)
    return by_path


def _select_current(images: pa.Table) -> pa.Table:
    """Return the latest successful row of each image, of one naming per file."""
    good = images.filter(pc.field("error_type").is_null())
    if pc.any(pc.greater(good["pages"], 1)).as_py():
        with open_workspace() as database:
            database.read("good", _number_rows(good), ("row", *_KEY, "pages", "segmented_at"))
            if find_superseded(database, "good"):
                query = "SELECT row FROM good ANTI JOIN superseded USING (image_uri, run_id)"
                good = good.take(database.table(f"{query} ORDER BY row")["row"])
    return _select_latest(good)


def _select_latest(images: pa.Table) -> pa.Table:
    """Return the latest successful row of each image."""
    good = images.filter(pc.field("error_type").is_null()).sort_by("segmented_at")
    last = _number_rows(good).group_by("image_uri").aggregate([("row", "max")])
    return good.take(last["row_max"].sort())


def _select_rows(table: pa.Table, keys: pa.Table) -> pa.Table:
    """Return the rows of a table whose key is among `keys`, in the order of the table."""
    kept = _number_rows(table.select(_KEY)).join(keys, _KEY, join_type="left semi")
    return table.take(kept["row"].sort())


def _number_rows(table: pa.Table) -> pa.Table:
    """Return a table with the number of each row as `row`."""
    return table.append_column("row", pa.array(np.arange(len(table))))


def image_masks(
    tables: Tables, image_uri: str, window: Box | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of an image, or of a window of it.

    Args:
        tables: Tables with the current rows.
        image_uri: URI of the image as in the tables.
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
    meets = _meets(
        wanted,
        top=rows["top"],
        bottom=pc.add(rows["top"], rows["height"]),
        left=rows["left"],
        right=pc.add(rows["left"], rows["width"]),
    )
    for row in rows.filter(meets).to_pylist():
        try:
            piece = decode_rle(row["counts"], row["height"], row["width"])
        except ValueError as error:
            raise InputError(
                f"{image_uri}: the mask of {row['class_name']} is damaged: {error}; "
                "run unet-ray verify to list all damaged files"
            ) from None
        # the place of the piece in the window, which it may leave on all sides
        top = row["top"] - wanted.top
        left = row["left"] - wanted.left
        first_row = max(0, -top)
        first_column = max(0, -left)
        inside = piece[first_row : wanted.height - top, first_column : wanted.width - left]
        top = max(0, top)
        left = max(0, left)
        height, width = inside.shape
        masks[row["class_name"]][top : top + height, left : left + width] = inside
    return masks


def _meets(
    window: Box,
    top: pa.ChunkedArray,
    bottom: pa.ChunkedArray,
    left: pa.ChunkedArray,
    right: pa.ChunkedArray,
) -> pa.ChunkedArray:
    """Return a mask of the boxes that overlap a window."""
    in_rows = pc.and_(pc.less(top, window.bottom), pc.greater(bottom, window.top))
    in_columns = pc.and_(pc.less(left, window.right), pc.greater(right, window.left))
    return pc.and_(in_rows, in_columns)


def image_objects(
    tables: Tables, image_uri: str, window: Box | None = None
) -> dict[str, NDArray[np.int64]]:
    """Return the regions of an image, or of a window of it, as label images.

    The label images are drawn from the outlines of the regions, which are exact to the pixel, so
    touching regions stay separate. Regions smaller than the run's `--min-area` appear only in the
    masks.

    Args:
        tables: Tables with the current rows.
        image_uri: URI of the image as in the tables.
        window: Part of the image to return (px); None returns the whole image.

    Returns:
        Label image of each class by class name; (H, W), int64, region_id, or 0 without a region.

    Raises:
        InputError: The image is not in the tables, the window leaves it, or an outline is damaged.
    """
    rows, wanted = _select_masks(tables, image_uri, window)
    regions = tables.select("regions", image_uri)
    meets = _meets(
        wanted,
        top=pc.struct_field(regions["bbox"], "ymin"),
        bottom=pc.struct_field(regions["bbox"], "ymax"),
        left=pc.struct_field(regions["bbox"], "xmin"),
        right=pc.struct_field(regions["bbox"], "xmax"),
    )
    regions = regions.filter(meets)
    labels = {}
    for name in pc.unique(rows["class_name"]).to_pylist():
        of_class = regions.filter(pc.field("class_name") == name)
        outlines = parse_wkb(of_class["geometry"].to_pylist())
        if shapely.is_missing(outlines).any():
            raise InputError(
                f"{image_uri}: the outline of a region of {name} is damaged; run unet-ray verify "
                "to list all damaged files"
            )
        labels[name] = fill_outlines(outlines, of_class["region_id"].to_numpy(), wanted)
    return labels


def _select_masks(tables: Tables, image_uri: str, window: Box | None) -> tuple[pa.Table, Box]:
    """Return the masks rows of an image and the window to read, by default the whole image."""
    rows = tables.select("masks", image_uri)
    if not len(rows):
        raise InputError(f"{image_uri}: no masks of this image in the tables; check the URI")
    bottoms = pc.add(rows["top"].cast(pa.int64()), rows["height"])
    rights = pc.add(rows["left"].cast(pa.int64()), rows["width"])
    height = pc.max(bottoms).as_py()
    width = pc.max(rights).as_py()
    wanted = window or Box(0, 0, height, width)
    has_rows = 0 <= wanted.top < wanted.bottom <= height
    has_columns = 0 <= wanted.left < wanted.right <= width
    if not (has_rows and has_columns):
        raise InputError(
            f"{image_uri}: the window {wanted} extends beyond the image of {width}×{height} px"
        )
    return rows, wanted
