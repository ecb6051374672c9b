"""TIFF decoding: pages, bit depths, planes and palettes.

Damaged files and files whose directories form a loop end in one error.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
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
from unet_ray.imaging.codecs.raster import (
    MAX_PIXELS_PER_BYTE,
    ORIENTATION_TAG,
    Raster,
    check_size,
    mapped_errors,
)
from unet_ray.imaging.codecs.tifffile_log import QuietTifffile

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBIFDS = 330
"""TIFF tag of directories that are no pages."""
MAX_PAGES = 2**16
"""Largest number of pages of one TIFF stack."""
_VALUE_BYTES = 2**20
"""Largest value of a tag that is read with its page (bytes); no decoder needs a longer one."""
_MOST_TAGS = 4096
"""Largest number of tags of a directory; tifffile refuses more."""
_TYPE_BYTES = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
"""Type of a tag → size of one value (bytes)."""
_SHARED = 4
"""Largest multiple of a file's size that its directories, or its pages, refer to. Pages may share
values and samples; a few bytes that thousands of tags or pages share are an attack."""
_ORDINARY_PIXELS = 2**31
"""Pixels of all pages of a stack that are accepted however small the file is: a stack of masks
without objects takes next to nothing."""
_DIRECTORY_BYTES = 2**16
"""Bytes that are fetched at once where a directory begins: a store takes as long for fewer."""
_MOST_PIECES = 64
"""Largest number of pieces of a file that are fetched for its directories."""
_MOST_RANGES = 16
"""Largest number of ranges of a page. A page that has more is fetched piecewise while decoding."""


@dataclass(frozen=True)
class PagePlace:
    """Place of a page in the file of its stack, which is enough to read it without other pages."""

    header: bytes
    """TIFF header that the reader is shown, 8 or 16 bytes; it points to the page's directory."""
    index: int
    """Index of the page behind that header.

    It is more than 0 only if tifffile needs the first page, which describes the whole file, to
    read the others.
    """
    file_size: int
    """Size of the file (bytes)."""
    size: int
    """Size of the stored samples of the page (bytes)."""
    ranges: tuple[tuple[int, int], ...]
    """Ranges that hold the page's directory and samples, (offset, size) each.

    There are none if they are scattered over the file.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the place as values that JSON can hold."""
        return vars(self) | {"header": self.header.hex()}

    @staticmethod
    def from_json(found: Any, file_size: int) -> PagePlace:
        """Make a place from the JSON of another process, which may have been taken over.

        Args:
            found: Result of `to_json`.
            file_size: Size of the file (bytes).

        Raises:
            ValueError: The place is not one of a file of that size; TypeError and KeyError too.
        """
        header, index = bytes.fromhex(found["header"]), int(found["index"])
        ranges = tuple((int(offset), int(size)) for offset, size in found["ranges"])
        if len(header) not in (8, 16) or not 0 <= index < MAX_PAGES or len(ranges) > _MOST_RANGES:
            raise ValueError(found)
        if _filter_valid(ranges, file_size) != list(ranges):
            raise ValueError(found)
        return PagePlace(header, index, file_size, min(int(found["size"]), file_size), ranges)


@QuietTifffile()
def find_pages(file: BinaryIO | RangeFile) -> list[PagePlace]:
    """Return the places of all pages of an open TIFF that are images.

    Pyramid levels, thumbnails and masks are not counted as images.

    Raises:
        ImageError: `unreadable` or `too_large`.
    """
    with mapped_errors(), _open_tiff(file) as tiff:
        return _locate_pages(tiff, _list_image_pages(tiff))


def _locate_pages(
    tiff: tifffile.TiffFile, pages: Sequence[tuple[tifffile.TiffPage, int]]
) -> list[PagePlace]:
    """Return the places of pages, (page, end of its directory) each.

    Raises:
        ImageError: `unreadable` or `too_large`: the pages are many times what the file can hold.
    """
    places = [_locate_page(page, end, tiff) for page, end in pages]
    if len(pages) > 1:
        _check_amplification([page for page, _ in pages], places, tiff.filehandle.size)
    return places


