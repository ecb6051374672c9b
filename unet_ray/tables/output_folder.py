"""An inventory of an output: which shards lie there, what the records of its runs say of them, and what does not agree.

Nothing is concluded from what is absent alone: leftovers are files of runs whose own record says that they did not
finish, and a shard that a record counts and that is not there is an error.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unet_ray.errors import InputError
from unet_ray.storage.storage import FileEntry, Storage
from unet_ray.tables.runs import (
    PRUNED,
    PRUNING,
    has_finished,
    is_unfinished,
    read_records,
    recorded_images,
    write_run_record,
)
from unet_ray.tables.schemas import TABLES
from unet_ray.tables.shards import is_shard, shard_path, shard_run_id

_SHOWN = 3
"""Absent files that a message names."""


@dataclass(frozen=True)
class Leftover:
    """A masks or regions file without the images file that would commit it."""

    path: str
    """Below the output."""
    run_id: str
    is_unfinished: bool
    """Whether the run's own record says that it did not finish: then, and only then, the next run removes the file."""


@dataclass(frozen=True)
class Inventory:
    """What lies in an output."""

    output: Storage
    shards: dict[str, dict[str, FileEntry]]
    """Table → path below its folder → file."""
    others: tuple[str, ...]
    """Files among them that are no shards."""
    records: dict[str, dict[str, Any]]
    """Run id → record, the newest first."""
    unreadable: tuple[str, ...]
    """Records that are no JSON objects, by their path below the output."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written here."""
        return not self.records and not self.unreadable and not any(self.shards.values())

    @property
    def half_pruned(self) -> list[str]:
        """The runs that a prune began to remove and did not finish removing."""
        return [
            run_id for run_id, record in self.records.items() if record.get("status") == PRUNING
        ]

    @property
    def images(self) -> list[FileEntry]:
        """The images files that count: not those of runs that are being removed."""
        gone = set(self.half_pruned)
        return [
            entry for path, entry in self.shards["images"].items() if shard_run_id(path) not in gone
        ]

    @property
    def leftovers(self) -> list[Leftover]:
        """Masks and regions files without an images file of the same name."""
        found, half_pruned = [], set(self.half_pruned)
        for table in ("masks", "regions"):
            for path in sorted(self.shards[table].keys() - self.shards["images"].keys()):
                run_id = shard_run_id(path)
                if run_id not in half_pruned:
                    unfinished = is_unfinished(self.records.get(run_id, {}))
                    found.append(Leftover(f"{table}/{path}", run_id, unfinished))
        return found

    def check_shards(self) -> None:
        """Raise InputError where files of shards that a run's record counts are not there."""
        of_run: dict[str, list[str]] = defaultdict(list)
        for path in self.shards["images"]:
            of_run[shard_run_id(path)].append(path)
        for run_id, record in self.records.items():
            absent = sorted(self._absent(run_id, record, of_run[run_id]))
            if absent:
                more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
                raise self._incomplete(run_id, f"{', '.join(absent[:_SHOWN])}{more}: not there")

    def check_rows(self, rows: Mapping[str, int]) -> None:
        """Raise InputError where a finished run recorded more images than its shards have.

        Args:
            rows — run id → rows of its images files.
        """
        for run_id, record in self.records.items():
            recorded = recorded_images(record)
            if has_finished(record) and rows.get(run_id, 0) < recorded:
                there = rows.get(run_id, 0)
                raise self._incomplete(
                    run_id, f"of {recorded} images of run {run_id} its shards here have {there}"
                )

    def _absent(self, run_id: str, record: dict[str, Any], images: list[str]) -> Iterator[str]:
        """Yield the files of a run that its record counts and that are not there."""
        if record.get("status") in (PRUNING, PRUNED):
            return
        counted = [
            shard_path(str(record["date"]), run_id, task) for task in record.get("shards") or ()
        ]
        if not counted and not images and has_finished(record) and recorded_images(record):
            yield f"images/date=*/{run_id}-*.parquet"  # of a run before 2026-11-29, whose record lists no shards
        for table in TABLES:
            yield from (
                f"{table}/{path}" for path in {*counted, *images} if path not in self.shards[table]
            )

    def _incomplete(self, run_id: str, what: str) -> InputError:
        return InputError(
            f"{self.output.uri}: {what}, and runs/{run_id}.json counts them; bring them back (is a disk not mounted?), "
            "or take what is left of the run out with jobs/prune.py"
        )


def take_inventory(output: Storage, others_ok: bool = False) -> Inventory:
    """List an output, of which nothing need be there, and read the records of its runs.

    Args:
        output — root of the tables.
        others_ok — whether files that are no part of tables, such as somebody's images, may lie among them.

    Raises: InputError — a folder that cannot be listed, a record that cannot be read, other files.
    """
    entries = {table: output.entries(table, missing_ok=True) for table in TABLES}
    others = tuple(
        f"{t}/{entry.path}" for t in TABLES for entry in entries[t] if not is_shard(entry.path)
    )
    if others and not others_ok:
        raise InputError(
            f"{output.uri}: {others[0]} is no part of tables ({len(others)} such files here); choose another folder "
            "for the tables, or move what is not theirs"
        )
    shards = {
        table: {entry.path: entry for entry in entries[table] if is_shard(entry.path)}
        for table in TABLES
    }
    return Inventory(output, shards, others, *read_records(output))


def remove_leftovers(output: Storage, of_any_run: bool = False) -> tuple[list[str], list[str]]:
    """Remove masks and regions files without an images file of the same name: what a crash left.

    The output is listed again: what was seen some time ago is no ground for removing anything.

    Args:
        of_any_run — those too of runs of which no record says that they did not finish.

    Returns: paths removed, and paths kept.
    Raises: InputError — as `take_inventory`; nothing is removed.
    """
    leftovers = take_inventory(output).leftovers
    removed = [left.path for left in leftovers if left.is_unfinished or of_any_run]
    for path in removed:
        output.delete(path)
    return removed, [left.path for left in leftovers if not (left.is_unfinished or of_any_run)]


def remove_run(inventory: Inventory, run_id: str, known: Mapping[str, Any] | None = None) -> int:
    """Remove all that a run wrote, images last; its record says so before the first file goes, and after the last.

    Args:
        known — fields of the record of a run that has none.

    Returns: shards removed.
    """
    output, shards = inventory.output, inventory.shards
    record = inventory.records.get(run_id) or {"run_id": run_id, **(known or {})}
    write_run_record(output, run_id, record | {"status": PRUNING})
    removed = Counter[str]()
    for table in TABLES:
        for path in shards[table]:
            if shard_run_id(path) == run_id:
                output.delete(f"{table}/{path}")
                removed[table] += 1
    write_run_record(output, run_id, record | {"status": PRUNED})
    return removed["images"]


def finish_prunes(inventory: Inventory) -> list[str]:
    """Remove what is left of runs that a prune had begun to remove; return their ids."""
    half_pruned = inventory.half_pruned
    for run_id in half_pruned:
        remove_run(inventory, run_id)
    return half_pruned
