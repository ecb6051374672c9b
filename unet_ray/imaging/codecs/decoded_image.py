"""A decoded image: its samples, and what its file says about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.alpha import AlphaCounts
from unet_ray.imaging.codecs.pixel_size import PixelSize, SizeUm
from unet_ray.imaging.geometry import Box

COLOURS = ("R", "G", "B")
"""Names of the channels of colour images."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image, or a window of it."""

    samples: NDArray[Any]
    """Samples, HWC, contiguous, with at least one pixel and one channel; 0 in invalid pixels."""
    valid: NDArray[np.bool_] | None = None
    """Valid pixels, HW; None: all are valid."""
    channels: tuple[str, ...] = ()
    """Names of the channels; `COLOURS` for colours, empty if the file has none."""
    pixel_size: PixelSize | None = None
    """Size of a pixel as the file states it; None if it does not."""
    orientation: int = 1
    """Orientation of the file, as EXIF encodes it; 1 is upright. The samples are upright."""
    notes: tuple[str, ...] = ()
    """Choices that were made where the file can be read in two ways."""
    alpha: AlphaCounts | None = None
    """Counts of a window's alpha, which are added up over all windows to decide what alpha means.
    None: the image has no alpha, or its meaning is decided."""

    @property
    def pixel_size_um(self) -> SizeUm | None:
        """Width and height of a pixel (µm); None if they are not known."""
        return None if self.pixel_size is None else self.pixel_size.in_um()

    @property
    def height(self) -> int:
        """Height (px)."""
        return int(self.samples.shape[0])

    @property
    def width(self) -> int:
        """Width (px)."""
        return int(self.samples.shape[1])

    def cut(self, box: Box) -> DecodedImage:
        """Return a part of the image."""
        place = slice(box.top, box.bottom), slice(box.left, box.right)
        valid = None if self.valid is None else self.valid[place]
        return replace(self, samples=self.samples[place], valid=valid)

    def with_channels(self, indices: tuple[int, ...]) -> DecodedImage:
        """Return the image with some of its channels, in that order."""
        if indices == tuple(range(self.samples.shape[2])):
            return self
        samples = np.ascontiguousarray(self.samples[:, :, list(indices)])
        names = tuple(self.channels[index] for index in indices) if self.channels else ()
        return replace(self, samples=samples, channels=names)


def join_channels(parts: list[DecodedImage], channels: tuple[str, ...]) -> DecodedImage:
    """Return one image with the channels of several.

    Args:
        parts: Images of the same scene; notes and pixel size are taken from the first.
        channels: Names of all channels; used if there is one for each.

    Raises:
        ImageError: `unsupported`: their sizes or sample types differ.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.samples.shape[:2] != first.samples.shape[:2]:
            raise ImageError(
                "unsupported",
                f"channels of different sizes: {first.width}×{first.height} and "
                f"{part.width}×{part.height} px",
            )
        if part.samples.dtype != first.samples.dtype:
            raise ImageError(
                "unsupported",
                f"channels of different types: {first.samples.dtype} and {part.samples.dtype}",
            )
    if len(parts) > 1:
        masks = [part.valid for part in parts if part.valid is not None]
        valid = np.logical_and.reduce(masks) if masks else None
        samples = np.concatenate([part.samples for part in parts], axis=2)
        if valid is not None:
            samples[~valid] = 0
        first = replace(first, samples=samples, valid=valid, channels=())
    named = len(channels) == first.samples.shape[2]
    return replace(first, channels=channels) if named else first
