"""The checkpoints in a run folder: Ray Train's list of them, and a check that they load.

The list may be missing or damaged. No checkpoint is ever removed for that reason: the list is then
rebuilt from the checkpoints that load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from unet_ray.errors import InputError
from unet_ray.network.weights import MAX_HEADER_BYTES, parse_header
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.json_file import MAX_JSON_BYTES, read_json, read_limited
from unet_ray.storage.storage import Storage
from unet_ray.training.progress import PROGRESS, SNAPSHOT, Progress, as_metrics, listed_checkpoints

WEIGHTS, BEST, OPTIMIZER = "model.safetensors", "best.safetensors", "optimizer.safetensors"
DIGESTS = "files.json"
"""File of a checkpoint that holds the size and SHA-256 of its other files; checkpoints written
before 2026-11-29 have none."""
_PIECE_BYTES = 2**26
"""Bytes read at a time to compute a SHA-256."""


class _DamagedError(Exception):
    """A checkpoint does not load; the message says why."""


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint that loads."""

    name: str
    progress: Progress


def digests_of(files: Mapping[str, bytes]) -> bytes:
    """Return the content of `files.json`.

    Args:
        files: Content of each file of a checkpoint by name.
    """
    found = {}
    for name, data in files.items():
        found[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(found, indent=1).encode()


def settle_checkpoints(run_folder: Storage, run_name: str) -> list[str]:
    """Make Ray Train's list of checkpoints end with one that loads; remove unlisted checkpoints.

    If the list can be read, a checkpoint that it does not name was being stored when the training
    was killed. No training can resume from such a checkpoint, and nothing else would ever remove
    it. If the list is missing or damaged, or its newest checkpoint does not load, the list is
    rebuilt from all checkpoints that load, and nothing is removed. Call this only while no training
    runs.

    Args:
        run_folder: Run folder of the training.
        run_name: Folder of Ray Train's run in it.

    Returns:
        Lines that tell the user what was found and done; empty if all is well.

    Raises:
        InputError: A folder cannot be listed, a file cannot be read, or no checkpoint loads.
    """
    folders: dict[str, dict[str, FileEntry]] = {}  # files of each checkpoint by name
    for entry in run_folder.entries(run_name, missing_ok=True):
        folder, _, file = entry.path.partition("/")
        if folder.startswith("checkpoint_20") and file:
            folders.setdefault(folder, {})[file] = entry
    listed = listed_checkpoints(run_folder, run_name)
    if listed is None and not folders:
        return []  # no training has run yet
    try:
        if listed is None:
            raise _DamagedError(f"{SNAPSHOT}, the list of checkpoints, is missing or damaged")
        for name in listed:
            if name not in folders:
                raise _DamagedError(f"{name} is missing")
        if listed:
            _load(run_folder, run_name, listed[-1], folders[listed[-1]])
    except _DamagedError as error:
        lines = _rebuild_list(run_folder, run_name, folders)
        return [f"{run_folder.uri}/{run_name}: {error}", *lines]
    for name in folders.keys() - set(listed):
        run_folder.delete_folder(f"{run_name}/{name}")
    return []


def _rebuild_list(
    run_folder: Storage, run_name: str, folders: dict[str, dict[str, FileEntry]]
) -> Iterator[str]:
    """Write Ray Train's list of the checkpoints that load.

    Yields:
        Lines that tell the user what was found.
    """
    loaded = list[_Checkpoint]()
    faults = dict[str, str]()
    for name, files in folders.items():
        try:
            loaded.append(_load(run_folder, run_name, name, files))
        except _DamagedError as error:
            faults[name] = str(error)
    loaded.sort(key=lambda one: (one.progress.crops_seen, one.progress.epochs, one.name))
    for name, fault in faults.items():
        yield f"  {name} does not load: {fault}"
    if not loaded and run_folder.exists(f"{run_name}/{SNAPSHOT}"):
        first = "no checkpoint exists"
        if faults:
            name = next(iter(faults))
            first = f"{name}: {faults[name]}"
        raise InputError(
            f"{run_folder.uri}/{run_name}: none of the {len(folders)} checkpoints of this training "
            f"loads ({first}); restore one, or give another --storage to start over"
        )
    run_folder.write(f"{run_name}/{SNAPSHOT}", _format_list(loaded))
    if loaded:
        newest = loaded[-1]
        yield f"  resuming from {newest.name}, after epoch {newest.progress.epochs}"
    else:  # the first checkpoint was being stored when the training was killed
        yield "  training starts from epoch 1"


def _load(
    run_folder: Storage, run_name: str, name: str, files: dict[str, FileEntry]
) -> _Checkpoint:
    """Check the files of a checkpoint and return it.

    Raises:
        _DamagedError: The checkpoint does not load.
        InputError: A file cannot be read.
    """
    folder = run_folder.join(f"{run_name}/{name}")
    try:
        digests = _read_digests(folder) if DIGESTS in files else {}
        for file, expected in digests.items():
            _check_digest(folder, file, files, expected)
        progress = _read_progress(folder, files)
        tensors = [WEIGHTS, OPTIMIZER]
        if progress.best_epoch:
            tensors.append(BEST)
        for file in tensors:
            if file not in files:
                raise _DamagedError(f"{file} is missing")
            if file not in digests:
                _check_tensors(folder, files[file])
    except OSError as error:
        raise InputError(f"{folder.uri}: cannot be read: {error}") from error
    return _Checkpoint(name, progress)


def _read_progress(folder: Storage, files: dict[str, FileEntry]) -> Progress:
    if PROGRESS not in files:
        raise _DamagedError(f"{PROGRESS} is missing")
    try:
        return Progress.of_json(read_limited(folder, PROGRESS, MAX_JSON_BYTES))
    except InputError as error:
        raise _DamagedError(f"{PROGRESS} does not parse: {error}") from None


def _read_digests(folder: Storage) -> dict[str, Any]:
    try:
        return read_json(folder, DIGESTS)
    except InputError as error:
        raise _DamagedError(f"{DIGESTS} does not parse: {error}") from None


def _check_digest(
    folder: Storage, file: str, files: dict[str, FileEntry], expected: dict[str, Any]
) -> None:
    """Raise _DamagedError if a file differs from the one that was written.

    Args:
        folder: Folder of the checkpoint.
        file: Name of the file.
        files: Files of the checkpoint by name.
        expected: Size and SHA-256 of the file in `files.json`.
    """
    if file not in files:
        raise _DamagedError(f"{file} is missing")
    try:
        expected_size, expected_sha256 = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError):
        raise _DamagedError(f"{DIGESTS} has no entry for {file}") from None
    size = files[file].size
    if size != expected_size:
        raise _DamagedError(f"{file} has {size} of {expected_size} bytes")
    stored = folder.join(file)
    sha256 = hashlib.sha256()
    for start in range(0, size, _PIECE_BYTES):
        sha256.update(stored.read_range(start, min(_PIECE_BYTES, size - start)))
    if sha256.hexdigest() != expected_sha256:
        raise _DamagedError(f"{file} differs from what was written: its SHA-256 is another")


def _check_tensors(folder: Storage, entry: FileEntry) -> None:
    """Raise _DamagedError if a safetensors file is not as long as its header says."""
    file = entry.path.rpartition("/")[2]
    try:
        header = parse_header(folder.join(file).read_range(0, MAX_HEADER_BYTES))
    except InputError as error:
        raise _DamagedError(f"{file}: {error}") from None
    if entry.size != header.file_bytes:
        raise _DamagedError(f"{file} has {entry.size} of {header.file_bytes} bytes")


def _format_list(checkpoints: list[_Checkpoint]) -> bytes:
    """Return Ray Train's list of checkpoints, the oldest first.

    The format is that of `_CheckpointManagerState` in Ray 2.60.
    """
    results = [
        {"version": 0, "checkpoint_dir_name": one.name, "metrics": as_metrics(one.progress)}
        for one in checkpoints
    ]
    state = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    return json.dumps(state).encode()
