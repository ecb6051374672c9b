"""What each Ray Train worker does: steps over its part of the crops, validation of its part, checkpoints, resume."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unet_ray.archive.storage import Storage
from unet_ray.errors import UnetRayError
from unet_ray.imaging.labels import Labelling
from unet_ray.imaging.masks import binary_mask
from unet_ray.imaging.metrics import PixelCounts, count_pixels, no_counts
from unet_ray.inputs import LabelAccess, LabelledImage
from unet_ray.network.augment import flip_and_turn
from unet_ray.network.losses import cross_entropy_sum
from unet_ray.network.model_folder import state_bytes
from unet_ray.network.predictor import Predictor, PredictorConfig
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet, UNetConfig

_WARM_UP_SHARE = 0.05
_CLIP_NORM = 1.0
_SHUFFLED_CROPS = 64


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that a worker needs beside the crops."""

    network: UNetConfig
    preprocessing: Preprocessing
    labelling: Labelling
    access: LabelAccess
    """Opens the validation images."""
    validation: tuple[LabelledImage, ...]
    epochs: int
    batch_size: int
    """Crops per step and worker."""
    crops_per_epoch: int
    """Of all workers together."""
    learning_rate: float
    seed: int
    threads: int
    """Torch's CPU threads per worker."""

    def with_threads(self, threads: int) -> WorkerSettings:
        """Return the same settings with another number of threads."""
        return replace(self, threads=threads)


def train_worker(loop_config: dict[str, Any]) -> None:
    """Run all epochs that the last checkpoint has not seen."""
    _Worker(loop_config["settings"], loop_config["post"]).run()


def last_epoch(storage: Storage, run_name: str) -> int:
    """Return how many epochs the newest checkpoint of a storage has seen; 0 where there is none."""
    if not storage.exists(run_name):
        return 0
    found = [e.path for e in storage.entries(run_name) if e.path.endswith("/progress.json")]
    return max((int(json.loads(storage.read(f"{run_name}/{path}"))["epoch"]) for path in found), default=0)


