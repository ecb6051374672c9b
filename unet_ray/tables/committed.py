"""The committed shards of an output, as they were listed at one moment, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from unet_ray.errors import InputError
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import is_shard, read_shards, read_whole_files

_PLACE = (pa.field("date", pa.string()), pa.field("shard", pa.string()))


@dataclass(frozen=True)
class CommittedShards:
    """The files of the shards that count, as they were listed."""

    output: Storage
    """Root of the tables."""
    files: dict[str, list[FileEntry]]
    """Files by table, sorted by path."""

    @staticmethod
    def of(output: Storage) -> CommittedShards:
        """List the shards of an output.

        The images files are listed first, so that a shard that is written meanwhile is either whole
        or absent.

        Raises:
            InputError: There is another Parquet file, which may be a shard that was renamed.
        """
        images = _list_table(output, "images")
        committed = {entry.path for entry in images}
        files = {"images": images}
        with ThreadPoolExecutor(2) as pool:
            others = {
                table: pool.submit(_list_table, output, table) for table in ("masks", "regions")
            }
            for table, listed in others.items():
                files[table] = [e for e in listed.result() if e.path in committed]
        return CommittedShards(output, files)

    def of_dates(self, dates: Collection[str]) -> CommittedShards:
        """Return the shards of some partitions, YYYY-MM-DD each."""
        return self._select(lambda entry: _date_of(entry.path) in dates)

    def of_paths(self, paths: Collection[str]) -> CommittedShards:
        """Return the shards at some paths; paths start below a table's folder."""
        return self._select(lambda entry: entry.path in paths)

    def _select(self, is_wanted: Callable[[FileEntry], bool]) -> CommittedShards:
        files = {}
        for table, entries in self.files.items():
            files[table] = [entry for entry in entries if is_wanted(entry)]
        return CommittedShards(self.output, files)

    def iterate(self, table: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """Read columns of a table, shard by shard in order, with many shards read in parallel.

        Args:
            table: Name of the table.
            columns: Columns to read; a column that a shard lacks is null.

        Yields:
            Path of a shard below the table's folder, and its rows. Two more columns hold its
            partition, `date`, and its path, `shard`. If another program wrote the file, any column
            may have nulls.

        Raises:
            InputError: A shard is damaged, or cannot be read.
        """
        fields = [SCHEMAS[table].field(name) for name in columns]
        wanted = pa.schema(fields, SCHEMAS[table].metadata)
        for entry, rows in read_shards(self.output, self.files[table], wanted, SCHEMAS[table]):
            yield entry.path, _add_place(rows, entry.path)

    def iterate_whole(self) -> Iterator[tuple[str, dict[str, pa.Table]]]:
        """Read the three tables, all columns, shard by shard in order, many shards in parallel.

        Yields:
            Path of a shard below a table's folder, and its rows by table, as `iterate` yields them.

        Raises:
            InputError: A shard is damaged, or one of its files is missing.
        """
        paths = [entry.path for entry in self.files["images"]]
        sizes = {}
        for table in SCHEMAS:
            for entry in self.files[table]:
                sizes[f"{table}/{entry.path}"] = entry.size
        wanted = [f"{table}/{path}" for path in paths for table in SCHEMAS]
        sized = [(path, sizes.get(path, 0)) for path in wanted]
        files = read_whole_files(self.output, sized, SCHEMAS)
        for path in paths:
            tables = {}
            for table in SCHEMAS:
                _, rows = next(files)
                tables[table] = _add_place(rows, path)
            yield path, tables

    def read(self, table: str, columns: Sequence[str]) -> pa.Table:
        """Read columns of a table into memory, as `iterate` does."""
        empty = row_schema(table, columns).empty_table()
        found = [rows for _, rows in self.iterate(table, columns)]
        return pa.concat_tables([empty, *found])


def row_schema(table: str, columns: Sequence[str]) -> pa.Schema:
    """Return the schema of the rows that `CommittedShards.iterate` yields."""
    fields = [SCHEMAS[table].field(name) for name in columns]
    return pa.schema([*fields, *_PLACE], SCHEMAS[table].metadata)


def _add_place(rows: pa.Table, path: str) -> pa.Table:
    """Return rows with the columns `date` and `shard`."""
    for field, text in zip(_PLACE, (_date_of(path), path), strict=True):
        values = pa.repeat(pa.scalar(text, field.type), len(rows))
        rows = rows.append_column(field, values)
    return rows


def _date_of(path: str) -> str:
    return path.partition("/")[0].removeprefix("date=")


def _list_table(output: Storage, table: str) -> list[FileEntry]:
    """Return the shards of a table, committed or not."""
    shards = []
    for entry in output.entries(table, missing_ok=True):
        if is_shard(entry.path):
            shards.append(entry)
        elif entry.path.endswith(".parquet"):
            raise InputError(f"{entry.uri}: not part of the tables; move it away")
    return shards
