"""One training step: augmentation, forward pass, loss, backward pass, gradient clipping, optimizer.

The optimizer is AdamW; its learning rate follows a cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from unet_ray.network.augment import Batch, augment
from unet_ray.network.config import Loss, Precision
from unet_ray.network.losses import cross_entropy_sum, dice_loss
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

_WARM_UP_SHARE = 0.05
"""Share of the training in which the learning rate rises to its peak."""
_CLIP_NORM = 1.0
"""Largest norm of the gradients."""
_SETTLED_SHARE = 0.6
"""Share of the training after which batch normalisation uses its running statistics, as inference
does, instead of those of the batch. If images differ much (fluorescence and stained tissue), the
statistics of a small batch never match those of one image, and a network that has only seen batch
statistics segments single images worse."""
_WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of the training step."""

    learning_rate: float
    """Learning rate at its peak. It rises over the first twentieth of the steps and then falls as a
    cosine to 0."""
    loss: Loss = "bce"
    """Loss to minimise. `bce`: binary cross entropy; `bce_dice`: the sum of that and 1 − Dice."""
    class_weights: tuple[float, ...] | None = None
    """Weight of a pixel of each class relative to one outside it. None: 1."""
    augmentations: frozenset[str] = frozenset()
    """Augmentations to apply, among `config.AUGMENTATIONS`."""
    cpu_precision: Precision = "float32"
    """Arithmetic of the network on a CPU. In bfloat16, weights, loss and gradients stay float32."""
    gpu_precision: Precision = "bfloat16"
    """Arithmetic of the network on a GPU, if it has bfloat16."""


class Learner:
    """A network and its optimizer; all workers hold the same weights.

    Args:
        network: UNet on its device, plain or wrapped by DistributedDataParallel.
        preprocessing: Preprocessing of the training set.
        config: Settings of the training step.
        generator: CPU generator of the random draws of augmentation.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        config: LearnerConfig,
        generator: torch.Generator,
    ) -> None:
        self.network = network
        self.config = config
        self.optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        self._preprocessing = preprocessing
        self._generator = generator
        self._device = next(network.parameters()).device
        if self._device.type == "cuda":
            is_supported = torch.cuda.is_bf16_supported(including_emulation=False)
            self._uses_bfloat16 = config.gpu_precision == "bfloat16" and is_supported
        else:
            self._uses_bfloat16 = config.cpu_precision == "bfloat16"
        self._norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
        self._weights: Tensor | None = None
        if config.class_weights:
            self._weights = torch.tensor(config.class_weights, device=self._device)

    @property
    def unet(self) -> UNet:
        """Network without its wrapper."""
        inner = self.network
        if isinstance(inner, DistributedDataParallel):
            inner = inner.module
        assert isinstance(inner, UNet)
        return inner

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate at a point of the training.

        It depends on the samples seen, not on the number of workers.

        Args:
            progress: Share of the training, 0..1.
        """
        warm_up = min(1.0, progress / _WARM_UP_SHARE)
        decay = 1 + math.cos(math.pi * progress)
        return self.config.learning_rate * warm_up * 0.5 * decay

    def weights_sum(self) -> Tensor:
        """Return the sum of all weights, a scalar that is finite only if all weights are."""
        sums = [weight.detach().sum() for weight in self.network.parameters()]
        return torch.stack(sums).sum()

    def share_statistics(self) -> None:
        """Give all workers the normalisation statistics of the first, whose network is saved."""
        if is_distributed():
            for buffer in self.unet.buffers():
                torch.distributed.broadcast(buffer, 0)

    def step(
        self, images: Tensor, targets: Tensor, weights: Tensor | None, progress: float
    ) -> Tensor:
        """Learn from one batch.

        Args:
            images: Crops before preprocessing; (N, H, W, C) of the images' dtype.
            targets: Target values 0, 1 or IGNORED for the same square as the image, margin
                included; (N, K, H, W) uint8.
            weights: Weight of each pixel; (N, K, H, W) float. None: 1.
            progress: Share of the training that is done after this step, above 0, up to 1.

        Returns:
            The loss of this worker, a scalar. The mean over workers is the loss of the whole batch.
        """
        images = images.to(self._device, non_blocking=True)
        targets = targets.to(self._device, non_blocking=True)
        if weights is not None:
            weights = weights.to(self._device, non_blocking=True)
        for norm in self._norms:
            norm.train(progress < _SETTLED_SHARE)
        inputs = self._preprocessing.apply(images.permute(0, 3, 1, 2))
        batch = augment(Batch(inputs, targets, weights), self.config.augmentations, self._generator)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._uses_bfloat16):
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
        weights = None
        if batch.weights is not None:
            weights = batch.weights[..., inner, inner].float()
        total, counted = cross_entropy_sum(logits, targets, self._weights, weights)
        # DDP averages gradients over workers: dividing by the mean count gives all pixels the same
        # weight.
        loss = total / (summed(counted) / world_size()).clamp(min=1)
        if self.config.loss == "bce_dice":
            loss = loss + dice_loss(logits, targets)
        return loss


def world_size() -> int:
    """Return the number of workers; outside a process group it is 1."""
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
