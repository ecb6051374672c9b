"""Removal of the rows of single images from the shards of all runs, as after withdrawn consent.

Images are named by the sha256 of their URI, since a URI may be patient data. A removal takes three
steps, each of which may be repeated:

1. The record of each run concerned gets lower counts, and lists the removal as `removing_images`.
2. Each shard that has such rows is rewritten: masks, then regions, then images. As long as the
   images file has the rows, a repeated removal finds the shard again.
3. In the records, `removing_images` becomes `removed_images`.

A crash before the first record is written changes nothing; after it, `finish_removals` completes
the removal.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from unet_ray.errors import InputError
from unet_ray.prefetch import ahead
from unet_ray.tables.output_folder import Inventory
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.runs import write_run_records
from unet_ray.tables.schemas import IMAGES, TABLES
from unet_ray.tables.shards import read_shard, read_shards, read_whole_files, shard_run_id

REMOVING, REMOVED = "removing_images", "removed_images"
"""Fields of a run's record: the removal under way, and the list of finished ones."""
Found = dict[str, dict[str, str]]
"""Rows of images to remove: the hash that names each, by path of the shard and URI of the row."""
_COUNTED = ("uri_sha256", "images", "masks", "regions")
_ROWS = 10_000
"""Number of rows that are hashed at a time."""
_REWRITTEN_AT_ONCE = 8
"""Number of shards that are rewritten in parallel."""
_REWRITTEN_BYTES = 2**25
"""Total size of the files that are rewritten at the same time (bytes); a larger one is rewritten
alone."""
_NAMES = pa.schema([IMAGES.field(name).with_nullable(True) for name in ("image_uri", "pages")])


@dataclass
class RemovedRows:
    """The rows of one image, or of all images of one file, that a run loses."""

    run_id: str
    uri_sha256: str
    images: int = 0
    masks: int = 0
    regions: int = 0


@dataclass
class _RunSums:
    """Sums over the rows that a run loses."""

    known: dict[str, Any]
    """Fields for the record of the run, in case it has none."""
    rows: dict[str, RemovedRows] = field(default_factory=dict)
    """Numbers of rows by the hash that names their image."""
    failed: int = 0
    megapixels: float = 0.0
    error_types: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)


def hash_uri(uri: str) -> str:
    """Return the sha256 of a URI, by which records name images that were removed."""
    return hashlib.sha256(uri.encode()).hexdigest()


def pending_hashes(inventory: Inventory) -> list[str]:
    """Return the hashes of a removal that has begun but not finished; none where there is none."""
    hashes: set[str] = set()
    for record in inventory.records.values():
        if REMOVING in record:
            hashes.update(record[REMOVING]["uri_sha256"])
    return sorted(hashes)


def finish_removals(inventory: Inventory) -> list[RemovedRows]:
    """Finish the removal of images that an earlier prune began; return the rows it removed."""
    hashes = pending_hashes(inventory)
    if not hashes:
        return []
    return remove_images(inventory, find_images(inventory, hashes), hashes)


def find_images(inventory: Inventory, hashes: Collection[str]) -> Found:
    """Find the rows of images, or of the pages of files, by the hashes of their URIs.

    Args:
        inventory: Inventory of the output.
        hashes: Hashes of URIs of images, or of files with several pages.

    Returns:
        The rows, of only those shards that have any.

    Raises:
        InputError: A file is damaged, is not a shard, or cannot be read.
    """
    found: Found = {}
    for entry, rows in read_shards(inventory.output, inventory.images, _NAMES, IMAGES):
        of_shard: dict[str, str] = {}
        for batch in rows.to_batches(_ROWS):
            for row in batch.to_pylist():
                names = _list_names(row["image_uri"], row["pages"])
                named = [h for h in map(hash_uri, names) if h in hashes]
                if named:
                    of_shard[row["image_uri"]] = named[0]
        if of_shard:
            found[entry.path] = of_shard
    return found


