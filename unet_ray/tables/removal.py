"""Removal of the rows of single images from the shards of all runs, as after withdrawn consent.

Everything is named by the sha256 of its URI, since a URI may be patient data. A removal goes in
three steps, each of which may be repeated:

1. The record of each run concerned gets lower counts and, as `removing_images`, what is to go.
2. Each shard that has such rows is rewritten: masks, then regions, then images. While the images
   file has the rows, the shard is found again.
3. The records turn `removing_images` into `removed_images`.

A crash before the first record changes nothing. After it, `finish_removals` does the rest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from unet_ray.errors import InputError
from unet_ray.prefetch import ahead
from unet_ray.storage.storage import Storage
from unet_ray.tables.output_folder import Inventory
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.runs import write_run_records
from unet_ray.tables.schemas import IMAGES, TABLES
from unet_ray.tables.shards import read_shard, read_shards, read_whole_files, shard_run_id

REMOVING, REMOVED = "removing_images", "removed_images"
"""Fields of a run's record: the removal that is under way, and the list of those that are done."""
Found = dict[str, dict[str, str]]
"""Rows of images to remove: the hash that names each, by URI of the row, by path of the shard."""
_COUNTED = ("uri_sha256", "images", "masks", "regions")
_ROWS = 10_000
"""Number of rows that are looked at together."""
_REWRITTEN_AT_ONCE = 8
"""Number of shards that are rewritten side by side."""
_REWRITTEN_BYTES = 2**25
"""Size of the files that are rewritten at the same time, a larger one alone (bytes)."""
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
    """Record of the run, should it have none."""
    rows: dict[str, RemovedRows] = field(default_factory=dict)
    """Numbers of rows, by the hash that names them."""
    failed: int = 0
    megapixels: float = 0.0
    error_types: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)


def hash_uri(uri: str) -> str:
    """Return the sha256 of a URI, by which records name images that were removed."""
    return hashlib.sha256(uri.encode()).hexdigest()


def pending_hashes(inventory: Inventory) -> list[str]:
    """Return the hashes of a removal that has begun but not finished; none where there is none."""
    pending = [record[REMOVING] for record in inventory.records.values() if REMOVING in record]
    return sorted({uri_hash for intent in pending for uri_hash in intent["uri_sha256"]})


def finish_removals(inventory: Inventory) -> list[RemovedRows]:
    """Finish the removal of images that an earlier prune began; return the rows it removed."""
    hashes = pending_hashes(inventory)
    return remove_images(inventory, find_images(inventory, hashes), hashes) if hashes else []


def find_images(inventory: Inventory, hashes: Collection[str]) -> Found:
    """Find the rows of images, or of the pages of files, by the hashes of their URIs.

    Args:
        inventory: Inventory of the output.
        hashes: Hashes of URIs of images, or of files with several pages.

    Returns:
        Hash by URI of the row, by path of the shard; only shards that have such rows.

    Raises:
        InputError: A file is damaged, is not a shard, or cannot be read.
    """
    found: Found = {}
    for entry, rows in read_shards(inventory.output, inventory.images, _NAMES, IMAGES):
        of_shard = found.setdefault(entry.path, {})
        for row in chain.from_iterable(b.to_pylist() for b in rows.to_batches(_ROWS)):
            named = next(
                (h for h in _hashes_of(row["image_uri"], row["pages"]) if h in hashes), None
            )
            if named:
                of_shard[row["image_uri"]] = named
    return select_images(found, hashes)


def select_images(found: Found, hashes: Collection[str]) -> Found:
    """Return those of the rows that some hashes name, and only shards that have any."""
    selected = {
        path: {uri: uri_hash for uri, uri_hash in of_shard.items() if uri_hash in hashes}
        for path, of_shard in found.items()
    }
    return {path: of_shard for path, of_shard in selected.items() if of_shard}


def _hashes_of(uri: str | None, pages: int | None) -> list[str]:
    """Return the hashes that name an image: of its own URI and, for a page, of its file's."""
    if uri is None:  # a row that somebody else wrote
        return []
    names = [uri, uri.rpartition("#")[0]] if (pages or 1) > 1 else [uri]
    return [hash_uri(name) for name in names]


def count_rows(inventory: Inventory, found: Found) -> list[RemovedRows]:
    """Count the rows that `remove_images` would remove, by run and URI."""
    by_run = sorted(_sum_up(inventory, found).items())
    return [rows for _, sums in by_run for rows in sums.rows.values()]


def remove_images(inventory: Inventory, found: Found, hashes: Collection[str]) -> list[RemovedRows]:
    """Remove rows from the three tables, and say so in the records of their runs.

    Args:
        inventory: Inventory of the output, held by the lock. A removal that has begun but not
            finished must be the one of the same hashes.
        found: The rows, as `find_images` finds them.
        hashes: All hashes that the removal is of.

    Returns:
        What was removed, by run and URI; of a removal that had begun before, all of it.

    Raises:
        InputError: The record of a run concerned is there but cannot be read; nothing is removed.
    """
    output, records = inventory.output, dict(inventory.records)
    for run_id in {shard_run_id(path) for path in found}:
        if f"runs/{run_id}.json" in inventory.unreadable:
            raise InputError(
                f"{output.uri}/runs/{run_id}.json: not a readable run record, which must say what "
                "is removed; restore or delete it, then prune again"
            )
    sums, names = _sum_up(inventory, found), _removed_names(found)
    begun = {}
    for run_id in sorted(records.keys() | sums.keys()):
        record = _without_mentions(records.get(run_id) or sums[run_id].known, names)
        if run_id in sums and REMOVING not in record:
            record = _lowered(record, sums[run_id]) | {REMOVING: _intent(sums[run_id], hashes)}
        if record != records.get(run_id):
            begun[run_id] = record
    write_run_records(output, begun)
    records |= begun
    _rewrite_shards(inventory, found)
    removed, done = [], {}
    for run_id, record in sorted(records.items()):
        if REMOVING in record:
            rest = dict(record)
            rows = rest.pop(REMOVING)["rows"]
            done[run_id] = rest | {REMOVED: [*rest.get(REMOVED, []), *rows]}
            removed += [
                RemovedRows(run_id, **{name: row[name] for name in _COUNTED}) for row in rows
            ]
    write_run_records(output, done)
    return removed


