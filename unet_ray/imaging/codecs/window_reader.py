"""Base class of all readers of windows, and their limits."""

from __future__ import annotations

from abc import ABC, abstractmethod

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import ReadImage, compose_image
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.raster import check_not_empty, check_samples, mapped_errors
from unet_ray.imaging.geometry import Box

MAX_PIXELS = 2**34
"""Largest image that is read in windows (px): 17 gigapixels, 131,072 squared."""
STRIP_ROWS = 64
"""Rows that are read together if a format has no tiles or strips of its own."""


class WindowReader(ABC):
    """Open image that gives its size and any window of it."""

    height: int
    """Height of the image (px)."""
    width: int
    """Width of the image (px)."""

    def read(self, box: Box) -> DecodedImage:
        """Return a window, with samples as `decode_image` returns them.

        Args:
            box: Window, which lies inside the image.

        Raises:
            ImageError: Same as `decode_image`.
        """
        with mapped_errors():
            window, alpha = compose_image(self._read_image(box))
        if self._alpha not in (None, alpha):
            raise ImageError("unsupported", "transparency that varies over the image; flatten it")
        self._alpha = alpha
        check_samples(window.samples)
        return window

    _alpha: float | None = None
    """Alpha of the windows that were read so far; None if there was none."""

    @abstractmethod
    def _read_image(self, box: Box) -> ReadImage:
        """Return the samples of a window as the file holds them."""


def check_large(height: int, width: int, channels: int) -> None:
    """Raise ImageError if an image has no pixels, or is too large even for windows."""
    check_not_empty((height, width, 1))
    if height * width > MAX_PIXELS:
        raise ImageError(
            "too_large", f"{width}×{height} px; images up to {MAX_PIXELS} px can be read"
        )
    if channels > 64:
        raise ImageError("unsupported", f"{channels} channels; at most 64 can be read")
