"""Base class of all readers of windows, and their limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.flags import MAX_CHANNELS
from unet_ray.imaging.codecs.alpha import Alpha
from unet_ray.imaging.codecs.decode import ReadImage, compose_image, finish_image
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.mask_samples import read_mask_values
from unet_ray.imaging.codecs.raster import check_not_empty, mapped_errors
from unet_ray.imaging.geometry import Box
from unet_ray.limits import MAX_PIXELS

STRIP_ROWS = 64
"""Rows that are read together if a format has no tiles or strips of its own."""


class WindowReader(ABC):
    """Open image with a known size, of which any window can be read."""

    height: int
    """Height of the image (px)."""
    width: int
    """Width of the image (px)."""
    opaque: bool = False
    """True if the alpha of the whole image is known to leave out no pixel."""
    lossy_samples: bool = False
    """True to round whole numbers that float32 does not hold."""

    def read(self, box: Box, core: Box | None = None) -> DecodedImage:
        """Return a window, with samples as `decode_image` returns them.

        The alpha of the whole image decides what alpha means (`AlphaCounts`). Until then, the alpha
        of each pixel decides whether it is valid.

        Args:
            box: Window, which lies inside the image.
            core: Part of the window, in the coordinates of the image, whose alpha is counted;
                None: all of it.

        Raises:
            ImageError: Same as `decode_image`.
        """
        with mapped_errors():
            window, alpha = compose_image(self._read_image(box))
            if alpha is None or self.opaque:
                return finish_image(window, None, self.lossy_samples)
            part = cut_window(core or box, box)
            counts = Alpha(alpha.values[part], alpha.opaque).count(window.samples[part])
            return replace(finish_image(window, alpha, self.lossy_samples), alpha=counts)

    def read_label(self, box: Box) -> NDArray[Any]:
        """Return a window of a mask file whose pixels can be read one by one.

        Args:
            box: Window, which lies inside the mask.

        Returns:
            HW values of an integer type, the same as those of the mask decoded whole.

        Raises:
            ImageError: `unsupported`: the meaning of a pixel depends on the whole mask, as with
                palettes, alpha and colours, or its samples are not ids.
        """
        with mapped_errors():
            raster, *others = self._read_image(box).rasters
            is_plain = raster.palette is None and not raster.has_alpha and not raster.inverted
            if others or not is_plain or raster.samples.shape[2] != 1:
                raise ImageError(
                    "unsupported",
                    "a large mask with colours, alpha or several channels; save one id per pixel",
                )
            return read_mask_values(raster)

    @abstractmethod
    def _read_image(self, box: Box) -> ReadImage:
        """Return the samples of a window as the file holds them."""


def cut_window(part: Box, window: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a window that show a part of the image."""
    rows = slice(part.top - window.top, part.bottom - window.top)
    return rows, slice(part.left - window.left, part.right - window.left)


def check_large(height: int, width: int, channels: int) -> None:
    """Raise ImageError if an image has no pixels, or is too large even for windows."""
    check_not_empty((height, width, 1))
    if height * width > MAX_PIXELS:
        raise ImageError(
            "too_large", f"{width}×{height} px; images up to {MAX_PIXELS} px can be read"
        )
    if channels > MAX_CHANNELS:
        raise ImageError("unsupported", f"{channels} channels; at most {MAX_CHANNELS} can be read")
