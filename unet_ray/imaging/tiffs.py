"""TIFF: its pages, bit depths, planes, palettes; damaged and looping files end in one error."""

from __future__ import annotations

import io
import logging
from typing import Any, BinaryIO, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.raster import ORIENTATION_TAG, Raster, check_size, mapped_errors

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PAGES = 2**16
"""Most pages of one TIFF stack."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each bad tag; we raise one error


def count_pages(file: BinaryIO) -> int:
    """Return the number of images in an open TIFF; pyramid levels, thumbnails and masks are not counted.

    Raises: ImageError — `unreadable`.
    """
    with mapped_errors(), tifffile.TiffFile(file) as tiff:
        return max(1, len(image_pages(tiff, file)))


def image_pages(tiff: tifffile.TiffFile, file: BinaryIO) -> list[Any]:
    """Return the pages that are images: no pyramid levels, thumbnails, masks."""
    pages = [tiff.pages[index] for index in range(_count_directories(file))]
    return [p for p in pages if isinstance(p, tifffile.TiffPage) and not p.is_reduced and not p.is_mask]


def _count_directories(file: BinaryIO) -> int:
    """Return the length of a TIFF's chain of directories, up to where it loops: tifffile would follow it for ever."""
    file.seek(0)
    header = file.read(16)
    order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
    big = header[2:4] in (b"+\0", b"\0+")
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)
    offset = int.from_bytes(header[8:16] if big else header[4:8], order)
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(seen) == MAX_PAGES:
            raise ImageError("too_large", f"more than {MAX_PAGES} pages; split the stack")
        seen.add(offset)
        file.seek(offset)
        entries = int.from_bytes(file.read(count_bytes), order)
        file.seek(offset + count_bytes + entries * entry_bytes)
        offset = int.from_bytes(file.read(offset_bytes), order)
    return len(seen)


def read_tiff(data: bytes, page: int | None, max_pixels: int) -> Raster:
    """Read one page of a TIFF; raise ImageError for a stack without page and a page beyond the stack."""
    file = io.BytesIO(data)
    with tifffile.TiffFile(file) as tiff:
        return _read_tiff_page(chosen_page(tiff, file, page), max_pixels)


def chosen_page(tiff: tifffile.TiffFile, file: BinaryIO, page: int | None) -> Any:
    """Return the page of a number, from 1; raise ImageError for a stack without it, a page beyond, a volume."""
    pages = image_pages(tiff, file) or [tiff.pages[0]]
    if page is None and len(pages) > 1:
        raise ImageError("changed", f"a stack of {len(pages)} pages, listed as one image; the next run takes its pages")
    if (page or 1) > len(pages):
        raise ImageError("unreadable", f"page {page} of a stack of {len(pages)}")
    chosen = pages[(page or 1) - 1]
    if chosen.imagedepth > 1:
        raise ImageError("unsupported", f"a volume of {chosen.imagedepth} planes in one page")
    return chosen


def _read_tiff_page(page: Any, max_pixels: int) -> Raster:
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel, max_pixels)
    samples = page.asarray()
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    return raster_of_page(page, samples[:, :, None] if samples.ndim == 2 else samples)


def raster_of_page(page: Any, samples: NDArray[Any]) -> Raster:
    """Return samples of a page, HWC, all of them or a window, as what they stand for.

    Raises: ImageError — colours that are not known.
    """
    samples = samples.astype(np.uint8) if samples.dtype == np.bool_ else samples
    if samples.dtype.kind == "f" and samples.dtype.itemsize != 4:
        samples = samples.astype(np.float32)
    kind = tifffile.PHOTOMETRIC(page.photometric)
    palette = None
    if kind == tifffile.PHOTOMETRIC.PALETTE:
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
    elif kind == tifffile.PHOTOMETRIC.SEPARATED and samples.shape[2] == 4 and samples.dtype == np.uint8:
        samples = np.asarray(Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB"))
    elif kind not in _PLAIN_PHOTOMETRICS:
        raise ImageError("unsupported", f"TIFF colours {kind.name}; save the image as grey or RGB")
    alpha = any(int(extra) in (1, 2) for extra in page.extrasamples)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else page.bitspersample[0]
    inverted = kind == tifffile.PHOTOMETRIC.MINISWHITE
    orientation = int(page.tags.valueof(ORIENTATION_TAG, 1))
    return Raster(samples, palette, alpha, bits, inverted, orientation)


_PLAIN_PHOTOMETRICS = (
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.YCBCR,  # tifffile decodes it to RGB, or refuses
)
