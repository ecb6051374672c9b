"""Decoded samples before they become colours, and the limits and errors that decoders share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unet_ray.errors import ImageError, one_line

PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""Formats that Pillow may open: their decoders run no other program and open no other file."""
SAMPLE_TYPES = ("uint8", "uint16", "int8", "int16", "float32")
"""Sample types of images; others become one of these."""
LARGEST_SAMPLE = 2.0**100
"""Largest magnitude of a float sample, 1.3e30. Larger ones are no measurements in any unit: they
mark missing data, as -3.4e38 does in GeoTIFF, or damage."""
ORIENTATION_TAG = 274
"""EXIF and TIFF tag of an image's orientation."""


@dataclass(frozen=True)
class Raster:
    """Samples as the file holds them, before they become colours."""

    samples: NDArray[Any]
    """Samples, HWC; palette indices if there is a palette."""
    palette: NDArray[np.uint8] | None = None
    """Colours of the palette indices, (entries, 3 or 4); the fourth value is alpha."""
    has_alpha: bool = False
    """True if the last channel is alpha."""
    bits: int = 8
    """Bits per sample in the file."""
    inverted: bool = False
    """True if zero is white."""
    is_imagej: bool = False
    """True if ImageJ wrote the file; its binary masks hold 255 in objects, shown as black."""
    orientation: int = 1
    """Orientation of the image, as EXIF and TIFF tag 274 encode it; 1 is upright."""
    is_colour: bool = True
    """True if three samples are red, green and blue."""
    no_data: str = ""
    """No-data value, as the file states it; empty: it states none."""
    is_converted: bool = False
    """True if the samples are no longer those of the file, to which the no-data value refers."""


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Map every exception of a decoder to `ImageError`; damaged files can cause any of them."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            "unreadable", f"not an image of a known format ({', '.join(PILLOW_FORMATS)}, TIFF)"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", one_line(error)) from error
    except MemoryError as error:
        raise ImageError("out_of_memory", "not enough memory to decode the image") from error
    except (ImportError, PermissionError) as error:
        # a decoder tried to open a file, which its process may not: a fault of this package
        raise ImageError("internal", one_line(error)) from error
    except Exception as error:
        raise ImageError("unreadable", one_line(error)) from error


def check_size(height: int, width: int, samples: int, max_pixels: int) -> None:
    """Raise ImageError if an image has no pixels, or too many pixels or channels."""
    check_not_empty((height, width, 1))
    if height * width > max_pixels:
        raise ImageError(
            "too_large", f"{width}×{height} px; images up to {max_pixels} px are decoded whole"
        )
    if samples > 64:
        raise ImageError("unsupported", f"{samples} channels; at most 64 can be read")


def check_not_empty(shape: tuple[int, ...]) -> None:
    """Raise ImageError unless a shape is that of an HWC image with pixels and channels."""
    if len(shape) != 3 or min(shape) < 1:
        raise ImageError(
            "unreadable",
            f"samples of shape {shape}; height, width and channels must be 1 or more",
        )