def _locate_page(page: tifffile.TiffPage, end: int, tiff: tifffile.TiffFile) -> PagePlace:
    """Return the place of a page.

    Impossible ranges of a damaged directory are left out; reading the page raises the error.
    """
    magic, file_size = b"II" if tiff.byteorder == "<" else b"MM", tiff.filehandle.size
    kind, fields = ("2sHHHQ", (43, 8, 0)) if tiff.is_bigtiff else ("2sHI", (42,))
    is_marked = tiff.is_lsm or tiff.is_indica or tiff.is_vista or tiff.is_philips or tiff.is_eer
    first = tiff.pages.first.offset if is_marked else page.offset
    samples = _filter_valid(zip(page.dataoffsets, page.databytecounts, strict=False), file_size)
    values = _filter_valid(((tag.valueoffset, tag.valuebytecount) for tag in page.tags), file_size)
    ranges = _join_ranges(
        [(page.offset, end - page.offset), *(v for v in values if v[1] <= _VALUE_BYTES), *samples]
    )
    return PagePlace(
        struct.pack(tiff.byteorder + kind, magic, *fields, first),
        page.index if is_marked else 0,
        file_size,
        min(sum(size for _, size in samples), file_size),
        tuple(ranges) if len(ranges) <= _MOST_RANGES else (),
    )


def _filter_valid(ranges: Iterable[tuple[Any, Any]], file_size: int) -> list[tuple[int, int]]:
    """Return the ranges, (offset, size), that are not empty and lie in the file.

    Numbers in the input may be of any type; ranges whose numbers are not integers are left out.
    """
    whole = (
        (int(at), int(size))
        for at, size in ranges
        if isinstance(at, Integral) and isinstance(size, Integral)
    )
    return [(at, size) for at, size in whole if at > 0 and size > 0 and at + size <= file_size]


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


def _open_tiff(file: Any) -> tifffile.TiffFile:
    # is_scanimage=False: otherwise tifffile takes later pages of ScanImage files for copies of the
    # first one, without reading their directories
    return tifffile.TiffFile(file, is_scanimage=False)


def _list_image_pages(tiff: tifffile.TiffFile) -> list[tuple[tifffile.TiffPage, int]]:
    """Return each page that is an image, and the end of its directory (bytes).

    Pyramid levels, thumbnails and masks are skipped.
    """
    found = []
    for index, (offset, end) in enumerate(_iterate_directories(tiff)):
        tiff.filehandle.seek(offset)
        page = tifffile.TiffPage(tiff, index=index)
        if not page.is_reduced and not page.is_mask:
            found.append((page, end))
    return found


def _check_amplification(
    pages: Sequence[tifffile.TiffPage], places: Sequence[PagePlace], file_size: int
) -> None:
    """Raise ImageError if pages share their samples, or have too many pixels for their file."""
    samples = sum(place.size for place in places)
    if samples > _SHARED * file_size:
        raise ImageError(
            "unreadable",
            f"{len(pages)} pages that share their samples: {samples} bytes of samples in a file "
            f"of {file_size} bytes",
        )
    pixels = sum(int(page.imagelength) * int(page.imagewidth) for page in pages)
    if pixels > max(_ORDINARY_PIXELS, MAX_PIXELS_PER_BYTE * file_size):
        raise ImageError(
            "unreadable",
            f"{len(pages)} pages of {pixels} px in a file of {file_size} bytes, more than "
            f"{MAX_PIXELS_PER_BYTE} px per byte",
        )


