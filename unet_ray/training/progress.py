"""Progress of a training, as its checkpoints record it.

This module does not import torch, because processes of Ray Train without it read the progress too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unet_ray.errors import InputError
from unet_ray.storage.json_file import MAX_JSON_BYTES, parse_json, read_json, read_limited
from unet_ray.storage.storage import Storage

PROGRESS = "progress.json"
"""File of a checkpoint that holds its progress."""
_AS_GOOD = 0.005
"""Largest difference from the highest score that still counts as equally good. A few images
cannot tell such scores apart, and the later epoch, which learnt at a lower rate, does better on
unseen images (AP@0.5 of 0.60 instead of 0.56 on 106 nuclei images)."""
_MOST_CROPS = 2**62
"""Largest number of crops that a progress may have."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""File in which Ray Train lists the checkpoints of a run."""


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch.

    All values are plain, so that a record becomes JSON by `dataclasses.asdict` and comes back by
    `EpochRecord(**values)`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    epoch: int
    """Number of epochs done, this one included."""
    crops_seen: int
    """Number of crops that all workers have seen since the start."""
    loss: float
    """Mean loss of the epoch's crops."""
    learning_rate: float
    """Learning rate at the end of the epoch."""
    iou: dict[str, float | None]
    """IoU by class name, pooled over all validation pixels, at `thresholds`. None: undefined; empty
    without validation."""
    dice: dict[str, float | None]
    """Dice by class name, like `iou`."""
    thresholds: dict[str, float]
    """Tuned probability threshold by class name."""
    score: float | None
    """Value of the metric that the best epoch is chosen by."""
    crops_per_s: float
    """Crops per second of all workers while training."""
    data_wait: float
    """Share of the training time in which workers waited for data, 0..1."""
    elapsed_s: float
    """Wall time of the epoch with validation (s)."""
    validation_s: float
    """Wall time of validation (s)."""
    workers: int
    """Number of workers."""
    gpu_memory_bytes: int | None
    """Largest GPU memory allocated by a worker; None on CPUs."""
    worst: list[tuple[int, float]]
    """Index and mean Dice of the validation images with the lowest Dice, ascending."""

    def __post_init__(self) -> None:  # JSON has no tuples
        object.__setattr__(self, "worst", [(int(index), float(dice)) for index, dice in self.worst])

    @property
    def training_s(self) -> float:
        """Wall time without validation (s)."""
        return max(0.0, self.elapsed_s - self.validation_s)


@dataclass(frozen=True)
class Progress:
    """Progress of a training."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    crops_seen: int = 0
    """Number of crops that all workers have seen."""
    epoch_loss: float = 0.0
    """Sum of the losses of the current epoch's crops."""
    history: tuple[EpochRecord, ...] = ()
    """Records of the epochs that ended."""
    best_epoch: int = 0
    """Epoch of the best weights, from 1; 0: none yet."""

    @property
    def epochs(self) -> int:
        """Number of epochs that ended."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord:
        """Record of the best epoch."""
        return self.history[self.best_epoch - 1]

    def after(self, record: EpochRecord) -> Progress:
        """Return the progress with one more epoch.

        The new epoch is the best unless an earlier one has a clearly better score.
        """
        history = (*self.history, record)
        scores = [each.score for each in history if each.score is not None]
        is_best = not scores
        if record.score is not None:
            is_best = record.score >= max(scores) - _AS_GOOD
        best = record.epoch if is_best else self.best_epoch
        return replace(self, epoch_loss=0.0, history=history, best_epoch=best)

    @property
    def epochs_without_gain(self) -> int:
        """Number of epochs since the highest score; 0 without scores."""
        scores = [each.score for each in self.history if each.score is not None]
        if not scores:
            return 0
        highest = max(scores)
        first = next(each.epoch for each in self.history if each.score == highest)
        return self.epochs - first

    def to_json(self) -> bytes:
        """Return the progress as JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @staticmethod
    def of_json(data: bytes) -> Progress:
        """Read the JSON that `to_json` returns.

        Raises:
            InputError: The JSON is damaged.
        """
        if "history" not in parse_json(data, PROGRESS):
            raise InputError(f"{PROGRESS}: damaged: history is missing")
        try:
            progress = _PROGRESS.validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"{PROGRESS}: damaged: {place}: {first['msg']}") from None
        is_whole = 0 <= progress.best_epoch <= progress.epochs
        if not is_whole or not 0 <= progress.crops_seen <= _MOST_CROPS:
            raise InputError(
                f"{PROGRESS}: damaged: crops_seen {progress.crops_seen}, best_epoch "
                f"{progress.best_epoch} of {progress.epochs}"
            )
        return progress


_PROGRESS = TypeAdapter(Progress)


def last_progress(storage: Storage, run_name: str) -> Progress | None:
    """Return the progress that a training resumes from, or None.

    It is that of the newest checkpoint in Ray Train's list. Without a list, or if that checkpoint
    has no progress, it is the furthest progress that can be read from any checkpoint.
    """
    listed = listed_checkpoints(storage, run_name)
    if listed:
        newest = _read_progress(storage, f"{run_name}/{listed[-1]}/{PROGRESS}")
        if newest is not None:
            return newest
    elif listed is not None:
        return None
    found = list[Progress]()
    for entry in storage.entries(run_name, missing_ok=True):
        if entry.path.endswith(f"/{PROGRESS}"):
            progress = _read_progress(storage, f"{run_name}/{entry.path}")
            if progress is not None:
                found.append(progress)
    return max(found, key=lambda progress: (progress.crops_seen, progress.epochs), default=None)


def _read_progress(storage: Storage, path: str) -> Progress | None:
    try:
        return Progress.of_json(read_limited(storage, path, MAX_JSON_BYTES))
    except (InputError, FileNotFoundError, IsADirectoryError):
        return None


def listed_checkpoints(storage: Storage, run_name: str) -> list[str] | None:
    """Return the checkpoint folders in Ray Train's list, the newest last.

    Returns:
        Names of folders; None if the list is missing or damaged.
    """
    try:
        snapshot = read_json(storage, f"{run_name}/{SNAPSHOT}")
        results = [*snapshot["checkpoint_results"], *snapshot["pending_training_results"]]
        names = [str(result["checkpoint_dir_name"]) for result in results]
        latest = snapshot["latest_checkpoint_result"]
        newest = [str(latest["checkpoint_dir_name"])] if latest else []
    except (FileNotFoundError, InputError, KeyError, TypeError):
        return None
    others = [name for name in dict.fromkeys(names) if name not in newest]
    return [*others, *newest]


def crops_seen(storage: Storage, run_name: str) -> int:
    """Return the number of crops that the newest checkpoint has seen."""
    return (last_progress(storage, run_name) or Progress()).crops_seen


def as_metrics(progress: Progress) -> dict[str, int]:
    """Return the metrics that Ray Train stores with a checkpoint."""
    return {"crops_seen": progress.crops_seen, "epochs": progress.epochs}
