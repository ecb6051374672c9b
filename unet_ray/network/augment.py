"""Augmentation of a batch on its device: each sample has its own random draws; masks follow images.

Spatial distortions come first: flips and quarter turns are exact; rotation, scale and elastic
deformation are one resampling. Changes of values follow, on preprocessed images. All draws come
from a CPU generator, so nothing waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from unet_ray.network.config import VALUES

_WARPED_SHARE = 0.5
"""Share of the samples that are resampled."""
_ELASTIC_PX = 10.0
"""Standard deviation of the displacements on their coarse grid (px), as in Ronneberger et al. 2015,
section 3.1."""
_ELASTIC_GRID = 3
"""Points of the coarse grid along each axis."""
_STEEPEST = 0.08
"""Largest ratio of that deviation to the grid spacing: 10 px at crops of 256 px. A larger ratio
would fold small crops over themselves."""
_SCALES = (0.7, 1.4)
"""Smallest and largest magnification."""
_VALUE_SHARES = {"brightness": 0.3, "contrast": 0.3, "gamma": 0.3, "noise": 0.15, "blur": 0.15}
"""Share of the samples that each change of values is applied to."""
_BLUR_RADIUS = 4
"""Radius of the blur kernel (px)."""


@dataclass(frozen=True)
class Batch:
    """Square training samples with their targets."""

    images: Tensor
    """Preprocessed images; (N, C, S, S) float32."""
    targets: Tensor
    """Target values 0, 1 or IGNORED; (N, K, S, S) uint8."""
    weights: Tensor | None = None
    """Weight of each target pixel; (N, K, S, S) float32. None: every weight is 1."""

    def planes(self) -> tuple[Tensor, ...]:
        """Return images, targets and, if there are any, weights."""
        if self.weights is None:
            return self.images, self.targets
        return self.images, self.targets, self.weights


def augment(batch: Batch, names: frozenset[str], generator: Generator) -> Batch:
    """Distort a batch by the named augmentations.

    Args:
        batch: Samples on any device.
        names: Augmentations to apply, among AUGMENTATIONS.
        generator: CPU generator of the random draws.

    Returns:
        A batch of the same shapes on the same device.
    """
    if "flip" in names:
        batch = _turn_each(batch, _flip, 4, generator)
    if "rotate" in names:
        batch = _turn_each(batch, _rotate_quarters, 4, generator)
    if names & {"rotate", "scale", "elastic"}:
        batch = _warp(batch, names, generator)
    images = batch.images
    for name in VALUES:
        if name not in names:
            continue
        chosen = _choose(len(images), _VALUE_SHARES[name], generator).to(images.device)
        if len(chosen):
            images = images.clone()
            images[chosen] = _OPERATIONS[name](images[chosen], generator)
    return Batch(images, batch.targets, batch.weights)


def _turn_each(
    batch: Batch,
    turn: Callable[[list[Tensor], int], list[Tensor]],
    options: int,
    generator: Generator,
) -> Batch:
    """Apply one of `options` exact moves, drawn at random, to each sample."""
    draws = torch.randint(options, (len(batch.images),), generator=generator).tolist()
    moved = []
    for index, draw in enumerate(draws):
        sample = [plane[index] for plane in batch.planes()]
        moved.append(turn(sample, draw))
    stacked = [torch.stack(planes) for planes in zip(*moved, strict=True)]
    return Batch(*stacked)


def _flip(planes: list[Tensor], draw: int) -> list[Tensor]:
    axes = []
    if draw & 1:
        axes.append(-1)
    if draw & 2:
        axes.append(-2)
    if not axes:
        return planes
    return [plane.flip(axes) for plane in planes]


def _rotate_quarters(planes: list[Tensor], draw: int) -> list[Tensor]:
    return [plane.rot90(draw, (-2, -1)) for plane in planes]


def _warp(batch: Batch, names: frozenset[str], generator: Generator) -> Batch:
    """Resample some samples along a grid that rotates, scales and bends.

    Positions beyond the edge read the mirrored sample.
    """
    chosen = _choose(len(batch.images), _WARPED_SHARE, generator)
    if not len(chosen):
        return batch
    device = batch.images.device
    grid = sampling_grid(len(chosen), batch.images.shape[-1], names, generator).to(device)
    chosen = chosen.to(device)
    moved = [plane.clone() for plane in batch.planes()]
    for plane, mode in zip(moved, ("bilinear", "nearest", "nearest"), strict=False):
        sampled = grid_sample(
            plane[chosen].float(), grid, mode=mode, padding_mode="reflection", align_corners=False
        )
        plane[chosen] = sampled.to(plane.dtype)
    return Batch(*moved)


def sampling_grid(
    num_samples: int, side: int, names: frozenset[str], generator: Generator
) -> Tensor:
    """Draw the position that each pixel of each sample is read from, as `grid_sample` takes it.

    Args:
        num_samples: Number of samples.
        side: Side of a sample (px).
        names: Augmentations; only rotate, scale and elastic have an effect.
        generator: CPU generator of the random draws.

    Returns:
        Positions (x, y), where −1..1 spans the sample; (num_samples, side, side, 2) float32.
    """
    # Both are drawn whether they are used or not, so that other draws stay the same.
    turns = torch.rand(num_samples, generator=generator) * 2 - 1
    magnifications = torch.rand(num_samples, generator=generator)
    angle = turns * math.pi / 4 * ("rotate" in names)
    low = math.log(_SCALES[0])
    high = math.log(_SCALES[1])
    zoom = torch.exp(-(low + (high - low) * magnifications) * ("scale" in names))
    cosine = torch.cos(angle) * zoom
    sine = torch.sin(angle) * zoom
    zero = torch.zeros(num_samples)
    x_row = torch.stack([cosine, -sine, zero], 1)
    y_row = torch.stack([sine, cosine, zero], 1)
    matrix = torch.stack([x_row, y_row], 1)
    grid = affine_grid(matrix, [num_samples, 1, side, side], align_corners=False)
    if "elastic" in names:
        # Displacements are Gaussian on a coarse grid and interpolated bicubically in between.
        deviation_px = min(_ELASTIC_PX, _STEEPEST * side / (_ELASTIC_GRID - 1))
        drawn = torch.randn(num_samples, 2, _ELASTIC_GRID, _ELASTIC_GRID, generator=generator)
        coarse = drawn * (2 * deviation_px / side)
        fine = interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
        grid = grid + fine.permute(0, 2, 3, 1)
    return grid


def _choose(num_samples: int, share: float, generator: Generator) -> Tensor:
    """Draw the indices of a random share of the samples."""
    return torch.nonzero(torch.rand(num_samples, generator=generator) < share).flatten()


def _uniform(like: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """Draw one value per sample; (N, 1, 1, 1) on the device of `like`."""
    drawn = torch.rand(len(like), 1, 1, 1, generator=generator)
    return (low + (high - low) * drawn).to(like.device)


def _brighten(images: Tensor, generator: Generator) -> Tensor:
    return images + _uniform(images, -0.3, 0.3, generator)


def _contrast(images: Tensor, generator: Generator) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(images, 0.7, 1.4, generator) + mean


def _gamma(images: Tensor, generator: Generator) -> Tensor:
    """Stretch each sample to 0..1, raise it to a power, and map it back to its range."""
    low = images.amin((1, 2, 3), keepdim=True)
    high = images.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp(min=1e-6)
    power = torch.exp(_uniform(images, -0.4, 0.4, generator))
    return ((images - low) / span).pow(power) * span + low


def _noise(images: Tensor, generator: Generator) -> Tensor:
    # Only the seed comes from the CPU generator; the noise is drawn on the device of the images.
    seed = int(torch.randint(2**31, (1,), generator=generator))
    on_device = torch.Generator(images.device).manual_seed(seed)
    drawn = torch.randn(images.shape, generator=on_device, device=images.device)
    return images + drawn * _uniform(images, 0.0, 0.15, generator)


def _blur(images: Tensor, generator: Generator) -> Tensor:
    """Convolve each sample with its own Gaussian, first rows, then columns."""
    num_channels = images.shape[1]
    offsets = torch.arange(
        -_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device, dtype=torch.float32
    )
    sigma_px = _uniform(images, 0.4, 1.5, generator).view(-1, 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(num_channels, 0)
    padded = pad(images, (_BLUR_RADIUS,) * 4, mode="replicate")
    # All planes of all samples are channels of one image, each with a kernel of its own.
    planes = padded.reshape(1, -1, *padded.shape[2:])
    rows = conv2d(planes, kernel[:, None, None, :], groups=planes.shape[1])
    blurred = conv2d(rows, kernel[:, None, :, None], groups=planes.shape[1])
    return blurred.view(images.shape)


_OPERATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "brightness": _brighten,
    "contrast": _contrast,
    "gamma": _gamma,
    "noise": _noise,
    "blur": _blur,
}
