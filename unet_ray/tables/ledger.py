"""The ledger: the images table of an output, which tells which images are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from unet_ray.errors import InputError
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.storage import Storage
from unet_ray.store_options import StoreOptions
from unet_ray.tables.duckdb_workspace import Workspace, open_workspace, quote
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import read_shards, shard_run_id, shard_task

_KEYS = ("image_uri", "image_etag", "pages", "reader_version", "image_bytes")
_SETTINGS = ("model_digest", "config_digest")
TRANSIENT_ERRORS = (
    "network",
    "denied",
    "archived",
    "missing",
    "changed",
    "out_of_memory",
    "internal",
)
"""Error types that are not the file's fault; the next run tries such images again."""


def open_ledger(
    database: Workspace,
    output: Storage,
    images: Sequence[FileEntry],
    model_digest: str,
    config_digest: str,
) -> Counter[str]:
    """Create views of the images that a model and a configuration have already done.

    An output without images files has an empty ledger. The views and their columns are:

    - `done` (image_uri, image_etag, pages, reader_version, image_bytes): successful rows of this
      model and configuration.
    - `failed` (same columns): their rows of images that failed by the file's own fault.
    - `retry` (same columns): all their rows, successful or not.
    - `known` (image_uri): rows of any content, model and configuration.

    Args:
        database: Workspace that receives the views.
        output: Root of the tables.
        images: Images files of the output.
        model_digest: Digest of the model.
        config_digest: Digest of the configuration.

    Returns:
        Number of rows in the images files of each run, by run id.
    """
    columns = (*_KEYS, *_SETTINGS, "error_type")
    num_rows = read_images(database, name="ledger", output=output, images=images, columns=columns)
    condition = f"model_digest = {quote(model_digest)} AND config_digest = {quote(config_digest)}"
    transient = ", ".join(map(quote, TRANSIENT_ERRORS))
    keys = f"SELECT {', '.join(_KEYS)} FROM ledger WHERE {condition}"  # noqa: S608
    database.view("done", f"{keys} AND error_type IS NULL")
    database.view("failed", f"{keys} AND error_type NOT IN ({transient})")
    database.view("retry", keys)
    database.view("known", "SELECT image_uri FROM ledger")
    return num_rows


def open_contents(
    database: Workspace,
    output: Storage,
    images: Sequence[FileEntry],
    model_digest: str,
    config_digest: str,
) -> None:
    """Create the table `contents`: the latest successful row of each image, if it has a hash.

    Columns: image_uri, image_bytes, content_hash, shard (path below a table's folder).

    Args:
        database: Workspace that receives the table.
        output: Root of the tables.
        images: Images files of the output.
        model_digest: Digest of the model.
        config_digest: Digest of the configuration.
    """
    columns = ("image_uri", "image_bytes", "segmented_at", "content_hash", "error_type", *_SETTINGS)
    schema = _nullable_schema("images", columns)
    is_ours = (
        (pc.field("model_digest") == model_digest)
        & (pc.field("config_digest") == config_digest)
        & pc.field("error_type").is_null()
    )
    kept = pa.schema([schema.field(name) for name in columns[:4]])
    kept = kept.append(pa.field("shard", pa.string()))

    def keep_ours() -> Iterator[pa.Table]:
        for entry, shard in read_shards(output, images, schema, SCHEMAS["images"]):
            rows = shard.filter(is_ours).select(columns[:4])
            paths = pa.repeat(pa.scalar(entry.path), len(rows))
            yield pa.Table.from_arrays([*rows.columns, paths], schema=kept)

    database.write("hashed", kept, keep_ours())
    database.store(
        "contents",
        "SELECT image_uri, image_bytes, content_hash, shard FROM (FROM hashed QUALIFY row_number() "
        "OVER (PARTITION BY image_uri ORDER BY segmented_at DESC) = 1) "
        "WHERE content_hash IS NOT NULL",
    )


