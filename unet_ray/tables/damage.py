"""Finding damaged shards, and removing them on request.

A shard with a damaged file stops every command that needs its rows; otherwise its images would seem
to be new. Once the shard is removed, the ledger no longer has these images, and the next run does
them again.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from functools import partial

from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage
from unet_ray.tables.ledger import summarize_run
from unet_ray.tables.output_folder import Inventory
from unet_ray.tables.parquet_file import DamagedFileError, read_parquet
from unet_ray.tables.runs import write_run_record
from unet_ray.tables.schemas import SCHEMAS, TABLES
from unet_ray.tables.shards import read_files, shard_run_id

_NOTHING = {
    "images_done": 0,
    "images_failed": 0,
    "megapixels": 0.0,
    "error_types": {},
    "regions": {},
    "shards": [],
}
"""Counts in the record of a run that has no shards."""


def find_damaged(inventory: Inventory) -> list[str]:
    """Read all shards that count, and return the paths of those with a damaged file.

    Args:
        inventory: Inventory of the output.

    Returns:
        Paths below a table's folder, sorted.

    Raises:
        InputError: The store does not return a file, which does not mean damage.
    """
    committed = sorted({entry.path for entry in inventory.images})
    paths = [f"{table}/{path}" for path in committed for table in TABLES]
    sizes = {}
    for table in TABLES:
        for path, entry in inventory.shards[table].items():
            sizes[f"{table}/{path}"] = entry.size
    damaged = read_files(
        fetch=partial(_fetch, inventory.output),
        decode=_find_damage,
        items=paths,
        size=lambda path: sizes.get(path, 0),
    )
    return sorted({path.partition("/")[2] for path in damaged if path is not None})


def _fetch(output: Storage, path: str) -> tuple[str, bytes | None]:
    """Return a path and the bytes of the file; None where there is none."""
    try:
        return path, output.read(path)
    except FileNotFoundError:
        return path, None  # `Inventory.check_shards` reports it
    except OSError as error:
        raise InputError(f"{output.uri}/{path}: cannot be read: {error}") from error


def _find_damage(file: tuple[str, bytes | None]) -> str | None:
    """Return the path of a damaged file; None for a sound or missing one."""
    path, data = file
    if data is None:
        return None
    schema = SCHEMAS[path.partition("/")[0]]
    try:
        read_parquet(io.BytesIO(data), schema, schema)
    except DamagedFileError:
        return path
    return None


def remove_damaged(inventory: Inventory, paths: Collection[str]) -> None:
    """Remove shards, and lower the counts in the records of their runs.

    The records come first, then the images files, so a crash can leave only masks and regions that
    do not count.

    Args:
        inventory: Inventory of the output, held by the lock.
        paths: Shards to remove, below a table's folder.
    """
    for run_id in sorted({shard_run_id(path) for path in paths}):
        recount(inventory, run_id, without=paths)
    for table in reversed(TABLES):
        inventory.output.delete_all(f"{table}/{path}" for path in paths)


def recount(inventory: Inventory, run_id: str, without: Collection[str] = ()) -> None:
    """Write the counts of a run's shards into its record, if it has one.

    Args:
        inventory: Inventory of the output, held by the lock.
        run_id: The run.
        without: Paths of shards that are not counted, below a table's folder.
    """
    record = inventory.records.get(run_id)
    if record:
        counts = _NOTHING | summarize_run(inventory.output, run_id, without)
        write_run_record(inventory.output, run_id, record | counts)