def select_images(found: Found, hashes: Collection[str]) -> Found:
    """Return the rows that some hashes name, of only those shards that have any."""
    selected = {}
    for path, of_shard in found.items():
        kept = {uri: uri_hash for uri, uri_hash in of_shard.items() if uri_hash in hashes}
        if kept:
            selected[path] = kept
    return selected


def _list_names(uri: str | None, pages: int | None) -> list[str]:
    """Return the URIs by which an image can be named: its own and, for a page, its file's."""
    if uri is None:  # another program wrote the row
        return []
    if pages is not None and pages > 1:
        return [uri, uri.rpartition("#")[0]]
    return [uri]


def count_rows(inventory: Inventory, found: Found) -> list[RemovedRows]:
    """Count the rows that `remove_images` would remove, by run and URI."""
    by_run = sorted(_sum_up(inventory, found).items())
    return [rows for _, sums in by_run for rows in sums.rows.values()]


def remove_images(inventory: Inventory, found: Found, hashes: Collection[str]) -> list[RemovedRows]:
    """Remove rows from the three tables, and note it in the records of their runs.

    Args:
        inventory: Inventory of the output, held by the lock. A removal that has begun but not
            finished must be the one of the same hashes.
        found: The rows, as `find_images` finds them.
        hashes: All hashes of the images to remove.

    Returns:
        The rows that were removed, by run and URI, with those of an interrupted removal.

    Raises:
        InputError: The record of a run concerned exists but cannot be read; nothing is removed.
    """
    output, records = inventory.output, dict(inventory.records)
    for run_id in {shard_run_id(path) for path in found}:
        if f"runs/{run_id}.json" in inventory.unreadable:
            raise InputError(
                f"{output.uri}/runs/{run_id}.json: not a readable run record, but it must list "
                "what is removed; restore or delete it, then prune again"
            )
    sums = _sum_up(inventory, found)
    names = _removed_names(found)
    removed_at = datetime.now(UTC).isoformat(timespec="seconds")
    begun = {}
    for run_id in sorted(records.keys() | sums.keys()):
        record = _without_mentions(records.get(run_id) or sums[run_id].known, names)
        if run_id in sums and REMOVING not in record:
            lost = [
                {"removed_at": removed_at} | {name: getattr(rows, name) for name in _COUNTED}
                for rows in sums[run_id].rows.values()
            ]
            record = _lowered(record, sums[run_id])
            record[REMOVING] = {"uri_sha256": sorted(hashes), "rows": lost}
        if record != records.get(run_id):
            begun[run_id] = record
    write_run_records(output, begun)
    records |= begun
    _rewrite_shards(inventory, found)
    removed = []
    done = {}
    for run_id, record in sorted(records.items()):
        if REMOVING in record:
            rest = dict(record)
            rows = rest.pop(REMOVING)["rows"]
            earlier = rest.get(REMOVED, [])
            done[run_id] = rest | {REMOVED: [*earlier, *rows]}
            for row in rows:
                counts = {name: row[name] for name in _COUNTED}
                removed.append(RemovedRows(run_id, **counts))
    write_run_records(output, done)
    return removed


