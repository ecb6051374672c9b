"""Shards: rows of whole images, in three files that count together or not at all."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from unet_ray.errors import InputError
from unet_ray.prefetch import ahead
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.ranged_file import RangedFile
from unet_ray.storage.storage import Storage
from unet_ray.tables.parquet_file import (
    DamagedFileError,
    SeekableFile,
    find_ranges,
    read_parquet,
    to_parquet,
)
from unet_ray.tables.schemas import SCHEMAS, TABLES

Item = TypeVar("Item")
Fetched = TypeVar("Fetched")
Result = TypeVar("Result")

_WHOLE_BYTES = 2**20
"""Largest shard that is read by one request (bytes)."""
_FETCHED_BYTES = 2**25
"""Total size of the files that are fetched ahead (bytes); a larger one is fetched alone."""
_DECODED_AHEAD = 2
"""Number of files that are decoded before their rows are asked for."""
_END_BYTES = 2**16
"""Size of the end of a shard that holds the footer, except in very large shards (bytes)."""
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
    output: Storage, entries: Iterable[FileEntry], columns: pa.Schema, schema: pa.Schema
) -> Iterator[tuple[FileEntry, pa.Table]]:
    """Read columns of the shards of a table, in order and in parallel (see `read_files`).

    Args:
        output: Root of the tables.
        entries: Files of the shards.
        columns: Columns to read; a column that a shard lacks is null.
        schema: All columns of the table.

    Yields:
        Each shard's file and its columns as a table.

    Raises:
        InputError: A file is damaged, is not a shard, or cannot be read.
    """

    def fetch(entry: FileEntry) -> tuple[FileEntry, SeekableFile]:
        """Fetch the part of a shard that is read."""
        with named_errors(entry.uri):
            return entry, fetch_columns(output.at(entry.uri), entry.size, columns, schema)

    def decode(fetched: tuple[FileEntry, SeekableFile]) -> tuple[FileEntry, pa.Table]:
        """Decode the columns of a shard."""
        entry, file = fetched
        with named_errors(entry.uri):
            return entry, read_parquet(file, columns, schema)

    return read_files(fetch, decode, entries, lambda entry: entry.size)


def read_files(
    fetch: Callable[[Item], Fetched],
    decode: Callable[[Fetched], Result],
    items: Iterable[Item],
    size: Callable[[Item], int],
) -> Iterator[Result]:
    """Read files of shards in order: many are fetched in parallel, and a few are decoded ahead.

    All reading of many shards goes through here. An Arrow dataset would open one after the other,
    with three or four requests each. The memory holds the fetched files and the rows of three
    files; rows may take a hundred times the memory of their file.

    Args:
        fetch: Function that fetches the bytes of a file.
        decode: Function that decodes them.
        items: Files.
        size: Function that returns the size of a file (bytes).

    Yields:
        Result of `decode` for each file.
    """
    with (
        ThreadPoolExecutor(CONNECTIONS) as fetching,
        ThreadPoolExecutor(_DECODED_AHEAD) as decoding,
    ):
        fetched = ahead(fetching, fetch, items, CONNECTIONS, size=size, most_size=_FETCHED_BYTES)
        yield from ahead(decoding, decode, fetched, _DECODED_AHEAD)


def read_whole_files(
    output: Storage,
    files: Iterable[tuple[str, int]],
    schemas: Mapping[str, pa.Schema] | None = None,
) -> Iterator[tuple[str, pa.Table]]:
    """Read whole files of shards of any table, in order and in parallel (see `read_files`).

    Args:
        output: Root of the tables.
        files: Path below the output, and size (bytes).
        schemas: Columns to read, by table; None: all, as the files have them.

    Yields:
        Path and rows of each.

    Raises:
        InputError: A file is missing, damaged, is not a shard, or cannot be read.
    """

    def fetch(file: tuple[str, int]) -> tuple[str, bytes]:
        """Fetch one file."""
        with named_errors(output.uri_of(file[0])):
            return file[0], output.read(file[0])

    def decode(fetched: tuple[str, bytes]) -> tuple[str, pa.Table]:
        """Decode one file."""
        path, data = fetched
        schema = None if schemas is None else schemas[path.partition("/")[0]]
        with named_errors(output.uri_of(path)):
            return path, read_parquet(io.BytesIO(data), schema, schema)

    return read_files(fetch, decode, files, lambda file: file[1])


def fetch_columns(
    file: Storage, file_bytes: int, columns: pa.Schema, schema: pa.Schema
) -> SeekableFile:
    """Fetch the bytes that `read_parquet` needs for some columns of a shard.

    A small file is fetched whole by one request, and so is a file whose columns are all wanted.
    From other files, only the bytes of these columns are fetched.

    Args:
        file: The one file.
        file_bytes: Size of the file.
        columns: Columns to read.
        schema: All columns of its table.

    Raises:
        DamagedFileError: The footer is damaged.
        OSError: The store does not return the bytes.
    """
    if file_bytes <= _WHOLE_BYTES or set(schema.names) <= set(columns.names):
        return io.BytesIO(file.read())
    ranged = RangedFile(file, file_bytes)
    ranged.fetch([(file_bytes - _END_BYTES, file_bytes)])
    ranged.fetch(find_ranges(ranged, columns.names))
    return ranged


def read_shard(
    file: Storage, columns: pa.Schema | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Read one file of a shard.

    Args:
        file: The one file.
        columns: Columns to read; None: all, as the file has them.
        schema: All columns of the table, as in `read_parquet`.

    Raises:
        InputError: The file is damaged, is not a shard, or cannot be read.
    """
    with named_errors(file.uri):
        return read_parquet(io.BytesIO(file.read()), columns, schema)


@contextmanager
def named_errors(uri: str) -> Iterator[None]:
    """Turn errors of the `with` block, which reads a file of a shard, into one line about the file.

    Raises:
        InputError: The file is damaged, is not a shard, or cannot be read.
    """
    try:
        yield
    except DamagedFileError as error:
        raise InputError(
            f"{uri}: damaged, or not a shard of these tables ({error}); restore it from a backup, "
            "or remove it with unet-ray prune --damaged so that its images are done again "
            "(unet-ray verify lists all damaged files)"
        ) from error
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error}") from error


def is_shard(path: str) -> bool:
    """Tell whether a path below a table's folder has the form of a shard's name."""
    return _SHARD.fullmatch(path) is not None


def write_shard(
    output: Storage, name: ShardName, tables: dict[str, pa.Table], may_commit: Callable[[], None]
) -> None:
    """Write a shard: masks, then regions, then images; the images file commits it.

    Each file is serialised first and stored as one whole object. Every attempt writes the same
    bytes.

    Args:
        output: Root of the tables.
        name: Name of the shard, the same for every attempt of a task.
        tables: Arrow tables by name (`masks`, `regions`, `images`); they are cast to their schemas.
        may_commit: Function that is called right before each attempt to store the images file; it
            raises an exception if this run no longer holds the output.
    """
    for table in TABLES:
        data = to_parquet(tables[table].cast(SCHEMAS[table]))
        if table == "images":
            output.write(name.path(table), data, may_write=may_commit)
        else:
            output.write(name.path(table), data)
