"""The checkpoints in a training's run folder: which of them load, and Ray Train's list of them, which may be damaged.

No checkpoint is ever removed because the list is missing or cannot be read: the list is made anew from those that load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from unet_ray.errors import InputError, one_line
from unet_ray.storage.storage import FileEntry, Storage
from unet_ray.training.progress import PROGRESS, SNAPSHOT, Progress, as_metrics, listed_checkpoints

WEIGHTS, BEST, OPTIMIZER = "model.safetensors", "best.safetensors", "optimizer.safetensors"
DIGESTS = "files.json"
"""The file of a checkpoint that holds size and sha256 of the others; checkpoints before 2026-11-29 have none."""
_PIECE_BYTES = 2**26
_MOST_HEADER_BYTES = 10**8
"""Of a safetensors file, as its format limits them."""


class _DamagedError(Exception):
    """A checkpoint that does not load; the message is what is wrong with it."""


@dataclass(frozen=True)
class _Checkpoint:
    """One that loads."""

    name: str
    progress: Progress


def digests_of(files: Mapping[str, bytes]) -> bytes:
    """Return the content of `files.json` for the files of a checkpoint, name → content."""
    found = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    return json.dumps(found, indent=1).encode()


def settle_checkpoints(run_folder: Storage, run_name: str) -> list[str]:
    """Have Ray Train's list of checkpoints end with one that loads, and remove what the list does not name.

    What a readable list does not name was being stored when something was killed; nothing can go on from it, and nobody
    else would ever remove it. Where the list is missing or damaged, or its newest checkpoint does not load, it is made
    anew from all that load, and nothing is removed. Not to be called while a training runs.

    Returns: what a user should know, by line.
    Raises: InputError — a folder that cannot be listed, a file that cannot be read, no checkpoint that loads.
    """
    folders = _folders(run_folder, run_name)
    listed = listed_checkpoints(run_folder, run_name)
    if listed is None and not folders:
        return []  # nothing was trained yet
    try:
        if listed is None:
            raise _DamagedError(f"{SNAPSHOT}, the list of checkpoints, is missing or damaged")
        for name in listed:
            if name not in folders:
                raise _DamagedError(f"{name} is not there")
        if listed:
            _load(run_folder, run_name, listed[-1], folders[listed[-1]])
    except _DamagedError as error:
        return [f"{run_folder.uri}/{run_name}: {error}", *_make_list(run_folder, run_name, folders)]
    for name in folders.keys() - set(listed):
        run_folder.delete_folder(f"{run_name}/{name}")
    return []


def _folders(run_folder: Storage, run_name: str) -> dict[str, dict[str, FileEntry]]:
    """Return checkpoint → file name → file."""
    found: dict[str, dict[str, FileEntry]] = {}
    for entry in run_folder.entries(run_name, missing_ok=True):
        folder, _, name = entry.path.partition("/")
        if folder.startswith("checkpoint_20") and name:
            found.setdefault(folder, {})[name] = entry
    return found


def _make_list(
    run_folder: Storage, run_name: str, folders: dict[str, dict[str, FileEntry]]
) -> Iterator[str]:
    """Write Ray Train's list of the checkpoints that load; yield what a user should know."""
    loaded, faults = list[_Checkpoint](), dict[str, str]()
    for name, files in folders.items():
        try:
            loaded.append(_load(run_folder, run_name, name, files))
        except _DamagedError as error:
            faults[name] = str(error)
    loaded.sort(key=lambda one: (one.progress.crops_seen, one.progress.epochs, one.name))
    yield from (f"  {name} does not load: {fault}" for name, fault in faults.items())
    if not loaded and run_folder.exists(f"{run_name}/{SNAPSHOT}"):
        raise InputError(
            f"{run_folder.uri}/{run_name}: none of the {len(folders)} checkpoints of this training loads "
            f"({next((f'{name}: {fault}' for name, fault in faults.items()), 'none is there')}); bring one back, or "
            "give another --storage to start anew"
        )
    run_folder.write(f"{run_name}/{SNAPSHOT}", _snapshot(loaded))
    if loaded:
        newest = loaded[-1]
        yield f"  going on from {newest.name}, after epoch {newest.progress.epochs}"
    else:  # the first one was being stored when something was killed
        yield "  training starts from epoch 1"


def _load(
    run_folder: Storage, run_name: str, name: str, files: dict[str, FileEntry]
) -> _Checkpoint:
    """Check the files of a checkpoint and return it; raise _DamagedError where it does not load."""
    folder = run_folder.join(f"{run_name}/{name}")
    try:
        digests = _read_json(folder, DIGESTS) if DIGESTS in files else {}
        for file, expected in digests.items():
            _check_digest(folder, file, files, expected)
        progress = _read_progress(folder, files)
        tensors = (WEIGHTS, OPTIMIZER, *([BEST] if progress.best_epoch else []))
        for file in tensors:
            if file not in files:
                raise _DamagedError(f"{file} is not there")
            if file not in digests:
                _check_tensors(folder, files[file])
    except OSError as error:
        raise InputError(f"{folder.uri}: cannot be read: {error}") from error
    return _Checkpoint(name, progress)


def _read_progress(folder: Storage, files: dict[str, FileEntry]) -> Progress:
    if PROGRESS not in files:
        raise _DamagedError(f"{PROGRESS} is not there")
    try:
        return Progress.of_json(folder.read(PROGRESS))
    except (ValueError, TypeError, KeyError) as error:
        raise _DamagedError(f"{PROGRESS} does not parse: {one_line(error)}") from None


def _read_json(folder: Storage, file: str) -> dict[str, Any]:
    try:
        return dict(json.loads(folder.read(file)))
    except (ValueError, TypeError) as error:
        raise _DamagedError(f"{file} does not parse: {one_line(error)}") from None


def _check_digest(
    folder: Storage, file: str, files: dict[str, FileEntry], expected: dict[str, Any]
) -> None:
    """Raise _DamagedError where a file is not what was written."""
    if file not in files:
        raise _DamagedError(f"{file} is not there")
    size = files[file].size
    if size != expected["bytes"]:
        raise _DamagedError(f"{file} has {size} of {expected['bytes']} bytes")
    found, stored = hashlib.sha256(), folder.join(file)
    for start in range(0, size, _PIECE_BYTES):
        found.update(stored.read_range(start, min(_PIECE_BYTES, size - start)))
    if found.hexdigest() != expected["sha256"]:
        raise _DamagedError(f"{file} is not what was written: its sha256 differs")


def _check_tensors(folder: Storage, entry: FileEntry) -> None:
    """Raise _DamagedError where a safetensors file is not as long as its header says."""
    stored, file = folder.join(entry.path.rpartition("/")[2]), entry.path.rpartition("/")[2]
    header_bytes = int.from_bytes(stored.read_range(0, 8), "little")
    if not 0 < header_bytes <= min(entry.size - 8, _MOST_HEADER_BYTES):
        raise _DamagedError(f"{file} is cut short: {entry.size} bytes")
    try:
        header = json.loads(stored.read_range(8, header_bytes))
        ends = [
            tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _DamagedError(f"{file} has a damaged header") from None
    expected = 8 + header_bytes + max(ends, default=0)
    if entry.size != expected:
        raise _DamagedError(f"{file} has {entry.size} of {expected} bytes")


def _snapshot(checkpoints: list[_Checkpoint]) -> bytes:
    """Return Ray Train's own list of checkpoints, the oldest first (its `_CheckpointManagerState`, of Ray 2.60)."""
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
