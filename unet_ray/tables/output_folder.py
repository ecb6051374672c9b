"""The inventory of an output: its shards, the records of its runs, and where the two disagree.

A missing file alone proves nothing. Files are removed as leftovers only if the record of their run
says that it did not finish. A shard that a record counts and that is missing is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_ray.errors import InputError
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.storage import Storage
from unet_ray.storage.temporary import half_written
from unet_ray.tables.runs import (
    PRUNED,
    PRUNING,
    has_finished,
    is_unfinished,
    read_records,
    recorded_images,
    write_run_records,
)
from unet_ray.tables.schemas import TABLES
from unet_ray.tables.shards import is_shard, shard_path, shard_run_id

_SHOWN = 3
"""Number of missing files that a message names."""


@dataclass(frozen=True)
class Leftover:
    """A masks or regions file without the images file that would commit it."""

    path: str
    """Path below the output."""
    run_id: str
    """Run that wrote the file."""
    is_unfinished: bool
    """True if the run's own record says that it did not finish; only then the next run removes the
    file."""


@dataclass(frozen=True)
class Inventory:
    """The files and run records of an output at one moment."""

    output: Storage
    """Root of the tables."""
    shards: dict[str, dict[str, FileEntry]]
    """Files by table, then by path below the table's folder."""
    others: tuple[str, ...]
    """Paths of files in the table folders that are not shards."""
    records: dict[str, dict[str, Any]]
    """Run records by run id, the newest first."""
    unreadable: tuple[str, ...]
    """Paths, below the output, of JSON files in `runs/` that are not records of a run."""
    half_written: tuple[str, ...] = ()
    """Paths, below a local output, of hidden files whose writes began and will never finish."""

    @property
    def is_new(self) -> bool:
        """True where nothing was ever written to the output."""
        return not self.records and not self.unreadable and not any(self.shards.values())

    @property
    def half_pruned(self) -> list[str]:
        """The runs whose removal by a prune has begun but not finished."""
        records = self.records.items()
        return [run_id for run_id, record in records if record.get("status") == PRUNING]

    @property
    def images(self) -> list[FileEntry]:
        """The images files that count, without those of runs that are being removed."""
        gone = set(self.half_pruned)
        files = self.shards["images"].items()
        return [entry for path, entry in files if shard_run_id(path) not in gone]

    @property
    def leftovers(self) -> list[Leftover]:
        """Masks and regions files without an images file of the same name."""
        found = []
        half_pruned = set(self.half_pruned)
        for table in ("masks", "regions"):
            for path in sorted(self.shards[table].keys() - self.shards["images"].keys()):
                run_id = shard_run_id(path)
                if run_id not in half_pruned:
                    unfinished = is_unfinished(self.records.get(run_id, {}))
                    found.append(Leftover(f"{table}/{path}", run_id, unfinished))
        return found

    @property
    def missing(self) -> dict[str, list[str]]:
        """Paths of missing files that the record of a run counts, by run id."""
        of_run: dict[str, list[str]] = defaultdict(list)
        for path in self.shards["images"]:
            of_run[shard_run_id(path)].append(path)
        missing = {}
        for run_id, record in self.records.items():
            absent = sorted(self._find_absent(run_id, record, of_run[run_id]))
            if absent:
                missing[run_id] = absent
        return missing

    def check_shards(self) -> None:
        """Raise InputError if files are missing that the record of a run counts."""
        for run_id, absent in self.missing.items():
            shown = ", ".join(absent[:_SHOWN])
            if len(absent) > _SHOWN:
                shown += f" and {len(absent) - _SHOWN} more"
            raise self._make_error(run_id, f"{shown}: missing")

    def check_rows(self, num_rows: Mapping[str, int]) -> None:
        """Raise InputError if a finished run recorded more images than its shards hold.

        Args:
            num_rows: Number of rows in the images files of each run, by run id.

        Raises:
            InputError: Images of a finished run are missing.
        """
        for run_id, record in self.records.items():
            recorded = recorded_images(record)
            num_missing = recorded - num_rows.get(run_id, 0)
            if has_finished(record) and num_missing > 0:
                raise self._make_error(
                    run_id,
                    f"{num_missing} of {recorded} images of run {run_id} are missing from its "
                    "shards",
                )

    def _find_absent(
        self, run_id: str, record: Mapping[str, Any], images: list[str]
    ) -> Iterator[str]:
        """Yield the missing files of a run that its record, or an images file, counts."""
        if record.get("status") in (PRUNING, PRUNED):
            return
        date = str(record.get("date"))
        counted = [shard_path(date, run_id, task) for task in record.get("shards") or ()]
        if not counted and not images and has_finished(record) and recorded_images(record):
            # records of runs before 2026-11-29 do not list their shards
            yield f"images/date=*/{run_id}-*.parquet"
        for table in TABLES:
            for path in {*counted, *images}:
                if path not in self.shards[table]:
                    yield f"{table}/{path}"

    def _make_error(self, run_id: str, finding: str) -> InputError:
        return InputError(
            f"{self.output.uri}: {finding}, but runs/{run_id}.json counts them; restore them (is a "
            "disk not mounted?), or remove what is left of that model or date with unet-ray prune"
        )


