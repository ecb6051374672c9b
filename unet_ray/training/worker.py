"""The loop of a Ray Train worker: training steps, validation, checkpoints and resuming.

Each worker takes its share of the crops and of the validation images.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from torch import Tensor, nn

from unet_ray.cluster.resources import node_cpus
from unet_ray.imaging.drawing.panels import draw_comparison
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.config import UNetConfig
from unet_ray.network.learner import Learner, LearnerConfig, summed
from unet_ray.network.model_folder import state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.network.weights import load_weights
from unet_ray.storage.storage import Storage
from unet_ray.storage.temporary import temporary_prefix
from unet_ray.training.checkpoint_writer import load_optimizer, read_state, write_state
from unet_ray.training.console import epoch_line, summary_lines
from unet_ray.training.curves import draw_curves
from unet_ray.training.progress import EpochRecord, Progress, as_metrics
from unet_ray.training.tensorboard import EventLog
from unet_ray.training.validation import Validation, ValidationResult

_EXPLODED = 1e4
"""Loss per pixel from which a network does not recover; an untrained network has about 1."""
_WORST = 6
"""Number of worst validation images in the picture."""


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that a worker needs apart from the crops."""

    network: UNetConfig
    """Architecture of the network."""
    preprocessing: Preprocessing
    """Preprocessing of the training set."""
    labelling: Labelling
    """Meaning of the masks."""
    learner: LearnerConfig
    """Settings of the training step."""
    validation: tuple[tuple[int, str], ...]
    """Index in `reader` and URI of each validation image."""
    reader: Reader
    """Reads the validation images."""
    initial: bytes | None
    """Weights to start from as safetensors. None: weights are drawn at random."""
    epochs: int
    """Number of epochs of the whole training."""
    batch_size: int
    """Crops per step and worker."""
    crops_per_epoch: int
    """Crops per epoch of all workers together; enough for at least one step."""
    metric: str
    """Metric that the best epoch is chosen by: dice, iou, or one of them with a class, as in
    dice:leaf."""
    patience: int
    """Number of epochs without a better score after which training ends; 0: never."""
    checkpoint_minutes: float
    """Time between checkpoints within an epoch (min)."""
    shuffle_buffer: int
    """Number of crops that each worker shuffles among; 0: crops come shuffled."""
    compiled: bool
    """True to compile the network with torch.compile."""
    seed: int
    """Seed of weights, shuffling and augmentation."""
    run_folder: Storage
    """Run folder, for pictures and event files."""


def train_worker(loop_config: dict[str, Any]) -> str | None:
    """Run all epochs that the last checkpoint has not seen.

    Args:
        loop_config: `settings`: the WorkerSettings; `post`: a function that shows a line to the
            user.

    Returns:
        The reason why training cannot go on; None if it is done.
    """
    return _Worker(loop_config["settings"], loop_config["post"]).run()


