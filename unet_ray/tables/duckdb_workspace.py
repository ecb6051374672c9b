"""Joins over whole archives in bounded memory, by a DuckDB that spills to a temporary folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from unet_ray.storage.temporary import temporary_prefix

_MEMORY = "1500MB"
"""Memory above which the database spills to disk (TMPDIR). Ten million keys fit in it; a billion
spill."""
_ROW_GROUP = 100_000
"""Rows per row group of the workspace's Parquet files."""


class Workspace:
    """A temporary database whose stored tables are Parquet files in a folder.

    `open_workspace()` opens one and deletes it after the `with` block.

    Args:
        folder: Local folder for the Parquet files, and for what DuckDB spills.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": _MEMORY,
                "temp_directory": str(folder / "spilled"),
                "preserve_insertion_order": False,
                "autoload_known_extensions": False,
                "autoinstall_known_extensions": False,
            },
        )

    def close(self) -> None:
        """Close the database and free its memory and spilled files."""
        self._database.close()

    def value(self, query: str) -> Any:
        """Return the single value of a query's result, in the type of the query."""
        return self._database.sql(query).fetchall()[0][0]

    def text(self, query: str) -> str:
        """Return the single value of a query's result, a text."""
        return self._database.sql(query).fetchall()[0][0]

    def table(self, query: str) -> pa.Table:
        """Return the result of a query as an Arrow table."""
        return self._database.sql(query).to_arrow_table()

    def batches(self, query: str, rows: int) -> Iterator[pa.RecordBatch]:
        """Stream the result of a query; no other query may run until the stream has ended.

        Args:
            query: SQL to run.
            rows: Approximate number of rows per batch.

        Yields:
            Arrow record batches.
        """
        yield from self._database.sql(query).to_arrow_reader(rows)

    def view(self, name: str, query: str) -> None:
        """Create or replace a view: a named query that runs again whenever it is used."""
        self._database.execute(f'CREATE OR REPLACE VIEW "{name}" AS {query}')

    def read(self, name: str, dataset: pds.Dataset | pa.Table, columns: Sequence[str]) -> None:
        """Create a view of columns of an Arrow dataset, which is read each time the view is used.

        Args:
            name: Name of the view.
            dataset: Arrow dataset or table.
            columns: Columns of the view.
        """
        self._database.register(f"{name}_rows", dataset)
        names = ", ".join(columns)
        self.view(name, f"SELECT {names} FROM {name}_rows")  # noqa: S608 (constant names)

    def store(self, name: str, query: str) -> None:
        """Run a query once and store its result as a table."""
        path = quote(str(self._path(name)))
        self._database.execute(
            f"COPY ({query}) TO {path} (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})"
        )
        self._open(name)

    def write(
        self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]
    ) -> None:
        """Store rows as a table while they arrive.

        Args:
            name: Name of the table.
            schema: Schema of the table.
            batches: Arrow batches or tables of that schema.
        """
        pending: list[pa.Table] = []
        num_rows = 0
        with pq.ParquetWriter(
            self._path(name), schema, compression="zstd", compression_level=1
        ) as writer:
            for batch in batches:
                pending.append(pa.table(batch))
                num_rows += len(batch)
                if num_rows >= _ROW_GROUP:
                    writer.write_table(pa.concat_tables(pending))
                    pending = []
                    num_rows = 0
            if pending:
                writer.write_table(pa.concat_tables(pending))
        self._open(name)

    def dataset(self, name: str) -> pds.Dataset:
        """Return a stored table as an Arrow dataset."""
        return pds.dataset(self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.parquet"

    def _open(self, name: str) -> None:
        # the function takes a pattern, and TMPDIR may have wildcards in its name
        pattern = re.sub(r"[*?\[]", r"[\g<0>]", str(self._path(name)))
        self.view(name, f"FROM read_parquet({quote(pattern)})")


def quote(text: object) -> str:
    """Return a text as an SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


@contextmanager
def open_workspace() -> Iterator[Workspace]:
    """Open a temporary database for the `with` block, in its own folder below TMPDIR."""
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as folder:
        database = Workspace(Path(folder))
        try:
            yield database
        finally:
            database.close()
