"""Remove the rows of one model, of a range of dates, or of single images from an output.

A model or dates select whole runs; rows of single images are removed from all runs. All this
happens under the output's lock, and the ledger is changed last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from unet_ray.errors import InputError
from unet_ray.image_sources.names import image_uri, split_uri
from unet_ray.output.config import PruneConfig
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import Storage
from unet_ray.storage.uris import uri_scheme
from unet_ray.store_options import read_store_options
from unet_ray.tables.damage import find_damaged, recount, remove_damaged
from unet_ray.tables.ledger import tables_at
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import (
    Inventory,
    finish_prunes,
    remove_leftovers,
    remove_runs,
    take_inventory,
)
from unet_ray.tables.removal import (
    RemovedRows,
    count_rows,
    find_images,
    finish_removals,
    hash_uri,
    pending_hashes,
    remove_images,
    select_images,
)
from unet_ray.tables.runs import has_finished, new_run_id, recorded_images
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import read_shard, shard_run_id

_MODEL = pa.schema([SCHEMAS["images"].field("model_digest").with_nullable(True)])


@dataclass
class PruneResult:
    """The runs, rows and files that were removed, or would be without `dry_run`."""

    runs: list[str]
    """Ids of the runs, sorted."""
    shards: int
    """Number of shards of these runs."""
    leftovers: list[str]
    """Paths of masks and regions files without their images file, and of half-written files."""
    images: list[RemovedRows] = field(default_factory=list)
    """Rows of single images, by run and URI."""
    damaged: list[str] = field(default_factory=list)
    """Damaged shards, as paths below a table's folder."""


def prune(config: PruneConfig) -> PruneResult:
    """Remove the shards of every run that meets the conditions, rows of images, and leftovers.

    A run has one model and one date, so whole files are deleted. Only files with rows of a removed
    image are rewritten. The record of a run states the removal before the first file is touched; if
    a crash interrupts the removal, the next run or prune finishes it.

    Args:
        config: Tables and conditions.

    Returns:
        Runs, shards, rows and leftovers that were removed, or would be without `dry_run`.

    Raises:
        InputError: There are no tables, no row of an image, or a shard is damaged and --damaged is
            not given.
        OutputHeldError: A run is writing to the output.
    """
    output = tables_at(config.tables, read_store_options(config, "tables"))
    if config.dry_run:
        inventory = take_inventory(output)
        chosen = _choose_runs(inventory, config)
        leftovers = [
            left.path for left in inventory.leftovers if left.is_unfinished or config.leftovers
        ]
        leftovers += inventory.half_written
        return PruneResult(
            runs=sorted(chosen),
            shards=sum(map(len, chosen.values())),
            leftovers=leftovers,
            damaged=find_damaged(inventory) if config.damaged else [],
            images=_remove_images(inventory, config, pending_hashes(inventory)),
        )
    output.check_writable(0)
    with OutputLock(output, new_run_id()):
        inventory = take_inventory(output)
        finish_prunes(inventory)
        damaged = []
        if config.damaged:  # before the search for rows, which a damaged shard would stop
            inventory = take_inventory(output)
            damaged = find_damaged(inventory)
            remove_damaged(inventory, damaged)
        inventory = take_inventory(output)
        finished = pending_hashes(inventory)
        images = finish_removals(inventory)
        if finished:  # the damaged shards may have had some of their rows
            inventory = take_inventory(output)
            for run_id in {shard_run_id(path) for path in damaged}:
                recount(inventory, run_id)
        leftovers, _ = remove_leftovers(output, of_any_run=config.leftovers)
        inventory = take_inventory(output)
        chosen = _choose_runs(inventory, config)
        remove_runs(inventory, _describe_runs(inventory, chosen))
        images += _remove_images(inventory, config, finished)
    return PruneResult(
        runs=sorted(chosen),
        shards=sum(map(len, chosen.values())),
        leftovers=leftovers,
        damaged=damaged,
        images=images,
    )


