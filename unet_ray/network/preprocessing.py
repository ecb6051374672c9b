"""Preprocessing: pixels to network input, one pointwise function for training and inference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import check_range
from unet_ray.imaging.codecs.decode import match_channels
from unet_ray.imaging.codecs.raster import check_not_empty
from unet_ray.network.config import Normalisation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PERCENTILES = (0.5, 99.5)
"""Percentiles of nnU-Net (Isensee et al. 2021); they are robust against hot and dead pixels."""
_ROUNDING = 1e-7
"""Relative difference below which two float32 values differ only by rounding. It is relative
because float samples come in any unit (1e-9 m)."""
_MOST_SCALES = 1e6
"""Largest distance of a float sample from the offset, in scales of its channel. Hot pixels of
sparse images reach 1e5. Samples that overflow the network make a hole: it finds nothing there."""


_SMALLEST = 1.2e-38
"""Smallest scale. The network computes in float32, in which smaller numbers lose digits or are
0."""
_LARGEST = 3.4e38
"""Largest scale, and offset: larger numbers are infinite in float32."""
_SAMPLE_RANGES = {
    "uint8": (0.0, 255.0),
    "uint16": (0.0, 65535.0),
    "int8": (-128.0, 127.0),
    "int16": (-32768.0, 32767.0),
    "float32": (0.0, 0.0),
}
"""Sample types, and the smallest and largest sample of each. float32 samples come in any unit, so
only 0 is checked for them."""
_MAX_RESULT = 10**12
"""Largest normalised sample. Networks are trained on samples near 1; much larger ones overflow in
the network, and pixels that are not a number are in no class."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of a training set's samples per channel, in units of the samples."""

    mean: NDArray[np.float64]
    """Mean; (channels,)."""
    deviation: NDArray[np.float64]
    """Standard deviation; (channels,)."""
    low: NDArray[np.float64]
    """Smallest sample; (channels,)."""
    high: NDArray[np.float64]
    """Largest sample; (channels,)."""
    percentiles: NDArray[np.float64]
    """The 0.5th and the 99.5th percentile; (2, channels)."""

    @staticmethod
    def percentiles_of(samples: NDArray[Any]) -> NDArray[np.float64]:
        """Return the `percentiles` of pixels, (n, channels)."""
        return np.percentile(samples.astype(np.float64), _PERCENTILES, axis=0)


