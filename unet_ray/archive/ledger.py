"""What is done and what is not: the images table of an output read as a ledger."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from unet_ray.archive.scratch import Scratch, scratch
from unet_ray.archive.shards import is_shard
from unet_ray.archive.storage import FileEntry, Storage
from unet_ray.archive.tables import IMAGES, SCHEMAS, TABLES
from unet_ray.errors import InputError

TRANSIENT_ERRORS = ("network", "denied", "missing", "changed", "out_of_memory", "internal")
"""Failures that were not the file's: such an image is tried again on the next night."""


def open_ledger(database: Scratch, output: Storage, model_digest: str, config_digest: str) -> None:
    """Name what a model and a configuration did in an output; one that is not there yet has an empty ledger.

    done (image_uri, image_etag, pages) — successful.
    failed (image_uri, image_etag, pages) — failed by the file's own fault.
    tried (image_uri, image_etag, pages) — every row of that model and configuration.
    known (image_uri) — done or failed with any content, model or configuration.
    """
    images = open_dataset(output, "images", IMAGES) if output.exists("images") else IMAGES.empty_table()
    ours = (pc.field("model_digest") == model_digest) & (pc.field("config_digest") == config_digest)
    faults = ~pc.field("error_type").isin(TRANSIENT_ERRORS)
    subsets = {
        "done": ours & pc.field("error_type").is_null(),
        "failed": ours & pc.field("error_type").is_valid() & faults,
        "tried": ours,
    }
    for name, condition in subsets.items():
        database.read(name, images.filter(condition), ("image_uri", "image_etag", "pages"))
    database.read("known", images, ("image_uri",))


def tables_at(uri: str) -> Storage:
    """Return the output of segmentation at a URI; raise InputError where there is none, or none that can be read."""
    output = Storage.of(uri)
    try:
        is_there = output.exists("images")
    except OSError as error:
        raise InputError(f"{uri}: the tables cannot be read: {error}") from None
    if not is_there:
        raise InputError(f"{uri}: no tables here (images/); check --tables")
    return output


def sums_of_run(output: Storage, run_id: str) -> dict[str, Any]:
    """Return what a run wrote, counted: the fields of its record that only a run which ends well knows."""
    paths = _paths_of_run(output, run_id)
    if not paths:
        return {}
    with scratch() as database:
        for name, columns in (("images", ("height", "width", "error_type")), ("regions", ("class_name",))):
            database.read(name, open_dataset(output, name, SCHEMAS[name], paths), columns)
        (sums,) = database.table(
            "SELECT count(*) FILTER (error_type IS NULL) AS images_done, count(error_type) AS images_failed, "
            "coalesce(sum(height::DOUBLE * width), 0) / 1e6 AS megapixels FROM images"
        ).to_pylist()
        for field, table, column in (("error_types", "images", "error_type"), ("regions", "regions", "class_name")):
            rows = database.table(
                f"SELECT {column} AS kind, count(*) AS n FROM {table} WHERE {column} IS NOT NULL "  # noqa: S608
                "GROUP BY kind ORDER BY n DESC, kind"
            )
            sums[field] = dict(zip(rows["kind"].to_pylist(), rows["n"].to_pylist(), strict=True))
    return dict(sums)


def open_run(database: Scratch, output: Storage, run_id: str) -> None:
    """Name the keys that a run wrote: `written` (image_uri, image_etag)."""
    paths = _paths_of_run(output, run_id)
    images = open_dataset(output, "images", IMAGES, paths) if paths else IMAGES.empty_table()
    database.read("written", images, ("image_uri", "image_etag"))


def open_dataset(output: Storage, table: str, schema: Any, paths: list[str] | None = None) -> Any:
    """Open one table of an output as an Arrow dataset with its hive partition `date`; of all its files, or of some."""
    root = output.join(table)
    return pds.dataset(
        root.path if paths is None else [f"{root.path}/{path}" for path in paths],
        schema=schema.append(pa.field("date", pa.string())),
        format="parquet",
        filesystem=LocalFileSystem() if root.is_local else PyFileSystem(FSSpecHandler(root.filesystem)),
        partitioning=pds.partitioning(pa.schema([pa.field("date", pa.string())]), flavor="hive"),
    )


def refuse_other_files(output: Storage) -> None:
    """Raise InputError where folders of tables hold files that are no part of them, such as somebody's images."""
    for table in TABLES:
        _shards_of(output, table)


def _shards_of(output: Storage, table: str) -> set[str]:
    """Return the paths of a table's shards; raise InputError for others."""
    paths = {entry.path for entry in entries_of(output, table)}
    others = sorted(path for path in paths if not is_shard(path))
    if others:
        raise InputError(
            f"{output.uri}/{table}: {others[0]} is no part of tables ({len(others)} such files here); choose another "
            "folder for the tables, or move what is not theirs"
        )
    return paths


def remove_leftovers(output: Storage) -> list[str]:
    """Remove masks and regions files without an images file of the same name: what a crash left; return their paths.

    Raises: InputError — files that are none of tables'; nothing is removed.
    """
    present = {table: _shards_of(output, table) for table in TABLES}
    leftovers = [f"{t}/{path}" for t in ("masks", "regions") for path in sorted(present[t] - present["images"])]
    for path in leftovers:
        output.delete(path)
    return leftovers


def _paths_of_run(output: Storage, run_id: str) -> list[str]:
    return [entry.path for entry in entries_of(output, "images") if run_id in entry.path]


def entries_of(output: Storage, folder: str) -> list[FileEntry]:
    """Return all files below a folder that may not be there."""
    return output.entries(folder) if output.exists(folder) else []
