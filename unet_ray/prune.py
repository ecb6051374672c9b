"""Remove the rows of one model or of a range of dates from an output: whole runs, under the lock, ledger last."""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass

import pyarrow.parquet as pq

from unet_ray.archive.ledger import refuse_other_files, remove_leftovers, tables_at
from unet_ray.archive.lock import OutputLock
from unet_ray.archive.runs import check_day, new_run_id, read_run_record, write_run_record
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import TABLES
from unet_ray.errors import InputError

_DIGITS = 8
"""Fewest digits that name a model."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """What to remove; with several conditions: what meets all of them."""

    tables: str
    """Output of segmentation (URI)."""
    model_digest: str | None = None
    """Rows of this model: its digest, or the first eight or more digits of it."""
    first_date: str | None = None
    """Rows of partitions from this day on, YYYY-MM-DD."""
    last_date: str | None = None
    """Rows of partitions up to and with this day, YYYY-MM-DD."""
    dry_run: bool = False
    """Say what would be removed, and remove nothing."""

    def __post_init__(self) -> None:
        if self.model_digest is None and self.first_date is None and self.last_date is None:
            raise InputError("nothing to remove is named; give --model-digest, --first-date or --last-date")
        if self.model_digest is not None and len(self.model_digest) < _DIGITS:
            raise InputError(f"--model-digest {self.model_digest}: give at least {_DIGITS} digits")
        for flag, day in (("first", self.first_date), ("last", self.last_date)):
            check_day(f"--{flag}-date", day)


@dataclass
class PruneResult:
    """What was removed, or would be."""

    runs: list[str]
    shards: int


def prune(config: PruneConfig) -> PruneResult:
    """Remove the shards of every run that meets the conditions.

    A run has one model and one date, so that whole files go and nothing is rewritten. Of each run first the masks and
    regions, then the images: what a crash leaves is found again, by the ledger, when the same command runs again.

    Raises: InputError — no tables there; OutputHeldError — a run writes to them.
    """
    output = tables_at(config.tables)
    if config.dry_run:
        refuse_other_files(output)
        chosen = _chosen(output, config)
        return PruneResult(sorted(chosen), sum(map(len, chosen.values())))
    output.check_writable()
    with OutputLock(output, new_run_id()):
        remove_leftovers(output)
        chosen = _chosen(output, config)
        for run_id, paths in chosen.items():
            for table in TABLES:
                for path in paths:
                    output.delete(f"{table}/{path}")
            _mark(output, run_id)
    return PruneResult(sorted(chosen), sum(map(len, chosen.values())))


def _chosen(output: Storage, config: PruneConfig) -> dict[str, list[str]]:
    """Return the shards to remove, by run."""
    shards: dict[str, list[str]] = defaultdict(list)
    for entry in output.entries("images"):
        day, _, name = entry.path.removeprefix("date=").partition("/")
        if (config.first_date or day) <= day <= (config.last_date or day):
            shards[name.rpartition("-")[0]].append(entry.path)
    wanted = config.model_digest or ""
    return {run_id: paths for run_id, paths in shards.items() if _digest_of(output, paths[0]).startswith(wanted)}


def _digest_of(output: Storage, path: str) -> str:
    # threads of Arrow's that still read from Python end the process with SIGABRT where it ends at that moment
    table = pq.read_table(io.BytesIO(output.read(f"images/{path}")), columns=["model_digest"], use_threads=False)
    return str(table["model_digest"][0])


def _mark(output: Storage, run_id: str) -> None:
    """Say in a run's record that its rows are gone."""
    record = read_run_record(output, run_id)
    if record is not None:
        write_run_record(output, run_id, record | {"status": "pruned"})
