"""Remove the rows of one model or of a range of dates from an output: whole runs, under the lock, ledger last."""

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
from unet_ray.tables.runs import PRUNED, has_finished, new_run_id, recorded_images
from unet_ray.tables.shards import shard_run_id


@dataclass
class PruneResult:
    """What was removed, or would be."""

    runs: list[str]
    shards: int
    leftovers: list[str]
    """Masks and regions files without their images file."""


def prune(config: PruneConfig) -> PruneResult:
    """Remove the shards of every run that meets the conditions, and leftovers.

    A run has one model and one date, so that whole files go and nothing is rewritten. A run's record says that it is
    being removed before its first file goes: what a crash leaves of it is removed by the next run or prune.

    Raises: InputError — no tables there; OutputHeldError — a run writes to them.
    """
    output = tables_at(config.tables)
    if config.dry_run:
        inventory = take_inventory(output)
        chosen = _chosen(inventory, config)
        would_go = [
            left.path for left in inventory.leftovers if left.is_unfinished or config.leftovers
        ]
        return PruneResult(sorted(chosen), sum(map(len, chosen.values())), would_go)
    output.check_writable()
    with OutputLock(output, new_run_id()):
        finish_prunes(take_inventory(output))
        leftovers, _ = remove_leftovers(output, of_any_run=config.leftovers)
        inventory = take_inventory(output)
        chosen = _chosen(inventory, config)
        for run_id, paths in chosen.items():
            known = {
                "model_digest": _digest_of(inventory, run_id, paths),
                "date": _date_of(inventory, run_id, paths),
            }
            remove_run(inventory, run_id, known)
    return PruneResult(sorted(chosen), sum(map(len, chosen.values())), leftovers)


def _chosen(inventory: Inventory, config: PruneConfig) -> dict[str, list[str]]:
    """Return the runs to remove, and the images files of each: none where they are gone and the record counts them."""
    if not config.names_runs:
        return {}
    counted: dict[str, list[str]] = {
        run_id: [] for run_id, record in inventory.records.items() if _is_counted(record)
    }
    shards: dict[str, list[str]] = defaultdict(list, counted)
    for path in inventory.shards["images"]:
        shards[shard_run_id(path)].append(path)
    return {
        run_id: paths
        for run_id, paths in shards.items()
        if config.includes(_date_of(inventory, run_id, paths))
        and _digest_of(inventory, run_id, paths).startswith(config.model_digest or "")
    }


def _is_counted(record: dict[str, Any]) -> bool:
    return record.get("status") != PRUNED and has_finished(record) and recorded_images(record) > 0


def _date_of(inventory: Inventory, run_id: str, paths: list[str]) -> str:
    """Return the partition of a run: that of its shards, or what its record says."""
    if paths:
        return paths[0].partition("/")[0].removeprefix("date=")
    record = inventory.records[run_id]
    named = record.get("date") or record.get("config", {}).get(
        "date"
    )  # runs before 2026-11-29: of the flag only
    return str(named or record.get("started_at", ""))[:10]


def _digest_of(inventory: Inventory, run_id: str, paths: list[str]) -> str:
    """Return the model of a run: what its shards say, or its record."""
    if not paths:
        return str(inventory.records[run_id].get("model_digest", ""))
    # threads of Arrow's that still read from Python end the process with SIGABRT where it ends at that moment
    content = io.BytesIO(inventory.output.read(f"images/{paths[0]}"))
    return str(
        pq.read_table(content, columns=["model_digest"], use_threads=False)["model_digest"][0]
    )
