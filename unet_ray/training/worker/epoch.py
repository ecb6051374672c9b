"""The training steps of an epoch in a worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ray.train
import torch
from torch import Tensor

from unet_ray.network.learner import summed
from unet_ray.training.worker.group import WorkerGroup
from unet_ray.training.worker.settings import WorkerSettings
from unet_ray.training.worker.state import CheckpointReporter, TrainingState

_EXPLODED = 1e4
"""Loss per pixel from which a network does not recover; an untrained network has about 1."""
_STEPS_PER_CHECK, _STEPS_PER_CHECK_GPU = 10, 50
"""Number of steps whose losses are checked together: each check waits for the device."""


class NotLearningError(Exception):
    """The training cannot go on; the message says what happened. All workers raise it together."""


class EpochClock:
    """Times an epoch, and the share of its training that was spent waiting for data."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._trained_at = self._started_at
        self._waited_s = 0.0
        self.crops_per_s = 0.0
        """Crops per second of all workers while training."""
        self.wait_share = 0.0
        """Share of the training in which this worker waited for data, 0..1."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a `with` block as time spent waiting."""
        before = time.monotonic()
        yield
        self._waited_s += time.monotonic() - before

    def end_training(self, num_crops: int) -> None:
        """End the training part of the epoch.

        Args:
            num_crops: Number of crops that all workers together have seen in it.
        """
        self._trained_at = time.monotonic()
        training_s = self._trained_at - self._started_at
        self.crops_per_s = num_crops / training_s
        self.wait_share = self._waited_s / training_s

    @property
    def elapsed_s(self) -> float:
        """Time since the start of the epoch (s)."""
        return time.monotonic() - self._started_at

    @property
    def validation_s(self) -> float:
        """Time since the end of training (s)."""
        return time.monotonic() - self._trained_at


class EpochTrainer:
    """Takes the training steps of a worker, epoch after epoch.

    Args:
        settings: Settings of the training.
        group: The workers.
        state: State that learns.
        checkpoints: Reports checkpoints within epochs.
        batches: Batches of this worker, with the names of `LabelledCrops.draw`.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        group: WorkerGroup,
        state: TrainingState,
        checkpoints: CheckpointReporter,
        batches: Iterator[dict[str, Tensor]],
    ) -> None:
        self._config, self._setup, self._group = settings.config, settings.setup, group
        self._state, self._checkpoints, self._batches = state, checkpoints, batches
        self._crops_per_step = settings.config.batch_size * group.size
        on_gpu = group.device.type == "cuda"
        self._steps_per_check = _STEPS_PER_CHECK_GPU if on_gpu else _STEPS_PER_CHECK
        self._max_loss = _EXPLODED * max(settings.learner.class_weights or (1.0,))

    def train(self, clock: EpochClock) -> None:
        """Take the steps of one epoch.

        Args:
            clock: Clock of the epoch; its training part has ended afterwards.

        Raises:
            NotLearningError: The loss or the weights are not finite, or the loss is far too large.
        """
        state, crops_per_epoch = self._state, self._setup.crops_per_epoch
        state.learner.network.train()
        first = state.progress.crops_seen
        end = max((state.progress.epochs + 1) * crops_per_epoch, first + 1)
        total = self._config.epochs * crops_per_epoch
        losses = list[Tensor]()
        while (seen := state.progress.crops_seen) < end:
            with clock.waiting():
                batch = next(self._batches)
            seen += self._crops_per_step
            state.progress = replace(state.progress, crops_seen=seen)
            loss = state.learner.step(
                images=batch["image"],
                targets=batch["targets"],
                weights=batch.get("weights"),
                progress=min(1.0, seen / total),
            )
            losses.append(loss)
            if len(losses) == self._steps_per_check or seen >= end:
                self._check(losses)
                losses = []
        clock.end_training(state.progress.crops_seen - first)

    def _check(self, losses: list[Tensor]) -> None:
        """Check the losses since the last check, and save a checkpoint if it is time."""
        state, device = self._state, self._group.device
        is_due = torch.tensor(float(self._checkpoints.is_due), device=device)
        mine = torch.stack([*losses, state.learner.weights_sum(), is_due])
        *means, weights, due = (summed(mine) / self._group.size).tolist()
        # The last value is NaN if the last step has spoilt the weights, else 0.
        for index, loss in enumerate([*means, weights * 0]):
            if not abs(loss) < self._max_loss:
                last_step = state.progress.crops_seen // self._crops_per_step
                step = last_step - len(means) + index + 1
                raise NotLearningError(f"the loss became {loss:.3g} at step {step}")
        epoch_loss = state.progress.epoch_loss + self._crops_per_step * sum(means)
        state.progress = replace(state.progress, epoch_loss=epoch_loss)
        self._checkpoints.report_within_epoch(state, is_due=due > 0)


def read_batches(settings: WorkerSettings) -> Iterator[dict[str, Tensor]]:
    """Return the batches of this worker's share of the crops, in the order of learning.

    Args:
        settings: Settings of the training.
    """
    size = settings.config.batch_size
    buffer = settings.setup.shuffle_buffer
    shuffling = {}
    if buffer:
        shuffling["local_shuffle_buffer_size"] = max(buffer, size)
        shuffling["local_shuffle_seed"] = settings.config.seed
    shard = ray.train.get_dataset_shard("crops")
    batches: Iterator[dict[str, Tensor]] = iter(
        shard.iter_torch_batches(
            batch_size=size,
            drop_last=True,
            device="cpu",
            prefetch_batches=2,
            **shuffling,
        )
    )
    return batches
