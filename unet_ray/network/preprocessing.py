"""Pixels to network input: one pointwise function, the same in training and in inference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.imaging.codecs.decode import match_channels

if TYPE_CHECKING:
    import torch
    from torch import Tensor
from unet_ray.network.config import Normalisation

_PERCENTILES = (0.5, 99.5)
"""As nnU-Net takes them (Isensee et al. 2021): robust against hot and dead pixels."""
_FLOAT32 = 1e-7
"""Differences below this share of a value are rounding: relative, for float samples come in any unit (1e-9 m)."""


@dataclass(frozen=True)
class ChannelStatistics:
    """A training set's samples, channel by channel; all arrays (channels,), in units of the samples."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    low: NDArray[np.float64]
    """Smallest sample."""
    high: NDArray[np.float64]
    """Largest sample."""
    percentiles: NDArray[np.float64]
    """(2, channels): the 0.5th and the 99.5th."""

    @staticmethod
    def percentiles_of(samples: NDArray[Any]) -> NDArray[np.float64]:
        """Return `percentiles` of pixels, (n, channels)."""
        return np.percentile(samples.astype(np.float64), _PERCENTILES, axis=0)


@dataclass(frozen=True)
class Preprocessing:
    """Constants of the training set, applied per channel as (value − offset) / scale, clipped to limits if given."""

    dtype: str
    """Sample type of the images: uint8, uint16 or float32."""
    offset: tuple[float, ...]
    """Per channel, in units of the samples."""
    scale: tuple[float, ...]
    """Per channel, above 0."""
    limits: tuple[float, float] | None = None
    """Results are clipped to these."""

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "uint16", "float32"):
            raise InputError(
                f"preprocessing dtype {self.dtype}: uint8, uint16 and float32 are known"
            )
        if len(self.offset) != len(self.scale) or not all(s > 0 for s in self.scale):
            raise InputError("preprocessing needs one offset and one scale above 0 per channel")

    @staticmethod
    def of(kind: Normalisation, dtype: str, found: ChannelStatistics) -> Preprocessing:
        """Return the constants of a training set.

        Args:
            kind — `mean`: zero mean, unit deviation; `range`: the smallest to the largest sample become −1 to 1;
                `percentile`: the 0.5th to the 99.5th do, and what lies beyond is clipped at −2 and 2.
            dtype — of the samples.
        """
        if kind == "mean":
            offset, scale, limits = found.mean, found.deviation, None
        else:
            low, high = (found.low, found.high) if kind == "range" else found.percentiles
            offset, scale = (low + high) / 2, (high - low) / 2
            limits = None if kind == "range" else (-2.0, 2.0)
        is_constant = scale <= _FLOAT32 * np.abs(
            offset
        )  # a channel that is the same in the whole set
        scale = np.where(is_constant, 1.0, scale)
        return Preprocessing(dtype, tuple(offset.tolist()), tuple(scale.tolist()), limits)

    @property
    def channels(self) -> int:
        """Channels that the network takes."""
        return len(self.offset)

    def check(self, image_hwc: NDArray[Any]) -> NDArray[Any]:
        """Return an image with the channels that the network takes; raise ImageError where it does not fit."""
        if image_hwc.dtype != np.dtype(self.dtype):
            raise ImageError(
                "unsupported", f"{image_hwc.dtype} samples, the model was trained on {self.dtype}"
            )
        return match_channels(image_hwc, self.channels)

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images, N, C, H, W of any dtype → float32, on their device."""
        offset, scale = (_on_device(values, images.device) for values in (self.offset, self.scale))
        normalised = (images.float() - offset) / scale
        return normalised.clamp_(*self.limits) if self.limits else normalised


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel as 1, channels, 1, 1.

    They are kept: to bring them to a GPU waits for all that is under way there, and graphs read them where they lie.
    """
    import torch  # not above: tasks that only decode need these constants, and torch takes seconds to load

    with torch.inference_mode(False):  # training uses the same
        return torch.tensor(values, device=device, dtype=torch.float32).view(1, -1, 1, 1)
