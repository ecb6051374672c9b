"""What is done and what is not: the images table of an output read as a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from unet_ray.archive.scratch import Scratch, scratch
from unet_ray.archive.shards import is_shard, read_shards
from unet_ray.archive.storage import FileEntry, Storage
from unet_ray.archive.tables import SCHEMAS, TABLES
from unet_ray.errors import InputError

_SETTINGS = ("model_digest", "config_digest")
TRANSIENT_ERRORS = ("network", "denied", "missing", "changed", "out_of_memory", "internal")
"""Failures that were not the file's: such an image is tried again on the next night."""


def open_ledger(database: Scratch, output: Storage, model_digest: str, config_digest: str) -> None:
    """Name what a model and a configuration did in an output; one that is not there yet has an empty ledger.

    done (image_uri, image_etag, pages) — successful.
    failed (image_uri, image_etag, pages) — failed by the file's own fault.
    tried (image_uri, image_etag, pages) — every row of that model and configuration.
    known (image_uri) — done or failed with any content, model or configuration.
    """
    read_images(database, "ledger", output, ("image_uri", "image_etag", "pages", *_SETTINGS, "error_type"))
    ours = f"FROM ledger WHERE model_digest = {_text(model_digest)} AND config_digest = {_text(config_digest)}"
    faults = ", ".join(map(_text, TRANSIENT_ERRORS))
    keys = f"SELECT image_uri, image_etag, pages {ours}"
    database.view("done", f"{keys} AND error_type IS NULL")
    database.view("failed", f"{keys} AND error_type NOT IN ({faults})")
    database.view("tried", keys)
    database.view("known", "SELECT image_uri FROM ledger")


def read_images(database: Scratch, name: str, output: Storage, columns: Sequence[str], run_id: str = "") -> None:
    """Name columns of an output's images, of all or of a run's: they are read now, once; none where there are none."""
    _read(database, name, output, "images", columns, _entries_of_run(output, "images", run_id))


def _read(
    database: Scratch, name: str, output: Storage, table: str, columns: Sequence[str], entries: list[FileEntry]
) -> None:
    # nulls are no reason to refuse what somebody else may have written
    schema = pa.schema([SCHEMAS[table].field(column).with_nullable(True) for column in columns])
    database.write(name, schema, read_shards(output, entries, schema))


def _text(text: object) -> str:
    """Return a text as SQL has it."""
    return "'" + str(text).replace("'", "''") + "'"


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
    images = _entries_of_run(output, "images", run_id)
    if not images:
        return {}
    committed = {entry.path for entry in images}
    regions = [entry for entry in _entries_of_run(output, "regions", run_id) if entry.path in committed]
    with scratch() as database:
        _read(database, "images", output, "images", ("height", "width", "error_type"), images)
        _read(database, "regions", output, "regions", ("class_name",), regions)
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
    read_images(database, "written", output, ("image_uri", "image_etag"), run_id)


def open_dataset(output: Storage, table: str, schema: Any) -> Any:
    """Open one table of an output as an Arrow dataset with its hive partition `date`."""
    root = output.join(table)
    return pds.dataset(
        root.path,
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


def _entries_of_run(output: Storage, table: str, run_id: str) -> list[FileEntry]:
    return [entry for entry in entries_of(output, table) if run_id in entry.path]


def entries_of(output: Storage, folder: str) -> list[FileEntry]:
    """Return all files below a folder that may not be there."""
    return output.entries(folder) if output.exists(folder) else []
