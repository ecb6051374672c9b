"""What is done and what is not: the images table of an output read as a ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pds
from pyarrow.fs import FileInfo, FileType, FSSpecHandler, LocalFileSystem, PyFileSystem

from unet_ray.errors import InputError
from unet_ray.storage.storage import FileEntry, Storage
from unet_ray.tables.duckdb_workspace import Workspace, open_workspace
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import read_shards, shard_run_id, shard_task

_SETTINGS = ("model_digest", "config_digest")
TRANSIENT_ERRORS = ("network", "denied", "missing", "changed", "out_of_memory", "internal")
"""Failures that were not the file's: such an image is retry again on the next night."""


def open_ledger(
    database: Workspace,
    output: Storage,
    images: Sequence[FileEntry],
    model_digest: str,
    config_digest: str,
) -> Counter[str]:
    """Name what a model and a configuration did in an output; one without images files has an empty ledger.

    done (image_uri, image_etag, pages) — successful.
    failed (image_uri, image_etag, pages) — failed by the file's own fault.
    retry (image_uri, image_etag, pages) — every row of that model and configuration.
    known (image_uri) — done or failed with any content, model or configuration.

    Args:
        database — where they are named.
        output — root of the tables.
        images — its images files.
        model_digest, config_digest — of the model and the configuration.

    Returns: run id → rows in its images files.
    """
    columns = ("image_uri", "image_etag", "pages", *_SETTINGS, "error_type")
    rows = read_images(database, "ledger", output, images, columns)
    ours = f"FROM ledger WHERE model_digest = {_text(model_digest)} AND config_digest = {_text(config_digest)}"
    faults = ", ".join(map(_text, TRANSIENT_ERRORS))
    keys = f"SELECT image_uri, image_etag, pages {ours}"
    database.view("done", f"{keys} AND error_type IS NULL")
    database.view("failed", f"{keys} AND error_type NOT IN ({faults})")
    database.view("retry", keys)
    database.view("known", "SELECT image_uri FROM ledger")
    return rows


def read_images(
    database: Workspace,
    name: str,
    output: Storage,
    images: Sequence[FileEntry],
    columns: Sequence[str],
) -> Counter[str]:
    """Name columns of images files, which are read now, once; return run id → rows."""
    return _read(database, name, output, "images", columns, images)


def _read(
    database: Workspace,
    name: str,
    output: Storage,
    table: str,
    columns: Sequence[str],
    entries: Sequence[FileEntry],
) -> Counter[str]:
    # nulls are no reason to refuse what somebody else may have written
    schema = pa.schema([SCHEMAS[table].field(column).with_nullable(True) for column in columns])
    rows = Counter[str]()

    def counted() -> Iterator[Any]:
        for entry, shard in read_shards(output, entries, schema):
            rows[shard_run_id(entry.path)] += len(shard)
            yield shard

    database.write(name, schema, counted())
    return rows


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


def summarize_run(output: Storage, run_id: str) -> dict[str, Any]:
    """Return what a run wrote, counted: the fields of its record that only a run which ends well knows."""
    images = list_run_shards(output, "images", run_id)
    if not images:
        return {}
    committed = {entry.path for entry in images}
    regions = [
        entry for entry in list_run_shards(output, "regions", run_id) if entry.path in committed
    ]
    with open_workspace() as database:
        _read(database, "images", output, "images", ("height", "width", "error_type"), images)
        _read(database, "regions", output, "regions", ("class_name",), regions)
        (sums,) = database.table(
            "SELECT count(*) FILTER (error_type IS NULL) AS images_done, count(error_type) AS images_failed, "
            "coalesce(sum(height::DOUBLE * width), 0) / 1e6 AS megapixels FROM images"
        ).to_pylist()
        for field, table, column in (
            ("error_types", "images", "error_type"),
            ("regions", "regions", "class_name"),
        ):
            rows = database.table(
                f"SELECT {column} AS kind, count(*) AS n FROM {table} WHERE {column} IS NOT NULL "  # noqa: S608
                "GROUP BY kind ORDER BY n DESC, kind"
            )
            sums[field] = dict(zip(rows["kind"].to_pylist(), rows["n"].to_pylist(), strict=True))
    return dict(sums) | {"shards": sorted(shard_task(entry.path) for entry in images)}


def open_run(database: Workspace, output: Storage, run_id: str) -> None:
    """Name the keys that a run wrote: `written` (image_uri, image_etag)."""
    images = list_run_shards(output, "images", run_id)
    read_images(database, "written", output, images, ("image_uri", "image_etag"))


def open_dataset(output: Storage, table: str, schema: Any) -> Any:
    """Open one table of an output as an Arrow dataset with its hive partition `date`.

    Its files are those that a listing finds, whose errors are known; Arrow's own is not asked.
    """
    root, with_date = output.join(table), schema.append(pa.field("date", pa.string()))
    entries = output.entries(table, missing_ok=True)
    shards = [
        FileInfo(f"{root.path}/{entry.path}", FileType.File, size=entry.size)
        for entry in entries
        if entry.path.endswith(".parquet")
    ]
    if not shards:
        return pds.dataset(with_date.empty_table())
    return pds.dataset(
        shards,
        schema=with_date,
        format="parquet",
        filesystem=LocalFileSystem()
        if root.is_local
        else PyFileSystem(FSSpecHandler(root.filesystem)),
        partitioning=pds.partitioning(pa.schema([pa.field("date", pa.string())]), flavor="hive"),
        partition_base_dir=root.path,
    )


def list_run_shards(output: Storage, table: str, run_id: str) -> list[FileEntry]:
    """Return the shards of a run in a table that may not be there."""
    return [
        entry
        for entry in output.entries(table, missing_ok=True)
        if shard_run_id(entry.path) == run_id
    ]
