"""Joins over whole archives in bounded memory: DuckDB on a temporary folder, to which it spills."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

_MEMORY = "1500MB"
"""What the database may take before it spills: ten million keys fit, a billion go through the disk (TMPDIR)."""
_ROW_GROUP = 100_000


class Workspace:
    """A database that is gone after the `with` block of `open_workspace()`; its tables are Parquet files in a folder."""

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
        """Free its memory and files."""
        self._database.close()

    def value(self, query: str) -> Any:
        """Return the one value that a query asks for."""
        return self._database.sql(query).fetchall()[0][0]

    def table(self, query: str) -> Any:
        """Return what a query gives as an Arrow table."""
        return self._database.sql(query).to_arrow_table()

    def batches(self, query: str, rows: int) -> Iterator[Any]:
        """Yield what a query gives as Arrow batches of about so many rows; not to be mixed with other queries."""
        yield from self._database.sql(query).to_arrow_reader(rows)

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self._database.execute(f'CREATE VIEW "{name}" AS {query}')

    def read(self, name: str, dataset: Any, columns: Sequence[str]) -> None:
        """Give columns of an Arrow dataset or table a name; it is read whenever a query asks for them."""
        self._database.register(f"{name}_rows", dataset)
        self.view(name, f"SELECT {', '.join(columns)} FROM {name}_rows")  # noqa: S608 (names of ours)

    def store(self, name: str, query: str) -> None:
        """Give what a query finds now a name."""
        path = self._path(name)
        self._database.execute(
            f"COPY ({query}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})"
        )
        self._open(name)

    def write(self, name: str, schema: pa.Schema, batches: Iterable[Any]) -> None:
        """Give the rows of Arrow batches or tables a name; they are taken as they come."""
        pending: list[Any] = []
        rows = 0
        with pq.ParquetWriter(
            self._path(name), schema, compression="zstd", compression_level=1
        ) as writer:
            for batch in batches:
                pending.append(pa.table(batch))
                rows += len(batch)
                if rows >= _ROW_GROUP:
                    writer.write_table(pa.concat_tables(pending))
                    pending, rows = [], 0
            if pending:
                writer.write_table(pa.concat_tables(pending))
        self._open(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.parquet"

    def _open(self, name: str) -> None:
        self.view(name, f"FROM read_parquet('{self._path(name)}')")


@contextmanager
def open_workspace() -> Iterator[Workspace]:
    """Open a database for the `with` block, in a folder of its own below TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="unet_ray_") as folder:
        database = Workspace(Path(folder))
        try:
            yield database
        finally:
            database.close()
