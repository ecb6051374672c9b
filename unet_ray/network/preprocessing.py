"""Pixels to network input: one pointwise function, the same in training and in inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unet_ray.errors import ImageError, InputError
from unet_ray.imaging.images import match_channels


@dataclass(frozen=True)
class Preprocessing:
    """Constants of the training set, applied as (value − mean) / deviation per channel."""

    dtype: str
    """Sample type of the images: uint8, uint16 or float32."""
    mean: tuple[float, ...]
    """Per channel, in units of the samples."""
    deviation: tuple[float, ...]
    """Per channel, above 0."""

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "uint16", "float32"):
            raise InputError(f"preprocessing dtype {self.dtype}: uint8, uint16 and float32 are known")
        if len(self.mean) != len(self.deviation) or not all(d > 0 for d in self.deviation):
            raise InputError("preprocessing needs one mean and one deviation above 0 per channel")

    def check(self, image_hwc: NDArray[Any]) -> NDArray[Any]:
        """Return an image with the channels that the network takes; raise ImageError where it does not fit."""
        if image_hwc.dtype != np.dtype(self.dtype):
            raise ImageError("unsupported", f"{image_hwc.dtype} samples, the model was trained on {self.dtype}")
        return match_channels(image_hwc, len(self.mean))

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images, N, C, H, W of any dtype → float32, on their device."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        deviation = torch.tensor(self.deviation, device=images.device).view(shape)
        return (images.float() - mean) / deviation