def _sum_up(inventory: Inventory, found: Found) -> dict[str, _RunSums]:
    """Sum up the rows that each run loses, by run id."""
    by_run: dict[str, _RunSums] = {}
    output, shards = inventory.output, inventory.shards
    places = [(table, path) for path in found for table in TABLES]
    sizes = [shards[t][path].size if path in shards[t] else 0 for t, path in places]
    read = read_whole_files(output, zip(map("/".join, places), sizes, strict=True))
    for path, of_shard in found.items():
        run_id = shard_run_id(path)
        rows = {
            table: whole.filter(_is_one_of(whole, of_shard))
            for table, (_, whole) in zip(TABLES, read, strict=False)
        }
        images = rows["images"]
        known = {name: images[name][0].as_py() for name in ("model_digest", "config_digest")}
        known |= {"run_id": run_id, "status": "unknown", "date": _date_of(path)}
        sums = by_run.setdefault(run_id, _RunSums(known))
        for table in TABLES:
            for uri in rows[table]["image_uri"].to_pylist():
                uri_hash = of_shard[uri]
                of_uri = sums.rows.setdefault(uri_hash, RemovedRows(run_id, uri_hash))
                setattr(of_uri, table, getattr(of_uri, table) + 1)
        sums.failed += len(images) - images["error_type"].null_count
        sums.error_types.update(images["error_type"].drop_null().to_pylist())
        sums.regions.update(rows["regions"]["class_name"].to_pylist())
        for height, width in zip(
            *(images[side].to_pylist() for side in ("height", "width")), strict=True
        ):
            sums.megapixels += (height or 0) * (width or 0) / 1e6
    return by_run


def _date_of(path: str) -> str:
    return path.partition("/")[0].removeprefix("date=")


def _intent(sums: _RunSums, hashes: Collection[str]) -> dict[str, Any]:
    """Return what a record says of a removal that begins."""
    removed_at = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [
        {"removed_at": removed_at} | {name: getattr(rows, name) for name in _COUNTED}
        for rows in sums.rows.values()
    ]
    return {"uri_sha256": sorted(hashes), "rows": rows}


def _lowered(record: Mapping[str, Any], sums: _RunSums) -> dict[str, Any]:
    """Return a record that counts the rows of a run without those that it loses.

    The record of a run that did not finish may count fewer images than its shards have.
    """
    images = sum(rows.images for rows in sums.rows.values())
    lost: dict[str, float] = {"images_done": images - sums.failed, "images_failed": sums.failed}
    lost["megapixels"] = sums.megapixels
    lowered = dict(record)
    for name, number in lost.items():
        lowered[name] = max(0, (record.get(name) or 0) - number)
    for name, counts in (("error_types", sums.error_types), ("regions", sums.regions)):
        left = Counter(record.get(name) or {})
        left.subtract(counts)
        lowered[name] = dict((+left).most_common())
    return lowered


def _removed_names(found: Found) -> set[str]:
    """Return the URIs that were named for removal and have rows: of images, or of files."""
    return {
        name
        for of_shard in found.values()
        for uri, uri_hash in of_shard.items()
        for name in (uri, uri.rpartition("#")[0])
        if hash_uri(name) == uri_hash
    }


def _without_mentions(record: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a record without error messages and groups set aside that name a removed image."""
    cleaned = dict(record)
    messages = record.get("error_messages")
    if isinstance(messages, dict):
        cleaned["error_messages"] = {
            message: count
            for message, count in messages.items()
            if not any(name in message for name in names)
        }
    groups = record.get("set_aside")
    if isinstance(groups, list):
        starts = tuple(f"{name}#" for name in names)
        left = [
            [u for u in group if u not in names and not u.startswith(starts)] for group in groups
        ]
        cleaned["set_aside"] = [group for group in left if group]
    return cleaned


def _rewrite_shards(inventory: Inventory, found: Found) -> None:
    """Store shards again without some of their rows, a few at a time."""

    def rewrite(path: str) -> None:
        """Rewrite the three files of a shard."""
        for table in TABLES:
            _rewrite(inventory.output, f"{table}/{path}", found[path])

    def measure(path: str) -> int:
        """Return the size of the largest file of a shard (bytes)."""
        return max(files[path].size for files in inventory.shards.values() if path in files)

    with ThreadPoolExecutor(_REWRITTEN_AT_ONCE) as pool:
        begun = _REWRITTEN_AT_ONCE
        for _ in ahead(pool, rewrite, found, begun, size=measure, most_size=_REWRITTEN_BYTES):
            pass


def _rewrite(output: Storage, path: str, uris: Collection[str]) -> None:
    """Store a file again without the rows of some images, in its own schema.

    A file that loses all its rows stays as an empty one: the record of its run lists it.
    """
    whole = read_shard(output.join(path))
    kept = whole.filter(pc.invert(_is_one_of(whole, uris)))
    if len(kept) < len(whole):
        output.write(path, to_parquet(kept))


def _is_one_of(rows: Any, uris: Collection[str]) -> Any:
    return pc.is_in(rows["image_uri"], pa.array(list(uris), pa.string()))
