"""TIFF decoding: images and their pages, bit depths, planes and palettes.

Damaged files and files whose directories form a loop end in one error.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.image_place import (
    MOST_RANGES,
    ImagePlace,
    PagePlace,
    filter_valid,
)
from unet_ray.imaging.codecs.pixel_size import (
    PixelSize,
    read_described_size,
    read_description,
    read_tiff_pixel_size,
)
from unet_ray.imaging.codecs.range_file import GAP_BYTES, PageFile, PlaneFile, RangeFile
from unet_ray.imaging.codecs.raster import (
    ORIENTATION_TAG,
    Raster,
    check_size,
    mapped_errors,
)
from unet_ray.imaging.codecs.tiff_axes import ImagePages, group_pages
from unet_ray.imaging.codecs.tiff_directories import SHARED, VALUE_BYTES, iterate_directories
from unet_ray.imaging.codecs.tifffile_log import QuietTifffile
from unet_ray.limits import MAX_PIXELS_PER_BYTE, ORDINARY_STACK_PIXELS

_SUBIFDS = 330
"""TIFF tag of directories that are not pages."""
_NO_DATA = 42113
"""TIFF tag of GDAL: the no-data value, as text."""
_ALPHA = (1, 2)
"""Kinds of extra samples that are alpha: its colours are multiplied by it (1) or not (2)."""


@QuietTifffile()
def find_images(file: BinaryIO | RangeFile) -> list[ImagePlace]:
    """Return the places of all images of an open TIFF.

    Pyramid levels, thumbnails and masks are not counted as images.

    Raises:
        ImageError: `unreadable` or `too_large`.
    """
    with mapped_errors(), _open_tiff(file) as tiff:
        directories = _read_directories(tiff)
        return _locate_images(tiff, directories, directories.group(tiff))


@dataclass(frozen=True)
class _Directories:
    """Directories of a TIFF that hold images or masks of them."""

    pages: dict[int, tifffile.TiffPage]
    """Number in the file, from 0 → page that is an image, or a channel of one."""
    masks: dict[int, tifffile.TiffPage]
    """Number of such a page → the mask of its valid pixels."""
    ends: dict[int, int]
    """Number of a page → end of its directory (bytes)."""

    def group(self, tiff: tifffile.TiffFile) -> list[ImagePages]:
        """Return the images that the pages make up; none if there is no page."""
        return group_pages(tiff, self.pages) if self.pages else []


def _read_directories(tiff: tifffile.TiffFile) -> _Directories:
    """Read all directories; pyramid levels, thumbnails and masks of these are left out.

    A mask belongs to the last page of its size before it, as GDAL writes them.
    """
    found = _Directories(pages={}, masks={}, ends={})
    last_of_size: dict[tuple[int, int], int] = {}
    is_as_read = not (tiff.is_lsm or tiff.is_ndpi)  # tifffile corrects their first page
    for index, (offset, end) in enumerate(iterate_directories(tiff)):
        if index == 0 and is_as_read:
            page = tiff.pages.first
        else:
            tiff.filehandle.seek(offset)
            page = tifffile.TiffPage(tiff, index=index)
        if page.is_reduced:
            continue
        size = int(page.imagelength), int(page.imagewidth)
        found.ends[index] = end
        if not page.is_mask:
            found.pages[index] = page
            last_of_size[size] = index
        elif size in last_of_size:
            found.masks.setdefault(last_of_size[size], page)
    return found


def _locate_images(
    tiff: tifffile.TiffFile, directories: _Directories, images: Sequence[ImagePages]
) -> list[ImagePlace]:
    """Return the places of images.

    Raises:
        ImageError: `unreadable` or `too_large`: the pages are many times what the file can hold.
    """

    def locate(pages: dict[int, tifffile.TiffPage]) -> dict[int, PagePlace]:
        return {
            index: _locate_page(page, directories.ends[page.index], tiff)
            for index, page in pages.items()
        }

    places = locate(directories.pages)
    mask_places = locate(directories.masks)
    if len(places) + len(mask_places) > 1:
        _check_amplification(
            [*directories.pages.values(), *directories.masks.values()],
            [*places.values(), *mask_places.values()],
            tiff.filehandle.size,
        )
    description = read_description(tiff)
    found = []
    for image in images:
        numbers = [index for index in image.pages if index is not None]
        first = directories.pages[numbers[0]]
        pixel_size = read_described_size(first, description, image.series)
        found.append(
            ImagePlace(
                key=image.key,
                file_size=tiff.filehandle.size,
                pages=tuple(places[index] for index in numbers),
                mask=mask_places.get(numbers[0]),
                channels=image.channels,
                pixel_size_um=None if pixel_size is None else pixel_size.in_um(),
                error=_describe_missing(image),
            )
        )
    return found


def _describe_missing(image: ImagePages) -> str:
    """Return why an image cannot be read if its file lacks a channel; empty if it has all."""
    missing = [str(number) for number, index in enumerate(image.pages) if index is None]
    if not missing:
        return ""
    return (
        f"the image has {len(image.pages)} channels without names, of which the file lacks "
        f"{', '.join(missing)}; save all channels in one file"
    )


def _locate_page(page: tifffile.TiffPage, end: int, tiff: tifffile.TiffFile) -> PagePlace:
    """Return the place of a page.

    Impossible ranges of a damaged directory are left out; reading the page raises the error.
    """
    magic = b"II" if tiff.byteorder == "<" else b"MM"
    file_size = tiff.filehandle.size
    kind, fields = ("2sHHHQ", (43, 8, 0)) if tiff.is_bigtiff else ("2sHI", (42,))
    is_marked = tiff.is_lsm or tiff.is_indica or tiff.is_vista or tiff.is_philips or tiff.is_eer
    first = tiff.pages.first.offset if is_marked else page.offset
    samples = filter_valid(zip(page.dataoffsets, page.databytecounts, strict=False), file_size)
    values = filter_valid(((tag.valueoffset, tag.valuebytecount) for tag in page.tags), file_size)
    directory = page.offset, end - page.offset
    short_values = [value for value in values if value[1] <= VALUE_BYTES]
    ranges = _join_ranges([directory, *short_values, *samples])
    return PagePlace(
        header=struct.pack(tiff.byteorder + kind, magic, *fields, first),
        index=page.index if is_marked else 0,
        size=min(sum(size for _, size in samples), file_size),
        ranges=tuple(ranges) if len(ranges) <= MOST_RANGES else (),
    )


def _join_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges, (offset, size) each, that lie close together."""
    joined: list[tuple[int, int]] = []
    for start, size in sorted(ranges):
        first, length = joined[-1] if joined else (start, 0)
        if joined and start <= first + length + GAP_BYTES:
            joined[-1] = first, max(length, start + size - first)
        else:
            joined.append((start, size))
    return joined


