"""The loop of a Ray Train worker, from the last checkpoint to the last epoch.

Each worker takes its share of the crops and of the validation images. Values that decide how the
training continues are summed over all workers, so that all decide alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ray.train
import torch

from unet_ray.cluster.resources import node_cpus
from unet_ray.training.config import TrainConfig
from unet_ray.training.console import epoch_line, summary_lines
from unet_ray.training.progress import EpochRecord, Progress
from unet_ray.training.validation import Validation, ValidationResult
from unet_ray.training.worker.artifacts import draw_pictures, open_event_log
from unet_ray.training.worker.epoch import EpochClock, EpochTrainer, NotLearningError, read_batches
from unet_ray.training.worker.group import WorkerGroup
from unet_ray.training.worker.settings import WorkerSettings
from unet_ray.training.worker.state import CheckpointReporter, TrainingState, restore_state

_WORST = 6
"""Number of worst validation images in the picture."""


def train_worker(loop_config: dict[str, Any]) -> str | None:
    """Run all epochs that the last checkpoint has not seen.

    Args:
        loop_config: `settings`: the WorkerSettings; `post`: a function that shows a line to the
            user.

    Returns:
        The reason why training cannot go on; None if it is done.
    """
    settings: WorkerSettings = loop_config["settings"]
    config, setup = settings.config, settings.setup
    group = WorkerGroup.of_this_worker()
    post: Callable[[str], None] = loop_config["post"] if group.is_first else lambda _: None
    torch.set_num_threads(max(1, node_cpus() // ray.train.get_context().get_local_world_size()))
    torch.manual_seed(config.seed)

    state = restore_state(settings, group)
    checkpoints = CheckpointReporter(group, 60 * config.checkpoint_minutes)
    validation = _make_validation(settings, group)
    for line in _describe_start(settings, group, state.progress):
        post(line)
    trainer = EpochTrainer(settings, group, state, checkpoints, read_batches(settings))
    with open_event_log(settings.run_folder, group) as write_event:
        try:
            while not _is_finished(config, state.progress, post):
                clock = EpochClock()
                trainer.train(clock)
                found = _validate(validation, state, group)
                record = _make_record(config, group, state, clock, found)
                is_best = state.end_epoch(record, group)
                post(_describe_epoch(config, setup.crops_per_epoch, record, is_best))
                checkpoints.report(state)
                write_event(record)
        except NotLearningError as error:
            return _explain(settings, state.progress, error)
    if group.is_first and state.best is not None:
        draw_pictures(settings, state.progress, state.best, validation)
        best_epoch = state.progress.best_epoch
        for line in summary_lines(state.progress.history, best_epoch, config.best_by):
            post(line)
    return None


def _make_validation(settings: WorkerSettings, group: WorkerGroup) -> Validation:
    setup = settings.setup
    return Validation(
        reader=setup.validation_reader,
        preprocessing=setup.sampler.preprocessing,
        labelling=setup.sampler.labelling,
        images=setup.validation,
        device="cuda" if group.device.type == "cuda" else "cpu",
    )


def _describe_start(settings: WorkerSettings, group: WorkerGroup, progress: Progress) -> list[str]:
    """Return the lines to show when a training starts or resumes."""
    crops_per_step = settings.config.batch_size * group.size
    steps = -(-settings.setup.crops_per_epoch // crops_per_step)
    workers = f"{group.size} workers" if group.size > 1 else "1 worker"
    lines = [
        f"{workers}, effective batch {crops_per_step}, "
        f"{steps} steps per epoch, from epoch {progress.epochs + 1}"
    ]
    if group.size > 1 and group.device.type == "cpu" and settings.setup.network.norm == "batch":
        lines.append(
            "batch normalisation uses each worker's own statistics (no SyncBatchNorm on CPU)"
        )
    return lines


def _is_finished(config: TrainConfig, progress: Progress, post: Callable[[str], None]) -> bool:
    """Return whether all epochs are done, or --patience has run out, which is posted."""
    patience = config.patience
    if patience and progress.epochs and progress.epochs_without_gain >= patience:
        post(
            f"no gain in {patience} epochs (--patience): "
            f"training ends after epoch {progress.epochs}"
        )
        return True
    return progress.epochs >= config.epochs


def _validate(validation: Validation, state: TrainingState, group: WorkerGroup) -> ValidationResult:
    """Validate the network; all workers get the same result."""
    state.learner.share_statistics()
    found = validation.run(state.learner.unet, group.rank, group.size, group.add_up)
    if not found.is_finite:
        raise NotLearningError("the network's output for a validation image is not finite")
    return found


def _make_record(
    config: TrainConfig,
    group: WorkerGroup,
    state: TrainingState,
    clock: EpochClock,
    found: ValidationResult,
) -> EpochRecord:
    """Return the record of an epoch that has just been validated."""
    elapsed_s, validation_s = clock.elapsed_s, clock.validation_s
    progress = state.progress
    seen_before = progress.history[-1].crops_seen if progress.history else 0
    waited = group.add_up(np.array([clock.wait_share]))
    on_gpu = group.device.type == "cuda"
    return EpochRecord(
        epoch=progress.epochs + 1,
        crops_seen=progress.crops_seen,
        loss=progress.epoch_loss / (progress.crops_seen - seen_before),
        learning_rate=state.learner.optimizer.param_groups[0]["lr"],
        iou=found.by_class(found.counts.iou),
        dice=found.by_class(found.counts.dice),
        thresholds=dict(zip(found.classes, found.thresholds, strict=True)),
        score=found.score(config.best_by),
        crops_per_s=clock.crops_per_s,
        data_wait=float(waited[0]) / group.size,
        elapsed_s=elapsed_s,
        validation_s=validation_s,
        workers=group.size,
        gpu_memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
        worst=found.worst(_WORST),
    )


def _describe_epoch(
    config: TrainConfig, crops_per_epoch: int, record: EpochRecord, is_best: bool
) -> str:
    """Return the line of an epoch, with the time that the remaining epochs will take."""
    epochs_left = config.epochs - record.epoch
    eta_s = epochs_left * (crops_per_epoch / record.crops_per_s + record.validation_s)
    return epoch_line(record, config.epochs, eta_s, is_best and record.score is not None)


def _explain(settings: WorkerSettings, progress: Progress, error: NotLearningError) -> str:
    """Return why a training cannot go on, what was saved, and what may help."""
    saved = progress.epochs
    state = "no epoch has a checkpoint yet"
    if saved:
        state = f"the last good checkpoint is from epoch {saved}"
    return (
        f"{error} (epoch {saved + 1}); {state}, in "
        f"{settings.run_folder.uri}; rerun with a smaller --learning-rate than "
        f"{settings.config.learning_rate:g}, and look at the masks of extreme images"
    )
