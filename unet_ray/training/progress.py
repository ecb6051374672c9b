"""How far a training has come, as its checkpoints say; no torch: Ray Train's own processes read it too."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from unet_ray.storage.storage import Storage

PROGRESS = "progress.json"
"""The file of a checkpoint that holds its progress."""
_AS_GOOD = 0.005
"""Scores this close to the highest are as good: few images cannot tell them apart, and the later epoch, which learnt at
a lower rate, does better on images that nobody has seen (on 106 nuclei images: AP@0.5 0.60 against 0.56)."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of the checkpoints of a run."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to; plain values: it travels as JSON, by `dataclasses.asdict` and `EpochRecord(**values)`."""

    epoch: int
    """Epochs done, this one included."""
    crops_seen: int
    """By all workers since the start."""
    loss: float
    learning_rate: float
    """At the end of the epoch."""
    iou: dict[str, float | None]
    """Class name → pooled over all validation pixels, at `thresholds`; None: undefined; empty without validation."""
    dice: dict[str, float | None]
    """As `iou`."""
    thresholds: dict[str, float]
    """Class name → tuned probability threshold."""
    score: float | None
    """What the best epoch is chosen by."""
    crops_per_s: float
    """Of all workers, while training."""
    data_wait: float
    """Share of the training time in which workers waited for data, 0..1."""
    elapsed_s: float
    """Validation included."""
    validation_s: float
    workers: int
    gpu_memory_bytes: int | None
    """Largest that was allocated on a worker; None on CPUs."""
    worst: list[tuple[int, float]]
    """Index of a validation image and its mean Dice, the worst first."""

    def __post_init__(self) -> None:  # JSON knows no tuples
        object.__setattr__(self, "worst", [(int(index), float(dice)) for index, dice in self.worst])

    @property
    def training_s(self) -> float:
        """Wall time without validation."""
        return max(0.0, self.elapsed_s - self.validation_s)


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    crops_seen: int = 0
    """By all workers."""
    epoch_loss: float = 0.0
    """Sum of the losses of the crops of the running epoch."""
    history: tuple[EpochRecord, ...] = ()
    """One record per epoch that ended."""
    best_epoch: int = 0
    """Epoch (1-based) of the best weights; 0: none yet."""

    @property
    def epochs(self) -> int:
        """Epochs that ended."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord:
        """The record of the best epoch."""
        return self.history[self.best_epoch - 1]

    def after(self, record: EpochRecord) -> Progress:
        """Return the progress with one more epoch; it is the best unless an earlier one has a clearly better score."""
        known = [r.score for r in (*self.history, record) if r.score is not None]
        is_best = not known or (record.score is not None and record.score >= max(known) - _AS_GOOD)
        best = record.epoch if is_best else self.best_epoch
        return replace(self, epoch_loss=0.0, history=(*self.history, record), best_epoch=best)

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the highest score; 0 where there is none."""
        known = [
            (record.score, -record.epoch) for record in self.history if record.score is not None
        ]
        return self.epochs + max(known)[1] if known else 0

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @staticmethod
    def of_json(data: bytes) -> Progress:
        """Return the inverse of `to_json`."""
        found = json.loads(data)
        return Progress(
            **(found | {"history": tuple(EpochRecord(**record) for record in found["history"])})
        )


def last_progress(storage: Storage, run_name: str) -> Progress | None:
    """Return the progress that a training goes on from, or None.

    It is that of the newest checkpoint in Ray Train's list. Where there is no list, or that checkpoint has none, it is
    the newest of all that can be read.
    """
    listed = listed_checkpoints(storage, run_name)
    if listed:
        newest = _read_progress(storage, f"{run_name}/{listed[-1]}/{PROGRESS}")
        if newest is not None:
            return newest
    elif listed is not None:
        return None
    found = [
        e.path
        for e in storage.entries(run_name, missing_ok=True)
        if e.path.endswith(f"/{PROGRESS}")
    ]
    states = [state for path in found if (state := _read_progress(storage, f"{run_name}/{path}"))]
    return max(states, key=lambda progress: (progress.crops_seen, progress.epochs), default=None)


def _read_progress(storage: Storage, path: str) -> Progress | None:
    try:
        return Progress.of_json(storage.read(path))
    except (ValueError, TypeError, KeyError, FileNotFoundError):
        return None


def listed_checkpoints(storage: Storage, run_name: str) -> list[str] | None:
    """Return the folders of the checkpoints in Ray Train's list, the newest last; None: there is no whole list."""
    try:
        snapshot = json.loads(storage.read(f"{run_name}/{SNAPSHOT}"))
        results = [*snapshot["checkpoint_results"], *snapshot["pending_training_results"]]
        names = [str(result["checkpoint_dir_name"]) for result in results]
        latest = snapshot["latest_checkpoint_result"]
        newest = [str(latest["checkpoint_dir_name"])] if latest else []
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return [*(name for name in dict.fromkeys(names) if name not in newest), *newest]


def crops_seen(storage: Storage, run_name: str) -> int:
    """Return the crops that the newest checkpoint of a storage has seen."""
    return (last_progress(storage, run_name) or Progress()).crops_seen


def as_metrics(progress: Progress) -> dict[str, Any]:
    """Return what Ray Train keeps beside a checkpoint."""
    return {"crops_seen": progress.crops_seen, "epochs": progress.epochs}
