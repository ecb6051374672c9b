"""The runs of an output: their ids and records."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import partial
from itertools import chain
from typing import Any

from unet_ray.ahead import ahead
from unet_ray.archive.ledger import entries_of, sums_of_run
from unet_ray.archive.storage import Storage
from unet_ray.errors import InputError

_READS = 16


def new_run_id() -> str:
    """Return an id that sorts by time: 20261122T031500Z-4f2a9c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def check_day(flag: str, day: str | None) -> None:
    """Raise InputError unless the day of a partition is written YYYY-MM-DD, or not given."""
    try:
        is_day = day is None or date.fromisoformat(day).isoformat() == day
    except ValueError:
        is_day = False
    if not is_day:
        raise InputError(f"{flag} {day}: give a day as YYYY-MM-DD")


def write_run_record(output: Storage, run_id: str, record: dict[str, Any]) -> None:
    """Write `runs/RUN_ID.json`."""
    output.write(f"runs/{run_id}.json", json.dumps(record, indent=2, default=str).encode())


def read_run_record(output: Storage, run_id: str) -> dict[str, Any] | None:
    """Return the record of a run; None where there is none that can be read."""
    try:
        record = json.loads(output.read(f"runs/{run_id}.json"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def run_records(output: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield run id and record of every run, the newest first; the next few are read ahead when two are asked for.

    Whatever else lies in `runs/`, as the folders of trainings do, is none.
    """
    names = [entry.path.rpartition(".") for entry in reversed(entries_of(output, "runs"))]
    run_ids = [run_id for run_id, _, suffix in names if suffix == "json" and "/" not in run_id]
    read = partial(read_run_record, output)
    with ThreadPoolExecutor(_READS) as pool:
        records = chain(map(read, run_ids[:1]), ahead(pool, read, run_ids[1:], _READS))
        for run_id, record in zip(run_ids, records, strict=True):
            if record is not None:
                yield run_id, record


def close_lost_runs(output: Storage, run_id: str) -> None:
    """Give runs that vanished with their driver an end in their record, on behalf of the run that holds the output."""
    for other, record in run_records(output):
        if record.get("status") != "running":
            return  # whoever came before that has looked
        lost = {"status": "lost", "exit_code": 1, "message": f"the driver vanished, as run {run_id} found"}
        write_run_record(output, other, record | lost | sums_of_run(output, other))
