"""The state of a training in a worker: restoring it from a checkpoint, and saving it to one."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from torch import Tensor, nn

from unet_ray.network.learner import Learner
from unet_ray.network.model_folder import state_bytes
from unet_ray.network.unet import UNet
from unet_ray.network.weights import load_weights
from unet_ray.storage.temporary import temporary_prefix
from unet_ray.training.checkpoint_writer import load_optimizer, read_state, write_state
from unet_ray.training.progress import EpochRecord, Progress, as_metrics
from unet_ray.training.worker.group import WorkerGroup
from unet_ray.training.worker.settings import WorkerSettings


@dataclass
class TrainingState:
    """Network of a worker, and the progress of its training."""

    learner: Learner
    """Network and optimizer."""
    progress: Progress
    """Progress, the same on all workers."""
    best: bytes | None
    """Weights of the best epoch as safetensors, on the first worker. None: there is none yet."""

    def end_epoch(self, record: EpochRecord, group: WorkerGroup) -> bool:
        """Add an epoch to the progress; return whether it is the best one so far."""
        self.progress = self.progress.after(record)
        is_best = self.progress.best_epoch == record.epoch
        if is_best and group.is_first:
            self.best = state_bytes(self.learner.unet)
        return is_best


def restore_state(settings: WorkerSettings, group: WorkerGroup) -> TrainingState:
    """Return the state of the last checkpoint, or a new state if there is none.

    Args:
        settings: Settings of the training.
        group: The workers.

    Raises:
        InputError: The weights do not fit the network, or are not all finite.
    """
    network = settings.setup.network
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        initial = settings.setup.initial
        weights = load_weights(initial, network) if initial else None
        return TrainingState(_make_learner(settings, group, 0, weights), Progress(), None)
    with checkpoint.as_directory() as folder:
        saved = read_state(Path(folder), network)
    learner = _make_learner(settings, group, saved.progress.crops_seen, saved.weights)
    load_optimizer(learner.optimizer, saved.optimizer)
    return TrainingState(learner, saved.progress, saved.best)


def _make_learner(
    settings: WorkerSettings, group: WorkerGroup, crops_seen: int, weights: dict[str, Tensor] | None
) -> Learner:
    """Return a network with an optimizer; the weights are drawn at random if none are given."""
    network: nn.Module = UNet(settings.setup.network)
    if weights:
        network.load_state_dict(weights)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if group.device.type == "cuda" and group.size > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if settings.config.compile:
        network.compile()
    seed = np.random.SeedSequence([settings.config.seed, group.rank, crops_seen])
    generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
    wrapped = ray.train.torch.prepare_model(network)
    return Learner(wrapped, settings.setup.sampler.preprocessing, settings.learner, generator)


class CheckpointReporter:
    """Reports checkpoints of a training, which Ray Train stores in the background.

    Args:
        group: The workers; the first one writes.
        interval_s: Time between two checkpoints within an epoch (s).
    """

    def __init__(self, group: WorkerGroup, interval_s: float) -> None:
        self._is_writer, self._interval_s = group.is_first, interval_s
        self._reported_at = time.monotonic()
        self._unsaved: Path | None = None
        self._warning: object = None

    @property
    def is_due(self) -> bool:
        """True on the first worker if the last checkpoint is older than the interval."""
        return self._is_writer and time.monotonic() - self._reported_at > self._interval_s

    def report_within_epoch(self, state: TrainingState, is_due: bool) -> None:
        """Report a checkpoint if it is due, or if a node is about to disappear.

        Args:
            state: State to save.
            is_due: `is_due` of the first worker, since all workers report together.
        """
        warning = ray.train.get_preemption_info()
        is_new = warning is not None and warning != self._warning
        if is_due or is_new:
            self._warning = warning
            self.report(state)

    def report(self, state: TrainingState) -> None:
        """Report a checkpoint; all workers call this together."""
        self._reported_at = time.monotonic()
        checkpoint, mode = None, CheckpointUploadMode.ASYNC
        if self._is_writer:
            if self._unsaved and self._unsaved.exists():  # storing is slower than training: wait
                mode = CheckpointUploadMode.SYNC
            self._unsaved = Path(tempfile.mkdtemp(prefix=temporary_prefix()))
            write_state(self._unsaved, state.learner, state.progress, state.best)
            checkpoint = ray.train.Checkpoint.from_directory(self._unsaved)
        ray.train.report(
            as_metrics(state.progress),
            checkpoint=checkpoint,
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=True,
        )