def fetch_directories(file: RangeFile) -> tuple[RangeFile, int]:
    """Fetch the beginnings of a TIFF's directories, so that who reads them waits for no store.

    Only the places of directories are read, in a bounded number of small steps, so that this may
    be done for untrusted files in any process; `find_pages` may not.

    Args:
        file: TIFF file.

    Returns:
        The same file with the pieces that were fetched, and the number of directories: 0 if it is
        no TIFF, and at least 2 if that many were found before the search was given up.
    """
    pieces, seen = list(file.pieces), set[int]()

    def view(offset: int, size: int) -> bytes:
        """Return bytes of the file; raise ValueError where that takes too many pieces."""
        for start, held in reversed(pieces):
            if start <= offset and offset + size <= start + len(held):
                return held[offset - start : offset - start + size]
        if len(pieces) == _MOST_PIECES:
            raise ValueError(f"more than {_MOST_PIECES} pieces")
        (held,) = file.fetch([(offset, min(_DIRECTORY_BYTES, file.size - offset))])
        pieces.append((offset, held))
        return held[:size]

    magic = file.pieces[0][1][:4]
    if magic in TIFF_MAGIC:
        order, is_big = "<" if magic[:2] == b"II" else ">", 43 in magic[2:]
        at, formats, entry = (8, "QQ", 20) if is_big else (4, "IH", 12)
        pointer, number = (struct.Struct(order + each) for each in formats)
        with suppress(struct.error, ValueError):  # damaged, or of very many directories far apart
            while len(seen) < MAX_PAGES:
                (offset,) = pointer.unpack(view(at, pointer.size))
                if not 0 < offset < file.size or offset in seen:
                    break
                seen.add(offset)
                (entries,) = number.unpack(view(offset, number.size))
                at = offset + number.size + entries * entry
                if at >= file.size:
                    break
    return RangeFile(file.fetch, file.size, pieces, _DIRECTORY_BYTES), len(seen)