def _open_tiff(file: BinaryIO | RangeFile) -> tifffile.TiffFile:
    # is_scanimage=False: otherwise tifffile takes later pages of ScanImage files for copies of the
    # first one, without reading their directories
    return tifffile.TiffFile(file, is_scanimage=False)


def _check_amplification(
    pages: Sequence[tifffile.TiffPage], places: Sequence[PagePlace], file_size: int
) -> None:
    """Raise ImageError if pages share their samples, or have too many pixels for their file."""
    samples = sum(place.size for place in places)
    if samples > SHARED * file_size:
        raise ImageError(
            "unreadable",
            f"{len(pages)} pages that share their samples: {samples} bytes of samples in a file "
            f"of {file_size} bytes",
        )
    pixels = sum(int(page.imagelength) * int(page.imagewidth) for page in pages)
    if pixels > max(ORDINARY_STACK_PIXELS, MAX_PIXELS_PER_BYTE * file_size):
        raise ImageError(
            "unreadable",
            f"{len(pages)} pages of {pixels} px in a file of {file_size} bytes, more than "
            f"{MAX_PIXELS_PER_BYTE} px per byte",
        )


@dataclass(frozen=True)
class OpenImage:
    """An image of an open TIFF."""

    pages: tuple[tifffile.TiffPage, ...]
    """The page that holds the image, or that of each channel."""
    mask: tifffile.TiffPage | None = None
    """Page with the mask of valid pixels; None: all are valid."""
    channels: tuple[str, ...] = ()
    """Names of the channels; empty if the file has none."""
    pixel_size: PixelSize | None = None
    """Size of a pixel as the file states it, of the stored samples; None if it does not."""