def read_images(
    database: Workspace,
    name: str,
    output: Storage,
    images: Sequence[FileEntry],
    columns: Sequence[str],
) -> Counter[str]:
    """Read columns of images files into a table of the workspace.

    Args:
        database: Workspace that receives the table.
        name: Name of the table.
        output: Root of the tables.
        images: Images files to read.
        columns: Columns to keep.

    Returns:
        Number of rows read from the files of each run, by run id.
    """
    schema = _nullable_schema("images", columns)
    num_rows = Counter[str]()

    def count_rows() -> Iterator[pa.Table]:
        for entry, rows in read_shards(output, images, schema, SCHEMAS["images"]):
            num_rows[shard_run_id(entry.path)] += len(rows)
            yield rows

    database.write(name, schema, count_rows())
    return num_rows


def _nullable_schema(table: str, columns: Sequence[str]) -> pa.Schema:
    # a null in a file that another program wrote is no reason to refuse the file
    return pa.schema([SCHEMAS[table].field(column).with_nullable(True) for column in columns])


def tables_at(uri: str | Storage, options: StoreOptions | None = None) -> Storage:
    """Return the storage of a segmentation output.

    Args:
        uri: Output of segmentation; a storage has its own options.
        options: Options of its store; None: no options.

    Returns:
        Root of the tables.

    Raises:
        InputError: There are no tables at the URI, or they cannot be read.
    """
    if isinstance(uri, Storage):
        output = uri
        named = uri.uri
    else:
        output = Storage.of(uri, options)
        named = uri
    try:
        is_there = output.exists("images")
    except OSError as error:
        raise InputError(f"{named}: the tables cannot be read: {error}") from None
    if not is_there:
        raise InputError(f"{named}: no tables here (there is no folder images/); check --tables")
    return output


def summarize_run(output: Storage, run_id: str, without: Collection[str] = ()) -> dict[str, Any]:
    """Count what a run wrote, from its committed shards.

    The counts are the fields of a run record that a run fills in itself if it ends well.

    Args:
        output: Root of the tables.
        run_id: Run to summarize.
        without: Paths of shards, below a table's folder, to leave out.

    Returns:
        Fields of the run record; empty where the run committed no shard.
    """
    images = [e for e in list_run_shards(output, "images", run_id) if e.path not in without]
    if not images:
        return {}
    committed = {entry.path for entry in images}
    regions = [e for e in list_run_shards(output, "regions", run_id) if e.path in committed]
    with open_workspace() as database:
        columns = ("height", "width", "error_type")
        read_images(database, name="images", output=output, images=images, columns=columns)
        class_names = _nullable_schema("regions", ("class_name",))
        shards = read_shards(output, regions, class_names, SCHEMAS["regions"])
        database.write("regions", class_names, (rows for _, rows in shards))
        (sums,) = database.table(
            "SELECT count(*) FILTER (error_type IS NULL) AS images_done, "
            "count(error_type) AS images_failed, "
            "coalesce(sum(height::DOUBLE * width), 0) / 1e6 AS megapixels FROM images"
        ).to_pylist()
        for field, table, column in (
            ("error_types", "images", "error_type"),
            ("regions", "regions", "class_name"),
        ):
            rows = database.table(
                f"SELECT {column} AS kind, count(*) AS n FROM {table} "  # noqa: S608
                f"WHERE {column} IS NOT NULL GROUP BY kind ORDER BY n DESC, kind"
            )
            sums[field] = {row["kind"]: row["n"] for row in rows.to_pylist()}
    return dict(sums) | {"shards": sorted(shard_task(entry.path) for entry in images)}


def open_run(database: Workspace, output: Storage, run_id: str) -> None:
    """Create the table `written` (image_uri, image_etag): the keys of the images a run wrote."""
    images = list_run_shards(output, "images", run_id)
    columns = ("image_uri", "image_etag")
    read_images(database, name="written", output=output, images=images, columns=columns)


def list_run_shards(output: Storage, table: str, run_id: str) -> list[FileEntry]:
    """Return the shards of a run in one table; none where the table does not exist."""
    return [
        entry
        for entry in output.entries(table, missing_ok=True)
        if shard_run_id(entry.path) == run_id
    ]