def _iterate_directories(tiff: tifffile.TiffFile) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each directory (bytes), checked before its values are read.

    Iteration ends where the chain of directories loops; tifffile would follow the loop for ever.

    Raises:
        ImageError: `too_large` for too many pages; `unreadable` if directories and their values
            overlap so much that reading them would take many times what the file holds.
    """
    file, kind = tiff.filehandle, tiff.tiff
    at, seen = kind.offsetsize, set[int]()  # 4, or 8 in a BigTIFF
    read, limit = 0, _SHARED * file.size + _VALUE_BYTES
    while True:
        file.seek(at)
        found = file.read(kind.offsetsize)
        offset = int.from_bytes(found, "little" if tiff.byteorder == "<" else "big")
        # the end of the file ends the chain too
        if len(found) < kind.offsetsize or not offset or offset in seen:
            return
        if len(seen) == MAX_PAGES:
            raise ImageError("too_large", f"more than {MAX_PAGES} pages; split the stack")
        seen.add(offset)
        file.seek(offset)
        (entries,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
        at = offset + kind.tagnosize + entries * kind.tagsize
        read += at - offset + _measure_values(tiff, entries)
        if read > limit:
            raise ImageError(
                "unreadable",
                f"directories that overlap: {read} bytes of tags in a file of {file.size} bytes",
            )
        yield offset, at


def _measure_values(tiff: tifffile.TiffFile, entries: int) -> int:
    """Return the size of the values of a directory (bytes); the file is at its first entry.

    Values that exceed the file are not counted: they are not read either.
    """
    entry = struct.Struct(tiff.byteorder + ("HHQ8x" if tiff.is_bigtiff else "HHI4x"))
    data = tiff.filehandle.read(min(entries, _MOST_TAGS) * entry.size)
    tags = entry.iter_unpack(data[: len(data) // entry.size * entry.size])
    sizes = (count * _TYPE_BYTES.get(kind, 0) for _, kind, count in tags)
    return sum(size for size in sizes if size <= tiff.filehandle.size)


@QuietTifffile()
def read_tiff(file: BinaryIO | PageFile, max_pixels: int) -> Raster:
    """Read the single image of a TIFF, or the page of a stack that a `PageFile` stands for.

    Raises:
        ImageError: Same as `open_page`, and `too_large` or `unsupported`.
    """
    page = open_page(file)
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel, max_pixels)
    samples = page.asarray()
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    return raster_of_page(page, samples[:, :, None] if samples.ndim == 2 else samples)


@QuietTifffile()
def open_page(file: BinaryIO | PageFile) -> Any:
    """Open the single image of a TIFF, or the page of a stack that a `PageFile` stands for.

    Returns:
        The page as a `tifffile.TiffPage`.

    Raises:
        ImageError: `changed` for a stack; `unsupported` for a volume and for images without a
            directory.
    """
    tiff = _open_tiff(file)
    if isinstance(file, PageFile):
        page: Any = tiff.pages[file.index]
    else:
        # all pages, so that errors are the same as those of planning
        pages = _list_image_pages(tiff)
        if len(pages) > 1:
            _locate_pages(tiff, pages)
            message = (
                f"a stack of {len(pages)} pages, listed as one image; the next run reads its pages"
            )
            raise ImageError("changed", message)
        page = pages[0][0] if pages else tiff.pages[0]
        if not pages and _SUBIFDS in page.tags:
            raise ImageError(
                "unsupported", "a thumbnail whose image lies in a SubIFD; save the image as a page"
            )
        _refuse_hidden(tiff, page)
    if page.imagedepth > 1:
        raise ImageError("unsupported", f"a volume of {page.imagedepth} planes in one page")
    return page


def _refuse_hidden(tiff: tifffile.TiffFile, page: Any) -> None:
    """Raise ImageError if images without a directory follow the only page of a file.

    Such images are known only from the description in the file.
    """
    images = _count_stated_images(tiff, page)
    if (
        images > 1
        and page.is_contiguous
        and page.dataoffsets[0] + images * page.nbytes <= tiff.filehandle.size
    ):
        raise ImageError(
            "unsupported",
            f"{images} images of which only the first has a directory; save each image as a page",
        )


def _count_stated_images(tiff: tifffile.TiffFile, page: Any) -> int:
    """Return the number of images that the file's own description states; it may hold anything."""
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
    """Combine samples of a page with the tags that say what the samples mean.

    Args:
        page: `tifffile.TiffPage` that the samples come from.
        samples: All samples of the page or a window of them, HWC.

    Raises:
        ImageError: `unsupported` colours.
    """
    samples = samples.astype(np.uint8) if samples.dtype == np.bool_ else samples
    kind = tifffile.PHOTOMETRIC(page.photometric)
    palette = None
    if kind == tifffile.PHOTOMETRIC.PALETTE:
        palette = _convert_colour_map(np.asarray(page.colormap).T)
    elif (
        kind == tifffile.PHOTOMETRIC.SEPARATED
        and samples.shape[2] == 4
        and samples.dtype == np.uint8
    ):
        samples = np.asarray(Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB"))
    elif kind == tifffile.PHOTOMETRIC.YCBCR and int(page.compression) not in _JPEG:
        raise ImageError(
            "unsupported", "TIFF colours YCBCR without JPEG compression; save the image as RGB"
        )
    elif kind not in _PLAIN_PHOTOMETRICS:
        raise ImageError("unsupported", f"TIFF colours {kind.name}; save the image as grey or RGB")
    alpha = any(int(extra) in (1, 2) for extra in page.extrasamples)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else page.bitspersample[0]
    inverted = kind == tifffile.PHOTOMETRIC.MINISWHITE
    orientation = int(page.tags.valueof(ORIENTATION_TAG, 1))
    is_imagej = bool(page.is_imagej)
    return Raster(samples, palette, alpha, bits, inverted, is_imagej, orientation)


_PLAIN_PHOTOMETRICS = (
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.YCBCR,
)
_JPEG = (6, 7, 33007, 34892)
"""Compressions of which tifffile decodes YCbCr to RGB; of others it returns it as it is."""


def _convert_colour_map(colours: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return a colour map of 16 bits as one of 8; some programs write 8 bits, as libtiff knows."""
    return (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8)