class _Worker:
    """The worker of one rank."""

    def __init__(self, settings: WorkerSettings, post: Callable[[str], None]) -> None:
        context = ray.train.get_context()
        self.settings, self.rank, self.world = (
            settings,
            context.get_world_rank(),
            context.get_world_size(),
        )
        self.post = post if self.rank == 0 else lambda _: None
        torch.set_num_threads(max(1, node_cpus() // context.get_local_world_size()))
        torch.manual_seed(settings.seed)
        self.device = ray.train.torch.get_device()
        self.progress, self.best = Progress(), None
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            self.learner = self._make_learner(
                load_weights(settings.initial, settings.network) if settings.initial else None
            )
        else:
            with checkpoint.as_directory() as folder:
                state = read_state(Path(folder), settings.network)
            self.progress, self.best = state.progress, state.best
            self.learner = self._make_learner(state.weights)
            load_optimizer(self.learner.optimizer, state.optimizer)
        self.validation = Validation(
            settings.reader,
            settings.preprocessing,
            settings.labelling,
            settings.validation,
            "cuda" if self.device.type == "cuda" else "cpu",
        )
        self.saved_at = time.monotonic()
        self.unsaved: Path | None = None
        self.warned: Any = None

    def _make_learner(self, weights: dict[str, Tensor] | None) -> Learner:
        network: nn.Module = UNet(self.settings.network)
        if weights:
            network.load_state_dict(weights)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cuda" and self.world > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        if self.settings.compiled:
            network.compile()
        seed = [self.settings.seed, self.rank, self.progress.crops_seen]
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence(seed).generate_state(1)[0])
        )
        wrapped = ray.train.torch.prepare_model(network)
        return Learner(wrapped, self.settings.preprocessing, self.settings.learner, generator)

    def run(self) -> str | None:
        """Train, validate and report epoch after epoch.

        Returns:
            The reason why training cannot go on; None if it is done.
        """
        self._announce()
        batches = self._batches()
        with ExitStack() as stack:
            events = (
                stack.enter_context(closing(EventLog(self.settings.run_folder)))
                if self.rank == 0
                else None
            )
            while not self._is_finished():
                started, speed = time.monotonic(), _Speed()
                failure = self._train_epoch(batches, speed)
                if failure:
                    return failure
                before_validation = time.monotonic()
                found = self._validate()
                if not found.is_finite:
                    return self._explain_overflow()
                record = self._record(found, started, before_validation, speed)
                self._keep(record)
                if events:
                    events.write(record)
        self._draw()
        return None

    def _announce(self) -> None:
        crops = self.settings.batch_size * self.world
        steps = -(-self.settings.crops_per_epoch // crops)
        self.post(
            f"{self.world} worker{'s' * (self.world > 1)}, effective batch {crops}, "
            f"{steps} steps an epoch, from epoch {self.progress.epochs + 1}"
        )
        if self.world > 1 and self.device.type == "cpu" and self.settings.network.norm == "batch":
            self.post(
                "batch normalisation uses each worker's own statistics (no SyncBatchNorm on CPU)"
            )

    def _is_finished(self) -> bool:
        patience = self.settings.patience
        if patience and self.progress.epochs and self.progress.epochs_without_gain >= patience:
            self.post(
                f"no gain in {patience} epochs (--patience): "
                f"training ends after epoch {self.progress.epochs}"
            )
            return True
        return self.progress.epochs >= self.settings.epochs

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        size, buffer = self.settings.batch_size, self.settings.shuffle_buffer
        shuffling = {
            "local_shuffle_buffer_size": max(buffer, size),
            "local_shuffle_seed": self.settings.seed,
        }
        shard = ray.train.get_dataset_shard("crops")
        batches: Iterator[dict[str, Tensor]] = iter(
            shard.iter_torch_batches(
                batch_size=size,
                drop_last=True,
                device="cpu",
                prefetch_batches=2,
                **(shuffling if buffer else {}),
            )
        )
        return batches

    def _train_epoch(self, batches: Iterator[dict[str, Tensor]], speed: _Speed) -> str | None:
        """Take the steps of one epoch.

        Returns:
            The reason why training cannot go on, or None.
        """
        self.learner.network.train()
        end = max(
            (self.progress.epochs + 1) * self.settings.crops_per_epoch, self.progress.crops_seen + 1
        )
        total = self.settings.epochs * self.settings.crops_per_epoch
        crops = self.settings.batch_size * self.world
        first, losses = self.progress.crops_seen, list[Tensor]()
        check_every = 50 if self.device.type == "cuda" else 10  # each check waits for the device
        while self.progress.crops_seen < end:
            with speed.waiting():
                batch = next(batches)
            self.progress = replace(self.progress, crops_seen=self.progress.crops_seen + crops)
            done = min(1.0, self.progress.crops_seen / total)
            losses.append(
                self.learner.step(batch["image"], batch["targets"], batch.get("weights"), done)
            )
            if len(losses) == check_every or self.progress.crops_seen >= end:
                failure = self._check(losses, crops)
                if failure:
                    return failure
                losses = []
        speed.stop(self.progress.crops_seen - first)
        return None

    def _check(self, losses: list[Tensor], crops: int) -> str | None:
        """Check the losses since the last check, and save a checkpoint if it is time.

        Returns:
            The reason why training cannot go on, or None.
        """
        is_due = (
            self.rank == 0
            and time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_minutes
        )
        mine = torch.stack(
            [*losses, self.learner.weights_sum(), torch.tensor(float(is_due), device=self.device)]
        )
        *means, weights, due = (summed(mine) / self.world).tolist()
        limit = _EXPLODED * max(self.settings.learner.class_weights or (1.0,))
        # The last value is NaN if the last step has spoilt the weights, else 0.
        for index, loss in enumerate([*means, weights * 0]):
            if not abs(loss) < limit:
                step = self.progress.crops_seen // crops - len(means) + index + 1
                return self._explain_explosion(loss, step)
        self.progress = replace(
            self.progress, epoch_loss=self.progress.epoch_loss + crops * sum(means)
        )
        warning = ray.train.get_preemption_info()  # a node is about to disappear: save now
        if due or (warning is not None and warning != self.warned):
            self.warned = warning
            self._save()
        return None

    def _explain_explosion(self, loss: float, step: int) -> str:
        return self._explain_failure(f"the loss became {loss:.3g} at step {step}")

    def _explain_overflow(self) -> str:
        return self._explain_failure("the network's output for a validation image is not finite")

    def _explain_failure(self, what: str) -> str:
        saved = self.progress.epochs
        state = (
            f"the last good checkpoint is of epoch {saved}"
            if saved
            else "there is no checkpoint of an epoch yet"
        )
        return (
            f"{what} (epoch {saved + 1}); {state}, in "
            f"{self.settings.run_folder.uri}; rerun with a smaller --learning-rate than "
            f"{self.settings.learner.learning_rate:g}, and look at the masks of extreme images"
        )

    def _validate(self) -> ValidationResult:
        """Validate the network; all workers get the same result."""
        self.learner.share_statistics()
        add_up = partial(add_over_workers, self.device)
        return self.validation.run(self.learner.unet, self.rank, self.world, add_up)

    def _record(
        self, found: ValidationResult, started: float, before_validation: float, speed: _Speed
    ) -> EpochRecord:
        """Return the record of an epoch that has been validated."""
        now = time.monotonic()
        seen, history = self.progress.crops_seen, self.progress.history
        wait = add_over_workers(self.device, np.array([speed.wait_share]))
        return EpochRecord(
            epoch=self.progress.epochs + 1,
            crops_seen=seen,
            loss=self.progress.epoch_loss / (seen - (history[-1].crops_seen if history else 0)),
            learning_rate=self.learner.optimizer.param_groups[0]["lr"],
            iou=found.by_class(found.counts.iou),
            dice=found.by_class(found.counts.dice),
            thresholds=dict(zip(found.classes, found.thresholds, strict=True)),
            score=found.score(self.settings.metric),
            crops_per_s=speed.crops_per_s,
            data_wait=float(wait[0]) / self.world,
            elapsed_s=now - started,
            validation_s=now - before_validation,
            workers=self.world,
            gpu_memory_bytes=torch.cuda.max_memory_allocated()
            if self.device.type == "cuda"
            else None,
            worst=found.worst(_WORST),
        )

    def _keep(self, record: EpochRecord) -> None:
        """Add an epoch to the history, save a checkpoint, and post the results."""
        self.progress = self.progress.after(record)
        is_best = self.progress.best_epoch == record.epoch
        if is_best and self.rank == 0:
            self.best = state_bytes(self.learner.unet)
        left = self.settings.epochs - record.epoch
        eta_s = left * (self.settings.crops_per_epoch / record.crops_per_s + record.validation_s)
        self.post(
            epoch_line(record, self.settings.epochs, eta_s, is_best and record.score is not None)
        )
        self._save()

    def _save(self) -> None:
        """Report a checkpoint, which Ray Train stores in the background."""
        self.saved_at = time.monotonic()
        checkpoint, mode = None, CheckpointUploadMode.ASYNC
        if self.rank == 0:
            if self.unsaved and self.unsaved.exists():  # storing is slower than training: wait
                mode = CheckpointUploadMode.SYNC
            self.unsaved = Path(tempfile.mkdtemp(prefix=temporary_prefix()))
            write_state(self.unsaved, self.learner, self.progress, self.best)
            checkpoint = ray.train.Checkpoint.from_directory(self.unsaved)
        ray.train.report(
            as_metrics(self.progress),
            checkpoint=checkpoint,
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=True,
        )

    def _draw(self) -> None:
        """Write pictures to the run folder, and post a summary of the training."""
        if self.rank or self.best is None:
            return
        history, best = list(self.progress.history), self.progress.best
        network = UNet(self.settings.network)
        network.load_state_dict(load_weights(self.best, self.settings.network))
        self.settings.run_folder.write("curves.png", draw_curves(history, best.epoch))
        if best.worst:
            thresholds = tuple(best.thresholds[c.name] for c in self.settings.labelling.classes)
            rows = self.validation.compare(network, best.worst, thresholds)
            if rows:
                self.settings.run_folder.write("worst.png", draw_comparison(rows))
        for line in summary_lines(history, best.epoch, self.settings.metric):
            self.post(line)


class _Speed:
    """Measures the speed of training in one epoch, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._waited_s = 0.0
        self.crops_per_s = 0.0
        self.wait_share = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a `with` block as time spent waiting."""
        before = time.monotonic()
        yield
        self._waited_s += time.monotonic() - before

    def stop(self, crops: int) -> None:
        """End the epoch, in which all workers together have seen `crops` crops."""
        elapsed_s = time.monotonic() - self._started
        self.crops_per_s, self.wait_share = crops / elapsed_s, self._waited_s / elapsed_s


def add_over_workers(device: torch.device, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Add an array up over all workers, on a device."""
    return np.asarray(summed(torch.from_numpy(values).to(device)).cpu().numpy())
