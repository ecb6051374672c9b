"""How far a training has come, as its checkpoints say; no torch: Ray Train's own processes read it too."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from unet_ray.archive.ledger import entries_of
from unet_ray.archive.storage import Storage

PROGRESS = "progress.json"
"""The file of a checkpoint that holds its progress."""
_AS_GOOD = 0.005
"""Scores this close to the highest are as good: few images cannot tell them apart, and the later epoch, which learnt at
a lower rate, does better on images that nobody has seen (on 106 nuclei images: AP@0.5 0.60 against 0.56)."""
_SNAPSHOT = "checkpoint_manager_snapshot.json"
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
        known = [(record.score, -record.epoch) for record in self.history if record.score is not None]
        return self.epochs + max(known)[1] if known else 0

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @staticmethod
    def of_json(data: bytes) -> Progress:
        """Return the inverse of `to_json`."""
        found = json.loads(data)
        return Progress(**(found | {"history": tuple(EpochRecord(**record) for record in found["history"])}))


def last_progress(storage: Storage, run_name: str) -> Progress | None:
    """Return the progress of the newest checkpoint of a storage, or None; files that a kill cut short are left out."""
    if not storage.exists(run_name):
        return None
    found = [e.path for e in storage.entries(run_name) if e.path.endswith(f"/{PROGRESS}")]
    states = []
    for path in found:
        with suppress(ValueError, FileNotFoundError):
            states.append(Progress.of_json(storage.read(f"{run_name}/{path}")))
    return max(states, key=lambda progress: (progress.crops_seen, progress.epochs), default=None)


def crops_seen(storage: Storage, run_name: str) -> int:
    """Return the crops that the newest checkpoint of a storage has seen."""
    return (last_progress(storage, run_name) or Progress()).crops_seen


def remove_strays(storage: Storage, run_name: str) -> list[str]:
    """Remove checkpoints that Ray Train's snapshot does not name: what was being stored when something was killed.

    Nothing can go on from them, and nobody else would ever remove them. Not to be called while a training runs.

    Returns: the names of their folders.
    """
    entries = entries_of(storage, run_name)
    folders = {entry.path.split("/")[0] for entry in entries if entry.path.startswith("checkpoint_20")}
    named = _named_checkpoints(storage, run_name) if folders else set()
    if named is None:
        return []
    strays = sorted(folders - named)
    for folder in strays:
        storage.delete_folder(f"{run_name}/{folder}")
    return strays


def _named_checkpoints(storage: Storage, run_name: str) -> set[str] | None:
    """Return the checkpoints of the snapshot; None where it cannot be read: then nothing is known to be a stray."""
    try:
        snapshot = json.loads(storage.read(f"{run_name}/{_SNAPSHOT}"))
    except FileNotFoundError:
        return set()
    except ValueError:
        return None
    results = [*snapshot["checkpoint_results"], *snapshot["pending_training_results"]]
    return {found["checkpoint_dir_name"] for found in [*results, snapshot["latest_checkpoint_result"]] if found}


def as_metrics(progress: Progress) -> dict[str, Any]:
    """Return what Ray Train keeps beside a checkpoint."""
    return {"crops_seen": progress.crops_seen, "epochs": progress.epochs}
