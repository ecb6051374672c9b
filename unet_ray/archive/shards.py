"""One shard: the masks, regions and images of whole images, written so that it counts as a whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import SCHEMAS, TABLES, to_parquet

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
