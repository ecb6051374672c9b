"""What every reader of windows does, and its limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import to_colours
from unet_ray.imaging.codecs.raster import Raster, check_samples, mapped_errors
from unet_ray.imaging.geometry import Box

MAX_PIXELS = 2**34
"""Largest image (px): 17 gigapixels, 131,072 squared."""
STRIP_ROWS = 64
"""Rows that are read together where a format has no pieces of its own."""


class WindowReader(ABC):
    """An open image: its size, and any window of it."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""

    def read(self, box: Box) -> NDArray[Any]:
        """Return a window, HWC, as `images.decode_image` gives it; the box lies inside the image.

        Raises: ImageError — as `decode_image`.
        """
        with mapped_errors():
            window, alpha = to_colours(self._raster(box))
        if self._alpha not in (None, alpha):
            raise ImageError("unsupported", "transparency that varies over the image; flatten it")
        self._alpha = alpha
        return check_samples(window)

    _alpha: float | None = None
    """Of the windows so far."""

    @abstractmethod
    def _raster(self, box: Box) -> Raster:
        """Return the samples of a window as the file holds them."""


def check_large(height: int, width: int, channels: int) -> None:
    """Raise ImageError for an image that is too large even for windows."""
    if height * width > MAX_PIXELS:
        raise ImageError("too_large", f"{width}×{height} px; images up to {MAX_PIXELS} px are read")
    if channels > 64:
        raise ImageError("unsupported", f"{channels} channels; up to 64 are read")
