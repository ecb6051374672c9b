"""Remove the rows of one model or of a range of dates from an output.

Whole runs are removed, under the output's lock, the ledger last.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from unet_ray.output.config import PruneConfig
from unet_ray.tables.ledger import tables_at
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import (
    Inventory,
    finish_prunes,
    remove_leftovers,
    remove_run,
    take_inventory,
)
from unet_ray.tables.runs import has_finished, new_run_id, recorded_images
from unet_ray.tables.shards import shard_run_id


@dataclass
class PruneResult:
    """The runs and files that were removed, or would be in a dry run."""

    runs: list[str]
    """Ids of the runs, sorted."""
    shards: int
    """Number of shards of these runs."""
    leftovers: list[str]
    """Paths of masks and regions files without their images file, and of half-written files."""


def prune(config: PruneConfig) -> PruneResult:
    """Remove the shards of every run that meets the conditions, and leftovers.

    A run has one model and one date, so that whole files are deleted and none is rewritten. The
    record of a run says that it is being removed before its first file is deleted; the next run or
    prune then finishes what a crash interrupts.

    Args:
        config: Tables and conditions.

    Returns:
        Runs, shards and leftovers that were removed, or would be in a dry run.

    Raises:
        InputError: There are no tables.
        OutputHeldError: A run is writing to the output.
    """
    output = tables_at(config.tables)
    if config.dry_run:
        inventory = take_inventory(output)
        chosen = _choose_runs(inventory, config)
        leftovers = [
            left.path for left in inventory.leftovers if left.is_unfinished or config.leftovers
        ]
        leftovers += inventory.half_written
        return PruneResult(sorted(chosen), sum(map(len, chosen.values())), leftovers)
    output.check_writable(0)
    with OutputLock(output, new_run_id()):
        finish_prunes(take_inventory(output))
        leftovers, _ = remove_leftovers(output, of_any_run=config.leftovers)
        inventory = take_inventory(output)
        chosen = _choose_runs(inventory, config)
        for run_id, paths in chosen.items():
            known = {
                "model_digest": _find_model_digest(inventory, run_id, paths),
                "date": _find_date(inventory, run_id, paths),
            }
            remove_run(inventory, run_id, known)
    return PruneResult(sorted(chosen), sum(map(len, chosen.values())), leftovers)


def _choose_runs(inventory: Inventory, config: PruneConfig) -> dict[str, list[str]]:
    """Return the images files of each run to remove.

    A run whose record counts images, but whose images files are gone, has an empty list.
    """
    if not config.names_runs:
        return {}
    recorded: dict[str, list[str]] = {
        run_id: [] for run_id, record in inventory.records.items() if _counts_images(record)
    }
    shards: dict[str, list[str]] = defaultdict(list, recorded)
    for path in inventory.shards["images"]:
        shards[shard_run_id(path)].append(path)
    return {
        run_id: paths
        for run_id, paths in shards.items()
        if config.includes(_find_date(inventory, run_id, paths))
        and _find_model_digest(inventory, run_id, paths).startswith(config.model_digest or "")
    }


def _counts_images(record: dict[str, Any]) -> bool:
    return has_finished(record) and recorded_images(record) > 0


def _find_date(inventory: Inventory, run_id: str, paths: list[str]) -> str:
    """Return the partition of a run: that of its shards or, without any, what its record says."""
    if paths:
        return paths[0].partition("/")[0].removeprefix("date=")
    record = inventory.records[run_id]
    # records of runs before 2026-11-29 hold the date only where the flag gave it
    date = record.get("date") or record.get("config", {}).get("date")
    return str(date or record.get("started_at", ""))[:10]


def _find_model_digest(inventory: Inventory, run_id: str, paths: list[str]) -> str:
    """Return the model of a run: what its shards say or, without any, what its record says."""
    if not paths:
        return str(inventory.records[run_id].get("model_digest", ""))
    # Arrow's own threads would call Python to read; a process that exits meanwhile gets SIGABRT
    content = io.BytesIO(inventory.output.read(f"images/{paths[0]}"))
    return str(
        pq.read_table(content, columns=["model_digest"], use_threads=False)["model_digest"][0]
    )