class _Worker:
    """One rank."""

    def __init__(self, settings: WorkerSettings, post: Callable[[str], None]) -> None:
        self.post = post
        context = ray.train.get_context()
        self.settings, self.rank, self.world = settings, context.get_world_rank(), context.get_world_size()
        torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self.generator = torch.Generator().manual_seed(settings.seed * 1000 + self.rank)
        self.device = ray.train.torch.get_device()
        network = UNet(settings.network)
        self.optimizer: torch.optim.Optimizer
        self.epoch = 0
        restored = _read_checkpoint()
        if restored:
            network.load_state_dict(restored[0])
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cuda" and self.world > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network: nn.Module = ray.train.torch.prepare_model(network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, weight_decay=1e-4)
        if restored:
            _load_optimizer(self.optimizer, restored[1])
            self.epoch = restored[2]
        self.steps = max(1, settings.crops_per_epoch // (settings.batch_size * self.world))

    def run(self) -> None:
        """Train, validate and report epoch after epoch."""
        if self.rank == 0:
            effective = self.settings.batch_size * self.world
            self.post(f"effective batch {effective}, {self.steps} steps an epoch, from epoch {self.epoch + 1}")
            if self.world > 1 and self.device.type == "cpu" and self.settings.network.norm == "batch":
                self.post("batch normalisation uses each worker's own statistics (no SyncBatchNorm on CPU)")
        batches = self._batches()
        while self.epoch < self.settings.epochs:
            loss = self._epoch(batches)
            self.epoch += 1
            self._report(loss, self._validate())

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        shard = ray.train.get_dataset_shard("crops")
        batches: Iterator[dict[str, Tensor]] = iter(
            shard.iter_torch_batches(
                batch_size=self.settings.batch_size,
                drop_last=True,
                device="cpu",
                prefetch_batches=2,
                local_shuffle_buffer_size=max(_SHUFFLED_CROPS, self.settings.batch_size),
                local_shuffle_seed=self.settings.seed,
            )
        )
        return batches

    def _epoch(self, batches: Iterator[dict[str, Tensor]]) -> float:
        """Take one epoch's steps; return the mean loss over all workers."""
        self.network.train()
        total = torch.zeros((), device=self.device)
        for step in range(self.steps):
            self._set_learning_rate(self.epoch * self.steps + step)
            total += self._step(next(batches))
        loss = float(_summed(total)) / (self.steps * self.world)
        if not math.isfinite(loss):
            raise UnetRayError(
                f"the loss became {loss} in epoch {self.epoch + 1}; the last checkpoint is good: rerun with a smaller "
                "--learning-rate"
            )
        return loss

    def _step(self, batch: dict[str, Tensor]) -> Tensor:
        images = batch["image"].to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        images, targets = flip_and_turn(images, batch["targets"].to(self.device, non_blocking=True), self.generator)
        inputs = self.settings.preprocessing.apply(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(inputs)
        loss_sum, counted = cross_entropy_sum(logits, targets)
        # DDP averages gradients over workers: divide by the mean count, so that every pixel weighs the same.
        loss: Tensor = loss_sum / (_summed(counted) / self.world).clamp(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        self.optimizer.step()
        return loss.detach()

    def _set_learning_rate(self, step: int) -> None:
        total = self.settings.epochs * self.steps
        warm_up = max(1, round(total * _WARM_UP_SHARE))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, (step + 1) / warm_up) * cosine

    def _validate(self) -> PixelCounts:
        """Count this worker's part of the validation images, add up over workers."""
        counts = no_counts(self.settings.network.classes)
        config = PredictorConfig(device="cuda" if self.device.type == "cuda" else "cpu")
        predictor = Predictor(_unwrapped(self.network), self.settings.preprocessing, config)
        for item in self.settings.validation[self.rank :: self.world]:
            counts = counts + evaluate_image(
                predictor,
                self.settings.labelling,
                self.settings.access,
                item,
                (0.5,) * self.settings.network.classes,
            )
        summed = _summed(torch.from_numpy(counts.as_array()).to(self.device))
        return PixelCounts.of_array(summed.cpu().numpy())

    def _report(self, loss: float, counts: PixelCounts) -> None:
        classes = self.settings.labelling.classes
        metrics: dict[str, Any] = {"epoch": self.epoch, "loss": loss}
        for name, values in (("iou", counts.iou), ("dice", counts.dice)):
            metrics[name] = {c.name: _rounded(v) for c, v in zip(classes, values, strict=True)}
        if self.rank:
            ray.train.report(metrics)
            return
        shown = ", ".join(
            f"{c.name} IoU {iou:.3f} Dice {dice:.3f}"
            for c, iou, dice in zip(classes, counts.iou, counts.dice, strict=True)
        )
        validated = shown if self.settings.validation else "no validation images"
        self.post(f"epoch {self.epoch}/{self.settings.epochs}: loss {loss:.4f}, {validated}")
        with tempfile.TemporaryDirectory() as folder:
            _write_checkpoint(Path(folder), _unwrapped(self.network), self.optimizer, metrics)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def evaluate_image(
    predictor: Predictor,
    labelling: Labelling,
    access: LabelAccess,
    item: LabelledImage,
    thresholds: tuple[float, ...],
) -> PixelCounts:
    """Predict one labelled image and count it against its masks."""
    image, masks = item.read(access)
    (q,) = predictor.predict([predictor.preprocessing.check(image)])
    found = np.stack([binary_mask(plane, threshold) for plane, threshold in zip(q, thresholds, strict=True)])
    return count_pixels(found, labelling.targets(masks))


def _rounded(value: np.float64) -> float | None:
    """Return a metric for JSON; None where it is undefined."""
    return None if np.isnan(value) else round(float(value), 6)


def _summed(tensor: Tensor) -> Tensor:
    """Add a tensor up over all workers."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        tensor = tensor.clone()
        torch.distributed.all_reduce(tensor)
    return tensor


def _unwrapped(network: nn.Module) -> UNet:
    inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    assert isinstance(inner, UNet)
    return inner


def _write_checkpoint(folder: Path, network: UNet, optimizer: torch.optim.Optimizer, metrics: dict[str, Any]) -> None:
    (folder / "model.safetensors").write_bytes(state_bytes(network))
    state = optimizer.state_dict()["state"]
    flat = {f"{i}.{name}": t.cpu().contiguous() for i, values in state.items() for name, t in values.items()}
    save_file(flat, folder / "optimizer.safetensors")
    (folder / "progress.json").write_text(json.dumps(metrics))


def _read_checkpoint() -> tuple[dict[str, Tensor], dict[str, Tensor], int] | None:
    """Return weights, optimizer state and epochs seen of the checkpoint to resume from."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        weights = load_tensors((Path(folder) / "model.safetensors").read_bytes())
        progress = json.loads((Path(folder) / "progress.json").read_text())
        return weights, load_file(Path(folder) / "optimizer.safetensors"), int(progress["epoch"])


def _load_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
