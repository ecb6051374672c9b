"""One step of training: augmentation, forward, loss, backward, clipping, AdamW on a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from unet_ray.network.augment import Batch, augment
from unet_ray.network.config import Loss
from unet_ray.network.losses import cross_entropy_sum, dice_loss
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

_WARM_UP_SHARE = 0.05
_CLIP_NORM = 1.0
_SETTLED_SHARE = 0.6
"""Of the training: from here on batch normalisation no longer takes its statistics from the batch but, as inference
will, from its running ones. Where images differ much (fluorescence and stained tissue), those of a small batch are
never those of an image, and a network that only ever saw the former segments the latter worse."""
_WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class LearnerConfig:
    """How to learn."""

    learning_rate: float
    """At its peak: it warms up over the first twentieth of the steps and falls as a cosine to 0."""
    loss: Loss = "bce"
    """`bce`, or `bce_dice`: their sum."""
    class_weights: tuple[float, ...] | None = None
    """Per class: what a pixel of it weighs against one that is not of it; None: 1."""
    augmentations: frozenset[str] = frozenset()
    """Of `augment.AUGMENTATIONS`."""


class Learner:
    """A network and its optimizer, alike on every worker.

    Args:
        network — a UNet, plain or wrapped by DistributedDataParallel, on its device.
        preprocessing — of the training set.
        config — how to learn.
        generator — of the CPU; draws the augmentation.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        config: LearnerConfig,
        generator: torch.Generator,
    ) -> None:
        self.network, self.config = network, config
        self.optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        self._preprocessing, self._generator = preprocessing, generator
        self._device = next(network.parameters()).device
        is_cuda = self._device.type == "cuda"
        self._has_bfloat16 = is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        self._norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
        self._weights = (
            torch.tensor(config.class_weights, device=self._device)
            if config.class_weights
            else None
        )

    @property
    def unet(self) -> UNet:
        """The network without its wrapper."""
        inner = (
            self.network.module
            if isinstance(self.network, DistributedDataParallel)
            else self.network
        )
        assert isinstance(inner, UNet)
        return inner

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate at a share 0..1 of the training: a function of samples seen, not of workers."""
        return (
            self.config.learning_rate
            * min(1.0, progress / _WARM_UP_SHARE)
            * 0.5
            * (1 + math.cos(math.pi * progress))
        )

    def weights_sum(self) -> Tensor:
        """Return the sum of all weights, a scalar that is finite only where they all are."""
        return torch.stack([weight.detach().sum() for weight in self.network.parameters()]).sum()

    def share_statistics(self) -> None:
        """Give all workers the normalisation statistics of the first, whose network is the one that is kept."""
        for buffer in self.unet.buffers() if is_distributed() else ():
            torch.distributed.broadcast(buffer, 0)

    def step(
        self, images: Tensor, targets: Tensor, weights: Tensor | None, progress: float
    ) -> Tensor:
        """Learn from one batch.

        Args:
            images — N, H, W, C of any dtype, as the image is.
            targets — N, K, H, W uint8: 0, 1, IGNORED; of the same square as the image, margin included.
            weights — N, K, H, W float, or None.
            progress — share of the training that this step ends, above 0, up to 1.

        Returns: this worker's loss; the mean over workers is the loss of the whole batch.
        """
        images, targets = (
            images.to(self._device, non_blocking=True),
            targets.to(self._device, non_blocking=True),
        )
        weights = None if weights is None else weights.to(self._device, non_blocking=True)
        for norm in self._norms:
            norm.train(progress < _SETTLED_SHARE)
        inputs = self._preprocessing.apply(images.permute(0, 3, 1, 2))
        batch = augment(Batch(inputs, targets, weights), self.config.augmentations, self._generator)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._has_bfloat16):
            logits = self.network(batch.images.contiguous(memory_format=torch.channels_last))
        loss = self._loss(logits, batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        self.optimizer.step()
        return loss.detach()

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        margin = self.unet.config.margin
        inner = slice(margin, -margin or None)
        targets = batch.targets[..., inner, inner]
        weights = None if batch.weights is None else batch.weights[..., inner, inner].float()
        total, counted = cross_entropy_sum(logits, targets, self._weights, weights)
        # DDP averages gradients over workers: divide by the mean count, so that every pixel weighs the same.
        loss = total / (summed(counted) / world_size()).clamp(min=1)
        return loss + dice_loss(logits, targets) if self.config.loss == "bce_dice" else loss


def world_size() -> int:
    """Return the number of workers; 1 outside a process group."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def summed(tensor: Tensor) -> Tensor:
    """Add a tensor up over all workers."""
    if is_distributed():
        tensor = tensor.clone()
        torch.distributed.all_reduce(tensor)
    return tensor


def is_distributed() -> bool:
    """Tell whether this process is one of several workers."""
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return initialized and torch.distributed.get_world_size() > 1
