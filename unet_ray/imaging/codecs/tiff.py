"""TIFF: its pages, bit depths, planes, palettes; damaged and looping files end in one error."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.range_file import GAP_BYTES, PageFile, RangeFile
from unet_ray.imaging.codecs.raster import ORIENTATION_TAG, Raster, check_size, mapped_errors

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PAGES = 2**16
"""Most pages of one TIFF stack."""
_VALUE_BYTES = 2**20
"""Largest value of a tag that is read with its page: no decoder needs a longer one."""
_MOST_RANGES = 16
"""Of a page: one that has more is fetched piece by piece while it is decoded."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each bad tag; we raise one error


@dataclass(frozen=True)
class PagePlace:
    """Where a page of a stack lies in its file: what reads it needs nothing of the other pages."""

    header: bytes
    """Of the TIFF file that a reader is shown: 8 bytes, or 16; it points to the page's directory."""
    index: int
    """Of the page behind that header: 0, or more where tifffile reads pages by what the first one says of the file."""
    file_size: int
    """Bytes."""
    size: int
    """Of its stored samples (bytes)."""
    ranges: tuple[tuple[int, int], ...]
    """(offset, size) of what holds its directory and its samples; none where they lie scattered over the file."""


def find_pages(file: BinaryIO | RangeFile) -> list[PagePlace]:
    """Return the pages of an open TIFF that are images: pyramid levels, thumbnails and masks are not.

    Raises: ImageError — `unreadable`, `too_large`.
    """
    with mapped_errors(), _open_tiff(file) as tiff:
        return [_place_of(page, end, tiff) for page, end in _image_pages(tiff)]


def _place_of(page: tifffile.TiffPage, end: int, tiff: tifffile.TiffFile) -> PagePlace:
    """Return where a page lies; what a damaged directory says is left out, reading the page will tell."""
    magic, file_size = b"II" if tiff.byteorder == "<" else b"MM", tiff.filehandle.size
    kind, fields = ("2sHHHQ", (43, 8, 0)) if tiff.is_bigtiff else ("2sHI", (42,))
    is_marked = tiff.is_lsm or tiff.is_indica or tiff.is_vista or tiff.is_philips or tiff.is_eer
    first = tiff.pages.first.offset if is_marked else page.offset
    samples = _inside(zip(page.dataoffsets, page.databytecounts, strict=False), file_size)
    values = _inside(((tag.valueoffset, tag.valuebytecount) for tag in page.tags), file_size)
    ranges = _joined(
        [(page.offset, end - page.offset), *(v for v in values if v[1] <= _VALUE_BYTES), *samples]
    )
    return PagePlace(
        struct.pack(tiff.byteorder + kind, magic, *fields, first),
        page.index if is_marked else 0,
        file_size,
        min(sum(size for _, size in samples), file_size),
        tuple(ranges) if len(ranges) <= _MOST_RANGES else (),
    )