@QuietTifffile()
def open_image(file: BinaryIO | PlaneFile) -> OpenImage:
    """Open the only image of a TIFF, or the one that a `PlaneFile` stands for.

    Raises:
        ImageError: `changed` for a file of several images; `unsupported` for a volume, an image
            that lacks a channel, and for images without a directory.
    """
    image = _open_place(file) if isinstance(file, PlaneFile) else _open_only_image(file)
    for page in image.pages:
        if page.imagedepth > 1:
            raise ImageError(
                "unsupported",
                f"a volume of {page.imagedepth} planes in one page; save each plane as a page",
            )
    return image


def _open_place(file: PlaneFile) -> OpenImage:
    place = file.place
    if place.error:
        raise ImageError("unsupported", place.error)
    pages = tuple(_open_page(file.page(each)) for each in place.pages)
    mask = place.mask and _open_page(file.page(place.mask))
    # the description of the whole file was read in planning: the page alone does not have it
    described = place.pixel_size_um and PixelSize(*place.pixel_size_um)
    size = described or read_tiff_pixel_size(pages[0])
    return OpenImage(pages, mask, place.channels, size)


def _open_page(file: PageFile) -> tifffile.TiffPage:
    return _open_tiff(file).pages[file.index]


def _open_only_image(file: BinaryIO) -> OpenImage:
    tiff = _open_tiff(file)
    # all pages, so that errors are the same as in planning
    directories = _read_directories(tiff)
    images = directories.group(tiff)
    if len(directories.ends) > 1:
        _locate_images(tiff, directories, images)
    if len(images) > 1:
        raise ImageError(
            "changed",
            f"a file of {len(images)} images that was listed as one; the next run reads them all",
        )
    if not images:
        page = tiff.pages[0]
        if _SUBIFDS in page.tags:
            raise ImageError(
                "unsupported", "a thumbnail whose image is in a SubIFD; save the image as a page"
            )
        return OpenImage((page,), pixel_size=read_tiff_pixel_size(page))
    error = _describe_missing(images[0])
    if error:
        raise ImageError("unsupported", error)
    numbers = [index for index in images[0].pages if index is not None]
    pages = tuple(directories.pages[index] for index in numbers)
    if len(pages) == 1:
        _refuse_hidden(tiff, pages[0])
    size = read_tiff_pixel_size(pages[0], images[0].series)
    return OpenImage(pages, directories.masks.get(numbers[0]), images[0].channels, size)


def read_page(page: tifffile.TiffPage, max_pixels: int) -> Raster:
    """Read a page of a TIFF whole.

    Raises:
        ImageError: `too_large` or `unsupported`, or any exception of tifffile.
    """
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel, max_pixels)
    with QuietTifffile():
        samples = page.asarray()
    if page.axes == "SYX":
        samples = np.moveaxis(samples, 0, -1)
    if samples.ndim == 2:
        samples = samples[:, :, None]
    return raster_of_page(page, samples)


