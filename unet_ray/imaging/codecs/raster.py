"""What a decoder found, before colours are made of it; the limits and the errors that all decoders share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unet_ray.errors import ImageError, one_line

MAX_PIXELS = 2**27
"""Largest image that is decoded whole (px); 134 megapixels."""
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""What Pillow may open: formats whose decoders run no other program and open no other file."""
ORIENTATION_TAG = 274
"""EXIF and TIFF tag of an image's orientation."""


@dataclass(frozen=True)
class Raster:
    """Samples as the file holds them, before colours are made of them."""

    samples: NDArray[Any]
    """HWC; palette indices where there is a palette."""
    palette: NDArray[np.uint8] | None = None
    """(entries, 3 or 4) colours of the indices; the fourth is alpha."""
    has_alpha: bool = False
    """The last channel is alpha."""
    bits: int = 8
    """Bits per sample in the file."""
    inverted: bool = False
    """Zero is white."""
    orientation: int = 1
    """EXIF and TIFF tag 274."""


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Map whatever a decoder raises to `ImageError`; decoders of damaged files raise anything."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            "unreadable", f"no image of a known kind ({', '.join(PILLOW_FORMATS)}, TIFF)"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", one_line(error)) from error
    except MemoryError as error:
        raise ImageError("out_of_memory", "not enough memory to decode the image") from error
    except Exception as error:
        raise ImageError("unreadable", one_line(error)) from error


def check_size(height: int, width: int, samples: int, max_pixels: int) -> None:
    """Raise ImageError for an image with too many pixels (px) or channels."""
    if height * width > max_pixels:
        raise ImageError(
            "too_large", f"{width}×{height} px; images up to {max_pixels} px are decoded whole"
        )
    if samples > 64:
        raise ImageError("unsupported", f"{samples} channels; up to 64 are read")


def check_samples(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image whose samples are of a type that is read; raise ImageError for others, and for NaN."""
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(
            "unsupported", f"samples of type {image.dtype}; uint8, uint16 and float32 are read"
        )
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise ImageError("unsupported", "the image holds NaN or infinite samples; replace them")
    return image
