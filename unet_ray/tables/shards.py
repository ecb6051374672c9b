"""One shard: the masks, regions and images of whole images, written so that it counts as a whole or not at all."""

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
from unet_ray.storage.backends.s3_requests import CONNECTIONS
from unet_ray.storage.storage import FileEntry, Storage
from unet_ray.tables.schemas import SCHEMAS, TABLES, to_parquet

_WHOLE_BYTES = 2**20
"""Shards up to this size are read by one request."""
_LARGE_AT_ONCE = 4
_SHARD = re.compile(r"date=\d{4}-\d\d-\d\d/[^/]+-\d{6,}\.parquet")


@dataclass(frozen=True)
class ShardName:
    """Where a shard's three files lie."""

    date: str
    """Partition, YYYY-MM-DD."""
    run_id: str
    task: int
    """Number of the write task within the run: a retried task writes the same names."""

    def path(self, table: str) -> str:
        """Return the path of one of the three files below the output."""
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
    """Yield shards and their columns as tables; many are read side by side, large ones last and few at a time.

    A dataset of Arrow's would open one after the other, by three requests or four.

    Args:
        output — root of the tables.
        entries — the shards.
        schema — of the columns; those that a shard has not are null.

    Raises: InputError — a file that is no shard, or that cannot be read.
    """

    def read(entry: FileEntry) -> tuple[FileEntry, Any]:
        """Read the columns of one shard."""
        file = Storage(entry.uri, output.options)
        try:
            if entry.size <= _WHOLE_BYTES:
                return entry, _columns_of(pa.BufferReader(file.read()), schema, entry)
            with file.open() as ranges:
                return entry, _columns_of(ranges, schema, entry)
        except OSError as error:
            raise InputError(f"{entry.uri}: cannot be read: {error}") from error

    small = [entry for entry in entries if entry.size <= _WHOLE_BYTES]
    large = [entry for entry in entries if entry.size > _WHOLE_BYTES]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from ahead(pool, read, small, CONNECTIONS)
        yield from ahead(pool, read, large, _LARGE_AT_ONCE)


def _columns_of(file: Any, schema: Any, entry: FileEntry) -> Any:
    try:
        shard = pq.ParquetFile(file)
        there = [field for field in schema if field.name in shard.schema_arrow.names]
        if not there:
            raise pa.ArrowInvalid(f"it has none of {', '.join(schema.names)}")
        found = shard.read([field.name for field in there], use_threads=False)
        columns = [
            found[field.name].cast(field.type)
            if field in there
            else pa.nulls(len(found), field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)
    except pa.ArrowException as error:
        raise InputError(f"{entry.uri}: not a shard of tables: {error}; move it away") from None


def is_shard(path: str) -> bool:
    """Tell whether a path below a table's folder is that of a shard."""
    return _SHARD.fullmatch(path) is not None


def write_shard(
    output: Storage, name: ShardName, tables: dict[str, Any], may_commit: Callable[[], None]
) -> None:
    """Write a shard: masks, then regions, then images; the images file commits it.

    Each file is serialised first and stored as one whole object. Every attempt writes the same bytes.

    Args:
        output — the root of the tables.
        name — the same for every attempt of a task.
        tables — masks, regions, images; cast to their schemas.
        may_commit — called right before each attempt to store the images file; raises where this run no longer holds
            the output.
    """
    for table in TABLES:
        data = to_parquet(tables[table].cast(SCHEMAS[table]))
        is_commit = {"may_write": may_commit} if table == "images" else {}
        output.write(name.path(table), data, **is_commit)