def _inside(ranges: Iterable[tuple[Any, Any]], file_size: int) -> list[tuple[int, int]]:
    """Return the ranges, (offset, size), that lie in the file and are not empty; their numbers may be of any type."""
    whole = (
        (int(at), int(size))
        for at, size in ranges
        if isinstance(at, Integral) and isinstance(size, Integral)
    )
    return [(at, size) for at, size in whole if at > 0 and size > 0 and at + size <= file_size]


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges with those as one that lie close together."""
    joined: list[tuple[int, int]] = []
    for start, size in sorted(ranges):
        first, length = joined[-1] if joined else (start, 0)
        if joined and start <= first + length + GAP_BYTES:
            joined[-1] = first, max(length, start + size - first)
        else:
            joined.append((start, size))
    return joined


def _open_tiff(file: Any) -> tifffile.TiffFile:
    # False: else it takes later pages of these for copies of the first, without reading their directories
    return tifffile.TiffFile(file, is_scanimage=False)


def _image_pages(tiff: tifffile.TiffFile) -> Iterator[tuple[tifffile.TiffPage, int]]:
    """Yield the pages that are images, and where their directories end: no pyramid levels, thumbnails, masks."""
    for index, (offset, end) in enumerate(_directories(tiff)):
        tiff.filehandle.seek(offset)
        page = tifffile.TiffPage(tiff, index=index)
        if not page.is_reduced and not page.is_mask:
            yield page, end


def _directories(tiff: tifffile.TiffFile) -> Iterator[tuple[int, int]]:
    """Yield where directories begin and end, up to where their chain loops: tifffile would follow it for ever."""
    file, kind = tiff.filehandle, tiff.tiff
    at, seen = kind.offsetsize, set[int]()  # 4, or 8 of a BigTIFF
    while True:
        file.seek(at)
        found = file.read(kind.offsetsize)
        offset = int.from_bytes(found, "little" if tiff.byteorder == "<" else "big")
        if (
            len(found) < kind.offsetsize or not offset or offset in seen
        ):  # the end of a file ends the chain
            return
        if len(seen) == MAX_PAGES:
            raise ImageError("too_large", f"more than {MAX_PAGES} pages; split the stack")
        seen.add(offset)
        file.seek(offset)
        (entries,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
        at = offset + kind.tagnosize + entries * kind.tagsize
        yield offset, at


def read_tiff(file: BinaryIO | PageFile, max_pixels: int) -> Raster:
    """Read the one image of a TIFF, or the page of a stack that a PageFile is.

    Raises: ImageError — as `open_page`; `too_large`, `unsupported`.
    """
    page = open_page(file)
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel, max_pixels)
    samples = page.asarray()
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    return raster_of_page(page, samples[:, :, None] if samples.ndim == 2 else samples)


def open_page(file: BinaryIO | PageFile) -> Any:
    """Return the one image of a TIFF, or the page of a stack that a PageFile is, as a `tifffile.TiffPage`.

    Raises: ImageError — `changed` for a stack; `unsupported` for a volume, and for images without a directory.
    """
    tiff = _open_tiff(file)
    if isinstance(file, PageFile):
        page: Any = tiff.pages[file.index]
    else:
        pages = [page for page, _ in _image_pages(tiff)] or [
            tiff.pages[0]
        ]  # all: what planning met is met again
        if len(pages) > 1:
            message = (
                f"a stack of {len(pages)} pages, listed as one image; the next run takes its pages"
            )
            raise ImageError("changed", message)
        page = pages[0]
        _refuse_hidden(tiff, page)
    if page.imagedepth > 1:
        raise ImageError("unsupported", f"a volume of {page.imagedepth} planes in one page")
    return page


def _refuse_hidden(tiff: tifffile.TiffFile, page: Any) -> None:
    """Raise ImageError for a file that says that more images follow its only page, which no directory names."""
    images = _images_said(tiff, page)
    if (
        images > 1
        and page.is_contiguous
        and page.dataoffsets[0] + images * page.nbytes <= tiff.filehandle.size
    ):
        raise ImageError(
            "unsupported",
            f"{images} images of which only the first has a directory; save each as a page",
        )


def _images_said(tiff: tifffile.TiffFile, page: Any) -> int:
    """Return how many images a file's own description speaks of; descriptions may hold anything."""
    try:
        if page.is_imagej:
            return int((tiff.imagej_metadata or {}).get("images", 1))
        if page.is_shaped:
            return int(prod(json.loads(page.shaped_description)["shape"])) // prod(page.shape)
        if page.is_stk:
            return int(page.tags["UIC2tag"].count)
    except (ValueError, TypeError, KeyError, ArithmeticError):
        pass
    return 1


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
    elif (
        kind == tifffile.PHOTOMETRIC.SEPARATED
        and samples.shape[2] == 4
        and samples.dtype == np.uint8
    ):
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