@dataclass(frozen=True)
class Preprocessing:
    """Constants of the training set that normalise each channel.

    The result is (value − offset) / scale, clipped to the limits if there are any.
    """

    dtype: str
    """Sample type of the images: uint8, uint16, int8, int16 or float32."""
    offset: tuple[float, ...]
    """Offset of each channel, in units of the samples."""
    scale: tuple[float, ...]
    """Scale of each channel, in units of the samples, above 0."""
    limits: tuple[float, float] | None = None
    """Smallest and largest result. None: results are not clipped."""

    def __post_init__(self) -> None:
        if self.dtype not in _SAMPLE_RANGES:
            names = ", ".join(_SAMPLE_RANGES)
            raise InputError(f"preprocessing dtype {self.dtype}: choose one of {names}")
        if len(self.offset) != len(self.scale):
            raise InputError(
                f"preprocessing has {len(self.offset)} offsets and {len(self.scale)} scales: "
                "there must be one of each per channel"
            )
        check_range("preprocessing offset", self.offset, -_LARGEST, _LARGEST)
        check_range("preprocessing scale", self.scale, _SMALLEST, _LARGEST)
        for sample in _SAMPLE_RANGES[self.dtype]:
            pairs = zip(self.offset, self.scale, strict=True)
            normalised = [(sample - offset) / scale for offset, scale in pairs]
            name = f"sample {sample:g} after preprocessing"
            check_range(name, normalised, -_MAX_RESULT, _MAX_RESULT)
        if self.limits:
            low, high = self.limits
            check_range("preprocessing limits", self.limits, -_MAX_RESULT, _MAX_RESULT)
            if not low < high:
                raise InputError(
                    f"preprocessing limits {low} and {high}: the second must be larger"
                )

    @staticmethod
    def of(kind: Normalisation, dtype: str, found: ChannelStatistics) -> Preprocessing:
        """Derive the constants from the statistics of a training set.

        Args:
            kind: Normalisation. `mean`: zero mean and unit deviation; `range`: the smallest sample
                becomes −1, the largest 1; `percentile`: the 0.5th percentile becomes −1, the 99.5th
                1, and results are clipped at −2 and 2.
            dtype: Type of the samples: uint8, uint16, int8, int16 or float32.
            found: Statistics of the training set.
        """
        limits = (-2.0, 2.0) if kind == "percentile" else None
        if kind == "mean":
            offset, scale = found.mean, found.deviation
        else:
            low, high = (found.low, found.high) if kind == "range" else found.percentiles
            offset = (low + high) / 2
            scale = (high - low) / 2
        # A channel with the same value in the whole training set has no scale.
        is_constant = scale <= _ROUNDING * np.abs(offset)
        scale = np.where(is_constant, 1.0, scale)
        return Preprocessing(dtype, tuple(offset.tolist()), tuple(scale.tolist()), limits)

    @property
    def channels(self) -> int:
        """Number of channels that the network takes."""
        return len(self.offset)

    def check(
        self, image_hwc: NDArray[Any], valid_hw: NDArray[np.bool_] | None = None
    ) -> NDArray[Any]:
        """Return an image with the channels that the network takes.

        Args:
            image_hwc: Decoded image; (H, W, C).
            valid_hw: Valid pixels; None: all are valid.

        Returns:
            The image; (H, W, C) of its own type. If a pixel is invalid, float32, with the offset of
            each channel in invalid pixels: they are 0 for the network, whatever the file holds.

        Raises:
            ImageError: No pixels, samples or channels that the model was not trained on, or samples
                that `check_range` refuses.
        """
        check_not_empty(image_hwc.shape)
        if image_hwc.dtype != np.dtype(self.dtype):
            raise ImageError(
                "unsupported",
                f"{image_hwc.dtype} samples, but the model was trained on {self.dtype}; convert "
                "the image",
            )
        image_hwc = match_channels(image_hwc, self.channels)
        if valid_hw is not None and not valid_hw.all():
            image_hwc = image_hwc.astype(np.float32)
            image_hwc[~valid_hw] = self.offset
        if image_hwc.dtype == np.float32:
            planes = [image_hwc[:, :, channel] for channel in range(self.channels)]
            low = [plane.min() for plane in planes]
            high = [plane.max() for plane in planes]
            self.check_range(low, high)
        return image_hwc

    def check_range(self, low: ArrayLike, high: ArrayLike) -> None:
        """Raise ImageError if float samples would overflow the network.

        Samples of 8 and 16 bits cannot overflow it.

        Args:
            low: Smallest sample of each channel, or of all channels; (channels,) or (1,).
            high: Largest sample, likewise.

        Raises:
            ImageError: `unsupported`: a sample is NaN, or more than 1e6 scales from the offset.
        """
        if self.dtype != "float32":
            return
        lowest, highest, _ = np.broadcast_arrays(low, high, self.offset)
        extremes = np.stack([lowest, highest]).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.abs(extremes - self.offset) / self.scale
        if (distance <= _MOST_SCALES).all():
            return
        worst, channel = divmod(int(np.argmax(distance)), self.channels)
        raise ImageError(
            "unsupported",
            f"a sample of {extremes[worst, channel]:g} in channel {channel + 1}, "
            f"{distance[worst, channel]:.2g} times the scale {self.scale[channel]:g} of the "
            f"training images; the limit is {_MOST_SCALES:g} times, replace samples that mark "
            "missing data",
        )

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images on their device; (N, C, H, W) of any dtype, to float32."""
        offset = _on_device(self.offset, images.device)
        scale = _on_device(self.scale, images.device)
        normalised = (images.float() - offset) / scale
        return normalised.clamp_(*self.limits) if self.limits else normalised


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel as a tensor on the device; (1, channels, 1, 1) float32.

    Tensors are cached: copying to a GPU waits for all work in progress there, and CUDA graphs read
    the tensors at a fixed address.
    """
    # Not at the top: torch takes seconds to load, and tasks that only decode do not need it.
    import torch

    with torch.inference_mode(False):  # training uses the same tensors
        return torch.tensor(values, device=device, dtype=torch.float32).view(1, -1, 1, 1)
