"""One shard: the masks, regions and images of whole images, written so that it counts as a whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unet_ray.ahead import ahead
from unet_ray.archive.s3 import CONNECTIONS
from unet_ray.archive.storage import FileEntry, Storage
from unet_ray.archive.tables import SCHEMAS, TABLES, to_parquet
from unet_ray.errors import InputError

_WHOLE_BYTES = 2**21
"""Shards up to this size are read by one request."""
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
        return f"{table}/date={self.date}/{self.run_id}-{self.task:06d}.parquet"


def read_shards(output: Storage, entries: Sequence[FileEntry], columns: Sequence[str]) -> Iterator[Any]:
    """Yield columns of shards as tables, one for each, in their order; many are read side by side.

    A dataset of Arrow's would open one after the other, by three requests or four.

    Raises: InputError — a file that is no shard.
    """

    def read(entry: FileEntry) -> Any:
        file = Storage(entry.uri, output.options)
        try:
            if entry.size <= _WHOLE_BYTES:
                return _columns_of(pa.BufferReader(file.read()), columns)
            with file.open() as ranges:
                return _columns_of(ranges, columns)
        except (pa.ArrowException, KeyError) as error:
            raise InputError(f"{entry.uri}: not a shard of tables: {error}; move it away") from None

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from ahead(pool, read, entries, CONNECTIONS)


def _columns_of(file: Any, columns: Sequence[str]) -> Any:
    return pq.ParquetFile(file).read(list(columns), use_threads=False).select(columns)


def is_shard(path: str) -> bool:
    """Tell whether a path below a table's folder is that of a shard."""
    return _SHARD.fullmatch(path) is not None


def write_shard(output: Storage, name: ShardName, tables: dict[str, Any], may_commit: Callable[[], None]) -> None:
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
