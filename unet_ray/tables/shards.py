"""Shards: rows of whole images in three files that count all together or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from unet_ray.errors import InputError
from unet_ray.prefetch import ahead
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import FileEntry, Storage
from unet_ray.tables.parquet_file import (
    DamagedFileError,
    check_footer,
    footer_bytes,
    read_parquet,
    to_parquet,
)
from unet_ray.tables.schemas import SCHEMAS, TABLES

_WHOLE_BYTES = 2**20
"""Size up to which a shard is read by one request (bytes)."""
_LARGE_AT_ONCE = 4
"""Number of larger shards that are read side by side."""
_END_BYTES = 2**16
"""Size of the end of a shard that has the footer, but for very large ones (bytes)."""
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
    output: Storage, entries: Sequence[FileEntry], columns: pa.Schema, schema: pa.Schema
) -> Iterator[tuple[FileEntry, pa.Table]]:
    """Read columns of many shards side by side, large ones last and a few at a time.

    An Arrow dataset would open one shard after the other, with three or four requests each.

    Args:
        output: Root of the tables.
        entries: Files of the shards.
        columns: Columns to read; a column that a shard lacks is null.
        schema: All columns of their table.

    Yields:
        Each shard's file and its columns as a table.

    Raises:
        InputError: A file is damaged, is not a shard, or cannot be read.
    """

    def read(entry: FileEntry) -> tuple[FileEntry, Any]:
        """Read the columns of one shard."""
        file = output.at(entry.uri)
        if entry.size <= _WHOLE_BYTES:
            return entry, read_shard(file, columns, schema)
        try:
            with file.open() as ranges:
                return entry, read_parquet(ranges, columns, schema)
        except (OSError, DamagedFileError) as error:
            raise shard_error(entry.uri, error) from error

    small = [entry for entry in entries if entry.size <= _WHOLE_BYTES]
    large = [entry for entry in entries if entry.size > _WHOLE_BYTES]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from ahead(pool, read, small, CONNECTIONS)
        yield from ahead(pool, read, large, _LARGE_AT_ONCE)


def read_shard(
    file: Storage, columns: pa.Schema | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Read the file of a shard at once.

    Args:
        file: The one file.
        columns: Columns to read; None: all, as the file has them.
        schema: All columns of its table, as in `read_parquet`.

    Raises:
        InputError: The file is damaged, is not a shard, or cannot be read.
    """
    try:
        return read_parquet(io.BytesIO(file.read()), columns, schema)
    except (OSError, DamagedFileError) as error:
        raise shard_error(file.uri, error) from error


def check_footers(output: Storage, entries: Sequence[FileEntry], schema: pa.Schema) -> None:
    """Check the footers of shards; only the ends of the files are read.

    Args:
        output: Root of the tables.
        entries: Files of the shards.
        schema: All columns of their table.

    Raises:
        InputError: A footer is damaged or of another table, or cannot be read.
    """

    def check(entry: FileEntry) -> None:
        """Check one file."""
        file, size = output.at(entry.uri), entry.size
        try:
            end = file.read_range(max(0, size - _END_BYTES), _END_BYTES) if size else b""
            if len(end) < footer_bytes(end) <= size:
                end = file.read_range(size - footer_bytes(end), footer_bytes(end))
            check_footer(end, size, schema)
        except (OSError, DamagedFileError) as error:
            raise shard_error(entry.uri, error) from error

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(check, entries):
            pass


def shard_error(uri: str, error: OSError | DamagedFileError) -> InputError:
    """Return the error of a shard that cannot be read: what is wrong, and what to do."""
    if isinstance(error, DamagedFileError):
        return InputError(
            f"{uri}: damaged, or no shard of these tables ({error}); bring it back from a backup, "
            "or let unet-ray prune --damaged remove it, so that its images are done again "
            "(unet-ray verify lists all damaged files)"
        )
    return InputError(f"{uri}: cannot be read: {error}")


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