def _refuse_hidden(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """Raise ImageError if images without a directory follow the only page of a file.

    Such images are known only from the description in the file. A description may be older than
    the file, so the file must also have room for the samples of at least one more image.
    """
    num_images = 1
    with suppress(ValueError, TypeError, KeyError, ArithmeticError):  # it may hold anything
        if page.is_imagej:
            num_images = int((tiff.imagej_metadata or {}).get("images", 1))
        elif page.is_shaped:
            shape = json.loads(page.shaped_description)["shape"]
            num_images = int(prod(shape)) // prod(page.shape)
        elif page.is_stk:
            num_images = int(page.tags["UIC2tag"].count)
    if num_images < 2 or not page.is_contiguous:
        return
    if page.dataoffsets[0] + 2 * page.nbytes <= tiff.filehandle.size:
        raise ImageError(
            "unsupported",
            f"{num_images} images, but only the first has a directory; save each image as a page",
        )


def raster_of_page(page: tifffile.TiffPage, samples: NDArray[Any]) -> Raster:
    """Combine samples of a page with the tags that say what the samples mean.

    Args:
        page: Page that the samples come from.
        samples: All samples of the page or a window of them, HWC.

    Raises:
        ImageError: `unsupported` colours.
    """
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8)
    kind = tifffile.PHOTOMETRIC(page.photometric)
    palette = None
    is_converted = False
    if kind == tifffile.PHOTOMETRIC.PALETTE:
        palette = np.asarray(page.colormap).T
        if palette.max(initial=0) > 255:  # some programs write 8 bits, as libtiff knows
            palette = palette >> 8
        palette = palette.astype(np.uint8)
    elif (
        kind == tifffile.PHOTOMETRIC.SEPARATED
        and samples.shape[2] == 4
        and samples.dtype == np.uint8
    ):
        picture = Image.fromarray(np.ascontiguousarray(samples), "CMYK")
        samples = np.asarray(picture.convert("RGB"))
        is_converted = True
    elif kind == tifffile.PHOTOMETRIC.YCBCR and int(page.compression) not in _JPEG:
        raise ImageError(
            "unsupported", "TIFF colours YCBCR without JPEG compression; save the image as RGB"
        )
    elif kind not in _PLAIN_PHOTOMETRICS:
        raise ImageError("unsupported", f"TIFF colours {kind.name}; save the image as grey or RGB")
    samples, has_alpha = _move_alpha_last(samples, [int(extra) for extra in page.extrasamples])
    bits = page.bitspersample if isinstance(page.bitspersample, int) else page.bitspersample[0]
    is_inverted = kind == tifffile.PHOTOMETRIC.MINISWHITE
    return Raster(
        samples=samples,
        palette=palette,
        has_alpha=has_alpha,
        bits=bits,
        inverted=is_inverted,
        is_imagej=bool(page.is_imagej),
        orientation=int(page.tags.valueof(ORIENTATION_TAG, 1)),
        is_colour=not is_inverted and kind != tifffile.PHOTOMETRIC.MINISBLACK,
        no_data=str(page.tags.valueof(_NO_DATA, "")).strip(" \0"),
        is_converted=is_converted,
    )


def _move_alpha_last(samples: NDArray[Any], extras: list[int]) -> tuple[NDArray[Any], bool]:
    """Return samples with the last alpha channel moved to the end, and whether there is alpha.

    Args:
        samples: Samples, HWC; the last channels are the extra ones.
        extras: Kind of each extra channel, as TIFF numbers them.
    """
    places = [index for index, kind in enumerate(extras) if kind in _ALPHA]
    if not places or len(extras) > samples.shape[2]:
        return samples, bool(places)
    num_channels = samples.shape[2]
    alpha = num_channels - len(extras) + places[-1]
    if alpha == num_channels - 1:
        return samples, True
    others = [channel for channel in range(num_channels) if channel != alpha]
    return samples[:, :, [*others, alpha]], True


_PLAIN_PHOTOMETRICS = (
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.YCBCR,
    tifffile.PHOTOMETRIC.MASK,
)
_JPEG = (6, 7, 33007, 34892)
"""Compressions for which tifffile decodes YCbCr to RGB; for others it returns YCbCr."""
