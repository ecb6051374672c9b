"""Shards: rows of whole images in three files that count all together or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unet_ray.errors import InputError
from unet_ray.prefetch import ahead
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import FileEntry, Storage
from unet_ray.tables.schemas import SCHEMAS, TABLES, to_parquet

_WHOLE_BYTES = 2**20
"""Size up to which a shard is read by one request (bytes)."""
_LARGE_AT_ONCE = 4
"""Number of larger shards that are read side by side."""
_SHARD = re.compile(r"date=\d{4}-\d\d-\d\d/[^/]+-\d{6,}\.parquet")


@dataclass(frozen=True)
class ShardName:
    """The name that a shard's three files share."""

    date: str
    """Partition, YYYY-MM-DD."""
    run_id: str
    """Run that writes the shard."""
    task: int
    """Number of the write task within the run; a retried task writes the same names."""

    def path(self, table: str) -> str:
        """Return the path below the output of the file for one table."""
        return f"{table}/{shard_path(self.date, self.run_id, self.task)}"


def shard_path(date: str, run_id: str, task: int) -> str:
    """Return the path of a shard below a table's folder."""
    return f"date={date}/{run_id}-{task:06d}.parquet"


def shard_run_id(path: str) -> str:
    """Return the run that wrote the shard at a path."""
    return path.rpartition("/")[2].rpartition("-")[0]


def shard_task(path: str) -> int:
    """Return the number of the write task that wrote the shard at a path."""
    return int(path.rpartition("-")[2].removesuffix(".parquet"))


def read_shards(
    output: Storage, entries: Sequence[FileEntry], schema: Any
) -> Iterator[tuple[FileEntry, Any]]:
    """Read columns of many shards side by side, large ones last and a few at a time.

    An Arrow dataset would open one shard after the other, with three or four requests each.

    Args:
        output: Root of the tables.
        entries: Files of the shards.
        schema: Columns to read; a column that a shard lacks is null.

    Yields:
        Each shard's file and its columns as a table.

    Raises:
        InputError: A file is not a shard, or cannot be read.
    """

    def read(entry: FileEntry) -> tuple[FileEntry, Any]:
        """Read the columns of one shard."""
        file = Storage(entry.uri, output.options)
        try:
            if entry.size <= _WHOLE_BYTES:
                return entry, _read_columns(pa.BufferReader(file.read()), schema, entry)
            with file.open() as ranges:
                return entry, _read_columns(ranges, schema, entry)
        except OSError as error:
            raise InputError(f"{entry.uri}: cannot be read: {error}") from error

    small = [entry for entry in entries if entry.size <= _WHOLE_BYTES]
    large = [entry for entry in entries if entry.size > _WHOLE_BYTES]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from ahead(pool, read, small, CONNECTIONS)
        yield from ahead(pool, read, large, _LARGE_AT_ONCE)


def _read_columns(file: Any, schema: Any, entry: FileEntry) -> Any:
    try:
        shard = pq.ParquetFile(file)
        present = [field for field in schema if field.name in shard.schema_arrow.names]
        if not present:
            raise pa.ArrowInvalid(f"it has none of the columns {', '.join(schema.names)}")
        found = shard.read([field.name for field in present], use_threads=False)
        columns = [
            found[field.name].cast(field.type)
            if field in present
            else pa.nulls(len(found), field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)
    except pa.ArrowException as error:
        raise InputError(f"{entry.uri}: not a shard of the tables: {error}; move it away") from None


def is_shard(path: str) -> bool:
    """Tell whether a path below a table's folder has the form of a shard's name."""
    return _SHARD.fullmatch(path) is not None


def write_shard(
    output: Storage, name: ShardName, tables: dict[str, Any], may_commit: Callable[[], None]
) -> None:
    """Write a shard: masks, then regions, then images; the images file commits it.

    Each file is serialised first and stored as one whole object. Every attempt writes the same
    bytes.

    Args:
        output: Root of the tables.
        name: Name of the shard, the same for every attempt of a task.
        tables: Arrow tables by name (`masks`, `regions`, `images`); they are cast to their schemas.
        may_commit: Called right before each attempt to store the images file; it raises where this
            run no longer holds the output.
    """
    for table in TABLES:
        data = to_parquet(tables[table].cast(SCHEMAS[table]))
        is_commit = {"may_write": may_commit} if table == "images" else {}
        output.write(name.path(table), data, **is_commit)
