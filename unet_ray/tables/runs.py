"""The runs of an output: their ids and records."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, NotRequired, Required

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from unet_ray.errors import InputError, TooManyFailuresError
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.json_file import read_json
from unet_ray.storage.roots import default_root
from unet_ray.storage.storage import Storage
from unet_ray.tables.ledger import summarize_run

PRUNING, PRUNED = "pruning", "pruned"
"""Status of a run whose rows are being removed, written before the first file is deleted, and of a
run whose rows are gone."""

_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
"""Form of the ids of runs."""
_FILE_NAME = re.compile(r"[^/\0]{1,60}")
"""Form of the ids that may have a record, in tables of any origin."""
_MAX_RECORD_BYTES = 2**24
"""Largest record of a run (bytes); it takes up to twenty times as much memory. A list of ten
thousand shards takes 100 kB, and one of as many removed images 2 MB."""
MOST_ROOTS = 100
"""Largest number of roots of a record that are used."""
_ClassId = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Quantity = Annotated[float, Field(ge=0, le=1e15)]


class _Objects(TypedDict):
    """Settings that decide which regions follow from masks."""

    parted: bool
    min_areas: dict[_ClassId, int]
    min_scores: NotRequired[dict[str, float]]


class _Cost(TypedDict):
    """Cost of a run."""

    total: float


class _Removal(TypedDict):
    """A removal of images that has begun."""

    uri_sha256: list[str]
    rows: list[_RemovedRows]


class _RemovedRows(TypedDict):
    """Numbers of rows of an image that a run lost."""

    uri_sha256: str
    images: _Count
    masks: _Count
    regions: _Count


class _Record(TypedDict, total=False):
    """The fields of a record that later commands read.

    Records of earlier versions, and of runs that were lost, lack some of them.
    """

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)  # type: ignore[misc]

    run_id: str
    status: Required[str]
    exit_code: int | None
    date: str | None
    started_at: str
    message: str | None
    model_digest: str
    config_digest: str
    config: dict[str, Any]
    images_done: _Count | None
    images_failed: _Count | None
    images_skipped: _Count | None
    images_taken_over: _Count | None
    shards: list[_Count] | None
    regions: dict[str, _Count] | None
    error_types: dict[str, _Count] | None
    error_messages: dict[str, _Count]
    set_aside: list[list[str]]
    megapixels: _Quantity | None
    elapsed_s: _Quantity | None
    images_per_s: _Quantity
    cost: _Cost | None
    objects: _Objects
    removing_images: _Removal
    removed_images: list[_RemovedRows]


_RECORD = TypeAdapter(_Record)


def new_run_id() -> str:
    """Return an id that sorts by time, such as 20261122T031500Z-4f2a9c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def has_finished(record: Mapping[str, Any]) -> bool:
    """Tell whether a run went through all its images, even if too many of them failed.

    A run that a prune removed keeps its exit code, but has no more rows to count.
    """
    status = record.get("status")
    has_too_many_failures = record.get("exit_code") == TooManyFailuresError.exit_code
    return status == "done" or (status == "failed" and has_too_many_failures)


def is_unfinished(record: Mapping[str, Any]) -> bool:
    """Tell whether a record says that its run ended early.

    A run that still holds the output has the status `running`, and counts as unfinished here.
    """
    did_not_end_well = record.get("status") in ("running", "lost", "failed", "stopped")
    return did_not_end_well and not has_finished(record)


def groups_set_aside(records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the groups of images that the last run set aside because processes died of them.

    Args:
        records: Run records by run id, the newest first.

    Returns:
        Groups of URIs; none where the last run went through all its images.
    """
    last = next(iter(records.values()), {})
    groups = last.get("set_aside")
    if not is_unfinished(last) or not isinstance(groups, list):
        return []
    return [[str(uri) for uri in group] for group in groups if isinstance(group, list)]


def recorded_images(record: Mapping[str, Any]) -> int:
    """Return the number of images that a record counts, done and failed."""
    return int(record.get("images_done") or 0) + int(record.get("images_failed") or 0)


def recorded_roots(record: Mapping[str, Any]) -> list[str]:
    """Return the folders or buckets (URIs) below which the images of a run lie.

    Records of versions before 2026-12 only have the flag `--images`, which may be a relative path.
    The author of a record chose these URIs; those that are not valid are left out.
    """
    found = []
    roots = record.get("image_roots")
    if isinstance(roots, list):
        for root in roots[:MOST_ROOTS]:
            if isinstance(root, str):
                with suppress(InputError):
                    found.append(Storage.of(root).uri)
        return found
    config = record.get("config")
    images = config.get("images") if isinstance(config, dict) else None
    if isinstance(images, str):
        with suppress(InputError):
            found.append(default_root(images))
    return found


def write_run_record(output: Storage, run_id: str, record: Mapping[str, Any]) -> None:
    """Write the record of a run to `runs/RUN_ID.json`."""
    output.write(f"runs/{run_id}.json", json.dumps(record, indent=2, default=str).encode())


def write_run_records(output: Storage, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write records of runs, by run id, in parallel and in no particular order."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(partial(write_run_record, output), records, records.values()):
            pass


def read_run_record(output: Storage, run_id: str) -> dict[str, Any] | None:
    """Read the record of a run.

    Args:
        output: Root of the tables.
        run_id: Run whose record to read.

    Returns:
        The record; None where there is none, or the file is not a record of that run.

    Raises:
        InputError: The store does not return the file.
    """
    if not _FILE_NAME.fullmatch(run_id):
        return None
    path = f"runs/{run_id}.json"
    try:
        record = read_json(output, path, _MAX_RECORD_BYTES)
        _RECORD.validate_python(record)
    except (FileNotFoundError, InputError, ValidationError):
        return None
    except OSError as error:
        raise InputError(f"{output.uri}/{path}: cannot be read: {error}") from error
    is_ours = _RUN_ID.fullmatch(run_id) is not None or record.get("run_id") == run_id
    return record if is_ours else None


def read_run_records(output: Storage, run_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Read the records of some runs in parallel; runs without a record are left out."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        records = pool.map(partial(read_run_record, output), run_ids)
        return [record for record in records if record]


def read_records(output: Storage) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Read the records of all runs.

    Files in folders below `runs/`, such as those of trainings, are left out.

    Args:
        output: Root of the tables.

    Returns:
        Records by run id, the newest first; and the paths of JSON files that are not records,
        because they are damaged or have another origin.

    Raises:
        InputError: The store does not return a file.
    """
    run_ids = []
    for entry in reversed(output.entries("runs", missing_ok=True)):
        run_id, _, suffix = entry.path.rpartition(".")
        if suffix == "json" and "/" not in run_id:
            run_ids.append(run_id)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = list(pool.map(partial(read_run_record, output), run_ids))
    records = {}
    unreadable = []
    for run_id, record in zip(run_ids, found, strict=True):
        if record is None:
            unreadable.append(f"runs/{run_id}.json")
        else:
            records[run_id] = record
    return records, tuple(unreadable)


def close_lost_runs(output: Storage, records: Mapping[str, Mapping[str, Any]], run_id: str) -> None:
    """Record the end of runs whose driver vanished.

    Only the run that holds the output may call this, since only then is every other run with the
    status `running` lost.

    Args:
        output: Root of the tables.
        records: Run records by run id.
        run_id: Run that holds the output.
    """
    for other, record in records.items():
        if record.get("status") == "running":
            lost = {
                "status": "lost",
                "exit_code": 1,
                "message": f"the driver vanished, as run {run_id} found",
            }
            write_run_record(output, other, {**record, **lost, **summarize_run(output, other)})