def _sum_up(inventory: Inventory, found: Found) -> dict[str, _RunSums]:
    """Sum up the rows that each run loses, by run id."""
    by_run: dict[str, _RunSums] = {}
    files = []
    for path in found:
        for table in TABLES:
            entry = inventory.shards[table].get(path)
            files.append((f"{table}/{path}", entry.size if entry else 0))
    read = read_whole_files(inventory.output, files)
    for path, of_shard in found.items():
        run_id = shard_run_id(path)
        rows = {}
        for table in TABLES:
            _, whole = next(read)
            rows[table] = whole.filter(_is_one_of(whole, of_shard))
        images = rows["images"]
        known = {
            "model_digest": images["model_digest"][0].as_py(),
            "config_digest": images["config_digest"][0].as_py(),
            "run_id": run_id,
            "status": "unknown",
            "date": path.partition("/")[0].removeprefix("date="),
        }
        sums = by_run.setdefault(run_id, _RunSums(known))
        for table in TABLES:
            for uri in rows[table]["image_uri"].to_pylist():
                uri_hash = of_shard[uri]
                of_uri = sums.rows.setdefault(uri_hash, RemovedRows(run_id, uri_hash))
                setattr(of_uri, table, getattr(of_uri, table) + 1)
        sums.failed += len(images) - images["error_type"].null_count
        sums.error_types.update(images["error_type"].drop_null().to_pylist())
        sums.regions.update(rows["regions"]["class_name"].to_pylist())
        for image in images.select(["height", "width"]).to_pylist():
            sums.megapixels += (image["height"] or 0) * (image["width"] or 0) / 1e6
    return by_run


def _lowered(record: Mapping[str, Any], sums: _RunSums) -> dict[str, Any]:
    """Return a record whose counts are lowered by the rows that a run loses.

    No count falls below 0: the record of a run that did not finish may count fewer images than its
    shards have.
    """
    num_images = sum(rows.images for rows in sums.rows.values())
    lost: dict[str, float] = {
        "images_done": num_images - sums.failed,
        "images_failed": sums.failed,
        "megapixels": sums.megapixels,
    }
    lowered = dict(record)
    for name, number in lost.items():
        lowered[name] = max(0, (record.get(name) or 0) - number)
    for name, counts in (("error_types", sums.error_types), ("regions", sums.regions)):
        left = Counter(record.get(name) or {})
        left.subtract(counts)
        lowered[name] = dict((+left).most_common())
    return lowered


def _removed_names(found: Found) -> set[str]:
    """Return the URIs, of images or of files, that were named for removal and have rows."""
    names = set()
    for of_shard in found.values():
        for uri, uri_hash in of_shard.items():
            for name in (uri, uri.rpartition("#")[0]):
                if hash_uri(name) == uri_hash:
                    names.add(name)
    return names


def _without_mentions(record: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a record without error messages, and groups set aside, that name removed images."""
    cleaned = dict(record)
    messages = record.get("error_messages")
    if isinstance(messages, dict):
        cleaned["error_messages"] = {}
        for message, count in messages.items():
            if not any(name in message for name in names):
                cleaned["error_messages"][message] = count
    groups = record.get("set_aside")
    if isinstance(groups, list):
        starts = tuple(f"{name}#" for name in names)
        cleaned["set_aside"] = []
        for group in groups:
            left = [uri for uri in group if uri not in names and not uri.startswith(starts)]
            if left:
                cleaned["set_aside"].append(left)
    return cleaned


def _rewrite_shards(inventory: Inventory, found: Found) -> None:
    """Store shards again without some of their rows, a few at a time."""

    def rewrite(path: str) -> None:
        """Rewrite the three files of a shard, in their own schemas.

        A file that loses all its rows stays as an empty one: the record of its run lists it.
        """
        for table in TABLES:
            file = inventory.output.join(f"{table}/{path}")
            whole = read_shard(file)
            kept = whole.filter(pc.invert(_is_one_of(whole, found[path])))
            if len(kept) < len(whole):
                inventory.output.write(f"{table}/{path}", to_parquet(kept))

    def measure(path: str) -> int:
        """Return the size of the largest file of a shard (bytes)."""
        return max(files[path].size for files in inventory.shards.values() if path in files)

    with ThreadPoolExecutor(_REWRITTEN_AT_ONCE) as pool:
        rewritten = ahead(
            pool, rewrite, found, _REWRITTEN_AT_ONCE, size=measure, most_size=_REWRITTEN_BYTES
        )
        for _ in rewritten:
            pass


def _is_one_of(rows: pa.Table, uris: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(rows["image_uri"], pa.array(list(uris), pa.string()))