def take_inventory(output: Storage, others_ok: bool = False) -> Inventory:
    """List the files of an output, which may be empty, and read the records of its runs.

    Args:
        output: Root of the tables.
        others_ok: Whether files that are not shards, such as a user's images, may lie among them.

    Returns:
        The inventory.

    Raises:
        InputError: A folder cannot be listed, the store does not return a record, or there are
            other files. A damaged record is not an error: it is `unreadable`.
    """
    shards: dict[str, dict[str, FileEntry]] = {table: {} for table in TABLES}
    others = []
    listed = _list_files(output)
    for table in TABLES:
        for entry in listed[table]:
            if is_shard(entry.path):
                shards[table][entry.path] = entry
            else:
                others.append(f"{table}/{entry.path}")
    if others and not others_ok:
        raise InputError(
            f"{output.uri}: {others[0]} is not part of the tables ({len(others)} such files here); "
            "choose another folder for the tables, or move these files away"
        )
    records, unreadable = read_records(output)
    return Inventory(
        output=output,
        shards=shards,
        others=tuple(others),
        records=records,
        unreadable=unreadable,
        half_written=tuple(_find_half_written(output, records)),
    )


def _list_files(output: Storage) -> dict[str, list[FileEntry]]:
    """Return the files below each table's folder.

    Images are listed last: masks and regions that were listed before them are leftovers only if no
    images file has committed them by then.
    """
    *others, images = TABLES
    with ThreadPoolExecutor(len(others)) as pool:
        listed = {table: pool.submit(output.entries, table, missing_ok=True) for table in others}
    entries = {table: files.result() for table, files in listed.items()}
    entries[images] = output.entries(images, missing_ok=True)
    return entries


def _find_half_written(output: Storage, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the hidden files of dead processes of this machine, and those of unfinished runs.

    A process of another machine may be alive. But if the record of its run says that it did not
    finish, its shards are leftovers, whether they are whole or not.
    """
    if not output.is_local:
        return
    root = Path(output.path)
    with output.listing():
        hidden = half_written(root, (*TABLES, "runs"))
    for path, name, is_dead in hidden:
        below = f"{path.parent.name}/{name}"
        record = records.get(shard_run_id(below), {}) if is_shard(below) else {}
        if is_dead or is_unfinished(record):
            yield path.relative_to(root).as_posix()


def remove_leftovers(output: Storage, of_any_run: bool = False) -> tuple[list[str], list[str]]:
    """Remove masks and regions files that a crash left half-written or without an images file.

    The output is listed again first, since an older listing must not decide what is removed.

    Args:
        output: Root of the tables.
        of_any_run: Whether to also remove leftovers of runs that no record calls unfinished.

    Returns:
        Paths that were removed, and paths that were kept.

    Raises:
        InputError: The inventory cannot be taken (see `take_inventory`); nothing is removed.
    """
    removed: list[str] = []
    kept: list[str] = []
    inventory = take_inventory(output)
    for leftover in inventory.leftovers:
        if leftover.is_unfinished or of_any_run:
            removed.append(leftover.path)
        else:
            kept.append(leftover.path)
    removed += inventory.half_written
    output.delete_all(removed)
    return removed, kept


def remove_runs(inventory: Inventory, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove all shards of some runs, images files last.

    The records of all runs state the removal before the first file is deleted, and again after the
    last one. Records are written, and the files of a table deleted, in parallel.

    Args:
        inventory: Inventory of the output.
        known: Runs to remove, and fields for the record of a run that has no record.
    """
    output = inventory.output
    records = {
        run_id: inventory.records.get(run_id) or {"run_id": run_id, **fields}
        for run_id, fields in known.items()
    }
    pruning = {run_id: record | {"status": PRUNING} for run_id, record in records.items()}
    pruned = {run_id: record | {"status": PRUNED} for run_id, record in records.items()}
    write_run_records(output, pruning)
    for table in TABLES:
        paths = [path for path in inventory.shards[table] if shard_run_id(path) in records]
        output.delete_all(f"{table}/{path}" for path in paths)
    write_run_records(output, pruned)


def finish_prunes(inventory: Inventory) -> list[str]:
    """Finish the removal of runs that an earlier prune began; return their ids."""
    half_pruned = inventory.half_pruned
    remove_runs(inventory, {run_id: {} for run_id in half_pruned})
    return half_pruned
