"""Shards of which a file is damaged: how they are found, and removed so that others count again.

A damaged shard stops every command that needs its rows; none takes its images for new ones. Once it
is removed on request, the ledger no longer has its images, and the next run does them again.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from unet_ray.errors import InputError
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import Storage
from unet_ray.tables.ledger import summarize_run
from unet_ray.tables.output_folder import Inventory
from unet_ray.tables.parquet_file import DamagedFileError, read_parquet
from unet_ray.tables.runs import write_run_record
from unet_ray.tables.schemas import SCHEMAS, TABLES
from unet_ray.tables.shards import shard_run_id

_NOTHING = {
    "images_done": 0,
    "images_failed": 0,
    "megapixels": 0.0,
    "error_types": {},
    "regions": {},
    "shards": [],
}
"""Counts in the record of a run without shards."""


def find_damaged(inventory: Inventory) -> list[str]:
    """Read all shards that count, and return the paths of those of which a file is damaged.

    Args:
        inventory: Inventory of the output.

    Returns:
        Paths below a table's folder, sorted.

    Raises:
        InputError: The store does not return a file; that is no damage.
    """
    paths = sorted(entry.path for entry in inventory.images)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = pool.map(partial(_is_damaged, inventory.output), paths)
        return [path for path, is_damaged in zip(paths, found, strict=True) if is_damaged]


def _is_damaged(output: Storage, path: str) -> bool:
    for table in TABLES:
        try:
            data = output.read(f"{table}/{path}")
            read_parquet(io.BytesIO(data), SCHEMAS[table], SCHEMAS[table])
        except DamagedFileError:
            return True
        except FileNotFoundError:
            continue  # `Inventory.check_shards` tells what to do
        except OSError as error:
            raise InputError(f"{output.uri}/{table}/{path}: cannot be read: {error}") from error
    return False


def remove_damaged(inventory: Inventory, paths: Collection[str]) -> None:
    """Remove shards, and have the records of their runs count the others only.

    The record comes first, then the images file, so that whatever a crash leaves is at most masks
    and regions that do not count.

    Args:
        inventory: Inventory of the output, held by the lock.
        paths: Shards to remove, below a table's folder.
    """
    by_run: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_run[shard_run_id(path)].append(path)
    for run_id, of_run in by_run.items():
        recount(inventory, run_id, without=paths)
        for table in reversed(TABLES):
            for path in of_run:
                inventory.output.delete(f"{table}/{path}")


def recount(inventory: Inventory, run_id: str, without: Collection[str] = ()) -> None:
    """Write the counts of a run's shards into its record, if it has one.

    Args:
        inventory: Inventory of the output, held by the lock.
        run_id: The run.
        without: Shards that are not counted, as paths below a table's folder.
    """
    if record := inventory.records.get(run_id):
        counts = _NOTHING | summarize_run(inventory.output, run_id, without)
        write_run_record(inventory.output, run_id, record | counts)