def _remove_images(
    inventory: Inventory, config: PruneConfig, finished: Collection[str]
) -> list[RemovedRows]:
    """Remove the rows of the images that are named; in a dry run, only count them.

    Args:
        inventory: Inventory of the output.
        config: The images.
        finished: Hashes of images whose removal an earlier prune began; they may have no rows.
    """
    if config.image is None:
        return []
    inventory.check_shards()
    if inventory.leftovers and not config.dry_run:
        raise InputError(
            f"{inventory.output.uri}: {len(inventory.leftovers)} files without their images file "
            "may hold rows of the image, the first is "
            f"{inventory.leftovers[0].path}; add --leftovers to remove them"
        )
    whole = _resolve(config.image)
    parts = [_resolve(part) for part in config.image.split(",")]
    found = find_images(inventory, {hash_uri(uri) for uri in [whole, *parts]})
    present = {uri_hash for of_shard in found.values() for uri_hash in of_shard.values()}
    present.update(finished)
    wanted = [whole] if hash_uri(whole) in present else parts  # a URI may have a comma
    absent = [uri for uri in wanted if hash_uri(uri) not in present]
    if absent:
        raise InputError(
            f"--image {absent[0]}: no row of {inventory.output.uri} has this image; give the "
            "URI as it appears in the column image_uri"
        )
    hashes = {hash_uri(uri) for uri in wanted}
    found = select_images(found, hashes)
    if config.dry_run:
        return count_rows(inventory, found)
    return remove_images(inventory, found, hashes)


def _resolve(uri: str) -> str:
    """Return the URI of an image as in the tables: paths of this machine become absolute."""
    file, key = split_uri(uri.strip())
    return image_uri(Storage.of(file).uri if uri_scheme(file) == "file" else file, key)


def _choose_runs(inventory: Inventory, config: PruneConfig) -> dict[str, list[str]]:
    """Return the images files of each run to remove.

    A run whose record counts images, but whose images files are gone, has an empty list.
    """
    if not config.names_runs:
        return {}
    shards: dict[str, list[str]] = defaultdict(list)
    for run_id, record in inventory.records.items():
        if has_finished(record) and recorded_images(record) > 0:
            shards[run_id] = []
    for path in inventory.shards["images"]:
        shards[shard_run_id(path)].append(path)
    of_dates = {
        run_id: paths
        for run_id, paths in shards.items()
        if config.includes(_find_date(inventory, run_id, paths))
    }
    digests = _find_model_digests(inventory, of_dates)
    return {
        run_id: paths
        for run_id, paths in of_dates.items()
        if digests[run_id].startswith(config.model_digest or "")
    }


def _describe_runs(inventory: Inventory, runs: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """Return the known fields of some runs, for those that have no record."""
    digests = _find_model_digests(inventory, runs)
    return {
        run_id: {
            "model_digest": digests[run_id],
            "date": _find_date(inventory, run_id, paths),
        }
        for run_id, paths in runs.items()
    }


def _find_date(inventory: Inventory, run_id: str, paths: list[str]) -> str:
    """Return the partition of a run, from its shards or, without any, from its record."""
    if paths:
        return paths[0].partition("/")[0].removeprefix("date=")
    record = inventory.records[run_id]
    # records of runs before 2026-11-29 hold the date only where the flag gave it
    date = record.get("date") or record.get("config", {}).get("date")
    return str(date or record.get("started_at", ""))[:10]


def _find_model_digests(inventory: Inventory, runs: dict[str, list[str]]) -> dict[str, str]:
    """Return the models of runs, given their images files; shards are read in parallel."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        digests = pool.map(partial(_find_model_digest, inventory), runs, runs.values())
        return dict(zip(runs, digests, strict=True))


def _find_model_digest(inventory: Inventory, run_id: str, paths: list[str]) -> str:
    """Return the model of a run, from its record or, without one, from its shards."""
    recorded = inventory.records.get(run_id, {}).get("model_digest")
    if recorded is not None:
        return str(recorded)
    for path in paths:
        file = inventory.output.join(f"images/{path}")
        rows = read_shard(file, _MODEL, SCHEMAS["images"])
        if len(rows):  # all its images may have been removed
            return str(rows["model_digest"][0])
    return ""
